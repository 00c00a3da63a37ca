//! The rules at work: from a request and the counts it needs to a decision.
//! Reads the overlay, changes nothing.

use std::sync::Arc;

use super::{
    Act, Cause, Change, Commit, Count, Counts, Decision, Lease, LimiterRule, Moment, Outcome,
    Overlay, Remembered, Request, RequestId, Score, ScoreKey, Severity, Subject, Verdict,
    Violation, ViolationType, browser::is_browser, penalty::Sentence,
};

/// One thing that was found wrong.
struct Broken<'a> {
    kind: ViolationType,
    points: Option<f64>,
    limiter: Option<&'a LimiterRule>,
    pending: Option<usize>,
    severity: Option<Severity>,
    details: Option<&'a Arc<str>>,
}

impl Broken<'_> {
    const fn new(kind: ViolationType) -> Self {
        let (points, limiter, pending) = (None, None, None);
        Self { kind, points, limiter, pending, severity: None, details: None }
    }
}

impl Overlay<'_> {
    /// What this host's windows say about a request, which changes nothing.
    /// Counts from elsewhere can take their place in [`Overlay::decide`],
    /// limiter by limiter.
    pub fn counts(&self, request: &Request, now: Moment) -> Counts {
        let Act::Event { kind, cost, .. } = request.act else { return Counts::new() };
        let rules = self.engine.rules.limiters(kind);
        rules.filter_map(|rule| self.count(rule, request, cost.of(rule.unit), now)).collect()
    }

    /// One limiter's; `None` if the request has no user, address or account
    /// for it.
    fn count(
        &self,
        rule: &LimiterRule,
        request: &Request,
        cost: u64,
        now: Moment,
    ) -> Option<Count> {
        let limiter = rule.limiter;
        let bearer = self.engine.rules.counted(rule.by, request)?;
        let key = self.engine.keys.of(limiter, &bearer);
        let is_full = self.windows_at_most() >= self.engine.rules.bounds.windows;
        let is_shared = is_full && !self.knows(key);
        let key = if is_shared { self.engine.keys.overflow(limiter) } else { key };
        let usage = self.usage(limiter, key, now);
        Some(Count { limiter, key, max: rule.limit.max, cost, usage, is_shared })
    }

    /// Judges a request. `counts` are those of [`Overlay::counts`], or the
    /// same limiters' counts from elsewhere.
    pub fn decide(&self, request: &Request, counts: &[Count], now: Moment) -> Decision {
        if let Some(answer) = request.id.as_ref().and_then(|id| self.answer(id)) {
            let outcome = answer.outcome.as_ref().clone();
            return Decision { outcome, changes: Vec::new() };
        }
        if request.act.is_answered_by_a_ban()
            && let Some(ban) = self.ban_of(&request.subject, now)
        {
            return Decision { outcome: Outcome::banned(Arc::clone(ban)), changes: Vec::new() };
        }
        let mut decision = match &request.act {
            Act::Event { .. } => self.event(request, counts, now),
            Act::Violation { kind, .. }
                if *kind == ViolationType::CONNECTION_RATE && self.is_trusted(&request.subject) =>
            {
                Decision { outcome: Outcome::allow(), changes: Vec::new() }
            }
            Act::Violation { kind, points, severity, details } => {
                let (points, severity, details) = (*points, *severity, details.as_ref());
                let broken = Broken { points, severity, details, ..Broken::new(*kind) };
                self.violate(request, &broken, now)
            }
            Act::Acquire => self.acquire(request, now),
            Act::Refund(id) => self.refund(id, now),
        };
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
    fn event(&self, request: &Request, counts: &[Count], now: Moment) -> Decision {
        if self.is_script(&request.act) {
            return self.violate(request, &Broken::new(ViolationType::NON_BROWSER), now);
        }
        let Some(index) = counts.iter().position(Count::exceeds) else {
            let outcome = Outcome { counts: counts.to_vec(), ..Outcome::allow() };
            return Decision { outcome, changes: charges(counts, now).collect() };
        };
        let (passed, exceeded) = (&counts[..index], &counts[index]);
        let rule = self.engine.rules.limiter(exceeded.limiter);
        let mut decision = self.exceed(request, exceeded, rule, now);
        let used_up = match self.engine.rules.counting.commit {
            Commit::InOrder => passed,
            Commit::AllOrNone => &[],
        };
        let counts_itself = rule.is_some_and(|rule| rule.count_rejected);
        decision.changes.extend(charges(used_up, now));
        decision
            .changes
            .extend(counts_itself.then(|| Change::Charge(exceeded.charge(now.boot_ms))));
        decision.outcome.counts = counts[..=index].to_vec();
        decision
    }

    fn is_script(&self, act: &Act) -> bool {
        let Act::Event { kind, user_agent: Some(user_agent), .. } = act else { return false };
        let asks = self.engine.rules.event(*kind).is_some_and(|rule| rule.browser);
        asks && !is_browser(user_agent)
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
        let pending = self.leases_of(&bearer, now);
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
        Decision {
            outcome: Outcome { lease: Some(lease.clone()), ..Outcome::allow() },
            changes: vec![Change::Lease(lease, request.id.clone())],
        }
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

    /// A broken rule: points for whoever bears them, and a ban if they cross
    /// the line.
    fn violate(&self, request: &Request, broken: &Broken<'_>, now: Moment) -> Decision {
        let (subject, kind) = (&request.subject, broken.kind);
        let denied = Outcome::deny(Cause::Violation(kind));
        let Some(bearer) = self.engine.rules.scored(subject) else {
            return Decision { outcome: denied, changes: Vec::new() };
        };
        let key = ScoreKey { bearer, kind };
        let known = self.score(&key);
        let points = broken.points.unwrap_or_else(|| *self.engine.rules.scoring.points.of(kind));
        let score = known.unwrap_or_default().now(self.engine.rules.scoring.decay, now.unix_ms);
        let scored = score.add(points, &self.engine.rules.ban, now.unix_ms);
        let mut violation = Violation {
            kind,
            user: subject.user().cloned(),
            ip: subject.ip(),
            bearer: key.bearer.clone(),
            points,
            previous: scored.previous,
            total: scored.total,
            limiter: broken.limiter.map(|rule| (rule.limiter, rule.limit.clone())),
            pending: broken.pending,
            severity: broken.severity,
            details: broken.details.cloned(),
            repeats: 0,
            ban: None,
            penalty: None,
            at_unix_ms: now.unix_ms,
            request: request.id.clone(),
        };
        let sentence = self.sentence(&violation, scored, subject, now);
        violation.ban = sentence.ban.as_ref().map(|ban| ban.id);
        let mut changes = Vec::new();
        if known.is_none() {
            changes.extend(self.score_in_the_way().map(Change::ForgetScore));
        }
        let score = match sentence.is_final {
            true => scored.score.spend(&self.engine.rules.ban),
            false => scored.score,
        };
        changes.push(Change::Score(key, score));
        let violation = Arc::new(violation);
        changes.push(Change::Violation(Arc::clone(&violation)));
        let Sentence { ban, refusal, logout, .. } = sentence;
        changes.extend(sentence.changes);
        let outcome = Outcome { violation: Some(violation), ban, refusal, logout, ..denied };
        Decision { outcome, changes }
    }
}

fn charges(counts: &[Count], now: Moment) -> impl Iterator<Item = Change> {
    counts.iter().map(move |count| Change::Charge(count.charge(now.boot_ms)))
}
