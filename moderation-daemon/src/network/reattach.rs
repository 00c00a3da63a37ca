//! The program on interfaces that went and came again, or that come late: put
//! there by its pin, which takes CAP_NET_ADMIN and nothing is loaded for. Who
//! should have it, and how often to look, is not known here.

use std::collections::BTreeMap;

use aya::programs::{
    Xdp,
    links::{FdLink, PinnedLink},
};
use aya_obj::programs::XdpAttachType;

use super::{
    Attachment, NetworkError, Pins,
    attach::{attach_anew, busy, pin_link, remove_pin},
    interface::{attachment_of, interfaces},
};
use crate::config::AttachMode;

/// Puts the pinned program on those of the `wanted` interfaces that are there
/// without it, and pins the links. Says only what it did, or could not do:
/// nothing about interfaces that have the program, that are not there, or that
/// somebody took the program off by `moderationctl xdp detach`.
pub fn reattach(
    pins: &Pins,
    wanted: &[String],
    mode: AttachMode,
) -> Vec<Result<Attachment, NetworkError>> {
    if mode == AttachMode::Off || wanted.is_empty() {
        return Vec::new();
    }
    let present = match interfaces() {
        Ok(present) => present,
        Err(error) => return vec![Err(error)],
    };
    let lacking = wanted.iter().filter(|interface| !pins.is_refused(interface));
    lacking.filter_map(|interface| put_back(pins, &present, interface, mode).transpose()).collect()
}

/// `None` if there is nothing to do.
fn put_back(
    pins: &Pins,
    present: &BTreeMap<String, Option<Attachment>>,
    interface: &str,
    mode: AttachMode,
) -> Result<Option<Attachment>, NetworkError> {
    match present.get(interface) {
        None => Ok(None), // gone, or not there yet
        Some(Some(attachment)) if is_ours(pins, attachment)? => Ok(None),
        Some(Some(other)) => Err(busy(other.clone())),
        Some(None) => {
            let path = pins.link(interface);
            // Of the interface that had this name before.
            remove_pin(&path)?;
            let mut program = open_program(pins)?;
            let link = attach_anew(&mut program, mode, interface)?;
            pin_link(link, &path)?;
            attachment_of(interface)
        }
    }
}

fn open_program(pins: &Pins) -> Result<Xdp, NetworkError> {
    Xdp::from_pin(pins.program(), XdpAttachType::Interface)
        .map_err(|source| NetworkError::LoadProgram(Box::new(source)))
}

/// Whether it is the program under our pinned link, or the pinned one: with
/// `xdp attach --confirm-within` there is no pinned link yet.
fn is_ours(pins: &Pins, attachment: &Attachment) -> Result<bool, NetworkError> {
    let path = pins.link(&attachment.interface);
    let opened = PinnedLink::from_pin(&path).map(FdLink::from).and_then(|link| link.info());
    if opened.is_ok_and(|info| info.program_id() == attachment.program_id) {
        return Ok(true);
    }
    let info = open_program(pins)?.info();
    let info = info.map_err(|source| NetworkError::LoadProgram(Box::new(source)))?;
    Ok(info.id() == attachment.program_id)
}
