//! Names that say which process made a thing, so that the leftovers of a dead
//! one can be told from the belongings of a living one.

use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// What every name begins with.
const PREFIX: &str = "mod";

/// A process, unmistakably: its number alone is given to another after it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    /// When it started, in clock ticks since boot (proc_pid_stat(5), field 22).
    started: u64,
}

impl Owner {
    /// This process.
    pub(crate) fn current() -> Result<Self> {
        let pid = std::process::id();
        let started = started(pid).context("cannot read this process's start time in /proc")?;
        Ok(Self { pid, started })
    }

    /// Who made the thing of this name; `None` if it is none of the lab's.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.splitn(3, '-');
        let pid = parts.next()?.parse().ok()?;
        let started = parts.next()?.parse().ok()?;
        parts.next()?;
        Some(Self { pid, started })
    }

    /// Whether that very process still exists.
    pub(crate) fn is_alive(self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}-{}-{}", self.pid, self.started)
    }
}

/// A name that nothing else has: `mod-<pid>-<start time>-<number>`. It contains
/// no dot, which bpffs would refuse.
pub(crate) fn fresh() -> Result<String> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    Ok(format!("{}-{number}", Owner::current()?))
}

fn started(pid: u32) -> Option<u64> {
    start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field, the command, is in parentheses and may itself contain
/// spaces and parentheses; fields are counted after the last of them.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_name_leads_back_to_this_process() {
        let name = fresh().expect("a name");
        let owner = Owner::of(&name).expect("one of the lab's");
        assert_eq!(owner, Owner::current().expect("this process"));
        assert!(owner.is_alive());
        assert_eq!(Owner::of(&format!("{name}-host")), Some(owner));
    }

    #[test]
    fn a_pid_that_was_given_to_another_is_not_alive() {
        let owner = Owner { pid: std::process::id(), started: 1 };
        assert!(!owner.is_alive());
    }

    #[test]
    fn names_of_others_are_nobodys() {
        for name in ["mod", "mod-1", "mod-1-2", "mod-x-2-3", "mod--1-2-3", "model-1-2-3", "1-2-3"] {
            assert_eq!(Owner::of(name), None, "{name}");
        }
    }

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 4711 99 100";
        assert_eq!(start_time(stat), Some(4711));
    }
}
