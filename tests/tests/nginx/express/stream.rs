//! Generations flow through nginx as they are made, whatever happens to it or the daemon
//! meanwhile.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use moderation_tests::browser::{Body, Browser};
use serde_json::{Value, json};

use super::host;

/// How long the daemon is dead.
const GONE: Duration = Duration::from_millis(500);

/// What one subscriber got, and when: the event, and the milliseconds since 1970.
type Heard = Vec<(Value, i64)>;

/// Begins a generation.
fn begin(client: &Browser, ms: u64, every: u64) -> Result<String> {
    let body = json!({ "text": "tell me", "ms": ms, "every": every });
    let answer = client.post("/api/agents/chat/openAI", &body)?;
    ensure!(answer.status == 200 && answer.json()["status"] == "started", "{answer:?}");
    Ok(answer.json()["streamId"].as_str().context("a stream")?.to_owned())
}

fn subscribe(client: &Browser, id: &str) -> Result<BufReader<TcpStream>> {
    let target = format!("/api/agents/chat/stream/{id}");
    let mut stream = BufReader::new(client.open("GET", &target, &Body::None)?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(stream.read_line(&mut head)? > 0, "{head}");
    }
    ensure!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
    ensure!(head.contains("Transfer-Encoding: chunked"), "{head}");
    Ok(stream)
}

/// Hears all of it, to the chunk of no length that ends it.
fn hear(mut stream: BufReader<TcpStream>) -> Result<Heard> {
    let (mut heard, mut text) = (Heard::new(), String::new());
    loop {
        let mut size = String::new();
        ensure!(stream.read_line(&mut size)? > 0, "cut after {} events", heard.len());
        let size = u64::from_str_radix(size.trim(), 16).with_context(|| size.clone())?;
        stream.by_ref().take(size).read_to_string(&mut text)?;
        stream.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(heard);
        }
        let now = jiff::Timestamp::now().as_millisecond();
        while let Some((event, rest)) = text.split_once("\n\n") {
            let data = event.split_once("data: ").context("data")?.1;
            heard.push((serde_json::from_str(data)?, now));
            text = rest.to_owned();
        }
    }
}

/// All of it, in order, and as it was made.
fn judge(heard: &Heard) -> Result<()> {
    let (last, chunks) = heard.split_last().context("nothing")?;
    ensure!(last.0["final"] == true, "{last:?}");
    let (first, chunks) = chunks.split_first().context("nothing")?;
    ensure!(first.0["created"] == true, "{first:?}");
    ensure!(last.0["chunks"] == chunks.len(), "{last:?}, but {}", chunks.len());
    ensure!(chunks.iter().enumerate().all(|(number, (event, _))| event["index"] == number));
    let end = chunks.last().context("no chunk")?.0["at"].as_i64().context("when")?;
    let early = chunks.iter().filter(|(_, arrived)| *arrived < end).count();
    ensure!(early * 2 > chunks.len(), "only {early} of {} came before the end", chunks.len());
    Ok(())
}

#[test]
fn chunks_arrive_as_they_are_made_and_all_of_them() -> Result<()> {
    let Some(host) = host(Value::Null)? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    let id = begin(&alice, 3_000, 100)?;
    // Somebody who leaves early and comes back hears it from its beginning.
    drop(subscribe(&alice, &id)?);
    let streams = [subscribe(&alice, &id)?, subscribe(&alice, &id)?];
    thread::scope(|scope| {
        let hearing: Vec<_> = streams.into_iter().map(|it| scope.spawn(|| hear(it))).collect();
        for one in hearing {
            judge(&one.join().map_err(|_| anyhow!("it panicked"))??)?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let running = host.nginx.express()?.running()?;
    let most: Vec<_> =
        running.as_object().into_iter().flatten().map(|(_, it)| &it["most"]).collect();
    ensure!(most == [1], "{running}");
    // It is found a little longer, with its end.
    let again = hear(subscribe(&alice, &id)?)?;
    ensure!(again.last().is_some_and(|(event, _)| event["final"] == true), "{again:?}");
    let bob = host.abuser().log_in("bob")?;
    ensure!(bob.get(&format!("/api/agents/chat/stream/{id}"))?.status == 403);
    ensure!(bob.get("/api/agents/chat/stream/none")?.status == 404);
    Ok(())
}

#[test]
fn an_abort_ends_a_stream_with_its_last_event() -> Result<()> {
    let Some(host) = host(Value::Null)? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    let id = begin(&alice, 60_000, 50)?;
    let stream = subscribe(&alice, &id)?;
    let aborted = alice.post("/api/agents/chat/abort", &json!({ "streamId": id }))?;
    ensure!(aborted.status == 200 && aborted.json()["success"] == true, "{aborted:?}");
    let heard = hear(stream)?;
    ensure!(heard.last().is_some_and(|(event, _)| event["aborted"] == true), "{heard:?}");
    ensure!(alice.post("/api/agents/chat/abort", &json!({ "streamId": id }))?.status == 404);
    Ok(())
}

#[test]
fn a_stream_outlives_a_reload_of_nginx_and_the_death_of_the_daemon() -> Result<()> {
    let Some(mut host) = host(Value::Null)? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    let id = begin(&alice, 4_000, 100)?;
    let stream = subscribe(&alice, &id)?;
    thread::scope(|scope| {
        let hearing = scope.spawn(|| hear(stream));
        host.nginx.reload()?;
        host.daemon.kill()?;
        thread::sleep(GONE); // paces: the stream is to flow while nobody is asked
        host.daemon.start()?;
        host.nginx.reload()?;
        judge(&hearing.join().map_err(|_| anyhow!("it panicked"))??)
    })
}
