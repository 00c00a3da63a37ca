//! `moderationctl setup`: from an installed package to a protected host. It asks what it
//! cannot know, writes one file beside the configuration, attaches with a way back, and
//! has the units do the same at every boot. Run again, it changes what it did before.

mod plan;
mod question;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::unistd::User;
use serde_json::{Value, json};

use super::{command::Setup, output::Output, unit::Units, xdp};
use crate::{
    config::{Config, DEFAULT_PATH},
    exit::{Interrupted, NeedsRoot, tell_line},
    keeper::SourceFiles,
    network::{self, AttachOptions, Fresh, Loaded, Pins},
};
use plan::Plan;
use question::Terminal;

/// Whose the maps become, where the package has made it.
const DAEMON_USER: &str = "moderation";
/// What the file is called that setup writes, in the folder beside the configuration.
const FILE: &str = "50-setup.yaml";

pub(super) fn run(
    arguments: &Setup,
    path: Option<&Path>,
    files: &SourceFiles,
    output: Output,
) -> anyhow::Result<()> {
    NeedsRoot::check()?;
    let main = path.unwrap_or(Path::new(DEFAULT_PATH));
    let config = Config::load(path)?;
    let mut terminal = Terminal::new(arguments.yes)?;
    let plan = Plan::make(arguments, &config, files, &mut terminal)?;
    if arguments.dry_run {
        return Ok(output.show(&plan.json(), |_| plan.yaml())?);
    }
    let units = Units::find();
    let written = Written::write(&main.with_extension("d").join(FILE), &plan.yaml())?;
    let kept = match protect(&plan, path, files, &mut terminal, &units) {
        Ok(kept) => kept,
        Err(error) => {
            written.take_back()?;
            units.reload().context("after taking the configuration back")?;
            return Err(error);
        }
    };
    if let Err(error) = units.enable() {
        tell_line("the host is protected now, but would not be after a reboot");
        return Err(error);
    }
    let result = json!({
        "interfaces": plan.interfaces,
        "allowlist": plan.allowlist,
        "enforce": plan.enforce,
        "attached_now": kept,
        "file": written.path,
        "units": units.are_there(),
    });
    Ok(output.show(&result, |result| text(result, &plan, &units))?)
}

/// Attaches, has the daemon follow, and keeps both if the host can still be reached.
/// How many interfaces are new.
fn protect(
    plan: &Plan,
    path: Option<&Path>,
    files: &SourceFiles,
    terminal: &mut Terminal,
    units: &Units,
) -> anyhow::Result<usize> {
    let config = Config::load(path).context("with what setup writes")?;
    let pins = Pins::new(&config.network.pin_root);
    let owner = User::from_name(DAEMON_USER)?.map(|user| user.uid);
    let mut options = AttachOptions::new(&config.network, plan.interfaces.clone(), owner);
    options.guards = xdp::guards(&pins, &config, files.sources(&config.network.guard_hosts));
    let mut loaded = Loaded::load(&pins, &options)?;
    let mut fresh: Vec<Fresh> = Vec::new();
    for interface in &plan.interfaces {
        network::forget_confirmation(&pins, interface);
        fresh.extend(loaded.attach_unpinned(interface)?);
    }
    // From here on it is dropped: what is not kept goes with this process.
    units.reload()?;
    let new = fresh.len();
    if new > 0 {
        confirm(terminal, plan.patience)?;
    }
    fresh.into_iter().try_for_each(Fresh::keep)?;
    loaded.count_handshakes()?;
    Ok(new)
}

/// Whoever was cut off cannot answer, and with silence all is taken back.
fn confirm(terminal: &mut Terminal, patience: Duration) -> anyhow::Result<()> {
    let seconds = patience.as_secs();
    let question = format!(
        "Attached. Open a second connection to this host now: does it work? Without a yes \
         within {seconds} s all is taken back"
    );
    match terminal.confirm(&question, patience)? {
        true => Ok(()),
        false => Err(Interrupted("not confirmed: detached again, and nothing is changed").into()),
    }
}

/// The file that setup wrote, and what was there before.
struct Written {
    path: PathBuf,
    before: Option<String>,
}

impl Written {
    fn write(path: &Path, text: &str) -> anyhow::Result<Self> {
        let before = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            text => Some(text.with_context(|| format!("cannot read {}", path.display()))?),
        };
        put(path, text)?;
        Ok(Self { path: path.to_owned(), before })
    }

    fn take_back(&self) -> anyhow::Result<()> {
        match &self.before {
            Some(text) => put(&self.path, text),
            None => fs::remove_file(&self.path)
                .with_context(|| format!("cannot remove {}", self.path.display())),
        }
    }
}

/// Whole or not at all.
fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let folder = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder).with_context(failed)?;
    let beside = path.with_extension("yaml.new");
    ensure!(!beside.is_symlink(), "{} is a link", beside.display());
    fs::write(&beside, text).with_context(failed)?;
    fs::rename(&beside, path).with_context(failed)
}

fn text(result: &Value, plan: &Plan, units: &Units) -> String {
    let interfaces = plan.interfaces.join(", ");
    let what = match plan.enforce {
        true => format!("Packets of banned addresses are dropped on {interfaces}."),
        false => format!("On {interfaces} is counted what would be dropped; nothing is."),
    };
    let after = match units.are_there() {
        true => "That holds after a reboot, too.",
        false => {
            "systemd does not run here: start moderationd, and moderationctl xdp attach at boot."
        }
    };
    let file = result["file"].as_str().unwrap_or_default();
    format!(
        "{what} {after}\n\n\
         written:    {file}\n\
         try it:     moderationctl ban --ip ADDRESS --duration 5m; moderationctl lift ADDRESS\n\
         look at it: moderationctl status; moderationctl doctor; moderationctl top\n\
         undo it:    moderationctl xdp off; systemctl disable --now moderation-xdp"
    )
}
