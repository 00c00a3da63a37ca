//! The switches that the program reads, and the seeds that it was made with.

use std::fmt;

use aya::maps::{Array, Map, MapData};
use moderation_common::{
    Control, Seeds,
    map::{CONTROL, SEEDS},
};

use super::{NetworkError, Pins};

/// The pinned switches.
pub(super) struct ControlMap {
    map: Array<MapData, [u32; 6]>,
}

impl fmt::Debug for ControlMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlMap").finish_non_exhaustive()
    }
}

impl ControlMap {
    pub(super) fn open(pins: &Pins) -> Result<Self, NetworkError> {
        Self::new(pins.open_map(CONTROL)?)
    }

    /// The same for one who only looks at them.
    pub(super) fn open_to_read(pins: &Pins) -> Result<Self, NetworkError> {
        Self::new(pins.open_to_read(CONTROL)?)
    }

    fn new(data: MapData) -> Result<Self, NetworkError> {
        let map = Array::try_from(Map::Array(data)).map_err(NetworkError::map("open", CONTROL))?;
        Ok(Self { map })
    }

    pub(super) fn get(&self) -> Result<Control, NetworkError> {
        let [observe, hosts, nets_v4, nets_v6, sample_every, generation] =
            self.map.get(&0, 0).map_err(NetworkError::map("read", CONTROL))?;
        Ok(Control { observe, hosts, nets_v4, nets_v6, sample_every, generation })
    }

    /// Changes some switches, and writes nothing if that changes nothing.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Control)) -> Result<(), NetworkError> {
        let old = self.get()?;
        let mut new = old;
        change(&mut new);
        if new == old {
            return Ok(());
        }
        let Control { observe, hosts, nets_v4, nets_v6, sample_every, generation } = new;
        let value = [observe, hosts, nets_v4, nets_v6, sample_every, generation];
        self.map.set(0, value, 0).map_err(NetworkError::map("write to", CONTROL))
    }

    /// Has the program forget whom it has found banned lately. After a ban went;
    /// without it, it would be in force until the timer's next tick.
    pub(super) fn forget(&mut self) -> Result<(), NetworkError> {
        self.change(|control| control.generation = control.generation.wrapping_add(1))
    }
}

/// The pinned seeds; zeros if none were drawn yet.
pub(super) fn seeds(pins: &Pins) -> Result<Seeds, NetworkError> {
    let map: Array<MapData, [u64; 2]> = Array::try_from(Map::Array(pins.open_map(SEEDS)?))
        .map_err(NetworkError::map("open", SEEDS))?;
    let [a, b] = map.get(&0, 0).map_err(NetworkError::map("read", SEEDS))?;
    Ok(Seeds { a, b })
}

/// Writes the seeds down beside the maps that they belong to.
pub(super) fn keep_seeds(pins: &Pins, seeds: Seeds) -> Result<(), NetworkError> {
    let mut map: Array<MapData, [u64; 2]> = Array::try_from(Map::Array(pins.open_map(SEEDS)?))
        .map_err(NetworkError::map("open", SEEDS))?;
    map.set(0, [seeds.a, seeds.b], 0).map_err(NetworkError::map("write to", SEEDS))
}
