//! The client for apps on Node (clients/node): its own tests, which start daemons of this
//! build, run here with all that they need. What they show is said by them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{env, io};

use anyhow::{Context, Result, ensure};
use moderation_tests::daemon::{Setup, binary};
use moderation_tests::process::{Process, Spawner, command};
use moderation_tests::{need, wait};

/// They take half a minute, most of which is waiting; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn the_client_for_node_passes_its_own_tests_against_this_daemon() -> Result<()> {
    let packages = packages()?;
    let is_there = packages.join("node_modules").is_dir();
    let programs = ["node", "curl", "python3"];
    let met = need::root()
        && programs.iter().all(|name| need::is_met(name, is_installed(name)))
        && need::is_met("the client's npm packages (cargo xtask setup)", is_there);
    if !met {
        return Ok(());
    }
    // Only for its folder, which is removed by the next run if this one is killed.
    let place = Setup::new().prepare()?;
    let folder = place.config_path().parent().context("a file is in a folder")?.to_owned();
    let programs = binary("moderationd")?;
    let sources = sources()?;
    let log = folder.join("node.log");
    let output = fs::File::create(&log)?;
    let mut node = command("node");
    node.args(["--test", "--test-reporter=tap", "--test-concurrency=4"]).args(&sources);
    node.env("MODERATION_BIN_DIR", programs.parent().context("a program is in a folder")?);
    node.env("MODERATION_TEST_FOLDER", &folder).env("MODERATION_CLIENT_PACKAGES", &packages);
    node.env("TMPDIR", &folder);
    node.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let spawner = Spawner::here()?;
    let mut node: Process = spawner.spawn(node)?;
    let ended = wait::until("node to end", PATIENCE, || node.exited());
    let said = fs::read_to_string(&log)?;
    let status = ended.with_context(|| said.clone())?;
    ensure!(status.success(), "{status}: {said}");
    let written = sources.iter().map(|path| tests_in(path)).sum::<io::Result<usize>>()?;
    assert!(written >= 40, "they are found: {written}");
    let total = |what| total(&said, what).with_context(|| said.clone());
    assert_eq!(total("tests")?, written, "each of them ran: {said}");
    assert_eq!(total("pass")?, written, "none was left out: {said}");
    assert_eq!(total("skipped")?, 0, "{said}");
    Ok(())
}

/// The files of tests, in their order.
fn sources() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/node/test");
    let mut found: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    found.retain(|path| path.to_str().is_some_and(|path| path.ends_with(".test.mjs")));
    found.sort();
    Ok(found)
}

/// How many tests a file has: each begins a line.
fn tests_in(path: &Path) -> io::Result<usize> {
    Ok(fs::read_to_string(path)?.lines().filter(|line| line.starts_with("test(")).count())
}

/// A number of node's summary: `# pass 12`.
fn total(said: &str, what: &str) -> Option<usize> {
    let prefix = format!("# {what} ");
    said.lines().rev().find_map(|line| line.strip_prefix(&prefix)?.trim().parse().ok())
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// `target/client`, which `cargo xtask setup` fills, for `target/debug/deps/…`.
fn packages() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("MODERATION_CLIENT_PACKAGES") {
        return Ok(PathBuf::from(folder));
    }
    let this = env::current_exe().context("cannot tell where we are")?;
    let deps = this.ancestors().find(|folder| folder.file_name() == Some(OsStr::new("deps")));
    let target = deps.and_then(|deps| deps.ancestors().nth(2)).context("not in a target folder")?;
    Ok(target.join("client"))
}
