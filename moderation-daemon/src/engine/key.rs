//! What a window is found by: one digest of a limiter and of who is counted.
//! It is keyed, so that nobody can choose whom to share a window with, and it
//! says nothing about anybody to those who do not have the key.

use std::{hash::Hasher as _, net::IpAddr};

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::{Bearer, Limiter};

/// One limiter's count of one bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u128);

/// Makes keys.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    seed: [u64; 2],
}

impl Keys {
    /// The same seed makes the same keys.
    pub const fn new(seed: [u64; 2]) -> Self {
        Self { seed }
    }

    /// The key of one bearer.
    pub fn of(&self, limiter: Limiter, bearer: &Bearer) -> Key {
        let mut hasher = self.begin(limiter);
        match bearer {
            Bearer::User(user) => {
                hasher.write_u8(1);
                hasher.write(user.as_str().as_bytes());
            }
            Bearer::Address(address) => {
                let prefix = address.prefix();
                hasher.write(&[2, prefix.prefix_len()]);
                match prefix.addr() {
                    IpAddr::V4(ip) => hasher.write(&ip.octets()),
                    IpAddr::V6(ip) => hasher.write(&ip.octets()),
                }
            }
            Bearer::Account(account) => {
                hasher.write_u8(3);
                hasher.write(account.as_bytes());
            }
        }
        Key(hasher.finish128().as_u128())
    }

    /// The key of all those who came when the table was full.
    pub fn overflow(&self, limiter: Limiter) -> Key {
        Key(self.begin(limiter).finish128().as_u128())
    }

    /// A custom limiter's number differs from start to start; its name does not.
    fn begin(&self, limiter: Limiter) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_keys(self.seed[0], self.seed[1]);
        hasher.write(limiter.name().as_bytes());
        hasher.write_u8(0xff);
        hasher
    }
}

#[cfg(test)]
mod tests {
    use super::super::Account;
    use super::*;

    #[test]
    fn every_limiter_bearer_and_seed_has_a_key_of_its_own() {
        let user = |id: &str| Bearer::User(id.parse().expect("an id"));
        let address = |text: &str| Bearer::Address(text.parse().expect("an address"));
        let bearers = [
            user("anna"),
            user("bert"),
            user("\u{a0}"),
            address("192.0.2.7"),
            address("2001:db8::/64"),
            address("2001:db8::/128"),
            address("::ffff:192.0.2.7/128"),
            Bearer::Account(Account::of("anna")),
        ];
        let mut keys = Vec::new();
        for seed in [[1, 2], [2, 1]] {
            let make = Keys::new(seed);
            for limiter in [Limiter::LOGIN, Limiter::MESSAGE_USER] {
                keys.push(make.overflow(limiter));
                keys.extend(bearers.iter().map(|bearer| make.of(limiter, bearer)));
                assert_eq!(
                    make.of(limiter, &bearers[0]),
                    Keys::new(seed).of(limiter, &user("anna"))
                );
            }
        }
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
