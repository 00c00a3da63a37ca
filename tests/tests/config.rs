//! LibreChat's own configuration, taken over by the two programs: what the daemon
//! then does, what operators are told about it, and what nobody is told.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::Result;
use moderation_tests::caller::{Caller, daemon_without_kernel};
use moderation_tests::daemon::binary;
use moderation_tests::{need, process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What nobody may ever read.
const SECRET: &str = "hunter2-hunter2-hunter2";

/// A LibreChat's folder, as a careful operator has it: the `.env` is LibreChat's
/// alone.
fn librechat(env: &str) -> Result<TempDir> {
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir()?;
    let path = folder.path().join(".env");
    let secrets = format!(
        "JWT_SECRET={SECRET}\nMONGO_URI=mongodb://{SECRET}@localhost\nREDIS_URI={SECRET}\n\
         OPENAI_MODERATION_API_KEY={SECRET}\nOPENAI_MODERATION_REVERSE_PROXY=https://{SECRET}\n"
    );
    fs::write(&path, format!("{secrets}{env}"))?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    fs::write(folder.path().join("librechat.yaml"), "rateLimits: { fileUploads: { userMax: 2 } }")?;
    Ok(folder)
}

fn overrides(folder: &Path, profile: &str) -> Value {
    let librechat = json!({
        "env_file": folder.join(".env"),
        "yaml": folder.join("librechat.yaml"),
    });
    json!({ "profile": profile, "librechat": librechat })
}

/// A file of ours beside LibreChat's.
fn configuration(folder: &Path, profile: &str) -> Result<PathBuf> {
    let path = folder.join("moderation.yaml");
    fs::write(&path, overrides(folder, profile).to_string())?;
    Ok(path)
}

/// What a program says: code, standard output and error.
fn said(command: &mut Command) -> Result<(Option<i32>, String, String)> {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((status.code(), text(&stdout), text(&stderr)))
}

fn check(configuration: &Path) -> Result<(Option<i32>, String, String)> {
    let mut command = process::command(binary("moderationd")?);
    said(command.args(["--check", "--config"]).arg(configuration))
}

fn ctl(configuration: &Path, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut command = process::command(binary("moderationctl")?);
    command.arg("--config").arg(configuration);
    let nowhere = configuration.with_file_name("nowhere.sock");
    said(command.arg("--socket").arg(nowhere).args(arguments))
}

#[test]
fn a_host_gets_from_us_what_its_own_files_say() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let folder = librechat("BAN_VIOLATIONS=true\nLOGIN_MAX=3 # three\n")?;
    for profile in ["librechat", "hardened"] {
        let daemon = daemon_without_kernel(overrides(folder.path(), profile))?;
        let mut app = Caller::app(&daemon);
        let login = json!({ "type": "login", "ip": "192.0.2.7" });
        for attempt in 1..=4 {
            let answer = app.post("/v1/events", &login)?;
            let want = if attempt <= 3 { "allow" } else { "deny" };
            assert_eq!(answer["decision"], want, "{profile}, {attempt}: {answer}");
            assert_eq!(answer["limits"][0]["limit"], 3, "{answer}");
        }
    }
    Ok(())
}

#[test]
fn operators_are_shown_what_runs_and_where_it_came_from() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let folder = librechat("BAN_VIOLATIONS=true\nLOGIN_MAX=3\nTRUST_PROXY=0\n")?;
    let daemon = daemon_without_kernel(overrides(folder.path(), "librechat"))?;
    // What runs is told, not what the file has become.
    fs::write(folder.path().join(".env"), "BAN_VIOLATIONS=true\nLOGIN_MAX=4\n")?;
    let text = daemon.ctl(&["config"])?.success()?;
    let env = folder.path().join(".env").display().to_string();
    let yaml = folder.path().join("librechat.yaml").display().to_string();
    let own = daemon.config_path().display().to_string();
    for line in [
        format!("profile: librechat  # in {own}"),
        format!("    max: 3  # LOGIN_MAX=\"3\" in {env}:7"),
        "    window: 5m  # LOGIN_WINDOW is not set".to_owned(),
        format!("    max: 2  # rateLimits.fileUploads.userMax: 2 in {yaml}"),
        format!("  enabled: true  # BAN_VIOLATIONS=\"true\" in {env}:6"),
        format!("  mode: off  # in {own}"),
        "  half_life: 24h".to_owned(),
        "#   JWT_SECRET: set".to_owned(),
        "#   REDIS_KEY_PREFIX: not set".to_owned(),
        format!("#   TRUST_PROXY: \"0\" in {env}:8"),
        format!(
            "# warning: TRUST_PROXY=\"0\" in {env}:8: LibreChat takes 1 for that: it always \
             trusts the nearest proxy"
        ),
    ] {
        assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
    }
    let shown: Value = serde_json::from_str(&daemon.ctl(&["--json", "config"])?.success()?)?;
    assert_eq!(shown["values"]["limits"]["login"]["max"], 3);
    assert_eq!(shown["origins"]["limits.login.max"], format!("LOGIN_MAX=\"3\" in {env}:7"));
    assert_eq!(Caller::operator(&daemon).get("/v1/config")?, shown);
    // Apps have no business with it.
    assert_eq!(daemon.api().get("/v1/config")?.status, 404);
    Ok(())
}

#[test]
fn without_a_daemon_the_files_are_shown_as_it_would_read_them() -> Result<()> {
    let folder = librechat("LOGIN_MAX=3\n")?;
    let path = configuration(folder.path(), "hardened")?;
    let (code, stdout, stderr) = ctl(&path, &["config"])?;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stderr, "no daemon answers; with this configuration it would start\n");
    assert!(stdout.contains("    max: 3  # LOGIN_MAX=\"3\" in "), "{stdout}");
    assert!(stdout.contains("# warning: BAN_VIOLATIONS is not set: nobody is banned"), "{stdout}");
    // It is a configuration, and the same one.
    let shown = folder.path().join("shown.yaml");
    fs::write(&shown, &stdout)?;
    let (code, _, stderr) = check(&shown)?;
    assert_eq!(code, Some(0), "{stderr}");
    let values = |path: &Path| -> Result<Value> {
        let (_, stdout, _) = ctl(path, &["--json", "config"])?;
        Ok(serde_json::from_str::<Value>(&stdout)?["values"].take())
    };
    assert_eq!(values(&shown)?, values(&path)?);
    Ok(())
}

#[test]
fn what_is_odd_is_said_and_what_is_dangerous_is_refused() -> Result<()> {
    let folder = librechat("BAN_VIOLATIONS=true\nFORK_IP_MAX=1e3\nLOGIN_MAX=0\n")?;
    let env = folder.path().join(".env").display().to_string();
    let odd = format!("FORK_IP_MAX=\"1e3\" in {env}:7: LibreChat reads 1 and leaves the rest");
    let dangerous = format!("LOGIN_MAX=\"0\" in {env}:8: it refuses every request");
    let (code, stdout, stderr) = check(&configuration(folder.path(), "librechat")?)?;
    assert_eq!((code, stdout.as_str()), (Some(0), "the configuration is valid\n"), "{stderr}");
    assert_eq!(stderr, format!("warning: {dangerous}\nwarning: {odd}\n"));
    let (code, stdout, stderr) = check(&configuration(folder.path(), "hardened")?)?;
    assert_eq!((code, stdout.as_str()), (Some(78), ""), "{stderr}");
    assert!(stderr.contains(&format!("{dangerous}; change it, or set limits.login.max yourself")));
    Ok(())
}

#[test]
fn warnings_are_in_the_log() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let folder = librechat("BAN_VIOLATIONS=true\nLIMIT_FORK_IP=true\n")?;
    let daemon = daemon_without_kernel(overrides(folder.path(), "hardened"))?;
    let log = daemon.log();
    let warning = log.lines().find(|line| line.contains("WARN") && line.contains("LIMIT_FORK_IP"));
    assert!(warning.is_some_and(|line| line.contains("does not read it")), "{log}");
    Ok(())
}

/// In what works, in what is refused, and where a forgotten quote makes a secret
/// a part of a limit.
#[test]
fn no_secret_is_ever_told() -> Result<()> {
    let envs = [
        format!("BAN_VIOLATIONS=true\nTRUST_PROXY={SECRET}\nLIMIT_MESSAGE_IP={SECRET}\n"),
        format!("BAN_VIOLATIONS=true\nLOGIN_MAX='7\nCREDS_KEY={SECRET}'\n"),
        format!("BAN_VIOLATIONS=true\nLOGIN_VIOLATION_SCORE={SECRET}\n"),
        format!("REDIS_KEY_PREFIX={SECRET}\nREDIS_KEY_PREFIX_VAR={SECRET}\n"),
    ];
    for env in envs {
        let folder = librechat(&env)?;
        for profile in ["librechat", "hardened"] {
            let path = configuration(folder.path(), profile)?;
            let mut told = format!("{:?}", check(&path)?);
            told.push_str(&format!("{:?}", ctl(&path, &["config"])?));
            told.push_str(&format!("{:?}", ctl(&path, &["--json", "config"])?));
            assert!(told.contains("moderation.yaml"), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
    if !need::root() {
        return Ok(());
    }
    let folder = librechat("LOGIN_MAX='7\nCREDS_KEY=hunter2'\n")?;
    let daemon = daemon_without_kernel(overrides(folder.path(), "librechat"))?;
    let mut told = daemon.log();
    told.push_str(&daemon.ctl(&["config"])?.success()?);
    told.push_str(&Caller::operator(&daemon).get("/v1/config")?.to_string());
    told.push_str(&Caller::operator(&daemon).get("/v1/status")?.to_string());
    assert!(told.contains("LOGIN_MAX=(not shown) in "), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    Ok(())
}

#[test]
fn operators_who_may_not_read_librechat_s_secrets_can_work() -> Result<()> {
    if !need::root() {
        return Ok(());
    }
    let folder = librechat("LOGIN_MAX=3\n")?;
    let path = configuration(folder.path(), "hardened")?;
    let as_nobody = |arguments: &[&str]| {
        let mut command = process::unprivileged(binary("moderationctl")?, 65_534, 65_534);
        command.arg("--config").arg(&path).arg("--socket").arg("/nowhere/admin.sock");
        said(command.args(arguments))
    };
    let (code, _, stderr) = as_nobody(&["list"])?;
    assert_eq!(code, Some(69), "it got as far as asking the daemon: {stderr}");
    let (code, _, stderr) = as_nobody(&["config"])?;
    assert_eq!(code, Some(78), "what the file would come to takes reading it: {stderr}");
    assert!(stderr.contains("cannot read") && stderr.contains(".env"), "{stderr}");
    Ok(())
}
