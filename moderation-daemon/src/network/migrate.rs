//! From an earlier layout of the maps to this one, under the links that hold
//! interfaces: first the new maps have the old ones' bans, then the new program
//! takes the old one's place, and only then the old pins go. At no moment does
//! a banned source's packet find a program without its ban.

use std::{io, os::fd::AsFd as _};

use aya::{Pod, maps::MapData, programs::Xdp};
use moderation_common::map::{ALLOW_V4, ALLOW_V6, BANS_HOST, BANS_V4, BANS_V6, NETS_V4, NETS_V6};
use nix::unistd::Uid;

use super::{
    AllowMaps, NetworkError, Pins,
    attach::{rename, replace},
    control::{ControlMap, seeds},
    exact::{self, BATCH},
    filter::Bitmap,
    nets::{V4Key, V6Key},
    sys::{self, Pages},
};

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
        copy_map::<[u8; 4], u64>(from, pins, BANS_V4)?;
        copy_map::<[u8; 8], u64>(from, pins, BANS_V6)?;
        copy_map::<[u8; 16], u64>(from, pins, BANS_HOST)?;
        copy_map::<V4Key, u64>(from, pins, NETS_V4)?;
        copy_map::<V6Key, u64>(from, pins, NETS_V6)?;
        copy_map::<V4Key, u32>(from, pins, ALLOW_V4)?;
        copy_map::<V6Key, u32>(from, pins, ALLOW_V6)?;
    }
    Ok(())
}

/// What both hold stays until the later expiry. A trie may answer with a block
/// around: what is in it lasts as long anyway.
fn copy_map<K: Pod + Default, V: Pod + Default + Ord>(
    from: &Pins,
    to: &Pins,
    name: &'static str,
) -> Result<(), NetworkError> {
    if !from.map(name).exists() {
        return Ok(()); // that layout did not have it
    }
    let open = |pins: &Pins| -> Result<MapData, NetworkError> {
        let data = pins.open_map(name)?;
        exact::entries::<K, V>(pins, name, &data).map(|_| data)
    };
    let failed =
        |operation| move |source: io::Error| NetworkError::Batch { operation, map: name, source };
    let (from, to) = (open(from)?, open(to)?);
    let mut pages = Pages::<K, V>::new(BATCH);
    while let Some((keys, values)) = pages.next(from.fd().as_fd()).map_err(failed("read"))? {
        for (key, value) in keys.iter().zip(values) {
            let known = sys::lookup::<K, V>(to.fd().as_fd(), key).map_err(failed("read"))?;
            let latest = known.unwrap_or_default().max(*value);
            sys::update(to.fd().as_fd(), key, &latest, 0).map_err(failed("write to"))?;
        }
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
