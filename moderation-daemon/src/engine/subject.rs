//! Whom an event concerns: a user, an address, or both. Parsing happens here
//! once; everything behind it takes these types for granted.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

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

/// An address at the width at which we count and ban: one IPv4 address, or the
/// /64 of an IPv6 address. An IPv4-mapped IPv6 address is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(IpNet);

/// Whoever has one address of a /64 usually has all of them (RFC 6177).
const V6_PREFIX_BITS: u8 = 64;

impl Address {
    /// The prefix: a /32 or a /64.
    pub const fn prefix(self) -> IpNet {
        self.0
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => IpNet::V4(Ipv4Net::from(ip)),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                let network = Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0);
                IpNet::V6(Ipv6Net::new_assert(network, V6_PREFIX_BITS))
            }
        })
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
    /// A prefix of another width than bans have.
    #[error("{prefix} cannot be banned: only single IPv4 addresses and IPv6 /64s can")]
    Width {
        /// What was given.
        prefix: IpNet,
    },
}

impl FromStr for Address {
    type Err = InvalidAddress;

    /// `192.0.2.7`, `192.0.2.7/32`, `2001:db8::1` (its /64) or `2001:db8::/64`.
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::from(ip));
        }
        let Ok(prefix) = text.parse::<IpNet>() else {
            return Err(InvalidAddress::Syntax { text: text.chars().take(64).collect() });
        };
        match prefix {
            IpNet::V4(net) if net.prefix_len() == 32 => Ok(Self(prefix)),
            IpNet::V6(net) if net.prefix_len() == V6_PREFIX_BITS => Ok(Self(prefix.trunc())),
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
    ip: Option<IpAddr>,
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
        Ok(Self { user, ip: ip.map(|ip| ip.to_canonical()) })
    }

    /// The user, if one is known.
    pub const fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// The full address, if one is known; never IPv4-mapped.
    pub const fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// The address at the width of limits and bans.
    pub fn address(&self) -> Option<Address> {
        self.ip.map(Address::from)
    }

    /// Who bears the score: the user, or the address of a visitor without one.
    pub fn bearer(&self) -> Bearer {
        match (&self.user, self.address()) {
            (Some(user), _) => Bearer::User(user.clone()),
            (None, Some(address)) => Bearer::Address(address),
            (None, None) => unreachable!("Subject::new refuses a subject without either"),
        }
    }
}

/// Who is counted or scored: one user, or one address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bearer {
    /// A user.
    User(UserId),
    /// An address.
    Address(Address),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_ipv4_address_or_an_ipv6_64() {
        let cases = [
            ("192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7/32", Some("192.0.2.7")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1:2::/64")),
            ("2001:db8:1:2::9/64", Some("2001:db8:1:2::/64")),
            ("192.0.2.0/24", None),
            ("2001:db8::/48", None),
            ("2001:db8::1/128", None),
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
        let long = "x".repeat(129);
        assert_eq!(long.parse::<UserId>(), Err(InvalidUserId::TooLong { bytes: 129 }));
    }

    #[test]
    fn the_user_bears_the_score_and_without_one_the_address() -> Result<(), NoSubject> {
        let ip: IpAddr = [192, 0, 2, 7].into();
        let user: UserId = "anna".parse().expect("a valid id");
        let both = Subject::new(Some(user.clone()), Some(ip))?;
        assert_eq!(both.bearer(), Bearer::User(user));
        assert_eq!(Subject::new(None, Some(ip))?.bearer(), Bearer::Address(ip.into()));
        assert_eq!(Subject::new(None, None), Err(NoSubject));
        Ok(())
    }
}
