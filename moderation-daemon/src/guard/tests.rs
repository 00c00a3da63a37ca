//! What comes out of collecting, from files as logins leave them. What is in
//! the kernel is tested on real namespaces, elsewhere.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use tempfile::TempDir;

use super::{
    utmp::tests::{record, v4},
    *,
};

/// The places to look at, all in a folder of their own and empty.
struct Place {
    folder: TempDir,
    sources: Sources,
}

impl Place {
    fn new() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let sources = Sources {
            resolv_conf: vec![folder.path().join("resolv.conf")],
            utmp: folder.path().join("utmp"),
            sessions: folder.path().join("sessions"),
            owner: fs::metadata(folder.path())?.uid(),
            ..Sources::default()
        };
        fs::create_dir(&sources.sessions)?;
        Ok(Self { folder, sources })
    }

    fn session(&self, id: &str, host: &str) -> io::Result<()> {
        fs::write(self.sources.sessions.join(id), session(host, std::process::id()))
    }

    fn utmp(&self, records: &[Vec<u8>]) -> io::Result<()> {
        fs::write(&self.sources.utmp, records.concat())
    }

    fn sessions(&self) -> Vec<String> {
        peers(&own_sessions(&self.sources))
    }

    fn problems(&self) -> Vec<String> {
        own_sessions(&self.sources).problems.iter().map(ToString::to_string).collect()
    }
}

fn session(host: &str, leader: u32) -> String {
    format!("STATE=active\nREMOTE=1\nCLASS=user\nREMOTE_HOST={host}\nLEADER={leader}\n")
}

fn peers(collected: &Collected) -> Vec<String> {
    let sessions = collected.guards.iter().filter(|guard| guard.why == Why::Session);
    sessions.map(|guard| guard.prefix.to_string()).collect()
}

fn login(host: &str, address: [u8; 16]) -> Vec<u8> {
    record(7, std::process::id(), host, address)
}

#[test]
fn peers_of_sessions_come_from_both_records_each_once() -> io::Result<()> {
    let place = Place::new()?;
    place.session("1", "192.0.2.7")?;
    place.session("2", "2001:db8::7")?;
    place.session("3", "")?;
    place.utmp(&[
        login("192.0.2.7", v4(192, 0, 2, 7)),
        login("192.0.2.8", v4(192, 0, 2, 8)),
        login(":0", [0; 16]),
    ])?;
    assert_eq!(place.sessions(), ["192.0.2.7/32", "192.0.2.8/32", "2001:db8::7/128"]);
    assert_eq!(place.problems(), [""; 0]);
    Ok(())
}

#[test]
fn a_session_that_ends_takes_its_guard_along() -> io::Result<()> {
    let place = Place::new()?;
    place.session("1", "192.0.2.7")?;
    let before = own_sessions(&place.sources);
    assert_eq!(peers(&before), ["192.0.2.7/32"]);
    fs::remove_file(place.sources.sessions.join("1"))?;
    let mut after = own_sessions(&place.sources);
    after.keep(&before.guards);
    assert_eq!(peers(&after), [""; 0]);
    Ok(())
}

#[test]
fn a_name_is_not_looked_up_where_utmp_has_the_address() -> io::Result<()> {
    let place = Place::new()?;
    // No resolver knows this one (RFC 6761, 6.4).
    place.session("1", "peer.invalid")?;
    place.utmp(&[login("peer.invalid", v4(192, 0, 2, 7))])?;
    assert_eq!(place.sessions(), ["192.0.2.7/32"]);
    assert_eq!(place.problems(), [""; 0]);
    Ok(())
}

#[test]
fn a_name_without_an_address_is_named() -> io::Result<()> {
    let mut place = Place::new()?;
    place.sources.patience = Duration::from_millis(1);
    place.session("1", "peer.invalid")?;
    assert_eq!(place.sessions(), [""; 0]);
    let problems = place.problems();
    assert!(problems.len() == 1 && problems[0].contains("peer.invalid"), "{problems:?}");
    Ok(())
}

#[test]
fn links_pipes_and_what_others_wrote_are_no_sessions() -> io::Result<()> {
    let mut place = Place::new()?;
    let sessions = place.sources.sessions.clone();
    let elsewhere = place.folder.path().join("elsewhere");
    fs::write(&elsewhere, session("192.0.2.7", std::process::id()))?;
    symlink(&elsewhere, sessions.join("1"))?;
    mkfifo(&sessions.join("2"), Mode::S_IRWXU)?;
    mkfifo(&sessions.join("3.ref"), Mode::S_IRWXU)?;
    fs::write(sessions.join(".#4"), session("192.0.2.7", std::process::id()))?;
    place.session("5", "192.0.2.7")?;
    fs::set_permissions(sessions.join("5"), Permissions::from_mode(0o666))?;
    fs::create_dir(sessions.join("6"))?;
    assert_eq!(place.sessions(), [""; 0]);
    assert_eq!(place.problems().len(), 4, "{:?}", place.problems());

    fs::set_permissions(sessions.join("5"), Permissions::from_mode(0o644))?;
    assert_eq!(place.sessions(), ["192.0.2.7/32"]);
    place.sources.owner += 1;
    assert_eq!(place.sessions(), [""; 0], "it belongs to somebody else");
    Ok(())
}

#[test]
fn utmp_counts_only_if_it_is_whole_and_its_owners() -> io::Result<()> {
    let mut place = Place::new()?;
    place.utmp(&[login("192.0.2.7", v4(192, 0, 2, 7)), vec![0; 10]])?;
    assert_eq!(place.sessions(), [""; 0]);
    assert!(place.problems()[0].contains("no file of login records"), "{:?}", place.problems());
    place.utmp(&[login("192.0.2.7", v4(192, 0, 2, 7))])?;
    fs::set_permissions(&place.sources.utmp, Permissions::from_mode(0o664))?;
    assert_eq!(place.sessions(), ["192.0.2.7/32"]);
    place.sources.owner += 1;
    assert_eq!(place.sessions(), [""; 0]);
    Ok(())
}

#[test]
fn one_record_of_logins_is_enough_and_none_is_a_problem() -> io::Result<()> {
    let place = Place::new()?;
    assert_eq!(place.problems(), [""; 0]);
    fs::remove_dir(&place.sources.sessions)?;
    let problems = place.problems();
    assert!(problems.len() == 1 && problems[0].contains("allowlist"), "{problems:?}");
    place.utmp(&[])?;
    assert_eq!(place.problems(), [""; 0]);
    Ok(())
}

#[test]
fn more_sessions_than_are_looked_at_are_told() -> io::Result<()> {
    let place = Place::new()?;
    for id in 0..session::MAX_SESSIONS {
        place.session(&id.to_string(), "192.0.2.7")?;
    }
    assert_eq!(place.problems(), [""; 0]);
    place.session("more", "192.0.2.7")?;
    assert!(place.problems()[0].contains("more than 1024"), "{:?}", place.problems());
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_read_does_not_hide_the_other_record() -> io::Result<()> {
    let place = Place::new()?;
    fs::remove_dir(&place.sources.sessions)?;
    fs::write(&place.sources.sessions, "not a folder")?;
    place.utmp(&[login("192.0.2.7", v4(192, 0, 2, 7))])?;
    assert_eq!(place.sessions(), ["192.0.2.7/32"]);
    assert!(place.problems()[0].contains("cannot read"), "{:?}", place.problems());
    Ok(())
}

fn has(collected: &Collected, prefix: &str, why: Why) -> bool {
    let prefix = prefix.parse().expect("a prefix");
    collected.guards.contains(&Guard { prefix, why })
}

#[test]
fn everything_is_collected_sorted_and_loopback_is_there_as_a_whole() -> io::Result<()> {
    let mut place = Place::new()?;
    place.sources.hosts =
        ["2001:db8::9", "192.0.2.9", "192.0.2.9", "localhost"].map(str::to_owned).to_vec();
    let servers = ["127.0.0.53", "192.0.2.9", "::ffff:192.0.2.53", "0.0.0.0", "fe80::1%eth0"];
    let text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    fs::write(&place.sources.resolv_conf[0], text)?;
    place.session("1", "192.0.2.7")?;

    let collected = collect(&place.sources, &mut Resolved::default());
    assert!(collected.problems.is_empty(), "{:?}", collected.problems);
    assert!(collected.guards.is_sorted());
    for (prefix, why) in [
        ("127.0.0.0/8", Why::Loopback),
        ("::1/128", Why::Loopback),
        ("192.0.2.9/32", Why::Resolver),
        ("192.0.2.53/32", Why::Resolver),
        ("fe80::1/128", Why::Resolver),
        ("192.0.2.9/32", Why::Host),
        ("2001:db8::9/128", Why::Host),
        ("192.0.2.7/32", Why::Session),
    ] {
        assert!(has(&collected, prefix, why), "{prefix} {why:?}");
    }
    let is_loopback = |guard: &&Guard| guard.prefix.addr().is_loopback();
    assert_eq!(collected.guards.iter().filter(is_loopback).count(), 2);
    assert!(collected.guards.iter().all(|guard| guard.prefix.prefix_len() >= 8));
    assert!(!has(&collected, "0.0.0.0/32", Why::Resolver));
    let prefixes = collected.prefixes();
    assert!(prefixes.is_sorted_by(|a, b| a < b), "each once");
    Ok(())
}

#[test]
fn what_could_not_be_looked_at_is_kept_from_before() -> io::Result<()> {
    let place = Place::new()?;
    let servers = &place.sources.resolv_conf[0];
    fs::write(servers, "nameserver 192.0.2.53\n")?;
    let collect = |previous: &[Guard]| {
        let mut collected = collect(&place.sources, &mut Resolved::default());
        collected.keep(previous);
        collected
    };
    let before = collect(&[]);
    fs::remove_file(servers)?;
    fs::create_dir(servers)?; // opens, and cannot be read
    let without = collect(&[]);
    assert!(!has(&without, "192.0.2.53/32", Why::Resolver));
    assert!(without.problems[0].to_string().contains("DNS server"), "{:?}", without.problems);
    assert!(has(&collect(&before.guards), "192.0.2.53/32", Why::Resolver));
    fs::remove_dir(servers)?;
    assert!(!has(&collect(&before.guards), "192.0.2.53/32", Why::Resolver), "it is gone");
    Ok(())
}

#[test]
fn garbage_in_every_place_is_survived() -> io::Result<()> {
    use proptest::{collection::vec, prelude::any, test_runner::TestRunner};

    let place = Place::new()?;
    let everywhere = |bytes: &[u8]| -> io::Result<()> {
        let paths: [&Path; 3] =
            [&place.sources.resolv_conf[0], &place.sources.utmp, &place.sources.sessions.join("1")];
        paths.into_iter().try_for_each(|path| fs::write(path, bytes))
    };
    let mut runner = TestRunner::new(proptest::test_runner::Config::with_cases(64));
    runner
        .run(&vec(any::<u8>(), 0..2000), |mut bytes| {
            if bytes.len() > 1000 {
                bytes.resize(5 * 384, 7); // whole records
            }
            everywhere(&bytes)?;
            let collected = collect(&place.sources, &mut Resolved::default());
            assert!(collected.guards.len() >= 2);
            Ok(())
        })
        .map_err(io::Error::other)
}
