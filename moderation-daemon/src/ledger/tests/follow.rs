//! What follows from what was seen: stories, one for each kind.

use super::*;

const SETTLE_MS: u64 = 250;

fn settings() -> FollowSettings {
    FollowSettings {
        host: "alpha".to_owned(),
        skew_ms: 5_000,
        most_deleted: 2,
        settle_ms: SETTLE_MS,
        most_foreign: 3,
        foreign_blocks: false,
        foreign_per_minute: 2,
    }
}

fn at(ms: u64) -> Moment {
    Moment { boot_ms: NOW.boot_ms + ms, unix_ms: NOW.unix_ms + ms }
}

fn see(follow: &mut Follow, shared: &SharedBan, host: &str, now: Moment) -> Vec<Step> {
    let documents = BanDocument::all(shared, host, &key());
    let steps = documents.into_iter().flat_map(|document| {
        let judged = judge(&document.key, read(&document), &key());
        follow.see(&id(&document.key), judged, now)
    });
    steps.collect()
}

fn see_foreign(
    follow: &mut Follow,
    key_text: &str,
    expires: Option<u64>,
    now: Moment,
) -> Vec<Step> {
    follow.see(&id(key_text), judge(key_text, of_librechat(expires), &key()), now)
}

fn id(key: &str) -> String {
    format!("\"{key}\"")
}

fn bans(steps: &[Step]) -> Vec<(Uid, Origin)> {
    let ban = |step: &Step| match step {
        Step::Tell(Change::Ban { uid, origin, .. }) => Some((uid.clone(), origin.clone())),
        _ => None,
    };
    steps.iter().filter_map(ban).collect()
}

fn pardons(steps: &[Step]) -> Vec<&str> {
    let mut pardons = Vec::new();
    for step in steps {
        if let Step::Tell(Change::Pardon(entry)) = step {
            pardons.push(entry.key.as_str());
        }
    }
    pardons
}

fn alarms(steps: &[Step]) -> Vec<Alarm> {
    let alarm = |step: &Step| match step {
        Step::Alarm(alarm) => Some(*alarm),
        _ => None,
    };
    steps.iter().filter_map(alarm).collect()
}

#[test]
fn a_ban_of_another_host_is_taken_over_once_though_it_has_two_documents() {
    let mut follow = Follow::new(settings(), Vec::new());
    let anna = shared(7, Some("anna"), Some("192.0.2.7"));
    let steps = see(&mut follow, &anna, "beta", NOW);
    assert_eq!(bans(&steps), [(uid(7), Origin::Host("beta".to_owned()))]);
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::Note(_))).count(), 2);
    assert_eq!(see(&mut follow, &anna, "beta", NOW), [], "what is known is no news");
}

#[test]
fn a_ban_that_is_over_is_not_taken_over() {
    let mut follow = Follow::new(settings(), Vec::new());
    let anna = shared(7, Some("anna"), None);
    assert_eq!(see(&mut follow, &anna, "beta", at(7_200_000)), []);
}

#[test]
fn a_document_that_is_deleted_by_hand_is_a_pardon_after_a_moment() {
    let mut follow = Follow::new(settings(), Vec::new());
    see(&mut follow, &shared(7, Some("anna"), Some("192.0.2.7")), "beta", NOW);
    follow.gone(&id("BANS:anna"), at(10));
    assert_eq!(follow.settles_in(at(10)), Some(SETTLE_MS));
    assert_eq!(follow.settle(at(10)), []);
    let steps = follow.settle(at(10 + SETTLE_MS));
    assert_eq!(pardons(&steps), ["BANS:anna"]);
    assert_eq!(follow.settles_in(at(1_000)), None);
    assert_eq!(follow.settle(at(1_000)), [], "once");
}

#[test]
fn a_document_that_goes_at_its_end_has_expired_within_the_skew_of_clocks() {
    for (before_end_ms, is_pardon) in [(0, false), (5_000, false), (5_001 + SETTLE_MS, true)] {
        let mut follow = Follow::new(settings(), Vec::new());
        see(&mut follow, &shared(7, Some("anna"), None), "beta", NOW);
        let gone = 7_200_000 - before_end_ms;
        follow.gone(&id("BANS:anna"), at(gone));
        let steps = follow.settle(at(gone + SETTLE_MS));
        assert_eq!(!pardons(&steps).is_empty(), is_pardon, "{before_end_ms} ms before");
        assert!(is_pardon || steps == [Step::Forget("BANS:anna".to_owned())]);
    }
}

#[test]
fn a_lift_of_another_host_is_one_and_its_deletions_are_no_pardon() {
    let mut follow = Follow::new(settings(), Vec::new());
    let mut anna = shared(7, Some("anna"), Some("192.0.2.7"));
    see(&mut follow, &anna, "beta", NOW);
    anna.lifted = Some((NOW.unix_ms, "root".to_owned()));
    let lift = LiftDocument::of(&anna, "beta", NOW.unix_ms, &key());
    let judged = judge(&lift.key, read_lift(&lift), &key());
    let steps = follow.see(&id(&lift.key), judged.clone(), at(5));
    assert_eq!(steps, [Step::Tell(Change::Lift { uid: uid(7), host: "beta".to_owned() })]);
    assert_eq!(follow.see(&id(&lift.key), judged, at(6)), [], "once");
    follow.gone(&id("BANS:anna"), at(10));
    follow.gone(&id("BANS:192.0.2.7"), at(10));
    let steps = follow.settle(at(10 + SETTLE_MS));
    assert_eq!(pardons(&steps), Vec::<&str>::new());
    assert_eq!(steps.len(), 2, "both are forgotten: {steps:?}");
    // A backup brings the document back.
    assert_eq!(
        see(&mut follow, &anna, "beta", at(500))[0],
        Step::Tell(Change::Reship(vec![uid(7)]))
    );
}

#[test]
fn more_deletions_at_once_than_a_person_makes_are_a_loss_of_data() {
    let mut follow = Follow::new(settings(), Vec::new());
    let names = ["anna", "bert", "carl"];
    for (number, name) in (1..).zip(names) {
        see(&mut follow, &shared(number, Some(name), None), "beta", NOW);
    }
    for (index, name) in (0..).zip(names) {
        follow.gone(&id(&format!("BANS:{name}")), at(100 * index));
    }
    assert_eq!(follow.settle(at(SETTLE_MS)), [], "they go on");
    let steps = follow.settle(at(200 + SETTLE_MS));
    assert_eq!(alarms(&steps), [Alarm::DataLoss]);
    assert_eq!(pardons(&steps), Vec::<&str>::new());
    assert!(steps.contains(&Step::Tell(Change::Reship(vec![uid(1), uid(2), uid(3)]))), "{steps:?}");
}

#[test]
fn deletions_that_never_end_are_judged_within_a_second() {
    let mut follow = Follow::new(settings(), Vec::new());
    for number in 1..=20 {
        let name = format!("user{number}");
        see(&mut follow, &shared(number, Some(&name), None), "beta", NOW);
        follow.gone(&id(&format!("BANS:{name}")), at(u64::from(number) * 100));
        if u64::from(number) * 100 > 100 + 3 * SETTLE_MS {
            assert_eq!(follow.settles_in(at(u64::from(number) * 100)), Some(0));
            return;
        }
    }
    panic!("they were never judged");
}

#[test]
fn what_is_not_listed_is_gone_unless_the_database_was_set_back() {
    let anna = shared(7, Some("anna"), None);
    let mut follow = Follow::new(settings(), Vec::new());
    see(&mut follow, &anna, "beta", NOW);
    follow.listed(|_| false, at(0));
    assert!(follow.missing().contains("BANS:anna"));
    assert_eq!(pardons(&follow.settle(at(SETTLE_MS))), ["BANS:anna"]);

    let mut follow = Follow::new(settings(), Vec::new());
    see(&mut follow, &anna, "beta", NOW);
    follow.listed(|_| false, at(0));
    let steps = follow.lost(at(0));
    assert_eq!(alarms(&steps), [Alarm::DataLoss]);
    assert!(pardons(&steps).is_empty() && steps.contains(&Step::ReshipAll));
    assert_eq!(follow.settle(at(SETTLE_MS)), []);
}

#[test]
fn what_was_seen_in_an_earlier_life_and_is_gone_since_was_deleted() {
    let mut before = Follow::new(settings(), Vec::new());
    let steps = see(&mut before, &shared(7, Some("anna"), None), "beta", NOW);
    let seen = steps.into_iter().filter_map(|step| match step {
        Step::Note(entry) => Some(entry),
        _ => None,
    });
    let mut follow = Follow::new(settings(), seen.collect());
    follow.listed(|_| false, at(0));
    assert_eq!(pardons(&follow.settle(at(SETTLE_MS))), ["BANS:anna"]);
}

#[test]
fn a_dropped_collection_pardons_nobody() {
    let mut follow = Follow::new(settings(), Vec::new());
    see(&mut follow, &shared(7, Some("anna"), None), "beta", NOW);
    follow.gone(&id("BANS:anna"), at(0));
    let steps = follow.lost(at(0));
    assert_eq!(alarms(&steps), [Alarm::DataLoss]);
    assert!(steps.contains(&Step::ReshipAll) && pardons(&steps).is_empty(), "{steps:?}");
    assert_eq!(follow.settle(at(SETTLE_MS)), []);
    assert_eq!(follow.keys().count(), 0);
}

#[test]
fn what_turns_out_to_be_gone_shortly_after_a_loss_belongs_to_it() {
    let anna = shared(7, Some("anna"), None);
    for (after_ms, is_pardon) in [(1_000, false), (20_000, true)] {
        let mut follow = Follow::new(settings(), Vec::new());
        follow.lost(at(0));
        see(&mut follow, &anna, "beta", at(0));
        follow.gone(&id("BANS:anna"), at(after_ms));
        let steps = follow.settle(at(after_ms + SETTLE_MS));
        assert_eq!(!pardons(&steps).is_empty(), is_pardon, "{steps:?}");
        let again = Step::Tell(Change::Reship(vec![uid(7)]));
        assert_eq!(steps.contains(&again), !is_pardon, "{steps:?}");
        assert!(alarms(&steps).is_empty(), "it was told already");
    }
}

#[test]
fn a_document_that_comes_back_at_once_was_not_deleted() {
    let mut follow = Follow::new(settings(), Vec::new());
    let anna = shared(7, Some("anna"), None);
    see(&mut follow, &anna, "beta", NOW);
    follow.gone(&id("BANS:anna"), at(0));
    see(&mut follow, &anna, "beta", at(10));
    assert_eq!(follow.settle(at(SETTLE_MS)), []);
    assert!(follow.entry("BANS:anna").is_some());
}

#[test]
fn foreign_documents_hold_at_the_api_only_and_are_bounded() {
    let mut follow = Follow::new(settings(), Vec::new());
    let blocks = |steps: &[Step]| match steps {
        [Step::Note(_), Step::Tell(Change::Ban { ban, origin: Origin::Foreign, .. })] => {
            Some(ban.blocks)
        }
        _ => None,
    };
    assert_eq!(blocks(&see_foreign(&mut follow, "BANS:192.0.2.7", None, NOW)), Some(false));
    assert_eq!(see_foreign(&mut follow, "BANS:192.0.2.7", None, NOW), []);
    see_foreign(&mut follow, "BANS:192.0.2.8", None, NOW);
    see_foreign(&mut follow, "BANS:192.0.2.9", None, NOW);
    let steps = see_foreign(&mut follow, "BANS:192.0.2.10", None, NOW);
    assert_eq!(steps, [Step::Alarm(Alarm::ForeignFull)]);
    assert_eq!(follow.foreign(), 3);
    // One that is there already may say something else.
    let later = Some(NOW.unix_ms + 1_000_000);
    assert_eq!(blocks(&see_foreign(&mut follow, "BANS:192.0.2.9", later, NOW)), Some(false));
}

#[test]
fn the_kernel_drops_for_foreign_documents_only_what_was_opted_in_and_not_too_many() {
    let settings = FollowSettings { foreign_blocks: true, most_foreign: 10, ..settings() };
    let mut follow = Follow::new(settings, Vec::new());
    let mut blocked = Vec::new();
    for last in 1..=4 {
        let steps = see_foreign(&mut follow, &format!("BANS:192.0.2.{last}"), None, at(0));
        for step in &steps {
            if let Step::Tell(Change::Ban { ban, .. }) = step {
                blocked.push((ban.blocks, alarms(&steps).len()));
            }
        }
    }
    assert_eq!(blocked, [(true, 0), (true, 0), (false, 1), (false, 1)]);
    let steps = see_foreign(&mut follow, "BANS:192.0.2.5", None, at(60_000));
    assert!(alarms(&steps).is_empty(), "a minute later the circuit is closed: {steps:?}");
    let steps = see_foreign(&mut follow, "BANS:anna", None, at(60_000));
    assert!(
        matches!(&steps[..], [_, Step::Tell(Change::Ban { ban, .. })] if !ban.blocks),
        "{steps:?}"
    );
}

#[test]
fn librechats_copies_are_removed_where_nobody_was_banned_and_after_a_lift() {
    let mut follow = Follow::new(settings(), Vec::new());
    let anna = shared(7, Some("anna"), Some("192.0.2.7"));
    let value = BanDocument::all(&anna, "beta", &key()).remove(0).value;
    let copy = |follow: &mut Follow, key_text: &str| {
        let fields = Fields { value: Field::Is(value.clone()), ..Fields::default() };
        follow.see(&id(key_text), judge(key_text, fields, &key()), NOW)
    };
    assert_eq!(copy(&mut follow, "ban:203.0.113.9"), [], "of a ban that nobody knows");
    see(&mut follow, &anna, "beta", NOW);
    for rightful in ["ban:anna", "ban:192.0.2.7", "ban:ban_cache:ip:192.0.2.7"] {
        assert_eq!(copy(&mut follow, rightful), [], "{rightful}");
    }
    for contagious in ["ban:203.0.113.9", "ban:bert", "ban:ban_cache:user:bert"] {
        let want = [Step::RemoveCopy(contagious.to_owned())];
        assert_eq!(copy(&mut follow, contagious), want);
    }
    follow.removed(&uid(7), &["BANS:anna".to_owned(), "BANS:192.0.2.7".to_owned()]);
    assert_eq!(copy(&mut follow, "ban:anna"), [Step::RemoveCopy("ban:anna".to_owned())]);
}

#[test]
fn a_longer_ban_takes_the_place_and_a_shorter_one_gives_it_back() {
    let mut follow = Follow::new(settings(), Vec::new());
    let mut longer = shared(8, Some("anna"), None);
    longer.ban.expires_at_unix_ms = None;
    see(&mut follow, &longer, "alpha", NOW);
    let shorter = shared(7, Some("anna"), None);
    let steps = see(&mut follow, &shorter, "beta", NOW);
    assert_eq!(
        steps[0],
        Step::Tell(Change::Reship(vec![uid(8)])),
        "ours was to be seen for longer"
    );
    assert_eq!(bans(&steps).len(), 1);
}

#[test]
fn a_ban_of_this_host_that_its_store_does_not_know_is_its_own_again() {
    let mut follow = Follow::new(settings(), Vec::new());
    let steps = see(&mut follow, &shared(7, Some("anna"), None), "alpha", NOW);
    assert_eq!(bans(&steps), [(uid(7), Origin::Here)]);
}
