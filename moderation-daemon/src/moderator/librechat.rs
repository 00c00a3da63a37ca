//! Scores and records that a host brings along from LibreChat. They wait with
//! the operators' wishes, and count when they are written down.

use super::{
    Command, DECISION_TIMEOUT, Moderator, Reply, Unavailable,
    pending::respond,
    task::{StoreLost, Task},
};
use crate::{clock, engine::ScoreKey, librechat::Record, store::TakenRecords};

/// A score from elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct TakenScore {
    /// Whose, and what for.
    pub key: ScoreKey,
    /// How much.
    pub points: f64,
    /// As of when, in milliseconds since 1970.
    pub at_unix_ms: u64,
}

impl Moderator {
    /// Takes scores over where they are higher than ours; says how many were.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn take_scores(&self, scores: Vec<TakenScore>) -> Result<usize, Unavailable> {
        self.ask(&self.operators, |reply| Command::TakeScores(scores, reply), DECISION_TIMEOUT)
            .await
    }

    /// Takes records over, but for those that are there, or older than what is
    /// kept.
    ///
    /// # Errors
    ///
    /// See [`Unavailable`].
    pub async fn take_records(&self, records: Vec<Record>) -> Result<TakenRecords, Unavailable> {
        self.ask(&self.operators, |reply| Command::TakeRecords(records, reply), DECISION_TIMEOUT)
            .await
    }
}

impl Task {
    pub(super) fn take_scores(
        &mut self,
        scores: Vec<TakenScore>,
        reply: Reply<usize>,
    ) -> Result<(), StoreLost> {
        let mut overlay = self.engine.overlay();
        let mut taken = 0;
        for TakenScore { key, points, at_unix_ms } in scores {
            taken += usize::from(overlay.take_score(key, points, at_unix_ms));
        }
        let changes = overlay.into_changes();
        let answer = match self.commit(&changes)? {
            Ok(()) => {
                self.engine.apply(changes);
                Ok(taken)
            }
            Err(error) => {
                self.store_failed(&error, "no scores were taken over");
                Err(Unavailable::Store)
            }
        };
        respond(reply, answer);
        Ok(())
    }

    pub(super) fn take_records(
        &mut self,
        records: &[Record],
        reply: Reply<TakenRecords>,
    ) -> Result<(), StoreLost> {
        let (now_ms, keep) = (clock::now().unix_ms, self.setup.keep);
        let taken = self.with_store(|store| store.take_records(records, now_ms, keep))?;
        let answer = match taken {
            Ok(taken) => {
                self.violations_since_prune += taken.taken;
                Ok(taken)
            }
            Err(error) => {
                self.store_failed(&error, "no records were taken over");
                Err(Unavailable::Store)
            }
        };
        respond(reply, answer);
        Ok(())
    }
}
