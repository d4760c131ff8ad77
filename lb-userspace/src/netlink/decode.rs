//! Netlink messages → the plain values of [`super::model`].
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel's enumerations are open and name hundreds of things of no interest here"
)]

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
        NeighbourState as NudState,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop,
        RouteNextHopFlags, RouteType, RouteVia,
    },
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};

use super::{
    model::{
        InterfaceAddress, Leg, Link, LinkKind, Mac, Neighbour, NeighbourState, Route, RouteKind,
        VlanTag,
    },
    route_table::{DEFAULT, LOCAL, MAIN},
};

/// What the rules that every host has look up.
const STANDARD_TABLES: [u32; 3] = [LOCAL, MAIN, DEFAULT];

/// What an event says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Neighbour((u32, IpAddr), Neighbour),
    NeighbourGone((u32, IpAddr)),
    /// Something of this kind changed.
    Links,
    Addresses,
    Routes,
    Rules,
    /// Of no interest here, such as a bridge's forwarding entry.
    Nothing,
}

pub(super) fn change(message: &Message) -> Change {
    match message {
        Message::NewNeighbour(message) => neighbour(message)
            .map_or(Change::Nothing, |(key, neighbour)| Change::Neighbour(key, neighbour)),
        Message::DelNeighbour(message) => {
            neighbour(message).map_or(Change::Nothing, |(key, _)| Change::NeighbourGone(key))
        }
        Message::NewLink(_) | Message::DelLink(_) => Change::Links,
        Message::NewAddress(_) | Message::DelAddress(_) => Change::Addresses,
        Message::NewRoute(_) | Message::DelRoute(_) => Change::Routes,
        Message::NewRule(_) | Message::DelRule(_) => Change::Rules,
        _ => Change::Nothing,
    }
}

/// The links of a dump.
pub(super) fn links(dump: &[Message]) -> impl Iterator<Item = Link> + '_ {
    dump.iter().filter_map(|message| match message {
        Message::NewLink(message) => link(message),
        _ => None,
    })
}

/// The addresses of a dump.
pub(super) fn addresses(dump: &[Message]) -> impl Iterator<Item = InterfaceAddress> + '_ {
    dump.iter().filter_map(|message| match message {
        Message::NewAddress(message) => address(message),
        _ => None,
    })
}

/// The routes of a dump.
pub(super) fn routes(dump: &[Message]) -> impl Iterator<Item = Route> + '_ {
    dump.iter().filter_map(|message| match message {
        Message::NewRoute(message) => route(message),
        _ => None,
    })
}

/// The neighbours of a dump, by device and address.
pub(super) fn neighbours(
    dump: &[Message],
) -> impl Iterator<Item = ((u32, IpAddr), Neighbour)> + '_ {
    dump.iter().filter_map(|message| match message {
        Message::NewNeighbour(message) => neighbour(message),
        _ => None,
    })
}

/// Whether a dump of rules has more than those that every host has.
pub(super) fn has_policy_rules(dump: &[Message]) -> bool {
    dump.iter().any(|message| match message {
        Message::NewRule(message) => !is_standard_rule(message),
        _ => false,
    })
}

fn link(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    let (mut name, mut mac, mut mtu, mut carrier) = (None, None, 0, true);
    let (mut lower, mut elsewhere, mut master) = (None, false, None);
    let (mut info_kind, mut tag) = (None, None);
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(value) = attribute {
            name = Some(value.clone());
        } else if let LinkAttribute::Address(value) = attribute {
            mac = mac_of(value);
        } else if let LinkAttribute::Mtu(value) = attribute {
            mtu = *value;
        } else if let LinkAttribute::Carrier(value) = attribute {
            carrier = *value != 0;
        } else if let LinkAttribute::Link(value) = attribute {
            lower = Some(*value).filter(|index| *index != 0);
        } else if let LinkAttribute::LinkNetNsId(_) = attribute {
            elsewhere = true;
        } else if let LinkAttribute::Controller(value) = attribute {
            master = Some(*value).filter(|index| *index != 0);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(kind) = info {
                    info_kind = Some(kind.to_string());
                } else if let LinkInfo::Data(InfoData::Vlan(data)) = info {
                    tag = vlan_tag(data);
                }
            }
        }
    }
    let lower = lower.filter(|_| !elsewhere);
    let kind = match (info_kind.as_deref(), tag) {
        _ if header.flags.contains(LinkFlags::Loopback) => LinkKind::Loopback,
        _ if header.link_layer_type != LinkLayerType::Ether => LinkKind::Other(
            info_kind.unwrap_or_else(|| format!("{:?}", header.link_layer_type).to_lowercase()),
        ),
        (None | Some("tun"), _) => LinkKind::Ethernet,
        (Some("veth"), _) => LinkKind::Veth { peer: lower },
        (Some("vlan"), Some(tag)) => LinkKind::Vlan { tag, lower },
        (Some("macvlan" | "macvtap"), _) => LinkKind::Macvlan { lower },
        (Some("bridge"), _) => LinkKind::Bridge,
        (Some("bond" | "team"), _) => LinkKind::Bond,
        (Some("dummy"), _) => LinkKind::Dummy,
        (Some("vrf"), _) => LinkKind::Vrf,
        (Some(other), _) => LinkKind::Other(other.to_owned()),
    };
    Some(Link {
        index: header.index,
        name: name?,
        mac,
        mtu,
        up: header.flags.contains(LinkFlags::Up),
        carrier: carrier && header.flags.contains(LinkFlags::Up),
        kind,
        master,
    })
}

fn vlan_tag(data: &[InfoVlan]) -> Option<VlanTag> {
    let mut tpid = 0x8100;
    let mut id = None;
    for attribute in data {
        if let InfoVlan::Id(value) = attribute {
            id = Some(*value);
        } else if let InfoVlan::Protocol(value) = attribute {
            tpid = u16::from(*value);
        }
    }
    id.map(|tci| VlanTag { tpid, tci })
}

fn mac_of(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok()
}

fn address(message: &AddressMessage) -> Option<InterfaceAddress> {
    // On point-to-point links IFA_ADDRESS is the peer's; IFA_LOCAL is always our own.
    let (mut own, mut peer) = (None, None);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(value) = attribute {
            own = Some(*value);
        } else if let AddressAttribute::Address(value) = attribute {
            peer = Some(*value);
        }
    }
    let address = IpNet::new(own.or(peer)?, message.header.prefix_len).ok()?;
    Some(InterfaceAddress { device: message.header.index, address })
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0u8; 4]),
        AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut route = Route {
        table: u32::from(header.table),
        destination: IpNet::from(any),
        metric: 0,
        kind: route_kind(header.kind),
        selective: header.tos != 0 || header.source_prefix_length != 0,
        mtu: None,
        preferred_source: None,
        legs: Vec::new(),
    };
    let mut destination = any;
    let mut next_hop_object = false;
    let mut single = Leg {
        device: 0,
        gateway: None,
        dead: header.flags.contains(RouteFlags::Dead),
        encapsulates: false,
    };
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(value) = attribute {
            destination = ip_of(value)?;
        } else if let RouteAttribute::Table(value) = attribute {
            route.table = *value;
        } else if let RouteAttribute::Priority(value) = attribute {
            route.metric = *value;
        } else if let RouteAttribute::PrefSource(value) = attribute {
            route.preferred_source = ip_of(value);
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            route.mtu = metrics.iter().find_map(|metric| match metric {
                RouteMetric::Mtu(value) => Some(*value),
                _ => None,
            });
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            route.legs = hops.iter().map(multipath_leg).collect();
        } else if let RouteAttribute::NhId(_) = attribute {
            next_hop_object = true;
        } else {
            leg_attribute(&mut single, attribute);
        }
    }
    route.destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    if route.legs.is_empty() && single.device != 0 {
        route.legs.push(single);
    }
    // The kernel repeats what a next-hop object stands for, unless it was told not to
    // (net.ipv4.nexthop_compat_mode=0).
    if route.kind == RouteKind::Unicast && route.legs.is_empty() {
        route.kind = RouteKind::Unknown;
        tracing::debug!(destination = %route.destination, next_hop_object, "route without a way");
    }
    Some(route)
}

fn multipath_leg(hop: &RouteNextHop) -> Leg {
    let mut leg = Leg {
        device: hop.interface_index,
        gateway: None,
        dead: hop.flags.contains(RouteNextHopFlags::Dead),
        encapsulates: false,
    };
    for attribute in &hop.attributes {
        leg_attribute(&mut leg, attribute);
    }
    leg
}

fn leg_attribute(leg: &mut Leg, attribute: &RouteAttribute) {
    if let RouteAttribute::Oif(value) = attribute {
        leg.device = *value;
    } else if let RouteAttribute::Gateway(value) = attribute {
        leg.gateway = ip_of(value);
    } else if let RouteAttribute::Via(RouteVia::Inet(value)) = attribute {
        leg.gateway = Some(IpAddr::V4(*value));
    } else if let RouteAttribute::Via(RouteVia::Inet6(value)) = attribute {
        leg.gateway = Some(IpAddr::V6(*value));
    } else if let RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) = attribute {
        leg.encapsulates = true;
    }
}

fn route_kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => RouteKind::NotUnicast,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => RouteKind::Refuse,
        RouteType::Throw => RouteKind::Throw,
        _ => RouteKind::Unknown,
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(value) => Some(IpAddr::V4(*value)),
        RouteAddress::Inet6(value) => Some(IpAddr::V6(*value)),
        _ => None,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), Neighbour)> {
    let header = &message.header;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        // Bridge forwarding entries come by the same message and have no such address.
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) = attribute {
            address = Some(IpAddr::V4(*value));
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) = attribute {
            address = Some(IpAddr::V6(*value));
        } else if let NeighbourAttribute::LinkLayerAddress(value) = attribute {
            mac = mac_of(value);
        }
    }
    let state = match header.state {
        NudState::Incomplete => NeighbourState::Incomplete,
        NudState::Reachable => NeighbourState::Reachable,
        NudState::Stale => NeighbourState::Stale,
        NudState::Delay => NeighbourState::Delay,
        NudState::Probe => NeighbourState::Probe,
        NudState::Failed => NeighbourState::Failed,
        NudState::Noarp => NeighbourState::NoArp,
        NudState::Permanent => NeighbourState::Permanent,
        _ => NeighbourState::None,
    };
    Some(((header.ifindex, address?), Neighbour { state, mac }))
}

/// Whether a rule is one of those that every host has: "everything: look up local, main, default".
fn is_standard_rule(message: &RuleMessage) -> bool {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut plain = header.action == RuleAction::ToTable
        && (header.src_len, header.dst_len, header.tos) == (0, 0, 0)
        && !header.flags.contains(RuleFlags::Invert);
    for attribute in &message.attributes {
        if let RuleAttribute::Table(value) = attribute {
            table = *value;
        } else {
            // The kernel reports "suppress nothing" as -1 on every rule.
            plain &= matches!(
                attribute,
                RuleAttribute::Priority(_)
                    | RuleAttribute::Protocol(_)
                    | RuleAttribute::SuppressPrefixLen(u32::MAX)
                    | RuleAttribute::SuppressIfGroup(u32::MAX)
            );
        }
    }
    plain && STANDARD_TABLES.contains(&table)
}
