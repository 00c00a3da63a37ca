//! The command line.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use ipnet::IpNet;

use crate::{
    config::{AttachMode, parse_duration, parse_prefix},
    exit,
    keeper::SourceFiles,
};

/// Look after moderationd: who is banned, why, and what the kernel does.
#[derive(Debug, Parser)]
#[command(name = "moderationctl", version, after_help = exit::help())]
pub(super) struct Arguments {
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// The daemon's socket for operators [default: the configured one]
    #[arg(long, global = true, value_name = "SOCKET")]
    pub(super) socket: Option<PathBuf>,
    /// The configuration [default: /etc/moderation/moderation.yaml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) files: SourceFiles,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Protect this host: choose the interface and who must never be banned, put the
    /// filter on it with a way back, and turn enforcement on; root only
    #[command(after_help = "Examples:\n  moderationctl setup\n  \
                            moderationctl setup --yes --interface eth0 --allow 198.51.100.0/24\n  \
                            moderationctl setup --observe\n\n\
                            Writes moderation.d/50-setup.yaml beside the configuration, and \
                            nothing else. Without a yes in time all is as it was. Can be run \
                            again.")]
    Setup(Setup),
    /// Show how daemon, store and kernel are
    #[command(after_help = "Examples:\n  moderationctl status\n  \
                            moderationctl status --json | jq .bans.active")]
    Status,
    /// Ban a user, an address, or both
    #[command(after_help = "Examples:\n  moderationctl ban --ip 192.0.2.7 --reason spam\n  \
                            moderationctl ban --user 64b0c0ffee --duration 7d")]
    Ban(Ban),
    /// End bans early, with all that came with them; or take a penalty back
    #[command(after_help = "Examples:\n  moderationctl lift 42\n  \
                            moderationctl lift 192.0.2.7 user:64b0c0ffee\n  \
                            moderationctl lift p12\n  \
                            moderationctl lift --import firehol_level1\n\n\
                            Whoever was banned begins anew: scores, limits and penalties are \
                            forgotten, of the user and of every address that came with the \
                            ban, and the next violation brings no ban.")]
    Lift {
        /// A ban's number, an address, a prefix, user:ID, or a penalty's number
        /// behind a p
        #[arg(required_unless_present = "import", value_name = "BAN")]
        targets: Vec<String>,
        /// A whole imported list, by its source
        #[arg(long, value_name = "NAME")]
        import: Option<String>,
    },
    /// Ban what is on a list: one prefix a line, or CSV with an expiry
    #[command(after_help = "Examples:\n  moderationctl import firehol_level1.netset --replace\n  \
                            curl -s https://lists.example/bad.csv | \
                            moderationctl import - --source bad --expires 7d\n\n\
                            # and ; begin comments. A line of CSV is PREFIX,EXPIRY: a time \
                            (2030-01-31T12:00:00Z), a duration (7d), or nothing for ever.")]
    Import(Import),
    /// Write scores and records of violations as LibreChat keeps them
    #[command(after_help = "Example:\n  moderationctl export --librechat /opt/librechat/data\n\n\
                            With log.pseudonyms, logs.json has pseudonyms; violations.json has \
                            ids all the same, by which LibreChat finds its users.")]
    Export {
        /// The folder for violations.json and logs.json, which are replaced
        #[arg(long, value_name = "DIR")]
        librechat: PathBuf,
        /// As LibreChat has them with USE_REDIS: records by type and user
        #[arg(long)]
        redis: bool,
    },
    /// List bans
    #[command(after_help = "Examples:\n  moderationctl list\n  \
                            moderationctl list --all --json\n  \
                            moderationctl list --imports")]
    List {
        /// Those that are over, too
        #[arg(long)]
        all: bool,
        /// The imported lists instead
        #[arg(long, conflicts_with = "all")]
        imports: bool,
    },
    /// List penalties beside the ban: warnings, reductions, suspensions, steps of
    /// ladders
    #[command(after_help = "Examples:\n  moderationctl penalties\n  \
                            moderationctl penalties --user 64b0c0ffee --all\n  \
                            moderationctl lift p12")]
    Penalties(Penalties),
    /// Say whether an address or a user is banned, why, and until when
    #[command(after_help = "Examples:\n  moderationctl check 192.0.2.7\n  \
                            moderationctl check user:64b0c0ffee")]
    Check {
        /// An address, or a user's id
        #[arg(value_name = "IP|USER")]
        subject: String,
    },
    /// Say what happened to an address or a user and why, with the violations
    /// that led there
    #[command(after_help = "Examples:\n  moderationctl explain 192.0.2.7\n  \
                            moderationctl explain user:64b0c0ffee\n  \
                            moderationctl explain '#42'\n  \
                            moderationctl explain d65a0c1f2-7\n\n\
                            #42 is a ban. d65a0c1f2-7 is a denial: what an app was told as its \
                            code, and what the page of a denied person says. The latest 1024 \
                            are remembered, until the daemon stops.")]
    Explain {
        /// An address, a user's id, a ban's number behind a #, or a denial's code
        #[arg(value_name = "IP|USER|#BAN|CODE")]
        subject: String,
    },
    /// Show who is busy and what is denied: packets, sources by connections and by
    /// drops, bans, decisions, services; live on a terminal
    #[command(after_help = "Examples:\n  moderationctl top\n  \
                            moderationctl top --once --limit 5\n  \
                            moderationctl top --json | jq .packets\n\n\
                            q, Esc and Ctrl-C end it, Tab and the arrows choose a panel, \
                            Up and Down move in it, p pauses. With --once or --json, or \
                            without a terminal, it is shown once.")]
    Top {
        /// Sources of each kind
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: usize,
        /// Show it once, and end
        #[arg(long)]
        once: bool,
    },
    /// Show dropped packets as they come
    #[command(after_help = "Examples:\n  moderationctl watch --count 10\n  \
                            moderationctl watch --every 100 --json")]
    Watch {
        /// One dropped packet in so many, or more if another who watches wants them
        #[arg(long, default_value_t = 1, value_name = "N")]
        every: u32,
        /// End after so many
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Look at this host and at the services that the daemon uses, and say what to
    /// do; works without the daemon, too
    #[command(after_help = "Examples:\n  sudo moderationctl doctor\n  \
                            moderationctl doctor --json | jq '.sections[].findings[] | \
                            select(.grade == \"problem\")'\n\n\
                            ok: as it should be. note: good to know, or it could not be looked \
                            at. warning: it works, but look at it. problem: it does not work. \
                            Ends with 1 if there is a problem, else with 0.")]
    Doctor,
    /// Pack what somebody needs who is to help: versions, configuration, findings,
    /// counts and log lines, without secrets and user ids
    #[command(after_help = "Examples:\n  sudo moderationctl support-bundle\n  \
                            sudo moderationctl support-bundle /tmp/help.tar.gz --with-addresses\n\n\
                            Look into it before you send it: tar -tzf FILE, and CONTENTS.txt in \
                            it. Secrets, user ids, reasons and notes are never in it. Addresses \
                            are replaced, each by the same name everywhere, unless \
                            --with-addresses is given.")]
    SupportBundle(SupportBundle),
    /// Show the configuration that counts, and where each value came from
    #[command(after_help = "Examples:\n  moderationctl config\n  \
                            moderationctl config --json | jq .origins")]
    Config,
    /// Print what can be asked on the sockets, as an OpenAPI 3.1 document
    #[command(after_help = "Example:\n  moderationctl openapi > openapi.json")]
    Openapi,
    /// Print what a shell needs to complete this program's commands and options
    #[command(after_help = "Example:\n  moderationctl completions bash > \
                            /usr/share/bash-completion/completions/moderationctl\n\n\
                            The Debian package has them for bash, fish and zsh.")]
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Write the manual pages of both programs into a folder; for packagers
    #[command(hide = true)]
    Man {
        /// The folder, which must exist
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Keep the list of prefixes that are never banned
    #[command(
        after_help = "Examples:\n  moderationctl allow add 198.51.100.0/24 --note office\n  \
                            moderationctl allow list\n  \
                            moderationctl allow remove 198.51.100.0/24"
    )]
    #[command(subcommand)]
    Allow(Allow),
    /// Work on the kernel itself; root only, needs no daemon
    #[command(after_help = "Examples:\n  moderationctl xdp attach --interface eth0 \
                            --confirm-within 1m\n  \
                            moderationctl xdp confirm\n  \
                            moderationctl xdp status --json\n  \
                            moderationctl xdp off")]
    #[command(subcommand)]
    Xdp(Xdp),
}

impl Command {
    /// Whether it looks at the host as it is, be the configuration right or wrong.
    pub(super) const fn examines(&self) -> bool {
        matches!(self, Self::Doctor | Self::SupportBundle(_))
    }

    /// Whether it must work even if the configuration does not.
    pub(super) const fn is_emergency(&self) -> bool {
        matches!(self, Self::Xdp(Xdp::Off { .. } | Xdp::Detach { .. }))
    }
}

#[derive(Debug, Args)]
pub(super) struct Setup {
    /// The interface that clients come in by; can be given several times [default:
    /// network.interfaces, else where the default routes go]
    #[arg(long, value_name = "IFACE")]
    pub(super) interface: Vec<String>,
    /// Never ban this address or prefix; can be given several times
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    pub(super) allow: Vec<IpNet>,
    /// Only count what would be dropped
    #[arg(long)]
    pub(super) observe: bool,
    /// Ask nothing: take what is proposed, and keep what was attached
    #[arg(long)]
    pub(super) yes: bool,
    /// How long to wait for a yes before all is taken back
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub(super) confirm_within: Duration,
    /// Show what would be written, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
#[group(id = "subject", required = true, multiple = true)]
pub(super) struct Whom {
    /// The user's id
    #[arg(long, group = "subject")]
    pub(super) user: Option<String>,
    /// The address or prefix; an IPv6 address stands for its /64 (bans.v6_prefix)
    /// unless it is written as a /128
    #[arg(long, group = "subject")]
    pub(super) ip: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Ban {
    #[command(flatten)]
    pub(super) whom: Whom,
    /// How long: 90s, 30m, 2h, 7d, or permanent [default: bans.duration]
    #[arg(long)]
    pub(super) duration: Option<String>,
    /// Why, for the people who read it
    #[arg(long)]
    pub(super) reason: Option<String>,
    /// Whether the kernel drops the packets; never: it holds at the API only
    #[arg(long, value_name = "WHEN", value_parser = ["always", "never"])]
    pub(super) network_block: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct SupportBundle {
    /// Where to [default: moderation-support-TIME.tar.gz, here]
    #[arg(value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Leave addresses as they are
    #[arg(long)]
    pub(super) with_addresses: bool,
}

#[derive(Debug, Args)]
pub(super) struct Penalties {
    /// Of this user only
    #[arg(long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// Of this address only
    #[arg(long, value_name = "IP")]
    pub(super) ip: Option<String>,
    /// Those that are over, too
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The list; - reads standard input
    #[arg(value_name = "FILE", required_unless_present = "librechat")]
    file: Option<PathBuf>,
    /// Instead of a list, the scores and records in violations.json and
    /// logs.json of a folder of LibreChat's, but for records that are older than
    /// store.retention
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["file", "source", "replace", "expires", "skip_bad", "dry_run"]
    )]
    pub(super) librechat: Option<PathBuf>,
    /// What to call the list [default: the file's name without its ending]
    #[arg(long, value_name = "NAME")]
    pub(super) source: Option<String>,
    /// Remove what an earlier import of the source brought and this one does not
    #[arg(long)]
    pub(super) replace: bool,
    /// How long entries last that do not say so themselves [default: for ever]
    #[arg(long, value_name = "DURATION")]
    pub(super) expires: Option<String>,
    /// Leave out lines that make no sense, instead of importing nothing
    #[arg(long)]
    pub(super) skip_bad: bool,
    /// Read the list and say what would be imported; ask no daemon
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Import {
    /// The list; empty if there is none.
    pub(super) fn file(&self) -> &Path {
        self.file.as_deref().unwrap_or_else(|| Path::new(""))
    }

    pub(super) fn is_stdin(&self) -> bool {
        self.file().as_os_str() == "-"
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Allow {
    /// Never ban this prefix from now on
    #[command(after_help = "Example:\n  moderationctl allow add 198.51.100.0/24 --note office")]
    Add {
        /// A prefix or an address
        prefix: String,
        /// What for
        #[arg(long)]
        note: Option<String>,
    },
    /// No longer protect this prefix
    #[command(after_help = "Example:\n  moderationctl allow remove 198.51.100.0/24")]
    Remove {
        /// A prefix or an address
        prefix: String,
    },
    /// Show what is protected, and by whom
    #[command(after_help = "Example:\n  moderationctl allow list --json")]
    List,
}

#[derive(Debug, Args)]
pub(super) struct PinRoot {
    /// The folder of pins [default: network.pin_root]
    #[arg(long, value_name = "DIR")]
    pub(super) pin_root: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Xdp {
    /// Load the program, pin it and put it on an interface
    #[command(
        after_help = "Examples:\n  moderationctl xdp attach --interface eth0 --owner moderation\n  \
                            moderationctl xdp attach --interface eth0 --confirm-within 60s"
    )]
    Attach {
        #[command(flatten)]
        pins: PinRoot,
        /// The interface; can be given several times [default:
        /// network.interfaces]
        #[arg(long, value_name = "IFACE")]
        interface: Vec<String>,
        /// How [default: network.mode]
        #[arg(long)]
        mode: Option<AttachMode>,
        /// Who runs the daemon and so gets its maps: a name or a uid
        /// [default: who has them already, else root]
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
        /// Detach again after so long, unless somebody calls moderationctl xdp
        /// confirm: for the first time on a host that is far away
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        confirm_within: Option<Duration>,
    },
    /// Say that the host is still reachable: keep what waits for that
    #[command(after_help = "Example:\n  moderationctl xdp confirm")]
    Confirm {
        #[command(flatten)]
        pins: PinRoot,
        /// The interface [default: network.interfaces]
        #[arg(long, value_name = "IFACE")]
        interface: Vec<String>,
    },
    /// Check that no ban is hidden from the program by its own prefilter
    #[command(after_help = "Example:\n  moderationctl xdp verify")]
    Verify {
        #[command(flatten)]
        pins: PinRoot,
    },
    /// Take the program off an interface; maps and bans stay
    #[command(after_help = "Example:\n  moderationctl xdp detach --interface eth0")]
    Detach {
        #[command(flatten)]
        pins: PinRoot,
        /// The interface
        #[arg(long, value_name = "IFACE")]
        interface: String,
    },
    /// Take the program off every interface and remove every pin: nothing is
    /// dropped any more
    #[command(after_help = "Example:\n  moderationctl xdp off")]
    Off {
        #[command(flatten)]
        pins: PinRoot,
    },
    /// Guard whoever must not be locked out: this host, its gateways, name
    /// servers and databases, and the peers of login sessions
    #[command(after_help = "Example:\n  moderationctl xdp guard")]
    Guard {
        #[command(flatten)]
        pins: PinRoot,
        /// Go on until told to stop: a new session is guarded within 2 seconds,
        /// and the program goes back on interfaces that come again
        #[arg(long)]
        watch: bool,
    },
    /// Close the open connections of banned peers; needs CAP_NET_ADMIN and the
    /// permission to read the ban maps, and nothing else of root
    #[command(after_help = "Example:\n  moderationctl xdp reap")]
    Reap {
        #[command(flatten)]
        pins: PinRoot,
        /// Go on until told to stop
        #[arg(long)]
        watch: bool,
    },
    /// Show what is attached, blocked and counted
    #[command(after_help = "Example:\n  moderationctl xdp status --json")]
    Status {
        #[command(flatten)]
        pins: PinRoot,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Those that have none of their own below them.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, bool)>) {
        for inner in command.get_subcommands().filter(|it| !it.is_hide_set()) {
            let path = format!("{path} {}", inner.get_name());
            if inner.has_subcommands() {
                leaves(inner, &path, found);
            }
            let help = inner.get_after_help().map(ToString::to_string).unwrap_or_default();
            let is_shown = help.contains("Example") && help.contains(&path);
            found.push((path, is_shown || inner.has_subcommands()));
        }
    }

    #[test]
    fn every_command_has_an_example() {
        let mut found = Vec::new();
        leaves(&Arguments::command(), "moderationctl", &mut found);
        assert!(found.len() > 25, "{found:?}");
        let lacking: Vec<_> = found.iter().filter(|(_, shown)| !shown).collect();
        assert!(lacking.is_empty(), "without an example: {lacking:?}");
    }
}
