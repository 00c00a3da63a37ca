//! The task's way round by shared counters: a batch is asked about, and decided when that is
//! answered, or is not to be waited for. Where nobody else counts it is decided at once.

use super::{
    Command,
    shared::Answers,
    task::{StoreLost, Task},
};
use crate::engine::{Change, Moment};

impl Task {
    /// Serves a batch, once it is known what other hosts have counted, if any do.
    pub(super) async fn take(&mut self, commands: Vec<Command>) -> Result<(), StoreLost> {
        match &mut self.shared {
            None => self.serve(commands, Answers::none()).await,
            Some(shared) => {
                shared.begin(&self.engine, commands, &mut self.flights).await;
                Ok(())
            }
        }
    }

    /// Serves all that waits for answers, and then the rest.
    pub(super) async fn finish_batches(&mut self, rest: Vec<Command>) -> Result<(), StoreLost> {
        self.land().await?;
        self.take(rest).await?;
        self.land().await?;
        if let Some(shared) = &self.shared {
            shared.finish().await;
        }
        Ok(())
    }

    async fn land(&mut self) -> Result<(), StoreLost> {
        while !self.flights.is_empty() {
            let (commands, answers) = self.flights.landed().await;
            self.serve(commands, answers).await?;
        }
        Ok(())
    }

    /// Has shared counters say what was decided, before it is applied here; `None`: nothing
    /// was.
    pub(super) async fn settle(
        &mut self,
        answers: &Answers,
        changes: Option<&[Change]>,
        now: Moment,
    ) {
        let Some(shared) = &mut self.shared else { return };
        let acts = shared.acts(answers, changes, &self.engine, now);
        shared.settle(acts).await;
    }
}
