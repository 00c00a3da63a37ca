//! moderationd from start to end: configuration, kernel, store, moderator,
//! sockets, and back. It only puts the rooms together.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser};
use nix::sys::signal::{SigSet, Signal};
use tokio::sync::mpsc;

use crate::{
    api::{self, Listener, Scrape, Stop},
    clock,
    config::{self, AttachMode, Config, ConfigError},
    engine::{Trust, ViolationType},
    exit::{self, NeedsRoot},
    feed::{self, Watch},
    keeper::{Keeper, Keeping, SourceFiles},
    listen::Sockets,
    metrics::Metrics,
    moderator::{self, Kernel, Saving, Setup, Sharing, Started},
    network::{self, AttachOptions, Attached, DropMode, Pins},
    nginx::{self, log},
    pseudonym::Names,
    sharers::Sharers,
    store::{ImportStore, Keep, Store},
    supervisor::{self, State},
    telemetry,
};
#[cfg(feature = "redis")]
use crate::{
    sharing,
    store::{self, Counters},
};

/// Limits, scores and bans for chat hosts, enforced in the kernel.
///
/// Takes events over a Unix socket, decides, writes bans down and has the
/// kernel drop the packets of banned addresses. Stopping it leaves bans in
/// force.
#[derive(Debug, Parser)]
#[command(name = "moderationd", version)]
struct Arguments {
    /// The configuration [default: /etc/moderation/moderation.yaml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Load, attach to this interface and serve, all in one process; root only;
    /// can be given several times [default: network.interfaces]
    #[arg(long, value_name = "IFACE")]
    interface: Vec<String>,
    #[command(flatten)]
    files: SourceFiles,
    /// Check the configuration and end
    #[arg(long)]
    check: bool,
    /// Print the default configuration, with comments, and end
    #[arg(long)]
    print_default_config: bool,
}

impl Arguments {
    /// The configuration, as the command line overrules it.
    fn load(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        if !self.interface.is_empty() {
            config.attach_to(self.interface.clone());
        }
        Ok(config)
    }
}

/// The command line, for the manual page.
pub(crate) fn command_line() -> clap::Command {
    Arguments::command()
}

/// The whole program.
pub fn main() -> ExitCode {
    exit::main("moderationd", |arguments: Arguments| run(&arguments))
}

#[expect(clippy::print_stdout, reason = "what --check and --print-default-config are for")]
fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.print_default_config {
        print!("{}", config::default_file());
        return Ok(());
    }
    let config = arguments.load()?;
    if arguments.check {
        config.warnings.iter().for_each(|it| exit::tell_line(&format!("warning: {it}")));
        println!("the configuration is valid");
        return Ok(());
    }
    if let [interface, ..] = &*arguments.interface {
        NeedsRoot::check().with_context(|| format!("cannot attach to {interface}"))?;
    }
    telemetry::start(&config.log)?;
    let mut sockets = Sockets::of_process()?;
    live(config, arguments, &mut sockets)
}

/// How a life ends that was ready.
enum End {
    Stop,
    /// With what the next one begins.
    Reload(Box<Config>),
    /// By something that its configuration is not to blame for.
    Broken(anyhow::Error),
}

/// Life after life, until told to stop. Each has a runtime of its own, so that nothing
/// of one reaches into the next.
fn live(mut config: Config, arguments: &Arguments, sockets: &mut Sockets) -> anyhow::Result<()> {
    let mut signals = Signals::catch()?;
    let mut before: Option<Config> = None;
    loop {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let end = runtime.block_on(serve(config.clone(), arguments, sockets, &mut signals));
        runtime.shutdown_timeout(RUNTIME_TIMEOUT);
        match (end, before.take()) {
            (Ok(End::Stop), _) => return Ok(()),
            (Ok(End::Reload(next)), _) => {
                telemetry::follow(&next.log);
                before = Some(std::mem::replace(&mut config, *next));
            }
            // What the file says makes sense, and yet it does not work: a credential is
            // missing, a folder cannot be written. Better the old one than none.
            (Err(error), Some(good)) => {
                tracing::error!("{error:#}; going back to the configuration before");
                telemetry::follow(&good.log);
                config = good;
            }
            (Ok(End::Broken(error)), _) | (Err(error), None) => return Err(error),
        }
    }
}

/// How long what still runs at the end of a life is waited for.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(5);

/// Only root can: else it is done by whoever started `moderationctl xdp attach`.
fn interfaces_to_attach(config: &Config) -> &[String] {
    let is_off = config.network.mode == AttachMode::Off;
    if is_off || NeedsRoot::check().is_err() { &[] } else { &config.network.interfaces }
}

/// The quick start: what `moderationctl xdp attach`, `xdp guard` and `xdp reap`
/// do, by ourselves.
fn attach(config: &Config, files: &SourceFiles) -> anyhow::Result<Keeping> {
    let network = &config.network;
    let interfaces = interfaces_to_attach(config).to_vec();
    if interfaces.is_empty() {
        return Ok(Keeping::default());
    }
    let pins = Pins::new(&network.pin_root);
    let mut keeper = Keeper::new(network, pins.clone(), files.sources(&network.guard_hosts));
    let mut options = AttachOptions::new(network, interfaces, None);
    options.guards = keeper.guards();
    let Attached { attachments, failures } = network::attach(&pins, &options)?;
    for attached in &attachments {
        tracing::info!(interface = attached.interface, mode = %attached.mode, "attached");
    }
    for error in failures {
        if attachments.is_empty() {
            return Err(error.into());
        }
        tracing::error!(error = &error as &dyn std::error::Error, "not attached everywhere");
    }
    let mut keeping = Keeping::default();
    keeping.keep(keeper);
    if network.close_connections {
        keeping.close_connections(pins);
    }
    Ok(keeping)
}

async fn serve(
    config: Config,
    arguments: &Arguments,
    sockets: &mut Sockets,
    signals: &mut Signals,
) -> anyhow::Result<End> {
    for warning in &config.warnings {
        tracing::warn!(about = warning.about, "configuration: {}", warning.text);
    }
    sockets.begin();
    let started_at_boot_ms = clock::now().boot_ms;
    let names = if config.log.pseudonyms { Names::from_credential()? } else { Names::default() };
    let mut sharing = Sharers::prepare(&config)?;
    let store = Store::open(&config.store.path)?.with_names(names);
    let store = sharing.told(store)?;
    let reader = store.reader(&config.store.path)?;
    // What is told at once does not wait for a page that an operator reads.
    let said_from = store.reader(&config.store.path)?;
    let lists = ImportStore::open(&config.store.path)?;
    let api_socket = Listener::on(sockets, &config.api)?;
    let admin_socket = Listener::on(sockets, &config.admin)?;
    let nginx_settings = config.nginx.clone();
    let nginx_socket =
        nginx_settings.as_ref().map(|it| Listener::on(sockets, &it.socket)).transpose()?;
    let hearing = nginx_settings.as_ref().and_then(|it| it.hearing.clone());
    let log_socket =
        hearing.as_ref().map(|it| log::ear::Bound::on(sockets, &it.socket)).transpose()?;
    let scrape = match config.metrics {
        Some(address) => {
            let port = Scrape::bind(address).await;
            Some(port.with_context(|| format!("cannot listen on {address} (metrics.listen)"))?)
        }
        None => None,
    };
    for (path, socket) in sockets.unused()? {
        tokio::spawn(api::turn_away(path, socket));
    }
    let pins =
        (config.network.mode != AttachMode::Off).then(|| Pins::new(&config.network.pin_root));
    let mode = if config.network.enforce { DropMode::Drop } else { DropMode::Observe };
    // A second daemon has ended by now, before it touched the kernel. Lists are
    // read while the kernel looks through the program, and we through its maps.
    let (attached, lists) = std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let imported = lists.load(clock::now().unix_ms);
            imported.map(|imported| (lists, imported))
        });
        let attached = attach(&config, &arguments.files).map(|keeping| {
            let kernel = pins.clone().map_or(Kernel::Off, |pins| Kernel::pinned(pins, mode));
            (keeping, kernel)
        });
        (attached, loading.join().expect("reading lists does not panic"))
    });
    let ((keeping, kernel), lists) = (attached?, lists?);
    let metrics = Arc::new(Metrics::new());
    let setup = Setup { sharing: counting(&config)?, ..setup(&config) };
    let started = moderator::start(setup, store, lists, kernel, Arc::clone(&metrics))?;
    let Started { moderator, mut stopper, leases } = started;
    let sharing = sharing.start(&moderator, (&reader, said_from), &metrics)?;
    let watch = Arc::new(Watch::new(Arc::clone(&metrics)));
    if let Some(pins) = &pins {
        let (pins, moderator, watch) = (pins.clone(), moderator.clone(), Arc::clone(&watch));
        tokio::spawn(feed::follow_overruns(pins.clone(), moderator.clone(), Arc::clone(&metrics)));
        tokio::spawn(feed::follow_lines(pins.clone(), Arc::clone(&metrics)));
        let window = config.network.syn.window;
        tokio::spawn(feed::forget_quiet_sources(pins.clone(), window));
        tokio::spawn(async move { watch.serve(pins, moderator).await });
    }
    #[cfg(feature = "redis")]
    let redis = reach(&config)?.map(Arc::new);
    let context = api::Context {
        moderator: moderator.clone(),
        reader,
        metrics: Arc::clone(&metrics),
        config: Arc::new(config),
        pins,
        watch,
        sharing: sharing.status(),
        #[cfg(feature = "redis")]
        redis,
        started_at_boot_ms,
    };
    let listening = hearing.zip(log_socket).map(|(hearing, socket)| {
        let (moderator, config) = (context.moderator.clone(), Arc::clone(&context.config));
        log::start(socket, &hearing, &leases, moderator, config, &metrics)
    });
    let listening = listening.transpose().context("cannot listen to nginx's log")?;
    let awaited = listening.as_ref().map(|it| Arc::clone(&it.awaited));
    let nginx = nginx_settings.map(|it| nginx::routes(it, &context, awaited)).transpose()?;
    let (tell, stop) = Stop::new();
    let nginx = ask(nginx_socket, nginx, Arc::clone(&metrics), stop.clone());
    if let Some(scrape) = scrape {
        tokio::spawn(scrape.serve(context.clone(), stop.clone()));
    }
    let app_routes = api::app_routes(context.clone());
    let app = api_socket.serve(app_routes, Arc::clone(&metrics), stop.clone());
    let admin = admin_socket.serve(api::admin_routes(context), metrics, stop);
    tokio::spawn(supervisor::prove_life(moderator));
    let served = async { tokio::join!(app, admin, nginx) };
    let mut served = std::pin::pin!(served);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
    supervisor::tell(State::Ready);
    let end = tokio::select! {
        _ = &mut served => unreachable!("it is told to stop further down"),
        () = stopper.ended() => {
            return Ok(End::Broken(anyhow::anyhow!("the moderator ended; see the lines above")));
        }
        end = told_to_end(arguments, signals) => end,
    };
    tracing::info!("stopping; bans stay in force");
    // What has been asked is answered before the moderator goes.
    tell.send_replace(true);
    served.await;
    drop((keeping, listening));
    sharing.end();
    Ok(match stopper.stop().await {
        Ok(()) => end,
        Err(error) => End::Broken(error),
    })
}

/// Serves nginx, if it asks.
async fn ask(
    socket: Option<Listener>,
    routes: Option<api::Routes>,
    metrics: Arc<Metrics>,
    stop: Stop,
) {
    if let Some((socket, routes)) = socket.zip(routes) {
        socket.serve(routes, metrics, stop).await;
    }
}

fn setup(config: &Config) -> Setup {
    let network = &config.network;
    let trusted = [
        (&network.guards, Trust::Guard),
        (&config.allowlist, Trust::Allowlist),
        (&network.proxies, Trust::Proxy),
    ];
    let trusted = trusted
        .into_iter()
        .flat_map(|(prefixes, trust)| prefixes.iter().map(move |prefix| (*prefix, trust)));
    Setup {
        rules: config.rules.clone(),
        trusted: trusted.collect(),
        sharing: None,
        windows: Saving::beside(&config.store.path, config.snapshot_every),
        reconcile_interval: config.network.reconcile_interval,
        keep: keep(config),
    }
}

/// With whom is counted: that is known before anything is asked.
#[cfg(feature = "redis")]
fn counting(config: &Config) -> anyhow::Result<Option<Sharing>> {
    let Some(counters) = reach(config)? else { return Ok(None) };
    let redis = config.redis.with_credentials()?;
    Ok(Some(Sharing {
        counters: Arc::new(Counters::Redis(counters)),
        tags: sharing::Tags::new(redis.digest_key),
        bound: redis.bound,
        longest_pause: redis.longest_pause,
    }))
}

/// A Redis of one's own, if there is one: who counts waits for nobody who does something
/// else there.
#[cfg(feature = "redis")]
pub(crate) fn reach(config: &Config) -> anyhow::Result<Option<store::redis::Redis>> {
    if !config.redis.enabled {
        return Ok(None);
    }
    let redis = config.redis.with_credentials()?;
    let text = |secret: Option<config::Secret>| secret.map(|it| it.expose().to_owned());
    let settings = store::redis::Settings {
        authority: redis.authority()?,
        login: (text(redis.login.username), text(redis.login.password)),
        uris: redis.uris,
        is_cluster: redis.is_cluster,
        password: redis.password,
        names: sharing::Names::new(redis.prefix),
    };
    Ok(Some(store::redis::Redis::new(&settings)?))
}

#[cfg(not(feature = "redis"))]
#[expect(clippy::unnecessary_wraps, reason = "the configuration has refused it already")]
fn counting(_: &Config) -> anyhow::Result<Option<Sharing>> {
    Ok(None)
}

/// Ladders and growing bans look back further than the records may go.
fn keep(config: &Config) -> Keep {
    let (rules, records) = (&config.rules, config.store.retention);
    let ladders = ViolationType::all().filter_map(|kind| rules.ladders.of(kind).as_ref());
    let looked_at = ladders.map(|ladder| Duration::from_millis(ladder.forget_after_ms)).max();
    Keep {
        records,
        penalties: looked_at.map_or(records, |looked_at| looked_at.max(records)),
        half_life: rules.ban.growth.map(|growth| Duration::from_millis(growth.half_life_ms)),
        most: config.store.max_records,
    }
}

/// Signals, of which none is lost between two lives.
struct Signals(mpsc::Receiver<Signal>);

impl Signals {
    /// Catches them in all threads that begin after this.
    fn catch() -> anyhow::Result<Self> {
        let caught: SigSet =
            [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        caught.thread_block()?;
        let (tell, told) = mpsc::channel(8);
        let wait = move || {
            while let Ok(signal) = caught.wait() {
                if tell.blocking_send(signal).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
        Ok(Self(told))
    }
}

/// Waits for a signal that ends this life. SIGHUP does if the configuration is good by
/// then; else it is told what is wrong, and all stays as it is.
async fn told_to_end(arguments: &Arguments, signals: &mut Signals) -> End {
    while let Some(Signal::SIGHUP) = signals.0.recv().await {
        match arguments.load() {
            Ok(config) => {
                supervisor::tell(State::Reloading);
                tracing::info!("reloading the configuration");
                return End::Reload(Box::new(config));
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!("not reloaded, all stays as it was: {error:#}");
            }
        }
    }
    supervisor::tell(State::Stopping);
    End::Stop
}
