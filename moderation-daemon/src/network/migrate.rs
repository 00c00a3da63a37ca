//! From an earlier layout of the maps to this one, under the links that hold
//! interfaces: first the new maps have the old ones' bans, then the new program
//! takes the old one's place, and only then the old pins go. At no moment does
//! a banned source's packet find a program without its ban.

use aya::{
    maps::{HashMap as BpfHashMap, LpmTrie, Map, MapData},
    programs::Xdp,
};
use moderation_common::map::{ALLOW_V4, ALLOW_V6, BANS_HOST, BANS_V4, BANS_V6, NETS_V4, NETS_V6};
use nix::unistd::Uid;

use super::{
    AllowMaps, NetworkError, Pins,
    attach::{rename, replace},
    control::{ControlMap, seeds},
    filter::Bitmap,
};

/// Maps with plain keys in every layout so far.
const EXACT: [(&str, usize); 3] = [(BANS_V4, 4), (BANS_V6, 8), (BANS_HOST, 16)];

/// Who works with the maps: of this layout, or of an earlier one.
pub(super) fn owner(pins: &Pins) -> Option<Uid> {
    pins.owner().or_else(|| pins.others().iter().rev().find_map(Pins::owner))
}

/// Copies what earlier layouts' maps hold into this one's, if there are any.
pub(super) fn copy(pins: &Pins) -> Result<(), NetworkError> {
    let earlier = pins.others();
    if earlier.is_empty() {
        return Ok(());
    }
    // All pass the prefilter and all maps are looked into, until the daemon has
    // looked through them itself.
    Bitmap::open(pins, seeds(pins)?)?.fill();
    ControlMap::open(pins)?.change(|control| {
        (control.hosts, control.nets_v4, control.nets_v6) = (1, 1, 1);
    })?;
    AllowMaps::open_operator(pins)?.hint_at_all()?;
    for from in &earlier {
        tracing::info!(from = %from.map("").display(), "taking over an earlier layout's bans");
        for (name, key_bytes) in EXACT {
            match key_bytes {
                4 => copy_exact::<[u8; 4]>(from, pins, name)?,
                8 => copy_exact::<[u8; 8]>(from, pins, name)?,
                _ => copy_exact::<[u8; 16]>(from, pins, name)?,
            }
        }
        copy_trie::<[u8; 4], u64>(from, pins, NETS_V4)?;
        copy_trie::<[u8; 16], u64>(from, pins, NETS_V6)?;
        copy_trie::<[u8; 4], u32>(from, pins, ALLOW_V4)?;
        copy_trie::<[u8; 16], u32>(from, pins, ALLOW_V6)?;
    }
    Ok(())
}

fn copy_exact<K: aya::Pod + Default>(
    from: &Pins,
    to: &Pins,
    name: &'static str,
) -> Result<(), NetworkError> {
    if !from.map(name).exists() {
        return Ok(()); // that layout did not have it
    }
    let open = |pins: &Pins| -> Result<BpfHashMap<MapData, K, u64>, NetworkError> {
        BpfHashMap::try_from(Map::HashMap(pins.open_map(name)?))
            .map_err(NetworkError::map("open", name))
    };
    let (from, mut to) = (open(from)?, open(to)?);
    for item in &from {
        let (key, expiry) = item.map_err(NetworkError::map("read", name))?;
        // Not there, most likely.
        let known = to.get(&key, 0).unwrap_or(0);
        to.insert(key, expiry.max(known), 0).map_err(NetworkError::map("write to", name))?;
    }
    Ok(())
}

fn copy_trie<K: aya::Pod, V: aya::Pod>(
    from: &Pins,
    to: &Pins,
    name: &'static str,
) -> Result<(), NetworkError> {
    if !from.map(name).exists() {
        return Ok(()); // that layout did not have it
    }
    let open = |pins: &Pins| -> Result<LpmTrie<MapData, K, V>, NetworkError> {
        LpmTrie::try_from(Map::LpmTrie(pins.open_map(name)?))
            .map_err(NetworkError::map("open", name))
    };
    let (from, mut to) = (open(from)?, open(to)?);
    for item in &from {
        let (key, value) = item.map_err(NetworkError::map("read", name))?;
        to.insert(&key, value, 0).map_err(NetworkError::map("write to", name))?;
    }
    Ok(())
}

/// Puts the program under the links of earlier layouts, moves their pins here,
/// and removes what is left of those layouts.
pub(super) fn take_over(pins: &Pins, program: &mut Xdp) -> Result<(), NetworkError> {
    for from in pins.others() {
        for interface in from.interfaces() {
            // One whose interface has gone holds nothing: it goes with its folder.
            if replace(&from.link(&interface), program, &interface)? {
                rename(&from.link(&interface), &pins.link(&interface))?;
            }
        }
        from.remove_folder()?;
    }
    Ok(())
}
