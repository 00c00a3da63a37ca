//! What of a text may leave this host. Secrets and user ids never do; addresses become
//! names, the same one for the same address in every file, unless they are wanted. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use serde_json::Value;

const HIDDEN: &str = "[hidden]";
/// A name of a field or a variable that has one of these in it holds a secret.
const SECRETIVE: [&str; 7] =
    ["secret", "password", "passwd", "token", "apikey", "api_key", "credential"];
/// Fields that are about people, or written by them.
const PERSONAL: [&str; 7] = ["user", "users", "reason", "note", "details", "account", "by"];
/// Shorter ones are found in every other word, and could not be told from them.
const SHORTEST: usize = 3;

/// Takes out of texts what may not leave. Remembers what it called which address.
pub(super) struct Redactor {
    /// The longest first: one may be part of another.
    words: Vec<String>,
    addresses: Option<HashMap<IpAddr, usize>>,
}

/// What becomes of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addresses {
    Named,
    Kept,
}

impl Redactor {
    /// `words`: user ids, reasons, values of secrets, wherever they may turn up.
    pub(super) fn new(words: BTreeSet<String>, addresses: Addresses) -> Self {
        let mut words: Vec<_> = words.into_iter().filter(|it| it.len() >= SHORTEST).collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        let addresses = (addresses == Addresses::Named).then(HashMap::new);
        Self { words, addresses }
    }

    /// A text, line by line.
    pub(super) fn text(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for word in &self.words {
            text = text.replace(word.as_str(), HIDDEN);
        }
        let lines: Vec<_> = text.lines().map(|line| self.line(line)).collect();
        lines.join("\n") + "\n"
    }

    /// A document: what its fields' names say is left out, then as text.
    pub(super) fn document(&mut self, mut document: Value) -> String {
        hide_fields(&mut document);
        self.text(&format!("{document:#}"))
    }

    fn line(&mut self, line: &str) -> String {
        let parts = line.split(' ').map(|part| assigned(&without_login(part)));
        let line = parts.collect::<Vec<_>>().join(" ");
        match &mut self.addresses {
            Some(names) => named(&line, names),
            None => line,
        }
    }
}

/// Leaves out the values of fields that hold secrets, or are about people.
fn hide_fields(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_hidden = is_secretive(name) || PERSONAL.contains(&name.as_str());
                // Settings about these are sections and switches.
                let is_text = value.is_string() || is_list_of_texts(value);
                if is_hidden && is_text {
                    *value = Value::from(HIDDEN);
                } else {
                    hide_fields(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide_fields),
        _ => {}
    }
}

fn is_list_of_texts(value: &Value) -> bool {
    value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string))
}

fn is_secretive(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    SECRETIVE.iter().any(|it| name.contains(it))
}

/// Of `mongodb://anna:secret@host/chat` the scheme alone: what is behind it can be a
/// password, in one place or another.
fn without_login(part: &str) -> String {
    match part.find("://") {
        Some(at)
            if part[at..].contains('@')
                || part[..at].contains("mongodb")
                || part[..at].contains("redis") =>
        {
            let quoted: String =
                part.chars().rev().take_while(|it| "\",)]}".contains(*it)).collect();
            let behind: String = quoted.chars().rev().collect();
            format!("{}://{HIDDEN}{behind}", &part[..at])
        }
        _ => part.to_owned(),
    }
}

/// Of `JWT_SECRET=abc` the name alone.
fn assigned(part: &str) -> String {
    match part.split_once('=') {
        Some((name, value)) if is_secretive(name) && !value.is_empty() => {
            format!("{name}={HIDDEN}")
        }
        _ => part.to_owned(),
    }
}

/// With every address replaced by its name.
fn named(line: &str, names: &mut HashMap<IpAddr, usize>) -> String {
    let is_part = |it: char| it.is_ascii_hexdigit() || it == '.' || it == ':';
    let (mut out, mut rest, mut before) = (String::new(), line, None::<char>);
    while let Some(first) = rest.chars().next() {
        let run = rest.find(|it| !is_part(it)).unwrap_or(rest.len());
        if run == 0 {
            out.push(first);
            before = Some(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (piece, behind) = rest.split_at(run);
        let is_word = |it: Option<char>| it.is_some_and(|it| it.is_alphanumeric() || it == '_');
        if is_word(before) || is_word(behind.chars().next()) {
            out.push_str(piece);
        } else {
            out.push_str(&renamed(piece, names));
        }
        before = piece.chars().last();
        rest = behind;
    }
    out
}

/// An address, perhaps with a port or a mark behind it; or the piece as it is.
fn renamed(piece: &str, names: &mut HashMap<IpAddr, usize>) -> String {
    // One that ends in colons is whole: 2001:db8::/32.
    let is_whole = piece.parse::<IpAddr>().is_ok();
    let bare = if is_whole { piece } else { piece.trim_end_matches(['.', ':']) };
    let mark = &piece[bare.len()..];
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return name(ip, names).map_or_else(|| piece.to_owned(), |name| name + mark);
    }
    let with_port = bare.rsplit_once(':').and_then(|(ip, port)| Some((ip.parse().ok()?, port)));
    match with_port.and_then(|(ip, port)| Some((name(ip, names)?, port))) {
        Some((name, port)) => format!("{name}:{port}{mark}"),
        None => piece.to_owned(),
    }
}

/// Nobody is at the loopback and at no address at all.
fn name(ip: IpAddr, names: &mut HashMap<IpAddr, usize>) -> Option<String> {
    if ip.is_loopback() || ip.is_unspecified() {
        return None;
    }
    let next = names.len() + 1;
    Some(format!("address-{}", names.entry(ip).or_insert(next)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redactor(words: &[&str], addresses: Addresses) -> Redactor {
        Redactor::new(words.iter().map(|&it| it.to_owned()).collect(), addresses)
    }

    #[test]
    fn an_address_has_one_name_wherever_it_is() {
        let mut redactor = redactor(&[], Addresses::Named);
        let cases = [
            ("from 192.0.2.7 to 192.0.2.8:443.", "from address-1 to address-2:443.\n"),
            ("[2001:db8::1]:443, 192.0.2.7/32", "[address-3]:443, address-1/32\n"),
            ("\"192.0.2.7\"", "\"address-1\"\n"),
            ("2001:db8::/64 and fe80::1:", "address-4/64 and address-5:\n"),
            ("at 03:04:05 with 0.1.0 by network::add", "at 03:04:05 with 0.1.0 by network::add\n"),
            ("127.0.0.1 :: 0.0.0.0 ::1", "127.0.0.1 :: 0.0.0.0 ::1\n"),
        ];
        for (text, want) in cases {
            assert_eq!(redactor.text(text), want);
        }
        let mut keeping = self::redactor(&[], Addresses::Kept);
        assert_eq!(keeping.text("192.0.2.7"), "192.0.2.7\n");
    }

    #[test]
    fn secrets_go_whatever_they_stand_in() {
        let mut redactor = redactor(&["hunter22", "anna"], Addresses::Kept);
        let text = "uri=mongodb://u:p@h/db\nJWT_SECRET=abc x=1\nuser anna, pass hunter22\n\
                    \"redis://10.0.0.1/0\",\nhttps://a.example/b https://u:p@a.example/";
        let want = "uri=mongodb://[hidden]\nJWT_SECRET=[hidden] x=1\nuser [hidden], pass [hidden]\n\
                    \"redis://[hidden]\",\nhttps://a.example/b https://[hidden]\n";
        assert_eq!(redactor.text(text), want);
    }

    #[test]
    fn fields_about_people_and_secrets_are_left_out_of_documents() {
        let mut redactor = redactor(&[], Addresses::Kept);
        let document = json!({
            "bans": { "protected": { "users": ["anna", "b"], "roles": ["ADMIN"] } },
            "jwt_secret": "xyz", "reason": "because of carl", "user": { "from": "token" },
        });
        let text = redactor.document(document);
        for gone in ["anna", "xyz", "carl"] {
            assert!(!text.contains(gone), "{text}");
        }
        assert!(text.contains("ADMIN") && text.contains("\"from\": \"token\""), "{text}");
    }
}
