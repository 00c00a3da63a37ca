//! What fails with the shared database, as far as somebody who reads it can act on it. It
//! never holds a connection string.

use std::error::Error as _;

use mongodb::error::{Error, ErrorKind, WriteFailure};

/// Something failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {what}: {problem}")]
pub struct MongoError {
    what: &'static str,
    problem: String,
    kind: Failure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Slow,
    Unreachable,
    Denied,
    NotPermitted,
    Duplicate,
    IndexConflict,
    HistoryLost,
    Other,
}

/// Codes of the server (`src/mongo/base/error_codes.yml`).
const UNAUTHORIZED: i32 = 13;
const AUTHENTICATION_FAILED: i32 = 18;
const INDEX_CONFLICTS: [i32; 3] = [85, 86, 68];
const DUPLICATE_KEY: i32 = 11_000;
/// What makes it vain to go on from where one was: an old or foreign token, an event that
/// does not fit into a document, a stream that cannot be resumed.
const HISTORY_LOST: [i32; 4] = [260, 280, 286, 10_334];
/// Codes from here on name a place in the server's source, where something did not make
/// sense; of a token, that it is none. (11000 and its like, the errors of clusters, are
/// below.)
const LOCATIONS: i32 = 15_000;

impl MongoError {
    pub(super) fn new(what: &'static str, error: &Error) -> Self {
        let code = code(error);
        let kind = match (&*error.kind, code) {
            (_, Some(DUPLICATE_KEY)) => Failure::Duplicate,
            (_, Some(UNAUTHORIZED)) => Failure::NotPermitted,
            (_, Some(AUTHENTICATION_FAILED)) | (ErrorKind::Authentication { .. }, _) => {
                Failure::Denied
            }
            (_, Some(code)) if INDEX_CONFLICTS.contains(&code) => Failure::IndexConflict,
            (_, Some(code)) if HISTORY_LOST.contains(&code) || code >= LOCATIONS => {
                Failure::HistoryLost
            }
            (ErrorKind::MissingResumeToken, _) => Failure::HistoryLost,
            (
                ErrorKind::ServerSelection { .. }
                | ErrorKind::Io(_)
                | ErrorKind::ConnectionPoolCleared { .. }
                | ErrorKind::DnsResolve { .. },
                _,
            ) => Failure::Unreachable,
            _ => Failure::Other,
        };
        Self { what, problem: described(error), kind }
    }

    pub(super) fn slow(what: &'static str) -> Self {
        Self { what, problem: "it takes too long".to_owned(), kind: Failure::Slow }
    }

    /// What is the matter, as a name in metrics and status.
    pub const fn name(&self) -> &'static str {
        match self.kind {
            Failure::Slow => "slow",
            Failure::Unreachable => "unreachable",
            Failure::Denied => "denied",
            Failure::NotPermitted => "not_permitted",
            Failure::HistoryLost => "history_lost",
            Failure::Duplicate | Failure::IndexConflict | Failure::Other => "failing",
        }
    }

    /// What to do about it.
    pub const fn advice(&self) -> &'static str {
        match self.kind {
            Failure::Slow => "look at the load and the disk of the database's host",
            Failure::Unreachable => {
                "start mongod, or correct the host in MONGO_URI; a firewall may be in between"
            }
            Failure::Denied => "correct the user and the password in MONGO_URI",
            Failure::NotPermitted => {
                "give the user of MONGO_URI the role readWrite on the database"
            }
            Failure::HistoryLost => "nothing: all documents are compared",
            Failure::Duplicate | Failure::IndexConflict | Failure::Other => {
                "look at the log of mongod"
            }
        }
    }

    pub(super) const fn is_duplicate(&self) -> bool {
        matches!(self.kind, Failure::Duplicate)
    }

    pub(super) const fn is_index_conflict(&self) -> bool {
        matches!(self.kind, Failure::IndexConflict)
    }

    /// Whether the server does not know us, or we may not do what we have to.
    pub const fn is_about_rights(&self) -> bool {
        matches!(self.kind, Failure::Denied | Failure::NotPermitted)
    }

    /// Whether changes cannot be followed from where they were followed to.
    pub const fn is_history_lost(&self) -> bool {
        matches!(self.kind, Failure::HistoryLost)
    }
}

fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        ErrorKind::InsertMany(error) => {
            error.write_errors.as_ref().and_then(|errors| errors.first()).map(|error| error.code)
        }
        _ => None,
    }
}

/// On one line and of bounded length: servers like to tell a lot.
fn described(error: &Error) -> String {
    const MOST: usize = 240;
    let mut text = match &*error.kind {
        ErrorKind::Command(error) => format!("{} ({})", error.message, error.code_name),
        kind => kind.to_string(),
    };
    if let Some(source) = error.source() {
        text = format!("{text}: {source}");
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect()
}
