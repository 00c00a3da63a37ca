//! What is to be protected, and who must not be locked out: what the system shows, what
//! was said on the command line, and what was answered.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{anyhow, bail};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{super::command::Setup, question::Terminal};
use crate::{
    config::{Config, is_private, parse_prefix},
    exit::tell_line,
    guard,
    keeper::SourceFiles,
    network,
};

/// What to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) interfaces: Vec<String>,
    pub(super) allowlist: Vec<IpNet>,
    pub(super) enforce: bool,
    /// How long a confirmation is waited for.
    pub(super) patience: Duration,
}

impl Plan {
    pub(super) fn make(
        arguments: &Setup,
        config: &Config,
        files: &SourceFiles,
        terminal: &mut Terminal,
    ) -> anyhow::Result<Self> {
        let interfaces = interfaces(arguments, config, terminal)?;
        let allowlist = allowlist(arguments, config, files, terminal)?;
        let plan = Self {
            interfaces,
            allowlist,
            enforce: !arguments.observe,
            patience: arguments.confirm_within,
        };
        plan.refuse_nothing()?;
        Ok(plan)
    }

    /// What nobody can set up.
    fn refuse_nothing(&self) -> anyhow::Result<()> {
        if self.interfaces.is_empty() {
            bail!("no interface: name the one that clients come in by with --interface");
        }
        Ok(())
    }

    /// As the configuration has it.
    pub(super) fn yaml(&self) -> String {
        let quoted = |items: Vec<String>| {
            let items: Vec<_> = items.iter().map(|item| format!("{item:?}")).collect();
            format!("[{}]", items.join(", "))
        };
        let interfaces = quoted(self.interfaces.clone());
        let mut text = format!(
            "# Written by moderationctl setup, and again whenever it is run.\n\
             network:\n  interfaces: {interfaces}\n  enforce: {}\n",
            self.enforce,
        );
        if !self.allowlist.is_empty() {
            let allowlist = self.allowlist.iter().map(ToString::to_string).collect();
            text.push_str(&format!("allowlist: {}\n", quoted(allowlist)));
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "interfaces": self.interfaces,
            "allowlist": self.allowlist,
            "enforce": self.enforce,
        })
    }
}

/// Those that clients come in by: as said, as configured, or where the default routes go.
fn interfaces(
    arguments: &Setup,
    config: &Config,
    terminal: &mut Terminal,
) -> anyhow::Result<Vec<String>> {
    let there = network::interfaces()?;
    let chosen = if arguments.interface.is_empty() {
        let configured = &config.network.interfaces;
        let proposal =
            if configured.is_empty() { network::ways_out()? } else { configured.clone() };
        let others: Vec<_> = there.keys().filter(|name| *name != "lo").cloned().collect();
        let question =
            format!("Which interface do clients come in by? There are {}.", others.join(", "));
        words(&terminal.ask(&question, &proposal.join(" "))?)
    } else {
        arguments.interface.clone()
    };
    for name in &chosen {
        if !there.contains_key(name) {
            return Err(network::NetworkError::UnknownInterface(name.clone()).into());
        }
    }
    Ok(chosen)
}

/// Who is never banned: as configured, as said, and where people who administer this
/// host are logged in from, for a guard protects them only while they are.
fn allowlist(
    arguments: &Setup,
    config: &Config,
    files: &SourceFiles,
    terminal: &mut Terminal,
) -> anyhow::Result<Vec<IpNet>> {
    let mut allowed: BTreeSet<IpNet> = config.allowlist.iter().copied().collect();
    let found = guard::own_sessions(&files.sources(&[]));
    let sessions = found.guards.iter().map(|guard| guard.prefix);
    // Private addresses are guarded anyhow.
    let sessions: BTreeSet<_> =
        sessions.filter(|it| !is_private(*it) && !allowed.contains(it)).collect();
    if !arguments.allow.is_empty() {
        allowed.extend(arguments.allow.iter().map(IpNet::trunc));
    }
    if matches!(terminal, Terminal::Person) {
        tell_line(
            "This host itself, its gateways and name servers, private addresses and whoever is \
             logged in are never banned anyhow.",
        );
    }
    let proposal: Vec<_> = sessions.iter().map(|it| it.addr().to_string()).collect();
    let question = "Who else must never be banned (offices, VPNs; where you are logged in from \
                    is proposed)? Addresses or prefixes, or none.";
    let answer = terminal.ask(question, &proposal.join(" "))?;
    for word in words(&answer).iter().filter(|word| *word != "none") {
        allowed.insert(parse_prefix(word).map_err(|problem| anyhow!(problem))?.trunc());
    }
    if allowed.iter().any(|prefix| prefix.prefix_len() == 0) {
        bail!("a prefix of length 0 allows everybody");
    }
    Ok(allowed.into_iter().collect())
}

fn words(text: &str) -> Vec<String> {
    text.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_configuration() {
        let plan = Plan {
            interfaces: vec!["eth0".to_owned(), "enp1s0.7".to_owned()],
            allowlist: vec![
                parse_prefix("192.0.2.7").expect("an address"),
                parse_prefix("2001:db8::/48").expect("a prefix"),
            ],
            enforce: true,
            patience: Duration::from_secs(60),
        };
        let config = Config::parse(&plan.yaml()).expect("it is configuration");
        assert_eq!(config.network.interfaces, plan.interfaces);
        assert_eq!(config.allowlist, plan.allowlist);
        assert_eq!(config.allowlist[1].to_string(), "2001:db8::/48");
        assert!(config.network.enforce);
        let nobody = Plan { allowlist: Vec::new(), enforce: false, ..plan };
        assert!(!nobody.yaml().contains("allowlist"), "it would take away what others allow");
        assert!(!Config::parse(&nobody.yaml()).expect("it is configuration").network.enforce);
    }

    #[test]
    fn answers_are_words_between_spaces_and_commas() {
        assert_eq!(words(" a, b  c,"), ["a", "b", "c"]);
        assert!(words("").is_empty());
    }
}
