//! Real MongoDB servers: alone, as a replica set of one, as one of three. They listen on
//! loopback, or on an address in a network namespace, and on a Unix socket, which is
//! reached from everywhere, and are killed and stopped by their pid. What is kept in them
//! is not known here.

mod plan;

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

pub use plan::Plan;
pub(crate) use plan::unmount_below;
use plan::{Disk, User};

use crate::process::{self, Process};
use crate::{name, need, sweep, wait};

/// Patience with a start, an election, an answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const SET: &str = "rs0";
/// Documents that are read in one go, if they are small.
const BATCH: i32 = 100_000;
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
    plan: Plan,
    port: u16,
    arguments: Vec<String>,
    // After the process, which uses them.
    disk: Option<Disk>,
    folder: TempDir,
}

impl Server {
    /// Starts one that is alone: it has no change streams.
    pub fn alone() -> Result<Self> {
        Self::start(&Plan::default(), &[])
    }

    fn start(plan: &Plan, arguments: &[&str]) -> Result<Self> {
        sweep::sweep()?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", name::fresh()?))
            .tempdir_in(sweep::TEMPORARY)
            .context("cannot make a temporary folder")?;
        let mut arguments: Vec<_> = arguments.iter().map(|&text| text.to_owned()).collect();
        arguments.extend(plan.arguments(folder.path())?);
        let (port, disk) = (plan.free_port()?, plan.disk(folder.path())?);
        let plan = plan.clone();
        let mut server = Self { process: None, plan, port, arguments, disk, folder };
        server.resurrect()?;
        Ok(server)
    }

    /// Starts it on what it has, after [`Server::kill`].
    pub fn resurrect(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "mongod is already running");
        let data = self.disk.as_ref().map_or(self.folder.path(), Disk::path);
        let mut command = process::command(program());
        command.arg("--dbpath").arg(data).args(["--bind_ip", &self.plan.ip(), "--quiet"]);
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
        self.process = Some(self.plan.spawn(command)?);
        let base = Base::new(&self.local_uri(None))?;
        wait::until("mongod to answer", PATIENCE, || {
            let process = self.process.as_mut().context("it was just started")?;
            if let Some(status) = process.exited()? {
                bail!("mongod ended with {status}");
            }
            Ok(base.command("admin", doc! { "ping": 1 }).ok())
        })?;
        Ok(())
    }

    /// Starts it again if it has ended by itself; says whether it had.
    pub fn revive(&mut self) -> Result<bool> {
        let process = self.process.as_mut().context("mongod was not started")?;
        if process.exited()?.is_none() {
            return Ok(false);
        }
        self.process = None;
        self.resurrect()?;
        Ok(true)
    }

    /// Fills what is left of its disk, if it has one of its own.
    pub fn fill_disk(&self) -> Result<()> {
        self.disk.as_ref().context("it has no disk of its own")?.fill()
    }

    /// The reverse.
    pub fn free_disk(&self) -> Result<()> {
        self.disk.as_ref().context("it has no disk of its own")?.free()
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
        let user = self.plan.has_rights.then_some(&User::APP);
        format!("{}{DATABASE}?directConnection=true", self.socket(user))
    }

    /// The same for ourselves.
    fn local_uri(&self, user: Option<&User>) -> String {
        format!("{}?directConnection=true", self.socket(user))
    }

    fn socket(&self, user: Option<&User>) -> String {
        let socket = self.folder.path().join(format!("mongodb-{}.sock", self.port));
        let encoded = socket.to_string_lossy().replace('/', "%2F");
        format!("mongodb://{}{encoded}/", User::in_uri(user))
    }

    fn address(&self) -> String {
        format!("{}:{}", self.plan.ip(), self.port)
    }

    /// A client of it alone, that may do everything.
    pub fn base(&self) -> Result<Base> {
        Base::new(&self.local_uri(self.plan.has_rights.then_some(&User::ROOT)))
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
    is_alone: bool,
}

impl Set {
    /// Starts one of so many members, and waits for its primary.
    pub fn start(members: usize) -> Result<Self> {
        Self::start_as(members, &Plan::default())
    }

    /// One server that is no set, where one is expected.
    pub fn alone(plan: &Plan) -> Result<Self> {
        Ok(Self { members: vec![Server::start(plan, &[])?], is_alone: true })
    }

    /// [`Set::start`] with everything according to a plan.
    pub fn start_as(members: usize, plan: &Plan) -> Result<Self> {
        let start = |_| Server::start(plan, &["--replSet", SET]);
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
        // Whoever comes over the socket may begin, as long as nobody is known there.
        let beginner = Base::new(&first.local_uri(None))?;
        beginner.command("admin", doc! { "replSetInitiate": configuration })?;
        let set = Self { members, is_alone: false };
        if plan.has_rights {
            set.make_users()?;
        }
        set.primary()?;
        Ok(set)
    }

    fn make_users(&self) -> Result<()> {
        wait::until("the first user", PATIENCE, || {
            for member in &self.members {
                let beginner = Base::new(&member.local_uri(None))?;
                if beginner.command("admin", User::ROOT.made("root", "admin")).is_ok() {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })?;
        self.make_user()
    }

    /// Makes the user by whom daemons come, who may read and write.
    pub fn make_user(&self) -> Result<()> {
        let base = self.members[self.primary()?].base()?;
        base.run(User::APP.made("readWrite", DATABASE)).map(drop)
    }

    /// Takes the user away.
    pub fn drop_user(&self) -> Result<()> {
        let base = self.members[self.primary()?].base()?;
        base.run(doc! { "dropUser": User::APP.name }).map(drop)
    }

    /// Takes the user's rights away, or gives them back.
    pub fn change_rights(&self, command: &str) -> Result<()> {
        let base = self.members[self.primary()?].base()?;
        let role = doc! { "role": "readWrite", "db": DATABASE };
        base.run(doc! { command: User::APP.name, "roles": [role] }).map(drop)
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

    /// How a daemon that reaches their addresses reaches all of them.
    pub fn uri(&self) -> String {
        let addresses: Vec<String> = self.members.iter().map(Server::address).collect();
        let has_rights = self.members.iter().any(|it| it.plan.has_rights);
        let user = User::in_uri(has_rights.then_some(&User::APP));
        let how = if self.is_alone { "directConnection=true" } else { "replicaSet=rs0" };
        format!("mongodb://{user}{}/{DATABASE}?{how}", addresses.join(","))
    }

    /// A client of the one that takes writes.
    pub fn base(&self) -> Result<Base> {
        self.members[self.primary()?].base()
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
        self.find_fields(collection, filter, doc! {})
    }

    /// The same with some fields of them only.
    pub fn find_fields(
        &self,
        collection: &str,
        filter: Document,
        fields: Document,
    ) -> Result<Vec<Document>> {
        let find =
            doc! { "find": collection, "filter": filter, "projection": fields, "batchSize": BATCH };
        let (mut reply, mut name) = (self.run(find)?, "firstBatch");
        let mut all = Vec::new();
        loop {
            let cursor = reply.get_document("cursor")?;
            let found = cursor.get_array(name)?.iter();
            let found = found.map(|it| it.as_document().cloned().context("no document"));
            all.extend(found.collect::<Result<Vec<_>>>()?);
            let id = cursor.get_i64("id")?;
            if id == 0 {
                return Ok(all);
            }
            let more = doc! { "getMore": id, "collection": collection, "batchSize": BATCH };
            (reply, name) = (self.run(more)?, "nextBatch");
        }
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
