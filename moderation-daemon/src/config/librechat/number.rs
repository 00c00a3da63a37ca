//! Numbers and switches as JavaScript reads them out of a string (ECMAScript
//! StringToNumber, `parseInt`, Number::toString), which is how LibreChat reads its
//! environment. Only strings that somebody wrote by hand are meant: nothing here
//! is fast, and nothing decides what a number means.

/// Whether JavaScript trims it: its WhiteSpace and LineTerminator, which are
/// Unicode's white space without NEXT LINE and with the byte order mark.
pub(super) const fn is_space(c: char) -> bool {
    (c.is_whitespace() && c != '\u{85}') || c == '\u{feff}'
}

/// `text.trim()`.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `+text`, that is Number(text): 0 for an empty text, NaN for what is no number.
pub fn to_number(text: &str) -> f64 {
    let text = trim(text);
    if text.is_empty() {
        return 0.0;
    }
    for (prefixes, bits) in [(["0x", "0X"], 4), (["0o", "0O"], 3), (["0b", "0B"], 1)] {
        if let Some(digits) = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)) {
            return whole(digits, bits).unwrap_or(f64::NAN);
        }
    }
    match text.trim_start_matches(['+', '-']) {
        "Infinity" if text.len() <= "+Infinity".len() => signed(text, f64::INFINITY),
        _ if is_decimal(text) => text.parse().unwrap_or(f64::NAN),
        _ => f64::NAN,
    }
}

/// `parseInt(text)`, the number that a text begins with; `None` for NaN.
pub fn parse_int(text: &str) -> Option<f64> {
    let text = trim(text);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let hexadecimal = ["0x", "0X"].iter().find_map(|prefix| digits.strip_prefix(prefix));
    let size = match hexadecimal {
        Some(digits) => whole(prefix_of(digits, |c| c.is_ascii_hexdigit()), 4)?,
        None => prefix_of(digits, |c| c.is_ascii_digit()).parse().ok()?,
    };
    Some(signed(text, size))
}

/// LibreChat's `isEnabled`: true is "true" in any case, and nothing else.
pub fn is_enabled(text: &str) -> bool {
    trim(text).eq_ignore_ascii_case("true")
}

/// `number.toString()`: 20, 0.1, 1e+21.
pub fn to_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    if (1e-6..1e21).contains(&number.abs()) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    if text.contains("e-") { text } else { text.replace('e', "e+") }
}

fn signed(text: &str, size: f64) -> f64 {
    if text.starts_with('-') { -size } else { size }
}

fn prefix_of(text: &str, belongs: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|c| !belongs(c)).unwrap_or(text.len())]
}

/// StrDecimalLiteral without Infinity, which Rust would also read in other
/// spellings: a sign, digits with at most one point, an exponent.
fn is_decimal(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let has_exponent = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && are_digits(digits)
    });
    !(before.is_empty() && after.is_empty())
        && are_digits(before)
        && are_digits(after)
        && has_exponent
}

/// Digits of a base that is a power of two, rounded once, to the nearest even:
/// what does not fit into 124 bits only decides in which direction.
fn whole(digits: &str, bits: u32) -> Option<f64> {
    if digits.is_empty() {
        return None;
    }
    let (mut value, mut dropped, mut is_inexact) = (0_u128, 0_i32, false);
    for c in digits.chars() {
        let digit = c.to_digit(1 << bits)?;
        if value < 1 << 120 {
            value = value << bits | u128::from(digit);
        } else {
            dropped = dropped.saturating_add(bits.cast_signed());
            is_inexact |= digit != 0;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "rounding is what is wanted")]
    let value = (value | u128::from(is_inexact)) as f64;
    Some(value * 2_f64.powi(dropped))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NaN is equal to NaN here, and 0 is not -0.
    #[track_caller]
    fn assert_same(got: f64, want: f64, text: &str) {
        let is_same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
        assert!(is_same, "{text:?}: {got}, not {want}");
    }

    #[test]
    fn a_text_becomes_the_number_that_unary_plus_makes_of_it() {
        const NAN: f64 = f64::NAN;
        let table = [
            ("", 0.0),
            (" \t\r\n\u{a0}\u{feff}\u{2028}", 0.0),
            ("\u{85}", NAN),
            ("7", 7.0),
            (" 7 ", 7.0),
            ("\u{feff}7\u{3000}", 7.0),
            ("+7", 7.0),
            ("-7", -7.0),
            ("-0", -0.0),
            ("007", 7.0),
            ("0.5", 0.5),
            (".5", 0.5),
            ("5.", 5.0),
            (".", NAN),
            ("+", NAN),
            ("--7", NAN),
            ("1e3", 1000.0),
            ("1E-2", 0.01),
            ("1e", NAN),
            ("e3", NAN),
            (".e3", NAN),
            ("1e+", NAN),
            ("1.2.3", NAN),
            ("0x10", 16.0),
            ("0XfF", 255.0),
            ("-0x10", NAN),
            ("0x", NAN),
            ("0xg", NAN),
            ("0b101", 5.0),
            ("0b2", NAN),
            ("0o17", 15.0),
            ("0x+1", NAN),
            ("1_000", NAN),
            ("1,5", NAN),
            ("7n", NAN),
            ("7 8", NAN),
            ("Infinity", f64::INFINITY),
            ("+Infinity", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("+-Infinity", NAN),
            ("--Infinity", NAN),
            ("infinity", NAN),
            ("inf", NAN),
            ("NaN", NAN),
            ("nan", NAN),
            ("1e400", f64::INFINITY),
            ("abc", NAN),
            ("1*2", NAN),
            ("٣", NAN),
            ("0x20000000000001", 9_007_199_254_740_992.0),
            ("0x20000000000003", 9_007_199_254_740_996.0),
            // A tie that a bit far below breaks.
            ("0x20000000000001000000000000000000000000001", 2_f64.powi(161) + 2_f64.powi(109)),
        ];
        for (text, want) in table {
            assert_same(to_number(text), want, text);
        }
    }

    #[test]
    fn parse_int_reads_what_a_text_begins_with() {
        let table = [
            ("12", Some(12.0)),
            ("12abc", Some(12.0)),
            ("  12", Some(12.0)),
            ("1e3", Some(1.0)),
            ("2.9", Some(2.0)),
            ("-5", Some(-5.0)),
            ("+5", Some(5.0)),
            ("-0", Some(-0.0)),
            ("0x1f", Some(31.0)),
            ("-0X1fz", Some(-31.0)),
            ("0x", None),
            ("0xg", None),
            ("0b1", Some(0.0)),
            ("", None),
            ("-", None),
            ("abc", None),
            (".5", None),
            ("Infinity", None),
            ("--5", None),
            ("+ 5", None),
            ("12345678901234567890123", Some(12_345_678_901_234_567_890_123.0)),
        ];
        for (text, want) in table {
            assert_same(parse_int(text).unwrap_or(f64::NAN), want.unwrap_or(f64::NAN), text);
        }
    }

    #[test]
    fn only_the_word_true_is_true() {
        for text in ["true", "TRUE", " True\t", "tRuE\u{a0}"] {
            assert!(is_enabled(text), "{text:?}");
        }
        for text in ["", "false", "1", "yes", "on", "true!", "\"true\"", "t rue"] {
            assert!(!is_enabled(text), "{text:?}");
        }
    }

    #[test]
    fn numbers_are_written_as_javascript_writes_them() {
        let table = [
            (20.0, "20"),
            (0.1, "0.1"),
            (-0.0, "0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-1.5e21, "-1.5e+21"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (1.25e-7, "1.25e-7"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (7_200_000.0, "7200000"),
        ];
        for (number, want) in table {
            assert_eq!(to_text(number), want);
        }
    }

    proptest::proptest! {
        #[test]
        fn a_number_that_is_written_is_read_again(number: f64) {
            assert!(number.is_nan() || to_number(&to_text(number)) == number, "{number}");
        }
    }
}
