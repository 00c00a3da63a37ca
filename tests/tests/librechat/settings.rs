//! Numbers, switches and expressions of the environment: as JavaScript and mathjs
//! read them, and as ours do, on what people write and on what nobody would.

use anyhow::{Context, Result, ensure};
use moderation_daemon::config::librechat::{is_enabled, math, parse_int, to_number, to_text};
use moderation_tests::random::Random;
use serde::Deserialize;
use serde_json::json;

use crate::differences::{Differences, Room};
use crate::harness::Harness;

const COUNT: usize = 20_000;
/// Asked at once.
const SLICE: usize = 1_000;
const SEED: u64 = 1_520;
/// No expression comes out as this.
const FALLBACK: f64 = 123_456.789;

/// Longer expressions are none to us.
const LONGEST: usize = 512;

/// What they make of one text; numbers as text, which says NaN and -0 too.
#[derive(Deserialize)]
struct Theirs {
    math: String,
    int: String,
    number: String,
    text: String,
    enabled: bool,
}

/// What people write, and what has surprised somebody.
const KNOWN: [&str; 40] = [
    "1000 * 60 * 60 * 2",
    "(1000 * 60 * 60 * 24) * 7",
    "20",
    "7200000",
    "0",
    "-1",
    "1/0",
    "0/0",
    "50%",
    "5%3",
    "5%-3",
    "-5%3",
    "5%0",
    "10+10%",
    "10 - 5%",
    "2(3)",
    "(2)3",
    "(2)(3)",
    "2 3",
    "8/2(4)",
    "2.*3",
    "2./3",
    "5.",
    ".5",
    "1.2.3",
    "()",
    "2h",
    "1e3",
    "0x10",
    "0b11",
    "0o17",
    "",
    " 7 ",
    "true",
    "TRUE ",
    "1",
    "yes",
    "+5",
    "-Infinity",
    "1_000",
];

/// What expressions are made of, the likely ones more often.
const OPERATORS: [&str; 16] =
    ["+", "-", "*", "/", "%", "+", "-", "*", "/", "%", ".*", "./", "", "**", "//", "%%"];
const SPACES: [&str; 12] = ["", "", "", "", "", " ", " ", "  ", "\t", "\n", "\u{a0}", "\u{feff}"];
const SCRAPS: [&str; 24] = [
    "(", ")", "%", ".", "+", "-", "*", "/", " ", "\n", "\r", "\u{2028}", "\u{85}", "\u{a0}", "e",
    "E5", "x", "_", "abc", "Infinity", "NaN", "0x", "1e3", "٣",
];

#[test]
fn numbers_switches_and_expressions_come_out_as_for_librechat() -> Result<()> {
    let Some(mut harness) = Harness::start()? else {
        return Ok(());
    };
    let mut random = Random::new(SEED);
    let mut texts: Vec<String> = KNOWN.iter().map(ToString::to_string).collect();
    texts.extend((texts.len()..COUNT).map(|_| made_up(&mut random)));
    let mut differences = Differences::of(Room::Settings)?;
    let mut evaluated = 0;
    for slice in texts.chunks(SLICE) {
        let question = json!({ "ask": "settings", "texts": slice, "fallback": FALLBACK });
        let theirs: Vec<Theirs> = harness.ask(&question)?;
        ensure!(theirs.len() == slice.len(), "one answer each");
        for (text, theirs) in slice.iter().zip(theirs) {
            compare(text, &theirs, &mut differences)?;
            evaluated += usize::from(parsed(&theirs.math)? != FALLBACK);
        }
    }
    println!("{COUNT} texts agree, {evaluated} of them expressions");
    differences.finish()?;
    // Otherwise the comparison says little.
    ensure!((COUNT / 5..COUNT * 4 / 5).contains(&evaluated), "{evaluated} of {COUNT}");
    Ok(())
}

fn compare(text: &str, theirs: &Theirs, differences: &mut Differences) -> Result<()> {
    let value = math(Some(text), FALLBACK);
    if text.len() > LONGEST && !is_same(value, parsed(&theirs.math)?) {
        ensure!(value == FALLBACK, "{text:?} is {value} to us");
        return differences.note("long_expression");
    }
    let ours = [
        ("math", value, &theirs.math),
        ("parseInt", parse_int(text).unwrap_or(f64::NAN), &theirs.int),
        ("Number", to_number(text), &theirs.number),
    ];
    for (reading, ours, theirs) in ours {
        assert!(is_same(ours, parsed(theirs)?), "{reading} of {text:?}: {ours}, not {theirs}");
    }
    assert_eq!(to_text(to_number(text)), theirs.text, "the text of {text:?}");
    assert_eq!(is_enabled(text), theirs.enabled, "isEnabled of {text:?}");
    Ok(())
}

fn parsed(number: &str) -> Result<f64> {
    number.parse().with_context(|| format!("no number: {number}"))
}

/// The same to the last bit; what is no number has no bits that count.
fn is_same(ours: f64, theirs: f64) -> bool {
    ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan())
}

fn made_up(random: &mut Random) -> String {
    let mut text = match random.below(8) {
        0 => random.pick(&KNOWN).to_owned(),
        1 => (0..=random.below(6)).map(|_| random.pick(&SCRAPS)).collect(),
        _ => expression(random, 3),
    };
    for _ in 0..random.below(8).saturating_sub(5) {
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let from = random.index(ends.len());
        let to = (from + random.index(2)).min(ends.len() - 1);
        text.replace_range(ends[from]..ends[to], random.pick(&SCRAPS));
    }
    text
}

fn expression(random: &mut Random, depth: u64) -> String {
    if depth == 0 || random.below(4) == 0 {
        return number(random);
    }
    let inner = |random: &mut Random| expression(random, depth - 1);
    match random.below(6) {
        0 => format!("({}{})", space(random), inner(random)),
        1 => format!("{}{}", random.pick(&["-", "+", "--", "-+"]), inner(random)),
        2 => format!("{}{}%", inner(random), space(random)),
        _ => {
            let operator = random.pick(&OPERATORS);
            let (left, right) = (space(random), space(random));
            format!("{}{left}{operator}{right}{}", inner(random), inner(random))
        }
    }
}

fn space(random: &mut Random) -> &'static str {
    random.pick(&SPACES)
}

fn number(random: &mut Random) -> String {
    match random.below(10) {
        0 => format!("{}.", random.below(100)),
        1 => format!(".{}", random.below(100)),
        2 => format!("{}.{}", random.below(100), random.below(1_000)),
        3 => random.bits().to_string(),
        4 => "9".repeat(1 + random.index(330)),
        5 => format!("00{}", random.below(100)),
        6 => "0".to_owned(),
        _ => random.below(100).to_string(),
    }
}
