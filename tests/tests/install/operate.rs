//! What operators do with the units, on a machine with systemd: reload, restart, kill,
//! look at the journal; and set the host up by answering questions, or by not answering.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moderation_tests::daemon;
use moderation_tests::machine::{
    Kind, Luggage, Machine,
    site::{self, ABUSER, BYSTANDER, INTERFACE, Way},
};

const PATIENCE: Duration = Duration::from_secs(30);
const CONFIG: &str = "/etc/moderation/moderation.d/90-test.yaml";

/// A machine on which the package is installed; `None`: none can be had here.
fn installed() -> Result<Option<Machine>> {
    if !Kind::Container.is_here() {
        return Ok(None);
    }
    let mut luggage = Luggage::new()?;
    site::pack(&mut luggage)?;
    luggage.pack(&daemon::binary("machine/present.deb")?, "present.deb")?;
    let mut machine = Machine::boot(Kind::Container, luggage)?;
    site::build(&mut machine)?;
    machine.run("apt-get install -y /mnt/present.deb 2>&1")?;
    machine.await_success("moderationctl status", PATIENCE)?;
    Ok(Some(machine))
}

fn set_up(machine: &mut Machine) -> Result<()> {
    machine.run(&format!("moderationctl setup --yes --interface {INTERFACE}"))?;
    machine.run(&format!("moderationctl ban --ip {ABUSER}"))?;
    let since = site::now(machine)?;
    site::ensure_ignored(machine, Way::Ping, ABUSER, &since)
}

fn pid(machine: &mut Machine) -> Result<u32> {
    let pid = machine.run("systemctl show -p MainPID --value moderation.service")?;
    Ok(pid.trim().parse()?)
}

fn write_config(machine: &mut Machine, text: &str) -> Result<()> {
    machine.run(&format!("cat > {CONFIG} <<'END'\n{text}\nEND")).map(drop)
}

fn login_max(machine: &mut Machine) -> Result<String> {
    machine.run(
        // Asked as it runs: moderationctl reads the file, too, which may be wrong.
        "curl -s --unix-socket /run/moderation/admin.sock http://moderation/v1/config \
         | grep -o '\"login\":{[^}]*' | grep -o '\"max\":[0-9]*' | head -1",
    )
}

/// While somebody asks all the time, who must always be answered; how often they were.
fn while_asked(machine: &mut Machine, script: &str) -> Result<u32> {
    let asking = "while [ -e /run/asking ]; do \
                      curl -s --fail-with-body --max-time 20 --unix-socket /run/moderation/api.sock \
                          http://moderation/v1/check?ip=192.0.2.1 >/dev/null \
                          && echo yes || echo no; \
                  done > /run/asked";
    machine.run("touch /run/asking")?;
    machine.run(&format!("systemd-run -q --unit=asker sh -c '{asking}'"))?;
    machine.await_success("[ $(grep -c yes /run/asked) -gt 5 ]", PATIENCE)?;
    machine.run(script)?;
    machine.run("cp /run/asked /run/before")?;
    let more = "[ $(grep -c yes /run/asked) -gt $(($(grep -c yes /run/before) + 5)) ]";
    machine.await_success(more, PATIENCE)?;
    machine.run("rm /run/asking; while systemctl -q is-active asker; do sleep 0.1; done")?;
    let refused = machine.run("grep -c no /run/asked || true")?;
    ensure!(refused.trim() == "0", "{refused} questions were not answered");
    Ok(machine.run("grep -c yes /run/asked")?.trim().parse()?)
}

#[test]
fn reloading_restarting_and_killing_turn_nobody_away() -> Result<()> {
    let Some(mut machine) = installed()? else { return Ok(()) };
    set_up(&mut machine)?;
    let since = site::now(&mut machine)?;
    let first = pid(&mut machine)?;

    // A good configuration counts at once, in the same process.
    write_config(&mut machine, "limits: {login: {max: 5}}")?;
    while_asked(&mut machine, "systemctl reload moderation.service")?;
    machine.await_success("moderationctl status", PATIENCE)?;
    assert_eq!(login_max(&mut machine)?, "\"max\":5\n");
    assert_eq!(pid(&mut machine)?, first);

    // A bad one is refused by systemctl, with the reason, and changes nothing.
    write_config(&mut machine, "limits: {login: {max: 0}}")?;
    let refused = machine.try_run("systemctl reload moderation.service")?;
    assert_ne!(refused.code, 0);
    let told = machine.run("journalctl -u moderation.service --no-pager -n 20")?;
    assert!(told.contains("limits.login.max") && told.contains(CONFIG), "{told}");
    assert_eq!((pid(&mut machine)?, login_max(&mut machine)?), (first, "\"max\":5\n".to_owned()));
    machine.run(&format!("rm {CONFIG}"))?;

    let restart = "systemctl restart moderation.service";
    while_asked(&mut machine, restart)?;
    let second = pid(&mut machine)?;
    assert_ne!(second, first);
    site::ensure_ignored(&mut machine, Way::Ping, ABUSER, &since)?;
    site::await_answer(&mut machine, Way::Ping, BYSTANDER, &since)?;

    // Nobody is told of a daemon's end that did not come by a signal that it handles;
    // whoever asks afterwards waits for the next one.
    machine.run("systemctl kill --signal=KILL moderation.service")?;
    let asked = machine.run(
        "curl -s --max-time 20 --unix-socket /run/moderation/api.sock http://moderation/readyz; \
         echo; systemctl show -p MainPID --value moderation.service",
    )?;
    assert!(!asked.contains(&format!("\n{second}\n")), "{asked}");
    site::ensure_ignored(&mut machine, Way::Ping, ABUSER, &since)
}

#[test]
fn a_daemon_that_hangs_is_started_again() -> Result<()> {
    let Some(mut machine) = installed()? else { return Ok(()) };
    let folder = "/etc/systemd/system/moderation.service.d";
    machine.run(&format!(
        "mkdir -p {folder} && printf '[Service]\\nWatchdogSec=3s\\n' > {folder}/test.conf && \
         systemctl daemon-reload && systemctl restart moderation.service"
    ))?;
    let hung = pid(&mut machine)?;
    // It lives on as long as it answers.
    machine.run("sleep 5")?;
    assert_eq!(pid(&mut machine)?, hung);
    machine.run(&format!("kill -STOP {hung}"))?;
    machine.await_success(
        &format!(
            "pid=$(systemctl show -p MainPID --value moderation.service); \
             [ $pid != {hung} ] && [ $pid != 0 ] && moderationctl status"
        ),
        PATIENCE,
    )?;
    let told = machine.run("journalctl -u moderation.service --no-pager")?;
    assert!(told.contains("Watchdog timeout"), "{told}");
    Ok(())
}

#[test]
fn the_journal_has_fields_and_no_builders_paths() -> Result<()> {
    let Some(mut machine) = installed()? else { return Ok(()) };
    machine.run(&format!("moderationctl ban --ip {ABUSER}"))?;
    // The line is on its way for a moment.
    let found = machine
        .await_success("journalctl -u moderation.service -o json BAN='#1' | grep BAN", PATIENCE)?;
    for field in ["\"BAN\":\"#1\"", "\"CAUSE\":\"operator\"", "\"PRIORITY\":\"6\""] {
        assert!(found.contains(field), "{found}");
    }
    let all = machine.run("journalctl -u moderation.service --no-pager -o verbose")?;
    assert!(!all.contains("cargo") && !all.contains("log.file"), "{all}");
    Ok(())
}

#[test]
fn setting_up_without_a_yes_takes_all_back() -> Result<()> {
    let Some(mut machine) = installed()? else { return Ok(()) };
    let attached = format!("ip link show {INTERFACE} | grep -q prog/xdp");
    let file = "/etc/moderation/moderation.d/50-setup.yaml";
    // The interface, who else must never be banned, and then whether it works.
    for (answers, expected) in [
        (format!("echo {INTERFACE}; echo 203.0.113.0/24; sleep 2; echo no"), "not confirmed"),
        (format!("echo {INTERFACE}; echo; sleep 8"), "not confirmed"),
    ] {
        let script = format!(
            "({answers}) | script -qec 'moderationctl setup --confirm-within 4s; echo code $?' \
             /dev/null"
        );
        let said = machine.run(&script)?;
        ensure!(said.contains(expected) && said.contains("code 75"), "{said}");
        ensure!(machine.try_run(&attached)?.code != 0, "it is attached");
        ensure!(machine.try_run(&format!("test -e {file}"))?.code != 0, "{file} is there");
        let config = machine.run("moderationctl config --json")?;
        ensure!(config.contains("\"enforce\":false"), "{config}");
    }
    let yes = format!("echo {INTERFACE}; echo 203.0.113.0/24; sleep 2; echo yes; sleep 2");
    let said = machine
        .run(&format!("({yes}) | script -qec 'moderationctl setup; echo code $?' /dev/null"))?;
    ensure!(said.contains("code 0"), "{said}");
    machine.run(&attached)?;
    let written = machine.run(&format!("cat {file}"))?;
    ensure!(written.contains("203.0.113.0/24") && written.contains(INTERFACE), "{written}");
    // Run again, it keeps what is there.
    machine.run("moderationctl setup --yes --allow 198.51.100.7")?;
    let again = machine.run(&format!("cat {file}"))?;
    ensure!(again.contains("203.0.113.0/24") && again.contains("198.51.100.7/32"), "{again}");
    // Where nobody can be asked, it says so.
    let refused = machine.try_run("moderationctl setup < /dev/null")?;
    ensure!(refused.code == 64 && refused.stderr.contains("--yes"), "{refused:?}");
    machine.run(&attached).context("it stays")?;
    Ok(())
}

#[test]
fn a_secret_that_is_wanting_is_told_and_the_daemon_goes_on() -> Result<()> {
    let Some(mut machine) = installed()? else { return Ok(()) };
    let before = pid(&mut machine)?;
    let asks = "nginx: {enabled: true, user: {from: token}, \
                routes: [{method: POST, path: /login, counts: login}]}";
    write_config(&mut machine, asks)?;
    // The file is right, and yet there is no secret. That there is one cannot be tried in
    // a container, where systemd lets nobody but root read credentials.
    machine.run("systemctl reload moderation.service")?;
    machine.await_success(
        "journalctl -u moderation.service | grep 'going back' | grep jwt-secret",
        PATIENCE,
    )?;
    machine.await_success("moderationctl status", PATIENCE)?;
    assert_eq!(pid(&mut machine)?, before);
    Ok(())
}
