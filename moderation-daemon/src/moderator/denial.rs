//! Denials as operators look them up: each has a code that the caller is told, and the
//! latest are remembered, in memory and so many, with whom they were about and why. They
//! are shown to operators only. Nothing is decided by them.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::BanView;
use crate::{
    blocklist::Source,
    clock,
    engine::{Act, BanId, Cause, Outcome, Subject},
};

/// Denials that are remembered: some hundred kilobytes.
const KEPT: usize = 1_024;
/// Among so many of the latest the same denial is looked for, so that whoever hammers is
/// one entry instead of all of them.
const LOOKED_AT: usize = 32;
/// For so long the same denial is the same one.
const ONE_EPISODE_MS: u64 = 60_000;

/// What a caller is told to quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// A ban that holds, which the store remembers.
    Ban(BanId),
    /// A denial, which is remembered for as long as there is room and the daemon runs.
    Denial {
        /// When the daemon started, in seconds since 1970: codes of another life are
        /// nobody's.
        life: u64,
        /// Its number in this life.
        number: u64,
    },
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ban(id) => write!(f, "#{id}"),
            Self::Denial { life, number } => write!(f, "d{life:x}-{number:x}"),
        }
    }
}

impl std::str::FromStr for Code {
    type Err = NoCode;

    fn from_str(text: &str) -> Result<Self, NoCode> {
        if let Some(id) = text.strip_prefix('#') {
            return id.parse().map(Self::Ban).map_err(|_| NoCode);
        }
        let (life, number) =
            text.strip_prefix('d').and_then(|rest| rest.split_once('-')).ok_or(NoCode)?;
        let hexadecimal = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| NoCode);
        Ok(Self::Denial { life: hexadecimal(life)?, number: hexadecimal(number)? })
    }
}

/// The text is no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("codes are #42, of a ban, or d and two numbers, as d65a0c1f2-7")]
pub struct NoCode;

/// What was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// An event or a violation, by its type.
    Act(&'static str),
    /// The start of a generation.
    Generation,
    /// A refund.
    Refund,
    /// A request that is no event, by nginx.
    Request,
}

impl Denied {
    /// What a request asked for.
    pub const fn of(act: &Act) -> Self {
        match act {
            Act::Event { kind, .. } => Self::Act(kind.name()),
            Act::Violation { kind, .. } => Self::Act(kind.name()),
            Act::Acquire => Self::Generation,
            Act::Refund(_) => Self::Refund,
        }
    }

    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Act(name) => name,
            Self::Generation => "generation",
            Self::Refund => "refund",
            Self::Request => "request",
        }
    }
}

/// Why.
#[derive(Clone, Debug, PartialEq)]
pub struct Grounds {
    /// In one word: `banned`, `rate_limited`, `overloaded`, a type of violation.
    pub reason: &'static str,
    /// The ban that holds, or that fell just now.
    pub ban: Option<BanId>,
    /// Or the list that the address is on.
    pub list: Option<Source>,
    /// The limit that was exceeded: its name, and how much it allows.
    pub limit: Option<(&'static str, u64)>,
}

impl Grounds {
    /// Of an answer that denies.
    pub fn of(outcome: &Outcome, ban: Option<&BanView>) -> Self {
        let exceeded = outcome.counts.last().filter(|count| count.exceeds());
        Self {
            limit: exceeded.map(|count| (count.limiter.name(), count.max)),
            ..Self::in_a_word(outcome.cause.map_or("denied", Cause::name), ban)
        }
    }

    /// For a ban.
    pub fn banned(ban: &BanView) -> Self {
        Self::in_a_word(Cause::Banned.name(), Some(ban))
    }

    /// Because nothing could be decided in time.
    pub fn overloaded() -> Self {
        Self::in_a_word("overloaded", None)
    }

    fn in_a_word(reason: &'static str, view: Option<&BanView>) -> Self {
        let list = view.and_then(|view| view.source.clone());
        let ban = view.filter(|view| view.source.is_none()).map(|view| view.ban.id);
        Self { reason, ban, list, limit: None }
    }
}

/// A denial that is remembered, with those after it that were the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    /// What the callers were told.
    pub code: Code,
    /// What was denied.
    pub what: Denied,
    /// To whom.
    pub subject: Subject,
    /// Why.
    pub grounds: Grounds,
    /// When first, in milliseconds since 1970.
    pub first_unix_ms: u64,
    /// When last, in milliseconds since 1970.
    pub last_unix_ms: u64,
    /// How often.
    pub times: u64,
}

impl Denial {
    fn is_same(&self, what: Denied, subject: &Subject, grounds: &Grounds) -> bool {
        self.what == what && self.grounds == *grounds && self.subject == *subject
    }
}

/// The latest denials. Its lock is never held over an await.
#[derive(Debug)]
pub struct Denials {
    life: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    latest: VecDeque<Denial>,
    /// Of denials that are no ban's, since the start.
    numbers: u64,
}

impl Default for Denials {
    /// None yet, in the life that begins now.
    fn default() -> Self {
        Self { life: clock::now().unix_ms / 1_000, kept: Mutex::default() }
    }
}

impl Denials {
    /// Remembers a denial; returns what the caller is told to quote.
    pub fn note(
        &self,
        what: Denied,
        subject: &Subject,
        grounds: Grounds,
        now_unix_ms: u64,
    ) -> Code {
        let mut kept = self.kept();
        let same = kept.latest.iter_mut().rev().take(LOOKED_AT).find(|denial| {
            denial.is_same(what, subject, &grounds)
                && now_unix_ms.saturating_sub(denial.first_unix_ms) < ONE_EPISODE_MS
        });
        if let Some(denial) = same {
            denial.times += 1;
            denial.last_unix_ms = now_unix_ms;
            return denial.code;
        }
        let code = match grounds.ban {
            Some(id) => Code::Ban(id),
            None => {
                kept.numbers += 1;
                Code::Denial { life: self.life, number: kept.numbers }
            }
        };
        if kept.latest.len() >= KEPT {
            kept.latest.pop_front();
        }
        let subject = subject.clone();
        let (first_unix_ms, last_unix_ms) = (now_unix_ms, now_unix_ms);
        let reason = grounds.reason;
        let denial = Denial { code, what, subject, grounds, first_unix_ms, last_unix_ms, times: 1 };
        kept.latest.push_back(denial);
        drop(kept);
        // Strangers cause these; who looks for one has turned them on.
        tracing::debug!(%code, what = what.name(), reason, "denied");
        code
    }

    /// The latest, newest first.
    pub fn latest(&self, most: usize) -> Vec<Denial> {
        self.kept().latest.iter().rev().take(most).cloned().collect()
    }

    /// The one of that code, if it is remembered; of a ban, the latest that it was for.
    pub fn find(&self, code: Code) -> Option<Denial> {
        self.kept().latest.iter().rev().find(|denial| denial.code == code).cloned()
    }

    /// Whether a code can be of this life of the daemon.
    pub const fn is_of_this_life(&self, code: Code) -> bool {
        match code {
            Code::Ban(_) => true,
            Code::Denial { life, .. } => life == self.life,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Whoever panicked left whole entries.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(last: u8) -> Subject {
        Subject::new(None, Some([192, 0, 2, last].into())).expect("an address")
    }

    fn limited() -> Grounds {
        Grounds { limit: Some(("message_ip", 3)), ..Grounds::in_a_word("rate_limited", None) }
    }

    #[test]
    fn what_people_type_is_read_as_it_is_written() {
        for code in [Code::Ban(42), Code::Denial { life: 0x65a0_c1f2, number: 0x1f }] {
            assert_eq!(code.to_string().parse(), Ok(code), "{code}");
        }
        for text in ["", "42", "#", "#x", "d", "d-", "dx-1", "d1-", "daniel", "d1-2-3"] {
            assert_eq!(text.parse::<Code>(), Err(NoCode), "{text}");
        }
    }

    #[test]
    fn who_hammers_is_one_entry_with_one_code() {
        let denials = Denials::default();
        let note =
            |last: u8, at| denials.note(Denied::Act("message"), &subject(last), limited(), at);
        let first = note(1, 1_000);
        let other = note(2, 1_500);
        assert_ne!(first, other);
        assert_eq!(note(1, 2_000), first);
        let found = denials.find(first).expect("remembered");
        assert_eq!((found.times, found.first_unix_ms, found.last_unix_ms), (2, 1_000, 2_000));
        assert_ne!(note(1, 1_000 + ONE_EPISODE_MS), first, "a minute later it is another one");
        assert_eq!(denials.latest(2).len(), 2);
    }

    #[test]
    fn the_oldest_makes_room() {
        let denials = Denials::default();
        let first = denials.note(Denied::Generation, &subject(1), limited(), 0);
        for at in 1..=KEPT as u64 {
            denials.note(Denied::Generation, &subject(1), limited(), at * ONE_EPISODE_MS);
        }
        assert_eq!(denials.latest(usize::MAX).len(), KEPT);
        assert_eq!(denials.find(first), None);
        assert!(denials.is_of_this_life(first));
        assert!(!denials.is_of_this_life(Code::Denial { life: 0, number: 1 }));
    }
}
