//! Real MongoDB servers: alone, as a replica set of one, as one of three. They listen on
//! loopback and on a Unix socket, which is reached from every network namespace, and are
//! killed and stopped by their pid. What is kept in them is not known here.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::process::{self, Process, Spawner};
use crate::{name, need, sweep, wait};

/// Patience with a start, an election, an answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const SET: &str = "rs0";
/// LibreChat's own name for its database.
pub const DATABASE: &str = "LibreChat";

/// The server, if setup has installed it.
fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    root.join(".servers/mongod/fiftyone/db/bin/mongod")
}

/// `if !mongod::is_here() { return Ok(()); }` at the start of a test.
#[must_use]
pub fn is_here() -> bool {
    need::is_met("mongod (`cargo xtask setup`)", program().is_file())
}

/// One server. Dropped, it is killed and its files are removed.
#[derive(Debug)]
pub struct Server {
    process: Option<Process>,
    port: u16,
    arguments: Vec<String>,
    // After the process, which uses it.
    folder: TempDir,
}

impl Server {
    /// Starts one that is alone: it has no change streams.
    pub fn alone() -> Result<Self> {
        Self::start(&[])
    }

    fn start(arguments: &[&str]) -> Result<Self> {
        sweep::sweep()?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", name::fresh()?))
            .tempdir_in(sweep::TEMPORARY)
            .context("cannot make a temporary folder")?;
        let arguments = arguments.iter().map(|&text| text.to_owned()).collect();
        let port = free_port()?;
        let mut server = Self { process: None, port, arguments, folder };
        server.resurrect()?;
        Ok(server)
    }

    /// Starts it on what it has, after [`Server::kill`].
    pub fn resurrect(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "mongod is already running");
        let mut command = process::command(program());
        command.arg("--dbpath").arg(self.folder.path()).args(["--bind_ip", "127.0.0.1", "--quiet"]);
        command.arg("--port").arg(self.port.to_string());
        command.arg("--unixSocketPrefix").arg(self.folder.path());
        command.arg("--logpath").arg(self.folder.path().join("log")).arg("--logappend");
        command.args(["--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"]);
        command.args(["--wiredTigerEngineConfigString", "log=(file_max=10MB,prealloc=false)"]);
        for parameter in [
            "ttlMonitorSleepSecs=1",
            "enableTestCommands=1",
            "diagnosticDataCollectionEnabled=false",
        ] {
            command.arg("--setParameter").arg(parameter);
        }
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Spawner::here()?.spawn(command)?);
        let base = self.base()?;
        wait::until("mongod to answer", PATIENCE, || {
            let process = self.process.as_mut().context("it was just started")?;
            if let Some(status) = process.exited()? {
                bail!("mongod ended with {status}");
            }
            Ok(base.command("admin", doc! { "ping": 1 }).ok())
        })?;
        Ok(())
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("mongod is not running")?.kill().map(drop)
    }

    /// Stops it where it stands, with SIGSTOP: it answers nobody, and its connections stay.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// The reverse.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref().context("mongod is not running")?;
        let pid = Pid::from_raw(i32::try_from(process.id())?);
        kill(pid, signal).with_context(|| format!("cannot signal process {pid}"))
    }

    /// How a daemon reaches it, from whatever namespace.
    pub fn uri(&self) -> String {
        let socket = self.folder.path().join(format!("mongodb-{}.sock", self.port));
        let encoded = socket.to_string_lossy().replace('/', "%2F");
        format!("mongodb://{encoded}/{DATABASE}?directConnection=true")
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A client of it alone.
    pub fn base(&self) -> Result<Base> {
        Base::new(&format!("mongodb://{}/?directConnection=true", self.address()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A frozen one could not be reaped.
        if self.process.is_some() && self.thaw().is_err() {
            eprintln!("mongod could not be thawed");
        }
    }
}

/// A replica set.
#[derive(Debug)]
pub struct Set {
    /// Its members, in no order.
    pub members: Vec<Server>,
}

impl Set {
    /// Starts one of so many members, and waits for its primary.
    pub fn start(members: usize) -> Result<Self> {
        let start = |_| Server::start(&["--replSet", SET]);
        let members = (0..members).map(start).collect::<Result<Vec<_>>>()?;
        let hosts: Vec<Bson> = (0_i32..)
            .zip(&members)
            .map(|(id, member)| doc! { "_id": id, "host": member.address() }.into())
            .collect();
        let configuration = doc! {
            "_id": SET,
            "members": hosts,
            "settings": { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 250 },
        };
        let first = members.first().context("a set has members")?;
        first.base()?.command("admin", doc! { "replSetInitiate": configuration })?;
        let set = Self { members };
        set.primary()?;
        Ok(set)
    }

    /// The place of the member that takes writes; waits until one does.
    pub fn primary(&self) -> Result<usize> {
        wait::until("a primary", PATIENCE, || {
            let running = |member: &&Server| member.process.is_some();
            for (index, member) in self.members.iter().enumerate().filter(|(_, it)| running(it)) {
                let hello = member.base()?.command("admin", doc! { "hello": 1 });
                if hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").is_ok_and(|it| it)) {
                    return Ok(Some(index));
                }
            }
            Ok(None)
        })
    }

    /// How a daemon in our own namespace reaches all of them.
    pub fn uri(&self) -> String {
        let addresses: Vec<String> = self.members.iter().map(Server::address).collect();
        format!("mongodb://{}/{DATABASE}?replicaSet={SET}", addresses.join(","))
    }

    /// A client of all of them.
    pub fn base(&self) -> Result<Base> {
        Base::new(&self.uri())
    }
}

/// A client that waits: what a person with a shell would do.
#[derive(Debug)]
pub struct Base {
    runtime: Runtime,
    client: Client,
}

impl Base {
    fn new(uri: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        let client = runtime.block_on(async {
            let mut options = ClientOptions::parse(uri).await?;
            options.server_selection_timeout = Some(Duration::from_secs(5));
            Client::with_options(options)
        })?;
        Ok(Self { runtime, client })
    }

    /// Runs a command.
    pub fn command(&self, database: &str, command: Document) -> Result<Document> {
        let database = self.client.database(database);
        let run = async { tokio::time::timeout(PATIENCE, database.run_command(command)).await };
        Ok(self.runtime.block_on(run).context("mongod does not answer")??)
    }

    /// The same in LibreChat's database.
    pub fn run(&self, command: Document) -> Result<Document> {
        self.command(DATABASE, command)
    }

    /// All documents of a collection that match.
    pub fn find(&self, collection: &str, filter: Document) -> Result<Vec<Document>> {
        let found =
            self.run(doc! { "find": collection, "filter": filter, "batchSize": 100_000 })?;
        let batch = found.get_document("cursor")?.get_array("firstBatch")?;
        batch.iter().map(|it| it.as_document().cloned().context("no document")).collect()
    }

    /// Puts documents in.
    pub fn insert(
        &self,
        collection: &str,
        documents: impl IntoIterator<Item = Document>,
    ) -> Result<()> {
        let documents: Vec<_> = documents.into_iter().collect();
        for chunk in documents.chunks(10_000) {
            self.run(doc! { "insert": collection, "documents": chunk })?;
        }
        Ok(())
    }

    /// Deletes all that match, as `deleteMany` does; says how many.
    pub fn delete(&self, collection: &str, filter: Document) -> Result<i32> {
        let deletes = [doc! { "q": filter, "limit": 0 }];
        let done = self.run(doc! { "delete": collection, "deletes": deletes.to_vec() })?;
        done.get_i32("n").context("no count")
    }

    /// Has commands fail so many times with a code (`failCommand`).
    pub fn fail(&self, commands: &[&str], times: i32, code: i32) -> Result<()> {
        let data = doc! { "failCommands": commands.to_vec(), "errorCode": code };
        let command =
            doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
        self.command("admin", command).map(drop)
    }
}

/// One that nobody listens on just now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}
