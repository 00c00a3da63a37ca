//! Generations at once: never more than the limit, whatever clients do, and places are
//! given back when one ends, is ended, or nothing is heard of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use moderation_tests::browser::{Answer, Browser};
use moderation_tests::wait;
use serde_json::{Value, json};

use super::stream::{begin, hear, subscribe};
use super::{Host, host};

/// With what is given back at last, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// So many at once, and nothing else that is limited.
fn limited(most: u64) -> Value {
    json!({
        "concurrency": { "enabled": true, "max": most, "lease": "1s" },
        "bans": { "enabled": false },
        "limits": { "message_ip": { "enabled": false }, "login": { "enabled": false } },
        "nginx": { "generation_patience": "1h" },
    })
}

/// Asks to begin one that takes so many milliseconds.
fn ask(client: &Browser, ms: u64) -> Result<Answer> {
    client.post("/api/agents/chat", &json!({ "text": "tell me", "ms": ms, "every": 50 }))
}

/// Nothing more begins.
fn assert_full(client: &Browser) -> Result<()> {
    let answer = ask(client, 60_000)?;
    let told = answer.json();
    ensure!(answer.status == 429 && told["type"] == "concurrent", "{answer:?}");
    ensure!(told["limit"].is_u64() && told["limit"] == told["pendingRequests"], "{told}");
    Ok(())
}

fn abort(client: &Browser, id: &str) -> Result<u16> {
    Ok(client.post("/api/agents/chat/abort", &json!({ "streamId": id }))?.status)
}

impl Host {
    /// The most that ever ran at once, of whomever.
    fn most(&self) -> Result<u64> {
        let running = self.nginx.express()?.running()?;
        let most = running.as_object().into_iter().flatten().map(|(_, it)| it["most"].as_u64());
        Ok(most.max().flatten().unwrap_or(0))
    }

    fn await_generations(&self, count: u64) -> Result<()> {
        wait::until(&format!("{count} generations"), PATIENCE, || {
            let now = self.metric("moderation_nginx_generations")?;
            Ok((now == count).then_some(()))
        })
    }
}

#[test]
fn one_more_than_the_limit_does_not_begin_until_one_has_ended() -> Result<()> {
    let Some(host) = host(limited(2))? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    let first = begin(&alice, 60_000, 50)?;
    let second = begin(&alice, 60_000, 50)?;
    assert_full(&alice)?;
    let bob = host.bystander().log_in("bob")?;
    begin(&bob, 60_000, 50).context("somebody else's are his own")?;

    // Whoever goes away does not end it.
    for id in [&first, &second] {
        drop(subscribe(&alice, id)?);
        assert_full(&alice)?;
    }
    // Nor whoever only looks whether it is there.
    for (method, target) in [
        ("HEAD", format!("/api/agents/chat/stream/{first}")),
        ("GET", "/api/agents/chat/stream/none".to_owned()),
        ("GET", format!("/api/agents/chat/status/{first}")),
    ] {
        alice.ask(method, &target, &moderation_tests::browser::Body::None)?;
        assert_full(&alice).with_context(|| format!("{method} {target}"))?;
    }

    // Ended while it is carried, and while it is not.
    let carried = subscribe(&alice, &first)?;
    ensure!(abort(&alice, &first)? == 200);
    hear(carried)?;
    let third = begin(&alice, 60_000, 50)?;
    assert_full(&alice)?;
    ensure!(abort(&alice, &third)? == 200);
    begin(&alice, 60_000, 50)?;
    assert_full(&alice)?;
    ensure!(abort(&alice, &third)? == 404, "it is gone");
    assert_full(&alice)?;
    ensure!(host.most()? == 2, "{}", host.nginx.express()?.running()?);
    Ok(())
}

#[test]
fn whoever_waits_for_the_end_is_never_refused() -> Result<()> {
    let Some(host) = host(limited(1))? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    for round in 0..30 {
        let id = begin(&alice, 30, 10).with_context(|| format!("round {round}"))?;
        // It may be gone by then.
        if let Ok(stream) = subscribe(&alice, &id) {
            hear(stream)?;
        } else {
            ensure!(alice.get(&format!("/api/agents/chat/stream/{id}"))?.status == 404);
            ensure!(abort(&alice, &id)? == 404);
            return Ok(());
        }
    }
    host.await_generations(0)
}

#[test]
fn what_the_app_refuses_takes_no_place() -> Result<()> {
    let Some(host) = host(limited(1))? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    for round in 0..5 {
        let answer = alice.post("/api/agents/chat", &json!({ "refuse": true }))?;
        ensure!(answer.status == 400, "{round}: {answer:?}");
        // Whom the app does not know.
        let answer = ask(&host.bystander(), 60_000)?;
        ensure!(answer.status == 401, "{round}: {answer:?}");
    }
    let refused = "moderation_nginx_generations_ended_total{reason=\"refused\"}";
    wait::until("all lines", PATIENCE, || Ok((host.metric(refused)? == 10).then_some(())))?;
    host.await_generations(0)
}

#[test]
fn what_ended_unseen_is_found_out_when_it_is_asked_for_again() -> Result<()> {
    let Some(host) = host(limited(1))? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    let id = begin(&alice, 1_000, 50)?;
    drop(subscribe(&alice, &id)?);
    assert_full(&alice)?;
    let target = format!("/api/agents/chat/stream/{id}");
    wait::until("the end", PATIENCE, || {
        let status = alice.get(&format!("/api/agents/chat/status/{id}"))?;
        Ok((status.json()["active"] == false).then_some(()))
    })?;
    assert_full(&alice).context("nobody knows yet")?;
    ensure!(alice.get(&target)?.status == 404);
    begin(&alice, 60_000, 50)?;
    ensure!(alice.get(&target)?.status == 404, "that is no other's end");
    assert_full(&alice)
}

#[test]
fn places_of_which_nothing_is_heard_are_given_back_in_time() -> Result<()> {
    let mut settings = limited(1);
    settings["nginx"] = json!({ "generation_patience": "3s", "log_patience": "5s" });
    let Some(host) = host(settings)? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    let await_place = |client: &Browser, least: Duration| {
        let began = Instant::now();
        let has_begun = || Ok((ask(client, 60_000)?.status == 200).then_some(()));
        wait::until("a place", PATIENCE, has_begun)?;
        ensure!(began.elapsed() >= least, "after {:?}", began.elapsed());
        Ok::<_, anyhow::Error>(())
    };
    begin(&alice, 60_000, 50)?;
    await_place(&alice, Duration::from_secs(2)).context("nobody watched")?;

    // The line of a worker that is dead is never told.
    let bob = host.bystander().log_in("bob")?;
    let stream = subscribe(&bob, &begin(&bob, 60_000, 50)?)?;
    host.nginx.kill_workers()?;
    ensure!(hear(stream).is_err(), "it was cut");
    await_place(&bob, Duration::from_secs(3)).context("a worker died")
}

#[test]
fn places_outlive_the_daemon() -> Result<()> {
    let Some(mut host) = host(limited(2))? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    let first = begin(&alice, 60_000, 50)?;
    begin(&alice, 60_000, 50)?;
    assert_full(&alice)?;
    host.daemon.kill()?;
    host.daemon.start()?;
    // A worker's first line to the new socket is lost; new workers have none to lose.
    host.nginx.kill_workers()?;
    wait::until("nginx to ask again", PATIENCE, || {
        Ok((ask(&alice, 0)?.status == 429).then_some(()))
    })?;
    thread::sleep(Duration::from_millis(2_500)); // paces: more than two leases' life
    host.await_generations(2)?;
    assert_full(&alice)?;
    ensure!(abort(&alice, &first)? == 200);
    begin(&alice, 60_000, 50)?;
    assert_full(&alice)?;
    ensure!(host.most()? == 2);
    Ok(())
}

/// Does all that could confuse, without end.
fn confuse(client: &Browser, seed: u64, is_over: &AtomicBool) -> Result<u64> {
    let (mut began, mut ids, mut turn) = (0, Vec::new(), seed);
    while !is_over.load(Ordering::Relaxed) {
        turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let id = ids.get((turn >> 40) as usize % ids.len().max(1)).cloned().unwrap_or_default();
        match turn >> 61 {
            0..3 => {
                let conversation = format!("c{}", (turn >> 50) % 4);
                let body = json!({ "conversationId": conversation, "ms": 300, "every": 20 });
                let answer = client.post("/api/agents/chat", &body)?;
                match answer.status {
                    200 => {
                        began += 1;
                        ids.push(answer.json()["streamId"].as_str().context("id")?.to_owned());
                    }
                    429 => {}
                    _ => ensure!(false, "{answer:?}"),
                }
            }
            3 => drop(subscribe(client, &id)),
            4 | 5 => drop(subscribe(client, &id).and_then(hear)),
            6 => drop(abort(client, &id)?),
            _ => drop(client.get(&format!("/api/agents/chat/stream/{id}"))?),
        }
    }
    Ok(began)
}

#[test]
fn never_more_than_the_limit_however_confusing_the_clients_are() -> Result<()> {
    let mut settings = limited(3);
    // Places are lost all the time, which is the clients' own fault.
    settings["nginx"] = json!({ "generation_patience": "2s" });
    let Some(host) = host(settings)? else { return Ok(()) };
    let alice = host.bystander().log_in("alice")?;
    let is_over = AtomicBool::new(false);
    let began = thread::scope(|scope| {
        let is_over = &is_over;
        let clients: Vec<_> = (0..8)
            .map(|seed| {
                let alice = alice.clone();
                scope.spawn(move || confuse(&alice, seed, is_over))
            })
            .collect();
        thread::sleep(Duration::from_secs(6)); // paces: how long they go on
        is_over.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .map(|it| it.join().map_err(|_| anyhow!("it panicked"))?)
            .sum::<Result<u64>>()
    })?;
    let most = host.most()?;
    // More than can run at once, so that some had to end first.
    ensure!(began > 3 && most <= 3, "{began} began, {most} at once");
    Ok(())
}
