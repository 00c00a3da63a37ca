//! Whom an event concerns: a user, an address, or both. Parsing happens here
//! once; everything behind it takes these types for granted.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest as _, Sha256};

/// A user's id, as the app names the user: 1 to 128 bytes of printable text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

/// Longer ids than this are no ids but a way to use up memory.
const MAX_USER_ID_BYTES: usize = 128;

/// Why a text is no [`UserId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUserId {
    /// There is nothing in it.
    #[error("a user id cannot be empty")]
    Empty,
    /// It is longer than 128 bytes.
    #[error("a user id has at most {MAX_USER_ID_BYTES} bytes, this one has {bytes}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// It contains a control character.
    #[error("a user id cannot contain control characters")]
    ControlCharacter,
}

impl UserId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = InvalidUserId;

    fn from_str(text: &str) -> Result<Self, InvalidUserId> {
        if text.is_empty() {
            return Err(InvalidUserId::Empty);
        }
        if text.len() > MAX_USER_ID_BYTES {
            return Err(InvalidUserId::TooLong { bytes: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidUserId::ControlCharacter);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address at the width at which we count: one IPv4 address, one IPv6
/// address, or the /64 of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(IpNet);

/// Whoever has one address of a /64 usually has all of them (RFC 6177).
const V6_PREFIX_BITS: u8 = 64;

impl Address {
    /// The address as it stands, IPv6 at a width of so many bits; more than 128
    /// are 128.
    pub fn new(ip: IpAddr, v6_bits: u8) -> Self {
        Self(match ip {
            IpAddr::V4(ip) => IpNet::V4(Ipv4Net::from(ip)),
            IpAddr::V6(ip) => IpNet::V6(Ipv6Net::new_assert(ip, v6_bits.min(128)).trunc()),
        })
    }

    /// The prefix.
    pub const fn prefix(self) -> IpNet {
        self.0
    }
}

impl From<IpAddr> for Address {
    /// An IPv4 address, also from an IPv4-mapped one, or a /64.
    fn from(ip: IpAddr) -> Self {
        Self::new(ip.to_canonical(), V6_PREFIX_BITS)
    }
}

/// Why a text is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Neither an address nor a prefix.
    #[error("{text:?} is neither an IPv4 nor an IPv6 address")]
    Syntax {
        /// What was given.
        text: String,
    },
    /// A prefix of another width than is counted at.
    #[error("{prefix} is neither a single address nor an IPv6 /64")]
    Width {
        /// What was given.
        prefix: IpNet,
    },
}

impl FromStr for Address {
    type Err = InvalidAddress;

    /// `192.0.2.7`, `192.0.2.7/32`, `2001:db8::1` (its /64), `2001:db8::/64` or
    /// `2001:db8::1/128`.
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::from(ip));
        }
        let Ok(prefix) = text.parse::<IpNet>() else {
            return Err(InvalidAddress::Syntax { text: text.chars().take(64).collect() });
        };
        match prefix {
            IpNet::V4(net) if net.prefix_len() == 32 => Ok(Self(prefix)),
            IpNet::V6(net) if [V6_PREFIX_BITS, 128].contains(&net.prefix_len()) => {
                Ok(Self(prefix.trunc()))
            }
            _ => Err(InvalidAddress::Width { prefix }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpNet::V4(net) => net.addr().fmt(f),
            IpNet::V6(net) => net.fmt(f),
        }
    }
}

/// Whom an event concerns; at least one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    user: Option<UserId>,
    /// Never IPv4-mapped.
    ip: Option<IpAddr>,
    /// Whether it was when it was given.
    is_mapped: bool,
}

/// An event names neither a user nor an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a subject needs a user, an address, or both")]
pub struct NoSubject;

impl Subject {
    /// A subject of what is known.
    ///
    /// # Errors
    ///
    /// [`NoSubject`] if nothing is.
    pub fn new(user: Option<UserId>, ip: Option<IpAddr>) -> Result<Self, NoSubject> {
        if user.is_none() && ip.is_none() {
            return Err(NoSubject);
        }
        let canonical = ip.map(|ip| ip.to_canonical());
        Ok(Self { user, ip: canonical, is_mapped: canonical != ip })
    }

    /// The user, if one is known.
    pub const fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// The full address, if one is known; never IPv4-mapped.
    #[inline]
    pub const fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// The same as it was given, so that an IPv4-mapped one can be told from the
    /// IPv4 address.
    pub const fn ip_as_given(&self) -> Option<IpAddr> {
        match self.ip {
            Some(IpAddr::V4(ip)) if self.is_mapped => Some(IpAddr::V6(ip.to_ipv6_mapped())),
            as_it_is => as_it_is,
        }
    }
}

/// An account as somebody typed it who is not logged in: a digest of a name or
/// an e-mail address. It may be anybody's, so it never becomes a [`UserId`] and
/// bears no points.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account([u8; 16]);

impl Account {
    /// That of a name as typed; upper and lower case are the same.
    pub fn of(typed: &str) -> Self {
        let digest = Sha256::digest(typed.to_lowercase());
        let (half, _) = digest.split_first_chunk().expect("it has 32 bytes");
        Self(*half)
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({self})")
    }
}

/// Who is counted or scored: one user, one address, or one account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bearer {
    /// A user.
    User(UserId),
    /// An address.
    Address(Address),
    /// An account that somebody tries to get into; counted, never scored.
    Account(Account),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_single_one_or_an_ipv6_64() {
        let cases = [
            ("192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7/32", Some("192.0.2.7")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1:2::/64")),
            ("2001:db8:1:2::9/64", Some("2001:db8:1:2::/64")),
            ("2001:db8::1/128", Some("2001:db8::1/128")),
            ("192.0.2.0/24", None),
            ("2001:db8::/48", None),
            ("2001:db8::/56", None),
            ("192.0.2.7:443", None),
            ("192.0.2.007", None),
            ("localhost", None),
            ("", None),
        ];
        for (text, want) in cases {
            let got = text.parse::<Address>().ok().map(|address| address.to_string());
            assert_eq!(got.as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_user_id_is_short_printable_text() {
        assert!("64b0c0ffee64b0c0ffee64b0".parse::<UserId>().is_ok());
        assert_eq!("".parse::<UserId>(), Err(InvalidUserId::Empty));
        assert_eq!("a\nb".parse::<UserId>(), Err(InvalidUserId::ControlCharacter));
        assert_eq!("x".repeat(128).parse::<UserId>().map(|id| id.to_string()), Ok("x".repeat(128)));
        let long = "x".repeat(129);
        assert_eq!(long.parse::<UserId>(), Err(InvalidUserId::TooLong { bytes: 129 }));
    }

    #[test]
    fn an_address_is_counted_at_the_width_that_is_asked_for() {
        let cases = [
            ("192.0.2.7", 64, "192.0.2.7"),
            ("2001:db8:1:2:3::4", 64, "2001:db8:1:2::/64"),
            ("2001:db8:1:2:3::4", 128, "2001:db8:1:2:3::4/128"),
            ("::ffff:192.0.2.7", 128, "::ffff:192.0.2.7/128"),
        ];
        for (ip, v6_bits, want) in cases {
            let address = Address::new(ip.parse().expect("an address"), v6_bits);
            assert_eq!(address.to_string(), want);
            assert_eq!(want.parse(), Ok(address), "as the store reads it back");
        }
    }

    #[test]
    fn an_account_is_a_digest_that_does_not_care_about_case() {
        assert_eq!(Account::of("Anna@Example.org"), Account::of("anna@example.org"));
        assert_ne!(Account::of("anna"), Account::of("anna "));
        assert_eq!(Account::of("abc").to_string(), "ba7816bf8f01cfea414140de5dae2223");
        let shown = format!("{:?}", Account::of("abc"));
        assert_eq!(shown, "Account(ba7816bf8f01cfea414140de5dae2223)", "nothing of the name");
    }

    #[test]
    fn a_subject_knows_its_address_both_ways() {
        let given: IpAddr = "::ffff:192.0.2.7".parse().expect("an address");
        let subject = Subject::new(None, Some(given)).expect("it has an address");
        assert_eq!(subject.ip(), Some([192, 0, 2, 7].into()));
        assert_eq!(subject.ip_as_given(), Some(given));
        assert_eq!(Subject::new(None, None), Err(NoSubject));
    }
}
