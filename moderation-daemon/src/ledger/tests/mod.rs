//! Tests of the room.

mod document;
mod follow;
mod life;
mod message;
mod property;

use super::*;
use crate::engine::{Author, Moment, Prefix, UserId};

const NOW: Moment = Moment { boot_ms: 1_000_000, unix_ms: 1_800_000_000_000 };

fn key() -> MacKey {
    MacKey::new(b"0123456789abcdef")
}

fn uid(number: u8) -> Uid {
    Uid::from_bytes([number; 16])
}

fn shared(number: u8, user: Option<&str>, ip: Option<&str>) -> SharedBan {
    let ban = Ban {
        id: u64::from(number),
        user: user.map(|user| user.parse::<UserId>().expect("an id")),
        prefix: ip.map(|ip| ip.parse::<Prefix>().expect("a prefix")),
        blocks: true,
        reason: "test".to_owned(),
        violation: Some(crate::engine::ViolationType::MESSAGE_LIMIT),
        score: Some(20.0),
        created_at_unix_ms: NOW.unix_ms,
        expires_at_unix_ms: Some(NOW.unix_ms + 7_200_000),
        by: Author::Rule,
        with: None,
        severity: None,
        review: false,
    };
    SharedBan { uid: uid(number), origin: Origin::Here, ban, lifted: None }
}

/// A document as it would be read.
fn read(document: &BanDocument) -> Fields {
    let is = |text: &str| Field::Is(text.to_owned());
    let maybe = |text: &Option<String>| text.clone().map_or(Field::Missing, Field::Is);
    Fields {
        kind: is("ban"),
        value: is(&document.value),
        expires_at: document.expires_at_unix_ms.map_or(Field::Missing, Field::Is),
        user: maybe(&document.user),
        ip: maybe(&document.ip),
        reason: is(&document.reason),
        violation: maybe(&document.violation),
        score: document.score.map_or(Field::Missing, Field::Is),
        created_at: Field::Is(document.created_at_unix_ms),
        forget_at: Field::Missing,
        host: is(&document.host),
        revision: Field::Is(document.revision),
        uid: is(document.uid.as_str()),
        blocks: Field::Is(document.blocks),
        by: is(&document.by),
        mac: Field::Is(document.mac.to_vec()),
    }
}

fn read_lift(document: &LiftDocument) -> Fields {
    let is = |text: &str| Field::Is(text.to_owned());
    Fields {
        kind: is("lift"),
        created_at: Field::Is(document.created_at_unix_ms),
        forget_at: Field::Is(document.forget_at_unix_ms),
        host: is(&document.host),
        revision: Field::Is(document.revision),
        uid: is(document.uid.as_str()),
        by: is(&document.by),
        mac: Field::Is(document.mac.to_vec()),
        ..Fields::default()
    }
}

/// What Keyv writes for LibreChat.
fn of_librechat(expires: Option<u64>) -> Fields {
    let value = match expires {
        Some(at) => format!(
            r#"{{"value":{{"type":"concurrent","violation_count":20,"duration":7200000,"expiresAt":{at}}},"expires":{at}}}"#
        ),
        None => r#"{"value":{"type":"concurrent","violation_count":20}}"#.to_owned(),
    };
    Fields {
        value: Field::Is(value),
        expires_at: expires.map_or(Field::Missing, Field::Is),
        ..Fields::default()
    }
}
