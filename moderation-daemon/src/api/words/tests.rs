//! Stories as operators meet them, and what they are told.

use std::sync::Arc;

use super::*;
use crate::{blocklist::Source, engine::Trusted};

/// 2026-01-01T00:00:00Z.
const NOW_MS: u64 = 1_767_225_600_000;
const MINUTE_MS: u64 = 60_000;
const NOW: Moment = Moment { boot_ms: 500_000, unix_ms: NOW_MS };

/// What is told: the verdict, and the sentences.
fn told(
    name: &str,
    standing: Option<&BanView>,
    dossier: &Dossier,
    history: &History,
) -> (String, Vec<String>) {
    let rules = Rules::hardened();
    let active: Vec<_> = dossier.bans.iter().map(blocked).collect();
    let facts = Facts {
        name,
        now: NOW,
        standing: standing.or(active.first()),
        active: &active,
        dossier,
        history,
        rules: &rules,
    };
    (facts.verdict(), facts.because())
}

fn blocked(ban: &Arc<Ban>) -> BanView {
    let network = ban.prefix.map(|_| Enforcement::Blocked);
    BanView { ban: Arc::clone(ban), enforced: true, network, source: None }
}

fn ban(id: u64) -> Ban {
    Ban {
        id,
        user: "anna".parse().ok(),
        prefix: "192.0.2.7".parse().ok(),
        blocks: true,
        reason: "message_limit reached 20 points".to_owned(),
        violation: Some(ViolationType::MESSAGE_LIMIT),
        score: Some(20.0),
        created_at_unix_ms: NOW_MS - 30 * MINUTE_MS,
        expires_at_unix_ms: Some(NOW_MS + 90 * MINUTE_MS),
        by: Author::Rule,
        with: None,
        severity: None,
        review: false,
    }
}

fn record(id: u64, total: f64, of_ban: Option<u64>) -> ViolationRecord {
    ViolationRecord {
        id,
        kind: "message_limit".to_owned(),
        user: Some("anna".to_owned()),
        ip: Some("192.0.2.7".to_owned()),
        points: 1.0,
        previous: total - 1.0,
        total,
        limiter: Some("message_ip".to_owned()),
        max: Some("40".to_owned()),
        window_ms: Some(MINUTE_MS),
        pending: None,
        repeats: 0,
        severity: None,
        details: None,
        ban: of_ban,
        penalty: None,
        logout: false,
        at_unix_ms: NOW_MS - 31 * MINUTE_MS + id,
        is_imported: false,
    }
}

#[test]
fn who_was_never_seen_has_no_story() {
    let (verdict, because) = told("user anna", None, &Dossier::default(), &History::default());
    assert_eq!(verdict, "user anna is not banned.");
    assert_eq!(because, ["Nothing is recorded about user anna."]);
}

#[test]
fn a_score_that_grew_into_a_ban_is_told_with_what_led_to_it() {
    let one = Arc::new(ban(12));
    let mut violations: Vec<_> = (1..=20)
        .map(|i: u32| record(u64::from(i), f64::from(i), (i == 20).then_some(12)))
        .collect();
    violations.insert(0, record(0, 20.0, Some(11)));
    violations.push(record(21, 21.0, None));
    violations.reverse();
    let totals = vec![Total {
        kind: "message_limit".to_owned(),
        count: 22,
        points: 22.0,
        first_at_unix_ms: 1,
        last_at_unix_ms: 2,
    }];
    let bans = vec![BanRecord {
        ban: one.as_ref().clone(),
        lifted_at_unix_ms: None,
        lifted_by: None,
        origin: Origin::Here,
    }];
    let dossier = Dossier { bans: vec![one], ..Dossier::default() };
    let history = History { bans, violations, totals, ..History::default() };
    let (verdict, because) = told("user anna", None, &dossier, &history);
    assert_eq!(verdict, "user anna is banned until 2026-01-01T01:30:00Z, for 1 h 30 min more.");
    let want = [
        "Ban 12 of user anna and 192.0.2.7, for 2 h, fell at 2025-12-31T23:30:00Z: \
         message_limit reached 20 points.",
        "For ban 12 the score of message_limit went from 19 to 20, and every 20 points are a \
         ban; 20 violations led to it, the first of them at 2025-12-31T23:29:00.001Z.",
        "The kernel drops the packets of 192.0.2.7.",
        "In all: 22 message_limit (22 points).",
    ];
    assert_eq!(because, want);
}

#[test]
fn what_the_kernel_does_about_a_ban_is_told() {
    let proxy = "192.0.2.0/24".parse().expect("a prefix");
    let cases = [
        (Enforcement::Blocked, "The kernel drops the packets of 192.0.2.7."),
        (Enforcement::Pending, "The kernel is to drop the packets of 192.0.2.7, and does not yet."),
        (
            Enforcement::Off,
            "Ban 12 holds at the API only: network.mode is off, so that the kernel drops nothing.",
        ),
        (Enforcement::Never, "Ban 12 holds at the API only."),
        (
            Enforcement::Proxy(proxy),
            "Ban 12 holds at the API only: 192.0.2.7 is within the proxy 192.0.2.0/24.",
        ),
    ];
    let one = Arc::new(ban(12));
    let dossier = Dossier { bans: vec![Arc::clone(&one)], ..Dossier::default() };
    for (network, want) in cases {
        let view = BanView { network: Some(network), ..blocked(&one) };
        let facts = Facts {
            name: "192.0.2.7",
            now: NOW,
            standing: Some(&view),
            active: std::slice::from_ref(&view),
            dossier: &dossier,
            history: &History::default(),
            rules: &Rules::hardened(),
        };
        assert!(facts.because().iter().any(|line| line == want), "{:?}", facts.because());
    }
}

#[test]
fn an_operator_s_ban_is_told_with_who_placed_it_and_why() {
    let one = Ban {
        violation: None,
        score: None,
        expires_at_unix_ms: None,
        by: Author::Operator("root".into()),
        reason: "spam".to_owned(),
        prefix: None,
        ..ban(3)
    };
    let dossier = Dossier { bans: vec![Arc::new(one)], ..Dossier::default() };
    let (verdict, because) = told("user anna", None, &dossier, &History::default());
    assert_eq!(verdict, "user anna is banned until somebody lifts it.");
    let want = "Ban 3 of user anna, for ever, was placed by root at 2025-12-31T23:30:00Z: spam.";
    assert_eq!(because, [want]);
}

#[test]
fn a_ban_of_another_host_and_one_that_nobody_signed_are_told_with_where_they_come_from() {
    let cases = [
        (Origin::Here, None),
        (Origin::Host("beta".to_owned()), Some("comes from host beta")),
        (Origin::Foreign, Some("a document in the shared database that no host has signed")),
    ];
    let dossier = Dossier { bans: vec![Arc::new(ban(12))], ..Dossier::default() };
    for (origin, want) in cases {
        let history = History { origins: [(12, origin)].into(), ..History::default() };
        let (_, because) = told("user anna", None, &dossier, &history);
        let told = because.iter().find(|line| line.contains(" comes from "));
        assert_eq!(told.is_some(), want.is_some(), "{because:?}");
        assert!(want.is_none_or(|want| told.is_some_and(|told| told.contains(want))));
    }
}

#[test]
fn a_lifted_ban_is_told_with_who_lifted_it_and_what_follows() {
    let record = BanRecord {
        ban: ban(12),
        lifted_at_unix_ms: Some(NOW_MS - MINUTE_MS),
        lifted_by: Some("eve".to_owned()),
        origin: Origin::Here,
    };
    let bearer = Bearer::User("anna".parse().expect("an id"));
    let offence = Offence { level: 0.0, at_unix_ms: NOW_MS, has_grace: true };
    let dossier = Dossier { offences: vec![(bearer, offence)], ..Dossier::default() };
    let history = History { bans: vec![record], ..History::default() };
    let (verdict, because) = told("user anna", None, &dossier, &history);
    assert_eq!(verdict, "user anna is not banned.");
    let want = [
        "Nothing is held against user anna any more: no score, no penalty, no limit used up.",
        "Ban 12 of user anna and 192.0.2.7, since 2025-12-31T23:30:00Z, was lifted by eve at \
         2025-12-31T23:59:00Z: message_limit reached 20 points.",
        "The next violation of user anna brings no ban: the last was lifted.",
    ];
    assert_eq!(because, want);
}

#[test]
fn who_cannot_be_banned_is_told_by_what() {
    let prefix = "192.0.2.0/24".parse().expect("a prefix");
    for (trust, want) in [
        (
            Trust::Allowlist,
            "192.0.2.7 is not banned and cannot be: 192.0.2.0/24 is on the allowlist.",
        ),
        (Trust::Guard, "192.0.2.7 is not banned and cannot be: 192.0.2.0/24 is guarded."),
        (Trust::Proxy, "192.0.2.7 is not banned."),
    ] {
        let dossier = Dossier { trusted: Some(Trusted { prefix, trust }), ..Dossier::default() };
        assert_eq!(told("192.0.2.7", None, &dossier, &History::default()).0, want);
    }
    let dossier = Dossier { is_protected: true, ..Dossier::default() };
    let (_, because) = told("user anna", None, &dossier, &History::default());
    assert!(because[0].starts_with("No rule bans this user: "), "{because:?}");
}

#[test]
fn an_entry_of_an_imported_list_is_told_with_the_list() {
    let source: Source = "firehol".parse().expect("a source");
    let entry = Arc::new(Ban { id: 0, user: None, expires_at_unix_ms: None, ..ban(0) });
    let view = BanView { source: Some(source), ..blocked(&entry) };
    let (verdict, because) =
        told("192.0.2.7", Some(&view), &Dossier::default(), &History::default());
    assert_eq!(verdict, "192.0.2.7 is banned until somebody lifts it.");
    assert_eq!(because, ["It is on the imported list firehol."]);
}

#[test]
fn a_warning_before_the_line_is_told_with_what_is_left() {
    let anna = Bearer::User("anna".parse().expect("an id"));
    let key = ScoreKey { bearer: anna.clone(), kind: ViolationType::LOGINS };
    let score = Score { points: 12.0, spent: 20.0, ..Score::default() };
    let penalty = Penalty {
        id: 4,
        kind: PenaltyKind::Reduce { factor_permille: 500 },
        user: "anna".parse().ok(),
        prefix: None,
        violation: None,
        severity: None,
        reason: "the second time".to_owned(),
        starts_at_unix_ms: NOW_MS - MINUTE_MS,
        ends_at_unix_ms: Some(NOW_MS + MINUTE_MS),
        by: Author::Rule,
        ended: None,
    };
    let lease = crate::engine::Lease { id: 1, bearer: anna.clone(), ends_at_boot_ms: 600_000 };
    let offence = Offence { level: 1.9, at_unix_ms: NOW_MS, has_grace: false };
    let dossier = Dossier {
        scores: vec![(key, score)],
        penalties: vec![Arc::new(penalty)],
        leases: vec![lease],
        offences: vec![(anna, offence)],
        ..Dossier::default()
    };
    let factors = vec![("verified_email", 1_100), ("recent_violations", 500)];
    let standing = Some(Standing { permille: 440, target_permille: 550, factors });
    let adaptive = Dossier { standing, ..dossier.clone() };
    let (_, because) = told("user anna", None, &adaptive, &History::default());
    let sentence = "Limits are multiplied by 0.22, of which 0.44 follows the user, rising by and \
                    by to 0.55 (verified_email 1.1, recent_violations 0.5, a penalty's 0.5).";
    assert_eq!(because.last().map(String::as_str), Some(sentence), "{because:?}");
    let protected = Dossier { is_protected: true, ..dossier.clone() };
    let (_, because) = told("user anna", None, &protected, &History::default());
    assert!(because.iter().all(|line| !line.contains("ban falls")), "{because:?}");
    assert_eq!(because[1], "The score of user anna for logins is 32; no ban comes of it.");
    let (verdict, because) = told("user anna", None, &dossier, &History::default());
    assert_eq!(verdict, "user anna is not banned.");
    let want = [
        "Penalty p4 since 2025-12-31T23:59:00Z until 2026-01-01T00:01:00Z: limits are multiplied \
         by 0.5; the second time.",
        "The score of user anna for logins is 32; the next ban falls at 40.",
        "Of user anna, 1 earlier ban counts, so that the next one is longer.",
        "1 generation is running, of 2 at once.",
    ];
    assert_eq!(because, want);
}

#[test]
fn the_violation_that_ended_sessions_last_without_a_ban_is_told() {
    let soft = |id, total| ViolationRecord { logout: true, ..record(id, total, None) };
    let violations = vec![record(41, 41.0, None), soft(40, 40.0), soft(20, 20.0)];
    let history = History { violations, ..History::default() };
    let (_, because) = told("user anna", None, &Dossier::default(), &history);
    let want = "At 2025-12-31T23:29:00.04Z the score of user anna for message_limit went from 39 \
                to 40: the app was told to end the sessions, and no ban fell (bans.duration: \
                soft).";
    assert_eq!(because[0], want);
}

#[test]
fn a_violation_is_a_line_with_all_that_is_known_of_it() {
    let plain = record(20, 20.0, Some(12));
    let want = "2025-12-31T23:29:00.02Z message_limit: 1 point, 19 → 20, more than 40 in 1 min \
                (message_ip), by anna, from 192.0.2.7; ban 12 fell";
    assert_eq!(violation(&plain), want);
    let full = ViolationRecord {
        points: 0.5,
        limiter: None,
        pending: Some(2),
        repeats: 3,
        user: None,
        severity: Some("high".to_owned()),
        details: Some("by hand".to_owned()),
        ban: None,
        penalty: Some(4),
        is_imported: true,
        ..plain
    };
    let want = "2025-12-31T23:29:00.02Z message_limit: 0.5 points, 19 → 20, while 2 generations \
                were running, after 3 repeats that counted for nothing, from 192.0.2.7, severity \
                high (by hand), imported; penalty p4 fell";
    assert_eq!(violation(&full), want);
    let once = violation(&ViolationRecord { repeats: 1, logout: true, ..full });
    assert!(once.contains(", after 1 repeat that counted for nothing,"), "{once}");
    assert!(once.ends_with("; penalty p4 fell; sessions were to end"), "{once}");
}

#[test]
fn no_more_than_all_of_a_limit_is_told_to_be_used_up() {
    assert_eq!(used_up(2, 2), "2 of 2 are used up");
    assert_eq!(used_up(6, 2), "all 2 are used up, for 6 count");
}

#[test]
fn a_stretch_of_time_is_told_by_its_two_largest_units() {
    let cases = [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (61_500, "1 min 1 s"),
        (7_200_000, "2 h"),
        (30 * 86_400_000 + 3_600_000, "30 d 1 h"),
        (86_400_000 + 60_000, "1 d"),
    ];
    for (ms, want) in cases {
        assert_eq!(span(ms), want, "{ms}");
    }
}
