//! `vm --kernel 6.1|6.12|host`, as root: the life of the package on a machine, or a shell
//! on one. `cargo xtask test-vm` builds what it needs and runs it; the story is the
//! library's.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use moderation_tests::daemon;
use moderation_tests::interrupt;
use moderation_tests::machine::{Kind, Luggage, Machine, sandbox, site, story};

/// Lives with the package on a machine of its own.
#[derive(Parser)]
struct Arguments {
    /// Whose kernel: Debian's, its backports', or this machine's (a container).
    #[arg(long, value_enum)]
    kernel: Kernel,
    /// Read commands for a chat host with the packages at /mnt, instead of the story.
    #[arg(long)]
    shell: bool,
    /// Write what a new user would see into this file.
    #[arg(long, value_name = "FILE")]
    transcript: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kernel {
    #[value(name = "6.1")]
    Stable,
    #[value(name = "6.12")]
    Backports,
    #[value(name = "host")]
    Host,
}

impl Kernel {
    fn kind(self) -> Kind {
        match self {
            Self::Stable => Kind::Stable,
            Self::Backports => Kind::Backports,
            Self::Host => Kind::Container,
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Stable => "Debian 12 with its own kernel, 6.1, emulated by qemu without KVM",
            Self::Backports => "Debian 12 with kernel 6.12, emulated by qemu without KVM",
            Self::Host => "Debian 12 in a container",
        }
    }
}

/// What the issue of installing promises a new user.
const MAX_COMMANDS: usize = 10;
const MAX_SECONDS: u64 = 300;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    interrupt::watch()?;
    if arguments.shell { shell(arguments.kernel) } else { play(arguments) }
}

fn play(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let measured = story::play(arguments.kernel.kind())?;
    let transcript = &measured.transcript;
    let (commands, took) = (transcript.commands(), transcript.took());
    ensure!(commands <= MAX_COMMANDS, "a new user needs {commands} commands");
    ensure!(took.as_secs() < MAX_SECONDS, "a new user needs {took:?}");
    eprintln!(
        "all of it took {:.0?}; a new user: {commands} commands, {took:.0?}",
        start.elapsed()
    );
    if let Some(path) = &arguments.transcript {
        let page = transcript.page(arguments.kernel.description());
        fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn shell(kernel: Kernel) -> Result<()> {
    let mut luggage = Luggage::new()?;
    site::pack(&mut luggage)?;
    sandbox::pack(&mut luggage)?;
    for package in ["present.deb", "next.deb"] {
        luggage.pack(&daemon::binary(&format!("machine/{package}"))?, package)?;
    }
    eprintln!("booting; apt-get install /mnt/present.deb installs the package");
    let mut machine = Machine::boot(kernel.kind(), luggage)?;
    site::build(&mut machine)?;
    machine.shell()
}
