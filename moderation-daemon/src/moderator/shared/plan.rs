//! What a batch asks of shared counters, what their answers mean for it, and what they have
//! to be told afterwards: what counts there is to be what was decided here. A reservation is
//! that, written early; only the difference is settled. Asks nobody and waits for nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;

use super::{Command, Taken};
use crate::{
    engine::{
        Asked, Bearer, Change, Charge, Commit, Elsewhere, Engine, Lease, LeaseId, Limiter, Moment,
        Outcome, Overlay, Request, RequestId, Rules, Score, ScoreKey, Told, ViolationType, Want,
    },
    moderator::Ask,
    sharing::{
        Act, Claim, Counted, Deed, Group, LeaseName, Reserved, Tag, Tags, Ticket, Tickets, Verdict,
        Window,
    },
};

/// A lease lives so much longer there than here, so that nobody else has its place before
/// it is over: the answer takes its time, and clocks run differently.
const LEASE_SLACK: Duration = Duration::from_millis(500);

/// What became of what was asked.
pub(super) enum Fate {
    /// It was answered.
    Known(Reserved),
    /// It may have been done, or not.
    Unknown,
    /// Nobody was asked.
    NotAsked,
}

/// Makes plans.
pub(super) struct Planner {
    pub(super) tags: Tags,
    pub(super) host: u64,
    tickets: Tickets,
    windows: Vec<(Limiter, Window)>,
    slack_ms: u64,
}

/// What a batch asks: for each of its requests a place, in their order.
pub(super) struct Plan {
    places: VecDeque<Place>,
    pub(super) groups: Arc<[Group]>,
    pub(super) ahead_ms: Option<i64>,
}

/// One request.
struct Place {
    /// Which group asks for it, if any does.
    group: Option<usize>,
    about: About,
}

/// What its group is about.
enum About {
    /// Limits, and the score of somebody if one rejects.
    Limits(Option<Bearer>),
    Lease(LeaseId, usize),
    Score(ScoreKey),
    Nothing,
}

/// The answers, as they are used up one by one; and what was charged.
pub(crate) struct Answers {
    plan: Option<Plan>,
    fate: Fate,
    now: Moment,
    /// By group: the limiters that were charged, and under which name.
    charged: Vec<Charged>,
    /// Windows that were forgotten because something went right.
    taken_back: Vec<(Limiter, Bearer)>,
    learned: Vec<(ScoreKey, Score)>,
    leases: Vec<(usize, LeaseId, bool)>,
}

#[derive(Default)]
struct Charged {
    limiters: SmallVec<[Limiter; 2]>,
    request: Option<RequestId>,
}

impl Planner {
    pub(super) fn new(tags: Tags, tickets: Tickets, engine: &Engine, bound: Duration) -> Self {
        let rules = engine.rules();
        let windows = rules.limiters.iter().map(|rule| (rule.limiter, Window::of(rule, rules)));
        let slack = u64::try_from((bound + LEASE_SLACK).as_millis()).unwrap_or(u64::MAX);
        Self { tags, host: engine.host(), tickets, windows: windows.collect(), slack_ms: slack }
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.tickets.next()
    }

    fn window(&self, limiter: Limiter) -> Option<Window> {
        self.windows.iter().find(|(other, _)| *other == limiter).map(|(_, window)| *window)
    }

    pub(super) fn plan(
        &self,
        engine: &Engine,
        commands: &[Command],
        next_lease: &mut LeaseId,
        now: Moment,
    ) -> Plan {
        let overlay = engine.overlay();
        let (mut places, mut groups) = (VecDeque::new(), Vec::new());
        let mut ask = |request: &Request, is_peek: bool| {
            let about = overlay.wants(request, now);
            let place = match about.and_then(|want| self.group(engine, want, is_peek, next_lease)) {
                None => Place { group: None, about: About::Nothing },
                Some((group, about)) => {
                    groups.push(group);
                    Place { group: Some(groups.len() - 1), about }
                }
            };
            places.push_back(place);
        };
        for command in commands {
            match command {
                Command::Judge(Ask { request, is_peek }, _) => ask(request, *is_peek),
                Command::JudgeAll(asks, _) => {
                    asks.iter().for_each(|it| ask(&it.request, it.is_peek));
                }
                Command::Usage(request, _) => ask(request, true),
                _ => {}
            }
        }
        Plan { places, groups: groups.into(), ahead_ms: None }
    }

    fn group(
        &self,
        engine: &Engine,
        want: Want<'_>,
        is_peek: bool,
        next_lease: &mut LeaseId,
    ) -> Option<(Group, About)> {
        let rules = engine.rules();
        let ticket = self.ticket();
        let in_order = rules.counting.commit == Commit::InOrder;
        let empty = Group { ticket, in_order, claims: SmallVec::new(), scored: None, alone: None };
        match want {
            Want::Limits { asked, scored } => {
                let claim = |it: &Asked<'_>| self.claim(it, is_peek);
                let claims = asked.iter().map(claim).collect::<Option<_>>()?;
                let scored = scored.filter(|_| !is_peek);
                let tag = scored.as_ref().map(|bearer| self.tags.of(bearer));
                Some((Group { claims, scored: tag, ..empty }, About::Limits(scored)))
            }
            Want::Lease { bearer, max, lease_ms } => {
                let id = *next_lease;
                *next_lease += 1;
                let (tag, violation) = (self.tags.of(&bearer), Some(ViolationType::CONCURRENT));
                let name = LeaseName { host: self.host, id };
                let claim = Claim {
                    tag,
                    counted: Counted::Leases(name, lease_ms.saturating_add(self.slack_ms)),
                    max: max as u64,
                    cost: 1,
                    looks: is_peek,
                    counts_rejected: false,
                    violation,
                };
                let claims = SmallVec::from_slice(&[claim]);
                Some((Group { claims, scored: Some(tag), ..empty }, About::Lease(id, max)))
            }
            Want::Score(key) => {
                let (scored, alone) = (Some(self.tags.of(&key.bearer)), Some(key.kind));
                Some((Group { scored, alone, ..empty }, About::Score(key)))
            }
        }
    }

    fn claim(&self, asked: &Asked<'_>, is_peek: bool) -> Option<Claim> {
        let rule = asked.rule;
        Some(Claim {
            tag: self.tags.of(&asked.bearer),
            counted: Counted::Limiter(rule.limiter, self.window(rule.limiter)?),
            max: asked.max,
            cost: asked.cost,
            looks: asked.looks || is_peek,
            counts_rejected: rule.count_rejected,
            violation: rule.violation,
        })
    }
}

impl Plan {
    pub(super) fn answered(self, fate: Fate, now: Moment) -> Answers {
        let charged = std::iter::repeat_with(Charged::default).take(self.groups.len()).collect();
        let taken_back = Vec::new();
        let (learned, leases) = (Vec::new(), Vec::new());
        Answers { plan: Some(self), fate, now, charged, taken_back, learned, leases }
    }
}

impl Answers {
    /// Nobody counts together with this host.
    pub(crate) fn none() -> Self {
        let now = Moment { boot_ms: 0, unix_ms: 0 };
        Self { plan: None, ..Plan::empty().answered(Fate::NotAsked, now) }
    }

    /// Whether nobody counts together with this host.
    pub(crate) const fn are_of_nobody(&self) -> bool {
        self.plan.is_none()
    }

    /// Judges the next request by what was answered about it; `None`: nobody counts together
    /// with this host.
    pub(crate) fn judge(
        &mut self,
        overlay: &mut Overlay<'_>,
        request: &Request,
        now: Moment,
    ) -> Option<Outcome> {
        let place = self.plan.as_mut()?.places.pop_front()?;
        let told = self.told(&place);
        if let Some((key, score)) = &told.score {
            self.learned.push((key.clone(), *score));
        }
        let (outcome, charged) = overlay.judge_told(request, &told, now);
        if outcome.verdict == crate::engine::Verdict::Allow {
            self.taken_back.extend(overlay.taken_back(request));
        }
        let Some(group) = place.group else { return Some(outcome) };
        if let About::Lease(id, _) = place.about {
            let is_given = outcome.lease.as_ref().is_some_and(|lease| lease.id == id);
            self.leases.push((group, id, is_given));
        }
        if !charged.is_empty() {
            let limiters = charged.iter().map(|charge: &Charge| charge.limiter).collect();
            self.charged[group] = Charged { limiters, request: request.id.clone() };
        }
        Some(outcome)
    }

    /// What the next request, which is only looked at, is told.
    pub(crate) fn peek(&mut self) -> Told {
        let place = self.plan.as_mut().and_then(|plan| plan.places.pop_front());
        place.map(|place| self.told(&place)).unwrap_or_default()
    }

    fn told(&self, place: &Place) -> Told {
        let mut told = Told::default();
        if let About::Lease(id, _) = place.about {
            told.lease = Some(id);
        }
        let (Some(group), Fate::Known(reserved)) = (place.group, &self.fate) else { return told };
        let Some((answer, _)) = reserved.answers.get(group) else { return told };
        let denied = match answer.verdict {
            Verdict::Taken => None,
            Verdict::Denied(claim) => Some(claim),
            // Somebody else's key, or an answer from another time: it says nothing.
            Verdict::Foreign | Verdict::Late => return told,
        };
        match &place.about {
            About::Limits(scored) => {
                let plan = self.plan.as_ref();
                let ahead = plan.and_then(|plan| plan.ahead_ms).unwrap_or(0);
                let frees = |ms: u64| {
                    let boot_ms = ms.saturating_add_signed(ahead.saturating_neg());
                    boot_ms.max(self.now.boot_ms)
                };
                let limit = |(index, standing): (usize, &crate::sharing::Standing)| Elsewhere {
                    used: standing.used,
                    frees_at_boot_ms: frees(standing.frees_at_ms),
                    denies: denied == Some(index),
                };
                told.limits = answer.standings.iter().enumerate().map(limit).collect();
                let claims = plan.map(|plan| &plan.groups[group].claims);
                let kind = claims.zip(denied).and_then(|(claims, at)| claims[at].violation);
                if let (Some(bearer), Some(kind), Some(score)) = (scored, kind, answer.score) {
                    told.score = Some((ScoreKey { bearer: bearer.clone(), kind }, score));
                }
            }
            About::Lease(_, max) => told.pending = denied.map(|_| *max),
            About::Score(key) => told.score = answer.score.map(|score| (key.clone(), score)),
            About::Nothing => {}
        }
        told
    }

    /// Whether a claim of a group was taken, if that is known.
    fn was_taken(&self, group: usize, claim: usize) -> Option<bool> {
        match &self.fate {
            Fate::Unknown => None,
            Fate::NotAsked => Some(false),
            Fate::Known(reserved) => {
                let taken = reserved.answers.get(group).and_then(|(_, taken)| taken.get(claim));
                Some(taken.copied().unwrap_or(false))
            }
        }
    }

    fn is_foreign(&self, group: usize) -> bool {
        let Fate::Known(reserved) = &self.fate else { return false };
        let answer = reserved.answers.get(group);
        answer.is_some_and(|(answer, _)| answer.verdict == Verdict::Foreign)
    }
}

impl Plan {
    fn empty() -> Self {
        Self { places: VecDeque::new(), groups: Arc::new([]), ahead_ms: None }
    }
}

impl Planner {
    /// What is to be done there, and what was taken for which request.
    pub(super) fn acts(
        &self,
        answers: &Answers,
        changes: Option<&[Change]>,
        engine: &Engine,
        now: Moment,
    ) -> (Vec<Act>, Vec<(RequestId, Taken)>) {
        let (mut acts, mut taken) = (Vec::new(), Vec::new());
        let Some(plan) = &answers.plan else { return (acts, taken) };
        let ahead = plan.ahead_ms.unwrap_or_else(|| wall_ahead(now));
        let at_ms = answers.now.boot_ms.saturating_add_signed(ahead);
        for (number, group) in plan.groups.iter().enumerate() {
            if answers.is_foreign(number) {
                continue;
            }
            let charged = changes.is_some().then(|| &answers.charged[number]);
            let mut of_request = Vec::new();
            for (index, claim) in group.claims.iter().enumerate() {
                let Counted::Limiter(limiter, window) = claim.counted else { continue };
                if claim.looks || claim.cost == 0 {
                    continue;
                }
                let counts = charged.is_some_and(|it| it.limiters.contains(&limiter));
                let (tag, ticket) = (claim.tag, group.ticket);
                let take = Deed::Take(limiter, window, claim.cost, at_ms);
                let deed = match (counts, answers.was_taken(number, index)) {
                    (true, Some(false)) => Some(Deed::Add(limiter, window, claim.cost, at_ms)),
                    (false, Some(true)) => Some(take.clone()),
                    // Only a log tells whether it was done.
                    (true, None) if matches!(window, Window::Log { .. }) => {
                        Some(Deed::Add(limiter, window, claim.cost, at_ms))
                    }
                    (false, None) if matches!(window, Window::Log { .. }) => Some(take.clone()),
                    (true, Some(true) | None) | (false, Some(false) | None) => None,
                };
                acts.extend(deed.map(|deed| Act { tag, ticket, deed }));
                if counts {
                    of_request.push(Act { tag, ticket, deed: take });
                }
            }
            if let Some(request) = charged.and_then(|it| it.request.clone()) {
                taken.push((request, of_request));
            }
        }
        self.lease_acts(answers, plan, changes, engine, &mut acts);
        let Some(changes) = changes else { return (acts, taken) };
        let forget = |tag: Tag, limiter: Limiter| {
            let deed = Deed::Forget(limiter, self.window(limiter)?);
            Some(Act { tag, ticket: self.ticket(), deed })
        };
        for (limiter, bearer) in &answers.taken_back {
            acts.extend(forget(self.tags.of(bearer), *limiter));
        }
        self.score_acts(&answers.learned, changes, engine, now, &mut acts);
        for change in changes {
            let Change::Pardon(bearer) = change else { continue };
            let tag = self.tags.of(bearer);
            acts.push(Act { tag, ticket: self.ticket(), deed: Deed::Pardon });
            acts.extend(self.windows.iter().filter_map(|(limiter, _)| forget(tag, *limiter)));
        }
        (acts, taken)
    }

    fn lease_acts(
        &self,
        answers: &Answers,
        plan: &Plan,
        changes: Option<&[Change]>,
        engine: &Engine,
        acts: &mut Vec<Act>,
    ) {
        let name = |id| LeaseName { host: self.host, id };
        let mut act = |tag, deed| acts.push(Act { tag, ticket: self.ticket(), deed });
        let mut there = Vec::new();
        for (group, id, is_given) in &answers.leases {
            let claim = &plan.groups[*group].claims[0];
            let is_held = *is_given && changes.is_some();
            match answers.was_taken(*group, 0) {
                Some(true) if is_held => there.push(*id),
                Some(true) | None if !is_held && !claim.looks => {
                    act(claim.tag, Deed::End(name(*id)));
                }
                _ => {}
            }
        }
        let Some(changes) = changes else { return };
        let lifetime = engine.rules().concurrency.map_or(0, |rule| rule.lease_ms);
        let hold = |id| Deed::Hold(name(id), lifetime.saturating_add(self.slack_ms));
        let mut fresh: HashMap<LeaseId, &Lease> = HashMap::new();
        for change in changes {
            match change {
                Change::Lease(lease, _) => {
                    fresh.insert(lease.id, lease);
                    if !there.contains(&lease.id) {
                        act(self.tags.of(&lease.bearer), hold(lease.id));
                    }
                }
                Change::Renew(id, _) | Change::Release(id) => {
                    let known = fresh.get(id).copied().or_else(|| engine.lease(*id));
                    let Some(lease) = known else { continue };
                    let is_over = matches!(change, Change::Release(_));
                    let deed = if is_over { Deed::End(name(*id)) } else { hold(*id) };
                    act(self.tags.of(&lease.bearer), deed);
                }
                _ => {}
            }
        }
    }

    /// Points that were added here; not what was only learned.
    fn score_acts(
        &self,
        learned: &[(ScoreKey, Score)],
        changes: &[Change],
        engine: &Engine,
        now: Moment,
        acts: &mut Vec<Act>,
    ) {
        let Rules { scoring, .. } = engine.rules();
        let mut known: HashMap<&ScoreKey, Score> = HashMap::new();
        for change in changes {
            let Change::Score(key, score) = change else { continue };
            let before = known.insert(key, *score).or_else(|| engine.score(key));
            if learned.iter().any(|(other, it)| other == key && it == score) {
                continue;
            }
            let own = before.unwrap_or_default();
            let base = own.now(scoring.decay, now.unix_ms);
            let spent = (score.spent - base.spent).max(0.0);
            let points = score.shown() - base.shown();
            let (kind, decay) = (key.kind, scoring.decay);
            let deed = Deed::Points { kind, points, spent, decay, own };
            acts.push(Act { tag: self.tags.of(&key.bearer), ticket: self.ticket(), deed });
        }
    }
}

/// Before the server has told its clock: ours, as far as it goes.
fn wall_ahead(now: Moment) -> i64 {
    let unix = i64::try_from(now.unix_ms).unwrap_or(i64::MAX);
    unix.saturating_sub(i64::try_from(now.boot_ms).unwrap_or(i64::MAX))
}
