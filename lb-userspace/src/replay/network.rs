//! The network that a replay pretends: one NIC, every backend and a router for all clients behind it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use lb_common::{
    addr::{Addr, Mac},
    backend::{IngressPath, NextHop, Route, next_hop},
    service::Interface,
};

use crate::state::desired::{NetworkView, Path};

/// The NIC's address.
const OURS: Mac = [2, 0, 0, 0, 0, 1];
/// The router towards the clients.
const ROUTER: Mac = [2, 0, 0, 0, 0, 2];

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Who has which MAC address: always the same ones, so that what is written is, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Neighbours {
    backends: BTreeMap<Addr, Mac>,
}

impl Neighbours {
    #[must_use]
    pub(super) fn new<'a>(endpoints: impl IntoIterator<Item = &'a SocketAddr>) -> Self {
        let addresses: BTreeSet<Addr> = endpoints.into_iter().map(|e| Addr::from(e.ip())).collect();
        let macs = (1u16..).map(|n| {
            let [high, low] = n.to_be_bytes();
            [2, 0, 0, 1, high, low]
        });
        Self { backends: addresses.into_iter().zip(macs).collect() }
    }

    /// Puts an Ethernet header in front of a network packet: from the neighbour that would send it,
    /// to this host.
    pub(super) fn frame(&self, ethertype: u16, packet: &[u8], frame: &mut Vec<u8>) {
        let at = if ethertype == IPV4 { 12 } else { 8 };
        let source = address(ethertype, packet, at).and_then(|addr| self.backends.get(&addr));
        frame.clear();
        frame.extend_from_slice(&OURS);
        frame.extend_from_slice(source.unwrap_or(&ROUTER));
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.extend_from_slice(packet);
    }

    /// The frame of a network packet that leaves, to the neighbour that leads to its destination.
    #[must_use]
    pub(super) fn leaving(&self, packet: &[u8]) -> Vec<u8> {
        let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        let (ethertype, at) = if is_v6 { (IPV6, 24) } else { (IPV4, 16) };
        let to = address(ethertype, packet, at).and_then(|addr| self.backends.get(&addr));
        let to = to.unwrap_or(&ROUTER);
        [to.as_slice(), &OURS, &ethertype.to_be_bytes(), packet].concat()
    }

    /// What the program is told of this network. With `on_link`, backends and this host share one
    /// link; else each is behind a router. `local` are addresses of this host.
    #[must_use]
    pub(super) fn view(&self, ifindex: u32, on_link: bool, local: &[IpAddr]) -> NetworkView {
        let hop = |dst_mac, on_link: bool| NextHop {
            ifindex,
            state: next_hop::VALID,
            dst_mac,
            src_mac: OURS,
            on_link: on_link.into(),
            ..NextHop::default()
        };
        let path = |(addr, mac): (&Addr, &Mac)| {
            let ingress = vec![IngressPath { ifindex, vids: [0; 2] }];
            (*addr, Path { next_hop: hop(*mac, on_link), ingress })
        };
        let mut interface = Interface { ifindex, count: 1, ..Interface::default() };
        if let Some(mac) = interface.macs.first_mut() {
            *mac = OURS;
        }
        NetworkView {
            paths: self.backends.iter().map(path).collect(),
            interfaces: vec![interface],
            host_addresses: local.iter().map(|&ip| Addr::from(ip)).collect(),
            client_routes: vec![
                Route::new(Addr::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 96, hop(ROUTER, false)),
                Route::new(Addr::v6([0; 16]), 0, hop(ROUTER, false)),
            ],
        }
    }
}

/// The address that stands at an offset of an IP packet.
fn address(ethertype: u16, packet: &[u8], at: usize) -> Option<Addr> {
    match ethertype {
        IPV4 => packet.get(at..)?.first_chunk().copied().map(Addr::v4),
        IPV6 => packet.get(at..)?.first_chunk().copied().map(Addr::v6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backends_packets_come_from_the_neighbour_that_packets_to_it_go_to() {
        let endpoints: Vec<SocketAddr> = ["10.0.0.2:5060", "10.0.0.1:5060", "10.0.0.1:5080"]
            .iter()
            .map(|e| e.parse().unwrap())
            .collect();
        let neighbours = Neighbours::new(&endpoints);
        let view = neighbours.view(7, false, &[]);
        assert_eq!(view.paths.len(), 2);
        let mut frame = Vec::new();
        for (address, path) in &view.paths {
            let mut packet = vec![0x45; 20];
            packet[12..16].copy_from_slice(&address.v4_octets());
            neighbours.frame(IPV4, &packet, &mut frame);
            assert_eq!(frame[..6], view.interfaces[0].macs[0]);
            assert_eq!(frame[6..12], path.next_hop.dst_mac);
            assert_eq!(frame[12..14], [8, 0]);
            assert_eq!(frame[14..], packet);
            packet[16..20].copy_from_slice(&address.v4_octets());
            let frame = neighbours.leaving(&packet);
            assert_eq!(frame[..6], path.next_hop.dst_mac);
            assert_eq!(frame[6..12], view.interfaces[0].macs[0]);
            assert_eq!(frame[14..], packet);
        }
        neighbours.frame(IPV4, &[0x45; 20], &mut frame);
        assert_eq!(frame[6..12], ROUTER);
    }

    #[test]
    fn every_client_has_a_route() {
        let view = Neighbours::new(&[]).view(7, false, &[]);
        for client in ["198.51.100.1", "2001:db8::1", "::1", "1.1.1.1"] {
            let client = Addr::from(client.parse::<IpAddr>().unwrap());
            assert!(view.client_routes.iter().any(|route| route.covers(&client)));
        }
    }
}
