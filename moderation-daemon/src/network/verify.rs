//! Looking whether prefilter and switches let through to the maps what is in
//! them. Changes nothing, and trusts nobody's counts.

use moderation_common::Source;
use serde::Serialize;

use super::{
    BanMaps, NetworkError, Pins,
    control::{ControlMap, seeds},
    filter::Bitmap,
};

/// Whether the prefilter lets through what it must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Exact entries that were looked at.
    pub entries: usize,
    /// Those that the prefilter would hide: a ban without effect each.
    pub hidden: usize,
    /// Entries whose map the program does not look into.
    pub switched_off: usize,
}

/// Compares the pinned maps with the prefilter and the switches; changes
/// nothing.
///
/// # Errors
///
/// If a map cannot be read.
pub fn verify(pins: &Pins) -> Result<Verified, NetworkError> {
    let maps = BanMaps::open(pins)?;
    let seeds = seeds(pins)?;
    let bitmap = Bitmap::open(pins, seeds)?;
    let control = ControlMap::open(pins)?.get()?;
    let mut verified = Verified::default();
    let mut look = |hash: u64| verified.hidden += usize::from(!bitmap.has(hash));
    let mut entries = maps.v4.for_each(|key, _| look(seeds.hash(Source::V4(key))))?;
    entries += maps.v6.for_each(|key, _| look(seeds.hash(Source::V6(key))))?;
    let hosts = maps.hosts.for_each(|key, _| look(seeds.hash_host(key)))?;
    let (nets_v4, nets_v6) = maps.nets.counts();
    verified.entries = entries + hosts;
    for (count, switch) in
        [(hosts, control.hosts), (nets_v4, control.nets_v4), (nets_v6, control.nets_v6)]
    {
        verified.switched_off += if switch == 0 { count } else { 0 };
    }
    Ok(verified)
}

/// Bits that are set in the prefilter: at most `FILTER_BITS` an exact entry, or it
/// slowly fills up and lets ever more strangers through to the exact maps.
///
/// # Errors
///
/// If a map cannot be read.
pub fn filter_bits(pins: &Pins) -> Result<usize, NetworkError> {
    Ok(Bitmap::open(pins, seeds(pins)?)?.ones())
}
