//! What the kernel tells as it happens: handshakes beyond the limit, and samples
//! of dropped packets. Rings of fixed size; what did not fit is in the alarms.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use aya::maps::{Map, MapData, RingBuf};
use moderation_common::{
    Reason,
    map::{OVERRUNS, SAMPLES},
};
use serde::Serialize;
use tokio::io::{Interest, unix::AsyncFd};

use super::{NetworkError, Pins};

/// A handshake beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// Who completed it.
    pub ip: IpAddr,
    /// How many in the window, this one included.
    pub count: u64,
}

/// A packet that was dropped, or would have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    #[serde(skip)]
    pub at_boot_ns: u64,
    /// Its source.
    pub source: IpAddr,
    /// Why.
    #[serde(serialize_with = "by_name")]
    pub reason: Reason,
    /// Its length in bytes.
    pub bytes: u32,
    /// The protocol number, where a port was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u16>,
    /// The destination port, where one was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn by_name<S: serde::Serializer>(reason: &Reason, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(reason.name())
}

/// A ring to await. There is one reader: what it has read is gone.
#[derive(Debug)]
struct Ring {
    name: &'static str,
    ring: AsyncFd<Readable>,
}

/// The ring, as something with a descriptor.
struct Readable(RingBuf<MapData>);

impl std::fmt::Debug for Readable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Readable").finish_non_exhaustive()
    }
}

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Readable {
    #[expect(unsafe_code, reason = "aya lends the descriptor as a number only")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring keeps the descriptor open for as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

impl Ring {
    fn open(pins: &Pins, name: &'static str) -> Result<Self, NetworkError> {
        let ring = RingBuf::try_from(Map::RingBuf(pins.open_map(name)?))
            .map_err(NetworkError::map("open", name))?;
        // SAFETY: the ring keeps its one descriptor open until it is dropped.
        #[expect(unsafe_code, reason = "aya lends the descriptor as a number only")]
        let ring = unsafe { AsyncFd::register_with_interest(Readable(ring), Interest::READABLE) };
        let ring = ring
            .map_err(|error| NetworkError::Ring { ring: name, source: io::Error::other(error) })?;
        Ok(Self { name, ring })
    }

    /// The next records that make sense, at least one and at most `most`.
    async fn next<T>(
        &mut self,
        most: usize,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetworkError> {
        let name = self.name;
        let failed = |source: io::Error| NetworkError::Ring { ring: name, source };
        let mut found = Vec::new();
        loop {
            while found.len() < most
                && let Some(record) = self.ring.get_mut().0.next()
            {
                found.extend(parse(record.as_ref()));
            }
            if !found.is_empty() {
                return Ok(found);
            }
            self.ring.readable_mut().await.map_err(failed)?.clear_ready();
        }
    }
}

/// The ring of handshakes beyond the limit.
#[derive(Debug)]
pub struct Overruns(Ring);

impl Overruns {
    /// Opens the pinned ring, on a runtime.
    ///
    /// # Errors
    ///
    /// If the pin is missing or may not be opened by this user.
    pub fn open(pins: &Pins) -> Result<Self, NetworkError> {
        Ring::open(pins, OVERRUNS).map(Self)
    }

    /// Waits for the next ones, at most `most` of them.
    ///
    /// # Errors
    ///
    /// If the ring cannot be awaited.
    pub async fn next(&mut self, most: usize) -> Result<Vec<Overrun>, NetworkError> {
        self.0.next(most, parse_overrun).await
    }
}

/// See [`moderation_common::Overrun`].
fn parse_overrun(record: &[u8]) -> Option<Overrun> {
    let address: [u8; 16] = record.get(16..32)?.try_into().ok()?;
    let count = u64::from_ne_bytes(record.get(32..40)?.try_into().ok()?);
    Some(Overrun { ip: IpAddr::from(address).to_canonical(), count })
}

/// The ring of dropped packets.
#[derive(Debug)]
pub struct Samples(Ring);

impl Samples {
    /// Opens the pinned ring, on a runtime.
    ///
    /// # Errors
    ///
    /// If the pin is missing or may not be opened by this user.
    pub fn open(pins: &Pins) -> Result<Self, NetworkError> {
        Ring::open(pins, SAMPLES).map(Self)
    }

    /// Waits for the next ones, at most `most` of them.
    ///
    /// # Errors
    ///
    /// If the ring cannot be awaited.
    pub async fn next(&mut self, most: usize) -> Result<Vec<Dropped>, NetworkError> {
        self.0.next(most, parse_sample).await
    }
}

/// See [`moderation_common::Sample`].
fn parse_sample(record: &[u8]) -> Option<Dropped> {
    let word = |at: usize| Some(u32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(record.get(at..at + 2)?.try_into().ok()?));
    let octets: [u8; 16] = record.get(8..24)?.try_into().ok()?;
    let [a, b, c, d, ..] = octets;
    let source = if word(24)? == 4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(octets) };
    Some(Dropped {
        at_boot_ns: u64::from_ne_bytes(record.get(..8)?.try_into().ok()?),
        source,
        reason: Reason::from_index(word(28)?)?,
        bytes: word(32)?,
        port: half(36).filter(|port| *port != 0),
        protocol: half(38).filter(|protocol| *protocol != 0),
    })
}
