//! `moderationctl doctor`: what the daemon finds when it looks at the services that it
//! uses, with what to do about it. Ends with 1 if something does not work.

use anyhow::bail;
use serde_json::Value;

use super::{output::field, remote::Remote};

pub(super) fn run(remote: &mut Remote) -> anyhow::Result<()> {
    let response = remote.client.get("/v1/doctor");
    let report = remote.success(response)?;
    remote.output.show(&report, text)?;
    let findings = sections(&report).flat_map(findings);
    match findings.filter(|finding| finding["grade"] == "problem").count() {
        0 => Ok(()),
        problems => bail!("{problems} of these do not work"),
    }
}

fn sections(report: &Value) -> impl Iterator<Item = &Value> {
    report["sections"].as_array().into_iter().flatten()
}

fn findings(section: &Value) -> impl Iterator<Item = &Value> {
    section["findings"].as_array().into_iter().flatten()
}

fn text(report: &Value) -> String {
    let mut lines = Vec::new();
    for section in sections(report) {
        lines.push(field(&section["name"]));
        for finding in findings(section) {
            let [grade, check, text] = ["grade", "check", "text"].map(|it| field(&finding[it]));
            lines.push(format!("  {grade:8} {check}: {text}"));
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
        assert_eq!(text(&report), lines.join("\n"));
    }
}
