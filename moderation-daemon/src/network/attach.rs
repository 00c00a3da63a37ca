//! Root's half: load, pin, attach, detach. The pinned link keeps the program
//! on its interface whatever becomes of the process that attached it.

use aya::{
    Ebpf,
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        xdp::{XdpLink, XdpMode as AyaMode},
    },
};
use ipnet::IpNet;
use nix::{errno::Errno, unistd::Uid};
use std::{fs, io, path::Path, time::Duration};

use super::{
    AllowMaps, Attachment, NetworkError, Pins, XdpMode,
    interface::attachment_of,
    object::{self, Parameters},
};
use crate::config::{self, AttachMode};

/// How to attach.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// The interface's name.
    pub interface: String,
    /// The mode; [`AttachMode::Off`] loads and pins, but attaches nothing.
    pub mode: AttachMode,
    /// Who gets the daemon's maps; `None`: who has them, or else root.
    pub owner: Option<Uid>,
    /// Prefixes that only root can take off the guard allowlist again.
    pub guards: Vec<IpNet>,
    /// How many bans each family's map can hold, if it is made now.
    pub max_bans: u32,
    /// Length of the window in which connection attempts are counted.
    pub syn_window: Duration,
}

impl AttachOptions {
    /// As configured.
    pub fn new(config: &config::Network, interface: String, owner: Option<Uid>) -> Self {
        Self {
            interface,
            mode: config.mode,
            owner,
            guards: config.guards.clone(),
            max_bans: config.max_bans,
            syn_window: config.syn.window,
        }
    }
}

/// Loads the program on the existing pins, or makes them, and puts it on the
/// interface. On an interface that is attached already the new program takes
/// the old one's place without a gap.
///
/// # Errors
///
/// See [`NetworkError`]; an error leaves attached what was attached.
pub fn attach(pins: &Pins, options: &AttachOptions) -> Result<Option<Attachment>, NetworkError> {
    pins.create()?;
    let owner = options.owner.or_else(|| pins.owner()).unwrap_or(Uid::effective());
    let syn_window_ns = u64::try_from(options.syn_window.as_nanos()).unwrap_or(u64::MAX);
    let parameters = Parameters { max_bans: options.max_bans, syn_window_ns };
    let mut object = object::load(pins, parameters)?;
    // Whoever is protected must be so before the first packet is judged.
    AllowMaps::open_guards(pins)?.reconcile(&options.guards)?;
    pins.give_to(owner)?;
    pin_program(pins, &mut object)?;
    if options.mode == AttachMode::Off {
        return Ok(None);
    }
    let program = object::program(&mut object)?;
    if !update(pins, program, options)? {
        attach_anew(pins, program, options)?;
    }
    attachment_of(&options.interface)
}

/// Pins the program beside the old pin and renames it into place, so that
/// there is a program to look at all the time.
fn pin_program(pins: &Pins, object: &mut Ebpf) -> Result<(), NetworkError> {
    let path = pins.program();
    let fresh = pins.map("moderation_new");
    let failed = |operation| {
        let path = path.clone();
        move |source| NetworkError::PinFolder { operation, path, source }
    };
    remove_pin(&fresh)?;
    object::program(object)?
        .pin(&fresh)
        .map_err(|source| NetworkError::Pin { path: fresh.clone(), source: Box::new(source) })?;
    Pins::keep(&fresh)?;
    fs::rename(&fresh, &path).map_err(failed("replace"))
}

fn remove_pin(path: &Path) -> Result<(), NetworkError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::PinFolder { operation: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Puts the program under the pinned link; `false` if there is no link that
/// still holds an interface.
fn update(pins: &Pins, program: &mut Xdp, options: &AttachOptions) -> Result<bool, NetworkError> {
    let path = pins.link(&options.interface);
    if !path.exists() {
        return Ok(false);
    }
    let Some(attached) = attachment_of(&options.interface)? else {
        // The interface that the link held is gone; this one has its name.
        remove_pin(&path)?;
        return Ok(false);
    };
    require_mode(options, attached.mode)?;
    let open = |source| NetworkError::OpenLink { path: path.clone(), source };
    let link = FdLink::from(PinnedLink::from_pin(&path).map_err(open)?);
    let link = XdpLink::try_from(link).map_err(open)?;
    match program.attach_to_link(link) {
        Ok(_) => Ok(true),
        Err(error) if is_gone(&error) => {
            remove_pin(&path)?;
            Ok(false)
        }
        Err(source) => Err(attach_error(&options.interface, source)),
    }
}

/// The link outlived its interface (kernel: `bpf_xdp_link_update`, `-ENOLINK`).
fn is_gone(error: &aya::programs::ProgramError) -> bool {
    errno(error) == Some(Errno::ENOLINK)
}

fn errno(error: &aya::programs::ProgramError) -> Option<Errno> {
    match error {
        aya::programs::ProgramError::SyscallError(error) => {
            error.io_error.raw_os_error().map(Errno::from_raw)
        }
        _ => None,
    }
}

fn require_mode(options: &AttachOptions, attached: XdpMode) -> Result<(), NetworkError> {
    let wanted = match options.mode {
        AttachMode::Native => XdpMode::Native,
        AttachMode::Generic => XdpMode::Generic,
        AttachMode::Auto | AttachMode::Off => return Ok(()),
    };
    if wanted == attached {
        return Ok(());
    }
    let interface = options.interface.clone();
    Err(NetworkError::ModeDiffers { interface, attached, wanted })
}

fn attach_anew(
    pins: &Pins,
    program: &mut Xdp,
    options: &AttachOptions,
) -> Result<(), NetworkError> {
    let interface = &options.interface;
    if let Some(other) = attachment_of(interface)? {
        let Attachment { program_id, mode, .. } = other;
        return Err(NetworkError::Busy { interface: interface.clone(), program_id, mode });
    }
    match options.mode {
        AttachMode::Off => Ok(()),
        AttachMode::Native => attach_as(pins, program, interface, AyaMode::Driver),
        AttachMode::Generic => attach_as(pins, program, interface, AyaMode::Skb),
        AttachMode::Auto => match attach_as(pins, program, interface, AyaMode::Driver) {
            Err(NetworkError::Attach { source, .. }) => {
                tracing::warn!(
                    interface,
                    error = %source,
                    "the driver has no native XDP: attaching in generic mode, which costs \
                     several times as much per packet"
                );
                attach_as(pins, program, interface, AyaMode::Skb)
            }
            other => other,
        },
    }
}

fn attach_as(
    pins: &Pins,
    program: &mut Xdp,
    interface: &str,
    mode: AyaMode,
) -> Result<(), NetworkError> {
    let link = program
        .attach(interface, mode)
        .and_then(|id| program.take_link(id))
        .map_err(|source| attach_error(interface, source))?;
    let path = pins.link(interface);
    FdLink::try_from(link)
        .map_err(NetworkError::NoLink)?
        .pin(&path)
        .map_err(|source| NetworkError::Pin { path: path.clone(), source: Box::new(source) })?;
    Pins::keep(&path)
}

fn attach_error(interface: &str, source: aya::programs::ProgramError) -> NetworkError {
    NetworkError::Attach { interface: interface.to_owned(), source: Box::new(source) }
}

/// Takes the program off `interface`; maps and bans stay. `false` if it was
/// not attached there.
///
/// # Errors
///
/// If the pin cannot be removed.
pub fn detach(pins: &Pins, interface: &str) -> Result<bool, NetworkError> {
    // Only what is listed: a name is not to lead anywhere else.
    if !pins.interfaces().iter().any(|ours| ours == interface) {
        return Ok(false);
    }
    remove_pin(&pins.link(interface))?;
    Ok(true)
}

/// Takes the program off every interface and removes every pin; nothing is
/// dropped any more. Needs no daemon and no database.
///
/// # Errors
///
/// If pins cannot be removed.
pub fn off(pins: &Pins) -> Result<Vec<String>, NetworkError> {
    let interfaces = pins.interfaces();
    for interface in &interfaces {
        detach(pins, interface)?;
    }
    pins.remove()?;
    Ok(interfaces)
}
