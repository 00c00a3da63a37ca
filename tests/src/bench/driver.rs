//! The driver in front of a program under test: runs it on a frame whose source changes
//! from packet to packet, and says what a packet cost. See `moderation-ebpf/src/driver.rs`.

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use moderation_ebpf::generator::Generator;
use nix::time::{ClockId, clock_gettime};

/// The object file, as the daemon's build script made it.
static DRIVER_OBJECT: &[u8] = include_bytes_aligned!(env!("DRIVER_OBJECT"));

/// Whether a program takes frames in several buffers; its driver must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// Section `xdp`, as xdp-filter.
    Plain,
    /// Section `xdp.frags`, as ours.
    Frags,
}

impl Flavour {
    const fn driver(self) -> &'static str {
        match self {
            Self::Plain => "driver",
            Self::Frags => "driver_frags",
        }
    }

    const fn target(self) -> &'static str {
        match self {
            Self::Plain => "TARGET",
            Self::Frags => "TARGET_FRAGS",
        }
    }

    const fn nothing(self) -> &'static str {
        match self {
            Self::Plain => "nothing",
            Self::Frags => "nothing_frags",
        }
    }
}

/// `enum xdp_action` in `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Drop,
    Pass,
    /// Anything else, such as the driver's own `XDP_ABORTED`.
    Other(u32),
}

impl From<u32> for Action {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::Drop,
            2 => Self::Pass,
            number => Self::Other(number),
        }
    }
}

/// A driver that jumps to one program.
pub(super) struct Driver {
    flavour: Flavour,
    generator: Array<MapData, [u64; 3]>,
    object: Ebpf,
    /// The kernel empties it when the last handle goes.
    slot: ProgramArray<MapData>,
}

impl Driver {
    /// In front of `program`.
    pub(super) fn before(program: &Xdp, flavour: Flavour) -> Result<Self> {
        let mut driver = Self::load(flavour)?;
        driver.slot.set(0, program.fd()?, 0).context(DISAGREE)?;
        Ok(driver)
    }

    /// In front of a program that does nothing.
    pub(super) fn before_nothing(flavour: Flavour) -> Result<Self> {
        let mut driver = Self::load(flavour)?;
        let nothing = load_program(&mut driver.object, flavour.nothing())?;
        driver.slot.set(0, &nothing, 0).context(DISAGREE)?;
        Ok(driver)
    }

    fn load(flavour: Flavour) -> Result<Self> {
        let mut object = EbpfLoader::new().load(DRIVER_OBJECT).context("cannot load the driver")?;
        load_program(&mut object, flavour.driver())?;
        let mut take = |name: &str| {
            object.take_map(name).with_context(|| format!("the driver has no map {name}"))
        };
        let generator = Array::try_from(take("GENERATOR")?)?;
        let slot = ProgramArray::try_from(take(flavour.target())?)?;
        Ok(Self { flavour, generator, object, slot })
    }

    /// From now on, sources are drawn from these indexes.
    pub(super) fn draw_from(&mut self, generator: Generator) -> Result<()> {
        self.generator.set(0, generator.words(), 0).context("cannot write to the driver's map")
    }

    /// Lets the frame through once and says what became of it.
    pub(super) fn once(&self, frame: &[u8]) -> Result<Action> {
        self.repeat(frame, 1)
    }

    /// Nanoseconds a packet, on the processor, over so many packets; an error if the last
    /// of them did not meet with `expected`. Not the kernel's own figure, which is cut
    /// off to whole nanoseconds; and not wall time, in which others may have had the CPU.
    pub(super) fn cost(&self, frame: &[u8], packets: u32, expected: Action) -> Result<f64> {
        let before = cpu_time_ns()?;
        let action = self.repeat(frame, packets)?;
        let spent = cpu_time_ns()? - before;
        ensure!(action == expected, "a packet met with {action:?} instead of {expected:?}");
        Ok(spent / f64::from(packets))
    }

    fn repeat(&self, frame: &[u8], repeat: u32) -> Result<Action> {
        let program: &Xdp =
            self.object.program(self.flavour.driver()).context("the driver is gone")?.try_into()?;
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
        let result = program.test_run(options).context("the kernel does not run the driver")?;
        Ok(Action::from(result.return_value))
    }
}

const DISAGREE: &str = "the kernel does not let the driver jump to the program";

fn load_program(object: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program = object.program_mut(name);
    let program: &mut Xdp =
        program.with_context(|| format!("the driver has no program {name}"))?.try_into()?;
    program.load().with_context(|| format!("the kernel refuses {name}"))?;
    Ok(program.fd()?.try_clone()?)
}

/// Of this thread, as the scheduler counts it.
fn cpu_time_ns() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("no thread clock")?;
    #[expect(clippy::cast_precision_loss, reason = "2^53 ns are a hundred days")]
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}
