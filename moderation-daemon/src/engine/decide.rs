//! The rules at work: from a request and the counts it needs to a decision.
//! Reads the overlay, changes nothing.

use std::sync::Arc;

use super::{
    Act, Bearer, Cause, Change, Count, Decision, EventType, Lease, Limiter, Moment, Outcome,
    Overlay, Request, Score, ScoreKey, Subject, Verdict, Violation, ViolationType, WindowKey,
    browser::is_browser, penalty::Penalty, window::hit,
};

impl Overlay<'_> {
    /// What this host's windows would count for a request. Counts from
    /// elsewhere can take their place in [`Overlay::decide`], limiter by
    /// limiter.
    pub fn counts(&self, request: &Request, now: Moment) -> Vec<Count> {
        let Act::Event { kind, .. } = request.act else { return Vec::new() };
        let limiters = self.engine.rules.limiters(kind);
        limiters
            .filter_map(|(limiter, limit)| {
                let key = self.window_key(limiter, &request.subject)?;
                let window = hit(self.window(&key), limit, now.boot_ms);
                Some(Count { key, limit, window })
            })
            .collect()
    }

    /// The key that a limiter counts a subject under; `None` if the subject
    /// has no user or address for it.
    fn window_key(&self, limiter: Limiter, subject: &Subject) -> Option<WindowKey> {
        let bearer = if limiter.is_by_user() {
            Bearer::User(subject.user()?.clone())
        } else {
            Bearer::Address(subject.address()?)
        };
        let key = WindowKey { limiter, bearer: Some(bearer) };
        let full = self.windows_at_most() >= self.engine.rules.bounds.windows;
        if full && self.window(&key).is_none() {
            return Some(WindowKey { limiter, bearer: None });
        }
        Some(key)
    }

    /// Judges a request. `counts` are those of [`Overlay::counts`], or the
    /// same limiters' counts from elsewhere.
    pub fn decide(&self, request: &Request, counts: &[Count], now: Moment) -> Decision {
        if let Some(answer) = request.id.as_ref().and_then(|id| self.answer(id)) {
            return Decision { outcome: answer.as_ref().clone(), changes: Vec::new() };
        }
        // What the app found by itself happened, whether or not the subject is
        // banned; everything else a ban answers.
        let found_by_app = matches!(request.act, Act::Violation { .. });
        if !found_by_app && let Some(ban) = self.ban_of(&request.subject, now) {
            return Decision { outcome: Outcome::banned(Arc::clone(ban)), changes: Vec::new() };
        }
        let mut decision = match &request.act {
            Act::Event { kind, user_agent } => {
                self.event(request, *kind, user_agent.as_deref(), counts, now)
            }
            Act::Violation { kind: ViolationType::ConnectionRate, .. }
                if self.is_trusted(&request.subject) =>
            {
                Decision { outcome: Outcome::allow(), changes: Vec::new() }
            }
            Act::Violation { kind, points } => self.violate(request, *kind, *points, None, now),
            Act::Acquire => self.acquire(request, now),
        };
        let no_room = [Some(Cause::LeasesFull), Some(Cause::WindowsFull)];
        let is_final = !no_room.contains(&decision.outcome.cause);
        if let Some(id) = request.id.as_ref().filter(|_| is_final) {
            let outcome = Arc::new(decision.outcome.clone());
            let until = now.boot_ms.saturating_add(self.engine.rules.bounds.request_id_ms);
            decision.changes.push(Change::Answer(Arc::clone(id), outcome, until));
        }
        decision
    }

    /// Whoever is trusted may open connections as they like; a proxy's are those
    /// of many.
    fn is_trusted(&self, subject: &Subject) -> bool {
        subject.ip().is_some_and(|ip| self.engine.trust.of(ip).is_some())
    }

    /// Limiters are asked in order and the first that is exceeded ends it, so
    /// that a rejected request uses up nothing of the next one's.
    fn event(
        &self,
        request: &Request,
        kind: EventType,
        user_agent: Option<&str>,
        counts: &[Count],
        now: Moment,
    ) -> Decision {
        let is_script = user_agent.is_some_and(|user_agent| !is_browser(user_agent));
        if kind == EventType::Message && is_script {
            return self.violate(request, ViolationType::NonBrowser, None, None, now);
        }
        let exceeded = counts.iter().position(Count::exceeds);
        let asked = exceeded.map_or(counts, |index| &counts[..=index]);
        let mut decision = match exceeded {
            None => Decision { outcome: Outcome::allow(), changes: Vec::new() },
            Some(index) if counts[index].key.bearer.is_none() => {
                Decision { outcome: Outcome::deny(Cause::WindowsFull), changes: Vec::new() }
            }
            Some(index) => {
                let limiter = counts[index].key.limiter;
                self.violate(request, limiter.violation(), None, Some(limiter), now)
            }
        };
        let hits = asked.iter().map(|count| Change::Count(count.key.clone(), count.window));
        decision.changes.extend(hits);
        decision.outcome.counts = asked.to_vec();
        decision
    }

    fn acquire(&self, request: &Request, now: Moment) -> Decision {
        let Some(rule) = self.engine.rules.concurrency else {
            return Decision { outcome: Outcome::allow(), changes: Vec::new() };
        };
        let bearer = request.subject.bearer();
        if self.leases_of(&bearer, now) >= rule.max {
            return self.violate(request, ViolationType::Concurrent, None, None, now);
        }
        if self.leases_at_most() >= self.engine.rules.bounds.leases {
            return Decision { outcome: Outcome::deny(Cause::LeasesFull), changes: Vec::new() };
        }
        let ends_at_boot_ms = now.boot_ms.saturating_add(rule.lease_ms);
        let lease = Lease { id: self.next_lease, bearer, ends_at_boot_ms };
        Decision {
            outcome: Outcome { lease: Some(lease.clone()), ..Outcome::allow() },
            changes: vec![Change::Lease(lease)],
        }
    }

    /// A broken rule: points for whoever bears them, and a ban if they cross
    /// the line.
    fn violate(
        &self,
        request: &Request,
        kind: ViolationType,
        points: Option<f64>,
        limiter: Option<Limiter>,
        now: Moment,
    ) -> Decision {
        let subject = &request.subject;
        let key = ScoreKey { bearer: subject.bearer(), kind };
        let known = self.score(&key);
        let previous = known.map_or(0.0, |score| score.points);
        let points = points.unwrap_or_else(|| self.engine.rules.scores.of(kind));
        let violation = Violation {
            kind,
            user: subject.user().cloned(),
            ip: subject.ip(),
            bearer: key.bearer.clone(),
            points,
            previous,
            total: previous + points,
            limiter,
            at_unix_ms: now.unix_ms,
            request: request.id.clone(),
        };
        let mut changes = Vec::new();
        if known.is_none() {
            changes.extend(self.score_in_the_way().map(Change::ForgetScore));
        }
        let score = Score { points: violation.total, updated_at_unix_ms: now.unix_ms };
        changes.push(Change::Score(key, score));
        changes.push(Change::Violation(Box::new(violation.clone())));
        let Penalty { ban, refusal, changes: penalties } = self.penalty(&violation, subject, now);
        changes.extend(penalties);
        let outcome = Outcome {
            verdict: Verdict::Deny,
            cause: Some(Cause::Violation(kind)),
            violation: Some(violation),
            ban,
            refusal,
            ..Outcome::allow()
        };
        Decision { outcome, changes }
    }
}
