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
        is_v4: Flag::new(packet, ip.is_v4),
        ip_len: ip.len,
        hop_limit: ip.hop_limit,
        is_fragment: Flag::new(packet, ip.is_fragment),
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
    if length < HEADER || end > datagram.l3.wrapping_add(datagram.ip_len) || end > packet.len() {
        return Err(Verdict::BadLength);
    }
    Ok((datagram.l4 + HEADER, length - HEADER))
}
