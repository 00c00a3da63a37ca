//! The package in a container; `cargo xtask test-vm` plays the same on Debian's kernels.

use anyhow::Result;
use moderation_tests::machine::{Kind, story};

#[test]
fn the_package_protects_through_crash_reboot_and_upgrade_and_leaves_nothing() -> Result<()> {
    if !Kind::Container.is_here() {
        return Ok(());
    }
    let measured = story::play(Kind::Container)?;
    assert!(measured.transcript.commands() <= 10);
    assert_eq!(measured.exposure.len(), 4);
    Ok(())
}
