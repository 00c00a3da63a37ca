//! How a server is to be run: where, on what disk, and whether it asks who somebody is.
//! What runs there is not known here.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use mongodb::bson::{Document, doc};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::namespace::Namespace;
use crate::process::{Process, Spawner};

/// See the module. The default: on loopback, on the disk that there is, for everybody.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    place: Option<(Namespace, Ipv4Addr)>,
    disk_mb: Option<u32>,
    pub(super) has_rights: bool,
}

impl Plan {
    /// In this namespace, on an address that it has.
    #[must_use]
    pub fn inside(mut self, namespace: &Namespace, ip: Ipv4Addr) -> Self {
        self.place = Some((namespace.clone(), ip));
        self
    }

    /// On a disk of its own of so many megabytes, which can be filled.
    #[must_use]
    pub fn on_disk(mut self, megabytes: u32) -> Self {
        self.disk_mb = Some(megabytes);
        self
    }

    /// With users and their rights; daemons come as one that may read and write.
    #[must_use]
    pub fn with_rights(mut self) -> Self {
        self.has_rights = true;
        self
    }

    pub(super) fn ip(&self) -> String {
        self.place.as_ref().map_or(Ipv4Addr::LOCALHOST, |(_, ip)| *ip).to_string()
    }

    /// Members of a set know each other by a file.
    pub(super) fn arguments(&self, folder: &Path) -> Result<Vec<String>> {
        if !self.has_rights {
            return Ok(Vec::new());
        }
        let path = folder.join("keyfile");
        fs::write(&path, "bW9kZXJhdGlvbg==").context("cannot write a key file")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(vec!["--keyFile".to_owned(), path.to_string_lossy().into_owned()])
    }

    pub(super) fn disk(&self, folder: &Path) -> Result<Option<Disk>> {
        self.disk_mb.map(|megabytes| Disk::mount(folder.join("disk"), megabytes)).transpose()
    }

    /// One that nobody listens on just now.
    pub(super) fn free_port(&self) -> Result<u16> {
        let find = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
            Ok(listener.local_addr()?.port())
        };
        match &self.place {
            Some((namespace, _)) => namespace.run(find),
            None => find(),
        }
    }

    pub(super) fn spawn(&self, command: Command) -> Result<Process> {
        match &self.place {
            Some((namespace, _)) => namespace.spawn(command),
            None => Spawner::here()?.spawn(command),
        }
    }
}

/// Somebody whom a server knows.
pub(super) struct User {
    pub(super) name: &'static str,
    password: &'static str,
}

impl User {
    pub(super) const ROOT: Self = Self { name: "root", password: "of-the-test" };
    pub(super) const APP: Self = Self { name: "app", password: "of-the-daemon" };

    /// In front of a host in a connection string.
    pub(super) fn in_uri(user: Option<&Self>) -> String {
        user.map(|user| format!("{}:{}@", user.name, user.password)).unwrap_or_default()
    }

    /// The command that makes one.
    pub(super) fn made(&self, role: &str, database: &str) -> Document {
        let roles = [doc! { "role": role, "db": database }];
        doc! { "createUser": self.name, "pwd": self.password, "roles": roles.to_vec() }
    }
}

/// A small disk in memory, unmounted when it is dropped; [`unmount_below`] finds what a
/// crash left.
#[derive(Debug)]
pub(super) struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf, megabytes: u32) -> Result<Self> {
        fs::create_dir(&path)?;
        let options = format!("size={megabytes}m");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .context("cannot mount a small disk")?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    pub(super) fn fill(&self) -> Result<()> {
        let mut file = File::create(self.ballast())?;
        let block = [1; 4_096];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("cannot fill the disk"),
            }
        }
    }

    pub(super) fn free(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("cannot free the disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

/// Unmounts the disks of a folder that is to go (`proc_pid_mountinfo(5)`, field 5).
pub(crate) fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot list mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    for point in points.filter(|point| point.starts_with(folder)) {
        umount2(point, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}
