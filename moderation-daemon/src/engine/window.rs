//! Fixed windows: a window begins with a key's first event and every event in
//! it counts, rejected ones included, as express-rate-limit does it.

use std::collections::HashMap;

use super::{Bearer, Limit, Limiter};

/// What is counted: one limiter's count of one bearer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WindowKey {
    /// The limiter.
    pub limiter: Limiter,
    /// Who; `None` for all those who came when the table was full.
    pub bearer: Option<Bearer>,
}

/// The current window of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Events so far.
    pub hits: u64,
    /// When it ends, on the boot clock.
    pub ends_at_boot_ms: u64,
}

/// What a limiter counted for one event, wherever it was counted. An engine
/// takes this as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The key that was counted.
    pub key: WindowKey,
    /// The limit that it is measured against.
    pub limit: Limit,
    /// Its window, this event included.
    pub window: Window,
}

impl Count {
    /// Whether this event was one too many.
    pub const fn exceeds(&self) -> bool {
        self.window.hits > self.limit.max
    }

    /// How many more are allowed in this window.
    pub const fn remaining(&self) -> u64 {
        self.limit.max.saturating_sub(self.window.hits)
    }
}

/// The windows that are counted on this host.
#[derive(Debug, Default)]
pub(super) struct Windows(HashMap<WindowKey, Window>);

impl Windows {
    pub(super) fn get(&self, key: &WindowKey) -> Option<Window> {
        self.0.get(key).copied()
    }

    pub(super) fn put(&mut self, key: WindowKey, window: Window) {
        self.0.insert(key, window);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets the windows that are over.
    pub(super) fn expire(&mut self, now_boot_ms: u64) {
        self.0.retain(|_, window| window.ends_at_boot_ms > now_boot_ms);
        // What an attack made grow need not stay grown.
        if self.0.capacity() > 4 * self.0.len().max(1_024) {
            self.0.shrink_to_fit();
        }
    }
}

/// The window after one more event.
pub(super) fn hit(current: Option<Window>, limit: Limit, now_boot_ms: u64) -> Window {
    match current {
        Some(window) if now_boot_ms < window.ends_at_boot_ms => {
            Window { hits: window.hits.saturating_add(1), ..window }
        }
        _ => Window { hits: 1, ends_at_boot_ms: now_boot_ms.saturating_add(limit.window_ms) },
    }
}
