//! Lines that the program writes: each kind once in a while, at its level, and a
//! loader's mistake as an error.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aya::EbpfLoader;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use log::{Level, Log, Metadata, Record};
use moderation_common::map::{
    DAEMON_MAPS, FILTER, GUARD_MAPS, HEAVY, LINES, PROGRAM, ROOT_MAPS, SKETCH, TOLD, global,
};
use moderation_common::{Alarm, Reason};
use moderation_daemon::config::Syn;
use moderation_daemon::network::{AttachOptions, KERNEL_OBJECT, Lines, Pins};
use moderation_tests::frame::{Frame, SOURCE_V4};
use moderation_tests::kernel::{Kernel, detached};
use tokio::time::timeout;

use crate::{kernel, kernel_with};

/// What was said: level, program, text.
type Said = (Level, String, String);

#[derive(Default)]
struct Heard(Mutex<Vec<Said>>);

impl Log for Heard {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let said = (record.level(), record.target().to_owned(), record.args().to_string());
        self.0.lock().expect("nobody panics").push(said);
    }

    fn flush(&self) {}
}

/// All that has been said since the last question.
fn listen(pins: &Pins) -> Vec<Said> {
    let heard = Arc::new(Heard::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut lines = Lines::open(pins, Arc::clone(&heard)).expect("opened");
        // Nothing to read is no error.
        drop(timeout(Duration::from_millis(50), lines.write()).await);
    });
    heard.0.lock().expect("nobody panics").clone()
}

/// At most one of a kind from each CPU that the test has run on.
fn assert_few(said: &[Said], level: Level, text: &str) {
    let cpus = aya::util::online_cpus().expect("there is one").len();
    assert!((1..=cpus).contains(&said.len()), "{said:?}");
    for (found, program, line) in said {
        assert_eq!((*found, program.as_str()), (level, PROGRAM), "{line}");
        assert!(line.contains(text), "{line}");
    }
}

#[test]
fn while_all_is_well_nothing_is_said() {
    let Some(mut kernel) = kernel() else { return };
    kernel.ban(SOURCE_V4).expect("banned");
    for frame in [Frame::default(), Frame::v6(), Frame::from_v4([192, 0, 2, 1].into())] {
        kernel.judge(&frame.bytes()).expect("judged");
    }
    assert_eq!(listen(kernel.pins()), []);
}

#[test]
fn a_flood_of_alarms_is_one_line_of_each_cpu() {
    const TABLE: u32 = 16;
    const LIMIT: u32 = 10;
    let syn = Syn { limit: LIMIT, table: TABLE, ..detached().syn };
    let Some(mut kernel) = kernel_with(&AttachOptions { syn, ..detached() }) else { return };
    for index in 0..2 * TABLE {
        let frame = Frame::from_v4((0x2000_0000 + index).into()).bytes();
        for _ in 0..3 * LIMIT {
            kernel.drops(&frame).expect("judged");
        }
    }
    let alarms = kernel.alarms(Alarm::HeavyFull).expect("read");
    assert!(alarms > u64::from(TABLE * LIMIT), "{alarms}");
    assert_few(&listen(kernel.pins()), Level::Warn, "the exact table is full");
    assert_eq!(listen(kernel.pins()), [], "and that only once");

    // Another kind is news.
    kernel.ban(SOURCE_V4).expect("banned");
    kernel.network.sample(1).expect("switched");
    let frame = Frame::default().bytes();
    while kernel.alarms(Alarm::SampleLost).expect("read") < 100 {
        kernel.drops(&frame).expect("judged");
    }
    assert_few(&listen(kernel.pins()), Level::Warn, "the ring of samples is full");
}

/// Loads the program on pinned maps as a loader would that mistakes the size of
/// the prefilter.
fn load_mistaken(kernel: &Kernel) -> aya::Ebpf {
    let pins = kernel.pins();
    let mut loader = EbpfLoader::new();
    for name in DAEMON_MAPS.into_iter().chain(GUARD_MAPS).chain(ROOT_MAPS) {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.map_max_entries(HEAVY, 16).map_max_entries(SKETCH, 2).map_max_entries(FILTER, 1);
    let mask = u64::from(u32::MAX);
    loader.override_global(global::FILTER_MASK, &mask, true);
    loader.load(KERNEL_OBJECT).expect("the object loads")
}

#[test]
fn a_prefilter_that_is_too_short_is_an_error_that_is_told_and_hides_nobody() {
    let Some(mut kernel) = kernel() else { return };
    kernel.ban(SOURCE_V4).expect("banned");
    let mut object = load_mistaken(&kernel);
    let program: &mut Xdp = object.program_mut(PROGRAM).expect("it").try_into().expect("XDP");
    program.load().expect("the program loads");
    let before = kernel.packets(Reason::BanV4).expect("read");
    let frame = Frame::default().bytes();
    for _ in 0..100 {
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
        program.test_run(options).expect("run");
    }
    assert_eq!(kernel.packets(Reason::BanV4).expect("read"), before + 100, "all are dropped");
    assert_few(&listen(kernel.pins()), Level::Error, "the prefilter is shorter");
}

#[test]
fn maps_of_an_earlier_loader_get_the_ring_with_the_next_load() {
    let Some(mut kernel) = kernel() else { return };
    kernel.ban(SOURCE_V4).expect("banned");
    for map in [LINES, TOLD] {
        fs::remove_file(kernel.pins().map(map)).expect("it was there");
    }
    kernel.reopen().expect("nobody needs it");
    let heard = Arc::new(Heard::default());
    assert!(Lines::open(kernel.pins(), heard).is_err());
    assert!(!kernel.pins().map(LINES).exists(), "who only reads makes nothing");
    kernel.reload(&detached()).expect("loaded");
    assert_eq!(kernel.judge(&Frame::default().bytes()).expect("judged"), Reason::BanV4);
    assert_eq!(listen(kernel.pins()), []);
}
