//! From a broken rule to a penalty: whether one falls, which, on whom, for how
//! long, whether the kernel enforces it, and when many narrow bans become a
//! wide one. Reads the overlay, changes nothing.

use std::sync::Arc;

use super::{
    Author, Ban, BanLength, BanRefusal, Bearer, Change, EndPenalty, Moment, NetworkBlock, Overlay,
    Penalty, PenaltyKind, Prefix, Rules, Severity, Step, Subject, Trusted, UserId, Violation,
    ViolationType, memory::Holder, neighbour::Place, score::Scored,
};

/// A violation, and what there is to know about whoever it is.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) violation: &'a Violation,
    pub(super) scored: Scored,
    pub(super) subject: &'a Subject,
    pub(super) role: Option<Arc<str>>,
    /// Whether nothing falls this once: the last ban was lifted, and this is not
    /// critical.
    pub(super) is_spared: bool,
}

impl Rules {
    /// How bad a violation is by what its reporter said, if anything.
    pub(super) fn severity(&self, kind: ViolationType, said: Option<Severity>) -> Severity {
        let ladder = || self.ladders.of(kind).as_ref().map(|ladder| ladder.severity);
        said.or_else(ladder).unwrap_or_default()
    }
}

/// What a violation brings.
#[derive(Debug, Default)]
pub(super) struct Sentence {
    /// The ban on the subject.
    pub(super) ban: Option<Arc<Ban>>,
    /// Why there is none, or why its address or a wider block is not in it.
    pub(super) refusal: Option<BanRefusal>,
    /// Whether the user's sessions are to end, though no ban falls.
    pub(super) logout: bool,
    /// The penalty, if it is of a ladder or for something critical.
    pub(super) penalty: Option<Arc<Penalty>>,
    /// Whether the points have led to something; else the next ones may.
    pub(super) is_final: bool,
    /// What falls, and that a ban was called for.
    pub(super) changes: Vec<Change>,
}

/// For people.
fn reason(violation: &Violation, is_critical: bool) -> String {
    let Violation { kind, total, .. } = violation;
    if is_critical {
        return format!("critical violation of {kind}");
    }
    format!("{kind} score reached {total}")
}

impl Sentence {
    fn refused(refusal: BanRefusal) -> Self {
        Self { refusal: Some(refusal), ..Self::default() }
    }
}

impl Sentence {
    fn with(mut self, penalty: Arc<Penalty>) -> Self {
        self.changes.push(Change::Penalty(Arc::clone(&penalty)));
        Self { penalty: Some(penalty), ..self }
    }
}

/// Whom a ban is on: the user, the address, and whether the address has a ban
/// of its own that is shorter.
struct Scope {
    user: Option<UserId>,
    prefix: Option<Prefix>,
    apart: bool,
    /// Whether the address is left out for want of room.
    is_cut: bool,
}

impl Overlay<'_> {
    /// What a violation brings; nothing if the score crosses no line and it is
    /// not critical.
    pub(super) fn sentence(&self, case: &Case<'_>, now: Moment) -> Sentence {
        let rules = &self.engine.rules;
        let ladder = rules.ladders.of(case.violation.kind).as_ref();
        let severity = rules.severity(case.violation.kind, case.violation.severity);
        let is_critical = severity == Severity::Critical;
        if case.is_spared || !(case.scored.crosses || is_critical) {
            return Sentence::default();
        }
        if is_critical {
            return self.suspend(case, now);
        }
        let Some(ladder) = ladder else {
            return self.ban_for(case, self.grown(&case.violation.bearer, now), false, now);
        };
        let holder = Holder::from_bearer(&case.violation.bearer);
        let history = holder.map_or(&[][..], |holder| self.memory().penalties(&holder));
        match ladder.step(case.violation.kind, history, severity, now.unix_ms) {
            Some(step) => self.take_step(case, step, now),
            None => Sentence::default(),
        }
    }

    fn suspend(&self, case: &Case<'_>, now: Moment) -> Sentence {
        let length = BanLength::For(self.engine.rules.suspension_ms);
        let sentence = self.ban_for(case, length, true, now);
        self.on_record(sentence, case, PenaltyKind::Suspension, now)
    }

    fn take_step(&self, case: &Case<'_>, step: &Step, now: Moment) -> Sentence {
        let at_once = Some(now.unix_ms);
        let (kind, ends) = match step {
            Step::Warning { message } => {
                (PenaltyKind::Warning { message: Arc::clone(message) }, at_once)
            }
            Step::RemoveContent => (PenaltyKind::RemoveContent, at_once),
            Step::Reduce { factor_permille, for_ms } => {
                let ends = now.unix_ms.saturating_add(*for_ms);
                (PenaltyKind::Reduce { factor_permille: *factor_permille }, Some(ends))
            }
            Step::Ban { for_ms } => {
                let sentence = self.ban_for(case, BanLength::For(*for_ms), false, now);
                return self.on_record(sentence, case, PenaltyKind::Ban, now);
            }
            Step::Permanent => {
                let sentence = self.ban_for(case, BanLength::Forever, false, now);
                return self.on_record(sentence, case, PenaltyKind::Ban, now);
            }
        };
        let is_reduction = matches!(kind, PenaltyKind::Reduce { .. });
        let penalty = self.penalty(case, kind, ends, now);
        let replaced = if is_reduction { self.replaced(&penalty, now) } else { Vec::new() };
        Sentence { is_final: true, changes: replaced, ..Sentence::default() }.with(penalty)
    }

    /// A reduction takes the place of the last one for the same: they would be
    /// multiplied until nothing is left.
    fn replaced(&self, next: &Penalty, now: Moment) -> Vec<Change> {
        let is_replaced = |last: &&Arc<Penalty>| {
            matches!(last.kind, PenaltyKind::Reduce { .. })
                && last.violation == next.violation
                && last.by == Author::Rule
                && last.holds_at(now.unix_ms)
        };
        let all = Holder::of(next).map_or(&[][..], |holder| self.memory().penalties(&holder));
        let end = |last: &Arc<Penalty>| {
            let (penalty, at_unix_ms) = (last.id, now.unix_ms);
            Change::EndPenalty(EndPenalty { penalty, at_unix_ms, by: Author::Rule })
        };
        all.iter().filter(is_replaced).map(end).collect()
    }

    /// A ban that is a penalty has a record as one.
    fn on_record(
        &self,
        sentence: Sentence,
        case: &Case<'_>,
        kind: fn(u64) -> PenaltyKind,
        now: Moment,
    ) -> Sentence {
        let Some(ban) = &sentence.ban else { return sentence };
        let penalty = self.penalty(case, kind(ban.id), ban.expires_at_unix_ms, now);
        sentence.with(penalty)
    }

    fn penalty(
        &self,
        case: &Case<'_>,
        kind: PenaltyKind,
        ends_at_unix_ms: Option<u64>,
        now: Moment,
    ) -> Arc<Penalty> {
        let violation = case.violation;
        let (user, prefix) = match Holder::from_bearer(&violation.bearer) {
            Some(Holder::User(user)) => (Some(user), None),
            Some(Holder::Prefix(prefix)) => (None, Some(prefix)),
            None => (None, None),
        };
        let reason = reason(violation, matches!(kind, PenaltyKind::Suspension(_)));
        Arc::new(Penalty {
            id: self.next_penalty(),
            kind,
            user,
            prefix,
            violation: Some(violation.kind),
            severity: violation.severity,
            reason,
            starts_at_unix_ms: now.unix_ms,
            ends_at_unix_ms,
            by: Author::Rule,
            ended: None,
        })
    }

    /// How long the next ban of somebody is by the rules.
    fn grown(&self, bearer: &Bearer, now: Moment) -> BanLength {
        let rule = &self.engine.rules.ban;
        match (rule.length, rule.growth) {
            (BanLength::For(ms), Some(growth)) => {
                let offence = self.memory().offence(bearer).unwrap_or_default();
                BanLength::For(offence.now(growth, now.unix_ms).length_ms(ms, growth))
            }
            (length, _) => length,
        }
    }

    /// Whether no rule may ban the user, who has said, or is known to have, a role.
    pub(super) fn is_protected(&self, subject: &Subject, role: Option<&Arc<str>>) -> bool {
        let protected = &self.engine.rules.ban.protected;
        let Some(user) = subject.user() else { return false };
        let known = || self.memory().traits(user).and_then(|traits| traits.role.as_ref());
        protected.users.contains(user)
            || role.or_else(known).is_some_and(|role| protected.roles.contains(role))
    }

    /// A ban of that length, if rules may ban and nothing stands in its way.
    fn ban_for(&self, case: &Case<'_>, length: BanLength, review: bool, now: Moment) -> Sentence {
        if !self.engine.rules.ban.enabled {
            return Sentence::default();
        }
        if self.is_protected(case.subject, case.role.as_ref()) {
            return Sentence::refused(BanRefusal::ProtectedUser);
        }
        let expires_at_unix_ms = match length {
            BanLength::Soft => {
                return Sentence { logout: true, is_final: true, ..Sentence::default() };
            }
            BanLength::For(ms) => Some(now.unix_ms.saturating_add(ms)),
            BanLength::Forever => None,
        };
        let scope = match self.scope(case, now) {
            Ok(scope) => scope,
            Err(refusal) => return Sentence::refused(refusal),
        };
        let call = Change::BanCall(now.boot_ms);
        if self.is_runaway(now) {
            // One that is due still has been called for before: those who wait
            // must not keep the circuit open.
            let is_news = case.scored.is_news || !case.scored.crosses;
            let changes = is_news.then_some(call).into_iter().collect();
            return Sentence { changes, ..Sentence::refused(BanRefusal::Runaway) };
        }
        let mut sentence = self.bans(case, &scope, expires_at_unix_ms, review, now);
        sentence.changes.insert(0, call);
        sentence.changes.extend(self.offence_after(&case.violation.bearer, now));
        sentence
    }

    /// The rows of a ban: one, or one for the user and a shorter one for the
    /// address, which is lifted with it.
    fn bans(
        &self,
        case: &Case<'_>,
        scope: &Scope,
        expires_at_unix_ms: Option<u64>,
        review: bool,
        now: Moment,
    ) -> Sentence {
        let violation = case.violation;
        let shorter = self.engine.rules.ban.shared.filter(|_| scope.apart).map(|shared| {
            let ends = now.unix_ms.saturating_add(shared.duration_ms);
            Some(expires_at_unix_ms.map_or(ends, |longer| longer.min(ends)))
        });
        let is_one = scope.user.is_none() || !scope.apart;
        let main = Arc::new(Ban {
            id: self.next_ban,
            user: scope.user.clone(),
            prefix: scope.prefix.filter(|_| is_one),
            blocks: self.blocks(violation, scope.prefix),
            reason: reason(violation, review),
            violation: Some(violation.kind),
            score: Some(violation.total),
            created_at_unix_ms: now.unix_ms,
            expires_at_unix_ms: shorter.filter(|_| is_one).unwrap_or(expires_at_unix_ms),
            by: Author::Rule,
            with: None,
            severity: violation.severity,
            review,
        });
        let mut sentence = Sentence {
            ban: Some(Arc::clone(&main)),
            refusal: scope.is_cut.then_some(BanRefusal::Full),
            is_final: true,
            changes: vec![Change::Ban(Arc::clone(&main))],
            ..Sentence::default()
        };
        let mut last = main;
        if !is_one && scope.prefix.is_some() {
            last = Arc::new(Ban {
                id: last.id + 1,
                user: None,
                prefix: scope.prefix,
                expires_at_unix_ms: shorter.unwrap_or(expires_at_unix_ms),
                with: Some(last.id),
                ..last.as_ref().clone()
            });
            sentence.changes.push(Change::Ban(Arc::clone(&last)));
        }
        self.escalate(&last, now, &mut sentence);
        sentence
    }

    /// Whom a ban would be on, or why there can be none.
    fn scope(&self, case: &Case<'_>, now: Moment) -> Result<Scope, BanRefusal> {
        let user = case.subject.user().cloned();
        let prefix = match (&user, self.bannable_prefix(case.subject)) {
            (None, Some(Err(trusted))) => return Err(BanRefusal::Protected(trusted)),
            (_, prefix) => prefix.and_then(Result::ok),
        };
        let place = self.place(case.subject, now);
        // Those who share an address and did nothing keep it.
        let prefix = prefix.filter(|_| place != Place::Innocent);
        let apart = place == Place::Guilty;
        // Long lists that fill the kernel must not keep users from being banned.
        let rows = 1 + usize::from(apart && user.is_some());
        let has_rows = self.ban_count() + rows <= self.engine.rules.bounds.bans;
        let fits = self.has_room(prefix) && has_rows;
        if !fits && (user.is_none() || !self.has_room(None)) {
            return Err(BanRefusal::Full);
        }
        Ok(Scope { user, prefix: prefix.filter(|_| fits), apart, is_cut: !fits })
    }

    /// One ban more of somebody, where that makes the next one longer.
    fn offence_after(&self, bearer: &Bearer, now: Moment) -> Option<Change> {
        let growth = self.engine.rules.ban.growth?;
        let before = self.memory().offence(bearer).unwrap_or_default();
        let offence = before.now(growth, now.unix_ms).add(1.0);
        Some(Change::Offence(bearer.clone(), offence))
    }

    /// What the subject's address is banned as, or what protects it.
    fn bannable_prefix(&self, subject: &Subject) -> Option<Result<Prefix, Trusted>> {
        let trust = &self.engine.trust;
        let ip = subject.ip()?;
        if let Some(trusted) = trust.of(ip).filter(|_| trust.protects(ip)) {
            return Some(Err(trusted));
        }
        // A neighbour of this host's in its own /64 is banned alone.
        let block = Prefix::around(ip, self.engine.rules.ban.v6_prefix);
        let candidates = [block, Prefix::around(ip, 128)];
        let bannable = candidates.into_iter().find(|prefix| trust.forbidding(*prefix).is_none());
        bannable.map(Ok).or_else(|| trust.forbidding(block).map(Err))
    }

    /// Whether the kernel is to enforce a ban for this violation.
    fn blocks(&self, violation: &Violation, prefix: Option<Prefix>) -> bool {
        let rule = &self.engine.rules.ban;
        let wants = match rule.network_block.of(violation.kind) {
            NetworkBlock::Always => true,
            // The score has crossed a multiple of the interval before.
            NetworkBlock::Repeat => violation.previous >= rule.interval,
            NetworkBlock::Never => false,
        };
        wants && prefix.is_none_or(|prefix| self.engine.trust.proxy(prefix).is_none())
    }

    /// Whoever has many /64s has the block around them: bans that, too, as long
    /// as the ban that was one too many.
    fn escalate(&self, ban: &Arc<Ban>, now: Moment, sentence: &mut Sentence) {
        let Some(narrow) = ban.prefix else { return };
        let rule = self.engine.rules.ban.escalation;
        let steps = [(56, rule.v6_56), (48, rule.v6_48)];
        let mut id = ban.id;
        for (bits, threshold) in steps {
            let Some((threshold, wide)) = threshold.zip(narrow.block_of_64(bits)) else { continue };
            let count = self.banned_64s(wide, narrow);
            let is_due = count >= threshold as usize
                && self.bans_of_prefix(wide).all(|ban| !ban.holds_at(now.unix_ms))
                && self.engine.trust.forbidding(wide).is_none()
                && self.engine.trust.proxy(wide).is_none();
            if !is_due {
                continue;
            }
            if !self.has_room(Some(wide)) {
                sentence.refusal = Some(BanRefusal::Full);
                continue;
            }
            id += 1;
            sentence.changes.push(Change::Ban(Arc::new(Ban {
                id,
                user: None,
                prefix: Some(wide),
                reason: format!("{count} of its /64s are banned"),
                score: None,
                with: None,
                ..ban.as_ref().clone()
            })));
        }
    }
}
