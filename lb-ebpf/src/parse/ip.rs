//! IPv4 with options (RFC 791) and IPv6 with a bounded chain of extension headers (RFC 8200 §4).

use lb_common::{addr::UDP, verdict::Verdict};

use super::eth::{self, Frame};
use crate::packet::Packet;

/// Extension headers that are stepped over.
pub const MAX_EXTENSIONS: u32 = 4;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION_OPTIONS: u8 = 60;

pub struct Ip {
    pub is_v4: bool,
    pub len: u32,
    pub hop_limit: u8,
    /// First or later fragment of several; the latter has no ports.
    pub is_fragment: bool,
    pub l4: u32,
}

/// A UDP packet's IP header.
#[inline(always)]
pub fn parse(packet: Packet, frame: &Frame) -> Result<Ip, Verdict> {
    match frame.ethertype {
        eth::IPV4 => v4(packet, frame.l3),
        eth::IPV6 => v6(packet, frame.l3),
        _ => Err(Verdict::NotOurs),
    }
}

#[inline(always)]
fn v4(packet: Packet, l3: u32) -> Result<Ip, Verdict> {
    let header: [u8; 12] = packet.read(l3).ok_or(Verdict::BadHeader)?;
    if header[0] >> 4 != 4 || header[9] != UDP {
        return Err(Verdict::NotOurs);
    }
    let header_len = u32::from(header[0] & 0x0f) * 4;
    if header_len < 20 {
        return Err(Verdict::BadHeader);
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    Ok(Ip {
        is_v4: true,
        len: u32::from(u16::from_be_bytes([header[2], header[3]])),
        hop_limit: header[8],
        is_fragment: fragment & 0x3fff != 0,
        l4: packet.forget(l3 + header_len),
    })
}

#[inline(always)]
fn v6(packet: Packet, l3: u32) -> Result<Ip, Verdict> {
    let header: [u8; 8] = packet.read(l3).ok_or(Verdict::BadHeader)?;
    if header[0] >> 4 != 6 {
        return Err(Verdict::NotOurs);
    }
    let mut next = header[6];
    let mut l4 = l3 + 40;
    let mut is_fragment = false;
    for _ in 0..MAX_EXTENSIONS {
        if next == UDP {
            break;
        }
        if next != HOP_BY_HOP && next != ROUTING && next != FRAGMENT && next != DESTINATION_OPTIONS
        {
            return Err(Verdict::NotOurs);
        }
        let extension: [u8; 8] = packet.read(l4).ok_or(Verdict::BadHeader)?;
        let mut step = 8;
        if next == FRAGMENT {
            let offset = u16::from_be_bytes([extension[2], extension[3]]);
            // An atomic fragment (RFC 6946) is whole.
            is_fragment |= offset & 0xfff9 != 0;
            if offset & 0xfff8 != 0 {
                break;
            }
        } else {
            step += u32::from(extension[1]) * 8;
        }
        next = extension[0];
        l4 = packet.forget(l4 + step);
    }
    if is_fragment && next == FRAGMENT {
        return Ok(Ip { is_v4: false, len: 0, hop_limit: 0, is_fragment, l4: 0 });
    }
    // Longer chains, and those beyond what SIP payloads are read at, are not ours.
    if next != UDP || l4 > 0x1c0 {
        return Err(Verdict::NotOurs);
    }
    Ok(Ip {
        is_v4: false,
        len: u32::from(u16::from_be_bytes([header[4], header[5]])) + 40,
        hop_limit: header[7],
        is_fragment,
        l4,
    })
}
