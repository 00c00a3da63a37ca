//! Counts that come from elsewhere: what a request would ask of counters that hosts share,
//! and how the answers take their place beside this host's own in its decision. The
//! stricter of the two holds: what this host counted, it knows, whatever others forgot.
//! Where those counters are and how they are asked is not known here.

use smallvec::SmallVec;

use super::{
    Act, Bearer, By, Change, Charge, Count, Engine, Lease, LeaseId, Limiter, LimiterRule, Moment,
    Outcome, Overlay, Request, Rules, Score, ScoreKey, ViolationType,
};

/// What a request asks of one limiter.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked<'r> {
    /// The limiter.
    pub rule: &'r LimiterRule,
    /// Whom it counts.
    pub bearer: Bearer,
    /// What is allowed.
    pub max: u64,
    /// What this costs.
    pub cost: u64,
    /// It must not be used up; nothing counts towards it.
    pub looks: bool,
}

/// What a request would ask.
#[derive(Clone, Debug, PartialEq)]
pub enum Want<'r> {
    /// How limits stand, in their order; and if one of them rejects, what score its bearer
    /// has.
    Limits {
        /// The limits.
        asked: SmallVec<[Asked<'r>; 2]>,
        /// Who would bear the points.
        scored: Option<Bearer>,
    },
    /// How many leases somebody holds.
    Lease {
        /// Who.
        bearer: Bearer,
        /// How many there may be.
        max: usize,
        /// How long one lives, in milliseconds.
        lease_ms: u64,
    },
    /// What score somebody has.
    Score(ScoreKey),
}

/// How one limit stands elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// What was used up before.
    pub used: u64,
    /// When some of it is free again, on the boot clock.
    pub frees_at_boot_ms: u64,
    /// Whether it was this limit that rejected there.
    pub denies: bool,
}

impl Elsewhere {
    fn join(self, count: &mut Count) {
        if self.used > count.usage.used {
            count.usage.used = self.used;
            count.usage.frees_at_boot_ms = self.frees_at_boot_ms;
        }
        if self.denies && !count.exceeds() {
            // The limit was another when it was asked about.
            count.usage.used = count.max.saturating_sub(count.cost).saturating_add(1);
        }
    }
}

/// The answers to what a request asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// How limits stand, in the order in which they were asked.
    pub limits: SmallVec<[Elsewhere; 2]>,
    /// A score that others know better.
    pub score: Option<(ScoreKey, Score)>,
    /// How many leases its bearer holds, if there is no place for another.
    pub pending: Option<usize>,
    /// The number that a lease is to have.
    pub lease: Option<LeaseId>,
}

/// Scores that differ by less are the same: it is the order of multiplications.
const SAME: f64 = 1e-6;

impl Engine {
    /// A score as it was left.
    pub fn score(&self, key: &ScoreKey) -> Option<Score> {
        self.scores.get(key)
    }

    /// A lease that has not been given back.
    pub fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(id)
    }

    /// All of them.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.iter()
    }

    /// The number of the next lease.
    pub const fn next_lease(&self) -> LeaseId {
        self.next_lease
    }

    /// A number that is this host's alone, and in its next life the same if its windows
    /// were not lost.
    pub fn host(&self) -> u64 {
        let everybody = Limiter::all().next().expect("there are limiters");
        self.keys.overflow(everybody).digest()
    }

    /// What it goes by.
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }
}

impl<'e> Overlay<'e> {
    /// What a request would ask elsewhere; nothing if its answer is known without.
    pub fn wants(&self, request: &Request, now: Moment) -> Option<Want<'e>> {
        if request.id.as_ref().is_some_and(|id| self.answer(id).is_some()) {
            return None;
        }
        let rules = &self.engine.rules;
        if request.act.is_answered_by_a_ban() && self.ban_on(request, now).is_some() {
            return None;
        }
        let score = |kind| {
            let bearer = rules.scored(&request.subject)?;
            Some(Want::Score(ScoreKey { bearer, kind }))
        };
        match &request.act {
            Act::Event { .. } if self.engine.is_script(&request.act) => {
                score(ViolationType::NON_BROWSER)
            }
            Act::Event { .. } => self.limits(request, now),
            Act::Violation { kind, .. } => score(*kind),
            Act::Acquire => {
                let rule = rules.concurrency?;
                let bearer = rules.bearer(&request.subject);
                Some(Want::Lease { bearer, max: rule.max, lease_ms: rule.lease_ms })
            }
            Act::Refund(_) => None,
        }
    }

    fn limits(&self, request: &Request, now: Moment) -> Option<Want<'e>> {
        let (rules, directory) = (&self.engine.rules, &self.engine.directory);
        let Act::Event { kind, .. } = request.act else { return None };
        let event = directory.event(rules, kind);
        let ask = |count: Count| {
            let rule = directory.limiter(rules, count.limiter)?;
            let bearer = rules.counted(rule.by, request)?;
            let looks = event.is_some_and(|event| event.peeks.contains(&count.limiter));
            Some(Asked { rule, bearer, max: count.max, cost: count.cost, looks })
        };
        let asked: SmallVec<_> = self.counts(request, now).into_iter().filter_map(ask).collect();
        let may_score = |it: &Asked<'_>| it.rule.violation.is_some() && it.rule.by != By::Account;
        let scored = asked.iter().any(may_score).then(|| rules.scored(&request.subject)).flatten();
        (!asked.is_empty()).then_some(Want::Limits { asked, scored })
    }

    /// What an event takes back of limits if it goes ahead: whose windows are forgotten.
    pub fn taken_back(&self, request: &Request) -> SmallVec<[(Limiter, Bearer); 1]> {
        let Act::Event { kind, .. } = request.act else { return SmallVec::new() };
        let rules = &self.engine.rules;
        let event = self.engine.directory.event(rules, kind);
        let refunds = event.map_or(&[][..], |event| &event.refunds);
        let bearer = |limiter: &Limiter| {
            Some((*limiter, rules.counted(rules.limiter(*limiter)?.by, request)?))
        };
        refunds.iter().filter_map(bearer).collect()
    }

    /// Judges a request by what is known here and elsewhere, and lays the decision over the
    /// engine. Says what it charged.
    pub fn judge_told(
        &mut self,
        request: &Request,
        told: &Told,
        now: Moment,
    ) -> (Outcome, SmallVec<[Charge; 2]>) {
        if let Some(id) = told.lease {
            self.next_lease = self.next_lease.max(id);
        }
        self.learn_score(told, now);
        let counts = self.joined(request, told, now);
        self.leases_elsewhere = told.pending.unwrap_or(0);
        let decision = self.decide(request, &counts, now);
        self.leases_elsewhere = 0;
        let charge = |change: &Change| match change {
            Change::Charge(charge) => Some(*charge),
            _ => None,
        };
        let charged = decision.changes.iter().filter_map(charge).collect();
        self.push(&decision);
        (decision.outcome, charged)
    }

    /// How the limits of a request stand here and elsewhere.
    pub fn joined(&self, request: &Request, told: &Told, now: Moment) -> super::Counts {
        let mut counts = self.counts(request, now);
        // Both are by the same rules, in the same order; a batch can change who is asked.
        if counts.len() == told.limits.len() {
            counts.iter_mut().zip(&told.limits).for_each(|(count, it)| it.join(count));
        }
        counts
    }

    /// Goes by a score that others know better. Not if it is the same: whoever is hammering
    /// must not make the disk work.
    fn learn_score(&mut self, told: &Told, now: Moment) {
        let Some((key, score)) = &told.score else { return };
        let decay = self.engine.rules.scoring.decay;
        let shown = |score: Score| {
            let score = score.now(decay, now.unix_ms);
            (score.points, score.spent)
        };
        let known = self.score(key);
        let (own, other) = (shown(known.unwrap_or_default()), shown(*score));
        if (own.0 - other.0).abs() <= SAME && (own.1 - other.1).abs() <= SAME {
            return;
        }
        if known.is_none()
            && let Some(oldest) = self.score_in_the_way()
        {
            self.record(Change::ForgetScore(oldest));
        }
        self.record(Change::Score(key.clone(), *score));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Account, Cause, Cost, EventType, PrefixSet, Restored, Subject, Verdict};
    use super::*;

    const NOW: Moment = Moment { boot_ms: 1_000_000, unix_ms: 1_700_000_000_000 };

    fn engine() -> Engine {
        Engine::new(Rules::hardened(), PrefixSet::default(), Restored::default(), [1, 2], NOW)
    }

    fn request(act: Act) -> Request {
        let ip = Some("192.0.2.7".parse().expect("an address"));
        let subject = Subject::new(Some("anna".parse().expect("an id")), ip);
        Request::new(act, subject.expect("a user"))
    }

    fn elsewhere(used: u64, denies: bool) -> Told {
        let it = Elsewhere { used, frees_at_boot_ms: 1_009_000, denies };
        Told { limits: SmallVec::from_slice(&[it]), ..Told::default() }
    }

    #[test]
    fn the_stricter_of_what_is_counted_here_and_elsewhere_holds() {
        let login = request(Act::event(EventType::REGISTRATION));
        for (here, there, denies, want) in [
            (0, 0, false, Verdict::Allow),
            (4, 0, false, Verdict::Allow),
            (0, 4, false, Verdict::Allow),
            (5, 0, false, Verdict::Deny),
            (0, 5, true, Verdict::Deny),
            (0, 5, false, Verdict::Deny),
            (4, 4, false, Verdict::Allow),
            // Denied there by a limit that was lower a moment ago.
            (0, 0, true, Verdict::Deny),
        ] {
            let engine = engine();
            let mut overlay = engine.overlay();
            for _ in 0..here {
                let (outcome, charged) = overlay.judge_told(&login, &Told::default(), NOW);
                assert_eq!((outcome.verdict, charged.len()), (Verdict::Allow, 1));
            }
            let own = overlay.counts(&login, NOW)[0].usage.frees_at_boot_ms;
            let (outcome, charged) = overlay.judge_told(&login, &elsewhere(there, denies), NOW);
            assert_eq!(outcome.verdict, want, "{here} here, {there} there, {denies}");
            assert_eq!(charged.len(), usize::from(want == Verdict::Allow));
            let usage = outcome.counts[0].usage;
            assert!(usage.used >= there.max(here));
            let frees = if there > here { 1_009_000 } else { own };
            assert_eq!(usage.frees_at_boot_ms, frees, "{here} here, {there} there");
        }
    }

    #[test]
    fn an_event_asks_for_its_limits_and_for_the_score_of_whoever_would_bear_points() {
        let engine = engine();
        let overlay = engine.overlay();
        let wants = overlay.wants(&request(Act::event(EventType::LOGIN)), NOW);
        let Some(Want::Limits { asked, scored }) = wants else { panic!("{wants:?}") };
        let names: Vec<_> = asked.iter().map(|it| (it.rule.limiter.name(), it.looks)).collect();
        // The account's limiter counts nobody who names no account.
        assert_eq!(names, [("login", false)]);
        assert_eq!(scored, Some(Bearer::User("anna".parse().expect("an id"))));
        let mut login = request(Act::event(EventType::LOGIN));
        login.account = Some(Account::of("anna"));
        let Some(Want::Limits { asked, .. }) = overlay.wants(&login, NOW) else { panic!() };
        let looks: Vec<_> = asked.iter().map(|it| it.looks).collect();
        assert_eq!(looks, [false, true]);
    }

    #[test]
    fn a_retry_and_a_banned_one_ask_nothing() {
        let engine = engine();
        let mut overlay = engine.overlay();
        let mut login = request(Act::event(EventType::LOGIN));
        login.id = Some("one".into());
        assert!(overlay.wants(&login, NOW).is_some());
        overlay.judge_told(&login, &Told::default(), NOW);
        assert_eq!(overlay.wants(&login, NOW), None);
        let kind = ViolationType::NON_BROWSER;
        overlay.judge_told(&request(Act::violation(kind)), &Told::default(), NOW);
        assert_eq!(overlay.wants(&request(Act::event(EventType::LOGIN)), NOW), None, "banned");
        let key = ScoreKey { bearer: Bearer::User("anna".parse().expect("an id")), kind };
        assert_eq!(
            overlay.wants(&request(Act::violation(kind)), NOW),
            Some(Want::Score(key)),
            "what the app found happened"
        );
    }

    #[test]
    fn leases_that_are_held_elsewhere_take_places_and_the_number_is_the_one_that_was_told() {
        let engine = engine();
        let mut overlay = engine.overlay();
        let told = |pending, lease| Told { pending, lease, ..Told::default() };
        let id = overlay.next_lease + 7;
        let (outcome, _) = overlay.judge_told(&request(Act::Acquire), &told(None, Some(id)), NOW);
        assert_eq!(outcome.lease.map(|lease| lease.id), Some(id));
        let (outcome, _) = overlay.judge_told(&request(Act::Acquire), &told(Some(2), None), NOW);
        assert_eq!(outcome.cause, Some(Cause::Violation(ViolationType::CONCURRENT)));
        assert_eq!(outcome.violation.and_then(|it| it.pending), Some(2));
        let (outcome, _) = overlay.judge_told(&request(Act::Acquire), &told(None, None), NOW);
        assert_eq!(outcome.verdict, Verdict::Allow, "what was told is not remembered");
    }

    #[test]
    fn a_score_that_is_known_better_elsewhere_bans_here() {
        let engine = engine();
        let key = ScoreKey {
            bearer: Bearer::User("anna".parse().expect("an id")),
            kind: ViolationType::ILLEGAL_MODEL_REQUEST,
        };
        let at = NOW.unix_ms;
        let score =
            Score { points: 16.0, spent: 0.0, decayed_at_unix_ms: at, updated_at_unix_ms: at };
        for (score, is_banned) in [(None, false), (Some(score), true)] {
            let mut overlay = engine.overlay();
            let told = Told { score: score.map(|it| (key.clone(), it)), ..Told::default() };
            let act = Act::violation(ViolationType::ILLEGAL_MODEL_REQUEST);
            let (outcome, _) = overlay.judge_told(&request(act), &told, NOW);
            assert_eq!(outcome.ban.is_some(), is_banned);
        }
    }

    #[test]
    fn a_score_that_others_know_is_written_if_it_is_another_one() {
        let key = ScoreKey {
            bearer: Bearer::User("anna".parse().expect("an id")),
            kind: ViolationType::LOGINS,
        };
        let at = NOW.unix_ms;
        let score =
            |points, spent| Score { points, spent, decayed_at_unix_ms: at, updated_at_unix_ms: at };
        let cases = [
            (5.0, 3.0, false),
            (5.0 + SAME / 2.0, 3.0 - SAME / 2.0, false),
            (6.0, 3.0, true),
            (4.0, 3.0, true),
            (5.0, 4.0, true),
            (5.0, 2.0, true),
            (0.0, 0.0, true),
        ];
        let mut engine = engine();
        engine.apply([Change::Score(key.clone(), score(5.0, 3.0))]);
        assert_eq!(engine.score(&key), Some(score(5.0, 3.0)));
        for (points, spent, is_written) in cases {
            let told = Told { score: Some((key.clone(), score(points, spent))), ..Told::default() };
            let mut overlay = engine.overlay();
            overlay.judge_told(&request(Act::event(EventType::PROMPT_USAGE)), &told, NOW);
            let want = if is_written { score(points, spent) } else { score(5.0, 3.0) };
            assert_eq!(overlay.score(&key), Some(want), "{points} and {spent}");
            let changes = overlay.into_changes();
            let written = changes.iter().filter(|it| matches!(it, Change::Score(..))).count();
            assert_eq!(written, usize::from(is_written), "{points} and {spent}");
        }
    }

    #[test]
    fn whose_score_is_asked_for_goes_by_what_can_be_broken() {
        let account = Some(Account::of("anna@example.org"));
        let anna = || Bearer::User("anna".parse().expect("an id"));
        let script = Act::Event {
            kind: EventType::MESSAGE,
            user_agent: Some("curl/8.5.0".to_owned()),
            cost: Cost::default(),
        };
        let engine = engine();
        let overlay = engine.overlay();
        let score = ScoreKey { bearer: anna(), kind: ViolationType::NON_BROWSER };
        assert_eq!(overlay.wants(&request(script), NOW), Some(Want::Score(score)));
        for (kind, want) in [
            (EventType::MESSAGE, Some(anna())),
            // Too many are no violation.
            (EventType::PROMPT_USAGE, None),
            // The points are those of whoever is at the address, and are only added.
            (EventType::LOGIN_FAILURE, None),
        ] {
            let request = Request { account, ..request(Act::event(kind)) };
            let wants = overlay.wants(&request, NOW);
            let Some(Want::Limits { scored, .. }) = wants else { panic!("{kind}: {wants:?}") };
            assert_eq!(scored, want, "{kind}");
        }
    }

    #[test]
    fn what_goes_right_takes_back_the_account_s_limit_and_other_events_none() {
        let account = Account::of("anna@example.org");
        let engine = engine();
        let overlay = engine.overlay();
        let success = request(Act::event(EventType::LOGIN_SUCCESS));
        let named = |request| Request { account: Some(account), ..request };
        let taken = [(Limiter::LOGIN_ACCOUNT, Bearer::Account(account))];
        assert_eq!(overlay.taken_back(&named(success.clone()))[..], taken);
        assert_eq!(overlay.taken_back(&success)[..], [], "nobody knows whose");
        for act in [Act::event(EventType::LOGIN), Act::Acquire] {
            assert_eq!(overlay.taken_back(&named(request(act)))[..], []);
        }
    }

    #[test]
    fn leases_and_the_number_of_the_next_can_be_asked_for() {
        let mut engine = engine();
        let id = engine.next_lease();
        assert_eq!((engine.lease(id), engine.leases().count()), (None, 0));
        let mut overlay = engine.overlay();
        let (outcome, _) = overlay.judge_told(&request(Act::Acquire), &Told::default(), NOW);
        let changes = overlay.into_changes();
        engine.apply(changes);
        assert_eq!(outcome.lease.as_ref().map(|lease| lease.id), Some(id));
        assert_eq!(engine.lease(id), outcome.lease.as_ref());
        assert_eq!(engine.leases().collect::<Vec<_>>(), Vec::from_iter(&outcome.lease));
        assert_eq!(engine.next_lease(), id + 1);
    }

    #[test]
    fn a_host_is_told_from_others_by_its_seed() {
        let host = |seed| {
            let trust = PrefixSet::default();
            Engine::new(Rules::hardened(), trust, Restored::default(), seed, NOW).host()
        };
        assert_eq!(host([1, 2]), host([1, 2]));
        assert_ne!(host([1, 2]), host([2, 1]));
    }
}
