//! Who a frame is from and to, as far as it says.

use std::net::{IpAddr, SocketAddr};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

/// Source and destination of a frame, with ports if it has any.
pub(super) fn ends(frame: &[u8]) -> Option<[String; 2]> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let ports = match &packet.transport {
        Some(TransportSlice::Udp(udp)) => Some([udp.source_port(), udp.destination_port()]),
        Some(
            TransportSlice::Tcp(_)
            | TransportSlice::Icmpv4(_)
            | TransportSlice::Icmpv6(_)
            | TransportSlice::Igmp(_),
        ) => None,
        None => first_ports(&packet),
    };
    let addresses: [IpAddr; 2] = match packet.net? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            [header.source_addr().into(), header.destination_addr().into()]
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            [header.source_addr().into(), header.destination_addr().into()]
        }
        LaxNetSlice::Arp(_) => return None,
    };
    Some(match ports {
        Some([source, destination]) => {
            let [a, b] = addresses;
            [SocketAddr::new(a, source).to_string(), SocketAddr::new(b, destination).to_string()]
        }
        None => addresses.map(|address| address.to_string()),
    })
}

/// Ports of a first fragment.
fn first_ports(packet: &LaxSlicedPacket<'_>) -> Option<[u16; 2]> {
    let start = match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => ip.header().fragments_offset().value(),
        LaxNetSlice::Ipv6(_) => 0,
        LaxNetSlice::Arp(_) => return None,
    };
    let payload = packet.net.as_ref()?.ip_payload_ref()?;
    let [a, b, c, d, ..] = *payload.payload else { return None };
    let is_first = start == 0 && payload.fragmented && !is_later_v6(packet);
    is_first.then(|| [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
}

/// True for an IPv6 fragment that is not the first.
fn is_later_v6(packet: &LaxSlicedPacket<'_>) -> bool {
    let Some(LaxNetSlice::Ipv6(ip)) = &packet.net else { return false };
    ip.extensions().clone().into_iter().any(|extension| match extension {
        etherparse::Ipv6ExtensionSlice::Fragment(header) => header.fragment_offset().value() != 0,
        etherparse::Ipv6ExtensionSlice::HopByHop(_)
        | etherparse::Ipv6ExtensionSlice::Routing(_)
        | etherparse::Ipv6ExtensionSlice::DestinationOptions(_)
        | etherparse::Ipv6ExtensionSlice::Authentication(_) => false,
    })
}
