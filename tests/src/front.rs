//! nginx as a process in a namespace, as operators set it up by hand: with the project's
//! two files, with workers of any user, with whatever else a test includes, and started in
//! any way. Which app is behind it and what is asked of it is not known here.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::lab::HOST_V4;
use crate::namespace::Namespace;
use crate::process::{self, Process};
use crate::visitor::Visitor;
use crate::{interrupt, name, sweep, wait};

/// Where it listens, at [`HOST_V4`].
pub const PORT: u16 = 80;
/// Where the app listens, on the loopback of the namespace.
pub const APP_PORT: u16 = 3_080;
/// What the app says to everything that is one of nginx's own servers.
pub const APP: &str = "app";

/// Patience with a start or a stop, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// How it is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The value of `user`: a user, perhaps with a group behind it.
    pub workers: &'a str,
    /// More for the http block.
    pub http: &'a str,
    /// Its server blocks, as [`server`] writes them; `None`: one, in front of [`APP`].
    pub servers: Option<&'a str>,
    /// Where these listen.
    pub ports: &'a [u16],
    /// Whether it writes down each request, and whatever it finds odd.
    pub is_logging: bool,
    /// What happens while the daemon is gone.
    pub gone: Gone,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            workers: "root",
            http: "",
            servers: None,
            ports: &[PORT],
            is_logging: true,
            gone: Gone::Pass,
        }
    }
}

/// What happens while the daemon is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// As the files have it: requests pass.
    Pass,
    /// With the one line changed that keeps everybody out.
    Refuse,
}

/// What has a server block ask the daemon.
pub fn asking() -> String {
    format!("include {};\n", project().join("nginx/moderation-server.conf").display())
}

/// A server block with these locations, that asks the daemon.
pub fn server(port: u16, locations: &str) -> String {
    format!("server {{ listen {HOST_V4}:{port};\n{}{locations} }}\n", asking())
}

/// A folder with its configuration.
#[derive(Debug)]
pub struct Files {
    folder: TempDir,
    ports: Vec<u16>,
}

impl Files {
    /// Writes the configuration, for a daemon whose sockets are in `sockets`.
    pub fn write(sockets: &Path, setup: Setup<'_>) -> Result<Self> {
        sweep::sweep()?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", name::fresh()?))
            .tempdir_in(sweep::TEMPORARY)
            .context("cannot make a temporary folder")?;
        // Workers look for their own folders in it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let http = fs::read_to_string(project().join("nginx/moderation-http.conf"))?;
        let mut http = http.replace("/run/moderation/", &format!("{}/", sockets.display()));
        if setup.gone == Gone::Refuse {
            http = http.replace("default 204;", "default 403;");
        }
        fs::write(folder.path().join("moderation-http.conf"), http)?;
        fs::write(folder.path().join("nginx.conf"), configuration(folder.path(), setup))?;
        Ok(Self { folder, ports: setup.ports.to_vec() })
    }

    fn command(&self) -> Command {
        let mut nginx = process::command("nginx");
        nginx.arg("-c").arg(self.main());
        nginx
    }

    /// Its main file.
    pub fn main(&self) -> PathBuf {
        self.folder.path().join("nginx.conf")
    }

    /// What nginx itself says of it (`nginx -t`), in a namespace.
    pub fn check(&self, namespace: &Namespace) -> Result<()> {
        namespace.run(|| {
            let checked = Command::new("nginx").arg("-t").arg("-c").arg(self.main()).output()?;
            let said = String::from_utf8_lossy(&checked.stderr);
            ensure!(checked.status.success(), "nginx -t: {said}");
            Ok(())
        })
    }
}

/// A running nginx; it ends when dropped.
#[derive(Debug)]
pub struct Front {
    nginx: Option<Process>,
    namespace: Namespace,
    files: Files,
}

impl Front {
    /// Starts it in a namespace as a process of root's.
    pub fn start(namespace: &Namespace, sockets: &Path, setup: Setup<'_>) -> Result<Self> {
        let files = Files::write(sockets, setup)?;
        files.check(namespace)?;
        let command = files.command();
        Self::launch(namespace, files, command)
    }

    /// Starts it by a command that becomes nginx, and waits until it listens.
    pub fn launch(namespace: &Namespace, files: Files, command: Command) -> Result<Self> {
        let mut front = Self { nginx: None, namespace: namespace.clone(), files };
        front.run(command)?;
        Ok(front)
    }

    fn run(&mut self, mut command: Command) -> Result<()> {
        let said = self.files.folder.path().join("stderr");
        let said = File::options().create(true).append(true).open(said)?;
        command.stdin(Stdio::null()).stderr(said);
        self.nginx = Some(self.namespace.spawn(command)?);
        self.files.ports.iter().try_for_each(|port| self.await_listening(HOST_V4, *port))
    }

    /// Waits until something listens in its namespace.
    pub fn await_listening(&self, ip: Ipv4Addr, port: u16) -> Result<()> {
        let server = SocketAddr::new(ip.into(), port);
        let visitor = Visitor::new(&self.namespace, ip.into(), server, "nobody");
        let waited = wait::until("nginx and its app to listen", PATIENCE, || {
            Ok(visitor.open().is_ok().then_some(()))
        });
        waited.with_context(|| format!("port {port}: {}{}", self.read("stderr"), self.log()))
    }

    /// Has it read its configuration anew, and start other workers.
    pub fn reload(&self) -> Result<()> {
        self.process()?.signal(Signal::SIGHUP)
    }

    /// Stops it as an operator does, and starts it again; it is away meanwhile.
    pub fn restart(&mut self) -> Result<()> {
        // Workers finish what they have begun.
        self.process()?.signal(Signal::SIGQUIT)?;
        self.nginx.take().context("it runs until it is dropped")?.ended(PATIENCE)?;
        self.run(self.files.command())
    }

    /// Kills all workers, and with them whatever they carry. It starts others.
    pub fn kill_workers(&self) -> Result<()> {
        for worker in self.children()?.split_whitespace() {
            kill(Pid::from_raw(worker.parse()?), Signal::SIGKILL)?;
        }
        Ok(())
    }

    fn process(&self) -> Result<&Process> {
        self.nginx.as_ref().context("it runs until it is dropped")
    }

    fn children(&self) -> Result<String> {
        let master = self.process()?.id();
        Ok(fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?)
    }

    /// Its error log.
    pub fn log(&self) -> String {
        self.read("error.log")
    }

    /// Its own access log.
    pub fn access_log(&self) -> String {
        self.read("access.log")
    }

    /// The users and groups of its workers, as `uid gid groups`.
    pub fn workers(&self) -> Result<Vec<String>> {
        self.children()?.split_whitespace().map(identity).collect()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.files.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // With its workers, which a master that is killed leaves behind, to the end of
        // their namespace. Whoever interrupts does not wait.
        let ended = self.nginx.take().map(|it| it.terminate(PATIENCE));
        if let Some(Err(error)) = ended.filter(|_| !interrupt::requested()) {
            eprintln!("nginx does not end: {error:#}");
        }
    }
}

/// Where the project's files are.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Effective user and group and supplementary groups (proc_pid_status(5)).
fn identity(pid: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = |key: &str, nth: usize| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().skip(nth).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = |key| value(key, 1).first().cloned().unwrap_or_default();
    Ok(format!("{} {} {}", first("Uid:"), first("Gid:"), value("Groups:", 0).join(" ")))
}

fn configuration(folder: &Path, setup: Setup<'_>) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|it| format!("{it}_temp_path {folder}/{it};\n"))
        .collect();
    let servers = setup.servers.map_or_else(word, str::to_owned);
    let Setup { workers, http, is_logging, .. } = setup;
    let level = if is_logging { "warn" } else { "error" };
    let access = if is_logging { format!("{folder}/access.log") } else { "/dev/null".to_owned() };
    format!(
        "user {workers};\nworker_processes 2;\ndaemon off;\npid {folder}/pid;\n\
         error_log {folder}/error.log {level};\nevents {{ worker_connections 1024; }}\n\
         http {{\naccess_log {access};\n{temporary}\
         include {folder}/moderation-http.conf;\n{http}\n{servers}}}\n"
    )
}

/// In front of a server of its own that says one word.
fn word() -> String {
    let front = server(PORT, &format!("location / {{ proxy_pass http://127.0.0.1:{APP_PORT}; }}"));
    format!("{front}server {{ listen 127.0.0.1:{APP_PORT}; return 200 {APP}; }}\n")
}
