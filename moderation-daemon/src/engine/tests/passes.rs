//! How much gets through: counted here once more, beside the engine, stretch by
//! stretch. What windows are made of is tested where they are.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{property::strict_hardened, *};

/// What somebody does.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// An event of whom, from where, by somebody who pays or not, if that is said.
    Ask(EventType, &'static str, &'static str, Option<bool>),
    /// Takes back what one of the last requests counted: how many before.
    TakeBack(usize),
}

/// How long until the next batch: around the ends of windows, and of windows that
/// began at a multiple of their length.
#[derive(Clone, Copy, Debug)]
enum Wait {
    Ms(u64),
    Around(u64, i64),
    Aligned(u64, i64),
}

const WINDOWS: [u64; 3] = [1_000, 2_000, 5 * 60_000];

fn any_move() -> impl Strategy<Value = Move> {
    let kind = prop::sample::select(vec![EventType::MESSAGE, EventType::MESSAGE, EventType::LOGIN]);
    let user = prop::sample::select(vec!["anna", "bert", ""]);
    let ip = prop::sample::select(vec!["192.0.2.7", "192.0.2.7", "2001:db8:0:1::7"]);
    let ask = (kind, user, ip, prop::option::weighted(0.1, any::<bool>()));
    prop_oneof![
        5 => ask.prop_map(|(kind, user, ip, paying)| Move::Ask(kind, user, ip, paying)),
        1 => (1_usize..6).prop_map(Move::TakeBack),
    ]
}

fn any_wait() -> impl Strategy<Value = Wait> {
    let window = || prop::sample::select(WINDOWS.to_vec());
    prop_oneof![
        3 => (0_u64..400).prop_map(Wait::Ms),
        2 => (window(), -1_i64..=1).prop_map(|(window, by)| Wait::Around(window, by)),
        2 => (window(), -1_i64..=1).prop_map(|(window, by)| Wait::Aligned(window, by)),
    ]
}

impl Wait {
    fn ms(self, now: Moment) -> u64 {
        match self {
            Self::Ms(ms) => ms,
            Self::Around(window, by) => window.saturating_add_signed(by),
            Self::Aligned(window, by) => (window - now.boot_ms % window).saturating_add_signed(by),
        }
    }
}

/// One that passed, for one limiter: when, and as which request.
type Pass = (u64, usize);

/// Plays and counts; the number of passes, or what was too much.
fn play(rules: &Rules, batches: &[(Vec<Move>, Wait)]) -> Result<usize, String> {
    let mut engine = engine_with(rules.clone());
    let (mut now, mut number, mut passed) = (NOW, 0_usize, 0);
    let mut passes: HashMap<(Limiter, Key), Vec<Pass>> = HashMap::new();
    for (moves, wait) in batches {
        let ms = wait.ms(now);
        now = Moment { boot_ms: now.boot_ms + ms, unix_ms: now.unix_ms + ms };
        engine.expire(now);
        let mut overlay = engine.overlay();
        for step in moves {
            let name = |number: usize| -> RequestId { format!("request {number}").into() };
            number += 1;
            let (act, whose, paying) = match *step {
                Move::Ask(kind, user, ip, paying) => (Act::event(kind), subject(user, ip), paying),
                Move::TakeBack(before) => {
                    let earlier = number.saturating_sub(before);
                    (Act::Refund(name(earlier)), subject("anna", "192.0.2.7"), None)
                }
            };
            let traits = paying.map(|paying| Traits { paying: Some(paying), ..Traits::default() });
            let asked = Request { id: Some(name(number)), traits, ..request(act, whose) };
            let decision = overlay.decide(&asked, &overlay.counts(&asked, now), now);
            overlay.push(&decision);
            let outcome = decision.outcome;
            if outcome.verdict == Verdict::Deny {
                continue;
            }
            if let Move::TakeBack(before) = *step {
                let earlier = number.saturating_sub(before);
                passes.values_mut().for_each(|log| log.retain(|(_, of)| *of != earlier));
                continue;
            }
            passed += 1;
            for count in &outcome.counts {
                let rule = rules.limiter(count.limiter).expect("it was asked");
                let log = passes.entry((count.limiter, count.key)).or_default();
                log.push((now.boot_ms, number));
                let since = |at: u64| now.boot_ms - at < rule.limit.window_ms;
                let within = log.iter().filter(|(at, _)| since(*at)).count() as u64;
                if within > count.max || count.max > rules.largest_max(rule) {
                    let (limiter, max) = (count.limiter, count.max);
                    return Err(format!("{within} passed {limiter}, which allows {max}"));
                }
            }
        }
        let changes = overlay.into_changes();
        engine.apply(changes);
    }
    Ok(passed)
}

/// Bans would keep out who is to try the limits.
fn without_bans(mut rules: Rules) -> Rules {
    rules.ban.enabled = false;
    rules
}

#[test]
fn the_count_beside_the_engine_sees_what_fixed_windows_let_through() {
    let message = Move::Ask(EventType::MESSAGE, "", "192.0.2.7", None);
    let burst = vec![message; 5];
    let late = (vec![message], Wait::Aligned(1_000, 0));
    let batches = [late, (burst.clone(), Wait::Ms(999)), (burst, Wait::Ms(1))];
    let mut rules = without_bans(strict_hardened());
    assert_eq!(play(&rules, &batches), Ok(6));
    rules.counting.windows = Windowing::Fixed;
    assert_eq!(play(&rules, &batches), Err("6 passed message_ip, which allows 5".to_owned()));
}

proptest! {
    /// Sliding windows, all or none of several limiters, limits that move with what
    /// is known, refunds, batches, and times around the ends of windows.
    #[test]
    fn never_more_than_the_limit_passes_in_any_window(
        batches in prop::collection::vec(
            (prop::collection::vec(any_move(), 1..14), any_wait()), 1..40),
    ) {
        let outcome = play(&without_bans(strict_hardened()), &batches);
        prop_assert!(outcome.is_ok(), "{:?}", outcome);
    }
}
