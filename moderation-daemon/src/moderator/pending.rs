//! What a batch is made of between deciding and answering: each command's
//! conclusion, and who waits for it.

use std::{ops::Range, sync::Arc};

use super::{
    Answer, Ask, BanView, Board, Command, Denied, Grounds, Known, LiftedView, Reply, Unavailable,
    shared::Answers,
};
use crate::{
    engine::{
        Ban, BanRefusal, Cause, Count, Engine, Lease, Lifted, Moment, Outcome, Overlay, Queue,
        Subject, UserId, Verdict,
    },
    metrics::{Metrics, Table, What},
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
    what: Option<What>,
    outcome: Outcome,
    /// Whether it passed and was counted at once.
    is_counted: bool,
    /// If it was denied: what, to whom, and when in milliseconds since 1970.
    denied: Option<Box<(Denied, Subject, u64)>>,
}

/// How far a batch is judged.
pub(super) struct Begun<'a> {
    queue: &'a mut Queue,
    /// The first requests, which passed and are counted, as far as they are not answered.
    passed: Range<usize>,
    /// What other hosts have counted.
    answers: &'a mut Answers,
}

/// Judges what a batch begins with and what most of it is: events that nothing stands in
/// the way of. Not where hosts count together: they are to be told what was counted.
pub(super) fn begin<'a>(
    engine: &mut Engine,
    queue: &'a mut Queue,
    batch: &[Command],
    answers: &'a mut Answers,
    now: Moment,
) -> Begun<'a> {
    if !answers.are_of_nobody() {
        engine.prepare(queue, []);
        return Begun { queue, passed: 0..0, answers };
    }
    let asks = batch.iter().flat_map(Command::asks).filter(|ask| !ask.is_peek);
    engine.prepare(queue, asks.map(|ask| &ask.request));
    let first = batch.iter().map_while(|command| match command.asks() {
        [] => None,
        asks => Some(asks),
    });
    let first = first.flatten().map_while(|ask| (!ask.is_peek).then_some(&ask.request));
    let passed = 0..engine.pass_all(queue, first, now);
    Begun { queue, passed, answers }
}

/// What is known about a user, with what limits make of it now.
fn known(overlay: &Overlay<'_>, user: &UserId, now: Moment) -> Option<Known> {
    let (traits, standing) = (overlay.described(user), overlay.standing(user, now));
    (traits.is_some() || standing.is_some())
        .then(|| Known { traits: traits.cloned().unwrap_or_default(), standing })
}

/// Decides the rest of a batch, each command on top of those before it.
pub(super) fn decide(
    overlay: &mut Overlay<'_>,
    batch: Vec<Command>,
    mut begun: Begun<'_>,
    now: Moment,
) -> Vec<Pending> {
    batch.into_iter().map(|command| decide_one(overlay, command, &mut begun, now)).collect()
}

fn decide_one(
    overlay: &mut Overlay<'_>,
    command: Command,
    begun: &mut Begun<'_>,
    now: Moment,
) -> Pending {
    match command {
        Command::Judge(ask, reply) => Pending::Judged(judge(overlay, &ask, begun, now), reply),
        Command::Usage(request, reply) => {
            // As if it did not happen, so that what is left is left for the next.
            let free = |count: Count| Count { cost: 0, ..count };
            let counts = overlay.joined(&request, &begun.answers.peek(), now).into_iter().map(free);
            Pending::Counted(counts.collect(), reply)
        }
        Command::Known(user, reply) => Pending::Known(known(overlay, &user, now), reply),
        Command::Describe(user, traits, reply) => {
            let traits = overlay.know(&user, &traits, now);
            Pending::Described(Known { traits, standing: overlay.standing(&user, now) }, reply)
        }
        Command::JudgeAll(asks, reply) => {
            let judged = asks.iter().map(|ask| judge(overlay, ask, begun, now));
            Pending::JudgedAll(judged.collect(), reply)
        }
        Command::Renew(id, reply) => Pending::Renewed(overlay.renew(id, now), reply),
        Command::Release(id, reply) => Pending::Released(overlay.release(id, now), reply),
        Command::Ban(ban, reply) => Pending::Banned(overlay.ban(ban, now), reply),
        Command::Lift(target, by, reply) => Pending::Lifted(overlay.lift(&target, &by, now), reply),
        Command::Allow(..)
        | Command::Disallow(..)
        | Command::Live(..)
        | Command::Sample(..)
        | Command::Dossier(..)
        | Command::TakeScores(..)
        | Command::TakeRecords(..)
        | Command::Hear(..) => {
            unreachable!("serve takes these out of the batch")
        }
    }
}

fn judge(overlay: &mut Overlay<'_>, ask: &Ask, begun: &mut Begun<'_>, now: Moment) -> Judged {
    let Ask { request, is_peek } = ask;
    if *is_peek {
        let counts = overlay.joined(request, &begun.answers.peek(), now);
        let decision = overlay.decide(request, &counts, now);
        return Judged {
            what: None,
            outcome: supposed(decision.outcome),
            is_counted: false,
            denied: None,
        };
    }
    let passed = begun.passed.next().map(|place| Outcome::passed(begun.queue.counts(place)));
    let is_counted = passed.is_some();
    let told = || begun.answers.judge(overlay, request, now);
    let outcome = match passed.or_else(told) {
        Some(outcome) => outcome,
        None => overlay.judge_next(begun.queue, request, now),
    };
    let denied = (outcome.verdict == Verdict::Deny)
        .then(|| Box::new((Denied::of(&request.act), request.subject.clone(), now.unix_ms)));
    Judged { what: Some(What::of(&request.act)), outcome, is_counted, denied }
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
        if let Some(what) = self.what {
            metrics.judged(what, outcome.verdict);
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
        let code = self.denied.map(|denied| {
            let (what, subject, at_unix_ms) = *denied;
            let grounds = Grounds::of(&outcome, ban.as_ref());
            board.denials().note(what, &subject, grounds, at_unix_ms)
        });
        Answer { outcome, ban, code }
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

    /// What was counted at once.
    pub(super) fn counted(&self) -> impl Iterator<Item = &[Count]> {
        let judged = match self {
            Self::Judged(judged, _) => std::slice::from_ref(judged),
            Self::JudgedAll(all, _) => all.as_slice(),
            _ => &[],
        };
        let counted = judged.iter().filter(|judged| judged.is_counted);
        counted.map(|judged| judged.outcome.counts.as_slice())
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
