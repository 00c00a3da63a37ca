//! `cargo xtask mutants`: changes the engine in every small way that cargo-mutants
//! knows, and tells which changes no test of the engine notices. Each of those stands,
//! with the reason, in docs/mutants.md; others fail. The engine is tested as a crate of
//! its own, made in the target folder, which compiles in seconds.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::project::Project;
use crate::{exit_code, setup, step};

const ENGINE: &str = "moderation-daemon/src/engine";
const REASONS: &str = "docs/mutants.md";

/// What the engine uses, and what its tests use besides.
const DEPENDENCIES: &[&str] = &[
    "aho-corasick",
    "crc32fast",
    "foldhash",
    "hashbrown",
    "ipnet",
    "serde",
    "sha2",
    "siphasher",
    "smallvec",
    "thiserror",
];
const TEST_DEPENDENCIES: &[&str] = &["proptest"];
/// Where most tests' time goes, and what only its own tests say much about.
const WINDOWS: &str = "window/";

/// Mutants that are tried in the same way: there are thousands, and no second is to be
/// spent on tests that look elsewhere.
struct Part {
    name: &'static str,
    /// Only files below that folder of the engine, or all others.
    is_windows: bool,
    /// For the test program.
    options: &'static [&'static str],
}

const PARTS: [Part; 2] = [
    Part { name: "rules", is_windows: false, options: &["--skip", "window::"] },
    Part { name: "windows", is_windows: true, options: &[] },
];
/// Cases of each property: there are thousands of mutants, and few need many cases.
const CASES: &str = "32";
/// Tests that take so many times as long as they do without a mutant run for ever. What
/// they take must not depend on what else is tried meanwhile: each has one thread.
const PATIENCE: &str = "2.5";
/// One test that fails is enough; the option is not stable yet.
const FAIL_FAST: &[&str] = &["-Zunstable-options", "--fail-fast"];
/// For test programs alone: how things are compiled depends on it, too.
const RUNNER: &str = "[target.'cfg(all())']\nrunner = [\"env\", \"RUSTC_BOOTSTRAP=1\"]\n";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Change only these files of the engine, as `score.rs`, or all of a folder, as
    /// `window/`; what is said about others is not compared
    file: Vec<String>,
}

/// Mutants by file and by what was changed, without the line, which every change above
/// moves; and how many of each.
type Survivors = BTreeMap<(String, String), usize>;

/// Runs the command.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    mutate(project, &arguments.file).map(exit_code)
}

/// Tries all mutants of these files, or of all, and tells whether the survivors are
/// those that have a reason.
///
/// # Errors
///
/// When what it needs is missing and cannot be provided, the engine does not build or
/// pass alone, or the reasons cannot be read.
pub(crate) fn mutate(project: &Project, files: &[String]) -> Result<bool> {
    setup::ensure_for_mutants(project)?;
    step::heading("mutants: the engine, in a crate of its own");
    let (mut survivors, mut tally) = (Survivors::new(), Tally::default());
    let begin = Instant::now();
    for part in PARTS {
        let folder = project.target().join("mutants").join(part.name);
        make_crate(project, &folder.join("engine"))?;
        if try_all(project, &part, &folder, files)? {
            let results = folder.join("mutants.out");
            survivors.append(&mut self::survivors(&read(&results.join("missed.txt"))?)?);
            tally.add(&results)?;
        }
    }
    let elapsed = begin.elapsed();
    let mut reasons = reasons(&read(&project.root().join(REASONS))?)?;
    reasons.retain(|(file, _), _| is_wanted(file, files));
    step::heading(format!("mutants: {tally} in {}", step::spoken(elapsed)));
    let complaints = compare(&survivors, &reasons);
    for complaint in &complaints {
        eprintln!("mutants: {complaint}");
    }
    Ok(complaints.is_empty())
}

/// Writes a package of the engine's files with the workspace's own dependencies.
fn make_crate(project: &Project, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    copy(&project.root().join(ENGINE), &folder.join("src/engine"))?;
    let workspace = read(&project.root().join("Cargo.toml"))?;
    write(&folder.join("Cargo.toml"), &manifest(&workspace)?)?;
    write(&folder.join("Cargo.lock"), &read(&project.root().join("Cargo.lock"))?)?;
    let configuration = folder.join(".cargo");
    fs::create_dir_all(&configuration)
        .with_context(|| format!("cannot create {}", configuration.display()))?;
    write(&configuration.join("config.toml"), RUNNER)?;
    write(&folder.join("src/lib.rs"), "//! The engine alone.\n\npub mod engine;\n")
}

fn manifest(workspace: &str) -> Result<String> {
    let start = "[workspace.dependencies]\n";
    let table = workspace.split_once(start).context("the workspace names no dependencies")?.1;
    // A member's path would lead out of the crate.
    let table = table.split("\n[").next().unwrap_or(table).lines();
    let table: Vec<&str> = table.filter(|line| !line.contains("path = ")).collect();
    let list = |names: &[&str]| {
        names.iter().map(|name| format!("{name}.workspace = true\n")).collect::<String>()
    };
    Ok(format!(
        "[workspace]\n\n{start}{}\n\n[package]\nname = \"engine\"\nversion = \"0.0.0\"\n\
         edition = \"2024\"\n\n[lib]\ndoctest = false\n\n[profile.dev]\ndebug = 0\n\n\
         [profile.dev.package.\"*\"]\nopt-level = 2\n\n[dependencies]\n{}\n[dev-dependencies]\n{}",
        table.join("\n"),
        list(DEPENDENCIES),
        list(TEST_DEPENDENCIES),
    ))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("cannot copy {}", from.display());
    fs::create_dir_all(to).with_context(what)?;
    for entry in fs::read_dir(from).with_context(what)? {
        let entry = entry.with_context(what)?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}

/// Whether there was anything to try.
fn try_all(project: &Project, part: &Part, folder: &Path, files: &[String]) -> Result<bool> {
    let sources = folder.join("engine/src/engine");
    let files = part.files(&sources, files)?;
    if files.is_empty() {
        return Ok(false);
    }
    step::heading(format!("mutants: {}, {} files", part.name, files.len()));
    let temporary = folder.join("tmp");
    fs::create_dir_all(&temporary)
        .with_context(|| format!("cannot create {}", temporary.display()))?;
    let mut command = project.command(project.tools().join("bin/cargo-mutants"));
    command
        // It copies the crate once for each job, and builds each copy apart.
        .env("TMPDIR", &temporary)
        .env_remove("CARGO_TARGET_DIR")
        .env("PROPTEST_CASES", CASES)
        .env("RUST_TEST_THREADS", "1")
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        // What one mutant failed on is not for the next to be tried with.
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .args(["mutants", "--colors", "never", "--no-times", "--jobs"])
        .arg(available_parallelism().map_or(1, usize::from).to_string())
        .args(["--timeout-multiplier", PATIENCE])
        .arg("--dir")
        .arg(folder.join("engine"))
        .arg("--output")
        .arg(folder);
    for file in files {
        command.arg("--file").arg(format!("src/engine/{file}"));
    }
    command.arg("--").arg("--").args(FAIL_FAST).args(part.options);
    let line = step::command_line(&command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    match status.code() {
        // Some survived (2) or ran until they were stopped (3); what that means is not
        // for cargo-mutants to say.
        Some(0 | 2 | 3) => Ok(true),
        _ => bail!("`{line}` failed; see above"),
    }
}

impl Part {
    /// Its files below the engine's folder that are no tests, if they are among these.
    fn files(&self, sources: &Path, wanted: &[String]) -> Result<Vec<String>> {
        let mut files = Vec::new();
        list(sources, "", &mut files)?;
        let is_ours = |file: &String| {
            let mut folders = file.split('/').rev().skip(1);
            file.starts_with(WINDOWS) == self.is_windows && folders.all(|name| name != "tests")
        };
        files.retain(|file| is_ours(file) && is_wanted(file, wanted));
        files.sort();
        Ok(files)
    }
}

/// Whether a file of the engine is one of these, or in one of these folders; of none all are.
fn is_wanted(file: &str, wanted: &[String]) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let is = |wanted: &String| match wanted.ends_with('/') {
        true => file.starts_with(wanted),
        false => file == wanted || name == wanted,
    };
    wanted.is_empty() || wanted.iter().any(is)
}

fn list(folder: &Path, below: &str, into: &mut Vec<String>) -> Result<()> {
    let what = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(what)? {
        let entry = entry.with_context(what)?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            list(&entry.path(), &format!("{name}/"), into)?;
        } else {
            into.push(name);
        }
    }
    Ok(())
}

/// What cargo-mutants lists: `src/engine/score.rs:12:5: replace … with …`.
fn survivors(missed: &str) -> Result<Survivors> {
    let mut survivors = Survivors::new();
    for line in missed.lines() {
        let mutant = mutant(line).with_context(|| format!("not a mutant: {line}"))?;
        *survivors.entry(mutant).or_default() += 1;
    }
    Ok(survivors)
}

fn mutant(line: &str) -> Option<(String, String)> {
    let (place, change) = line.split_once(": ")?;
    let file = place.split(':').next()?.strip_prefix("src/engine/")?;
    Some((file.to_owned(), change.to_owned()))
}

/// The rows of the table: the mutant as `file: change` in backticks, how many, why.
fn reasons(document: &str) -> Result<Survivors> {
    let mut reasons = Survivors::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let row = row(line).with_context(|| format!("{REASONS}: no row of three: {line}"))?;
        let (mutant, count) = row;
        let is_new = reasons.insert(mutant, count).is_none();
        ensure!(is_new, "{REASONS}: twice: {line}");
    }
    Ok(reasons)
}

fn row(line: &str) -> Option<((String, String), usize)> {
    // What was changed may have bars and backticks in it, the other cells have none.
    let line = line.strip_prefix("| `")?.strip_suffix(" |")?;
    let (rest, reason) = line.rsplit_once(" | ")?;
    let (mutant, count) = rest.rsplit_once("` | ")?;
    let (file, change) = mutant.split_once(": ")?;
    let count = count.parse().ok().filter(|_| !reason.trim().is_empty())?;
    Some(((file.to_owned(), change.to_owned()), count))
}

fn compare(survivors: &Survivors, reasons: &Survivors) -> Vec<String> {
    let mut complaints = Vec::new();
    for ((file, change), count) in survivors {
        let excused = reasons.get(&(file.clone(), change.clone())).copied().unwrap_or(0);
        if *count > excused {
            complaints.push(format!(
                "no test notices, {count} times, {excused} with a reason in {REASONS}: {file}: {change}"
            ));
        }
    }
    for ((file, change), count) in reasons {
        let found = survivors.get(&(file.clone(), change.clone())).copied().unwrap_or(0);
        if found < *count {
            complaints
                .push(format!("{REASONS} excuses {count}, {found} survive: {file}: {change}"));
        }
    }
    complaints
}

/// How many there were of each fate.
#[derive(Default)]
struct Tally([usize; FATES.len()]);

const FATES: [&str; 4] = ["caught", "timeout", "missed", "unviable"];

impl Tally {
    fn add(&mut self, results: &Path) -> Result<()> {
        for (fate, count) in FATES.iter().zip(&mut self.0) {
            *count += read(&results.join(format!("{fate}.txt")))?.lines().count();
        }
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = FATES.iter().zip(self.0).map(|(fate, count)| format!("{count} {fate}"));
        f.write_str(&counts.collect::<Vec<_>>().join(", "))
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISSED: &str = "src/engine/score.rs:12:5: replace Score::shown -> f64 with 0.0\n\
                          src/engine/rule.rs:7:9: replace | with ^ in bits\n\
                          src/engine/rule.rs:8:9: replace | with ^ in bits\n";
    const DOCUMENT: &str = "# Mutants\n\n| mutant | times | why |\n|---|---|---|\n\
                            | `score.rs: replace Score::shown -> f64 with 0.0` | 1 | a reason |\n\
                            | `rule.rs: replace | with ^ in bits` | 2 | no bit is in both |\n";

    #[test]
    fn survivors_with_a_reason_are_no_complaint() {
        let survivors = survivors(MISSED).expect("it is a list");
        let reasons = reasons(DOCUMENT).expect("it is a table");
        assert_eq!(compare(&survivors, &reasons), Vec::<String>::new());
    }

    #[test]
    fn a_survivor_more_is_a_complaint_and_so_is_a_reason_too_many() {
        let survivors = survivors(MISSED).expect("it is a list");
        let fewer = DOCUMENT.replace("| 2 |", "| 1 |");
        assert_eq!(compare(&survivors, &reasons(&fewer).expect("a table")).len(), 1);
        assert_eq!(compare(&Survivors::new(), &reasons(&fewer).expect("a table")).len(), 2);
        assert_eq!(compare(&survivors, &Survivors::new()).len(), 2);
    }

    #[test]
    fn files_are_wanted_by_name_by_path_and_by_folder() {
        let cases: [(&str, &[&str], bool); 6] = [
            ("window/mod.rs", &[], true),
            ("window/mod.rs", &["mod.rs"], true),
            ("window/mod.rs", &["window/mod.rs"], true),
            ("window/mod.rs", &["score.rs", "window/"], true),
            ("mod.rs", &["window/mod.rs", "window/"], false),
            ("score.rs", &["rule.rs"], false),
        ];
        for (file, wanted, is) in cases {
            let wanted: Vec<_> = wanted.iter().map(|&it| it.to_owned()).collect();
            assert_eq!(is_wanted(file, &wanted), is, "{file} of {wanted:?}");
        }
    }

    #[test]
    fn a_row_without_a_number_or_a_reason_is_refused() {
        for row in ["| `a.rs: b` | x | why |", "| `a.rs: b` | 1 |  |", "| `a.rs: b` | 1 |"] {
            assert!(reasons(row).is_err(), "{row}");
        }
    }

    #[test]
    fn the_manifest_has_the_workspaces_dependencies_without_its_members() {
        let workspace = "[workspace]\nresolver = \"3\"\n\n[workspace.dependencies]\n\
                         ours = { path = \"ours\" }\nserde = \"1.0\"\n\n[workspace.lints.rust]\n";
        let manifest = manifest(workspace).expect("it names dependencies");
        assert!(manifest.contains("\nserde = \"1.0\"\n"), "{manifest}");
        assert!(!manifest.contains("ours") && !manifest.contains("lints"), "{manifest}");
    }
}
