//! What a variable's text comes to: a value for our own file, a limiter that is
//! off, and what there is to say about it. Pure; where the text comes from and
//! what is done about what is said is decided in `mod`.

use std::time::Duration;

use serde_yaml::Value;

use super::{
    expression, number,
    table::{Family, Sets, Variable},
};
use crate::config::friendly;

/// What a text comes to.
#[derive(Debug, PartialEq)]
pub(super) struct Reading {
    pub(super) taken: Taken,
    pub(super) remark: Option<Remark>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    /// This value.
    Value(Value),
    /// What it belongs to is off.
    Off,
    /// Nothing of ours.
    Nothing,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) grade: Grade,
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Grade {
    /// No profile takes that.
    Refused,
    /// As LibreChat takes it, somebody is locked out, or a limit does nothing:
    /// taken in the librechat profile only.
    Dangerous,
    /// It may not be what was meant.
    Odd,
}

impl Reading {
    const fn plain(value: Value) -> Self {
        Self { taken: Taken::Value(value), remark: None }
    }

    fn remarked(taken: Taken, grade: Grade, text: impl Into<String>) -> Self {
        Self { taken, remark: Some(Remark { grade, text: text.into() }) }
    }

    fn nothing(grade: Grade, text: impl Into<String>) -> Self {
        Self::remarked(Taken::Nothing, grade, text)
    }
}

/// Beyond this a number of events is none that anybody reaches.
const COUNTLESS: f64 = 9_007_199_254_740_992.0;
/// Node's timers, one of which clears express-rate-limit's counts, fire at once
/// when they are to wait for longer (2^31 - 1 ms).
const LONGEST_TIMER_MS: f64 = 2_147_483_647.0;
/// A hundred years. What would end later ends never.
const FOR_EVER_MS: f64 = 3_155_760_000_000.0;

/// Reads the text of a variable as LibreChat does.
pub(super) fn read(variable: &Variable, text: &str) -> Reading {
    match variable.sets {
        Sets::Max(_) => with_number(variable, text, max),
        Sets::Window(_) => with_number(variable, text, window),
        Sets::LimitScore(_) | Sets::Score(_) => with_number(variable, text, score),
        Sets::LimitSwitch(_) | Sets::Switch(_) => switch(text),
        Sets::BanDuration => with_number(variable, text, ban_duration),
        Sets::BanInterval => with_number(variable, text, ban_interval),
        Sets::ScoreTtl => with_number(variable, text, score_ttl),
        Sets::Concurrency => with_number(variable, text, concurrency),
        Sets::Proxies => proxies(text),
        Sets::Inert => Reading::nothing(
            Grade::Odd,
            "it is in LibreChat's documentation, but LibreChat does not read it",
        ),
        Sets::Session | Sets::Nothing => Reading { taken: Taken::Nothing, remark: None },
    }
}

/// The number that a text is to LibreChat, and what there is to say about how it
/// was read.
pub(super) fn number(variable: &Variable, text: &str) -> (f64, Option<Remark>) {
    let odd = |text: String| Some(Remark { grade: Grade::Odd, text });
    let fallback = number::to_number(variable.unset);
    let is_empty = number::trim(text).is_empty();
    let default = |what| {
        let remark = odd(format!("it is {what}, and LibreChat takes {fallback} instead"));
        (fallback, remark.filter(|_| !is_empty))
    };
    match variable.family {
        Family::Int => match number::parse_int(text) {
            None => default("no number"),
            Some(0.0) => default("0"),
            Some(read) if read == number::to_number(text) => (read, None),
            Some(read) => (read, odd(format!("LibreChat reads {read} and leaves the rest"))),
        },
        Family::Math => match expression::evaluate(text) {
            None => default("no expression that LibreChat reads"),
            Some(value) => (value, None),
        },
        Family::Raw | Family::Bool | Family::Text => (number::to_number(text), None),
    }
}

fn with_number(variable: &Variable, text: &str, take: fn(f64) -> Reading) -> Reading {
    let (number, remark) = number(variable, text);
    let reading = take(number);
    // What is made of the number weighs more than how it was read.
    Reading { remark: reading.remark.or(remark), ..reading }
}

/// express-rate-limit rejects when the hits are more than this.
fn max(max: f64) -> Reading {
    if max.is_nan() {
        return Reading::remarked(Taken::Off, Grade::Dangerous, "no number: it never limits");
    }
    if max >= COUNTLESS {
        return Reading::remarked(Taken::Off, Grade::Dangerous, "so much that it never limits");
    }
    let whole = Taken::Value(Value::from(whole(max.max(0.0))));
    if max < 1.0 {
        return Reading::remarked(whole, Grade::Dangerous, "it refuses every request");
    }
    if max.fract() > 0.0 {
        return Reading::remarked(whole, Grade::Odd, format!("it allows {}", max.floor()));
    }
    Reading { taken: whole, remark: None }
}

/// Minutes; a window ends at a whole millisecond.
fn window(minutes: f64) -> Reading {
    let ms = (minutes * 60.0 * 1_000.0).trunc();
    if ms.is_nan() {
        return Reading::nothing(Grade::Refused, "no number of minutes");
    }
    if ms <= 0.0 {
        let text = "a window without length: it never limits";
        return Reading::remarked(Taken::Off, Grade::Dangerous, text);
    }
    if ms > LONGEST_TIMER_MS {
        let text = "more than 24.8 days: LibreChat forgets every count at once, it hardly limits";
        return Reading::remarked(Taken::Off, Grade::Dangerous, text);
    }
    Reading::plain(duration(ms))
}

fn score(points: f64) -> Reading {
    if points.is_nan() {
        let text = "no number of points: in LibreChat every such violation would ban";
        return Reading::nothing(Grade::Refused, text);
    }
    if points.is_infinite() {
        return Reading::nothing(Grade::Refused, "no finite number of points");
    }
    if points < 0.0 {
        let text = "such violations take points away";
        return Reading::remarked(Taken::Value(points.into()), Grade::Dangerous, text);
    }
    Reading::plain(points.into())
}

fn switch(text: &str) -> Reading {
    let is_on = number::is_enabled(text);
    let word = number::trim(text).to_ascii_lowercase();
    let taken = Taken::Value(is_on.into());
    if is_on || ["", "false", "0", "no", "off", "n", "f"].contains(&&*word) {
        return Reading { taken, remark: None };
    }
    let is_meant = ["1", "yes", "on", "y", "t", "enabled"].contains(&&*word);
    let grade = if is_meant { Grade::Dangerous } else { Grade::Odd };
    Reading::remarked(taken, grade, "it is off: LibreChat takes only the word true for on")
}

fn ban_duration(ms: f64) -> Reading {
    if ms.is_nan() || ms >= FOR_EVER_MS {
        let taken = Taken::Value("permanent".into());
        return Reading::remarked(taken, Grade::Dangerous, "bans never end");
    }
    if ms <= 0.0 {
        let text = "users are logged out, but nobody is banned";
        return Reading::remarked(Taken::Value("soft".into()), Grade::Odd, text);
    }
    Reading::plain(duration(ms.ceil()))
}

fn ban_interval(points: f64) -> Reading {
    if points.is_nan() {
        return Reading::nothing(
            Grade::Refused,
            "no number of points: in LibreChat every violation would ban",
        );
    }
    let never = "nobody is ever banned";
    if points.is_infinite() {
        return Reading::remarked(Taken::Off, Grade::Dangerous, never);
    }
    let taken = Taken::Value(points.into());
    if points == 0.0 {
        let text = "everybody's first violation bans, and no later one";
        return Reading::remarked(taken, Grade::Dangerous, text);
    }
    if points < 0.0 {
        return Reading::remarked(taken, Grade::Dangerous, never);
    }
    Reading::plain(points.into())
}

/// Keyv takes no end for what is not above 0.
fn score_ttl(ms: f64) -> Reading {
    if ms > 0.0 && ms < FOR_EVER_MS {
        return Reading::plain(duration(ms.ceil()));
    }
    Reading { taken: Taken::Off, remark: None }
}

/// `Math.max(x, 1)`, and then `pending >= limit`.
fn concurrency(max: f64) -> Reading {
    if max.is_nan() || max >= COUNTLESS {
        let text = "generations at once are not limited";
        return Reading::remarked(Taken::Off, Grade::Dangerous, text);
    }
    let limit = max.max(1.0);
    let taken = Taken::Value(Value::from(whole(limit)));
    if max < 1.0 {
        return Reading::remarked(taken, Grade::Odd, "LibreChat takes 1 instead");
    }
    if max.fract() > 0.0 {
        let (memory, redis) = (limit.ceil(), limit.floor());
        let text = format!("it is {redis} here; LibreChat admits {memory}, with Redis {redis}");
        return Reading::remarked(taken, Grade::Odd, text);
    }
    Reading { taken, remark: None }
}

fn proxies(text: &str) -> Reading {
    let number = number::to_number(text);
    if number.is_nan() || number == 0.0 {
        let text = "LibreChat takes 1 for that: it always trusts the nearest proxy";
        return Reading::nothing(Grade::Odd, text);
    }
    Reading { taken: Taken::Nothing, remark: None }
}

/// Of a number that has been found to be between 0 and [`COUNTLESS`].
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the fraction is to go, and the sign and the size have been looked at"
)]
const fn whole(number: f64) -> u64 {
    number as u64
}

fn duration(ms: f64) -> Value {
    friendly::text(Duration::from_millis(whole(ms))).into()
}
