//! The DNS servers that this host asks: resolv.conf(5). It asks none of them.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use super::{GuardProblem, Why, file, host::parse_address};

/// The C library reads three servers; a file that is longer than this is not
/// what it seems.
const LIMIT_BYTES: u64 = 64 * 1024;

/// The servers that a file names; none if there is no such file.
pub(super) fn read(path: &Path) -> Result<BTreeSet<IpAddr>, GuardProblem> {
    let contents = file::read(path, Why::Resolver, LIMIT_BYTES)?;
    Ok(contents.map(|(bytes, _)| parse(&String::from_utf8_lossy(&bytes))).unwrap_or_default())
}

/// As the C library does it: a keyword at the very beginning of a line, and
/// then white space. Comments have `#` or `;` in that place.
fn parse(text: &str) -> BTreeSet<IpAddr> {
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    let servers = servers.filter(|rest| rest.starts_with([' ', '\t']));
    servers.filter_map(|rest| parse_address(rest.split_whitespace().next()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn servers(text: &str) -> Vec<String> {
        parse(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        let cases: [(&str, &[&str]); 9] = [
            ("nameserver 192.0.2.53\n", &["192.0.2.53"]),
            ("nameserver\t2001:db8::53  \r\n", &["2001:db8::53"]),
            ("nameserver fe80::1%eth0\n", &["fe80::1"]),
            ("nameserver 192.0.2.53 # the old one\n", &["192.0.2.53"]),
            ("# nameserver 192.0.2.1\n; nameserver 192.0.2.2\n#nameserver 192.0.2.3", &[]),
            ("search example.org\noptions edns0 trust-ad\n", &[]),
            ("nameserver\nnameservers 192.0.2.1\nnameserver dns.example\n", &[]),
            (" nameserver 192.0.2.1\n", &[]),
            ("nameserver 192.0.2.2\nnameserver 192.0.2.1\n", &["192.0.2.1", "192.0.2.2"]),
        ];
        for (text, expected) in cases {
            assert_eq!(servers(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(bytes: Vec<u8>, rest: String) {
            parse(&String::from_utf8_lossy(&bytes));
            parse(&format!("nameserver {rest}"));
        }
    }
}
