//! `forward: nat`: other addresses and ports, checksums updated to match (RFC 1624).

use lb_common::{addr::Socket, checksum::Update, fragment::Record, verdict::Verdict};

use crate::{
    packet::Packet,
    parse::{Datagram, piece::Fragment},
};

/// Which address of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// Gives the packet another source or destination.
///
/// # Errors
///
/// `OutOfBounds` if the headers are not in the frame, which parsing has ruled out.
#[inline(always)]
pub fn rewrite(
    packet: Packet,
    datagram: &Datagram,
    side: Side,
    new: &Socket,
) -> Result<(), Verdict> {
    edit(packet, datagram, side, new).ok_or(Verdict::OutOfBounds)
}

#[inline(always)]
fn edit(packet: Packet, datagram: &Datagram, side: Side, new: &Socket) -> Option<()> {
    let (l3, l4) = (datagram.l3, datagram.l4);
    let second = u32::from(side == Side::Destination);
    let port = l4 + 2 * second;
    let mut pseudo = Update::none();
    if datagram.is_v4.is_set() {
        let at = l3 + 12 + 4 * second;
        pseudo = pseudo.replace_u32(packet.read(at)?, new.addr.v4_octets());
        packet.write(at, new.addr.v4_octets())?;
        let sum = Update::of(packet.read(l3 + 10)?).and(pseudo);
        packet.write(l3 + 10, sum.finish())?;
    } else {
        let at = l3 + 8 + 16 * second;
        let [high, low] = new.addr.words();
        let old = [u64::from_ne_bytes(packet.read(at)?), u64::from_ne_bytes(packet.read(at + 8)?)];
        pseudo = pseudo.replace_u128(old, [high, low]);
        packet.write(at, high.to_ne_bytes())?;
        packet.write(at + 8, low.to_ne_bytes())?;
    }
    pseudo = pseudo.replace_u16(packet.read(port)?, new.port.wire());
    packet.write(port, new.port.wire())?;
    // Without a checksum it stays without one; only IPv4 allows that (RFC 768, RFC 8200 §8.1).
    let old: [u8; 2] = packet.read(l4 + 6)?;
    if old != [0, 0] || !datagram.is_v4.is_set() {
        packet.write(l4 + 6, Update::of(old).and(pseudo).finish_udp())?;
    }
    Some(())
}

/// Gives a fragment the addresses and the identification of its record. The UDP checksum stands in
/// the first fragment, which has been corrected for the whole datagram.
#[inline(always)]
pub fn rewrite_fragment(
    packet: Packet,
    fragment: &Fragment,
    record: &Record,
) -> Result<(), Verdict> {
    edit_fragment(packet, fragment, record).ok_or(Verdict::OutOfBounds)
}

#[inline(always)]
fn edit_fragment(packet: Packet, fragment: &Fragment, record: &Record) -> Option<()> {
    let l3 = fragment.datagram.l3;
    let id = record.id;
    if fragment.datagram.is_v4.is_set() {
        let id = (id as u16).to_ne_bytes();
        let source = ((record.source[1] >> 32) as u32).to_ne_bytes();
        let destination = ((record.destination[1] >> 32) as u32).to_ne_bytes();
        let sum = Update::of(packet.read(l3 + 10)?)
            .replace_u16(packet.read(fragment.id_at)?, id)
            .replace_u32(packet.read(l3 + 12)?, source)
            .replace_u32(packet.read(l3 + 16)?, destination);
        packet.write(fragment.id_at, id)?;
        packet.write(l3 + 10, sum.finish())?;
        packet.write(l3 + 12, source)?;
        packet.write(l3 + 16, destination)
    } else {
        packet.write(fragment.id_at, id.to_ne_bytes())?;
        packet.write(l3 + 8, record.source[0].to_ne_bytes())?;
        packet.write(l3 + 16, record.source[1].to_ne_bytes())?;
        packet.write(l3 + 24, record.destination[0].to_ne_bytes())?;
        packet.write(l3 + 32, record.destination[1].to_ne_bytes())
    }
}

/// Takes one from the hop limit.
#[inline(always)]
pub fn decrement_hop_limit(packet: Packet, datagram: &Datagram) -> Result<(), Verdict> {
    decrement(packet, datagram).ok_or(Verdict::OutOfBounds)
}

#[inline(always)]
fn decrement(packet: Packet, datagram: &Datagram) -> Option<()> {
    if datagram.is_v4.is_set() {
        let old: [u8; 2] = packet.read(datagram.l3 + 8)?;
        let new = [old[0].wrapping_sub(1), old[1]];
        let sum = Update::of(packet.read(datagram.l3 + 10)?).replace_u16(old, new);
        packet.write(datagram.l3 + 8, new)?;
        packet.write(datagram.l3 + 10, sum.finish())
    } else {
        let [limit] = packet.read(datagram.l3 + 7)?;
        packet.write(datagram.l3 + 7, [limit.wrapping_sub(1)])
    }
}
