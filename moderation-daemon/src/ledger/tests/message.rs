//! What hosts say to each other, and what of it is believed.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SKEW_MS: u64 = 5_000;

fn ear() -> Ear {
    Ear::new("beta".to_owned(), SKEW_MS, key())
}

fn lifted(mut shared: SharedBan) -> SharedBan {
    shared.lifted = Some((NOW.unix_ms, "root".to_owned()));
    shared
}

fn said(shared: &SharedBan) -> Said {
    Said::of(shared, "alpha", &key()).expect("it is to be said")
}

fn message(shared: &SharedBan) -> Vec<u8> {
    said(shared).to_message()
}

#[test]
fn what_is_said_is_heard_as_it_was_meant() {
    let whole = shared(7, Some("anna"), Some("192.0.2.7"));
    let mut plain = shared(8, None, Some("2001:db8::/64"));
    (plain.ban.score, plain.ban.violation, plain.ban.expires_at_unix_ms) = (None, None, None);
    for shared in [&whole, &plain] {
        let heard = ear().hear(&message(shared), NOW.unix_ms).expect("believed");
        let Some(Said::Ban(document)) = heard else { panic!("{heard:?}") };
        let ban = document.ban().expect("it is about somebody");
        assert_eq!(ban, Ban { id: 0, ..shared.ban.clone() });
        assert_eq!((&document.uid, document.host.as_str()), (&shared.uid, "alpha"));
    }
    let heard = ear().hear(&message(&lifted(whole)), NOW.unix_ms).expect("believed");
    let Some(Said::Lift(document)) = heard else { panic!("{heard:?}") };
    assert_eq!((document.uid, document.by.as_str()), (uid(7), "root"));
}

#[test]
fn each_host_says_what_it_did_and_nobody_says_what_a_foreign_document_does() {
    let of = |origin: Origin, is_lifted: bool| {
        let ban = SharedBan { origin, ..shared(7, Some("anna"), None) };
        let ban = if is_lifted { lifted(ban) } else { ban };
        Said::of(&ban, "alpha", &key()).is_some()
    };
    let gamma = || Origin::Host("gamma".to_owned());
    assert!(of(Origin::Here, false) && of(Origin::Here, true));
    assert!(!of(gamma(), false) && of(gamma(), true));
    assert!(!of(Origin::Foreign, false) && !of(Origin::Foreign, true));
}

#[test]
fn nothing_is_believed_of_which_anything_was_changed() {
    let (ban, lift) = (shared(7, Some("anna"), Some("192.0.2.7")), lifted(shared(8, None, None)));
    for said in [message(&ban), message(&lift)] {
        let whole: Value = serde_json::from_slice(&said).expect("JSON");
        let fields = whole.as_object().expect("an object");
        for name in fields.keys() {
            let changed = match &whole[name] {
                Value::String(text) if name == "mac" => json!(format!("{}0", &text[..63])),
                Value::String(text) => json!(format!("{text}0")),
                Value::Number(number) => json!(number.as_u64().expect("no fraction") + 1),
                Value::Bool(is) => json!(!is),
                other => panic!("{name}: {other}"),
            };
            let mut forged = whole.clone();
            forged[name] = changed;
            // The last digit of a signature may be a 0.
            if forged == whole {
                continue;
            }
            let heard = ear().hear(forged.to_string().as_bytes(), NOW.unix_ms);
            assert_eq!(heard, Err(Unheeded::Forged), "{name}");
            let mut shorter = whole.clone();
            shorter.as_object_mut().expect("an object").remove(name);
            let heard = ear().hear(shorter.to_string().as_bytes(), NOW.unix_ms);
            assert!(heard.is_err(), "without {name}");
        }
    }
    let other = Said::of(&ban, "alpha", &MacKey::new(b"fedcba9876543210")).expect("said");
    assert_eq!(ear().hear(&other.to_message(), NOW.unix_ms), Err(Unheeded::Forged));
}

#[test]
fn what_has_not_the_form_of_a_message_is_none() {
    for text in ["", "ban", "[]", "{}", "null", "{\"key\":\"BANS:anna\"}"] {
        assert_eq!(ear().hear(text.as_bytes(), NOW.unix_ms), Err(Unheeded::Nonsense), "{text}");
    }
    assert_eq!(ear().hear(&[0xff; 9], NOW.unix_ms), Err(Unheeded::Nonsense));
    let mut whole: Value =
        serde_json::from_slice(&message(&shared(7, Some("anna"), None))).expect("JSON");
    whole["more"] = json!(1);
    let heard = ear().hear(whole.to_string().as_bytes(), NOW.unix_ms);
    assert_eq!(heard, Err(Unheeded::Nonsense));
}

#[test]
fn what_is_old_or_was_heard_before_or_is_ones_own_changes_nothing() {
    let ban = message(&shared(7, Some("anna"), None));
    let at = |now_unix_ms| ear().hear(&ban, now_unix_ms).map(|said| said.is_some());
    let (now, minute) = (NOW.unix_ms, 60_000);
    let cases = [
        (now, true),
        (now + minute + SKEW_MS, true),
        (now + minute + SKEW_MS + 1, false),
        (now - SKEW_MS, true),
        (now - SKEW_MS - 1, false),
        (0, false),
        (u64::MAX, false),
    ];
    for (now, is_timely) in cases {
        let want = if is_timely { Ok(true) } else { Err(Unheeded::Untimely) };
        assert_eq!(at(now), want, "{now}");
    }
    let mut ear = ear();
    let lift = message(&lifted(shared(7, Some("anna"), None)));
    for message in [&ban, &lift] {
        assert!(ear.hear(message, now).expect("believed").is_some());
        assert_eq!(ear.hear(message, now), Err(Unheeded::Repeated));
    }
    assert_eq!(ear.hear(&ban, now), Err(Unheeded::Repeated), "after its lift, too");
    let own = Said::of(&shared(9, Some("anna"), None), "beta", &key()).expect("said");
    assert_eq!(ear.hear(&own.to_message(), now), Ok(None));
}

proptest! {
    /// A score is signed bit by bit.
    #[test]
    fn every_score_is_heard_exactly(score in 0.0..1e300_f64, small in 0.0..1e3_f64) {
        for score in [score, small, 1.0 / (small + 1e-9)] {
            let mut ban = shared(7, Some("anna"), None);
            ban.ban.score = Some(score);
            let heard = ear().hear(&message(&ban), NOW.unix_ms).expect("believed");
            let Some(Said::Ban(document)) = heard else { panic!("a ban") };
            prop_assert_eq!(document.score.map(f64::to_bits), Some(score.to_bits()));
        }
    }

    #[test]
    fn no_bytes_are_believed_without_a_signature(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(ear().hear(&bytes, NOW.unix_ms).is_err());
    }
}
