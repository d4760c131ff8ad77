//! Frame → addresses, ports and offsets, in the order of the layers.

mod eth;
mod ip;
pub mod piece;
mod udp;

use lb_common::{
    addr::{Addr, Port, Socket, UDP},
    verdict::Verdict,
};

use crate::packet::{Flag, Packet};

/// Where everything lies in a UDP packet.
#[derive(Clone, Copy)]
pub struct Datagram {
    /// Number of VLAN tags, 0–2.
    pub vlans: u32,
    /// VLAN ids, outermost first; 0 = untagged.
    pub vids: [u16; 2],
    /// Offset of the IP header.
    pub l3: u32,
    /// Else IPv6. The other flag: [`Self::is_fragment`].
    pub is_v4: Flag,
    /// Length of the IP packet in bytes, by its header.
    pub ip_len: u32,
    pub hop_limit: u8,
    /// Offset of the UDP header.
    pub l4: u32,
    /// In host order.
    pub source_port: u16,
    pub destination_port: u16,
}

impl Datagram {
    /// The first fragment of several.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.is_v4.other().is_set()
    }

    /// Makes the verifier forget by which path the frame was parsed.
    #[inline(always)]
    pub fn forget(&mut self, packet: Packet) {
        self.vlans = packet.forget(self.vlans);
        self.l3 = packet.forget(self.l3);
        self.l4 = packet.forget(self.l4);
        self.ip_len = packet.forget_word(self.ip_len);
        self.hop_limit = packet.forget(self.hop_limit.into()) as u8;
        self.vids[0] = packet.forget(self.vids[0].into()) as u16;
        self.vids[1] = packet.forget(self.vids[1].into()) as u16;
    }

    /// The sender, as the packet says now.
    #[inline(always)]
    pub fn source(&self, packet: Packet) -> Result<Socket, Verdict> {
        Ok(Socket::new(self.address(packet, 0)?, Port::new(self.source_port), UDP))
    }

    /// The receiver, as the packet says now (the port as it was parsed).
    #[inline(always)]
    pub fn destination(&self, packet: Packet) -> Result<Socket, Verdict> {
        Ok(Socket::new(self.address(packet, 1)?, Port::new(self.destination_port), UDP))
    }

    #[inline(always)]
    fn address(&self, packet: Packet, second: u32) -> Result<Addr, Verdict> {
        if self.is_v4.is_set() {
            packet.read(self.l3 + 12 + 4 * second).map(Addr::v4)
        } else {
            packet.read(self.l3 + 8 + 16 * second).map(Addr::v6)
        }
        .ok_or(Verdict::BadHeader)
    }
}

/// The headers before UDP.
pub struct Headers {
    frame: eth::Frame,
    ip: ip::Ip,
}

impl Headers {
    /// Whoever is not UDP over IP is not ours.
    #[inline(always)]
    pub fn of(packet: Packet) -> Result<Self, Verdict> {
        let frame = eth::parse(packet)?;
        let ip = ip::parse(packet, &frame)?;
        Ok(Self { frame, ip })
    }

    /// First or later fragment of several.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.ip.is_fragment
    }

    /// With the ports, which later fragments have not.
    #[inline(always)]
    pub fn datagram(&self, packet: Packet) -> Result<Datagram, Verdict> {
        udp::parse(packet, &self.frame, &self.ip)
    }
}

/// Offset and length in bytes of the payload of a datagram that is ours.
///
/// # Errors
///
/// `BadLength` if the UDP length contradicts the IP length or the frame (RFC 768).
#[inline(always)]
pub fn payload(packet: Packet, datagram: &Datagram) -> Result<(u32, u32), Verdict> {
    udp::payload(packet, datagram)
}
