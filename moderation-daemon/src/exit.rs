//! How the binaries end: exit codes by sysexits.h, and errors with their
//! causes on standard error.

use std::process::ExitCode;

use clap::Parser;

use crate::{
    config::ConfigError,
    network::{NetworkError, SocketError},
    pseudonym::PseudonymError,
};

/// The command line makes no sense.
pub const USAGE: u8 = 64;
/// The daemon is not there, or cannot serve.
pub const UNAVAILABLE: u8 = 69;
/// It did not work out this time.
pub const TEMPORARY: u8 = 75;
/// The caller may not do that.
pub const NO_PERMISSION: u8 = 77;
/// The configuration is wrong.
pub const CONFIG: u8 = 78;

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
        UNAVAILABLE
    } else if is_caused_by::<Interrupted>(error) {
        TEMPORARY
    } else if is_caused_by::<NotAsked>(error) || error.chain().any(is_usage) {
        USAGE
    } else {
        1
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

/// Prints clap's own text, help and version included; a wrong command line is
/// [`USAGE`].
fn usage(error: &clap::Error) -> ExitCode {
    // A closed standard output is the reader's choice.
    drop(error.print());
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}
