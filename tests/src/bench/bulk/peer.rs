//! The peers of bulk loading, in a network namespace of their own: `nft -f` and
//! `ipset restore`. Each is asked afterwards whether it holds the list's last address.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::bench::list::{Language, SET, TABLE};
use crate::namespace::Namespace;
use crate::{process, wait};

/// Far beyond what either takes for a million.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Nft,
    Ipset,
}

impl Peer {
    /// As people call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft -f",
            Self::Ipset => "ipset restore",
        }
    }

    /// What it reads.
    pub(super) const fn language(self) -> Language {
        match self {
            Self::Nft => Language::Nft,
            Self::Ipset => Language::Ipset,
        }
    }

    /// Loads the list and says how long that took, from the start of its program to its
    /// end. What was loaded is gone afterwards.
    pub(super) fn load(self, place: &Namespace, list: &Path, last: IpAddr) -> Result<Duration> {
        let list = list.display().to_string();
        let begin = Instant::now();
        match self {
            Self::Nft => run(place, "nft", &["-f", &list])?,
            Self::Ipset => run(place, "ipset", &["restore", "-file", &list])?,
        }
        let took = begin.elapsed();
        self.ask(place, last).with_context(|| format!("{} did not load {last}", self.name()))?;
        self.empty(place)?;
        Ok(took)
    }

    fn ask(self, place: &Namespace, address: IpAddr) -> Result<()> {
        match self {
            // `nft get` would fetch the whole set first, for a quarter of a minute.
            Self::Nft => refuses_as_present(place, address),
            Self::Ipset => run(place, "ipset", &["test", SET, &address.to_string()]),
        }
    }

    fn empty(self, place: &Namespace) -> Result<()> {
        match self {
            Self::Nft => run(place, "nft", &["delete", "table", "inet", TABLE]),
            Self::Ipset => run(place, "ipset", &["destroy", SET]),
        }
    }
}

/// The kernel refuses to create what is there.
fn refuses_as_present(place: &Namespace, address: IpAddr) -> Result<()> {
    let element = format!("{{ {address} }}");
    match run(place, "nft", &["create", "element", "inet", TABLE, SET, &element]) {
        Ok(()) => bail!("it was not there"),
        Err(refusal) if format!("{refusal:#}").contains("File exists") => Ok(()),
        Err(error) => Err(error),
    }
}

/// Runs a program of the system inside, to its end.
fn run(place: &Namespace, program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = process::command(find(program)?);
    let mut complaint = tempfile::tempfile()?;
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(File::try_clone(&complaint)?);
    let mut process = place.spawn(command)?;
    let status = wait::until(program, PATIENCE, || process.exited())?;
    let mut text = String::new();
    complaint.rewind()?;
    complaint.read_to_string(&mut text)?;
    let line = arguments.first().copied().unwrap_or_default();
    ensure!(status.success(), "{program} {line} ended with {status}: {}", text.trim());
    Ok(())
}

/// Root's `PATH` may lack the folder that they are in.
fn find(program: &str) -> Result<PathBuf> {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(program));
    found.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("{program} is missing; run `cargo xtask bench`, which installs it")
    })
}
