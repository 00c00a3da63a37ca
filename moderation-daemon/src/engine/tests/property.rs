//! What must hold whatever happens.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use proptest::prelude::*;

use super::*;

/// A world small enough that requests meet.
fn any_request() -> impl Strategy<Value = Request> {
    let user = prop::sample::select(vec!["anna", "bert", ""]);
    let ip = prop::sample::select(vec!["192.0.2.7", "198.51.100.7", "2001:db8:0:1::7"]);
    let kind = prop::sample::select(vec![EventType::LOGIN, EventType::MESSAGE]);
    let act = prop_oneof![
        6 => kind.prop_map(Act::event),
        2 => prop::sample::select(ViolationType::BUILT_IN.to_vec())
            .prop_map(Act::violation),
        2 => Just(Act::Acquire),
        1 => (0_u8..20).prop_map(|id| Act::Refund(name(id))),
    ];
    let id = prop::option::weighted(0.2, 0_u8..20);
    (act, user, ip, id).prop_map(|(act, user, ip, id)| Request {
        id: id.map(name),
        ..Request::new(act, subject(user, ip))
    })
}

fn name(id: u8) -> RequestId {
    format!("id {id}").into()
}

/// Low enough that every rule is met.
fn strict_rules() -> Rules {
    let mut rules = rules();
    set(&mut rules, Limiter::LOGIN, 3, 5 * 60_000);
    set(&mut rules, Limiter::MESSAGE_IP, 5, 1_000);
    set(&mut rules, Limiter::MESSAGE_USER, 4, 2_000);
    rules.ban = BanRule { interval: 6.0, length: BanLength::For(1_500), ..rules.ban };
    rules
}

/// The hardened rules, strict enough that every one of them is met.
pub(super) fn strict_hardened() -> Rules {
    let mut rules = Rules::hardened();
    set(&mut rules, Limiter::LOGIN, 3, 5 * 60_000);
    set(&mut rules, Limiter::MESSAGE_IP, 5, 1_000);
    set(&mut rules, Limiter::MESSAGE_USER, 4, 2_000);
    rules.ban = BanRule { interval: 6.0, length: BanLength::For(1_500), ..rules.ban };
    let steps =
        vec![Step::Reduce { factor_permille: 500, for_ms: 5_000 }, Step::Ban { for_ms: 1_000 }];
    let ladder = Ladder { steps, forget_after_ms: 10_000, severity: Severity::Medium };
    rules.ladders.set(ViolationType::CONCURRENT, Some(ladder));
    rules.adaptive = Some(Adaptive {
        account_age: Since { ms: 1_000, permille: 1_200 },
        verified_email_permille: 1_100,
        paying_permille: 1_500,
        clean_history: Since { ms: 5_000, permille: 1_200 },
        recent_violations: Since { ms: 1_000, permille: 500 },
        flagged_over: 1,
        flagged_within_ms: 3_000,
        flagged_permille: 700,
        min_permille: 250,
        max_permille: 3_000,
        rise_permille_per_hour: 100_000,
    });
    rules
}

/// A request as somebody makes it of whom something is known, or a person's act.
#[derive(Clone, Debug)]
enum Deed {
    Ask(Request),
    Lift(LiftTarget),
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let traits = prop::option::weighted(0.2, any::<bool>());
    let ask = (any_request(), traits).prop_map(|(request, paying)| {
        let traits = paying.map(|paying| Traits { paying: Some(paying), ..Traits::default() });
        Deed::Ask(Request { traits, account: Some(Account::of("anna")), ..request })
    });
    let targets = vec![
        LiftTarget::User(user("anna")),
        LiftTarget::Address([192, 0, 2, 7].into()),
        LiftTarget::Ban(1),
        LiftTarget::Penalty(1),
    ];
    prop_oneof![9 => ask, 1 => prop::sample::select(targets).prop_map(Deed::Lift)]
}

/// Does some deeds on one overlay, and returns what that changes.
fn perform(engine: &Engine, deeds: &[Deed], now: Moment) -> Vec<Change> {
    let mut overlay = engine.overlay();
    for deed in deeds {
        match deed {
            Deed::Ask(request) => {
                let decision = overlay.decide(request, &overlay.counts(request, now), now);
                overlay.push(&decision);
            }
            Deed::Lift(target) => drop(overlay.lift(target, "root", now)),
        }
    }
    overlay.into_changes()
}

proptest! {
    /// The overlay is the engine also where more is remembered; deciding changes
    /// nothing; and what was recorded leads to the same state again.
    #[test]
    fn deciding_changes_nothing_and_replaying_what_was_decided_gives_the_same_state(
        batches in prop::collection::vec(
            (prop::collection::vec(any_deed(), 1..12), 0_u64..3_000), 1..20),
    ) {
        let mut engine = engine_with(strict_hardened());
        let (mut replayed, mut one_by_one) = (engine_with(strict_hardened()), engine_with(strict_hardened()));
        let mut now = NOW;
        for (deeds, wait_ms) in batches {
            now = Moment { boot_ms: now.boot_ms + wait_ms, unix_ms: now.unix_ms + wait_ms };
            for engine in [&mut engine, &mut replayed, &mut one_by_one] {
                engine.expire(now);
            }
            let before = fingerprint(&engine);
            let changes = perform(&engine, &deeds, now);
            prop_assert_eq!(&fingerprint(&engine), &before);
            engine.apply(changes.clone());
            replayed.apply(changes);
            for deed in &deeds {
                let changes = perform(&one_by_one, std::slice::from_ref(deed), now);
                one_by_one.apply(changes);
            }
        }
        prop_assert_eq!(fingerprint(&engine), fingerprint(&replayed));
        prop_assert_eq!(fingerprint(&engine), fingerprint(&one_by_one));
        prop_assert_eq!(engine.size(), replayed.size());
        let request = message("anna", "192.0.2.7");
        let counts = |engine: &Engine| engine.overlay().counts(&request, now);
        prop_assert_eq!(counts(&engine), counts(&one_by_one));
        prop_assert_eq!(counts(&engine), counts(&replayed));
    }

    /// The overlay is the engine, and the short way leads where the long one does: it
    /// makes no difference where batches end.
    #[test]
    fn decisions_do_not_depend_on_how_requests_are_batched(
        requests in prop::collection::vec(any_request(), 1..120),
        batch in 2_usize..40,
    ) {
        let mut one_by_one = engine_with(strict_rules());
        let mut batched = engine_with(strict_rules());
        let want = decide_one_by_one(&mut one_by_one, &requests, NOW);
        let got = judge(&mut batched, &requests, batch, NOW);
        prop_assert_eq!(want, got);
        prop_assert_eq!(one_by_one.size(), batched.size());
        let ids = |engine: &Engine| engine.bans().iter().cloned().collect::<Vec<_>>();
        prop_assert_eq!(ids(&one_by_one), ids(&batched));
        prop_assert_eq!(fingerprint(&one_by_one), fingerprint(&batched));
        let used = |engine: &Engine| {
            requests.iter().map(|it| engine.overlay().counts(it, NOW)).collect::<Vec<_>>()
        };
        prop_assert_eq!(used(&one_by_one), used(&batched));
    }

    /// Whoever could not be told that he passed has used up nothing.
    #[test]
    fn what_passed_can_be_taken_back(
        before in prop::collection::vec((any_request(), 0_u64..400), 0..60),
        requests in prop::collection::vec(any_request(), 1..20),
        is_hardened in any::<bool>(),
    ) {
        // Where limits move with what is known about users, nothing passes at once.
        let hardened = Rules { adaptive: None, ..strict_hardened() };
        let mut engine = engine_with(if is_hardened { hardened } else { strict_rules() });
        let mut now = NOW;
        for (request, wait_ms) in before {
            now = Moment { boot_ms: now.boot_ms + wait_ms, unix_ms: now.unix_ms + wait_ms };
            judge_one(&mut engine, request, now);
        }
        let counts = |engine: &Engine| {
            requests.iter().map(|it| engine.overlay().counts(it, now)).collect::<Vec<_>>()
        };
        let used = |counts: Vec<Counts>| {
            counts.into_iter().flatten().map(|it| (it.key, it.usage.used)).collect::<Vec<_>>()
        };
        let (want, remembered) = (used(counts(&engine)), fingerprint(&engine));
        let mut queue = Queue::default();
        engine.prepare(&mut queue, &requests);
        let passed = engine.pass_all(&mut queue, &requests, now);
        prop_assert_eq!(fingerprint(&engine), remembered);
        (0..passed).rev().for_each(|place| engine.take_back(queue.counts(place), now));
        prop_assert_eq!(used(counts(&engine)), want);
    }

    /// No window ever lets more through than its limit.
    #[test]
    fn no_window_allows_more_than_its_limit(
        steps in prop::collection::vec((any_request(), 0_u64..400), 1..200),
    ) {
        let mut engine = engine_with(strict_rules());
        let mut now = NOW;
        let mut allowed: HashMap<(Key, u64), u64> = HashMap::new();
        for (request, wait_ms) in steps {
            now.boot_ms += wait_ms;
            now.unix_ms += wait_ms;
            engine.expire(now);
            let is_new = request.id.is_none() && !matches!(request.act, Act::Refund(_));
            let outcome = judge_one(&mut engine, request, now);
            if outcome.verdict == Verdict::Allow && is_new {
                for count in outcome.counts {
                    let key = (count.key, count.usage.frees_at_boot_ms);
                    let hits = allowed.entry(key).or_default();
                    *hits += 1;
                    prop_assert!(*hits <= count.max);
                }
            }
        }
    }

    /// Whatever happens, a protected address is in no ban.
    #[test]
    fn no_sequence_of_requests_bans_a_protected_address(
        requests in prop::collection::vec(any_request(), 1..200),
        batch in 1_usize..40,
    ) {
        let mut engine = engine_with(strict_rules());
        let protected: PrefixSet = ["192.0.2.0/24", "2001:db8::/32"]
            .map(|prefix| (prefix.parse().expect("a prefix"), Trust::Allowlist))
            .into_iter()
            .collect();
        engine.set_trust(protected.clone());
        judge(&mut engine, &requests, batch, NOW);
        for ban in engine.bans().iter() {
            let is_protected =
                ban.prefix.is_some_and(|prefix| protected.covering(prefix.net()).is_some());
            prop_assert!(!is_protected, "{:?}", ban);
            prop_assert!(ban.user.is_some() || ban.prefix.is_some());
        }
    }

    /// No interleaving of acquiring, renewing, releasing, ending, being swept and
    /// crashing, at whatever moment between two commits, gives a user more places
    /// than there are, nor takes one away; and in the end all are free.
    #[test]
    fn leases_never_exceed_the_cap(
        steps in prop::collection::vec((0_u8..8, 0_usize..4, 0_u64..40_000), 1..200),
    ) {
        let mut rules = rules();
        rules.ban.enabled = false;
        let mut engine = engine_with(rules.clone());
        let mut now = NOW;
        let mut store: BTreeMap<LeaseId, Bearer> = BTreeMap::new();
        let mut held: Vec<Lease> = Vec::new();
        let bearer = rules.bearer(&subject("anna", "192.0.2.7"));
        let commit = |engine: &mut Engine, changes: Vec<Change>, store: &mut BTreeMap<_, _>| {
            for change in &changes {
                match change {
                    Change::Lease(lease, _) => drop(store.insert(lease.id, lease.bearer.clone())),
                    Change::Release(id) => drop(store.remove(id)),
                    _ => {}
                }
            }
            engine.apply(changes);
        };
        for (step, which, wait_ms) in steps {
            now = Moment { boot_ms: now.boot_ms + wait_ms, unix_ms: now.unix_ms + wait_ms };
            held.retain(|lease| now.boot_ms < lease.ends_at_boot_ms);
            let mut overlay = engine.overlay();
            match step {
                // All that is known afterwards is what the store has.
                0 => {
                    let leases = store.iter().map(|(id, of)| (*id, of.clone(), None)).collect();
                    let restored = Restored { leases, ..Restored::default() };
                    engine = Engine::new(rules.clone(), PrefixSet::default(), restored, SEED, now);
                    for lease in &mut held {
                        lease.ends_at_boot_ms = now.boot_ms + 60_000;
                    }
                }
                1 | 2 => {
                    let request = request(Act::Acquire, subject("anna", "192.0.2.7"));
                    let decision = overlay.decide(&request, &[], now);
                    overlay.push(&decision);
                    held.extend(decision.outcome.lease);
                    let changes = overlay.into_changes();
                    commit(&mut engine, changes, &mut store);
                }
                3 | 4 if which < held.len() => {
                    let renewed = overlay.renew(held[which].id, now);
                    prop_assert!(renewed.is_some(), "{:?} was lost", held[which]);
                    held[which] = renewed.expect("just said");
                    let changes = overlay.into_changes();
                    commit(&mut engine, changes, &mut store);
                }
                5 if which < held.len() => {
                    prop_assert!(overlay.release(held.remove(which).id, now));
                    let changes = overlay.into_changes();
                    commit(&mut engine, changes, &mut store);
                }
                6 => {
                    engine.expire(now);
                    engine.take_lapsed_leases().iter().for_each(|id| drop(store.remove(id)));
                }
                _ => {}
            }
            let (in_force, _) = engine.overlay().leases_of(&bearer, now);
            prop_assert!(held.len() <= 2 && in_force <= 2, "{} are held, {} hold", held.len(), in_force);
            prop_assert!(store.len() <= 2, "a crash would bring back {}", store.len());
        }
        now.boot_ms += 60_000;
        engine.expire(now);
        prop_assert_eq!(engine.size().leases, 0);
        engine.take_lapsed_leases().iter().for_each(|id| drop(store.remove(id)));
        prop_assert!(store.is_empty(), "{:?} are kept for ever", store);
    }

    /// As many as there may be are given, and not one fewer.
    #[test]
    fn a_place_that_is_free_is_given(steps in prop::collection::vec((0_u8..6, 0_u64..40_000), 1..200)) {
        let mut rules = rules();
        rules.ban.enabled = false;
        let mut engine = engine_with(rules.clone());
        let mut now = NOW;
        let mut held: Vec<Lease> = Vec::new();
        for (step, wait_ms) in steps {
            now.boot_ms += wait_ms;
            now.unix_ms += wait_ms;
            held.retain(|lease| now.boot_ms < lease.ends_at_boot_ms);
            match step {
                // The daemon crashes, and knows from the store who held what;
                // leases that have run out may be among it.
                4 => {
                    let leases = held.iter().map(|it| (it.id, it.bearer.clone(), None)).collect();
                    let restored = Restored { leases, ..Restored::default() };
                    engine = Engine::new(rules.clone(), PrefixSet::default(), restored, SEED, now);
                    for lease in &mut held {
                        lease.ends_at_boot_ms = now.boot_ms + 60_000;
                    }
                }
                0 | 1 => {
                    let request = request(Act::Acquire, subject("anna", "192.0.2.7"));
                    let lease = judge_one(&mut engine, request, now).lease;
                    prop_assert_eq!(lease.is_some(), held.len() < 2);
                    held.extend(lease);
                }
                2 if !held.is_empty() => {
                    let mut overlay = engine.overlay();
                    held[0] = overlay.renew(held[0].id, now).expect("it is held");
                    let changes = overlay.into_changes();
                    engine.apply(changes);
                }
                3 if !held.is_empty() => {
                    let mut overlay = engine.overlay();
                    prop_assert!(overlay.release(held.remove(0).id, now));
                    let changes = overlay.into_changes();
                    engine.apply(changes);
                }
                _ => drop(engine.expire(now)),
            }
            prop_assert!(held.len() <= 2);
        }
    }

    /// Every address of a /64, and every way to write an IPv4 address, is one.
    #[test]
    fn an_ipv6_visitor_is_its_64(host in any::<u64>()) {
        let ip = ((0x2001_0db8_0000_0001_u128 << 64) | u128::from(host)).to_be_bytes();
        let subject = Subject::new(None, Some(IpAddr::from(ip))).expect("an address");
        let want: Address = "2001:db8:0:1::/64".parse().expect("an address");
        prop_assert_eq!(rules().counting.address(&subject), Some(want));
    }
}
