//! What a batch is made of between deciding and answering: each command's
//! conclusion, and who waits for it.

use std::sync::Arc;

use super::{
    Answer, Ask, BanView, Board, Command, Known, LiftedView, Reply, Unavailable, shared::Answers,
};
use crate::{
    engine::{Act, Ban, BanRefusal, Cause, Count, Lease, Lifted, Moment, Outcome, Overlay, UserId},
    metrics::{Metrics, Table},
};

/// A decision whose caller waits for the commit.
pub(super) enum Pending {
    Judged(Judged, Reply<Answer>),
    JudgedAll(Vec<Judged>, Reply<Vec<Answer>>),
    Counted(Vec<Count>, Reply<Vec<Count>>),
    Known(Option<Known>, Reply<Option<Known>>),
    Described(Known, Reply<Known>),
    Renewed(Option<Lease>, Reply<Option<Lease>>),
    Released(bool, Reply<bool>),
    Banned(Result<Arc<Ban>, BanRefusal>, Reply<Result<BanView, BanRefusal>>),
    Lifted(Lifted, Reply<LiftedView>),
}

/// One request's conclusion.
pub(super) struct Judged {
    /// `None`: it was a peek, which counts nowhere.
    act: Option<Act>,
    outcome: Outcome,
}

/// What is known about a user, with what limits make of it now.
fn known(overlay: &Overlay<'_>, user: &UserId, now: Moment) -> Option<Known> {
    let (traits, standing) = (overlay.described(user), overlay.standing(user, now));
    (traits.is_some() || standing.is_some())
        .then(|| Known { traits: traits.cloned().unwrap_or_default(), standing })
}

/// Decides one command, on top of those before it in the batch.
pub(super) fn decide(
    overlay: &mut Overlay<'_>,
    command: Command,
    answers: &mut Answers,
    now: Moment,
) -> Pending {
    match command {
        Command::Judge(ask, reply) => Pending::Judged(judge(overlay, ask, answers, now), reply),
        Command::Usage(request, reply) => {
            // As if it did not happen, so that what is left is left for the next.
            let free = |count: Count| Count { cost: 0, ..count };
            let counts = overlay.joined(&request, &answers.peek(), now).into_iter().map(free);
            Pending::Counted(counts.collect(), reply)
        }
        Command::Known(user, reply) => Pending::Known(known(overlay, &user, now), reply),
        Command::Describe(user, traits, reply) => {
            let traits = overlay.know(&user, &traits, now);
            Pending::Described(Known { traits, standing: overlay.standing(&user, now) }, reply)
        }
        Command::JudgeAll(asks, reply) => {
            let judged = asks.into_iter().map(|ask| judge(overlay, ask, answers, now));
            Pending::JudgedAll(judged.collect(), reply)
        }
        Command::Renew(id, reply) => Pending::Renewed(overlay.renew(id, now), reply),
        Command::Release(id, reply) => Pending::Released(overlay.release(id, now), reply),
        Command::Ban(ban, reply) => Pending::Banned(overlay.ban(ban, now), reply),
        Command::Lift(target, by, reply) => Pending::Lifted(overlay.lift(&target, &by, now), reply),
        Command::Allow(..)
        | Command::Disallow(..)
        | Command::Sample(..)
        | Command::Dossier(..)
        | Command::TakeScores(..)
        | Command::TakeRecords(..) => {
            unreachable!("serve takes these out of the batch")
        }
    }
}

fn judge(
    overlay: &mut Overlay<'_>,
    Ask { request, is_peek }: Ask,
    answers: &mut Answers,
    now: Moment,
) -> Judged {
    if is_peek {
        let counts = overlay.joined(&request, &answers.peek(), now);
        let decision = overlay.decide(&request, &counts, now);
        return Judged { act: None, outcome: supposed(decision.outcome) };
    }
    let told = answers.judge(overlay, &request, now);
    let outcome = told.unwrap_or_else(|| overlay.judge(&request, now));
    Judged { act: Some(request.act), outcome }
}

/// What would have come of a request did not.
fn supposed(outcome: Outcome) -> Outcome {
    let ban = outcome.ban.filter(|_| outcome.cause == Some(Cause::Banned));
    let (violation, refusal, lease, penalty) = (None, None, None, None);
    Outcome { violation, ban, refusal, lease, penalty, logout: false, ..outcome }
}

impl Judged {
    fn answer(self, board: &Board, metrics: &Metrics) -> Answer {
        let outcome = self.outcome;
        if let Some(act) = &self.act {
            metrics.judged(act, outcome.verdict);
            if let Some(refusal) = outcome.refusal {
                metrics.ban_refused(refusal);
            }
            if outcome.cause == Some(Cause::LeasesFull) {
                metrics.overflow(Table::Leases);
            }
            if outcome.counts.iter().any(|count| count.is_shared) {
                metrics.overflow(Table::Windows);
            }
        }
        let ban = outcome.ban.as_ref().map(|ban| board.view(ban));
        Answer { outcome, ban }
    }
}

impl Pending {
    pub(super) fn answer(self, board: &Board, metrics: &Metrics) {
        match self {
            Self::Judged(judged, reply) => respond(reply, Ok(judged.answer(board, metrics))),
            Self::JudgedAll(all, reply) => {
                let answers = all.into_iter().map(|judged| judged.answer(board, metrics));
                respond(reply, Ok(answers.collect()));
            }
            Self::Counted(counts, reply) => respond(reply, Ok(counts)),
            Self::Known(known, reply) => respond(reply, Ok(known)),
            Self::Described(known, reply) => respond(reply, Ok(known)),
            Self::Renewed(lease, reply) => respond(reply, Ok(lease)),
            Self::Released(known, reply) => respond(reply, Ok(known)),
            Self::Banned(result, reply) => respond(reply, Ok(result.map(|ban| board.view(&ban)))),
            Self::Lifted(lifted, reply) => respond(reply, Ok(LiftedView::new(lifted, board))),
        }
    }

    /// The store did not take the batch.
    pub(super) fn refuse(self) {
        match self {
            Self::Judged(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::JudgedAll(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Counted(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Known(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Described(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Renewed(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Released(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Banned(_, reply) => respond(reply, Err(Unavailable::Store)),
            Self::Lifted(_, reply) => respond(reply, Err(Unavailable::Store)),
        }
    }
}

/// A caller who has gone away needs no answer.
pub(super) fn respond<T>(reply: Reply<T>, answer: Result<T, Unavailable>) {
    drop(reply.send(answer));
}
