//! Reads frames back, and verifies lengths and checksums by a full recomputation of its own.
//!
//! Written for the tests and for nothing else, in the slow and obvious way: what is under test
//! updates checksums incrementally.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use crate::{net::Mac, packet::Fragment};

/// A frame that holds an IP packet; ports are 0 where there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Vec<u8>,
    vlans: Vec<u16>,
    /// The whole IP packet, as long as its header says.
    ip: Range<usize>,
    /// What follows the IP header and its extensions.
    segment: Range<usize>,
    payload: Range<usize>,
    protocol: u8,
    fragment: Option<Fragment>,
    source: SocketAddr,
    destination: SocketAddr,
}

/// Why bytes are no sound frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

fn bad<T>(why: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(why.into()))
}

const UDP: u8 = 17;
const TCP: u8 = 6;

impl Frame {
    /// Reads Ethernet, VLAN tags, IP and, unless it is a later fragment, UDP or TCP.
    ///
    /// # Errors
    /// Names the header that is cut short or contradicts the frame.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (vlans, ether_type, start) = link(bytes)?;
        let ip = match ether_type {
            0x0800 => Ip::v4(bytes, start)?,
            0x86dd => Ip::v6(bytes, start)?,
            other => return bad(format!("ether type {other:#06x} is not IP")),
        };
        let later = ip.fragment.is_some_and(|f| f.offset > 0);
        let at = ip.segment.start;
        let room = ip.segment.len();
        let (ports, header) = match ip.protocol {
            UDP | TCP if later => ((0, 0), 0),
            UDP if room < 8 => return bad("UDP header cut short"),
            UDP => ((u16_at(bytes, at)?, u16_at(bytes, at + 2)?), 8),
            TCP if room < 20 => return bad("TCP header cut short"),
            TCP => {
                let length = usize::from(bytes[at + 12] >> 4) * 4;
                if length < 20 || length > room {
                    return bad(format!("TCP header of {length} in {room} bytes"));
                }
                ((u16_at(bytes, at)?, u16_at(bytes, at + 2)?), length)
            }
            _ => ((0, 0), 0),
        };
        Ok(Self {
            bytes: bytes.to_vec(),
            vlans,
            payload: at + header..ip.segment.end,
            ip: start..ip.segment.end,
            segment: ip.segment,
            protocol: ip.protocol,
            fragment: ip.fragment,
            source: SocketAddr::new(ip.source, ports.0),
            destination: SocketAddr::new(ip.destination, ports.1),
        })
    }

    /// Checks the IPv4 header checksum, the UDP length and the UDP or TCP checksum. Of fragments
    /// only the IP header can be checked.
    ///
    /// # Errors
    /// Names the field, what it holds and what is right.
    pub fn verify(&self) -> Result<(), Malformed> {
        if self.source.is_ipv4() {
            let header = &self.bytes[self.ip.start..][..self.ipv4_header_len()];
            let sum = ones_complement(header);
            if sum != 0xffff {
                return bad(format!("IPv4 header sums up to {sum:#06x}, not 0xffff"));
            }
        }
        if self.fragment.is_some() {
            return Ok(());
        }
        let segment = &self.bytes[self.segment.clone()];
        match self.protocol {
            UDP => {
                let length = u16_at(segment, 4)?;
                if usize::from(length) != segment.len() {
                    return bad(format!("UDP length {length}, IP has {} bytes", segment.len()));
                }
                if u16_at(segment, 6)? == 0 {
                    // RFC 768: none. RFC 8200 §8.1: not in IPv6.
                    return if self.source.is_ipv4() { Ok(()) } else { bad("no UDP checksum") };
                }
            }
            TCP => {}
            _ => return Ok(()),
        }
        let mut covered = Vec::new();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => covered.extend([s.octets(), d.octets()].concat()),
            (IpAddr::V6(s), IpAddr::V6(d)) => covered.extend([s.octets(), d.octets()].concat()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                return bad("two families");
            }
        }
        // The tail of the pseudo header: both families add protocol and length, as words.
        let length = u32::try_from(segment.len()).map_err(|why| Malformed(why.to_string()))?;
        covered.extend_from_slice(&length.to_be_bytes());
        covered.extend_from_slice(&[0, self.protocol]);
        covered.extend_from_slice(segment);
        let sum = ones_complement(&covered);
        if sum != 0xffff {
            return bad(format!("transport checksum: all sums up to {sum:#06x}, not 0xffff"));
        }
        Ok(())
    }

    /// The whole frame.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[must_use]
    pub fn source_mac(&self) -> Mac {
        self.mac(6)
    }

    #[must_use]
    pub fn destination_mac(&self) -> Mac {
        self.mac(0)
    }

    fn mac(&self, at: usize) -> Mac {
        let mut mac = Mac::default();
        mac.copy_from_slice(&self.bytes[at..at + 6]);
        mac
    }

    /// VLAN ids, outermost first.
    #[must_use]
    pub fn vlans(&self) -> &[u16] {
        &self.vlans
    }

    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// TTL or hop limit.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.bytes[self.ip.start + if self.source.is_ipv4() { 8 } else { 7 }]
    }

    /// DSCP and ECN, or traffic class.
    #[must_use]
    pub fn tos(&self) -> u8 {
        let [first, second] = [self.bytes[self.ip.start], self.bytes[self.ip.start + 1]];
        if self.source.is_ipv4() { second } else { (first << 4) | (second >> 4) }
    }

    /// Identification of an IPv4 packet.
    #[must_use]
    pub fn ipv4_id(&self) -> Option<u16> {
        self.source.is_ipv4().then(|| u16_at(&self.bytes, self.ip.start + 4).ok()).flatten()
    }

    /// Number of the protocol after the IP headers.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    #[must_use]
    pub fn fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    /// The UDP or TCP checksum field; `None` for other protocols and later fragments.
    #[must_use]
    pub fn checksum(&self) -> Option<u16> {
        if self.fragment.is_some_and(|f| f.offset > 0) {
            return None;
        }
        let at = match self.protocol {
            UDP => 6,
            TCP => 16,
            _ => return None,
        };
        u16_at(&self.bytes, self.segment.start + at).ok()
    }

    /// What follows the UDP or TCP header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload.clone()]
    }

    /// What follows the IP header and its extensions.
    #[must_use]
    pub fn ip_payload(&self) -> &[u8] {
        &self.bytes[self.segment.clone()]
    }

    fn ipv4_header_len(&self) -> usize {
        usize::from(self.bytes[self.ip.start] & 0xf) * 4
    }
}

/// VLAN ids, the ether type after them, and where that begins.
fn link(bytes: &[u8]) -> Result<(Vec<u16>, u16, usize), Malformed> {
    let mut vlans = Vec::new();
    let mut at = 12;
    loop {
        let ether_type = u16_at(bytes, at)?;
        if !matches!(ether_type, 0x8100 | 0x88a8) {
            return Ok((vlans, ether_type, at + 2));
        }
        vlans.push(u16_at(bytes, at + 2)? & 0xfff);
        at += 4;
    }
}

struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    fragment: Option<Fragment>,
    segment: Range<usize>,
}

impl Ip {
    fn v4(bytes: &[u8], start: usize) -> Result<Self, Malformed> {
        let header = slice(bytes, start, 20)?;
        let length = usize::from(header[0] & 0xf) * 4;
        let total = usize::from(u16_at(header, 2)?);
        if header[0] >> 4 != 4 || length < 20 {
            return bad(format!("IPv4 starts with {:#04x}", header[0]));
        }
        if total < length || start + total > bytes.len() {
            let room = bytes.len() - start;
            return bad(format!("IPv4 length {total}, header {length}, frame has {room}"));
        }
        let field = u16_at(header, 6)?;
        let fragment = Fragment { offset: field & 0x1fff, more: field & 0x2000 != 0 };
        Ok(Self {
            source: IpAddr::from(array::<4>(header, 12)?),
            destination: IpAddr::from(array::<4>(header, 16)?),
            protocol: header[9],
            fragment: (fragment.more || fragment.offset > 0).then_some(fragment),
            segment: start + length..start + total,
        })
    }

    fn v6(bytes: &[u8], start: usize) -> Result<Self, Malformed> {
        let header = slice(bytes, start, 40)?;
        if header[0] >> 4 != 6 {
            return bad(format!("IPv6 starts with {:#04x}", header[0]));
        }
        let end = start + 40 + usize::from(u16_at(header, 4)?);
        if end > bytes.len() {
            return bad(format!("IPv6 ends at {end}, frame at {}", bytes.len()));
        }
        let (mut next, mut at, mut fragment) = (header[6], start + 40, None);
        loop {
            let length = match next {
                // Hop-by-hop, routing, destination options.
                0 | 43 | 60 => 8 + 8 * usize::from(slice(bytes, at, 2)?[1]),
                51 => 8 + 4 * usize::from(slice(bytes, at, 2)?[1]),
                44 => {
                    let field = u16_at(bytes, at + 2)?;
                    fragment = Some(Fragment { offset: field >> 3, more: field & 1 != 0 });
                    8
                }
                _ => break,
            };
            next = slice(bytes, at, length)?[0];
            at += length;
            if fragment.is_some_and(|f| f.offset > 0) {
                break;
            }
        }
        if at > end {
            return bad(format!("IPv6 extension headers end at {at}, the packet at {end}"));
        }
        Ok(Self {
            source: IpAddr::from(array::<16>(header, 8)?),
            destination: IpAddr::from(array::<16>(header, 24)?),
            protocol: next,
            fragment,
            segment: at..end,
        })
    }
}

fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], Malformed> {
    bytes
        .get(at..at + length)
        .ok_or_else(|| Malformed(format!("{length} bytes at {at} in a frame of {}", bytes.len())))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    let mut out = [0; N];
    out.copy_from_slice(slice(bytes, at, N)?);
    Ok(out)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// The sum of RFC 1071 over big-endian words, an odd last byte padded with zero. All fields
/// included, a sound header sums up to 0xffff.
fn ones_complement(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded above, so nothing is lost.
    (sum & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_rfc_1071_section_3() {
        assert_eq!(ones_complement(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(ones_complement(&[0x12]), 0x1200);
    }

    #[test]
    fn every_prefix_of_a_frame_is_refused_and_none_panics() {
        use crate::{net, packet::Packet};
        for family in net::FAMILIES {
            let whole = Packet::udp(net::client(family, 0), net::vip(family, 0), *b"x").build();
            for length in 0..whole.len() {
                assert!(Frame::parse(&whole[..length]).is_err(), "{length} of {}", whole.len());
            }
            assert!(Frame::parse(&whole).is_ok());
        }
    }
}
