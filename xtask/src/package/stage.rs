//! What is made for the package and for nothing else: manual pages, completions and
//! changelogs, from the programs and files that there are, laid out beside the
//! programs as the list of contents in the daemon's Cargo.toml names them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::licence;
use crate::project::Project;
use crate::step;

const PROGRAMS: [&str; 2] = ["moderationd", "moderationctl"];
const SHELLS: [&str; 3] = ["bash", "fish", "zsh"];

/// A folder that cargo-deb takes for a target folder.
pub(super) struct Stage<'a> {
    pub(super) project: &'a Project,
    /// The folder of the sources.
    pub(super) root: &'a Path,
    pub(super) folder: &'a Path,
    /// Seconds since 1970.
    pub(super) epoch: &'a str,
    /// Of the package.
    pub(super) version: &'a str,
    /// What every cargo is told.
    pub(super) network: Option<(&'static str, &'static str)>,
}

/// The time that all files of a package have: that of the last commit, in seconds
/// since 1970, unless the caller says otherwise.
///
/// # Errors
///
/// Where there is no commit, and the caller does not say.
pub(super) fn epoch(project: &Project) -> Result<String> {
    if let Ok(epoch) = env::var("SOURCE_DATE_EPOCH") {
        epoch.parse::<u64>().context("SOURCE_DATE_EPOCH is not in seconds since 1970")?;
        return Ok(epoch);
    }
    let printed = step::output_of(project.command("git").args(["log", "-1", "--format=%ct"]))
        .context("git does not tell the time of the last commit; set SOURCE_DATE_EPOCH")?;
    Ok(printed.trim().to_owned())
}

impl Stage<'_> {
    /// Lays everything out anew.
    ///
    /// # Errors
    ///
    /// When something cannot be made or written.
    pub(super) fn fill(&self, programs: &Path) -> Result<()> {
        if self.folder.exists() {
            fs::remove_dir_all(self.folder)
                .with_context(|| format!("cannot remove {}", self.folder.display()))?;
        }
        make_folder(&self.place("man"))?;
        make_folder(&self.place("completion"))?;
        for name in PROGRAMS {
            let (from, to) = (programs.join(name), self.place(name));
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        self.write_pages()?;
        self.write_completions()?;
        self.write_changelogs()?;
        self.write_licences()
    }

    /// Where what is called `target/release/NAME` is.
    fn place(&self, name: &str) -> PathBuf {
        self.folder.join("release").join(name)
    }

    fn write_pages(&self) -> Result<()> {
        let folder = self.place("man");
        step::output_of(self.project.command(self.place("moderationctl")).arg("man").arg(&folder))?;
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        entries.into_iter().try_for_each(|entry| self.compress(&entry?.path()))
    }

    fn write_completions(&self) -> Result<()> {
        for shell in SHELLS {
            let mut program = self.project.command(self.place("moderationctl"));
            let script = step::output_of(program.args(["completions", shell]))?;
            write(&self.place("completion").join(shell), &script)?;
        }
        Ok(())
    }

    /// Ours, and the short one that Debian wants of the packaging itself.
    fn write_changelogs(&self) -> Result<()> {
        let ours = self.root.join("CHANGELOG.md");
        let text =
            fs::read_to_string(&ours).with_context(|| format!("cannot read {}", ours.display()))?;
        let changelog = self.place("changelog");
        write(&changelog, &text)?;
        self.compress(&changelog)?;

        let at = format!("@{}", self.epoch);
        let mut date = self.project.command("date");
        let date =
            step::output_of(date.env("LC_ALL", "C").args(["--utc", "--rfc-email", "--date", &at]))?;
        let debian = self.place("changelog.Debian");
        write(&debian, &debian_changelog(self.version, &self.maintainer()?, date.trim()))?;
        self.compress(&debian)
    }

    fn write_licences(&self) -> Result<()> {
        let place = self.place("third-party");
        write(&place, &licence::text(self.project, self.root, self.network)?)?;
        self.compress(&place)
    }

    /// As the daemon's Cargo.toml names them.
    fn maintainer(&self) -> Result<String> {
        let path = self.root.join("moderation-daemon/Cargo.toml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let maintainer = text
            .lines()
            .find_map(|line| line.strip_prefix("maintainer = \"")?.strip_suffix('"'))
            .with_context(|| format!("{} names no maintainer", path.display()))?;
        Ok(maintainer.to_owned())
    }

    /// Without name and time of the file, which would make each package another.
    fn compress(&self, path: &Path) -> Result<()> {
        step::run_quietly_on_stdout(self.project.command("gzip").args(["-9n", "--"]).arg(path))
    }
}

fn debian_changelog(version: &str, maintainer: &str, date: &str) -> String {
    format!(
        "moderation ({version}) unstable; urgency=medium\n\n  \
         * Made from the sources; what changed for users is in changelog.gz.\n\n \
         -- {maintainer}  {date}\n"
    )
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changelog_of_the_packaging_has_the_form_that_debian_reads() {
        let text =
            debian_changelog("1.2-3", "A <a@example.org>", "Thu, 01 Jan 1970 00:00:00 +0000");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "moderation (1.2-3) unstable; urgency=medium");
        assert!(lines[2].starts_with("  * "), "{text}");
        assert_eq!(lines[4], " -- A <a@example.org>  Thu, 01 Jan 1970 00:00:00 +0000");
    }
}
