//! `moderationctl doctor`: what works on this host and what does not, with what to do
//! about it. The host it looks at itself, with or without a daemon; the services that the
//! daemon uses, the daemon looks at. It mends nothing. Ends with 1 if something does not
//! work.

mod finding;
mod host;
mod interface;
mod kernel;
mod proxies;

use std::{error::Error, io, iter, path::Path};

use anyhow::bail;
use serde_json::{Value, json};

use self::finding::Section;
use super::{output::field, remote::Remote};
use crate::{
    api::client::Response,
    config::{Config, ConfigError},
};

/// What there is to go by.
#[derive(Clone, Copy)]
pub(super) struct Host<'a> {
    /// The configuration, or what is wrong with it.
    pub(super) loaded: Result<&'a Config, &'a ConfigError>,
    /// What counts if it is wrong.
    pub(super) defaults: &'a Config,
}

impl<'a> Host<'a> {
    /// The configuration to go by.
    pub(super) fn config(&self) -> &'a Config {
        self.loaded.unwrap_or(self.defaults)
    }
}

/// The configuration as the daemon reads it. Files of LibreChat's that the caller may not
/// read are left out: the daemon may. One that is not there is wrong.
///
/// # Errors
///
/// See [`ConfigError`].
pub(super) fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    let forbids = |error: &(dyn Error + 'static)| {
        let error = error.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    Config::load(path).or_else(|error| {
        let first: &(dyn Error + 'static) = &error;
        match iter::successors(Some(first), |&error| error.source()).any(forbids) {
            true => Config::load_readable(path),
            false => Err(error),
        }
    })
}

/// Looks, and shows it.
///
/// # Errors
///
/// If something does not work.
pub(super) fn run(remote: &mut Remote, host: Host<'_>) -> anyhow::Result<()> {
    let report = examine(remote, host)?;
    let is_coloured = remote.output.has_colours();
    remote.output.show(&report, |report| text(report, is_coloured))?;
    let findings = sections(&report).flat_map(findings);
    match findings.filter(|finding| finding["grade"] == "problem").count() {
        0 => Ok(()),
        problems => bail!("{problems} of these do not work"),
    }
}

/// Looks at the host, and asks the daemon, if there is one.
///
/// # Errors
///
/// If the daemon answers nonsense.
pub(super) fn examine(remote: &mut Remote, host: Host<'_>) -> anyhow::Result<Value> {
    let config = host.config();
    let asked = remote.client.get("/v1/doctor");
    let answered = asked.as_ref().map(|_| ());
    let daemon = host::daemon(remote.socket(), answered);
    let is_there = answered.is_ok();
    let top = is_there.then(|| remote.client.get("/v1/top?limit=50").ok()).flatten();
    let top = top.filter(Response::is_success).map(|response| response.body);
    let mut interfaces = interface::findings(config);
    interfaces.push(proxies::finding(config, top.as_ref()));
    let own = [
        ("daemon", daemon),
        ("units", host::units()),
        ("configuration", host::configuration(host.loaded)),
        ("kernel", kernel::findings(config)),
        ("interfaces", interfaces),
        ("store", host::store(&config.store.path)),
        ("clock", vec![host::clock()]),
    ];
    let own = own.map(|(name, findings)| json!(Section { name: name.to_owned(), findings }));
    let mut report = own.to_vec();
    if is_there {
        let told = remote.success(asked)?;
        report.extend(sections(&told).cloned());
    }
    Ok(json!({ "sections": report }))
}

fn sections(report: &Value) -> impl Iterator<Item = &Value> {
    report["sections"].as_array().into_iter().flatten()
}

fn findings(section: &Value) -> impl Iterator<Item = &Value> {
    section["findings"].as_array().into_iter().flatten()
}

/// The report for people.
pub(super) fn text(report: &Value, is_coloured: bool) -> String {
    let mut lines = Vec::new();
    for section in sections(report) {
        lines.push(field(&section["name"]));
        for finding in findings(section) {
            let [grade, check, text] = ["grade", "check", "text"].map(|it| field(&finding[it]));
            let style = if is_coloured { finding::style(&grade) } else { anstyle::Style::new() };
            lines.push(format!("  {style}{grade:8}{style:#} {check}: {text}"));
            if finding["advice"].is_string() {
                lines.push(format!("  {:8} -> {}", "", field(&finding["advice"])));
            }
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_work_is_told_with_what_to_do() {
        let report = json!({ "sections": [{ "name": "mongodb", "findings": [
            { "check": "connection", "grade": "ok", "text": "mongod 6.0.5" },
            { "check": "clock", "grade": "problem", "text": "an hour", "advice": "set it" },
        ] }] });
        let lines = [
            "mongodb",
            "  ok       connection: mongod 6.0.5",
            "  problem  clock: an hour",
            "           -> set it",
        ];
        assert_eq!(text(&report, false), lines.join("\n"));
        let coloured = text(&report, true);
        assert!(coloured.contains("\u{1b}[32mok"), "{coloured:?}");
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), lines.join("\n"));
    }
}
