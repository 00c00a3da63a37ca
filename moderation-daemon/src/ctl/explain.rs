//! `moderationctl explain`: shows the daemon's sentences as they are, and the
//! violations behind them. Makes up nothing.

use anyhow::Context as _;
use serde_json::Value;

use super::remote::{Remote, encoded, subject_query};
use crate::{
    moderator::{Code, NoCode},
    nginx::log::pending::RequestName,
};

pub(super) fn run(remote: &mut Remote, subject: &str) -> anyhow::Result<()> {
    let response = remote.client.get(&format!("/v1/explain?{}", query(subject)));
    let answer = remote.success(response)?;
    if RequestName::parse(subject).is_some() && is_unknown(&answer) {
        // Quoted like a code, and none: the daemon says what it is instead.
        let response = remote.client.get(&format!("/v1/explain?code={subject}"));
        remote.success(response).with_context(|| {
            format!("no user {subject} is known (user:{subject} asks for nothing else)")
        })?;
    }
    Ok(remote.output.show(&answer, text)?)
}

/// Whether nothing is recorded about a user, nor said by the app or the configuration.
fn is_unknown(answer: &Value) -> bool {
    let records =
        ["bans", "penalties", "violations", "scores", "limits", "leases", "offences", "totals"];
    let factors = &answer["factors"];
    records.iter().all(|name| list(&answer[name]).is_empty())
        && factors["traits"].is_null()
        && factors["flagged"] == 0
        && answer["protected"] == false
}

/// `#12` is a ban, `d65a0c1f2-7` a denial; else an address or a user, as everywhere. What
/// is meant to be a user who is called so is `user:d65a0c1f2-7`.
fn query(subject: &str) -> String {
    match subject.parse::<Code>() {
        Ok(Code::Ban(id)) => format!("ban={}", encoded(&id.to_string())),
        Ok(code @ Code::Denial { .. }) => format!("code={}", encoded(&code.to_string())),
        Err(NoCode) => subject_query(subject),
    }
}

fn text(answer: &Value) -> String {
    let mut text = format!("{}\n", answer["verdict"].as_str().unwrap_or_default());
    for sentence in list(&answer["because"]) {
        text += &format!("  {}\n", sentence.as_str().unwrap_or_default());
    }
    let violations = list(&answer["violations"]);
    if !violations.is_empty() {
        text += "\nViolations, the latest first:\n";
    }
    for one in violations {
        text += &format!("  {}\n", one["text"].as_str().unwrap_or_default());
    }
    text
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_subject_is_a_ban_with_a_hash_an_address_or_a_user() {
        let cases = [
            ("#12", "ban=12"),
            ("12", "user=12"),
            ("#anna", "user=%23anna"),
            ("192.0.2.7", "ip=192.0.2.7"),
            ("user:anna", "user=anna"),
            ("d65a0c1f2-7", "code=d65a0c1f2-7"),
            ("user:d65a0c1f2-7", "user=d65a0c1f2-7"),
            ("daniel", "user=daniel"),
        ];
        for (subject, want) in cases {
            assert_eq!(query(subject), want, "{subject}");
        }
    }

    #[test]
    fn whoever_left_anything_behind_is_known() {
        let answer = |key: &str, value: Value| {
            let mut answer = json!({
                "bans": [], "penalties": [], "violations": [], "scores": [], "limits": [],
                "leases": [], "offences": [], "totals": [], "protected": false,
                "factors": { "now": null, "flagged": 0, "traits": null },
            });
            *answer.pointer_mut(key).expect("it is there") = value;
            answer
        };
        assert!(is_unknown(&answer("/bans", json!([]))));
        let left = [
            ("/bans", json!([{}])),
            ("/totals", json!([{}])),
            ("/factors/traits", json!({})),
            ("/factors/flagged", json!(1)),
            ("/protected", json!(true)),
        ];
        for (key, value) in left {
            assert!(!is_unknown(&answer(key, value)), "{key}");
        }
    }

    #[test]
    fn the_sentences_come_first_and_then_the_violations() {
        let answer = json!({
            "verdict": "anna is banned.",
            "because": ["One.", "Two."],
            "violations": [{ "text": "then this" }, { "text": "first that" }],
        });
        let want = "anna is banned.\n  One.\n  Two.\n\nViolations, the latest first:\n  \
                    then this\n  first that\n";
        assert_eq!(text(&answer), want);
        assert_eq!(text(&json!({ "verdict": "nothing" })), "nothing\n");
    }
}
