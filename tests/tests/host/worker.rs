//! nginx's workers as a user of their own: they get at the daemon by their group.

use anyhow::Result;
use moderation_tests::front::Setup;
use moderation_tests::lab::CLIENT_V4;
use moderation_tests::outsider::Outsider;
use serde_json::json;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use crate::{LOGIN, PERSON, SCRIPT, ask, host, is_apps};

/// In every Debian, and nobody's own but nginx's: base-passwd.
const GROUP: &str = "www-data";

#[test]
fn workers_of_an_ordinary_user_ask_and_tell_by_their_group() -> Result<()> {
    let overrides = json!({ "nginx": { "group": GROUP } });
    let setup = Setup { workers: "nobody www-data", ..Setup::default() };
    let Some(mut host) = host(overrides, setup)? else { return Ok(()) };
    // nobody and www-data.
    host.await_workers(|it| it.starts_with("65534 33 "))?;
    host.judge()?;
    assert_eq!(ask(&host.pair, CLIENT_V4, PERSON)?.0, 403, "it is banned");
    assert_eq!(host.front.log(), "", "nothing to complain of");
    assert_eq!(host.findings()?["group"].0, "ok");
    Ok(())
}

#[test]
fn workers_outside_the_group_are_refused_and_requests_pass() -> Result<()> {
    let overrides = json!({ "nginx": { "group": GROUP } });
    let setup = Setup { workers: "nobody nogroup", ..Setup::default() };
    let Some(mut host) = host(overrides, setup)? else { return Ok(()) };
    assert!(is_apps(&ask(&host.pair, CLIENT_V4, LOGIN)?));
    assert!(is_apps(&ask(&host.pair, CLIENT_V4, SCRIPT)?));
    let log = host.front.log();
    assert!(log.contains("nginx.sock failed (13: Permission denied)"), "{log}");
    assert_eq!(host.findings()?["questions"].1, "nginx has not asked since the start");

    // Nor if somebody has opened the sockets to all.
    let (socket, log) = (host.daemon.nginx_socket(), host.daemon.nginx_log_socket());
    let stranger = Outsider::new(65_534, 65_534)?;
    assert!(stranger.ask(&socket)?.values().all(Option::is_some));
    assert!(stranger.tell(&log, "{}")?.values().all(Option::is_some));
    for path in [&socket, &log] {
        set_permissions(path, Permissions::from_mode(0o666))?;
    }
    assert!(stranger.ask(&socket)?.values().all(Option::is_some));
    assert!(Outsider::new(65_534, 33)?.ask(&socket)?.values().all(Option::is_none));
    assert_eq!(host.findings()?["log"].1, "0 lines were read, none was lost");
    Ok(())
}
