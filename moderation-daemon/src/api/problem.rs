//! Errors as `application/problem+json` (RFC 9457): a closed set of names,
//! each with its status.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    engine::{InvalidPrefix, InvalidUserId, NoSubject},
    metrics::Metrics,
    moderator::Unavailable,
};

/// What went wrong with a request. The caller's mistakes are 4xx, ours 5xx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The body is no JSON.
    MalformedJson(String),
    /// The body or the query has a field that means nothing.
    UnknownField(String),
    /// A field is missing, or its value makes no sense.
    InvalidField(String),
    /// `type` is none that exists.
    UnknownType(String),
    /// An address does not parse.
    InvalidAddress(String),
    /// A user id is none.
    InvalidUser(String),
    /// Neither user nor address.
    NoSubject,
    /// The body is longer than it may be.
    BodyTooLarge(usize),
    /// The batch has more lines than it may.
    TooManyLines(usize),
    /// The batches that are read or wait hold as many bytes as they may.
    TooManyBatches,
    /// The client took too long over its request.
    SlowClient,
    /// The client broke off.
    Incomplete,
    /// No such route.
    NotFound,
    /// Another method.
    MethodNotAllowed,
    /// No such ban, lease or prefix.
    NoSuch(&'static str),
    /// There is no such ban on exactly this prefix, but another one holds.
    NotItself(String),
    /// The address is on the allowlist or guarded.
    Protected(String),
    /// Somebody else has begun the same thing anew.
    Superseded(String),
    /// No room for another ban, lease or prefix.
    Full(&'static str),
    /// No decision.
    Unavailable(Unavailable),
    /// The daemon cannot read its store.
    Unreadable,
    /// The kernel's maps are not there, or cannot be read.
    KernelUnavailable,
    /// Too many connections.
    TooManyConnections,
    /// The peer is not in the socket's group.
    ForeignPeer,
}

/// A problem as RFC 9457 has it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ProblemJson {
    /// `urn:moderation:problem:` and its name.
    r#type: String,
    /// The status in words.
    title: Option<&'static str>,
    status: u16,
    /// What is wrong, for people.
    detail: String,
}

impl Problem {
    /// Its name: the last part of `type`, and the label in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MalformedJson(_) => "malformed-json",
            Self::UnknownField(_) => "unknown-field",
            Self::InvalidField(_) => "invalid-field",
            Self::UnknownType(_) => "unknown-type",
            Self::InvalidAddress(_) => "invalid-address",
            Self::InvalidUser(_) => "invalid-user",
            Self::NoSubject => "no-subject",
            Self::BodyTooLarge(_) => "body-too-large",
            Self::TooManyLines(_) => "too-many-lines",
            Self::TooManyBatches => "too-many-batches",
            Self::SlowClient => "slow-client",
            Self::Incomplete => "incomplete-request",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::NoSuch(_) | Self::NotItself(_) => "no-such-thing",
            Self::Superseded(_) => "superseded",
            Self::Protected(_) => "protected-address",
            Self::Full(_) => "full",
            Self::Unavailable(Unavailable::QueueFull) => "queue-full",
            Self::Unavailable(Unavailable::Store) => "store-unavailable",
            Self::Unavailable(Unavailable::TimedOut) => "decision-timeout",
            Self::Unavailable(Unavailable::Stopping) => "stopping",
            Self::Unreadable => "store-unreadable",
            Self::KernelUnavailable => "kernel-unavailable",
            Self::TooManyConnections => "too-many-connections",
            Self::ForeignPeer => "foreign-peer",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::MalformedJson(_) | Self::Incomplete => StatusCode::BAD_REQUEST,
            Self::UnknownField(_)
            | Self::InvalidField(_)
            | Self::UnknownType(_)
            | Self::InvalidAddress(_)
            | Self::InvalidUser(_)
            | Self::NoSubject => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BodyTooLarge(_) | Self::TooManyLines(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowClient => StatusCode::REQUEST_TIMEOUT,
            Self::NotFound | Self::NoSuch(_) | Self::NotItself(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Protected(_) | Self::Superseded(_) => StatusCode::CONFLICT,
            Self::ForeignPeer => StatusCode::FORBIDDEN,
            Self::Unavailable(Unavailable::TimedOut) => StatusCode::GATEWAY_TIMEOUT,
            Self::Full(_)
            | Self::Unavailable(_)
            | Self::Unreadable
            | Self::KernelUnavailable
            | Self::TooManyBatches
            | Self::TooManyConnections => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::MalformedJson(detail)
            | Self::UnknownField(detail)
            | Self::InvalidField(detail)
            | Self::UnknownType(detail)
            | Self::InvalidAddress(detail)
            | Self::InvalidUser(detail)
            | Self::NotItself(detail)
            | Self::Superseded(detail)
            | Self::Protected(detail) => detail.clone(),
            Self::NoSubject => NoSubject.to_string(),
            Self::BodyTooLarge(most) => format!("a body has at most {most} bytes"),
            Self::TooManyLines(most) => {
                format!("a batch has at most {most} lines: send the rest as another one")
            }
            Self::TooManyBatches => {
                "the batches that wait for a decision hold as many bytes as they may".to_owned()
            }
            Self::SlowClient => "the request took too long to arrive".to_owned(),
            Self::Incomplete => "the request ended before its body did".to_owned(),
            Self::NotFound => "there is no such route on this socket".to_owned(),
            Self::MethodNotAllowed => "the route exists, with another method".to_owned(),
            Self::NoSuch(what) => format!("there is no such {what}"),
            Self::Full(what) => format!("there is no room for another {what}"),
            Self::Unavailable(reason) => reason.to_string(),
            Self::Unreadable => "the store cannot be read; see the daemon's log".to_owned(),
            Self::KernelUnavailable => {
                "the kernel's maps cannot be read; see moderationctl status".to_owned()
            }
            Self::TooManyConnections => "this socket has as many connections as it may".to_owned(),
            Self::ForeignPeer => "the peer is not in this socket's group".to_owned(),
        }
    }

    /// The body.
    pub(super) fn value(&self) -> Value {
        json!(ProblemJson {
            r#type: format!("urn:moderation:problem:{}", self.name()),
            title: self.status().canonical_reason(),
            status: self.status().as_u16(),
            detail: self.detail(),
        })
    }

    /// A whole HTTP response, for where no HTTP machinery runs yet or any more.
    pub(super) fn raw_response(&self) -> String {
        let (status, body) = (self.status(), self.value().to_string());
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\ncontent-length: {}\r\n\
             retry-after: {RETRY_AFTER_SECONDS}\r\nconnection: close\r\n\r\n{body}",
            body.len(),
        )
    }
}

const CONTENT_TYPE: &str = "application/problem+json";
/// A queue of a thousand is worked off in far less.
const RETRY_AFTER_SECONDS: u32 = 1;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, self.value().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        if matches!(
            self,
            Self::SlowClient | Self::BodyTooLarge(_) | Self::Incomplete | Self::TooManyBatches
        ) {
            // The rest of the body is still to come, and unwanted.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(Named(self.name()));
        response
    }
}

/// Lets [`count`] know a problem by its name.
#[derive(Clone, Copy)]
struct Named(&'static str);

/// Counts a response that is a problem.
pub(super) fn count(metrics: &Metrics, response: Response) -> Response {
    if let Some(Named(name)) = response.extensions().get::<Named>() {
        metrics.problem(name);
    }
    response
}

impl From<Unavailable> for Problem {
    fn from(reason: Unavailable) -> Self {
        Self::Unavailable(reason)
    }
}

impl From<NoSubject> for Problem {
    fn from(_: NoSubject) -> Self {
        Self::NoSubject
    }
}

impl From<InvalidUserId> for Problem {
    fn from(error: InvalidUserId) -> Self {
        Self::InvalidUser(error.to_string())
    }
}

impl From<InvalidPrefix> for Problem {
    fn from(error: InvalidPrefix) -> Self {
        Self::InvalidAddress(error.to_string())
    }
}
