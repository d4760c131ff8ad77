//! Messages that the test machine's kernel may not be able to produce (VLAN, bond, MPLS, …).

use std::net::IpAddr;

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
        LinkMessage, VlanProtocol,
    },
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::{
        RouteAttribute, RouteFlags, RouteLwEnCapType, RouteMessage, RouteMetric, RouteNextHop,
        RouteNextHopFlags, RouteType, RouteVia,
    },
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};

use super::{
    decode::{Change, addresses, change, has_policy_rules, links, neighbours, routes},
    model::{Leg, Link, LinkKind, Route, RouteKind, VlanTag},
    sample::{ad, ip, net, q},
};

fn link(kind: Option<InfoKind>, more: Vec<LinkAttribute>) -> Link {
    link_with(LinkFlags::Up, LinkLayerType::Ether, kind, None, more)
}

fn link_with(
    flags: LinkFlags,
    layer: LinkLayerType,
    kind: Option<InfoKind>,
    data: Option<InfoData>,
    more: Vec<LinkAttribute>,
) -> Link {
    let mut message = LinkMessage::default();
    message.header.index = 9;
    message.header.flags = flags;
    message.header.link_layer_type = layer;
    message.attributes = vec![
        LinkAttribute::IfName("x9".into()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 9]),
    ];
    let info = kind.map(LinkInfo::Kind).into_iter().chain(data.map(LinkInfo::Data)).collect();
    message.attributes.push(LinkAttribute::LinkInfo(info));
    message.attributes.extend(more);
    links(&[Message::NewLink(message)]).next().unwrap()
}

fn vlan(protocol: Option<VlanProtocol>, id: u16, more: Vec<LinkAttribute>) -> LinkKind {
    let mut data = vec![InfoVlan::Id(id)];
    data.extend(protocol.map(InfoVlan::Protocol));
    let (kind, data) = (Some(InfoKind::Vlan), Some(InfoData::Vlan(data)));
    link_with(LinkFlags::Up, LinkLayerType::Ether, kind, data, more).kind
}

#[test]
fn vlan_devices_bear_their_tag_and_lower_link() {
    let on = |tag: VlanTag, lower| LinkKind::Vlan { tag, lower };
    let lower = || vec![LinkAttribute::Link(4)];
    assert_eq!(vlan(None, 20, lower()), on(q(20), Some(4)));
    assert_eq!(vlan(Some(VlanProtocol::Ieee8021Q), 4094, lower()), on(q(4094), Some(4)));
    assert_eq!(vlan(Some(VlanProtocol::Ieee8021Ad), 100, lower()), on(ad(100), Some(4)));
    let elsewhere = vec![LinkAttribute::Link(4), LinkAttribute::LinkNetNsId(0)];
    assert_eq!(vlan(None, 20, elsewhere), on(q(20), None), "index 4 is another link here");
}

#[test]
fn kinds_of_links() {
    use LinkKind::*;
    for (kind, expected) in [
        (None, Ethernet),
        (Some(InfoKind::Tun), Ethernet),
        (Some(InfoKind::Veth), Veth { peer: Some(4) }),
        (Some(InfoKind::MacVlan), Macvlan { lower: Some(4) }),
        (Some(InfoKind::Bridge), Bridge),
        (Some(InfoKind::Bond), Bond),
        (Some(InfoKind::Team), Bond),
        (Some(InfoKind::Dummy), Dummy),
        (Some(InfoKind::Vrf), Vrf),
        (Some(InfoKind::Vlan), Other("vlan".into())),
        (Some(InfoKind::Wireguard), Other("wireguard".into())),
        (Some(InfoKind::Other("new".into())), Other("new".into())),
    ] {
        assert_eq!(link(kind.clone(), vec![LinkAttribute::Link(4)]).kind, expected, "{kind:?}");
    }
    let tunnel = |kind| link_with(LinkFlags::Up, LinkLayerType::Tunnel, kind, None, vec![]).kind;
    assert_eq!(tunnel(Some(InfoKind::IpIp)), Other("ipip".into()));
    assert_eq!(tunnel(Some(InfoKind::Tun)), Other("tun".into()));
    assert_eq!(tunnel(None), Other("tunnel".into()));
    let loopback = LinkFlags::Up | LinkFlags::Loopback;
    let kind = link_with(loopback, LinkLayerType::Loopback, None, None, vec![]).kind;
    assert_eq!(kind, Loopback);
}

#[test]
fn state_and_master_of_a_link() {
    let carrier = |value| vec![LinkAttribute::Carrier(value)];
    assert!(link(None, carrier(1)).carrier);
    assert!(!link(None, carrier(0)).carrier);
    let down = link_with(LinkFlags::empty(), LinkLayerType::Ether, None, None, carrier(1));
    assert!(!down.up && !down.carrier);
    assert_eq!(link(None, vec![LinkAttribute::Controller(7)]).master, Some(7));
    assert_eq!(link(None, vec![LinkAttribute::Controller(0)]).master, None);
    // An Infiniband address.
    let long = vec![LinkAttribute::Address(vec![0; 20])];
    assert_eq!(link(None, long).mac, None);
}

#[test]
fn the_own_address_of_a_point_to_point_link_is_taken() {
    let mut message = AddressMessage::default();
    (message.header.index, message.header.prefix_len) = (3, 32);
    message.attributes =
        vec![AddressAttribute::Address(ip("10.0.0.2")), AddressAttribute::Local(ip("10.0.0.1"))];
    let found = addresses(&[Message::NewAddress(message)]).next().unwrap();
    assert_eq!((found.device, found.address), (3, net("10.0.0.1/32")));
}

fn route_message(attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 24;
    message.header.table = 254;
    message.header.kind = RouteType::Unicast;
    let destination: IpAddr = ip("198.51.100.0");
    message.attributes = vec![RouteAttribute::Destination(destination.into())];
    message.attributes.extend(attributes);
    message
}

fn decode(message: RouteMessage) -> Option<Route> {
    routes(&[Message::NewRoute(message)]).next()
}

fn gateway(address: &str) -> RouteAttribute {
    RouteAttribute::Gateway(ip(address).into())
}

fn plain(device: u32, gateway: Option<&str>) -> Leg {
    Leg { device, gateway: gateway.map(ip), dead: false, encapsulates: false }
}

#[test]
fn a_plain_route_with_all_that_it_may_bear() {
    let route = decode(route_message(vec![
        RouteAttribute::Table(1000),
        RouteAttribute::Oif(2),
        gateway("10.0.0.254"),
        RouteAttribute::Priority(50),
        RouteAttribute::PrefSource(ip("10.0.0.1").into()),
        RouteAttribute::Metrics(vec![RouteMetric::Advmss(1000), RouteMetric::Mtu(1400)]),
    ]));
    let expected = Route {
        table: 1000,
        destination: net("198.51.100.0/24"),
        metric: 50,
        kind: RouteKind::Unicast,
        selective: false,
        mtu: Some(1400),
        preferred_source: Some(ip("10.0.0.1")),
        legs: vec![plain(2, Some("10.0.0.254"))],
    };
    assert_eq!(route, Some(expected));
}

#[test]
fn a_default_route_has_no_destination_attribute() {
    for (family, expected) in [(AddressFamily::Inet, "0.0.0.0/0"), (AddressFamily::Inet6, "::/0")] {
        let mut message = route_message(vec![]);
        message.header.address_family = family;
        message.header.destination_prefix_length = 0;
        message.attributes = vec![RouteAttribute::Oif(2)];
        assert_eq!(decode(message).unwrap().destination, net(expected));
    }
}

#[test]
fn ways_of_a_multipath_route() {
    let hop = |device, flags, attributes| {
        let mut hop = RouteNextHop::default();
        (hop.interface_index, hop.flags, hop.attributes) = (device, flags, attributes);
        hop
    };
    let none = RouteNextHopFlags::empty();
    let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
    let mpls = vec![gateway("10.0.0.4"), RouteAttribute::EncapType(RouteLwEnCapType::Mpls)];
    let hops = vec![
        hop(2, none, vec![gateway("10.0.0.2")]),
        hop(3, RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown, vec![via]),
        hop(4, RouteNextHopFlags::Linkdown, mpls),
    ];
    let legs = decode(route_message(vec![RouteAttribute::MultiPath(hops)])).unwrap().legs;
    let expected = vec![
        plain(2, Some("10.0.0.2")),
        Leg { dead: true, ..plain(3, Some("fe80::1")) },
        Leg { encapsulates: true, ..plain(4, Some("10.0.0.4")) },
    ];
    assert_eq!(legs, expected);
}

#[test]
fn what_makes_a_route_special() {
    let oif = || RouteAttribute::Oif(2);
    let mut tos = route_message(vec![oif()]);
    tos.header.tos = 0x10;
    assert!(decode(tos).unwrap().selective);
    let mut from = route_message(vec![oif()]);
    from.header.source_prefix_length = 64;
    assert!(decode(from).unwrap().selective);
    let mut dead = route_message(vec![oif()]);
    dead.header.flags = RouteFlags::Dead;
    assert!(decode(dead).unwrap().legs[0].dead);
    let mut cached = route_message(vec![oif()]);
    cached.header.flags = RouteFlags::Cloned;
    assert_eq!(decode(cached), None);
    let mut other = route_message(vec![oif()]);
    other.header.address_family = AddressFamily::Mpls;
    assert_eq!(decode(other), None);
    let object_only = route_message(vec![RouteAttribute::NhId(7)]);
    assert_eq!(decode(object_only).unwrap().kind, RouteKind::Unknown);
    for (kind, expected) in [
        (RouteType::Local, RouteKind::Local),
        (RouteType::Broadcast, RouteKind::NotUnicast),
        (RouteType::Anycast, RouteKind::NotUnicast),
        (RouteType::Multicast, RouteKind::NotUnicast),
        (RouteType::BlackHole, RouteKind::Refuse),
        (RouteType::Unreachable, RouteKind::Refuse),
        (RouteType::Prohibit, RouteKind::Refuse),
        (RouteType::Throw, RouteKind::Throw),
        (RouteType::Nat, RouteKind::Unknown),
    ] {
        let mut message = route_message(vec![]);
        message.header.kind = kind;
        assert_eq!(decode(message).unwrap().kind, expected, "{kind:?}");
    }
}

#[test]
fn proxies_and_bridge_entries_are_no_neighbours() {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = 2;
    let mac = NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]);
    message.attributes = vec![mac];
    assert_eq!(change(&Message::NewNeighbour(message.clone())), Change::Nothing);
    message.attributes.push(NeighbourAttribute::Destination(ip("10.0.0.9").into()));
    assert!(matches!(change(&Message::NewNeighbour(message.clone())), Change::Neighbour(..)));
    message.header.flags = NeighbourFlags::Proxy;
    assert_eq!(change(&Message::NewNeighbour(message.clone())), Change::Nothing);
    assert_eq!(neighbours(&[Message::NewNeighbour(message)]).count(), 0);
}

fn rule(table: u32, attributes: Vec<RuleAttribute>) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(table).unwrap_or(0);
    message.attributes = vec![
        RuleAttribute::Table(table),
        RuleAttribute::Priority(32766),
        RuleAttribute::SuppressPrefixLen(u32::MAX),
    ];
    message.attributes.extend(attributes);
    message
}

#[test]
fn only_the_rules_that_every_host_has_are_standard() {
    let standard: Vec<Message> =
        [255, 254, 253].into_iter().map(|table| Message::NewRule(rule(table, vec![]))).collect();
    assert!(!has_policy_rules(&standard));

    let mut inverted = rule(254, vec![]);
    inverted.header.flags = RuleFlags::Invert;
    let mut tos = rule(254, vec![]);
    tos.header.tos = 8;
    let mut refuse = rule(254, vec![]);
    refuse.header.action = RuleAction::Unreachable;
    for message in [
        rule(100, vec![]),
        rule(254, vec![RuleAttribute::FwMark(1)]),
        rule(254, vec![RuleAttribute::Source(ip("10.0.0.0"))]),
        rule(254, vec![RuleAttribute::Iifname("eth0".into())]),
        rule(254, vec![RuleAttribute::L3MDev(true)]),
        rule(254, vec![RuleAttribute::SuppressPrefixLen(0)]),
        inverted,
        tos,
        refuse,
    ] {
        let all = [standard.clone(), vec![Message::NewRule(message.clone())]].concat();
        assert!(has_policy_rules(&all), "{message:?}");
    }
}
