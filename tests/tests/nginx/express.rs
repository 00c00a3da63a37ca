//! The same in front of a real Express application from npm, with LibreChat's routes and
//! answers and its own tokens, and clients in namespaces of their own.

mod kernel;
mod limit;
mod restart;
mod stream;
mod theft;
mod upload;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::express::Express;
use moderation_tests::lab::{ABUSER_V4, BYSTANDER_V4, HOST_V4, INTERFACE, Lab};
use moderation_tests::namespace::Namespace;
use moderation_tests::need;
use moderation_tests::nginx::{Gone, Nginx, PORT};
use moderation_tests::visitor::Visitor;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{Answer, BROWSER, PATIENCE, SECRET, parse, preset};

/// A chat host that is protected, and a small internet.
struct Host {
    // In this order: nginx asks the daemon, and both are in the namespaces.
    nginx: Nginx,
    daemon: Daemon,
    operator: Caller,
    lab: Lab,
}

/// `None` if the machine lacks what it takes.
fn host(overrides: Value) -> Result<Option<Host>> {
    if !(need::root() && Express::is_there()) {
        return Ok(None);
    }
    let lab = Lab::new()?;
    let preset = preset(overrides)?;
    let mut setup = Setup::new().inside(&lab.host).credential("jwt-secret", SECRET);
    if preset["network"]["mode"] != "off" {
        setup = setup.interface(INTERFACE);
    }
    let daemon = setup.overrides(preset).start()?;
    let express = Express::start(&lab.host, SECRET)?;
    let nginx = Nginx::in_front_of(express, &lab.host, daemon.sockets(), Gone::Pass)?;
    let operator = Caller::operator(&daemon);
    Ok(Some(Host { nginx, daemon, operator, lab }))
}

impl Host {
    /// Somebody without an account who is likely to misbehave.
    fn abuser(&self) -> Client {
        Client::new(&self.lab.abuser, ABUSER_V4)
    }

    /// Somebody without an account who is not.
    fn bystander(&self) -> Client {
        Client::new(&self.lab.bystander, BYSTANDER_V4)
    }

    fn metric(&self, name: &str) -> Result<u64> {
        let metrics = self.daemon.admin().get("/metrics")?.body;
        let lines = metrics.as_str().unwrap_or_default().lines();
        let line = lines.filter_map(|it| it.rsplit_once(' ')).find(|(key, _)| *key == name);
        line.map_or(Ok(0), |(_, value)| Ok(value.parse()?))
    }
}

/// A browser at an address, perhaps logged in.
#[derive(Clone, Debug)]
struct Client {
    namespace: Namespace,
    source: Ipv4Addr,
    agent: &'static str,
    token: Option<String>,
    patience: Duration,
}

impl Client {
    fn new(namespace: &Namespace, source: Ipv4Addr) -> Self {
        let namespace = namespace.clone();
        Self { namespace, source, agent: BROWSER, token: None, patience: PATIENCE }
    }

    fn at(&self, source: Ipv4Addr) -> Self {
        Self { source, ..self.clone() }
    }

    fn with_agent(&self, agent: &'static str) -> Self {
        Self { agent, ..self.clone() }
    }

    fn with_patience(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same with a token from the app itself.
    fn log_in(&self, name: &str) -> Result<Self> {
        let answer = self.post("/api/auth/login", &credentials(name))?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(self.with_token(answer.json()["token"].as_str().context("a token")?))
    }

    fn get(&self, target: &str) -> Result<Answer> {
        self.ask("GET", target, &Body::None)
    }

    fn post(&self, target: &str, body: &Value) -> Result<Answer> {
        self.ask("POST", target, &Body::Json(body.clone()))
    }

    /// One request over a connection of its own.
    fn ask(&self, method: &str, target: &str, body: &Body) -> Result<Answer> {
        let mut stream = self.open(method, target, body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        parse(&answer)
    }

    /// Sends one, and leaves the answer to be read.
    fn open(&self, method: &str, target: &str, body: &Body) -> Result<TcpStream> {
        let server = SocketAddr::new(HOST_V4.into(), PORT);
        let visitor = Visitor::new(&self.namespace, IpAddr::V4(self.source), server, "nobody");
        let mut stream = visitor.patience(self.patience).open()?;
        stream.write_all(&self.request(method, target, body))?;
        Ok(stream)
    }

    fn request(&self, method: &str, target: &str, body: &Body) -> Vec<u8> {
        let mut head = format!(
            "{method} {target} HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n\
             User-Agent: {}\r\n",
            self.agent
        );
        if let Some(token) = &self.token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        let (kind, body) = body.bytes();
        head += &format!("{kind}Content-Length: {}\r\n\r\n", body.len());
        [head.into_bytes(), body].concat()
    }
}

/// What goes with a request.
#[derive(Clone, Debug)]
enum Body {
    None,
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

/// Goes on asking for one thing after the other as ordinary people do, until it is over;
/// returns how often. Every answer must be the app's own.
fn visit(client: &Client, is_over: &AtomicBool) -> Result<u64> {
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        for target in ["/api/convos", "/api/config", "/api/files"] {
            let answer = client.get(target).with_context(|| format!("request {count}"))?;
            ensure!(answer.is_apps(), "request {count}: {answer:?}");
            count += 1;
        }
    }
    Ok(count)
}

/// What opens the app to one of its users.
fn credentials(name: &str) -> Value {
    json!({ "email": format!("{name}@chat.example"), "password": format!("{name}-password") })
}

/// A token as the app makes them, of somebody whom it needs not know.
fn token_of(user: &str) -> Result<String> {
    let now = jiff::Timestamp::now().as_second();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "id": user, "username": user, "iat": now, "exp": now + 900 });
    let body = format!("{}.{}", part(json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    let key = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())?;
    let sum = key.chain_update(body.as_bytes()).finalize().into_bytes();
    Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(sum)))
}
