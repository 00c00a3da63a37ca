//! The host around the daemon: units, clock, configuration, disk, and the daemon's own
//! process. Root sees more; what only root sees is said to be so.

use std::{
    fs, io, iter,
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::Path,
};

use nix::sys::{
    socket::{getsockopt, sockopt::PeerCredentials},
    statvfs::statvfs,
};

use super::finding::{Finding, Grade};
use crate::{
    api::client::ClientError,
    config::{Config, ConfigError},
    ctl::unit,
    network,
    telemetry::chain,
};

/// Less than that is little for a database that grows.
const LITTLE_BYTES: u64 = 256 << 20;
/// Less than that is none: SQLite fails in the middle of something.
const NO_BYTES: u64 = 16 << 20;

/// Whether the daemon answers; if not, why.
pub(super) fn daemon(socket: &Path, answer: Result<(), &ClientError>) -> Vec<Finding> {
    let check = "daemon";
    let shown = socket.display();
    let error = match answer {
        Ok(()) => {
            let mut findings = vec![Finding::ok(check, format!("it answers at {shown}"))];
            findings.push(match process(socket) {
                Some(pid) => capabilities(pid, fs::read_to_string(format!("/proc/{pid}/status"))),
                None => Finding::note("capabilities", "which process it is cannot be told"),
            });
            return findings;
        }
        Err(error) => error,
    };
    let kind = match error {
        ClientError::Connect { source, .. } => Some(source.kind()),
        _ => None,
    };
    let (text, advice) = match kind {
        Some(io::ErrorKind::NotFound) => (
            format!("there is no socket {shown}"),
            "systemctl start moderation-admin.socket moderation.service; if the socket is \
             elsewhere, name it with --socket",
        ),
        Some(io::ErrorKind::PermissionDenied) => (
            format!("you may not open {shown}"),
            "use sudo, or join the group moderation-admin and log in again",
        ),
        Some(io::ErrorKind::ConnectionRefused) => (
            format!("nobody listens at {shown}"),
            "the daemon ended: journalctl -u moderation -n 50; systemctl restart moderation",
        ),
        _ => (error.to_string(), "see its log: journalctl -u moderation -n 50"),
    };
    vec![Finding::wrong(check, Grade::Problem, text, advice)]
}

/// The process that serves a socket. One that systemd opened is systemd's, which knows.
fn process(socket: &Path) -> Option<i32> {
    let stream = UnixStream::connect(socket).ok()?;
    let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
    if is_daemon(pid) {
        return Some(pid);
    }
    let shown = unit::show(&[unit::DAEMON], &["MainPID"]).ok()?;
    let main = shown.first()?.get("MainPID")?.parse().ok()?;
    is_daemon(main).then_some(main)
}

fn is_daemon(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "moderationd")
}

/// What the daemon's process may do beside what its user may.
fn capabilities(pid: i32, status: io::Result<String>) -> Finding {
    let check = "capabilities";
    let status = match status {
        Ok(status) => status,
        Err(error) => return Finding::note(check, format!("process {pid} does not tell: {error}")),
    };
    let line = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.map(str::trim)
    };
    let effective = line("CapEff").and_then(|bits| u64::from_str_radix(bits, 16).ok());
    let uid = line("Uid").and_then(|ids| ids.split_whitespace().next());
    match (effective, uid) {
        (Some(0), Some(uid)) => {
            Finding::ok(check, format!("none: process {pid} runs as user {uid}"))
        }
        (Some(bits), Some("0")) => {
            let text = format!("process {pid} runs as root, with {bits:#x}");
            let advice = "it needs none of that: run it by its unit, moderation.service, and load \
                          the program by moderation-xdp.service";
            Finding::wrong(check, Grade::Warning, text, advice)
        }
        (Some(bits), Some(uid)) => {
            Finding::note(check, format!("process {pid} runs as user {uid} and has {bits:#x}"))
        }
        _ => Finding::note(check, format!("process {pid} does not tell")),
    }
}

/// How the units are, if systemd runs this host.
pub(super) fn units() -> Vec<Finding> {
    if !unit::is_systemd() {
        return vec![Finding::note("units", "systemd does not run this host")];
    }
    let names = [&unit::SERVICES[..], &unit::SOCKETS].concat();
    let shown = match unit::show(&names, &["LoadState", "ActiveState", "Result"]) {
        Ok(shown) => shown,
        Err(error) => return vec![Finding::note("units", format!("not told: {error:#}"))],
    };
    let found = names.iter().zip(shown).filter_map(|(name, shown)| {
        let [loaded, active, result] = ["LoadState", "ActiveState", "Result"]
            .map(|it| shown.get(it).map_or("", String::as_str));
        // It alone runs all the time.
        state(name, *name == unit::DAEMON, loaded, active, result)
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return vec![Finding::note("units", "none of ours is installed")];
    }
    found
}

fn state(name: &str, must_run: bool, loaded: &str, active: &str, result: &str) -> Option<Finding> {
    let look = || format!("systemctl status {name}; journalctl -u {name} -n 50");
    match (loaded, active) {
        ("not-found", _) => None,
        (_, "failed") => {
            let text = format!("it failed: {result}");
            Some(Finding::wrong(name, Grade::Problem, text, look()))
        }
        ("loaded", "active") => Some(Finding::ok(name, "it runs")),
        ("loaded", _) if must_run => {
            let advice = format!("systemctl start {name}; {}", look());
            Some(Finding::wrong(name, Grade::Problem, format!("it is {active}"), advice))
        }
        (loaded, active) => Some(Finding::note(name, format!("{loaded}, {active}"))),
    }
}

/// Whether the clock is kept right: bans end by it, on all hosts.
pub(super) fn clock() -> Finding {
    let check = "clock of this host";
    match network::is_clock_synchronized() {
        Ok(true) => Finding::ok(check, "synchronized"),
        Ok(false) => {
            let advice = "timedatectl set-ntp true, or install chrony: bans end by the clock, and \
                          hosts that share bans must agree on it";
            Finding::wrong(check, Grade::Warning, "not synchronized", advice)
        }
        Err(error) => Finding::note(check, format!("the kernel does not say: {error}")),
    }
}

/// Whether the configuration would be taken, and what it warns of.
pub(super) fn configuration(loaded: Result<&Config, &ConfigError>) -> Vec<Finding> {
    let check = "configuration file";
    match loaded {
        Err(error) => {
            let advice = "correct it, and try it: moderationd --check";
            // What is wrong is said by the causes; the error itself names the file.
            vec![Finding::wrong(check, Grade::Problem, chain(error), advice)]
        }
        Ok(config) => {
            let warnings = &config.effective.warnings;
            let text = match warnings.len() {
                0 => "valid".to_owned(),
                count => format!("valid, with {count} warnings"),
            };
            let advice = "moderationctl config shows where each value comes from";
            let warned = warnings.iter().map(|warning| {
                Finding::wrong("configuration warning", Grade::Warning, warning, advice)
            });
            iter::once(Finding::ok(check, text)).chain(warned).collect()
        }
    }
}

/// Room for the store, and who may read it.
pub(super) fn store(path: &Path) -> Vec<Finding> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    vec![room(folder), rights(path, folder)]
}

fn room(folder: &Path) -> Finding {
    let check = "disk";
    let shown = folder.display();
    let free = match statvfs(folder) {
        Ok(found) => found.blocks_available().saturating_mul(found.fragment_size()),
        Err(error) => return Finding::note(check, format!("{shown}: {error}")),
    };
    let text = format!("{} MiB are free in {shown}", free >> 20);
    let advice = "make room, or let records go sooner: store.retention, store.max_records";
    match free {
        0..NO_BYTES => Finding::wrong(check, Grade::Problem, text, advice),
        NO_BYTES..LITTLE_BYTES => Finding::wrong(check, Grade::Warning, text, advice),
        _ => Finding::ok(check, text),
    }
}

fn rights(path: &Path, folder: &Path) -> Finding {
    let check = "rights of the store";
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Finding::ok(
                check,
                format!("{shown} is closed to you, as to all but its owner"),
            );
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Finding::note(
                check,
                format!("{shown} is not there: it is made at the first start"),
            );
        }
        Err(error) => return Finding::note(check, format!("{shown}: {error}")),
    };
    let is_closed = fs::metadata(folder).is_ok_and(|folder| folder.mode() & 0o007 == 0);
    if found.mode() & 0o007 != 0 && !is_closed {
        let text =
            format!("everybody on this host can open {shown}, mode {:o}", found.mode() & 0o777);
        let advice = format!("chmod o= {shown}: user ids and addresses are in it");
        return Finding::wrong(check, Grade::Warning, text, advice);
    }
    Finding::ok(check, format!("{shown} is its owner's alone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_no_daemon_answers_is_told_with_what_to_do() {
        let socket = Path::new("/run/moderation/admin.sock");
        let cases = [
            (io::ErrorKind::NotFound, "there is no socket", "systemctl start"),
            (io::ErrorKind::PermissionDenied, "you may not open", "moderation-admin"),
            (io::ErrorKind::ConnectionRefused, "nobody listens", "journalctl"),
        ];
        for (kind, text, advice) in cases {
            let error = ClientError::Connect { socket: socket.to_owned(), source: kind.into() };
            let found = daemon(socket, Err(&error));
            assert_eq!((found.len(), found[0].grade), (1, Grade::Problem), "{kind}");
            assert!(found[0].text.contains(text), "{found:?}");
            assert!(found[0].advice.as_deref().is_some_and(|it| it.contains(advice)), "{found:?}");
        }
    }

    #[test]
    fn a_daemon_with_capabilities_is_noticed() {
        let grade = |uid: &str, bits: &str| {
            let status = format!("Name:\tmoderationd\nUid:\t{uid}\t{uid}\nCapEff:\t{bits}\n");
            capabilities(7, Ok(status)).grade
        };
        assert_eq!(grade("990", "0000000000000000"), Grade::Ok);
        assert_eq!(grade("990", "0000008000000000"), Grade::Note);
        assert_eq!(grade("0", "000001ffffffffff"), Grade::Warning);
        assert_eq!(capabilities(7, Ok(String::new())).grade, Grade::Note);
    }

    #[test]
    fn units_that_failed_or_should_run_are_problems() {
        let grade = |must_run, loaded, active| {
            let found = state("moderation.service", must_run, loaded, active, "exit-code");
            found.map(|finding| finding.grade)
        };
        assert_eq!(grade(true, "loaded", "active"), Some(Grade::Ok));
        assert_eq!(grade(true, "loaded", "inactive"), Some(Grade::Problem));
        assert_eq!(grade(false, "loaded", "inactive"), Some(Grade::Note));
        assert_eq!(grade(false, "loaded", "failed"), Some(Grade::Problem));
        assert_eq!(grade(true, "not-found", "inactive"), None);
    }

    #[test]
    fn a_store_that_everybody_can_read_is_a_warning() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("moderation.db");
        assert_eq!(rights(&path, folder.path()).grade, Grade::Note, "it is not there");
        fs::write(&path, "").expect("a file");
        let of_modes = |folder_mode, mode| {
            let set =
                |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
            set(folder.path(), folder_mode).expect("ours");
            set(&path, mode).expect("ours");
            rights(&path, folder.path()).grade
        };
        assert_eq!(of_modes(0o755, 0o644), Grade::Warning);
        assert_eq!(of_modes(0o755, 0o640), Grade::Ok);
        assert_eq!(of_modes(0o700, 0o644), Grade::Ok);
        assert_eq!(room(folder.path()).check, "disk");
        assert_eq!(room(Path::new("/nonexistent")).grade, Grade::Note);
    }
}
