//! Redis over TLS: a certificate that the system trusts is taken, another one is not.

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
    Ok(())
}
