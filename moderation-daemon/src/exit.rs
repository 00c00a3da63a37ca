//! How the binaries end: exit codes by sysexits.h, and errors with their
//! causes on standard error.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::{
    api::client::ClientError,
    blocklist::ReadError,
    config::ConfigError,
    network::{NetworkError, SocketError},
    pseudonym::PseudonymError,
};

/// It did not work, or was looked at and found wrong.
pub const FAILURE: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 64;
/// What was given to read makes no sense.
pub const DATA: u8 = 65;
/// What was to be read is not there, or cannot be opened.
pub const NO_INPUT: u8 = 66;
/// The daemon is not there, or cannot serve.
pub const UNAVAILABLE: u8 = 69;
/// A defect of ours.
pub const SOFTWARE: u8 = 70;
/// The kernel refuses something.
pub const OS: u8 = 71;
/// Something cannot be written.
pub const IO: u8 = 74;
/// It may work if it is tried again.
pub const TRY_AGAIN: u8 = 75;
/// The caller may not do that.
pub const NO_PERMISSION: u8 = 77;
/// The configuration is wrong.
pub const CONFIG: u8 = 78;

/// What the codes mean, by sysexits.h, for help and man pages.
pub const TABLE: [(u8, &str); 12] = [
    (0, "it worked"),
    (FAILURE, "it did not work, or doctor or xdp verify found a problem"),
    (USAGE, "the command line makes no sense"),
    (DATA, "what was given to read makes no sense"),
    (NO_INPUT, "what was to be read is not there, or cannot be opened"),
    (UNAVAILABLE, "the daemon cannot be reached"),
    (SOFTWARE, "a defect of ours"),
    (OS, "the kernel refuses something"),
    (IO, "something cannot be written"),
    (TRY_AGAIN, "the daemon has no time or no store just now: try again"),
    (NO_PERMISSION, "you may not do that"),
    (CONFIG, "the configuration is wrong"),
];

/// The table as the end of a help text.
pub fn help() -> String {
    let lines = TABLE.iter().map(|(code, meaning)| format!("\n  {code:<3} {meaning}"));
    format!("Exit codes:{}", lines.collect::<String>())
}

/// A whole program: parses the command line and does what it says.
pub fn main<A: Parser>(program: &str, run: impl FnOnce(A) -> anyhow::Result<()>) -> ExitCode {
    let arguments = match A::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(program, &error),
    }
}

/// Prints an error, its causes below it, and turns it into an exit code.
#[expect(clippy::print_stderr, reason = "this is what the user sees")]
fn report(program: &str, error: &anyhow::Error) -> ExitCode {
    eprintln!("{program}: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because {cause}");
    }
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    if is_caused_by::<ConfigError>(error)
        || is_caused_by::<PseudonymError>(error)
        || lacks_secret(error)
    {
        CONFIG
    } else if is_caused_by::<NeedsRoot>(error) || error.chain().any(is_denied) {
        NO_PERMISSION
    } else if is_caused_by::<Unreachable>(error) {
        if error.chain().any(is_nonsense) { SOFTWARE } else { UNAVAILABLE }
    } else if let Some(refused) = error.downcast_ref::<Refused>() {
        refused.code()
    } else if is_caused_by::<Interrupted>(error) {
        TRY_AGAIN
    } else if is_caused_by::<NotAsked>(error) || error.chain().any(is_usage) {
        USAGE
    } else if error.chain().any(|cause| matches!(cause.downcast_ref(), Some(ReadError::Bad { .. })))
    {
        DATA
    } else if is_caused_by::<NoInput>(error) {
        NO_INPUT
    } else if is_caused_by::<NotWritten>(error) {
        IO
    } else if is_caused_by::<NetworkError>(error) {
        OS
    } else {
        FAILURE
    }
}

#[cfg(feature = "mongodb")]
fn lacks_secret(error: &anyhow::Error) -> bool {
    is_caused_by::<crate::share::SecretError>(error)
}

#[cfg(not(feature = "mongodb"))]
const fn lacks_secret(_: &anyhow::Error) -> bool {
    false
}

/// Prints what goes wrong without ending anything.
#[expect(clippy::print_stderr, reason = "this is what the user sees")]
pub fn tell(consequence: &str, error: &dyn std::error::Error) {
    eprintln!("{consequence}: {error}");
}

/// Says something to the person in front of the terminal, apart from the result.
#[expect(clippy::print_stderr, reason = "this is what the user sees")]
pub fn tell_line(line: &str) {
    eprintln!("{line}");
}

/// Whether a cause is of a type, be it wrapped in context or not.
fn is_caused_by<E: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> bool {
    error.is::<E>() || error.chain().any(|cause| cause.downcast_ref::<E>().is_some())
}

fn is_usage(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(NetworkError::UnknownInterface(_)))
}

/// What another program than ours answers.
fn is_nonsense(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(ClientError::NoJson { .. }))
}

fn is_denied(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(SocketError::NotPermitted))
}

/// What was asked takes capabilities.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("only root can do this")]
pub struct NeedsRoot;

impl NeedsRoot {
    /// Refuses everyone but root.
    ///
    /// # Errors
    ///
    /// If the process is not root.
    pub fn check() -> Result<(), Self> {
        if nix::unistd::Uid::effective().is_root() { Ok(()) } else { Err(Self) }
    }
}

/// Nobody can be asked, and nobody said that nothing is to be asked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("there is no terminal to ask questions on; --yes takes the proposals")]
pub struct NotAsked;

/// What was begun was taken back.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Interrupted(pub &'static str);

/// The daemon does not answer; says what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the daemon cannot be reached: {0}")]
pub struct Unreachable(pub String);

/// The daemon answered, and said no.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// Why, in its words.
    pub detail: String,
}

impl Refused {
    const fn code(&self) -> u8 {
        match self.status {
            403 => NO_PERMISSION,
            408 | 429 | 503 => TRY_AGAIN,
            500 => SOFTWARE,
            _ => FAILURE,
        }
    }
}

/// A file that was named is not there, or cannot be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot read {}", .0.display())]
pub struct NoInput(pub PathBuf);

/// A file cannot be made or written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot write {}", .0.display())]
pub struct NotWritten(pub PathBuf);

/// Prints clap's own text, help and version included; a wrong command line is
/// [`USAGE`].
fn usage(error: &clap::Error) -> ExitCode {
    // A closed standard output is the reader's choice.
    drop(error.print());
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::{Context as _, anyhow};

    use super::*;

    fn refused(status: u16) -> anyhow::Error {
        Refused { status, detail: "no".to_owned() }.into()
    }

    #[test]
    fn what_went_wrong_is_told_by_the_code() {
        let missing = || Err::<(), _>(io::Error::from(io::ErrorKind::NotFound));
        let nonsense = serde_json::from_str::<u8>("x").expect_err("no number");
        let no_json = ClientError::NoJson { socket: "/s".into(), status: 200, source: nonsense };
        let bad = ReadError::Bad { count: 1, first: Vec::new() };
        let cases = [
            (anyhow!("something"), FAILURE),
            (refused(404), FAILURE),
            (refused(403), NO_PERMISSION),
            (refused(500), SOFTWARE),
            (refused(503), TRY_AGAIN),
            (refused(503).context("cannot lift anna"), TRY_AGAIN),
            (NeedsRoot.into(), NO_PERMISSION),
            (anyhow!(Unreachable("gone".to_owned())), UNAVAILABLE),
            (anyhow::Error::new(no_json).context(Unreachable("odd".to_owned())), SOFTWARE),
            (NetworkError::UnknownInterface("eth9".to_owned()).into(), USAGE),
            (NetworkError::NoCgroup.into(), OS),
            (anyhow::Error::new(bad).context("nothing was imported"), DATA),
            (missing().with_context(|| NoInput("/list".into())).expect_err("no"), NO_INPUT),
            (missing().with_context(|| NotWritten("/list".into())).expect_err("no"), IO),
        ];
        for (error, want) in cases {
            assert_eq!(code(&error), want, "{error:?}");
            assert!(TABLE.iter().any(|(code, _)| *code == want), "{want} is in the table");
        }
    }

    #[test]
    fn the_table_is_in_order_and_ends_the_help() {
        assert!(TABLE.is_sorted_by_key(|(code, _)| *code));
        assert!(help().contains("\n  75  the daemon has no time"), "{}", help());
    }
}
