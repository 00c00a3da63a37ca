//! An outbox that is too small: what finds no room is found when all is compared.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use moderation_tests::caller::Caller;
use moderation_tests::mongod::Server;
use moderation_tests::wait;
use serde_json::json;

use super::super::{PATIENCE, await_told, ban, host, is_possible};
use super::stage::{held, shared};

#[test]
fn an_outbox_that_was_too_small_loses_nothing_but_time() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let mut server = Server::alone()?;
    let overrides = json!({ "mongodb": { "max_waiting": 5 } });
    let alpha = host(&server.uri(), "alpha", overrides)?;
    ban(&alpha, &json!({ "user": "lifted" }))?;
    await_told(&alpha)?;
    server.kill()?;
    let mut acknowledged = BTreeSet::new();
    for number in 0..20 {
        let user = format!("user{number}");
        ban(&alpha, &json!({ "user": user }))?;
        acknowledged.insert(user);
    }
    Caller::operator(&alpha).delete("/v1/bans?user=lifted")?;
    let outbox = alpha.status()?["sharing"]["outbox"].clone();
    ensure!(outbox["rows"] == 5 && outbox["gap"] == true, "{outbox}");
    server.resurrect()?;
    let (beta, base) = (host(&server.uri(), "beta", json!({}))?, server.base()?);
    let everywhere = wait::until("all bans everywhere", PATIENCE, || {
        let shared = shared(&base)?;
        Ok((held(&alpha)? == shared && held(&beta)? == shared).then_some(shared))
    })?;
    ensure!(everywhere.users == acknowledged, "{everywhere:?}");
    wait::until("the gap to close", PATIENCE, || {
        Ok((alpha.status()?["sharing"]["outbox"]["gap"] == false).then_some(()))
    })
}
