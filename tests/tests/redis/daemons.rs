//! Daemons that count together: limits, leases and scores hold over all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::redis::{Cluster, Redis};
use moderation_tests::wait;
use serde_json::{Value, json};

use crate::script::is_here;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A host without a kernel; bans are off, so that who is over a limit can go on asking.
pub(crate) fn host(uri: &str, more: &Value) -> Result<Daemon> {
    let mut overrides = json!({
        "network": { "mode": "off" },
        // A busy machine is no slow server.
        "redis": { "enabled": true, "uri": uri, "bound": "500ms", "longest_pause": "200ms" },
        "bans": { "enabled": false },
        "custom": {
            "violations": { "poke_limit": { "score": 1 } },
            "limits": { "poke_user": { "by": "user", "max": 10, "window": "1h", "violation": "poke_limit" } },
            "events": { "poke": { "limits": ["poke_user"] } },
        },
    });
    merge(&mut overrides, more);
    let daemon = Setup::new().overrides(overrides).start()?;
    together(&daemon)?;
    Ok(daemon)
}

fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) if !over.is_null() => *base = over.clone(),
        _ => {}
    }
}

/// Waits until it counts together with others.
pub(crate) fn together(daemon: &Daemon) -> Result<()> {
    wait::until("counting together", PATIENCE, || {
        Ok((daemon.status()?["redis"]["shared"] == true).then_some(()))
    })
}

/// Waits until it counts alone, for one of these reasons.
pub(crate) fn alone(daemon: &Daemon, want: &[&str]) -> Result<()> {
    let mut last = String::new();
    let seen = wait::until("counting alone", PATIENCE, || {
        let redis = daemon.status()?["redis"].clone();
        last = redis.to_string();
        let is_named = redis["fault"].as_str().is_some_and(|fault| want.contains(&fault));
        Ok((redis["shared"] == false && is_named).then_some(()))
    });
    seen.with_context(|| format!("{last}, not {want:?}"))
}

pub(crate) fn poke(app: &mut Caller, user: &str) -> Result<bool> {
    let answer = app.event("poke", &json!({ "user": user }))?;
    Ok(answer["decision"] == "allow")
}

/// So many clients of some hosts do something until it is refused, often; returns how often
/// it was not.
fn race(
    hosts: &[Daemon],
    clients: usize,
    each: impl Fn(&mut Caller, usize) -> Result<bool> + Send + Sync + 'static,
) -> Result<u64> {
    let allowed = Arc::new(AtomicU64::new(0));
    let each = Arc::new(each);
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            let (allowed, each) = (Arc::clone(&allowed), Arc::clone(&each));
            let mut app = Caller::app(&hosts[client % hosts.len()]);
            thread::spawn(move || -> Result<()> {
                for _ in 0..40 {
                    if each(&mut app, client)? {
                        allowed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().ok().context("a client panicked")??;
    }
    Ok(allowed.load(Ordering::Relaxed))
}

/// That the race was about shared counters at all.
fn never_alone(hosts: &[Daemon]) -> Result<()> {
    for host in hosts {
        let metrics = Caller::operator(host).get("/metrics")?;
        let metrics = metrics.as_str().context("a text")?;
        for name in
            ["moderation_redis_decisions_alone_total", "moderation_redis_decisions_in_vain_total"]
        {
            ensure!(metrics.contains(&format!("{name} 0\n")), "{name}: a host was alone");
        }
    }
    Ok(())
}

#[test]
fn sixteen_hosts_of_clients_get_what_the_limit_allows_and_not_one_more() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let redis = Redis::start()?;
    let hosts = (0..4).map(|_| host(&redis.uri(), &Value::Null)).collect::<Result<Vec<_>>>()?;
    let allowed = race(&hosts, 16, |app, _| poke(app, "anna"))?;
    never_alone(&hosts)?;
    assert_eq!(allowed, 10);
    let keys = redis.keys()?;
    assert!(keys.iter().all(|key| !key.contains("anna")), "{keys:?}");
    Ok(())
}

#[test]
fn leases_never_exceed_their_cap_over_all_hosts_and_a_place_given_back_is_free_at_once()
-> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let redis = Redis::start()?;
    let more = json!({ "concurrency": { "max": 3, "lease": "10m" } });
    let hosts = (0..4).map(|_| host(&redis.uri(), &more)).collect::<Result<Vec<_>>>()?;
    let (held, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (now, peak) = (Arc::clone(&held), Arc::clone(&most));
    let given = race(&hosts, 16, move |app, _| {
        let answer = app.post("/v1/leases", &json!({ "user": "anna" }))?;
        let Some(id) = answer["lease"]["id"].as_u64() else { return Ok(false) };
        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        now.fetch_sub(1, Ordering::SeqCst);
        app.delete(&format!("/v1/leases/{id}"))?;
        Ok(true)
    })?;
    never_alone(&hosts)?;
    assert!(most.load(Ordering::SeqCst) <= 3 && given > 3, "{most:?} at once, {given} in all");
    let mut app = Caller::app(&hosts[0]);
    for _ in 0..20 {
        let mut ids = Vec::new();
        for _ in 0..3 {
            let answer = app.post("/v1/leases", &json!({ "user": "bert" }))?;
            ids.push(answer["lease"]["id"].as_u64().context("a place was given back")?);
        }
        let mut other = Caller::app(&hosts[1]);
        let answer = other.post("/v1/leases", &json!({ "user": "bert" }))?;
        assert_eq!(answer["decision"], "deny", "another host knows");
        for id in ids {
            app.delete(&format!("/v1/leases/{id}"))?;
        }
    }
    Ok(())
}

#[test]
fn scores_add_up_over_hosts_and_ban_on_the_one_where_the_last_drop_falls() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let redis = Redis::start()?;
    let more = json!({ "bans": { "enabled": true } });
    let hosts = (0..2).map(|_| host(&redis.uri(), &more)).collect::<Result<Vec<_>>>()?;
    let mut apps: Vec<_> = hosts.iter().map(Caller::app).collect();
    // Five points each, of twenty.
    for turn in 0..4 {
        let answer = apps[turn % 2]
            .violation("illegal_model_request", &json!({ "user": "anna", "ip": "192.0.2.7" }))?;
        assert_eq!(answer["ban"].is_object(), turn == 3, "{turn}: {answer}");
        let total = answer["violation"]["total"].as_f64().or(answer["score"]["total"].as_f64());
        if let Some(total) = total {
            assert!((total - 5.0 * (turn as f64 + 1.0)).abs() < 0.01, "{answer}");
        }
        // What one host adds the other reads with its next question.
        settled(&hosts[turn % 2])?;
    }
    Ok(())
}

fn settled(host: &Daemon) -> Result<()> {
    wait::until("what is decided to be settled", PATIENCE, || {
        Ok((host.status()?["redis"]["owed"] == 0).then_some(()))
    })?;
    Ok(())
}

#[test]
fn what_is_refunded_or_was_denied_for_another_reason_is_given_back() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let redis = Redis::start()?;
    let hosts = (0..2).map(|_| host(&redis.uri(), &Value::Null)).collect::<Result<Vec<_>>>()?;
    let [mut one, mut other] = [Caller::app(&hosts[0]), Caller::app(&hosts[1])];
    for number in 0..10 {
        let id = format!("message {number}");
        let answer = one.event("poke", &json!({ "user": "anna", "id": id }))?;
        assert_eq!(answer["decision"], "allow");
        let again = one.event("poke", &json!({ "user": "anna", "id": id }))?;
        assert_eq!(again["decision"], "allow", "a retry is the same one");
    }
    assert!(!poke(&mut other, "anna")?);
    let refund = json!({ "type": "poke", "id": "message 3", "user": "anna" });
    assert_eq!(one.post("/v1/refunds", &refund)?["refunded"], true);
    wait::until("a refund to count elsewhere", PATIENCE, || {
        Ok(poke(&mut other, "anna")?.then_some(()))
    })?;
    assert!(!poke(&mut other, "anna")?);
    Ok(())
}

#[test]
fn on_a_cluster_limits_hold_as_well() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let cluster = Cluster::start()?;
    let uri = cluster.uris().join(",");
    let hosts = (0..2).map(|_| host(&uri, &Value::Null)).collect::<Result<Vec<_>>>()?;
    let allowed = race(&hosts, 8, |app, client| poke(app, ["anna", "bert", "carl"][client % 3]))?;
    never_alone(&hosts)?;
    assert_eq!(allowed, 30);
    Ok(())
}

#[test]
fn a_daemon_that_is_killed_at_random_leaves_the_limit_as_it_is() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let redis = Redis::start()?;
    let steady = host(&redis.uri(), &Value::Null)?;
    let mut killed = host(&redis.uri(), &Value::Null)?;
    let mut allowed = 0;
    for round in 0..4 {
        let mut app = Caller::app(&killed);
        for _ in 0..round {
            allowed += u64::from(poke(&mut app, "anna")?);
        }
        killed.kill()?;
        allowed += u64::from(poke(&mut Caller::app(&steady), "anna")?);
        killed.start()?;
        together(&killed)?;
    }
    while poke(&mut Caller::app(&steady), "anna")? {
        allowed += 1;
    }
    assert_eq!(allowed, 10, "what was answered counts, whoever died since");
    assert!(!poke(&mut Caller::app(&killed), "anna")?);
    Ok(())
}
