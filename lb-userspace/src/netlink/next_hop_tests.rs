use super::{
    model::{LinkKind, NeighbourState, Network, PolicyRules, Route, RouteKind, VlanTag},
    next_hop::{Incomplete, IngressPath, NextHop, Resolved, Unusable},
    sample::{Sample, ad, ip, leg, link_mac, q, route, special},
};

/// eth0 (2) with 10.0.1.1/24 towards backends, eth1 (3) with 192.0.2.2/24 and the default route.
fn two_arms() -> Sample {
    Sample::default()
        .link(1, "lo", LinkKind::Loopback)
        .link(2, "eth0", LinkKind::Ethernet)
        .link(3, "eth1", LinkKind::Ethernet)
        .address(2, "10.0.1.1/24")
        .address(3, "192.0.2.2/24")
        .gateway("0.0.0.0/0", 3, "192.0.2.1")
}

fn resolved(network: &Network, to: &str) -> Resolved {
    match network.next_hop(ip(to)) {
        NextHop::Resolved(hop) => hop,
        other @ (NextHop::Incomplete(_) | NextHop::Unusable(_)) => panic!("{to}: {other:?}"),
    }
}

fn unusable(network: &Network, to: &str) -> Unusable {
    match network.next_hop(ip(to)) {
        NextHop::Unusable(reason) => reason,
        other @ (NextHop::Resolved(_) | NextHop::Incomplete(_)) => panic!("{to}: {other:?}"),
    }
}

fn paths(network: &Network, from: &str) -> Vec<(u32, Vec<VlanTag>)> {
    let paths = network.ingress_paths(ip(from)).into_iter();
    paths.map(|IngressPath { ifindex, vlans }| (ifindex, vlans)).collect()
}

#[test]
fn on_link_destination_is_its_own_neighbour() {
    let network = two_arms().neighbour(2, "10.0.1.9", 9).build();
    let expected = Resolved {
        ifindex: 2,
        vlans: vec![],
        src_mac: link_mac(2),
        dst_mac: [2, 1, 1, 1, 1, 9],
        mtu: 1500,
        on_link: true,
        gateway: None,
        device: 2,
    };
    assert_eq!(resolved(&network, "10.0.1.9"), expected);
}

#[test]
fn default_route_leads_to_the_gateways_mac() {
    let network = two_arms().neighbour(3, "192.0.2.1", 1).build();
    let hop = resolved(&network, "198.51.100.7");
    assert_eq!((hop.ifindex, hop.dst_mac[5], hop.on_link), (3, 1, false));
    assert_eq!(hop.gateway, Some(ip("192.0.2.1")));
}

#[test]
fn only_states_that_the_kernel_sends_in_are_usable() {
    use NeighbourState::*;
    for state in [Reachable, Stale, Delay, Probe, Permanent, NoArp] {
        let network = two_arms().neighbour_in(state, 2, "10.0.1.9", 9).build();
        assert_eq!(resolved(&network, "10.0.1.9").dst_mac[5], 9, "{state:?}");
    }
    for state in [None, Incomplete, Failed] {
        let network = two_arms().neighbour_in(state, 2, "10.0.1.9", 9).build();
        let NextHop::Incomplete(hop) = network.next_hop(ip("10.0.1.9")) else {
            panic!("{state:?} was used");
        };
        assert_eq!((hop.resolve, hop.device), (ip("10.0.1.9"), 2));
    }
}

#[test]
fn unknown_neighbour_names_whom_to_resolve_where() {
    let network = two_arms().vlan(7, "eth1.30", q(30), 3).gateway("10.9.0.0/16", 7, "10.30.0.1");
    let expected = Incomplete {
        ifindex: 3,
        vlans: vec![q(30)],
        on_link: false,
        resolve: ip("10.30.0.1"),
        device: 7,
    };
    assert_eq!(network.build().next_hop(ip("10.9.1.1")), NextHop::Incomplete(expected));
}

#[test]
fn neighbour_of_another_device_is_not_used() {
    let network = two_arms().neighbour(3, "10.0.1.9", 9).build();
    assert!(matches!(network.next_hop(ip("10.0.1.9")), NextHop::Incomplete(_)));
}

#[test]
fn vlan_on_vlan_yields_the_physical_link_and_the_outer_tag_first() {
    let network = two_arms()
        .vlan(10, "eth0.s100", ad(100), 2)
        .vlan(11, "eth0.s100.c20", q(20), 10)
        .edit(11, |link| link.mtu = 1492)
        .address(11, "10.20.0.1/24")
        .neighbour(11, "10.20.0.5", 5)
        .build();
    let hop = resolved(&network, "10.20.0.5");
    assert_eq!((hop.ifindex, hop.device, hop.mtu), (2, 11, 1492));
    assert_eq!(hop.vlans, [ad(100), q(20)]);
    assert_eq!(hop.src_mac, link_mac(11), "the device that the route names is the sender");
    assert_eq!(paths(&network, "10.20.0.5"), [(2, vec![ad(100), q(20)])]);
}

#[test]
fn a_third_tag_is_left_to_the_kernel() {
    let network = two_arms()
        .vlan(10, "a", q(1), 2)
        .vlan(11, "b", q(2), 10)
        .vlan(12, "c", q(3), 11)
        .address(12, "10.20.0.1/24")
        .neighbour(12, "10.20.0.5", 5)
        .build();
    assert_eq!(unusable(&network, "10.20.0.5"), Unusable::TooManyVlans { device: "a".into() });
}

#[test]
fn macvlan_sends_by_its_lower_link_with_its_own_mac() {
    let network = two_arms()
        .vlan(5, "eth0.40", q(40), 2)
        .link(6, "vrrp4", LinkKind::Macvlan { lower: Some(5) })
        .address(6, "10.40.0.1/24")
        .neighbour(6, "10.40.0.9", 9)
        .build();
    let hop = resolved(&network, "10.40.0.9");
    assert_eq!((hop.ifindex, hop.vlans, hop.src_mac), (2, vec![q(40)], link_mac(6)));
    assert_eq!(paths(&network, "10.40.0.9"), [(2, vec![q(40)])]);
}

#[test]
fn ipv6_link_local_gateway_and_ipv4_by_ipv6() {
    let network = two_arms()
        .gateway("2001:db8:b::/48", 2, "fe80::1")
        .gateway("10.8.0.0/16", 2, "fe80::1")
        .neighbour(3, "fe80::1", 3)
        .neighbour(2, "fe80::1", 2)
        .build();
    for to in ["2001:db8:b::5", "10.8.1.1"] {
        let hop = resolved(&network, to);
        assert_eq!((hop.ifindex, hop.dst_mac[5]), (2, 2), "{to}: fe80::1 is per link");
        assert_eq!(hop.gateway, Some(ip("fe80::1")));
    }
}

#[test]
fn longest_prefix_wins_then_metric() {
    let network = two_arms()
        .neighbour(3, "192.0.2.1", 1)
        .neighbour(2, "10.0.1.254", 54)
        .neighbour(2, "10.0.1.253", 53)
        .gateway("198.51.100.0/24", 2, "10.0.1.254")
        .route(Route { metric: 50, ..route("203.0.113.0/24", vec![leg(3, Some("192.0.2.1"))]) })
        .route(Route { metric: 20, ..route("203.0.113.0/24", vec![leg(2, Some("10.0.1.253"))]) })
        .build();
    assert_eq!(resolved(&network, "198.51.100.9").dst_mac[5], 54);
    assert_eq!(resolved(&network, "198.51.101.9").dst_mac[5], 1);
    assert_eq!(resolved(&network, "203.0.113.9").dst_mac[5], 53);
}

#[test]
fn a_more_specific_blackhole_refuses() {
    let network = two_arms()
        .neighbour(3, "192.0.2.1", 1)
        .route(special(254, "198.51.100.0/25", RouteKind::Refuse))
        .build();
    assert_eq!(unusable(&network, "198.51.100.9"), Unusable::Refused);
    assert_eq!(resolved(&network, "198.51.100.200").dst_mac[5], 1);
    assert!(paths(&network, "198.51.100.9").is_empty());
}

#[test]
fn local_broadcast_and_multicast_are_not_next_hops() {
    let network = two_arms().route(special(255, "10.0.1.255/32", RouteKind::NotUnicast)).build();
    for (to, reason) in [
        ("10.0.1.1", Unusable::Local),
        ("10.0.1.255", Unusable::NotUnicast),
        ("224.0.0.5", Unusable::NotUnicast),
        ("255.255.255.255", Unusable::NotUnicast),
        ("ff02::1", Unusable::NotUnicast),
        ("::", Unusable::NotUnicast),
        ("2001:db8::1", Unusable::NoRoute),
    ] {
        assert_eq!(unusable(&network, to), reason, "{to}");
    }
    assert!(network.is_local(ip("10.0.1.1")));
    assert!(!network.is_local(ip("10.0.1.2")));
}

#[test]
fn ecmp_takes_the_first_live_leg_and_expects_packets_from_all() {
    let legs = || vec![leg(2, Some("10.0.1.254")), leg(3, Some("192.0.2.1"))];
    let both = || {
        two_arms().route(route("203.0.113.0/24", legs())).neighbour(2, "10.0.1.254", 54).neighbour(
            3,
            "192.0.2.1",
            1,
        )
    };
    assert_eq!(resolved(&both().build(), "203.0.113.9").dst_mac[5], 54);
    assert_eq!(paths(&both().build(), "203.0.113.9"), [(2, vec![]), (3, vec![])]);
    assert_eq!(
        both().build().neighbours_towards(ip("203.0.113.9")),
        [(2, ip("10.0.1.254")), (3, ip("192.0.2.1"))]
    );

    let no_carrier = both().edit(2, |link| link.carrier = false).build();
    assert_eq!(resolved(&no_carrier, "203.0.113.9").dst_mac[5], 1);

    let failed = both().neighbour_in(NeighbourState::Failed, 2, "10.0.1.254", 54).build();
    assert_eq!(resolved(&failed, "203.0.113.9").dst_mac[5], 1);

    let mut dead = legs();
    dead[0].dead = true;
    let dead = two_arms().route(route("203.0.113.0/24", dead)).neighbour(3, "192.0.2.1", 1);
    assert_eq!(resolved(&dead.build(), "203.0.113.9").dst_mac[5], 1);
}

#[test]
fn ipv6_ecmp_may_come_as_several_routes_of_one_metric() {
    let network = two_arms()
        .gateway("2001:db8:c::/48", 2, "fe80::2")
        .gateway("2001:db8:c::/48", 3, "fe80::3")
        .route(Route { metric: 9, ..route("2001:db8:c::/48", vec![leg(1, Some("fe80::1"))]) })
        .neighbour(3, "fe80::3", 3)
        .build();
    assert_eq!(resolved(&network, "2001:db8:c::1").dst_mac[5], 3);
    assert_eq!(paths(&network, "2001:db8:c::1"), [(2, vec![]), (3, vec![])]);
}

#[test]
fn a_prefix_whose_legs_are_all_dead_gives_way_to_the_shorter_one() {
    let mut dead = leg(2, Some("10.0.1.254"));
    dead.dead = true;
    let network = two_arms()
        .route(route("203.0.113.0/24", vec![dead]))
        .neighbour(2, "10.0.1.254", 54)
        .neighbour(3, "192.0.2.1", 1)
        .build();
    assert_eq!(resolved(&network, "203.0.113.9").dst_mac[5], 1);
}

#[test]
fn devices_behind_which_the_kernel_decides_are_left_to_it() {
    for (kind, word) in [
        (LinkKind::Bridge, "bridge"),
        (LinkKind::Bond, "bond"),
        (LinkKind::Dummy, "dummy"),
        (LinkKind::Other("vxlan".into()), "vxlan"),
        (LinkKind::Vlan { tag: q(5), lower: None }, "vlan 5"),
        (LinkKind::Macvlan { lower: None }, "macvlan"),
    ] {
        let network =
            two_arms().link(9, "x0", kind).address(9, "10.7.0.1/24").neighbour(9, "10.7.0.5", 5);
        let reason = Unusable::UnsupportedDevice { device: "x0".into(), kind: word.into() };
        assert_eq!(unusable(&network.build(), "10.7.0.5"), reason);
    }
}

#[test]
fn packets_behind_a_bridge_or_bond_may_come_in_by_every_port() {
    for kind in [LinkKind::Bridge, LinkKind::Bond] {
        let network = two_arms()
            .link(9, "agg0", kind)
            .vlan(10, "agg0.7", q(7), 9)
            .vlan(11, "eth1.8", q(8), 3)
            .edit(2, |link| link.master = Some(9))
            .edit(11, |link| link.master = Some(9))
            .address(10, "10.7.0.1/24")
            .build();
        assert_eq!(
            paths(&network, "10.7.0.5"),
            [(2, vec![q(7)]), (3, vec![q(8), q(7)]), (9, vec![q(7)])]
        );
    }
}

#[test]
fn down_and_unknown_links_are_named() {
    let down = two_arms().vlan(9, "eth0.5", q(5), 2).address(9, "10.7.0.1/24");
    let down = down.edit(2, |link| link.carrier = false).build();
    assert_eq!(unusable(&down, "10.7.0.5"), Unusable::LinkDown { device: "eth0".into() });

    let unknown = two_arms().gateway("10.7.0.0/24", 77, "10.0.1.254").build();
    assert_eq!(unusable(&unknown, "10.7.0.5"), Unusable::UnknownDevice { index: 77 });

    let circle = Sample::default().vlan(4, "a", q(1), 5).vlan(5, "b", q(2), 4);
    let circle = circle.address(4, "10.7.0.1/24").build();
    assert!(matches!(unusable(&circle, "10.7.0.5"), Unusable::TooManyVlans { .. }));
    assert!(paths(&circle, "10.7.0.5").is_empty());
}

#[test]
fn policy_rules_leave_their_family_to_the_kernel_and_widen_the_ingress_check() {
    let mut network = two_arms()
        .neighbour(2, "10.0.1.9", 9)
        .gateway("2001:db8::/32", 2, "fe80::1")
        .neighbour(2, "fe80::1", 1)
        .route(Route { table: 100, ..route("10.0.1.0/24", vec![leg(3, Some("192.0.2.1"))]) })
        .build();
    assert_eq!(paths(&network, "10.0.1.9"), [(2, vec![])], "no rule names table 100");

    network.policy_rules = PolicyRules { ipv4: true, ipv6: false };
    assert_eq!(unusable(&network, "10.0.1.9"), Unusable::PolicyRules);
    assert_eq!(unusable(&network, "10.0.1.1"), Unusable::Local);
    assert_eq!(resolved(&network, "2001:db8::9").dst_mac[5], 1);
    assert_eq!(paths(&network, "10.0.1.9"), [(2, vec![]), (3, vec![])]);
}

#[test]
fn routes_that_need_more_than_the_destination_are_left_to_the_kernel() {
    let tos = Route { selective: true, ..route("10.7.0.0/24", vec![leg(3, Some("192.0.2.1"))]) };
    let mut mpls = leg(3, Some("192.0.2.1"));
    mpls.encapsulates = true;
    let network = two_arms()
        .route(tos)
        .route(route("10.8.0.0/24", vec![mpls]))
        .route(special(254, "10.9.0.0/24", RouteKind::Unknown))
        .neighbour(3, "192.0.2.1", 1)
        .build();
    assert_eq!(unusable(&network, "10.7.0.1"), Unusable::SelectiveRoute);
    assert_eq!(unusable(&network, "10.8.0.1"), Unusable::Encapsulated);
    assert_eq!(unusable(&network, "10.9.0.1"), Unusable::UnknownRoute);
}

#[test]
fn throw_hands_over_to_the_default_table() {
    let network = two_arms()
        .route(special(254, "10.7.0.0/24", RouteKind::Throw))
        .route(Route { table: 253, ..route("0.0.0.0/0", vec![leg(2, Some("10.0.1.254"))]) })
        .neighbour(2, "10.0.1.254", 54)
        .neighbour(3, "192.0.2.1", 1)
        .build();
    assert_eq!(resolved(&network, "10.7.0.1").dst_mac[5], 54);
    assert_eq!(resolved(&network, "10.8.0.1").dst_mac[5], 1);
}

#[test]
fn mtu_of_the_route_lowers_that_of_the_device() {
    for (own, expected) in [(1400, 1400), (9000, 1500)] {
        let network = two_arms()
            .route(Route { mtu: Some(own), ..route("10.7.0.0/24", vec![leg(2, None)]) })
            .neighbour(2, "10.7.0.5", 5)
            .build();
        assert_eq!(resolved(&network, "10.7.0.5").mtu, expected);
    }
}
