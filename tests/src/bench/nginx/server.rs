//! One nginx with a server for each way and each thing behind it, so that nothing but the
//! way is different: same workers, same clients, same connections to the app.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::case::{Behind, FILE, Way};
use crate::front::{self, APP_PORT, Front, Setup};
use crate::lab::{CLIENT_V4, HOST_V4};
use crate::namespace::Namespace;

/// Where `limit_req` refuses whoever comes twice a minute.
pub(super) const NARROW: &str = "/narrow";

/// More than any of these requests, and what comes at once where two share a millisecond:
/// nothing is refused.
const WIDE: &str = "limit_req zone=wide burst=10000 nodelay;";
const ZONES: &str = "limit_req_zone $binary_remote_addr zone=wide:20m rate=10000r/s;\n\
                     limit_req_zone $binary_remote_addr zone=narrow:1m rate=1r/m;\n";

/// A running nginx; ends when dropped.
pub(super) struct Server {
    front: Front,
    // After the process, which sends what is in it.
    _content: TempDir,
}

impl Server {
    /// Listens on all ports of [`Behind`], and asks the daemon of these sockets. Nothing is
    /// written down, so that no way waits for the disk.
    pub(super) fn start(namespace: &Namespace, sockets: &Path) -> Result<Self> {
        let content = tempfile::tempdir().context("cannot make a temporary folder")?;
        // Workers look into it.
        fs::set_permissions(content.path(), fs::Permissions::from_mode(0o755))?;
        fs::write(content.path().join("answer.json"), FILE)?;
        let all = || Behind::ALL.iter().flat_map(|behind| Way::ALL.map(|way| (*behind, way)));
        let servers: String =
            all().map(|(behind, way)| server(content.path(), behind, way)).collect();
        let ports: Vec<u16> = all().map(|(behind, way)| behind.port(way)).collect();
        let setup = Setup {
            http: &http(),
            servers: Some(&servers),
            ports: &ports,
            is_logging: false,
            ..Setup::default()
        };
        let front = Front::start(namespace, sockets, setup)?;
        Ok(Self { front, _content: content })
    }

    /// What it complained of.
    pub(super) fn log(&self) -> String {
        self.front.log()
    }
}

/// Clients come through a load balancer, which tells their addresses. An idle connection is
/// closed before the app does it (Node: after five seconds), whatever is on its way then.
fn http() -> String {
    format!(
        "keepalive_requests 1000000;\n\
         set_real_ip_from {CLIENT_V4};\nreal_ip_header X-Forwarded-For;\n{ZONES}\
         upstream app {{ server 127.0.0.1:{APP_PORT}; keepalive 64; \
         keepalive_requests 1000000; keepalive_timeout 3s; }}\n"
    )
}

fn server(folder: &Path, behind: Behind, way: Way) -> String {
    let folder = folder.display();
    let guard = match way {
        Way::Plain => "access_log /dev/null;\n".to_owned(),
        Way::LimitReq => format!("access_log /dev/null;\n{WIDE}\n"),
        // It logs to the daemon, too.
        Way::Ours => front::asking(),
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
