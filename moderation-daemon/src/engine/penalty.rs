//! From a broken rule to a ban: whether one falls, on whom, whether the kernel
//! enforces it, and when many narrow ones become a wide one. Reads the overlay,
//! changes nothing.

use std::sync::Arc;

use super::{
    Author, Ban, BanLength, BanRefusal, Change, Moment, NetworkBlock, Overlay, Prefix, Subject,
    Trusted, Violation, score::Scored,
};

/// What a violation brings.
#[derive(Debug, Default)]
pub(super) struct Sentence {
    /// The ban on the subject.
    pub(super) ban: Option<Arc<Ban>>,
    /// Why there is none, or why its address or a wider block is not in it.
    pub(super) refusal: Option<BanRefusal>,
    /// Whether the user's sessions are to end, though no ban falls.
    pub(super) logout: bool,
    /// Whether the points have led to something; else the next ones may.
    pub(super) is_final: bool,
    /// The bans, and that one was called for.
    pub(super) changes: Vec<Change>,
}

impl Sentence {
    fn refused(refusal: BanRefusal) -> Self {
        Self { refusal: Some(refusal), ..Self::default() }
    }
}

impl Overlay<'_> {
    /// What a violation brings; nothing if the score crosses no line.
    pub(super) fn sentence(
        &self,
        violation: &Violation,
        scored: Scored,
        subject: &Subject,
        now: Moment,
    ) -> Sentence {
        let rule = &self.engine.rules.ban;
        if !rule.enabled || !scored.crosses {
            return Sentence::default();
        }
        let expires_at_unix_ms = match rule.length {
            BanLength::Soft => {
                return Sentence { logout: true, is_final: true, ..Sentence::default() };
            }
            BanLength::For(ms) => Some(now.unix_ms.saturating_add(ms)),
            BanLength::Forever => None,
        };
        let (user, prefix) = (subject.user().cloned(), self.bannable_prefix(subject));
        let prefix = match (&user, prefix) {
            (None, Some(Err(trusted))) => return Sentence::refused(BanRefusal::Protected(trusted)),
            (_, prefix) => prefix.and_then(Result::ok),
        };
        // Long lists that fill the kernel must not keep users from being banned.
        let prefix_fits = self.has_room(prefix);
        let prefix = prefix.filter(|_| prefix_fits);
        if !prefix_fits && (user.is_none() || !self.has_room(None)) {
            return Sentence::refused(BanRefusal::Full);
        }
        let call = Change::BanCall(now.boot_ms);
        if self.is_runaway(now) {
            // One that is due still has been called for before: those who wait
            // must not keep the circuit open.
            let changes = scored.is_news.then_some(call).into_iter().collect();
            return Sentence { changes, ..Sentence::refused(BanRefusal::Runaway) };
        }
        let ban = Arc::new(Ban {
            id: self.next_ban,
            user,
            prefix,
            blocks: self.blocks(violation, prefix),
            reason: format!("{} score reached {}", violation.kind, violation.total),
            violation: Some(violation.kind),
            score: Some(violation.total),
            created_at_unix_ms: now.unix_ms,
            expires_at_unix_ms,
            by: Author::Rule,
            with: None,
            severity: violation.severity,
            review: false,
        });
        let mut sentence = Sentence {
            ban: Some(Arc::clone(&ban)),
            refusal: (!prefix_fits).then_some(BanRefusal::Full),
            logout: false,
            is_final: true,
            changes: vec![call, Change::Ban(Arc::clone(&ban))],
        };
        self.escalate(&ban, now, &mut sentence);
        sentence
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
                ..ban.as_ref().clone()
            })));
        }
    }
}
