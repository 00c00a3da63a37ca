//! Asking how things are: whether Redis answers, what its clock says, and whether it has
//! forgotten something since.

use redis::{Value, cluster_routing::Slot};

use super::{PATIENCE, Redis, fault, nonsense, time, value};
use crate::sharing::{Failure, Health, Names};

/// Pieces of a cluster's slots that are watched: whoever serves 512 of them in a row has all
/// of one, so that all nodes are watched of as many as there can sensibly be.
const PIECES: u16 = 32;
const SLOTS: u16 = 16_384;
/// The mark of an epoch outlives every quiet hour.
const EPOCH_MS: u64 = 86_400_000;

/// The keys that are watched.
pub(super) fn epochs(names: &Names, is_cluster: bool) -> Vec<String> {
    if is_cluster {
        (0..PIECES).map(|piece| names.epoch_in(&tag_in(piece))).collect()
    } else {
        vec![names.epoch()]
    }
}

/// What a key has between its braces to be in that piece of the slots.
fn tag_in(piece: u16) -> String {
    const SIZE: u16 = SLOTS / PIECES;
    let is_there = |tag: &String| {
        let slot = Slot::for_key(tag);
        (piece * SIZE..(piece + 1) * SIZE).any(|number| Slot::new(number) == Some(slot))
    };
    (0_u32..).map(|number| number.to_string()).find(is_there).expect("numbers are everywhere")
}

impl Redis {
    /// Looks how things are; connects if there is no connection. `fresh` becomes the epoch
    /// if there is none. No decision waits for this.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub async fn probe(&self, fresh: &str) -> Result<Health, Failure> {
        let asked = async {
            let mut link = match self.link() {
                Some(link) => link,
                None => self.connect().await?,
            };
            let set = |epoch: &String| {
                let mut set = redis::cmd("SET");
                set.arg(epoch).arg(fresh).arg("NX").arg("GET").arg("PX").arg(EPOCH_MS);
                set
            };
            let keep = |epoch: &String| {
                let mut keep = redis::cmd("PEXPIRE");
                keep.arg(epoch).arg(EPOCH_MS);
                keep
            };
            let commands = self.epochs.iter().map(set).chain(self.epochs.iter().map(keep));
            let answers = link.ask_all(commands.collect()).await;
            let answers = answers.map_err(|error| fault::of(&error))?;
            let answers = answers.into_iter().map(value).collect::<Result<Vec<_>, _>>()?;
            // What decisions do, with nothing in it: it says the time, and whether scripts
            // may run and are known.
            let key = self.epochs.iter().take(1).cloned().collect();
            let times = link.run(&self.settle, vec![(key, Vec::new())]).await?;
            let now_ms = times.first().and_then(|answer| time(answer)).ok_or_else(nonsense)?;
            let known = answers.iter().take(self.epochs.len()).map(|known| match known {
                Value::BulkString(bytes) => String::from_utf8_lossy(bytes),
                _ => fresh.into(),
            });
            Ok(Health { now_ms, epoch: known.collect::<Vec<_>>().join(" ") })
        };
        self.within(PATIENCE, asked).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_watched_in_every_piece_of_a_cluster() {
        let names = Names::new("test");
        let keys = epochs(&names, true);
        let mut slots: Vec<_> = (0..SLOTS)
            .filter(|number| keys.iter().any(|key| Slot::new(*number) == Some(Slot::for_key(key))))
            .collect();
        slots.iter_mut().for_each(|slot| *slot /= SLOTS / PIECES);
        assert_eq!(slots, (0..PIECES).collect::<Vec<_>>());
        assert_eq!(epochs(&names, false), ["test:epoch"]);
    }
}
