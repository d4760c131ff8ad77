//! Builds frames for tests: Ethernet, 0–2 VLAN tags, IPv4 or IPv6, UDP, TCP or anything, right by
//! default and wrong where asked. Numbers are given in host order.
//!
//! Headers and checksums are those of `etherparse`, so that nothing here shares code with what is
//! tested. What comes out of the program under test is read by [`crate::frame::Frame`].

#![allow(clippy::expect_used, reason = "a packet that cannot be built is a mistake in the test")]

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header,
    SingleVlanHeader, TcpHeader, UdpHeader, VlanId, VlanPcp,
};

use crate::net::{Mac, client_mac, edge_mac};

/// What a checksum field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The right sum.
    Right,
    /// This, whatever would be right. 0 in UDP over IPv4 = none (RFC 768).
    Fixed(u16),
}

/// What comes after the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    /// Flags as in byte 13 of the header: FIN 1, SYN 2, RST 4, ACK 16.
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
    },
    /// The payload follows the IP header at once, under this protocol number.
    Raw(u8),
}

/// An IPv6 extension header (RFC 8200 §4): its number, and its length in units of 8 bytes beyond
/// the first 8 (in units of 4 beyond the first 8 for the authentication header, number 51).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    pub number: u8,
    pub units: u8,
}

/// The fields of a fragment (RFC 791 §3.1, RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// In units of 8 bytes.
    pub offset: u16,
    pub more: bool,
}

/// A packet in the making; [`Packet::build`] gives the bytes.
#[derive(Clone, Debug)]
pub struct Packet {
    pub source_mac: Mac,
    pub destination_mac: Mac,
    /// VLAN ids, outermost first; at most two are sensible.
    pub vlans: Vec<u16>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub transport: Transport,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN, or traffic class.
    pub tos: u8,
    /// Flow label (IPv6).
    pub flow_label: u32,
    /// Identification (IPv4, and IPv6 fragments).
    pub id: u32,
    /// Do not fragment (IPv4).
    pub dont_fragment: bool,
    /// Header fields of a fragment around this (whole) datagram; real fragments: [`Self::fragments`].
    pub fragment: Option<Fragment>,
    /// IPv4 options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    pub extensions: Vec<Extension>,
    pub payload: Vec<u8>,
    pub checksum: Checksum,
    pub ip_checksum: Checksum,
    /// IPv4 total length or IPv6 payload length instead of the right one.
    pub ip_length: Option<u16>,
    /// UDP length instead of the right one.
    pub udp_length: Option<u16>,
    /// Bytes after the IP packet, as Ethernet pads short frames.
    pub padding: usize,
    /// Cut the finished frame to this many bytes.
    pub truncate: Option<usize>,
}

impl Packet {
    /// A UDP datagram to the edge host's first NIC; TTL 64.
    ///
    /// # Panics
    /// If the addresses are not of one family.
    #[must_use]
    pub fn udp(source: SocketAddr, destination: SocketAddr, payload: impl Into<Vec<u8>>) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "one family");
        Self {
            source_mac: client_mac(0),
            destination_mac: edge_mac(0),
            vlans: Vec::new(),
            source,
            destination,
            transport: Transport::Udp,
            ttl: 64,
            tos: 0,
            flow_label: 0,
            id: 1,
            dont_fragment: true,
            fragment: None,
            options: Vec::new(),
            extensions: Vec::new(),
            payload: payload.into(),
            checksum: Checksum::Right,
            ip_checksum: Checksum::Right,
            ip_length: None,
            udp_length: None,
            padding: 0,
            truncate: None,
        }
    }

    /// A TCP segment.
    #[must_use]
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        let transport = Transport::Tcp { flags, sequence: 1, acknowledgment: 0 };
        Self { transport, ..Self::udp(source, destination, []) }
    }

    /// Ethernet addresses.
    #[must_use]
    pub fn macs(mut self, source: Mac, destination: Mac) -> Self {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    /// One more VLAN tag, inside those given before.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlans.push(id);
        self
    }

    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// IPv4 options, a multiple of 4 bytes up to 40.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// One more IPv6 extension header after those given before.
    #[must_use]
    pub fn extension(mut self, number: u8, units: u8) -> Self {
        self.extensions.push(Extension { number, units });
        self
    }

    /// What the UDP or TCP checksum field holds.
    #[must_use]
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// Marks the datagram as a fragment at `offset` (units of 8 bytes).
    #[must_use]
    pub fn marked_fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some(Fragment { offset, more });
        self.dont_fragment = false;
        self
    }

    /// The frame.
    ///
    /// # Panics
    /// If a field is out of range for its header.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let segment = self.segment();
        self.frame(&segment, self.fragment)
    }

    /// The frames of the datagram cut into fragments of `size` bytes of IP payload (a multiple
    /// of 8), in order.
    ///
    /// # Panics
    /// If `size` is not a positive multiple of 8, or a field is out of range for its header.
    #[must_use]
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        assert!(size > 0 && size.is_multiple_of(8), "fragments come in multiples of 8 bytes");
        let segment = self.segment();
        let pieces = segment.chunks(size).count();
        let whole = Self { dont_fragment: false, ..self.clone() };
        segment
            .chunks(size)
            .enumerate()
            .map(|(n, piece)| {
                let offset = u16::try_from(n * size / 8).expect("offset fits into 13 bits");
                whole.frame(piece, Some(Fragment { offset, more: n + 1 < pieces }))
            })
            .collect()
    }

    /// Transport header and payload.
    fn segment(&self) -> Vec<u8> {
        let (source, destination) = (self.source.ip(), self.destination.ip());
        let mut bytes = match self.transport {
            Transport::Udp => {
                let length = u16::try_from(8 + self.payload.len()).expect("payload fits into UDP");
                let mut header = UdpHeader {
                    source_port: self.source.port(),
                    destination_port: self.destination.port(),
                    length,
                    checksum: 0,
                };
                header.checksum = self.checksum.or(|| {
                    match (source, destination) {
                        (IpAddr::V4(s), IpAddr::V4(d)) => {
                            header.calc_checksum_ipv4_raw(s.octets(), d.octets(), &self.payload)
                        }
                        (IpAddr::V6(s), IpAddr::V6(d)) => {
                            header.calc_checksum_ipv6_raw(s.octets(), d.octets(), &self.payload)
                        }
                        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                            unreachable!("one family")
                        }
                    }
                    .expect("payload fits into UDP")
                });
                // After the sum: a wrong length is the only thing wrong.
                header.length = self.udp_length.unwrap_or(length);
                header.to_bytes().to_vec()
            }
            Transport::Tcp { flags, sequence, acknowledgment } => {
                let mut header =
                    TcpHeader::new(self.source.port(), self.destination.port(), sequence, 65_535);
                header.acknowledgment_number = acknowledgment;
                header.fin = flags & 1 != 0;
                header.syn = flags & 2 != 0;
                header.rst = flags & 4 != 0;
                header.psh = flags & 8 != 0;
                header.ack = flags & 16 != 0;
                header.checksum = self.checksum.or(|| {
                    match (source, destination) {
                        (IpAddr::V4(s), IpAddr::V4(d)) => {
                            header.calc_checksum_ipv4_raw(s.octets(), d.octets(), &self.payload)
                        }
                        (IpAddr::V6(s), IpAddr::V6(d)) => {
                            header.calc_checksum_ipv6_raw(s.octets(), d.octets(), &self.payload)
                        }
                        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                            unreachable!("one family")
                        }
                    }
                    .expect("payload fits into TCP")
                });
                header.to_bytes().to_vec()
            }
            Transport::Raw(_) => Vec::new(),
        };
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Udp => 17,
            Transport::Tcp { .. } => 6,
            Transport::Raw(number) => number,
        }
    }

    fn frame(&self, segment: &[u8], fragment: Option<Fragment>) -> Vec<u8> {
        let (ip, ether_type) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                (self.ipv4(s.octets(), d.octets(), segment, fragment), EtherType::IPV4)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                (self.ipv6(s.octets(), d.octets(), segment, fragment), EtherType::IPV6)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                unreachable!("one family")
            }
        };
        let outer_tag = if self.vlans.len() > 1 {
            EtherType::PROVIDER_BRIDGING
        } else {
            EtherType::VLAN_TAGGED_FRAME
        };
        let first = if self.vlans.is_empty() { ether_type } else { outer_tag };
        let ethernet = Ethernet2Header {
            source: self.source_mac,
            destination: self.destination_mac,
            ether_type: first,
        };
        let mut bytes = ethernet.to_bytes().to_vec();
        for (n, id) in self.vlans.iter().enumerate() {
            let last = n + 1 == self.vlans.len();
            let tag = SingleVlanHeader {
                pcp: VlanPcp::ZERO,
                drop_eligible_indicator: false,
                vlan_id: VlanId::try_new(*id).expect("VLAN id below 4096"),
                ether_type: if last { ether_type } else { EtherType::VLAN_TAGGED_FRAME },
            };
            bytes.extend_from_slice(&tag.to_bytes());
        }
        bytes.extend_from_slice(&ip);
        bytes.extend(std::iter::repeat_n(0, self.padding));
        if let Some(length) = self.truncate {
            bytes.truncate(length);
        }
        bytes
    }

    fn ipv4(
        &self,
        source: [u8; 4],
        destination: [u8; 4],
        segment: &[u8],
        fragment: Option<Fragment>,
    ) -> Vec<u8> {
        let mut header = Ipv4Header {
            dscp: (self.tos >> 2).try_into().expect("6 bits"),
            ecn: (self.tos & 3).try_into().expect("2 bits"),
            identification: u16::try_from(self.id).expect("IPv4 identification of 16 bits"),
            dont_fragment: self.dont_fragment,
            more_fragments: fragment.is_some_and(|f| f.more),
            fragment_offset: offset(fragment),
            time_to_live: self.ttl,
            protocol: IpNumber(self.protocol()),
            source,
            destination,
            options: Ipv4Options::try_from(&self.options[..]).expect("IPv4 options in units of 4"),
            ..Ipv4Header::default()
        };
        let length = u16::try_from(header.header_len() + segment.len()).expect("fits into IPv4");
        header.total_len = self.ip_length.unwrap_or(length);
        header.header_checksum = self.ip_checksum.or(|| header.calc_header_checksum());
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(segment);
        bytes
    }

    fn ipv6(
        &self,
        source: [u8; 16],
        destination: [u8; 16],
        segment: &[u8],
        fragment: Option<Fragment>,
    ) -> Vec<u8> {
        const FRAGMENT: u8 = 44;
        // Every header names the one after it.
        let mut chain: Vec<u8> = self.extensions.iter().map(|e| e.number).collect();
        chain.extend(fragment.map(|_| FRAGMENT));
        chain.push(self.protocol());
        let mut rest = Vec::new();
        for (extension, next) in self.extensions.iter().zip(&chain[1..]) {
            rest.extend_from_slice(&extension.bytes(*next));
        }
        if let Some(piece) = fragment {
            let field = (piece.offset << 3) | u16::from(piece.more);
            rest.extend_from_slice(&[self.protocol(), 0]);
            rest.extend_from_slice(&field.to_be_bytes());
            rest.extend_from_slice(&self.id.to_be_bytes());
        }
        rest.extend_from_slice(segment);
        let length = u16::try_from(rest.len()).expect("fits into IPv6");
        let header = Ipv6Header {
            traffic_class: self.tos,
            flow_label: self.flow_label.try_into().expect("flow label of 20 bits"),
            payload_length: self.ip_length.unwrap_or(length),
            next_header: IpNumber(chain[0]),
            hop_limit: self.ttl,
            source,
            destination,
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(&rest);
        bytes
    }
}

impl Checksum {
    fn or(self, right: impl FnOnce() -> u16) -> u16 {
        match self {
            Self::Right => right(),
            Self::Fixed(sum) => sum,
        }
    }
}

impl Extension {
    const AUTHENTICATION: u8 = 51;

    /// A header full of padding options.
    fn bytes(self, next: u8) -> Vec<u8> {
        let unit = if self.number == Self::AUTHENTICATION { 4 } else { 8 };
        let length = 8 + unit * usize::from(self.units);
        let mut bytes = vec![0; length];
        bytes[0] = next;
        // RFC 4302 §2.2 counts the authentication header in words minus 2, which is the same
        // "beyond the first 8 bytes" in its unit.
        bytes[1] = self.units;
        if self.number != Self::AUTHENTICATION {
            // PadN (RFC 8200 §4.2), in the longest pieces that its length byte takes.
            let mut at = 2;
            while at < length {
                let piece = (length - at).min(257);
                if piece == 1 {
                    break; // Pad1 is a zero byte
                }
                bytes[at] = 1;
                bytes[at + 1] = u8::try_from(piece - 2).expect("at most 255");
                at += piece;
            }
        }
        bytes
    }
}

fn offset(fragment: Option<Fragment>) -> IpFragOffset {
    let units = fragment.map_or(0, |f| f.offset);
    IpFragOffset::try_new(units).expect("fragment offset of 13 bits")
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
