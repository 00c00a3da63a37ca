//! Records of logins in a folder of a test's own, as logind leaves them, and
//! the options that make the programs look there and nowhere else.

use std::fs;
use std::net::IpAddr;

use anyhow::Result;
use tempfile::TempDir;

/// A folder of sessions, removed with its handle.
#[derive(Debug)]
pub struct Sessions(TempDir);

impl Sessions {
    /// A folder in which nobody is logged in.
    pub fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    /// Somebody logs in; the session lasts as long as this process at most.
    pub fn begin(&self, id: &str, peer: IpAddr) -> Result<()> {
        let leader = std::process::id();
        let session =
            format!("STATE=active\nREMOTE=1\nCLASS=user\nREMOTE_HOST={peer}\nLEADER={leader}\n");
        Ok(fs::write(self.0.path().join(id), session)?)
    }

    /// The session ends.
    pub fn end(&self, id: &str) -> Result<()> {
        Ok(fs::remove_file(self.0.path().join(id))?)
    }

    /// The hidden options; there are no login records and no name servers.
    pub fn options(&self) -> Vec<String> {
        let file = |name: &str| self.0.path().join(name).display().to_string();
        let folder = self.0.path().display().to_string();
        let (utmp, resolv_conf) = (file("utmp"), file("resolv_conf"));
        let options = ["--sessions", &folder, "--utmp", &utmp, "--resolv-conf", &resolv_conf];
        options.map(str::to_owned).into()
    }
}
