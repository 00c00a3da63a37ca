//! Very many packets, each from another source, through the program under test:
//! the benchmarks' driver in front of it, see `moderation-ebpf/src/driver.rs`.
//! What became of them is in the kernel's counters.

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use aya_obj::programs::XdpAttachType;
use moderation_ebpf::generator::Generator;

use crate::kernel::Kernel;

/// The object file, as the daemon's build script made it.
static DRIVER_OBJECT: &[u8] = include_bytes_aligned!(env!("DRIVER_OBJECT"));
/// `XDP_ABORTED` of `enum xdp_action`: the driver found no program behind it.
const ABORTED: u32 = 0;

/// The driver in front of a loaded program.
pub struct Flood {
    object: Ebpf,
    generator: Array<MapData, [u64; 3]>,
    /// The kernel empties it when the last handle goes.
    _slot: ProgramArray<MapData>,
}

impl std::fmt::Debug for Flood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flood").finish_non_exhaustive()
    }
}

impl Flood {
    /// In front of that program.
    pub fn through(kernel: &Kernel) -> Result<Self> {
        let mut object = EbpfLoader::new().load(DRIVER_OBJECT).context("cannot load the driver")?;
        let driver: &mut Xdp =
            object.program_mut("driver_frags").context("there is no driver")?.try_into()?;
        driver.load().context("the kernel refuses the driver")?;
        let mut take = |name: &str| {
            object.take_map(name).with_context(|| format!("the driver has no map {name}"))
        };
        let generator = Array::try_from(take("GENERATOR")?)?;
        let mut slot = ProgramArray::try_from(take("TARGET_FRAGS")?)?;
        let target = Xdp::from_pin(kernel.pins().program(), XdpAttachType::Interface)?;
        slot.set(0, target.fd()?, 0).context("the driver cannot jump to the program")?;
        Ok(Self { object, generator, _slot: slot })
    }

    /// Sends the frame so often, each time from one of `span` sources, drawn at
    /// random; see [`moderation_ebpf::generator`] for which.
    pub fn send(&mut self, frame: &[u8], packets: u32, sources: Generator) -> Result<()> {
        self.generator.set(0, sources.words(), 0).context("cannot write to the driver's map")?;
        let driver: &Xdp =
            self.object.program("driver_frags").context("the driver is gone")?.try_into()?;
        let options =
            TestRunOptions { data_in: Some(frame), repeat: packets, ..TestRunOptions::new() };
        let result = driver.test_run(options).context("the kernel does not run the driver")?;
        ensure!(result.return_value != ABORTED, "the driver did not jump");
        Ok(())
    }
}
