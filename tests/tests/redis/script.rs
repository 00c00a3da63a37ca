//! What the scripts count: never more than the limit in any window, and no less than that.

use std::slice::from_ref;

use anyhow::Result;
use moderation_daemon::engine::{Decay, Limiter, Rules, Score, ViolationType};
use moderation_daemon::sharing::{
    Claim, Deed, Group, GroupAnswer, LeaseName, Tag, Verdict, Window,
};
use moderation_tests::redis::{Cluster, Redis};
use moderation_tests::{need, wait};
use proptest::prelude::*;

use crate::table::{Host, about, claim, lease};

const HOUR: u64 = 3_600_000;

/// Whether the machine has what these tests need.
pub(crate) fn is_here() -> bool {
    let found = std::process::Command::new("redis-server").arg("--version").output();
    need::root() && need::is_met("redis-server", found.is_ok())
}

fn host(server: &Redis) -> Result<Host> {
    Host::of(vec![server.uri()], 1)
}

const SHAPES: [fn(u64) -> Window; 3] =
    [|ms| Window::Log { ms }, |ms| Window::Buckets { ms }, |ms| Window::Fixed { ms }];

#[test]
fn a_limit_is_used_up_by_as_many_as_it_allows_and_says_how_it_stands() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let server = Redis::start()?;
    let mut host = host(&server)?;
    for (tag, shape) in (1..).zip(SHAPES) {
        let claim = claim(tag, shape(HOUR), 3);
        for used in 0..6 {
            let (now, answer) = host.one(claim)?;
            let want = if used < 3 { Verdict::Taken } else { Verdict::Denied(0) };
            assert_eq!(answer.verdict, want, "{claim:?}");
            assert_eq!(answer.standings[0].used, used.min(3));
            let left = answer.standings[0].frees_at_ms - now;
            assert!((HOUR - 60_000..HOUR + HOUR / 50).contains(&left), "{left}");
        }
    }
    for key in server.keys()? {
        let ttl: i64 = server.ask(&["PTTL", &key])?.parse()?;
        assert!(ttl > 0, "{key} never ends");
    }
    Ok(())
}

#[test]
fn several_limits_are_taken_together_or_not_at_all_and_in_order_where_that_is_asked() -> Result<()>
{
    if !is_here() {
        return Ok(());
    }
    let server = Redis::start()?;
    let mut host = host(&server)?;
    let (wide, narrow) =
        (claim(1, Window::Log { ms: HOUR }, 9), claim(2, Window::Log { ms: HOUR }, 1));
    let looks = |claim: Claim| Claim { looks: true, ..claim };
    let used = |host: &mut Host| -> Result<(u64, u64)> {
        let group = host.group(&[looks(wide), looks(narrow)]);
        let (_, answers) = host.reserve(&[group])?;
        let [first, second] = [0, 1].map(|at| answers[0].0.standings[at].used);
        Ok((first, second))
    };
    let both = host.group(&[wide, narrow]);
    let (_, answers) = host.reserve(&[both])?;
    assert_eq!((answers[0].0.verdict, &answers[0].1[..]), (Verdict::Taken, &[true, true][..]));
    let both = host.group(&[wide, narrow]);
    let (_, answers) = host.reserve(&[both])?;
    assert_eq!(
        (answers[0].0.verdict, &answers[0].1[..]),
        (Verdict::Denied(1), &[false, false][..])
    );
    assert_eq!(used(&mut host)?, (1, 1));
    let in_order = Group { in_order: true, ..host.group(&[wide, narrow]) };
    let (_, answers) = host.reserve(&[in_order])?;
    assert_eq!(&answers[0].1[..], [true, false]);
    let rejected = Claim { counts_rejected: true, ..narrow };
    let rejecting = Group { in_order: true, ..host.group(&[wide, rejected]) };
    let (_, answers) = host.reserve(&[rejecting])?;
    assert_eq!(&answers[0].1[..], [true, true]);
    assert_eq!(used(&mut host)?, (3, 2));
    assert_eq!(used(&mut host)?, (3, 2), "looking takes nothing");
    Ok(())
}

#[test]
fn what_comes_after_its_time_takes_nothing() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let server = Redis::start()?;
    let mut host = host(&server)?;
    let claim = claim(1, Window::Log { ms: HOUR }, 3);
    let group = host.group(&[claim]);
    let now = host.now()?;
    let bound = std::time::Duration::from_secs(5);
    let late = host.run(host.redis.reserve(&[group], now.saturating_sub(1), bound))?;
    assert_eq!(late.answers[0].0.verdict, Verdict::Late);
    let (_, answer) = host.one(claim)?;
    assert_eq!(answer.standings[0].used, 0);
    Ok(())
}

#[test]
fn each_act_is_done_once_however_often_it_is_sent() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let server = Redis::start()?;
    let mut host = host(&server)?;
    for (tag, shape) in (1..).zip(SHAPES) {
        let window = shape(HOUR);
        let used = |host: &mut Host| -> Result<u64> {
            let looks = Claim { looks: true, ..claim(tag, window, 99) };
            Ok(host.one(looks)?.1.standings[0].used)
        };
        let reserved = host.group(&[claim(tag, window, 99)]);
        let (now, _) = host.reserve(from_ref(&reserved))?;
        let limiter = Limiter::MESSAGE_USER;
        let deed = |what: fn(Limiter, Window, u64, u64) -> Deed| what(limiter, window, 1, now);
        let add = host.act(Tag(tag), deed(Deed::Add));
        for _ in 0..3 {
            host.settle(from_ref(&add))?;
            assert_eq!(used(&mut host)?, 2, "{window:?}");
        }
        let take = about(Tag(tag), reserved.ticket, deed(Deed::Take));
        for _ in 0..3 {
            host.settle(&[take.clone(), take.clone()])?;
            assert_eq!(used(&mut host)?, 1, "{window:?}");
        }
        if matches!(window, Window::Log { .. }) {
            // It is not known whether it was reserved: it is now.
            let add = about(Tag(tag), add.ticket, deed(Deed::Add));
            host.settle(&[add])?;
            assert_eq!(used(&mut host)?, 1);
            let never = host.act(Tag(tag), deed(Deed::Take));
            host.settle(&[never])?;
            assert_eq!(used(&mut host)?, 1);
        }
        // What is over is not added.
        let old = host.act(Tag(tag), Deed::Add(limiter, window, 1, now - 2 * HOUR));
        let forget = host.act(Tag(tag), Deed::Forget(limiter, window));
        host.settle(&[old, forget])?;
        assert_eq!(used(&mut host)?, 0);
    }
    Ok(())
}

#[test]
fn leases_never_exceed_their_cap_and_end_by_the_clock_of_the_server() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let server = Redis::start()?;
    let mut host = host(&server)?;
    let name = |host, id| LeaseName { host, id };
    let ask = |host: &mut Host, lease_name, ms| -> Result<Verdict> {
        Ok(host.one(lease(1, lease_name, 2, ms))?.1.verdict)
    };
    assert_eq!(ask(&mut host, name(1, 1), HOUR)?, Verdict::Taken);
    assert_eq!(ask(&mut host, name(1, 1), HOUR)?, Verdict::Taken, "it has it already");
    assert_eq!(ask(&mut host, name(2, 1), HOUR)?, Verdict::Taken);
    assert_eq!(ask(&mut host, name(3, 1), HOUR)?, Verdict::Denied(0));
    let end = host.act(Tag(1), Deed::End(name(1, 1)));
    host.settle(&[end.clone(), end.clone()])?;
    assert_eq!(ask(&mut host, name(3, 1), 50)?, Verdict::Taken);
    host.settle(&[end])?;
    wait::until("a lease to end", std::time::Duration::from_secs(20), || {
        Ok((ask(&mut host, name(4, 1), HOUR)? == Verdict::Taken).then_some(()))
    })?;
    assert_eq!(ask(&mut host, name(5, 1), HOUR)?, Verdict::Denied(0));
    // Who runs keeps the place, whatever was forgotten.
    server.ask(&["FLUSHALL"])?;
    let hold: Vec<_> =
        [2, 4].map(|id| host.act(Tag(1), Deed::Hold(name(id, 1), HOUR))).into_iter().collect();
    host.settle(&hold)?;
    assert_eq!(ask(&mut host, name(5, 1), HOUR)?, Verdict::Denied(0));
    Ok(())
}

#[test]
fn scores_add_up_as_the_engine_has_it_and_are_known_to_whoever_is_rejected() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let server = Redis::start()?;
    let mut host = host(&server)?;
    let kind = ViolationType::MESSAGE_LIMIT;
    let decays =
        [Decay::Never, Decay::Ttl { ms: HOUR }, Decay::HalfLife { ms: 24 * HOUR, step_ms: HOUR }];
    for (tag, decay) in (1..).zip(decays) {
        let now = host.now()?;
        let at = now - 10 * HOUR - 5;
        let own =
            Score { points: 16.0, spent: 20.0, decayed_at_unix_ms: at, updated_at_unix_ms: at };
        let points = |points, spent| Deed::Points { kind, points, spent, decay, own };
        let act = host.act(Tag(tag), points(1.5, 0.0));
        let first = host.settle(from_ref(&act))?[0].expect("a score");
        let want = own.now(decay, now);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(first.points, want.points + 1.5), "{decay:?}: {first:?}, not {want:?}");
        assert!(near(first.spent, want.spent), "{decay:?}: {first:?}, not {want:?}");
        if want.spent > 0.0 {
            assert_eq!(first.decayed_at_unix_ms, want.decayed_at_unix_ms);
        }
        assert_eq!(host.settle(&[act])?[0], Some(first), "once");
        // Spent on a ban; the host's own no longer matters.
        let spending = host.act(Tag(tag), points(1.0, 2.0));
        let then = host.settle(&[spending])?[0].expect("a score");
        assert!(near(then.shown(), first.shown() + 1.0) && near(then.spent, first.spent + 2.0));
        let full =
            Group { scored: Some(Tag(tag)), ..host.group(&[claim(tag, Window::Log { ms: 9 }, 0)]) };
        let alone = Group { alone: Some(kind), scored: Some(Tag(tag)), ..host.group(&[]) };
        let (_, answers) = host.reserve(&[full, alone])?;
        assert!(answers.iter().all(|(answer, _)| answer.score == Some(then)), "{answers:?}");
        let pardon = host.act(Tag(tag), Deed::Pardon);
        host.settle(&[pardon])?;
        let alone = Group { alone: Some(kind), scored: Some(Tag(tag)), ..host.group(&[]) };
        let (_, answers) = host.reserve(&[alone])?;
        assert_eq!(answers[0].0.score, Some(Score::default()), "it is known that there is none");
        let act = host.act(Tag(tag), points(1.0, 0.0));
        assert_eq!(host.settle(&[act])?[0].map(|it| it.shown()), Some(1.0));
    }
    let alone = Group { alone: Some(kind), scored: Some(Tag(99)), ..host.group(&[]) };
    assert_eq!(host.reserve(&[alone])?.1[0].0.score, None);
    Ok(())
}

#[test]
fn a_key_that_holds_something_else_spoils_its_own_decision_only_and_is_left_alone() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let server = Redis::start()?;
    let mut host = host(&server)?;
    let [bad, good] = [1, 2].map(|tag| claim(tag, Window::Log { ms: HOUR }, 3));
    host.one(bad)?;
    let key = server.keys()?.into_iter().find(|key| key.contains('{')).expect("a key");
    server.ask(&["DEL", &key])?;
    server.ask(&["LPUSH", &key, "something else"])?;
    let groups = [host.group(&[bad, good]), host.group(&[good])];
    let (_, answers) = host.reserve(&groups)?;
    assert_eq!(answers[0].0.verdict, Verdict::Foreign);
    assert_eq!(answers[1].0.verdict, Verdict::Taken);
    assert_eq!(answers[1].0.standings[0].used, 0, "nothing of the first was taken");
    assert_eq!(server.ask(&["LLEN", &key])?, "1");
    let forget = host.act(Tag(1), Deed::Forget(Limiter::MESSAGE_USER, Window::Log { ms: HOUR }));
    host.settle(&[forget])?;
    assert_eq!(host.one(bad)?.1.verdict, Verdict::Taken);
    Ok(())
}

#[test]
fn a_server_that_forgot_the_scripts_is_told_them_again() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let server = Redis::start()?;
    let mut host = host(&server)?;
    let claim = claim(1, Window::Log { ms: HOUR }, 9);
    for _ in 0..3 {
        let groups: Vec<_> =
            (0..70).map(|_| host.group(&[Claim { max: 9_999, ..claim }])).collect();
        let (_, answers) = host.reserve(&groups)?;
        assert!(answers.iter().all(|(answer, _)| answer.verdict == Verdict::Taken));
        server.ask(&["SCRIPT", "FLUSH"])?;
    }
    assert_eq!(host.one(claim)?.1.standings[0].used, 128, "as many as a log has");
    Ok(())
}

#[test]
fn on_a_cluster_each_bearer_is_asked_where_it_is_and_what_was_taken_in_vain_is_told() -> Result<()>
{
    if !is_here() {
        return Ok(());
    }
    let cluster = Cluster::start()?;
    let mut host = Host::of(cluster.uris(), 1)?;
    for tag in 0..20 {
        let (wide, narrow) = (
            claim(2 * tag, Window::Log { ms: HOUR }, 9),
            claim(2 * tag + 1, Window::Log { ms: HOUR }, 1),
        );
        let both = host.group(&[wide, narrow]);
        let (_, answers) = host.reserve(&[both])?;
        assert_eq!((answers[0].0.verdict, &answers[0].1[..]), (Verdict::Taken, &[true, true][..]));
        let vain = host.group(&[wide, narrow]);
        let (now, answers) = host.reserve(from_ref(&vain))?;
        assert_eq!(answers[0].0.verdict, Verdict::Denied(1));
        assert_eq!(&answers[0].1[..], [true, false], "the first was taken already");
        let back = Deed::Take(Limiter::MESSAGE_USER, Window::Log { ms: HOUR }, 1, now);
        host.settle(&[about(wide.tag, vain.ticket, back)])?;
        assert_eq!(host.one(wide)?.1.standings[0].used, 1);
    }
    Ok(())
}

/// By the server's clock, as it tells it with each answer.
fn most_in_any_window(taken: &[(u64, u64)], ms: u64) -> u64 {
    let from = |start: u64| {
        let within = taken.iter().filter(|(at, _)| (start..start + ms).contains(at));
        within.map(|(_, cost)| cost).sum()
    };
    taken.iter().map(|(at, _)| from(*at)).max().unwrap_or(0)
}

/// A claim: whose, of which kind, how much is allowed, and its flags.
type Wish = (u128, usize, u64, u8);

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 0, ..ProptestConfig::default() })]

    /// Two hosts ask in turn, in batches, for a limit with a short window, over and over.
    #[test]
    fn no_window_holds_more_than_the_limit_and_none_is_refused_that_fits(
        shape in 0_usize..2,
        ms in 5_u64..60,
        max in 1_u64..9,
        batches in prop::collection::vec((0_usize..2, 1_usize..5, 1_u64..4), 1..120),
    ) {
        if !is_here() {
            return Ok(());
        }
        let run = || -> Result<()> {
            let server = Redis::start()?;
            let mut hosts = [Host::of(vec![server.uri()], 1)?, Host::of(vec![server.uri()], 1 << 40)?];
            let window = SHAPES[shape](ms);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (host, count, cost) in batches {
                let cost = if shape == 0 { 1 } else { cost };
                let host = &mut hosts[host];
                let claim = Claim { cost, ..claim(1, window, max) };
                let groups: Vec<_> = (0..count).map(|_| host.group(&[claim])).collect();
                let (now, answers) = host.reserve(&groups)?;
                for (answer, _) in answers {
                    // Buckets count for up to a 64th and what was rounded longer.
                    let slack = if shape == 0 { 1 } else { ms.div_ceil(64) + ms.div_ceil(8) + 1 };
                    let counts = |(at, _): &&(u64, u64)| *at + ms + slack > now;
                    let held: u64 = taken.iter().filter(counts).map(|(_, cost)| cost).sum();
                    match answer.verdict {
                        Verdict::Taken => taken.push((now, cost)),
                        verdict => {
                            assert_eq!(verdict, Verdict::Denied(0));
                            assert!(held + cost > max, "refused with {held} of {max} used");
                        }
                    }
                }
            }
            let most = most_in_any_window(&taken, ms);
            assert!(most <= max, "{most} of {max} within {ms} ms, {window:?}");
            Ok(())
        };
        run().expect("the server serves");
    }

    /// The same groups twice, about other bearers: together, and each in a call of its own.
    #[test]
    fn what_comes_in_one_call_is_decided_as_if_it_came_alone(
        groups in prop::collection::vec(
            (prop::collection::vec((1_u128..4, 0_usize..4, 0_u64..4, 0_u8..4), 0..4), any::<bool>()),
            1..32,
        ),
    ) {
        if !is_here() {
            return Ok(());
        }
        let run = || -> Result<()> {
            let server = Redis::start()?;
            let mut host = host(&server)?;
            let mut of = |apart: u128| -> Vec<Group> {
                let one = |(number, (claims, in_order)): (usize, &(Vec<Wish>, bool))| {
                    let claims = claims.iter().map(|(tag, shape, max, flags): &Wish| {
                        let lease_name = LeaseName { host: 1, id: number as u64 % 5 };
                        let claim = match SHAPES.get(*shape) {
                            Some(shape) => claim(tag + apart, shape(HOUR), *max),
                            None => lease(tag + apart, lease_name, *max, HOUR),
                        };
                        Claim { looks: flags & 1 != 0, counts_rejected: flags & 2 != 0, ..claim }
                    });
                    let claims: Vec<_> = claims.collect();
                    let scored = claims.first().map(|claim| claim.tag);
                    Group { in_order: *in_order, scored, ..host.group(&claims) }
                };
                groups.iter().enumerate().map(one).collect()
            };
            let (together, alone) = (of(0), of(1_000));
            let (_, together) = host.reserve(&together)?;
            for (one, (group, (answer, taken))) in alone.iter().zip(groups.iter().zip(together)) {
                let (_, mut answers) = host.reserve(from_ref(one))?;
                let (by_itself, taken_by_itself) = answers.pop().expect("an answer");
                assert_eq!((by_itself.verdict, taken_by_itself), (answer.verdict, taken), "{group:?}");
                let used = |answer: &GroupAnswer| -> Vec<u64> {
                    answer.standings.iter().map(|standing| standing.used).collect()
                };
                assert_eq!(used(&by_itself), used(&answer), "{group:?}");
            }
            Ok(())
        };
        run().expect("the server serves");
    }
}

#[test]
fn the_rules_say_which_windows_are_logs() {
    let hardened = Rules::hardened();
    for rule in &hardened.limiters {
        let window = Window::of(rule, &hardened);
        assert_eq!(matches!(window, Window::Log { .. }), rule.limit.max <= 128, "{window:?}");
    }
    let librechat = Rules::librechat();
    let all = librechat.limiters.iter().map(|rule| Window::of(rule, &librechat));
    assert!(all.into_iter().all(|window| matches!(window, Window::Fixed { .. })));
}
