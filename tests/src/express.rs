//! A chat host on Express with LibreChat's routes and answers (`express/app.js`), as a
//! process in a namespace. It knows nothing of this project, and this file nothing of
//! what is asked of it.

use std::env;
use std::fs::{self, File};
use std::io::BufReader;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::binary;
use crate::front::APP_PORT;
use crate::namespace::Namespace;
use crate::process::{self, Process};
use crate::{http, name, need, sweep, wait};

/// Where it says what runs, for nobody but tests.
const RUNNING_PORT: u16 = 3_081;
/// Patience with a start, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The app; ends when dropped.
#[derive(Debug)]
pub struct Express {
    process: Process,
    namespace: Namespace,
    folder: TempDir,
}

impl Express {
    /// Whether its npm packages are there; said, and under `MODERATION_REQUIRE_ALL=1` a
    /// failure, if not.
    #[must_use]
    pub fn is_there() -> bool {
        let is_there = packages().is_ok_and(|folder| folder.is_dir());
        need::is_met("the npm packages of Express (cargo xtask setup)", is_there)
    }

    /// Listens on [`APP_PORT`] of a namespace's loopback, and signs its tokens with this secret.
    pub fn start(namespace: &Namespace, secret: &str) -> Result<Self> {
        sweep::sweep()?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", name::fresh()?))
            .tempdir_in(sweep::TEMPORARY)
            .context("cannot make a temporary folder")?;
        let packages = packages()?;
        ensure!(packages.is_dir(), "there is no {}: cargo xtask setup", packages.display());
        let log = File::create(folder.path().join("log"))?;
        let mut node = process::command("node");
        node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/express/app.js"));
        node.env("NODE_PATH", packages).env("NODE_ENV", "production").env("JWT_SECRET", secret);
        node.env("HOST", Ipv4Addr::LOCALHOST.to_string()).env("PORT", APP_PORT.to_string());
        node.env("RUNNING_PORT", RUNNING_PORT.to_string());
        node.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = namespace.spawn(node)?;
        let mut express = Self { process, namespace: namespace.clone(), folder };
        express.await_listening()?;
        Ok(express)
    }

    fn await_listening(&mut self) -> Result<()> {
        let waited = wait::until("the app to listen", PATIENCE, || {
            if let Some(status) = self.process.exited()? {
                bail!("it ended with {status}");
            }
            // It listens there last.
            Ok(self.connect(APP_PORT).ok())
        });
        waited.map(drop).with_context(|| self.log())
    }

    /// By user, how many generations run now (`running`) and the most that ever ran at
    /// once (`most`), by the app's own account.
    pub fn running(&self) -> Result<Value> {
        let mut stream = BufReader::new(self.connect(RUNNING_PORT)?);
        http::write(stream.get_mut(), "GET /running HTTP/1.1", &[("host", "app")], &Value::Null)?;
        let answer = http::read(&mut stream)?.context("the app closed the connection")?;
        ensure!(answer.status() == Some(200), "{answer:?}");
        Ok(answer.json())
    }

    /// What it complained of; nothing, as a rule.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn connect(&self, port: u16) -> Result<TcpStream> {
        let server = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        self.namespace.run(|| {
            let stream = TcpStream::connect(server)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
    }
}

/// `target/express/node_modules`, which `cargo xtask setup` fills, beside the folder of
/// the programs.
fn packages() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("MODERATION_EXPRESS_PACKAGES") {
        return Ok(Path::new(&folder).join("node_modules"));
    }
    let program = binary("moderationd")?;
    let target = program.ancestors().nth(2).context("not in a target folder")?;
    Ok(target.join("express/node_modules"))
}
