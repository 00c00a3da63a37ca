//! How tight the sandboxes of installed units are: systemd's own opinion of them, and
//! what the program `prisoner` can do in a unit of the same properties. What would be
//! too much is said here; the units are the package's.

use anyhow::{Context, Result, ensure};

use super::{Luggage, Machine};
use crate::attempt::{self, Attempts};
use crate::daemon;

/// The exposure that `systemd-analyze security` may find at most, from 0 to 10.
const MAX_EXPOSURE: [(&str, f64); 4] = [
    ("moderation.service", 1.5),
    ("moderation-xdp.service", 3.0),
    ("moderation-guard.service", 3.0),
    ("moderation-reaper.service", 3.0),
];

/// Where a daemon has no business to write.
const FORBIDDEN: [&str; 12] = [
    "/etc",
    "/usr",
    "/boot",
    "/root",
    "/home",
    "/opt",
    "/srv",
    "/var/lib",
    "/var/log",
    "/run",
    "/run/lock",
    "/dev/shm",
];
/// Its own folder.
const OWN: &str = "/var/lib/moderation";
/// The chat's web server on the host's address; loopback is the daemon's to reach, for
/// databases are there.
const FORBIDDEN_PEER: &str = "192.0.2.1:80";
const OWN_PEER: &str = "127.0.0.1:80";

/// Makes the unit's twin: the same properties, but what runs in it is the prisoner.
const TWIN: &str = r#"
twin=/run/systemd/system/moderation-prisoner.service
systemctl cat moderation.service | sed -E '/^(Requires|After|Before|Sockets|Type|ExecStart|ExecReload|WatchdogSec|Restart|RestartSec|WantedBy|BindsTo|StartLimitIntervalSec)=/d' >$twin
cat >>$twin <<END

[Service]
Type=oneshot
StandardOutput=truncate:/run/prisoner.json
ExecStart=
ExecStart=$prisoner
$more
END
systemctl daemon-reload
systemctl start moderation-prisoner.service || { systemctl status --no-pager moderation-prisoner.service; exit 1; }
cat /run/prisoner.json
"#;

/// Packs what [`try_to_escape`] needs.
pub fn pack(luggage: &mut Luggage) -> Result<()> {
    luggage.pack(&daemon::binary("prisoner")?, "prisoner")
}

/// Sees that systemd finds nothing wrong with the units and little exposed; returns the
/// exposure of each.
pub fn rate(machine: &mut Machine) -> Result<Vec<(&'static str, f64)>> {
    let units = "/lib/systemd/system/moderation*.service /lib/systemd/system/moderation*.socket";
    let complaints = machine.run(&format!("systemd-analyze verify --man=no {units} 2>&1"))?;
    ensure!(complaints.trim().is_empty(), "systemd-analyze verify: {complaints}");
    MAX_EXPOSURE.into_iter().map(|(unit, most)| rate_one(machine, unit, most)).collect()
}

fn rate_one(machine: &mut Machine, unit: &'static str, most: f64) -> Result<(&'static str, f64)> {
    let table = machine.run(&format!("systemd-analyze security --no-pager {unit}"))?;
    let (_, verdict) = table
        .rsplit_once(&format!("Overall exposure level for {unit}:"))
        .context("systemd-analyze security gives no verdict")?;
    let exposure = verdict.split_whitespace().next().context("a number")?.parse()?;
    ensure!(exposure <= most, "{unit} is exposed by {exposure}, more than {most}:\n{table}");
    Ok((unit, exposure))
}

/// Runs the prisoner where the daemon runs, there as root, and as root outside: it must
/// get nowhere, nowhere, and everywhere.
pub fn try_to_escape(machine: &mut Machine) -> Result<()> {
    machine.run("install -m 4755 /bin/cat /usr/local/bin/root-cat")?;
    let writes = FORBIDDEN.map(|folder| format!(" --write {folder}")).concat();
    let attempts = format!(
        "{writes} --write {OWN} --connect {FORBIDDEN_PEER} --connect {OWN_PEER} \
         --rise /usr/local/bin/root-cat"
    );
    let outside = attempt::read(&machine.run(&format!("/mnt/prisoner{attempts}"))?)?;
    ensure!(outside.len() > FORBIDDEN.len(), "the prisoner tried little: {outside:?}");
    ensure!(
        outside.values().all(Option::is_none),
        "the attempts prove nothing: outside the sandbox they fail, too: {outside:?}"
    );
    for more in ["", "User=root"] {
        let twin = format!("prisoner='/mnt/prisoner{attempts}' more='{more}'\n{TWIN}");
        let inside = attempt::read(&machine.run(&twin)?)?;
        let who = if more.is_empty() { "the daemon" } else { "root in its sandbox" };
        ensure_captive(&inside).with_context(|| format!("what {who} could do: {inside:?}"))?;
    }
    machine.run("rm -f /run/systemd/system/moderation-prisoner.service /usr/local/bin/root-cat")?;
    machine.run("systemctl daemon-reload").map(drop)
}

fn ensure_captive(attempts: &Attempts) -> Result<()> {
    let own = [format!("write {OWN}"), format!("connect {OWN_PEER}")];
    for (what, error) in attempts {
        let is_own = own.contains(what);
        ensure!(is_own || error.is_some(), "it could {what}");
        // What it may do must work, or the rest may fail for another reason.
        ensure!(!is_own || error.is_none(), "it could not {what}: {error:?}");
    }
    Ok(())
}
