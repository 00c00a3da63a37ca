//! What there is on a machine before a package comes and after it has gone: files, users,
//! groups, units, pins. What every installation changes (lists of packages, logs, the
//! files behind users) is left out.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Machine;

/// A systemd that is too busy to answer is asked again, rather than taken for one without
/// units.
const SCRIPT: &str = r#"
units=$(systemctl list-unit-files --no-legend --plain) || exit 1
find / -xdev \( -path /mnt -o -path /tmp -o -path /var/tmp -o -path /var/cache -o -path /var/log \
	-o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/lib/systemd/timers \
	-o -path '/etc/*-' -o -path /etc/.pwd.lock -o -path '/var/lib/systemd/*random*' \
	-o -path /var/backups \) -prune -o -printf 'file %p\n'
getent passwd | sed 's/^/user /'
getent group | sed 's/^/group /'
find /sys/fs/bpf -mindepth 1 -printf 'pin %p\n'
find /run -xdev -maxdepth 1 -printf 'file %p\n'
echo "$units" | grep -v transient | tr -s ' ' | sed 's/^/unit /'
ip -o link show | grep -o 'prog/xdp.*' | sed 's/^/attached /'
exit 0
"#;

const PATIENCE: Duration = Duration::from_secs(30);

/// See the module; one line a thing.
#[derive(Debug)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Looks at everything.
    pub fn take(machine: &mut Machine) -> Result<Self> {
        let printed = machine.await_success(SCRIPT, PATIENCE)?;
        let lines: BTreeSet<String> = printed.lines().map(str::to_owned).collect();
        ensure!(lines.len() > 1000, "a machine with so little on it was not looked at");
        Ok(Self(lines))
    }

    /// What is here and was not in `before`.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}
