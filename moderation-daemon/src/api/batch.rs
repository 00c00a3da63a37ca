//! `POST /v1/events/batch`: one event a line in, one answer a line out, in the
//! same order. A line that makes no sense is answered in its place and hinders
//! no other; what is wrong with the whole is refused as a whole.

use std::sync::Arc;

use axum::{
    body::{Body, HttpBody as _},
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Context, MAX_BODY_BYTES, Problem,
    event::EventBody,
    input::{body, parse},
    paths::{LINES, Operation, Paths},
    view::AnswerView,
};
use crate::{clock, moderator::Ask};

/// Lines of a batch: a chunk that holds up others for a millisecond or so.
const MAX_LINES: usize = 1_000;
/// Bytes of a batch.
const MAX_BYTES: usize = 1_024 * 1_024;
/// Bytes of all batches that are read or wait at one time. As many connections
/// as there may be can each have one of 32 KiB, or eight the largest.
const MAX_BYTES_AT_ONCE: usize = 8 * MAX_BYTES;

pub(super) fn routes() -> Paths {
    let room = Arc::new(Semaphore::new(MAX_BYTES_AT_ONCE));
    let route = move |State(context): State<Context>, body: Body| {
        let room = Arc::clone(&room);
        async move { events(&context, room, body).await }
    };
    let decided = Operation::post("/v1/events/batch", "Several events, one a line, all or none");
    let decided = decided.body_as::<EventBody<'_>>(LINES);
    Paths::new().on(decided.answers_as::<AnswerView<'_>>(LINES), route)
}

async fn events(context: &Context, room: Arc<Semaphore>, from: Body) -> Result<Response, Problem> {
    let _place = place(room, &from)?;
    let bytes = body(from, MAX_BYTES).await?;
    let lines = lines(&bytes)?.map(|line| ask(context, line)).collect();
    let (asks, problems) = sort(lines);
    let answers = context.moderator.judge_all(asks).await?;
    let (mut answers, now) = (answers.iter(), clock::now());
    let mut text = Vec::with_capacity(bytes.len() * 4);
    for problem in problems {
        match problem {
            Some(problem) => {
                context.metrics.problem(problem.name());
                text.extend_from_slice(
                    json!({ "problem": problem.value() }).to_string().as_bytes(),
                );
            }
            None => answers.next().map_or((), |answer| {
                AnswerView::new(answer, &context.config.rules, now).write(&mut text);
            }),
        }
        text.push(b'\n');
    }
    let kind = HeaderValue::from_static(LINES);
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Room for as many bytes as are announced, before any of them is read.
fn place(room: Arc<Semaphore>, body: &Body) -> Result<OwnedSemaphorePermit, Problem> {
    let announced = body.size_hint().exact().unwrap_or(MAX_BYTES as u64);
    let bytes = u32::try_from(announced).ok().filter(|bytes| *bytes as usize <= MAX_BYTES);
    let bytes = bytes.ok_or(Problem::BodyTooLarge(MAX_BYTES))?;
    room.try_acquire_many_owned(bytes).map_err(|_| Problem::TooManyBatches)
}

/// What is between the line ends; after the last one there need be nothing.
fn lines(bytes: &[u8]) -> Result<impl Iterator<Item = &[u8]>, Problem> {
    let whole = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let count = if bytes.is_empty() { 0 } else { bytecount(whole) + 1 };
    if count > MAX_LINES {
        return Err(Problem::TooManyLines(MAX_LINES));
    }
    Ok(whole.split(|byte| *byte == b'\n').take(count))
}

fn bytecount(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// A line is as long as a body of its own may be.
fn ask(context: &Context, line: &[u8]) -> Result<Ask, Problem> {
    if line.len() > MAX_BODY_BYTES {
        return Err(Problem::BodyTooLarge(MAX_BODY_BYTES));
    }
    parse::<EventBody<'_>>(line)?.ask(&context.config.rules)
}

/// What is to be judged; and by line what is wrong with it, or nothing.
fn sort(lines: Vec<Result<Ask, Problem>>) -> (Vec<Ask>, Vec<Option<Problem>>) {
    let (mut asks, mut problems) = (Vec::with_capacity(lines.len()), Vec::new());
    for line in lines {
        problems.push(line.map(|ask| asks.push(ask)).err());
    }
    (asks, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_as_they_are_read() {
        let cases: [(&[u8], &[&[u8]]); 7] = [
            (b"", &[]),
            (b"a", &[b"a"]),
            (b"a\n", &[b"a"]),
            (b"a\nb", &[b"a", b"b"]),
            (b"a\r\n\nb\n", &[b"a\r", b"", b"b"]),
            (b"\n", &[b""]),
            (b"\n\n", &[b"", b""]),
        ];
        for (bytes, want) in cases {
            let got: Vec<_> = lines(bytes).expect("few").collect();
            assert_eq!(got, want, "{bytes:?}");
        }
    }

    #[test]
    fn a_batch_has_so_many_lines_and_not_one_more() {
        let full = b"{}\n".repeat(MAX_LINES);
        assert_eq!(lines(&full).map(Iterator::count), Ok(MAX_LINES));
        let over = [&full[..], b"x"].concat();
        assert_eq!(lines(&over).err(), Some(Problem::TooManyLines(MAX_LINES)));
    }
}
