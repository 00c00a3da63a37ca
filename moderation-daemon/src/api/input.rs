//! From a request's bytes to typed values, once: bodies with a limit of size
//! and time, queries, and the fields they have in common.

use std::net::IpAddr;

use axum::{
    BoxError,
    body::{Bytes, HttpBody as Body},
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::{BODY_TIMEOUT, MAX_BODY_BYTES, Problem};
use crate::engine::{Bearer, RequestId, Subject, UserId};

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = body(request.into_body(), MAX_BODY_BYTES).await?;
        parse(&bytes).map(Self)
    }
}

/// A whole body of at most so many bytes.
pub(super) async fn body<B>(body: B, most_bytes: usize) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let read = read(body, most_bytes);
    timeout(BODY_TIMEOUT, read).await.map_err(|_| Problem::SlowClient)?
}

async fn read<B>(body: B, most_bytes: usize) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    match Limited::new(body, most_bytes).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::BodyTooLarge(most_bytes)),
        Err(_) => Err(Problem::Incomplete),
    }
}

/// An object from its JSON.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    // serde would take an array for the fields in their order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::InvalidField("the body is an array, not an object".to_owned()));
    }
    // Only of a mistake it matters where it is, and finding out takes longer.
    serde_json::from_slice(bytes).or_else(|_| parse_tracking(bytes))
}

fn parse_tracking<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            field_problem(&place, &inner.to_string())
        } else {
            Problem::MalformedJson(inner.to_string())
        }
    })?;
    json.end().map_err(|error| Problem::MalformedJson(error.to_string()))?;
    Ok(value)
}

/// serde has one kind of error for all that is wrong with fields; only its
/// text tells them apart.
fn field_problem(place: &str, text: &str) -> Problem {
    if text.starts_with("unknown field") {
        return Problem::UnknownField(text.to_owned());
    }
    let detail = if place == "." { text.to_owned() } else { format!("{place}: {text}") };
    Problem::InvalidField(detail)
}

/// A query.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|rejection| {
                let text = rejection.body_text();
                let text =
                    text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                let (place, text) = text.split_once(": ").unwrap_or((".", text));
                field_problem(place, text)
            })
    }
}

/// A full address; prefixes are no answer to where a request came from.
pub(super) fn ip(text: &str) -> Result<IpAddr, Problem> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(64).collect();
        Problem::InvalidAddress(format!("{shown:?} is neither an IPv4 nor an IPv6 address"))
    })
}

/// Whom a request concerns.
pub(super) fn subject(user: Option<&str>, from: Option<&str>) -> Result<Subject, Problem> {
    let user = user.map(str::parse::<UserId>).transpose()?;
    let from = from.map(ip).transpose()?;
    Ok(Subject::new(user, from)?)
}

/// Longer ids are no ids.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The caller's name for a request. It is told apart by what was asked about
/// whom: one id may well name a message, its event and its lease, and nobody
/// is answered what somebody else was by naming a request like theirs.
pub(crate) fn request_id(asked: &str, about: &Bearer, id: &str) -> Result<RequestId, Problem> {
    if id.is_empty() || id.len() > MAX_REQUEST_ID_BYTES {
        let detail = format!("id: has 1 to {MAX_REQUEST_ID_BYTES} bytes");
        return Err(Problem::InvalidField(detail));
    }
    let bearer = match about {
        Bearer::User(user) => format!("user {user}"),
        Bearer::Address(address) => format!("address {address}"),
        Bearer::Account(account) => format!("account {account}"),
    };
    // A user id can hold anything; the length says where it ends.
    let length = bearer.len();
    Ok(format!("{asked} of {length} {bearer}: {id}").into())
}

/// Whether a request's id was made for this kind of question.
pub(crate) fn is_request_id(id: &RequestId, asked: &str) -> bool {
    id.strip_prefix(asked).is_some_and(|rest| rest.starts_with(" of "))
}
