//! `rateLimits` of a librechat.yaml. LibreChat writes those numbers into its
//! environment as text, so that is what comes out of here: assignments to
//! variables. Every other key of the file is somebody else's.

use serde_yaml::Value;

use super::number;

/// One number of `rateLimits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Where it stands: `rateLimits.fileUploads.ipMax`.
    pub key: String,
    /// The variable that LibreChat writes it to; `None`: to one that it never
    /// reads.
    pub variable: Option<String>,
    /// What it writes.
    pub text: String,
    /// Whether LibreChat v0.8.7 writes it before the variable is read.
    pub is_in_time: bool,
}

/// What `rateLimits` cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct BadYaml {
    /// Where.
    pub key: String,
    /// What is wrong.
    pub problem: &'static str,
}

/// Key, the variables' prefix, and whether the limiters are made after the file
/// is read: in v0.8.7 only those of the files' routes are, and in the versions
/// that have it, that of agents' events.
const SECTIONS: [(&str, &str, bool); 5] = [
    ("fileUploads", "FILE_UPLOAD", true),
    ("conversationsImport", "IMPORT", false),
    ("tts", "TTS", false),
    ("stt", "STT", false),
    ("agentEvents", "AGENT_EVENT", true),
];

const NUMBERS: [(&str, &str); 4] = [
    ("ipMax", "IP_MAX"),
    ("ipWindowInMinutes", "IP_WINDOW"),
    ("userMax", "USER_MAX"),
    ("userWindowInMinutes", "USER_WINDOW"),
];

/// The assignments that `rateLimits` makes.
///
/// # Errors
///
/// [`BadYaml`] where LibreChat refuses the whole file.
pub fn assignments(file: &Value) -> Result<Vec<Assignment>, BadYaml> {
    let limits = match file.get("rateLimits") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(limits) => limits,
    };
    expect_mapping(limits, "rateLimits")?;
    let mut found = Vec::new();
    for (section, prefix, is_in_time) in SECTIONS {
        let Some(numbers) = limits.get(section) else { continue };
        expect_mapping(numbers, &format!("rateLimits.{section}"))?;
        for (number, suffix) in NUMBERS {
            let Some(value) = numbers.get(number) else { continue };
            let key = format!("rateLimits.{section}.{number}");
            let value = value.as_f64().ok_or_else(|| bad(&key, "not a number"))?;
            let variable = format!("{prefix}_{suffix}");
            let variable = super::table::variable(&variable).map(|row| row.name.to_owned());
            found.push(Assignment { key, variable, text: number::to_text(value), is_in_time });
        }
    }
    Ok(found)
}

fn expect_mapping(value: &Value, key: &str) -> Result<(), BadYaml> {
    if value.is_mapping() { Ok(()) } else { Err(bad(key, "not a mapping")) }
}

fn bad(key: &str, problem: &'static str) -> BadYaml {
    BadYaml { key: key.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, BadYaml> {
        let value = serde_yaml::from_str(text).expect("it is YAML");
        let all = assignments(&value)?;
        Ok(all.into_iter().map(|it| (it.variable.unwrap_or_default(), it.text)).collect())
    }

    #[test]
    fn every_number_of_rate_limits_becomes_a_text_in_the_environment() {
        let sections = [
            ("fileUploads", "FILE_UPLOAD"),
            ("conversationsImport", "IMPORT"),
            ("tts", "TTS"),
            ("stt", "STT"),
        ];
        for (section, prefix) in sections {
            let text = format!(
                "rateLimits:\n  {section}:\n    ipMax: 1\n    ipWindowInMinutes: 2\n    \
                 userMax: 3\n    userWindowInMinutes: 4\n"
            );
            let want: Vec<_> = ["IP_MAX", "IP_WINDOW", "USER_MAX", "USER_WINDOW"]
                .iter()
                .zip(1..)
                .map(|(suffix, number)| (format!("{prefix}_{suffix}"), number.to_string()))
                .collect();
            assert_eq!(read(&text).expect("it is good"), want);
        }
        let events = "rateLimits: {agentEvents: {ipMax: 1, userMax: 3, userWindowInMinutes: 4}}";
        let own = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let want =
            [own("", "1"), own("AGENT_EVENT_USER_MAX", "3"), own("AGENT_EVENT_USER_WINDOW", "4")];
        assert_eq!(read(events).expect("it is good"), want);
    }

    #[test]
    fn numbers_are_written_as_javascript_writes_them() {
        let table =
            [("0", "0"), ("2.5", "2.5"), ("1e21", "1e+21"), ("1e-7", "1e-7"), (".inf", "Infinity")];
        for (number, want) in table {
            let text = format!("rateLimits: {{tts: {{ipMax: {number}}}}}");
            assert_eq!(read(&text).expect("it is good")[0].1, want, "{number}");
        }
    }

    #[test]
    fn other_keys_are_nobodys_business_here() {
        for text in ["", "version: 1.2.1", "rateLimits:", "rateLimits: {}", "rateLimits: {x: 1}"] {
            assert_eq!(read(text).expect("it is good"), [], "{text:?}");
        }
        assert_eq!(read("rateLimits: {tts: {ipMax: 1, burst: 2}}").expect("it is good").len(), 1);
    }

    #[test]
    fn what_librechat_would_refuse_is_refused_with_its_place() {
        let table = [
            ("rateLimits: 7", "rateLimits: not a mapping"),
            ("rateLimits: {tts: 7}", "rateLimits.tts: not a mapping"),
            ("rateLimits: {tts: {ipMax: '7'}}", "rateLimits.tts.ipMax: not a number"),
            ("rateLimits: {tts: {userMax: null}}", "rateLimits.tts.userMax: not a number"),
        ];
        for (text, want) in table {
            assert_eq!(read(text).expect_err("it is bad").to_string(), want);
        }
    }
}
