//! What hosts say to each other about bans and lifts, faster than a database tells of them:
//! the same signed documents, as messages. Who listens believes none that is not signed,
//! none that is not about this very minute, and none twice; what is missed comes with the
//! document. What a foreign document says is never said: every host judges that by itself.

use serde::{Deserialize, Serialize};

use super::{
    BanDocument, Field, Fields, Judged, LiftDocument, MacKey, Memory, Origin, SharedBan, Uid, judge,
};

/// A message is about what happened in the last minute. What is older is in the database.
const TIMELY_MS: u64 = 60_000;
/// Messages that are remembered, so that none counts twice: more than fit into a minute of
/// the worst day.
const MOST_HEARD: usize = 65_536;

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A ban fell.
    Ban(Box<BanDocument>),
    /// A ban was lifted.
    Lift(LiftDocument),
}

/// Why a message is not heeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unheeded {
    /// It has not the form of one.
    Nonsense,
    /// Its signature is wrong.
    Forged,
    /// It is about what happened long ago, or will.
    Untimely,
    /// It was heard before.
    Repeated,
}

impl Unheeded {
    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nonsense => "nonsense",
            Self::Forged => "forged",
            Self::Untimely => "untimely",
            Self::Repeated => "repeated",
        }
    }
}

/// A message as it is written, in JSON. The score is a text, since numbers are not read as
/// exactly as they are signed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    key: String,
    uid: String,
    revision: i64,
    host: String,
    by: String,
    created_at: u64,
    mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    violation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    score: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocks: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget_at: Option<u64>,
}

impl Said {
    /// What there is to say of a ban as it stands; `None`: it is not this host's to say.
    pub fn of(shared: &SharedBan, host: &str, mac: &MacKey) -> Option<Self> {
        match (&shared.origin, &shared.lifted) {
            (Origin::Foreign, _) | (Origin::Host(_), None) => None,
            (Origin::Here | Origin::Host(_), Some((at, _))) => {
                Some(Self::Lift(LiftDocument::of(shared, host, *at, mac)))
            }
            // Each of its documents says all of it.
            (Origin::Here, None) => {
                let document = BanDocument::all(shared, host, mac).into_iter().next()?;
                Some(Self::Ban(Box::new(document)))
            }
        }
    }

    /// Whether it is about this very minute; `skew_ms`: by how much clocks may differ.
    pub fn is_timely(&self, now_unix_ms: u64, skew_ms: u64) -> bool {
        let at = match self {
            Self::Ban(document) => document.created_at_unix_ms,
            Self::Lift(document) => document.created_at_unix_ms,
        };
        let oldest = now_unix_ms.saturating_sub(TIMELY_MS.saturating_add(skew_ms));
        (oldest..=now_unix_ms.saturating_add(skew_ms)).contains(&at)
    }

    /// The message.
    pub fn to_message(&self) -> Vec<u8> {
        let written = match self {
            Self::Ban(document) => Written::ban(document),
            Self::Lift(document) => Written::lift(document),
        };
        serde_json::to_vec(&written).expect("texts and numbers")
    }

    /// What a message says, and whether to believe it.
    fn read(message: &[u8], mac: &MacKey) -> Result<Self, Unheeded> {
        let written: Written = serde_json::from_slice(message).map_err(|_| Unheeded::Nonsense)?;
        let (key, fields) = written.fields().ok_or(Unheeded::Nonsense)?;
        match judge(&key, fields, mac) {
            Judged::Ban(document) => Ok(Self::Ban(Box::new(document))),
            Judged::Lift(document) => Ok(Self::Lift(document)),
            Judged::Foreign(_) | Judged::Copy { .. } | Judged::Other | Judged::Unusable(_) => {
                Err(Unheeded::Forged)
            }
        }
    }

    fn host(&self) -> &str {
        match self {
            Self::Ban(document) => &document.host,
            Self::Lift(document) => &document.host,
        }
    }

    fn name(&self) -> (Uid, bool) {
        match self {
            Self::Ban(document) => (document.uid.clone(), false),
            Self::Lift(document) => (document.uid.clone(), true),
        }
    }
}

impl Written {
    fn ban(document: &BanDocument) -> Self {
        let document = document.clone();
        Self {
            key: document.key,
            uid: document.uid.to_string(),
            revision: document.revision,
            host: document.host,
            by: document.by,
            created_at: document.created_at_unix_ms,
            mac: hexadecimal(&document.mac),
            value: Some(document.value),
            expires_at: document.expires_at_unix_ms,
            user: document.user,
            ip: document.ip,
            reason: Some(document.reason),
            violation: document.violation,
            score: document.score.map(|score| score.to_string()),
            blocks: Some(document.blocks),
            forget_at: None,
        }
    }

    fn lift(document: &LiftDocument) -> Self {
        let document = document.clone();
        Self {
            key: document.key,
            uid: document.uid.to_string(),
            revision: document.revision,
            host: document.host,
            by: document.by,
            created_at: document.created_at_unix_ms,
            mac: hexadecimal(&document.mac),
            forget_at: Some(document.forget_at_unix_ms),
            ..Self::default()
        }
    }

    fn fields(self) -> Option<(String, Fields)> {
        let kind = if self.forget_at.is_some() { "lift" } else { "ban" };
        let score = match self.score {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        let fields = Fields {
            kind: Field::Is(kind.to_owned()),
            value: field(self.value),
            expires_at: field(self.expires_at),
            user: field(self.user),
            ip: field(self.ip),
            reason: field(self.reason),
            violation: field(self.violation),
            score: field(score),
            created_at: Field::Is(self.created_at),
            forget_at: field(self.forget_at),
            host: Field::Is(self.host),
            revision: Field::Is(self.revision),
            uid: Field::Is(self.uid),
            blocks: field(self.blocks),
            by: Field::Is(self.by),
            mac: Field::Is(bytes(&self.mac)?),
        };
        Some((self.key, fields))
    }
}

fn field<T>(value: Option<T>) -> Field<T> {
    value.map_or(Field::Missing, Field::Is)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let is_plain = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    is_plain.then(|| (0..text.len()).step_by(2).map(byte).collect())?
}

/// Listens to what other hosts say.
#[derive(Debug)]
pub struct Ear {
    host: String,
    skew_ms: u64,
    mac: MacKey,
    heard: Memory<(Uid, bool)>,
}

impl Ear {
    /// That of a host; `skew_ms`: by how much clocks may differ.
    pub fn new(host: String, skew_ms: u64, mac: MacKey) -> Self {
        Self { host, skew_ms, mac, heard: Memory::new(MOST_HEARD) }
    }

    /// What a message says; `None`: it is this host's own.
    ///
    /// # Errors
    ///
    /// See [`Unheeded`].
    pub fn hear(&mut self, message: &[u8], now_unix_ms: u64) -> Result<Option<Said>, Unheeded> {
        let said = Said::read(message, &self.mac)?;
        if said.host() == self.host {
            return Ok(None);
        }
        if !said.is_timely(now_unix_ms, self.skew_ms) {
            return Err(Unheeded::Untimely);
        }
        if !self.heard.remember(&said.name()) {
            return Err(Unheeded::Repeated);
        }
        Ok(Some(said))
    }

    /// How many messages were forgotten since this was asked last, which now would be heard
    /// again.
    pub const fn take_forgotten(&mut self) -> u64 {
        self.heard.take_forgotten()
    }
}
