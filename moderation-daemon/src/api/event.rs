//! One event: from the bytes of a body, or of a line of a batch, to what the
//! moderator is asked. It decides nothing, and knows no socket.

use std::borrow::Cow;

use serde::Deserialize;

use super::{
    Problem,
    input::{request_id, subject},
};
use crate::{
    engine::{Act, Cost, EventType, Request, Rules},
    moderator::Ask,
};

/// What the app says about an event.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventBody<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    user: Option<Text<'a>>,
    #[serde(borrow)]
    ip: Option<Text<'a>>,
    user_agent: Option<String>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
}

/// A string that stays where it is, unless it has escapes; an optional `Cow` is
/// always copied.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn text<'a>(text: &'a Option<Text<'_>>) -> Option<&'a str> {
    text.as_ref().map(|text| &*text.0)
}

impl EventBody<'_> {
    /// The request that it is.
    pub(super) fn ask(self, rules: &Rules) -> Result<Ask, Problem> {
        let kind = event_type(rules, &self.r#type)?;
        let subject = subject(text(&self.user), text(&self.ip))?;
        let named = |id| request_id(kind.name(), &rules.bearer(&subject), id);
        let id = text(&self.id).map(named).transpose()?;
        let act = Act::Event { kind, user_agent: self.user_agent, cost: Cost::default() };
        let request = Request { id, ..Request::new(act, subject) };
        Ok(Ask { request, is_peek: false })
    }
}

/// One that the rules know.
pub(super) fn event_type(rules: &Rules, name: &str) -> Result<EventType, Problem> {
    let known = rules.events.iter().map(|rule| rule.kind).find(|kind| kind.name() == name);
    known.ok_or_else(|| {
        let names: Vec<_> = rules.events.iter().map(|rule| rule.kind.name()).collect();
        Problem::UnknownType(format!("type: one of {}", names.join(", ")))
    })
}
