//! Which limiters an event is asked about, found by number. The rules are lists,
//! for people; looking through them takes longer than counting. Made once, says
//! nothing that the rules do not say.

use super::{EventRule, EventType, Limiter, LimiterRule, Rules, kind::MAX_KINDS};

/// Places in the lists of the rules that it was made from.
#[derive(Debug)]
pub(super) struct Directory {
    /// By the limiter's number.
    limiters: Vec<Option<usize>>,
    /// By the event type's number.
    events: Vec<Option<Entry>>,
}

/// One event type's.
#[derive(Clone, Debug)]
struct Entry {
    rule: usize,
    asked: Vec<usize>,
    peeked: Vec<usize>,
    /// Whether it does nothing with limiters but count towards them.
    only_counts: bool,
}

impl Directory {
    pub(super) fn new(rules: &Rules) -> Self {
        let mut limiters = vec![None; MAX_KINDS];
        // The first of a name counts, as where somebody looks through the list.
        for (place, rule) in rules.limiters.iter().enumerate().rev() {
            limiters[usize::from(rule.limiter.index())] = Some(place);
        }
        let places = |of: &[Limiter]| {
            of.iter().filter_map(|limiter| limiters[usize::from(limiter.index())]).collect()
        };
        let mut events = vec![None; MAX_KINDS];
        for (place, rule) in rules.events.iter().enumerate().rev() {
            let entry = Entry {
                rule: place,
                asked: places(&rule.limiters),
                peeked: places(&rule.peeks),
                only_counts: rule.peeks.is_empty() && rule.refunds.is_empty(),
            };
            events[usize::from(rule.kind.index())] = Some(entry);
        }
        Self { limiters, events }
    }

    fn entry(&self, kind: EventType) -> Option<&Entry> {
        self.events[usize::from(kind.index())].as_ref()
    }

    /// Whether an event type does nothing with limiters but count towards them.
    #[inline]
    pub(super) fn only_counts(&self, kind: EventType) -> bool {
        self.entry(kind).is_none_or(|entry| entry.only_counts)
    }

    /// The places of an event type's limiters in the rules, in the order in which they
    /// are asked.
    #[inline]
    pub(super) fn asked(&self, kind: EventType) -> &[usize] {
        self.entry(kind).map_or(&[], |entry| &entry.asked)
    }

    /// What is known of an event type.
    pub(super) fn event<'r>(&self, rules: &'r Rules, kind: EventType) -> Option<&'r EventRule> {
        self.entry(kind).map(|entry| &rules.events[entry.rule])
    }

    /// The limiters that an event type must not have used up.
    pub(super) fn peeks<'r>(
        &self,
        rules: &'r Rules,
        kind: EventType,
    ) -> impl Iterator<Item = &'r LimiterRule> {
        let places = self.entry(kind).map_or(&[][..], |entry| &entry.peeked);
        places.iter().map(|place| &rules.limiters[*place])
    }

    /// One limiter, if it is on.
    pub(super) fn limiter<'r>(
        &self,
        rules: &'r Rules,
        limiter: Limiter,
    ) -> Option<&'r LimiterRule> {
        self.limiters[usize::from(limiter.index())].map(|place| &rules.limiters[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_says_what_the_rules_say() {
        for mut rules in [Rules::librechat(), Rules::hardened()] {
            // Some are off, and one is there twice.
            rules.limiters.retain(|rule| rule.limiter != Limiter::LOGIN);
            let twice = rules.limiters[0].clone();
            rules.limiters.push(LimiterRule { count_rejected: !twice.count_rejected, ..twice });
            let directory = Directory::new(&rules);
            for kind in EventType::all() {
                let at = |place: &usize| &rules.limiters[*place];
                let found: Vec<_> = directory.asked(kind).iter().map(at).collect();
                assert_eq!(found, rules.limiters(kind).collect::<Vec<_>>(), "{kind}");
                let found: Vec<_> = directory.peeks(&rules, kind).collect();
                assert_eq!(found, rules.peeks(kind).collect::<Vec<_>>(), "{kind}");
                assert_eq!(directory.event(&rules, kind), rules.event(kind), "{kind}");
            }
            for limiter in Limiter::all() {
                let found = directory.limiter(&rules, limiter);
                assert_eq!(found, rules.limiter(limiter), "{limiter}");
            }
        }
    }
}
