//! What a network device says about itself: driver, queues, and settings that are in the
//! way of a program in its driver. Only reads, and needs no privilege.

use std::{collections::BTreeMap, io};

use super::sys;

/// Commands of `linux/ethtool.h`.
const GDRVINFO: u32 = 0x3;
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const GCHANNELS: u32 = 0x3c;
/// The set of strings that names features.
const SS_FEATURES: u32 = 4;
/// Bytes of one name.
const STRING: usize = 32;
/// Words of a block of features: available, requested, active, never changed.
const BLOCK: usize = 4;

/// Queues of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// Those for receiving, and for both directions, that are in use.
    pub used: u32,
    /// Those for both directions that it could have.
    pub most_combined: u32,
}

/// The driver's name, as `virtio_net`.
///
/// # Errors
///
/// If there is no such device, or it does not say.
pub fn driver(interface: &str) -> io::Result<String> {
    let answer = sys::ethtool(interface, &[GDRVINFO])?;
    Ok(text(&bytes(&answer[1..1 + STRING / 4])))
}

/// Its queues; devices without a choice do not say.
///
/// # Errors
///
/// As above.
pub fn queues(interface: &str) -> io::Result<Queues> {
    let answer = sys::ethtool(interface, &[GCHANNELS])?;
    // cmd, max_rx, max_tx, max_other, max_combined, then the same in use.
    Ok(Queues { used: answer[5].saturating_add(answer[8]), most_combined: answer[4] })
}

/// Its features by name, as `rx-lro`, and whether they are on.
///
/// # Errors
///
/// As above.
pub fn features(interface: &str) -> io::Result<BTreeMap<String, bool>> {
    // A set of bits, of 64.
    let sizes = sys::ethtool(interface, &[GSSET_INFO, 0, 1 << SS_FEATURES, 0])?;
    let count = usize::try_from(sizes[4]).unwrap_or(0);
    let names = sys::ethtool(interface, &[GSTRINGS, SS_FEATURES, sizes[4]])?;
    let blocks = count.div_ceil(32);
    let size = u32::try_from(blocks).unwrap_or(0);
    let states = sys::ethtool(interface, &[GFEATURES, size])?;
    let fits = 3 + count * STRING / 4 <= names.len() && 2 + blocks * BLOCK <= states.len();
    if !fits {
        return Err(io::Error::other("it has more features than there is room for"));
    }
    let names = bytes(&names[3..3 + count * STRING / 4]);
    let named = names.chunks(STRING).enumerate().map(|(at, name)| {
        let active = states[2 + at / 32 * BLOCK + 2];
        (text(name), active >> (at % 32) & 1 == 1)
    });
    Ok(named.filter(|(name, _)| !name.is_empty()).collect())
}

/// Whether the kernel's clock is kept in step with others'.
///
/// # Errors
///
/// If the kernel does not say.
pub fn is_clock_synchronized() -> io::Result<bool> {
    sys::is_clock_synchronized()
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Up to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_features_and_no_large_receive_offload_that_is_on() {
        let features = features("lo").expect("there is one");
        assert!(features.len() > 10 && features.contains_key("rx-gro"), "{features:?}");
        assert_eq!(features.get("rx-lro"), Some(&false));
        assert_eq!(features.get("loopback"), Some(&true), "{features:?}");
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        for name in ["no-such-dev", "a name that is much too long for a device"] {
            assert!(driver(name).is_err() && features(name).is_err() && queues(name).is_err());
        }
    }

    #[test]
    fn names_end_at_the_first_zero() {
        assert_eq!(text(b"veth\0\0x"), "veth");
        assert_eq!(text(b"veth"), "veth");
    }
}
