//! One network namespace, removed with all processes inside when the last
//! handle goes. It is entered by `setns` on a thread of its own: `ip netns
//! exec` would remount `/sys` and hide bpffs.

use std::fs::{self, File};
use std::io::Write;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{Process, Spawner};

/// Where iproute2 keeps a file per namespace (ip-netns(8)).
pub(crate) const FOLDER: &str = "/run/netns";

/// A handle on a namespace; clones share it.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // In this order: the children die before their namespace goes.
    spawner: Spawner,
    name: Name,
}

/// A namespace's name; dropping it removes the namespace.
#[derive(Debug)]
struct Name(String);

impl Drop for Name {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("{error:#}");
        }
    }
}

impl Namespace {
    /// Makes a namespace whose loopback is up and whose IPv6 addresses work at
    /// once (no duplicate address detection).
    pub(crate) fn create(name: String) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        let name = Name(name);
        let path = path(&name.0);
        let spawner = Spawner::start(move || enter(&path))?;
        let namespace = Self(Arc::new(Inner { spawner, name }));
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        namespace.configure(&["link set lo up"])?;
        Ok(namespace)
    }

    /// Its name as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.0.name.0
    }

    /// Runs `experiment` on a new thread inside. Sockets that it opens stay
    /// inside and may be used from anywhere.
    pub fn run<T: Send>(&self, experiment: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = path(self.name());
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                enter(&path)?;
                experiment()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts a child inside; see [`Spawner::spawn`].
    pub fn spawn(&self, command: Command) -> Result<Process> {
        self.0.spawner.spawn(command)
    }

    /// Feeds lines to `ip`, such as `link set lo up`.
    pub fn configure(&self, lines: &[impl AsRef<str>]) -> Result<()> {
        let script: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        let mut child = Command::new("ip")
            .args(["-n", self.name(), "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ip (iproute2)")?;
        let mut stdin = child.stdin.take().context("ip has no standard input")?;
        stdin.write_all((script.join("\n") + "\n").as_bytes()).context("cannot write to ip")?;
        drop(stdin);
        let finished = child.wait_with_output().context("cannot wait for ip")?;
        let complaint = String::from_utf8_lossy(&finished.stderr);
        ensure!(finished.status.success(), "ip in {}: {}", self.name(), complaint.trim());
        Ok(())
    }

    /// Sets a kernel parameter of this namespace, named by its path below
    /// `/proc/sys`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| fs::write(&path, value).with_context(|| format!("cannot set {key}")))
    }
}

/// Joins two namespaces by a veth pair; each end is a namespace and a name.
pub fn join(one: (&Namespace, &str), other: (&Namespace, &str)) -> Result<()> {
    let (a, b) = (one.0.name(), other.0.name());
    let end = ["link", "add", "name", one.1, "netns", a, "type", "veth"];
    let peer = ["peer", "name", other.1, "netns", b];
    ip(&[end.as_slice(), peer.as_slice()].concat())
}

/// Kills the processes inside and deletes the namespace.
pub(crate) fn remove(name: &str) -> Result<()> {
    let inside = run_ip(&["netns", "pids", name])?;
    for pid in inside.lines().filter_map(|line| line.trim().parse().ok()) {
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            // Gone already is as good as killed.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => bail!("cannot kill process {pid} in {name}: {error}"),
        }
    }
    ip(&["netns", "delete", name])
}

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Moves the current thread into the namespace, for good.
fn enter(path: &Path) -> Result<()> {
    let what = || format!("cannot enter {}", path.display());
    let handle = File::open(path).with_context(what)?;
    setns(handle, CloneFlags::CLONE_NEWNET).with_context(what)
}

fn ip(arguments: &[&str]) -> Result<()> {
    run_ip(arguments).map(drop)
}

fn run_ip(arguments: &[&str]) -> Result<String> {
    let finished = Command::new("ip").args(arguments).output().context("cannot start ip")?;
    if !finished.status.success() {
        let complaint = String::from_utf8_lossy(&finished.stderr);
        bail!("ip {}: {}", arguments.join(" "), complaint.trim());
    }
    Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
}
