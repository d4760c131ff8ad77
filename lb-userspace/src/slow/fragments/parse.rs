//! Fragments in frames, read with `etherparse`.

use etherparse::{
    IpNumber, Ipv4Header, Ipv6ExtensionSlice, Ipv6ExtensionsSlice, Ipv6FragmentHeaderSlice,
    LaxNetSlice, LaxSlicedPacket,
};
use lb_common::{
    addr::Addr,
    fragment::{Key, Piece},
};

/// Whose fragment, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub key: Key,
    pub piece: Piece,
    pub is_v4: bool,
}

/// Reads a later fragment of a UDP datagram; `None` if the frame holds none.
#[must_use]
pub fn arrival(frame: &[u8]) -> Option<Arrival> {
    match LaxSlicedPacket::from_ethernet(frame).ok()?.net? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            if header.protocol() != IpNumber::UDP {
                return None;
            }
            let len = usize::from(header.total_len()) - header.slice().len();
            let start = u32::from(header.fragments_offset().value());
            Some(Arrival {
                key: Key {
                    source: Addr::v4(header.source()).words(),
                    destination: Addr::v4(header.destination()).words(),
                    id: u16::from_ne_bytes(header.identification().to_be_bytes()).into(),
                    pad: 0,
                },
                piece: Piece::new(start, u32::try_from(len).ok()?, !header.more_fragments())?,
                is_v4: true,
            })
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            let (fragment, before) = find_fragment(ip.extensions())?;
            let start = u32::from(fragment.fragment_offset().value());
            let len = u32::from(header.payload_length()).checked_sub(before)?;
            Some(Arrival {
                key: Key {
                    source: Addr::v6(header.source()).words(),
                    destination: Addr::v6(header.destination()).words(),
                    id: u32::from_ne_bytes(fragment.identification().to_be_bytes()),
                    pad: 0,
                },
                piece: Piece::new(start, len, !fragment.more_fragments())?,
                is_v4: false,
            })
        }
        LaxNetSlice::Arp(_) => None,
    }
}

/// The fragment header, and the bytes of extension headers up to its end.
fn find_fragment<'a>(
    extensions: &Ipv6ExtensionsSlice<'a>,
) -> Option<(Ipv6FragmentHeaderSlice<'a>, u32)> {
    let mut len = 0;
    for extension in extensions.clone() {
        len += match extension {
            Ipv6ExtensionSlice::HopByHop(header)
            | Ipv6ExtensionSlice::Routing(header)
            | Ipv6ExtensionSlice::DestinationOptions(header) => header.slice().len(),
            Ipv6ExtensionSlice::Authentication(header) => header.slice().len(),
            Ipv6ExtensionSlice::Fragment(header) => {
                let before = u32::try_from(len + header.slice().len()).ok()?;
                return Some((header, before));
            }
        };
    }
    None
}

/// The IP packet in a frame, without what may follow it.
#[must_use]
pub(super) fn packet(frame: &[u8]) -> Option<Vec<u8>> {
    let mut at = 12;
    // The EtherType, after at most two VLAN tags (802.1Q, 802.1ad).
    while let [0x81, 0x00] | [0x88, 0xa8] = *frame.get(at..at + 2)? {
        at += 4;
    }
    let ip = frame.get(at + 2..)?;
    let len = match ip.first()? >> 4 {
        4 => u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]).into(),
        6 => 40 + usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?])),
        _ => return None,
    };
    ip.get(..len).map(<[u8]>::to_vec)
}

/// The same with one hop less to go, as after routing; `None` if it has no hop left.
#[must_use]
pub(super) fn one_hop_further(frame: &[u8]) -> Option<Vec<u8>> {
    let mut packet = packet(frame)?;
    if packet.first()? >> 4 == 4 {
        let (mut header, rest) = Ipv4Header::from_slice(&packet).ok()?;
        header.time_to_live = header.time_to_live.checked_sub(1).filter(|&left| left > 0)?;
        header.header_checksum = header.calc_header_checksum();
        let mut sent = header.to_bytes().to_vec();
        sent.extend_from_slice(rest);
        return Some(sent);
    }
    let limit = packet.get_mut(7)?;
    *limit = limit.checked_sub(1).filter(|&left| left > 0)?;
    Some(packet)
}
