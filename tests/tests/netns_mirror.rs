//! The view of the network that the controller keeps by netlink, against a real kernel: what
//! changes in a namespace shows in a snapshot.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod mirror;

use std::collections::BTreeSet;

use lb_userspace::{
    host::{self, HostFacts, Severity, Wanted, WantedService, facts::PinDir},
    netlink::{IngressPath, LinkKind, Network, Offloads, Options, Resolved, Unusable},
};
use mirror::{Lab, PATIENCE, addr, incomplete, is_unusable, named, resolved, run, until};

#[test]
fn the_first_snapshot_is_complete() {
    let lab = Lab::new();
    lab.ip("link set lo up");
    lab.ip("neigh add 10.77.0.2 lladdr 02:00:00:00:00:02 dev v0 nud permanent");
    lab.ip("route add default via 10.77.0.2");
    let v0 = lab.index("v0");
    lab.mirror(Options::default(), async |snapshots, _handle| {
        let network = snapshots.borrow().clone();
        let local = ["127.0.0.1", "::1", "10.77.0.1", "fd77::1", "fe80::1"].map(addr);
        assert_eq!(network.local_addresses(), local.into());
        assert_eq!(network.interface_macs(v0), [[2, 0, 0, 0, 0, 1]]);
        assert!(!network.policy_rules.ipv4 && !network.policy_rules.ipv6);
        let expected = Resolved {
            ifindex: v0,
            vlans: vec![],
            src_mac: [2, 0, 0, 0, 0, 1],
            dst_mac: [2, 0, 0, 0, 0, 2],
            mtu: 1500,
            on_link: false,
            gateway: Some(addr("10.77.0.2")),
            device: v0,
        };
        assert_eq!(resolved(&network, "198.51.100.1"), Some(expected));
        assert!(is_unusable(&network, "10.77.0.1", Unusable::Local));
        assert!(is_unusable(&network, "10.77.0.255", Unusable::NotUnicast));
        assert!(is_unusable(&network, "2001:db8::1", Unusable::NoRoute));
    });
}

#[test]
fn links_come_and_go() {
    let lab = Lab::new();
    lab.mirror(Options::default(), async |mut snapshots, _handle| {
        let v0 = lab.index("v0");
        lab.ip("link add link v0 name vrrp1 address 00:00:5e:00:01:01 type macvlan mode bridge");
        lab.ip("link add br0 type bridge");
        lab.ip("link add v1 type veth peer name v2");
        lab.ip("link set v1 master br0");
        lab.ip("link set v1 up");
        lab.ip("link add x0 type vxlan id 5 dstport 4789 remote 10.77.0.2");
        lab.ip("link set x0 mtu 1300");
        let done = |network: &Network| network.link_by_name("x0").is_some_and(|l| l.mtu == 1300);
        let network = until(&mut snapshots, "all links", done).await;

        assert_eq!(named(&network, "v0"), Some(LinkKind::Veth { peer: None }));
        assert_eq!(named(&network, "v1"), Some(LinkKind::Veth { peer: Some(lab.index("v2")) }));
        assert_eq!(named(&network, "vrrp1"), Some(LinkKind::Macvlan { lower: Some(v0) }));
        assert_eq!(named(&network, "br0"), Some(LinkKind::Bridge));
        assert_eq!(named(&network, "x0"), Some(LinkKind::Other("vxlan".into())));
        assert_eq!(network.link_by_name("v1").unwrap().master, Some(lab.index("br0")));
        assert_eq!(network.interface_macs(v0), [[2, 0, 0, 0, 0, 1], [0, 0, 0x5e, 0, 1, 1]]);
        let state = |name| network.link_by_name(name).map(|link| (link.up, link.carrier));
        assert_eq!(
            [state("v0"), state("v1"), state("v2")],
            [(true, true), (true, false), (false, false)].map(Some)
        );

        lab.ip("link del vrrp1");
        until(&mut snapshots, "vrrp1 gone", |n| named(n, "vrrp1").is_none()).await;
        lab.peer("link set p0 down");
        until(&mut snapshots, "no carrier", |n| !n.link_by_name("v0").unwrap().carrier).await;
        lab.peer("link set p0 up");
        until(&mut snapshots, "carrier", |n| n.link_by_name("v0").unwrap().carrier).await;
    });
}

#[test]
fn a_neighbour_of_a_macvlan_is_reached_by_the_lower_link() {
    let lab = Lab::new();
    lab.ip("link add link v0 name vrrp1 address 00:00:5e:00:01:01 type macvlan mode bridge");
    lab.ip("addr add 10.20.0.1/24 dev vrrp1");
    lab.ip("link set vrrp1 mtu 1400");
    lab.ip("link set vrrp1 up");
    lab.peer("addr add 10.20.0.2/24 dev p0");
    lab.mirror(Options::default(), async |mut snapshots, handle| {
        let (v0, vrrp) = (lab.index("v0"), lab.index("vrrp1"));
        let missing = incomplete(&snapshots.borrow(), "10.20.0.2").unwrap();
        assert_eq!((missing.ifindex, missing.device), (v0, vrrp));

        handle.resolve(missing.resolve, missing.device).await.unwrap();
        let network = until(&mut snapshots, "peer", |n| resolved(n, "10.20.0.2").is_some()).await;
        let hop = resolved(&network, "10.20.0.2").unwrap();
        assert_eq!((hop.ifindex, hop.mtu, hop.device), (v0, 1400, vrrp));
        assert_eq!((hop.src_mac, hop.dst_mac), ([0, 0, 0x5e, 0, 1, 1], [2, 0, 0, 0, 0, 2]));
    });
}

#[test]
fn resolution_finds_a_neighbour_and_a_flush_forgets_it() {
    let lab = Lab::new();
    lab.mirror(Options::default(), async |mut snapshots, handle| {
        let v0 = lab.index("v0");
        for peer in ["10.77.0.2", "fd77::2"] {
            assert_eq!(incomplete(&snapshots.borrow(), peer).unwrap().resolve, addr(peer));
            handle.resolve(addr(peer), v0).await.unwrap();
            let found = until(&mut snapshots, "resolved", |n| resolved(n, peer).is_some()).await;
            let hop = resolved(&found, peer).unwrap();
            assert_eq!((hop.dst_mac, hop.on_link), ([2, 0, 0, 0, 0, 2], true));
            lab.ip("neigh flush dev v0");
            until(&mut snapshots, "forgotten", |n| incomplete(n, peer).is_some()).await;
        }
        // Some other change, so that there is a snapshot after the deletion too.
        lab.ip("link set v0 mtu 1400");
        let changed = |network: &Network| network.link_by_name("v0").unwrap().mtu == 1400;
        let network = until(&mut snapshots, "other change", changed).await;
        let peers = network.neighbours.keys().filter(|(_, peer)| !peer.is_multicast()).count();
        assert_eq!(peers, 0, "{:?}", network.neighbours);
        let refused = handle.resolve(addr("10.77.0.2"), 9999).await.unwrap_err();
        assert!(refused.to_string().contains("resolve a neighbour"), "{refused}");
    });
}

#[test]
fn destinations_in_use_are_resolved_again_without_being_asked() {
    let lab = Lab::new();
    lab.ip("route add default via 10.77.0.2");
    lab.ip("route add 2001:db8::/32 via fd77::2");
    lab.mirror(Options::default(), async |mut snapshots, handle| {
        let good = |network: &Network| {
            // The default gateway is in use by clients, whatever was named.
            resolved(network, "198.51.100.1").is_some()
                && resolved(network, "2001:db8::1").is_some()
        };
        until(&mut snapshots, "gateways", good).await;

        lab.ip("addr add 10.78.0.1/24 dev v0");
        lab.peer("addr add 10.78.0.2/24 dev p0");
        handle.keep_resolved([addr("10.78.0.2")].into());
        until(&mut snapshots, "named one", |n| resolved(n, "10.78.0.2").is_some()).await;
        for _ in 0..3 {
            lab.ip("neigh flush dev v0");
            until(&mut snapshots, "forgotten", |n| resolved(n, "10.78.0.2").is_none()).await;
            until(&mut snapshots, "back", |n| good(n) && resolved(n, "10.78.0.2").is_some()).await;
        }
    });
}

#[test]
fn a_stale_neighbour_in_use_is_confirmed() {
    let lab = Lab::new();
    let soon = "echo 0 >/proc/sys/net/ipv4/neigh/v0/delay_first_probe_time";
    run("ip", &["netns", "exec", &lab.host, "sh", "-ec", soon]);
    lab.mirror(Options::default(), async |mut snapshots, handle| {
        lab.ip("neigh add 10.77.0.2 lladdr 02:00:00:00:00:02 dev v0 nud stale");
        lab.ip("neigh add 10.77.0.3 lladdr 02:00:00:00:00:03 dev v0 nud stale");
        until(&mut snapshots, "stale", |n| resolved(n, "10.77.0.3").is_some()).await;
        handle.keep_resolved([addr("10.77.0.2"), addr("10.77.0.3")].into());
        // Nobody has 10.77.0.3: what was trusted is given up.
        until(&mut snapshots, "gone", |n| resolved(n, "10.77.0.3").is_none()).await;
        assert!(resolved(&snapshots.borrow(), "10.77.0.2").is_some());
        let shown = lab.ip("neigh show 10.77.0.2 dev v0");
        assert!(shown.contains("REACHABLE"), "{shown}");
    });
}

#[test]
fn routes_follow_their_changes() {
    let lab = Lab::new();
    for n in 2..5 {
        lab.ip(&format!("neigh add 10.77.0.{n} lladdr 02:00:00:00:00:0{n} dev v0 nud permanent"));
    }
    lab.ip("neigh add fd77::9 lladdr 02:00:00:00:00:09 dev v0 nud permanent");
    lab.mirror(Options::default(), async |mut snapshots, _handle| {
        let to = |n: u8| {
            move |network: &Network| {
                resolved(network, "198.51.100.1").is_some_and(|hop| hop.dst_mac[5] == n)
            }
        };
        lab.ip("route add default via 10.77.0.2");
        until(&mut snapshots, "default", to(2)).await;
        lab.ip("route replace default via 10.77.0.3");
        until(&mut snapshots, "replaced", to(3)).await;
        lab.ip("route add 198.51.100.0/24 via 10.77.0.4 metric 10");
        until(&mut snapshots, "more specific", to(4)).await;
        lab.ip("route add 198.51.100.0/24 via 10.77.0.2 metric 5");
        until(&mut snapshots, "better metric", to(2)).await;
        lab.ip("route add 198.51.100.0/25 via inet6 fd77::9");
        until(&mut snapshots, "IPv4 by IPv6", to(9)).await;
        lab.ip("route add blackhole 198.51.100.0/26");
        until(&mut snapshots, "blackhole", |n| is_unusable(n, "198.51.100.1", Unusable::Refused))
            .await;
        lab.ip("nexthop add id 7 via 10.77.0.4 dev v0");
        lab.ip("route add 198.51.100.0/27 nhid 7");
        until(&mut snapshots, "next-hop object", to(4)).await;
        lab.ip("nexthop replace id 7 via 10.77.0.3 dev v0");
        until(&mut snapshots, "next-hop object changed", to(3)).await;

        lab.ip("addr del 10.77.0.1/24 dev v0");
        let gone = |network: &Network| is_unusable(network, "203.0.113.1", Unusable::NoRoute);
        until(&mut snapshots, "gone with the address", gone).await;

        lab.ip("addr add 10.77.0.1/24 dev v0");
        lab.ip("route add default via 10.77.0.2");
        until(&mut snapshots, "back", |n| !gone(n)).await;
        lab.ip("link set v0 down");
        until(&mut snapshots, "gone with the link", gone).await;
    });
}

#[test]
fn ipv4_routes_vanish_with_their_link_although_no_event_says_so() {
    let lab = Lab::new();
    lab.ip("link add v1 type veth peer name v2");
    let off = "cd /proc/sys/net/ipv6/conf; echo 1 >v1/disable_ipv6; echo 1 >v2/disable_ipv6";
    run("ip", &["netns", "exec", &lab.host, "sh", "-ec", off]);
    lab.ip("link set v2 up");
    lab.mirror(Options::default(), async |mut snapshots, _handle| {
        let listed =
            |network: &Network| network.routes.covering(254, addr("203.0.113.1")).next().is_some();
        for end in ["link set v1 down", "link del v1"] {
            lab.ip("addr replace 10.5.0.1/24 dev v1");
            lab.ip("link set v1 up");
            lab.ip("route add 203.0.113.0/24 via 10.5.0.2");
            until(&mut snapshots, "route", listed).await;
            lab.ip(end);
            until(&mut snapshots, "no route", |n| !listed(n)).await;
        }
    });
}

#[test]
fn ecmp_legs_are_seen_for_both_families() {
    let lab = Lab::new();
    lab.ip("link add v1 type veth peer name v2");
    for command in ["set v1 up", "set v2 up"] {
        lab.ip(&format!("link {command}"));
    }
    lab.ip("addr add 10.5.0.1/24 dev v1");
    lab.ip("addr add fd05::1/64 dev v1 nodad");
    lab.ip("route add 198.51.100.0/24 nexthop via 10.77.0.2 nexthop via 10.5.0.2");
    lab.ip("route add 2001:db8::/32 nexthop via fd77::2 nexthop via fd05::2");
    let path = |link| IngressPath { ifindex: lab.index(link), vlans: vec![] };
    lab.mirror(Options::default(), async |mut snapshots, _handle| {
        let both = [path("v0"), path("v1")].into_iter().collect::<BTreeSet<_>>();
        let seen = |network: &Network, source: &str| -> BTreeSet<IngressPath> {
            network.ingress_paths(addr(source)).into_iter().collect()
        };
        for source in ["198.51.100.1", "2001:db8::1"] {
            assert_eq!(seen(&snapshots.borrow(), source), both, "{source}");
        }
        // One next hop out of a set: the case in which events do not tell the whole.
        lab.ip("route del 2001:db8::/32 via fd77::2");
        let one = |n: &Network| seen(n, "2001:db8::1") == [path("v1")].into();
        until(&mut snapshots, "one leg", one).await;
        lab.ip("route append 2001:db8::/32 via fd77::2");
        until(&mut snapshots, "two legs", |n| seen(n, "2001:db8::1") == both).await;
    });
}

#[test]
fn policy_rules_are_noticed_per_family() {
    let lab = Lab::new();
    lab.mirror(Options::default(), async |mut snapshots, _handle| {
        lab.ip("rule add from 10.77.0.1 lookup 100");
        until(&mut snapshots, "IPv4 rule", |n| n.policy_rules.ipv4 && !n.policy_rules.ipv6).await;
        assert!(is_unusable(&snapshots.borrow(), "10.77.0.2", Unusable::PolicyRules));
        lab.ip("rule del from 10.77.0.1 lookup 100");
        until(&mut snapshots, "no rule", |n| !n.policy_rules.ipv4).await;
        lab.ip("-6 rule add fwmark 1 lookup main");
        until(&mut snapshots, "IPv6 rule", |n| n.policy_rules.ipv6 && !n.policy_rules.ipv4).await;
    });
}

#[test]
fn after_lost_events_everything_is_seen_again() {
    let lab = Lab::new();
    let options = Options { receive_buffer: 4096 };
    lab.mirror(options, async |mut snapshots, handle| {
        until(&mut snapshots, "start", |n| named(n, "v0").is_some()).await;
        assert_eq!(handle.overruns(), 0);
        // Commands run on this thread: the task cannot read meanwhile, and its queue overflows.
        let batch: String = (0..500)
            .map(|i| {
                let (a, b) = (i / 250, i % 250);
                format!("neigh add 10.77.0.{b} lladdr 02:00:00:00:01:01 dev v0 nud permanent\n")
                    .repeat(usize::from(a == 0 && b > 2))
                    + &format!("route add 198.{a}.{b}.0/24 via 10.77.0.2\n")
            })
            .collect();
        let file = format!("{}/{}.batch", env!("CARGO_TARGET_TMPDIR"), lab.host);
        std::fs::write(&file, batch + "link add link v0 name last type macvlan\n").unwrap();
        lab.ip(&format!("-batch {file}"));
        std::fs::remove_file(&file).unwrap();

        let all = |network: &Network| {
            named(network, "last").is_some()
                && (3..250).all(|n| resolved(network, &format!("10.77.0.{n}")).is_some())
                && (0..250)
                    .all(|n| !is_unusable(network, &format!("198.1.{n}.1"), Unusable::NoRoute))
                && network.routes.prefixes(254).count() == 503
        };
        until(&mut snapshots, "everything", all).await;
        assert!(handle.overruns() > 0, "nothing was lost, so this test proves nothing");
    });
}

#[test]
fn the_task_ends_with_its_last_receiver() {
    let lab = Lab::new();
    lab.mirror(Options::default(), async |snapshots, handle| {
        drop(snapshots);
        let ended = async {
            while handle.resolve(addr("10.77.0.2"), 9999).await.unwrap_err().to_string()
                != "the task that follows the network has ended"
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
    });
}

#[test]
fn facts_of_the_host_are_those_of_the_namespace() {
    let lab = Lab::new();
    lab.ip("addr add 203.0.113.10/32 dev lo");
    lab.ip("link add v1 type veth peer name v2");
    run("ip", &["netns", "exec", &lab.host, "ethtool", "-K", "v1", "tx", "off", "rxvlan", "off"]);
    let settings = "cd /proc/sys/net; echo 1 >ipv4/ip_forward; echo 0 >ipv4/conf/v1/forwarding
        echo 1 >ipv4/conf/v0/accept_local; echo 2 >ipv4/conf/v0/rp_filter
        echo 0 >ipv4/conf/v0/send_redirects; echo 0 >ipv4/conf/all/send_redirects";
    run("ip", &["netns", "exec", &lab.host, "sh", "-ec", settings]);
    lab.mirror(Options::default(), async |mut snapshots, _handle| {
        let network = until(&mut snapshots, "v2", |n| named(n, "v2").is_some()).await;
        let service = WantedService {
            name: "in".into(),
            vips: vec![addr("203.0.113.10")],
            backends: vec![("gw1".into(), addr("10.77.0.2"))],
        };
        let wanted = Wanted {
            interfaces: vec!["v0".into(), "v1".into(), "v9".into()],
            pin_dir: "/proc/sip-lb".into(),
            services: vec![service],
        };
        let facts = HostFacts::read(&wanted, &network).await.unwrap();
        assert_eq!(facts.ip_forward, Some(1));
        let v0 = facts.devices["v0"];
        assert_eq!(
            (v0.ipv4_forwarding, v0.accept_local, v0.rp_filter),
            (Some(1), Some(1), Some(2))
        );
        assert_eq!(facts.devices["v1"].ipv4_forwarding, Some(0));
        assert_eq!(facts.pin_dir, PinDir::Elsewhere("/proc".into()));
        assert_eq!(facts.capabilities & (1 << 12), 1 << 12, "this test runs as root");
        assert_eq!(facts.kernel_release, run("uname", &["-r"]).trim());
        let off = Offloads { lro: false, rx_vlan: false, tx_checksum: false };
        let on = Offloads { rx_vlan: true, tx_checksum: true, ..off };
        let expected = [("v0", on), ("v1", off), ("v2", on)];
        assert_eq!(facts.offloads, expected.map(|(name, found)| (name.to_owned(), found)).into());

        let errors: Vec<String> = host::check(&wanted, &network, &facts)
            .into_iter()
            .filter(|finding| finding.severity == Severity::Error)
            .map(|finding| finding.what)
            .collect();
        let starts = [
            "pin_dir /proc/sip-lb is not on a BPF file system",
            "interface v9 does not exist",
            "net.ipv4.conf.v1.forwarding is 0",
        ];
        assert_eq!(errors.len(), starts.len(), "{errors:?}");
        for (error, start) in errors.iter().zip(starts) {
            assert!(error.starts_with(start), "{error}");
        }
    });
}
