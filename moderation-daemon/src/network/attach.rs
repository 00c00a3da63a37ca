//! Root's half: load, pin, attach, detach. Pinned links keep the programs where
//! they are whatever becomes of the process that attached them.

use std::{fs, io, path::Path};

use aya::{
    Ebpf,
    programs::{
        ProgramError, Xdp,
        links::{FdLink, PinnedLink},
        xdp::{XdpLink, XdpMode as AyaMode},
    },
};
use ipnet::IpNet;
use moderation_common::{Seeds, map::PROGRAM};
use nix::{errno::Errno, unistd::Uid};

use super::{
    AllowMaps, Attachment, NetworkError, Pins, XdpMode,
    control::{ControlMap, keep_seeds, seeds},
    filter::Bitmap,
    handshake::{self, Group},
    interface::attachment_of,
    migrate,
    object::{self, Parameters},
    port,
    recipe::{self, Recipe},
    sys,
};
use crate::config::{self, AttachMode};

/// How to load and attach.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// The interfaces' names.
    pub interfaces: Vec<String>,
    /// The mode; [`AttachMode::Off`] loads and pins, but attaches nothing.
    pub mode: AttachMode,
    /// Who gets the daemon's maps; `None`: who has them, or else root.
    pub owner: Option<Uid>,
    /// Whether to drop; else only to count what would be dropped.
    pub enforce: bool,
    /// Prefixes that only root can take off the guards again.
    pub guards: Vec<IpNet>,
    /// Proxies and CDNs: never dropped.
    pub proxies: Vec<IpNet>,
    /// Ports with an exemption.
    pub ports: config::Ports,
    /// How many exact bans there can be, if the maps are made now.
    pub max_bans: u32,
    /// How many banned blocks of each family, if the maps are made now.
    pub max_networks: u32,
    /// Connection attempts.
    pub syn: config::Syn,
    /// Completed handshakes.
    pub connections: config::Connections,
}

impl AttachOptions {
    /// As configured.
    pub fn new(config: &config::Network, interfaces: Vec<String>, owner: Option<Uid>) -> Self {
        Self {
            interfaces,
            mode: config.mode,
            owner,
            enforce: config.enforce,
            guards: config.guards.clone(),
            proxies: config.proxies.clone(),
            ports: config.ports.clone(),
            max_bans: config.max_bans,
            max_networks: config.max_networks,
            syn: config.syn,
            connections: config.connections.clone(),
        }
    }
}

/// What came of attaching: one interface's trouble is not another's.
#[derive(Debug, Default)]
pub struct Attached {
    /// The interfaces that run the program now.
    pub attachments: Vec<Attachment>,
    /// Those that do not, and why.
    pub failures: Vec<NetworkError>,
}

/// Loads the programs on the existing pins, or makes them, and puts them where
/// they belong. On an interface that is attached already the new program takes
/// the old one's place without a gap, also if the old one is of an earlier
/// layout of the maps.
///
/// # Errors
///
/// See [`NetworkError`]; an error leaves attached what was attached.
pub fn attach(pins: &Pins, options: &AttachOptions) -> Result<Attached, NetworkError> {
    let mut loaded = Loaded::load(pins, options)?;
    let mut attached = Attached::default();
    for interface in &options.interfaces {
        match loaded.attach(interface) {
            Ok(attachment) => attached.attachments.extend(attachment),
            Err(error) => attached.failures.push(error),
        }
    }
    attached.failures.extend(loaded.count_handshakes().err());
    Ok(attached)
}

/// The programs in the kernel, with their maps pinned.
#[derive(Debug)]
pub struct Loaded {
    pins: Pins,
    options: AttachOptions,
    parameters: Parameters,
    programs: Programs,
}

#[derive(Debug)]
enum Programs {
    /// Loaded just now.
    Fresh(Ebpf),
    /// The pinned one, which is what would be loaded.
    Kept(Box<Xdp>),
}

impl Programs {
    fn xdp(&mut self) -> Result<&mut Xdp, NetworkError> {
        match self {
            Self::Fresh(object) => object::program(object),
            Self::Kept(program) => Ok(program),
        }
    }
}

impl Loaded {
    /// Loads and pins, and puts the new program under links that are pinned
    /// already, of this layout or an earlier one; attaches nothing new.
    ///
    /// # Errors
    ///
    /// See [`NetworkError`]; an error leaves attached what was attached.
    pub fn load(pins: &Pins, options: &AttachOptions) -> Result<Self, NetworkError> {
        pins.create()?;
        let owner = options.owner.or_else(|| migrate::owner(pins)).unwrap_or(Uid::effective());
        let (seeds, are_new) = known_seeds(pins)?;
        let parameters = Parameters {
            max_bans: options.max_bans,
            max_networks: options.max_networks,
            syn: options.syn,
            connections: options.connections.clone(),
            ports: options.ports.clone(),
            seeds,
        };
        let recipe = Recipe::of(pins, &parameters);
        let programs = match recipe.and_then(|recipe| recipe::pinned(pins, recipe)) {
            Some(program) => Programs::Kept(Box::new(program)),
            None => Programs::Fresh(object::load(pins, &parameters)?),
        };
        if are_new {
            // Nobody knows which keys the bits stand for: all pass, until the
            // daemon has looked through the maps.
            Bitmap::open(pins, seeds)?.fill();
        }
        let mut loaded =
            Self { pins: pins.clone(), options: options.clone(), parameters, programs };
        loaded.protect()?;
        migrate::copy(pins)?;
        if are_new {
            // Only now: a daemon that finds seeds takes the maps for finished, and
            // clears the bits of all keys that it does not find in them.
            keep_seeds(pins, seeds)?;
        }
        pins.give_to(owner)?;
        if let Programs::Fresh(object) = &mut loaded.programs {
            pin_program(object, pins)?;
            // Killed before this, it is loaded anew at the next start.
            note_program(object, pins, &loaded.parameters)?;
        }
        migrate::take_over(pins, loaded.programs.xdp()?)?;
        Ok(loaded)
    }

    /// Whoever is protected must be so before the first packet is judged.
    fn protect(&self) -> Result<(), NetworkError> {
        let AttachOptions { guards, proxies, ports, enforce, .. } = &self.options;
        AllowMaps::open_guards(&self.pins)?.set_guards(guards, proxies)?;
        port::set(&self.pins, ports)?;
        ControlMap::open(&self.pins)?.change(|control| control.observe = u32::from(!enforce))
    }

    /// Puts the program on an interface and pins the link.
    ///
    /// # Errors
    ///
    /// See [`NetworkError`]; an error leaves attached what was attached.
    pub fn attach(&mut self, interface: &str) -> Result<Option<Attachment>, NetworkError> {
        match self.attach_unpinned(interface)? {
            Some(fresh) => fresh.keep()?,
            None => self.pins.want(interface),
        }
        if self.options.mode == AttachMode::Off { Ok(None) } else { attachment_of(interface) }
    }

    /// Puts the program on an interface, where it stays only as long as the
    /// result lives or until it is kept. `None` if there is nothing to keep: it
    /// was attached before, and the new program has taken the old one's place.
    ///
    /// # Errors
    ///
    /// See [`NetworkError`]; an error leaves attached what was attached.
    pub fn attach_unpinned(&mut self, interface: &str) -> Result<Option<Fresh>, NetworkError> {
        let (pins, options) = (&self.pins, &self.options);
        if options.mode == AttachMode::Off {
            return Ok(None);
        }
        let program = self.programs.xdp()?;
        if update(pins, program, options, interface)? {
            return Ok(None);
        }
        // Until it is kept, nobody else is to put it there for good.
        pins.refuse(interface)?;
        let link = attach_anew(program, options.mode, interface);
        let link = link.inspect_err(|_| pins.want(interface))?;
        Ok(Some(Fresh { pins: pins.clone(), interface: interface.to_owned(), link }))
    }

    /// Counts completed handshakes from now on, if that is configured.
    ///
    /// # Errors
    ///
    /// If there is no control group of version 2, or it refuses.
    pub fn count_handshakes(&mut self) -> Result<(), NetworkError> {
        let connections = &self.options.connections;
        if !connections.enabled || self.options.mode == AttachMode::Off {
            return handshake::detach(&self.pins);
        }
        let group = Group::open(connections.cgroup.as_deref())?;
        let recipe = Recipe::of(&self.pins, &self.parameters);
        let recipe = recipe.map(|recipe| recipe.with(group.identity()));
        if recipe.is_some_and(|recipe| handshake::is_attached(&self.pins, recipe)) {
            return Ok(());
        }
        match &mut self.programs {
            Programs::Fresh(object) => handshake::attach(&self.pins, object, &group, recipe),
            Programs::Kept(_) => {
                let mut object = object::open(&self.pins, &self.parameters)?;
                handshake::attach(&self.pins, &mut object, &group, recipe)
            }
        }
    }
}

/// The secrets of the hashes, and whether they were drawn just now.
fn known_seeds(pins: &Pins) -> Result<(Seeds, bool), NetworkError> {
    if pins.map(moderation_common::map::SEEDS).exists() {
        let known = seeds(pins)?;
        if known != (Seeds { a: 0, b: 0 }) {
            return Ok((known, false));
        }
    }
    let draw = || getrandom::u64().map_err(|error| NetworkError::Random(io::Error::other(error)));
    Ok((Seeds { a: draw()?, b: draw()? }, true))
}

/// A link that is not pinned yet: it goes when this is dropped, or its process
/// dies, and with it the program.
#[derive(Debug)]
pub struct Fresh {
    pins: Pins,
    interface: String,
    link: FdLink,
}

impl Fresh {
    /// Keeps the program on its interface for good.
    ///
    /// # Errors
    ///
    /// If the link cannot be pinned.
    pub fn keep(self) -> Result<(), NetworkError> {
        let path = self.pins.link(&self.interface);
        pin_link(self.link, &path)?;
        self.pins.want(&self.interface);
        Ok(())
    }

    /// Whether somebody has called [`confirm`] for its interface; said once.
    pub fn is_confirmed(&self) -> bool {
        fs::remove_dir(self.pins.confirmation(&self.interface)).is_ok()
    }
}

pub(super) fn pin_link(link: FdLink, path: &Path) -> Result<(), NetworkError> {
    link.pin(path)
        .map_err(|source| NetworkError::Pin { path: path.to_owned(), source: Box::new(source) })?;
    Pins::keep(path)
}

/// Says that an interface works with the program on it; see
/// [`Fresh::is_confirmed`]. A folder on the BPF filesystem, where root alone can
/// make one, and which is gone with the next boot.
///
/// # Errors
///
/// If the folder of pins does not take it.
pub fn confirm(pins: &Pins, interface: &str) -> Result<(), NetworkError> {
    let path = pins.confirmation(interface);
    match fs::create_dir(&path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(NetworkError::PinFolder { operation: "create", path, source })
        }
        _ => Ok(()),
    }
}

/// Forgets a confirmation that came too late for its time.
pub fn forget_confirmation(pins: &Pins, interface: &str) {
    // There mostly is none.
    drop(fs::remove_dir(pins.confirmation(interface)));
}

/// Pins the program beside the old pin and renames it into place, so that
/// there is a program to look at all the time.
fn pin_program(object: &mut Ebpf, pins: &Pins) -> Result<(), NetworkError> {
    let path = pins.program();
    let fresh = pins.map("moderation_new");
    remove_pin(&fresh)?;
    object::program(object)?
        .pin(&fresh)
        .map_err(|source| NetworkError::Pin { path: fresh.clone(), source: Box::new(source) })?;
    Pins::keep(&fresh)?;
    rename(&fresh, &path)
}

/// Notes what the pinned program was made of.
fn note_program(
    object: &mut Ebpf,
    pins: &Pins,
    parameters: &Parameters,
) -> Result<(), NetworkError> {
    let info = object::program(object)?.info();
    let info = info.map_err(|source| NetworkError::LoadProgram(Box::new(source)))?;
    let recipe = Recipe::of(pins, parameters);
    recipe.map_or(Ok(()), |recipe| recipe.keep(pins, PROGRAM, info.id()))
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), NetworkError> {
    let path = to.to_owned();
    fs::rename(from, to).map_err(|source| NetworkError::PinFolder {
        operation: "replace",
        path,
        source,
    })
}

pub(super) fn remove_pin(path: &Path) -> Result<(), NetworkError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::PinFolder { operation: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Puts the program under the pinned link; `false` if there is no link that
/// still holds an interface.
fn update(
    pins: &Pins,
    program: &mut Xdp,
    options: &AttachOptions,
    interface: &str,
) -> Result<bool, NetworkError> {
    let path = pins.link(interface);
    if !path.exists() {
        return Ok(false);
    }
    let Some(attached) = attachment_of(interface)? else {
        // The interface that the link held is gone; this one has its name.
        remove_pin(&path)?;
        return Ok(false);
    };
    require_mode(options, interface, attached.mode)?;
    let is_held = replace(&path, program, interface)?;
    if !is_held {
        remove_pin(&path)?;
    }
    Ok(is_held)
}

/// Puts the program under a pinned link; `false` if the link's interface is gone.
pub(super) fn replace(
    path: &Path,
    program: &mut Xdp,
    interface: &str,
) -> Result<bool, NetworkError> {
    let open = |source| NetworkError::OpenLink { path: path.to_owned(), source };
    let link = FdLink::from(PinnedLink::from_pin(path).map_err(open)?);
    let link = XdpLink::try_from(link).map_err(open)?;
    match program.attach_to_link(link) {
        Ok(_) => Ok(true),
        // kernel: `bpf_xdp_link_update`
        Err(error) if errno(&error) == Some(Errno::ENOLINK) => Ok(false),
        Err(source) => Err(attach_error(interface, source)),
    }
}

fn errno(error: &ProgramError) -> Option<Errno> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}

fn require_mode(
    options: &AttachOptions,
    interface: &str,
    attached: XdpMode,
) -> Result<(), NetworkError> {
    let wanted = match options.mode {
        AttachMode::Native => XdpMode::Native,
        AttachMode::Generic => XdpMode::Generic,
        AttachMode::Auto | AttachMode::Off => return Ok(()),
    };
    if wanted == attached {
        return Ok(());
    }
    Err(NetworkError::ModeDiffers { interface: interface.to_owned(), attached, wanted })
}

/// Puts the program on an interface that has none.
pub(super) fn attach_anew(
    program: &mut Xdp,
    mode: AttachMode,
    interface: &str,
) -> Result<FdLink, NetworkError> {
    if let Some(other) = attachment_of(interface)? {
        return Err(busy(other));
    }
    if mode == AttachMode::Generic {
        return attach_as(program, interface, AyaMode::Skb);
    }
    match attach_as(program, interface, AyaMode::Driver) {
        Err(NetworkError::Attach { source, .. }) if mode == AttachMode::Auto => {
            let link = attach_as(program, interface, AyaMode::Skb)?;
            tracing::warn!(
                interface,
                error = %source,
                "the driver has no native XDP: attached in generic mode, which costs several \
                 times as much per packet"
            );
            Ok(link)
        }
        other => other,
    }
}

/// Names the program that is there already.
pub(super) fn busy(other: Attachment) -> NetworkError {
    let Attachment { interface, mode, program_id } = other;
    NetworkError::Busy { interface, program_id, program: program_name(program_id), mode }
}

/// What a program is called, by the kernel's list of programs, which takes
/// CAP_SYS_ADMIN to read.
fn program_name(id: u32) -> String {
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    let found = programs.filter(|program| program.id() == id).find_map(|program| {
        program.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
    });
    found.unwrap_or_else(|| "name unknown".to_owned())
}

fn attach_as(program: &mut Xdp, interface: &str, mode: AyaMode) -> Result<FdLink, NetworkError> {
    let link = program
        .attach(interface, mode)
        .and_then(|id| program.take_link(id))
        .map_err(|source| attach_error(interface, source))?;
    FdLink::try_from(link).map_err(NetworkError::NoLink)
}

fn attach_error(interface: &str, source: ProgramError) -> NetworkError {
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
    // Before the link goes: whoever puts programs back must not put this back.
    pins.refuse(interface)?;
    let_go(&pins.link(interface))?;
    Ok(true)
}

/// Off at once. A link whose pin is removed lets go in the kernel's own time, and
/// as long as somebody looks at it, such as another loader that asks whose the
/// programs on its interface are; whoever attaches before that finds the interface
/// taken. Should the first step fail, it is so.
fn let_go(link: &Path) -> Result<(), NetworkError> {
    drop(sys::detach_link(link));
    remove_pin(link)
}

/// Takes the programs off every interface and removes every pin; nothing is
/// dropped or counted any more. Needs no daemon and no database.
///
/// # Errors
///
/// If pins cannot be removed.
pub fn off(pins: &Pins) -> Result<Vec<String>, NetworkError> {
    let mut interfaces = Vec::new();
    for pins in pins.others().iter().chain([pins]) {
        for interface in pins.interfaces() {
            let_go(&pins.link(&interface))?;
            interfaces.push(interface);
        }
    }
    pins.remove()?;
    Ok(interfaces)
}
