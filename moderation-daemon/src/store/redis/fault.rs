//! What went wrong, by name: how Redis and its library put it, and what that means for
//! those who ask. What an error text says is shown, as far as no secret can be in it.

use redis::{ErrorKind, ServerError, Value};

use crate::sharing::{Failure, Fault};

/// Longer texts are none.
const MOST: usize = 120;

/// That of a failure before there was an answer, or instead of one.
pub(super) fn of(error: &redis::RedisError) -> Failure {
    let fault = match error.kind() {
        ErrorKind::AuthenticationFailed => Fault::Refused,
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Fault::Nonsense,
        ErrorKind::Io if error.is_timeout() => Fault::Slow,
        _ => error.code().map_or(Fault::Gone, |code| by_code(code, error.detail())),
    };
    let text = error.code().unwrap_or_default();
    drop_long(fault, text)
}

/// That of an answer which is an error.
pub(super) fn of_server(error: &ServerError) -> Failure {
    drop_long(by_code(error.code(), error.details()), error.code())
}

fn drop_long(fault: Fault, text: &str) -> Failure {
    Failure::new(fault, if text.len() > MOST { "" } else { text })
}

/// An error of a command inside a script comes with its own code, or, from older servers,
/// with it in the text.
fn by_code(code: &str, details: Option<&str>) -> Fault {
    let known = |code: &str| match code {
        "OOM" => Some(Fault::Full),
        "READONLY" | "MISCONF" | "NOREPLICAS" => Some(Fault::ReadOnly),
        "NOPERM" | "NOAUTH" | "WRONGPASS" => Some(Fault::Refused),
        "BUSY" | "UNKILLABLE" => Some(Fault::Busy),
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" => {
            Some(Fault::NotReady)
        }
        _ => None,
    };
    let words = details.unwrap_or_default().split(|c: char| !c.is_ascii_uppercase());
    known(code).or_else(|| words.filter_map(known).next()).unwrap_or(Fault::Script)
}

/// Whether the server does not know a script, and so has run nothing.
pub(super) fn is_unknown(answer: &Result<Value, redis::RedisError>) -> bool {
    match answer {
        Ok(Value::ServerError(error)) => error.code() == "NOSCRIPT",
        Ok(_) => false,
        Err(error) => error.code() == Some("NOSCRIPT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_name_that_says_what_to_do_about_it() {
        let cases = [
            ("OOM", None, Fault::Full),
            ("READONLY", None, Fault::ReadOnly),
            ("NOPERM", None, Fault::Refused),
            ("WRONGPASS", None, Fault::Refused),
            ("BUSY", None, Fault::Busy),
            ("LOADING", None, Fault::NotReady),
            ("CLUSTERDOWN", None, Fault::NotReady),
            (
                "ERR",
                Some("Error running script: @user_script:3: -OOM command not allowed"),
                Fault::Full,
            ),
            ("ERR", Some("user_script:7: attempt to index a nil value"), Fault::Script),
            ("SOMETHING", None, Fault::Script),
        ];
        for (code, details, want) in cases {
            assert_eq!(by_code(code, details), want, "{code} {details:?}");
        }
    }
}
