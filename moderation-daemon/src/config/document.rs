//! The commented file, made from the types: each field's documentation is its
//! comment. With the defaults it is the shipped file, with the values that count
//! it is what operators are shown, and then says where each came from.

use std::collections::BTreeMap;

use schemars::schema_for;
use serde_json::{Map, Value};

use super::{effective::Effective, file::File};

const HEADER: &str = "\
# The configuration of moderationd. Everything is optional; what is written
# here are the defaults. Check a file with: moderationd --check --config FILE
# Keys with a # directly before them come from the profile, or from LibreChat's
# own configuration where librechat names it: take the # away to overrule that.
";

/// Sections that would overrule profile and LibreChat if they were there.
const FROM_PROFILE: [&str; 6] = ["counting", "limits", "concurrency", "scoring", "scores", "bans"];

const EFFECTIVE: &str = "\
# The configuration that counts. Values without a note behind them are the
# defaults of the profile.
";

/// The text of the default file.
pub fn default_file() -> String {
    let defaults = serde_json::to_value(File::default()).expect("plain values");
    let origins = BTreeMap::new();
    let mut page = Page { is_default: true, ..Page::new(HEADER, &origins) };
    page.sections(&defaults);
    page.text
}

/// The text of the configuration that counts.
pub fn render(effective: &Effective) -> String {
    let mut page = Page::new(EFFECTIVE, &effective.origins);
    for warning in &effective.warnings {
        page.text.push_str(&format!("# warning: {warning}\n"));
    }
    page.sections(&effective.values);
    if !effective.told.is_empty() {
        page.text.push_str("\n# Variables of LibreChat that set nothing here:\n");
    }
    for (name, told) in &effective.told {
        page.text.push_str(&format!("#   {name}: {told}\n"));
    }
    page.text
}

struct Page<'a> {
    text: String,
    origins: &'a BTreeMap<String, String>,
    schema: Value,
    is_default: bool,
}

impl<'a> Page<'a> {
    fn new(header: &str, origins: &'a BTreeMap<String, String>) -> Self {
        let schema = schema_for!(File).to_value();
        Self { text: header.to_owned(), origins, schema, is_default: false }
    }

    fn sections(&mut self, values: &Value) {
        let schema = self.schema.clone();
        for (name, value) in values.as_object().into_iter().flatten() {
            self.text.push('\n');
            self.field(&schema, name, value, name, 0);
        }
    }

    fn field(&mut self, schema: &Value, name: &str, value: &Value, key: &str, depth: usize) {
        let indent = "  ".repeat(depth);
        let described = &schema["properties"][name];
        for line in described["description"].as_str().unwrap_or_default().lines() {
            self.text.push_str(&format!("{indent}# {line}\n"));
        }
        let inner = resolve(&self.schema, described).clone();
        match value {
            Value::Object(fields) if self.is_section(&inner, fields, key) => {
                let mark = self.mark(key);
                self.text.push_str(&format!("{indent}{mark}{name}:\n"));
                for (name, value) in fields {
                    self.field(&inner, name, value, &format!("{key}.{name}"), depth + 1);
                }
            }
            value => {
                let note = self.origins.get(key).map(|origin| format!("  # {origin}"));
                let note = note.unwrap_or_default();
                let (mark, value) = (self.mark(key), plain(value));
                self.text.push_str(&format!("{indent}{mark}{name}: {value}{note}\n"));
            }
        }
    }

    /// What stands before a key that the default file is not to set.
    fn mark(&self, key: &str) -> &'static str {
        let is_inside =
            key.split_once('.').is_some_and(|(section, _)| FROM_PROFILE.contains(&section));
        if self.is_default && is_inside { "#" } else { "" }
    }

    /// Whether fields get lines of their own: those of which there is something
    /// to say.
    fn is_section(&self, schema: &Value, fields: &Map<String, Value>, key: &str) -> bool {
        let is_described = |name: &String| schema["properties"][name]["description"].is_string();
        let has_origin = || {
            let prefix = format!("{key}.");
            self.origins.keys().any(|other| other.starts_with(&prefix))
        };
        let is_struct = schema["properties"].is_object();
        is_struct && (fields.keys().any(is_described) || has_origin())
    }
}

/// The definition that a schema refers to, perhaps as one that may be null.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let either = [&schema["allOf"][0]["$ref"], &schema["anyOf"][0]["$ref"]];
    let reference = schema["$ref"].as_str().or_else(|| either.iter().find_map(|it| it.as_str()));
    match reference.and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

/// JSON is YAML, but people write plain strings without quotes and whole
/// numbers without a fraction.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::Number(number) => {
            let text = number.to_string();
            text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                format!("{}: {}", plain(&Value::String(name.clone())), plain(value))
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Whether YAML reads a text as this text without quotes around it, wherever it
/// stands.
fn is_plain(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "/._- ".contains(c);
    let is_word = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.chars().all(is_part)
        && !text.ends_with(' ');
    is_word && serde_yaml::from_str(text).is_ok_and(|read: Value| read == *text)
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

    /// All but where values came from.
    fn counting(yaml: &str) -> String {
        let config = Config::parse(yaml).expect("it is valid");
        format!("{:?}", Config { origins: BTreeMap::new(), ..config }.effective.values)
    }

    #[test]
    fn the_default_file_parses_to_the_defaults() {
        assert_eq!(counting(&default_file()), counting(""));
    }

    #[test]
    fn what_is_commented_out_in_the_default_file_are_the_defaults() {
        let is_key = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase());
        let uncommented = |line: &str| match line.split_once('#') {
            Some((indent, rest)) if indent.trim().is_empty() && is_key(rest) => {
                format!("{indent}{rest}\n")
            }
            _ => format!("{line}\n"),
        };
        let text: String = default_file().lines().map(uncommented).collect();
        assert!(text.contains("\n  login: {") && text.contains("\n    v6_56: 16"));
        assert_eq!(counting(&text), counting(""));
    }

    /// Else whoever starts with it has hardened values in every profile, and
    /// nothing of what LibreChat was told.
    #[test]
    fn the_default_file_leaves_to_the_profile_what_is_the_profile_s() {
        let text = default_file().replace("profile: hardened", "profile: librechat");
        assert_eq!(counting(&text), counting("profile: librechat"));
        assert_ne!(counting(&text), counting(""));
    }

    #[test]
    fn what_operators_are_shown_is_a_configuration_that_means_the_same() {
        for yaml in ["", "profile: librechat", "limits: {login: {max: 3}}", "bans: {growth: null}"]
        {
            let config = Config::parse(yaml).expect("it is valid");
            assert_eq!(counting(&render(&config.effective)), counting(yaml));
        }
        let config = Config::parse("limits: {login: {max: 3}}").expect("it is valid");
        let text = render(&config.effective);
        assert!(text.contains("    max: 3  # in the configuration\n"), "{text}");
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
