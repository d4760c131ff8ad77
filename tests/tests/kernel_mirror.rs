//! The view of the network on kernel 6.1: devices that not every test machine's kernel has, and
//! that the old kernel resolves neighbours on request too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod mirror;

use std::path::PathBuf;

use lb_tests::qemu::{network_modules, run_in_kernel};
use lb_userspace::netlink::{IngressPath, LinkKind, Options, Unusable, VlanTag};
use mirror::{Lab, addr, incomplete, is_unusable, named, resolved, run, until};

/// In the order in which they can be loaded.
const MODULES: [&str; 12] = [
    "llc",
    "stp",
    "garp",
    "mrp",
    "8021q",
    "veth",
    "dummy",
    "tls",
    "bonding",
    "tunnel4",
    "ip_tunnel",
    "ipip",
];

/// Set in the guest, where this program runs a second time.
const IN_GUEST: &str = "SIP_LB_IN_GUEST";

/// What the guest runs, by name.
const CASES: [(&str, fn()); 3] = [
    ("links of every kind", sees_links_of_every_kind),
    ("a neighbour behind two tags", reaches_a_neighbour_behind_two_tags_by_the_physical_link),
    ("resolution and lost routes", resolves_what_is_in_use_and_loses_routes_with_their_link),
];

const TAGS: [VlanTag; 2] = [VlanTag { tpid: 0x88a8, tci: 100 }, VlanTag { tpid: 0x8100, tci: 20 }];

#[test]
fn the_network_is_mirrored_on_kernel_6_1() {
    if std::env::var_os(IN_GUEST).is_some() {
        for (name, case) in CASES {
            case();
            println!("guest: {name}: proven");
        }
        return;
    }
    let program = std::env::current_exe().unwrap();
    let ip = PathBuf::from(run("which", &["ip"]).trim());
    let modules = network_modules(&MODULES).unwrap();
    let places: Vec<String> = MODULES.iter().map(|name| format!("/modules/{name}.ko")).collect();
    let mut files = vec![(program, "/bin/guest"), (ip, "/usr/sbin/ip")];
    files.extend(modules.into_iter().zip(places.iter().map(String::as_str)));
    let command = format!(
        "for module in {}; do insmod $module || exit 9; done
        {IN_GUEST}=1 guest --nocapture 2>&1",
        places.join(" ")
    );
    let output = run_in_kernel(&files, &command).unwrap();
    assert_eq!(output.status, 0, "{}\n{}", output.stdout, output.console);
    for (name, _) in CASES {
        assert!(output.stdout.contains(&format!("guest: {name}: proven")), "{}", output.stdout);
    }
}

fn sees_links_of_every_kind() {
    let lab = Lab::new();
    lab.mirror(Options::default(), async |mut snapshots, _handle| {
        let v0 = lab.index("v0");
        lab.ip("link add link v0 name v0.100 type vlan proto 802.1ad id 100");
        lab.ip("link add link v0.100 name v0.100.20 type vlan id 20");
        lab.ip("link add d0 type dummy");
        lab.ip("link add b0 type bond");
        lab.ip("link set d0 master b0");
        lab.ip("link add t0 type ipip remote 10.77.0.2 local 10.77.0.1");
        let network = until(&mut snapshots, "all links", |n| named(n, "t0").is_some()).await;
        let vlan = |tag, lower| Some(LinkKind::Vlan { tag, lower: Some(lower) });
        assert_eq!(named(&network, "v0.100"), vlan(TAGS[0], v0));
        assert_eq!(named(&network, "v0.100.20"), vlan(TAGS[1], lab.index("v0.100")));
        assert_eq!(named(&network, "b0"), Some(LinkKind::Bond));
        assert_eq!(named(&network, "d0"), Some(LinkKind::Dummy));
        assert_eq!(named(&network, "t0"), Some(LinkKind::Other("ipip".into())));
        assert_eq!(network.link_by_name("d0").unwrap().master, Some(lab.index("b0")));
    });
}

fn reaches_a_neighbour_behind_two_tags_by_the_physical_link() {
    let lab = Lab::new();
    for (ns, base, host) in [(&lab.host, "v0", 1), (&lab.peer, "p0", 2)] {
        let (outer, inner) = (format!("{base}.100"), format!("{base}.100.20"));
        for command in [
            format!("link add link {base} name {outer} type vlan proto 802.1ad id 100"),
            format!("link add link {outer} name {inner} type vlan id 20"),
            format!("link set {inner} mtu 1492"),
            format!("addr add 10.20.0.{host}/24 dev {inner}"),
            format!("link set {outer} up"),
            format!("link set {inner} up"),
        ] {
            run("ip", &[&["-n", ns], &command.split(' ').collect::<Vec<_>>()[..]].concat());
        }
    }
    lab.mirror(Options::default(), async |mut snapshots, handle| {
        let (v0, inner) = (lab.index("v0"), lab.index("v0.100.20"));
        let up = until(&mut snapshots, "vlan up", |n| incomplete(n, "10.20.0.2").is_some()).await;
        let missing = incomplete(&up, "10.20.0.2").unwrap();
        assert_eq!((missing.ifindex, missing.device), (v0, inner));
        assert_eq!(missing.vlans, TAGS);

        handle.resolve(missing.resolve, missing.device).await.unwrap();
        let network = until(&mut snapshots, "peer", |n| resolved(n, "10.20.0.2").is_some()).await;
        let hop = resolved(&network, "10.20.0.2").unwrap();
        assert_eq!((hop.ifindex, hop.mtu, hop.dst_mac), (v0, 1492, [2, 0, 0, 0, 0, 2]));
        assert_eq!(hop.vlans, TAGS);
        let path = IngressPath { ifindex: v0, vlans: TAGS.to_vec() };
        assert_eq!(network.ingress_paths(addr("10.20.0.2")), [path]);
    });
}

fn resolves_what_is_in_use_and_loses_routes_with_their_link() {
    let lab = Lab::new();
    lab.ip("route add default via 10.77.0.2");
    lab.mirror(Options::default(), async |mut snapshots, handle| {
        let gateway = |network: &_| resolved(network, "198.51.100.1").is_some();
        until(&mut snapshots, "gateway", gateway).await;
        handle.keep_resolved([addr("fd77::2")].into());
        until(&mut snapshots, "IPv6", |n| resolved(n, "fd77::2").is_some()).await;
        lab.ip("neigh flush dev v0");
        until(&mut snapshots, "forgotten", |n| !gateway(n)).await;
        until(&mut snapshots, "back", gateway).await;
        lab.ip("link set v0 down");
        let gone = |network: &_| is_unusable(network, "198.51.100.1", Unusable::NoRoute);
        until(&mut snapshots, "gone", gone).await;
    });
}
