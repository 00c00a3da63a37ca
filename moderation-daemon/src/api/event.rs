//! One event: from the bytes of a body, or of a line of a batch, to what the
//! moderator is asked. It decides nothing, and knows no socket.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Problem,
    input::{request_id, subject},
    subjects::{TraitsBody, name},
};
use crate::{
    engine::{Account, Act, Cost, EventType, Request, Rules, Traits},
    moderator::Ask,
};

/// What the app says about an event.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventBody<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    user: Option<Text<'a>>,
    #[serde(borrow)]
    ip: Option<Text<'a>>,
    /// What somebody who is not logged in calls the account.
    #[serde(borrow)]
    account: Option<Text<'a>>,
    user_agent: Option<String>,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    tokens: u64,
    /// The same as `traits.tier`.
    #[serde(borrow)]
    tier: Option<Text<'a>>,
    traits: Option<TraitsBody>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(default)]
    peek: bool,
}

/// A string that stays where it is, unless it has escapes; an optional `Cow` is
/// always copied.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn text<'a>(text: &'a Option<Text<'_>>) -> Option<&'a str> {
    text.as_ref().map(|text| &*text.0)
}

impl EventBody<'_> {
    /// The request that it is.
    pub(super) fn ask(self, rules: &Rules) -> Result<Ask, Problem> {
        let kind = event_type(rules, &self.r#type)?;
        let subject = subject(text(&self.user), text(&self.ip))?;
        let account = text(&self.account).map(account).transpose()?;
        let traits = self.traits()?;
        // A peek counts nothing, so there is nothing that could count once.
        let id = text(&self.id).filter(|_| !self.peek);
        let named = |id| request_id(kind.name(), &rules.bearer(&subject), id);
        let id = id.map(named).transpose()?;
        let cost = Cost { bytes: self.bytes, tokens: self.tokens };
        let act = Act::Event { kind, user_agent: self.user_agent, cost };
        let request = Request { act, subject, account, traits, id };
        Ok(Ask { request, is_peek: self.peek })
    }

    fn traits(&self) -> Result<Option<Traits>, Problem> {
        let mut traits = self.traits.as_ref().map(TraitsBody::traits).transpose()?;
        if let Some(tier) = text(&self.tier) {
            traits.get_or_insert_default().tier = Some(name("tier", tier)?);
        }
        if traits.is_some() && self.user.is_none() {
            return Err(Problem::InvalidField("traits: are those of a user".to_owned()));
        }
        Ok(traits)
    }
}

/// LibreChat limits duplicates as forks.
const DUPLICATE: &str = "duplicate";

/// Longer than any address.
const MAX_ACCOUNT_BYTES: usize = 512;

/// An account by what somebody typed, of which only a digest is kept.
pub(super) fn account(typed: &str) -> Result<Account, Problem> {
    if typed.is_empty() || typed.len() > MAX_ACCOUNT_BYTES {
        let detail = format!("account: has 1 to {MAX_ACCOUNT_BYTES} bytes");
        return Err(Problem::InvalidField(detail));
    }
    Ok(Account::of(typed))
}

/// One that the rules know.
pub(super) fn event_type(rules: &Rules, name: &str) -> Result<EventType, Problem> {
    let name = if name == DUPLICATE { EventType::FORK.name() } else { name };
    let known = rules.events.iter().map(|rule| rule.kind).find(|kind| kind.name() == name);
    known.ok_or_else(|| {
        let names: Vec<_> = rules.events.iter().map(|rule| rule.kind.name()).collect();
        Problem::UnknownType(format!("type: one of {}", names.join(", ")))
    })
}
