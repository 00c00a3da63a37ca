//! The XDP program on frames that no network stack would send, through the
//! kernel's own `BPF_PROG_TEST_RUN`. Frames shorter than an Ethernet header,
//! which the kernel does not run, are the affair of the parser's unit tests.

mod corpus;
mod maps;
mod random;
mod syns;

use moderation_tests::kernel::{Kernel, detached};
use moderation_tests::need;

/// A loaded program with maps of its own; `None` if the test is to be skipped.
fn kernel() -> Option<Kernel> {
    need::root().then(|| Kernel::with(&detached()).expect("the program loads"))
}
