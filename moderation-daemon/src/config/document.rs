//! The commented default file, made from the types: each field's
//! documentation is its comment, each default its value.

use schemars::schema_for;
use serde_json::{Map, Value};

use super::file::File;

const HEADER: &str = "\
# The configuration of moderationd. Everything is optional; what is written
# here are the defaults. Check a file with: moderationd --check --config FILE
";

/// The text of the default file.
pub fn default_file() -> String {
    let schema = schema_for!(File).to_value();
    let defaults = serde_json::to_value(File::default()).expect("plain values");
    let mut text = HEADER.to_owned();
    if let Value::Object(fields) = defaults {
        section(&mut text, &schema, &schema, &fields, 0);
    }
    text
}

fn section(
    text: &mut String,
    root: &Value,
    schema: &Value,
    fields: &Map<String, Value>,
    depth: usize,
) {
    let indent = "  ".repeat(depth);
    for (key, value) in fields {
        let described = &schema["properties"][key];
        let inner = resolve(root, described);
        if depth == 0 {
            text.push('\n');
        }
        let comment = described["description"].as_str().unwrap_or_default();
        for line in comment.lines() {
            text.push_str(&format!("{indent}# {line}\n"));
        }
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                text.push_str(&format!("{indent}{key}:\n"));
                section(text, root, inner, fields, depth + 1);
            }
            scalar => text.push_str(&format!("{indent}{key}: {}\n", plain(scalar))),
        }
    }
}

/// The definition that a schema refers to.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    match reference.and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

/// JSON is YAML, but people write plain strings without quotes and whole
/// numbers without a fraction.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            let text = number.to_string();
            text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_shipped_default_file_is_what_the_types_say() {
        let shipped = include_str!("../../../config/moderation.yaml");
        assert_eq!(
            shipped,
            default_file(),
            "make it anew: cargo run --bin moderationd -- --print-default-config > config/moderation.yaml"
        );
    }

    #[test]
    fn the_default_file_parses_to_the_defaults() {
        let parsed = Config::parse(&default_file()).expect("it is the default");
        let defaults = Config::parse("").expect("defaults are valid");
        assert_eq!(format!("{parsed:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn every_key_has_a_comment_or_stands_in_a_section_that_has() {
        let text = default_file();
        let uncommented: Vec<_> = text
            .lines()
            .zip(text.lines().skip(1))
            .filter(|(before, line)| {
                !line.starts_with(' ') && line.contains(':') && !before.starts_with('#')
            })
            .map(|(_, line)| line)
            .filter(|line| !line.starts_with('#'))
            .collect();
        assert_eq!(uncommented, Vec::<&str>::new());
    }
}
