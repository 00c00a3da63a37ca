//! What the store tells about people: their histories, and where those broke rules
//! who are banned.

use super::*;

fn broken(user: &str, kind: ViolationType, previous: f64, ban: Option<BanId>) -> Change {
    let Change::Violation(one) = violation(Some("request"), 500) else { unreachable!() };
    let user: UserId = user.parse().expect("an id");
    Change::Violation(Arc::new(Violation {
        kind,
        user: Some(user.clone()),
        bearer: Bearer::User(user),
        previous,
        total: previous + 1.0,
        ban,
        ..one.as_ref().clone()
    }))
}

fn about(user: Option<&str>, ip: Option<&str>) -> About {
    let user = user.map(|user| user.parse().expect("an id"));
    let ip = ip.map(|ip| ip.parse().expect("an address"));
    let address = ip.map(Into::into);
    About { subject: Subject::new(user, ip).expect("one of them"), address }
}

fn history(store: &Store, folder: &TempDir, about: &About) -> History {
    let reader = store.reader(&folder.path().join("moderation.db")).expect("the same file");
    reader.history(about, &[]).expect("readable")
}

#[test]
fn a_history_begins_with_the_violations_that_led_to_the_latest_ban() {
    let folder = folder();
    let mut store = open(&folder);
    let logins = ViolationType::LOGINS;
    let mut changes = vec![
        Change::Ban(Arc::new(ban(1, Some(9_000)))),
        Change::Ban(Arc::new(ban(2, Some(9_000)))),
        broken("anna", logins, 19.0, Some(1)),
        broken("bert", logins, 0.0, None),
        broken("anna", logins, 20.0, None),
        broken("anna", ViolationType::STT_LIMIT, 0.0, None),
        broken("anna", logins, 21.0, Some(2)),
    ];
    changes.extend((0..200).map(|_| broken("anna", ViolationType::TTS_LIMIT, 1.0, None)));
    store.commit(&changes).expect("a healthy disk");
    let told = history(&store, &folder, &about(Some("anna"), None));
    let bans: Vec<_> = told.bans.iter().map(|record| record.ban.id).collect();
    assert_eq!(bans, [2, 1]);
    assert_eq!(told.violations.len(), 100);
    let to_bans: Vec<_> = told
        .violations
        .iter()
        .filter(|one| one.kind == "logins")
        .map(|one| (one.previous, one.ban))
        .collect();
    assert_eq!(to_bans, [(21.0, Some(2)), (20.0, None), (19.0, Some(1))]);
    assert!(told.violations.is_sorted_by(|a, b| a.id > b.id));
    let totals: Vec<_> = told.totals.iter().map(|it| (it.kind.as_str(), it.count)).collect();
    assert_eq!(totals, [("tts_limit", 200), ("logins", 3), ("stt_limit", 1)]);
    assert_eq!(history(&store, &folder, &about(Some("carl"), None)), History::default());
}

#[test]
fn a_history_has_the_violations_that_ended_sessions_however_many_came_later() {
    let folder = folder();
    let mut store = open(&folder);
    let Change::Violation(one) = broken("anna", ViolationType::LOGINS, 19.0, None) else {
        unreachable!()
    };
    let ended = Violation { logout: true, ..one.as_ref().clone() };
    let mut changes = vec![Change::Violation(Arc::new(ended))];
    changes.extend((0..200).map(|_| broken("anna", ViolationType::TTS_LIMIT, 1.0, None)));
    store.commit(&changes).expect("a healthy disk");
    let told = history(&store, &folder, &about(Some("anna"), None));
    let ended: Vec<_> = told.violations.iter().filter(|one| one.logout).collect();
    assert_eq!(ended.iter().map(|one| one.kind.as_str()).collect::<Vec<_>>(), ["logins"]);
    assert_eq!(told.violations.len(), 100);
    assert_eq!(history(&store, &folder, &about(Some("bert"), None)), History::default());
}

#[test]
fn a_history_of_an_address_has_everybody_s_violations_there_and_its_bans() {
    let folder = folder();
    let mut store = open(&folder);
    let whole = Ban { prefix: "192.0.2.7".parse().ok(), ..ban(1, None) };
    let changes = [
        Change::Ban(Arc::new(whole)),
        broken("bert", ViolationType::LOGINS, 0.0, None),
        violation(None, 7),
    ];
    store.commit(&changes).expect("a healthy disk");
    let told = history(&store, &folder, &about(None, Some("192.0.2.7")));
    assert_eq!((told.bans.len(), told.violations.len()), (1, 2));
    assert_eq!(told.totals.iter().map(|it| it.count).collect::<Vec<_>>(), [1], "bert's are his");
}

#[test]
fn with_pseudonyms_no_record_of_a_violation_has_a_user_s_id_and_histories_are_found() {
    let folder = folder();
    let mut store = open(&folder).with_names(crate::pseudonym::tests::keyed());
    let id = "64b0c0ffee64b0c0ffee64b0";
    store.commit(&[broken(id, ViolationType::LOGINS, 0.0, None)]).expect("a healthy disk");
    for table in ["violations", "totals"] {
        let sql = format!("SELECT * FROM {table}");
        let mut query = store.connection.prepare(&sql).expect("valid SQL");
        let columns = query.column_count();
        let row: String = query
            .query_row([], |row| {
                (0..columns).map(|at| row.get_ref(at).map(|value| format!("{value:?} "))).collect()
            })
            .expect("one row");
        let raw = format!("{:?}", rusqlite::types::ValueRef::Text(id.as_bytes()));
        let digits = raw.trim_start_matches("Text(").trim_matches(['[', ']', ')']);
        assert!(!row.contains(digits) && !row.contains(id), "{row}");
    }
    let told = history(&store, &folder, &about(Some(id), None));
    assert_eq!((told.violations.len(), told.totals.len()), (1, 1));
    let user = told.violations[0].user.as_deref().expect("it has one");
    assert!(user.starts_with("p_") && user.len() == 18, "{user}");
}

#[test]
fn where_users_broke_rules_who_are_banned_is_restored_also_with_pseudonyms() {
    const DAY: u64 = 86_400_000;
    let now = 2 * DAY;
    let folder = folder();
    let mut store = open(&folder).with_names(crate::pseudonym::tests::keyed());
    let of = |user: &str, id, expires, at_unix_ms| {
        let Change::Violation(one) = broken(user, ViolationType::LOGINS, 19.0, Some(id)) else {
            unreachable!()
        };
        let user = user.parse().ok();
        let ban = Ban { user, prefix: None, created_at_unix_ms: at_unix_ms, ..ban(id, expires) };
        let violation = Violation { at_unix_ms, ..one.as_ref().clone() };
        [Change::Ban(Arc::new(ban)), Change::Violation(Arc::new(violation))]
    };
    let rows = [
        of("anna", 1, None, now - DAY + 1),
        of("bert", 2, None, now - DAY),
        of("carl", 3, Some(now), now - 5),
        of("dora", 4, Some(now + 1), now - 6),
        of("emil", 5, None, now - 4),
    ];
    store.commit(&rows.into_iter().flatten().collect::<Vec<_>>()).expect("a healthy disk");
    let lift = Lift { ban: Arc::new(ban(5, None)), at_unix_ms: now - 3, by: "root".to_owned() };
    store.commit(&[Change::Lift(lift)]).expect("a healthy disk");
    let blamed = store.restore(now, 0).expect("readable").0.blamed;
    let ip: IpAddr = "192.0.2.7".parse().expect("an address");
    let want = [("anna", now - DAY + 1), ("dora", now - 6)]
        .map(|(user, at)| (user.parse().expect("an id"), ip, at));
    assert_eq!(blamed, want);
}
