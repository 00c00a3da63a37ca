//! redis-server as a process: alone, or three masters as a cluster; each with a folder of
//! its own that goes with it. What it is asked is not known here; its protocol (RESP2) is
//! written by hand, as far as tests need it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::process::{self, Process, Spawner};
use crate::{sweep, wait};

/// Patience with a start, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The slots of a cluster, see the cluster specification of Redis.
const SLOTS: u32 = 16_384;
/// A node of a cluster takes the port so far above, too.
const SECOND: u16 = 10_000;
/// Masters of a cluster.
const MASTERS: u32 = 3;

/// A redis-server; killed when dropped.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    arguments: Vec<String>,
    namespace: Option<Namespace>,
    // In this order: it is killed before its folder goes.
    process: Option<Process>,
    folder: TempDir,
}

impl Redis {
    /// Starts one that writes nothing to disk, on a free port of the loopback.
    pub fn start() -> Result<Self> {
        Self::with(&[])
    }

    /// The same with more on its command line, where `PORT` stands for a second port.
    pub fn with(arguments: &[&str]) -> Result<Self> {
        Self::set_up(None, arguments)
    }

    /// The same inside a namespace, on the loopback there.
    pub fn inside(namespace: &Namespace) -> Result<Self> {
        Self::set_up(Some(namespace.clone()), &[])
    }

    fn set_up(namespace: Option<Namespace>, arguments: &[&str]) -> Result<Self> {
        sweep::sweep()?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", crate::name::fresh()?))
            .tempdir_in(sweep::TEMPORARY)
            .context("cannot make a temporary folder")?;
        let arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
        let mut server = Self { port: 0, arguments, namespace, process: None, folder };
        // Another process can take a port that was free a moment ago.
        for _ in 0..10 {
            server.port = free_port()?;
            if server.launch().is_ok() {
                return Ok(server);
            }
        }
        bail!("redis-server does not start: {}", server.log())
    }

    /// Starts it again on its port, after [`Redis::kill`].
    pub fn launch(&mut self) -> Result<()> {
        let mut command = process::command("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.arg("--unixsocket").arg(self.socket());
        command.arg("--dir").arg(self.folder.path());
        let second = self.second_port().to_string();
        command.args(self.arguments.iter().map(|it| if it == "PORT" { &second } else { it }));
        let log = fs::File::options().create(true).append(true).open(self.log_path())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = match &self.namespace {
            Some(namespace) => namespace.spawn(command)?,
            None => Spawner::here()?.spawn(command)?,
        };
        wait::until("redis-server to answer", PATIENCE, || {
            if let Some(status) = process.exited()? {
                bail!("redis-server ended with {status}");
            }
            let pong = self.ask(&["PING"]);
            // Under a password it says so, and is there.
            Ok(pong.is_ok_and(|it| it == "PONG" || it.starts_with("-NOAUTH")).then_some(()))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Its port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// A port that is free as well, for what else it listens on.
    pub const fn second_port(&self) -> u16 {
        self.port + SECOND
    }

    /// As it is named in a configuration.
    pub fn uri(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let process = self.process.take().context("redis-server is not running")?;
        process.kill().map(drop)
    }

    /// Stops it with SIGSTOP: it keeps its connections and answers nothing.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("redis-server is not running")?.signal(signal)
    }

    /// One command, on a connection of its own; an error begins with `-`.
    pub fn ask(&self, command: &[&str]) -> Result<String> {
        match &self.namespace {
            Some(namespace) => namespace.run(|| Wire::open(self.port)),
            None => Wire::open(self.port),
        }?
        .ask(command)
    }

    /// The names of all keys.
    pub fn keys(&self) -> Result<Vec<String>> {
        let answer = self.ask(&["KEYS", "*"])?;
        Ok(answer.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("redis.log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // A frozen one takes no other signal.
        self.process = None;
    }
}

/// Three masters that share the slots among them.
#[derive(Debug)]
pub struct Cluster(Vec<Redis>);

impl Cluster {
    /// Starts them, and waits until each knows the others.
    pub fn start() -> Result<Self> {
        let node = |_| {
            let more = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
            Redis::with(&more)
        };
        let nodes = (0..MASTERS).map(node).collect::<Result<Vec<_>>>()?;
        for (number, node) in (0..).zip(&nodes) {
            let (first, end) = (SLOTS * number / MASTERS, SLOTS * (number + 1) / MASTERS);
            let range = [first, end - 1].map(|slot| slot.to_string());
            let answer = node.ask(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]])?;
            ensure!(answer == "OK", "ADDSLOTSRANGE: {answer}");
            // Two nodes of one epoch that claim something both would quarrel.
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()])?;
            let port = nodes[0].port().to_string();
            if number > 0 {
                let answer = node.ask(&["CLUSTER", "MEET", "127.0.0.1", &port])?;
                ensure!(answer == "OK", "MEET: {answer}");
            }
        }
        for node in &nodes {
            wait::until("the cluster to be whole", PATIENCE, || {
                let info = node.ask(&["CLUSTER", "INFO"])?;
                let is_whole = info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_known_nodes:{MASTERS}"));
                Ok(is_whole.then_some(()))
            })?;
        }
        Ok(Self(nodes))
    }

    /// Its nodes.
    pub fn nodes(&mut self) -> &mut [Redis] {
        &mut self.0
    }

    /// As it is named in a configuration: every node.
    pub fn uris(&self) -> Vec<String> {
        self.0.iter().map(Redis::uri).collect()
    }
}

/// A port that nobody listens on, nor on the one above that a node of a cluster takes.
fn free_port() -> Result<u16> {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        if port < 55_000 && TcpListener::bind((Ipv4Addr::LOCALHOST, port + SECOND)).is_ok() {
            return Ok(port);
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Wire(BufReader<TcpStream>);

impl Wire {
    /// Connects to a port of the loopback.
    pub fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// One command; arrays come line by line, an error begins with `-`.
    pub fn ask(&mut self, command: &[&str]) -> Result<String> {
        self.say(command)?;
        self.read()
    }

    /// One command, without waiting for the answer.
    pub fn say(&mut self, command: &[&str]) -> Result<()> {
        let mut request = format!("*{}\r\n", command.len());
        for part in command {
            request += &format!("${}\r\n{part}\r\n", part.len());
        }
        self.0.get_mut().write_all(request.as_bytes())?;
        Ok(())
    }

    /// The next answer, or what comes without being asked for.
    pub fn read(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let line = line.trim_end();
        let rest = line.get(1..).unwrap_or_default();
        match line.as_bytes().first() {
            Some(b'+' | b':') => Ok(rest.to_owned()),
            Some(b'-') => Ok(line.to_owned()),
            Some(b'$') if rest == "-1" => Ok(String::new()),
            Some(b'$') => {
                let mut text = vec![0; rest.parse::<usize>()? + 2];
                self.0.read_exact(&mut text)?;
                text.truncate(text.len() - 2);
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
            Some(b'*') => {
                let parts = (0..rest.parse::<usize>()?).map(|_| self.read());
                Ok(parts.collect::<Result<Vec<_>>>()?.join("\n"))
            }
            _ => bail!("redis-server answered {line:?}"),
        }
    }
}
