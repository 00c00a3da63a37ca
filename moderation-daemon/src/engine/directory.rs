//! Which limiters an event is asked about, found by number. The rules are lists,
//! for people; looking through them takes longer than counting. Made once, says
//! nothing that the rules do not say.

use super::{EventType, Limiter, LimiterRule, Rules, kind::MAX_KINDS};

/// Places in the lists of the rules that it was made from.
#[derive(Debug)]
pub(super) struct Directory {
    /// By the limiter's number.
    limiters: Vec<Option<usize>>,
    /// By the event type's number.
    asked: Vec<Vec<usize>>,
}

impl Directory {
    pub(super) fn new(rules: &Rules) -> Self {
        let mut limiters = vec![None; MAX_KINDS];
        // The first of a name counts, as where somebody looks through the list.
        for (place, rule) in rules.limiters.iter().enumerate().rev() {
            limiters[usize::from(rule.limiter.index())] = Some(place);
        }
        let mut asked = vec![Vec::new(); MAX_KINDS];
        for rule in rules.events.iter().rev() {
            let places = rule.limiters.iter().filter_map(|it| limiters[usize::from(it.index())]);
            asked[usize::from(rule.kind.index())] = places.collect();
        }
        Self { limiters, asked }
    }

    /// The limiters of an event type, in the order in which they are asked.
    pub(super) fn limiters<'r>(
        &self,
        rules: &'r Rules,
        kind: EventType,
    ) -> impl Iterator<Item = &'r LimiterRule> {
        self.asked[usize::from(kind.index())].iter().map(|place| &rules.limiters[*place])
    }

    /// One limiter, if it is on.
    pub(super) fn limiter<'r>(&self, rules: &'r Rules, limiter: Limiter) -> Option<&'r LimiterRule> {
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
                let found: Vec<_> = directory.limiters(&rules, kind).collect();
                assert_eq!(found, rules.limiters(kind).collect::<Vec<_>>(), "{kind}");
            }
            for limiter in Limiter::all() {
                let found = directory.limiter(&rules, limiter);
                assert_eq!(found, rules.limiter(limiter), "{limiter}");
            }
        }
    }
}
