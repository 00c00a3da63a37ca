//! What a batch is made of between deciding and answering: each command's
//! conclusion, and who waits for it.

use std::sync::Arc;

use super::{Answer, BanView, Board, Command, Reply, Unavailable};
use crate::{
    engine::{Act, Ban, BanRefusal, Cause, Decision, Lease, Moment, Outcome, Overlay, Request},
    metrics::{Metrics, Table},
};

/// A decision whose caller waits for the commit.
pub(super) enum Pending {
    Judged(Act, Outcome, Reply<Answer>),
    Renewed(Option<Lease>, Reply<Option<Lease>>),
    Released(bool, Reply<bool>),
    Banned(Result<Arc<Ban>, BanRefusal>, Reply<Result<BanView, BanRefusal>>),
    Lifted(Vec<Arc<Ban>>, Reply<Vec<BanView>>),
}

/// Decides one command on the overlay.
pub(super) fn decide(overlay: &mut Overlay<'_>, command: Command, now: Moment) -> Pending {
    match command {
        Command::Judge(request, reply) => {
            let decision = judge(overlay, &request, now);
            Pending::Judged(request.act, decision.outcome, reply)
        }
        Command::Renew(id, reply) => Pending::Renewed(overlay.renew(id, now), reply),
        Command::Release(id, reply) => Pending::Released(overlay.release(id, now), reply),
        Command::Ban(ban, reply) => Pending::Banned(overlay.ban(ban, now), reply),
        Command::Lift(target, by, reply) => Pending::Lifted(overlay.lift(&target, &by, now), reply),
        Command::Allow(..) | Command::Disallow(..) | Command::Sample(..) => {
            unreachable!("serve takes these out of the batch")
        }
    }
}

fn judge(overlay: &mut Overlay<'_>, request: &Request, now: Moment) -> Decision {
    let counts = overlay.counts(request, now);
    let decision = overlay.decide(request, &counts, now);
    overlay.push(&decision);
    decision
}

impl Pending {
    pub(super) fn answer(self, board: &Board, metrics: &Metrics) {
        match self {
            Self::Judged(act, outcome, reply) => {
                metrics.judged(&act, outcome.verdict);
                if let Some(refusal) = outcome.refusal {
                    metrics.ban_refused(refusal);
                }
                if outcome.cause == Some(Cause::LeasesFull) {
                    metrics.overflow(Table::Leases);
                }
                if outcome.counts.iter().any(|count| count.is_shared) {
                    metrics.overflow(Table::Windows);
                }
                let ban = outcome.ban.as_ref().map(|ban| board.view(ban));
                respond(reply, Ok(Answer { outcome, ban }));
            }
            Self::Renewed(lease, reply) => respond(reply, Ok(lease)),
            Self::Released(known, reply) => respond(reply, Ok(known)),
            Self::Banned(result, reply) => respond(reply, Ok(result.map(|ban| board.view(&ban)))),
            Self::Lifted(bans, reply) => {
                respond(reply, Ok(bans.iter().map(|ban| board.view(ban)).collect()));
            }
        }
    }

    /// The store did not take the batch.
    pub(super) fn refuse(self) {
        match self {
            Self::Judged(_, _, reply) => respond(reply, Err(Unavailable::Store)),
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
