//! The `network` section: its keys as the file has them, and what becomes of
//! them once checked. Addresses of hosts are looked up elsewhere.

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    path::{Component, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AttachMode, ConfigError, check::absolute, file::minutes, friendly};

/// The kernel.
#[derive(Clone, Debug)]
pub struct Network {
    /// The interfaces to attach to, by a process that may.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub mode: AttachMode,
    /// The folder of pins.
    pub pin_root: PathBuf,
    /// Whether to drop; otherwise what would be dropped is counted only.
    pub enforce: bool,
    /// Prefixes that only root can take out of protection.
    pub guards: Vec<IpNet>,
    /// Hosts whose addresses are guarded too: names or addresses.
    pub guard_hosts: Vec<String>,
    /// Proxies and CDNs: never dropped, but bans on them hold at the API.
    pub proxies: Vec<IpNet>,
    /// Ports with rules of their own.
    pub ports: Ports,
    /// Exact entries that the kernel holds: IPv4 addresses, IPv6 /64s and
    /// single IPv6 addresses together.
    pub max_bans: u32,
    /// Entries of any other width.
    pub max_networks: u32,
    /// Counting connection attempts.
    pub syn: Syn,
    /// Counting connections.
    pub connections: Connections,
    /// Whether established connections of a newly banned source are closed.
    pub close_connections: bool,
    /// How often kernel and store are compared.
    pub reconcile_interval: Duration,
}

/// Ports with rules of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Whose connections are never shed by rate.
    pub exempt: Vec<u16>,
    /// Whether banned sources reach those ports too.
    pub cover_bans: bool,
    /// Where banned sources can read why they are banned.
    pub explanation: Option<u16>,
}

/// How connection attempts are counted and shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// Whether they are shed.
    pub enabled: bool,
    /// Attempts of one source in a window that pass.
    pub limit: u32,
    /// The window.
    pub window: Duration,
    /// Forged attempts per window that the counts must stand.
    pub flood: u32,
    /// Heavy sources that are counted exactly at one time.
    pub table: u32,
}

/// How completed connections are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Whether they are counted.
    pub enabled: bool,
    /// Connections of one source in a window that are no violation.
    pub limit: u32,
    /// The window.
    pub window: Duration,
    /// The cgroup v2 whose connections count; `None` for all.
    pub cgroup: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// The interfaces to attach to, for example `[eth0]`; the same as moderationd
    /// --interface, and as there only a process with the capabilities can. None:
    /// a loader (moderationctl xdp attach) has attached and pinned, and the
    /// daemon only works on the pins.
    interfaces: Vec<String>,
    /// auto: native, else generic with a warning. native, generic: that or an
    /// error. off: nothing is dropped in the kernel; bans hold at the API only.
    pub(super) mode: AttachMode,
    /// The folder for pins, on a BPF filesystem; one per instance. No dots: the
    /// BPF filesystem refuses them.
    pin_root: PathBuf,
    /// false: observe. What would be dropped is counted, nothing is dropped.
    enforce: bool,
    /// Private, loopback and link-local addresses are never banned or dropped.
    protect_private: bool,
    /// Further prefixes that are never banned or dropped. Unlike the allowlist
    /// they are put into the kernel by root's loader, and the daemon cannot
    /// take them out again.
    #[serde(deserialize_with = "friendly::prefixes")]
    #[schemars(with = "Vec<String>")]
    pub(super) guards: Vec<IpNet>,
    /// Hosts that are guarded in the same way, databases for example: names or
    /// addresses.
    guard_hosts: Vec<String>,
    /// Prefixes of proxies and CDNs in front of this host. They are never
    /// dropped in the kernel, for behind them are innocents; bans on them hold
    /// at the API, and nginx enforces them.
    #[serde(deserialize_with = "friendly::prefixes")]
    #[schemars(with = "Vec<String>")]
    pub(super) proxies: Vec<IpNet>,
    /// Ports whose connections are never shed by rate.
    exempt_ports: Vec<u16>,
    /// true: banned sources reach those ports, too.
    exempt_ports_cover_bans: bool,
    /// A port that banned sources still reach, to read why they are banned.
    explanation_port: Option<u16>,
    /// How many IPv4 addresses, IPv6 /64s and single IPv6 addresses can be
    /// banned at once, together; imported lists count.
    pub(super) max_bans: NonZeroU32,
    /// How many blocks of any other width can be banned at once.
    pub(super) max_networks: NonZeroU32,
    /// Connection attempts (SYN) by source. They can be forged: over the limit a
    /// source's further attempts are dropped, but it is never banned for them.
    syn: SynFile,
    /// Completed connections by source. Over the limit is a violation,
    /// connection_rate.
    connections: ConnectionsFile,
    /// Connections of a newly banned source are closed on this host.
    close_connections: bool,
    /// How often the kernel is compared with the store and mended.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    reconcile_interval: Duration,
}

impl Default for File {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mode: AttachMode::Auto,
            pin_root: "/sys/fs/bpf/moderation".into(),
            enforce: true,
            protect_private: true,
            guards: Vec::new(),
            guard_hosts: Vec::new(),
            proxies: Vec::new(),
            exempt_ports: vec![22],
            exempt_ports_cover_bans: false,
            explanation_port: None,
            max_bans: const { NonZeroU32::new(1_000_000).expect("not zero") },
            max_networks: const { NonZeroU32::new(16_384).expect("not zero") },
            syn: SynFile::default(),
            connections: ConnectionsFile::default(),
            close_connections: true,
            reconcile_interval: minutes(1),
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct SynFile {
    enabled: bool,
    /// Attempts of one source in a window that pass.
    limit: u32,
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    window: Duration,
    /// How many forged attempts in a window must not disturb the counts of
    /// others. More takes more memory.
    flood: u32,
    /// How many heavy sources can be shed at one time.
    table: u32,
}

impl Default for SynFile {
    fn default() -> Self {
        let window = Duration::from_secs(10);
        Self { enabled: true, limit: 1_000, window, flood: 1_000_000, table: 16_384 }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ConnectionsFile {
    enabled: bool,
    /// Connections of one source in a window that are no violation.
    limit: u32,
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    window: Duration,
    /// The cgroup (version 2) whose connections count, as a folder; null: all of
    /// this host's.
    cgroup: Option<PathBuf>,
}

impl Default for ConnectionsFile {
    fn default() -> Self {
        Self { enabled: true, limit: 600, window: Duration::from_secs(10), cgroup: None }
    }
}

/// IFNAMSIZ has 16 bytes with the final zero (netdevice(7)).
const MAX_INTERFACE_BYTES: usize = 15;
/// More are a mistake; each gets a link and a look at every reconcile.
const MAX_INTERFACES: usize = 64;
/// Each is looked up at every start, and takes places among the guards.
const MAX_GUARD_HOSTS: usize = 64;
/// RFC 1035, 2.3.4, without the final dot.
const MAX_HOST_BYTES: usize = 253;
/// The kernel compares a would-drop with each of them.
const MAX_EXEMPT_PORTS: usize = 16;
/// 2^24; a kernel map of as many takes more than a gigabyte.
const MAX_BANS: u32 = 16_777_216;
/// A trie of millions locks a processor for seconds when it is freed.
const MAX_NETWORKS: u32 = 262_144;

pub(super) fn check(file: File) -> Result<Network, ConfigError> {
    let mut guards = file.guards;
    if file.protect_private {
        guards.extend(private());
    }
    Ok(Network {
        interfaces: interfaces(file.interfaces)?,
        mode: file.mode,
        pin_root: pin_root(file.pin_root)?,
        enforce: file.enforce,
        guards,
        guard_hosts: guard_hosts(file.guard_hosts)?,
        proxies: file.proxies,
        ports: ports(file.exempt_ports, file.exempt_ports_cover_bans, file.explanation_port)?,
        max_bans: between("max_bans", file.max_bans.get(), 1, MAX_BANS)?,
        max_networks: between("max_networks", file.max_networks.get(), 1, MAX_NETWORKS)?,
        syn: syn(&file.syn)?,
        connections: connections(file.connections)?,
        close_connections: file.close_connections,
        reconcile_interval: file.reconcile_interval,
    })
}

fn value(key: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError::value(format!("network.{key}"), problem)
}

fn between(key: &str, number: u32, least: u32, most: u32) -> Result<u32, ConfigError> {
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(value(key, format!("{number} is not between {least} and {most}")))
}

fn interfaces(names: Vec<String>) -> Result<Vec<String>, ConfigError> {
    if names.len() > MAX_INTERFACES {
        return Err(value("interfaces", format!("more than {MAX_INTERFACES} interfaces")));
    }
    let mut seen = BTreeSet::new();
    for name in &names {
        let is_name = (1..=MAX_INTERFACE_BYTES).contains(&name.len())
            && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
        if !is_name {
            let problem = format!(
                "{name:?} is no name of an interface: 1 to {MAX_INTERFACE_BYTES} bytes without spaces"
            );
            return Err(value("interfaces", problem));
        }
        if !seen.insert(name) {
            return Err(value("interfaces", format!("{name} is there twice")));
        }
    }
    Ok(names)
}

fn pin_root(path: PathBuf) -> Result<PathBuf, ConfigError> {
    let path = absolute("network.pin_root", path)?;
    if path.components().any(has_dot) {
        let problem = format!("{} has a dot, which BPF filesystems refuse", path.display());
        return Err(value("pin_root", problem));
    }
    Ok(path)
}

/// `bpf_lookup` (kernel/bpf/inode.c) keeps names with a dot to itself.
fn has_dot(component: Component<'_>) -> bool {
    component.as_os_str().as_encoded_bytes().contains(&b'.')
}

fn guard_hosts(hosts: Vec<String>) -> Result<Vec<String>, ConfigError> {
    if hosts.len() > MAX_GUARD_HOSTS {
        return Err(value("guard_hosts", format!("more than {MAX_GUARD_HOSTS} hosts")));
    }
    let is_host = |host: &str| {
        (1..=MAX_HOST_BYTES).contains(&host.len())
            && !host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
    };
    match hosts.iter().find(|host| !is_host(host)) {
        Some(host) => {
            Err(value("guard_hosts", format!("{host:?} is neither a host's name nor an address")))
        }
        None => Ok(hosts),
    }
}

fn ports(
    exempt: Vec<u16>,
    cover_bans: bool,
    explanation: Option<u16>,
) -> Result<Ports, ConfigError> {
    if exempt.len() > MAX_EXEMPT_PORTS {
        return Err(value("exempt_ports", format!("more than {MAX_EXEMPT_PORTS} ports")));
    }
    if exempt.contains(&0) {
        return Err(value("exempt_ports", "0 is no port"));
    }
    if explanation == Some(0) {
        return Err(value("explanation_port", "0 is no port"));
    }
    Ok(Ports { exempt, cover_bans, explanation })
}

fn syn(file: &SynFile) -> Result<Syn, ConfigError> {
    Ok(Syn {
        enabled: file.enabled,
        limit: between("syn.limit", file.limit, 1, 1_000_000)?,
        window: window("syn.window", file.window)?,
        flood: between("syn.flood", file.flood, 1_000, 100_000_000)?,
        table: between("syn.table", file.table, 16, 1_048_576)?,
    })
}

fn connections(file: ConnectionsFile) -> Result<Connections, ConfigError> {
    let cgroup =
        file.cgroup.map(|path| absolute("network.connections.cgroup", path)).transpose()?;
    Ok(Connections {
        enabled: file.enabled,
        limit: between("connections.limit", file.limit, 1, 1_000_000)?,
        window: window("connections.window", file.window)?,
        cgroup,
    })
}

/// Shorter windows are below what counting in halves can tell, longer ones hold
/// people to what they did long ago.
fn window(key: &str, window: Duration) -> Result<Duration, ConfigError> {
    if (Duration::from_secs(1)..=minutes(60)).contains(&window) {
        return Ok(window);
    }
    Err(value(key, "not between 1s and 1h"))
}

/// Whether a guard is one of [`private`].
pub(crate) fn is_private(guard: IpNet) -> bool {
    private().any(|it| it == guard)
}

/// Addresses that no stranger on the Internet has: RFC 1122 (this host,
/// loopback), RFC 1918, RFC 6598 (carriers), RFC 3927 and RFC 4291 (link
/// local), RFC 4193. Behind them are bridges, containers and load balancers.
fn private() -> impl Iterator<Item = IpNet> {
    const PRIVATE: [&str; 11] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::/128",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    ];
    PRIVATE.into_iter().map(|prefix| prefix.parse().expect("written correctly above"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn values_that_make_no_sense_are_named() {
        let cases = [
            ("interfaces: [eth0, eth0]", "network.interfaces"),
            ("interfaces: [\"\"]", "network.interfaces"),
            ("interfaces: [an-interface-name]", "network.interfaces"),
            ("pin_root: /sys/fs/bpf/v1.2", "network.pin_root"),
            ("pin_root: /sys/fs/bpf/../bpf", "network.pin_root"),
            ("guard_hosts: [\"a b\"]", "network.guard_hosts"),
            ("exempt_ports: [0]", "network.exempt_ports"),
            ("explanation_port: 0", "network.explanation_port"),
            ("max_bans: 4000000000", "network.max_bans"),
            ("max_networks: 1000000", "network.max_networks"),
            ("syn: { limit: 0 }", "network.syn.limit"),
            ("syn: { window: 10ms }", "network.syn.window"),
            ("syn: { flood: 1 }", "network.syn.flood"),
            ("syn: { table: 1 }", "network.syn.table"),
            ("connections: { limit: 0 }", "network.connections.limit"),
            ("connections: { window: 2h }", "network.connections.window"),
            ("connections: { cgroup: user.slice }", "network.connections.cgroup"),
        ];
        for (key, want) in cases {
            let error = Config::parse(&format!("network: {{ {key} }}")).expect_err(key);
            assert!(error.to_string().starts_with(&format!("{want}: ")), "{error}");
        }
    }

    #[test]
    fn networks_that_container_engines_make_are_guarded_unless_the_operator_says_otherwise() {
        // Docker's default-address-pools, Docker Desktop, Swarm, Podman, LXC, and IPv6 (ULA).
        let networks = [
            "172.17.0.0/16",
            "172.18.0.0/15",
            "172.20.0.0/14",
            "172.24.0.0/13",
            "192.168.0.0/16",
            "192.168.65.0/24",
            "10.0.0.0/24",
            "10.88.0.0/16",
            "10.0.3.0/24",
            "fd00::/8",
        ];
        let guards = |text: &str| Config::parse(text).expect("sound").network.guards;
        let open = guards("network: { protect_private: false }");
        for network in networks {
            let net: IpNet = network.parse().expect("a prefix");
            assert!(guards("").iter().any(|it| it.contains(&net)), "{network}");
            assert!(!open.iter().any(|it| it.contains(&net)), "{network}");
        }
    }

    #[test]
    fn a_relative_folder_of_pins_is_refused_before_its_dots() {
        let error = pin_root("./pins".into()).expect_err("it is relative");
        assert!(error.to_string().contains("absolute"), "{error}");
    }
}
