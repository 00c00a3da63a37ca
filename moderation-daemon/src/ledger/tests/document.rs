//! What documents look like, and which are believed.

use serde_json::{Value, json};

use super::*;

fn documents(shared: &SharedBan) -> Vec<BanDocument> {
    BanDocument::all(shared, "alpha", &key())
}

fn judged(document: &BanDocument, change: impl FnOnce(&mut Fields)) -> Judged {
    let mut fields = read(document);
    change(&mut fields);
    judge(&document.key, fields, &key())
}

#[test]
fn a_ban_is_written_as_librechat_reads_it() {
    let all = documents(&shared(7, Some("64b0c0ffee64b0c0ffee64b0"), Some("192.0.2.7")));
    let keys: Vec<_> = all.iter().map(|document| document.key.as_str()).collect();
    assert_eq!(keys, ["BANS:64b0c0ffee64b0c0ffee64b0", "BANS:192.0.2.7"]);
    let ends = NOW.unix_ms + 7_200_000;
    let want = json!({
        "value": {
            "type": "message_limit",
            "user_id": "64b0c0ffee64b0c0ffee64b0",
            "violation_count": 20,
            "duration": 7_200_000,
            "expiresAt": ends,
            "moderation_id": uid(7).as_str(),
        },
        "expires": ends,
    });
    for document in &all {
        assert_eq!(serde_json::from_str::<Value>(&document.value).expect("JSON"), want);
        assert_eq!(document.expires_at_unix_ms, Some(ends));
        assert!(document.value.contains("\"violation_count\":20,"), "{}", document.value);
    }
}

#[test]
fn a_permanent_ban_has_no_expiry_anywhere() {
    let mut shared = shared(7, Some("anna"), None);
    shared.ban.expires_at_unix_ms = None;
    let document = &documents(&shared)[0];
    let value: Value = serde_json::from_str(&document.value).expect("JSON");
    assert!(value.get("expires").is_none() && value["value"].get("expiresAt").is_none());
    assert_eq!(document.expires_at_unix_ms, None);
}

#[test]
fn keys_of_addresses_are_as_librechat_writes_them_and_of_prefixes_as_it_never_asks() {
    let cases = [
        ("192.0.2.7", "BANS:192.0.2.7"),
        ("2001:db8::7/128", "BANS:2001:db8::7"),
        ("2001:db8:0:7::/64", "BANS:2001:db8:0:7::/64"),
        ("198.51.100.0/24", "BANS:198.51.100.0/24"),
    ];
    for (ip, want) in cases {
        let shared = shared(1, None, Some(ip));
        assert_eq!(keys(&shared.ban), [want]);
        let (user, prefix) = subject(want).expect("a subject");
        assert_eq!((user, prefix), (None, shared.ban.prefix), "{want}");
    }
}

#[test]
fn what_a_host_wrote_is_read_back_as_it_was() {
    for (user, ip) in
        [(Some("anna"), Some("192.0.2.7")), (Some("anna"), None), (None, Some("2001:db8:0:7::/64"))]
    {
        let shared = shared(7, user, ip);
        for document in documents(&shared) {
            let Judged::Ban(read) = judged(&document, |_| {}) else { panic!("{document:?}") };
            assert_eq!(read, document);
            assert_eq!(read.ban(), Some(Ban { id: 0, ..shared.ban.clone() }));
        }
    }
}

#[test]
fn an_operators_ban_is_one_of_its_host_elsewhere() {
    let mut shared = shared(7, Some("anna"), None);
    shared.ban.by = Author::Operator("root".into());
    let ban = documents(&shared)[0].ban().expect("a ban");
    assert_eq!(ban.by, Author::Operator("host:alpha".into()));
}

#[test]
fn no_field_can_be_changed_without_the_key() {
    let document = &documents(&shared(7, Some("anna"), Some("192.0.2.7")))[0];
    type Change = fn(&mut Fields);
    let changes: [(&str, Change); 16] = [
        ("type", |it| it.kind = Field::Is("lift".to_owned())),
        ("value", |it| it.value = Field::Is("{\"value\":{}}".to_owned())),
        ("expiresAt", |it| it.expires_at = Field::Is(NOW.unix_ms + 1)),
        ("expiresAt", |it| it.expires_at = Field::Missing),
        ("user", |it| it.user = Field::Is("bert".to_owned())),
        ("ip", |it| it.ip = Field::Is("192.0.2.8".to_owned())),
        ("reason", |it| it.reason = Field::Is("other".to_owned())),
        ("violation", |it| it.violation = Field::Missing),
        ("score", |it| it.score = Field::Is(21.0)),
        ("createdAt", |it| it.created_at = Field::Is(1)),
        ("host", |it| it.host = Field::Is("beta".to_owned())),
        ("revision", |it| it.revision = Field::Is(2)),
        ("uid", |it| it.uid = Field::Is(uid(8).as_str().to_owned())),
        ("blocks", |it| it.blocks = Field::Is(false)),
        ("by", |it| it.by = Field::Is("root".to_owned())),
        ("mac", |it| it.mac = Field::Is(vec![0; 32])),
    ];
    for (name, change) in changes {
        let judged = judged(document, change);
        assert!(!matches!(judged, Judged::Ban(_)), "{name}: {judged:?}");
    }
    let moved = judge("BANS:bert", read(document), &key());
    assert!(!matches!(moved, Judged::Ban(_)), "under another key: {moved:?}");
    let elsewhere = judge(&document.key, read(document), &MacKey::new(b"fedcba9876543210"));
    assert!(matches!(elsewhere, Judged::Foreign(_)), "with another key: {elsewhere:?}");
}

#[test]
fn two_documents_never_have_the_same_bytes_to_sign() {
    let mut one = documents(&shared(7, Some("anna"), None)).remove(0);
    let mut other = one.clone();
    (one.reason, one.host) = ("ab".to_owned(), "c".to_owned());
    (other.reason, other.host) = ("a".to_owned(), "bc".to_owned());
    assert_ne!(one.canonical(), other.canonical());
    (one.user, other.user) = (None, Some(String::new()));
    (other.reason, other.host) = (one.reason.clone(), one.host.clone());
    assert_ne!(one.canonical(), other.canonical());
}

#[test]
fn a_document_of_librechats_is_foreign_and_ends_when_its_envelope_says() {
    let at = NOW.unix_ms + 60_000;
    let cases = [
        ("BANS:anna", of_librechat(Some(at)), Some(at)),
        ("BANS:192.0.2.7", of_librechat(Some(at)), Some(at)),
        ("BANS:anna", of_librechat(None), None),
        // The envelope counts, as for Keyv.
        ("BANS:anna", Fields { expires_at: Field::Is(1), ..of_librechat(Some(at)) }, Some(at)),
        ("BANS:anna", Fields { expires_at: Field::Is(at), ..of_librechat(None) }, Some(at)),
    ];
    for (key_text, fields, ends) in cases {
        let Judged::Foreign(foreign) = judge(key_text, fields, &key()) else {
            panic!("{key_text} is foreign");
        };
        assert_eq!(foreign.expires_at_unix_ms, ends);
        assert_eq!(foreign.user.is_some(), key_text == "BANS:anna");
    }
}

#[test]
fn documents_that_make_no_sense_are_none() {
    let value = |text: &str| Fields { value: Field::Is(text.to_owned()), ..Fields::default() };
    let deep = format!("{{\"value\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let cases = [
        ("BANS:", value("{\"value\":{}}"), Unusable::Subject),
        ("BANS:192.0.2.0/24", of_librechat(None), Unusable::Subject),
        ("BANS:2001:db8::/64", of_librechat(None), Unusable::Subject),
        ("BANS:anna", Fields::default(), Unusable::Envelope),
        ("BANS:anna", value("garbage"), Unusable::Envelope),
        ("BANS:anna", value("[]"), Unusable::Envelope),
        ("BANS:anna", value("{\"value\":7}"), Unusable::Envelope),
        ("BANS:anna", value("{\"value\":{},\"expires\":\"soon\"}"), Unusable::Envelope),
        ("BANS:anna", value("{\"value\":{},\"expires\":-1}"), Unusable::Envelope),
        ("BANS:anna", value(&deep), Unusable::Envelope),
        (
            "BANS:anna",
            Fields { expires_at: Field::Wrong, ..value("{\"value\":{}}") },
            Unusable::Envelope,
        ),
        ("LIFTS:anna", Fields::default(), Unusable::Forged),
    ];
    for (key_text, fields, want) in cases {
        assert_eq!(judge(key_text, fields, &key()), Judged::Unusable(want), "{key_text}");
    }
    let long = format!("BANS:{}", "a".repeat(129));
    assert_eq!(judge(&long, of_librechat(None), &key()), Judged::Unusable(Unusable::Subject));
    assert_eq!(judge("ENCODED_DOMAINS:x", of_librechat(None), &key()), Judged::Other);
}

#[test]
fn a_copy_of_librechats_is_known_by_the_name_in_it() {
    let document = &documents(&shared(7, Some("anna"), None))[0];
    let fields = || Fields { value: Field::Is(document.value.clone()), ..Fields::default() };
    let cases = [
        ("ban:anna", "BANS:anna"),
        ("ban:203.0.113.9", "BANS:203.0.113.9"),
        ("ban:::ffff:203.0.113.9", "BANS:203.0.113.9"),
        ("ban:ban_cache:user:anna", "BANS:anna"),
        ("ban:ban_cache:ip:203.0.113.9", "BANS:203.0.113.9"),
    ];
    for (key_text, of) in cases {
        let want = Judged::Copy { key: key_text.to_owned(), of: of.to_owned(), uid: uid(7) };
        assert_eq!(judge(key_text, fields(), &key()), want);
    }
    assert_eq!(judge("ban:anna", of_librechat(None), &key()), Judged::Other);
}

#[test]
fn a_lift_is_believed_only_with_its_signature() {
    let mut lifted = shared(7, Some("anna"), None);
    lifted.lifted = Some((NOW.unix_ms, "root".to_owned()));
    let lift = LiftDocument::of(&lifted, "alpha", NOW.unix_ms, &key());
    assert_eq!(lift.key, format!("LIFTS:{}", uid(7)));
    assert!(lift.forget_at_unix_ms >= NOW.unix_ms + 24 * 3_600_000);
    assert_eq!(judge(&lift.key, read_lift(&lift), &key()), Judged::Lift(lift.clone()));
    let forged = Fields { host: Field::Is("beta".to_owned()), ..read_lift(&lift) };
    assert_eq!(judge(&lift.key, forged, &key()), Judged::Unusable(Unusable::Forged));
}

#[test]
fn no_key_is_printed() {
    assert_eq!(format!("{:?}", key()), "MacKey(…)");
}

#[test]
fn an_address_is_one_in_whatever_way_a_key_has_it() {
    let cases = [
        ("BANS:2001:DB8::1", Some("2001:db8::1")),
        ("ban:2001:0db8:0:0:0:0:0:1", Some("2001:db8::1")),
        ("ban:ban_cache:ip:2001:db8:0::0001", Some("2001:db8::1")),
        ("ban:::ffff:192.0.2.7", Some("192.0.2.7")),
        ("ban:::FFFF:c000:207", Some("192.0.2.7")),
        ("BANS:192.0.2.7", Some("192.0.2.7")),
        ("BANS:192.0.2.0/24", None),
        ("ban:anna", None),
        ("ban:ban_cache:user:anna", None),
        ("other:192.0.2.7", None),
    ];
    for (key, want) in cases {
        let want = want.map(|text| text.parse().expect("an address"));
        assert_eq!(address_of(key), want, "{key}");
    }
}
