//! A fragment's place in its datagram (RFC 791 §3.1, RFC 8200 §4.5).

use lb_common::{
    fragment::{self, Key},
    verdict::Verdict,
};

use super::{Datagram, eth, ip};
use crate::packet::{Flag, Packet};

/// A fragment, first or later.
#[derive(Clone, Copy)]
pub struct Fragment {
    /// Without ports: what later fragments have none of.
    pub datagram: Datagram,
    /// Offset of the identification: the last two of its four bytes in IPv4, all four in IPv6.
    pub id_at: u32,
    /// In units of 8 bytes.
    pub start: u32,
    /// Bytes of the datagram that it carries.
    pub len: u32,
    /// 1 if it is the last one.
    pub is_last: u32,
}

impl Fragment {
    /// Reads the headers of a frame that is known to hold a fragment of UDP.
    #[inline(always)]
    pub fn of(packet: Packet) -> Result<Self, Verdict> {
        let frame = eth::parse(packet)?;
        let l3 = packet.forget(frame.l3);
        let is_v4 = frame.ethertype == eth::IPV4;
        let datagram = Datagram {
            vlans: packet.forget(frame.vlans),
            vids: frame.vids.map(|vid| packet.forget(vid.into()) as u16),
            l3,
            is_v4: Flag::new(packet, is_v4).with(packet, true),
            ip_len: 0,
            hop_limit: 0,
            l4: l3,
            source_port: 0,
            destination_port: 0,
        };
        if is_v4 { v4(packet, datagram) } else { v6(packet, datagram) }
    }

    /// What the record of its datagram is known by.
    #[inline(always)]
    pub fn key(&self, packet: Packet) -> Result<Key, Verdict> {
        let l3 = self.datagram.l3;
        let (source, destination, id) = if self.datagram.is_v4.is_set() {
            let id = packet.read(self.id_at).map(|id| u16::from_ne_bytes(id).into());
            (mapped(packet, l3 + 12), mapped(packet, l3 + 16), id)
        } else {
            let id = packet.read(self.id_at).map(u32::from_ne_bytes);
            (words(packet, l3 + 8), words(packet, l3 + 24), id)
        };
        let (Some(source), Some(destination), Some(id)) = (source, destination, id) else {
            return Err(Verdict::BadHeader);
        };
        Ok(Key { source, destination, id, pad: 0 })
    }

    /// Its place, as [`fragment::Record`] compares it.
    ///
    /// # Errors
    ///
    /// `BadLength` if it is no possible one or not all in the frame.
    #[inline(always)]
    pub fn piece(&self, packet: Packet) -> Result<fragment::Piece, Verdict> {
        if self.datagram.l3.wrapping_add(self.datagram.ip_len) > packet.len() {
            return Err(Verdict::BadLength);
        }
        fragment::Piece::new(self.start, self.len, self.is_last != 0).ok_or(Verdict::BadLength)
    }
}

#[inline(always)]
fn words(packet: Packet, at: u32) -> Option<[u64; 2]> {
    Some([packet.read(at).map(u64::from_ne_bytes)?, packet.read(at + 8).map(u64::from_ne_bytes)?])
}

/// The same of an IPv4 address, mapped.
#[inline(always)]
fn mapped(packet: Packet, at: u32) -> Option<[u64; 2]> {
    let [a, b, c, d] = packet.read(at)?;
    Some([0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])])
}

#[inline(always)]
fn v4(packet: Packet, datagram: Datagram) -> Result<Fragment, Verdict> {
    let header: [u8; 12] = packet.read(datagram.l3).ok_or(Verdict::BadHeader)?;
    let header_len = u32::from(header[0] & 0x0f) * 4;
    let ip_len = u32::from(u16::from_be_bytes([header[2], header[3]]));
    let field = u16::from_be_bytes([header[6], header[7]]);
    Ok(Fragment {
        datagram: Datagram { ip_len, hop_limit: header[8], ..datagram },
        id_at: datagram.l3 + 4,
        start: u32::from(field & 0x1fff),
        len: ip_len.saturating_sub(header_len),
        is_last: (field & 0x2000 == 0).into(),
    })
}

#[inline(always)]
fn v6(packet: Packet, datagram: Datagram) -> Result<Fragment, Verdict> {
    let header: [u8; 8] = packet.read(datagram.l3).ok_or(Verdict::BadHeader)?;
    let ip_len = u32::from(u16::from_be_bytes([header[4], header[5]])) + 40;
    let mut next = header[6];
    let mut at = datagram.l3 + 40;
    for _ in 0..ip::MAX_EXTENSIONS {
        let extension: [u8; 8] = packet.read(at).ok_or(Verdict::BadHeader)?;
        if next == ip::FRAGMENT {
            break;
        }
        next = extension[0];
        at = packet.forget(at + 8 + u32::from(extension[1]) * 8);
    }
    let extension: [u8; 8] = packet.read(at).ok_or(Verdict::BadHeader)?;
    // What follows the fragment header may begin with options of the destination.
    if next != ip::FRAGMENT
        || (extension[0] != lb_common::addr::UDP && extension[0] != ip::DESTINATION_OPTIONS)
    {
        return Err(Verdict::NotOurs);
    }
    let field = u16::from_be_bytes([extension[2], extension[3]]);
    let before = (at + 8).wrapping_sub(datagram.l3);
    Ok(Fragment {
        datagram: Datagram { ip_len, hop_limit: header[7], ..datagram },
        id_at: packet.forget(at + 4),
        start: u32::from(field >> 3),
        len: ip_len.saturating_sub(before),
        is_last: (field & 1 == 0).into(),
    })
}
