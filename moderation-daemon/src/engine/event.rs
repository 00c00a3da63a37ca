//! What can happen, and what can be wrong with it.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Subject;

/// Something that a user or client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// An attempt to log in, successful or not.
    Login,
    /// An attempt to make an account.
    Registration,
    /// A message to a model.
    Message,
}

impl EventType {
    /// Its name in the API, in metrics and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Registration => "registration",
            Self::Message => "message",
        }
    }
}

/// What an event can break, by LibreChat's own strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViolationType {
    /// Too many logins.
    Logins,
    /// Too many registrations.
    Registrations,
    /// Too many messages.
    MessageLimit,
    /// Too many generations at once.
    Concurrent,
    /// A client that is no browser.
    NonBrowser,
    /// A model that the user may not use.
    IllegalModelRequest,
    /// More connections than one source may open in a window; the daemon counts
    /// them itself.
    ConnectionRate,
}

impl ViolationType {
    /// Every type.
    pub const ALL: [Self; 7] = [
        Self::Logins,
        Self::Registrations,
        Self::MessageLimit,
        Self::Concurrent,
        Self::NonBrowser,
        Self::IllegalModelRequest,
        Self::ConnectionRate,
    ];

    /// Its name in the API, in metrics, in the store and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logins => "logins",
            Self::Registrations => "registrations",
            Self::MessageLimit => "message_limit",
            Self::Concurrent => "concurrent",
            Self::NonBrowser => "non_browser",
            Self::IllegalModelRequest => "illegal_model_request",
            Self::ConnectionRate => "connection_rate",
        }
    }

    /// The type with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for ViolationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The caller's name for a request: the same one twice counts once.
pub type RequestId = Arc<str>;

/// What the engine is asked to judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What happened.
    pub act: Act,
    /// Whom it concerns.
    pub subject: Subject,
    /// The caller's name for it, if a retry must not count again.
    pub id: Option<RequestId>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// An event, to be counted.
    Event {
        /// Which.
        kind: EventType,
        /// The client's `User-Agent`, if the caller knows it. `Some("")` is a
        /// client that sent none.
        user_agent: Option<String>,
    },
    /// The app found a violation by itself.
    Violation {
        /// Which.
        kind: ViolationType,
        /// Points, instead of the configured ones.
        points: Option<f64>,
    },
    /// A generation wants to start.
    Acquire,
}
