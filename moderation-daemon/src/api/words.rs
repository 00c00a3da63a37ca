//! What happened to a subject and why, in sentences for people. Reads what was
//! gathered, gathers nothing.

use crate::{
    clock,
    engine::{
        Author, Ban, Bearer, Count, Crossing, Dossier, Moment, Offence, Penalty, PenaltyKind,
        Rules, Score, ScoreKey, Standing, Trust, ViolationType,
    },
    ledger::Origin,
    moderator::{BanView, Denial, Enforcement},
    store::{BanRecord, History, Total, ViolationRecord},
};

/// What there is to explain.
pub(super) struct Facts<'a> {
    /// The subject, as it is called.
    pub(super) name: &'a str,
    /// Now.
    pub(super) now: Moment,
    /// What holds for the subject longest.
    pub(super) standing: Option<&'a BanView>,
    /// The active bans, with what the kernel does about them.
    pub(super) active: &'a [BanView],
    /// What the engine knows.
    pub(super) dossier: &'a Dossier,
    /// What the store knows.
    pub(super) history: &'a History,
    /// When bans fall, and what comes instead.
    pub(super) rules: &'a Rules,
}

impl Facts<'_> {
    /// How it stands, in a sentence.
    pub(super) fn verdict(&self) -> String {
        let name = self.name;
        let trusted = self.dossier.trusted.filter(|trusted| trusted.trust > Trust::Proxy);
        match (self.standing, trusted) {
            (Some(view), _) => {
                let Some(end) = view.ban.expires_at_unix_ms else {
                    return format!("{name} is banned until somebody lifts it.");
                };
                let left = span(end.saturating_sub(self.now.unix_ms));
                format!("{name} is banned until {}, for {left} more.", clock::rfc3339(end))
            }
            (None, Some(trusted)) => {
                let why = match trusted.trust {
                    Trust::Guard => "is guarded",
                    Trust::Allowlist | Trust::Proxy => "is on the allowlist",
                };
                format!("{name} is not banned and cannot be: {} {why}.", trusted.prefix)
            }
            (None, None) => format!("{name} is not banned."),
        }
    }

    /// What led there, one thing a sentence, the most important first.
    pub(super) fn because(&self) -> Vec<String> {
        let mut told = Vec::new();
        if let Some(source) = self.standing.and_then(|view| view.source.as_ref()) {
            told.push(format!("It is on the imported list {source}."));
        }
        for view in self.active {
            self.tell_ban(view, &mut told);
        }
        told.extend(self.dossier.penalties.iter().map(|penalty| penalty_that_holds(penalty)));
        told.extend(self.ended_sessions());
        told.extend(self.nothing_held());
        let past = self.history.bans.iter().filter(|record| self.is_over(record));
        told.extend(past.map(past_ban));
        told.extend(self.past_penalties().map(past_penalty));
        told.extend(self.dossier.scores.iter().map(|(key, score)| self.score(key, *score)));
        told.extend(self.dossier.offences.iter().filter_map(|(bearer, it)| offence(bearer, *it)));
        told.extend(self.dossier.limits.iter().map(|count| self.limit(count)));
        told.extend(self.leases());
        told.extend(self.standing());
        if self.dossier.is_protected {
            told.push(
                "No rule bans this user: bans.protected names the id or the role. What rules do \
                 to an address because of others does not hold for this user at the API; the \
                 kernel drops packets from it all the same, which only the allowlist prevents."
                    .to_owned(),
            );
        }
        told.extend(totals(&self.history.totals));
        if told.is_empty() {
            told.push(format!("Nothing is recorded about {}.", self.name));
        }
        told
    }

    /// What ended sessions last without a ban.
    fn ended_sessions(&self) -> Option<String> {
        let last = self.history.violations.iter().find(|one| one.logout)?;
        let ViolationRecord { kind, previous, total, .. } = last;
        let whose = last.user.as_ref().map_or_else(String::new, |user| format!(" of user {user}"));
        Some(format!(
            "At {} the score{whose} for {kind} went from {previous} to {total}: the app was told \
             to end the sessions, and no ban fell (bans.duration: soft).",
            clock::rfc3339(last.at_unix_ms)
        ))
    }

    /// That what happened is past, if anything did.
    fn nothing_held(&self) -> Option<String> {
        let Dossier { bans, penalties, scores, limits, offences, .. } = self.dossier;
        let counts = |(_, offence): &(Bearer, Offence)| offence.level >= 1.0;
        let is_free = self.standing.is_none()
            && (bans.is_empty() && penalties.is_empty() && scores.is_empty() && limits.is_empty())
            && !offences.iter().any(counts);
        let History { bans, penalties, violations, totals, .. } = self.history;
        let is_new =
            bans.is_empty() && penalties.is_empty() && violations.is_empty() && totals.is_empty();
        (is_free && !is_new).then(|| {
            format!(
                "Nothing is held against {} any more: no score, no penalty, no limit used up.",
                self.name
            )
        })
    }

    /// The penalties that are over, the latest first.
    pub(super) fn past_penalties(&self) -> impl Iterator<Item = &Penalty> {
        self.history.penalties.iter().filter(|penalty| !penalty.holds_at(self.now.unix_ms))
    }

    fn is_over(&self, record: &BanRecord) -> bool {
        record.lifted_at_unix_ms.is_some() || !record.ban.holds_at(self.now.unix_ms)
    }

    fn tell_ban(&self, view: &BanView, told: &mut Vec<String>) {
        let ban = &view.ban;
        let (id, at) = (ban.id, clock::rfc3339(ban.created_at_unix_ms));
        let (whom, length) = (whom(ban), length(ban));
        told.push(match &ban.by {
            Author::Operator(name) => {
                format!(
                    "Ban {id} of {whom}, {length}, was placed by {name} at {at}: {}.",
                    ban.reason
                )
            }
            Author::Rule => {
                format!("Ban {id} of {whom}, {length}, fell at {at}: {}.", ban.reason)
            }
        });
        told.extend(self.history.origins.get(&id).and_then(|origin| origin_told(id, origin)));
        told.extend(self.chain(ban));
        told.extend(self.address_left_out(ban));
        if let Some(with) = ban.with {
            told.push(format!(
                "Several users are at that address, so that it is banned for a shorter time: ban \
                 {id} came with ban {with} and is lifted with it."
            ));
        }
        if ban.review {
            told.push(format!(
                "Ban {id} is a suspension until a person has looked at it: lift it, or ban for \
                 longer. Else it ends by itself."
            ));
        }
        let prefix = ban.prefix.map(|prefix| prefix.to_string()).unwrap_or_default();
        told.extend(view.network.map(|network| match network {
            Enforcement::Blocked => format!("The kernel drops the packets of {prefix}."),
            Enforcement::Pending => {
                format!("The kernel is to drop the packets of {prefix}, and does not yet.")
            }
            Enforcement::Off => format!(
                "Ban {id} holds at the API only: network.mode is off, so that the kernel drops \
                 nothing."
            ),
            Enforcement::Never => format!("Ban {id} holds at the API only."),
            Enforcement::Proxy(proxy) => {
                format!("Ban {id} holds at the API only: {prefix} is within the proxy {proxy}.")
            }
        }));
    }

    /// The violations that a ban fell for.
    fn chain(&self, ban: &Ban) -> Option<String> {
        let kind = ban.violation?.name();
        if ban.review {
            return None;
        }
        let last = self.history.violations.iter().position(|one| one.ban == Some(ban.id))?;
        let chain: Vec<_> = self.history.violations[last..]
            .iter()
            .filter(|one| one.kind == kind)
            .take_while(|one| one.ban.is_none_or(|other| other == ban.id))
            .collect();
        let (newest, oldest) = (chain.first()?, chain.last()?);
        let (previous, total) = (newest.previous, newest.total);
        let rule = &self.rules.ban;
        let interval = rule.interval;
        let what = if self.has_ladder(ban.violation?) { "a step of its ladder" } else { "a ban" };
        let reached = match rule.crossing {
            Crossing::Total => format!("{what} falls at every multiple of {interval}"),
            Crossing::Consumed => format!("every {interval} points are {what}"),
        };
        let led = match chain.len() {
            1 => "one violation led to it".to_owned(),
            many => {
                let first = clock::rfc3339(oldest.at_unix_ms);
                format!("{many} violations led to it, the first of them at {first}")
            }
        };
        let id = ban.id;
        Some(format!(
            "For ban {id} the score of {kind} went from {previous} to {total}, and {reached}; {led}."
        ))
    }

    /// That a user was banned without the address at which it happened.
    fn address_left_out(&self, ban: &Ban) -> Option<String> {
        let is_of_user = ban.by == Author::Rule && ban.user.is_some() && ban.prefix.is_none();
        let of_ban = |one: &&ViolationRecord| one.ban == Some(ban.id);
        let last = self.history.violations.iter().find(of_ban).filter(|_| is_of_user)?;
        // It may have a ban of its own.
        let apart = |record: &BanRecord| record.ban.with == Some(ban.id);
        let ip = last.ip.as_ref().filter(|_| !self.history.bans.iter().any(apart))?;
        Some(format!(
            "{ip} was not banned with the user: it is protected, or others who did nothing are \
             there, or it has a ban of its own."
        ))
    }

    fn has_ladder(&self, kind: ViolationType) -> bool {
        self.rules.ladders.of(kind).is_some()
    }

    fn score(&self, key: &ScoreKey, score: Score) -> String {
        let (kind, whose, shown) = (key.kind.name(), bearer(&key.bearer), score.shown());
        let rule = &self.rules.ban;
        let interval = rule.interval;
        let next = match rule.crossing {
            Crossing::Total => ((shown / interval).floor() + 1.0) * interval,
            Crossing::Consumed => shown - score.points + interval,
        };
        // Whoever is protected is so as a user, wherever the points are.
        let is_spared = self.dossier.is_protected && matches!(key.bearer, Bearer::User(_));
        if !rule.enabled || !next.is_finite() || (is_spared && !self.has_ladder(key.kind)) {
            return format!("The score of {whose} for {kind} is {shown}; no ban comes of it.");
        }
        let what = if self.has_ladder(key.kind) { "step of its ladder" } else { "ban" };
        format!("The score of {whose} for {kind} is {shown}; the next {what} falls at {next}.")
    }

    fn limit(&self, count: &Count) -> String {
        let (name, used, max) = (count.limiter.name(), count.usage.used, count.max);
        let free = span(count.retry_at_boot_ms().saturating_sub(self.now.boot_ms));
        let used = used_up(used, max);
        format!("Of {name}, {used}; some of it is free again in {free}.")
    }

    /// What limits are multiplied by, of all that holds together.
    fn standing(&self) -> Option<String> {
        let standing = self.dossier.standing.as_ref();
        let reduced = self.dossier.penalties.iter().filter_map(|penalty| match penalty.kind {
            PenaltyKind::Reduce { factor_permille } => Some(u32::from(factor_permille)),
            _ => None,
        });
        let reduced: Vec<_> = reduced.collect();
        let own = standing.map_or(1_000, |standing| standing.permille);
        let all = reduced.iter().fold(f64::from(own), |all, it| all * f64::from(*it) / 1_000.0);
        let is_usual = |it: &Standing| it.factors.is_empty() && it.permille == 1_000;
        if standing.is_none_or(is_usual) && reduced.len() < 2 {
            return None;
        }
        let penalties = reduced.iter().map(|it| format!("a penalty's {}", permille(*it)));
        let known = standing.into_iter().flat_map(|standing| &standing.factors);
        let known = known.map(|(name, it)| format!("{name} {}", permille(*it)));
        let causes = known.chain(penalties).collect::<Vec<_>>().join(", ");
        let target = standing.map_or(own, |standing| standing.target_permille);
        let rising = (own < target).then(|| format!(", rising by and by to {}", permille(target)));
        let own = standing.map(|_| format!(", of which {} follows the user", permille(own)));
        Some(format!(
            "Limits are multiplied by {}{}{} ({causes}).",
            all.round() / 1_000.0,
            own.unwrap_or_default(),
            rising.unwrap_or_default(),
        ))
    }

    fn leases(&self) -> Option<String> {
        let running = self.dossier.leases.len();
        let max = self.rules.concurrency?.max;
        (running > 0).then(|| {
            format!(
                "{} running, of {max} at once.",
                many(running, "generation is", "generations are")
            )
        })
    }
}

/// A denial that somebody asks about, in a sentence.
pub(super) fn denial(one: &Denial) -> String {
    let Denial { code, what, subject, grounds, first_unix_ms, last_unix_ms, times } = one;
    let (first, last) = (clock::rfc3339(*first_unix_ms), clock::rfc3339(*last_unix_ms));
    let when = if *times == 1 { first } else { format!("{times} times from {first} to {last}") };
    let by = subject.user().map(|user| format!(" by user {user}"));
    let from = subject.ip().map(|ip| format!(" from {ip}"));
    let whom: String = by.into_iter().chain(from).collect();
    let why = match (&grounds.list, grounds.ban, grounds.limit) {
        (Some(list), ..) => format!("the address is on the imported list {list}"),
        (None, Some(ban), _) => format!("{} (ban #{ban})", grounds.reason),
        (None, None, Some((limiter, most))) => {
            format!("{}: more than {most} ({limiter})", grounds.reason)
        }
        (None, None, None) => grounds.reason.to_owned(),
    };
    format!("{code}: {}{whom} was denied, {when}: {why}.", what.name())
}

/// One violation in a line.
pub(super) fn violation(one: &ViolationRecord) -> String {
    let at = clock::rfc3339(one.at_unix_ms);
    let mut text = format!("{at} {}: {}", one.kind, points(one.points));
    text += &format!(", {} → {}", one.previous, one.total);
    if let Some(max) = one.max.as_ref().filter(|_| one.pending.is_none()) {
        let window = one.window_ms.map(|ms| format!(" in {}", span(ms))).unwrap_or_default();
        // As JSON, where it may be a string.
        let max = max.trim_matches('"');
        let limiter = one.limiter.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        text += &format!(", more than {max}{window}{limiter}");
    }
    if let Some(pending) = one.pending {
        text +=
            &format!(", while {} running", many_of(pending, "generation was", "generations were"));
    }
    if one.repeats > 0 {
        let repeats = many_of(u64::from(one.repeats), "repeat", "repeats");
        text += &format!(", after {repeats} that counted for nothing");
    }
    let by = one.user.as_ref().map(|user| format!(", by {user}"));
    let from = one.ip.as_ref().map(|ip| format!(", from {ip}"));
    text += &by.into_iter().chain(from).collect::<String>();
    text += &one.severity.as_ref().map(|it| format!(", severity {it}")).unwrap_or_default();
    text += &one.details.as_ref().map(|it| format!(" ({it})")).unwrap_or_default();
    if one.is_imported {
        text += ", imported";
    }
    text += &one.ban.map(|id| format!("; ban {id} fell")).unwrap_or_default();
    text += &one.penalty.map(|id| format!("; penalty p{id} fell")).unwrap_or_default();
    if one.logout {
        text += "; sessions were to end";
    }
    text
}

fn whom(ban: &Ban) -> String {
    let user = ban.user.as_ref().map(|user| format!("user {user}"));
    let prefix = ban.prefix.map(|prefix| prefix.to_string());
    let both: Vec<_> = user.into_iter().chain(prefix).collect();
    both.join(" and ")
}

/// Of a ban that others made.
fn origin_told(id: u64, origin: &Origin) -> Option<String> {
    match origin {
        Origin::Here => None,
        Origin::Host(name) => {
            Some(format!("Ban {id} comes from host {name}: what led to it is recorded there."))
        }
        Origin::Foreign => Some(format!(
            "Ban {id} comes from a document in the shared database that no host has signed: \
             LibreChat, a person or an intruder wrote it."
        )),
    }
}

fn length(ban: &Ban) -> String {
    match ban.expires_at_unix_ms {
        Some(end) => format!("for {}", span(end.saturating_sub(ban.created_at_unix_ms))),
        None => "for ever".to_owned(),
    }
}

fn past_ban(record: &BanRecord) -> String {
    let ban = &record.ban;
    let ended = match (record.lifted_at_unix_ms, ban.expires_at_unix_ms) {
        (Some(at), _) => {
            let by = record.lifted_by.as_deref().unwrap_or("somebody");
            format!("was lifted by {by} at {}", clock::rfc3339(at))
        }
        (None, end) => format!("ran out at {}", end.map(clock::rfc3339).unwrap_or_default()),
    };
    let at = clock::rfc3339(ban.created_at_unix_ms);
    format!("Ban {} of {}, since {at}, {ended}: {}.", ban.id, whom(ban), ban.reason)
}

fn what(penalty: &Penalty) -> String {
    match &penalty.kind {
        PenaltyKind::Warning { message } => format!("a warning, {message:?}"),
        PenaltyKind::RemoveContent => "the app was told to remove content".to_owned(),
        PenaltyKind::Reduce { factor_permille } => {
            format!("limits are multiplied by {}", permille(u32::from(*factor_permille)))
        }
        PenaltyKind::Ban(ban) => format!("ban {ban}"),
        PenaltyKind::Suspension(ban) => format!("a suspension, ban {ban}"),
    }
}

fn past_penalty(penalty: &Penalty) -> String {
    let (id, at, what) = (penalty.id, clock::rfc3339(penalty.starts_at_unix_ms), what(penalty));
    let ended = match (&penalty.ended, penalty.ends_at_unix_ms) {
        (Some((at, by)), _) => format!(", taken back by {by} at {}", clock::rfc3339(*at)),
        // A word and an instruction take no time.
        (None, Some(end)) if end > penalty.starts_at_unix_ms => {
            format!(", over since {}", clock::rfc3339(end))
        }
        (None, _) => String::new(),
    };
    format!("Penalty p{id} of {at}{ended}: {what}; {}.", penalty.reason)
}

fn penalty_that_holds(penalty: &Penalty) -> String {
    let what = what(penalty);
    let until = match penalty.ends_at_unix_ms {
        Some(end) => format!(" until {}", clock::rfc3339(end)),
        None => String::new(),
    };
    let (id, since) = (penalty.id, clock::rfc3339(penalty.starts_at_unix_ms));
    let by = match &penalty.by {
        Author::Rule => String::new(),
        Author::Operator(name) => format!(", by {name}"),
    };
    format!("Penalty p{id} since {since}{until}{by}: {what}; {}.", penalty.reason)
}

fn offence(of: &Bearer, offence: Offence) -> Option<String> {
    let whose = bearer(of);
    if offence.has_grace {
        return Some(format!("The next violation of {whose} brings no ban: the last was lifted."));
    }
    let level = offence.level.floor();
    let earlier = if level < 2.0 { "earlier ban counts" } else { "earlier bans count" };
    (level >= 1.0)
        .then(|| format!("Of {whose}, {level} {earlier}, so that the next one is longer."))
}

fn totals(totals: &[Total]) -> Option<String> {
    if totals.is_empty() {
        return None;
    }
    let each = totals.iter().map(|it| format!("{} {} ({})", it.count, it.kind, points(it.points)));
    Some(format!("In all: {}.", each.collect::<Vec<_>>().join(", ")))
}

fn bearer(of: &Bearer) -> String {
    match of {
        Bearer::User(user) => format!("user {user}"),
        Bearer::Address(address) => address.to_string(),
        Bearer::Account(account) => format!("account {account}"),
    }
}

/// More than all is used up where refused events count, and where a limit shrank.
fn used_up(used: u64, max: u64) -> String {
    if used > max {
        return format!("all {max} are used up, for {used} count");
    }
    format!("{used} of {max} are used up")
}

fn points(points: f64) -> String {
    if points == 1.0 { "1 point".to_owned() } else { format!("{points} points") }
}

fn many(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

fn many_of(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

fn permille(thousandths: u32) -> String {
    format!("{}", f64::from(thousandths) / 1_000.0)
}

/// A stretch of time by its two largest units.
fn span(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    let Some(first) = UNITS.iter().position(|(unit, _)| ms >= *unit) else {
        return format!("{ms} ms");
    };
    let (unit, name) = UNITS[first];
    let rest = UNITS.get(first + 1).map(|(smaller, name)| (ms % unit / smaller, name));
    match rest {
        Some((more, smaller)) if more > 0 => format!("{} {name} {more} {smaller}", ms / unit),
        _ => format!("{} {name}", ms / unit),
    }
}

#[cfg(test)]
mod tests;
