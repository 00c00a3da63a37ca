//! Two hosts that were given one name by mistake.

use anyhow::{Result, ensure};
use moderation_tests::wait;
use serde_json::Value;

use super::{Mongod, PATIENCE, await_metric, metric};

const SAME_NAME: &str = "moderation_ledger_same_name";

#[test]
fn two_hosts_with_one_name_say_so_until_one_of_them_is_gone() -> Result<()> {
    Mongod::each(|mongod| {
        let mut alpha = mongod.host("alpha", serde_json::json!({}))?;
        // One that begins anew is none.
        alpha.kill()?;
        alpha.start()?;
        super::await_sharing(&alpha)?;
        let beta = mongod.host("beta", serde_json::json!({}))?;
        let mut twin = mongod.host("alpha", serde_json::json!({}))?;
        for host in [&alpha, &twin] {
            await_metric(host, SAME_NAME, 1.0)?;
            ensure!(host.log().contains("another host has this host's name"), "{}", host.log());
            ensure!(host.ctl(&["status"])?.success()?.contains("give each its own"));
            let report: Value = serde_json::from_str(&host.ctl(&["--json", "doctor"])?.stdout)?;
            ensure!(super::doctor::finding(&report, "name")?["grade"] == "problem", "{report}");
            let alarms = "moderation_ledger_alarms_total{reason=\"same_name\"}";
            ensure!(metric(host, alarms)? == 1.0);
            // Nothing was set back.
            let loss = "moderation_ledger_alarms_total{reason=\"data_loss\"}";
            ensure!(metric(host, loss)? == 0.0, "{}", host.log());
        }
        ensure!(metric(&beta, SAME_NAME)? == 0.0);
        twin.stop()?;
        wait::until("it to be over", PATIENCE, || {
            Ok((metric(&alpha, SAME_NAME)? == 0.0).then_some(()))
        })
    })
}
