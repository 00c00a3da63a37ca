//! The store by its public face, on real files.

mod history;
mod outbox;
mod prune;
mod records;

use std::{net::IpAddr, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use tempfile::TempDir;

use super::*;
use crate::engine::{
    Author, Ban, BanId, Bearer, Cause, Change, EndPenalties, EndPenalty, Factor, Lease, Lift,
    Limit, Limiter, Offence, Outcome, Penalty, PenaltyKind, Score, ScoreKey, Severity, Subject,
    Traits, UserId, Violation, ViolationType,
};

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn open(folder: &TempDir) -> Store {
    Store::open(&folder.path().join("moderation.db")).expect("a new store")
}

fn ban(id: BanId, expires_at_unix_ms: Option<u64>) -> Ban {
    Ban {
        id,
        user: "anna".parse().ok(),
        prefix: "2001:db8:0:1::/64".parse().ok(),
        blocks: id != 2,
        reason: "it's a \"test\"".to_owned(),
        violation: Some(ViolationType::MESSAGE_LIMIT),
        score: Some(20.5),
        created_at_unix_ms: 1_000,
        expires_at_unix_ms,
        by: if id == 2 { Author::Operator("root".into()) } else { Author::Rule },
        with: (id == 3).then_some(1),
        severity: (id == 1).then_some(Severity::High),
        review: id == 1,
    }
}

fn score(user: &str, points: f64, updated_at_unix_ms: u64) -> Change {
    let bearer = Bearer::User(user.parse().expect("an id"));
    let key = ScoreKey { bearer, kind: ViolationType::LOGINS };
    Change::Score(key, Score { points, updated_at_unix_ms, spent: 40.0, decayed_at_unix_ms: 7 })
}

fn violation(request: Option<&str>, at_unix_ms: u64) -> Change {
    let ip: IpAddr = "192.0.2.7".parse().expect("an address");
    Change::Violation(Arc::new(Violation {
        kind: ViolationType::LOGINS,
        user: None,
        ip: Some(ip),
        bearer: Bearer::Address(ip.into()),
        points: 1.0,
        previous: 0.0,
        total: 1.0,
        limiter: Some((Limiter::LOGIN, Limit::new(7, 300_000))),
        pending: None,
        severity: Some(Severity::Low),
        details: Some("by hand".into()),
        repeats: 3,
        ban: Some(1),
        penalty: None,
        logout: false,
        at_unix_ms,
        request: request.map(Into::into),
    }))
}

fn listed(store: &Store, folder: &TempDir, page: BanPage) -> Vec<BanId> {
    let reader = store.reader(&folder.path().join("moderation.db")).expect("the same file");
    reader.bans(page).expect("readable").into_iter().map(|record| record.ban.id).collect()
}

/// Anna's, of which a rule ended the first one; bert's; one that is a ban of anna's
/// that holds.
fn some_penalties() -> Vec<Change> {
    let reduce = || PenaltyKind::Reduce { factor_permille: 500 };
    let of_bert = Penalty { user: "bert".parse().ok(), ..penalty(3, reduce(), Some(90_000)) };
    let ended = EndPenalty { penalty: 1, at_unix_ms: 5, by: Author::Rule };
    vec![
        Change::Penalty(Arc::new(penalty(1, reduce(), Some(90_000)))),
        Change::EndPenalty(ended),
        Change::Penalty(Arc::new(penalty(2, reduce(), Some(90_000)))),
        Change::Penalty(Arc::new(of_bert)),
        Change::Ban(Arc::new(ban(7, None))),
        Change::Penalty(Arc::new(penalty(4, PenaltyKind::Ban(7), None))),
    ]
}

#[test]
fn a_penalty_that_a_rule_ended_is_remembered_and_one_that_a_person_ended_is_not() {
    let folder = folder();
    let mut store = open(&folder);
    store.commit(&some_penalties()).expect("a healthy disk");
    let by = Author::Operator("root".into());
    let end = EndPenalty { penalty: 2, at_unix_ms: 6, by };
    store.commit(&[Change::EndPenalty(end)]).expect("a healthy disk");
    let reader = store.reader(&folder.path().join("moderation.db")).expect("readable");
    let found = |id| reader.penalty(id).expect("readable").map(|it| (it.id, it.ended));
    assert_eq!(found(1), Some((1, Some((5, "rule".to_owned())))));
    assert_eq!((found(2), found(9)), (None, None));
    let restored = store.restore(1_000, 600).expect("readable").0;
    let ids: Vec<_> = restored.penalties.iter().map(|it| it.id).collect();
    assert_eq!(ids, [1, 3, 4]);
    assert!(!restored.penalties[0].holds_at(6) && restored.penalties[1].holds_at(6));
}

#[test]
fn all_of_somebody_s_penalties_end_at_once_but_for_bans_that_hold() {
    for (lifts, left) in [(false, vec![3, 4]), (true, vec![3])] {
        let folder = folder();
        let mut store = open(&folder);
        store.commit(&some_penalties()).expect("a healthy disk");
        let (by, at_unix_ms) = (Author::Operator("root".into()), 6);
        let anna = penalty(1, PenaltyKind::RemoveContent, None).user;
        let lift = Lift { ban: Arc::new(ban(7, None)), at_unix_ms, by: "root".to_owned() };
        let end = EndPenalties { user: anna, prefix: None, at_unix_ms, by };
        let lift = lifts.then_some(Change::Lift(lift));
        let changes: Vec<_> = lift.into_iter().chain([Change::EndPenalties(end)]).collect();
        store.commit(&changes).expect("a healthy disk");
        let restored = store.restore(1_000, 600).expect("readable").0;
        let ids: Vec<_> = restored.penalties.iter().map(|it| it.id).collect();
        assert_eq!(ids, left, "with its ban lifted: {lifts}");
    }
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let folder = folder();
    let bans = [ban(1, Some(9_000)), ban(2, None)];
    let mut store = open(&folder);
    let mut changes: Vec<_> = bans.iter().cloned().map(|ban| Change::Ban(Arc::new(ban))).collect();
    changes.extend([score("anna", 1.0, 10), score("anna", 2.5, 20), score("bert", 7.0, 30)]);
    changes.push(violation(Some("request 1"), 500));
    store.commit(&changes).expect("a healthy disk");
    drop(store);

    let restored = open(&folder).restore(1_000, 600).expect("readable").0;
    assert_eq!(restored.bans, bans);
    assert_eq!(restored.last_ban, 2);
    let points: Vec<_> = restored.scores.iter().map(|(_, score)| score.points).collect();
    assert_eq!(points, [2.5, 7.0]);
    let (_, anna) = &restored.scores[0];
    assert_eq!((anna.spent, anna.decayed_at_unix_ms), (40.0, 7));
    let denied = Outcome::deny(Cause::Violation(ViolationType::LOGINS));
    assert_eq!(restored.answers, [("request 1".into(), denied)]);
}

#[test]
fn a_batch_is_written_whole_or_not_at_all() {
    let folder = folder();
    let mut store = open(&folder);
    let one = Change::Ban(Arc::new(ban(1, None)));
    // The same number twice cannot be: the whole batch must go.
    let batch = [score("anna", 1.0, 10), one.clone(), one];
    assert!(matches!(store.commit(&batch), Err(StoreError::Commit(_))));
    let restored = store.restore(0, 0).expect("readable").0;
    assert_eq!((restored.bans.len(), restored.scores.len()), (0, 0));
}

#[test]
fn lapsed_and_lifted_bans_are_not_restored_but_stay_listed() {
    let folder = folder();
    let mut store = open(&folder);
    let lifted = Arc::new(ban(2, None));
    store
        .commit(&[
            Change::Ban(Arc::new(ban(1, Some(5_000)))),
            Change::Ban(Arc::clone(&lifted)),
            Change::Ban(Arc::new(ban(3, Some(9_000)))),
            Change::Lift(Lift { ban: lifted, at_unix_ms: 4_000, by: "root".to_owned() }),
        ])
        .expect("a healthy disk");
    let restored = store.restore(5_000, 0).expect("readable").0;
    assert_eq!(restored.bans, [ban(3, Some(9_000))]);
    let page = BanPage { all: false, limit: 10, after: 0, order: BanOrder::Number, now_ms: 5_000 };
    assert_eq!(listed(&store, &folder, page), [3]);
    assert_eq!(listed(&store, &folder, BanPage { all: true, ..page }), [1, 2, 3]);
    assert_eq!(listed(&store, &folder, BanPage { all: true, limit: 1, after: 1, ..page }), [2]);
    let latest = BanPage { all: true, limit: 2, order: BanOrder::Latest, ..page };
    assert_eq!(listed(&store, &folder, latest), [3, 2]);
}

#[test]
fn the_allowlist_is_a_set_of_prefixes() {
    let folder = folder();
    let mut store = open(&folder);
    let prefix = "192.0.2.0/24".parse().expect("a prefix");
    let note = Some("office".to_owned());
    let allowed = Allowed { prefix, note };
    for _ in 0..2 {
        store.allow(&allowed, "root", 1).expect("a healthy disk");
    }
    assert_eq!(store.allowlist().expect("readable"), [allowed]);
    assert!(store.disallow(prefix).expect("a healthy disk"));
    assert!(!store.disallow(prefix).expect("a healthy disk"));
}

#[test]
fn a_row_that_makes_no_sense_is_named() {
    let folder = folder();
    let store = open(&folder);
    let sql = "INSERT INTO scores VALUES ('address', 'nonsense', 'logins', 1, 1, 0, 1)";
    store.connection.execute(sql, []).expect("valid SQL");
    let error = store.restore(0, 0).expect_err("nonsense is no address");
    assert_eq!(error.to_string(), "scores of address for logins: no address");
}

#[test]
fn rows_of_a_type_that_is_not_known_are_skipped_and_bans_for_it_hold() {
    let folder = folder();
    let mut store = open(&folder);
    let held = ban(1, None);
    store
        .commit(&[
            Change::Ban(Arc::new(held.clone())),
            score("anna", 1.0, 10),
            violation(Some("request 1"), 500),
        ])
        .expect("a healthy disk");
    store
        .connection
        .execute_batch(
            "INSERT INTO scores SELECT bearer_kind, 'bert', 'once_custom', 1, 1, 0, 1 FROM scores;
             UPDATE violations SET type = 'once_custom';
             UPDATE bans SET violation = 'once_custom';",
        )
        .expect("valid SQL");
    let (restored, skipped) = store.restore(1_000, 600).expect("it is not the store's fault");
    assert_eq!(restored.bans, [Ban { violation: None, ..held }]);
    assert_eq!((restored.scores.len(), restored.answers.len()), (1, 0));
    let types = ["once_custom".to_owned()].into();
    assert_eq!(skipped, Skipped { rows: 2, types });
}

#[test]
fn a_violation_is_written_with_what_led_to_it() {
    let folder = folder();
    let mut store = open(&folder);
    store.commit(&[violation(None, 500)]).expect("a healthy disk");
    let sql = "SELECT concat_ws(' ', bearer_kind, bearer, limiter, max_shown, window_ms, pending,
                      repeats, severity, details, ban, penalty) FROM violations";
    let row: String = store.connection.query_row(sql, [], |row| row.get(0)).expect("one row");
    assert_eq!(row, "address 192.0.2.7 login 7 300000 3 low by hand 1");
}

#[test]
fn penalties_and_what_is_known_about_users_are_written_down() {
    let folder = folder();
    let mut store = open(&folder);
    let anna: UserId = "anna".parse().expect("an id");
    let bearer = Bearer::User(anna.clone());
    let penalty = Penalty {
        id: 12,
        kind: PenaltyKind::Reduce { factor_permille: 500 },
        user: Some(anna.clone()),
        prefix: None,
        violation: Some(ViolationType::MESSAGE_LIMIT),
        severity: Some(Severity::Medium),
        reason: "the second time".to_owned(),
        starts_at_unix_ms: 1,
        ends_at_unix_ms: Some(9),
        by: Author::Rule,
        ended: None,
    };
    let traits = Traits { tier: Some("pro".into()), paying: Some(true), ..Traits::default() };
    let offence = Offence { level: 1.5, at_unix_ms: 3, has_grace: true };
    store
        .commit(&[
            score("anna", 1.0, 10),
            score("bert", 1.0, 10),
            Change::Penalty(Arc::new(penalty)),
            Change::EndPenalty(EndPenalty {
                penalty: 12,
                at_unix_ms: 5,
                by: Author::Operator("root".into()),
            }),
            Change::Offence(bearer.clone(), Offence::default()),
            Change::Offence(bearer.clone(), offence),
            Change::Factor(
                anna.clone(),
                Factor { permille: 700, at_unix_ms: 4, flagged: 2, flagged_since_unix_ms: 0 },
            ),
            Change::Traits(anna, traits, 6),
            Change::Pardon(bearer),
        ])
        .expect("a healthy disk");
    let one = |sql: &str| {
        store.connection.query_row(sql, [], |row| row.get::<_, String>(0)).expect("one row")
    };
    let penalty =
        "SELECT concat_ws(' ', id, kind, user, violation, severity, detail, ends_at_ms, by,
                          ended_at_ms, ended_by) FROM penalties";
    assert_eq!(one(penalty), "12 reduce anna message_limit medium 500 9 rule 5 root");
    let offence = "SELECT concat_ws(' ', bearer, level, at_ms, grace) FROM offences";
    assert_eq!(one(offence), "anna 1.5 3 1");
    let subject = "SELECT concat_ws(' ', user, tier, paying, factor, factor_at_ms, flagged,
                          seen_at_ms) FROM subjects";
    assert_eq!(one(subject), "anna pro 1 700 4 2 6");
    assert_eq!(one("SELECT group_concat(bearer) FROM scores"), "bert", "the other is pardoned");
}

#[test]
fn leases_are_there_after_opening_again_unless_they_have_ended() {
    let folder = folder();
    let mut store = open(&folder);
    let bearers = [
        Bearer::User("anna".parse().expect("an id")),
        Bearer::Address("2001:db8::/64".parse().expect("an address")),
    ];
    let lease = |id, bearer: &Bearer| Lease { id, bearer: bearer.clone(), ends_at_boot_ms: 7 };
    let [anna, visitor] = &bearers;
    store
        .commit(&[
            Change::Lease(lease(1, anna), Some("request 1".into())),
            Change::Lease(lease(2, anna), None),
            Change::Lease(lease(3, visitor), None),
            Change::Lease(lease(4, visitor), None),
            Change::Renew(1, 1_000),
            Change::Release(2),
        ])
        .expect("a healthy disk");
    store.end_leases(&[4, 99]).expect("a healthy disk");
    drop(store);
    let restored = open(&folder).restore(1_000, 600).expect("readable").0;
    let want = [(1, anna.clone(), Some("request 1".into())), (3, visitor.clone(), None)];
    assert_eq!(restored.leases, want);
}

fn penalty(id: u64, kind: PenaltyKind, ends_at_unix_ms: Option<u64>) -> Penalty {
    Penalty {
        id,
        kind,
        user: "anna".parse().ok(),
        prefix: "192.0.2.7".parse().ok(),
        violation: Some(ViolationType::LOGINS),
        severity: Some(Severity::High),
        reason: "the second time".to_owned(),
        starts_at_unix_ms: 1_000,
        ends_at_unix_ms,
        by: Author::Operator("root".into()),
        ended: None,
    }
}

#[test]
fn penalties_and_what_is_known_about_users_are_read_back() {
    let folder = folder();
    let [anna, bert]: [UserId; 2] = ["anna", "bert"].map(|name| name.parse().expect("an id"));
    let visitor = Bearer::Address("2001:db8::/64".parse().expect("an address"));
    let penalties = [
        penalty(1, PenaltyKind::Warning { message: "please".into() }, None),
        penalty(2, PenaltyKind::RemoveContent, None),
        penalty(3, PenaltyKind::Reduce { factor_permille: 500 }, Some(9_000)),
        penalty(4, PenaltyKind::Ban(7), Some(9_000)),
        penalty(5, PenaltyKind::Suspension(8), None),
    ];
    let offence = Offence { level: 1.5, at_unix_ms: 3, has_grace: true };
    let traits = Traits {
        tier: Some("pro".into()),
        role: Some("admin".into()),
        created_at_unix_ms: Some(5),
        email_verified: Some(false),
        paying: Some(true),
    };
    let factor = Factor { permille: 700, at_unix_ms: 4, flagged: 2, flagged_since_unix_ms: 3 };
    let mut store = open(&folder);
    let mut changes: Vec<_> =
        penalties.iter().cloned().map(|it| Change::Penalty(Arc::new(it))).collect();
    changes.extend([
        Change::Penalty(Arc::new(penalty(6, PenaltyKind::RemoveContent, None))),
        Change::EndPenalty(EndPenalty {
            penalty: 6,
            at_unix_ms: 5,
            by: Author::Operator("root".into()),
        }),
        Change::Offence(Bearer::User(anna.clone()), offence),
        Change::Offence(visitor.clone(), Offence { has_grace: false, ..offence }),
        Change::Traits(anna.clone(), traits.clone(), 6),
        Change::Factor(bert.clone(), factor),
    ]);
    store.commit(&changes).expect("a healthy disk");
    drop(store);
    let restored = open(&folder).restore(1_000, 600).expect("readable").0;
    assert_eq!((restored.penalties, restored.last_penalty), (penalties.to_vec(), 6));
    let plain = Offence { has_grace: false, ..offence };
    assert_eq!(restored.offences, [(visitor, plain), (Bearer::User(anna.clone()), offence)]);
    assert_eq!(restored.traits, [(anna, traits, 6)]);
    assert_eq!(restored.factors, [(bert, factor)]);
}

#[test]
fn a_penalty_that_makes_no_sense_is_named() {
    let folder = folder();
    let mut store = open(&folder);
    let one = Change::Penalty(Arc::new(penalty(1, PenaltyKind::Ban(7), None)));
    store.commit(&[one]).expect("a healthy disk");
    for sql in ["UPDATE penalties SET ban = NULL", "UPDATE penalties SET kind = 'exile'"] {
        store.connection.execute(sql, []).expect("valid SQL");
        let error = store.restore(0, 0).expect_err("no such penalty");
        assert_eq!(error.to_string(), "penalties 1: no such kind");
    }
}

#[test]
fn totals_count_each_violation_of_whoever_bears_it() {
    let folder = folder();
    let mut store = open(&folder);
    store.commit(&[violation(None, 500), violation(None, 900)]).expect("a healthy disk");
    store.commit(&[violation(None, 700)]).expect("a healthy disk");
    let sql = "SELECT concat_ws(' ', bearer_kind, bearer, type, count, points, first_at_ms,
                      last_at_ms) FROM totals";
    let row: String = store.connection.query_row(sql, [], |row| row.get(0)).expect("one row");
    assert_eq!(row, "address 192.0.2.7 logins 3 3.0 500 900");
}

#[test]
fn only_the_owner_can_read_the_file() {
    let folder = folder();
    drop(open(&folder));
    let metadata = std::fs::metadata(folder.path().join("moderation.db")).expect("it exists");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_missing_folder_is_made_for_the_owner_alone() {
    let folder = folder();
    let path = folder.path().join("var/lib/moderation/moderation.db");
    drop(Store::open(&path).expect("a new store"));
    let metadata = path.parent().expect("it has one").metadata().expect("it exists");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let error = Store::open("/proc/nonexistent/moderation.db".as_ref()).expect_err("not in /proc");
    assert!(error.to_string().contains("/proc/nonexistent/moderation.db"), "{error}");
}

#[test]
fn a_store_belongs_to_one_daemon_at_a_time() {
    let folder = folder();
    let store = open(&folder);
    let second = Store::open(&folder.path().join("moderation.db"));
    assert!(matches!(second, Err(StoreError::InUse { .. })), "{second:?}");
    drop(store);
    drop(open(&folder));
}

#[test]
fn the_log_is_emptied_beside_commits_after_some_of_them() {
    let folder = folder();
    let mut store = open(&folder);
    for at in 0..u64::from(checkpoint::COMMITS) {
        store.commit(&[violation(None, at)]).expect("written");
    }
    // Ends when what was called for is done.
    store.checkpointer.finish();
    // The database without its log, as a copy of it would be.
    let copy = folder.path().join("copy.db");
    std::fs::copy(folder.path().join("moderation.db"), &copy).expect("copied");
    let copy = Connection::open(copy).expect("a database");
    let count = copy.query_row("SELECT count(*) FROM violations", [], |row| row.get(0));
    assert_eq!(count, Ok(checkpoint::COMMITS));
}
