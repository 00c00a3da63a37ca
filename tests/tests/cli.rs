//! The two programs as people and scripts see them: what they print, and the
//! code that they end with.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::{Daemon, Finished, Setup, binary};
use moderation_tests::outsider::Outsider;
use moderation_tests::{need, process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// `None` if the machine lacks what it takes.
fn daemon() -> Result<Option<Daemon>> {
    if !need::root() {
        return Ok(None);
    }
    daemon_without_kernel(Value::Null).map(Some)
}

fn code(finished: &Finished) -> Option<i32> {
    finished.status.code()
}

/// What a program says without a daemon: code, standard output and error.
fn said(command: &mut Command) -> Result<(Option<i32>, String, String)> {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((status.code(), text(&stdout), text(&stderr)))
}

fn program(name: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = process::command(binary(name)?);
    command.args(arguments);
    Ok(command)
}

/// The lines of a table, each as its words.
fn table(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn the_commands_of_an_operators_day_work() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let ctl = |arguments: &[&str]| daemon.ctl(arguments)?.success();
    assert_eq!(ctl(&["list"])?, "no bans\n");
    assert_eq!(ctl(&["check", "192.0.2.7"])?, "192.0.2.7 is not banned\n");

    let banned = ctl(&[
        "ban",
        "--user",
        "anna",
        "--ip",
        "192.0.2.7",
        "--duration",
        "2h",
        "--reason",
        "spam",
    ])?;
    assert_eq!(table(&banned)[0], ["BAN", "USER", "ADDRESS", "ORIGIN", "STATE", "REASON"]);
    assert_eq!(table(&banned)[1][..3], ["1", "anna", "192.0.2.7"]);
    assert!(
        banned.contains("spam") && banned.contains("(at the API only: network.mode is off)"),
        "{banned}"
    );
    ctl(&["ban", "--ip", "2001:db8::1", "--duration", "permanent", "--reason", "worse"])?;
    ctl(&["ban", "--user", "b c", "--reason", "a user with a space"])?;

    let list = ctl(&["list"])?;
    assert_eq!(list.lines().count(), 4, "{list}");
    assert!(list.contains("2001:db8::/64") && list.contains("for ever"), "{list}");
    for subject in ["anna", "192.0.2.7", "::ffff:192.0.2.7", "2001:db8::ffff", "b c"] {
        let check = ctl(&["check", subject])?;
        assert!(check.starts_with(&format!("{subject} is banned\n")), "{check}");
    }
    let forgot = "forgot the scores, limits and penalties of";
    let want = format!("lifted ban 1 of anna and 192.0.2.7\n{forgot} anna, 192.0.2.7\n");
    assert_eq!(ctl(&["lift", "1"])?, want);
    let lifted = ctl(&["lift", "2001:db8::/64", "user:b c"])?;
    let want = format!(
        "lifted ban 2 of 2001:db8::/64\n{forgot} 2001:db8::/64\nlifted ban 3 of b c\n{forgot} b c\n"
    );
    assert_eq!(lifted, want);
    assert_eq!(ctl(&["list"])?, "no bans\n");
    let all = ctl(&["list", "--all"])?;
    assert_eq!(all.matches("by root").count(), 3, "{all}");
    Ok(())
}

#[test]
fn the_allowlist_is_kept_by_command() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let ctl = |arguments: &[&str]| daemon.ctl(arguments)?.success();
    let added = ctl(&["allow", "add", "198.51.100.0/24", "--note", "office"])?;
    assert_eq!(added, "198.51.100.0/24 is never banned\n");
    let list = ctl(&["allow", "list"])?;
    let rows = table(&list);
    assert_eq!(rows[0], ["PREFIX", "SOURCE", "NOTE"]);
    assert!(rows.contains(&vec!["198.51.100.0/24", "operator", "office"]), "{list}");
    assert!(rows.contains(&vec!["10.0.0.0/8", "guard", "-"]), "{list}");

    let refused = daemon.ctl(&["ban", "--ip", "198.51.100.7", "--reason", "no"])?;
    assert_eq!(code(&refused), Some(1));
    assert!(refused.stderr.contains("198.51.100.7 is on the allowlist"), "{refused:?}");
    let removed = ctl(&["allow", "remove", "198.51.100.0/24"])?;
    assert_eq!(removed, "198.51.100.0/24 is no longer protected\n");
    ctl(&["ban", "--ip", "198.51.100.7", "--reason", "yes"])?;
    Ok(())
}

#[test]
fn the_status_is_readable() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    Caller::operator(&daemon).ban(&json!({ "user": "anna" }))?;
    let status = daemon.ctl(&["status"])?.success()?;
    let names: Vec<_> = table(&status).iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(names, ["daemon", "kernel", "bans", "packets", "queue", "store", "pins"]);
    assert!(status.contains("1 active, at the API only: network.mode is off"), "{status}");
    assert!(!status.contains("null"), "nothing unsaid is shown as null: {status}");
    Ok(())
}

#[test]
fn json_is_one_object_per_command() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let ctl = |arguments: &[&str]| -> Result<Value> {
        let text = daemon.ctl(&[&["--json"], arguments].concat())?.success()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    };
    let ban = ctl(&["ban", "--user", "anna", "--reason", "spam"])?["ban"].take();
    assert_eq!((&ban["id"], &ban["reason"]), (&json!(1), &json!("spam")));
    let list = ctl(&["list"])?;
    assert_eq!(list["bans"][0]["id"], 1, "{list}");
    let check = ctl(&["check", "anna"])?;
    assert_eq!((&check["banned"], &check["ban"]["id"]), (&json!(true), &json!(1)));
    assert_eq!(ctl(&["status"])?["bans"]["active"], 1);
    assert_eq!(ctl(&["allow", "add", "192.0.2.0/24"])?["prefix"], "192.0.2.0/24");
    assert!(ctl(&["allow", "list"])?["allowlist"].is_array());
    assert_eq!(ctl(&["allow", "remove", "192.0.2.0/24"])?["removed"], "192.0.2.0/24");
    assert_eq!(ctl(&["lift", "user:anna"])?["lifted"][0]["id"], 1);
    assert_eq!(ctl(&["list"])?, json!({ "bans": [] }));
    Ok(())
}

#[test]
fn a_long_list_is_complete() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let mut operator = Caller::operator(&daemon);
    // One more than two pages hold.
    for number in 0..2_001 {
        operator.ban(&json!({ "user": format!("user {number}") }))?;
    }
    let list = daemon.ctl(&["list"])?.success()?;
    assert_eq!(list.lines().count(), 1 + 2_001);
    Ok(())
}

#[test]
fn what_the_daemon_refuses_ends_with_1_and_its_reason() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let cases = [
        (vec!["lift", "7"], "there is no such active ban"),
        (vec!["lift", "nobody"], "neither an IPv4 nor an IPv6 address"),
        (vec!["lift", "192.0.2.0/24"], "there is no such active ban"),
        (vec!["lift", "192.0.0.0/4"], "cannot be banned"),
        (vec!["lift", "--import", "list"], "there is no such imported list"),
        (vec!["ban", "--ip", "10.0.0.1", "--reason", "x"], "10.0.0.1"),
        (vec!["ban", "--user", "anna", "--duration", "long"], "\"long\" is no duration"),
        (vec!["allow", "add", "everyone"], "everyone"),
        (vec!["allow", "remove", "192.0.2.0/24"], "there is no such prefix"),
    ];
    for (arguments, reason) in cases {
        let finished = daemon.ctl(&arguments)?;
        assert_eq!(code(&finished), Some(1), "{finished:?}");
        assert!(finished.stdout.is_empty(), "{finished:?}");
        assert!(finished.stderr.starts_with("moderationctl: "), "{finished:?}");
        assert!(finished.stderr.contains(reason), "{finished:?}");
    }
    Ok(())
}

#[test]
fn a_wrong_command_line_ends_with_64_and_help_with_0() -> Result<()> {
    let wrong: [(&str, &[&str]); 7] = [
        ("moderationctl", &[]),
        ("moderationctl", &["dance"]),
        ("moderationctl", &["ban", "--reason", "nobody named"]),
        ("moderationctl", &["lift"]),
        ("moderationctl", &["xdp", "attach", "--interface", "lo", "--mode", "fast"]),
        ("moderationd", &["--interfaces", "lo"]),
        ("moderationd", &["lo"]),
    ];
    for (name, arguments) in wrong {
        let (code, stdout, stderr) = said(&mut program(name, arguments)?)?;
        assert_eq!(code, Some(64), "{name} {arguments:?}: {stderr}");
        assert!(stdout.is_empty() && stderr.contains("--help"), "{stdout}{stderr}");
    }
    for name in ["moderationctl", "moderationd"] {
        for argument in ["--help", "--version"] {
            let (code, stdout, _) = said(&mut program(name, &[argument])?)?;
            assert_eq!((code, stdout.contains(name)), (Some(0), true), "{name} {argument}");
        }
    }
    Ok(())
}

#[test]
fn without_a_daemon_it_ends_with_69_and_says_what_to_do() -> Result<()> {
    let Some(mut daemon) = daemon()? else { return Ok(()) };
    daemon.stop()?;
    let stopped = daemon.ctl(&["status"])?;
    let folder = tempfile::tempdir()?;
    let absent = folder.path().join("admin.sock");
    let arguments = ["--socket", &absent.to_string_lossy(), "list"].map(str::to_owned);
    let (never, _, text) = said(program("moderationctl", &[])?.args(arguments))?;
    for (code, stderr) in [(code(&stopped), stopped.stderr), (never, text)] {
        assert_eq!(code, Some(69), "{stderr}");
        for word in ["cannot be reached", "admin.sock", "is it running?", "start moderationd"] {
            assert!(stderr.contains(word), "{word} in {stderr}");
        }
    }
    Ok(())
}

/// A configuration file in a folder that everybody may read.
fn configuration(text: &str) -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir()?;
    let path = folder.path().join("moderation.yaml");
    fs::write(&path, text)?;
    Ok((folder, path))
}

fn check(text: &str) -> Result<(Option<i32>, String, String)> {
    let (_folder, path) = configuration(text)?;
    said(program("moderationd", &["--check", "--config"])?.arg(path))
}

#[test]
fn a_good_configuration_is_valid() -> Result<()> {
    let shipped = fs::read_to_string(root().join("config/moderation.yaml"))?;
    let good = [
        shipped.as_str(),
        "",
        "# nothing but a comment\n",
        "bans: { interval: 0.5, duration: 1h 30m }\nscores: { logins: 0 }\n",
        "allowlist: [192.0.2.0/24, \"2001:db8::/32\"]\nlog: { level: debug, format: json }\n",
    ];
    for text in good {
        let (code, stdout, stderr) = check(text)?;
        assert_eq!((code, stdout.as_str()), (Some(0), "the configuration is valid\n"), "{stderr}");
    }
    Ok(())
}

#[test]
fn a_bad_configuration_ends_with_78_and_names_the_place() -> Result<()> {
    let bad = [
        ("bans:\n  intervall: 20\n", &["intervall", "line 2"][..]),
        ("colour: red\n", &["colour"]),
        ("scores:\n  logins: .nan\n", &["scores.logins"]),
        ("scores:\n  logins: .inf\n", &["scores.logins"]),
        ("scores:\n  logins: -1\n", &["scores.logins"]),
        ("scores:\n  logins: many\n", &["scores.logins", "line 2"]),
        ("limits:\n  login: { max: 0 }\n", &["limits.login.max"]),
        ("limits:\n  message_ip: { window: 0s }\n", &["limits.message_ip", "0s", "line 2"]),
        ("limits:\n  login: { max: -1 }\n", &["limits.login.max", "line 2"]),
        ("concurrency: { max: 0 }\n", &["concurrency.max"]),
        ("bans: { interval: 0 }\n", &["bans.interval"]),
        ("bans: { interval: .nan }\n", &["bans.interval"]),
        ("bans: { duration: forever }\n", &["bans: ", "forever", "line 1"]),
        ("api: { socket: api.sock }\n", &["api.socket", "absolute"]),
        ("admin: { max_connections: 0 }\n", &["admin.max_connections"]),
        ("network: { pin_root: moderation }\n", &["network.pin_root", "absolute"]),
        ("network: { mode: fast }\n", &["network.mode", "fast"]),
        ("network: { max_bans: 0 }\n", &["network.max_bans"]),
        ("network: { pin_root: /sys/fs/bpf/v1.0 }\n", &["network.pin_root", "dot"]),
        ("bans: { v6_prefix: 32 }\n", &["bans.v6_prefix"]),
        ("bans: { max_per_minute: 0 }\n", &["bans.max_per_minute"]),
        ("bans: { network_block: often }\n", &["bans.network_block", "often"]),
        ("bans: { network_block_by_type: { dancing: never } }\n", &["dancing"]),
        ("bans: { escalation: { v6_56: 1 } }\n", &["bans.escalation.v6_56"]),
        ("allowlist: [192.0.2.0/33]\n", &["allowlist"]),
        ("log: { format: xml }\n", &["log.format", "xml"]),
        ("bans: [\n", &["line"]),
        ("- bans\n", &["sequence"]),
    ];
    let mut missed = Vec::new();
    for (text, words) in bad {
        let (code, stdout, stderr) = check(text)?;
        assert_eq!((code, stdout.as_str()), (Some(78), ""), "{text}{stderr}");
        let words = [words, &["moderation.yaml"]].concat();
        let absent = words.into_iter().filter(|word| !stderr.contains(word));
        missed.extend(absent.map(|word| format!("{word} for\n{text}in {stderr}")));
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    let long = format!("api: {{ socket: /{} }}\n", "x".repeat(107));
    assert_eq!(check(&long)?.0, Some(78), "a path that no socket can have");
    Ok(())
}

#[test]
fn a_file_that_is_named_must_be_there() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let absent = folder.path().join("absent.yaml");
    for name in ["moderationd", "moderationctl"] {
        let mut command = program(name, &["--config"])?;
        command.arg(&absent).args(if name == "moderationd" { ["--check"] } else { ["status"] });
        let (code, _, stderr) = said(&mut command)?;
        assert_eq!(code, Some(78), "{name}: {stderr}");
        assert!(stderr.contains("absent.yaml"), "{stderr}");
    }
    Ok(())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

#[test]
fn the_shipped_default_file_is_what_the_program_prints() -> Result<()> {
    let (code, stdout, stderr) = said(&mut program("moderationd", &["--print-default-config"])?)?;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, fs::read_to_string(root().join("config/moderation.yaml"))?);
    Ok(())
}

#[test]
fn a_second_daemon_is_refused_and_does_not_disturb_the_first() -> Result<()> {
    let Some(daemon) = daemon()? else { return Ok(()) };
    let mut operator = Caller::operator(&daemon);
    operator.ban(&json!({ "user": "anna" }))?;
    let same = fs::read_to_string(daemon.config_path())?;
    let socket = daemon.api_socket().display().to_string();
    let store = daemon.store_path().display().to_string();
    let other_store = same.replace("moderation.db", "other.db");
    let other_sockets = same.replace("api.sock", "a.sock").replace("admin.sock", "b.sock");
    for (config, taken) in [(&same, &store), (&other_store, &socket), (&other_sockets, &store)] {
        let (_folder, path) = configuration(config)?;
        let (code, _, stderr) = said(program("moderationd", &["--config"])?.arg(path))?;
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("another daemon") && stderr.contains(taken), "{stderr}");
        // The same connection, a new one, and the store.
        assert_eq!(operator.bans("all=false")?.len(), 1);
        assert!(Caller::app(&daemon).is_banned("user=anna")?);
        operator.ban(&json!({ "user": "bert", "duration": "1h" }))?;
        operator.delete("/v1/bans?user=bert")?;
    }
    Ok(())
}

#[test]
fn a_socket_that_a_killed_daemon_left_is_replaced_and_any_other_file_is_not() -> Result<()> {
    let Some(mut daemon) = daemon()? else { return Ok(()) };
    daemon.kill()?;
    assert!(daemon.api_socket().exists());
    daemon.start()?;
    daemon.stop()?;
    fs::remove_file(daemon.api_socket()).ok();
    fs::write(daemon.api_socket(), "somebody's notes")?;
    let (code, _, stderr) = said(program("moderationd", &["--config"])?.arg(daemon.config_path()))?;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("exists and is no socket"), "{stderr}");
    assert_eq!(fs::read_to_string(daemon.api_socket())?, "somebody's notes");
    Ok(())
}

#[test]
fn what_takes_root_ends_with_77_for_others() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let outsider = Outsider::new(65_534, 65_534)?;
    let (_folder, config) = configuration("network: { interfaces: [] }\n")?;
    let commands: [(&str, &[&str]); 5] = [
        ("moderationd", &["--interface", "lo"]),
        ("moderationctl", &["xdp", "attach", "--interface", "lo"]),
        ("moderationctl", &["xdp", "detach", "--interface", "lo"]),
        ("moderationctl", &["xdp", "off"]),
        ("moderationctl", &["xdp", "status"]),
    ];
    for (name, arguments) in commands {
        let mut command = outsider.command(&binary(name)?)?;
        let (code, _, stderr) = said(command.arg("--config").arg(&config).args(arguments))?;
        assert_eq!(code, Some(77), "{name} {arguments:?}: {stderr}");
        assert!(stderr.contains("only root"), "{stderr}");
    }
    Ok(())
}

#[test]
fn an_interface_that_is_not_there_is_named() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let daemon = Setup::new().prepare()?;
    let attach = daemon.ctl(&["xdp", "attach", "--interface", "nosuch0"])?;
    assert_eq!(code(&attach), Some(64), "{attach:?}");
    assert!(attach.stderr.contains("nosuch0"), "{attach:?}");
    Ok(())
}

#[test]
fn the_emergency_brake_works_with_a_configuration_that_does_not() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let (folder, broken) = configuration("netwrok: {}")?;
    let config = broken.display().to_string();
    let nowhere = folder.path().join("pins").display().to_string();
    let arguments = ["--config", &config, "xdp", "off", "--pin-root", &nowhere];
    let (code, stdout, stderr) = said(&mut program("moderationctl", &arguments)?)?;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("nothing was loaded"), "{stdout}");
    assert!(stderr.contains("going by the defaults"), "{stderr}");
    let (code, ..) = said(&mut program("moderationctl", &["--config", &config, "xdp", "status"])?)?;
    assert_eq!(code, Some(78), "what is no emergency wants a good configuration");
    Ok(())
}

#[test]
fn off_and_detach_remove_nothing_that_is_not_ours() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("file");
    fs::write(&file, "precious")?;
    let (root, name) = (folder.path().display().to_string(), file.display().to_string());
    let off = ["xdp", "off", "--pin-root", &root];
    let (code, _, stderr) = said(&mut program("moderationctl", &off)?)?;
    assert_eq!(code, Some(71), "{stderr}");
    assert!(stderr.contains("no BPF filesystem"), "{stderr}");
    let detach = ["xdp", "detach", "--pin-root", &root, "--interface", &name];
    let (code, stdout, stderr) = said(&mut program("moderationctl", &detach)?)?;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("nothing of ours"), "{stdout}");
    assert_eq!(fs::read_to_string(&file)?, "precious");
    Ok(())
}
