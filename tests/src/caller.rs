//! A client of the daemon's sockets for whom an answer other than 2xx is a
//! failed experiment, and the daemon that most tests of the API call: one that
//! leaves the kernel alone.

use std::path::Path;

use anyhow::{Result, ensure};
use moderation_daemon::api::client::{Client, Response};
use serde_json::{Value, json};

use crate::daemon::{Daemon, Setup};

/// A daemon that drops nothing in the kernel, with these keys of the
/// configuration different.
pub fn daemon_without_kernel(overrides: Value) -> Result<Daemon> {
    let mut overrides = if overrides.is_null() { json!({}) } else { overrides };
    overrides["network"]["mode"] = json!("off");
    Setup::new().overrides(overrides).start()
}

/// See the module.
#[derive(Debug)]
pub struct Caller(Client);

impl Caller {
    /// Calls a socket.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        Self(Client::new(socket))
    }

    /// Calls the application's socket.
    pub fn app(daemon: &Daemon) -> Self {
        Self::new(daemon.api_socket())
    }

    /// Calls the operators' socket.
    pub fn operator(daemon: &Daemon) -> Self {
        Self::new(daemon.admin_socket())
    }

    /// `GET`.
    pub fn get(&mut self, path: &str) -> Result<Value> {
        let response = self.0.get(path)?;
        accept(path, response)
    }

    /// `POST`.
    pub fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        let response = self.0.post(path, body)?;
        accept(path, response)
    }

    /// `POST` with a text for a body.
    pub fn post_text(&mut self, path: &str, body: &str) -> Result<Value> {
        let response = self.0.post_text(path, body.to_owned())?;
        accept(path, response)
    }

    /// `PUT`.
    pub fn put(&mut self, path: &str) -> Result<Value> {
        let response = self.0.put(path)?;
        accept(path, response)
    }

    /// `DELETE`.
    pub fn delete(&mut self, path: &str) -> Result<Value> {
        let response = self.0.delete(path)?;
        accept(path, response)
    }

    /// Reports an event; `subject` has the other fields.
    pub fn event(&mut self, kind: &str, subject: &Value) -> Result<Value> {
        self.post("/v1/events", &typed(kind, subject))
    }

    /// Reports a violation; `subject` has the other fields.
    pub fn violation(&mut self, kind: &str, subject: &Value) -> Result<Value> {
        self.post("/v1/violations", &typed(kind, subject))
    }

    /// Bans, and returns the ban.
    pub fn ban(&mut self, body: &Value) -> Result<Value> {
        Ok(self.post("/v1/bans", body)?["ban"].take())
    }

    /// Whether `query`, such as `user=anna`, is banned.
    pub fn is_banned(&mut self, query: &str) -> Result<bool> {
        let answer = self.get(&format!("/v1/check?{query}"))?;
        ensure!(answer["banned"] == answer["ban"].is_object(), "contradicts itself: {answer}");
        Ok(answer["banned"] == true)
    }

    /// Every ban, page by page; past ones too, if `which` is `all=true`.
    pub fn bans(&mut self, which: &str) -> Result<Vec<Value>> {
        let (mut bans, mut after) = (Vec::new(), 0);
        loop {
            let mut page = self.get(&format!("/v1/bans?{which}&limit=1000&after={after}"))?;
            if let Value::Array(more) = page["bans"].take() {
                bans.extend(more);
            }
            match page["next"].as_u64() {
                Some(next) => after = next,
                None => return Ok(bans),
            }
        }
    }

    /// What is refused: the status and the problem's name.
    pub fn refused(&mut self, method: &str, path: &str, body: &Value) -> Result<(u16, String)> {
        let Response { status, body } = match method {
            "GET" => self.0.get(path),
            "POST" => self.0.post(path, body),
            "PUT" => self.0.put(path),
            _ => self.0.delete(path),
        }?;
        let name = body["type"].as_str().unwrap_or_default();
        ensure!(status >= 400, "{method} {path} was not refused: {body}");
        Ok((status, name.trim_start_matches("urn:moderation:problem:").to_owned()))
    }
}

fn typed(kind: &str, subject: &Value) -> Value {
    let mut body = subject.clone();
    body["type"] = json!(kind);
    body
}

fn accept(path: &str, response: Response) -> Result<Value> {
    ensure!(response.is_success(), "{path} answered {}: {}", response.status, response.body);
    Ok(response.body)
}
