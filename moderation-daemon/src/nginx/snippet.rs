//! Whether nginx's snippet is the one that this daemon knows. Another one is told of once
//! in the log, and to the doctor for as long as it asks.

use std::{
    cmp::Ordering,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::metrics::NginxMetrics;

/// Where the snippet says which it is.
pub(super) const HEADER: &str = "x-moderation-snippet";

/// Which one there is now; raised when headers change their meaning.
const CURRENT: &str = "1";

/// Says at most once in a daemon's life that the snippet is another one.
#[derive(Debug, Default)]
pub(super) struct Watch(AtomicBool);

impl Watch {
    pub(super) fn look(&self, told: &str, metrics: &NginxMetrics) {
        metrics.snippet.set(version(told).into());
        if told != CURRENT && !self.0.swap(true, Relaxed) {
            tracing::warn!(
                wanted = CURRENT,
                "nginx asks with a snippet of another version: install \
                 nginx/moderation-http.conf and nginx/moderation-server.conf of this one, and \
                 reload nginx"
            );
        }
    }
}

/// 0, if it does not say: no snippet ever had that.
fn version(told: &str) -> u32 {
    told.parse().unwrap_or_default()
}

/// How the snippet of whoever asked last stands to this daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Snippet {
    /// Nobody has asked since the start.
    NeverSeen,
    /// Of a version before this daemon's; 0: it does not say.
    Older(i64),
    /// The one that came with this daemon.
    Current,
    /// Of a version after this daemon's.
    Newer(i64),
}

impl Snippet {
    /// As it is now: while nginx reloads, old and new ones ask.
    pub(crate) fn now(metrics: &NginxMetrics) -> Self {
        if metrics.asked() == 0 { Self::NeverSeen } else { Self::of(metrics.snippet.get()) }
    }

    fn of(last: i64) -> Self {
        match last.cmp(&version(CURRENT).into()) {
            Ordering::Less => Self::Older(last),
            Ordering::Equal => Self::Current,
            Ordering::Greater => Self::Newer(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_is_older_current_or_newer_by_its_number() {
        let (watch, metrics) = (Watch::default(), NginxMetrics::default());
        assert_eq!(Snippet::now(&metrics), Snippet::NeverSeen);
        metrics.passed.inc();
        let next = version(CURRENT) + 1;
        let cases = [
            (CURRENT.to_owned(), Snippet::Current),
            (next.to_string(), Snippet::Newer(next.into())),
            ("0".to_owned(), Snippet::Older(0)),
            (String::new(), Snippet::Older(0)),
            ("x".to_owned(), Snippet::Older(0)),
            ("99999999999".to_owned(), Snippet::Older(0)),
            ("-1".to_owned(), Snippet::Older(0)),
        ];
        for (told, want) in cases {
            watch.look(&told, &metrics);
            assert_eq!(Snippet::now(&metrics), want, "{told}");
        }
    }

    #[test]
    fn the_files_of_this_project_have_the_current_version() {
        let server = include_str!("../../../nginx/moderation-server.conf");
        let line = format!("proxy_set_header X-Moderation-Snippet {CURRENT};");
        assert_eq!(server.matches("X-Moderation-Snippet").count(), 1);
        assert!(server.contains(&line), "{line}");
    }
}
