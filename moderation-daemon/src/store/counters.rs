//! Whoever keeps the counters that hosts share; nobody does if this was built without.

use std::time::Duration;

use crate::sharing::{Act, Failure, Group, Health, Reserved, Settled};

/// See the module.
#[derive(Debug)]
pub enum Counters {
    /// Redis does.
    #[cfg(feature = "redis")]
    Redis(super::redis::Redis),
}

#[cfg_attr(
    not(feature = "redis"),
    expect(unused_variables, clippy::unused_async, reason = "nobody is there to ask")
)]
impl Counters {
    /// Looks how things are, and connects if there is no connection.
    ///
    /// # Errors
    ///
    /// If they are not well.
    pub async fn probe(&self, fresh: &str) -> Result<Health, Failure> {
        match *self {
            #[cfg(feature = "redis")]
            Self::Redis(ref it) => it.probe(fresh).await,
        }
    }

    /// Asks for groups, before a moment of the server's clock, and for so long at most.
    ///
    /// # Errors
    ///
    /// If there is no answer; whatever was asked may then have been taken, or not.
    pub async fn reserve(
        &self,
        groups: &[Group],
        until_ms: u64,
        bound: Duration,
    ) -> Result<Reserved, Failure> {
        match *self {
            #[cfg(feature = "redis")]
            Self::Redis(ref it) => it.reserve(groups, until_ms, bound).await,
        }
    }

    /// Does what has been decided.
    ///
    /// # Errors
    ///
    /// If it was not all done; doing all of it again is right.
    pub async fn settle(&self, acts: &[Act]) -> Result<Settled, Failure> {
        match *self {
            #[cfg(feature = "redis")]
            Self::Redis(ref it) => it.settle(acts).await,
        }
    }
}
