//! Rules about what code may name: which folders may use a library, and what keeps the
//! engine pure. It sees paths such as `std::fs::File`, not what they resolve to.

use super::Finding;

/// A library and the places that may name it.
struct Home {
    crates: &'static [&'static str],
    places: &'static [&'static str],
}

const HOMES: &[Home] = &[
    Home {
        // aya-build is not among them: it belongs to the daemon's build script.
        crates: &["aya", "aya_obj", "aya_log", "aya_ebpf", "aya_log_ebpf"],
        places: &[
            "moderation-daemon/src/network/",
            "moderation-daemon/src/network.rs",
            "moderation-ebpf/",
            "tests/",
        ],
    },
    Home { crates: &["mongodb"], places: &["moderation-daemon/src/store/mongo/", "tests/"] },
    Home { crates: &["redis"], places: &["moderation-daemon/src/store/redis/"] },
];

/// Rooms that do no I/O and read no clock.
const PURE: [&str; 4] = [
    "moderation-daemon/src/engine/",
    "moderation-daemon/src/engine.rs",
    "moderation-daemon/src/ledger/",
    "moderation-daemon/src/sharing/",
];

/// Crates that do I/O, read a clock or are not deterministic.
const IMPURE_CRATES: [&str; 7] = ["tokio", "rusqlite", "mongodb", "redis", "aya", "rand", "nix"];

/// The same in the standard library and in crates that are otherwise pure.
const IMPURE_PATHS: [&str; 21] = [
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "net::TcpListener",
    "net::TcpStream",
    "net::UdpSocket",
    "net::ToSocketAddrs",
    "time::SystemTime",
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "print!",
    "println!",
    "eprint!",
    "eprintln!",
];

/// Checks what one file names; `code` is without comments and literals.
pub(super) fn check(path: &str, code: &str) -> Vec<Finding> {
    let named = named_paths(code);
    let is_pure = is_in(path, &PURE);
    let mut findings = Vec::new();
    for name in &named {
        findings.extend(away_from_home(path, name));
        if is_pure {
            findings.extend(impure(path, name));
        }
    }
    findings
}

fn is_in(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

fn away_from_home(path: &str, name: &Named) -> Option<Finding> {
    let home = HOMES.iter().find(|home| home.crates.iter().any(|root| name.is_of_crate(root)))?;
    let message = || {
        let root = &name.segments[0];
        format!(
            "names `{root}`, which only {} may (a module of ours is `self::{root}`)",
            home.places.join(", ")
        )
    };
    (!is_in(path, home.places)).then(|| Finding::new(path, name.line, message()))
}

fn impure(path: &str, name: &Named) -> Option<Finding> {
    let is_impure = IMPURE_CRATES.iter().any(|root| name.is_of_crate(root))
        || IMPURE_PATHS.iter().any(|part| name.contains(part));
    let message = || {
        format!("names `{}`; this room does no I/O and reads no clock", name.segments.join("::"))
    };
    is_impure.then(|| Finding::new(path, name.line, message()))
}

/// A path in the code, with what braces stand for written out.
#[derive(Debug)]
struct Named {
    /// Counted from 1.
    line: usize,
    segments: Vec<String>,
    is_import: bool,
}

impl Named {
    /// A single word is taken for a crate only where it is imported.
    fn is_of_crate(&self, root: &str) -> bool {
        self.segments[0] == root && (self.segments.len() > 1 || self.is_import)
    }

    fn contains(&self, part: &str) -> bool {
        let part: Vec<&str> = part.split("::").collect();
        self.segments.windows(part.len()).any(|window| window == part)
    }
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    /// `::`
    Separator,
    Other(char),
}

/// All paths that `code` names, each macro with its `!`.
fn named_paths(code: &str) -> Vec<Named> {
    let mut reader = Reader { tokens: tokens(code), at: 0, named: Vec::new() };
    let mut is_import = false;
    while reader.at < reader.tokens.len() {
        if reader.takes(&[Token::Word("use")])
            || reader.takes(&[Token::Word("extern"), Token::Word("crate")])
        {
            is_import = true;
        } else if reader.is_at_word() {
            reader.path(&[], is_import);
            is_import = false;
        } else {
            reader.at += 1;
        }
    }
    reader.named
}

struct Reader<'a> {
    tokens: Vec<(usize, Token<'a>)>,
    at: usize,
    named: Vec<Named>,
}

impl Reader<'_> {
    /// Reads one path, or what braces at its end stand for.
    fn path(&mut self, prefix: &[String], is_import: bool) {
        let mut segments = prefix.to_vec();
        let mut line = 0;
        while let Some((word_line, Token::Word(word))) = self.tokens.get(self.at) {
            line = *word_line;
            segments.push((*word).to_owned());
            self.at += 1;
            if !self.takes(&[Token::Separator]) {
                break;
            }
            if self.takes(&[Token::Other('{')]) {
                return self.group(&segments, is_import);
            }
        }
        self.named.push(Named { line, segments, is_import });
    }

    fn group(&mut self, prefix: &[String], is_import: bool) {
        while self.at < self.tokens.len() && !self.takes(&[Token::Other('}')]) {
            if self.is_at_word() {
                self.path(prefix, is_import);
            } else {
                self.at += 1;
            }
        }
    }

    fn is_at_word(&self) -> bool {
        matches!(self.tokens.get(self.at), Some((_, Token::Word(_))))
    }

    /// Steps over `tokens` if they are next.
    fn takes(&mut self, tokens: &[Token<'_>]) -> bool {
        let next = self.tokens[self.at..].iter().map(|(_, token)| token);
        let are_next = next.take(tokens.len()).eq(tokens);
        self.at += if are_next { tokens.len() } else { 0 };
        are_next
    }
}

/// The words and signs of `code`, each with its line.
fn tokens(code: &str) -> Vec<(usize, Token<'_>)> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let (token, length) = next_token(rest, first);
            tokens.push((index + 1, token));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

fn next_token(rest: &str, first: char) -> (Token<'_>, usize) {
    let is_part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    if rest.starts_with("::") {
        return (Token::Separator, 2);
    }
    let mut length = rest.find(|c| !is_part_of_word(c)).unwrap_or(rest.len());
    if length == 0 {
        return (Token::Other(first), first.len_utf8());
    }
    let is_macro = rest[length..].starts_with('!') && !rest[length..].starts_with("!=");
    length += usize::from(is_macro);
    (Token::Word(&rest[..length]), length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No lines.
    const NONE: [usize; 0] = [];

    fn lines(path: &str, code: &str) -> Vec<usize> {
        check(path, code).iter().map(|finding| finding.line).collect()
    }

    fn paths(code: &str) -> Vec<String> {
        named_paths(code).iter().map(|name| name.segments.join("::")).collect()
    }

    #[test]
    fn braces_of_an_import_are_written_out() {
        assert_eq!(
            paths("use std::{fs, net::{TcpStream, IpAddr as Ip}};"),
            ["std::fs", "std::net::TcpStream", "std::net::IpAddr", "std::net::as", "std::net::Ip"]
        );
    }

    #[test]
    fn macros_are_told_from_inequality() {
        assert_eq!(paths("println!(a); b != c"), ["println!", "a", "b", "c"]);
    }

    #[test]
    fn libraries_stay_in_their_homes() {
        for (library, home) in [
            ("aya", "moderation-daemon/src/network/load.rs"),
            ("aya_ebpf", "moderation-ebpf/src/main.rs"),
            ("aya", "tests/src/lab.rs"),
            ("mongodb", "moderation-daemon/src/store/mongo/client.rs"),
            ("redis", "moderation-daemon/src/store/redis/mod.rs"),
        ] {
            let code = format!("let a = 1;\nlet b = {library}::c();\n");
            assert_eq!(lines(home, &code), NONE, "{library}");
            assert_eq!(lines("moderation-daemon/src/moderator.rs", &code), [2], "{library}");
        }
    }

    #[test]
    fn a_library_is_seen_in_every_form_of_import() {
        let elsewhere = "moderation-daemon/src/api/mod.rs";
        for code in [
            "use aya;",
            "use ::aya::Ebpf;",
            "use {aya::Ebpf};",
            "extern crate aya;",
            "impl aya::Pod for A {}",
        ] {
            assert_eq!(lines(elsewhere, code), [1], "{code}");
        }
        for code in
            ["let aya = 1;", "use self::redis::Ledger;", "use crate::aya::B;", "fn redis() {}"]
        {
            assert_eq!(lines(elsewhere, code), NONE, "{code}");
        }
    }

    #[test]
    fn the_engine_is_pure() {
        for code in [
            "use tokio::sync::mpsc;",
            "use std::fs;",
            "use std::{collections::HashMap, env};",
            "let s: std::net::UdpSocket;",
            "use std::net::{IpAddr, TcpStream};",
            "let now = std::time::SystemTime::now();",
            "let now = Instant::now();",
            "use rusqlite::Connection;",
            "let r = rand::random();",
            "std::thread::spawn(f);",
            "std::process::exit(1);",
            "println!();",
        ] {
            assert_eq!(lines("moderation-daemon/src/engine/ban.rs", code).len(), 1, "{code}");
            assert_eq!(lines("moderation-daemon/src/clock.rs", code), NONE, "{code}");
        }
    }

    #[test]
    fn the_engine_may_name_what_is_pure() {
        let code = "use std::net::IpAddr;\nuse std::time::Duration;\nlet rand = 1;\nlet a: Instant = now;\n";
        assert_eq!(lines("moderation-daemon/src/engine/ban.rs", code), NONE);
    }
}
