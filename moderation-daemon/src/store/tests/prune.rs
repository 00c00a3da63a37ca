//! What is forgotten when, and what is not.

use super::*;
use crate::librechat::Record;

#[test]
fn pruning_forgets_the_old_and_keeps_what_holds() {
    let folder = folder();
    let mut store = open(&folder);
    let mut changes = vec![
        Change::Ban(Arc::new(ban(1, Some(1_000)))),
        Change::Ban(Arc::new(ban(2, None))),
        score("anna", 1.0, 1_000),
        score("bert", 1.0, 90_000),
    ];
    changes.extend((0..10).map(|i| violation(Some(&format!("request {i}")), 95_000)));
    changes.push(violation(Some("old"), 1_000));
    store.commit(&changes).expect("a healthy disk");
    store.prune(100_000, Keep::all(Duration::from_secs(50), 4)).expect("a healthy disk");
    let restored = store.restore(100_000, 100_000).expect("readable").0;
    assert_eq!(restored.bans, [ban(2, None)]);
    assert_eq!(restored.scores.len(), 1);
    assert!(restored.answers.len() <= 4, "{}", restored.answers.len());
    assert_eq!(restored.last_ban, 2, "numbers are not used again");
}

#[test]
fn the_number_of_a_pruned_ban_is_not_given_again() {
    let folder = folder();
    let mut store = open(&folder);
    store.commit(&[Change::Ban(Arc::new(ban(7, Some(1_000))))]).expect("a healthy disk");
    store.prune(100_000, Keep::all(Duration::from_secs(1), 10)).expect("a healthy disk");
    assert_eq!(store.restore(0, 0).expect("readable").0.last_ban, 7);
}

#[test]
fn what_makes_a_ban_longer_or_a_ladder_higher_is_kept_for_as_long_as_it_does() {
    let folder = folder();
    let mut store = open(&folder);
    let (second, day) = (1_000, 86_400_000);
    let bearer = |level: f64| Bearer::User(format!("{level}").parse().expect("an id"));
    let offence = |level| {
        let offence = Offence { level, at_unix_ms: second, has_grace: false };
        Change::Offence(bearer(level), offence)
    };
    let warning = penalty(1, PenaltyKind::RemoveContent, None);
    let warning = Penalty { starts_at_unix_ms: second, ..warning };
    let changes = [0.4, 1.0, 2.0, 4.0, 1e9].map(offence).into_iter();
    let changes: Vec<_> = changes.chain([Change::Penalty(Arc::new(warning))]).collect();
    store.commit(&changes).expect("a healthy disk");
    let days = |days: u64| Duration::from_millis(days * day);
    let keep =
        Keep { records: days(10), penalties: days(90), half_life: Some(days(30)), most: 1_000 };
    let left = |store: &Store, table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        store.connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).expect("a number")
    };
    for (age, offences, penalties) in
        [(9, 5, 1), (11, 4, 1), (31, 3, 1), (61, 2, 1), (89, 2, 1), (91, 1, 0), (181, 0, 0)]
    {
        store.prune(second + age * day, keep).expect("a healthy disk");
        let counts = (left(&store, "offences"), left(&store, "penalties"));
        assert_eq!(counts, (offences, penalties), "after {age} days");
    }
}

#[test]
fn every_table_that_strangers_make_grow_is_bounded_by_age_and_by_number() {
    let folder = folder();
    let mut store = open(&folder);
    let bearer = |i: u64| Bearer::User(format!("user {i}").parse().expect("an id"));
    let mut changes = Vec::new();
    for i in 0..20 {
        let at_unix_ms = 1_000 + i;
        let kinds = [
            PenaltyKind::RemoveContent,
            PenaltyKind::Reduce { factor_permille: 1 },
            PenaltyKind::Ban(i),
        ];
        let kind = kinds[usize::try_from(i % 3).expect("it is small")].clone();
        let ends = (i % 3 == 1).then_some(at_unix_ms);
        changes.push(Change::Penalty(Arc::new(penalty(i + 1, kind, ends))));
        changes
            .push(Change::Offence(bearer(i), Offence { level: 1.0, at_unix_ms, has_grace: false }));
        let user = format!("user {i}").parse().expect("an id");
        changes.push(Change::Traits(user, Traits::default(), at_unix_ms));
        let Change::Violation(one) = violation(None, at_unix_ms) else { unreachable!() };
        let of_another = Violation { bearer: bearer(i), ..one.as_ref().clone() };
        changes.push(Change::Violation(Arc::new(of_another)));
    }
    store.commit(&changes).expect("a healthy disk");
    let counts = |store: &Store| {
        ["violations", "totals", "offences", "subjects", "penalties"].map(|table| {
            let sql = format!("SELECT count(*) FROM {table}");
            store.connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).expect("a number")
        })
    };
    assert_eq!(counts(&store), [20; 5]);
    store.prune(2_000, Keep::all(Duration::from_secs(3_600), 5)).expect("a healthy disk");
    let bans_that_hold = 6;
    assert_eq!(counts(&store), [5, 5, 5, 5, 5 + bans_that_hold - 1]);
    let newest = "SELECT group_concat(user) FROM (SELECT user FROM subjects ORDER BY seen_at_ms)";
    let newest: String = store.connection.query_row(newest, [], |row| row.get(0)).expect("a row");
    assert_eq!(newest, "user 15,user 16,user 17,user 18,user 19");
    store.prune(10_000, Keep::all(Duration::from_secs(1), 5)).expect("a healthy disk");
    assert_eq!(counts(&store), [0, 0, 0, 0, bans_that_hold]);
}

#[test]
fn a_role_or_a_tier_is_forgotten_neither_for_its_age_nor_for_its_number() {
    let folder = folder();
    let mut store = open(&folder);
    let said = |i: u64, traits: Traits| {
        let user = format!("user {i}").parse().expect("an id");
        Change::Traits(user, traits, 1_000 + i)
    };
    let mut changes: Vec<_> = (0..4)
        .map(|i| said(i, Traits { role: Some("admin".into()), ..Traits::default() }))
        .chain((4..8).map(|i| said(i, Traits { tier: Some("pro".into()), ..Traits::default() })))
        .collect();
    let paying = Traits { paying: Some(true), ..Traits::default() };
    changes.extend((8..16).map(|i| said(i, paying.clone())));
    store.commit(&changes).expect("a healthy disk");
    let known = |store: &mut Store| {
        let restored = store.restore(1_000, 600).expect("readable").0;
        let mut known: Vec<_> = restored.traits.into_iter().map(|(_, _, at)| at - 1_000).collect();
        known.sort_unstable();
        known
    };
    let hour = Duration::from_secs(3_600);
    store.prune(2_000, Keep::all(hour, 3)).expect("a healthy disk");
    assert_eq!(known(&mut store), [0, 1, 2, 3, 4, 5, 6, 7, 13, 14, 15]);
    store.prune(100_000_000, Keep::all(hour, 3)).expect("a healthy disk");
    assert_eq!(known(&mut store), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn past_bans_are_bounded_and_active_ones_stay() {
    let folder = folder();
    let mut store = open(&folder);
    let mut bans: Vec<_> = (2..100).map(|id| ban(id, Some(50_000))).collect();
    bans.push(ban(1, None));
    let changes: Vec<_> = bans.into_iter().map(|ban| Change::Ban(Arc::new(ban))).collect();
    store.commit(&changes).expect("a healthy disk");
    store.prune(60_000, Keep::all(Duration::from_secs(3_600), 10)).expect("a healthy disk");
    let page =
        BanPage { all: true, limit: 1_000, after: 0, order: BanOrder::Number, now_ms: 60_000 };
    let want: Vec<_> = [1].into_iter().chain(90..100).collect();
    assert_eq!(listed(&store, &folder, page), want);
}

fn record(at_ms: u64, total: f64) -> Record {
    Record {
        kind: "logins".to_owned(),
        user: "anna".to_owned(),
        points: 1.0,
        previous: total - 1.0,
        total,
        limiter: None,
        max: None,
        window_minutes: None,
        pending: None,
        at_ms,
        is_ban: false,
        ban_ms: None,
    }
}

fn totals(store: &Store) -> Option<(i64, i64)> {
    let sql = "SELECT count, (SELECT count(*) FROM violations) FROM totals WHERE bearer = 'anna'";
    store.connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).ok()
}

#[test]
fn records_that_are_brought_along_again_count_once_also_when_they_have_been_forgotten() {
    const DAY: u64 = 86_400_000;
    let now = 100 * DAY;
    // Two are alike.
    let records = [(30 * DAY + 1, 1.0), (30 * DAY, 2.0), (20 * DAY, 3.0), (10 * DAY, 4.0)]
        .into_iter()
        .chain([(10 * DAY, 4.0), (0, 5.0)])
        .map(|(age, total)| record(now - age, total));
    let records: Vec<_> = records.collect();
    // What is kept of them; when all is looked at again; what is kept then.
    let cases = [(100, now, 5, 5), (100, now + 15 * DAY, 5, 3), (3, now, 5, 3), (2, now, 5, 2)];
    for (most, later, counted, left) in cases {
        let folder = folder();
        let mut store = open(&folder);
        let keep = Keep::all(Duration::from_millis(30 * DAY), most);
        let first = store.take_records(&records, now, keep).expect("a healthy disk");
        assert_eq!(first, TakenRecords { taken: 5, too_old: 1 }, "{most}");
        for now in [now, later, later] {
            store.prune(now, keep).expect("a healthy disk");
            let again = store.take_records(&records, now, keep).expect("a healthy disk");
            assert_eq!(again.taken, 0, "{most}");
        }
        assert_eq!(totals(&store), Some((counted, left)), "{most}");
    }
}

#[test]
fn records_that_are_newer_than_those_that_are_kept_are_taken_however_many_there_are() {
    let folder = folder();
    let mut store = open(&folder);
    let keep = Keep::all(Duration::from_secs(1_000), 2);
    store.commit(&[violation(None, 500), violation(None, 600)]).expect("a healthy disk");
    for (at_ms, want) in [(499, 0), (500, 0), (501, 1), (700, 1)] {
        let taken = store.take_records(&[record(at_ms, 1.0)], 1_000, keep).expect("a healthy disk");
        assert_eq!(taken.taken, want, "{at_ms}");
    }
}
