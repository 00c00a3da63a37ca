//! Where a value of the configuration comes from, and what there is to say about
//! it. Values that could be anything but a number or a switch are never shown: a
//! quote that somebody forgot in a `.env` makes a secret of the next line a part
//! of a limit.

use std::{collections::BTreeMap, fmt, path::PathBuf};

/// Origins by key: `limits.login.max`. Keys that are not here have the profile's
/// default.
pub type Origins = BTreeMap<String, Origin>;

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq)]
pub struct Origin {
    /// What set it: a variable, a key of librechat.yaml; empty for our own file.
    pub name: String,
    /// As it was written.
    text: String,
    /// Where.
    pub source: Source,
}

/// Where values come from, weakest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: it is what LibreChat takes when the variable is not set.
    Unset,
    /// LibreChat's `.env`.
    EnvFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The daemon's environment.
    Environment,
    /// A librechat.yaml.
    LibrechatYaml(PathBuf),
    /// Our own file; without a path, a text.
    Own(Option<PathBuf>),
}

impl Origin {
    pub(super) fn new(name: &str, text: &str, source: Source) -> Self {
        Self { name: name.to_owned(), text: text.to_owned(), source }
    }

    /// A value of our own file.
    pub(super) const fn own(path: Option<PathBuf>) -> Self {
        Self { name: String::new(), text: String::new(), source: Source::Own(path) }
    }

    /// What was written, as far as it can be shown, and where.
    pub(super) fn value(&self) -> String {
        let text = harmless(&self.text);
        match &self.source {
            Source::Unset => "not set".to_owned(),
            Source::EnvFile { path, line } => format!("{text} in {}:{line}", path.display()),
            Source::Environment => format!("{text} in the environment"),
            Source::LibrechatYaml(path) => format!("{} in {}", self.text, path.display()),
            Source::Own(Some(path)) => format!("in {}", path.display()),
            Source::Own(None) => "in the configuration".to_owned(),
        }
    }

    /// As LibreChat's records show it: the text of a variable that is set.
    pub(super) fn raw(&self) -> Option<&str> {
        let is_set = matches!(self.source, Source::EnvFile { .. } | Source::Environment);
        is_set.then_some(&*self.text)
    }
}

/// As it is shown: `text` could be anything.
impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Unset => write!(f, "{} is not set", self.name),
            Source::EnvFile { .. } | Source::Environment => {
                write!(f, "{}={}", self.name, self.value())
            }
            Source::LibrechatYaml(_) => write!(f, "{}: {}", self.name, self.value()),
            Source::Own(_) => f.write_str(&self.value()),
        }
    }
}

/// A text that can be shown: an expression, or a word too short for a secret.
fn harmless(text: &str) -> String {
    /// The longest words that make sense: "disabled", "Infinity".
    const WORD: usize = 8;
    const EXPRESSION: usize = 40;
    let is_arithmetic = |c: char| c.is_ascii_digit() || "+-*/%(). ".contains(c);
    let is_word = text.len() <= WORD && text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if is_word || (text.len() <= EXPRESSION && text.chars().all(is_arithmetic)) {
        format!("{text:?}")
    } else {
        "(not shown)".to_owned()
    }
}

/// Something that works, but probably not as it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub about: String,
    /// What there is to say.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_says_what_set_a_value_and_where() {
        let origin = |source| Origin::new("LOGIN_MAX", "3", source).to_string();
        let env = Source::EnvFile { path: "/opt/librechat/.env".into(), line: 12 };
        assert_eq!(origin(env), "LOGIN_MAX=\"3\" in /opt/librechat/.env:12");
        assert_eq!(origin(Source::Environment), "LOGIN_MAX=\"3\" in the environment");
        assert_eq!(origin(Source::Unset), "LOGIN_MAX is not set");
        let yaml = Source::LibrechatYaml("/opt/librechat.yaml".into());
        let yaml = Origin::new("rateLimits.tts.ipMax", "3", yaml).to_string();
        assert_eq!(yaml, "rateLimits.tts.ipMax: 3 in /opt/librechat.yaml");
        assert_eq!(Origin::own(None).to_string(), "in the configuration");
        assert_eq!(Origin::own(Some("/etc/m.yaml".into())).to_string(), "in /etc/m.yaml");
    }

    #[test]
    fn only_what_can_be_no_secret_is_shown() {
        for text in ["", "3", " 7 ", "abc", "Infinity", "1000 * 60 * 60 * 2", "-1", "5%(3)", "0x10"]
        {
            assert_eq!(harmless(text), format!("{text:?}"));
        }
        let digits = "1".repeat(41);
        for text in ["hunter2hunter2", "7\nB=c", "sk-123456", "ключ", &digits] {
            assert_eq!(harmless(text), "(not shown)", "{text:?}");
        }
    }
}
