//! The XDP program: one pass over a packet, from parsing to a verdict. Each
//! concern has its file; this one only puts them in order.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod bans;
#[cfg(target_arch = "bpf")]
mod counters;
#[cfg(target_arch = "bpf")]
mod rates;

/// On the host there is nothing to run; the workspace only wants it to build.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
    use moderation_common::Reason;
    use moderation_ebpf::parse::{self, Frame, Malformed};

    use crate::{bans, counters, rates};

    /// The entry: counts the verdict and maps it to an action.
    #[expect(clippy::needless_pass_by_value, reason = "the signature that the macro calls")]
    #[xdp(frags)]
    pub(crate) fn moderation(ctx: XdpContext) -> u32 {
        // SAFETY: the kernel keeps data..data_end readable while the program runs.
        #[expect(unsafe_code, reason = "packets are addresses here")]
        let frame = unsafe { Frame::from_raw(ctx.data(), ctx.data_end()) };
        let reason = judge(&frame);
        counters::count(reason, frame.len());
        if reason.drops() { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
    }

    /// The ban decision needs L2 and L3 only and comes before any look at L4.
    #[inline(always)]
    fn judge(frame: &Frame<'_>) -> Reason {
        let packet = match parse::network(frame) {
            Ok(Some(packet)) => packet,
            Ok(None) => return Reason::NotIp,
            Err(Malformed) => return Reason::Malformed,
        };
        let verdict = bans::judge(&packet);
        if !verdict.drops() && parse::opens_connection(frame, &packet) {
            rates::count(packet.source);
        }
        verdict
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    /// Helpers such as `bpf_ktime_get_boot_ns` are only given to programs
    /// under a licence compatible with the GPL; this code is MIT or Apache-2.0
    /// for everyone else.
    #[expect(unsafe_code, reason = "the kernel looks for the licence in this section")]
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}
