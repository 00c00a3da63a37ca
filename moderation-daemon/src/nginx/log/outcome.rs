//! What an answer means: which status after which event is an event of its own. Pure.

use crate::engine::EventType;

/// One rule of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the request was.
    pub after: EventType,
    /// Statuses that it holds for, both ends included.
    pub statuses: Vec<(u16, u16)>,
    /// Whether it holds for answers that were sent to their end; `None`: for all.
    pub complete: Option<bool>,
    /// What it counts as.
    pub counts: EventType,
}

/// Why a text names no statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a status is a number from 100 to 599, or a class of them as 4xx")]
pub struct BadStatus;

/// Statuses by a text: `401`, or `5xx` for a hundred of them.
///
/// # Errors
///
/// [`BadStatus`].
pub fn statuses(text: &str) -> Result<(u16, u16), BadStatus> {
    let &[class @ b'1'..=b'5', tens, ones] = text.as_bytes() else { return Err(BadStatus) };
    let digit = |byte: u8| u16::from(byte - b'0');
    let first = 100 * digit(class);
    match (tens, ones) {
        (b'x', b'x') => Ok((first, first + 99)),
        (b'0'..=b'9', b'0'..=b'9') => {
            let status = first + 10 * digit(tens) + digit(ones);
            Ok((status, status))
        }
        _ => Err(BadStatus),
    }
}

/// All rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes(pub Vec<Outcome>);

impl Outcomes {
    /// Whether what became of such a request matters.
    pub fn matter_after(&self, event: EventType) -> bool {
        self.0.iter().any(|rule| rule.after == event)
    }

    /// What it counts as that such a request was answered so.
    pub fn find(
        &self,
        event: EventType,
        status: u16,
        is_complete: bool,
    ) -> impl Iterator<Item = EventType> {
        let rules = self.0.iter().filter(move |rule| {
            rule.after == event && rule.complete.is_none_or(|complete| complete == is_complete)
        });
        let hold = rules.filter(move |rule| {
            rule.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status))
        });
        hold.map(|rule| rule.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_or_classes() {
        let cases = [
            ("401", Ok((401, 401))),
            ("100", Ok((100, 100))),
            ("599", Ok((599, 599))),
            ("4xx", Ok((400, 499))),
            ("1xx", Ok((100, 199))),
            ("99", Err(BadStatus)),
            ("600", Err(BadStatus)),
            ("0xx", Err(BadStatus)),
            ("6xx", Err(BadStatus)),
            ("xx", Err(BadStatus)),
            ("4XX", Err(BadStatus)),
            ("+401", Err(BadStatus)),
            ("65535xx", Err(BadStatus)),
            ("", Err(BadStatus)),
        ];
        for (text, want) in cases {
            assert_eq!(statuses(text), want, "{text:?}");
        }
    }

    #[test]
    fn an_answer_counts_as_every_rule_for_it_says() {
        let rule = |after, statuses, counts| Outcome { after, statuses, complete: None, counts };
        let outcomes = Outcomes(vec![
            rule(EventType::LOGIN, vec![(401, 401), (422, 422)], EventType::LOGIN_FAILURE),
            rule(EventType::LOGIN, vec![(400, 499)], EventType::MESSAGE),
            rule(EventType::MESSAGE, vec![(500, 599)], EventType::FORK),
        ]);
        let cases: [(EventType, u16, &[EventType]); 7] = [
            (EventType::LOGIN, 200, &[]),
            (EventType::LOGIN, 401, &[EventType::LOGIN_FAILURE, EventType::MESSAGE]),
            (EventType::LOGIN, 402, &[EventType::MESSAGE]),
            (EventType::LOGIN, 422, &[EventType::LOGIN_FAILURE, EventType::MESSAGE]),
            (EventType::MESSAGE, 499, &[]),
            (EventType::MESSAGE, 500, &[EventType::FORK]),
            (EventType::FORK, 500, &[]),
        ];
        for (event, status, want) in cases {
            for is_complete in [true, false] {
                let found: Vec<_> = outcomes.find(event, status, is_complete).collect();
                assert_eq!(found, want, "{event:?} answered {status}");
            }
        }
        assert!(outcomes.matter_after(EventType::LOGIN));
        assert!(!outcomes.matter_after(EventType::FORK));
    }

    #[test]
    fn an_answer_that_was_left_early_can_be_told_from_one_that_was_not() {
        let rule = |complete, counts| {
            let statuses = vec![(200, 299), (499, 499)];
            Outcome { after: EventType::MESSAGE, statuses, complete, counts }
        };
        let outcomes = Outcomes(vec![
            rule(Some(true), EventType::LOGIN),
            rule(Some(false), EventType::FORK),
            rule(None, EventType::MESSAGE),
        ]);
        let found = |status, is_complete| -> Vec<_> {
            outcomes.find(EventType::MESSAGE, status, is_complete).collect()
        };
        assert_eq!(found(200, true), [EventType::LOGIN, EventType::MESSAGE]);
        assert_eq!(found(200, false), [EventType::FORK, EventType::MESSAGE]);
        assert_eq!(found(499, false), [EventType::FORK, EventType::MESSAGE]);
        assert_eq!(found(500, false), []);
    }
}
