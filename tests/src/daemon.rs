//! moderationd as a process with files, sockets and pins of its own. What it
//! should do is not known here.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use moderation_daemon::api::client::Client;
use serde_json::Value;
use tempfile::TempDir;

use crate::bpffs::PinFolder;
use crate::config::{configuration, merge};
use crate::namespace::Namespace;
use crate::process::{self, Process, Spawner};
use crate::{name, sweep, wait};

/// Patience with a start or a stop, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Patience with one moderationctl command, for timeout(1).
const CTL_PATIENCE: &str = "30";
/// Lines of the log that an error shows.
const LOG_LINES: usize = 40;

/// How a daemon is to be run.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    namespace: Option<Namespace>,
    interface: Option<String>,
    identity: Option<(u32, u32)>,
    overrides: Value,
    arguments: Vec<String>,
    credentials: Vec<(String, String)>,
    variables: Vec<(String, String)>,
    with_priority_of_unit: bool,
}

/// `Nice=` in the daemon's unit.
const NICENESS: &str = "-5";

impl Setup {
    /// In the current namespace, as we are, without an interface, with the
    /// default configuration.
    pub fn new() -> Self {
        Self::default()
    }

    /// In this namespace.
    #[must_use]
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    /// With `--interface`: it loads and attaches the program itself.
    #[must_use]
    pub fn interface(mut self, interface: &str) -> Self {
        self.interface = Some(interface.to_owned());
        self
    }

    /// As this user and group, with no capability whatsoever.
    #[must_use]
    pub fn unprivileged(mut self, uid: u32, gid: u32) -> Self {
        self.identity = Some((uid, gid));
        self
    }

    /// With these keys of the configuration different.
    #[must_use]
    pub fn overrides(mut self, overrides: Value) -> Self {
        self.overrides = overrides;
        self
    }

    /// With more on its command line.
    #[must_use]
    pub fn arguments(mut self, arguments: &[String]) -> Self {
        self.arguments = arguments.to_vec();
        self
    }

    /// With a credential of this name, as systemd hands it over.
    #[must_use]
    pub fn credential(mut self, name: &str, text: &str) -> Self {
        self.credentials.push((name.to_owned(), text.to_owned()));
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As root, with the priority that the unit gives it.
    #[must_use]
    pub fn with_priority_of_unit(mut self) -> Self {
        self.with_priority_of_unit = true;
        self
    }

    /// Writes the configuration; starts nothing. For what must happen before,
    /// such as `xdp attach`.
    pub fn prepare(self) -> Result<Daemon> {
        sweep::sweep()?;
        let name = name::fresh()?;
        let pins = PinFolder::reserve(&name)?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(sweep::TEMPORARY)
            .context("cannot make a temporary folder")?;
        let daemon = Daemon { setup: self, process: None, folder, pins };
        daemon.write_configuration()?;
        daemon.write_credentials()?;
        if let Some((uid, gid)) = daemon.setup.identity {
            chown(daemon.folder.path(), Some(uid), Some(gid))
                .context("cannot hand over the folder")?;
        }
        Ok(daemon)
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(self) -> Result<Daemon> {
        let mut daemon = self.prepare()?;
        daemon.start()?;
        Ok(daemon)
    }
}

/// A daemon; when dropped it is killed, its pins and files are removed.
#[derive(Debug)]
pub struct Daemon {
    setup: Setup,
    process: Option<Process>,
    // After the process, which uses them.
    folder: TempDir,
    pins: PinFolder,
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "moderationd is already running");
        self.launch()?;
        self.await_readiness().map_err(|error| self.with_log(&error))
    }

    /// Starts it without waiting.
    pub fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = if self.setup.with_priority_of_unit {
            let mut nice = process::command("nice");
            nice.args(["-n", NICENESS]).arg(binary("moderationd")?);
            nice
        } else {
            self.command("moderationd")?
        };
        command.arg("--config").arg(self.config_path());
        if let Some(interface) = &self.setup.interface {
            command.args(["--interface", interface]);
        }
        command.args(&self.setup.arguments);
        if !self.setup.credentials.is_empty() {
            command.env("CREDENTIALS_DIRECTORY", self.file("credentials"));
        }
        command.envs(self.setup.variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(self.spawn(command)?);
        Ok(())
    }

    /// Waits until `/readyz` says so.
    pub fn await_readiness(&mut self) -> Result<()> {
        let socket = self.admin_socket();
        wait::until("moderationd to be ready", PATIENCE, || {
            let process = self.process.as_mut().context("moderationd was not started")?;
            if let Some(status) = process.exited()? {
                bail!("moderationd ended with {status}");
            }
            let response = Client::new(&socket).get("/readyz");
            Ok(response.is_ok_and(|response| response.status == 200).then_some(()))
        })
    }

    /// Writes the configuration anew, with these keys different from before; takes
    /// effect at the next start.
    pub fn reconfigure(&mut self, overrides: &Value) -> Result<()> {
        merge(&mut self.setup.overrides, overrides);
        self.write_configuration()
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.running()?.kill()
    }

    /// Stops it with SIGTERM.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.running()?.terminate(PATIENCE).map_err(|error| self.with_log(&error))
    }

    /// Stops it if it runs, and starts it again on the same store and pins.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.stop()?;
        }
        self.start()
    }

    /// Its process number, if it was started.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Runs moderationctl against it, in its namespace, as root.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Finished> {
        let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut command = process::command("timeout");
        command.args(["--signal=KILL", CTL_PATIENCE]).arg(binary("moderationctl")?);
        command.arg("--config").arg(self.config_path());
        command.arg("--socket").arg(self.admin_socket()).args(arguments);
        command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let mut process = self.spawn(command)?;
        let status = wait::until("moderationctl", PATIENCE * 2, || process.exited())?;
        Ok(Finished { status, stdout: reread(&mut stdout)?, stderr: reread(&mut stderr)? })
    }

    /// Starts moderationctl beside it as the units do, as root with no
    /// capability but `CAP_NET_ADMIN`, and leaves it running; what it says is in
    /// the log.
    pub fn keep(&self, arguments: &[String]) -> Result<Process> {
        self.run_on(process::network_admin(binary("moderationctl")?, 0, 0), arguments)
    }

    /// The same as the daemon's user, with no capability but `CAP_NET_ADMIN` or
    /// with none at all.
    pub fn keep_as_daemon(&self, may_administrate: bool, arguments: &[String]) -> Result<Process> {
        let (uid, gid) = self.setup.identity.context("the daemon has no user of its own")?;
        let program = self.copy(&binary("moderationctl")?)?;
        let command = if may_administrate {
            process::network_admin(program, uid, gid)
        } else {
            process::unprivileged(program, uid, gid)
        };
        self.run_on(command, arguments)
    }

    fn run_on(&self, mut command: Command, arguments: &[String]) -> Result<Process> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        command.arg("--config").arg(self.config_path()).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.spawn(command)
    }

    /// A client of the application's socket.
    pub fn api(&self) -> Client {
        Client::new(self.api_socket())
    }

    /// A client of the operator's socket.
    pub fn admin(&self) -> Client {
        Client::new(self.admin_socket())
    }

    /// A number of its metrics by its whole name; 0 if it is not there yet.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let response = self.admin().get("/metrics")?;
        ensure!(response.status == 200, "/metrics: {response:?}");
        let lines = response.body.as_str().context("metrics are text")?.lines();
        let line = lines.filter_map(|line| line.rsplit_once(' ')).find(|(key, _)| *key == name);
        line.map_or(Ok(0), |(_, value)| Ok(value.parse()?))
    }

    /// What `GET /v1/status` answers.
    pub fn status(&self) -> Result<Value> {
        let response = self.admin().get("/v1/status")?;
        ensure!(response.status == 200, "/v1/status answered {}", response.status);
        Ok(response.body)
    }

    /// The application's socket.
    pub fn api_socket(&self) -> PathBuf {
        self.file("api.sock")
    }

    /// The operator's socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.file("admin.sock")
    }

    /// Where its sockets are.
    pub fn sockets(&self) -> &Path {
        self.folder.path()
    }

    /// nginx's socket.
    pub fn nginx_socket(&self) -> PathBuf {
        self.file("nginx.sock")
    }

    /// The one for nginx's access log.
    pub fn nginx_log_socket(&self) -> PathBuf {
        self.file("nginx-log.sock")
    }

    /// The embedded store.
    pub fn store_path(&self) -> PathBuf {
        self.file("moderation.db")
    }

    /// The configuration file; takes effect at the next start.
    pub fn config_path(&self) -> PathBuf {
        self.file("moderation.yaml")
    }

    /// The folder of its pins.
    pub fn pin_root(&self) -> &Path {
        self.pins.path()
    }

    /// Everything that it has logged, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn running(&mut self) -> Result<Process> {
        self.process.take().context("moderationd is not running")
    }

    fn log_path(&self) -> PathBuf {
        self.file("moderationd.log")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
        format!("the log of moderationd ends with:\n  {tail}")
    }

    fn with_log(&self, error: &Error) -> Error {
        anyhow!("{error:#}; {}", self.log_tail())
    }

    fn write_configuration(&self) -> Result<()> {
        let folder = self.folder.path();
        let configuration = configuration(folder, self.pins.path(), &self.setup.overrides);
        // JSON is YAML.
        fs::write(self.config_path(), format!("{configuration:#}\n"))
            .context("cannot write the configuration")
    }

    fn write_credentials(&self) -> Result<()> {
        let folder = self.file("credentials");
        for (name, text) in &self.setup.credentials {
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(name), text).context("cannot write a credential")?;
        }
        Ok(())
    }

    fn spawn(&self, command: Command) -> Result<Process> {
        match &self.setup.namespace {
            Some(namespace) => namespace.spawn(command),
            None => Spawner::here()?.spawn(command),
        }
    }

    /// A command under the daemon's identity.
    fn command(&self, program: &str) -> Result<Command> {
        let program = binary(program)?;
        Ok(match self.setup.identity {
            None => process::command(program),
            Some((uid, gid)) => process::unprivileged(self.copy(&program)?, uid, gid),
        })
    }

    /// A copy of a program where any user gets at it; the build folder may be
    /// in a home that only root may enter.
    fn copy(&self, program: &Path) -> Result<PathBuf> {
        let name = program.file_name().context("a program has a name")?;
        let copy = self.folder.path().join(name);
        if !copy.exists() {
            process::copy_program(program, &copy)?;
        }
        Ok(copy)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process = None;
        if thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// A command that ran to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote on standard output.
    pub stdout: String,
    /// What it wrote on standard error.
    pub stderr: String,
}

impl Finished {
    /// Its standard output, or an error with what it complained of.
    pub fn success(self) -> Result<String> {
        let Self { status, stdout, stderr } = self;
        ensure!(status.success(), "moderationctl ended with {status}: {stdout}{}", stderr.trim());
        Ok(stdout)
    }
}

fn reread(file: &mut File) -> Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text).context("cannot read what moderationctl said")?;
    Ok(text)
}

/// One of the project's binaries, from `MODERATION_BIN_DIR` or from where
/// cargo put us.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("MODERATION_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => build_folder(&std::env::current_exe().context("cannot tell where we are")?),
    };
    let path = folder.join(name);
    let hint = "build it with `cargo build`, or set MODERATION_BIN_DIR";
    ensure!(path.is_file(), "there is no {}: {hint}", path.display());
    Ok(path)
}

/// `target/debug` for `target/debug/demo` and for `target/debug/deps/test-1a2b`.
fn build_folder(executable: &Path) -> PathBuf {
    let folder = executable.parent().unwrap_or(Path::new("."));
    let above = folder.parent().filter(|_| folder.file_name() == Some(&OsString::from("deps")));
    above.unwrap_or(folder).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_where_cargo_puts_them() {
        for executable in ["/t/debug/demo", "/t/debug/deps/ban-0a1b"] {
            assert_eq!(build_folder(Path::new(executable)), Path::new("/t/debug"));
        }
    }
}
