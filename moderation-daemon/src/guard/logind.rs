//! logind's records of sessions: one file each, as systemd writes them for its
//! own tools (`session_save` in logind-session.c). It asks logind nothing.

use std::{fs, io, path::Path};

use super::{
    GuardProblem, Why, file,
    login::{Login, is_alive},
    session::MAX_SESSIONS,
};

/// A session's file has a few hundred bytes.
const LIMIT_BYTES: u64 = 64 * 1024;

/// For each session there is a pipe beside the file.
const MAX_ENTRIES: usize = 4 * MAX_SESSIONS;

/// The remote logins in logind's folder; `None` if there is no such folder.
pub(super) fn read(
    folder: &Path,
    owner: u32,
    problems: &mut Vec<GuardProblem>,
) -> Option<Vec<Login>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(source) => {
            let path = folder.to_owned();
            problems.push(GuardProblem::Read { why: Why::Session, path, source });
            return Some(Vec::new());
        }
    };
    let names = entries.take(MAX_ENTRIES).flatten().map(|entry| entry.file_name());
    let ids = names.filter(|name| is_id(name.as_encoded_bytes()));
    let mut logins = Vec::new();
    for (number, id) in ids.enumerate() {
        if number >= MAX_SESSIONS {
            problems.push(GuardProblem::TooManySessions { limit: MAX_SESSIONS });
            break;
        }
        match file::read_owned(&folder.join(id), owner, LIMIT_BYTES) {
            Ok(contents) => logins.extend(contents.and_then(|(bytes, _)| login(&bytes))),
            Err(problem) => problems.push(problem),
        }
    }
    Some(logins)
}

/// Sessions are numbered or named by letters and digits (systemd:
/// `session_id_valid`); the pipe beside has `.ref` behind, and what is being
/// written a dot in front.
fn is_id(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_alphanumeric)
}

fn login(bytes: &[u8]) -> Option<Login> {
    let text = String::from_utf8_lossy(bytes);
    let session = Session::parse(&text);
    (session.is_remote_login() && is_alive(session.leader)).then(|| Login::from_host(session.host))
}

/// What matters here of a session's file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Session<'a> {
    class: &'a str,
    state: &'a str,
    is_remote: bool,
    host: &'a str,
    leader: i32,
}

impl<'a> Session<'a> {
    /// Lines of `KEY=value`, the value in quotes if it has odd characters in
    /// it, as addresses and names have not.
    fn parse(text: &'a str) -> Self {
        let mut session = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let value = value.trim_matches('"');
            match key {
                "CLASS" => session.class = value,
                "STATE" => session.state = value,
                "REMOTE" => session.is_remote = value == "1",
                "REMOTE_HOST" => session.host = value,
                "LEADER" => session.leader = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
        session
    }

    /// `user`, and since systemd 256 `user-early` (root), `user-light` and
    /// others. Not `greeter`, where nobody is authenticated yet, and no
    /// `manager`, where nobody sits.
    fn is_remote_login(&self) -> bool {
        let is_of_user = self.class == "user" || self.class.starts_with("user-");
        self.is_remote && is_of_user && matches!(self.state, "active" | "online" | "opening")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As systemd 252 writes it for ssh.
    const FILE: &str = "# This is private data. Do not parse.\nUID=1000\nUSER=anna\nACTIVE=1\n\
        IS_DISPLAY=1\nSTATE=active\nREMOTE=1\nTYPE=tty\nORIGINAL_TYPE=tty\nCLASS=user\n\
        SCOPE=session-7.scope\nFIFO=/run/systemd/sessions/7.ref\nREMOTE_HOST=192.0.2.7\n\
        SERVICE=sshd\nLEADER=PID\nAUDIT=7\nREALTIME=1700000000000000\nMONOTONIC=1234567890\n";

    fn file() -> String {
        FILE.replace("PID", &std::process::id().to_string())
    }

    fn host(text: &str) -> Option<String> {
        login(text.as_bytes()).map(|login| login.host)
    }

    #[test]
    fn a_remote_session_of_a_user_is_a_login() {
        let login = login(file().as_bytes()).expect("a login");
        assert_eq!(login.address, Some("192.0.2.7".parse().expect("an address")));
    }

    #[test]
    fn what_differs_decides() {
        let cases = [
            ("CLASS=user", "CLASS=user-early", Some("192.0.2.7")),
            ("CLASS=user", "CLASS=user-light", Some("192.0.2.7")),
            ("CLASS=user", "CLASS=greeter", None),
            ("CLASS=user", "CLASS=manager", None),
            ("CLASS=user", "CLASS=background", None),
            ("CLASS=user", "", None),
            ("STATE=active", "STATE=online", Some("192.0.2.7")),
            ("STATE=active", "STATE=opening", Some("192.0.2.7")),
            ("STATE=active", "STATE=closing", None),
            ("STATE=active", "", None),
            ("REMOTE=1", "REMOTE=0", None),
            ("REMOTE=1", "", None),
            ("REMOTE_HOST=192.0.2.7", "REMOTE_HOST=", Some("")),
            ("REMOTE_HOST=192.0.2.7", "REMOTE_HOST=\"fe80::1%eth0\"", Some("fe80::1%eth0")),
            ("REMOTE_HOST=192.0.2.7", "REMOTE_HOST=a.example", Some("a.example")),
            ("LEADER=", "LEADER=-", None),
            ("LEADER=", "LEADER=0 ", None),
            ("LEADER=", "LEADER=99999999999999999999", None),
            ("LEADER=", "NOBODY=", None),
        ];
        for (from, to, expected) in cases {
            assert_eq!(host(&file().replace(from, to)).as_deref(), expected, "{to}");
        }
    }

    #[test]
    fn a_session_whose_leader_is_dead_has_ended() {
        // No process has this number: it is above the highest (proc(5), pid_max).
        assert_eq!(host(&FILE.replace("PID", "4194305")), None);
    }

    #[test]
    fn only_ids_are_sessions() {
        for id in ["7", "c2", "1000"] {
            assert!(is_id(id.as_bytes()), "{id}");
        }
        for name in ["", "7.ref", ".#7a8b", "..", "7~"] {
            assert!(!is_id(name.as_bytes()), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(bytes: Vec<u8>, value: String) {
            login(&bytes);
            login(format!("REMOTE=1\nCLASS=user\nSTATE=active\nLEADER={value}\n").as_bytes());
        }
    }
}
