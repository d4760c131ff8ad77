//! Answers STUN Binding requests on the SIP port in place (RFC 5626 §8, RFC 8489): the sender learns
//! its address as it is seen here, and that this host can reach a backend.
//!
//! Functions of their own, which the verifier walks once, and several of them, as the stack of a chain
//! of calls is 512 bytes. The answer replaces the request from the IP header on, so that neither IP
//! options nor extension headers are reflected.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
};
use lb_common::{
    addr::{Addr, Mac, UDP},
    checksum::Update,
    sip::Window as _,
    stun::{self, Kind},
    verdict::{Exit, Verdict},
};

use crate::{
    packet::{Packet, Payload},
    pipeline::{Call, Outcome},
};

/// What [`stun`] returns.
mod result {
    pub(super) const ANSWERED: u32 = 1;
    pub(super) const REFUSED: u32 = 2;
    pub(super) const OTHER: u32 = 3;
    pub(super) const MALFORMED: u32 = 4;
    pub(super) const NO_ROOM: u32 = 5;
    pub(super) const FAULT: u32 = 6;
}

/// Hop limit of an answer.
const HOPS: u8 = 64;
/// Bytes of the headers of an answer.
const IPV4: u32 = 20;
const IPV6: u32 = 40;
const UDP_HEADER: u32 = 8;
/// Bit of the argument of [`stun`] that says IPv4.
const IS_V4: u64 = 1 << 63;

/// Turns a Binding request into its answer; `None` for any other STUN message.
#[inline(always)]
pub fn answer(call: &Call) -> Result<Option<Outcome>, Verdict> {
    let is_v4 = if call.datagram.is_v4.is_set() { IS_V4 } else { 0 };
    let packed = call.payload.pack(call.datagram.l3) | is_v4;
    let result = call.packet.forget(stun(call.packet.context(), packed));
    let verdict = match result {
        result::ANSWERED => Verdict::Stun,
        result::REFUSED => Verdict::StunRefused,
        result::OTHER => return Ok(None),
        result::MALFORMED => return Err(Verdict::StunMalformed),
        result::NO_ROOM => return Err(Verdict::NoHeadroom),
        _ => return Err(Verdict::OutOfBounds),
    };
    Ok(Some(Outcome { verdict, exit: Exit::Tx }))
}

/// `packed` is the place of the payload and the offset of the IP header (see [`Payload::pack`]), and
/// [`IS_V4`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stun(ctx: *mut xdp_md, packed: u64) -> u32 {
    reply(Packet::of(ctx), packed).unwrap_or(result::FAULT)
}

/// Bits of what [`stun_read`] returns: a Binding request, nothing wrong; malformed; four bits with the
/// number of unknown attributes; then the offset of the FINGERPRINT.
const BINDING: u64 = 1;
const MALFORMED: u64 = 2;
const UNKNOWN_SHIFT: u32 = 4;
const FINGERPRINT_SHIFT: u32 = 8;

/// Reads the request whose payload's place is `packed`. With `types` other than 0: the types of unknown
/// attributes; else the bits above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stun_read(ctx: *mut xdp_md, packed: u64, types: u32) -> u64 {
    let (payload, _) = Payload::unpack(Packet::of(ctx), packed);
    let Some(request) = stun::read(&payload) else { return MALFORMED };
    if types != 0 {
        return request.types;
    }
    let kind = match request.kind {
        Kind::Binding => BINDING,
        Kind::Other => 0,
        Kind::Malformed => MALFORMED,
    };
    kind | u64::from(request.unknown) << UNKNOWN_SHIFT
        | u64::from(request.fingerprint) << FINGERPRINT_SHIFT
}

/// CRC-32 of the start of the payload whose place and part are `packed`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stun_crc(ctx: *mut xdp_md, packed: u64) -> u32 {
    let (payload, len) = Payload::unpack(Packet::of(ctx), packed);
    // Out of bounds cannot happen; a wrong sum ends in an answer that its receiver discards.
    stun::crc(&payload, len).unwrap_or(0)
}

/// Writes the UDP checksum of an answer whose message and IP header are `packed`, as that of [`stun`];
/// 1 = done.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stun_checksum(ctx: *mut xdp_md, packed: u64) -> u32 {
    write_checksum(Packet::of(ctx), packed).is_some().into()
}

/// Makes room for `shift` bytes at the front of the packet of [`stun`], and moves MACs, swapped, and VLAN
/// tags there. 1 = done; 2, and nothing done, if there is no room.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stun_turn(ctx: *mut xdp_md, packed: u64, shift: u32) -> u32 {
    turn_round(Packet::of(ctx), packed, shift & 0xfff).unwrap_or(0)
}

/// Moves the IP addresses, swapped, to where the answer wants them, from `shift` bytes behind where the
/// packet of [`stun`] had them; 1 = done.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stun_move_ip(ctx: *mut xdp_md, packed: u64, shift: u32) -> u32 {
    move_addresses(Packet::of(ctx), packed, shift & 0xfff).is_some().into()
}

/// Moves ports, swapped, and the transaction id; as [`stun_move_ip`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stun_move_udp(ctx: *mut xdp_md, packed: u64, shift: u32) -> u32 {
    move_message(Packet::of(ctx), packed, shift & 0xfff).is_some().into()
}

/// 1 if the sender of the packet of [`stun`] can be answered.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stun_source(ctx: *mut xdp_md, packed: u64) -> u32 {
    can_be_answered(Packet::of(ctx), packed).unwrap_or(false).into()
}

/// Writes XOR-MAPPED-ADDRESS into the answer; argument and result as [`stun_checksum`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stun_mapped(ctx: *mut xdp_md, packed: u64) -> u32 {
    let packet = Packet::of(ctx);
    let (message, l3) = Payload::unpack(packet, packed);
    write_mapped(packet, message.start(), l3, packed & IS_V4 != 0).is_some().into()
}

/// Writes ERROR-CODE and UNKNOWN-ATTRIBUTES into the answer; arguments and result as [`stun_checksum`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stun_refusal(ctx: *mut xdp_md, packed: u64, unknown: u32, types: u64) -> u32 {
    let packet = Packet::of(ctx);
    let (message, _) = Payload::unpack(packet, packed);
    write_refusal(packet, message.start() + stun::HEADER, unknown, types).is_some().into()
}

#[inline(always)]
fn reply(packet: Packet, packed: u64) -> Option<u32> {
    let (payload, l3) = Payload::unpack(packet, packed);
    let l3 = l3 & 0x3f;
    let is_v4 = packed & IS_V4 != 0;
    let request = payload.forget_all(stun_read(packet.context(), packed, 0) as u32);
    if request & MALFORMED as u32 != 0 {
        return Some(result::MALFORMED);
    }
    if request & BINDING as u32 == 0 {
        return Some(result::OTHER);
    }
    let unknown = request >> UNKNOWN_SHIFT & 7;
    let print_at = packet.forget(request >> FINGERPRINT_SHIFT);
    if print_at != 0 {
        let sent = ((payload.word(print_at)? >> 32) as u32).swap_bytes();
        let crc = stun_crc(packet.context(), payload.pack(print_at));
        if crc ^ stun::FINGERPRINT_XOR != sent {
            return Some(result::MALFORMED);
        }
    }
    if stun_source(packet.context(), packed) == 0 {
        return Some(result::MALFORMED);
    }
    let types = if unknown != 0 { stun_read(packet.context(), packed, 1) } else { 0 };
    let l4 = packet.forget(l3 + if is_v4 { IPV4 } else { IPV6 });
    let attribute = match (unknown, is_v4) {
        (0, true) => 12,
        (0, false) => 24,
        (unknown, _) => stun::ERROR_CODE.len() as u32 + 4 + ((2 * unknown + 2) & 0xc),
    };
    let print = if print_at != 0 { stun::FINGERPRINT_LEN } else { 0 };
    let body = packet.forget(attribute + print);
    let end = l4 + UDP_HEADER + stun::HEADER + body;
    let length = packet.len();
    let shift = packet.forget(payload.excess(end, length));
    match packet.forget(stun_turn(packet.context(), packed, shift)) {
        1 => {}
        2 => return Some(result::NO_ROOM),
        _ => return None,
    }
    // From the front to the back, as everything moves towards the front; then the end is free.
    if stun_move_ip(packet.context(), packed, shift) == 0
        || stun_move_udp(packet.context(), packed, shift) == 0
    {
        return None;
    }
    let surplus = packet.forget(payload.excess(length, end));
    // SAFETY: the context is valid; pointers into the packet are read anew afterwards.
    if unsafe { bpf_xdp_adjust_tail(packet.context(), -(surplus as i32)) } != 0 {
        return None;
    }
    write_headers(packet, l3, l4, is_v4, body)?;
    let message = l4 + UDP_HEADER;
    write_head(packet, message, unknown != 0, body)?;
    let whole = Payload::new(packet, message, stun::HEADER + body);
    let packed = whole.pack(l3) | packed & IS_V4;
    let written = if unknown != 0 {
        stun_refusal(packet.context(), packed, unknown, types)
    } else {
        stun_mapped(packet.context(), packed)
    };
    if print != 0 {
        let covered = stun::HEADER + body - print;
        packet.write(message + covered, stun::FINGERPRINT_HEAD)?;
        let crc = stun_crc(packet.context(), whole.pack(covered)) ^ stun::FINGERPRINT_XOR;
        packet.write(message + covered + 4, crc.to_be_bytes())?;
    }
    if written == 0 || stun_checksum(packet.context(), packed) == 0 {
        return None;
    }
    Some(if unknown != 0 { result::REFUSED } else { result::ANSWERED })
}

#[inline(always)]
fn can_be_answered(packet: Packet, packed: u64) -> Option<bool> {
    let (payload, l3) = Payload::unpack(packet, packed);
    let source = if packed & IS_V4 != 0 {
        Addr::v4(packet.read(l3 + 12)?)
    } else {
        Addr::v6(packet.read(l3 + 8)?)
    };
    let port: [u8; 2] = packet.read(payload.start().wrapping_sub(UDP_HEADER))?;
    Some(source.is_unicast() && port != [0, 0])
}

#[inline(always)]
fn turn_round(packet: Packet, packed: u64, shift: u32) -> Option<u32> {
    let (_, l3) = Payload::unpack(packet, packed);
    // At the front: drivers leave room there, while behind a short frame there may be none.
    // SAFETY: the context is valid; pointers into the packet are read anew afterwards.
    if unsafe { bpf_xdp_adjust_head(packet.context(), -(shift as i32)) } != 0 {
        return Some(2);
    }
    let destination: Mac = packet.read(shift)?;
    let source: Mac = packet.read(shift + 6)?;
    packet.write(0, source)?;
    packet.write(6, destination)?;
    for at in [12, 14, 16, 18, 20] {
        if at >= l3 {
            break;
        }
        packet.write(at, packet.read::<2>(shift + at)?)?;
    }
    Some(1)
}

#[inline(always)]
fn move_addresses(packet: Packet, packed: u64, shift: u32) -> Option<()> {
    let (_, l3) = Payload::unpack(packet, packed);
    let from = shift + l3;
    if packed & IS_V4 != 0 {
        let [s0, s1, s2, s3, d0, d1, d2, d3] = packet.read(from + 12)?;
        return packet.write(l3 + 12, [d0, d1, d2, d3, s0, s1, s2, s3]);
    }
    let source: [u8; 16] = packet.read(from + 8)?;
    let destination: [u8; 16] = packet.read(from + 24)?;
    packet.write(l3 + 8, destination)?;
    packet.write(l3 + 24, source)
}

#[inline(always)]
fn move_message(packet: Packet, packed: u64, shift: u32) -> Option<()> {
    let (payload, l3) = Payload::unpack(packet, packed);
    let l4 = packet.forget(l3 + if packed & IS_V4 != 0 { IPV4 } else { IPV6 });
    let message = shift + payload.start();
    let [a, b, c, d] = packet.read(message.wrapping_sub(UDP_HEADER))?;
    let transaction: [u8; 12] = packet.read(message + 8)?;
    packet.write(l4, [c, d, a, b])?;
    packet.write(l4 + UDP_HEADER + 8, transaction)
}

/// IP and UDP but for addresses, ports and UDP checksum.
#[inline(always)]
fn write_headers(packet: Packet, l3: u32, l4: u32, is_v4: bool, body: u32) -> Option<()> {
    let length = (UDP_HEADER + stun::HEADER + body) as u16;
    let [high, low] = length.to_be_bytes();
    if is_v4 {
        let [total_high, total_low] = (length + IPV4 as u16).to_be_bytes();
        // No options, not to be fragmented; hence the identification may be 0 (RFC 6864).
        let words = [[0x45, 0, total_high, total_low], [0, 0, 0x40, 0], [HOPS, UDP, 0, 0]];
        let mut sum = Update::none();
        for (word, at) in words.into_iter().zip([0, 4, 8]) {
            sum = sum.add_u32(word);
            packet.write(l3 + at, word)?;
        }
        sum = sum.add_u32(packet.read(l3 + 12)?).add_u32(packet.read(l3 + 16)?);
        packet.write(l3 + 10, sum.finish())?;
    } else {
        packet.write(l3, [0x60, 0, 0, 0, high, low, UDP, HOPS])?;
    }
    packet.write(l4 + 4, [high, low, 0, 0])
}

/// Type, length and cookie of the message.
#[inline(always)]
fn write_head(packet: Packet, at: u32, refused: bool, body: u32) -> Option<()> {
    let [t0, t1] = if refused { stun::ERROR } else { stun::SUCCESS };
    let [high, low] = (body as u16).to_be_bytes();
    let [c0, c1, c2, c3] = stun::COOKIE;
    packet.write(at, [t0, t1, high, low, c0, c1, c2, c3])
}

#[inline(always)]
fn write_refusal(packet: Packet, at: u32, unknown: u32, types: u64) -> Option<()> {
    packet.write(at, stun::ERROR_CODE)?;
    let [a0, a1] = stun::UNKNOWN_ATTRIBUTES;
    let at = at + stun::ERROR_CODE.len() as u32;
    packet.write(at, [a0, a1, 0, 2 * unknown as u8])?;
    packet.write(at + 4, ((types >> 32) as u32).to_be_bytes())?;
    if unknown > 2 {
        packet.write(at + 8, (types as u32).to_be_bytes())?;
    }
    Some(())
}

/// XOR-MAPPED-ADDRESS: the port combined with the cookie, the address with the cookie and, beyond
/// that, the transaction id, as both stand in the message at `at`.
#[inline(always)]
fn write_mapped(packet: Packet, at: u32, l3: u32, is_v4: bool) -> Option<()> {
    let attribute = at + stun::HEADER;
    let [a0, a1] = stun::XOR_MAPPED_ADDRESS;
    // Where the answer goes.
    let [p0, p1]: [u8; 2] = packet.read(at.wrapping_sub(UDP_HEADER) + 2)?;
    let [c0, c1, ..] = stun::COOKIE;
    let (length, family) = if is_v4 { (8, 1) } else { (20, 2) };
    packet.write(attribute, [a0, a1, 0, length, 0, family, p0 ^ c0, p1 ^ c1])?;
    let (from, words) = if is_v4 { (l3 + 16, 1) } else { (l3 + 24, 4) };
    for word in 0..4 {
        if word >= words {
            break;
        }
        let address = u32::from_ne_bytes(packet.read(from + 4 * word)?);
        let mask = u32::from_ne_bytes(packet.read(at + 4 + 4 * word)?);
        packet.write(attribute + 8 + 4 * word, (address ^ mask).to_ne_bytes())?;
    }
    Some(())
}

/// The UDP checksum, computed anew over addresses, header and message (RFC 768, RFC 8200 §8.1).
#[inline(always)]
fn write_checksum(packet: Packet, packed: u64) -> Option<()> {
    const WORDS: u32 = (UDP_HEADER + stun::MAX_ANSWER) / 4;
    let (message, l3) = Payload::unpack(packet, packed);
    let l4 = message.start().wrapping_sub(UDP_HEADER);
    let length = UDP_HEADER + message.len();
    let [high, low] = (length as u16).to_be_bytes();
    let mut sum = Update::none().add_u32([0, UDP, high, low]);
    let (addresses, count) = if packed & IS_V4 != 0 { (l3 + 12, 2) } else { (l3 + 8, 8) };
    for word in 0..8 {
        if word >= count {
            break;
        }
        sum = sum.add_u32(packet.read(addresses + 4 * word)?);
    }
    for word in 0..WORDS {
        if 4 * word >= length {
            break;
        }
        sum = sum.add_u32(packet.read(l4 + 4 * word)?);
    }
    packet.write(l4 + 6, sum.finish_udp())
}
