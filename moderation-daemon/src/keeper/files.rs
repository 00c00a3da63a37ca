//! Where logins and name servers are looked up, for who must look elsewhere.

use std::path::PathBuf;

use clap::Args;

use crate::guard::Sources;

/// Other files than the system's, for tests. On the command line and not in the
/// environment, which is not a root's tool's to believe.
#[derive(Clone, Debug, Default, Args)]
pub struct SourceFiles {
    /// The login records
    #[arg(long, hide = true, global = true, value_name = "FILE")]
    utmp: Option<PathBuf>,
    /// logind's folder of sessions
    #[arg(long, hide = true, global = true, value_name = "DIR")]
    sessions: Option<PathBuf>,
    /// The list of name servers
    #[arg(long, hide = true, global = true, value_name = "FILE")]
    resolv_conf: Option<PathBuf>,
}

impl SourceFiles {
    /// The sources with these files, and with these hosts.
    pub fn sources(&self, hosts: &[String]) -> Sources {
        let usual = Sources::default();
        Sources {
            utmp: self.utmp.clone().unwrap_or(usual.utmp),
            sessions: self.sessions.clone().unwrap_or(usual.sessions),
            resolv_conf: self.resolv_conf.clone().map_or(usual.resolv_conf, |file| vec![file]),
            hosts: hosts.to_vec(),
            ..Sources::default()
        }
    }
}
