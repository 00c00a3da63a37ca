//! A program that would be loaded again stays where it is; one that is made of
//! anything else gives way.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use aya::maps::{Array, Map, MapData};
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use moderation_common::Reason;
use moderation_common::map::{BANS_V4, HEAVY, PROGRAM, SEEDS};
use moderation_daemon::config::Syn;
use moderation_daemon::network::AttachOptions;
use moderation_tests::frame::{Frame, SOURCE_V4};
use moderation_tests::kernel::{Kernel, detached};

use crate::kernel;

fn program_id(kernel: &Kernel) -> u32 {
    let program = Xdp::from_pin(kernel.pins().program(), XdpAttachType::Interface);
    program.expect("it is pinned").info().expect("the kernel knows it").id()
}

/// Where the loader notes what the program was made of.
fn note(kernel: &Kernel) -> PathBuf {
    kernel.pins().map(&format!("recipe_{PROGRAM}"))
}

fn write_note(kernel: &Kernel, text: &str) {
    fs::remove_file(note(kernel)).expect("there was one");
    symlink(text, note(kernel)).expect("written");
}

fn unpin(kernel: &Kernel, name: &str) {
    fs::remove_file(kernel.pins().map(name)).expect("it was pinned");
}

type Change = (&'static str, fn(&Kernel) -> AttachOptions);

const CHANGES: [Change; 7] = [
    ("a parameter", |_| {
        let options = detached();
        AttachOptions { syn: Syn { limit: options.syn.limit + 1, ..options.syn }, ..options }
    }),
    ("a map that the program does not find in its place any more", |kernel| {
        unpin(kernel, HEAVY);
        detached()
    }),
    ("the map of the bans", |kernel| {
        unpin(kernel, BANS_V4);
        detached()
    }),
    ("the seeds", |kernel| {
        let data = MapData::from_pin(kernel.pins().map(SEEDS)).expect("they are pinned");
        let mut seeds: Array<_, [u64; 2]> = Array::try_from(Map::Array(data)).expect("an array");
        seeds.set(0, [0; 2], 0).expect("written");
        detached()
    }),
    ("another build, whose object is another", |kernel| {
        write_note(kernel, &format!("{}_0123456789abcdef", program_id(kernel)));
        detached()
    }),
    ("a note about another program", |kernel| {
        let noted = fs::read_link(note(kernel)).expect("noted");
        let (_, recipe) = noted.to_str().and_then(|it| it.split_once('_')).expect("two parts");
        write_note(kernel, &format!("{}_{recipe}", program_id(kernel) + 1));
        detached()
    }),
    ("a start that was killed before it noted anything", |kernel| {
        fs::remove_file(note(kernel)).expect("there was one");
        detached()
    }),
];

#[test]
fn a_program_stays_as_long_as_nothing_that_it_is_made_of_is_another() {
    for (what, change) in CHANGES {
        let Some(mut kernel) = kernel() else { return };
        let first = program_id(&kernel);
        kernel.reload(&detached()).expect("loaded");
        assert_eq!(program_id(&kernel), first, "before: {what}");
        let options = change(&kernel);
        kernel.reload(&options).expect("loaded");
        let second = program_id(&kernel);
        assert_ne!(second, first, "{what}");
        kernel.reload(&options).expect("loaded");
        assert_eq!(program_id(&kernel), second, "after: {what}");
        kernel.reopen().expect("opened");
        kernel.ban(SOURCE_V4).expect("banned");
        assert_eq!(
            kernel.judge(&Frame::default().bytes()).expect("judged"),
            Reason::BanV4,
            "{what}"
        );
    }
}
