//! What happened to a subject and why, in sentences for people. Reads what was
//! gathered, gathers nothing.

use crate::{
    clock,
    engine::{
        Author, Ban, BanRule, Bearer, Concurrency, Count, Crossing, Dossier, Moment, Offence,
        Penalty, PenaltyKind, Score, ScoreKey, Trust,
    },
    moderator::{BanView, Enforcement},
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
    /// When bans fall.
    pub(super) rule: &'a BanRule,
    /// How many generations may run.
    pub(super) concurrency: Option<Concurrency>,
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
        let past = self.history.bans.iter().filter(|record| self.is_over(record));
        told.extend(past.map(past_ban));
        told.extend(self.dossier.penalties.iter().map(|penalty| penalty_that_holds(penalty)));
        told.extend(self.dossier.scores.iter().map(|(key, score)| self.score(key, *score)));
        told.extend(self.dossier.offences.iter().filter_map(|(bearer, it)| offence(bearer, *it)));
        told.extend(self.dossier.limits.iter().map(|count| self.limit(count)));
        told.extend(self.leases());
        if let Some(factor) = self.dossier.factor.filter(|factor| *factor != 1_000) {
            told.push(format!("Limits are multiplied by {}.", permille(factor)));
        }
        if self.dossier.is_protected {
            told.push(
                "No rule bans this user: bans.protected names the id or the role. Packets from an \
                 address that is banned because of others are dropped all the same; only the \
                 allowlist prevents that."
                    .to_owned(),
            );
        }
        told.extend(totals(&self.history.totals));
        if told.is_empty() {
            told.push("Nothing is recorded about it.".to_owned());
        }
        told
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
        told.extend(self.chain(ban));
        if let Some(with) = ban.with {
            told.push(format!("Ban {id} came with ban {with} and is lifted with it."));
        }
        if ban.review {
            told.push(format!("Ban {id} is a suspension: a person is to look at it."));
        }
        let prefix = ban.prefix.map(|prefix| prefix.to_string()).unwrap_or_default();
        told.extend(view.network.map(|network| match network {
            Enforcement::Blocked => format!("The kernel drops the packets of {prefix}."),
            Enforcement::Pending => {
                format!("The kernel is to drop the packets of {prefix}, and does not yet.")
            }
            Enforcement::Never => format!("Ban {id} holds at the API only."),
            Enforcement::Proxy(proxy) => {
                format!("Ban {id} holds at the API only: {prefix} is within the proxy {proxy}.")
            }
        }));
    }

    /// The violations that a ban fell for.
    fn chain(&self, ban: &Ban) -> Option<String> {
        let kind = ban.violation?.name();
        let last = self.history.violations.iter().position(|one| one.ban == Some(ban.id))?;
        let chain: Vec<_> = self.history.violations[last..]
            .iter()
            .filter(|one| one.kind == kind)
            .take_while(|one| one.ban.is_none_or(|other| other == ban.id))
            .collect();
        let (newest, oldest) = (chain.first()?, chain.last()?);
        let (previous, total) = (newest.previous, newest.total);
        let interval = self.rule.interval;
        let reached = match self.rule.crossing {
            Crossing::Total => format!("a ban falls at every multiple of {interval}"),
            Crossing::Consumed => format!("every {interval} points are a ban"),
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

    fn score(&self, key: &ScoreKey, score: Score) -> String {
        let (kind, whose, shown) = (key.kind.name(), bearer(&key.bearer), score.shown());
        let interval = self.rule.interval;
        let next = match self.rule.crossing {
            Crossing::Total => ((shown / interval).floor() + 1.0) * interval,
            Crossing::Consumed => shown - score.points + interval,
        };
        if !self.rule.enabled || !next.is_finite() {
            return format!("The score of {whose} for {kind} is {shown}; no ban comes of it.");
        }
        format!("The score of {whose} for {kind} is {shown}; the next ban falls at {next}.")
    }

    fn limit(&self, count: &Count) -> String {
        let (name, used, max) = (count.limiter.name(), count.usage.used, count.max);
        let free = span(count.retry_at_boot_ms().saturating_sub(self.now.boot_ms));
        format!("Of {name}, {used} of {max} are used up; some of it is free again in {free}.")
    }

    fn leases(&self) -> Option<String> {
        let running = self.dossier.leases.len();
        let max = self.concurrency?.max;
        (running > 0).then(|| {
            format!(
                "{} running, of {max} at once.",
                many(running, "generation is", "generations are")
            )
        })
    }
}

/// One violation in a line.
pub(super) fn violation(one: &ViolationRecord) -> String {
    let at = clock::rfc3339(one.at_unix_ms);
    let mut text = format!("{at} {}: {}", one.kind, points(one.points));
    text += &format!(", {} → {}", one.previous, one.total);
    if let (Some(limiter), Some(max)) = (&one.limiter, &one.max) {
        let window = one.window_ms.map(|ms| format!(" in {}", span(ms))).unwrap_or_default();
        // As JSON, where it may be a string.
        let max = max.trim_matches('"');
        text += &format!(", more than {max}{window} ({limiter})");
    }
    if let Some(pending) = one.pending {
        text +=
            &format!(", while {} running", many_of(pending, "generation was", "generations were"));
    }
    if one.repeats > 0 {
        text += &format!(", after {} repeats that counted for nothing", one.repeats);
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
    text
}

fn whom(ban: &Ban) -> String {
    let user = ban.user.as_ref().map(|user| format!("user {user}"));
    let prefix = ban.prefix.map(|prefix| prefix.to_string());
    let both: Vec<_> = user.into_iter().chain(prefix).collect();
    both.join(" and ")
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

fn penalty_that_holds(penalty: &Penalty) -> String {
    let what = match &penalty.kind {
        PenaltyKind::Warning { message } => format!("a warning, {message:?}"),
        PenaltyKind::RemoveContent => "content was to be removed".to_owned(),
        PenaltyKind::Reduce { factor_permille } => {
            format!("limits are multiplied by {}", permille(u32::from(*factor_permille)))
        }
        PenaltyKind::Ban(ban) => format!("ban {ban}"),
        PenaltyKind::Suspension(ban) => format!("a suspension, ban {ban}"),
    };
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
