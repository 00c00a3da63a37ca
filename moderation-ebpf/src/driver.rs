//! The benchmarks' driver, an object of its own that is never installed: it gives the
//! frame another source and jumps to the program under test. It judges nothing and
//! mends no checksum, which no program under test looks at.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// On the host there is nothing to run; the workspace only wants it to build.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        bindings::xdp_action,
        macros::{map, xdp},
        maps::{Array, ProgramArray},
        programs::XdpContext,
    };
    use moderation_ebpf::generator::{self, Generator};

    #[map]
    static GENERATOR: Array<Generator> = Array::with_max_entries(1, 0);

    // Two of everything: the kernel lets a program jump only to one that agrees with it
    // on frames in several buffers (`bpf_prog_map_compatible`).
    #[map]
    static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);
    #[map]
    static TARGET_FRAGS: ProgramArray = ProgramArray::with_max_entries(1, 0);

    #[expect(clippy::needless_pass_by_value, reason = "the signature that the macro calls")]
    #[xdp]
    pub(crate) fn driver(ctx: XdpContext) -> u32 {
        drive(&ctx, &TARGET)
    }

    #[expect(clippy::needless_pass_by_value, reason = "the signature that the macro calls")]
    #[xdp(frags)]
    pub(crate) fn driver_frags(ctx: XdpContext) -> u32 {
        drive(&ctx, &TARGET_FRAGS)
    }

    /// A target that does nothing: what it costs is the driver's own cost.
    #[xdp]
    pub(crate) fn nothing(_ctx: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }

    #[xdp(frags)]
    pub(crate) fn nothing_frags(_ctx: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }

    /// Does not return if there is a target; if there is none, or the frame is no IP, the
    /// benchmark sees an action that none of its targets takes.
    #[inline(always)]
    fn drive(ctx: &XdpContext, target: &ProgramArray) -> u32 {
        if rewrite(ctx).is_some() {
            // SAFETY: nothing here is left to be dropped.
            #[expect(unsafe_code, reason = "control does not come back")]
            unsafe {
                target.tail_call(ctx, 0);
            }
        }
        xdp_action::XDP_ABORTED
    }

    // EtherTypes (IEEE 802 Numbers, IANA), as a little-endian or big-endian CPU reads them.
    const IPV4: u16 = 0x0800_u16.to_be();
    const IPV6: u16 = 0x86dd_u16.to_be();
    const VLAN: u16 = 0x8100_u16.to_be();

    #[inline(always)]
    fn rewrite(ctx: &XdpContext) -> Option<()> {
        let generator = GENERATOR.get_ptr_mut(0)?;
        // SAFETY: array entries live as long as the map, and one test runs at a time.
        #[expect(unsafe_code, reason = "map values are reached by pointer")]
        let index = unsafe { (*generator).draw() };
        // Two branches rather than an offset that varies: the verifier is happier.
        match load::<u16>(ctx, 12)? {
            VLAN => source(ctx, load(ctx, 16)?, 18, index),
            ether_type => source(ctx, ether_type, 14, index),
        }
    }

    /// The store is as wide as the field: a program that then loads all of it at once
    /// would wait for bytes that were stored one by one.
    #[inline(always)]
    fn source(ctx: &XdpContext, ether_type: u16, header: usize, index: u32) -> Option<()> {
        match ether_type {
            IPV4 => store(ctx, header + 12, u32::from_ne_bytes(generator::v4(index))),
            IPV6 => store(ctx, header + 8, u64::from_ne_bytes(generator::v6(index))),
            _ => None,
        }
    }

    #[inline(always)]
    fn load<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
        let field = field::<T>(ctx, offset)?;
        // SAFETY: within the frame. It may be unaligned, which the verifier allows only
        // where the CPU does not mind.
        #[expect(unsafe_code, reason = "packets are addresses here")]
        Some(unsafe { *field })
    }

    #[inline(always)]
    fn store<T: Copy>(ctx: &XdpContext, offset: usize, value: T) -> Option<()> {
        let field = field::<T>(ctx, offset)?;
        // SAFETY: as in `load`; and nobody else holds the frame.
        #[expect(unsafe_code, reason = "packets are addresses here")]
        unsafe {
            *field = value;
        }
        Some(())
    }

    /// Where a field is, if the frame has all of it.
    #[inline(always)]
    fn field<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
        let start = ctx.data() + offset;
        (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    #[expect(unsafe_code, reason = "the kernel looks for the licence in this section")]
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}
