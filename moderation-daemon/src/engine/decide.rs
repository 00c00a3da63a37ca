//! The rules at work: from a request and the counts it needs to a decision.
//! What comes of a broken rule is asked of the next rooms. Reads the overlay,
//! changes nothing.

use std::sync::Arc;

use super::{
    Act, By, Cause, Change, Commit, Count, Counts, Decision, EventRule, EventType, Key, Lease,
    LimiterRule, Moment, Outcome, Overlay, Prepared, Remembered, Request, RequestId, Subject,
    Verdict, ViolationType, violation::Broken,
};

impl Overlay<'_> {
    /// What this host's windows say about a request, which changes nothing.
    /// Counts from elsewhere can take their place in [`Overlay::decide`],
    /// limiter by limiter.
    pub fn counts(&self, request: &Request, now: Moment) -> Counts {
        let mut counts = Counts::new();
        let keys = self.engine.keys_for(request);
        self.count_all(Prepared { request, keys: &keys }, now, &mut counts);
        counts
    }

    fn count_all(&self, prepared: Prepared<'_>, now: Moment, counts: &mut Counts) {
        let Prepared { request, keys } = prepared;
        let (rules, directory) = (&self.engine.rules, &self.engine.directory);
        for (place, key) in keys {
            counts.push(self.count(&rules.limiters[*place], *key, (request, counts), now));
        }
        let Act::Event { kind, .. } = request.act else { return };
        for rule in directory.peeks(rules, kind) {
            // An account's own addresses are not shut out by what others try.
            if rule.by == By::Account && self.is_used_from(request, now) {
                continue;
            }
            if let Some(key) = self.engine.keys.counted(rule, rules, request) {
                counts.push(self.count(rule, key, (request, counts), now));
            }
        }
    }

    /// Whether the account has lately been logged into from this address.
    fn is_used_from(&self, request: &Request, now: Moment) -> bool {
        let address = self.engine.rules.counting.address(&request.subject);
        let pair = request.account.zip(address);
        pair.is_some_and(|(account, at)| self.memory().is_known(account, at, now.unix_ms))
    }

    /// One limiter's, after those of others for the same request, which may need places of
    /// their own.
    #[inline(always)]
    pub(super) fn count(
        &self,
        rule: &LimiterRule,
        key: Key,
        (request, others): (&Request, &[Count]),
        now: Moment,
    ) -> Count {
        let limiter = rule.limiter;
        let (mut key, mut usage) = self.look_up(key, now);
        let is_shared = !key.is_placed()
            && self.windows_at_most() + self.newcomers(others) >= self.engine.rules.bounds.windows
            && !self.is_counted(key);
        if is_shared {
            (key, usage) = self.look_up(self.engine.keys.overflow(limiter), now);
        }
        let max = self.allowance(rule, request, now);
        let cost = request.act.cost(rule.unit);
        Count { limiter, key, max, cost, usage, is_shared }
    }

    /// How many of these are to have places of their own that they do not have yet.
    fn newcomers(&self, counts: &[Count]) -> usize {
        let is_new = |it: &&Count| !it.key.is_placed() && !it.is_shared && !self.is_counted(it.key);
        counts.iter().filter(is_new).count()
    }

    /// Judges a request. `counts` are those of [`Overlay::counts`], or the
    /// same limiters' counts from elsewhere.
    pub fn decide(&self, request: &Request, counts: &[Count], now: Moment) -> Decision {
        if let Some(answer) = request.id.as_ref().and_then(|id| self.answer(id)) {
            let outcome = answer.outcome.as_ref().clone();
            return Decision { outcome, changes: Vec::new() };
        }
        if request.act.is_answered_by_a_ban()
            && let Some(ban) = self.ban_on(request, now)
        {
            return Decision { outcome: Outcome::banned(Arc::clone(ban)), changes: Vec::new() };
        }
        let mut decision = match &request.act {
            Act::Event { kind, .. } => self.event(*kind, request, counts, now),
            Act::Violation { kind, .. }
                if *kind == ViolationType::CONNECTION_RATE && self.is_trusted(&request.subject) =>
            {
                Decision { outcome: Outcome::allow(), changes: Vec::new() }
            }
            Act::Violation { kind, points, severity, details } => {
                let (points, severity, details) = (*points, *severity, details.as_ref());
                let is_reported = true;
                let broken =
                    Broken { points, severity, details, is_reported, ..Broken::new(*kind) };
                self.violate(request, &broken, now)
            }
            Act::Acquire => self.acquire(request, now),
            Act::Refund(id) => self.refund(id, now),
        };
        decision.changes.extend(self.learn(request, now));
        let no_room = [Some(Cause::LeasesFull), Some(Cause::WindowsFull)];
        let is_final = !no_room.contains(&decision.outcome.cause);
        if let Some(id) = request.id.as_ref().filter(|_| is_final) {
            let outcome = Arc::new(decision.outcome.clone());
            let is_charged = outcome.verdict == Verdict::Allow && !outcome.counts.is_empty();
            let charged_at_boot_ms = is_charged.then_some(now.boot_ms);
            let answer = Remembered { outcome, charged_at_boot_ms };
            let until = now.boot_ms.saturating_add(self.engine.rules.bounds.request_id_ms);
            decision.changes.push(Change::Answer(Arc::clone(id), answer, until));
        }
        decision
    }

    /// Whoever is trusted may open connections as they like; a proxy's are those
    /// of many.
    fn is_trusted(&self, subject: &Subject) -> bool {
        subject.ip().is_some_and(|ip| self.engine.trust.of(ip).is_some())
    }

    /// Limiters are asked in order and the first that is exceeded ends it. What
    /// a rejected request uses up is a matter of the rules.
    fn event(&self, kind: EventType, request: &Request, counts: &[Count], now: Moment) -> Decision {
        if self.engine.is_script(&request.act) {
            return self.violate(request, &Broken::new(ViolationType::NON_BROWSER), now);
        }
        let rule = self.engine.directory.event(&self.engine.rules, kind);
        let Some(index) = counts.iter().position(Count::exceeds) else {
            return self.pass(rule, request, counts, now);
        };
        let (passed, exceeded) = (&counts[..index], &counts[index]);
        let limiter = self.engine.directory.limiter(&self.engine.rules, exceeded.limiter);
        let mut decision = if is_peek(rule, exceeded) {
            // Others may have used it up: whoever only asks has broken nothing.
            Decision { outcome: Outcome::deny(Cause::Limited), changes: Vec::new() }
        } else {
            self.exceed(request, exceeded, limiter, now)
        };
        let used_up = match self.engine.rules.counting.commit {
            Commit::InOrder => passed,
            Commit::AllOrNone => &[],
        };
        let counts_itself = limiter.is_some_and(|limiter| limiter.count_rejected);
        let itself = counts[index..=index].iter().filter(|_| counts_itself);
        let counted = used_up.iter().chain(itself).filter(|count| !is_peek(rule, count));
        decision.changes.extend(counted.map(|count| Change::Charge(count.charge(now.boot_ms))));
        decision.changes.extend(self.see(&request.subject, now));
        decision.outcome.counts = counts[..=index].into();
        decision
    }

    /// An event that no limit stands in the way of.
    fn pass(
        &self,
        rule: Option<&EventRule>,
        request: &Request,
        counts: &[Count],
        now: Moment,
    ) -> Decision {
        let mut counts = Counts::from(counts);
        for count in counts.iter_mut().filter(|count| is_peek(rule, count)) {
            // Asked, not counted: there is nothing to take back either.
            count.cost = 0;
        }
        let counted = counts.iter().filter(|count| !is_peek(rule, count));
        let mut changes: Vec<_> =
            counted.map(|count| Change::Charge(count.charge(now.boot_ms))).collect();
        changes.extend(self.see(&request.subject, now));
        if let Some(rule) = rule.filter(|rule| !rule.refunds.is_empty()) {
            self.take_back(rule, request, now, &mut changes);
        }
        Decision { outcome: Outcome { counts, ..Outcome::allow() }, changes }
    }

    /// What went right takes back what went wrong before it.
    fn take_back(
        &self,
        rule: &EventRule,
        request: &Request,
        now: Moment,
        changes: &mut Vec<Change>,
    ) {
        let rules = &self.engine.rules;
        for limiter in rule.refunds.iter().filter_map(|limiter| rules.limiter(*limiter)) {
            let Some(bearer) = rules.counted(limiter.by, request) else { continue };
            let key = self.engine.keys.of(limiter.limiter, &bearer);
            if self.usage(key, now).used > 0 {
                changes.push(Change::ForgetWindow(key));
            }
        }
        let address = rules.counting.address(&request.subject);
        if let Some((account, address)) = request.account.zip(address) {
            changes.push(Change::Known(account, address, now.unix_ms));
        }
    }

    fn see(&self, subject: &Subject, now: Moment) -> Option<Change> {
        let (address, user) = self.sighting(subject, now)?;
        Some(Change::Seen(address, user, now.unix_ms))
    }

    /// What comes of exceeding a limiter.
    fn exceed(
        &self,
        request: &Request,
        count: &Count,
        rule: Option<&LimiterRule>,
        now: Moment,
    ) -> Decision {
        if count.is_shared {
            return Decision { outcome: Outcome::deny(Cause::WindowsFull), changes: Vec::new() };
        }
        match rule.and_then(|rule| rule.violation) {
            Some(kind) => {
                let points = rule.and_then(|rule| rule.points);
                self.violate(request, &Broken { points, limiter: rule, ..Broken::new(kind) }, now)
            }
            None => Decision { outcome: Outcome::deny(Cause::Limited), changes: Vec::new() },
        }
    }

    fn acquire(&self, request: &Request, now: Moment) -> Decision {
        let Some(rule) = self.engine.rules.concurrency else {
            return Decision { outcome: Outcome::allow(), changes: Vec::new() };
        };
        let bearer = self.engine.rules.bearer(&request.subject);
        let (pending, ended) = self.leases_of(&bearer, now);
        let pending = pending.max(self.leases_elsewhere);
        if pending >= rule.max {
            let kind = ViolationType::CONCURRENT;
            let broken = Broken { pending: Some(pending), ..Broken::new(kind) };
            return self.violate(request, &broken, now);
        }
        if self.leases_at_most() >= self.engine.rules.bounds.leases {
            return Decision { outcome: Outcome::deny(Cause::LeasesFull), changes: Vec::new() };
        }
        let ends_at_boot_ms = now.boot_ms.saturating_add(rule.lease_ms);
        let lease = Lease { id: self.next_lease, bearer, ends_at_boot_ms };
        let outcome = Outcome { lease: Some(lease.clone()), ..Outcome::allow() };
        // Whose place it takes is gone from the store by then: a crash in between would
        // bring back both.
        let mut changes: Vec<_> = ended.into_iter().map(Change::Release).collect();
        changes.push(Change::Lease(lease, request.id.clone()));
        Decision { outcome, changes }
    }

    /// Takes back, once, what an earlier request counted and what counts still.
    fn refund(&self, id: &RequestId, now: Moment) -> Decision {
        let answer = self.answer(id);
        let Some(Remembered { outcome, charged_at_boot_ms: Some(at) }) = answer else {
            let outcome = Outcome::deny(Cause::NothingToRefund);
            return Decision { outcome, changes: Vec::new() };
        };
        let charges = outcome.counts.iter().map(|count| count.charge(*at));
        let refunds = charges.filter(|charge| self.counts_still(charge, now)).map(Change::Refund);
        let changes = refunds.chain([Change::Refunded(Arc::clone(id))]).collect();
        Decision { outcome: Outcome::allow(), changes }
    }
}

fn is_peek(rule: Option<&EventRule>, count: &Count) -> bool {
    rule.is_some_and(|rule| rule.peeks.contains(&count.limiter))
}
