//! What the doctor found: a grade, a sentence, and what to do. In the form in which the
//! daemon tells its own, so that both are one report.

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Grade {
    /// As it should be.
    Ok,
    /// Good to know, or it could not be looked at.
    Note,
    /// It works, but look at it.
    Warning,
    /// It does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Finding {
    pub(super) check: String,
    pub(super) grade: Grade,
    pub(super) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &str, text: impl Into<String>) -> Self {
        Self { check: check.to_owned(), grade: Grade::Ok, text: text.into(), advice: None }
    }

    pub(super) fn note(check: &str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Note, ..Self::ok(check, text) }
    }

    pub(super) fn wrong(
        check: &str,
        grade: Grade,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { grade, advice: Some(advice.into()), ..Self::ok(check, text) }
    }
}

/// All about one thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) findings: Vec<Finding>,
}

/// A grade's colour, by its name.
pub(super) fn style(grade: &str) -> Style {
    let colour = match grade {
        "ok" => AnsiColor::Green,
        "note" => AnsiColor::Cyan,
        "warning" => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    let style = Style::new().fg_color(Some(colour.into()));
    if grade == "problem" { style.bold() } else { style }
}
