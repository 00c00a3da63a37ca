//! All that the engine knows about a subject, gathered for whoever explains it.
//! Puts nothing into words, and changes nothing.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Act, Ban, Bearer, Count, Engine, Lease, Limiter, Moment, Offence, Penalty, Prefix, Request,
    Score, ScoreKey, Standing, Subject, Traits, Trusted, ViolationType,
};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dossier {
    /// Active bans that hold for the subject, by number.
    pub bans: Vec<Arc<Ban>>,
    /// Penalties that hold, by number.
    pub penalties: Vec<Arc<Penalty>>,
    /// Scores, of the user and of the address, by type.
    pub scores: Vec<(ScoreKey, Score)>,
    /// What limiters say about the next event; those that nothing is used up
    /// of are left out.
    pub limits: Vec<Count>,
    /// Leases that are held.
    pub leases: Vec<Lease>,
    /// How often the user and the address have been banned.
    pub offences: Vec<(Bearer, Offence)>,
    /// What the app said about the user.
    pub traits: Option<Traits>,
    /// How the user's limits stand now, if they follow anything.
    pub standing: Option<Standing>,
    /// Content of the user that was flagged lately.
    pub flagged: u32,
    /// The prefix that protects the address from every ban.
    pub trusted: Option<Trusted>,
    /// Whether no rule may ban the user.
    pub is_protected: bool,
}

impl Engine {
    /// All that is known about a subject.
    pub fn dossier(&self, subject: &Subject, now: Moment) -> Dossier {
        let user = subject.user();
        let address = self.rules.counting.address(subject);
        let bearers: Vec<Bearer> = [user.cloned().map(Bearer::User), address.map(Bearer::Address)]
            .into_iter()
            .flatten()
            .collect();
        let leases = bearers.iter().flat_map(|bearer| self.leases.of(bearer));
        let offences =
            bearers.iter().filter_map(|of| Some((of.clone(), self.offence_now(of, now)?)));
        Dossier {
            bans: self.bans_on(subject, now),
            penalties: self.penalties_on(subject, now),
            scores: bearers.iter().flat_map(|bearer| self.scores_of(bearer, now)).collect(),
            limits: self.limits_of(subject, now),
            leases: leases.filter(|it| now.boot_ms < it.ends_at_boot_ms).cloned().collect(),
            offences: offences.collect(),
            traits: user.and_then(|user| self.traits(user)).cloned(),
            standing: user.and_then(|user| self.overlay().standing(user, now)),
            flagged: user.and_then(|user| self.factor(user)).map_or(0, |factor| factor.flagged),
            trusted: subject.ip().and_then(|ip| self.trust.of(ip)),
            is_protected: self.overlay().is_protected(subject, None),
        }
    }

    fn bans_on(&self, subject: &Subject, now: Moment) -> Vec<Arc<Ban>> {
        let of_user = subject.user().into_iter().flat_map(|user| self.bans.of_user(user));
        let around = subject.ip().into_iter().flat_map(|ip| self.bans.prefixes_around(ip));
        let of_ip = around.flat_map(|prefix| self.bans.of_prefix(prefix));
        let holding = of_user.chain(of_ip).filter(|ban| ban.holds_at(now.unix_ms));
        let by_number: BTreeMap<_, _> = holding.map(|ban| (ban.id, Arc::clone(ban))).collect();
        by_number.into_values().collect()
    }

    /// Looks at every penalty.
    fn penalties_on(&self, subject: &Subject, now: Moment) -> Vec<Arc<Penalty>> {
        let contains = |prefix: &Prefix| subject.ip().is_some_and(|ip| prefix.contains(ip));
        let concerns = |penalty: &&Arc<Penalty>| {
            let is_user = subject.user().is_some() && penalty.user.as_ref() == subject.user();
            is_user || penalty.prefix.as_ref().is_some_and(contains)
        };
        let all = self.memory.penalties.iter().flat_map(|(_, penalties)| penalties);
        let holding = all.filter(concerns).filter(|penalty| penalty.holds_at(now.unix_ms));
        let by_number: BTreeMap<_, _> = holding.map(|it| (it.id, Arc::clone(it))).collect();
        by_number.into_values().collect()
    }

    /// Those of which something is left.
    fn scores_of(&self, bearer: &Bearer, now: Moment) -> impl Iterator<Item = (ScoreKey, Score)> {
        let decay = self.rules.scoring.decay;
        ViolationType::all().filter_map(move |kind| {
            let key = ScoreKey { bearer: bearer.clone(), kind };
            let score = self.scores.get(&key)?.now(decay, now.unix_ms);
            (score.shown() != 0.0).then_some((key, score))
        })
    }

    fn offence_now(&self, bearer: &Bearer, now: Moment) -> Option<Offence> {
        let offence = self.offence(bearer)?;
        let growth = self.rules.ban.growth;
        Some(growth.map_or(offence, |growth| offence.now(growth, now.unix_ms)))
    }

    /// Each limiter once, as the first event that it is asked about sees it.
    fn limits_of(&self, subject: &Subject, now: Moment) -> Vec<Count> {
        let overlay = self.overlay();
        let mut limits: BTreeMap<Limiter, Count> = BTreeMap::new();
        for rule in &self.rules.events {
            let request = Request::new(Act::event(rule.kind), subject.clone());
            for count in overlay.counts(&request, now) {
                limits.entry(count.limiter).or_insert(count);
            }
        }
        limits.into_values().filter(|count| count.usage.used > 0 && !count.is_shared).collect()
    }
}
