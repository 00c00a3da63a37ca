//! Many requests of one caller as one entry of the queue: who of them is
//! answered without waiting, and how the answers come back into their order.
//! How they are decided is `pending`'s affair.

use super::Answer;
use crate::engine::Request;

/// What a caller asks about one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The request.
    pub request: Request,
    /// Only what the answer would be; nothing comes of it.
    pub is_peek: bool,
}

impl From<Request> for Ask {
    fn from(request: Request) -> Self {
        Self { request, is_peek: false }
    }
}

/// By the caller's order what is answered at once, `None` for the others; and
/// the others, in the same order.
pub(super) fn split(
    asks: Vec<Ask>,
    at_once: impl Fn(&Ask) -> Option<Answer>,
) -> (Vec<Option<Answer>>, Vec<Ask>) {
    let (mut known, mut waiting) = (Vec::with_capacity(asks.len()), Vec::new());
    for ask in asks {
        let answer = at_once(&ask);
        if answer.is_none() {
            waiting.push(ask);
        }
        known.push(answer);
    }
    (known, waiting)
}

/// The reverse, once the others have been answered.
pub(super) fn join(known: Vec<Option<Answer>>, waited: Vec<Answer>) -> Vec<Answer> {
    let mut waited = waited.into_iter();
    let next = |answer: Option<Answer>| answer.or_else(|| waited.next());
    known.into_iter().filter_map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Act, Cause, EventType, Outcome, Subject};

    fn ask(kind: EventType) -> Ask {
        let subject = Subject::new(Some("anna".parse().expect("an id")), None);
        Request::new(Act::event(kind), subject.expect("a user")).into()
    }

    fn answer(cause: Cause) -> Answer {
        Answer { outcome: Outcome::deny(cause), ban: None, code: None }
    }

    #[test]
    fn who_is_answered_at_once_and_who_waits_come_back_in_their_order() {
        let kinds = [EventType::LOGIN, EventType::MESSAGE, EventType::LOGIN, EventType::MESSAGE];
        let at_once = |one: &Ask| (*one == ask(EventType::LOGIN)).then(|| answer(Cause::Banned));
        let (known, waiting) = split(kinds.map(ask).to_vec(), at_once);
        assert_eq!(waiting, [ask(EventType::MESSAGE), ask(EventType::MESSAGE)]);
        let waited = vec![answer(Cause::Limited), answer(Cause::LeasesFull)];
        let causes = join(known, waited).into_iter().map(|answer| answer.outcome.cause);
        let want = [Cause::Banned, Cause::Limited, Cause::Banned, Cause::LeasesFull];
        assert_eq!(causes.collect::<Vec<_>>(), want.map(Some));
    }
}
