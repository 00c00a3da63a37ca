//! The ports with an exemption, as root's loader writes them.

use std::collections::HashMap;

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use moderation_common::{map::PORTS, port};

use super::{NetworkError, Pins};
use crate::config::Ports;

/// Makes the map hold exactly what is configured.
pub(super) fn set(pins: &Pins, ports: &Ports) -> Result<(), NetworkError> {
    let mut map: BpfHashMap<MapData, u16, u32> =
        BpfHashMap::try_from(Map::HashMap(pins.open_map(PORTS)?))
            .map_err(NetworkError::map("open", PORTS))?;
    let wanted = flags(ports);
    let present: Vec<u16> =
        map.keys().collect::<Result<_, _>>().map_err(NetworkError::map("read", PORTS))?;
    for port in present.iter().filter(|port| !wanted.contains_key(*port)) {
        map.remove(port).map_err(NetworkError::map("remove from", PORTS))?;
    }
    for (port, flags) in &wanted {
        map.insert(port, flags, 0).map_err(NetworkError::map("write to", PORTS))?;
    }
    Ok(())
}

fn flags(ports: &Ports) -> HashMap<u16, u32> {
    let mut flags = HashMap::new();
    let exempt = if ports.cover_bans { port::UNSHED | port::UNBANNED } else { port::UNSHED };
    for port in &ports.exempt {
        *flags.entry(*port).or_default() |= exempt;
    }
    if let Some(port) = ports.explanation {
        *flags.entry(port).or_default() |= port::UNBANNED;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_is_open_to_the_banned_and_an_exempt_port_only_if_told_so() {
        let ports = |cover_bans| Ports { exempt: vec![22, 80], cover_bans, explanation: Some(80) };
        let (shed, ban) = (port::UNSHED, port::UNBANNED);
        assert_eq!(flags(&ports(false)), HashMap::from([(22, shed), (80, shed | ban)]));
        assert_eq!(flags(&ports(true)), HashMap::from([(22, shed | ban), (80, shed | ban)]));
    }
}
