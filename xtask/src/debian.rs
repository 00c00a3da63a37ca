//! Debian systems for the tests that install the package: a root file system, which runs
//! as a container, and for virtual machines a kernel, its initramfs and a disk. They are
//! kept in `.servers/debian`, each with the recipe that it was made by, and made anew
//! when that changes. Boots nothing; the tests do.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::project::Project;
use crate::step;

const RELEASE: &str = "bookworm";

/// Beyond what is essential. A package under test brings nothing along, for the machines
/// have no network: what it depends on or recommends is here.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,udev,iproute2,kmod,curl,ca-certificates,\
                        iputils-ping,procps,ethtool";

const ROOT_SCRIPT: &str = include_str!("debian/root.sh");
const KERNEL_SCRIPT: &str = include_str!("debian/kernel.sh");
const AGENT: &str = include_str!("debian/agent.sh");
const AGENT_UNIT: &str = include_str!("debian/agent.service");

/// The file in each system's folder that says how it was made; written last.
const RECIPE: &str = "recipe";

/// One thing to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// The root file system alone, for containers.
    Root,
    /// With Debian 12's own kernel, 6.1.
    Stable,
    /// With the kernel of its backports, 6.12.
    Backports,
}

impl System {
    /// What its folder is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Stable => "6.1",
            Self::Backports => "6.12",
        }
    }

    /// What its kernel comes from.
    fn suite(self) -> &'static str {
        match self {
            Self::Root | Self::Stable => RELEASE,
            Self::Backports => "bookworm-backports",
        }
    }

    /// Everything that it depends on, so that another recipe means another system.
    fn recipe(self) -> String {
        let root = format!("{RELEASE} {PACKAGES}\n{ROOT_SCRIPT}");
        match self {
            Self::Root => root,
            Self::Stable | Self::Backports => {
                format!("{root}\n{}\n{KERNEL_SCRIPT}\n{AGENT}\n{AGENT_UNIT}", self.suite())
            }
        }
    }
}

/// The folder of the system, if it is complete and made by today's recipe.
pub(crate) fn find(project: &Project, system: System) -> Option<PathBuf> {
    let folder = folder(project, system);
    let recipe = fs::read_to_string(folder.join(RECIPE)).ok()?;
    (recipe == system.recipe()).then_some(folder)
}

/// Makes it, which takes two minutes and a mirror of Debian. Needs root.
///
/// # Errors
///
/// When debootstrap or apt fails, or the disk is full.
pub(crate) fn provide(project: &Project, system: System) -> Result<()> {
    let folder = folder(project, system);
    let staging = project.servers().join("debian").join(format!("{}.new", system.name()));
    remove(&staging)?;
    fs::create_dir_all(&staging).with_context(|| format!("cannot create {}", staging.display()))?;
    step::heading(format!("setup: Debian {RELEASE} for test machines, {}", system.name()));
    match system {
        System::Root => make_root(project, &staging)?,
        System::Stable | System::Backports => make_kernel(project, system, &staging)?,
    }
    write(&staging.join(RECIPE), &system.recipe())?;
    remove(&folder)?;
    fs::rename(&staging, &folder).with_context(|| format!("cannot name {}", folder.display()))
}

fn make_root(project: &Project, staging: &Path) -> Result<()> {
    let script = staging.join("root.sh");
    write(&script, ROOT_SCRIPT)?;
    let mut command = project.command("unshare");
    command.args(["--mount", "sh"]).arg(script).arg(staging.join("tree"));
    step::run_quietly_on_stdout(command.args([RELEASE, PACKAGES]))
}

fn make_kernel(project: &Project, system: System, staging: &Path) -> Result<()> {
    let script = staging.join("kernel.sh");
    write(&script, KERNEL_SCRIPT)?;
    write(&staging.join("agent.sh"), AGENT)?;
    write(&staging.join("agent.service"), AGENT_UNIT)?;
    let root = folder(project, System::Root).join("tree");
    let mut command = project.command("unshare");
    command.args(["--mount", "sh"]).arg(script).arg(root);
    command.arg(staging.join("tree")).arg(staging).arg(system.suite());
    step::run_quietly_on_stdout(&mut command)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn folder(project: &Project, system: System) -> PathBuf {
    project.servers().join("debian").join(system.name())
}
