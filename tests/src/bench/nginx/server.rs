//! One nginx with a server for each way and each thing behind it, so that nothing but the
//! way is different: same workers, same clients, same connections to the app.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::case::{Behind, FILE, Way};
use crate::lab::{CLIENT_V4, HOST_V4};
use crate::namespace::Namespace;
use crate::process::{self, Process};
use crate::visitor::Visitor;
use crate::{express, nginx, wait};

/// Patience with a start or a stop, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where `limit_req` refuses whoever comes twice a minute.
pub(super) const NARROW: &str = "/narrow";

/// More than any of these requests, and what comes at once where two share a millisecond:
/// nothing is refused.
const WIDE: &str = "limit_req zone=wide burst=10000 nodelay;";
const ZONES: &str = "limit_req_zone $binary_remote_addr zone=wide:20m rate=10000r/s;\n\
                     limit_req_zone $binary_remote_addr zone=narrow:1m rate=1r/m;\n";

/// A running nginx; ends when dropped.
pub(super) struct Server {
    nginx: Option<Process>,
    // After the process, which uses it.
    folder: TempDir,
}

impl Server {
    /// Listens on all ports of [`Behind`], and asks the daemon of these sockets.
    pub(super) fn start(namespace: &Namespace, sockets: &Path) -> Result<Self> {
        let folder = nginx::folder()?;
        let path = folder.path();
        nginx::include("moderation-http.conf", path, |text| {
            text.replace("/run/moderation/", &format!("{}/", sockets.display()))
        })?;
        nginx::include("moderation-server.conf", path, |text| text)?;
        fs::write(path.join("answer.json"), FILE)?;
        fs::write(path.join("nginx.conf"), configuration(path))?;
        let log = File::create(path.join("stderr"))?;
        let mut command = process::command("nginx");
        command.arg("-c").arg(path.join("nginx.conf")).stdin(Stdio::null()).stderr(log);
        let nginx = Some(namespace.spawn(command)?);
        let server = Self { nginx, folder };
        for behind in Behind::ALL {
            for way in Way::ALL {
                server.await_listening(namespace, behind.port(way))?;
            }
        }
        Ok(server)
    }

    fn await_listening(&self, namespace: &Namespace, port: u16) -> Result<()> {
        let server = SocketAddr::new(HOST_V4.into(), port);
        let visitor = Visitor::new(namespace, HOST_V4.into(), server, "nobody");
        let waited =
            wait::until("nginx to listen", PATIENCE, || Ok(visitor.open().is_ok().then_some(())));
        waited.with_context(|| format!("port {port}: {}{}", self.read("stderr"), self.log()))
    }

    /// What it complained of.
    pub(super) fn log(&self) -> String {
        self.read("error.log")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // With its workers, which a master that is killed leaves behind.
        if let Some(Err(error)) = self.nginx.take().map(|it| it.terminate(PATIENCE)) {
            eprintln!("nginx does not end: {error:#}");
        }
    }
}

/// Logs as hosts have them, but into nothing, so that no way waits for the disk. Clients
/// come through a load balancer, which tells their addresses.
fn configuration(folder: &Path) -> String {
    let servers: String = Behind::ALL
        .iter()
        .flat_map(|behind| Way::ALL.map(|way| server(folder, *behind, way)))
        .collect();
    let temporary = nginx::temporary(folder);
    let folder = folder.display();
    let app = express::PORT;
    format!(
        "user root;\nworker_processes 2;\ndaemon off;\npid {folder}/pid;\n\
         error_log {folder}/error.log error;\nevents {{ worker_connections 1024; }}\n\
         http {{\naccess_log /dev/null;\n{temporary}keepalive_requests 1000000;\n\
         set_real_ip_from {CLIENT_V4};\nreal_ip_header X-Forwarded-For;\n{ZONES}\
         upstream app {{ server 127.0.0.1:{app}; keepalive 64; keepalive_requests 1000000; }}\n\
         include {folder}/moderation-http.conf;\n{servers}}}\n"
    )
}

fn server(folder: &Path, behind: Behind, way: Way) -> String {
    let folder = folder.display();
    let guard = match way {
        Way::Plain => "access_log /dev/null;\n".to_owned(),
        Way::LimitReq => format!("access_log /dev/null;\n{WIDE}\n"),
        // It logs to the daemon, too.
        Way::Ours => format!("include {folder}/moderation-server.conf;\n"),
    };
    let content = match behind {
        Behind::App => "proxy_pass http://app; proxy_http_version 1.1; \
                        proxy_set_header Connection \"\"; proxy_set_header Host $host; \
                        proxy_set_header X-Forwarded-For $remote_addr;"
            .to_owned(),
        Behind::File => format!("root {folder}; try_files /answer.json =404;"),
    };
    let narrow = match way {
        Way::LimitReq => {
            format!("location = {NARROW} {{ limit_req zone=narrow; {content} }}\n")
        }
        Way::Plain | Way::Ours => String::new(),
    };
    let port = behind.port(way);
    format!("server {{\nlisten {HOST_V4}:{port};\n{guard}{narrow}location / {{ {content} }}\n}}\n")
}
