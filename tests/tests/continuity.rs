//! Nothing gets through and nothing is lost: a flood from banned sources and a
//! calm stream from others, while the daemon dies and comes back, the program is
//! replaced, and the maps are laid out anew. Every datagram is accounted for.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_common::BanEntry;
use moderation_daemon::config::AttachMode;
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::{
    AttachOptions, Attached, Network, NetworkError, Pins, attach, verify,
};
use moderation_tests::counter::KernelCounters;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::kernel::{Pinboard, detached};
use moderation_tests::lab::{CLIENT_V4, CLIENT_V6, HOST_V4, HOST_V6, INTERFACE, Pair};
use moderation_tests::stream::{Pace, Stream, Tally, lost_on_the_wire};
use moderation_tests::{need, wait};
use serde_json::json;

/// How often each thing is done under the flood.
const ROUNDS: usize = 20;
/// The same in generic mode, which differs in one place of the kernel only.
const GENERIC_ROUNDS: usize = 3;
/// For what happens sooner or later.
const LONG: Duration = Duration::from_secs(20);

/// Others at the same wire, who did nothing; not in the banned /64.
const ORDINARY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);
const ORDINARY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 9, 0, 0, 0, 2);
const NEAR_ORDINARY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 9, 0, 0, 0, 1);

/// The layouts between which the maps go back and forth.
const LAYOUTS: [&str; 2] = ["v1", Pins::SCHEMA];

/// From and to.
fn banned() -> [(IpAddr, IpAddr); 2] {
    [(CLIENT_V4.into(), HOST_V4.into()), (CLIENT_V6.into(), HOST_V6.into())]
}

fn ordinary() -> [(IpAddr, IpAddr); 2] {
    [(ORDINARY_V4.into(), HOST_V4.into()), (ORDINARY_V6.into(), NEAR_ORDINARY_V6.into())]
}

/// A wire on which all have met, before anybody is banned.
fn wire() -> Result<Pair> {
    let pair = Pair::new()?;
    pair.client.configure(&[
        format!("address add {ORDINARY_V4}/24 dev {INTERFACE}"),
        format!("address add {ORDINARY_V6}/64 dev {INTERFACE} nodad"),
    ])?;
    pair.host.configure(&[format!("address add {NEAR_ORDINARY_V6}/64 dev {INTERFACE} nodad")])?;
    for (from, to) in banned().into_iter().chain(ordinary()) {
        Stream::prepare(&pair, from, to)?;
    }
    Ok(pair)
}

/// What flows while something is done.
struct Traffic<'a> {
    pair: &'a Pair,
    flood: Vec<Stream>,
    calm: Vec<Stream>,
    lost_before: u64,
    /// The counters of every layout that was in force, one after the other.
    counters: Vec<KernelCounters>,
}

impl<'a> Traffic<'a> {
    /// Begins, under the program with these pins.
    fn start(pair: &'a Pair, pins: &Pins) -> Result<Self> {
        let lost_before = lost_on_the_wire(pair)?;
        let counters = vec![KernelCounters::of(pins)?];
        let start = |streams: [(IpAddr, IpAddr); 2], pace| {
            let streams = streams.into_iter().map(|(from, to)| Stream::start(pair, from, to, pace));
            streams.collect::<Result<Vec<_>>>()
        };
        let (flood, calm) = (start(banned(), Pace::FLOOD)?, start(ordinary(), Pace::CALM)?);
        Ok(Self { pair, flood, calm, lost_before, counters })
    }

    /// New maps are counting.
    fn moved_to(&mut self, pins: &Pins) -> Result<()> {
        self.counters.push(KernelCounters::of(pins)?);
        Ok(())
    }

    fn flooded(&self) -> u64 {
        self.flood.iter().map(Stream::sent).sum()
    }

    fn dropped(&self) -> Result<u64> {
        self.counters.iter().map(KernelCounters::banned).sum()
    }

    /// Does something, and says so if it was over before the flood could meet it.
    fn through(&mut self, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let (sent, dropped) = (self.flooded(), self.dropped()?);
        act(self)?;
        wait::until("the flood to be dropped", LONG, || {
            let are_many = self.flooded() > sent + 100 && self.dropped()? > dropped + 100;
            Ok(are_many.then_some(()))
        })?;
        let got_through: u64 = self.flood.iter().map(Stream::received).sum();
        ensure!(got_through == 0, "{got_through} datagrams of a banned source arrived");
        Ok(())
    }

    /// None of the flood has arrived and all of it was dropped by us; of the
    /// others' nothing is missing.
    fn judge(mut self, what: &str) -> Result<()> {
        let finish = |streams: &mut Vec<Stream>| {
            let tallies = streams.drain(..).map(Stream::finish);
            tallies.collect::<Result<Vec<Tally>>>()
        };
        let (flood, calm) = (finish(&mut self.flood)?, finish(&mut self.calm)?);
        let dropped = self.dropped()?;
        let lost = lost_on_the_wire(self.pair)? - self.lost_before;
        let sum = |tallies: &[Tally], of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
        let flooded = sum(&flood, |tally| tally.sent);
        println!("{what}: {dropped} of {flooded} dropped, {lost} lost on the wire; {calm:?}");
        for tally in &flood {
            assert_eq!(tally.received, 0, "{what}: of {flood:?}");
        }
        assert!(dropped + lost >= flooded, "{what}: {dropped} + {lost} of {flooded}");
        let missing = sum(&calm, |tally| tally.sent) - sum(&calm, |tally| tally.received);
        assert!(missing <= lost, "{what}: {calm:?}, and the wire lost {lost}");
        assert!(calm.iter().all(|tally| tally.sent > 100), "{what}: hardly anything: {calm:?}");
        Ok(())
    }
}

/// A daemon on the wire that has banned whom it should.
fn daemon(pair: &Pair, mode: &str) -> Result<Daemon> {
    let overrides = json!({ "network": { "mode": mode } });
    let daemon =
        Setup::new().inside(&pair.host).interface(INTERFACE).overrides(overrides).start()?;
    for (source, _) in banned() {
        let body = json!({ "ip": source, "duration": "1h" });
        let response = daemon.admin().post("/v1/bans", &body)?;
        ensure!(response.body["ban"]["enforced"] == true, "{response:?}");
    }
    Ok(daemon)
}

fn pins(daemon: &Daemon) -> Pins {
    Pins::new(daemon.pin_root())
}

fn program_id(daemon: &Daemon) -> Result<u64> {
    let status = daemon.status()?;
    let id = status["network"]["attachments"][0]["program_id"].as_u64();
    id.with_context(|| format!("no attachment in {status}"))
}

/// Does something to a daemon again and again; each time the program is another
/// and the link the same.
fn again_and_again(what: &str, mut act: impl FnMut(&mut Daemon) -> Result<()>) -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = wire()?;
    let mut daemon = daemon(&pair, "native")?;
    let link = fs::metadata(pins(&daemon).link(INTERFACE))?.ino();
    let mut traffic = Traffic::start(&pair, &pins(&daemon))?;
    for _ in 0..ROUNDS {
        let program = program_id(&daemon)?;
        traffic.through(|_| act(&mut daemon))?;
        ensure!(program_id(&daemon)? != program, "it is the same program");
    }
    assert_eq!(fs::metadata(pins(&daemon).link(INTERFACE))?.ino(), link, "on the same link");
    traffic.judge(what)
}

fn kill(daemon: &mut Daemon) -> Result<()> {
    daemon.kill()?;
    daemon.start()
}

fn upgrade(daemon: &mut Daemon) -> Result<()> {
    daemon.ctl(&["xdp", "attach", "--interface", INTERFACE])?.success().map(drop)
}

#[test]
fn nothing_gets_through_or_lost_while_the_daemon_is_killed_and_started() -> Result<()> {
    again_and_again("kill -9", kill)
}

#[test]
fn nothing_gets_through_or_lost_while_the_daemon_is_restarted() -> Result<()> {
    again_and_again("restart", Daemon::restart)
}

#[test]
fn nothing_gets_through_or_lost_while_the_program_is_upgraded() -> Result<()> {
    again_and_again("upgrade", upgrade)
}

/// Puts the program on, in this layout.
fn lay_out(pair: &Pair, pins: &Pins, mode: AttachMode) -> Result<()> {
    let interfaces = vec![INTERFACE.to_owned()];
    let options = AttachOptions { interfaces, mode, owner: None, ..detached() };
    let Attached { attachments, failures } = pair.host.run(|| Ok(attach(pins, &options)?))?;
    ensure!(attachments.len() == 1 && failures.is_empty(), "{attachments:?}, {failures:?}");
    Ok(())
}

fn ban(pins: &Pins, prefixes: [&str; 2]) -> Result<()> {
    let mut network = Network::open(pins)?;
    for prefix in prefixes {
        let prefix: Prefix = prefix.parse()?;
        network.block(prefix, BanEntry { expires_at_ns: BanEntry::NEVER })?;
    }
    Ok(())
}

fn migrate_back_and_forth(what: &str, prefixes: [&str; 2]) -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (pair, board) = (wire()?, Pinboard::reserve()?);
    let [old, new] = LAYOUTS.map(|layout| Pins::of_schema(board.path(), layout));
    lay_out(&pair, &old, AttachMode::Native)?;
    ban(&old, prefixes)?;
    let mut traffic = Traffic::start(&pair, &old)?;
    for round in 0..ROUNDS {
        let (from, to) = if round % 2 == 0 { (&old, &new) } else { (&new, &old) };
        traffic.through(|traffic| {
            lay_out(&pair, to, AttachMode::Native)?;
            traffic.moved_to(to)
        })?;
        ensure!(from.interfaces().is_empty() && !from.exist(), "something is left");
        // What is there was written by the loader, and not looked at by a daemon.
        let verified = verify(to)?;
        ensure!(verified.hidden + verified.switched_off == 0, "{verified:?}");
    }
    traffic.judge(what)
}

#[test]
fn nothing_gets_through_or_lost_while_the_maps_are_laid_out_anew() -> Result<()> {
    migrate_back_and_forth("migration", ["192.0.2.2", "2001:db8:0:4::/64"])
}

#[test]
fn nothing_gets_through_or_lost_while_maps_of_blocks_are_laid_out_anew() -> Result<()> {
    migrate_back_and_forth("migration of blocks", ["192.0.2.2/31", "2001:db8:0:4::2/128"])
}

/// Opens the maps as soon as it can, again and again, until told to stop: a
/// daemon that is there before the loader is done.
fn open_eagerly(pins: &Pins, stop: &AtomicBool) -> Result<u64> {
    let mut opened = 0;
    while !stop.load(Ordering::Relaxed) {
        match Network::open(pins) {
            Ok(_) => opened += 1,
            // Not there yet, or not any more.
            Err(NetworkError::OpenMap { .. } | NetworkError::Unfinished { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(opened)
}

#[test]
fn a_daemon_that_opens_the_maps_before_the_loader_is_done_hides_no_ban() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (pair, board) = (wire()?, Pinboard::reserve()?);
    let [old, new] = LAYOUTS.map(|layout| Pins::of_schema(board.path(), layout));
    lay_out(&pair, &old, AttachMode::Native)?;
    ban(&old, ["192.0.2.2", "2001:db8:0:4::2/128"])?;
    let mut traffic = Traffic::start(&pair, &old)?;
    for round in 0..ROUNDS {
        let to = if round % 2 == 0 { &new } else { &old };
        let stop = AtomicBool::new(false);
        let opened = thread::scope(|scope| -> Result<u64> {
            let eager = scope.spawn(|| open_eagerly(to, &stop));
            let migrated = traffic.through(|traffic| {
                lay_out(&pair, to, AttachMode::Native)?;
                traffic.moved_to(to)
            });
            stop.store(true, Ordering::Relaxed);
            let opened = eager.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
            migrated.and(opened)
        })?;
        ensure!(opened > 0, "it never opened anything");
        let verified = verify(to)?;
        ensure!(verified.hidden + verified.switched_off == 0, "round {round}: {verified:?}");
    }
    traffic.judge("migration under eager eyes")
}

/// Takes the maps away from a running daemon into an earlier layout, and back.
fn migrate_under(
    daemon: &Daemon,
    pair: &Pair,
    traffic: &mut Traffic<'_>,
    mode: AttachMode,
) -> Result<()> {
    let root = daemon.pin_root();
    for layout in LAYOUTS {
        let pins = Pins::of_schema(root, layout);
        traffic.through(|traffic| {
            lay_out(pair, &pins, mode)?;
            traffic.moved_to(&pins)
        })?;
    }
    wait::until("the daemon to be at work again", LONG, || {
        let status = daemon.status()?;
        let is_well = status["network"]["state"] == "attached"
            && status["network"]["problem"].is_null()
            && status["bans"]["enforced"] == 2;
        Ok(is_well.then_some(()))
    })?;
    let verified = verify(&Pins::new(root))?;
    ensure!(verified.entries == 2 && verified.hidden + verified.switched_off == 0, "{verified:?}");
    Ok(())
}

#[test]
fn nothing_gets_through_or_lost_while_the_maps_of_a_running_daemon_are_laid_out_anew() -> Result<()>
{
    if !need::root() {
        return Ok(());
    }
    let pair = wire()?;
    let daemon = daemon(&pair, "native")?;
    let mut traffic = Traffic::start(&pair, &pins(&daemon))?;
    for _ in 0..ROUNDS / LAYOUTS.len() {
        migrate_under(&daemon, &pair, &mut traffic, AttachMode::Native)?;
    }
    traffic.judge("migration under a daemon")
}

#[test]
fn in_generic_mode_nothing_gets_through_or_lost_either() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let pair = wire()?;
    let mut daemon = daemon(&pair, "generic")?;
    let mut traffic = Traffic::start(&pair, &pins(&daemon))?;
    for _ in 0..GENERIC_ROUNDS {
        for act in [kill, Daemon::restart, upgrade] {
            traffic.through(|_| act(&mut daemon))?;
        }
        migrate_under(&daemon, &pair, &mut traffic, AttachMode::Generic)?;
    }
    traffic.judge("generic mode")
}
