//! Asking on the terminal. Where there is none, or nobody wants to be asked, the
//! proposals are the answers.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::exit::NotAsked;

/// Who answers.
#[derive(Debug)]
pub(super) enum Terminal {
    /// A person.
    Person,
    /// Nobody: every proposal is taken.
    Nobody,
}

impl Terminal {
    /// A person, unless it was said that nobody is to be asked.
    pub(super) fn new(is_yes: bool) -> Result<Self, NotAsked> {
        if is_yes {
            return Ok(Self::Nobody);
        }
        if io::stdin().is_terminal() && io::stderr().is_terminal() {
            return Ok(Self::Person);
        }
        Err(NotAsked)
    }

    /// A line; an empty one is the proposal.
    pub(super) fn ask(&mut self, question: &str, proposal: &str) -> io::Result<String> {
        let shown = if proposal.is_empty() { "none" } else { proposal };
        match self {
            Self::Nobody => Ok(proposal.to_owned()),
            Self::Person => {
                write!(io::stderr(), "{question} [{shown}] ")?;
                let answer = line()?;
                Ok(if answer.is_empty() { proposal.to_owned() } else { answer })
            }
        }
    }

    /// Whether a yes came in time.
    pub(super) fn confirm(&mut self, question: &str, patience: Duration) -> io::Result<bool> {
        if matches!(self, Self::Nobody) {
            return Ok(true);
        }
        write!(io::stderr(), "{question} [yes/no] ")?;
        let stdin = io::stdin();
        let mut waiting = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        if poll(&mut waiting, patience)? == 0 {
            writeln!(io::stderr())?;
            return Ok(false);
        }
        Ok(is_yes(&line()?))
    }
}

fn line() -> io::Result<String> {
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "nobody answers"));
    }
    Ok(line.trim().to_owned())
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        for (answer, yes) in
            [("yes", true), ("Y", true), ("YES", true), ("", false), ("no", false), ("ja", false)]
        {
            assert_eq!(is_yes(answer), yes, "{answer:?}");
        }
    }

    #[test]
    fn nobody_takes_what_is_proposed() {
        let mut nobody = Terminal::Nobody;
        assert_eq!(nobody.ask("Which?", "eth0").expect("nothing is read"), "eth0");
        assert!(nobody.confirm("Is it?", Duration::ZERO).expect("nothing is read"));
    }
}
