//! Ready-made networks: a small internet in which one interface of the chat
//! host sees everyone's real address, and a mere pair. Who runs what in them
//! is the experiment's affair.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::namespace::{Namespace, join};
use crate::{name, sweep};

/// The interface through which every namespace but the router sees the world.
pub const INTERFACE: &str = "eth0";

/// The chat host's address.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The chat host's IPv6 address.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1);
/// The abuser's address; more are in [`abuser_pool`].
pub const ABUSER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The abuser's IPv6 address.
pub const ABUSER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 2);
/// The bystander's address.
pub const BYSTANDER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// The bystander's IPv6 address.
pub const BYSTANDER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 3, 0, 0, 0, 5);
/// The other end of a [`Pair`].
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The IPv6 address of the other end of a [`Pair`]; not of the host's /64, which
/// cannot be banned, for the host itself is in it.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 4, 0, 0, 0, 2);

/// A hundred more addresses that the abuser owns, 198.51.100.10 to .109.
pub fn abuser_pool() -> impl Iterator<Item = IpAddr> {
    (10..110).map(|last| IpAddr::V4(Ipv4Addr::new(198, 51, 100, last)))
}

/// A small internet: three namespaces joined by a router.
#[derive(Debug)]
pub struct Lab {
    /// Where the chat and the daemon run.
    pub host: Namespace,
    /// Who breaks the rules.
    pub abuser: Namespace,
    /// Who does not.
    pub bystander: Namespace,
    /// Between them; its interfaces are named `host`, `abuser`, `bystander`.
    pub router: Namespace,
}

impl Lab {
    /// Sweeps up after crashed runs, then makes the network.
    pub fn new() -> Result<Self> {
        sweep::sweep()?;
        let name = name::fresh()?;
        let create = |role: &str| Namespace::create(format!("{name}-{role}"));
        let lab = Self {
            host: create("host")?,
            abuser: create("abuser")?,
            bystander: create("bystander")?,
            router: create("net")?,
        };
        lab.connect()?;
        Ok(lab)
    }

    fn connect(&self) -> Result<()> {
        connect(&self.router, "host", &self.host, (HOST_V4, HOST_V6))?;
        connect(&self.router, "abuser", &self.abuser, (ABUSER_V4, ABUSER_V6))?;
        connect(&self.router, "bystander", &self.bystander, (BYSTANDER_V4, BYSTANDER_V6))?;
        self.router.sysctl("net/ipv4/ip_forward", "1")?;
        self.router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let more: Vec<_> =
            abuser_pool().map(|address| format!("address add {address}/32 dev eth0")).collect();
        self.abuser.configure(&more)
    }
}

/// Joins `end` to an interface of the router and makes that its way out. The
/// router has the last usable address of the IPv4 /24, and `::fe`.
fn connect(
    router: &Namespace,
    interface: &str,
    end: &Namespace,
    (v4, v6): (Ipv4Addr, Ipv6Addr),
) -> Result<()> {
    let ([a, b, c, _], [d, e, f, g, ..]) = (v4.octets(), v6.segments());
    let gateway = (Ipv4Addr::new(a, b, c, 254), Ipv6Addr::new(d, e, f, g, 0, 0, 0, 0xfe));
    join((router, interface), (end, INTERFACE))?;
    router.configure(&addressing(interface, gateway))?;
    end.configure(&addressing(INTERFACE, (v4, v6)))?;
    end.configure(&[
        format!("route add 0.0.0.0/0 via {}", gateway.0),
        format!("route add ::/0 via {}", gateway.1),
    ])
}

/// Two namespaces on one wire: `host` with [`HOST_V4`] and [`HOST_V6`],
/// `client` with [`CLIENT_V4`] and [`CLIENT_V6`].
#[derive(Debug)]
pub struct Pair {
    /// The end with the daemon's interface.
    pub host: Namespace,
    /// The end that sends.
    pub client: Namespace,
}

impl Pair {
    /// Sweeps up after crashed runs, then makes the network.
    pub fn new() -> Result<Self> {
        sweep::sweep()?;
        let name = name::fresh()?;
        let host = Namespace::create(format!("{name}-host"))?;
        let client = Namespace::create(format!("{name}-client"))?;
        join((&host, INTERFACE), (&client, INTERFACE))?;
        let pair = Self { host, client };
        pair.address()?;
        Ok(pair)
    }

    /// Brings both ends up with their addresses; again, if the wire is another.
    pub fn address(&self) -> Result<()> {
        self.host.configure(&addressing(INTERFACE, (HOST_V4, HOST_V6)))?;
        self.client.configure(&addressing(INTERFACE, (CLIENT_V4, CLIENT_V6)))?;
        self.host.configure(&[format!("route add {CLIENT_V6}/128 dev {INTERFACE}")])?;
        self.client.configure(&[format!("route add {HOST_V6}/128 dev {INTERFACE}")])
    }
}

fn addressing(interface: &str, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> [String; 3] {
    [
        format!("link set {interface} up"),
        format!("address add {v4}/24 dev {interface}"),
        format!("address add {v6}/64 dev {interface} nodad"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener};
    use std::path::Path;
    use std::time::Duration;

    use crate::process;
    use crate::visitor::Visitor;
    use crate::{need, wait};

    /// Whom a listener on `host` sees when `source` connects from `from`.
    fn seen(host: &Namespace, to: IpAddr, from: &Namespace, source: IpAddr) -> Result<IpAddr> {
        let listener = host.run(|| Ok(TcpListener::bind((to, 0))?))?;
        let server = SocketAddr::new(to, listener.local_addr()?.port());
        let _connection = Visitor::new(from, source, server, "alice").connect()?;
        Ok(listener.accept()?.1.ip())
    }

    #[test]
    fn the_host_sees_everyones_own_address() -> Result<()> {
        if !need::root() {
            return Ok(());
        }
        let lab = Lab::new()?;
        let pooled = abuser_pool().last().expect("a hundred addresses");
        for source in [IpAddr::V4(ABUSER_V4), pooled] {
            assert_eq!(seen(&lab.host, HOST_V4.into(), &lab.abuser, source)?, source);
        }
        let (host, source) = (IpAddr::V6(HOST_V6), IpAddr::V6(BYSTANDER_V6));
        assert_eq!(seen(&lab.host, host, &lab.bystander, source)?, source);

        let pair = Pair::new()?;
        let (host, source) = (IpAddr::V6(HOST_V6), IpAddr::V6(CLIENT_V6));
        assert_eq!(seen(&pair.host, host, &pair.client, source)?, source);
        Ok(())
    }

    #[test]
    fn what_a_dead_process_left_is_swept_and_what_is_in_use_is_not() -> Result<()> {
        if !need::root() {
            return Ok(());
        }
        let ours = Pair::new()?;
        // Nobody else is to sweep it before it is there as a whole.
        let lock = sweep::lock()?;
        // No process has this number: it is above the highest (proc(5), pid_max).
        let leftover = Namespace::create("mod-4194305-1-0-host".to_owned())?;
        let mut command = process::command("sleep");
        command.arg("1000");
        let mut inside = leftover.spawn(command)?;

        sweep::clear(&lock)?;
        drop(lock);

        let exists =
            |namespace: &Namespace| Path::new("/run/netns").join(namespace.name()).exists();
        assert!(!exists(&leftover) && exists(&ours.host));
        wait::until("the process inside to die", Duration::from_secs(5), || inside.exited())?;
        // Its handle would complain that the namespace is gone.
        std::mem::forget(leftover);
        Ok(())
    }

    #[test]
    fn a_namespace_that_is_dropped_takes_its_processes_along() -> Result<()> {
        if !need::root() {
            return Ok(());
        }
        let pair = Pair::new()?;
        let path = Path::new("/run/netns").join(pair.host.name());
        let mut command = process::command("sleep");
        command.arg("1000");
        let mut inside = pair.host.spawn(command)?;
        assert!(path.exists());
        drop(pair);
        assert!(!path.exists());
        wait::until("the process inside to die", Duration::from_secs(5), || inside.exited())?;
        Ok(())
    }
}
