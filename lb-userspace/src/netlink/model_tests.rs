use super::{
    model::{LinkKind, NeighbourState, RouteKind},
    sample::{Sample, ip, link_mac, q, special},
};

#[test]
fn local_addresses_are_those_of_all_interfaces_and_single_local_routes() {
    let network = Sample::default()
        .link(1, "lo", LinkKind::Loopback)
        .link(2, "eth0", LinkKind::Ethernet)
        .address(1, "127.0.0.1/8")
        .address(1, "203.0.113.10/32")
        .address(2, "2001:db8::1/64")
        .route(special(255, "203.0.113.99/32", RouteKind::Local))
        .route(special(255, "198.51.100.0/24", RouteKind::Local))
        .route(special(255, "10.0.0.255/32", RouteKind::NotUnicast))
        .build();
    let expected = ["127.0.0.1", "203.0.113.10", "203.0.113.99", "2001:db8::1"].map(ip);
    assert_eq!(network.local_addresses(), expected.into());
    assert!(network.is_local(ip("198.51.100.7")), "a local prefix counts address by address");
}

#[test]
fn interface_answers_to_its_own_and_its_childrens_macs() {
    let network = Sample::default()
        .link(2, "eth0", LinkKind::Ethernet)
        .link(3, "eth1", LinkKind::Ethernet)
        .vlan(10, "eth0.10", q(10), 2)
        .edit(10, |link| link.mac = Some(link_mac(2)))
        .link(11, "vrrp", LinkKind::Macvlan { lower: Some(10) })
        .link(12, "vrrp-eth1", LinkKind::Macvlan { lower: Some(3) })
        .link(13, "moved", LinkKind::Macvlan { lower: None })
        .build();
    assert_eq!(network.interface_macs(2), [link_mac(2), link_mac(11)]);
    assert_eq!(network.interface_macs(3), [link_mac(3), link_mac(12)]);
    assert_eq!(network.interface_macs(11), [link_mac(11)]);
    assert!(network.interface_macs(99).is_empty());
}

#[test]
fn bridge_port_answers_to_the_bridges_macs_but_not_to_a_vrfs() {
    let sample = |kind| {
        Sample::default()
            .link(2, "eth0", LinkKind::Ethernet)
            .link(3, "eth1", LinkKind::Ethernet)
            .link(4, "top", kind)
            .vlan(5, "top.5", q(5), 4)
            .edit(2, |link| link.master = Some(4))
            .build()
    };
    let [port, top, vlan] = [2, 4, 5].map(link_mac);
    for kind in [LinkKind::Bridge, LinkKind::Bond] {
        let network = sample(kind);
        assert_eq!(network.interface_macs(2), [port, top, vlan]);
        assert_eq!(network.interface_macs(4), [top, vlan, port]);
    }
    assert_eq!(sample(LinkKind::Vrf).interface_macs(2), [port]);
}

#[test]
fn neighbour_states_matter_only_as_far_as_they_make_a_mac_usable() {
    let sample = |state, mac| {
        let link = Sample::default().link(2, "eth0", LinkKind::Ethernet);
        link.neighbour_in(state, 2, "10.0.0.9", mac).build()
    };
    let reachable = sample(NeighbourState::Reachable, 9);
    assert!(reachable.forwards_like(&sample(NeighbourState::Stale, 9)));
    assert!(!reachable.forwards_like(&sample(NeighbourState::Failed, 9)));
    assert!(!reachable.forwards_like(&sample(NeighbourState::Reachable, 8)));
}
