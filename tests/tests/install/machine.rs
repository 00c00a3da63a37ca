//! Machines themselves: what tests of the package rely on.

use anyhow::Result;
use moderation_tests::machine::{Inventory, Kind, Luggage, Machine, site};

#[test]
fn a_machine_forgets_in_a_reboot_what_a_machine_forgets() -> Result<()> {
    if !Kind::Container.is_here() {
        return Ok(());
    }
    let mut luggage = Luggage::new()?;
    luggage.write("greeting", "hello\n")?;
    let mut machine = Machine::boot(Kind::Container, luggage)?;
    assert_eq!(machine.run("cat /proc/1/comm")?, "systemd\n");
    assert_eq!(machine.run("cat /mnt/greeting")?, "hello\n");
    let failed = machine.try_run("echo said; echo complained >&2; exit 3")?;
    assert_eq!(failed.code, 3);
    assert_eq!((failed.stdout.as_str(), failed.stderr.as_str()), ("said\n", "complained\n"));

    machine.run("touch /etc/kept /run/forgotten && mkdir /sys/fs/bpf/forgotten")?;
    machine.reboot()?;
    machine.run("test -e /etc/kept -a ! -e /run/forgotten -a ! -e /sys/fs/bpf/forgotten")?;
    assert_eq!(machine.run("systemctl --failed --no-legend")?, "");
    Ok(())
}

#[test]
fn a_machine_cannot_change_the_one_around_it() -> Result<()> {
    if !Kind::Container.is_here() {
        return Ok(());
    }
    let mut machine = Machine::boot(Kind::Container, Luggage::new()?)?;
    for parameter in ["/proc/sys/kernel/panic", "/sys/kernel/profiling", "/mnt/new"] {
        let outcome = machine.try_run(&format!("echo 1 >{parameter}"))?;
        assert_ne!(outcome.code, 0, "{parameter} was written");
    }
    assert_eq!(machine.run("ip -o link show | wc -l")?, "1\n", "it has a network");
    Ok(())
}

#[test]
fn visitors_write_down_whether_they_are_served_also_after_a_reboot() -> Result<()> {
    if !Kind::Container.is_here() {
        return Ok(());
    }
    let mut luggage = Luggage::new()?;
    site::pack(&mut luggage)?;
    let mut machine = Machine::boot(Kind::Container, luggage)?;
    site::build(&mut machine)?;
    machine.run(&format!("ip route add blackhole {}", site::ABUSER))?;
    let since = site::now(&mut machine)?;
    for way in [site::Way::Visit, site::Way::Ping] {
        site::ensure_ignored(&mut machine, way, site::ABUSER, &since)?;
        site::await_answer(&mut machine, way, site::BYSTANDER, &since)?;
    }
    machine.reboot()?;
    for way in [site::Way::Visit, site::Way::Ping] {
        site::await_answer(&mut machine, way, site::ABUSER, &since)?;
        let refused = site::ensure_ignored(&mut machine, way, site::ABUSER, &since);
        assert!(refused.is_err(), "an answer is noticed");
    }
    Ok(())
}

#[test]
fn an_inventory_tells_what_came_and_what_went() -> Result<()> {
    if !Kind::Container.is_here() {
        return Ok(());
    }
    let mut machine = Machine::boot(Kind::Container, Luggage::new()?)?;
    let before = Inventory::take(&mut machine)?;
    machine
        .run("groupadd newcomers && mkdir /sys/fs/bpf/pins && touch /opt/file && rm /etc/issue")?;
    let after = Inventory::take(&mut machine)?;
    let came = after.beyond(&before);
    assert_eq!(came.len(), 3, "{came:?}");
    assert_eq!(before.beyond(&after), ["file /etc/issue"]);
    Ok(())
}
