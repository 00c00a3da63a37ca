//! The life of the package on a machine: installed, set up, in force after a crash of
//! the daemon, a reboot and an upgrade, removed, purged. What it claims is checked as it
//! goes; for people it tells what it does.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::inventory::Inventory;
use super::site::{self, ABUSER, BYSTANDER, INTERFACE, Moment, Way};
use super::transcript::Transcript;
use super::{Kind, Luggage, Machine, sandbox};
use crate::daemon;

/// For the daemon to be ready, the program to be attached.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was measured on the way.
#[derive(Debug)]
pub struct Measured {
    /// From nothing to a machine that is up.
    pub boot: Duration,
    /// What a new user would have seen until the first packet was dropped.
    pub transcript: Transcript,
    /// Exposure of each unit, by `systemd-analyze security`.
    pub exposure: Vec<(&'static str, f64)>,
    /// Echo requests of the banned peer that the kernel answered after the reboot, before
    /// the daemon had handed it the bans.
    pub pings_at_boot: u32,
}

/// Plays the whole of it.
pub fn play(kind: Kind) -> Result<Measured> {
    let mut luggage = Luggage::new()?;
    site::pack(&mut luggage)?;
    sandbox::pack(&mut luggage)?;
    for package in ["present.deb", "next.deb"] {
        luggage.pack(&daemon::binary(&format!("machine/{package}"))?, package)?;
    }
    let start = Instant::now();
    let machine = Machine::boot(kind, luggage)?;
    let mut story = Story { machine, boot: start.elapsed(), transcript: Transcript::new() };
    story.say(format_args!("booted in {:.1?}", story.boot));
    let measured = story.play();
    measured.with_context(|| story.machine.last())
}

struct Story {
    machine: Machine,
    boot: Duration,
    transcript: Transcript,
}

impl Story {
    fn play(&mut self) -> Result<Measured> {
        site::build(&mut self.machine)?;
        let before = Inventory::take(&mut self.machine)?;
        self.install()?;
        self.set_up()?;
        let banned = self.ban()?;
        let exposure = sandbox::rate(&mut self.machine)?;
        self.say(format_args!("units are exposed by {exposure:?}"));
        sandbox::try_to_escape(&mut self.machine)?;
        self.say("the sandbox of the daemon's unit holds");
        self.read_a_secret()?;
        self.survive_a_crash(&banned)?;
        let pings_at_boot = self.survive_a_reboot(&banned)?;
        self.survive_an_upgrade(&banned)?;
        self.remove()?;
        self.purge(&before)?;
        let transcript = std::mem::take(&mut self.transcript);
        Ok(Measured { boot: self.boot, transcript, exposure, pings_at_boot })
    }

    fn say(&self, what: impl Display) {
        eprintln!("{:?}: {what}", self.machine.kind());
    }

    /// A command of the new user's.
    fn user(&mut self, command: &str) -> Result<String> {
        self.transcript.run(&mut self.machine, command)
    }

    /// In observe mode: nothing is on the interface, and everybody is served.
    fn install(&mut self) -> Result<()> {
        let since = site::now(&mut self.machine)?;
        self.user("apt-get install -y /mnt/present.deb")?;
        self.await_daemon()?;
        self.user("systemctl is-active moderation.service")?;
        let attached = self.machine.run("ip -o link show | grep -c prog/xdp || true")?;
        ensure!(attached.trim() == "0", "the installation attached a program");
        self.unpinned()?;
        let enabled = self.machine.try_run("systemctl is-enabled moderation-xdp.service")?;
        ensure!(enabled.stdout.trim() == "disabled", "moderation-xdp is {}", enabled.stdout);
        let licences = "zcat /usr/share/doc/moderation/third-party.gz";
        for part in ["tokio", "aya-ebpf"] {
            self.machine.run(&format!("{licences} | grep '^{part} [0-9]'"))?;
        }
        self.served(&[ABUSER, BYSTANDER], &since)?;
        self.say("installed: the daemon looks on, nothing is attached, all are served");
        Ok(())
    }

    fn set_up(&mut self) -> Result<()> {
        self.user(&format!("moderationctl setup --yes --interface {INTERFACE}"))?;
        self.machine
            .await_success(&format!("ip link show {INTERFACE} | grep prog/xdp"), PATIENCE)?;
        self.await_daemon()?;
        let since = site::now(&mut self.machine)?;
        self.served(&[ABUSER, BYSTANDER], &since)?;
        self.say("set up: the program is attached, all are served");
        Ok(())
    }

    /// By the daemon's API, as somebody who is in the operators' group and nothing else.
    fn ban(&mut self) -> Result<Moment> {
        self.user(&format!(
            "setpriv --reuid nobody --regid moderation-admin --clear-groups \
             curl --silent --show-error --fail-with-body --unix-socket /run/moderation/admin.sock \
             --json '{{\"ip\": \"{ABUSER}\", \"duration\": \"1d\", \"reason\": \"spam\"}}' \
             http://localhost/v1/bans"
        ))?;
        let banned = site::now(&mut self.machine)?;
        self.unserved(&banned)?;
        self.user("moderationctl list")?;
        self.user("moderationctl status")?;
        self.say("banned: packets stop, the bystander is served");
        Ok(banned)
    }

    /// The daemon, which is not root, starts with a key that root alone can read, and not
    /// without it. In a container systemd cannot give one to anybody but root.
    fn read_a_secret(&mut self) -> Result<()> {
        const FOLDER: &str = "/etc/credstore";
        const KEY: &str = "/etc/credstore/moderation.pseudonym-key";
        const SETTING: &str = "/etc/moderation/moderation.d/60-pseudonyms.yaml";
        if self.machine.kind() == Kind::Container {
            return Ok(());
        }
        let had_folder = self.machine.try_run(&format!("test -d {FOLDER}"))?.code == 0;
        self.machine.run(&format!("printf 'log:\n  pseudonyms: true\n' >{SETTING}"))?;
        let without = self.machine.try_run("systemctl restart moderation.service")?;
        ensure!(without.code != 0, "the daemon started without the key");
        self.machine.run(&format!(
            "head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n' | \
             install -D -m 600 /dev/stdin {KEY}"
        ))?;
        self.machine.run("systemctl reset-failed && systemctl restart moderation.service")?;
        self.await_daemon()?;
        self.machine.run(&format!("rm {KEY} {SETTING} && systemctl restart moderation.service"))?;
        self.await_daemon()?;
        if !had_folder {
            self.machine.run(&format!("rmdir {FOLDER}"))?;
        }
        self.say("a secret of root's reached the daemon");
        Ok(())
    }

    /// The kernel goes on without the daemon.
    fn survive_a_crash(&mut self, banned: &Moment) -> Result<()> {
        self.machine.run("systemctl stop moderation.service 'moderation-*.socket'")?;
        let since = site::now(&mut self.machine)?;
        self.unserved(&since)?;
        self.machine.run("systemctl start moderation-app.socket moderation-admin.socket")?;
        self.machine.run("systemctl start moderation.service")?;
        self.await_daemon()?;
        self.machine.run("systemctl kill --signal=KILL moderation.service")?;
        self.await_daemon()?;
        self.unserved(banned)?;
        self.say("the daemon stopped, started, crashed: the ban held throughout");
        Ok(())
    }

    /// The web server is started only when bans are in force, so that a page was never
    /// served; before that the kernel answers pings, which are counted.
    fn survive_a_reboot(&mut self, banned: &Moment) -> Result<u32> {
        let before = site::now(&mut self.machine)?;
        self.machine.reboot()?;
        self.await_daemon()?;
        let since = site::now(&mut self.machine)?;
        self.unserved(&since)?;
        site::ensure_ignored(&mut self.machine, Way::Visit, ABUSER, banned)?;
        let pings = site::asked(&mut self.machine, Way::Ping, ABUSER, &before)?;
        self.say(format_args!(
            "rebooted: no page was served to the banned peer; pings answered before the daemon \
             was ready: {}",
            pings.answered
        ));
        Ok(pings.answered)
    }

    fn survive_an_upgrade(&mut self, banned: &Moment) -> Result<()> {
        let since = site::now(&mut self.machine)?;
        self.machine.run("apt-get install -y /mnt/next.deb 2>&1")?;
        let version = self.machine.run("dpkg-query -W -f '${Version}' moderation")?;
        ensure!(version.trim() == "0.0.2", "version {version} is installed");
        self.await_daemon()?;
        self.unserved(&since)?;
        site::ensure_ignored(&mut self.machine, Way::Visit, ABUSER, banned)?;
        self.say("upgraded: not one packet of the banned peer was answered");
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        self.machine.run("apt-get remove -y moderation 2>&1")?;
        let since = site::now(&mut self.machine)?;
        self.served(&[ABUSER, BYSTANDER], &since)?;
        self.unpinned()?;
        self.say("removed: packets flow");
        Ok(())
    }

    fn purge(&mut self, before: &Inventory) -> Result<()> {
        self.machine.run("apt-get purge -y moderation 2>&1")?;
        let after = Inventory::take(&mut self.machine)?;
        let (left, lost) = (after.beyond(before), before.beyond(&after));
        ensure!(left.is_empty(), "purging left {left:#?}");
        ensure!(lost.is_empty(), "purging took away {lost:#?}");
        self.say("purged: nothing is left");
        Ok(())
    }

    fn await_daemon(&mut self) -> Result<()> {
        self.machine.await_success("systemctl is-active moderation.service", PATIENCE)?;
        self.machine.await_success("moderationctl status", PATIENCE).map(drop)
    }

    fn unpinned(&mut self) -> Result<()> {
        // Some kernels put two files of their own there (CONFIG_BPF_PRELOAD).
        let pins = self.machine.run("find /sys/fs/bpf -mindepth 1 ! -name '*.debug'")?;
        ensure!(pins.is_empty(), "there are pins:\n{pins}");
        Ok(())
    }

    /// All of these are answered, in both ways, after that moment.
    fn served(&mut self, who: &[&str], since: &Moment) -> Result<()> {
        for who in who {
            site::await_answer(&mut self.machine, Way::Visit, who, since)?;
            site::await_answer(&mut self.machine, Way::Ping, who, since)?;
        }
        Ok(())
    }

    /// The abuser is not answered from that moment on, in no way; the bystander is.
    fn unserved(&mut self, since: &Moment) -> Result<()> {
        for way in [Way::Visit, Way::Ping] {
            site::ensure_ignored(&mut self.machine, way, ABUSER, since)?;
        }
        self.served(&[BYSTANDER], since)
    }
}
