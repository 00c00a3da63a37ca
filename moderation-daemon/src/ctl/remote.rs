//! The commands that ask the daemon.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::{
    command::{Allow, Ban, Command, Import},
    output::{Output, Progress, bans, field, list, table},
    own::OwnSessions,
    penalty,
};
use crate::{
    api::client::{Client, ClientError, Response},
    engine::Prefix,
    exit::{Refused, Unreachable},
    keeper::SourceFiles,
    librechat::LogKeys,
};

/// A long list is not removed in an instant.
const LIST_PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Remote {
    pub(super) client: Client,
    socket: PathBuf,
    pub(super) output: Output,
    /// What the daemon bans for an IPv6 address, by the same configuration.
    v6_prefix: u8,
    /// Where login sessions are recorded.
    files: SourceFiles,
}

impl Remote {
    pub(super) fn new(socket: PathBuf, output: Output, v6_prefix: u8, files: SourceFiles) -> Self {
        Self { client: Client::new(&socket), socket, output, v6_prefix, files }
    }

    /// Where the daemon is asked.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn run(&mut self, command: Command) -> anyhow::Result<()> {
        match command {
            Command::Status => self.status(),
            Command::Ban(ban) => self.ban(ban),
            Command::Lift { targets, import } => {
                if let Some(source) = import {
                    self.lift_import(&source)?;
                }
                targets.iter().try_for_each(|target| self.lift(target))
            }
            Command::Import(Import { librechat: Some(folder), .. }) => {
                super::librechat::import(self, &folder)
            }
            Command::Export { librechat, redis } => {
                let keys = if redis { LogKeys::ByTypeAndUser } else { LogKeys::ByUser };
                super::librechat::export(self, &librechat, keys)
            }
            Command::Import(import) => {
                super::import::run(self, &import, &OwnSessions::find(&self.files))
            }
            Command::List { imports: true, .. } => self.list_imports(),
            Command::List { all, .. } => self.list(all),
            Command::Penalties(which) => penalty::list(self, which),
            Command::Check { subject } => self.check(&subject),
            Command::Explain { subject } => super::explain::run(self, &subject),
            Command::Allow(allow) => self.allow(allow),
            Command::Top { limit, once } => {
                if once || self.output.is_json() || !super::top::has_terminal() {
                    return super::live::top(self, limit);
                }
                super::top::show(&self.socket, limit)
            }
            Command::Watch { every, count } => super::live::watch(self, every, count),
            Command::Completions { .. }
            | Command::Config
            | Command::Doctor
            | Command::Man { .. }
            | Command::Openapi
            | Command::Setup(_)
            | Command::SupportBundle(_)
            | Command::Xdp(_) => unreachable!("run without us"),
        }
    }

    fn status(&mut self) -> anyhow::Result<()> {
        let response = self.client.get("/v1/status");
        let status = self.success(response)?;
        Ok(self.output.show(&status, status_text)?)
    }

    fn ban(&mut self, ban: Ban) -> anyhow::Result<()> {
        if let Some(prefix) = ban.whom.ip.as_deref().and_then(|ip| self.banned_as(ip)) {
            OwnSessions::find(&self.files).refuse(prefix)?;
        }
        let fields = [
            ("user", ban.whom.user),
            ("ip", ban.whom.ip),
            ("duration", ban.duration),
            ("reason", ban.reason),
            ("network_block", ban.network_block),
        ];
        let body = object(fields);
        let response = self.client.post("/v1/bans", &body);
        let answer = self.success(response)?;
        Ok(self.output.show(&answer, |answer| bans(&json!([answer["ban"]])))?)
    }

    fn lift(&mut self, target: &str) -> anyhow::Result<()> {
        let path = penalty::lift_path(target)?;
        let response = self.client.delete(&path);
        let answer = self.success(response).with_context(|| format!("cannot lift {target}"))?;
        Ok(self.output.show(&answer, penalty::lifted)?)
    }

    /// What the daemon will ban; if that makes no sense, it says so itself.
    fn banned_as(&self, text: &str) -> Option<Prefix> {
        match text.parse() {
            Ok(ip) => Some(Prefix::around(ip, self.v6_prefix)),
            Err(_) => text.parse().ok(),
        }
    }

    fn lift_import(&mut self, source: &str) -> anyhow::Result<()> {
        self.client.set_patience(LIST_PATIENCE);
        let progress = Progress::begin("lifting the list");
        let response = self.client.delete(&format!("/v1/imports/{}", encoded(source)));
        drop(progress);
        let answer =
            self.success(response).with_context(|| format!("cannot lift the list {source}"))?;
        Ok(self
            .output
            .show(&answer, |answer| format!("lifted {} entries of {source}", answer["removed"]))?)
    }

    fn list_imports(&mut self) -> anyhow::Result<()> {
        let response = self.client.get("/v1/imports");
        let answer = self.success(response)?;
        Ok(self.output.show(&answer, |answer| imports_text(&answer["imports"]))?)
    }

    fn list(&mut self, all: bool) -> anyhow::Result<()> {
        let mut list = Vec::new();
        let mut after = 0;
        loop {
            let path = format!("/v1/bans?all={all}&limit=1000&after={after}");
            let response = self.client.get(&path);
            let mut page = self.success(response)?;
            if let Value::Array(bans) = page["bans"].take() {
                list.extend(bans);
            }
            match page["next"].as_u64() {
                Some(next) => after = next,
                None => break,
            }
        }
        let list = json!({ "bans": list });
        Ok(self.output.show(&list, |list| bans(&list["bans"]))?)
    }

    fn check(&mut self, subject: &str) -> anyhow::Result<()> {
        let response = self.client.get(&format!("/v1/check?{}", subject_query(subject)));
        let answer = self.success(response)?;
        Ok(self.output.show(&answer, |answer| {
            if answer["banned"] == true {
                format!("{subject} is banned\n\n{}", bans(&json!([answer["ban"]])))
            } else {
                format!("{subject} is not banned")
            }
        })?)
    }

    fn allow(&mut self, allow: Allow) -> anyhow::Result<()> {
        match allow {
            Allow::Add { prefix, note } => {
                let body = object([("prefix", Some(prefix)), ("note", note)]);
                let response = self.client.post("/v1/allowlist", &body);
                let answer = self.success(response)?;
                let text = |answer: &Value| {
                    let follows = answer["enforced"] == true;
                    let hint = " (the kernel does not follow yet: see moderationctl status)";
                    let hint = if follows { "" } else { hint };
                    format!("{} is never banned{hint}", field(&answer["prefix"]))
                };
                Ok(self.output.show(&answer, text)?)
            }
            Allow::Remove { prefix } => {
                let path = format!("/v1/allowlist?prefix={}", encoded(&prefix));
                let response = self.client.delete(&path);
                let answer = self.success(response)?;
                let text = |answer: &Value| {
                    format!("{} is no longer protected", field(&answer["removed"]))
                };
                Ok(self.output.show(&answer, text)?)
            }
            Allow::List => {
                let response = self.client.get("/v1/allowlist");
                let answer = self.success(response)?;
                Ok(self.output.show(&answer, |answer| allowlist_text(&answer["allowlist"]))?)
            }
        }
    }

    /// The body of a good answer; otherwise what the daemon says is wrong.
    pub(super) fn success(&self, response: Result<Response, ClientError>) -> anyhow::Result<Value> {
        let response = response.map_err(|error| self.unreachable(error))?;
        if response.is_success() {
            return Ok(response.body);
        }
        let status = response.status;
        let detail = response.body["detail"].as_str().map(str::to_owned);
        let detail = detail.unwrap_or_else(|| format!("the daemon answered {status}"));
        Err(Refused { status, detail }.into())
    }

    fn unreachable(&self, error: ClientError) -> anyhow::Error {
        let advice = match &error {
            ClientError::Connect { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "you may not open the socket: use sudo, or join the group moderation-admin"
                }
                _ => {
                    "is it running? systemctl status moderation, or start moderationd; if its \
                     socket is elsewhere, name it with --socket"
                }
            },
            _ => "see its log: journalctl -u moderation",
        };
        let advice = format!("{} ({advice})", self.socket.display());
        anyhow::Error::new(error).context(Unreachable(advice))
    }
}

fn object<const N: usize>(fields: [(&str, Option<String>); N]) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.map(|(name, value)| (name, Value::String(value))).collect::<Map<_, _>>())
}

/// An address as people or [`bans`] write it, or else a user, with or without
/// `user:`.
pub(super) fn subject_query(subject: &str) -> String {
    match subject.parse::<Prefix>() {
        // Of an IPv6 address the whole counts: one of a /64 may be allowed.
        Ok(prefix) => {
            let ip = subject.parse().unwrap_or_else(|_| prefix.net().addr());
            format!("ip={}", encoded(&ip.to_string()))
        }
        Err(_) => format!("user={}", encoded(subject.strip_prefix("user:").unwrap_or(subject))),
    }
}

/// Percent-encoding (RFC 3986) of everything but unreserved characters.
pub(super) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// How counting together with other hosts stands.
fn redis_text(redis: &Value) -> String {
    let owed = redis["owed"].as_u64().unwrap_or(0);
    match (redis["shared"] == true, redis["fault"].as_str()) {
        (true, _) => "limits are counted together with other hosts".to_owned(),
        (false, None) => "not reached yet; limits are counted on this host alone".to_owned(),
        (false, Some(fault)) => {
            format!("{fault}; limits are counted on this host alone, {owed} acts are owed")
        }
    }
}

fn status_text(status: &Value) -> String {
    let (network, bans) = (&status["network"], &status["bans"]);
    let counters = &network["counters"];
    let dropped = ["ban_v4", "ban_v6"]
        .iter()
        .filter_map(|reason| counters[reason]["packets"].as_u64())
        .sum::<u64>();
    let packets = match counters["pass"]["packets"].as_u64() {
        Some(passed) => format!("{dropped} dropped, {passed} passed"),
        None => "not counted".to_owned(),
    };
    let up = status["uptime_ms"].as_u64().unwrap_or(0) / 1_000;
    let attached = match network["interface"].as_str() {
        Some(interface) => {
            format!("{} to {interface}, {}", field(&network["state"]), field(&network["mode"]))
        }
        None => field(&network["state"]),
    };
    let bans_text = if network["state"] == "off" {
        format!("{} active, at the API only: network.mode is off", bans["active"])
    } else {
        format!("{} active, {} enforced", bans["active"], bans["enforced"])
    };
    let queue = &status["queue"];
    let mut rows = vec![
        ("daemon", format!("{}, up {up} s", field(&status["version"]))),
        ("kernel", attached),
        ("bans", bans_text),
        ("packets", packets),
        ("queue", format!("{} of {}", queue["length"], queue["capacity"])),
        ("store", field(&status["store"]["path"])),
        ("pins", field(&network["pin_root"])),
    ];
    if status["redis"].is_object() {
        rows.push(("redis", redis_text(&status["redis"])));
    }
    let imports = &status["imports"];
    if imports["lists"].as_u64().is_some_and(|lists| lists > 0) {
        let text = format!("{} entries of {} lists", imports["entries"], imports["lists"]);
        rows.insert(3, ("imports", text));
    }
    let seen = &network["drift_seen"];
    if seen.is_object() {
        let [added, updated, removed, at] =
            ["added", "updated", "removed", "at"].map(|name| field(&seen[name]));
        let text = format!("{added} added, {updated} updated, {removed} removed at {at}");
        rows.push(("mended", text));
    }
    rows.extend(sharing(&status["sharing"]));
    if status["automatic_bans"] == "stopped" {
        let text = "automatic bans have stopped: too many in a minute, see the log";
        rows.push(("problem", text.to_owned()));
    }
    if network["problem"].is_string() {
        rows.push(("problem", field(&network["problem"])));
    }
    list(&rows)
}

/// How bans are shared, if they are.
fn sharing(sharing: &Value) -> Vec<(&'static str, String)> {
    if !sharing.is_object() {
        return Vec::new();
    }
    let (state, outbox) = (field(&sharing["state"]), &sharing["outbox"]);
    let text = format!("{state} as {}, {} wait", field(&sharing["host"]), outbox["rows"]);
    let mut rows = vec![("sharing", text)];
    rows.extend(messages(&sharing["messages"]));
    if sharing["problem"].is_string() {
        rows.push(("problem", field(&sharing["problem"])));
    }
    if sharing["same_name"] == true {
        let text = "another host has this host's name: give each its own (mongodb.host)";
        rows.push(("problem", text.to_owned()));
    }
    let violations = &sharing["violations"];
    if violations.is_object() {
        let place = field(&violations["collection"]);
        rows.push(("violations", format!("to {place}, {} wait", violations["waiting"])));
        if violations["problem"].is_string() {
            rows.push(("problem", field(&violations["problem"])));
        }
    }
    rows
}

/// How bans travel by message, if they do.
fn messages(messages: &Value) -> Option<(&'static str, String)> {
    let is_heard = messages["listening"].as_bool()?;
    let [sent, heard] = ["sent", "heard"].map(|name| messages[name].as_u64().unwrap_or(0));
    let mut text = format!("{sent} said, {heard} heard");
    if !is_heard {
        text += "; nobody is listened to just now";
    }
    if let Some(fault) = messages["fault"].as_str() {
        text += &format!("; nothing can be said just now: {fault}");
    }
    Some(("messages", text))
}

fn imports_text(imports: &Value) -> String {
    let lists = imports.as_array().map(Vec::as_slice).unwrap_or_default();
    if lists.is_empty() {
        return "no imported lists".to_owned();
    }
    let rows = lists
        .iter()
        .map(|list| ["source", "entries", "networks", "updated_at"].map(|name| field(&list[name])));
    table(["SOURCE", "ENTRIES", "NETWORKS", "UPDATED"], rows)
}

fn allowlist_text(allowlist: &Value) -> String {
    let entries = allowlist.as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = entries
        .iter()
        .map(|entry| [field(&entry["prefix"]), field(&entry["source"]), field(&entry["note"])]);
    table(["PREFIX", "SOURCE", "NOTE"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_of_a_check_is_an_address_as_it_is_listed_or_a_user() {
        let cases = [
            ("192.0.2.7", "ip=192.0.2.7"),
            ("2001:db8::9", "ip=2001%3Adb8%3A%3A9"),
            ("2001:db8:0:1::/64", "ip=2001%3Adb8%3A0%3A1%3A%3A"),
            ("anna", "user=anna"),
            ("user:anna", "user=anna"),
        ];
        for (subject, want) in cases {
            assert_eq!(subject_query(subject), want, "{subject}");
        }
    }
}
