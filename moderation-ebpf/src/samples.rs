//! Dropped packets to look at, one in so many, while somebody looks.

use aya_ebpf::{helpers::bpf_get_prandom_u32, macros::map, maps::RingBuf};
use moderation_common::{Alarm, Control, Sample, Source, map::SAMPLE_BYTES};
use moderation_ebpf::parse::{Frame, Packet, destination};

use crate::{clock, counters};

#[map]
static SAMPLES: RingBuf = RingBuf::with_byte_size(SAMPLE_BYTES, 0);

/// Puts a packet on the ring, if it is its turn.
#[inline(always)]
pub(crate) fn take(frame: &Frame<'_>, packet: &Packet, reason: u32, control: &Control) {
    let every = control.sample_every;
    if every == 0 {
        return;
    }
    // SAFETY: the helper only draws a number.
    #[expect(unsafe_code, reason = "every kernel helper is foreign code")]
    let drawn = unsafe { bpf_get_prandom_u32() };
    if drawn % every != 0 {
        return;
    }
    let to = destination(frame, packet);
    let (port, protocol) = to.map_or((0, 0), |to| (to.port, u16::from(to.protocol)));
    let family = match packet.source() {
        Source::V4(_) => 4,
        Source::V6(_) => 6,
    };
    let Some(mut slot) = SAMPLES.reserve::<Sample>(0) else {
        return counters::alarm(Alarm::SampleLost);
    };
    slot.write(Sample {
        at_ns: clock::boot_ns(),
        address: packet.octets(frame),
        family,
        reason,
        bytes: u32::try_from(frame.len()).unwrap_or(u32::MAX),
        port,
        protocol,
    });
    slot.submit(0);
}
