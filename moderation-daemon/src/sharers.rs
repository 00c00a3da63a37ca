//! The part of moderationd's start that is about sharing bans, which the program may have
//! been built without. It only puts rooms together.

use std::sync::Arc;

use crate::{
    config::Config,
    metrics::Metrics,
    moderator::Moderator,
    store::{Reader, Store},
};

#[cfg(feature = "mongodb")]
mod with {
    use super::{Arc, Config, Metrics, Moderator, Reader, Store};
    use crate::{
        share::{self, ShareSettings, ShareStatus, Sharing},
        store::Outbox,
    };

    /// How sharing stands; `None`: bans are not shared.
    pub(crate) type SharingStatus = Option<Arc<ShareStatus>>;

    /// What is needed to start.
    pub(crate) struct Sharers {
        settings: Option<(ShareSettings, u64)>,
        outbox: Option<Arc<Outbox>>,
    }

    /// What runs.
    pub(crate) struct Running(Option<Sharing>);

    impl Sharers {
        /// Reads the secrets, before anything is touched.
        pub(crate) fn prepare(config: &Config) -> anyhow::Result<Self> {
            let bounds = (config.rules.bounds.bans, config.rules.bounds.networks);
            let settings = config.mongodb.as_ref().map(|mongodb| {
                share::secrets(mongodb, bounds).map(|settings| (settings, mongodb.max_waiting))
            });
            Ok(Self { settings: settings.transpose()?, outbox: None })
        }

        /// Has the store keep what others are to be told.
        pub(crate) fn told(&mut self, store: Store) -> anyhow::Result<Store> {
            let Some((_, most)) = &self.settings else { return Ok(store) };
            let (store, outbox) = store.shared(*most)?;
            self.outbox = Some(outbox);
            Ok(store)
        }

        /// Begins to share.
        pub(crate) fn start(
            self,
            moderator: &Moderator,
            reader: &Reader,
            metrics: &Arc<Metrics>,
        ) -> anyhow::Result<Running> {
            let Some(((settings, _), outbox)) = self.settings.zip(self.outbox) else {
                return Ok(Running(None));
            };
            let (moderator, reader) = (moderator.clone(), reader.clone());
            let sharing = share::start(settings, moderator, reader, outbox, Arc::clone(metrics))?;
            Ok(Running(Some(sharing)))
        }
    }

    impl Running {
        pub(crate) fn status(&self) -> SharingStatus {
            self.0.as_ref().map(|sharing| Arc::clone(&sharing.status))
        }

        /// Ends it; what waits, waits for the next life.
        pub(crate) fn end(self) {
            drop(self.0);
        }
    }
}

#[cfg(not(feature = "mongodb"))]
mod without {
    use super::{Arc, Config, Metrics, Moderator, Reader, Store};

    /// There is nothing to tell.
    pub(crate) type SharingStatus = ();

    pub(crate) struct Sharers;

    pub(crate) struct Running;

    #[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
    impl Sharers {
        pub(crate) const fn prepare(_: &Config) -> anyhow::Result<Self> {
            Ok(Self)
        }

        #[expect(clippy::unused_self, reason = "as with the feature")]
        pub(crate) const fn told(&mut self, store: Store) -> anyhow::Result<Store> {
            Ok(store)
        }

        #[expect(clippy::unused_self, reason = "as with the feature")]
        pub(crate) const fn start(
            self,
            _: &Moderator,
            _: &Reader,
            _: &Arc<Metrics>,
        ) -> anyhow::Result<Running> {
            Ok(Running)
        }
    }

    impl Running {
        #[expect(clippy::unused_self, reason = "as with the feature")]
        pub(crate) const fn status(&self) -> SharingStatus {}

        #[expect(clippy::unused_self, reason = "as with the feature")]
        pub(crate) const fn end(self) {}
    }
}

#[cfg(feature = "mongodb")]
pub(crate) use with::{Sharers, SharingStatus};
#[cfg(not(feature = "mongodb"))]
pub(crate) use without::{Sharers, SharingStatus};
