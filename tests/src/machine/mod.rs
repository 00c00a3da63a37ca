//! Machines of their own for tests: Debian 12 with systemd as process 1, which begins as
//! it was installed and forgets everything when its handle goes. A container boots in a
//! second on this machine's kernel; a virtual machine in half a minute on Debian's own.
//! Neither has a network to the outside; what they are given lies at `/mnt`. What is
//! done in them is the experiment's affair.

pub mod sandbox;
pub mod site;
pub mod story;

mod container;
mod inventory;
mod luggage;
mod qemu;
mod transcript;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use container::Container;
pub use inventory::Inventory;
pub use luggage::Luggage;
use qemu::Qemu;
pub use transcript::Transcript;

use crate::{need, wait};

/// For a command; a machine that is emulated takes the more the busier this one is.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A container on this machine's kernel.
    Container,
    /// A virtual machine with Debian 12's kernel, 6.1.
    Stable,
    /// A virtual machine with the kernel of its backports, 6.12.
    Backports,
}

impl Kind {
    /// The folder of the system in `.servers/debian`.
    fn name(self) -> &'static str {
        match self {
            Self::Container => "root",
            Self::Stable => "6.1",
            Self::Backports => "6.12",
        }
    }

    /// Where setup puts what it boots.
    fn folder(self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        root.join(".servers/debian").join(self.name())
    }

    /// `if !kind.is_here() { return Ok(()); }` at the start of a test.
    #[must_use]
    pub fn is_here(self) -> bool {
        let what = match self {
            Self::Container => "a Debian root file system (`cargo xtask setup`)",
            Self::Stable | Self::Backports => "disks of Debian (`cargo xtask test-vm`)",
        };
        // Written last.
        need::root() && need::is_met(what, self.folder().join("recipe").is_file())
    }
}

/// What came of a script.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code, as the shell counts.
    pub code: i32,
    /// What it printed on standard output.
    pub stdout: String,
    /// What it printed on standard error.
    pub stderr: String,
}

impl Outcome {
    /// What it printed on standard output, if it succeeded.
    pub fn success(self, script: &str) -> Result<String> {
        let Self { code, stdout, stderr } = self;
        ensure!(code == 0, "`{script}` in the machine: exit code {code}\n{stdout}{stderr}");
        Ok(stdout)
    }
}

/// A running machine; dropped, it is gone with all that was done in it.
#[derive(Debug)]
pub struct Machine {
    backend: Backend,
    kind: Kind,
}

#[derive(Debug)]
enum Backend {
    // Behind a pointer: a handle is moved about, and these are large.
    Container(Box<Container>),
    Qemu(Box<Qemu>),
}

impl Machine {
    /// Boots one and waits until systemd is done with that. It finds what it was given at
    /// `/mnt`, for reading.
    pub fn boot(kind: Kind, luggage: Luggage) -> Result<Self> {
        let folder = kind.folder();
        let backend = match kind {
            Kind::Container => Backend::Container(Box::new(Container::start(&folder, luggage)?)),
            Kind::Stable | Kind::Backports => {
                Backend::Qemu(Box::new(Qemu::start(&folder, &luggage)?))
            }
        };
        let mut machine = Self { backend, kind };
        machine.settle()?;
        Ok(machine)
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How much longer things take in it than here: for patience.
    pub fn slowness(&self) -> u32 {
        match self.kind {
            Kind::Container => 1,
            Kind::Stable | Kind::Backports => 10,
        }
    }

    /// Runs a shell script as root to its end, whatever that is.
    pub fn try_run(&mut self, script: &str) -> Result<Outcome> {
        let patience = PATIENCE * self.slowness();
        let outcome = match &mut self.backend {
            Backend::Container(container) => container.run(script, patience),
            Backend::Qemu(qemu) => qemu.run(script, patience),
        };
        outcome.with_context(|| format!("cannot run `{script}` in the machine{}", self.last()))
    }

    /// Runs a shell script as root, which must succeed; returns what it printed.
    pub fn run(&mut self, script: &str) -> Result<String> {
        self.try_run(script)?.success(script)
    }

    /// Runs a script again and again until it succeeds; returns what it printed then.
    pub fn await_success(&mut self, script: &str, patience: Duration) -> Result<String> {
        let patience = patience * self.slowness();
        wait::until(&format!("`{script}` in the machine to succeed"), patience, || {
            let outcome = self.try_run(script)?;
            Ok((outcome.code == 0).then_some(outcome.stdout))
        })
    }

    /// Reboots it as `systemctl reboot` does, and waits until it is up again.
    pub fn reboot(&mut self) -> Result<()> {
        match &mut self.backend {
            Backend::Container(container) => container.reboot(),
            Backend::Qemu(qemu) => qemu.reboot(),
        }
        .with_context(|| format!("cannot reboot the machine{}", self.last()))?;
        self.settle()
    }

    /// The end of what it said on its console, to be shown when something failed.
    pub fn last(&self) -> String {
        let console = match &self.backend {
            Backend::Container(container) => container.console(),
            Backend::Qemu(qemu) => qemu.console(),
        };
        let lines: Vec<&str> = console.lines().collect();
        let end = &lines[lines.len().saturating_sub(40)..];
        format!("\nthe end of its console:\n{}", end.join("\n"))
    }

    /// A shell in it, for people; it ends when they leave it.
    pub fn shell(&mut self) -> Result<()> {
        match &mut self.backend {
            Backend::Container(container) => container.shell(),
            Backend::Qemu(qemu) => qemu.shell(),
        }
    }

    /// Waits for the end of the boot; units that failed are the experiment's affair.
    fn settle(&mut self) -> Result<()> {
        let state = self.try_run("systemctl is-system-running --wait")?;
        match state.stdout.trim() {
            "running" | "degraded" => Ok(()),
            other => bail!("the machine is {other} after its boot{}", self.last()),
        }
    }
}
