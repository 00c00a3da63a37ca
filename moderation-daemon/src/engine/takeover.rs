//! Bans that were decided elsewhere: by a person, or by another host. They hold here
//! under this host's guards and bounds. Where they come from is not known here.

use std::sync::Arc;

use super::{Author, Ban, BanRefusal, Change, Overlay};

impl Overlay<'_> {
    /// Takes over a ban as it is, but for its number.
    ///
    /// # Errors
    ///
    /// If the address is protected here, or the user is and a rule banned, or there are
    /// as many bans as there may be.
    pub fn take_ban(&mut self, ban: Ban) -> Result<Arc<Ban>, BanRefusal> {
        let trust = &self.engine.trust;
        if let Some(trusted) = ban.prefix.and_then(|prefix| trust.forbidding(prefix)) {
            return Err(BanRefusal::Protected(trusted));
        }
        if ban.by == Author::Rule && self.is_spared(&ban) {
            return Err(BanRefusal::ProtectedUser);
        }
        if !self.has_room(ban.prefix) {
            return Err(BanRefusal::Full);
        }
        let is_proxy = ban.prefix.is_some_and(|prefix| trust.proxy(prefix).is_some());
        let blocks = ban.blocks && !is_proxy;
        let ban = Arc::new(Ban { id: self.next_ban, blocks, ..ban });
        self.record(Change::Ban(Arc::clone(&ban)));
        Ok(ban)
    }

    /// Whether no rule of this host would ban its user.
    fn is_spared(&self, ban: &Ban) -> bool {
        let Some(user) = &ban.user else { return false };
        let role = self.described(user).and_then(|traits| traits.role.as_ref());
        let protected = &self.engine.rules.ban.protected;
        protected.users.contains(user) || role.is_some_and(|role| protected.roles.contains(role))
    }
}
