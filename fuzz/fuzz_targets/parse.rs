#![no_main]

//! The kernel programs' parser on arbitrary bytes. It must neither panic nor read outside
//! the frame (libFuzzer puts it into an allocation of its size, which the address
//! sanitizer watches), and what it says of a frame must hold for the same frame with
//! more behind it. What the kernel makes of the same code is tested in `tests/`.

use libfuzzer_sys::fuzz_target;
use moderation_common::Source;
use moderation_ebpf::parse::{Frame, Packet, network, opens_connection};

fuzz_target!(|bytes: &[u8]| check(bytes));

fn check(bytes: &[u8]) {
    let frame = Frame::new(bytes);
    assert_eq!(frame.len(), bytes.len());
    // A frame that is cut short may become a whole one; whatever is whole stays what it is.
    let Ok(found) = network(&frame) else { return };
    for tail in [&[0x00; 64], &[0xff; 64]] {
        let longer = [bytes, tail].concat();
        let longer = Frame::new(&longer);
        assert_eq!(network(&longer), Ok(found), "bytes behind the frame changed its source");
        // Its TCP header may be complete only now, so the reverse need not hold.
        let opens = found.is_some_and(|packet| opens_connection(&frame, &packet));
        let still_opens = found.is_some_and(|packet| opens_connection(&longer, &packet));
        assert!(still_opens || !opens, "bytes behind the frame hid its SYN");
    }
    if let Some(packet) = found {
        source_is_of_the_frame(bytes, &packet);
    }
}

/// The source is that of the address, and the address stands in the frame.
fn source_is_of_the_frame(bytes: &[u8], packet: &Packet) {
    let [a, b, c, d, e, f, g, h, ..] = packet.address;
    let (source, octets) = match packet.source() {
        Source::V4(_) => (Source::V4(u32::from_ne_bytes([a, b, c, d])), 4),
        Source::V6(_) => (Source::V6(u64::from_ne_bytes([a, b, c, d, e, f, g, h])), 16),
    };
    assert_eq!(packet.source(), source);
    let (address, rest) = packet.address.split_at(octets);
    assert!(rest.iter().all(|octet| *octet == 0), "more octets than the address has");
    assert!(bytes.windows(octets).any(|window| window == address), "a source from nowhere");
}
