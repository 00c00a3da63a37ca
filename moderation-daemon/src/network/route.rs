//! This host's own addresses and its ways out, as the kernel knows them in
//! this network namespace. Needs no privilege and changes nothing.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
    },
};

use super::{NetworkError, ask::ask, interface};

/// Every address of every interface, loopback included.
///
/// # Errors
///
/// If the kernel cannot be asked.
pub fn own_addresses() -> Result<BTreeSet<IpAddr>, NetworkError> {
    ask(|handle| async move {
        let mut messages = handle.address().get().execute();
        let mut addresses = BTreeSet::new();
        while let Some(message) = messages.try_next().await? {
            addresses.extend(own_address(&message));
        }
        Ok(addresses)
    })
}

/// On a point-to-point interface `Address` is the other end and `Local` this
/// one; elsewhere there may be `Address` only (kernel: `if_addr.h`).
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// The gateways of every default route, of whatever table, multipath included.
///
/// Where `net.ipv4.nexthop_compat_mode` has been switched off, the kernel does
/// not say the gateways of routes that go by nexthop objects, and they are
/// missing here.
///
/// # Errors
///
/// If the kernel cannot be asked.
pub fn gateways() -> Result<BTreeSet<IpAddr>, NetworkError> {
    ask(|handle| async move {
        let mut found = BTreeSet::new();
        for_each_default(&handle, |route| add_gateways(&route.attributes, &mut found)).await?;
        Ok(found)
    })
}

/// The interfaces of every default route, sorted by name: where strangers come in, on
/// most hosts.
///
/// # Errors
///
/// If the kernel cannot be asked.
pub fn ways_out() -> Result<Vec<String>, NetworkError> {
    let names = interface::names()?;
    let numbers = ask(|handle| async move {
        let mut found = BTreeSet::new();
        for_each_default(&handle, |route| add_interfaces(&route.attributes, &mut found)).await?;
        Ok(found)
    })?;
    let found: BTreeSet<_> = numbers.iter().filter_map(|number| names.get(number)).collect();
    Ok(found.into_iter().filter(|name| *name != "lo").cloned().collect())
}

fn add_interfaces(attributes: &[RouteAttribute], found: &mut BTreeSet<u32>) {
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(number) => {
                found.insert(*number);
            }
            RouteAttribute::MultiPath(hops) => {
                found.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
}

/// Of both address families; one route at a time, for some hosts have a million.
async fn for_each_default(
    handle: &Handle,
    mut take: impl FnMut(&RouteMessage),
) -> Result<(), rtnetlink::Error> {
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    for family in [v4, v6] {
        let mut routes = handle.route().get(family).execute();
        while let Some(route) = routes.try_next().await? {
            let is_default = route.header.destination_prefix_length == 0;
            if is_default && route.header.kind == RouteType::Unicast {
                take(&route);
            }
        }
    }
    Ok(())
}

fn add_gateways(attributes: &[RouteAttribute], found: &mut BTreeSet<IpAddr>) {
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address))
            | RouteAttribute::Via(RouteVia::Inet(address)) => {
                found.insert(IpAddr::V4(*address));
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(address))
            | RouteAttribute::Via(RouteVia::Inet6(address)) => {
                found.insert(IpAddr::V6(*address));
            }
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    add_gateways(&hop.attributes, found);
                }
            }
            _ => {}
        }
    }
}
