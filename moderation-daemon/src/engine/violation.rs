//! A broken rule: who bears the points, whether it is a repeat, what the score
//! becomes. What it leads to is asked of the sentence. Reads the overlay,
//! changes nothing.

use std::sync::Arc;

use super::{
    Bearer, By, Cause, Change, Decision, LimiterRule, Moment, Outcome, Overlay, Request, Score,
    ScoreKey, Severity, Subject, Violation, ViolationType,
    penalty::{Case, Sentence},
    repeat::{Run, Told},
};

/// One thing that was found wrong.
pub(super) struct Broken<'a> {
    pub(super) kind: ViolationType,
    pub(super) points: Option<f64>,
    pub(super) limiter: Option<&'a LimiterRule>,
    pub(super) pending: Option<usize>,
    pub(super) severity: Option<Severity>,
    pub(super) details: Option<&'a Arc<str>>,
    /// The app said so: it knows what it reports twice.
    pub(super) is_reported: bool,
}

impl Broken<'_> {
    pub(super) const fn new(kind: ViolationType) -> Self {
        let (points, limiter, pending) = (None, None, None);
        let (severity, details, is_reported) = (None, None, false);
        Self { kind, points, limiter, pending, severity, details, is_reported }
    }

    /// Whose it is. What an account is limited for is the doing of whoever is
    /// at the address: the account may be anybody's, the user too.
    fn subject(&self, request: &Request) -> Option<Subject> {
        if self.limiter.is_some_and(|rule| rule.by == By::Account) {
            return Subject::new(None, request.subject.ip_as_given()).ok();
        }
        Some(request.subject.clone())
    }
}

impl Overlay<'_> {
    /// Points for whoever bears them, and what follows.
    pub(super) fn violate(&self, request: &Request, broken: &Broken<'_>, now: Moment) -> Decision {
        let kind = broken.kind;
        let denied = Outcome::deny(Cause::Violation(kind));
        let subject = broken.subject(request);
        let bearer = subject.as_ref().and_then(|subject| self.engine.rules.scored(subject));
        let Some((subject, bearer)) = subject.zip(bearer) else {
            return Decision { outcome: denied, changes: Vec::new() };
        };
        let key = ScoreKey { bearer, kind };
        let known = self.score(&key);
        let decay = self.engine.rules.scoring.decay;
        let score = known.map(|score| score.now(decay, now.unix_ms)).unwrap_or_default();
        let mut record = self.describe(request, broken, &subject, &key.bearer, now);
        let mut changes = Vec::new();
        if let Some((told, run)) = self.run(&key, broken, now) {
            let Told::Counts { repeats, counted } = told else {
                return repeated(Violation { points: 0.0, ..record }, score, key, run);
            };
            record.repeats = repeats;
            record.points *= f64::from(counted.saturating_add(1));
            changes.push(Change::Run(key.clone(), run));
        }
        let offence = self.memory().offence(&key.bearer).unwrap_or_default();
        let rule = &self.engine.rules.ban;
        // What is critical does not wait for a second time.
        let is_critical = self.engine.rules.severity(kind, broken.severity) == Severity::Critical;
        let is_spared = offence.has_grace && !is_critical;
        if is_spared {
            changes.push(Change::Offence(key.bearer.clone(), offence.without_grace()));
            if rule.interval > 0.0 {
                record.points = record.points.min(rule.interval / 2.0);
            }
        }
        let scored = score.add(record.points, rule, now.unix_ms);
        (record.previous, record.total) = (scored.previous, scored.total);
        let case = Case {
            violation: &record,
            scored,
            subject: &subject,
            role: self.role(request),
            is_spared,
        };
        let sentence = self.sentence(&case, now);
        if known.is_none() {
            changes.extend(self.score_in_the_way().map(Change::ForgetScore));
        }
        let score = if sentence.is_final { scored.score.spend(rule) } else { scored.score };
        changes.push(Change::Score(key, score));
        changes.extend(self.factor_after(&record, now));
        let Sentence { ban, refusal, logout, penalty, changes: sentence, .. } = sentence;
        record.ban = ban.as_ref().map(|ban| ban.id);
        record.logout = logout;
        record.penalty = penalty.as_ref().map(|penalty| penalty.id);
        let violation = Arc::new(record);
        changes.push(Change::Violation(Arc::clone(&violation)));
        changes.extend(sentence);
        let violation = Some(violation);
        let outcome = Outcome { violation, ban, refusal, logout, penalty, ..denied };
        Decision { outcome, changes }
    }

    /// What a violation is that the engine found itself, where repeats are told
    /// apart.
    fn run(&self, key: &ScoreKey, broken: &Broken<'_>, now: Moment) -> Option<(Told, Run)> {
        let rule = self.engine.rules.scoring.repeats.filter(|_| !broken.is_reported)?;
        Some(Run::next(self.memory().run(key), rule, now.unix_ms))
    }

    /// The record, but for what comes of it.
    fn describe(
        &self,
        request: &Request,
        broken: &Broken<'_>,
        subject: &Subject,
        bearer: &Bearer,
        now: Moment,
    ) -> Violation {
        let of_type = || *self.engine.rules.scoring.points.of(broken.kind);
        Violation {
            kind: broken.kind,
            user: subject.user().cloned(),
            ip: subject.ip(),
            bearer: bearer.clone(),
            points: broken.points.unwrap_or_else(of_type),
            previous: 0.0,
            total: 0.0,
            limiter: broken.limiter.map(|rule| (rule.limiter, rule.limit.clone())),
            pending: broken.pending,
            severity: broken.severity,
            details: broken.details.cloned(),
            repeats: 0,
            ban: None,
            penalty: None,
            logout: false,
            at_unix_ms: now.unix_ms,
            request: request.id.clone(),
        }
    }
}

/// One that counts for nothing, and of which nothing is written: hammering must
/// not make the disk work.
fn repeated(record: Violation, score: Score, key: ScoreKey, run: Run) -> Decision {
    let shown = score.shown();
    let record = Violation { previous: shown, total: shown, ..record };
    let outcome = Outcome {
        violation: Some(Arc::new(record)),
        is_repeat: true,
        ..Outcome::deny(Cause::Violation(key.kind))
    };
    Decision { outcome, changes: vec![Change::Run(key.clone(), run), Change::Repeat(key)] }
}
