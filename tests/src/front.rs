//! nginx as operators set it up by hand: with the project's two files, with workers of
//! any user, with whatever else a test includes, and started in any way. The app behind
//! it is a server of its own that says one word. What is asked of it is not known here.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::lab::HOST_V4;
use crate::namespace::Namespace;
use crate::process::{self, Process};
use crate::visitor::Visitor;
use crate::{name, sweep, wait};

/// Where it listens, at [`HOST_V4`].
pub const PORT: u16 = 80;
/// What the app says to everything.
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
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { workers: "root", http: "" }
    }
}

/// A folder with its configuration.
#[derive(Debug)]
pub struct Files(TempDir);

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
        let http = http.replace("/run/moderation/", &format!("{}/", sockets.display()));
        fs::write(folder.path().join("moderation-http.conf"), http)?;
        fs::write(folder.path().join("nginx.conf"), configuration(folder.path(), setup))?;
        Ok(Self(folder))
    }

    /// Its main file.
    pub fn main(&self) -> PathBuf {
        self.0.path().join("nginx.conf")
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
    files: Files,
}

impl Front {
    /// Starts it in a namespace as a process of root's.
    pub fn start(namespace: &Namespace, sockets: &Path, setup: Setup<'_>) -> Result<Self> {
        let files = Files::write(sockets, setup)?;
        files.check(namespace)?;
        let mut command = process::command("nginx");
        command.arg("-c").arg(files.main());
        Self::launch(namespace, files, command)
    }

    /// Starts it by a command that becomes nginx, and waits until it listens.
    pub fn launch(namespace: &Namespace, files: Files, mut command: Command) -> Result<Self> {
        let said = File::create(files.0.path().join("stderr"))?;
        command.stdin(Stdio::null()).stderr(said);
        let nginx = Some(namespace.spawn(command)?);
        let front = Self { nginx, files };
        let server = SocketAddr::new(HOST_V4.into(), PORT);
        let visitor = Visitor::new(namespace, HOST_V4.into(), server, "nobody");
        let waited =
            wait::until("nginx to listen", PATIENCE, || Ok(visitor.open().is_ok().then_some(())));
        waited.with_context(|| format!("{}{}", front.read("stderr"), front.log()))?;
        Ok(front)
    }

    /// Its error log.
    pub fn log(&self) -> String {
        self.read("error.log")
    }

    /// The users and groups of its workers, as `uid gid groups`.
    pub fn workers(&self) -> Result<Vec<String>> {
        let master = self.nginx.as_ref().context("it runs until it is dropped")?.id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
        children.split_whitespace().map(identity).collect()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.files.0.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // With its workers, which a master that is killed leaves behind.
        if let Some(Err(error)) = self.nginx.take().map(|it| it.terminate(PATIENCE)) {
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
    let server = project().join("nginx/moderation-server.conf");
    let (folder, server, Setup { workers, http }) = (folder.display(), server.display(), setup);
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|it| format!("{it}_temp_path {folder}/{it};\n"))
        .collect();
    format!(
        "user {workers};\nworker_processes 2;\ndaemon off;\npid {folder}/pid;\n\
         error_log {folder}/error.log warn;\nevents {{ worker_connections 512; }}\n\
         http {{\naccess_log {folder}/access.log;\n{temporary}\
         include {folder}/moderation-http.conf;\n{http}\n\
         server {{ listen {HOST_V4}:{PORT}; include {server};\n\
         location / {{ proxy_pass http://127.0.0.1:3080; }} }}\n\
         server {{ listen 127.0.0.1:3080; return 200 {APP}; }}\n}}\n"
    )
}
