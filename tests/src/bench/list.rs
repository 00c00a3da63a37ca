//! A million addresses as files: as a plain list, which is ours, and in the languages of
//! the peers. Writes files and runs nothing.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use moderation_ebpf::generator;

/// How many addresses the big benchmarks are about.
pub(super) const MILLION: u32 = 1_000_000;

/// The address of one source; see [`generator`].
pub(super) fn address(index: u32) -> IpAddr {
    Ipv4Addr::from(generator::v4(index)).into()
}

/// Names of table or set, the same for all peers.
pub(super) const SET: &str = "banned";
/// The table of nftables.
pub(super) const TABLE: &str = "bench";

/// A list in several languages.
#[derive(Clone, Copy, Debug)]
pub(super) enum Language {
    /// One address a line.
    Plain,
    /// A script for `nft -f`: a table with one set, whose elements have no timeout.
    Nft,
    /// What `ipset save` prints and `ipset restore` reads.
    Ipset,
}

/// Writes the addresses of these indexes into a new file of the folder.
pub(super) fn write(folder: &Path, indexes: Range<u32>, language: Language) -> Result<PathBuf> {
    let path = folder.join(format!("{language:?}-{}.txt", indexes.start).to_lowercase());
    let what = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(&path).with_context(what)?);
    for line in lines(indexes, language) {
        writeln!(file, "{line}").with_context(what)?;
    }
    file.into_inner().with_context(what)?.sync_all().with_context(what)?;
    Ok(path)
}

fn lines(indexes: Range<u32>, language: Language) -> Box<dyn Iterator<Item = String>> {
    let count = indexes.len();
    let addresses = indexes.map(address);
    match language {
        Language::Plain => Box::new(addresses.map(|address| address.to_string())),
        Language::Nft => {
            let table = format!("table inet {TABLE} {{\nset {SET} {{\ntype ipv4_addr");
            let head = format!("{table}\nelements = {{");
            let body = addresses.map(|address| format!("{address},"));
            Box::new([head].into_iter().chain(body).chain(["}\n}\n}".to_owned()]))
        }
        Language::Ipset => {
            // As large from the start as it will be in the end, as ipset itself saves it.
            let room = count.next_power_of_two();
            let head = format!("create {SET} hash:ip family inet hashsize {room} maxelem {room}");
            let body = addresses.map(|address| format!("add {SET} {address}"));
            Box::new([head].into_iter().chain(body))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(language: Language) -> String {
        lines(0..3, language).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn all_languages_name_the_same_addresses() {
        let plain = text(Language::Plain);
        assert_eq!(plain.lines().count(), 3);
        for address in plain.lines() {
            assert!(text(Language::Nft).contains(&format!("\n{address},")), "{address}");
            assert!(
                text(Language::Ipset).contains(&format!("\nadd banned {address}")),
                "{address}"
            );
        }
    }

    #[test]
    fn a_set_of_ipset_has_room_for_its_list() {
        assert!(text(Language::Ipset).starts_with("create banned hash:ip family inet hashsize 4 "));
    }
}
