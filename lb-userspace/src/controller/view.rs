//! The mirrored network → what the datapath has to know of it. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::{
    addr::Addr,
    backend::{self, IngressPath, Route, next_hop},
    service::Interface,
};

use crate::{
    netlink::{self, NextHop, VlanTag},
    state::desired::{NetworkView, Path},
};

/// What the maps say of the network: ways to `endpoints`, the attached interfaces, this host's
/// addresses, the routes towards clients.
#[must_use]
pub(super) fn view(
    network: &netlink::Network,
    interfaces: &[String],
    endpoints: &BTreeSet<IpAddr>,
) -> NetworkView {
    NetworkView {
        paths: endpoints
            .iter()
            .map(|&address| {
                let ingress = network.ingress_paths(address);
                let path = Path {
                    next_hop: hop(&network.next_hop(address)),
                    ingress: ingress.iter().map(ingress_path).collect(),
                };
                (Addr::from(address), path)
            })
            .collect(),
        interfaces: interfaces.iter().filter_map(|name| interface(network, name)).collect(),
        host_addresses: network.local_addresses().into_iter().map(Addr::from).collect(),
        client_routes: network
            .client_routes()
            .unwrap_or_default()
            .iter()
            .map(|route| {
                let prefix = route.prefix;
                let offset = if prefix.addr().is_ipv4() { 96 } else { 0 };
                let bits = u32::from(prefix.prefix_len()) + offset;
                Route::new(Addr::from(prefix.addr()), bits, hop(&route.next_hop))
            })
            .collect(),
    }
}

/// An interface with the MACs that its packets may be addressed to: its own first.
fn interface(network: &netlink::Network, name: &str) -> Option<Interface> {
    let link = network.link_by_name(name)?;
    let mut record = Interface { ifindex: link.index, ..Interface::default() };
    for (slot, mac) in record.macs.iter_mut().zip(network.interface_macs(link.index)) {
        *slot = mac;
        record.count += 1;
    }
    Some(record)
}

/// A next hop as the datapath has it; what cannot be mirrored is asked of the kernel.
fn hop(hop: &NextHop) -> backend::NextHop {
    match hop {
        NextHop::Resolved(resolved) => {
            let tags = wire_tags(&resolved.vlans);
            backend::NextHop {
                ifindex: resolved.ifindex,
                state: next_hop::VALID,
                vlans: resolved.vlans.len() as u8,
                mtu: u16::try_from(resolved.mtu).unwrap_or(u16::MAX),
                dst_mac: resolved.dst_mac,
                src_mac: resolved.src_mac,
                tags,
                on_link: u8::from(resolved.on_link),
                pad: [0; 3],
            }
        }
        // Only its MAC has to be asked for. Which link it is on decides already: a hairpin whose
        // client kept its address until the neighbour is known would be answered past this host.
        NextHop::Incomplete(incomplete) => backend::NextHop {
            ifindex: incomplete.ifindex,
            state: next_hop::ASK_FIB,
            vlans: incomplete.vlans.len() as u8,
            tags: wire_tags(&incomplete.vlans),
            on_link: u8::from(incomplete.on_link),
            ..backend::NextHop::default()
        },
        NextHop::Unusable(_) => backend::NextHop::default(),
    }
}

fn wire_tags(vlans: &[VlanTag]) -> [[u8; 4]; 2] {
    let mut tags = [[0; 4]; 2];
    for (to, tag) in tags.iter_mut().zip(vlans) {
        *to = wire(*tag);
    }
    tags
}

fn wire(tag: VlanTag) -> [u8; 4] {
    let ([a, b], [c, d]) = (tag.tpid.to_be_bytes(), tag.tci.to_be_bytes());
    [a, b, c, d]
}

fn ingress_path(path: &netlink::IngressPath) -> IngressPath {
    let mut vids = [0; 2];
    for (vid, tag) in vids.iter_mut().zip(&path.vlans) {
        *vid = tag.tci & 0x0fff;
    }
    IngressPath { ifindex: path.ifindex, vids }
}
