//! Somebody who uses a chat host over HTTP as a browser does, from a given namespace and
//! address, perhaps logged in; each request over a connection of its own. Getting no
//! answer is an error here.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::lab::HOST_V4;
use crate::namespace::Namespace;
use crate::nginx::PORT;
use crate::visitor::Visitor;

/// What a browser says that it is.
pub const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

/// With one answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The start line and the headers.
    pub head: String,
    /// The body as it was sent, chunks and all.
    pub body: String,
}

impl Answer {
    /// Of the bytes of a whole answer.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).context("a status")?;
        Ok(Self { status, head: head.to_owned(), body: body.to_owned() })
    }

    /// A header's value, however its name is written.
    pub fn header(&self, name: &str) -> Option<&str> {
        let is_it = |(key, _): &(&str, &str)| key.eq_ignore_ascii_case(name);
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(is_it).map(|(_, value)| value)
    }

    /// The body, `null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// Whether the app itself answered, and well.
    pub fn is_apps(&self) -> bool {
        self.status == 200 && self.json()["app"] == true
    }
}

/// What goes with a request.
#[derive(Clone, Debug)]
pub enum Body {
    /// Nothing.
    None,
    /// A value.
    Json(Value),
    /// A form with one file, by the name of its field.
    File(&'static str, Vec<u8>),
}

impl Body {
    /// The header that says what it is, and it.
    fn bytes(&self) -> (&'static str, Vec<u8>) {
        match self {
            Self::None => ("", Vec::new()),
            Self::Json(value) => ("Content-Type: application/json\r\n", value.to_string().into()),
            Self::File(field, content) => {
                let head = format!(
                    "--limit\r\nContent-Disposition: form-data; name=\"{field}\"; \
                     filename=\"file.bin\"\r\nContent-Type: application/octet-stream\r\n\r\n"
                );
                let form = [head.as_bytes(), content, b"\r\n--limit--\r\n"].concat();
                ("Content-Type: multipart/form-data; boundary=limit\r\n", form)
            }
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Browser {
    namespace: Namespace,
    source: Ipv4Addr,
    agent: &'static str,
    accept: &'static str,
    token: Option<String>,
    patience: Duration,
}

impl Browser {
    /// Nobody in particular, at an address.
    pub fn new(namespace: &Namespace, source: Ipv4Addr) -> Self {
        Self {
            namespace: namespace.clone(),
            source,
            agent: AGENT,
            accept: "application/json",
            token: None,
            patience: PATIENCE,
        }
    }

    /// The same at another address of the namespace.
    #[must_use]
    pub fn at(&self, source: Ipv4Addr) -> Self {
        Self { source, ..self.clone() }
    }

    /// A program that says what it is.
    #[must_use]
    pub fn with_agent(&self, agent: &'static str) -> Self {
        Self { agent, ..self.clone() }
    }

    /// Who wants to see a page.
    #[must_use]
    pub fn for_pages(&self) -> Self {
        Self { accept: "text/html,application/xhtml+xml", ..self.clone() }
    }

    /// With another patience.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// With this token, whosesoever it is.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// With a token from the app itself, as one of its users.
    pub fn log_in(&self, name: &str) -> Result<Self> {
        let answer = self.post("/api/auth/login", &credentials(name))?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(self.with_token(answer.json()["token"].as_str().context("a token")?))
    }

    /// `GET`.
    pub fn get(&self, target: &str) -> Result<Answer> {
        self.ask("GET", target, &Body::None)
    }

    /// `POST` of a value.
    pub fn post(&self, target: &str, body: &Value) -> Result<Answer> {
        self.ask("POST", target, &Body::Json(body.clone()))
    }

    /// One request, and the whole answer.
    pub fn ask(&self, method: &str, target: &str, body: &Body) -> Result<Answer> {
        let mut stream = self.open(method, target, body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Answer::parse(&answer)
    }

    /// Sends one, and leaves the answer to be read.
    pub fn open(&self, method: &str, target: &str, body: &Body) -> Result<TcpStream> {
        let server = SocketAddr::new(HOST_V4.into(), PORT);
        let visitor = Visitor::new(&self.namespace, IpAddr::V4(self.source), server, "nobody");
        let mut stream = visitor.patience(self.patience).open()?;
        stream.write_all(&self.request(method, target, body))?;
        Ok(stream)
    }

    fn request(&self, method: &str, target: &str, body: &Body) -> Vec<u8> {
        let Self { agent, accept, .. } = self;
        let mut head = format!(
            "{method} {target} HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n\
             User-Agent: {agent}\r\nAccept: {accept}\r\n"
        );
        if let Some(token) = &self.token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        let (kind, body) = body.bytes();
        head += &format!("{kind}Content-Length: {}\r\n\r\n", body.len());
        [head.into_bytes(), body].concat()
    }
}

/// What opens the app ([`crate::express::Express`]) to one of its users.
pub fn credentials(name: &str) -> Value {
    json!({ "email": format!("{name}@chat.example"), "password": format!("{name}-password") })
}
