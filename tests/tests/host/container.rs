//! In containers, as far as that can be tried without an engine: the files for Compose, a
//! bind-mounted folder of sockets with nginx in a mount namespace of its own, and the
//! addresses of bridges.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use moderation_tests::caller::Caller;
use moderation_tests::front::{Files, Front, Setup, project};
use moderation_tests::lab::{CLIENT_V4, Pair};
use moderation_tests::{need, process};
use serde_json::{Value, json};
use serde_yaml::Value as Yaml;

use crate::{Host, LOGIN, PERSON, SCRIPT, ask, daemon, host, is_apps};

fn read(path: &str) -> Result<String> {
    fs::read_to_string(project().join(path)).with_context(|| path.to_owned())
}

/// What is mounted where, by target.
fn mounts(service: &Yaml) -> BTreeMap<String, String> {
    let text = |it: &Yaml| it.as_str().unwrap_or_default().to_owned();
    let volumes = service["volumes"].as_sequence().into_iter().flatten();
    let mounts = volumes.map(|it| match it.as_str() {
        Some(short) => {
            let mut parts = short.split(':').map(str::to_owned);
            let source = parts.next().unwrap_or_default();
            (parts.next().unwrap_or_default(), source)
        }
        None => (text(&it["target"]), text(&it["source"])),
    });
    mounts.collect()
}

#[test]
fn the_files_for_compose_agree_with_the_defaults_and_with_the_snippet() -> Result<()> {
    let defaults: Yaml = serde_yaml::from_str(&read("config/moderation.yaml")?)?;
    let socket = defaults["nginx"]["socket"].as_str().context("a path")?;
    let folder = Path::new(socket).parent().and_then(Path::to_str).context("a folder")?;
    let group = defaults["nginx"]["group"].as_str().context("a group")?;

    let compose: Yaml = serde_yaml::from_str(&read("docker/nginx-container.override.yaml")?)?;
    let client = &compose["services"]["client"];
    let mounts = mounts(client);
    assert_eq!(mounts.get(folder).map(String::as_str), Some(folder), "where the snippet looks");
    for path in [socket, defaults["nginx"]["log_socket"].as_str().context("a path")?] {
        assert!(path.starts_with(&format!("{folder}/")), "{path} is mounted with the folder");
        assert!(read("nginx/moderation-http.conf")?.contains(&format!("unix:{path}")), "{path}");
    }
    for (target, source) in mounts.iter().filter(|(_, source)| *source != folder) {
        let ours = source.strip_prefix("/etc/moderation/").context("where files are installed")?;
        let file = project().join(ours);
        assert!(file.is_file(), "{ours}");
        // The image runs only what can be run.
        let is_script = target.starts_with("/docker-entrypoint.d/");
        assert_eq!(fs::metadata(file)?.permissions().mode() & 0o111 != 0, is_script, "{ours}");
    }
    let gid = client["environment"]["MODERATION_NGINX_GID"].as_str().context("the variable")?;
    assert!(gid.starts_with("${MODERATION_NGINX_GID:?") && gid.contains(group), "{gid}");
    assert!(read("docker/nginx-group.sh")?.contains(&format!("line=\"{group}:x:")));

    for file in ["docker/nginx-container.override.yaml", "docker/host-nginx.override.yaml"] {
        let compose: Yaml = serde_yaml::from_str(&read(file)?)?;
        let Yaml::Tagged(ports) = &compose["services"]["api"]["ports"] else {
            panic!("{file}: ports would be added to LibreChat's own");
        };
        assert_eq!(ports.tag, "!override", "{file}");
        for port in ports.value.as_sequence().context("a list")? {
            assert!(port.as_str().is_some_and(|it| it.starts_with("127.0.0.1:")), "{file}");
        }
    }
    Ok(())
}

/// What a container is made of, for this purpose: mounts of its own, in which the folder of
/// sockets is where it is on every host, and an `/etc/group` of its own.
const CONTAINER: &str = r#"
set -eu
mount -t tmpfs tmpfs /run
mkdir /run/moderation
mount --bind "$SOCKETS" /run/moderation
mount -o remount,bind,ro /run/moderation
cp /etc/group /run/group
mount --bind /run/group /etc/group
for script in "$@"; do "$script"; "$script"; done
[ -z "$AS" ] || chown -R 101 "${MAIN%/*}"
exec $AS nginx -c "$MAIN"
"#;

/// As an image starts it that is not root's, with `group_add`.
const UNPRIVILEGED: &str =
    "setpriv --reuid=101 --regid=101 --groups=33 --inh-caps=-all --bounding-set=-all";

/// An nginx in a container, with these scripts run before, started as somebody, or as root.
fn contained(scripts: &[&Path], starter: &str) -> Result<Host> {
    let daemon = daemon(json!({ "nginx": { "group": "www-data" } }))?;
    let pair = Pair::new()?;
    // As Docker does.
    pair.host.sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
    let setup = Setup { workers: "nobody nogroup", ..Setup::default() };
    // As it is: the snippet is not changed for a container.
    let files = Files::write(Path::new("/run/moderation"), setup)?;
    let mut command = process::command("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", CONTAINER, "container"]);
    command.args(scripts).env("SOCKETS", daemon.sockets()).env("MAIN", files.main());
    command.env("MODERATION_NGINX_GID", "33").env("MODERATION_NGINX_USER", "nobody");
    command.env("AS", starter);
    let front = Front::launch(&pair.host, files, command)?;
    let operator = Caller::operator(&daemon);
    Ok(Host { front, daemon, operator, pair })
}

#[test]
fn nginx_in_a_container_gets_at_the_daemon_by_the_number_of_the_group() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let script = project().join("docker/nginx-group.sh");
    let mut host = contained(&[&script], "")?;
    host.await_workers(|it| {
        let groups = it.split(' ').skip(2).filter(|it| *it == "33").count();
        it.starts_with("65534 65534 ") && groups == 1
    })?;
    host.judge()?;
    assert_eq!(host.front.log(), "", "nothing to complain of");

    // A daemon that starts again makes new sockets in the same folder.
    host.daemon.restart()?;
    assert_eq!(ask(&host.pair, CLIENT_V4, PERSON)?.0, 403, "it is banned still");
    Ok(())
}

#[test]
fn nginx_that_a_container_starts_as_another_user_keeps_the_group_that_it_was_given() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut host = contained(&[], UNPRIVILEGED)?;
    host.await_workers(|it| it == "101 101 33")?;
    host.judge()
}

#[test]
fn nginx_in_a_container_without_the_group_is_refused() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let mut host = contained(&[], "")?;
    assert!(is_apps(&ask(&host.pair, CLIENT_V4, SCRIPT)?));
    assert!(host.front.log().contains("Permission denied"), "{}", host.front.log());
    assert_eq!(host.findings()?["questions"].0, "warning");
    Ok(())
}

/// Gateways of Docker, Docker Desktop, Podman and LXD as they come, by which everybody
/// seems to come who came through a proxy in user space.
const BRIDGES: [&str; 6] =
    ["172.17.0.1", "172.18.0.1", "192.168.65.1", "10.88.0.1", "10.0.3.1", "fd00::1"];

/// nginx that believes whoever says where they come from.
const CREDULOUS: &str = "set_real_ip_from 192.0.2.0/24; real_ip_header X-Forwarded-For;";

#[test]
fn the_address_of_a_bridge_is_never_banned_and_what_it_asks_for_is_judged() -> Result<()> {
    let setup = Setup { http: CREDULOUS, ..Setup::default() };
    let Some(mut host) = host(Value::Null, setup)? else { return Ok(()) };
    for bridge in BRIDGES {
        let refused = host.daemon.admin().post("/v1/bans", &json!({ "ip": bridge }))?;
        assert_eq!(refused.status, 409, "{bridge}: {}", refused.body);
        let why = refused.body["detail"].as_str().unwrap_or_default();
        assert!(why.contains("private") && why.contains("network.protect_private"), "{why}");
        let from = |what: &str| format!("{what}X-Forwarded-For: {bridge}\r\n");
        for _ in 0..3 {
            assert_eq!(ask(&host.pair, CLIENT_V4, &from(SCRIPT))?.0, 403, "{bridge}");
        }
        let person = ask(&host.pair, CLIENT_V4, &from(PERSON))?;
        assert!(is_apps(&person), "{bridge}: everybody else who comes through it: {person:?}");
        // Limits by address count all of them as one: LibreChat's 7 logins in 5 minutes.
        for number in 1..=8 {
            let login = ask(&host.pair, CLIENT_V4, &from(LOGIN))?;
            assert_eq!(login.0, if number <= 7 { 200 } else { 429 }, "{bridge} {number}");
        }
    }
    assert_eq!(host.operator.bans("all=true")?, Vec::<Value>::new());
    Ok(())
}

#[test]
fn where_the_operator_says_that_private_addresses_are_people_nginx_alone_keeps_them_out()
-> Result<()> {
    let setup = Setup { http: CREDULOUS, ..Setup::default() };
    let network = json!({ "protect_private": false, "proxies": ["172.16.0.0/12"] });
    let Some(mut host) = host(json!({ "network": network }), setup)? else { return Ok(()) };
    let ban = host.operator.ban(&json!({ "ip": "172.18.0.1" }))?;
    assert_eq!((&ban["network"], &ban["enforced"]), (&json!("never"), &json!(true)), "{ban}");
    let from = |client: &str| format!("{PERSON}X-Forwarded-For: {client}\r\n");
    assert_eq!(ask(&host.pair, CLIENT_V4, &from("172.18.0.1"))?.0, 403);
    assert!(is_apps(&ask(&host.pair, CLIENT_V4, &from("172.18.0.2"))?));
    Ok(())
}
