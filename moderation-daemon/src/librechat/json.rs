//! JSON as JavaScript prints it, and as `json-buffer` changes it: strings that
//! begin with a colon get another one.

/// A number: as short as it can be, and with an exponent only where JavaScript
/// has one (ECMA-262, `Number::toString`). What is no number is null.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "null".to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let size = value.abs();
    if (1e-6..1e21).contains(&size) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

/// A string of a stored value.
pub(super) fn string(text: &str) -> String {
    let colon = if text.starts_with(':') { ":" } else { "" };
    plain(&format!("{colon}{text}"))
}

/// A string as it is.
pub(super) fn plain(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What [`string`] has written.
pub(super) fn unescaped(text: &str) -> &str {
    text.strip_prefix(':').unwrap_or(text)
}

/// An object of fields that are JSON already.
pub(super) fn object(fields: &[(&str, Option<String>)]) -> String {
    let given = fields
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{}:{value}", plain(name))));
    format!("{{{}}}", given.collect::<Vec<_>>().join(","))
}
