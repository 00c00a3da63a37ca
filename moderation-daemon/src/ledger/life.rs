//! What a host's sign of life in the shared database says about the database, and about
//! other hosts: whether it was set back, and whether somebody else has this host's name.

/// A sign of life as it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// When it was left by its host's clock, in milliseconds since 1970.
    pub beat_unix_ms: u64,
    /// And by the database's; `None`: it does not say.
    pub at_unix_ms: Option<u64>,
    /// In which life of which host. `None`: by a version that did not say so.
    pub life: Option<String>,
}

/// The last sign of ours that the database took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// When by our clock, in milliseconds since 1970, in this life or an earlier one.
    pub beat_unix_ms: Option<u64>,
    /// When by the database's, in this life.
    pub at_unix_ms: Option<u64>,
}

/// What the sign says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is ours, and the last one.
    Ours,
    /// It is gone, or an older one: so is everything else there.
    SetBack,
    /// Somebody else has left it since: two hosts have one name.
    Twin,
}

impl Taken {
    /// Compares with what is there; `life` is this one.
    pub fn judge(&self, there: Option<&Sign>, life: &str) -> Standing {
        let Some(taken) = self.beat_unix_ms else { return Standing::Ours };
        let Some(there) = there else { return Standing::SetBack };
        let is_another = there.life.as_deref().is_some_and(|other| other != life);
        match (self.at_unix_ms, there.at_unix_ms) {
            // Clocks of two hosts differ; that of the database is one.
            (Some(ours), Some(theirs)) if is_another && theirs >= ours => Standing::Twin,
            (Some(_), _) if is_another => Standing::SetBack,
            // What an earlier life left, or this one.
            _ if there.beat_unix_ms < taken => Standing::SetBack,
            _ => Standing::Ours,
        }
    }
}
