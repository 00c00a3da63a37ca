//! Whose work is linked into the programs, and under which licences: a text for the
//! package, because most of these licences ask to be passed on with the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::project::Project;
use crate::step;

/// What the package consists of.
const ROOTS: [&str; 2] = ["moderation-daemon", "moderation-ebpf"];
/// For what the kernel programs are built.
const KERNEL: &str = "bpfel-unknown-none";
/// How files with licences begin, in capital letters.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// What `cargo metadata` tells, as far as it matters.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<PathBuf>,
    repository: Option<String>,
    /// None for our own.
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// None for what is linked.
    kind: Option<String>,
}

/// The text: who is in it, and then each licence once.
///
/// # Errors
///
/// When cargo does not tell, a file cannot be read, or a crate names no licence.
pub(super) fn text(
    project: &Project,
    root: &Path,
    network: Option<(&'static str, &'static str)>,
) -> Result<String> {
    let about = step::output_of(project.command("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not tell its host")?;
    let mut cargo = project.command("cargo");
    cargo.current_dir(root).envs(network).args(["metadata", "--format-version", "1", "--locked"]);
    for platform in [host, KERNEL] {
        cargo.args(["--filter-platform", platform]);
    }
    let metadata: Metadata = serde_json::from_str(&step::output_of(&mut cargo)?)
        .context("what cargo metadata printed is not understood")?;
    let crates = linked(&metadata)?;
    let mut text = "Crates that are linked into the programs of this package:\n\n".to_owned();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in crates {
        let title = format!("{} {}", package.name, package.version);
        let files = files(package)?;
        ensure!(package.license.is_some() || !files.is_empty(), "{title} names no licence");
        let license = package.license.as_deref().unwrap_or("see below");
        let home = package.repository.as_deref().unwrap_or("-");
        writeln!(text, "{title}\n    {license}\n    {home}")?;
        for file in files {
            let bytes = fs::read(&file).with_context(|| cannot_read(&file))?;
            let licence = String::from_utf8_lossy(&bytes).trim().replace("\r\n", "\n");
            let users = texts.entry(licence).or_default();
            if users.last() != Some(&title) {
                users.push(title.clone());
            }
        }
    }
    let mut texts: Vec<_> = texts.into_iter().collect();
    texts.sort_by(|(a, users_of_a), (b, users_of_b)| (users_of_a, a).cmp(&(users_of_b, b)));
    for (licence, users) in texts {
        write!(text, "\n{}\n{}:\n\n{licence}\n", "-".repeat(72), users.join(", "))?;
    }
    Ok(text)
}

/// Others' crates that end up in what we install, by name.
fn linked(metadata: &Metadata) -> Result<Vec<&Package>> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (&*package.id, package)).collect();
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (&*node.id, node)).collect();
    let is_ours = |package: &&Package| package.source.is_none() && ROOTS.contains(&&*package.name);
    let mut waiting: Vec<&str> =
        metadata.packages.iter().filter(is_ours).map(|package| &*package.id).collect();
    ensure!(waiting.len() == ROOTS.len(), "cargo metadata does not tell of {ROOTS:?}");
    let mut seen = BTreeSet::new();
    let mut crates = Vec::new();
    while let Some(id) = waiting.pop() {
        let package = *packages.get(id).with_context(|| format!("{id} is no package"))?;
        // What such a crate is made of is not linked either.
        if !seen.insert(id) || package.runs_in_the_compiler() {
            continue;
        }
        if package.source.is_some() {
            crates.push(package);
        }
        let node = nodes.get(id).with_context(|| format!("{id} is not resolved"))?;
        let is_linked =
            |dependency: &&Dependency| dependency.dep_kinds.iter().any(|it| it.kind.is_none());
        waiting.extend(node.deps.iter().filter(is_linked).map(|dependency| &*dependency.pkg));
    }
    crates.sort_by_key(|package| (&package.name, &package.version));
    Ok(crates)
}

impl Package {
    fn runs_in_the_compiler(&self) -> bool {
        self.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
    }
}

/// The texts that a crate brings along.
fn files(package: &Package) -> Result<Vec<PathBuf>> {
    let folder = package.manifest_path.parent().context("a manifest is in a folder")?;
    let mut files: BTreeSet<PathBuf> =
        package.license_file.iter().map(|name| folder.join(name)).collect();
    for entry in fs::read_dir(folder).with_context(|| cannot_read(folder))? {
        let entry = entry.with_context(|| cannot_read(folder))?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if NAMES.iter().any(|begin| name.starts_with(begin)) && entry.path().is_file() {
            files.insert(entry.path());
        }
    }
    Ok(files.into_iter().collect())
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}
