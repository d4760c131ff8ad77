use super::{
    client_routes::{ClientRoute, MAX_CLIENT_ROUTES},
    model::{LinkKind, Network, PolicyRules, Route, RouteKind},
    next_hop::{NextHop, Unusable},
    sample::{Sample, ip, leg, route, special},
};

fn edge() -> Sample {
    Sample::default()
        .link(1, "lo", LinkKind::Loopback)
        .link(2, "eth0", LinkKind::Ethernet)
        .link(3, "eth1", LinkKind::Ethernet)
        .address(1, "127.0.0.1/8")
        .address(1, "203.0.113.10/32")
        .address(3, "192.0.2.2/24")
        .gateway("0.0.0.0/0", 3, "192.0.2.1")
        .neighbour(3, "192.0.2.1", 1)
}

fn routes(network: &Network) -> Vec<(String, String)> {
    let short = |ClientRoute { prefix, next_hop }| {
        let hop = match next_hop {
            NextHop::Resolved(hop) => format!("{} on {}", hop.gateway.unwrap(), hop.ifindex),
            NextHop::Incomplete(hop) => format!("resolve {}", hop.resolve),
            NextHop::Unusable(reason) => reason.to_string(),
        };
        (prefix.to_string(), hop)
    };
    network.client_routes().unwrap().into_iter().map(short).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn longest_prefix_comes_first_and_connected_prefixes_are_left_to_the_kernel() {
    let network = edge()
        .gateway("198.51.100.0/25", 2, "10.0.1.254")
        .route(special(254, "198.51.0.0/16", RouteKind::Refuse))
        .route(special(255, "198.18.0.0/15", RouteKind::Local))
        .gateway("::/0", 3, "fe80::1")
        .neighbour(3, "fe80::1", 6)
        .build();
    let expected = pairs(&[
        ("198.51.100.0/25", "resolve 10.0.1.254"),
        ("192.0.2.0/24", "a connected prefix"),
        ("198.51.0.0/16", "a blackhole, unreachable or prohibit route"),
        ("198.18.0.0/15", "an address of this host"),
        ("::/0", "fe80::1 on 3"),
        ("0.0.0.0/0", "192.0.2.1 on 3"),
    ]);
    assert_eq!(routes(&network), expected);
    assert_eq!(
        network.client_gateways(),
        [(2, ip("10.0.1.254")), (3, ip("fe80::1")), (3, ip("192.0.2.1"))]
    );
    let connected = network.client_routes().unwrap();
    assert_eq!(connected.iter().filter(|route| route.is_on_link()).count(), 1);
}

#[test]
fn entries_that_decide_like_what_covers_them_are_dropped() {
    let redundant: Vec<Route> = (0..200)
        .map(|i| route(&format!("198.51.{i}.0/24"), vec![leg(3, Some("192.0.2.1"))]))
        .collect();
    let network = redundant.into_iter().fold(edge(), Sample::route);
    let network = network
        .gateway("198.51.0.0/16", 2, "10.0.1.254")
        .neighbour(2, "10.0.1.254", 54)
        .gateway("198.51.128.0/17", 3, "192.0.2.1")
        .build();
    // The /24s of the lower half differ from the /16 over them: 128 entries, too many.
    assert_eq!(network.client_routes(), None);

    let network = edge().gateway("198.51.100.0/24", 3, "192.0.2.1").build();
    assert_eq!(
        routes(&network),
        pairs(&[("192.0.2.0/24", "a connected prefix"), ("0.0.0.0/0", "192.0.2.1 on 3")])
    );
}

#[test]
fn the_local_table_answers_before_longer_prefixes_of_main() {
    let network = edge()
        .route(special(255, "198.18.0.0/15", RouteKind::Local))
        .gateway("198.18.1.0/24", 2, "10.0.1.254")
        .build();
    assert!(routes(&network).iter().all(|(prefix, _)| prefix != "198.18.1.0/24"));
}

#[test]
fn a_dead_route_leaves_its_addresses_to_what_covers_it() {
    let mut dead = leg(2, Some("10.0.1.254"));
    dead.dead = true;
    let network = edge().route(route("198.51.100.0/24", vec![dead])).build();
    assert_eq!(routes(&network).len(), 2);
}

#[test]
fn the_list_is_refused_above_its_size_and_where_it_cannot_decide() {
    let many = |n: usize| {
        let sample = (0..n).fold(Sample::default().link(2, "eth0", LinkKind::Ethernet), |s, i| {
            s.gateway(&format!("10.{i}.0.0/16"), 2, &format!("10.255.0.{i}"))
        });
        sample.build().client_routes()
    };
    assert_eq!(many(MAX_CLIENT_ROUTES).unwrap().len(), MAX_CLIENT_ROUTES);
    assert_eq!(many(MAX_CLIENT_ROUTES + 1), None);

    let mut rules = edge().build();
    rules.policy_rules = PolicyRules { ipv4: false, ipv6: true };
    assert_eq!(rules.client_routes(), None);

    let throw = edge().route(special(254, "10.0.0.0/8", RouteKind::Throw)).build();
    assert_eq!(throw.client_routes(), None);

    let default = Route { table: 253, ..route("0.0.0.0/0", vec![leg(2, Some("10.0.1.1"))]) };
    assert_eq!(edge().route(default).build().client_routes(), None);
}

#[test]
fn a_mix_of_gateways_and_connected_legs_is_left_to_the_kernel() {
    let mixed = route("198.51.100.0/24", vec![leg(3, Some("192.0.2.1")), leg(2, None)]);
    let network = edge().route(mixed).build();
    let client_routes = network.client_routes().unwrap();
    assert_eq!(client_routes[0].next_hop, NextHop::Unusable(Unusable::OnLinkPrefix));
}
