//! Child processes that cannot outlive us: killed and reaped when their handle
//! goes, killed by the kernel when this process dies without a word.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// A command that the kernel kills when the thread that spawned it ends;
/// [`Spawner`]s are such threads.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The same as another user and group, with no further group and no capability
/// whatsoever.
pub fn unprivileged(program: impl AsRef<OsStr>, uid: u32, gid: u32) -> Command {
    let mut command = command("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
    command.args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    // Changing the user cleared the wish to die with the parent (prctl(2)).
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The same with `CAP_NET_ADMIN` and no other capability.
pub fn network_admin(program: impl AsRef<OsStr>, uid: u32, gid: u32) -> Command {
    let mut command = command("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
    for set in ["inh-caps", "ambient-caps", "bounding-set"] {
        command.arg(format!("--{set}=-all,+net_admin"));
    }
    command.args(["--no-new-privs", "--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Copies a program that is to be run. Not by `fs::copy`: a child forked by
/// another thread meanwhile would hold the copy open for writing, and until it
/// executes nobody can run it (execve(2), ETXTBSY).
pub(crate) fn copy_program(program: &Path, copy: &Path) -> Result<()> {
    let what = || format!("cannot copy {}", program.display());
    let status = Command::new("cp").arg("--").arg(program).arg(copy).status().with_context(what)?;
    if status.success() { Ok(()) } else { Err(anyhow!("cp: {status}").context(what())) }
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for process {}", self.id()))
    }

    /// Asks it to stop and waits for that.
    pub fn terminate(self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.ended(patience)
    }

    /// Waits until it has ended by itself.
    pub fn ended(mut self, patience: Duration) -> Result<ExitStatus> {
        wait::until(&format!("process {} to stop", self.id()), patience, || self.exited())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.id()).context("a process number")?);
        kill(pid, signal).with_context(|| format!("cannot signal process {pid}"))
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.kill_and_reap().with_context(|| format!("cannot kill process {}", self.id()))
    }

    fn kill_and_reap(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill_and_reap() {
            eprintln!("cannot kill process {}: {error}", self.id());
        }
    }
}

/// A thread that starts children. They inherit what it entered (a network
/// namespace), and die with it.
#[derive(Debug)]
pub struct Spawner {
    /// `None` only while it is being dropped.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Job {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

impl Spawner {
    /// Starts the thread; `enter` is the first thing that it does.
    pub fn start(enter: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Self> {
        let (jobs, inbox) = channel();
        let (entered, outcome) = channel();
        let thread = thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                let outcome = enter();
                let ready = outcome.is_ok();
                if entered.send(outcome).is_ok() && ready {
                    serve(&inbox);
                }
            })
            .context("cannot start a thread")?;
        outcome.recv().context("the spawner thread is gone")??;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// One that entered nothing, for children in our own namespace.
    pub fn here() -> Result<&'static Self> {
        static HERE: OnceLock<Spawner> = OnceLock::new();
        if HERE.get().is_none() {
            // A second one made at the same time is dropped, unused.
            drop(HERE.set(Self::start(|| Ok(()))?));
        }
        HERE.get().context("the spawner was just set")
    }

    /// Starts a child in a process group of its own, so that Ctrl-C reaches
    /// only us. Make the command with [`command`], or it may outlive us.
    pub fn spawn(&self, mut command: Command) -> Result<Process> {
        command.process_group(0);
        let what = format!("cannot start {command:?}");
        let (reply, outcome) = channel();
        let gone = || anyhow!("the spawner thread is gone");
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(Job { command, reply }).map_err(|_| gone())?;
        let child = outcome.recv().map_err(|_| gone())?.context(what)?;
        Ok(Process { child })
    }
}

fn serve(inbox: &Receiver<Job>) {
    for mut job in inbox {
        if let Err(unheard) = job.reply.send(job.command.spawn()) {
            drop(unheard.0.map(|child| Process { child }));
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the spawner thread panicked");
        }
    }
}
