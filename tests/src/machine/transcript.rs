//! What somebody types who is new to all this, what is printed, and how long it takes;
//! as a page of the documentation.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Machine;

/// Lines that one command may take of the page; the middle of longer ones is left out.
const MAX_LINES: usize = 40;

/// See the module.
#[derive(Debug, Default)]
pub struct Transcript {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    command: String,
    printed: String,
    took: Duration,
}

impl Transcript {
    /// Nothing typed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a command, which must succeed, and writes it down.
    pub(super) fn run(&mut self, machine: &mut Machine, command: &str) -> Result<String> {
        let start = Instant::now();
        let outcome = machine.try_run(&format!("({command}) 2>&1"))?;
        let took = start.elapsed();
        ensure!(outcome.code == 0, "`{command}`: exit code {}\n{}", outcome.code, outcome.stdout);
        let printed = outcome.stdout.clone();
        self.entries.push(Entry { command: command.to_owned(), printed, took });
        Ok(outcome.stdout)
    }

    /// How many commands it took.
    pub fn commands(&self) -> usize {
        self.entries.len()
    }

    /// How long all of them took together.
    pub fn took(&self) -> Duration {
        self.entries.iter().map(|entry| entry.took).sum()
    }

    /// The page; `machine` says what they were typed on.
    pub fn page(&self, machine: &str) -> String {
        let mut page = format!(
            "# From nothing to a dropped packet\n\n\
             Written by `cargo xtask test-vm --transcript` on {machine}: {} commands, \
             {:.0} s.\n",
            self.commands(),
            self.took().as_secs_f64()
        );
        for entry in &self.entries {
            let command = entry.command.replace("/mnt/present.deb", "./moderation_*.deb");
            let printed =
                shorten(&entry.printed.replace("/mnt/present.deb", "./moderation_0.0.1.deb"));
            let took = entry.took.as_secs_f64();
            page.push_str(&format!("\n{took:.1} s:\n\n```console\n# {command}\n{printed}```\n"));
        }
        page
    }
}

/// Without what terminals make of control characters, trailing space, and the middle.
fn shorten(printed: &str) -> String {
    let lines: Vec<&str> = printed
        .lines()
        .map(|line| line.rsplit('\r').next().unwrap_or(line).trim_end())
        .filter(|line| !line.is_empty())
        .collect();
    let mut text = String::new();
    let spare = lines.len().saturating_sub(MAX_LINES);
    let (from, to) = (MAX_LINES / 2, MAX_LINES / 2 + spare);
    for (number, line) in lines.iter().enumerate() {
        if spare == 0 || number < from || number >= to {
            text.push_str(line);
            text.push('\n');
        } else if number == from {
            text.push_str("…\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_long_print_is_left_out() {
        let printed: String = (0..100).map(|line| format!("{line}\n")).collect();
        let short = shorten(&printed);
        assert_eq!(short.lines().count(), MAX_LINES + 1);
        assert!(short.starts_with("0\n1\n"), "{short}");
        assert!(short.ends_with("98\n99\n"), "{short}");
    }
}
