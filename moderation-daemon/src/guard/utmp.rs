//! The login records of utmp(5), which systems without logind have, and some
//! others beside it. Whoever may write them (group utmp) is believed.

use std::{
    mem::{offset_of, size_of},
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use nix::libc::{USER_PROCESS, pid_t, utmpx};

use super::{
    GuardProblem, file,
    login::{Login, is_alive},
    session::MAX_SESSIONS,
};

/// 384 bytes on x86-64, 400 on aarch64, where times have 64 bits.
const RECORD_BYTES: usize = size_of::<utmpx>();

/// The field for the other end's name (utmp(5), UT_HOSTSIZE).
const HOST_BYTES: usize = 256;

/// Records of ended logins stay in the file until their terminal is used again.
const MAX_RECORDS: usize = 4 * MAX_SESSIONS;

/// The remote logins that are recorded; `None` if there is no such file.
pub(super) fn read(
    path: &Path,
    owner: u32,
    problems: &mut Vec<GuardProblem>,
) -> Option<Vec<Login>> {
    let limit_bytes = u64::try_from(RECORD_BYTES * MAX_RECORDS).unwrap_or(u64::MAX);
    let (bytes, has_more) = match file::read_owned(path, owner, limit_bytes) {
        Ok(contents) => contents?,
        Err(problem) => {
            problems.push(problem);
            return Some(Vec::new());
        }
    };
    if has_more {
        problems.push(GuardProblem::TooLong { path: path.to_owned(), limit_bytes });
    }
    if bytes.len() % RECORD_BYTES != 0 {
        problems.push(GuardProblem::NoRecords { path: path.to_owned() });
        return Some(Vec::new());
    }
    let mut logins: Vec<_> = bytes.chunks_exact(RECORD_BYTES).filter_map(login).collect();
    if logins.len() > MAX_SESSIONS {
        problems.push(GuardProblem::TooManySessions { limit: MAX_SESSIONS });
        logins.truncate(MAX_SESSIONS);
    }
    Some(logins)
}

/// One record, if it is of a login that lasts and comes from somewhere.
fn login(record: &[u8]) -> Option<Login> {
    let kind = i16::from_ne_bytes(array(record, offset_of!(utmpx, ut_type))?);
    let pid = pid_t::from_ne_bytes(array(record, offset_of!(utmpx, ut_pid))?);
    if kind != USER_PROCESS || !is_alive(pid) {
        return None;
    }
    let host: [u8; HOST_BYTES] = array(record, offset_of!(utmpx, ut_host))?;
    let host = host.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut login = Login::from_host(&String::from_utf8_lossy(host));
    // The text comes first: it cannot be mistaken, as 2001:db8:: can below.
    login.address =
        login.address.or_else(|| address(array(record, offset_of!(utmpx, ut_addr_v6))?));
    (login.address.is_some() || !login.host.is_empty()).then_some(login)
}

/// In network byte order; of an IPv4 address only the first quarter is used.
fn address(bytes: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, rest @ ..] = bytes;
    if bytes == [0; 16] {
        None
    } else if rest == [0; 12] {
        Some(IpAddr::from([a, b, c, d]))
    } else {
        Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical())
    }
}

fn array<const N: usize>(record: &[u8], offset: usize) -> Option<[u8; N]> {
    record.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record as login(1) and sshd(8) write it, by the offsets of utmp(5).
    pub(in crate::guard) fn record(kind: i16, pid: u32, host: &str, address: [u8; 16]) -> Vec<u8> {
        let address_offset = if cfg!(target_arch = "aarch64") { 360 } else { 348 };
        let length = if cfg!(target_arch = "aarch64") { 400 } else { 384 };
        let mut record = vec![0; length];
        let mut put = |offset: usize, bytes: &[u8]| {
            record[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &kind.to_ne_bytes());
        put(4, &pid.to_ne_bytes());
        put(8, b"pts/0");
        put(40, b"ts/0");
        put(44, b"anna");
        put(76, host.as_bytes());
        put(address_offset, &address);
        record
    }

    pub(in crate::guard) fn v4(a: u8, b: u8, c: u8, d: u8) -> [u8; 16] {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[a, b, c, d]);
        address
    }

    fn v6(text: &str) -> [u8; 16] {
        text.parse::<Ipv6Addr>().expect("an address").octets()
    }

    fn found(kind: i16, pid: u32, host: &str, address: [u8; 16]) -> Option<String> {
        let login = login(&record(kind, pid, host, address))?;
        Some(login.address.map_or(login.host, |address| address.to_string()))
    }

    #[test]
    fn records_have_the_size_of_the_c_librarys() {
        assert_eq!(record(0, 0, "", [0; 16]).len(), RECORD_BYTES);
    }

    #[test]
    fn the_other_end_of_a_login_is_read() {
        let own = std::process::id();
        let cases = [
            ("192.0.2.7", v4(192, 0, 2, 7), Some("192.0.2.7")),
            ("192.0.2.7", [0; 16], Some("192.0.2.7")),
            ("a.example", v4(192, 0, 2, 7), Some("192.0.2.7")),
            ("a.example", v6("2001:db8::7"), Some("2001:db8::7")),
            ("a.example", v6("::ffff:192.0.2.7"), Some("192.0.2.7")),
            ("2001:db8::", v6("2001:db8::"), Some("2001:db8::")),
            ("fe80::7%eth0", v6("fe80::7"), Some("fe80::7")),
            ("192.0.2.7:S.0", v4(192, 0, 2, 7), Some("192.0.2.7")), // screen(1)
            ("a.example", [0; 16], Some("a.example")),
            ("", v4(192, 0, 2, 7), Some("192.0.2.7")),
            ("", [0; 16], None), // at the machine itself
        ];
        for (host, address, expected) in cases {
            assert_eq!(found(7, own, host, address).as_deref(), expected, "{host:?} {address:?}");
        }
    }

    #[test]
    fn what_is_no_living_login_is_none() {
        let own = std::process::id();
        let address = v4(192, 0, 2, 7);
        for kind in [-1, 0, 1, 2, 5, 6, 8, 9, i16::MAX] {
            assert_eq!(found(kind, own, "192.0.2.7", address), None, "{kind}");
        }
        for pid in [0, 4_194_305, u32::MAX] {
            assert_eq!(found(7, pid, "192.0.2.7", address), None, "{pid}");
        }
    }

    #[test]
    fn a_host_that_fills_its_field_ends_there() {
        let host = "a".repeat(256);
        let found = found(7, std::process::id(), &host, [0; 16]);
        assert_eq!(found.map(|host| host.len()), Some(256));
    }

    proptest! {
        #[test]
        fn no_record_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            login(&bytes);
            let mut record = record(7, std::process::id(), "", [0; 16]);
            let length = bytes.len().min(300);
            record[76..76 + length].copy_from_slice(&bytes[..length]);
            login(&record);
        }
    }
}
