//! Differences that would lead the replay astray: each is told as a short story, in
//! which LibreChat and we say what is listed, and not the same.

use anyhow::{Context, Result, ensure};
use moderation_daemon::engine::{PrefixSet, Trust};
use tempfile::tempdir;

use crate::differences::{Differences, Room};
use crate::harness::Harness;
use crate::replay::compare::Theirs;
use crate::replay::ours::{Ours, Said, rules};
use crate::replay::traffic::{CHROME, Event};
use crate::replay::{BEGIN_MS, begin, judge_apart};

struct Story {
    /// Its name in differences.toml.
    name: &'static str,
    env: &'static [(&'static str, &'static str)],
    /// What our own configuration adds.
    own: &'static str,
    /// Prefixes that are guarded.
    guards: &'static [&'static str],
    events: &'static [Step],
    /// What we say; `None`: we do not start with that.
    ours: Option<&'static [&'static str]>,
    theirs: &'static [&'static str],
}

/// So many milliseconds after the last one: what, who, whence, with what.
type Step = (u64, &'static str, &'static str, &'static str, &'static str);

const ADA: &str = "64b5f0c2000000000000a0a0";
const BOB: &str = "64b5f0c2000000000000b0b0";
const CAT: &str = "64b5f0c2000000000000c0c0";
const NOBODY: &str = "";
const HOME: &str = "198.51.100.1";
const WORK: &str = "198.51.100.2";
const CURL: &str = "curl/8.5.0";

const BANS: (&str, &str) = ("BAN_VIOLATIONS", "true");

/// What most stories are like.
const PLAIN: Story = Story {
    name: "",
    env: &[BANS],
    own: "",
    guards: &[],
    events: &[],
    ours: Some(&[]),
    theirs: &[],
};

const STORIES: &[Story] = &[
    Story {
        name: "limiter_before_ban",
        env: &[BANS, ("LOGIN_MAX", "1")],
        events: &[
            (0, "message", ADA, HOME, CURL),
            (1, "login", NOBODY, HOME, CHROME),
            (1, "login", NOBODY, HOME, CHROME),
        ],
        ours: Some(&["deny", "banned", "banned"]),
        theirs: &["deny", "banned", "deny"],
        ..PLAIN
    },
    Story {
        name: "route_without_ban",
        events: &[(0, "message", ADA, HOME, CURL), (1, "import", ADA, HOME, CHROME)],
        ours: Some(&["deny", "banned"]),
        theirs: &["deny", "allow"],
        ..PLAIN
    },
    Story {
        name: "address_spelling",
        env: &[("LOGIN_MAX", "1")],
        events: &[
            (0, "login", NOBODY, "2001:db8::1", CHROME),
            (1, "login", NOBODY, "2001:DB8:0::1", CHROME),
        ],
        ours: Some(&["allow", "deny"]),
        theirs: &["allow", "allow"],
        ..PLAIN
    },
    Story {
        name: "network_of_shared_links",
        env: &[("SHARE_IP_MAX", "1")],
        events: &[
            (0, "shared_link", NOBODY, "2001:db8::1", CHROME),
            (1, "shared_link", NOBODY, "2001:db8:0:ff::1", CHROME),
        ],
        ours: Some(&["allow", "allow"]),
        theirs: &["allow", "deny"],
        ..PLAIN
    },
    Story {
        name: "window_beyond_timers",
        env: &[("REGISTER_MAX", "1"), ("REGISTER_WINDOW", "40000")],
        events: &[
            (0, "registration", NOBODY, HOME, CHROME),
            (0, "registration", NOBODY, HOME, CHROME),
            (2, "registration", NOBODY, HOME, CHROME),
        ],
        ours: Some(&["allow", "allow", "allow"]),
        theirs: &["allow", "deny", "allow"],
        ..PLAIN
    },
    Story {
        name: "half_a_generation",
        env: &[("LIMIT_CONCURRENT_MESSAGES", "true"), ("CONCURRENT_MESSAGE_MAX", "2.5")],
        events: &[
            (0, "acquire", ADA, HOME, CHROME),
            (1, "acquire", ADA, HOME, CHROME),
            (1, "acquire", ADA, HOME, CHROME),
        ],
        ours: Some(&["allow", "allow", "deny"]),
        theirs: &["allow", "allow", "allow"],
        ..PLAIN
    },
    Story {
        name: "guarded_address",
        guards: &["198.51.100.0/24"],
        events: &[
            (0, "message", ADA, HOME, CURL),
            (1, "message", ADA, WORK, CHROME),
            (1, "message", BOB, HOME, CHROME),
        ],
        ours: Some(&["deny", "banned", "allow"]),
        theirs: &["deny", "banned", "banned"],
        ..PLAIN
    },
    Story {
        name: "circuit",
        own: "bans: {max_per_minute: 1}\n",
        events: &[
            (0, "message", ADA, HOME, CURL),
            (1, "message", BOB, WORK, CURL),
            (1, "message", CAT, "198.51.100.3", CURL),
            (1, "message", CAT, "198.51.100.3", CHROME),
        ],
        ours: Some(&["deny", "deny", "deny", "allow"]),
        theirs: &["deny", "deny", "deny", "banned"],
        ..PLAIN
    },
    Story {
        name: "score_that_is_no_number",
        env: &[BANS, ("ILLEGAL_MODEL_REQ_SCORE", "1 * 2")],
        events: &[
            (0, "illegal_model_request", ADA, HOME, CHROME),
            (1, "message", ADA, HOME, CHROME),
        ],
        ours: None,
        theirs: &["deny", "banned"],
        ..PLAIN
    },
    Story {
        name: "interval_that_is_no_number",
        env: &[BANS, ("BAN_INTERVAL", "0/0")],
        events: &[
            (0, "illegal_model_request", ADA, HOME, CHROME),
            (1, "message", ADA, HOME, CHROME),
        ],
        ours: None,
        theirs: &["deny", "banned"],
        ..PLAIN
    },
    Story {
        name: "window_that_is_no_number",
        env: &[("LOGIN_MAX", "1"), ("LOGIN_WINDOW", "five")],
        events: &[
            (0, "login", NOBODY, HOME, CHROME),
            (0, "login", NOBODY, HOME, CHROME),
            (2, "login", NOBODY, HOME, CHROME),
        ],
        ours: None,
        theirs: &["allow", "deny", "allow"],
        ..PLAIN
    },
];

#[test]
fn what_differs_on_purpose_differs_as_it_is_told() -> Result<()> {
    let Some(mut harness) = Harness::start()? else {
        return Ok(());
    };
    let mut differences = Differences::of(Room::Stories)?;
    for story in STORIES {
        tell(&mut harness, story).with_context(|| format!("in {}", story.name))?;
        differences.note(story.name)?;
    }
    differences.finish()
}

fn tell(harness: &mut Harness, story: &Story) -> Result<()> {
    let folder = tempdir()?;
    let env: Vec<(String, String)> =
        story.env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    begin(harness, &env, folder.path())?;
    let mut theirs = Vec::new();
    for event in events(story) {
        theirs.push(verdict(&judge_apart(harness, &event)?));
    }
    ensure!(theirs == story.theirs, "LibreChat says {theirs:?}");
    let Some(expected) = story.ours else {
        ensure!(rules(&env, folder.path(), story.own).is_err(), "we start");
        return Ok(());
    };
    let guards: Result<PrefixSet, _> =
        story.guards.iter().map(|prefix| Ok((prefix.parse()?, Trust::Guard))).collect();
    let guards = guards.map_err(|error: ipnet::AddrParseError| error)?;
    let mut ours = Ours::new(&env, folder.path(), story.own, guards)?;
    let mut said = Vec::new();
    for event in events(story) {
        said.push(match ours.say(&event)? {
            Said::Banned(_) => "banned",
            Said::Decided(decision) => {
                let is_allowed = decision.outcome.cause.is_none();
                ours.apply(&event, *decision);
                if is_allowed { "allow" } else { "deny" }
            }
        });
    }
    ensure!(said == expected, "we say {said:?}");
    Ok(())
}

fn events(story: &Story) -> impl Iterator<Item = Event> {
    let mut at = BEGIN_MS;
    story.events.iter().map(move |(pause, kind, user, ip, agent)| {
        at += pause;
        let user = (!user.is_empty()).then(|| (*user).to_owned());
        Event { at, kind, user, ip: (*ip).to_owned(), agent }
    })
}

fn verdict(theirs: &Theirs) -> &'static str {
    match (&theirs.ban, theirs.verdict.as_deref()) {
        (Some(_), _) => "banned",
        (None, Some("allow")) => "allow",
        (None, _) => "deny",
    }
}
