//! What is asked of nginx, in which ways it is guarded meanwhile, and by whom: users with
//! a token and an address each, so many that none of them comes near a limit. Sends nothing.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

/// LibreChat's `JWT_SECRET`, of this benchmark only.
pub(super) const SECRET: &str = "a-secret-that-signs-tokens-of-a-benchmark-and-no-others";
/// Users, in turn.
pub(super) const USERS: u32 = 1 << 15;
/// Where their addresses begin: for benchmarks, RFC 2544.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Longer than the benchmark takes.
const SESSION_S: u64 = 24 * 60 * 60;
const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

/// How a server of nginx is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Not at all.
    Plain,
    /// By nginx's own `limit_req`.
    LimitReq,
    /// By the daemon.
    Ours,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Plain, Self::LimitReq, Self::Ours];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "nginx alone",
            Self::LimitReq => "nginx with limit_req",
            Self::Ours => "ours",
        }
    }
}

/// What is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// The Express application.
    App,
    /// A file of a few bytes, which nginx sends itself.
    File,
}

impl Behind {
    pub(super) const ALL: [Self; 2] = [Self::App, Self::File];

    /// Where nginx listens.
    pub(super) const fn port(self, way: Way) -> u16 {
        let base = match self {
            Self::App => 8_001,
            Self::File => 8_011,
        };
        base + way as u16
    }
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// A tool call: the app looks at the token; a limit by user.
    Call,
    /// A login that succeeds: a limit by address, and a line of the log.
    Login,
    /// What is no event: whether somebody is banned.
    Page,
    /// Speech, as an event with two limits, but from a file.
    File,
    /// A sign-on elsewhere, as an event with a line of the log, but from a file.
    SignOn,
}

impl Case {
    /// Those whose requests per second are compared.
    pub(super) const COMPARED: [Self; 4] = [Self::Call, Self::Login, Self::Page, Self::File];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Login => "login",
            Self::Page => "page",
            Self::File => "file",
            Self::SignOn => "sign_on",
        }
    }

    pub(super) const fn behind(self) -> Behind {
        match self {
            Self::Call | Self::Login | Self::Page => Behind::App,
            Self::File | Self::SignOn => Behind::File,
        }
    }

    const fn target(self) -> &'static str {
        match self {
            Self::Call => "POST /api/agents/tools/search/call",
            Self::Login => "POST /api/auth/login",
            Self::Page => "GET /api/config",
            Self::File => "GET /api/files/speech/tts/voices",
            Self::SignOn => "GET /oauth/openid",
        }
    }

    const fn body(self) -> &'static str {
        match self {
            Self::Call => r#"{"query":"weather"}"#,
            Self::Login => r#"{"email":"alice@chat.example","password":"alice-password"}"#,
            Self::Page | Self::File | Self::SignOn => "",
        }
    }

    /// Whether browsers send their token with it.
    const fn has_token(self) -> bool {
        match self {
            Self::Call | Self::Page | Self::File => true,
            Self::Login | Self::SignOn => false,
        }
    }

    /// What is found in every right answer.
    pub(super) const fn mark(self) -> &'static str {
        match self {
            Self::Call | Self::Page => r#""app":true"#,
            Self::Login => r#""token":""#,
            Self::File | Self::SignOn => FILE,
        }
    }
}

/// The file.
pub(super) const FILE: &str = r#"{"file":true}"#;

/// Somebody.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) id: String,
    pub(super) address: Ipv4Addr,
    token: String,
}

impl User {
    /// All of them.
    pub(super) fn all() -> Result<Vec<Self>> {
        (0..USERS).map(Self::new).collect()
    }

    fn new(number: u32) -> Result<Self> {
        let id = format!("{number:024x}");
        let address = Ipv4Addr::from_bits(FIRST.to_bits() + number);
        let token = token(&id)?;
        Ok(Self { id, address, token })
    }

    /// A whole request. The address is told as a load balancer in front of nginx tells it.
    pub(super) fn request(&self, case: Case) -> Vec<u8> {
        let mut text = format!(
            "{} HTTP/1.1\r\nHost: chat.example\r\nUser-Agent: {BROWSER}\r\nX-Forwarded-For: {}\r\n",
            case.target(),
            self.address
        );
        if case.has_token() {
            text += &format!("Authorization: Bearer {}\r\n", self.token);
        }
        let body = case.body();
        if !body.is_empty() {
            text +=
                &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        (text + "\r\n" + body).into()
    }
}

/// As the app makes them.
fn token(user: &str) -> Result<String> {
    let now = UNIX_EPOCH.elapsed().context("the clock is before 1970")?.as_secs();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "id": user, "username": user, "provider": "local", "iat": now, "exp": now + SESSION_S });
    let body = format!("{}.{}", part(json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    let key = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())?;
    let sum = key.chain_update(body.as_bytes()).finalize().into_bytes();
    Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(sum)))
}

/// Every user's request, each behind its length and a line break, for wrk's script.
pub(super) fn write(path: &Path, requests: &[Vec<u8>]) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(what)?);
    for request in requests {
        writeln!(file, "{}", request.len()).with_context(what)?;
        file.write_all(request).with_context(what)?;
    }
    file.flush().with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_how_long_its_body_is() -> Result<()> {
        let text = String::from_utf8(User::new(258)?.request(Case::Login))?;
        let (head, body) = text.split_once("\r\n\r\n").context("a head")?;
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        assert!(head.contains("X-Forwarded-For: 198.18.1.2\r\n"), "{head}");
        Ok(())
    }

    #[test]
    fn no_two_servers_have_one_port() {
        let ports = Behind::ALL.iter().flat_map(|it| Way::ALL.map(|way| it.port(way)));
        let ports: std::collections::BTreeSet<_> = ports.collect();
        assert_eq!(ports.len(), Behind::ALL.len() * Way::ALL.len());
    }
}
