//! The peer of the data path: xdp-filter's own program, a deny list by IP address, with
//! two rules. Loaded from its object file rather than by its tool: since Linux 6.12
//! nothing may jump to a program that the dispatcher has extended.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::maps::{PerCpuHashMap, PerCpuValues};
use aya::programs::Xdp;
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, Pod};

use crate::kernel::Pinboard;

/// Passes what no rule drops. The other one, `xdpfilt_dny_ip.o`, denies by default and
/// is for lists of who may pass.
const OBJECT: &str = "xdpfilt_alw_ip.o";
const PROGRAM: &str = "xdpfilt_alw_ip";

/// `MAP_FLAG_SRC` of xdp-filter: the rule is about sources. The bits from the sixth on
/// count the rule's packets.
const SOURCE_RULE: u64 = 1;

/// xdp-filter's program, loaded.
pub(super) struct XdpFilter {
    object: Ebpf,
}

impl XdpFilter {
    /// Loads it with a rule for each of these sources.
    pub(super) fn denying(sources: &[IpAddr]) -> Result<Self> {
        let path = find()?;
        let what = || format!("cannot load {}", path.display());
        // Its maps insist on being pinned; open maps need no pin.
        let board = Pinboard::reserve()?;
        fs::create_dir(board.path()).context("cannot make a folder for xdp-filter's pins")?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(board.path());
        let mut object = loader.load_file(&path).with_context(what)?;
        program_mut(&mut object)?.load().with_context(what)?;
        for source in sources {
            match source {
                IpAddr::V4(ip) => deny(&mut object, "filter_ipv4", ip.octets())?,
                IpAddr::V6(ip) => deny(&mut object, "filter_ipv6", ip.octets())?,
            }
        }
        Ok(Self { object })
    }

    /// The program.
    pub(super) fn program(&mut self) -> Result<&Xdp> {
        program_mut(&mut self.object).map(|program| &*program)
    }
}

fn program_mut(object: &mut Ebpf) -> Result<&mut Xdp> {
    let program = object.program_mut(PROGRAM).context("it holds no program that we know")?;
    Ok(program.try_into()?)
}

fn deny<const N: usize>(object: &mut Ebpf, map: &str, source: [u8; N]) -> Result<()>
where
    [u8; N]: Pod,
{
    let map = object.map_mut(map).with_context(|| format!("xdp-filter has no map {map}"))?;
    let mut rules = PerCpuHashMap::<_, [u8; N], u64>::try_from(map)?;
    let cpus = nr_cpus().map_err(|(_, error)| error).context("cannot count processors")?;
    let rule = PerCpuValues::try_from(vec![SOURCE_RULE; cpus])?;
    rules.insert(source, rule, 0).context("cannot write xdp-filter's rule")
}

/// Where libraries of the system keep their kernel objects.
fn find() -> Result<PathBuf> {
    let architectures = fs::read_dir("/usr/lib").context("cannot list /usr/lib")?;
    let mut folders: Vec<PathBuf> =
        architectures.flatten().map(|entry| entry.path().join("bpf")).collect();
    folders.extend(["/usr/lib/bpf", "/usr/lib64/bpf"].map(PathBuf::from));
    let found = folders.iter().map(|folder| folder.join(OBJECT)).find(|path| path.is_file());
    found.with_context(|| format!("{OBJECT} of xdp-filter is missing; install xdp-tools"))
}
