//! Ethernet with up to two VLAN tags (IEEE 802.1Q, 802.1ad).

use lb_common::verdict::Verdict;

use crate::packet::Packet;

/// EtherTypes in host order.
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const PROVIDER_VLAN: u16 = 0x88a8;

pub struct Frame {
    pub ethertype: u16,
    pub vlans: u32,
    pub vids: [u16; 2],
    pub l3: u32,
}

#[inline(always)]
pub fn parse(packet: Packet) -> Result<Frame, Verdict> {
    let mut frame = Frame {
        ethertype: u16::from_be_bytes(packet.read(12).ok_or(Verdict::NotOurs)?),
        vlans: 0,
        vids: [0; 2],
        l3: 14,
    };
    for vid in 0..2 {
        if frame.ethertype != VLAN && frame.ethertype != PROVIDER_VLAN {
            break;
        }
        let [a, b, c, d] = packet.read(frame.l3).ok_or(Verdict::NotOurs)?;
        frame.vids[vid] = u16::from_be_bytes([a, b]) & 0x0fff;
        frame.ethertype = u16::from_be_bytes([c, d]);
        frame.vlans += 1;
        frame.l3 += 4;
    }
    Ok(frame)
}
