//! Reloads, restarts and deaths on either side, under a steady load of ordinary requests.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use moderation_tests::browser::Browser;
use moderation_tests::daemon::Daemon;
use moderation_tests::lab::BYSTANDER_V4;
use moderation_tests::nginx::{Gone, Nginx};
use moderation_tests::wait;
use serde_json::{Value, json};

use crate::PATIENCE;

use super::{ENOUGH, Host, farewell, host, host_where, visit};

/// One thing that an operator does, or that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Reload,
    RestartDaemon,
    KillDaemon,
    StartDaemon,
}

use Step::{KillDaemon, Reload, RestartDaemon, StartDaemon};

/// One after the other; with nginx there all the time.
const ORDERS: [&[Step]; 5] = [
    &[Reload, RestartDaemon],
    &[RestartDaemon, Reload],
    &[KillDaemon, Reload, StartDaemon],
    &[KillDaemon, StartDaemon, Reload],
    &[Reload, KillDaemon, StartDaemon, RestartDaemon, Reload],
];

impl Step {
    fn take(self, nginx: &Nginx, daemon: &mut Daemon) -> Result<()> {
        match self {
            Reload => nginx.reload(),
            RestartDaemon => daemon.restart(),
            KillDaemon => daemon.kill().map(drop),
            StartDaemon => daemon.start(),
        }
    }
}

/// Waits until nginx asks the daemon, which it leaves alone for a while if it was gone;
/// else what comes next would happen to nobody.
fn await_question(daemon: &Daemon) -> Result<()> {
    let passed = "moderation_nginx_passed_total";
    let before = daemon.metric(passed)?;
    wait::until("nginx to ask", PATIENCE, || Ok((daemon.metric(passed)? > before).then_some(())))
}

/// After all of it: nobody complained, and who is banned is told so.
fn conclude(host: &mut Host) -> Result<()> {
    let log = host.nginx.log();
    ensure!(!log.contains("[alert]") && !log.contains("unexpected status"), "{log}");
    host.operator.ban(&json!({ "ip": BYSTANDER_V4 }))?;
    let visitor = host.bystander();
    wait::until("nginx to ask again", PATIENCE, || {
        Ok((visitor.get("/api/config")?.status == 403).then_some(()))
    })
}

#[test]
fn no_request_fails_whoever_reloads_restarts_or_dies() -> Result<()> {
    let Some(mut host) = host(Value::Null)? else { return Ok(()) };
    let clients = [host.bystander().log_in("alice")?, host.abuser().log_in("bob")?];
    let is_over = AtomicBool::new(false);
    let Host { nginx, daemon, .. } = &mut host;
    thread::scope(|scope| {
        let is_over = &is_over;
        let visiting: Vec<_> =
            clients.iter().map(|it| scope.spawn(move || visit(it, is_over))).collect();
        let take = |step: Step, daemon: &mut Daemon| {
            step.take(nginx, daemon).with_context(|| format!("{step:?}"))
        };
        let taken = ORDERS.into_iter().try_for_each(|steps| {
            await_question(daemon)?;
            steps.iter().try_for_each(|step| take(*step, daemon))
        });
        is_over.store(true, Ordering::Relaxed);
        farewell(visiting)?;
        taken
    })
    .with_context(|| host.nginx.log())?;
    conclude(&mut host)
}

/// When nginx itself was away: from, and until, once it is back.
type Away = Mutex<Vec<(Instant, Option<Instant>)>>;

/// As [`visit`]; who gets no answer at all while nginx is away asks again, unless it does
/// not come back.
fn visit_between(client: &Browser, away: &Away, is_over: &AtomicBool) -> Result<u64> {
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) || count < ENOUGH {
        let begin = Instant::now();
        match client.get("/api/convos") {
            Ok(answer) => {
                ensure!(answer.is_apps(), "{answer:?}");
                count += 1;
            }
            Err(error) => {
                let away = away.lock().map_err(|_| anyhow!("a panic"))?;
                let was_away = away.iter().any(|(_, until)| until.is_none_or(|it| begin <= it));
                ensure!(was_away, "nginx was there: {error:#}");
                let is_back = away.last().is_none_or(|(_, until)| until.is_some());
                let goes_on = is_back || !is_over.load(Ordering::Relaxed);
                ensure!(goes_on, "nginx did not come back: {error:#}");
            }
        }
    }
    Ok(count)
}

#[test]
fn whatever_is_answered_while_nginx_restarts_is_the_app_s_answer() -> Result<()> {
    let Some(mut host) = host(Value::Null)? else { return Ok(()) };
    let clients = [host.bystander().log_in("alice")?, host.abuser().log_in("bob")?];
    let (is_over, away) = (AtomicBool::new(false), Away::default());
    let Host { nginx, daemon, .. } = &mut host;
    thread::scope(|scope| {
        let (is_over, away) = (&is_over, &away);
        let visiting: Vec<_> =
            clients.iter().map(|it| scope.spawn(|| visit_between(it, away, is_over))).collect();
        let restart = |nginx: &mut Nginx| -> Result<()> {
            away.lock().map_err(|_| anyhow!("a panic"))?.push((Instant::now(), None));
            nginx.restart()?;
            let mut away = away.lock().map_err(|_| anyhow!("a panic"))?;
            away.last_mut().context("just told")?.1 = Some(Instant::now());
            Ok(())
        };
        let mut all = || -> Result<()> {
            restart(nginx)?;
            await_question(daemon)?;
            daemon.restart()?;
            restart(nginx)?;
            await_question(daemon)?;
            daemon.kill()?;
            restart(nginx)?;
            daemon.start()?;
            restart(nginx)?;
            await_question(daemon)
        };
        let done = all();
        is_over.store(true, Ordering::Relaxed);
        farewell(visiting)?;
        done
    })
    .with_context(|| host.nginx.log())?;
    conclude(&mut host)
}

#[test]
fn where_everybody_is_to_be_kept_out_nobody_slips_in_while_nginx_stops() -> Result<()> {
    let Some(mut host) = host_where(Value::Null, Gone::Refuse)? else { return Ok(()) };
    let client = host.bystander().log_in("alice")?;
    host.daemon.kill()?;
    let (client, is_over, nginx) = (&client, &AtomicBool::new(false), &mut host.nginx);
    thread::scope(|scope| {
        let asking = scope.spawn(move || {
            let mut refused = 0;
            while !is_over.load(Ordering::Relaxed) {
                // Whoever gets no answer is not let in either.
                let Ok(answer) = client.get("/api/convos") else { continue };
                ensure!([502, 503].contains(&answer.status), "{answer:?}");
                refused += 1;
            }
            Ok(refused)
        });
        let restarted = (0..3).try_for_each(|_| nginx.restart());
        is_over.store(true, Ordering::Relaxed);
        let refused: u64 = asking.join().map_err(|_| anyhow!("it panicked"))??;
        ensure!(refused > 0, "nobody asked");
        restarted
    })
}
