//! Things that are tried from where they should not work, and how programs of ours tell
//! tests which did: one JSON object of names and errors. It judges nothing.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, Error, Result};
use nix::errno::Errno;

/// What was tried, and what came of it.
pub type Tried = Vec<(String, Result<()>)>;

/// What a program tells of it: for each attempt `None` if it worked, else the error's name.
pub type Attempts = BTreeMap<String, Option<String>>;

/// Reads what [`print()`] printed.
pub fn read(printed: &str) -> Result<Attempts> {
    serde_json::from_str(printed).with_context(|| format!("no attempts: {printed}"))
}

/// Prints each attempt with the kernel's name of its error; with null if it worked.
pub fn print(attempts: Tried) -> Result<()> {
    let report: Attempts = attempts
        .into_iter()
        .map(|(what, result)| (what, result.err().map(|error| name(&error))))
        .collect();
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// The kernel's name for an error, if it is the kernel's.
fn name(error: &Error) -> String {
    let errno = error.chain().find_map(|cause| {
        let error = cause.downcast_ref::<io::Error>()?;
        error.raw_os_error().map(Errno::from_raw)
    });
    errno.map_or_else(|| format!("{error:#}"), |errno| format!("{errno:?}"))
}
