//! Whether nginx's snippet is the one that this daemon knows. An older one says so once.

use std::sync::atomic::{AtomicBool, Ordering};

/// Where the snippet says which it is.
pub(super) const HEADER: &str = "x-moderation-snippet";

/// Which one there is now; raised when headers change their meaning.
const CURRENT: &str = "1";

/// Says at most once in a daemon's life that the snippet is another one.
#[derive(Debug, Default)]
pub(super) struct Watch(AtomicBool);

impl Watch {
    pub(super) fn look(&self, told: &str) {
        if told != CURRENT && !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                wanted = CURRENT,
                "nginx asks with a snippet of another version: install \
                 nginx/moderation-http.conf and nginx/moderation-server.conf of this one, and \
                 reload nginx"
            );
        }
    }
}
