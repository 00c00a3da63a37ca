//! Where each file of the bundle comes from. What is not there is said in its place.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::{Value, json};

use super::redact::Redactor;
use crate::{
    ctl::{
        doctor::{self, Host},
        remote::Remote,
        unit,
    },
    network,
};

/// How one file is made.
type Gather = fn(&mut Remote, Host<'_>, &mut Redactor) -> String;

pub(super) const PIECES: [(&str, &str, Gather); 8] = [
    ("versions.txt", "programs, kernel, distribution", versions),
    ("config.json", "the configuration that counts, and where values came from", config),
    ("doctor.txt", "what moderationctl doctor found", doctor_report),
    ("status.json", "moderationctl status", status),
    ("top.json", "moderationctl top: sources, packets, alarms", top),
    ("metrics.txt", "what is counted", metrics),
    ("xdp.json", "programs on the interfaces of this host", xdp),
    ("journal.txt", "the latest lines of the log of our units", journal),
];

/// Lines of the log.
const LINES: &str = "2000";
/// Pages of bans that are looked through for user ids and reasons.
const PAGES: usize = 100;

/// User ids, reasons, notes and values of secrets that this host knows of, which are taken
/// out wherever they are.
pub(super) fn words(remote: &mut Remote, host: Host<'_>) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut after = 0;
    for _ in 0..PAGES {
        let path = format!("/v1/bans?all=true&limit=1000&after={after}");
        let Some(page) = asked(remote, &path) else { break };
        add(&mut words, &page, &["user", "reason"]);
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    for (path, fields) in [
        ("/v1/penalties?all=true&limit=1000", &["user", "reason"][..]),
        ("/v1/denials?limit=1000", &["user"]),
        ("/v1/allowlist", &["note"]),
    ] {
        if let Some(answer) = asked(remote, path) {
            add(&mut words, &answer, fields);
        }
    }
    if let Ok(config) = host.loaded {
        let values = &config.effective.values;
        add(&mut words, values, &["users"]);
        let file = values["librechat"]["env_file"].as_str();
        words.extend(file.into_iter().flat_map(secrets));
    }
    words
}

/// Values of an environment file. The file's reader may leave some out; this one none.
fn secrets(file: &str) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let values = text.lines().filter_map(|line| {
        let (_, value) = line.split_once('=')?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    });
    // Shorter ones are ports and switches.
    values.filter(|value| value.len() >= 8).collect()
}

/// All texts in fields of those names, however deep.
fn add(words: &mut BTreeSet<String>, value: &Value, names: &[&str]) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if names.contains(&name.as_str()) {
                    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                    words.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
                }
                add(words, value, names);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| add(words, value, names)),
        _ => {}
    }
}

/// What the daemon answers, if it does.
fn asked(remote: &mut Remote, path: &str) -> Option<Value> {
    let response = remote.client.get(path).ok()?;
    response.is_success().then_some(response.body)
}

/// The same, for a file.
fn answer(remote: &mut Remote, path: &str) -> Value {
    match remote.client.get(path) {
        Ok(response) => response.body,
        Err(error) => json!({ "missing": error.to_string() }),
    }
}

fn versions(remote: &mut Remote, _: Host<'_>, redactor: &mut Redactor) -> String {
    let daemon = asked(remote, "/v1/status").map(|status| status["version"].to_string());
    let daemon = daemon.unwrap_or_else(|| "no daemon answers".to_owned());
    let kernel = nix::sys::utsname::uname().map_or_else(
        |error| error.to_string(),
        |names| {
            let shown = [names.sysname(), names.release(), names.version(), names.machine()];
            shown.map(|it| it.to_string_lossy().into_owned()).join(" ")
        },
    );
    let os = fs::read_to_string("/etc/os-release").unwrap_or_else(|error| error.to_string());
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().unwrap_or_default();
    let text = format!(
        "moderationctl {}\nmoderationd {daemon}\nkernel {kernel}\ncpus {cpus}\n{memory}\n\n{os}",
        env!("CARGO_PKG_VERSION")
    );
    redactor.text(&text)
}

/// What the daemon runs with, or else what the file comes to.
fn config(remote: &mut Remote, host: Host<'_>, redactor: &mut Redactor) -> String {
    let document = match (asked(remote, "/v1/config"), host.loaded) {
        (Some(running), _) => running,
        (None, Ok(config)) => json!(config.effective.as_ref()),
        (None, Err(error)) => json!({ "missing": error.to_string() }),
    };
    redactor.document(document)
}

fn doctor_report(remote: &mut Remote, host: Host<'_>, redactor: &mut Redactor) -> String {
    let report = doctor::examine(remote, host);
    let text = report.map_or_else(|error| error.to_string(), |it| doctor::text(&it, false));
    redactor.text(&text)
}

fn status(remote: &mut Remote, _: Host<'_>, redactor: &mut Redactor) -> String {
    redactor.document(answer(remote, "/v1/status"))
}

fn top(remote: &mut Remote, _: Host<'_>, redactor: &mut Redactor) -> String {
    redactor.document(answer(remote, "/v1/top?limit=50"))
}

fn metrics(remote: &mut Remote, _: Host<'_>, redactor: &mut Redactor) -> String {
    let answer = answer(remote, "/metrics");
    let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
    redactor.text(&text)
}

fn xdp(_: &mut Remote, host: Host<'_>, redactor: &mut Redactor) -> String {
    let attached = network::attachments().map_err(|error| error.to_string());
    let configured = &host.config().network.interfaces;
    let devices = configured.iter().map(|name| {
        let driver = network::driver(name).map_err(|error| error.to_string());
        json!({ "interface": name, "driver": driver })
    });
    let devices: Vec<_> = devices.collect();
    redactor.document(json!({ "attached": attached, "configured": devices }))
}

fn journal(_: &mut Remote, _: Host<'_>, redactor: &mut Redactor) -> String {
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--output=short-iso", "--lines", LINES]);
    command.args(unit::SERVICES.iter().flat_map(|unit| ["--unit", unit]));
    let text = match command.output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => format!("journalctl cannot be run: {error}"),
    };
    redactor.text(&text)
}
