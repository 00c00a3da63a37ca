//! From the bytes of a list to its entries: one prefix a line, or CSV with an
//! expiry. What becomes of the entries together is [`super::List`]'s affair.

use std::{
    io::{self, BufRead, Read as _},
    time::Duration,
};

use super::{Expiry, List, list::Collector};
use crate::{
    config::parse_duration,
    engine::{InvalidPrefix, Prefix},
};

/// How to read.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Now, in milliseconds since 1970: durations begin then.
    pub now_unix_ms: u64,
    /// The expiry of lines that say nothing about it; `None` for never.
    pub expires_at_unix_ms: Option<u64>,
    /// What to do about lines that make no sense.
    pub on_bad_line: OnBadLine,
}

/// What to do about a line that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBadLine {
    /// Read on, to find the others, and give nothing.
    Refuse,
    /// Leave it out.
    Skip,
}

/// A line that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Which, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// Why a list cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading failed.
    #[error("cannot read on after line {after_line}")]
    Read {
        /// The last line that was read.
        after_line: usize,
        /// Why not.
        source: io::Error,
    },
    /// Some lines make no sense.
    #[error("{count} lines make no sense{}", told(first))]
    Bad {
        /// How many.
        count: usize,
        /// The first of them.
        first: Vec<BadLine>,
    },
    /// It does not end.
    #[error("there are more than {MAX_ENTRIES} entries")]
    TooLong,
}

/// So many bad lines are shown: more of them tell no more.
const SHOWN: usize = 10;
/// More entries than any map is configured for.
const MAX_ENTRIES: usize = 20_000_000;
/// The longest line; comments are not that long, and binary files have no lines.
const MAX_LINE_BYTES: u64 = 4_096;
/// What the first field of a header is called.
const HEADERS: [&str; 6] = ["prefix", "ip", "address", "network", "cidr", "range"];

fn told(bad: &[BadLine]) -> String {
    bad.iter().map(|bad| format!("\n  line {}: {}", bad.line, bad.problem)).collect()
}

/// Reads a list and puts it in order.
///
/// # Errors
///
/// See [`ReadError`].
pub fn read(reader: impl BufRead, options: &Options) -> Result<List, ReadError> {
    let mut lines = Lines { reader, number: 0, buffer: Vec::with_capacity(256) };
    let mut collector = Collector::default();
    let mut bad = Bad::default();
    let mut is_first = true;
    while let Some(line) = lines.next()? {
        let Some(content) = content(line) else { continue };
        if std::mem::take(&mut is_first) && is_header(content) {
            continue;
        }
        match entry(content, options) {
            Ok((prefix, expiry)) => collector.add(prefix, expiry, options.now_unix_ms),
            Err(problem) => bad.note(lines.number, problem),
        }
        if collector.len() > MAX_ENTRIES {
            return Err(ReadError::TooLong);
        }
    }
    if bad.count > 0 && options.on_bad_line == OnBadLine::Refuse {
        return Err(ReadError::Bad { count: bad.count, first: bad.first });
    }
    let mut list = collector.into_list();
    list.bad = bad.first;
    list.tally.lines = lines.number;
    list.tally.bad = bad.count;
    Ok(list)
}

#[derive(Default)]
struct Bad {
    count: usize,
    first: Vec<BadLine>,
}

impl Bad {
    fn note(&mut self, line: usize, problem: String) {
        self.count += 1;
        if self.first.len() < SHOWN {
            self.first.push(BadLine { line, problem });
        }
    }
}

struct Lines<R> {
    reader: R,
    number: usize,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next line, its end cut off if it is longer than it may be.
    fn next(&mut self) -> Result<Option<&[u8]>, ReadError> {
        self.buffer.clear();
        let failed = |source| ReadError::Read { after_line: self.number, source };
        let mut limited = (&mut self.reader).take(MAX_LINE_BYTES);
        if limited.read_until(b'\n', &mut self.buffer).map_err(failed)? == 0 {
            return Ok(None);
        }
        if self.buffer.len() as u64 == MAX_LINE_BYTES && !self.buffer.ends_with(b"\n") {
            self.reader.skip_until(b'\n').map_err(failed)?;
        }
        self.number += 1;
        let line = self.buffer.as_slice();
        let is_first = self.number == 1;
        Ok(Some(line.strip_prefix(b"\xef\xbb\xbf").filter(|_| is_first).unwrap_or(line)))
    }
}

/// A line without its comment and the space around it; `None` if nothing is
/// left.
fn content(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().position(|byte| matches!(byte, b'#' | b';')).unwrap_or(line.len());
    let content = line[..end].trim_ascii();
    (!content.is_empty()).then_some(content)
}

fn is_header(content: &[u8]) -> bool {
    let first = content.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
    HEADERS.iter().any(|name| first.eq_ignore_ascii_case(name.as_bytes()))
}

/// Reads one line's content: a prefix, or a prefix, a comma and an expiry.
///
/// # Errors
///
/// A sentence about what is wrong with it.
pub fn entry(content: &[u8], options: &Options) -> Result<(Prefix, Expiry), String> {
    let comma = content.iter().position(|byte| *byte == b',');
    let Some(comma) = comma else {
        let expiry = Expiry::at(options.expires_at_unix_ms);
        return Ok((prefix(content).map_err(|error| error.to_string())?, expiry));
    };
    let prefix = prefix(content[..comma].trim_ascii()).map_err(|error| error.to_string())?;
    let expiry = expiry(content[comma + 1..].trim_ascii(), options.now_unix_ms)?;
    Ok((prefix, expiry))
}

/// An empty one is never.
fn expiry(text: &[u8], now_unix_ms: u64) -> Result<Expiry, String> {
    if text.is_empty() {
        return Ok(Expiry::NEVER);
    }
    let problem = || {
        let shown: String = String::from_utf8_lossy(text).chars().take(64).collect();
        format!(
            "{shown:?} is neither a time such as 2030-01-31T12:00:00Z nor a duration such as 7d"
        )
    };
    let text = str::from_utf8(text).map_err(|_| problem())?;
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        let unix_ms = u64::try_from(time.as_millisecond()).unwrap_or(0);
        return Ok(Expiry::at(Some(unix_ms)));
    }
    let duration = parse_duration(text).map_err(|_| problem())?;
    Ok(Expiry::at(Some(now_unix_ms.saturating_add(milliseconds(duration)))))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Parses a prefix as [`Prefix::from_str`](std::str::FromStr) does, and IPv4
/// several times as fast: a list is mostly that.
///
/// # Errors
///
/// See [`InvalidPrefix`].
pub fn prefix(text: &[u8]) -> Result<Prefix, InvalidPrefix> {
    if let Some(address) = v4(text) {
        return Ok(Prefix::from_v4(address));
    }
    match str::from_utf8(text) {
        Ok(text) => text.parse(),
        Err(_) => {
            let text = String::from_utf8_lossy(text).chars().take(64).collect();
            Err(InvalidPrefix::Syntax { text })
        }
    }
}

/// Four numbers from 0 to 255 without leading zeros, and nothing else.
fn v4(text: &[u8]) -> Option<u32> {
    if text.len() > 15 {
        return None;
    }
    let (mut address, mut octet, mut digits, mut dots) = (0_u32, 0_u32, 0, 0);
    for byte in text {
        match byte {
            b'0'..=b'9' if digits > 0 && octet == 0 => return None,
            b'0'..=b'9' => {
                octet = octet * 10 + u32::from(byte - b'0');
                digits += 1;
            }
            b'.' if digits > 0 && octet <= 255 => {
                address = address << 8 | octet;
                (octet, digits, dots) = (0, 0, dots + 1);
            }
            _ => return None,
        }
        if octet > 255 {
            return None;
        }
    }
    (digits > 0 && dots == 3).then_some(address << 8 | octet)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn options(on_bad_line: OnBadLine) -> Options {
        Options { now_unix_ms: NOW, expires_at_unix_ms: Some(NOW + 60_000), on_bad_line }
    }

    fn entries(text: &str) -> Vec<(String, Option<u64>)> {
        let list = read(text.as_bytes(), &options(OnBadLine::Refuse)).expect("a good list");
        list.entries.into_iter().map(|(prefix, expiry)| (prefix.to_string(), expiry)).collect()
    }

    #[test]
    fn a_list_is_one_prefix_a_line_with_comments() {
        let text = "\u{feff}# a list\r\n192.0.2.7\r\n\n  198.51.100.0/24  # a block\n\
                    2001:db8::/64 ; another\n;192.0.2.9\n2001:db8:1::5";
        let want = ["192.0.2.7", "2001:db8::/64", "2001:db8:1::5/128", "198.51.100.0/24"];
        let got = entries(text);
        assert_eq!(got.iter().map(|(prefix, _)| prefix.as_str()).collect::<Vec<_>>(), want);
        assert!(got.iter().all(|(_, expiry)| *expiry == Some(NOW + 60_000)), "the default");
    }

    #[test]
    fn csv_has_an_expiry_in_its_second_column() {
        let text = "Prefix,Expiry\n192.0.2.1,2027-01-15T08:00:10Z\n192.0.2.2 , 7d\n192.0.2.3,\n\
                    192.0.2.4\n192.0.2.5,2020-01-01T00:00:00Z\n";
        let want = [
            ("192.0.2.1", Some(NOW + 10_000)),
            ("192.0.2.2", Some(NOW + 7 * 86_400_000)),
            ("192.0.2.3", None),
            ("192.0.2.4", Some(NOW + 60_000)),
        ];
        assert_eq!(entries(text), want.map(|(prefix, expiry)| (prefix.to_owned(), expiry)));
        let list = read(text.as_bytes(), &options(OnBadLine::Refuse)).expect("a good list");
        assert_eq!((list.tally.lines, list.tally.expired), (6, 1));
    }

    #[test]
    fn bad_lines_are_named_and_nothing_is_given_unless_they_may_be_skipped() {
        let bad = ["0.0.0.0/0", "192.0.2.7,soon", "192.0.2.7,1d,x", "prefix", "a b", "192.0.2.300"];
        let text = format!("192.0.2.1\n{}\n192.0.2.2\n", bad.join("\n"));
        let error = read(text.as_bytes(), &options(OnBadLine::Refuse)).expect_err("bad lines");
        let ReadError::Bad { count, first } = &error else { panic!("{error}") };
        let lines: Vec<_> = first.iter().map(|bad| bad.line).collect();
        assert_eq!((*count, lines), (6, vec![2, 3, 4, 5, 6, 7]));
        let told = error.to_string();
        assert!(told.contains("line 2: 0.0.0.0/0 cannot be banned"), "{told}");
        assert!(told.contains("line 3: \"soon\" is neither a time"), "{told}");

        let list = read(text.as_bytes(), &options(OnBadLine::Skip)).expect("they are skipped");
        assert_eq!((list.entries.len(), list.tally.bad, list.bad.len()), (2, 6, 6));
        let many = "x\n".repeat(1_000);
        let list = read(many.as_bytes(), &options(OnBadLine::Skip)).expect("they are skipped");
        assert_eq!((list.tally.bad, list.bad.len()), (1_000, SHOWN));
    }

    #[test]
    fn a_line_that_does_not_end_is_one_bad_line() {
        let text = format!("{}\n192.0.2.1\n", "x".repeat(100_000));
        let list = read(text.as_bytes(), &options(OnBadLine::Skip)).expect("it is skipped");
        assert_eq!((list.entries.len(), list.tally.bad, list.tally.lines), (1, 1, 2));
    }

    #[test]
    fn a_reader_that_fails_is_told_with_the_place() {
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let good = io::Cursor::new(b"192.0.2.1\n192.0.2.2\n");
        let reader = io::BufReader::new(good.chain(Broken));
        let error = read(reader, &options(OnBadLine::Skip)).expect_err("it breaks off");
        assert_eq!(error.to_string(), "cannot read on after line 2");
    }

    proptest! {
        #[test]
        fn the_fast_way_agrees_with_the_standard_one(text in "[0-9./:a-f]{0,18}") {
            let standard = text.parse::<Prefix>();
            prop_assert_eq!(prefix(text.as_bytes()), standard);
        }

        #[test]
        fn addresses_come_out_as_they_went_in(bits in any::<u32>()) {
            let address = std::net::Ipv4Addr::from_bits(bits);
            prop_assert_eq!(v4(address.to_string().as_bytes()), Some(bits));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let list = read(bytes.as_slice(), &options(OnBadLine::Skip)).expect("all is skipped");
            prop_assert!(list.tally.lines <= bytes.len());
        }
    }
}
