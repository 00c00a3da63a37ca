//! Every environment variable of LibreChat v0.8.7 and its successors that has to
//! do with moderation: how it is read, what it is when it is not set, what
//! LibreChat's example file sets it to, and what of ours it sets. Data only; see
//! `reading` for what is made of it.

/// How LibreChat reads a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// As the string that it is, which JavaScript turns into a number where it
    /// is used: an empty one is 0.
    Raw,
    /// `parseInt(text) || default`: 0 and garbage are the default.
    Int,
    /// `math(text, default)`: an expression, else the default.
    Math,
    /// `isEnabled(text)`: the word true, else false.
    Bool,
    /// As it is. Never shown: whether it is set is all that is told.
    Text,
}

/// What a variable sets, as keys of our own file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sets {
    /// `limits.NAME.max`.
    Max(&'static [&'static str]),
    /// `limits.NAME.window`, in minutes.
    Window(&'static [&'static str]),
    /// `limits.NAME.score`.
    LimitScore(&'static [&'static str]),
    /// `limits.NAME.enabled`.
    LimitSwitch(&'static str),
    /// `scores.NAME`.
    Score(&'static str),
    /// A switch with a key of its own.
    Switch(&'static str),
    /// `bans.duration`, in milliseconds.
    BanDuration,
    /// `bans.interval`.
    BanInterval,
    /// `scoring.ttl`, in milliseconds.
    ScoreTtl,
    /// `concurrency.max`.
    Concurrency,
    /// Nothing: it says how long a session lives, in milliseconds.
    Session,
    /// Nothing: how many proxies LibreChat trusts.
    Proxies,
    /// Nothing: it is documented, but LibreChat does not read it.
    Inert,
    /// Nothing here.
    Nothing,
}

/// One variable.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// How it is read.
    pub family: Family,
    /// What counts when it is not set; empty: nothing does.
    pub unset: &'static str,
    /// What `.env.example` sets it to; empty: it is not there.
    pub example: &'static str,
    /// The variable that counts when this one is not set.
    pub or_else: Option<&'static str>,
    /// What it sets.
    pub sets: Sets,
}

/// The variable of that name.
pub fn variable(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

const fn row(
    name: &'static str,
    family: Family,
    unset: &'static str,
    example: &'static str,
    sets: Sets,
) -> Variable {
    Variable { name, family, unset, example, or_else: None, sets }
}

const fn chained(
    name: &'static str,
    family: Family,
    or_else: &'static str,
    sets: Sets,
) -> Variable {
    Variable { name, family, unset: "", example: "", or_else: Some(or_else), sets }
}

use Family::{Bool, Int, Math, Raw, Text};
use Sets::{
    BanDuration, BanInterval, Concurrency, Inert, LimitScore, LimitSwitch, Max, Nothing, Proxies,
    Score, ScoreTtl, Session, Switch, Window,
};

/// All of them, in the order of the specification.
pub const VARIABLES: &[Variable] = &[
    // Bans.
    row("BAN_VIOLATIONS", Bool, "false", "true", Switch("bans.enabled")),
    row("BAN_DURATION", Math, "7200000", "1000 * 60 * 60 * 2", BanDuration),
    row("BAN_INTERVAL", Math, "20", "20", BanInterval),
    row("VIOLATION_SCORE_TTL", Math, "3600000", "", ScoreTtl),
    // Points by type.
    row("LOGIN_VIOLATION_SCORE", Raw, "1", "1", Score("logins")),
    row("REGISTRATION_VIOLATION_SCORE", Raw, "1", "1", Score("registrations")),
    row("MESSAGE_VIOLATION_SCORE", Raw, "1", "1", Score("message_limit")),
    row("CONCURRENT_VIOLATION_SCORE", Math, "1", "1", Score("concurrent")),
    row("NON_BROWSER_VIOLATION_SCORE", Raw, "20", "20", Score("non_browser")),
    row("TTS_VIOLATION_SCORE", Raw, "1", "0", Score("tts_limit")),
    row("STT_VIOLATION_SCORE", Raw, "1", "0", Score("stt_limit")),
    row("FILE_UPLOAD_VIOLATION_SCORE", Raw, "1", "0", Score("file_upload_limit")),
    row("TOOL_CALL_VIOLATION_SCORE", Raw, "1", "", Score("tool_call_limit")),
    row("RESET_PASSWORD_VIOLATION_SCORE", Raw, "1", "", Score("reset_password_limit")),
    row("VERIFY_EMAIL_VIOLATION_SCORE", Raw, "1", "", Score("verify_email_limit")),
    row("CONVO_ACCESS_VIOLATION_SCORE", Raw, "0", "", Score("convo_access")),
    row("ILLEGAL_MODEL_REQ_SCORE", Raw, "1", "5", Score("illegal_model_request")),
    row("SHARE_VIOLATION_SCORE", Raw, "0", "", Score("share_limit")),
    // Points of limiters that share a type.
    row("IMPORT_VIOLATION_SCORE", Raw, "1", "0", LimitScore(&["import_ip", "import_user"])),
    row("FORK_VIOLATION_SCORE", Raw, "1", "0", LimitScore(&["fork_ip", "fork_user"])),
    row("TWO_FACTOR_TEMP_VIOLATION_SCORE", Raw, "", "", LimitScore(TWO_FACTOR)),
    row("RESET_PASSWORD_SUBMISSION_VIOLATION_SCORE", Raw, "1", "", LimitScore(RESET_SUBMISSION)),
    row("VERIFY_EMAIL_SUBMISSION_VIOLATION_SCORE", Raw, "1", "", LimitScore(VERIFY_SUBMISSION)),
    // Limits that nobody can switch off.
    row("LOGIN_MAX", Raw, "7", "7", Max(&["login"])),
    row("LOGIN_WINDOW", Raw, "5", "5", Window(&["login"])),
    row("REGISTER_MAX", Raw, "5", "5", Max(&["registration"])),
    row("REGISTER_WINDOW", Raw, "60", "60", Window(&["registration"])),
    row("RESET_PASSWORD_MAX", Raw, "2", "", Max(&["password_reset"])),
    row("RESET_PASSWORD_WINDOW", Raw, "2", "", Window(&["password_reset"])),
    row("VERIFY_EMAIL_MAX", Raw, "2", "", Max(&["email_verification"])),
    row("VERIFY_EMAIL_WINDOW", Raw, "2", "", Window(&["email_verification"])),
    chained("RESET_PASSWORD_SUBMISSION_MAX", Raw, "RESET_PASSWORD_MAX", Max(RESET_SUBMISSION)),
    chained(
        "RESET_PASSWORD_SUBMISSION_WINDOW",
        Raw,
        "RESET_PASSWORD_WINDOW",
        Window(RESET_SUBMISSION),
    ),
    chained("VERIFY_EMAIL_SUBMISSION_MAX", Raw, "VERIFY_EMAIL_MAX", Max(VERIFY_SUBMISSION)),
    chained(
        "VERIFY_EMAIL_SUBMISSION_WINDOW",
        Raw,
        "VERIFY_EMAIL_WINDOW",
        Window(VERIFY_SUBMISSION),
    ),
    chained("TWO_FACTOR_TEMP_MAX", Raw, "LOGIN_MAX", Max(TWO_FACTOR)),
    chained("TWO_FACTOR_TEMP_WINDOW", Raw, "LOGIN_WINDOW", Window(TWO_FACTOR)),
    // Generations at once, messages.
    row("LIMIT_CONCURRENT_MESSAGES", Bool, "false", "true", Switch("concurrency.enabled")),
    row("CONCURRENT_MESSAGE_MAX", Math, "2", "2", Concurrency),
    row("LIMIT_MESSAGE_IP", Bool, "false", "true", LimitSwitch("message_ip")),
    row("MESSAGE_IP_MAX", Raw, "40", "40", Max(&["message_ip"])),
    row("MESSAGE_IP_WINDOW", Raw, "1", "1", Window(&["message_ip"])),
    row("LIMIT_MESSAGE_USER", Bool, "false", "false", LimitSwitch("message_user")),
    row("MESSAGE_USER_MAX", Raw, "40", "40", Max(&["message_user"])),
    row("MESSAGE_USER_WINDOW", Raw, "1", "1", Window(&["message_user"])),
    // Files, speech, conversations.
    row("FILE_UPLOAD_IP_MAX", Int, "100", "", Max(&["file_upload_ip"])),
    row("FILE_UPLOAD_IP_WINDOW", Int, "15", "", Window(&["file_upload_ip"])),
    row("FILE_UPLOAD_USER_MAX", Int, "50", "", Max(&["file_upload_user"])),
    row("FILE_UPLOAD_USER_WINDOW", Int, "15", "", Window(&["file_upload_user"])),
    row("IMPORT_IP_MAX", Int, "100", "", Max(&["import_ip"])),
    row("IMPORT_IP_WINDOW", Int, "15", "", Window(&["import_ip"])),
    row("IMPORT_USER_MAX", Int, "50", "", Max(&["import_user"])),
    row("IMPORT_USER_WINDOW", Int, "15", "", Window(&["import_user"])),
    row("FORK_IP_MAX", Int, "30", "", Max(&["fork_ip"])),
    row("FORK_IP_WINDOW", Int, "1", "", Window(&["fork_ip"])),
    row("FORK_USER_MAX", Int, "7", "", Max(&["fork_user"])),
    row("FORK_USER_WINDOW", Int, "1", "", Window(&["fork_user"])),
    row("TTS_IP_MAX", Int, "100", "", Max(&["tts_ip"])),
    row("TTS_IP_WINDOW", Int, "1", "", Window(&["tts_ip"])),
    row("TTS_USER_MAX", Int, "50", "", Max(&["tts_user"])),
    row("TTS_USER_WINDOW", Int, "1", "", Window(&["tts_user"])),
    row("STT_IP_MAX", Int, "100", "", Max(&["stt_ip"])),
    row("STT_IP_WINDOW", Int, "1", "", Window(&["stt_ip"])),
    row("STT_USER_MAX", Int, "50", "", Max(&["stt_user"])),
    row("STT_USER_WINDOW", Int, "1", "", Window(&["stt_user"])),
    // Newer than v0.8.7, or gone after it.
    row("SHARE_IP_MAX", Int, "100", "", Max(&["share_ip"])),
    row("SHARE_IP_WINDOW", Int, "1", "", Window(&["share_ip"])),
    row("SHARE_USER_MAX", Int, "60", "", Max(&["share_user"])),
    row("SHARE_USER_WINDOW", Int, "1", "", Window(&["share_user"])),
    row("FILE_USAGE_USER_MAX", Int, "120", "", Max(&["file_usage"])),
    row("FILE_USAGE_USER_WINDOW", Int, "15", "", Window(&["file_usage"])),
    row("AGENT_EVENT_USER_MAX", Raw, "40", "", Max(&["agent_event"])),
    row("AGENT_EVENT_USER_WINDOW", Raw, "1", "", Window(&["agent_event"])),
    row("CONTEXT_PROJECTION_MAX", Raw, "20", "", Max(&["context_projection"])),
    row("CONTEXT_PROJECTION_WINDOW", Raw, "1", "", Window(&["context_projection"])),
    // Documented, but not in LibreChat's code.
    row("LIMIT_IMPORT_IP", Bool, "", "", Inert),
    row("LIMIT_IMPORT_USER", Bool, "", "", Inert),
    row("LIMIT_FORK_IP", Bool, "", "", Inert),
    row("LIMIT_FORK_USER", Bool, "", "", Inert),
    row("LOGIN_LIMITER_INCLUDE_USER_AGENT", Bool, "", "", Inert),
    // Told, not taken.
    row("OPENAI_MODERATION", Bool, "false", "false", Nothing),
    row("OPENAI_MODERATION_REVERSE_PROXY", Text, "", "", Nothing),
    row("OPENAI_MODERATION_API_KEY", Text, "", "", Nothing),
    row("TRUST_PROXY", Raw, "1", "1", Proxies),
    row("USE_REDIS", Bool, "false", "", Nothing),
    row("REDIS_URI", Text, "", "", Nothing),
    row("REDIS_KEY_PREFIX", Text, "", "", Nothing),
    row("REDIS_KEY_PREFIX_VAR", Text, "", "", Nothing),
    row("REDIS_USERNAME", Text, "", "", Nothing),
    row("REDIS_PASSWORD", Text, "", "", Nothing),
    row("REDIS_CA", Text, "", "", Nothing),
    row("USE_REDIS_CLUSTER", Bool, "false", "", Nothing),
    row("SESSION_EXPIRY", Math, "900000", "1000 * 60 * 15", Session),
    row("REFRESH_TOKEN_EXPIRY", Math, "604800000", "(1000 * 60 * 60 * 24) * 7", Session),
    row("JWT_SECRET", Text, "", "", Nothing),
];

const TWO_FACTOR: &[&str] = &["two_factor_ip", "two_factor_user"];
const RESET_SUBMISSION: &[&str] = &["password_reset_submission"];
const VERIFY_SUBMISSION: &[&str] = &["email_verification_submission"];
