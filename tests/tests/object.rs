//! The kernel object as the build embedded it, read as a file: needs no
//! privilege and loads nothing.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::generated::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_type};
use aya_obj::{Object, ProgramSection};
use moderation_common::map::{
    ALARMS, ALLOW_HINTS, ALLOW_V4, ALLOW_V6, BANS_HOST, BANS_V4, BANS_V6, CLOCK, CONTROL, COUNTERS,
    DAEMON_MAPS, FILTER, GUARD_HINTS, GUARD_MAPS, GUARD_V4, GUARD_V6, HANDSHAKE_PROGRAM,
    HANDSHAKES, HEAVY, LINE_BYTES, LINE_KINDS, LINES, MAX_HANDSHAKES, MAX_PORTS, NETS_V4, NETS_V6,
    OVERRUN_BYTES, OVERRUNS, PORTS, PROGRAM, RECENT, ROOT_MAPS, SAMPLE_BYTES, SAMPLES, SEEDS,
    SKETCH, TOLD, global,
};
use moderation_common::{
    Alarm, BanEntry, Control, Counter, HINT_WORDS, RateEntry, RateKey, Reason, SKETCH_BLOCK_BYTES,
    Seeds, filter_words,
};
use moderation_daemon::network::{KERNEL_OBJECT, LINES_OBJECT, MAX_ALLOWED};
use object::read::elf::ElfFile64;
use object::{Architecture, Object as _, ObjectSection as _, ObjectSymbol as _};

fn parsed() -> Object {
    Object::parse(KERNEL_OBJECT).expect("the object is one that aya reads")
}

fn elf() -> ElfFile64<'static> {
    ElfFile64::parse(KERNEL_OBJECT).expect("the object is ELF")
}

#[test]
fn there_are_two_programs_and_the_one_for_packets_takes_frames_in_several_buffers() {
    let object = parsed();
    let names: BTreeSet<_> = object.programs.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from([PROGRAM, HANDSHAKE_PROGRAM]));
    let section = &object.programs[PROGRAM].section;
    assert!(matches!(section, ProgramSection::Xdp { frags: true, .. }), "{section:?}");
    assert!(elf().section_by_name("xdp.frags").is_some());
    let section = &object.programs[HANDSHAKE_PROGRAM].section;
    assert!(matches!(section, ProgramSection::SockOps), "{section:?}");
}

/// Type, sizes of key and value, entries, flags.
type Shape = (u32, usize, usize, usize, u32);

/// What the loader does not set otherwise.
const MAX_BANS: u32 = 1_000_000;

const fn of(size: u32) -> usize {
    size as usize
}

fn ban_shapes() -> Vec<(&'static str, Shape)> {
    use bpf_map_type::{
        BPF_MAP_TYPE_ARRAY as ARRAY, BPF_MAP_TYPE_HASH as HASH, BPF_MAP_TYPE_LPM_TRIE as TRIE,
    };
    let entry = size_of::<BanEntry>();
    let exact = |key| (HASH as u32, key, entry, of(MAX_BANS), BPF_F_NO_PREALLOC);
    // A trie's key begins with the prefix length (struct bpf_lpm_trie_key).
    let trie =
        |octets: usize, value, most| (TRIE as u32, 4 + octets, value, most, BPF_F_NO_PREALLOC);
    vec![
        (BANS_V4, exact(4)),
        (BANS_V6, exact(8)),
        (BANS_HOST, exact(16)),
        (NETS_V4, trie(4, entry, 16_384)),
        (NETS_V6, trie(16, entry, 16_384)),
        (FILTER, (ARRAY as u32, 4, 8, of(filter_words(MAX_BANS)), BPF_F_MMAPABLE)),
        (CONTROL, (ARRAY as u32, 4, size_of::<Control>(), 1, 0)),
        (SEEDS, (ARRAY as u32, 4, size_of::<Seeds>(), 1, 0)),
        (ALLOW_V4, trie(4, 4, MAX_ALLOWED)),
        (ALLOW_V6, trie(16, 4, MAX_ALLOWED)),
        (GUARD_V4, trie(4, 4, MAX_ALLOWED)),
        (GUARD_V6, trie(16, 4, MAX_ALLOWED)),
        (ALLOW_HINTS, (ARRAY as u32, 4, 8, of(HINT_WORDS), 0)),
        (GUARD_HINTS, (ARRAY as u32, 4, 8, of(HINT_WORDS), 0)),
        (PORTS, (HASH as u32, 2, 4, of(MAX_PORTS), 0)),
    ]
}

fn count_shapes() -> Vec<(&'static str, Shape)> {
    use bpf_map_type::{
        BPF_MAP_TYPE_ARRAY as ARRAY, BPF_MAP_TYPE_HASH as HASH, BPF_MAP_TYPE_LRU_HASH as LRU_HASH,
        BPF_MAP_TYPE_PERCPU_ARRAY as PERCPU_ARRAY, BPF_MAP_TYPE_RINGBUF as RING,
    };
    let (key, entry) = (size_of::<RateKey>(), size_of::<RateEntry>());
    vec![
        (COUNTERS, (PERCPU_ARRAY as u32, 4, size_of::<Counter>(), Reason::ALL.len(), 0)),
        (ALARMS, (PERCPU_ARRAY as u32, 4, 8, Alarm::ALL.len(), 0)),
        (CLOCK, (PERCPU_ARRAY as u32, 4, 24, 1, 0)),
        (RECENT, (PERCPU_ARRAY as u32, 4, 24, 64, 0)),
        (SKETCH, (ARRAY as u32, 4, of(SKETCH_BLOCK_BYTES), 2, BPF_F_MMAPABLE)),
        (HEAVY, (HASH as u32, key, entry, 16_384, 0)),
        (HANDSHAKES, (LRU_HASH as u32, key, entry, of(MAX_HANDSHAKES), 0)),
        (OVERRUNS, (RING as u32, 0, 0, of(OVERRUN_BYTES), 0)),
        (SAMPLES, (RING as u32, 0, 0, of(SAMPLE_BYTES), 0)),
        (LINES, (RING as u32, 0, 0, of(LINE_BYTES), 0)),
        (TOLD, (PERCPU_ARRAY as u32, 4, 8, of(LINE_KINDS), 0)),
    ]
}

fn shapes() -> BTreeMap<&'static str, Shape> {
    ban_shapes().into_iter().chain(count_shapes()).collect()
}

fn shape_of(object: &Object, name: &str) -> Shape {
    let map = object.maps.get(name).unwrap_or_else(|| panic!("there is no map {name}"));
    let (key, value) = (of(map.key_size()), of(map.value_size()));
    (map.map_type(), key, value, of(map.max_entries()), map.map_flags())
}

#[test]
fn every_map_has_the_shape_that_the_daemon_relies_on() {
    let object = parsed();
    let shapes = shapes();
    for (name, expected) in &shapes {
        assert_eq!(shape_of(&object, name), *expected, "{name}");
    }
    let named: Vec<_> = object.maps.keys().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(named.len(), shapes.len(), "no map that nobody knows: {named:?}");
}

#[test]
fn what_the_daemon_opens_the_ring_of_lines_by_is_that_ring_and_nothing_else() {
    let object = Object::parse(LINES_OBJECT).expect("the object is one that aya reads");
    assert!(object.programs.is_empty() && object.maps.len() == 1, "{object:?}");
    assert_eq!(shape_of(&object, LINES), shapes()[LINES]);
}

#[test]
fn bans_are_in_no_map_that_forgets() {
    use bpf_map_type::{BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH};
    // Whoever caused many bans, or looked heavy often, would push out the old.
    let forgetful = [BPF_MAP_TYPE_LRU_HASH as u32, BPF_MAP_TYPE_LRU_PERCPU_HASH as u32];
    let maps = parsed().maps.into_iter();
    let found = maps.filter(|(_, map)| forgetful.contains(&map.map_type()));
    assert_eq!(found.map(|(name, _)| name).collect::<Vec<_>>(), [HANDSHAKES]);
}

#[test]
fn every_map_is_either_the_daemons_or_roots() {
    let all = DAEMON_MAPS.into_iter().chain(GUARD_MAPS).chain(ROOT_MAPS);
    let mut owned: Vec<_> = all.collect();
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
    let globals = [
        global::SEED_A,
        global::SEED_B,
        global::FILTER_MASK,
        global::SKETCH_MASK,
        global::SYN_LIMIT,
        global::SYN_HALF_NS,
        global::CONNECTION_LIMIT,
        global::CONNECTION_HALF_NS,
    ];
    for name in globals {
        let symbol = elf.symbol_by_name(name).unwrap_or_else(|| panic!("there is no {name}"));
        assert_eq!(symbol.size(), 8, "{name}");
        let index = symbol.section_index().expect("it is defined here");
        let section = elf.section_by_index(index).expect("in a section");
        // Only read-only data is frozen before loading, and so a constant.
        assert_eq!(section.name(), Ok(".rodata"), "{name}");
        let value = 7_u64.to_ne_bytes();
        parsed().patch_map_data([(name, (&value[..], true))].into()).expect(name);
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
