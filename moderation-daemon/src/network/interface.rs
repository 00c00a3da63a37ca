//! What the kernel says about XDP on the interfaces of this network namespace.
//! Needs no privilege.

use std::{collections::BTreeMap, fmt};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};
use serde::Serialize;

use super::{NetworkError, ask::ask};

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver, before the kernel allocates anything for the packet.
    Native,
    /// Later, in the generic path: works everywhere, costs more.
    Generic,
    /// On the device itself.
    Offloaded,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        })
    }
}

/// An XDP program on an interface, ours or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// The interface's name.
    pub interface: String,
    /// How the program is attached.
    pub mode: XdpMode,
    /// The kernel's id of the program.
    pub program_id: u32,
}

/// Every XDP program on the interfaces of this network namespace.
///
/// # Errors
///
/// If the kernel cannot be asked.
pub fn attachments() -> Result<Vec<Attachment>, NetworkError> {
    Ok(links()?.into_iter().filter_map(|link| attachment(&link)).collect())
}

/// The program on one interface.
///
/// # Errors
///
/// [`NetworkError::UnknownInterface`] if there is no such interface.
pub(super) fn attachment_of(interface: &str) -> Result<Option<Attachment>, NetworkError> {
    let links = links()?;
    let link = links
        .iter()
        .find(|link| name(link) == Some(interface))
        .ok_or_else(|| NetworkError::UnknownInterface(interface.to_owned()))?;
    Ok(attachment(link))
}

/// Every interface there is, with the program on it.
///
/// # Errors
///
/// If the kernel cannot be asked.
pub fn interfaces() -> Result<BTreeMap<String, Option<Attachment>>, NetworkError> {
    let links = links()?;
    Ok(links.iter().filter_map(|link| Some((name(link)?.to_owned(), attachment(link)))).collect())
}

/// The names of interfaces by their numbers.
pub(super) fn names() -> Result<BTreeMap<u32, String>, NetworkError> {
    let links = links()?;
    Ok(links.iter().filter_map(|link| Some((link.header.index, name(link)?.to_owned()))).collect())
}

fn links() -> Result<Vec<LinkMessage>, NetworkError> {
    ask(|handle| async move { handle.link().get().execute().try_collect().await })
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn attachment(link: &LinkMessage) -> Option<Attachment> {
    let xdp = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    })?;
    let mode = xdp.iter().find_map(|part| match part {
        // With programs in several modes at once the driver's runs first.
        LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Multiple) => Some(XdpMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(XdpMode::Offloaded),
        _ => None,
    })?;
    let program_id = xdp.iter().find_map(|part| match part {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    })?;
    Some(Attachment { interface: name(link)?.to_owned(), mode, program_id })
}
