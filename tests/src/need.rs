//! What a test needs and the machine may lack. Under `MODERATION_REQUIRE_ALL=1`
//! the lack is a failure; otherwise the test says so and ends.

/// `if !need::root() { return; }` at the start of a test in the laboratory.
#[must_use]
pub fn root() -> bool {
    is_met("root", nix::unistd::geteuid().is_root())
}

/// Whether tests that take minutes are wanted (`cargo xtask test --long`).
#[must_use]
pub fn is_long() -> bool {
    std::env::var("MODERATION_TEST_LONG").is_ok_and(|value| value == "1")
}

/// Whether a test may go on; `what` completes "skipped: needs …".
///
/// # Panics
///
/// If it may not and nothing may be skipped.
#[must_use]
pub fn is_met(what: &str, present: bool) -> bool {
    let all = std::env::var_os("MODERATION_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(present || !all, "needs {what}");
    if !present {
        eprintln!("skipped: needs {what}");
    }
    present
}
