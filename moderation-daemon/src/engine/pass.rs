//! What most requests are: an event that nothing stands in the way of and of which
//! nothing need be known but its counts. There is a shorter way to the same end for
//! these, and a shorter one still where no decision before it waits for the store:
//! counting at once. Whatever is not sure to be such a request goes the long way, by
//! [`Overlay::decide`].

use super::{
    Act, Count, Counts, Engine, LimiterRule, Moment, Overlay, Prepared, Queue, Request,
    browser::is_browser,
};

impl Engine {
    /// Judges the first of these requests, in the order of the queue, and counts them at
    /// once: as many as pass and have nothing that is to be written down. To be asked only
    /// while nothing that was decided waits to be applied. How many those are; what limiters
    /// said of them is in the queue. An overlay is to be asked about the others, with the
    /// same queue; about them nothing has changed.
    #[inline]
    pub fn pass_all<'r>(
        &mut self,
        queue: &mut Queue,
        requests: impl IntoIterator<Item = &'r Request>,
        now: Moment,
    ) -> usize {
        requests.into_iter().map_while(|request| self.pass_next(queue, request, now)).count()
    }

    #[inline(always)]
    fn pass_next(&mut self, queue: &mut Queue, request: &Request, now: Moment) -> Option<()> {
        let keys = &queue.keys[queue.peek()?];
        debug_assert_eq!(keys, &*self.keys_for(request), "in their order");
        self.pass_counted(Prepared { request, keys }, now, &mut queue.counts)?;
        queue.step();
        Some(())
    }

    /// Adds its counts if it passes, else nothing.
    #[inline(always)]
    fn pass_counted(
        &mut self,
        Prepared { request, keys }: Prepared<'_>,
        now: Moment,
        counts: &mut Vec<Count>,
    ) -> Option<()> {
        let (subject, memory) = (&request.subject, self.memory.view(None));
        let is_more = || {
            self.bans.may_hold(subject)
                || memory.may_reduce(now)
                || self.rules.sighting(memory, subject, now).is_some()
        };
        if !self.is_plain(request, is_more) {
            return None;
        }
        if let [(place, key)] = keys {
            // The one is looked at and counted in one go.
            let rule = &self.rules.limiters[*place];
            let cost = self.own_cost(rule, request)?;
            let bound = self.rules.bounds.windows;
            let (max, now) = (rule.limit.max, now.boot_ms);
            let (key, usage) = self.windows.charge_within(*key, (cost, max), bound, now)?;
            counts.push(Count { limiter: rule.limiter, key, max, cost, usage, is_shared: false });
            return Some(());
        }
        let before = counts.len();
        let passed = self.look_up_all(Prepared { request, keys }, now, counts);
        match passed {
            Some(()) => {
                let new = &counts[before..];
                new.iter().for_each(|count| self.windows.charge(&count.charge(now.boot_ms)));
            }
            None => counts.truncate(before),
        }
        passed
    }

    /// Adds what limiters say now, if all of them let the request pass.
    #[inline(always)]
    fn look_up_all(
        &self,
        Prepared { request, keys }: Prepared<'_>,
        now: Moment,
        counts: &mut Vec<Count>,
    ) -> Option<()> {
        let mut room = self.rules.bounds.windows.saturating_sub(self.windows.len());
        for (place, key) in keys {
            let rule = &self.rules.limiters[*place];
            let cost = self.own_cost(rule, request)?;
            let (key, usage) = self.windows.look_up(*key, 0, now.boot_ms);
            let (limiter, max) = (rule.limiter, rule.limit.max);
            let count = Count { limiter, key, max, cost, usage, is_shared: false };
            if !key.is_placed() {
                room = room.checked_sub(1)?;
            }
            if count.exceeds() {
                return None;
            }
            counts.push(count);
        }
        Some(())
    }

    /// What a request costs that is allowed what everybody is allowed.
    #[inline]
    fn own_cost(&self, rule: &LimiterRule, request: &Request) -> Option<u64> {
        self.rules.is_the_same_for_all(rule).then(|| request.act.cost(rule.unit))
    }

    /// Takes back what was counted for a request that passed at that moment: whoever asked
    /// cannot be told that it did.
    pub fn take_back(&mut self, counts: &[Count], then: Moment) {
        counts.iter().for_each(|count| self.windows.refund(&count.charge(then.boot_ms)));
    }

    /// Whether nothing need be known of a request but its counts, if there is not more to
    /// its subject.
    #[inline(always)]
    fn is_plain(&self, request: &Request, is_more: impl FnOnce() -> bool) -> bool {
        let Act::Event { kind, user_agent, .. } = &request.act else { return false };
        request.id.is_none()
            && request.traits.is_none()
            && self.directory.only_counts(*kind)
            && !is_more()
            && (user_agent.is_none() || !self.is_script(&request.act))
    }

    /// Whether only people are to do that, and this is none.
    pub(super) fn is_script(&self, act: &Act) -> bool {
        let Act::Event { kind, user_agent: Some(user_agent), .. } = act else { return false };
        let rule = self.directory.event(&self.rules, *kind);
        let asks = rule.is_some_and(|rule| rule.browser);
        asks && !is_browser(user_agent)
    }
}

impl Overlay<'_> {
    /// Whether it is such a request; leaves its counts.
    #[inline]
    pub(super) fn passes(
        &self,
        Prepared { request, keys }: Prepared<'_>,
        now: Moment,
        counts: &mut Counts,
    ) -> bool {
        let subject = &request.subject;
        let is_more =
            || self.ban_on(request, now).is_some() || self.sighting(subject, now).is_some();
        if !self.engine.is_plain(request, is_more) {
            return false;
        }
        for (place, key) in keys {
            let others = (request, &**counts);
            let count = self.count(&self.engine.rules.limiters[*place], *key, others, now);
            if count.exceeds() {
                return false;
            }
            counts.push(count);
        }
        true
    }
}
