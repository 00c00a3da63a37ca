//! What a window is found by: one digest of a limiter and of who is counted.
//! It is keyed, so that nobody can choose whom to share a window with, and it
//! says nothing about anybody to those who do not have the key.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
    num::NonZeroU64,
};

use siphasher::sip::SipHasher13;

use super::{Account, Bearer, Counting, Limiter, LimiterRule, Request, Rules, UserId};

/// One limiter's count of one bearer: a digest and the limiter's number in this
/// process. Of a million keys two have the same digest with a chance of one in
/// thirty million, and then share a window.
#[derive(Clone, Copy)]
pub struct Key {
    digest: u64,
    /// From the lowest bit on: a one; in the second byte the limiter's number; in the
    /// upper half where a table had it last, so that it need not look again. In one
    /// number, since two of them are passed on as they are, and what has more parts goes
    /// by way of memory, which takes longer than counting.
    rest: NonZeroU64,
}

/// No table has been asked yet.
const NOWHERE: u32 = u32::MAX;

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} {:016x})", self.limiter(), self.digest)
    }
}

impl PartialEq for Key {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        (self.digest, self.limiter()) == (other.digest, other.limiter())
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}

impl Key {
    pub(super) const fn new(digest: u64, limiter: u8) -> Self {
        Self { digest, rest: Self::rest(limiter, NOWHERE) }
    }

    const fn rest(limiter: u8, place: u32) -> NonZeroU64 {
        let rest = (place as u64) << 32 | (limiter as u64) << 8 | 1;
        NonZeroU64::new(rest).expect("one of its bits is set")
    }

    /// The limiter's number.
    #[expect(clippy::cast_possible_truncation, reason = "that is where it is")]
    pub(super) const fn limiter(self) -> u8 {
        (self.rest.get() >> 8) as u8
    }

    pub(super) const fn digest(self) -> u64 {
        self.digest
    }

    pub(super) const fn place(self) -> u32 {
        (self.rest.get() >> 32) as u32
    }

    pub(super) const fn at(self, place: u32) -> Self {
        Self { rest: Self::rest(self.limiter(), place), ..self }
    }

    /// Whether a table was asked, and has it.
    pub(super) const fn is_placed(self) -> bool {
        self.place() != NOWHERE
    }

    /// As it is kept.
    pub(super) const fn bare(self) -> Self {
        self.at(NOWHERE)
    }
}

/// Makes keys.
#[derive(Clone, Debug)]
pub struct Keys {
    seed: [u64; 2],
    /// By the limiter's number and by what is counted, so that a key is one digest
    /// of nothing but that.
    hashers: Vec<[SipHasher13; Kind::COUNT]>,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Everybody,
    User,
    Account,
    V4,
    V6,
}

impl Kind {
    const COUNT: usize = Self::V6 as usize + 1;
}

impl Keys {
    /// The same seed makes the same keys.
    pub fn new(seed: [u64; 2]) -> Self {
        let hashers = Limiter::all().map(|limiter| hashers_of(seed, limiter)).collect();
        Self { seed, hashers }
    }

    /// What they are made with; a secret.
    pub(super) const fn seed(&self) -> [u64; 2] {
        self.seed
    }

    /// The key of one bearer.
    pub fn of(&self, limiter: Limiter, bearer: &Bearer) -> Key {
        match bearer {
            Bearer::User(user) => self.of_user(limiter, user),
            Bearer::Account(account) => self.of_account(limiter, account),
            Bearer::Address(address) => {
                let prefix = address.prefix();
                self.of_ip(limiter, prefix.addr(), prefix.prefix_len())
            }
        }
    }

    /// The key of whomever a limiter counts for a request; `None`: nobody.
    #[inline]
    pub(super) fn counted(
        &self,
        rule: &LimiterRule,
        rules: &Rules,
        request: &Request,
    ) -> Option<Key> {
        let (limiter, subject) = (rule.limiter, &request.subject);
        rule.by.one_of(
            || subject.user().map(|user| self.of_user(limiter, user)),
            || request.account.as_ref().map(|account| self.of_account(limiter, account)),
            || {
                let Counting { v6_bits, .. } = rules.counting;
                Some(self.of_ip(limiter, rules.counting.ip(subject)?, v6_bits.min(128)))
            },
        )
    }

    fn of_user(&self, limiter: Limiter, user: &UserId) -> Key {
        self.digest(limiter, Kind::User, user.as_str().as_bytes())
    }

    fn of_account(&self, limiter: Limiter, account: &Account) -> Key {
        self.digest(limiter, Kind::Account, account.as_bytes())
    }

    /// Of an IPv6 address, its first so many bits.
    #[inline]
    fn of_ip(&self, limiter: Limiter, ip: IpAddr, v6_bits: u8) -> Key {
        match ip {
            IpAddr::V4(ip) => self.digest(limiter, Kind::V4, &ip.octets()),
            IpAddr::V6(ip) => {
                let mut bytes = [v6_bits; 17];
                let beyond = u128::MAX.checked_shr(v6_bits.into()).unwrap_or(0);
                bytes[..16].copy_from_slice(&(ip.to_bits() & !beyond).to_be_bytes());
                self.digest(limiter, Kind::V6, &bytes)
            }
        }
    }

    /// The key of all those who came when the table was full.
    pub fn overflow(&self, limiter: Limiter) -> Key {
        self.digest(limiter, Kind::Everybody, &[])
    }

    #[inline]
    fn digest(&self, limiter: Limiter, kind: Kind, bytes: &[u8]) -> Key {
        let index = limiter.index();
        let digest = match self.hashers.get(usize::from(index)) {
            Some(hashers) => hashers[kind as usize].hash(bytes),
            // It was named after the engine was made.
            None => hashers_of(self.seed, limiter)[kind as usize].hash(bytes),
        };
        Key::new(digest, index)
    }
}

/// A custom limiter's number differs from start to start; its name does not.
fn hashers_of(seed: [u64; 2], limiter: Limiter) -> [SipHasher13; Kind::COUNT] {
    let hasher = SipHasher13::new_with_keys(seed[0], seed[1]);
    std::array::from_fn(|kind| {
        let kind = u8::try_from(kind).expect("there are few");
        let [first, second] = [0, 1]
            .map(|half| hasher.hash(&[limiter.name().as_bytes(), &[0xff, kind, half]].concat()));
        SipHasher13::new_with_keys(first, second)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Account;
    use super::*;

    #[test]
    fn where_a_key_was_last_found_is_with_it_and_no_part_of_it() {
        for (limiter, place) in [(0, 0), (7, 1), (255, NOWHERE - 1)] {
            let key = Key::new(0x0123_4567_89ab_cdef, limiter);
            let placed = key.at(place);
            assert_eq!(
                (placed.limiter(), placed.place(), placed.digest()),
                (limiter, place, key.digest)
            );
            assert!(placed.is_placed() && !key.is_placed() && !placed.bare().is_placed());
            assert_eq!(placed, key);
            let shown = format!("Key({limiter} 0123456789abcdef)");
            assert_eq!([format!("{key:?}"), format!("{placed:?}")], [shown.clone(), shown]);
            assert_ne!(key, Key::new(key.digest, limiter ^ 1));
            assert_ne!(key, Key::new(!key.digest, limiter));
        }
    }

    #[test]
    fn ipv6_addresses_are_one_as_far_as_they_are_counted_alike() {
        let keys = Keys::new([1, 2]);
        let of = |ip: &str, bits| keys.of_ip(Limiter::LOGIN, ip.parse().expect("an address"), bits);
        let anna = of("2001:db8:0:1::7", 64);
        assert_eq!(anna, of("2001:db8:0:1:ffff::", 64));
        assert_ne!(anna, of("2001:db8:0:2::7", 64));
        assert_ne!(anna, of("2001:db8:0:1::7", 128));
        assert_ne!(of("2001:db8::7", 128), of("2001:db8::8", 128));
    }

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
        keys.sort_unstable_by_key(|key| (key.digest, key.limiter()));
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
