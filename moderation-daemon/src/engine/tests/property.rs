//! What must hold whatever happens.

use std::{collections::HashMap, net::IpAddr};

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

proptest! {
    /// The overlay is the engine: it makes no difference where batches end.
    #[test]
    fn decisions_do_not_depend_on_how_requests_are_batched(
        requests in prop::collection::vec(any_request(), 1..120),
        batch in 2_usize..40,
    ) {
        let mut one_by_one = engine_with(strict_rules());
        let mut batched = engine_with(strict_rules());
        let want = judge(&mut one_by_one, &requests, 1, NOW);
        let got = judge(&mut batched, &requests, batch, NOW);
        prop_assert_eq!(want, got);
        prop_assert_eq!(one_by_one.size(), batched.size());
        let ids = |engine: &Engine| engine.bans().iter().cloned().collect::<Vec<_>>();
        prop_assert_eq!(ids(&one_by_one), ids(&batched));
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

    /// No interleaving of acquiring, renewing, releasing and time gives a user
    /// more places than there are.
    #[test]
    fn leases_never_exceed_the_cap(steps in prop::collection::vec((0_u8..4, 0_u64..40_000), 1..200)) {
        let mut rules = rules();
        rules.ban.enabled = false;
        let mut engine = engine_with(rules);
        let mut now = NOW;
        let mut held: Vec<Lease> = Vec::new();
        for (step, wait_ms) in steps {
            now.boot_ms += wait_ms;
            held.retain(|lease| now.boot_ms < lease.ends_at_boot_ms);
            match step {
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
