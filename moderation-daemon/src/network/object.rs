//! The kernel object that the build embedded, and how it is loaded.

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{ProgramError, SockOps, TestRun as _, TestRunOptions, Xdp},
};
use moderation_common::{
    Seeds, filter_mask, filter_words,
    map::{
        BANS_HOST, BANS_V4, BANS_V6, DAEMON_MAPS, FILTER, GUARD_MAPS, HANDSHAKE_PROGRAM, HEAVY,
        NETS_V4, NETS_V6, PROGRAM, ROOT_MAPS, SKETCH, global,
    },
    sketch_blocks,
};

use super::{NetworkError, Pins};
use crate::config;

/// The object file, as the build made it.
pub static KERNEL_OBJECT: &[u8] = include_bytes_aligned!(env!("KERNEL_OBJECT"));

/// What maps and programs are made with.
#[derive(Clone, Debug)]
pub(super) struct Parameters {
    pub(super) max_bans: u32,
    pub(super) max_networks: u32,
    pub(super) syn: config::Syn,
    pub(super) connections: config::Connections,
    pub(super) ports: config::Ports,
    pub(super) seeds: Seeds,
}

/// Loads maps and programs, on the pinned maps where there are any, else
/// pinning new ones.
pub(super) fn load(pins: &Pins, parameters: &Parameters) -> Result<Ebpf, NetworkError> {
    let Parameters { max_bans, max_networks, syn, connections, ports, seeds } = parameters;
    // Maps that are there keep their size, whatever is configured now, and the
    // program has to go by that.
    let words = size(pins, FILTER)?.unwrap_or(filter_words(*max_bans));
    let blocks = size(pins, SKETCH)?.unwrap_or(2 * sketch_blocks(syn.flood, syn.limit)) / 2;
    let limit = |enabled: bool, limit: u32| if enabled { u64::from(limit) } else { 0 };
    let globals = [
        (global::SEED_A, seeds.a),
        (global::SEED_B, seeds.b),
        (global::FILTER_MASK, filter_mask(words)),
        (global::SKETCH_MASK, u64::from(blocks) - 1),
        (global::SYN_LIMIT, limit(syn.enabled, syn.limit)),
        (global::SYN_HALF_NS, half_ns(syn.window)),
        (global::CONNECTION_LIMIT, limit(connections.enabled, connections.limit)),
        (global::CONNECTION_HALF_NS, half_ns(connections.window)),
        (global::UNBANNED_PORTS, u64::from(ports.cover_bans || ports.explanation.is_some())),
    ];
    let mut loader = EbpfLoader::new();
    for name in DAEMON_MAPS.into_iter().chain(GUARD_MAPS).chain(ROOT_MAPS) {
        loader.map_pin_path(name, pins.map(name));
    }
    for name in [BANS_V4, BANS_V6, BANS_HOST] {
        loader.map_max_entries(name, *max_bans);
    }
    for name in [NETS_V4, NETS_V6] {
        loader.map_max_entries(name, *max_networks);
    }
    loader.map_max_entries(FILTER, words);
    loader.map_max_entries(SKETCH, 2 * blocks);
    loader.map_max_entries(HEAVY, syn.table);
    for (name, value) in &globals {
        loader.override_global(name, value, true);
    }
    let mut object =
        loader.load(KERNEL_OBJECT).map_err(|source| NetworkError::Load(Box::new(source)))?;
    program(&mut object)?.load().map_err(|source| NetworkError::LoadProgram(Box::new(source)))?;
    Ok(object)
}

/// Half a window; see [`moderation_common::RateEntry`].
pub(super) fn half_ns(window: std::time::Duration) -> u64 {
    u64::try_from(window.as_nanos() / 2).unwrap_or(u64::MAX).max(1)
}

/// Entries of a pinned map; `None` if it is not pinned yet.
fn size(pins: &Pins, name: &'static str) -> Result<Option<u32>, NetworkError> {
    if !pins.map(name).exists() {
        return Ok(None);
    }
    let info = pins.open_map(name)?.info().map_err(NetworkError::map("size", name))?;
    Ok(Some(info.max_entries()))
}

/// The XDP program of a loaded object.
pub(super) fn program(object: &mut Ebpf) -> Result<&mut Xdp, NetworkError> {
    object
        .program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or(NetworkError::ObjectIncomplete("XDP program"))
}

/// The program that counts handshakes.
pub(super) fn handshake_program(object: &mut Ebpf) -> Result<&mut SockOps, NetworkError> {
    object
        .program_mut(HANDSHAKE_PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or(NetworkError::ObjectIncomplete("sock_ops program"))
}

/// The program that is pinned, for running it on a frame of one's own: what
/// would it do?
#[derive(Debug)]
pub struct TestProgram(Xdp);

impl TestProgram {
    /// Opens the pinned program; root only.
    ///
    /// # Errors
    ///
    /// If there is no such pin, or it may not be opened.
    pub fn open(pins: &Pins) -> Result<Self, NetworkError> {
        Xdp::from_pin(pins.program(), aya_obj::programs::XdpAttachType::Interface)
            .map(Self)
            .map_err(|source| NetworkError::LoadProgram(Box::new(source)))
    }

    /// Whether a packet with these bytes would be dropped, by the kernel's
    /// `BPF_PROG_TEST_RUN`. The packet is counted like any other.
    ///
    /// # Errors
    ///
    /// The kernel refuses frames shorter than an Ethernet header (14 bytes).
    pub fn drops(&self, frame: &[u8]) -> Result<bool, ProgramError> {
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        Ok(self.0.test_run(options)?.return_value == XDP_DROP)
    }
}

/// `enum xdp_action` in `include/uapi/linux/bpf.h`.
const XDP_DROP: u32 = 1;
