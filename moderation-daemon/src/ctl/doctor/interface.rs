//! The configured interfaces: what is attached to them, and what of their settings is in
//! the way. Needs no daemon, and root only to tell one's own program from another's.

use std::collections::BTreeMap;

use super::finding::{Finding, Grade};
use crate::{
    config::{AttachMode, Config},
    network::{self, Attachment, NetworkError, Pins, Queues, XdpMode},
    telemetry::chain,
};

/// Settings that keep a program out of the driver, or have it see several packets as one:
/// the feature's name in the kernel, and ethtool's.
const IN_THE_WAY: [(&str, &str); 2] = [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")];

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let network = &config.network;
    if network.mode == AttachMode::Off {
        return vec![Finding::note("attached", "nothing is to be attached (network.mode: off)")];
    }
    if network.interfaces.is_empty() {
        // As after installing, until somebody decides that packets are dropped.
        let advice = "moderationctl setup asks for it; or set network.interfaces and run \
                      moderationctl xdp attach";
        let text = "no interface is configured: nothing is dropped in the kernel";
        let note = Finding::note("attached", text);
        return vec![Finding { advice: Some(advice.to_owned()), ..note }];
    }
    let attached = match network::attachments() {
        Ok(attached) => attached,
        Err(error) => return vec![Finding::note("attached", chain(&error))],
    };
    let ours = Pins::new(&network.pin_root).attachments();
    let each = network.interfaces.iter().flat_map(|interface| {
        let found = attached.iter().find(|one| one.interface == *interface);
        let mut findings = vec![program(interface, found, &ours, network.mode)];
        findings.extend(device(interface));
        findings
    });
    each.collect()
}

/// The program on an interface.
fn program(
    interface: &str,
    found: Option<&Attachment>,
    ours: &Result<Vec<Attachment>, NetworkError>,
    mode: AttachMode,
) -> Finding {
    let check = format!("{interface}: program");
    let Some(found) = found else {
        let text = "none is attached: nothing is dropped here";
        let advice = format!(
            "systemctl status moderation-xdp moderation-guard; or moderationctl xdp attach \
             --interface {interface}"
        );
        return Finding::wrong(&check, Grade::Problem, text, advice);
    };
    let how = format!("program {} is attached, {}", found.program_id, found.mode);
    match ours {
        Err(error) => {
            let text = format!("{how}; whether it is ours only root can tell: {}", chain(error));
            Finding::note(&check, text)
        }
        Ok(ours) if !ours.contains(found) => {
            let text = format!("another program than ours is there: {how}");
            let advice = format!(
                "find out whose it is: bpftool prog show id {}; take it off: ip link set dev \
                 {interface} xdp off; then moderationctl xdp attach --interface {interface}",
                found.program_id
            );
            Finding::wrong(&check, Grade::Problem, text, advice)
        }
        Ok(_) if found.mode == XdpMode::Generic && mode != AttachMode::Generic => {
            let advice = format!(
                "it works, and costs more for each packet; a driver with XDP is faster: ethtool \
                 -i {interface}"
            );
            Finding::wrong(&check, Grade::Warning, format!("ours: {how}"), advice)
        }
        Ok(_) => Finding::ok(&check, format!("ours: {how}")),
    }
}

fn device(interface: &str) -> Vec<Finding> {
    let mut findings = vec![match network::driver(interface) {
        Ok(driver) => Finding::ok(&format!("{interface}: driver"), driver),
        Err(error) => Finding::note(&format!("{interface}: driver"), format!("not told: {error}")),
    }];
    // Devices without a choice of queues do not say.
    let asked = network::queues(interface).ok().filter(|queues| queues.most_combined > 0);
    findings.extend(asked.map(|found| queues(interface, found)));
    match network::features(interface) {
        Ok(features) => findings.extend(settings(interface, &features)),
        Err(error) => {
            let text = format!("not told: {error}");
            findings.push(Finding::note(&format!("{interface}: offloads"), text));
        }
    }
    findings
}

fn queues(interface: &str, queues: Queues) -> Finding {
    let Queues { used, most_combined } = queues;
    let text = format!("{used} of {most_combined} queues");
    let check = format!("{interface}: queues");
    let cpus = std::thread::available_parallelism()
        .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
    if used < cpus.min(most_combined) {
        let wanted = cpus.min(most_combined);
        let advice = format!(
            "more of the {cpus} CPUs share the work with: ethtool -L {interface} combined {wanted}; \
             drivers that need queues of their own for XDP (ena, virtio_net) take half of them"
        );
        return Finding { advice: Some(advice), ..Finding::note(&check, text) };
    }
    Finding::ok(&check, text)
}

fn settings(interface: &str, features: &BTreeMap<String, bool>) -> Vec<Finding> {
    let on = IN_THE_WAY.iter().filter(|(feature, _)| features.get(*feature) == Some(&true));
    let wrong: Vec<_> = on
        .map(|(feature, name)| {
            let text = format!(
                "{feature} is on: drivers refuse programs, or hand over several packets as one"
            );
            let advice = format!("ethtool -K {interface} {name} off");
            Finding::wrong(&format!("{interface}: {name}"), Grade::Problem, text, advice)
        })
        .collect();
    if wrong.is_empty() {
        let text = "LRO and GRO-HW are off";
        return vec![Finding::ok(&format!("{interface}: offloads"), text)];
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(program_id: u32, mode: XdpMode) -> Attachment {
        Attachment { interface: "eth0".to_owned(), mode, program_id }
    }

    #[test]
    fn what_is_attached_is_told_with_what_to_do() {
        let (native, generic) = (attached(7, XdpMode::Native), attached(7, XdpMode::Generic));
        let cases = [
            (None, Vec::new(), AttachMode::Auto, Grade::Problem, "moderationctl xdp attach"),
            (Some(&native), Vec::new(), AttachMode::Auto, Grade::Problem, "xdp off"),
            (Some(&native), vec![native.clone()], AttachMode::Auto, Grade::Ok, ""),
            (Some(&generic), vec![generic.clone()], AttachMode::Auto, Grade::Warning, "ethtool -i"),
            (Some(&generic), vec![generic.clone()], AttachMode::Generic, Grade::Ok, ""),
        ];
        for (found, ours, mode, grade, advice) in cases {
            let finding = program("eth0", found, &Ok(ours), mode);
            assert_eq!(finding.grade, grade, "{finding:?}");
            assert!(finding.advice.unwrap_or_default().contains(advice), "{advice}");
        }
        let unreadable = Err(NetworkError::UnknownInterface("eth0".to_owned()));
        let finding = program("eth0", Some(&native), &unreadable, AttachMode::Auto);
        assert_eq!(finding.grade, Grade::Note);
    }

    #[test]
    fn a_host_that_is_not_set_up_is_told_how_and_not_warned() {
        let config = Config::parse("").expect("a configuration");
        let found = findings(&config);
        assert_eq!((found.len(), found[0].grade), (1, Grade::Note), "{found:?}");
        assert!(found[0].advice.as_deref().is_some_and(|it| it.contains("moderationctl setup")));
    }

    #[test]
    fn settings_in_the_way_come_with_the_command() {
        let of = |lro, gro_hw| {
            let features = [("rx-lro".to_owned(), lro), ("rx-gro-hw".to_owned(), gro_hw)];
            settings("eth0", &features.into())
        };
        assert_eq!(of(false, false)[0].grade, Grade::Ok);
        let advice: Vec<_> = of(true, true).into_iter().filter_map(|it| it.advice).collect();
        assert_eq!(advice, ["ethtool -K eth0 lro off", "ethtool -K eth0 rx-gro-hw off"]);
    }

    #[test]
    fn queues_that_could_be_more_come_with_the_command() {
        let few = queues("eth0", Queues { used: 0, most_combined: 1 });
        let advice = few.advice.as_deref().unwrap_or_default();
        assert!(advice.contains("ethtool -L eth0 combined 1"), "{few:?}");
        assert_eq!(queues("eth0", Queues { used: 8, most_combined: 8 }).advice, None);
    }
}
