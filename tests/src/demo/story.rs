//! The story as text: numbered lines with aligned figures, in colour only
//! where colour is wanted. It measures nothing.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr, stdout};

use anyhow::Result;

use crate::interrupt;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";

/// Who the demo is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The story is told on standard output.
    Person,
    /// The story goes to standard error; standard output is the caller's.
    Program,
}

/// The narrator.
pub(super) struct Story {
    out: Box<dyn Write>,
    coloured: bool,
    chapter: usize,
}

impl Story {
    pub(super) fn begin(audience: Audience, title: &str) -> Result<Self> {
        let (out, terminal): (Box<dyn Write>, _) = match audience {
            Audience::Person => (Box::new(stdout()), stdout().is_terminal()),
            Audience::Program => (Box::new(stderr()), stderr().is_terminal()),
        };
        // https://no-color.org: set and not empty means no colour.
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let mut story = Self { out, coloured: terminal && wanted, chapter: 0 };
        let system = nix::sys::utsname::uname()?;
        let kernel = format!("Linux {}", system.release().to_string_lossy());
        let title = story.paint(BOLD, title);
        writeln!(story.out, "\n  {title}  {}\n", story.paint(DIM, &kernel))?;
        Ok(story)
    }

    /// One chapter: what happened, and the figure that shows it. Fails once
    /// the user asked to stop.
    pub(super) fn tell(&mut self, what: &str, figure: impl Display, unit: &str) -> Result<()> {
        interrupt::check()?;
        self.chapter += 1;
        let number = self.paint(DIM, &format!("{:>4}", self.chapter));
        let figure = self.paint(BOLD, &format!("{:>9}", figure.to_string()));
        writeln!(self.out, "{number}  {what:<74} {figure} {unit}")?;
        Ok(self.out.flush()?)
    }

    /// What did not come out as claimed, or else the moral.
    pub(super) fn end(&mut self, shortcomings: &[String]) -> Result<()> {
        for shortcoming in shortcomings {
            writeln!(self.out, "\n  {} {shortcoming}", self.paint(RED, "✗"))?;
        }
        if shortcomings.is_empty() {
            let moral = "The abuser's packets died in the kernel, and only the abuser's.";
            writeln!(self.out, "\n  {} {moral}", self.paint(GREEN, "✓"))?;
        }
        writeln!(self.out)?;
        Ok(self.out.flush()?)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
