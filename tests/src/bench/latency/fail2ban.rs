//! The peer of latency: fail2ban with its nftables action, in a network namespace and
//! with a configuration, socket, database and log of its own. It bans at the first line,
//! watches the log by inotify, and drops; nothing of it is slowed down.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use super::own_all;
use crate::lab::{CLIENT_V4, HOST_V4, Pair};
use crate::process::{self, Process};
use crate::{interrupt, wait};

/// Its own action, as the system has it.
const ACTION: &str = "/etc/fail2ban/action.d/nftables.conf";
/// Discard, RFC 863.
const PORT: u16 = 9;
/// Between two packets of the source: what is measured is no finer than this.
const PACE: Duration = Duration::from_micros(200);
/// When nothing arrives for so long while packets are sent, they are dropped.
const SILENCE: Duration = Duration::from_millis(300);
/// So many must have been sent into the silence.
const DROPPED: usize = 100;
/// Patience with a ban, and with its start.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running fail2ban.
pub(super) struct Fail2ban {
    // In this order: it is killed before its folder and its network go.
    server: Process,
    log: File,
    target: UdpSocket,
    folder: TempDir,
    place: Pair,
}

impl Fail2ban {
    /// Starts one and waits until it watches its log.
    pub(super) fn start() -> Result<Self> {
        let place = Pair::new()?;
        own_all(&place.client, &place.host, CLIENT_V4)?;
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let log_path = folder.path().join("app.log");
        let log = File::options().create(true).append(true).open(&log_path)?;
        configure(folder.path(), &log_path)?;
        let bind = || UdpSocket::bind((HOST_V4, PORT)).context("cannot open the target");
        let target = place.host.run(bind)?;
        target.set_read_timeout(Some(SILENCE))?;
        let server = place.host.spawn(server(folder.path()))?;
        let mut peer = Self { server, log, target, folder, place };
        peer.await_readiness()?;
        Ok(peer)
    }

    fn await_readiness(&mut self) -> Result<()> {
        let folder = self.folder.path();
        let server = &mut self.server;
        let ready = wait::until("fail2ban to watch its log", PATIENCE, || {
            if let Some(status) = server.exited()? {
                bail!("fail2ban-server ended with {status}");
            }
            let mut client = Command::new("fail2ban-client");
            client.arg("-s").arg(folder.join("socket")).args(["status", "bench"]);
            let output = client.output().context("cannot start fail2ban-client")?;
            Ok(output.status.success().then_some(()))
        });
        let log = || fs::read_to_string(folder.join("fail2ban.log")).unwrap_or_default();
        ready.with_context(|| format!("fail2ban did not start; its log:\n{}", log()))
    }

    /// From just before the log line is written to the sending of the first packet that
    /// is dropped.
    pub(super) fn time(&mut self, source: IpAddr) -> Result<Duration> {
        interrupt::check()?;
        let socket = self.place.client.run(|| connect(source))?;
        let stop = &AtomicBool::new(false);
        thread::scope(|scope| {
            let sending = scope.spawn(move || send(&socket, stop));
            let heard = self.accuse_and_listen(source);
            stop.store(true, Ordering::Relaxed);
            let sent = sending.join().map_err(|_| anyhow!("the sender panicked"))??;
            let (begin, last) = heard?;
            ensure!(sent.len() > last + DROPPED, "the sender stood still: nothing was dropped");
            sent[last + 1].checked_duration_since(begin).context("a packet was lost before the ban")
        })
    }

    /// When the line was written, and the number of the last packet that arrived.
    fn accuse_and_listen(&mut self, source: IpAddr) -> Result<(Instant, usize)> {
        let mut last = self.receive(source)?.context("no packet arrived")?;
        let begin = Instant::now();
        let now = UNIX_EPOCH.elapsed().context("the clock is before 1970")?.as_secs_f64();
        // In one write, as a logger does it.
        let line = format!("{now:.3} denied {source}\n");
        self.log.write_all(line.as_bytes()).context("cannot write the log")?;
        while let Some(number) = self.receive(source)? {
            last = number;
            ensure!(begin.elapsed() < PATIENCE, "fail2ban did not ban {source} in {PATIENCE:?}");
        }
        Ok((begin, last))
    }

    /// The number of the next packet; none when nothing arrives any more.
    fn receive(&self, source: IpAddr) -> Result<Option<usize>> {
        let mut number = [0; size_of::<usize>()];
        match self.target.recv_from(&mut number) {
            Ok((_, from)) => {
                ensure!(from.ip() == source, "a packet of {from} arrived, not of {source}");
                Ok(Some(usize::from_ne_bytes(number)))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("cannot receive"),
        }
    }
}

fn connect(source: IpAddr) -> Result<UdpSocket> {
    let socket =
        UdpSocket::bind((source, 0)).with_context(|| format!("cannot send from {source}"))?;
    socket.connect(SocketAddr::from((HOST_V4, PORT)))?;
    Ok(socket)
}

/// Sends numbered packets until told to stop, and says when each was sent.
fn send(socket: &UdpSocket, stop: &AtomicBool) -> Result<Vec<Instant>> {
    let mut sent = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = sent.len();
        sent.push(Instant::now());
        socket.send(&number.to_ne_bytes()).context("cannot send")?;
        thread::sleep(PACE); // paces: the host's processors are fail2ban's
    }
    Ok(sent)
}

fn server(folder: &Path) -> Command {
    let mut command = process::command("fail2ban-server");
    command.arg("-c").arg(folder).arg("-s").arg(folder.join("socket"));
    command.arg("-p").arg(folder.join("pid")).args(["-f", "start"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Three files and its action: all that it reads.
fn configure(folder: &Path, log: &Path) -> Result<()> {
    let (folder_text, log) = (folder.display(), log.display());
    let general = format!(
        "[Definition]\nloglevel = INFO\nlogtarget = {folder_text}/fail2ban.log\n\
         syslogsocket = auto\nsocket = {folder_text}/socket\npidfile = {folder_text}/pid\n\
         dbfile = {folder_text}/bans.sqlite3\ndbpurgeage = 1d\ndbmaxmatches = 10\n"
    );
    let jail = format!(
        "[bench]\nenabled = true\nfilter = bench\nlogpath = {log}\nbackend = pyinotify\n\
         maxretry = 1\nfindtime = 1h\nbantime = 1h\nusedns = no\nignoreself = false\n\
         action = nftables[type=allports, protocol=udp, blocktype=drop, name=bench]\n"
    );
    let filter = "[Definition]\nfailregex = ^\\s*denied <HOST>$\ndatepattern = ^EPOCH\n";
    for (name, text) in
        [("fail2ban.conf", general.as_str()), ("jail.conf", &jail), ("filter.d/bench.conf", filter)]
    {
        let path = folder.join(name);
        let what = || format!("cannot write {}", path.display());
        fs::create_dir_all(path.parent().unwrap_or(folder)).with_context(what)?;
        fs::write(&path, text).with_context(what)?;
    }
    fs::create_dir(folder.join("action.d")).context("cannot make a folder for its action")?;
    fs::copy(ACTION, folder.join("action.d/nftables.conf"))
        .with_context(|| format!("cannot read {ACTION}"))?;
    Ok(())
}
