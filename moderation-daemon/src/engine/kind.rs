//! What can happen, what can be limited and what can be wrong: a name and a
//! small number for each. The built-in ones are constants; a configuration can
//! add a few of its own. What a kind means is said by the rules, not here.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::{Mutex, PoisonError},
};

/// A kind's number and name.
#[derive(Debug)]
struct Spec {
    index: u8,
    name: &'static str,
}

/// Kinds of one sort that configurations can add while the process lives. They
/// are never forgotten, so that a number means one name for ever.
pub const MAX_CUSTOM: usize = 64;

/// Numbers that there can be, built-in and added: what tables by kind are long.
pub(super) const MAX_KINDS: usize = 256;

/// A configuration names more kinds of its own than there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there can be at most {MAX_CUSTOM} custom names of one sort")]
pub struct TooManyKinds;

/// One sort of kinds: its type, its constants, its names.
macro_rules! kinds {
    (
        $(#[$doc:meta])*
        $type:ident { $($(#[$about:meta])* $constant:ident = $index:literal, $name:literal;)+ }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $type(&'static Spec);

        impl $type {
            $(
                $(#[$about])*
                pub const $constant: Self = Self(&Spec { index: $index, name: $name });
            )+

            /// Those that need no configuration, in the order of their numbers.
            pub const BUILT_IN: &'static [Self] = &[$(Self::$constant),+];

            /// Those that configurations added.
            fn added() -> &'static Mutex<Vec<Self>> {
                static ADDED: Mutex<Vec<$type>> = Mutex::new(Vec::new());
                &ADDED
            }

            /// The one of that name, added if there is none yet.
            ///
            /// # Errors
            ///
            /// [`TooManyKinds`] after [`MAX_CUSTOM`] of them in this process.
            pub fn custom(name: &str) -> Result<Self, TooManyKinds> {
                if let Some(known) = Self::built_in(name) {
                    return Ok(known);
                }
                let mut added = Self::added().lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(known) = added.iter().find(|kind| kind.name() == name) {
                    return Ok(*known);
                }
                if added.len() >= MAX_CUSTOM {
                    return Err(TooManyKinds);
                }
                let index = u8::try_from(Self::BUILT_IN.len() + added.len());
                let index = index.map_err(|_| TooManyKinds)?;
                let name = Box::leak(name.to_owned().into_boxed_str());
                let kind = Self(Box::leak(Box::new(Spec { index, name })));
                added.push(kind);
                Ok(kind)
            }

            fn built_in(name: &str) -> Option<Self> {
                Self::BUILT_IN.iter().copied().find(|kind| kind.name() == name)
            }

            /// The one of that name, built in or added.
            pub fn from_name(name: &str) -> Option<Self> {
                let find = || {
                    let added = Self::added().lock().unwrap_or_else(PoisonError::into_inner);
                    added.iter().copied().find(|kind| kind.name() == name)
                };
                Self::built_in(name).or_else(find)
            }

            /// Every one, built in and added so far, in the order of their numbers.
            pub fn all() -> impl Iterator<Item = Self> {
                let added = Self::added().lock().unwrap_or_else(PoisonError::into_inner).clone();
                Self::BUILT_IN.iter().copied().chain(added)
            }

            /// Its name in the API, in metrics, in the store and in the configuration.
            pub const fn name(self) -> &'static str {
                self.0.name
            }

            /// Its number in this process; never written down.
            pub const fn index(self) -> u8 {
                self.0.index
            }
        }

        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.index() == other.index()
            }
        }

        impl Eq for $type {}

        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $type {
            fn cmp(&self, other: &Self) -> Ordering {
                self.index().cmp(&other.index())
            }
        }

        impl Hash for $type {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.index().hash(state);
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

kinds! {
    /// Something that a user or client did.
    EventType {
        /// An attempt to log in, successful or not.
        LOGIN = 0, "login";
        /// An attempt to make an account.
        REGISTRATION = 1, "registration";
        /// A message to a model.
        MESSAGE = 2, "message";
        /// A wish for a link with which to set a new password.
        PASSWORD_RESET = 3, "password_reset";
        /// A new password, with such a link.
        PASSWORD_RESET_SUBMISSION = 4, "password_reset_submission";
        /// A wish for another verification e-mail.
        EMAIL_VERIFICATION = 5, "email_verification";
        /// The token of such an e-mail.
        EMAIL_VERIFICATION_SUBMISSION = 6, "email_verification_submission";
        /// A second factor, right or wrong.
        TWO_FACTOR = 7, "two_factor";
        /// A file.
        FILE_UPLOAD = 8, "file_upload";
        /// Conversations from a file.
        IMPORT = 9, "import";
        /// A conversation forked or duplicated.
        FORK = 10, "fork";
        /// Text to speech.
        TTS = 11, "tts";
        /// Speech to text.
        STT = 12, "stt";
        /// A tool called by hand.
        TOOL_CALL = 13, "tool_call";
        /// A prompt taken from the library.
        PROMPT_USAGE = 14, "prompt_usage";
        /// How full a context would be.
        CONTEXT_PROJECTION = 15, "context_projection";
        /// The life of files prolonged.
        FILE_USAGE = 16, "file_usage";
        /// A shared link opened.
        SHARED_LINK = 17, "shared_link";
        /// An event sent to an agent.
        AGENT_EVENT = 18, "agent_event";
        /// A wrong password.
        LOGIN_FAILURE = 19, "login_failure";
        /// A right one.
        LOGIN_SUCCESS = 20, "login_success";
    }
}

kinds! {
    /// What an event can break, by LibreChat's own strings.
    ViolationType {
        /// Too many logins, or second factors.
        LOGINS = 0, "logins";
        /// Too many registrations.
        REGISTRATIONS = 1, "registrations";
        /// Too many messages.
        MESSAGE_LIMIT = 2, "message_limit";
        /// Too many generations at once.
        CONCURRENT = 3, "concurrent";
        /// A client that is no browser.
        NON_BROWSER = 4, "non_browser";
        /// A model that the user may not use.
        ILLEGAL_MODEL_REQUEST = 5, "illegal_model_request";
        /// More connections than one source may open in a window; the daemon
        /// counts them itself.
        CONNECTION_RATE = 6, "connection_rate";
        /// Too many password resets.
        RESET_PASSWORD_LIMIT = 7, "reset_password_limit";
        /// Too many verification e-mails.
        VERIFY_EMAIL_LIMIT = 8, "verify_email_limit";
        /// Too many uploads, imports or forks.
        FILE_UPLOAD_LIMIT = 9, "file_upload_limit";
        /// Too much text to speech.
        TTS_LIMIT = 10, "tts_limit";
        /// Too much speech to text.
        STT_LIMIT = 11, "stt_limit";
        /// Too many tool calls.
        TOOL_CALL_LIMIT = 12, "tool_call_limit";
        /// A conversation of somebody else's.
        CONVO_ACCESS = 13, "convo_access";
        /// No credit left.
        TOKEN_BALANCE = 14, "token_balance";
        /// Too many shared links.
        SHARE_LIMIT = 15, "share_limit";
        /// Too many wrong passwords for one account.
        LOGIN_FAILURES = 16, "login_failures";
        /// Content that a classifier flagged.
        FLAGGED_CONTENT = 17, "flagged_content";
    }
}

kinds! {
    /// What counts.
    Limiter {
        /// Logins by address.
        LOGIN = 0, "login";
        /// Registrations by address.
        REGISTRATION = 1, "registration";
        /// Messages by address.
        MESSAGE_IP = 2, "message_ip";
        /// Messages by user.
        MESSAGE_USER = 3, "message_user";
        /// Password resets by address.
        PASSWORD_RESET = 4, "password_reset";
        /// New passwords by address.
        PASSWORD_RESET_SUBMISSION = 5, "password_reset_submission";
        /// Verification e-mails by address.
        EMAIL_VERIFICATION = 6, "email_verification";
        /// Verification tokens by address.
        EMAIL_VERIFICATION_SUBMISSION = 7, "email_verification_submission";
        /// Second factors by address.
        TWO_FACTOR_IP = 8, "two_factor_ip";
        /// Second factors by user.
        TWO_FACTOR_USER = 9, "two_factor_user";
        /// Uploads by address.
        FILE_UPLOAD_IP = 10, "file_upload_ip";
        /// Uploads by user.
        FILE_UPLOAD_USER = 11, "file_upload_user";
        /// Imports by address.
        IMPORT_IP = 12, "import_ip";
        /// Imports by user.
        IMPORT_USER = 13, "import_user";
        /// Forks by address.
        FORK_IP = 14, "fork_ip";
        /// Forks by user.
        FORK_USER = 15, "fork_user";
        /// Text to speech by address.
        TTS_IP = 16, "tts_ip";
        /// Text to speech by user.
        TTS_USER = 17, "tts_user";
        /// Speech to text by address.
        STT_IP = 18, "stt_ip";
        /// Speech to text by user.
        STT_USER = 19, "stt_user";
        /// Tool calls by user.
        TOOL_CALL = 20, "tool_call";
        /// Prompts by user.
        PROMPT_USAGE = 21, "prompt_usage";
        /// Context projections by user.
        CONTEXT_PROJECTION = 22, "context_projection";
        /// Prolonged files by user.
        FILE_USAGE = 23, "file_usage";
        /// Shared links by address.
        SHARE_IP = 24, "share_ip";
        /// Shared links by user.
        SHARE_USER = 25, "share_user";
        /// Events to agents by account or user.
        AGENT_EVENT = 26, "agent_event";
        /// Wrong passwords by account.
        LOGIN_ACCOUNT = 27, "login_account";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_kind_has_its_place_and_its_own_name() {
        let names = |all: Vec<(u8, &'static str)>| {
            let numbers = all.iter().map(|(index, _)| usize::from(*index));
            assert!(numbers.eq(0..all.len()), "{all:?}");
            let mut names: Vec<_> = all.iter().map(|(_, name)| *name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all.len(), "{names:?}");
        };
        names(EventType::BUILT_IN.iter().map(|kind| (kind.index(), kind.name())).collect());
        names(ViolationType::BUILT_IN.iter().map(|kind| (kind.index(), kind.name())).collect());
        names(Limiter::BUILT_IN.iter().map(|kind| (kind.index(), kind.name())).collect());
    }

    /// A sort of its own: the table belongs to the process, and whoever fills it
    /// leaves no room for other tests.
    #[expect(unreachable_pub, reason = "the macro makes what the engine gives away")]
    mod sort {
        use super::super::{
            Hash, Hasher, MAX_CUSTOM, Mutex, Ordering, PoisonError, Spec, TooManyKinds, fmt,
        };

        kinds! {
            /// One of them.
            Sort {
                /// The only one.
                ONLY = 0, "only";
            }
        }
    }

    use sort::Sort;

    #[test]
    fn a_custom_kind_keeps_its_number_and_there_is_an_end_to_them() {
        assert_eq!(Sort::from_name("a custom one"), None);
        let first = Sort::custom("a custom one").expect("there is room");
        assert_eq!(Sort::custom("a custom one"), Ok(first));
        assert_eq!(Sort::from_name("a custom one"), Some(first));
        assert_eq!(Sort::custom("only"), Ok(Sort::ONLY));
        let added = (0..2 * MAX_CUSTOM).filter(|i| Sort::custom(&format!("{i}")).is_ok());
        assert_eq!(added.count(), MAX_CUSTOM - 1);
        assert_eq!(Sort::custom("one more"), Err(TooManyKinds));
        assert_eq!(Sort::custom("a custom one"), Ok(first), "it has its place");
        let all: Vec<_> = Sort::all().collect();
        assert_eq!(all.len(), Sort::BUILT_IN.len() + MAX_CUSTOM);
        assert!(all.is_sorted() && all.len() <= MAX_KINDS);
    }
}
