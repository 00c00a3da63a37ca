//! Whether this kernel can do what is asked of it. Needs no privilege and no daemon.

use std::{fs, path::Path};

use super::finding::{Finding, Grade};
use crate::{
    config::{AttachMode, Config},
    network,
};

/// The kernel programs need links on control groups and batches of maps that are tries.
const PROGRAMS: (u32, u32) = (5, 15);
/// From here on a daemon without capabilities may use maps that it has the permission of.
const WITHOUT_CAPABILITIES: (u32, u32) = (5, 19);

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = vec![match nix::sys::utsname::uname() {
        Ok(names) => version(&names.release().to_string_lossy()),
        Err(error) => Finding::note("kernel version", format!("it does not say: {error}")),
    }];
    if config.network.mode == AttachMode::Off {
        let text =
            "nothing is dropped in the kernel (network.mode: off), so no more is asked of it";
        findings.push(Finding::note("kernel filter", text));
        return findings;
    }
    findings.push(btf(Path::new("/sys/kernel/btf/vmlinux")));
    findings.push(bpffs(&config.network.pin_root));
    if config.network.connections.enabled {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        findings.push(cgroup(&mounts, config.network.connections.cgroup.as_deref()));
    }
    findings
}

/// `6.1.0-18-amd64` is 6.1.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|it: char| !it.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn version(release: &str) -> Finding {
    let check = "kernel version";
    match parse(release) {
        None => Finding::note(check, format!("{release} is no version that is understood")),
        Some(version) if version < PROGRAMS => {
            let advice = "update to Linux 5.15 or later; until then set network.mode: off, and \
                          bans hold at the API and in nginx";
            Finding::wrong(check, Grade::Problem, format!("{release} is too old"), advice)
        }
        Some(version) if version < WITHOUT_CAPABILITIES => {
            let text = format!("{release} wants CAP_BPF of whoever uses a map");
            let advice = "give it to the daemon: copy moderation-old-kernel.conf to \
                          /etc/systemd/system/moderation.service.d/, systemctl daemon-reload, \
                          systemctl restart moderation";
            Finding::wrong(check, Grade::Warning, text, advice)
        }
        Some(_) => Finding::ok(check, release),
    }
}

fn btf(file: &Path) -> Finding {
    if file.exists() {
        return Finding::ok("BTF", "the kernel describes its types");
    }
    let advice = "use a kernel with CONFIG_DEBUG_INFO_BTF, as distributions build them";
    let text = format!("{} is not there", file.display());
    Finding::wrong("BTF", Grade::Warning, text, advice)
}

/// The folder of pins is made when the program is loaded.
fn bpffs(pin_root: &Path) -> Finding {
    let check = "bpffs";
    let Some(folder) = pin_root.ancestors().find(|folder| folder.exists()) else {
        return Finding::note(check, format!("{} cannot be looked at", pin_root.display()));
    };
    match network::is_on_bpffs(folder) {
        Ok(true) => Finding::ok(check, format!("{} is on it", pin_root.display())),
        Ok(false) => {
            let text = format!("{} is not on a filesystem of the kind bpf", pin_root.display());
            let advice = "mount -t bpf bpf /sys/fs/bpf, or let systemd do it; or set \
                          network.pin_root to where it is";
            Finding::wrong(check, Grade::Problem, text, advice)
        }
        Err(error) => Finding::note(check, format!("{}: {error}", folder.display())),
    }
}

fn cgroup(mounts: &str, configured: Option<&Path>) -> Finding {
    let check = "cgroup2";
    if let Some(group) = configured {
        if group.is_dir() {
            return Finding::ok(check, format!("connections are counted in {}", group.display()));
        }
        let text = format!("{} is no control group", group.display());
        let advice = "correct network.connections.cgroup, or leave it out";
        return Finding::wrong(check, Grade::Problem, text, advice);
    }
    match network::cgroup_mount(mounts) {
        Some(folder) => Finding::ok(check, format!("mounted at {folder}")),
        None => {
            let text = "no control groups of version 2 are mounted: connections are not counted";
            let advice = "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none \
                          /sys/fs/cgroup; or set network.connections.enabled: false";
            Finding::wrong(check, Grade::Problem, text, advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told_with_what_to_do() {
        let cases = [
            ("6.1.0-18-amd64", Grade::Ok, None),
            ("5.19.0", Grade::Ok, None),
            ("5.15.0-101-generic", Grade::Warning, Some("moderation-old-kernel.conf")),
            ("5.14.21", Grade::Problem, Some("network.mode: off")),
            ("4.19", Grade::Problem, Some("5.15")),
            ("strange", Grade::Note, None),
        ];
        for (release, grade, advice) in cases {
            let finding = version(release);
            assert_eq!(finding.grade, grade, "{release}");
            let told = finding.advice.unwrap_or_default();
            assert!(advice.is_none_or(|advice| told.contains(advice)), "{release}: {told}");
        }
    }

    #[test]
    fn folders_that_are_of_another_kind_are_problems() {
        assert_eq!(bpffs(Path::new("/proc/nowhere/pins")).grade, Grade::Problem);
        assert_eq!(btf(Path::new("/nonexistent")).grade, Grade::Warning);
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(cgroup(mounts, None).text, "mounted at /sys/fs/cgroup");
        assert_eq!(cgroup("proc /proc proc rw 0 0\n", None).grade, Grade::Problem);
        assert_eq!(cgroup(mounts, Some(Path::new("/nonexistent"))).grade, Grade::Problem);
    }
}
