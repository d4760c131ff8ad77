//! The interfaces that the XDP program is attached to.

use crate::netlink::{Link, LinkKind, Network};

use super::{Finding, HostFacts, Wanted};

/// Above this most drivers, veth among them, refuse native XDP without multi-buffer support: a
/// packet must fit a page beside its head room.
const LARGEST_XDP_MTU: u32 = 3506;

pub(super) fn check(
    wanted: &Wanted,
    network: &Network,
    facts: &HostFacts,
    findings: &mut Vec<Finding>,
) {
    for name in &wanted.interfaces {
        let Some(link) = network.link_by_name(name) else {
            let existing: Vec<&str> = network.links.values().map(|l| l.name.as_str()).collect();
            findings.push(Finding::error(
                format!("interface {name} does not exist"),
                format!("name one of those that this host has: {}", existing.join(", ")),
            ));
            continue;
        };
        if !link.up {
            findings.push(Finding::warning(
                format!("interface {name} is down: no packet comes in by it"),
                format!("ip link set {name} up"),
            ));
        } else if !link.carrier {
            findings.push(Finding::warning(
                format!("interface {name} has no carrier: no packet comes in by it"),
                "see to the cable, the switch port or the veth's other end",
            ));
        }
        if link.mtu > LARGEST_XDP_MTU {
            findings.push(Finding::warning(
                format!(
                    "interface {name} has MTU {}: most drivers refuse native XDP above \
                     {LARGEST_XDP_MTU}",
                    link.mtu
                ),
                format!("ip link set {name} mtu 1500, or xdp_mode: generic"),
            ));
        }
        check_kind(network, link, findings);
        check_offloads(network, link, facts, findings);
    }
}

fn check_kind(network: &Network, link: &Link, findings: &mut Vec<Finding>) {
    let name = &link.name;
    match &link.kind {
        LinkKind::Vlan { lower, .. } | LinkKind::Macvlan { lower } => {
            let lower = lower.and_then(|index| network.links.get(&index));
            let lower = lower.map_or("the link below it", |link| link.name.as_str());
            findings.push(Finding::warning(
                format!(
                    "interface {name} is a {} device: the XDP program sees packets below it, with \
                     their tags and MACs, and cannot send by it",
                    link.kind
                ),
                format!("interfaces: name {lower} instead"),
            ));
        }
        LinkKind::Ethernet
        | LinkKind::Veth { .. }
        | LinkKind::Loopback
        | LinkKind::Bridge
        | LinkKind::Bond
        | LinkKind::Dummy
        | LinkKind::Vrf
        | LinkKind::Other(_) => {}
    }
}

fn check_offloads(network: &Network, link: &Link, facts: &HostFacts, findings: &mut Vec<Finding>) {
    let name = &link.name;
    if let Some(offloads) = facts.offloads.get(name) {
        if offloads.lro {
            findings.push(Finding::warning(
                format!(
                    "interface {name} has large-receive-offload on: it merges packets before the \
                     XDP program sees them, and many drivers refuse native XDP with it"
                ),
                format!("ethtool -K {name} lro off"),
            ));
        }
        let vlan = network.links.values().find(|upper| {
            matches!(upper.kind, LinkKind::Vlan { .. }) && upper.kind.lower() == Some(link.index)
        });
        if let (true, Some(vlan)) = (offloads.rx_vlan, vlan) {
            findings.push(Finding::warning(
                format!(
                    "interface {name} has rx-vlan-offload on: it takes the tags of {} off before \
                     the XDP program sees them",
                    vlan.name
                ),
                format!("ethtool -K {name} rxvlan off"),
            ));
        }
    }
    if let LinkKind::Veth { peer } = link.kind {
        check_veth_peer(name, peer.and_then(|peer| network.links.get(&peer)), facts, findings);
    }
}

fn check_veth_peer(
    name: &str,
    peer: Option<&Link>,
    facts: &HostFacts,
    findings: &mut Vec<Finding>,
) {
    let lost = "what it sends itself reaches the XDP program without checksums, and the forwarded \
                packets are dropped as corrupt";
    match peer {
        Some(peer) if facts.offloads.get(&peer.name).is_some_and(|o| o.tx_checksum) => {
            findings.push(Finding::warning(
                format!("{}, the veth peer of {name}, has tx-checksumming on: {lost}", peer.name),
                format!("ethtool -K {} tx off", peer.name),
            ));
        }
        Some(_) => {}
        None => findings.push(Finding::note(
            format!(
                "interface {name} is a veth whose peer is in another namespace: if that has \
                 tx-checksumming on, {lost}"
            ),
            "in the peer's namespace: ethtool -K PEER tx off",
        )),
    }
}
