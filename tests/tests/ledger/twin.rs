//! Two hosts that were given one name by mistake.

use anyhow::{Result, ensure};
use moderation_tests::daemon::Daemon;
use moderation_tests::mongod::Set;
use moderation_tests::wait;
use serde_json::{Value, json};

use super::{Mongod, PATIENCE, await_metric, await_sharing, is_possible, metric};

const SAME_NAME: &str = "moderation_ledger_same_name";

fn alarms(host: &Daemon, reason: &str) -> Result<f64> {
    metric(host, &format!("moderation_ledger_alarms_total{{reason=\"{reason}\"}}"))
}

#[test]
fn two_hosts_with_one_name_say_so_until_one_of_them_is_gone() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let mongod = Mongod::Set(Set::start(1)?);
    let mut alpha = mongod.host("alpha", json!({}))?;
    // One that begins anew is none.
    alpha.kill()?;
    alpha.start()?;
    await_sharing(&alpha)?;
    let (beta, mut twin) = (mongod.host("beta", json!({}))?, mongod.host("alpha", json!({}))?);
    for host in [&alpha, &twin] {
        await_metric(host, SAME_NAME, 1.0)?;
        ensure!(host.log().contains("another host has this host's name"), "{}", host.log());
        ensure!(host.ctl(&["status"])?.success()?.contains("give each its own"));
        let report: Value = serde_json::from_str(&host.ctl(&["--json", "doctor"])?.stdout)?;
        ensure!(super::doctor::finding(&report, "name")?["grade"] == "problem", "{report}");
        ensure!(alarms(host, "same_name")? == 1.0);
        ensure!(alarms(host, "data_loss")? == 0.0, "nothing was set back: {}", host.log());
    }
    ensure!(metric(&beta, SAME_NAME)? == 0.0);
    twin.stop()?;
    wait::until("it to be over", PATIENCE, || Ok((metric(&alpha, SAME_NAME)? == 0.0).then_some(())))
}
