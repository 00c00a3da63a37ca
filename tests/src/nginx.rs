//! nginx as a process in a namespace, with this project's two files included as an
//! operator includes them, in front of a small app of node that says what it was asked,
//! or of a whole one ([`Express`]). What is asked of it is not known here.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::express::{self, Express};
use crate::lab::HOST_V4;
use crate::namespace::Namespace;
use crate::process::{self, Process};
use crate::visitor::Visitor;
use crate::{interrupt, name, sweep, wait};

/// Hands paths on as clients write them, after an internal redirect.
pub const PORT: u16 = 80;
/// Hands on what nginx made of them.
pub const TIDY_PORT: u16 = 81;

const APP_PORT: u16 = express::PORT;
/// Patience with a start, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers every request with what it was, `/api/own-403` with a 403 of its own, what has
/// `wrong` in it with 401, and what has `slow` after half a second.
const APP: &str = r#"
const http = require('node:http');
http.createServer((request, response) => {
  request.resume().on('end', () => {
    const wrong = request.url.includes('wrong') ? 401 : 200;
    const status = request.url === '/api/own-403' ? 403 : wrong;
    const body = JSON.stringify({ app: true, method: request.method, url: request.url });
    response.writeHead(status, { 'content-type': 'application/json', 'content-length': body.length });
    setTimeout(() => response.end(body), request.url.includes('slow') ? 500 : 0);
  });
}).listen(Number(process.argv[2]), '127.0.0.1');
"#;

/// What happens while the daemon is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// As the files have it: requests pass.
    Pass,
    /// With the one line changed that keeps everybody out.
    Refuse,
}

/// The example of a configuration for a LibreChat behind nginx (`config/librechat.yaml`).
pub fn librechat() -> Result<Value> {
    let text = include_str!("../../config/librechat.yaml");
    serde_yaml::from_str(text).context("config/librechat.yaml")
}

/// What nginx protects.
#[derive(Debug)]
enum App {
    Small { _process: Process },
    Express(Express),
}

/// A running nginx and its app; both end when dropped.
#[derive(Debug)]
pub struct Nginx {
    // In this order: nginx asks the app.
    nginx: Option<Process>,
    app: App,
    namespace: Namespace,
    folder: TempDir,
}

impl Nginx {
    /// Listens on [`PORT`] and [`TIDY_PORT`] of [`HOST_V4`] in a namespace, and asks the
    /// daemon whose sockets are in `sockets`. Its app is the small one.
    pub fn start(namespace: &Namespace, sockets: &Path, gone: Gone) -> Result<Self> {
        let folder = folder()?;
        let script = folder.path().join("app.js");
        fs::write(&script, APP)?;
        let mut app = process::command("node");
        // As much as nginx lets through.
        app.arg("--max-http-header-size=262144").arg(script);
        app.arg(APP_PORT.to_string()).stdin(Stdio::null());
        let app = App::Small { _process: namespace.spawn(app)? };
        Self::before(app, folder, namespace, sockets, gone)
    }

    /// The same in front of an app that runs in this namespace already.
    pub fn in_front_of(
        express: Express,
        namespace: &Namespace,
        sockets: &Path,
        gone: Gone,
    ) -> Result<Self> {
        Self::before(App::Express(express), folder()?, namespace, sockets, gone)
    }

    fn before(
        app: App,
        folder: TempDir,
        namespace: &Namespace,
        sockets: &Path,
        gone: Gone,
    ) -> Result<Self> {
        let path = folder.path();
        include("moderation-http.conf", path, |text| {
            let text = text.replace("/run/moderation/", &format!("{}/", sockets.display()));
            if gone == Gone::Refuse { text.replace("default 204;", "default 403;") } else { text }
        })?;
        include("moderation-server.conf", path, |text| text)?;
        fs::write(path.join("nginx.conf"), configuration(path))?;
        let mut nginx = Self { nginx: None, app, namespace: namespace.clone(), folder };
        nginx.launch()?;
        Ok(nginx)
    }

    /// Starts the program and waits until it and the app listen.
    fn launch(&mut self) -> Result<()> {
        let path = self.folder.path();
        let log = File::options().create(true).append(true).open(path.join("stderr"))?;
        let mut nginx = process::command("nginx");
        nginx.arg("-c").arg(path.join("nginx.conf")).stdin(Stdio::null()).stderr(log);
        self.nginx = Some(self.namespace.spawn(nginx)?);
        for port in [PORT, TIDY_PORT] {
            self.await_listening(HOST_V4, port)?;
        }
        self.await_listening(Ipv4Addr::LOCALHOST, APP_PORT)
    }

    fn await_listening(&self, ip: Ipv4Addr, port: u16) -> Result<()> {
        let server = SocketAddr::new(ip.into(), port);
        let visitor = Visitor::new(&self.namespace, ip.into(), server, "nobody");
        let waited = wait::until("nginx and its app to listen", PATIENCE, || {
            Ok(visitor.open().is_ok().then_some(()))
        });
        waited.with_context(|| format!("port {port}: {}{}", self.read("stderr"), self.log()))
    }

    /// Has it read its configuration anew, and start other workers.
    pub fn reload(&self) -> Result<()> {
        self.nginx.as_ref().context("it runs until it is dropped")?.signal(Signal::SIGHUP)
    }

    /// Stops it as an operator does, and starts it again; it is away meanwhile.
    pub fn restart(&mut self) -> Result<()> {
        let nginx = self.nginx.take().context("it runs until it is dropped")?;
        // Workers finish what they have begun.
        nginx.signal(Signal::SIGQUIT)?;
        nginx.ended(PATIENCE)?;
        self.launch()
    }

    /// The app behind it, if it is the whole one.
    pub fn express(&self) -> Result<&Express> {
        match &self.app {
            App::Express(express) => Ok(express),
            App::Small { .. } => bail!("its app is the small one"),
        }
    }

    /// Its error log.
    pub fn log(&self) -> String {
        self.read("error.log")
    }

    /// Its own access log.
    pub fn access_log(&self) -> String {
        self.read("access.log")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // With its workers, which a master that is killed leaves behind, to the end of
        // their namespace. Whoever interrupts does not wait.
        let ended = self.nginx.take().map(|it| it.terminate(PATIENCE));
        if let Some(Err(error)) = ended.filter(|_| !interrupt::requested()) {
            eprintln!("nginx does not end: {error:#}");
        }
    }
}

/// For its configuration and what it writes.
pub(crate) fn folder() -> Result<TempDir> {
    sweep::sweep()?;
    tempfile::Builder::new()
        .prefix(&format!("{}-", name::fresh()?))
        .tempdir_in(sweep::TEMPORARY)
        .context("cannot make a temporary folder")
}

/// Copies one of this project's files, changed as an operator would.
pub(crate) fn include(name: &str, to: &Path, change: impl FnOnce(String) -> String) -> Result<()> {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../nginx").join(name);
    let text = fs::read_to_string(&from).with_context(|| format!("cannot read {}", from.display()));
    fs::write(to.join(name), change(text?)).context("cannot write nginx's configuration")
}

/// Where it keeps what does not fit into its memory.
pub(crate) fn temporary(folder: &Path) -> String {
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].iter();
    kinds.map(|it| format!("{it}_temp_path {}/{it};\n", folder.display())).collect()
}

fn configuration(folder: &Path) -> String {
    let temporary = temporary(folder);
    let folder = folder.display();
    let server = |port: u16, locations: &str| {
        format!(
            "server {{ listen {HOST_V4}:{port}; include {folder}/moderation-server.conf;\n\
             {locations} }}\n"
        )
    };
    let app = format!("proxy_pass http://127.0.0.1:{APP_PORT}");
    // As many have it: nginx asks twice about every request.
    let twice = format!("location / {{ try_files /nothing @app; }} location @app {{ {app}; }}");
    let tidy = format!("location / {{ {app}/; }}");
    format!(
        "user root;\nworker_processes 2;\ndaemon off;\npid {folder}/pid;\n\
         error_log {folder}/error.log warn;\nevents {{ worker_connections 512; }}\n\
         http {{\naccess_log {folder}/access.log;\n\
         large_client_header_buffers 4 64k;\nclient_max_body_size 25m;\n{temporary}\
         include {folder}/moderation-http.conf;\n{}{}}}\n",
        server(PORT, &twice),
        server(TIDY_PORT, &tidy),
    )
}
