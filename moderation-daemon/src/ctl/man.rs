//! Manual pages of both programs and of every command, from the same words as
//! `--help`. What no help says is added here: exit codes, files, and where to read
//! on. Nothing in a page depends on when or where it was written.

use std::{fs, io, path::Path};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::command::Arguments;
use crate::{daemon, exit};

/// System administration: both programs are for whoever runs the host.
const SECTION: &str = "8";

const FILES: [(&str, &str); 7] = [
    ("/etc/moderation/moderation.yaml", "The configuration; its comments explain every setting."),
    (
        "/etc/moderation/moderation.d/*.yaml",
        "Laid over the configuration, in the order of their names.",
    ),
    ("/run/moderation/api.sock", "Where the app reports; for the group moderation-app."),
    ("/run/moderation/admin.sock", "Where operators ask; for the group moderation-admin."),
    ("/run/moderation/nginx.sock", "Where nginx asks; for the group moderation-nginx."),
    ("/var/lib/moderation", "Bans, violations, imported lists, and what limits counted."),
    ("/sys/fs/bpf/moderation", "The pinned program and its maps, while it is attached."),
];

/// Writes all pages into a folder.
///
/// # Errors
///
/// If a page cannot be written.
pub(super) fn write(folder: &Path) -> anyhow::Result<()> {
    for program in [Arguments::command(), daemon::command_line()] {
        let mut program = program.disable_help_subcommand(true);
        // Gives each command the name that its page has.
        program.build();
        write_with_commands(&program, folder)?;
    }
    Ok(())
}

fn write_with_commands(command: &Command, folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(format!("{}.{SECTION}", name(command)));
    let page = page(command).with_context(|| format!("cannot make {}", path.display()))?;
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    shown_commands(command).try_for_each(|inner| write_with_commands(inner, folder))
}

fn shown_commands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|inner| !inner.is_hide_set())
}

/// With those of the commands that it belongs to: `moderationctl-xdp-attach`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .title(name(command).to_uppercase())
        .section(SECTION)
        .source(concat!("moderation ", env!("CARGO_PKG_VERSION")))
        .manual("Moderation of chat hosts");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if shown_commands(command).next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    add_exit_codes(&mut rest);
    add_help_text(&mut rest, command);
    add_files(&mut rest);
    add_see_also(&mut rest, command);
    rest.to_writer(&mut page)?;
    Ok(page)
}

fn add_exit_codes(roff: &mut Roff) {
    let codes = [
        (0, "It was done."),
        (1, "It failed; why is said on standard error."),
        (exit::USAGE, "The command line makes no sense."),
        (exit::UNAVAILABLE, "The daemon is not there, or cannot serve."),
        (exit::NO_PERMISSION, "The caller may not do that."),
        (exit::CONFIG, "The configuration is wrong."),
    ];
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in codes {
        add_item(roff, &code.to_string(), meaning);
    }
}

fn add_files(roff: &mut Roff) {
    roff.control("SH", ["FILES"]);
    for (path, content) in FILES {
        add_item(roff, path, content);
    }
}

fn add_item(roff: &mut Roff, term: &str, text: &str) {
    roff.control("TP", []).text([bold(term)]).text([roman(text)]);
}

/// What stands below the options in the help: examples as they are to be typed, and
/// notes.
fn add_help_text(roff: &mut Roff, command: &Command) {
    let help = command.get_after_long_help().or_else(|| command.get_after_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let (examples, notes): (Vec<&str>, Vec<&str>) =
        help.split("\n\n").filter(|it| !it.trim().is_empty()).partition(|it| is_example(it));
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples.iter().flat_map(|it| it.lines().skip(1)) {
            roff.text([roman(line.trim_start())]);
        }
        roff.control("fi", []);
    }
    if !notes.is_empty() {
        roff.control("SH", ["NOTES"]);
        for note in notes {
            roff.control("PP", []).text([roman(note.trim())]);
        }
    }
}

fn is_example(paragraph: &str) -> bool {
    paragraph.trim_start().starts_with("Example")
}

/// The page of the command above, and the other program's.
fn add_see_also(roff: &mut Roff, command: &Command) {
    let name = name(command);
    let above = name.rsplit_once('-').map(|(above, _)| above);
    let other = if name == "moderationd" { "moderationctl" } else { "moderationd" };
    let pages: Vec<String> =
        above.into_iter().chain([other]).map(|it| format!("{it}({SECTION})")).collect();
    roff.control("SH", ["SEE ALSO"]).text([roman(pages.join(", "))]);
}
