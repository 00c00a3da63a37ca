//! The kernel object as the build embedded it, read as a file: needs no
//! privilege and loads nothing.

use std::collections::BTreeMap;

use aya_obj::generated::{BPF_F_NO_PREALLOC, bpf_map_type};
use aya_obj::{Object, ProgramSection};
use moderation_common::map::{
    ALLOW_V4, ALLOW_V6, BANS_V4, BANS_V6, COUNTERS, DAEMON_MAPS, GUARD_V4, GUARD_V6, PROGRAM,
    ROOT_MAPS, SYN_WINDOW_NS, SYNS,
};
use moderation_common::{BanEntry, Counter, Reason, SynEntry, SynKey};
use moderation_daemon::network::{KERNEL_OBJECT, MAX_ALLOWED};
use object::read::elf::ElfFile64;
use object::{Architecture, Object as _, ObjectSection as _, ObjectSymbol as _};

fn parsed() -> Object {
    Object::parse(KERNEL_OBJECT).expect("the object is one that aya reads")
}

fn elf() -> ElfFile64<'static> {
    ElfFile64::parse(KERNEL_OBJECT).expect("the object is ELF")
}

#[test]
fn there_is_one_program_and_it_takes_frames_in_several_buffers() {
    let object = parsed();
    let names: Vec<_> = object.programs.keys().collect();
    assert_eq!(names, [PROGRAM]);
    let section = &object.programs[PROGRAM].section;
    assert!(matches!(section, ProgramSection::Xdp { frags: true, .. }), "{section:?}");
    assert!(elf().section_by_name("xdp.frags").is_some());
}

/// Type, sizes of key and value, entries, flags.
type Shape = (u32, usize, usize, usize, u32);

fn shapes() -> BTreeMap<&'static str, Shape> {
    use bpf_map_type::{
        BPF_MAP_TYPE_HASH as HASH, BPF_MAP_TYPE_LPM_TRIE as TRIE,
        BPF_MAP_TYPE_LRU_HASH as LRU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY as PERCPU_ARRAY,
    };
    let entry = size_of::<BanEntry>();
    // A trie's key begins with the prefix length (struct bpf_lpm_trie_key).
    let (v4_prefix, v6_prefix) = (4 + 4, 4 + 16);
    BTreeMap::from([
        (BANS_V4, (HASH as u32, 4, entry, 1_000_000, BPF_F_NO_PREALLOC)),
        (BANS_V6, (HASH as u32, 8, entry, 1_000_000, BPF_F_NO_PREALLOC)),
        (ALLOW_V4, (TRIE as u32, v4_prefix, 4, MAX_ALLOWED, BPF_F_NO_PREALLOC)),
        (ALLOW_V6, (TRIE as u32, v6_prefix, 4, MAX_ALLOWED, BPF_F_NO_PREALLOC)),
        (GUARD_V4, (TRIE as u32, v4_prefix, 4, MAX_ALLOWED, BPF_F_NO_PREALLOC)),
        (GUARD_V6, (TRIE as u32, v6_prefix, 4, MAX_ALLOWED, BPF_F_NO_PREALLOC)),
        (COUNTERS, (PERCPU_ARRAY as u32, 4, size_of::<Counter>(), Reason::ALL.len(), 0)),
        (SYNS, (LRU_HASH as u32, size_of::<SynKey>(), size_of::<SynEntry>(), 65_536, 0)),
    ])
}

#[test]
fn every_map_has_the_shape_that_the_daemon_relies_on() {
    let object = parsed();
    let shapes = shapes();
    for (name, expected) in &shapes {
        let map = object.maps.get(*name).unwrap_or_else(|| panic!("there is no map {name}"));
        let size = |size: u32| usize::try_from(size).expect("32 bits fit");
        let shape: Shape = (
            map.map_type(),
            size(map.key_size()),
            size(map.value_size()),
            size(map.max_entries()),
            map.map_flags(),
        );
        assert_eq!(shape, *expected, "{name}");
    }
    let named: Vec<_> = object.maps.keys().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(named.len(), shapes.len(), "no map that nobody knows: {named:?}");
}

#[test]
fn every_map_is_either_the_daemons_or_roots() {
    let mut owned: Vec<_> = DAEMON_MAPS.into_iter().chain(ROOT_MAPS).collect();
    owned.sort_unstable();
    assert_eq!(owned, shapes().into_keys().collect::<Vec<_>>());
}

#[test]
fn the_licence_is_one_that_the_kernel_takes_for_gpl_compatible() {
    let elf = elf();
    let section = elf.section_by_name("license").expect("there is a licence");
    // include/linux/license.h, license_is_gpl_compatible
    assert_eq!(section.data().expect("it has contents"), b"Dual MIT/GPL\0");
    assert_eq!(parsed().license.as_bytes(), b"Dual MIT/GPL");
}

#[test]
fn the_loader_can_set_the_syn_window() {
    let elf = elf();
    let symbol = elf.symbol_by_name(SYN_WINDOW_NS).expect("the global is there");
    assert_eq!(symbol.size(), 8);
    let index = symbol.section_index().expect("it is defined here");
    let section = elf.section_by_index(index).expect("in a section");
    assert_eq!(section.name(), Ok(".rodata"), "only read-only data is frozen before loading");
    let mut object = parsed();
    let window = 7_u64.to_ne_bytes();
    object
        .patch_map_data([(SYN_WINDOW_NS, (&window[..], true))].into())
        .expect("aya can override it");
}

#[test]
fn the_object_is_for_bpf_and_carries_btf() {
    let elf = elf();
    assert_eq!(elf.architecture(), Architecture::Bpf);
    for name in [".BTF", ".BTF.ext"] {
        let section = elf.section_by_name(name).unwrap_or_else(|| panic!("there is no {name}"));
        // linux/btf.h: the magic number in the byte order of the target
        assert_eq!(section.data().expect("it has contents")[..2], 0xeb9f_u16.to_ne_bytes());
    }
    assert!(parsed().btf.is_some(), "aya understands the BTF");
}
