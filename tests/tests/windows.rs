//! What limits counted outlives the daemon: a stop loses nothing of it, a kill no
//! more than five seconds, and no file that it finds keeps it from starting. How
//! windows look in the file is the engine's affair.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use moderation_daemon::clock;
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::{Daemon, Setup};
use moderation_tests::{need, wait};
use serde_json::{Value, json};

/// For what happens sooner or later.
const LONG: Duration = Duration::from_secs(20);
/// What a crash may make the daemon forget.
const FORGOTTEN: Duration = Duration::from_secs(5);
const ADDRESS: &str = "ip=192.0.2.7";

/// The file beside the database.
fn file(daemon: &Daemon) -> PathBuf {
    daemon.store_path().with_extension("limits")
}

/// What is left of the limits of a kind of event: names, and how much.
fn limits(daemon: &Daemon, kind: &str, who: &str) -> Result<Vec<Value>> {
    let answer = Caller::app(daemon).get(&format!("/v1/limits?type={kind}&{who}"))?;
    answer["limits"].as_array().cloned().with_context(|| format!("{answer}"))
}

/// How much of the first of them is used up.
fn used(daemon: &Daemon, kind: &str, who: &str) -> Result<u64> {
    let limits = limits(daemon, kind, who)?;
    let number = |name: &str| limits[0][name].as_u64().with_context(|| format!("{limits:?}"));
    Ok(number("limit")? - number("remaining")?)
}

/// What a metric says.
fn metric(daemon: &Daemon, name: &str) -> Result<f64> {
    let text = Caller::operator(daemon).get("/metrics")?;
    let line = text.as_str().unwrap_or_default().lines().find_map(|line| line.strip_prefix(name));
    Ok(line.with_context(|| format!("{name} in {text}"))?.trim().parse()?)
}

/// Until all that was counted by now is in the file.
fn await_saved(daemon: &Daemon) -> Result<()> {
    let began = Instant::now();
    wait::until("what was counted to be written down", LONG, || {
        let passed = began.elapsed();
        let age = Duration::from_secs_f64(metric(daemon, "moderation_snapshot_age_seconds")?);
        Ok((age < passed).then_some(()))
    })
}

/// A daemon that writes often, with these limits.
fn hasty(limits: &Value) -> Result<Daemon> {
    daemon_without_kernel(json!({ "snapshot": { "every": "100ms" }, "limits": limits }))
}

fn lines<'a>(log: &'a str, words: &[&str]) -> Vec<&'a str> {
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect()
}

/// By time, in both profiles' ways, in many pieces of time, and of a limiter whose
/// number is another in each process.
#[test]
fn a_stop_and_a_start_forget_nothing_that_was_counted() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let custom = json!({
        "events": { "ping": { "limits": ["pings"] } },
        "limits": { "pings": { "by": "user", "max": 100_000, "window": "1h", "cost": "bytes" } },
    });
    for profile in ["hardened", "librechat"] {
        let mut daemon = daemon_without_kernel(json!({ "profile": profile, "custom": custom }))?;
        let mut app = Caller::app(&daemon);
        for _ in 0..40 {
            app.event("message", &json!({ "ip": "192.0.2.7" }))?;
        }
        app.event("login", &json!({ "ip": "2001:db8::1" }))?;
        app.event("ping", &json!({ "user": "anna", "bytes": 70_000 }))?;
        app.event("login", &json!({ "ip": "2001:db8::2" }))?;
        let asked = [("message", ADDRESS), ("login", "ip=2001:db8::2"), ("ping", "user=anna")];
        let ask = |daemon: &Daemon| -> Result<Vec<_>> {
            asked.iter().map(|(kind, who)| Ok(limits(daemon, kind, who)?.remove(0))).collect()
        };
        let before = ask(&daemon)?;
        assert!(daemon.stop()?.success());
        daemon.start()?;
        for (before, after) in before.into_iter().zip(ask(&daemon)?) {
            assert_eq!(before["remaining"], after["remaining"], "{profile}: {before}, {after}");
            let [was, is] = [&before, &after].map(|limit| limit["reset_ms"].as_u64());
            let went_on = was.zip(is).is_some_and(|(was, is)| is < was && is + 30_000 > was);
            assert!(went_on, "{profile}: {before}, {after}");
        }
        let denied = Caller::app(&daemon).event("message", &json!({ "ip": "192.0.2.7" }))?;
        assert_eq!(denied["reason"], "message_limit", "in force as before: {denied}");
        assert!(metric(&daemon, "moderation_snapshot_windows{outcome=\"restored\"}")? >= 2.0);
        assert!(metric(&daemon, "moderation_snapshot_damaged")? < 1.0);
    }
    Ok(())
}

/// Events one after the other, as long as `goes_on` says so of when each was answered.
fn count(daemon: &Daemon, mut goes_on: impl FnMut(&[Instant]) -> bool) -> Result<Vec<Instant>> {
    let (mut app, mut answered) = (Caller::app(daemon), Vec::new());
    while goes_on(&answered) {
        app.event("message", &json!({ "ip": "192.0.2.7" }))?;
        answered.push(Instant::now());
        thread::sleep(Duration::from_millis(10)); // paces: events are to spread over seconds
    }
    Ok(answered)
}

#[test]
fn a_kill_forgets_five_seconds_at_most_and_makes_nothing_up() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let limits = json!({ "message_ip": { "max": 100_000, "window": "1h" } });
    let mut daemon = daemon_without_kernel(json!({ "limits": limits }))?;
    let mut app = Caller::app(&daemon);
    for _ in 0..7 {
        app.event("login", &json!({ "ip": "192.0.2.7" }))?;
    }
    let began = Instant::now();
    // Twice as long as may be forgotten, and a little, so that the kill comes in the
    // middle of what is written every four seconds; from anew if the machine stood
    // still, for then nobody can tell what was when.
    let answered = count(&daemon, |answered| {
        let stood_still = |pair: &[Instant]| pair[1] - pair[0] > FORGOTTEN / 10;
        let woke = answered.windows(2).rposition(stood_still).map(|at| answered[at + 1]);
        let passed = woke.unwrap_or(began).elapsed();
        passed < FORGOTTEN * 2 + Duration::from_millis(500) && answered.len() < 50_000
    })?;
    let killed = Instant::now();
    daemon.kill()?;
    daemon.start()?;
    let used = usize::try_from(used(&daemon, "message", ADDRESS)?)?;
    let old = answered.iter().filter(|at| killed - **at >= FORGOTTEN).count();
    assert!((old..=answered.len()).contains(&used), "{used} of {old}..{}", answered.len());
    let denied = Caller::app(&daemon).event("login", &json!({ "ip": "192.0.2.7" }))?;
    assert_eq!(denied["reason"], "logins", "in force as before: {denied}");
    Ok(())
}

/// Each time it is killed, and each time it counts on.
#[test]
fn what_is_in_the_file_counts_after_any_number_of_kills() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let limits = json!({ "message_ip": { "max": 10, "window": "1h" } });
    let mut daemon = hasty(&limits)?;
    for round in 1..=10 {
        let answer = Caller::app(&daemon).event("message", &json!({ "ip": "192.0.2.7" }))?;
        assert_eq!(answer["limits"][0]["remaining"], 10 - round, "{answer}");
        await_saved(&daemon)?;
        daemon.kill()?;
        daemon.start()?;
    }
    let denied = Caller::app(&daemon).event("message", &json!({ "ip": "192.0.2.7" }))?;
    assert_eq!(denied["decision"], "deny", "{denied}");
    Ok(())
}

#[test]
fn the_file_is_the_daemons_alone_and_names_nobody() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon =
        daemon_without_kernel(json!({ "limits": { "message_user": { "enabled": true } } }))?;
    let who = json!({ "user": "anna of the hills", "ip": "198.51.100.77" });
    Caller::app(&daemon).event("message", &who)?;
    daemon.stop()?;
    let path = file(&daemon);
    assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(&path)?;
    let holds = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    assert!(
        holds(b"message_user") && holds(clock::boot_id()?.as_bytes()),
        "what it can be read by"
    );
    let four = [198, 51, 100, 77];
    let reversed = [77, 100, 51, 198];
    for named in [&b"anna"[..], b"198.51", &four, &reversed] {
        assert!(!holds(named), "{named:?}");
    }
    daemon.start()?;
    let who = "user=anna%20of%20the%20hills&ip=198.51.100.77";
    assert_eq!(used(&daemon, "message", who)?, 1, "and yet it is found again");
    Ok(())
}

#[test]
fn a_limit_that_was_given_another_window_begins_anew_and_the_others_count_on() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = daemon_without_kernel(Value::Null)?;
    let mut app = Caller::app(&daemon);
    for kind in ["login", "message", "registration", "password_reset"] {
        app.event(kind, &json!({ "ip": "192.0.2.7" }))?;
    }
    daemon.stop()?;
    daemon.reconfigure(&json!({ "limits": {
        "login": { "window": "10m" },
        "message_ip": { "max": 39 },
        "registration": { "enabled": false },
    } }))?;
    daemon.start()?;
    for (kind, count) in [("login", 0), ("message", 1), ("password_reset", 1)] {
        assert_eq!(used(&daemon, kind, ADDRESS)?, count, "{kind}");
    }
    let of = |outcome: &str| {
        metric(&daemon, &format!("moderation_snapshot_windows{{outcome=\"{outcome}\"}}"))
    };
    assert_eq!((of("restored")?, of("changed")?), (2.0, 2.0));
    Ok(())
}

/// What somebody finds in the file's place: a name, how it comes there, and what is
/// said about it.
type Damage = (&'static str, fn(&Path, &[u8]) -> Result<()>, &'static str);

const DAMAGES: [Damage; 6] = [
    ("nothing in it", |path, _| Ok(fs::write(path, "")?), "no file of limiter windows"),
    ("a text", |path, _| Ok(fs::write(path, "SQLite format 3")?), "no file of limiter windows"),
    ("torn", |path, all| Ok(fs::write(path, &all[..all.len() - 1])?), "breaks off after"),
    ("torn in its head", |path, all| Ok(fs::write(path, &all[..40])?), "breaks off after"),
    (
        "a bit flipped",
        |path, all| {
            let mut all = all.to_vec();
            *all.last_mut().context("a byte")? ^= 4;
            Ok(fs::write(path, all)?)
        },
        "is damaged",
    ),
    (
        "a folder",
        |path, _| {
            fs::remove_file(path)?;
            fs::create_dir(path)?;
            Ok(fs::write(path.join("kept"), "by somebody")?)
        },
        "directory",
    ),
];

#[test]
fn no_file_keeps_it_from_starting_and_what_is_wrong_with_it_is_told() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    for (name, damage, words) in DAMAGES {
        let mut daemon = Setup::new().overrides(json!({ "network": { "mode": "off" } })).start()?;
        Caller::app(&daemon).event("message", &json!({ "ip": "192.0.2.7" }))?;
        daemon.stop()?;
        let path = file(&daemon);
        damage(&path, &fs::read(&path)?)?;
        daemon.start().context(name)?;
        let log = daemon.log();
        let named = path.display().to_string();
        assert_eq!(lines(&log, &["WARN", &named, words]).len(), 1, "{name}: {log}");
        assert!(metric(&daemon, "moderation_snapshot_damaged")? > 0.0, "{name}");
        assert_eq!(used(&daemon, "message", ADDRESS)?, 0, "{name}");
        // It serves, and writes a sound one over it where it can.
        Caller::app(&daemon).event("message", &json!({ "ip": "192.0.2.7" }))?;
        daemon.restart().context(name)?;
        let want = u64::from(path.is_file());
        assert_eq!(used(&daemon, "message", ADDRESS)?, want, "{name}");
        assert_eq!(path.is_file(), name != "a folder");
    }
    Ok(())
}

#[test]
fn a_disk_that_fails_is_told_once_and_counted_and_mended_by_itself() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut daemon = hasty(&json!({}))?;
    await_saved(&daemon)?;
    daemon.stop()?;
    // In the way of the new file.
    let in_the_way = file(&daemon).with_extension("limits.new");
    fs::create_dir(&in_the_way)?;
    daemon.start()?;
    Caller::app(&daemon).event("message", &json!({ "ip": "192.0.2.7" }))?;
    wait::until("several failures", LONG, || {
        let failures = metric(&daemon, "moderation_snapshot_failures_total")?;
        Ok((failures >= 3.0).then_some(()))
    })?;
    let said = |words: &[&str]| lines(&daemon.log(), words).len();
    assert_eq!(said(&["ERROR", "cannot be written down"]), 1, "{}", daemon.log());
    wait::until("the file to be old", LONG, || {
        Ok((metric(&daemon, "moderation_snapshot_age_seconds")? > 1.0).then_some(()))
    })?;
    fs::remove_dir(&in_the_way)?;
    await_saved(&daemon)?;
    assert_eq!(said(&["INFO", "written down again"]), 1, "{}", daemon.log());
    daemon.kill()?;
    daemon.start()?;
    ensure!(used(&daemon, "message", ADDRESS)? == 1, "what was counted meanwhile is in it");
    Ok(())
}
