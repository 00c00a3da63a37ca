//! The settings under which is replayed: LibreChat's example, its code's defaults,
//! and many that people write and that nobody would.

use moderation_tests::random::Random;

/// A `.env`, with a name to find it by.
pub(crate) struct World {
    pub(crate) name: String,
    pub(crate) env: Vec<(String, String)>,
}

/// How many are made up.
const MADE_UP: u64 = 9;

/// What `.env.example` has.
const EXAMPLE: [(&str, &str); 24] = [
    ("BAN_VIOLATIONS", "true"),
    ("BAN_DURATION", "1000 * 60 * 60 * 2"),
    ("BAN_INTERVAL", "20"),
    ("LOGIN_VIOLATION_SCORE", "1"),
    ("REGISTRATION_VIOLATION_SCORE", "1"),
    ("CONCURRENT_VIOLATION_SCORE", "1"),
    ("MESSAGE_VIOLATION_SCORE", "1"),
    ("NON_BROWSER_VIOLATION_SCORE", "20"),
    ("TTS_VIOLATION_SCORE", "0"),
    ("STT_VIOLATION_SCORE", "0"),
    ("FORK_VIOLATION_SCORE", "0"),
    ("IMPORT_VIOLATION_SCORE", "0"),
    ("FILE_UPLOAD_VIOLATION_SCORE", "0"),
    ("ILLEGAL_MODEL_REQ_SCORE", "5"),
    ("LOGIN_MAX", "7"),
    ("LOGIN_WINDOW", "5"),
    ("REGISTER_MAX", "5"),
    ("REGISTER_WINDOW", "60"),
    ("LIMIT_CONCURRENT_MESSAGES", "true"),
    ("CONCURRENT_MESSAGE_MAX", "2"),
    ("LIMIT_MESSAGE_IP", "true"),
    ("MESSAGE_IP_MAX", "40"),
    ("MESSAGE_IP_WINDOW", "1"),
    ("LIMIT_MESSAGE_USER", "false"),
];

const RAW_LIMITS: [&str; 5] =
    ["LOGIN", "REGISTER", "RESET_PASSWORD", "VERIFY_EMAIL", "TWO_FACTOR_TEMP"];
const RAW_LIMITS_2: [&str; 5] = [
    "RESET_PASSWORD_SUBMISSION",
    "VERIFY_EMAIL_SUBMISSION",
    "MESSAGE_IP",
    "MESSAGE_USER",
    "CONTEXT_PROJECTION",
];
const INT_LIMITS: [&str; 13] = [
    "FILE_UPLOAD_IP",
    "FILE_UPLOAD_USER",
    "IMPORT_IP",
    "IMPORT_USER",
    "FORK_IP",
    "FORK_USER",
    "TTS_IP",
    "TTS_USER",
    "STT_IP",
    "STT_USER",
    "SHARE_IP",
    "SHARE_USER",
    "FILE_USAGE_USER",
];
const SCORES: [&str; 19] = [
    "LOGIN",
    "REGISTRATION",
    "MESSAGE",
    "NON_BROWSER",
    "TTS",
    "STT",
    "FORK",
    "IMPORT",
    "FILE_UPLOAD",
    "TOOL_CALL",
    "RESET_PASSWORD",
    "VERIFY_EMAIL",
    "TWO_FACTOR_TEMP",
    "RESET_PASSWORD_SUBMISSION",
    "VERIFY_EMAIL_SUBMISSION",
    "CONVO_ACCESS",
    "SHARE",
    "ILLEGAL_MODEL_REQ",
    "CONCURRENT",
];
const SWITCHES: [&str; 4] =
    ["BAN_VIOLATIONS", "LIMIT_CONCURRENT_MESSAGES", "LIMIT_MESSAGE_IP", "LIMIT_MESSAGE_USER"];

const RAW_MAXIMA: [&str; 14] =
    ["7", "3", "1", " 2 ", "0x3", "2.5", "1e1", "", "0", "-1", "many", "+4", "Infinity", "12abc"];
const RAW_WINDOWS: [&str; 12] =
    ["1", "5", "0.05", "0.5", " 2 ", "1e-1", "0x1", "", "0", "-3", "0.0001", "7.77777"];
const INTS: [&str; 12] =
    ["5", "2", "12abc", "1e3", "0x4", "", "0", "abc", "-2", "2.9", " 3 ", "007"];
const POINTS: [&str; 9] = ["1", "0", "2", "0.5", "", "20", "7.25", "1e1", "-1"];
const EXPRESSIONS_OF_POINTS: [&str; 6] = ["1", "2 * 3", "50%", "", "abc", "(1+1)(2)"];
const INTERVALS: [&str; 9] = ["20", "5", "2 * 3", "0", "-20", "1/0", "2.5", "abc", "0.3"];
const DURATIONS: [&str; 10] =
    ["1000 * 60 * 60 * 2", "60000", "1000*30", "0", "-1", "2h", "1/0", "0/0", "1500.5", "50%"];
const TTLS: [&str; 7] = ["0", "-5", "3600000", "1000 * 60", "1/0", "90000.5", "abc"];
const MAXIMA_AT_ONCE: [&str; 8] = ["2", "1", "3", "0", "-1", "5%3", "abc", "1/0"];
const BOOLS: [&str; 6] = ["true", "TRUE ", "true", "false", "1", ""];

/// All of them.
pub(crate) fn worlds(seed: u64) -> Vec<World> {
    let set = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let example: Vec<(String, String)> = set(&EXAMPLE);
    let never = [example.clone(), set(&[("VIOLATION_SCORE_TTL", "0")])].concat();
    let redis = [example.clone(), set(&[("USE_REDIS", "true")])].concat();
    let lengths = [("BAN_DURATION", "1000 * 45.0005"), ("VIOLATION_SCORE_TTL", "90000.5")];
    let mut short = example.clone();
    short.retain(|(name, _)| name != "BAN_DURATION");
    short.extend(set(&lengths));
    let mut worlds = vec![
        World { name: "the example".to_owned(), env: example },
        World { name: "the example, scores that never expire".to_owned(), env: never },
        World { name: "the example, keys of Redis".to_owned(), env: redis },
        World { name: "the example, short bans and scores".to_owned(), env: short },
        World { name: "nothing but bans".to_owned(), env: set(&[("BAN_VIOLATIONS", "true")]) },
        World { name: "nothing at all".to_owned(), env: Vec::new() },
    ];
    let mut random = Random::new(seed);
    worlds.extend((0..MADE_UP).map(|number| made_up(&mut random, number)));
    worlds
}

fn made_up(random: &mut Random, number: u64) -> World {
    let mut env = Vec::new();
    let mut set = |random: &mut Random, name: String, values: &[&str]| {
        if random.below(3) < 2 {
            env.push((name, random.pick(values).to_owned()));
        }
    };
    for name in RAW_LIMITS.iter().chain(&RAW_LIMITS_2) {
        set(random, format!("{name}_MAX"), &RAW_MAXIMA);
        set(random, format!("{name}_WINDOW"), &RAW_WINDOWS);
    }
    for name in INT_LIMITS {
        set(random, format!("{name}_MAX"), &INTS);
        set(random, format!("{name}_WINDOW"), &INTS);
    }
    for name in SCORES {
        let values: &[&str] = if name == "CONCURRENT" { &EXPRESSIONS_OF_POINTS } else { &POINTS };
        let ending = if name == "ILLEGAL_MODEL_REQ" { "SCORE" } else { "VIOLATION_SCORE" };
        set(random, format!("{name}_{ending}"), values);
    }
    for name in SWITCHES {
        set(random, name.to_owned(), &BOOLS);
    }
    set(random, "BAN_INTERVAL".to_owned(), &INTERVALS);
    set(random, "BAN_DURATION".to_owned(), &DURATIONS);
    set(random, "VIOLATION_SCORE_TTL".to_owned(), &TTLS);
    set(random, "CONCURRENT_MESSAGE_MAX".to_owned(), &MAXIMA_AT_ONCE);
    // A world in which nobody is banned shows little.
    if number.is_multiple_of(2) {
        env.retain(|(name, _)| name != "BAN_VIOLATIONS" && name != "BAN_INTERVAL");
        env.push(("BAN_VIOLATIONS".to_owned(), "true".to_owned()));
    }
    World { name: format!("made up {number}"), env }
}
