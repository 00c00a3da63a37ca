//! An object of its own with nothing but the map of lines. aya-log takes its map
//! out of an object that was loaded, and the daemon may load nothing: from this
//! one it is given the map that a loader has pinned.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// On the host there is nothing to run; the workspace only wants it to build.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{macros::map, maps::RingBuf};
    use moderation_common::map::LINE_BYTES;

    #[map(name = "AYA_LOGS")]
    static LINES: RingBuf = RingBuf::with_byte_size(LINE_BYTES, 0);

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
