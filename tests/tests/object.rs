//! The kernel object as the build embedded it, read as a file: needs no
//! privilege and loads nothing.

use std::collections::BTreeMap;

use aya_obj::generated::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_type};
use aya_obj::{Object, ProgramSection};
use moderation_common::map::{
    ALARMS, ALLOW_HINTS, ALLOW_V4, ALLOW_V6, BANS_HOST, BANS_V4, BANS_V6, CLOCK, CONTROL, COUNTERS,
    DAEMON_MAPS, FILTER, GUARD_HINTS, GUARD_MAPS, GUARD_V4, GUARD_V6, HANDSHAKE_PROGRAM,
    HANDSHAKES, HEAVY, MAX_HANDSHAKES, MAX_PORTS, NETS_V4, NETS_V6, OVERRUN_BYTES, OVERRUNS, PORTS,
    PROGRAM, ROOT_MAPS, SAMPLE_BYTES, SAMPLES, SEEDS, SKETCH, global,
};
use moderation_common::{
    Alarm, BanEntry, Control, Counter, HINT_WORDS, RateEntry, RateKey, Reason, Seeds, SketchBlock,
    filter_words,
};
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
fn there_is_one_program_for_frames_in_several_buffers_and_one_for_handshakes() {
    let object = parsed();
    let mut names: Vec<_> = object.programs.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, [HANDSHAKE_PROGRAM, PROGRAM]);
    let section = &object.programs[PROGRAM].section;
    assert!(matches!(section, ProgramSection::Xdp { frags: true, .. }), "{section:?}");
    assert!(elf().section_by_name("xdp.frags").is_some());
    let section = &object.programs[HANDSHAKE_PROGRAM].section;
    assert!(matches!(section, ProgramSection::SockOps), "{section:?}");
}

/// Type, sizes of key and value, entries, flags.
type Shape = (u32, usize, usize, usize, u32);

/// What maps are made with unless the loader is told otherwise: the default of
/// `network.max_bans` and `network.max_networks`.
const BANS: usize = 1_000_000;
const BLOCKS: usize = 16_384;

fn tries() -> impl Iterator<Item = (&'static str, Shape)> {
    let kind = bpf_map_type::BPF_MAP_TYPE_LPM_TRIE as u32;
    // A trie's key begins with the prefix length (struct bpf_lpm_trie_key).
    let (v4, v6) = (4 + 4, 4 + 16);
    let rows = [
        (NETS_V4, v4, size_of::<BanEntry>(), BLOCKS),
        (NETS_V6, v6, size_of::<BanEntry>(), BLOCKS),
        (ALLOW_V4, v4, 4, MAX_ALLOWED),
        (ALLOW_V6, v6, 4, MAX_ALLOWED),
        (GUARD_V4, v4, 4, MAX_ALLOWED),
        (GUARD_V6, v6, 4, MAX_ALLOWED),
    ];
    rows.into_iter()
        .map(move |(name, key, value, most)| (name, (kind, key, value, most, BPF_F_NO_PREALLOC)))
}

fn hashes() -> impl Iterator<Item = (&'static str, Shape)> {
    let hash = bpf_map_type::BPF_MAP_TYPE_HASH as u32;
    let lru = bpf_map_type::BPF_MAP_TYPE_LRU_HASH as u32;
    let (key, rate) = (size_of::<RateKey>(), size_of::<RateEntry>());
    [
        (BANS_V4, (hash, 4, size_of::<BanEntry>(), BANS, BPF_F_NO_PREALLOC)),
        (BANS_V6, (hash, 8, size_of::<BanEntry>(), BANS, BPF_F_NO_PREALLOC)),
        (BANS_HOST, (hash, 16, size_of::<BanEntry>(), BANS, BPF_F_NO_PREALLOC)),
        (PORTS, (hash, 2, 4, MAX_PORTS as usize, 0)),
        (HEAVY, (hash, key, rate, 16_384, 0)),
        (HANDSHAKES, (lru, key, rate, MAX_HANDSHAKES as usize, 0)),
    ]
    .into_iter()
}

fn arrays_and_rings() -> impl Iterator<Item = (&'static str, Shape)> {
    let array = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let per_cpu = bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32;
    let ring = bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
    let words = HINT_WORDS as usize;
    [
        (FILTER, (array, 4, 8, filter_words(1_000_000) as usize, BPF_F_MMAPABLE)),
        (CONTROL, (array, 4, size_of::<Control>(), 1, 0)),
        (SEEDS, (array, 4, size_of::<Seeds>(), 1, 0)),
        (ALLOW_HINTS, (array, 4, 8, words, 0)),
        (GUARD_HINTS, (array, 4, 8, words, 0)),
        // The loader makes it as long as the flood wants it.
        (SKETCH, (array, 4, size_of::<SketchBlock>(), 2, BPF_F_MMAPABLE)),
        (COUNTERS, (per_cpu, 4, size_of::<Counter>(), Reason::ALL.len(), 0)),
        (ALARMS, (per_cpu, 4, 8, Alarm::ALL.len(), 0)),
        (CLOCK, (per_cpu, 4, 16, 1, 0)),
        (OVERRUNS, (ring, 0, 0, OVERRUN_BYTES as usize, 0)),
        (SAMPLES, (ring, 0, 0, SAMPLE_BYTES as usize, 0)),
    ]
    .into_iter()
}

fn shapes() -> BTreeMap<&'static str, Shape> {
    tries().chain(hashes()).chain(arrays_and_rings()).collect()
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
fn every_map_is_either_the_daemons_or_roots_to_show_or_roots_alone() {
    let mut owned: Vec<_> = DAEMON_MAPS.into_iter().chain(GUARD_MAPS).chain(ROOT_MAPS).collect();
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
fn the_loader_can_set_every_global() {
    let elf = elf();
    for name in [
        global::SEED_A,
        global::SEED_B,
        global::FILTER_MASK,
        global::SKETCH_MASK,
        global::SYN_LIMIT,
        global::SYN_HALF_NS,
        global::CONNECTION_LIMIT,
        global::CONNECTION_HALF_NS,
        global::UNBANNED_PORTS,
    ] {
        let symbol = elf.symbol_by_name(name).unwrap_or_else(|| panic!("there is no {name}"));
        assert_eq!(symbol.size(), 8, "{name}");
        let index = symbol.section_index().expect("it is defined here");
        let section = elf.section_by_index(index).expect("in a section");
        // Only read-only data is frozen before loading.
        assert_eq!(section.name(), Ok(".rodata"), "{name}");
        let value = 7_u64.to_ne_bytes();
        parsed()
            .patch_map_data([(name, (&value[..], true))].into())
            .unwrap_or_else(|error| panic!("aya cannot override {name}: {error}"));
    }
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
