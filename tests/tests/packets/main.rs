//! The XDP program on frames that no network stack would send, through the
//! kernel's own `BPF_PROG_TEST_RUN`. Frames shorter than an Ethernet header,
//! which the kernel does not run, are the affair of the parser's unit tests.

mod corpus;
mod exempt;
mod random;

mod filter;
mod maps;
mod migrate;
mod nets;
mod sweep;

mod lines;
mod rates;
mod samples;
mod syns;

use moderation_common::BanEntry;
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::AttachOptions;
use moderation_tests::kernel::{Kernel, detached};
use moderation_tests::need;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const FOR_EVER: BanEntry = BanEntry { expires_at_ns: BanEntry::NEVER };
const HOUR_NS: u64 = 3_600_000_000_000;

/// A loaded program with maps of its own; `None` if the test is to be skipped.
fn kernel() -> Option<Kernel> {
    kernel_with(&detached())
}

/// The same with other options.
fn kernel_with(options: &AttachOptions) -> Option<Kernel> {
    need::root().then(|| Kernel::with(options).expect("the program loads"))
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

/// Runs properties on the same cases each time.
fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}
