//! `moderationctl penalties`, and what can be named to `lift` and what that
//! lifted. Makes up nothing.

use anyhow::bail;
use serde_json::{Value, json};

use super::{
    command::Penalties,
    output::{field, table},
    remote::{Remote, encoded},
};
use crate::engine::Prefix;

pub(super) fn list(remote: &mut Remote, which: Penalties) -> anyhow::Result<()> {
    let Penalties { user, ip, all } = which;
    let whom = [("user", user), ("ip", ip)].into_iter();
    let whom = whom.filter_map(|(name, value)| Some(format!("&{name}={}", encoded(&value?))));
    let whom: String = whom.collect();
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let path = format!("/v1/penalties?all={all}&limit=1000&after={after}{whom}");
        let response = remote.client.get(&path);
        let mut page = remote.success(response)?;
        if let Value::Array(penalties) = page["penalties"].take() {
            found.extend(penalties);
        }
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    let found = json!({ "penalties": found });
    Ok(remote.output.show(&found, |found| penalties(&found["penalties"]))?)
}

fn penalties(penalties: &Value) -> String {
    let penalties = array(penalties);
    if penalties.is_empty() {
        return "no penalties".to_owned();
    }
    let rows = penalties.iter().map(|penalty| {
        [
            format!("p{}", penalty["id"]),
            whom(penalty),
            what(penalty),
            field(&penalty["starts_at"]),
            state(penalty),
            field(&penalty["by"]),
            field(&penalty["reason"]),
        ]
    });
    table(["PENALTY", "WHOM", "WHAT", "SINCE", "STATE", "BY", "REASON"], rows)
}

fn what(penalty: &Value) -> String {
    match penalty["kind"].as_str().unwrap_or_default() {
        "warning" => format!("warning {}", penalty["message"]),
        "remove_content" => "content was to be removed".to_owned(),
        "reduce" => format!("limits × {}", penalty["factor"]),
        "suspension" => format!("suspension, ban {}", penalty["ban"]),
        "ban" => format!("ban {}", penalty["ban"]),
        other => other.to_owned(),
    }
}

fn state(penalty: &Value) -> String {
    if let Some(at) = penalty["ended_at"].as_str() {
        return format!("taken back {at} by {}", field(&penalty["ended_by"]));
    }
    match (penalty["ends_at"].as_str(), penalty["active"] == true) {
        (Some(end), true) => format!("until {end}"),
        (None, _) => "for ever".to_owned(),
        // A word and an instruction take no time.
        (Some(end), false) if penalty["starts_at"] == end => "given".to_owned(),
        (Some(end), false) => format!("over {end}"),
    }
}

fn whom(of: &Value) -> String {
    let whom = [&of["user"], &of["address"]];
    whom.into_iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" and ")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A number is a ban, `p` and a number a penalty, `user:…` a user, an address
/// an address.
pub(super) fn lift_path(target: &str) -> anyhow::Result<String> {
    if let Some(user) = target.strip_prefix("user:") {
        return Ok(format!("/v1/bans?user={}", encoded(user)));
    }
    if let Ok(id) = target.trim_start_matches('#').parse::<u64>() {
        return Ok(format!("/v1/bans?id={id}"));
    }
    if let Some(Ok(id)) = target.strip_prefix('p').map(str::parse::<u64>) {
        return Ok(format!("/v1/penalties/{id}"));
    }
    match target.parse::<Prefix>() {
        Ok(_) => Ok(format!("/v1/bans?ip={}", encoded(target))),
        Err(error) => bail!(
            "{error}; a ban's number, an address, user:ID, or a penalty's number behind a p can \
             be lifted"
        ),
    }
}

/// All that a lift did, a line each.
pub(super) fn lifted(answer: &Value) -> String {
    let bans = array(&answer["lifted"]).iter().map(|ban| match ban["import"].as_str() {
        Some(source) => format!("took {} off {source}\n", whom(ban)),
        None => format!("lifted ban {} of {}\n", ban["id"], whom(ban)),
    });
    let penalties = array(&answer["penalties"]).iter().map(|penalty| {
        format!("took back penalty p{} of {}: {}\n", penalty["id"], whom(penalty), what(penalty))
    });
    let forgotten: Vec<_> = array(&answer["forgotten"]).iter().map(whom).collect();
    let mut text: String = bans.chain(penalties).collect();
    if !forgotten.is_empty() {
        let names = forgotten.join(", ");
        text += &format!("forgot the scores, limits and penalties of {names}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_of_a_lift_is_a_number_a_penalty_an_address_or_a_user() {
        let cases = [
            ("42", Some("/v1/bans?id=42")),
            ("#42", Some("/v1/bans?id=42")),
            ("p12", Some("/v1/penalties/12")),
            ("user:p12", Some("/v1/bans?user=p12")),
            ("p", None),
            ("px", None),
            ("192.0.2.7", Some("/v1/bans?ip=192.0.2.7")),
            ("2001:db8::/64", Some("/v1/bans?ip=2001%3Adb8%3A%3A%2F64")),
            ("user:a b&c", Some("/v1/bans?user=a%20b%26c")),
            ("anna", None),
            ("192.0.2.0/24", Some("/v1/bans?ip=192.0.2.0%2F24")),
            ("192.0.0.0/4", None),
        ];
        for (target, want) in cases {
            assert_eq!(lift_path(target).ok().as_deref(), want, "{target}");
        }
    }

    #[test]
    fn a_lift_tells_of_bans_lists_penalties_and_whose_past_is_forgotten() {
        let answer = json!({
            "lifted": [
                { "id": 3, "user": "anna", "address": "192.0.2.7" },
                { "import": "firehol", "address": "192.0.2.7" },
            ],
            "penalties": [
                { "id": 4, "kind": "reduce", "factor": 0.5, "user": "anna", "address": null },
                { "id": 5, "kind": "ban", "ban": 3, "user": "anna", "address": null },
            ],
            "forgotten": [{ "user": "anna" }, { "address": "192.0.2.7" }],
        });
        let want = "lifted ban 3 of anna and 192.0.2.7\n\
                    took 192.0.2.7 off firehol\n\
                    took back penalty p4 of anna: limits × 0.5\n\
                    took back penalty p5 of anna: ban 3\n\
                    forgot the scores, limits and penalties of anna, 192.0.2.7\n";
        assert_eq!(lifted(&answer), want);
    }

    #[test]
    fn a_penalty_says_what_has_become_of_it() {
        let cases = [
            (json!({ "starts_at": "a", "ends_at": "b", "active": true }), "until b"),
            (json!({ "starts_at": "a", "ends_at": "b", "active": false }), "over b"),
            (json!({ "starts_at": "a", "ends_at": "a", "active": false }), "given"),
            (json!({ "starts_at": "a", "ends_at": null, "active": true }), "for ever"),
            (
                json!({ "ends_at": "b", "ended_at": "c", "ended_by": "root" }),
                "taken back c by root",
            ),
        ];
        for (penalty, want) in cases {
            assert_eq!(state(&penalty), want);
        }
    }
}
