//! Durations as people write them: `90s`, `5m`, `2h`, `1h 30m`, `30d`; and how
//! long a ban lasts, which may be no duration. Which ones make sense where is
//! decided elsewhere.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use jiff::{
    SignedDuration,
    fmt::friendly::{SpanParser, SpanPrinter},
};
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

use super::ConfigError;
use crate::engine::BanLength;

/// Parses a duration as people write it: `90s`, `5m`, `2h`, `30d`.
///
/// # Errors
///
/// A sentence about what is wrong with it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is no duration such as 90s, 5m, 2h or 30d");
    // A day is 24 hours here: jiff leaves it open, for time zones' sake.
    let signed = SpanParser::new()
        .parse_span(text)
        .ok()
        .and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok())
        .ok_or_else(expected)?;
    if signed <= SignedDuration::ZERO {
        return Err(format!("{text:?} is not longer than nothing"));
    }
    Duration::try_from(signed).map_err(|_| expected())
}

/// Reads prefixes as people write them: an address stands for itself.
pub(super) fn prefixes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    // One by one, for so an error tells which it is.
    let written = Vec::<Written>::deserialize(from)?;
    Ok(written.into_iter().map(|Written(prefix)| prefix).collect())
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Written(IpNet);

impl TryFrom<String> for Written {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        prefix(&text).map(Self)
    }
}

/// Parses an address or a prefix.
///
/// # Errors
///
/// A sentence about what is wrong with it.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(|address| address.to_canonical().into());
    address.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
        format!("{text:?} is no address and no prefix such as 192.0.2.0/24 or 2001:db8::/48")
    })
}

/// Writes one so that [`parse`] reads it; whole days as days.
pub(super) fn text(duration: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    if duration.subsec_nanos() == 0
        && duration.as_secs() > DAY
        && duration.as_secs().is_multiple_of(DAY)
    {
        return format!("{}d", duration.as_secs() / DAY);
    }
    let signed = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    SpanPrinter::new().duration_to_string(&signed)
}

/// A checked duration in milliseconds.
pub(super) fn milliseconds(key: &str, duration: Duration) -> Result<u64, ConfigError> {
    match u64::try_from(duration.as_millis()) {
        Ok(0) => Err(ConfigError::value(key, "shorter than a millisecond")),
        Ok(milliseconds) => Ok(milliseconds),
        Err(_) => Err(ConfigError::value(key, "longer than anyone will wait")),
    }
}

pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&text(*value))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// `soft`, `permanent`, or a duration.
pub(super) mod length {
    use super::{BanLength, Deserializer, Duration, Serializer, parse, text};
    use serde::{Deserialize as _, de::Error as _};

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &BanLength,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            BanLength::Soft => to.serialize_str("soft"),
            BanLength::Forever => to.serialize_str("permanent"),
            BanLength::For(ms) => to.serialize_str(&text(Duration::from_millis(*ms))),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BanLength, D::Error> {
        let word = String::deserialize(from)?;
        match &*word {
            "soft" => Ok(BanLength::Soft),
            "permanent" => Ok(BanLength::Forever),
            _ => {
                let length = parse(&word).map_err(D::Error::custom)?;
                let ms = u64::try_from(length.as_millis()).map_err(D::Error::custom)?;
                Ok(BanLength::For(ms.max(1)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_it_is_read() {
        let table = [
            (500, "500ms"),
            (90_000, "1m 30s"),
            (300_000, "5m"),
            (7_200_000, "2h"),
            (86_400_000, "24h"),
            (30 * 86_400_000, "30d"),
            (90_061_001, "25h 1m 1s 1ms"),
        ];
        for (ms, want) in table {
            let duration = Duration::from_millis(ms);
            assert_eq!(text(duration), want);
            assert_eq!(parse(want), Ok(duration));
        }
    }
}
