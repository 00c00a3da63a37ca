//! The programs of the system that building, testing and measuring need, the Debian
//! packages that they come from, and installing those.

use std::env;
use std::path::PathBuf;

use anyhow::Result;

use crate::project::Project;
use crate::step;

/// Programs that come with the system.
pub(super) const PROGRAMS: &[Program] = &[
    Program {
        name: "cc",
        packages: &["gcc", "libc6-dev"],
        needed_for: "linking, and building the bundled SQLite",
    },
    Program {
        name: "ip",
        packages: &["iproute2"],
        needed_for: "the network namespaces of tests and demo",
    },
    Program {
        name: "setpriv",
        packages: &["util-linux"],
        needed_for: "running the daemon without privilege in tests and demo",
    },
];

/// What runs JavaScript.
pub(super) const NODE: &[Program] = &[
    Program {
        name: "node",
        packages: &["nodejs"],
        needed_for: "the app behind nginx, the client for Node, and LibreChat's libraries, which \
                     the `librechat` profile is compared with",
    },
    Program { name: "npm", packages: &["npm"], needed_for: "installing what these need" },
];

/// Programs that tests compare ours with, or try what is made with; nothing else needs
/// them.
pub(super) const COMPARED: &[Program] = &[
    Program { name: "curl", packages: &["curl"], needed_for: "the client's examples" },
    Program { name: "openssl", packages: &["openssl"], needed_for: "certificates in tests" },
    Program { name: "python3", packages: &["python3"], needed_for: "the client's examples" },
    Program {
        name: "groff",
        packages: &["groff-base"],
        needed_for: "reading the manual pages that the programs write",
    },
    Program { name: "pip", packages: &["python3-pip"], needed_for: "installing mongod" },
];

/// Tests count in it, and benchmarks compare ours with it.
pub(super) const REDIS: Program = Program {
    name: "redis-server",
    packages: &["redis-server"],
    needed_for: "counters that hosts share, in tests and in benchmarks, and a peer of `bench api`",
};

/// It cuts networks in tests, and is a peer of benchmarks.
pub(super) const NFT: Program = Program {
    name: "nft",
    packages: &["nftables"],
    needed_for: "cutting the network in tests, a peer of `bench bulk`, and fail2ban's firewall",
};

/// It asks the daemon, in tests and in benchmarks.
pub(super) const NGINX: Program = Program {
    name: "nginx",
    packages: &["nginx"],
    needed_for: "hosts that are protected with no change to the app, in tests, demo and \
                 benchmarks",
};

/// They make the machines that the package is installed on.
pub(super) const MACHINES: &[Program] = &[
    Program {
        name: "debootstrap",
        packages: &["debootstrap", "debian-archive-keyring"],
        needed_for: "Debian systems that tests install the package on",
    },
    Program { name: "mke2fs", packages: &["e2fsprogs"], needed_for: "their disks" },
];

/// It runs those machines that have a kernel of their own; nothing else needs it.
pub(super) const QEMU: Program =
    Program { name: "qemu-system-x86_64", packages: &["qemu-system-x86"], needed_for: "`test-vm`" };

/// It shows the page of who is denied, in tests; the font is for machines that have none.
pub(super) const BROWSER: Program = Program {
    name: "chromium-headless-shell",
    packages: &["chromium-headless-shell", "fonts-dejavu-core"],
    needed_for: "looking at the page that denied people see, in tests",
};

/// Programs that benchmarks compare ours with; nothing else needs them.
pub(super) const PEERS: &[Program] = &[
    Program {
        name: "xdp-filter",
        packages: &["xdp-tools"],
        needed_for: "the peer of `bench datapath`",
    },
    Program { name: "ipset", packages: &["ipset"], needed_for: "a peer of `bench bulk`" },
    Program {
        name: "fail2ban-server",
        packages: &["fail2ban"],
        needed_for: "the peer of `bench latency`, and of `bench nginx` where logs are read",
    },
    Program { name: "wrk", packages: &["wrk"], needed_for: "the load of `bench nginx`" },
    Program {
        // A module, without which fail2ban looks at its logs once a second.
        name: "/usr/lib/python3/dist-packages/pyinotify.py",
        packages: &["python3-pyinotify"],
        needed_for: "fail2ban to hear of log lines at once",
    },
];

/// What fuzzing needs; nothing else does.
pub(super) const FUZZING: Program =
    Program { name: "c++", packages: &["g++"], needed_for: "building libFuzzer" };

/// What packing needs; nothing else does.
pub(super) const PACKING: &[Program] = &[
    Program {
        name: "dpkg-shlibdeps",
        packages: &["dpkg-dev"],
        needed_for: "finding the libraries that the package depends on",
    },
    Program {
        name: "strip",
        packages: &["binutils"],
        needed_for: "leaving out of the package what only debuggers read",
    },
    Program { name: "git", packages: &["git"], needed_for: "the time of the last commit" },
];

/// A program of the system and the Debian packages that it comes from.
pub(super) struct Program {
    /// Found in `PATH`, unless it is an absolute path.
    pub(super) name: &'static str,
    pub(super) packages: &'static [&'static str],
    pub(super) needed_for: &'static str,
}

/// Looks in `PATH` and in the folders of system programs, which a user's `PATH` may lack.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

fn packages(programs: &[&Program]) -> Vec<&'static str> {
    programs.iter().flat_map(|program| program.packages).copied().collect()
}

pub(super) fn how_to_install(programs: &[&Program], is_debian: bool) -> String {
    let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
    let names = names.join(", ");
    let packages = packages(programs).join(" ");
    let advice = if is_debian {
        format!("to install them, run:\n  sudo apt-get install -y {packages}")
    } else {
        format!("install them with your package manager (in Debian they are in: {packages})")
    };
    format!("missing programs: {names}; {advice}")
}

/// Installs the packages of all `programs` in one go.
///
/// # Errors
///
/// When apt-get fails.
pub(super) fn install_programs(project: &Project, programs: &[&Program]) -> Result<()> {
    if programs.is_empty() {
        return Ok(());
    }
    install_packages(project, &packages(programs))
}

/// Installs Debian packages.
///
/// # Errors
///
/// When apt-get fails.
pub(super) fn install_packages(project: &Project, packages: &[&str]) -> Result<()> {
    step::heading(format!("setup: installing the packages {}", packages.join(" ")));
    apt_get(project, &["update"])?;
    let options = ["install", "-y", "--no-install-recommends"];
    apt_get(project, &[&options, packages].concat())
}

fn apt_get(project: &Project, arguments: &[&str]) -> Result<()> {
    let mut command = project.command("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
    step::run_quietly_on_stdout(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_only_where_it_exists() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program").is_none());
    }

    #[test]
    fn on_debian_the_advice_is_a_command_to_copy() {
        let programs: Vec<&Program> = PROGRAMS.iter().collect();
        let advice = how_to_install(&programs[..2], true);
        assert!(advice.ends_with("\n  sudo apt-get install -y gcc libc6-dev iproute2"), "{advice}");
    }
}
