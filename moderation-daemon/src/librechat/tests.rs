//! The files, as LibreChat v0.8.7 writes them.

use super::*;

const NOW: u64 = 1_795_213_779_445;

fn score(kind: &str, user: &str, points: f64, expires_at_ms: Option<u64>) -> Score {
    Score { user: user.to_owned(), kind: kind.to_owned(), points, expires_at_ms }
}

fn record(kind: &str) -> Record {
    Record {
        user: "anna".to_owned(),
        kind: kind.to_owned(),
        max: Some("\"7\"".to_owned()),
        limiter: None,
        window_minutes: Some(5.0),
        pending: None,
        points: 1.0,
        previous: 19.0,
        total: 20.0,
        at_ms: NOW - NOW % 1_000,
        is_ban: true,
        ban_ms: Some(7_200_000),
    }
}

#[test]
fn numbers_are_printed_as_javascript_does() {
    let cases = [
        (20.0, "20"),
        (-5.0, "-5"),
        (0.1, "0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (-0.0, "0"),
        (1e21, "1e+21"),
        (123_456_789_012_345_680_000.0, "123456789012345680000"),
        (1.5e300, "1.5e+300"),
        (1e-6, "0.000001"),
        (1.5e-7, "1.5e-7"),
        (f64::NAN, "null"),
        (f64::INFINITY, "null"),
    ];
    for (value, want) in cases {
        assert_eq!(json::number(value), want, "{value:?}");
    }
}

#[test]
fn scores_are_envelopes_in_strings_with_their_end_twice() {
    let scores =
        [score("logins", "anna", 20.0, None), score("concurrent", "b", 0.5, Some(NOW + 9))];
    let want = format!(
        r#"{{"cache":[["violations:logins:anna",{{"value":"{{\"value\":20}}"}}],["violations:concurrent:b",{{"value":"{{\"value\":0.5,\"expires\":{0}}}","expire":{0}}}]],"lastExpire":{NOW}}}"#,
        NOW + 9
    );
    assert_eq!(scores_file(&scores, NOW), want);
}

#[test]
fn records_have_their_fields_in_librechat_s_order() {
    let concurrent = Record {
        max: Some("2".to_owned()),
        window_minutes: None,
        pending: Some(2),
        is_ban: false,
        ban_ms: None,
        at_ms: NOW,
        ..record("concurrent")
    };
    let limited = Record { limiter: Some("ip".to_owned()), ..record("message_limit") };
    let records = [concurrent, limited];
    let by_user = records_file(&records, LogKeys::ByUser, NOW);
    let file: serde_json::Value = serde_json::from_str(&by_user).expect("JSON");
    assert_eq!(file["cache"][0][0], "violations:anna");
    let want = concat!(
        r#"{"value":[{"type":"message_limit","max":"7","limiter":"ip","windowInMinutes":5,"#,
        r#""prev_count":19,"violation_count":20,"date":"2026-11-20T22:29:39.000Z","ban":true,"#,
        r#""ban_duration":7200000},{"type":"concurrent","limit":2,"pendingRequests":2,"score":1,"#,
        r#""prev_count":19,"violation_count":20,"date":"2026-11-20T22:29:39.445Z"}]}"#,
    );
    assert_eq!(file["cache"][0][1]["value"], want);
    let by_both = records_file(&records, LogKeys::ByTypeAndUser, NOW);
    assert!(by_both.contains("violations:concurrent:anna"), "{by_both}");
}

#[test]
fn what_was_written_reads_back_the_same() {
    let scores = vec![
        score("logins", "anna", 20.0, None),
        score("tts_limit", ":odd: user", 1e21, Some(NOW + 1)),
    ];
    let found = read_scores(&scores_file(&scores, NOW), NOW).expect("our own");
    assert_eq!((found.taken, found.lapsed, found.others), (scores, 0, 0));

    let odd = Record {
        max: Some("0.5".to_owned()),
        limiter: Some(":odd".to_owned()),
        points: 0.5,
        previous: 0.5,
        total: 1.0,
        is_ban: false,
        ban_ms: None,
        at_ms: NOW + 1,
        ..record("file_upload_limit")
    };
    let records = vec![record("logins"), odd];
    for keys in [LogKeys::ByUser, LogKeys::ByTypeAndUser] {
        let found = read_records(&records_file(&records, keys, NOW), NOW).expect("our own");
        assert_eq!(found.taken, records, "{keys:?}");
    }
}

#[test]
fn what_librechat_would_not_see_is_not_taken() {
    let text = r#"{"cache": {
        "violations:logins:anna": {"value": "{\"value\":null}"},
        "violations:logins:bert": {"value": "{\"value\":3,\"expires\":1}"},
        "violations:logins:carl": {"value": "{\"value\":3}", "expire": 1000},
        "violations:logins:dora": {"value": "{\"value\":3,\"expires\":1000}"},
        "violations:convo_access::anna:77": {"value": "{\"value\":\"authorized\"}"},
        "violations:made_up:anna": {"value": "{\"value\":3}"},
        "bans:anna": {"value": "{\"value\":3}"}
    }, "lastExpire": 5}"#;
    let found = read_scores(text, 1_000).expect("both forms are read");
    let want = [score("logins", "anna", 0.0, None), score("logins", "dora", 3.0, Some(1_000))];
    assert_eq!(found.taken, want);
    assert_eq!((found.lapsed, found.others), (2, 3));
}

#[test]
fn a_file_that_makes_no_sense_is_refused_and_says_where() {
    let cases = [
        ("", "it is not what LibreChat writes"),
        ("{}", "it is not what LibreChat writes"),
        (r#"{"cache":[["a"]]}"#, "it is not what LibreChat writes"),
        (
            r#"{"cache":[["violations:logins:anna",{"value":"{\"value\":\"x\"}"}]]}"#,
            "violations:logins:anna: the score is no number",
        ),
    ];
    for (text, want) in cases {
        let error = read_scores(text, 0).expect_err("it makes no sense").to_string();
        assert!(error.starts_with(want), "{error}");
    }
    let text = r#"{"cache":[["violations:anna",{"value":"{\"value\":[{\"type\":\"logins\",\"date\":\"never\"}]}"}]]}"#;
    let error = read_records(text, 0).expect_err("no date").to_string();
    assert_eq!(error, "violations:anna: \"never\" of a record is no date");
}

mod property {
    use proptest::prelude::*;

    use super::*;

    fn any_record() -> impl Strategy<Value = Record> {
        let numbers = (any::<f64>(), any::<f64>(), any::<u32>(), any::<bool>());
        (0..TYPES.len(), "[a-f0-9:]{1,24}", numbers).prop_map(|(kind, user, numbers)| {
            let (previous, points, at, is_ban) = numbers;
            // JavaScript prints no minus before nothing.
            let finite = |value: f64| if value.is_finite() { value + 0.0 } else { 1.0 };
            let (previous, points) = (finite(previous), finite(points));
            let total = finite(previous + points);
            let is_concurrent = TYPES[kind] == "concurrent";
            Record {
                user: format!("u{user}"),
                points: if is_concurrent { points } else { total - previous },
                previous,
                total,
                at_ms: u64::from(at),
                is_ban,
                ban_ms: is_ban.then_some(u64::from(at)),
                ..record(TYPES[kind])
            }
        })
    }

    proptest! {
        #[test]
        fn any_records_read_back_the_same_but_for_their_order(
            records in proptest::collection::vec(any_record(), 0..20)
        ) {
            let text = records_file(&records, LogKeys::ByUser, NOW);
            let found = read_records(&text, NOW).expect("our own");
            let key = |one: &Record| serde_json::to_string(one).expect("finite numbers");
            let mut want: Vec<_> = records.iter().map(key).collect();
            let mut got: Vec<_> = found.taken.iter().map(key).collect();
            want.sort();
            got.sort();
            prop_assert_eq!(got, want);
        }
    }
}
