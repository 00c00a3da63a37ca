//! nginx ([`Front`]) in front of a small app of node that says what it was asked, or of a
//! whole one ([`Express`]). What is asked of it is not known here.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::express::Express;
use crate::front::{APP_PORT, Front, Setup, server};
use crate::namespace::Namespace;
use crate::process::{self, Process};

pub use crate::front::{Gone, PORT};

/// Hands on what nginx made of paths; [`PORT`] hands them on as clients write them, after
/// an internal redirect.
pub const TIDY_PORT: u16 = 81;

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
}).listen(Number(process.argv[1]), '127.0.0.1');
"#;

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
    front: Front,
    app: App,
}

impl Nginx {
    /// Listens on [`PORT`] and [`TIDY_PORT`] in a namespace, and asks the
    /// daemon whose sockets are in `sockets`. Its app is the small one.
    pub fn start(namespace: &Namespace, sockets: &Path, gone: Gone) -> Result<Self> {
        let mut app = process::command("node");
        // As much as nginx lets through.
        app.args(["--max-http-header-size=262144", "--eval", APP, "--"]);
        app.arg(APP_PORT.to_string()).stdin(Stdio::null());
        let app = App::Small { _process: namespace.spawn(app)? };
        Self::before(app, namespace, sockets, gone)
    }

    /// The same in front of an app that runs in this namespace already.
    pub fn in_front_of(
        express: Express,
        namespace: &Namespace,
        sockets: &Path,
        gone: Gone,
    ) -> Result<Self> {
        Self::before(App::Express(express), namespace, sockets, gone)
    }

    fn before(app: App, namespace: &Namespace, sockets: &Path, gone: Gone) -> Result<Self> {
        let http = "large_client_header_buffers 4 64k; client_max_body_size 25m;";
        let servers = servers();
        let (servers, ports) = (Some(servers.as_str()), &[PORT, TIDY_PORT][..]);
        let setup = Setup { http, servers, ports, gone, ..Setup::default() };
        let front = Front::start(namespace, sockets, setup)?;
        front.await_listening(Ipv4Addr::LOCALHOST, APP_PORT)?;
        Ok(Self { front, app })
    }

    /// Has it read its configuration anew, and start other workers.
    pub fn reload(&self) -> Result<()> {
        self.front.reload()
    }

    /// Stops it as an operator does, and starts it again; it is away meanwhile.
    pub fn restart(&mut self) -> Result<()> {
        self.front.restart()
    }

    /// Kills all workers, and with them whatever they carry. It starts others.
    pub fn kill_workers(&self) -> Result<()> {
        self.front.kill_workers()
    }

    /// Its error log.
    pub fn log(&self) -> String {
        self.front.log()
    }

    /// Its own access log.
    pub fn access_log(&self) -> String {
        self.front.access_log()
    }

    /// The app behind it, if it is the whole one.
    pub fn express(&self) -> Result<&Express> {
        match &self.app {
            App::Express(express) => Ok(express),
            App::Small { .. } => bail!("its app is the small one"),
        }
    }
}

fn servers() -> String {
    let app = format!("proxy_pass http://127.0.0.1:{APP_PORT}");
    // As many have it: nginx asks twice about every request.
    let twice = format!("location / {{ try_files /nothing @app; }} location @app {{ {app}; }}");
    server(PORT, &twice) + &server(TIDY_PORT, &format!("location / {{ {app}/; }}"))
}
