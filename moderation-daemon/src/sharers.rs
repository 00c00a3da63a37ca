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
        random,
        share::{self, ShareSettings, ShareStatus, Sharing},
        store::Outbox,
    };
    #[cfg(feature = "redis")]
    use crate::{share::Messages, store::redis::Redis};

    /// How sharing stands; `None`: bans are not shared.
    pub(crate) type SharingStatus = Option<Arc<ShareStatus>>;

    /// What is needed to start.
    pub(crate) struct Sharers {
        settings: Option<(ShareSettings, u64)>,
        outbox: Option<Arc<Outbox>>,
        #[cfg(feature = "redis")]
        messages: Option<Redis>,
    }

    /// What runs.
    #[derive(Default)]
    pub(crate) struct Running {
        sharing: Option<Sharing>,
        #[cfg(feature = "redis")]
        _messages: Option<Messages>,
    }

    impl Sharers {
        /// Reads the secrets, before anything is touched.
        pub(crate) fn prepare(config: &Config) -> anyhow::Result<Self> {
            let bounds = (config.rules.bounds.bans, config.rules.bounds.networks);
            let settings = config.mongodb.as_ref().map(|mongodb| {
                share::secrets(mongodb, bounds).map(|settings| (settings, mongodb.max_waiting))
            });
            Ok(Self {
                settings: settings.transpose()?,
                outbox: None,
                #[cfg(feature = "redis")]
                messages: crate::daemon::reach(config)?.filter(|_| config.mongodb.is_some()),
            })
        }

        /// Has the store keep what others are to be told.
        pub(crate) fn told(&mut self, store: Store) -> anyhow::Result<Store> {
            let Some((_, most)) = &self.settings else { return Ok(store) };
            let (store, outbox) = store.shared(*most)?;
            self.outbox = Some(outbox);
            Ok(store)
        }

        /// Begins to share. `reader` is shared with others, `own` is not.
        pub(crate) fn start(
            self,
            moderator: &Moderator,
            (reader, own): (&Reader, Reader),
            metrics: &Arc<Metrics>,
        ) -> anyhow::Result<Running> {
            let Some(((settings, _), outbox)) = self.settings.zip(self.outbox) else {
                return Ok(Running::default());
            };
            let (to, reader) = (moderator.clone(), reader.clone());
            let (shown, life) = (Arc::clone(metrics), random::name()?);
            let sharing = share::start(settings.clone(), to, reader, outbox, shown, life)?;
            #[cfg(feature = "redis")]
            let messages = self.messages.map(|redis| {
                let status = &sharing.status;
                share::say_and_hear(redis, &settings, (moderator, own), status, metrics)
            });
            #[cfg(not(feature = "redis"))]
            drop(own);
            Ok(Running {
                sharing: Some(sharing),
                #[cfg(feature = "redis")]
                _messages: messages,
            })
        }
    }

    impl Running {
        pub(crate) fn status(&self) -> SharingStatus {
            self.sharing.as_ref().map(|sharing| Arc::clone(&sharing.status))
        }

        /// Ends it; what waits, waits for the next life.
        pub(crate) fn end(self) {
            drop(self);
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
        pub(crate) fn start(
            self,
            _: &Moderator,
            _: (&Reader, Reader),
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
