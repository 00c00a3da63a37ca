//! `moderationctl support-bundle`: what somebody needs who is to help, in one file that
//! its owner alone can read. Works without the daemon, and then has less in it, which is
//! said in it. What may leave this host is `redact`'s affair.

mod gather;
mod redact;

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use flate2::{Compression, write::GzEncoder};
use serde_json::json;

use self::redact::{Addresses, Redactor};
use super::{command::SupportBundle, doctor::Host, output::Progress, remote::Remote};
use crate::{clock, exit::NotWritten};

/// One file of the bundle.
struct Piece {
    name: &'static str,
    /// What it is, for who looks into it before sending it.
    about: &'static str,
    text: String,
}

/// Packs it.
///
/// # Errors
///
/// If the file exists, or cannot be written.
pub(super) fn run(
    remote: &mut Remote,
    host: Host<'_>,
    wanted: &SupportBundle,
) -> anyhow::Result<()> {
    let now = clock::now().unix_ms;
    let stamp: String = clock::rfc3339(now).chars().take(19).filter(|it| *it != ':').collect();
    let default = || PathBuf::from(format!("moderation-support-{stamp}.tar.gz"));
    let path = wanted.file.clone().unwrap_or_else(default);
    let file = create(&path).with_context(|| NotWritten(path.clone()))?;
    let addresses = if wanted.with_addresses { Addresses::Kept } else { Addresses::Named };
    let pieces = collect(remote, host, addresses);
    pack(file, &pieces, now).with_context(|| NotWritten(path.clone()))?;
    let names: Vec<_> = pieces.iter().map(|piece| piece.name).collect();
    let told = json!({ "file": path, "addresses": wanted.with_addresses, "contents": names });
    Ok(remote.output.show(&told, |_| {
        format!(
            "{} has {} files; look into it before you send it: tar -xzOf {} moderation-support/CONTENTS.txt",
            path.display(),
            names.len(),
            path.display()
        )
    })?)
}

/// A new file that is its owner's alone; nothing is written over.
fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn collect(remote: &mut Remote, host: Host<'_>, addresses: Addresses) -> Vec<Piece> {
    let progress = Progress::begin("looking for what to leave out");
    let words = gather::words(remote, host);
    let mut redactor = Redactor::new(words, addresses);
    let mut pieces = Vec::new();
    for (name, about, gather) in gather::PIECES {
        progress.go_on(about);
        let text = gather(remote, host, &mut redactor);
        pieces.push(Piece { name, about, text });
    }
    drop(progress);
    let contents = contents(&pieces, addresses);
    pieces.insert(0, Piece { name: "CONTENTS.txt", about: "this list", text: contents });
    pieces
}

fn contents(pieces: &[Piece], addresses: Addresses) -> String {
    let mut text =
        String::from("Secrets, user ids, reasons and notes have been taken out of these files.\n");
    text += match addresses {
        Addresses::Named => "Addresses have been replaced, each by the same name everywhere.\n\n",
        Addresses::Kept => "Addresses are as they were: --with-addresses was given.\n\n",
    };
    for Piece { name, about, .. } in pieces {
        text += &format!("{name:16}  {about}\n");
    }
    text
}

fn pack(file: File, pieces: &[Piece], now_unix_ms: u64) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for Piece { name, text, .. } in pieces {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now_unix_ms / 1_000);
        archive.append_data(&mut header, format!("moderation-support/{name}"), text.as_bytes())?;
    }
    let mut file = archive.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all()
}
