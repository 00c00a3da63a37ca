//! What shells need to complete the commands and options of this program, from the
//! same source as its help. Subjects (addresses, bans) are not completed: that would
//! take a question to the daemon at each press of a key.

use std::io::{self, Write as _};

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use super::command::Arguments;

/// Prints the script of a shell.
pub(super) fn print(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "moderationctl", &mut script);
    match io::stdout().write_all(&script) {
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
