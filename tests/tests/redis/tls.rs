//! Redis over TLS: a certificate that the system trusts is taken, or the one that LibreChat names;
//! another one is not.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use moderation_tests::daemon::Setup;
use moderation_tests::need;
use moderation_tests::redis::Redis;
use serde_json::json;

use crate::daemons::{alone, together};
use crate::script::is_here;

#[test]
fn a_certificate_that_the_system_trusts_is_taken_and_another_one_is_not() -> Result<()> {
    let openssl = Command::new("openssl").arg("version").stdout(Stdio::null()).status();
    if !is_here() || !need::is_met("openssl", openssl.is_ok()) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| folder.path().join(name));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()?;
    ensure!(made.success(), "openssl makes no certificate");
    let [key, certificate] = [key, certificate].map(|path| path.to_string_lossy().into_owned());
    let redis = Redis::with(&[
        "--tls-port",
        "PORT",
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ])
    .context("a redis-server with TLS")?;
    let uri = format!("rediss://127.0.0.1:{}", redis.second_port());
    let overrides = json!({
        "network": { "mode": "off" },
        "redis": { "enabled": true, "uri": uri, "bound": "500ms", "longest_pause": "200ms" },
    });
    let setup = || Setup::new().overrides(overrides.clone());
    // rustls-native-certs reads what the system trusts from there.
    let trusting = setup().variable("SSL_CERT_FILE", &certificate).start()?;
    together(&trusting)?;
    let other = setup().start()?;
    alone(&other, &["gone"])?;
    as_librechat_names_it(&redis, folder.path(), &certificate)
}

/// With an authority there is TLS, whatever the URI says; who somebody is stands beside it.
fn as_librechat_names_it(redis: &Redis, folder: &Path, certificate: &str) -> Result<()> {
    const SECRET: &str = "tr0ub4dor-and-3";
    let rule = ["ACL", "SETUSER", "app", "on", &format!(">{SECRET}"), "~blue::*", "&blue::*"];
    let answer = redis.ask(&[&rule[..], &["+@all"]].concat())?;
    ensure!(answer == "OK", "ACL SETUSER: {answer}");
    let env = folder.join(".env");
    let port = redis.second_port();
    let text = format!(
        "BAN_VIOLATIONS=true\nUSE_REDIS=true\nREDIS_URI=redis://127.0.0.1:{port}\n\
         REDIS_USERNAME=app\nREDIS_PASSWORD={SECRET}\nREDIS_CA={certificate}\n\
         REDIS_KEY_PREFIX_VAR=DEPLOYMENT_ID\nDEPLOYMENT_ID=blue\n"
    );
    std::fs::write(&env, text)?;
    let overrides = json!({
        "network": { "mode": "off" },
        "redis": { "bound": "500ms", "longest_pause": "200ms" },
        "librechat": { "env_file": env },
    });
    let daemon = Setup::new().overrides(overrides.clone()).start()?;
    together(&daemon)?;
    let keys = redis.keys()?;
    ensure!(keys.contains(&"blue::moderation:epoch".to_owned()), "{keys:?}");
    let shown = daemon.ctl(&["config"])?.success()?;
    ensure!(shown.contains("REDIS_URI=\"set\" in ") && !shown.contains(SECRET), "{shown}");
    ensure!(!daemon.log().contains(SECRET));

    let text = std::fs::read_to_string(&env)?.replace(certificate, "/nowhere/ca.pem");
    std::fs::write(&env, text)?;
    let mut without = Setup::new().overrides(overrides).prepare()?;
    ensure!(without.start().is_err(), "LibreChat's authority is not there");
    ensure!(without.log().contains("cannot read the file that LibreChat's REDIS_CA names"));
    Ok(())
}
