//! Violations, whose score they raise, and the bans that scores bring.

use std::thread;

use anyhow::Result;
use moderation_tests::caller::Caller;
use serde_json::{Value, json};

use crate::{assert_just_begun, desk};

const TWO_HOURS_MS: u64 = 2 * 60 * 60 * 1_000;
const CHROME: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/120.0.0.0 Safari/537.36";

#[test]
fn each_type_has_its_points_unless_the_caller_says_otherwise() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let points = [
        ("logins", 1),
        ("registrations", 1),
        ("message_limit", 1),
        ("concurrent", 1),
        ("non_browser", 20),
        ("illegal_model_request", 5),
    ];
    for (kind, points) in points {
        let answer = desk.app.violation(kind, &json!({ "user": kind }))?;
        assert_eq!(answer["decision"], "deny", "{answer}");
        assert_eq!(answer["reason"], kind);
        assert_eq!(answer["violation"], json!({ "type": kind, "score": points }));
        assert_eq!(answer["score"], points);
    }
    let mut total = json!(null);
    for points in [json!(0.5), json!(0), json!(2)] {
        let subject = json!({ "user": "anna", "score": points });
        let answer = desk.app.violation("logins", &subject)?;
        assert_eq!(answer["violation"]["score"], points);
        total = answer["score"].clone();
    }
    assert_eq!(total, 2.5);
    Ok(())
}

#[test]
fn twenty_points_of_one_type_are_a_ban_of_user_and_address() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let subject = json!({ "user": "anna", "ip": "192.0.2.7" });
    for total in 1..20 {
        let answer = desk.app.violation("logins", &subject)?;
        assert_eq!(answer["score"], total);
        assert_eq!(answer.get("ban"), None, "{answer}");
    }
    // Another type has a score of its own.
    assert_eq!(desk.app.violation("concurrent", &subject)?["score"], 1);
    assert!(!desk.app.is_banned("user=anna")? && !desk.app.is_banned("ip=192.0.2.7")?);

    let answer = desk.app.violation("logins", &subject)?;
    let ban = &answer["ban"];
    assert_eq!((&answer["reason"], &answer["score"]), (&json!("logins"), &json!(20)));
    assert_just_begun(&ban["remaining_ms"], TWO_HOURS_MS);
    assert_eq!(answer["retry_after_ms"], ban["remaining_ms"]);
    assert_eq!(ban["user"], "anna");
    assert_eq!(ban["address"], "192.0.2.7");
    assert_eq!(ban["violation"], "logins");
    assert_eq!(ban["reason"], "logins score reached 20");
    // Nothing is dropped in the kernel here, and it says so: nothing is missing.
    assert_eq!((&ban["network"], &ban["enforced"]), (&json!("off"), &json!(true)));
    assert!(ban["note"].as_str().is_some_and(|note| note.starts_with("network.mode is off")));
    for time in [&ban["created_at"], &ban["expires_at"]] {
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z')), "{ban}");
    }
    Ok(())
}

#[test]
fn who_is_banned_is_told_so_whatever_they_do() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let anna = json!({ "user": "anna", "ip": "192.0.2.7", "score": 20 });
    let id = desk.app.violation("logins", &anna)?["ban"]["id"].clone();
    // The user from elsewhere, somebody else from there, and nobody we know.
    let subjects = [
        json!({ "user": "anna", "ip": "192.0.2.99" }),
        json!({ "user": "bert", "ip": "192.0.2.7" }),
        json!({ "ip": "192.0.2.7" }),
        json!({ "user": "anna" }),
    ];
    for subject in &subjects {
        for kind in ["login", "registration", "message"] {
            let answer = desk.app.event(kind, subject)?;
            assert_eq!(answer["decision"], "deny", "{answer}");
            assert_eq!(answer["reason"], "banned", "{answer}");
            assert_eq!(answer["ban"]["id"], id, "{answer}");
            assert_just_begun(&answer["retry_after_ms"], TWO_HOURS_MS);
            assert_eq!((answer.get("violation"), answer.get("score")), (None, None));
        }
        let lease = desk.app.post("/v1/leases", subject)?;
        assert_eq!((&lease["reason"], lease.get("lease")), (&json!("banned"), None));
    }
    for query in ["user=anna", "ip=192.0.2.7", "user=bert&ip=192.0.2.7", "ip=::ffff:192.0.2.7"] {
        assert_eq!(desk.app.get(&format!("/v1/check?{query}"))?["ban"]["id"], id, "{query}");
    }
    for query in ["user=bert", "ip=192.0.2.8"] {
        assert!(!desk.app.is_banned(query)?, "{query}");
    }
    Ok(())
}

#[test]
fn what_the_app_finds_counts_on_during_a_ban() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let anna = json!({ "user": "anna", "score": 15 });
    let answers = (0..4).map(|_| desk.app.violation("logins", &anna));
    let answers = answers.collect::<Result<Vec<_>>>()?;
    let fell: Vec<_> =
        answers.iter().map(|answer| (&answer["score"], answer.get("ban").is_some())).collect();
    let totals = [json!(15), json!(30), json!(45), json!(60)];
    let want = [(&totals[0], false), (&totals[1], true), (&totals[2], true), (&totals[3], true)];
    assert_eq!(fell, want, "a ban for each multiple of 20 that is reached or jumped over");
    assert_eq!(desk.operator.bans("all=false")?.len(), 3);
    Ok(())
}

#[test]
fn violations_of_nobody_known_score_the_address() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    // The same /64, so the same score.
    let visitors = ["2001:db8:0:1::1", "2001:db8:0:1::2"];
    for number in 1..20 {
        let answer = desk.app.violation("logins", &json!({ "ip": visitors[number % 2] }))?;
        assert_eq!(answer["score"], number);
    }
    // Users bear their own.
    let anna = json!({ "user": "anna", "ip": visitors[0] });
    assert_eq!(desk.app.violation("logins", &anna)?["score"], 1);
    let ban = desk.app.violation("logins", &json!({ "ip": visitors[0] }))?["ban"].take();
    assert_eq!(ban["address"], "2001:db8:0:1::/64", "{ban}");
    assert_eq!(ban.get("user"), None, "{ban}");
    assert!(desk.app.is_banned("ip=2001:db8:0:1:ffff::9")?);
    assert!(!desk.app.is_banned("user=anna")? && !desk.app.is_banned("ip=2001:db8:0:2::1")?);
    Ok(())
}

#[test]
fn a_message_from_no_browser_is_a_ban_at_once() -> Result<()> {
    let Some(mut desk) = desk(Value::Null)? else { return Ok(()) };
    let with = |user: &str, agent: &str| json!({ "user": user, "user_agent": agent });
    let cases = [
        ("message", with("anna", CHROME), "allow"),
        ("message", json!({ "user": "bert" }), "allow"),
        ("login", with("carl", "curl/8.5.0"), "allow"),
        ("message", with("dora", "curl/8.5.0"), "deny"),
        ("message", with("emil", ""), "deny"),
    ];
    for (kind, subject, decision) in cases {
        let answer = desk.app.event(kind, &subject)?;
        assert_eq!(answer["decision"], decision, "{kind} {subject}: {answer}");
        if decision == "deny" {
            assert_eq!(answer["violation"], json!({ "type": "non_browser", "score": 20 }));
            assert_eq!(answer["ban"]["user"], subject["user"], "{answer}");
        }
    }
    Ok(())
}

#[test]
fn without_bans_scores_only_add_up() -> Result<()> {
    let Some(mut desk) = desk(json!({ "bans": { "enabled": false } }))? else { return Ok(()) };
    let answer = desk.app.violation("logins", &json!({ "user": "anna", "score": 1_000 }))?;
    assert_eq!((&answer["score"], answer.get("ban")), (&json!(1_000), None));
    assert!(!desk.app.is_banned("user=anna")?);
    Ok(())
}

#[test]
fn a_protected_address_is_never_part_of_a_ban() -> Result<()> {
    let Some(mut desk) = desk(json!({ "allowlist": ["198.51.100.0/24"] }))? else { return Ok(()) };
    for ip in ["10.0.0.1", "198.51.100.7", "::1"] {
        let both = json!({ "user": ip, "ip": ip, "score": 20 });
        let ban = desk.app.violation("logins", &both)?["ban"].take();
        assert_eq!((&ban["user"], ban.get("address")), (&json!(ip), None), "{ban}");
        let alone = desk.app.violation("logins", &json!({ "ip": ip, "score": 20 }))?;
        assert_eq!((&alone["score"], alone.get("ban")), (&json!(20), None), "{alone}");
        assert!(!desk.app.is_banned(&format!("ip={ip}"))?, "{ip}");
    }
    Ok(())
}

#[test]
fn of_a_thousand_messages_over_many_connections_forty_pass_and_one_ban_falls() -> Result<()> {
    let Some(desk) = desk(Value::Null)? else { return Ok(()) };
    let say = || {
        let mut app = Caller::app(&desk.daemon);
        let message = json!({ "user": "anna", "ip": "192.0.2.7" });
        (0..125).map(|_| app.event("message", &message)).collect::<Result<Vec<_>>>()
    };
    let answers = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(say)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        joined.collect::<Result<Vec<_>>>()
    })?;
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    let count =
        |field: &str, value: &str| answers.iter().filter(|answer| answer[field] == value).count();
    assert_eq!(count("decision", "allow"), 40);
    assert_eq!(count("reason", "message_limit"), 20);
    assert_eq!(count("reason", "banned"), 940);
    assert_eq!(Caller::operator(&desk.daemon).bans("all=true")?.len(), 1);
    Ok(())
}
