//! The kernel object that the build embedded, and how it is loaded.

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{ProgramError, TestRun as _, TestRunOptions, Xdp},
};
use moderation_common::map::{
    ALLOW_V4, ALLOW_V6, BANS_V4, BANS_V6, COUNTERS, GUARD_V4, GUARD_V6, PROGRAM, SYN_WINDOW_NS,
    SYNS,
};

use super::{NetworkError, Pins};

/// The object file, as the build made it.
pub static KERNEL_OBJECT: &[u8] = include_bytes_aligned!(env!("KERNEL_OBJECT"));

const MAPS: [&str; 8] = [BANS_V4, BANS_V6, ALLOW_V4, ALLOW_V6, GUARD_V4, GUARD_V6, COUNTERS, SYNS];

/// What the maps and the program are made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameters {
    pub(super) max_bans: u32,
    pub(super) syn_window_ns: u64,
}

/// Loads maps and program, on the pinned maps where there are any, else
/// pinning new ones.
pub(super) fn load(pins: &Pins, parameters: Parameters) -> Result<Ebpf, NetworkError> {
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.map_max_entries(BANS_V4, parameters.max_bans);
    loader.map_max_entries(BANS_V6, parameters.max_bans);
    loader.override_global(SYN_WINDOW_NS, &parameters.syn_window_ns, true);
    let mut object =
        loader.load(KERNEL_OBJECT).map_err(|source| NetworkError::Load(Box::new(source)))?;
    program(&mut object)?.load().map_err(|source| NetworkError::LoadProgram(Box::new(source)))?;
    Ok(object)
}

/// The XDP program of a loaded object.
pub(super) fn program(object: &mut Ebpf) -> Result<&mut Xdp, NetworkError> {
    object
        .program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or(NetworkError::ObjectIncomplete("XDP program"))
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
