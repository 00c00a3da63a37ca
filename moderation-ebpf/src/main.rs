//! The kernel programs: the XDP program, one pass over a packet from parsing to
//! a verdict, and the sock_ops program that hears of completed handshakes. Each
//! concern has its file; this one only puts them in order.

#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "atomic addition; the build sets RUSTC_BOOTSTRAP anyway")
)]

#[cfg(target_arch = "bpf")]
mod bans;
#[cfg(target_arch = "bpf")]
mod clock;
#[cfg(target_arch = "bpf")]
mod counters;
#[cfg(target_arch = "bpf")]
mod exempt;
#[cfg(target_arch = "bpf")]
mod log;
#[cfg(target_arch = "bpf")]
mod rates;
#[cfg(target_arch = "bpf")]
mod recent;
#[cfg(target_arch = "bpf")]
mod samples;

/// On the host there is nothing to run; the workspace only wants it to build.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        bindings::{BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, xdp_action},
        macros::{sock_ops, xdp},
        programs::{SockOpsContext, XdpContext},
    };
    use moderation_common::{Reason, Source};
    use moderation_ebpf::parse::{self, Frame, Kind, Malformed, Packet};

    use crate::{bans, counters, exempt, log, rates, samples};

    /// The entry: counts the verdict and maps it to an action. Always inline: on
    /// its own it is handed the packet's ends as numbers, which the verifier
    /// does not take for a packet's.
    #[expect(clippy::needless_pass_by_value, reason = "the signature that the macro calls")]
    #[xdp(frags)]
    #[inline(always)]
    pub(crate) fn moderation(ctx: XdpContext) -> u32 {
        // SAFETY: the kernel keeps data..data_end readable while the program runs.
        #[expect(unsafe_code, reason = "packets are addresses here")]
        let frame = unsafe { Frame::from_raw(ctx.data(), ctx.data_end()) };
        let reason = judge(&frame);
        counters::count(reason, frame.len());
        if Reason::index_drops(reason) { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
    }

    /// The number of the reason. The ban decision needs L2 and L3 only and comes
    /// before any look at L4.
    #[inline(always)]
    fn judge(frame: &Frame<'_>) -> u32 {
        let packet = match parse::network(frame) {
            Ok(Some(packet)) => packet,
            Ok(None) => return Reason::NotIp.index(),
            Err(Malformed) => return Reason::Malformed.index(),
        };
        // An array's only entry is always there.
        let Some(control) = bans::control() else {
            log::no_control();
            return Reason::Pass.index();
        };
        let hash = bans::seeds().hash(packet.source());
        let mut passes_as = Reason::Pass.index();
        if let Some(reason) = bans::find(frame, &packet, hash, control) {
            if control.is_quiet() && !exempt::may_be(frame, &packet) {
                return reason.index();
            }
            let [place, key] = packet.pack();
            let (start, end) = frame.ends();
            let noted = if control.is_quiet() { 0 } else { NOTED };
            let judged = condemned(start, end, place | noted, key, reason.index());
            // An open port is open at everybody's rate.
            if judged != Reason::ExemptPort.index() {
                return judged;
            }
            passes_as = judged;
        }
        match parse::kind(frame, &packet) {
            Kind::Other => passes_as,
            Kind::Fragment => Reason::Fragment.index(),
            Kind::Opening if !rates::is_too_fast(packet.source(), hash) => passes_as,
            Kind::Opening => {
                let [place, key] = packet.pack();
                let (start, end) = frame.ends();
                too_fast(start, end, place, key)
            }
        }
    }

    // Functions of their own, so that the way of an innocent is short and keeps
    // its values in registers. What a packet is comes as plain words, which the
    // verifier follows from the one to the other.

    /// What becomes of a packet against which there is a ban.
    #[inline(never)]
    fn condemned(start: usize, end: usize, place: u64, key: u64, reason: u32) -> u32 {
        // SAFETY: the ends of the packet that the program runs on.
        #[expect(unsafe_code, reason = "packets are addresses here")]
        let frame = unsafe { Frame::from_raw(start, end) };
        let packet = Packet::unpack([place, key]);
        match exempt::from_ban(&frame, &packet) {
            Some(exemption) => exemption.index(),
            None if place & NOTED == 0 => reason,
            None => sentence(&frame, &packet, reason),
        }
    }

    /// Beside a packed packet: it is not simply dropped.
    const NOTED: u64 = 1 << 33;

    /// What becomes of a connection attempt of a source that makes too many.
    #[inline(never)]
    fn too_fast(start: usize, end: usize, place: u64, key: u64) -> u32 {
        // SAFETY: as above.
        #[expect(unsafe_code, reason = "packets are addresses here")]
        let frame = unsafe { Frame::from_raw(start, end) };
        let packet = Packet::unpack([place, key]);
        match exempt::from_rate(&frame, &packet) {
            Some(exemption) => exemption.index(),
            None => sentence(&frame, &packet, Reason::SynRate.index()),
        }
    }

    /// What would be dropped is dropped, unless the program only observes.
    #[inline(always)]
    fn sentence(frame: &Frame<'_>, packet: &Packet, reason: u32) -> u32 {
        let Some(control) = bans::control() else { return reason };
        samples::take(frame, packet, reason, control);
        if control.observe == 0 { reason } else { Reason::ObserveWouldDrop.index() }
    }

    /// Completed handshakes are counted by source; nothing is ever refused here.
    #[expect(clippy::needless_pass_by_value, reason = "the signature that the macro calls")]
    #[sock_ops]
    pub(crate) fn handshakes(ctx: SockOpsContext) -> u32 {
        if ctx.op() == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
            let address = peer(&ctx);
            if let Some(source) = source(address) {
                rates::handshake(source, address);
            }
        }
        1
    }

    /// `AF_INET` and `AF_INET6` of Linux.
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;

    /// The peer's address; that of an IPv4 peer as an IPv4-mapped IPv6 address,
    /// which is what a listener for both families has anyway.
    #[inline(always)]
    fn peer(ctx: &SockOpsContext) -> [u8; 16] {
        let words = match ctx.family() {
            AF_INET => [0, 0, 0xffff_u32.to_be(), ctx.remote_ip4()],
            AF_INET6 => ctx.remote_ip6(),
            _ => [0; 4],
        };
        let mut address = [0; 16];
        let mut at = 0;
        for word in words {
            let [a, b, c, d] = word.to_ne_bytes();
            address[at] = a;
            address[at + 1] = b;
            address[at + 2] = c;
            address[at + 3] = d;
            at += 4;
        }
        address
    }

    /// Whom a handshake counts for: nobody, if it came from this host itself.
    #[inline(always)]
    fn source(address: [u8; 16]) -> Option<Source> {
        const LOOPBACK_V4: u8 = 127;
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        let upper = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let middle = u32::from_ne_bytes([i, j, k, l]);
        let lower = u32::from_ne_bytes([m, n, o, p]);
        if upper != 0 {
            return Some(Source::V6(upper));
        }
        if middle == 0xffff_u32.to_be() && m != LOOPBACK_V4 {
            return Some(Source::V4(lower));
        }
        None
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
