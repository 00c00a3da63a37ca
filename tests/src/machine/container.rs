//! A machine as a container: systemd as process 1 in namespaces of its own, on this
//! machine's kernel, with what it writes in a folder over the root file system. It is
//! entered by `nsenter`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Luggage, Outcome};
use crate::cgroup::ControlGroup;
use crate::process::{self, Process, Spawner};
use crate::wait;

const SCRIPT: &str = include_str!("container.sh");
/// Alone in its control group, or systemd could make none below it.
const BECOME_ROOT_OF_GROUP: &str = "echo 0 >\"$0/cgroup.procs\" && exec unshare --cgroup \"$@\"";
/// For process 1 to be there, and for a shutdown: services have 90 s to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug)]
pub(super) struct Container {
    // In this order: the processes die before their control group and files go.
    process: Option<Process>,
    group: ControlGroup,
    luggage: Luggage,
    /// What is below what it writes.
    system: PathBuf,
}

impl Container {
    pub(super) fn start(folder: &Path, luggage: Luggage) -> Result<Self> {
        let group = ControlGroup::create()?
            .context("control groups of version 2 are not mounted; mount -t cgroup2 them")?;
        fs::write(luggage.state().join("container.sh"), SCRIPT)?;
        let mut container = Self { process: None, group, luggage, system: folder.join("tree") };
        container.begin()?;
        Ok(container)
    }

    fn begin(&mut self) -> Result<()> {
        let state = self.luggage.state();
        let console = File::options().create(true).append(true).open(self.console_path())?;
        let machine = self.group.path().join("machine");
        fs::create_dir_all(&machine).context("cannot make a control group")?;
        let mut command = self.in_group("around");
        command.args(["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork"]);
        command.args(["--kill-child=KILL", "sh", "-c", BECOME_ROOT_OF_GROUP]).arg(machine);
        command.arg("sh").arg(state.join("container.sh"));
        command.arg(&self.system).arg(state).arg(self.luggage.files());
        command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        self.process = Some(Spawner::here()?.spawn(command)?);
        wait::until("systemd to be process 1 of a container", PATIENCE, || {
            let process = self.process.as_mut().context("it was just started")?;
            if let Some(status) = process.exited()? {
                let console = fs::read_to_string(self.luggage.state().join("console"))?;
                anyhow::bail!("the container ended with {status}: {}", console.trim());
            }
            let Some(pid) = child(process.id())? else { return Ok(None) };
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            // It listens there as soon as it can be asked.
            let root = format!("/proc/{pid}/root/run/systemd/private");
            Ok((name.trim() == "systemd" && Path::new(&root).exists()).then_some(()))
        })
    }

    /// A command that begins in a control group beside the machine's.
    fn in_group(&self, name: &str) -> Command {
        let mut command = process::command("sh");
        command.args(["-c", "mkdir -p \"$0\" && echo $$ >\"$0/cgroup.procs\" && exec \"$@\""]);
        command.arg(self.group.path().join(name));
        command
    }

    /// A command that enters the container and there is what is added to it.
    fn enter(&self) -> Result<Command> {
        let process = self.process.as_ref().context("the container is not running")?;
        let pid = child(process.id())?.context("the container has no process 1")?;
        let mut command = self.in_group("command");
        command.args(["nsenter", "--target", &pid.to_string(), "--all", "--root", "--wd"]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]);
        command.args(["LC_ALL=C.UTF-8", "TERM=dumb"]);
        Ok(command)
    }

    pub(super) fn run(&mut self, script: &str, patience: Duration) -> Result<Outcome> {
        let state = self.luggage.state();
        let (out, err) = (state.join("out"), state.join("err"));
        let mut command = self.enter()?;
        command.args(["sh", "-c", script]).stdin(Stdio::null());
        // Not pipes, which what it leaves running would hold open.
        command.stdout(File::create(&out)?).stderr(File::create(&err)?);
        let status = Spawner::here()?.spawn(command)?.ended(patience)?;
        let code = status.code().with_context(|| format!("it ended with {status}"))?;
        Ok(Outcome { code, stdout: read(&out)?, stderr: read(&err)? })
    }

    pub(super) fn reboot(&mut self) -> Result<()> {
        let asked = self.run("systemctl reboot --no-block", PATIENCE)?;
        ensure!(asked.code == 0, "systemctl reboot: {}", asked.stderr.trim());
        let process = self.process.take().context("the container is not running")?;
        process.ended(PATIENCE)?;
        self.group.clear()?;
        self.begin()
    }

    pub(super) fn console(&self) -> String {
        let journal = self.system_journal();
        read(&self.console_path()).unwrap_or_default() + &journal
    }

    /// What the container's journal said last; empty where nobody can ask any more.
    fn system_journal(&self) -> String {
        let Ok(mut command) = self.enter() else { return String::new() };
        command.args(["journalctl", "--boot", "--no-pager", "--lines=40", "--output=short"]);
        command
            .output()
            .map(|printed| String::from_utf8_lossy(&printed.stdout).into_owned())
            .unwrap_or_default()
    }

    pub(super) fn shell(&mut self) -> Result<()> {
        let mut command = self.enter()?;
        command.args(["TERM=xterm", "bash", "-l"]);
        command.status().context("cannot start a shell")?;
        Ok(())
    }

    fn console_path(&self) -> PathBuf {
        self.luggage.state().join("console")
    }
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The only child of a process, if it has one by now.
fn child(parent: u32) -> Result<Option<u32>> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    text.split_whitespace().next().map(str::parse).transpose().context("a process number")
}
