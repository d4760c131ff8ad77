//! UDP (RFC 768).

use lb_common::verdict::Verdict;

use super::{Datagram, eth::Frame, ip::Ip};
use crate::packet::{Flag, Packet};

/// Length of a UDP header in bytes.
pub const HEADER: u32 = 8;

#[inline(always)]
pub fn parse(packet: Packet, frame: &Frame, ip: &Ip) -> Result<Datagram, Verdict> {
    let [a, b, c, d] = packet.read(ip.l4).ok_or(Verdict::BadHeader)?;
    Ok(Datagram {
        vlans: frame.vlans,
        vids: frame.vids,
        l3: frame.l3,
        is_v4: Flag::new(packet, ip.is_v4).with(packet, ip.is_fragment),
        ip_len: ip.len,
        hop_limit: ip.hop_limit,
        l4: ip.l4,
        source_port: u16::from_be_bytes([a, b]),
        destination_port: u16::from_be_bytes([c, d]),
    })
}

#[inline(always)]
pub fn payload(packet: Packet, datagram: &Datagram) -> Result<(u32, u32), Verdict> {
    let length = packet.read(datagram.l4 + 4).ok_or(Verdict::BadLength)?;
    let length = u32::from(u16::from_be_bytes(length));
    let end = datagram.l4.wrapping_add(length);
    let limit = datagram.l3.wrapping_add(datagram.ip_len);
    if length < HEADER {
        return Err(Verdict::BadLength);
    }
    if end > limit || end > packet.len() {
        if !datagram.is_fragment() {
            return Err(Verdict::BadLength);
        }
        return Ok((datagram.l4 + HEADER, first_part(packet, datagram, limit)?));
    }
    Ok((datagram.l4 + HEADER, length - HEADER))
}

/// Length of what a first fragment holds of the payload.
#[inline(always)]
fn first_part(packet: Packet, datagram: &Datagram, limit: u32) -> Result<u32, Verdict> {
    let start = datagram.l4 + HEADER;
    if limit < start || limit > packet.len() {
        return Err(Verdict::BadLength);
    }
    Ok(limit - start)
}
