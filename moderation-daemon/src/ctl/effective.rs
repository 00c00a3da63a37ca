//! `moderationctl config`: the configuration that counts, with where each value
//! came from. The daemon is asked for what it runs with; without one, the file is
//! read as it would read it.

use super::remote::Remote;
use crate::{
    api::client::ClientError,
    config::{ConfigError, Effective, render},
    exit::tell_line,
};

/// `file`: what the file comes to, for when no daemon runs.
pub(super) fn show(
    remote: &mut Remote,
    file: impl FnOnce() -> Result<Effective, ConfigError>,
) -> anyhow::Result<()> {
    let value = match remote.client.get("/v1/config") {
        Err(ClientError::Connect { .. }) => {
            tell_line("no daemon answers; with this configuration it would start");
            serde_json::to_value(file()?)?
        }
        response => remote.success(response)?,
    };
    let effective: Effective = serde_json::from_value(value.clone())?;
    Ok(remote.output.show(&value, |_| render(&effective))?)
}
