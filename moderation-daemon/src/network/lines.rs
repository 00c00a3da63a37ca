//! Lines that the kernel programs write, out of the pinned ring. aya-log knows
//! their form; who writes them down, and how many of them, is decided elsewhere.

use std::{fmt, io};

use aya::{EbpfLoader, include_bytes_aligned};
use aya_log::EbpfLogger;
use moderation_common::map::{LINE_BYTES, LINES};
use tokio::io::{Interest, unix::AsyncFd};

use super::{NetworkError, Pins};

/// The ring alone; nothing in it is for the kernel to load.
pub static LINES_OBJECT: &[u8] = include_bytes_aligned!(env!("LINES_OBJECT"));

/// The ring of lines, with who writes them down. There is one reader: what it has
/// read is gone.
pub struct Lines<L>(AsyncFd<EbpfLogger<L>>);

impl<L> fmt::Debug for Lines<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl<L: log::Log + 'static> Lines<L> {
    /// Opens the pinned ring, on a runtime.
    ///
    /// # Errors
    ///
    /// If the pin is missing or may not be opened by this user.
    pub fn open(pins: &Pins, log: L) -> Result<Self, NetworkError> {
        // First, because aya would make what is not there, and take any size for
        // the right one.
        let found = pins.open_map(LINES)?.info().map_err(NetworkError::map("size", LINES))?;
        if found.max_entries() != LINE_BYTES {
            return Err(NetworkError::ForeignMap { path: pins.map(LINES) });
        }
        let object = EbpfLoader::new().map_pin_path(LINES, pins.map(LINES)).load(LINES_OBJECT);
        let mut object = object.map_err(|source| NetworkError::Load(Box::new(source)))?;
        let failed = |source: io::Error| NetworkError::Ring { ring: LINES, source };
        let logger = EbpfLogger::init_with_logger(&mut object, log)
            .map_err(|error| failed(io::Error::other(error)))?;
        // SAFETY: the logger keeps its one descriptor open until it is dropped.
        #[expect(unsafe_code, reason = "tokio cannot see which descriptor it lends")]
        let lines = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        lines.map(Self).map_err(|error| failed(io::Error::other(error)))
    }

    /// Waits for lines, and has all written down that there are.
    ///
    /// # Errors
    ///
    /// If the ring cannot be awaited.
    pub async fn write(&mut self) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Ring { ring: LINES, source };
        let mut ready = self.0.readable_mut().await.map_err(failed)?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
        Ok(())
    }
}
