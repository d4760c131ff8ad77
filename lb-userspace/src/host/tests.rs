//! One good host, and what each thing that can be wrong with it leads to.

use super::{
    facts::{DeviceSettings, PinDir},
    *,
};
use crate::netlink::{
    LinkKind, Offloads, VlanTag,
    model::{PolicyRules, RouteKind},
    sample::{Sample, ip, special},
};

/// eth0 (2) towards clients, eth1 (3) towards backends, both attached; the VIP is on lo.
fn two_arms() -> Sample {
    Sample::default()
        .link(1, "lo", LinkKind::Loopback)
        .link(2, "eth0", LinkKind::Ethernet)
        .link(3, "eth1", LinkKind::Ethernet)
        .address(1, "203.0.113.10/32")
        .address(2, "192.0.2.2/24")
        .address(3, "10.0.1.1/24")
        .gateway("0.0.0.0/0", 2, "192.0.2.1")
}

fn wanted() -> Wanted {
    Wanted {
        interfaces: vec!["eth0".into(), "eth1".into()],
        pin_dir: "/sys/fs/bpf/sip-lb".into(),
        services: vec![service("203.0.113.10", "10.0.1.9")],
    }
}

fn service(vip: &str, backend: &str) -> WantedService {
    let backends = vec![("gw1".into(), ip(backend))];
    WantedService { name: "in".into(), vips: vec![ip(vip)], backends }
}

fn good_settings() -> DeviceSettings {
    DeviceSettings {
        ipv4_forwarding: Some(1),
        accept_local: Some(1),
        rp_filter: Some(2),
        send_redirects: Some(1),
        ipv6_forwarding: Some(1),
    }
}

fn facts() -> HostFacts {
    HostFacts {
        kernel_release: "6.1.0-18-amd64".into(),
        capabilities: 0x1ff_ffff_ffff,
        bpf_jit: Some(1),
        pin_dir: PinDir::OnBpffs,
        ip_forward: Some(1),
        all: DeviceSettings { accept_local: Some(0), rp_filter: Some(0), ..good_settings() },
        devices: ["eth0", "eth1", "eth1.5", "v0"].map(|d| (d.into(), good_settings())).into(),
        offloads: ["eth0", "eth1"].map(|d| (d.into(), Offloads::default())).into(),
    }
}

/// `severity: remedy` of every finding; each `what` must name all of `names`.
#[track_caller]
fn remedies(findings: &[Finding], names: &[&str]) -> Vec<String> {
    for finding in findings {
        for name in names {
            assert!(finding.what.contains(name), "`{}` does not name {name}", finding.what);
        }
    }
    findings.iter().map(|f| format!("{}: {}", f.severity, f.remedy)).collect()
}

/// What a change of the facts leads to on the good host.
#[track_caller]
fn with_facts(names: &[&str], change: impl FnOnce(&mut HostFacts)) -> Vec<String> {
    let mut facts = facts();
    change(&mut facts);
    remedies(&check(&wanted(), &two_arms().build(), &facts), names)
}

#[track_caller]
fn with_network(names: &[&str], network: Sample) -> Vec<String> {
    remedies(&check(&wanted(), &network.build(), &facts()), names)
}

#[test]
fn a_good_host_has_no_findings() {
    assert_eq!(check(&wanted(), &two_arms().build(), &facts()), []);
}

#[test]
fn forwarding_off_is_an_error_that_names_the_sysctl() {
    let off = |facts: &mut HostFacts, device: &str| {
        facts.devices.get_mut(device).unwrap().ipv4_forwarding = Some(0);
    };
    let found = with_facts(&["net.ipv4.ip_forward is 0", "eth0, eth1"], |facts| {
        facts.ip_forward = Some(0);
        off(facts, "eth0");
        off(facts, "eth1");
    });
    assert_eq!(found, ["error: sysctl -w net.ipv4.ip_forward=1"]);

    let found = with_facts(&["net.ipv4.conf.eth1.forwarding is 0"], |facts| off(facts, "eth1"));
    assert_eq!(found, ["error: sysctl -w net.ipv4.conf.eth1.forwarding=1"]);

    let found = with_facts(&[], |facts| facts.ip_forward = Some(0));
    assert!(found.is_empty(), "every device forwards: {found:?}");
}

#[test]
fn ipv6_forwarding_matters_to_ipv6_services_only() {
    let found = with_facts(&[], |facts| facts.all.ipv6_forwarding = Some(0));
    assert!(found.is_empty(), "no IPv6 service: {found:?}");

    let wanted = Wanted { services: vec![service("2001:db8::10", "fd00::9")], ..wanted() };
    let network = two_arms().address(1, "2001:db8::10/128").address(3, "fd00::1/64").build();
    assert_eq!(check(&wanted, &network, &facts()), []);

    let mut off = facts();
    off.all.ipv6_forwarding = Some(0);
    let found = remedies(&check(&wanted, &network, &off), &["net.ipv6.conf.all.forwarding is 0"]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("error: sysctl -w net.ipv6.conf.all.forwarding=1"), "{found:?}");

    let mut off = facts();
    off.devices.get_mut("eth1").unwrap().ipv6_forwarding = Some(0);
    let found = remedies(&check(&wanted, &network, &off), &["come in by eth1"]);
    assert_eq!(found, ["error: sysctl -w net.ipv6.conf.eth1.forwarding=1"]);
}

#[test]
fn a_local_vip_needs_accept_local_towards_backends() {
    let found = with_facts(&["net.ipv4.conf.eth1.accept_local is 0", "203.0.113.10"], |facts| {
        facts.devices.get_mut("eth1").unwrap().accept_local = Some(0);
    });
    assert_eq!(found, ["warning: sysctl -w net.ipv4.conf.eth1.accept_local=1"]);

    let found = with_facts(&[], |facts| {
        facts.devices.get_mut("eth1").unwrap().accept_local = Some(0);
        facts.all.accept_local = Some(1);
    });
    assert!(found.is_empty(), "`all` is enough: {found:?}");
    let found = with_facts(&[], |facts| {
        facts.devices.get_mut("eth0").unwrap().accept_local = Some(0);
    });
    assert!(found.is_empty(), "no backend is behind eth0: {found:?}");
}

#[test]
fn strict_rp_filter_towards_backends_is_warned_about_as_the_kernel_combines_it() {
    let set = |all, own| {
        with_facts(&["rp_filter of eth1 is 1"], |facts| {
            facts.all.rp_filter = Some(all);
            facts.devices.get_mut("eth1").unwrap().rp_filter = Some(own);
        })
    };
    let remedy = ["warning: sysctl -w net.ipv4.conf.eth1.rp_filter=2"];
    for (all, own, strict) in
        [(0, 0, false), (0, 1, true), (1, 0, true), (1, 1, true), (1, 2, false), (2, 1, false)]
    {
        assert_eq!(set(all, own), if strict { &remedy[..] } else { &[] }, "all {all} own {own}");
    }
}

#[test]
fn a_vlan_device_towards_backends_is_the_one_whose_settings_count() {
    let network = two_arms()
        .vlan(5, "eth1.5", VlanTag { tpid: 0x8100, tci: 5 }, 3)
        .address(5, "10.5.0.1/24")
        .build();
    let wanted = Wanted { services: vec![service("203.0.113.10", "10.5.0.9")], ..wanted() };
    let mut facts = facts();
    facts.devices.get_mut("eth1.5").unwrap().accept_local = Some(0);
    facts.devices.get_mut("eth1").unwrap().accept_local = Some(0);
    let found = remedies(&check(&wanted, &network, &facts), &["net.ipv4.conf.eth1/5."]);
    assert_eq!(found, ["warning: sysctl -w net.ipv4.conf.eth1/5.accept_local=1"]);
}

#[test]
fn a_vip_that_is_not_local_must_be_routed_here() {
    let without_vip = || {
        Sample::default()
            .link(2, "eth0", LinkKind::Ethernet)
            .link(3, "eth1", LinkKind::Ethernet)
            .address(2, "192.0.2.2/24")
            .address(3, "10.0.1.1/24")
    };
    let routed = without_vip().gateway("0.0.0.0/0", 2, "192.0.2.1");
    let found = with_network(&["203.0.113.10", "not an address of this host"], routed);
    assert_eq!(found, ["note: routers in front must send it here"]);

    let found = check(&wanted(), &without_vip().build(), &facts());
    assert_eq!(found.len(), 2);
    assert!(found[0].what.contains("rp_filter of eth1 is 2"), "{}", found[0]);
    assert!(found[0].what.contains("no route covers VIP 203.0.113.10"), "{}", found[0]);
    let mut off = facts();
    off.devices.get_mut("eth1").unwrap().rp_filter = Some(0);
    assert_eq!(check(&wanted(), &without_vip().build(), &off).len(), 1, "filter off");

    let found = remedies(
        &check(&wanted(), &without_vip().address(2, "203.0.113.1/24").build(), &facts()),
        &["203.0.113.10", "203.0.113.0/24", "ARP"],
    );
    assert_eq!(found, ["warning: ip addr add 203.0.113.10/32 dev lo"]);
}

#[test]
fn interfaces_must_exist_and_be_up() {
    let mut unknown = wanted();
    unknown.interfaces[0] = "eth9".into();
    let found = check(&unknown, &two_arms().build(), &facts());
    assert_eq!(
        remedies(&found, &["interface eth9 does not exist"]),
        ["error: name one of those that this host has: lo, eth0, eth1"]
    );

    let down = two_arms().edit(2, |link| (link.up, link.carrier) = (false, false));
    assert_eq!(with_network(&["eth0 is down"], down), ["warning: ip link set eth0 up"]);
    let unplugged = two_arms().edit(2, |link| link.carrier = false);
    assert_eq!(with_network(&["eth0 has no carrier"], unplugged).len(), 1);
}

#[test]
fn mtus_that_differ_are_named_with_both_devices() {
    let network = two_arms().edit(3, |link| link.mtu = 1400);
    let found = with_network(&["eth0 (MTU 1500)", "eth1 (MTU 1400)"], network);
    assert_eq!(found, ["warning: ip link set eth0 mtu 1400, on its neighbours too"]);

    // Clients on the VIP's own prefix, and none elsewhere: no gateway tells the device.
    let local_clients = Sample::default()
        .link(2, "eth0", LinkKind::Ethernet)
        .link(3, "eth1", LinkKind::Ethernet)
        .address(2, "203.0.113.10/24")
        .address(3, "10.0.1.1/24")
        .edit(2, |link| link.mtu = 1400);
    let found = with_network(&["eth0 (MTU 1400)", "eth1 (MTU 1500)"], local_clients);
    assert_eq!(found, ["warning: ip link set eth1 mtu 1400, on its neighbours too"]);
    // A gateway to some clients, although its route does not cover the VIP.
    let far_clients = Sample::default()
        .link(2, "eth0", LinkKind::Ethernet)
        .link(3, "eth1", LinkKind::Ethernet)
        .link(4, "eth2", LinkKind::Ethernet)
        .address(2, "203.0.113.10/24")
        .address(3, "10.0.1.1/24")
        .gateway("198.51.100.0/24", 4, "192.0.2.1")
        .edit(4, |link| link.mtu = 1400);
    let found = with_network(&["eth2 (MTU 1400)", "eth1 (MTU 1500)"], far_clients);
    assert_eq!(found, ["warning: ip link set eth1 mtu 1400, on its neighbours too"]);

    let jumbo = two_arms().edit(2, |l| l.mtu = 9000).edit(3, |l| l.mtu = 9000);
    let found = with_network(&["MTU 9000", "native XDP"], jumbo);
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn offloads_that_hide_packets_from_xdp() {
    let found = with_facts(&["eth0", "large-receive-offload"], |facts| {
        facts.offloads.get_mut("eth0").unwrap().lro = true;
    });
    assert_eq!(found, ["warning: ethtool -K eth0 lro off"]);

    let rx_vlan = |facts: &mut HostFacts| facts.offloads.get_mut("eth1").unwrap().rx_vlan = true;
    assert!(with_facts(&[], rx_vlan).is_empty(), "there is no VLAN on eth1");
    let network = two_arms().vlan(5, "eth1.5", VlanTag { tpid: 0x8100, tci: 5 }, 3).build();
    let mut facts = facts();
    rx_vlan(&mut facts);
    let found = remedies(&check(&wanted(), &network, &facts), &["eth1", "tags of eth1.5"]);
    assert_eq!(found, ["warning: ethtool -K eth1 rxvlan off"]);
}

#[test]
fn the_peer_of_a_veth_must_send_whole_checksums() {
    let veth = |peer| two_arms().edit(2, |link| link.kind = LinkKind::Veth { peer });
    let found = with_network(&["eth0 is a veth whose peer is in another namespace"], veth(None));
    assert_eq!(found, ["note: in the peer's namespace: ethtool -K PEER tx off"]);

    let near = || veth(Some(7)).link(7, "v0", LinkKind::Veth { peer: Some(2) }).build();
    assert_eq!(check(&wanted(), &near(), &facts()), []);
    let mut on = facts();
    on.offloads.insert("v0".into(), Offloads { tx_checksum: true, ..Offloads::default() });
    let found = remedies(&check(&wanted(), &near(), &on), &["v0, the veth peer of eth0"]);
    assert_eq!(found, ["warning: ethtool -K v0 tx off"]);
}

#[test]
fn redirects_matter_on_one_arm_only() {
    let one_arm = Wanted {
        interfaces: vec!["eth0".into()],
        services: vec![service("203.0.113.10", "192.0.2.9")],
        ..wanted()
    };
    let found = check(&one_arm, &two_arms().build(), &facts());
    assert_eq!(
        remedies(&found, &["both on eth0", "send_redirects"]),
        ["warning: sysctl -w net.ipv4.conf.all.send_redirects=0 \
          net.ipv4.conf.eth0.send_redirects=0"]
    );
    let mut off = facts();
    off.devices.get_mut("eth0").unwrap().send_redirects = Some(0);
    assert_eq!(check(&one_arm, &two_arms().build(), &off).len(), 1, "`all` is still on");
    off.all.send_redirects = Some(0);
    assert_eq!(check(&one_arm, &two_arms().build(), &off), []);
}

#[test]
fn backends_that_cannot_be_reached_or_answer_past_xdp() {
    let blackhole = two_arms().route(special(254, "10.0.1.9/32", RouteKind::Refuse));
    let found = with_network(&["gw1 (10.0.1.9) of in", "cannot be reached"], blackhole);
    assert_eq!(found, ["warning: add a route to it"]);

    let own = two_arms().address(3, "10.0.1.9/32");
    let found = with_network(&["gw1 (10.0.1.9)", "an address of this host"], own);
    assert_eq!(found.len(), 1, "{found:?}");

    let mut network = two_arms().build();
    network.policy_rules = PolicyRules { ipv4: true, ipv6: false };
    let found = remedies(&check(&wanted(), &network, &facts()), &["policy routing rules"]);
    assert_eq!(found, ["note: nothing to do unless speed matters"]);

    let one = Wanted { interfaces: vec!["eth0".into()], ..wanted() };
    let found = check(&one, &two_arms().build(), &facts());
    assert_eq!(
        remedies(&found, &["gw1 (10.0.1.9)", "behind eth1", "no XDP program"]),
        ["warning: interfaces: add eth1"]
    );
}

#[test]
fn attaching_to_a_vlan_device_is_warned_about() {
    let network = two_arms().vlan(5, "eth1.5", VlanTag { tpid: 0x8100, tci: 5 }, 3).build();
    let mut wanted = wanted();
    wanted.interfaces.push("eth1.5".into());
    let found = remedies(&check(&wanted, &network, &facts()), &["eth1.5 is a vlan 5 device"]);
    assert_eq!(found, ["warning: interfaces: name eth1 instead"]);
}

#[test]
fn old_kernels_and_missing_privileges_are_errors() {
    for (release, severity) in [
        ("5.10.0-21-amd64", Some("error")),
        ("4.19.0", Some("error")),
        ("5.15.0", None),
        ("6.18.44-fc", None),
        ("10.0-rc1", None),
        ("odd", Some("warning")),
    ] {
        let found = with_facts(&[release], |facts| facts.kernel_release = release.into());
        let severities: Vec<&str> = found.iter().map(|f| f.split(':').next().unwrap()).collect();
        assert_eq!(severities, severity.into_iter().collect::<Vec<_>>(), "{release}");
    }
    let [net_admin, net_raw, sys_admin, perfmon, bpf] =
        [12, 13, 21, 38, 39].map(|capability| 1_u64 << capability);
    let net = net_admin | net_raw;
    for (capabilities, missing) in [
        (net | bpf | perfmon, &[][..]),
        (net | sys_admin, &[]),
        (net | perfmon, &["CAP_BPF"]),
        (net | bpf, &["CAP_PERFMON"]),
        (net_raw | bpf | perfmon, &["CAP_NET_ADMIN"]),
        (net_admin | bpf | perfmon, &["CAP_NET_RAW"]),
        (0, &["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON"]),
    ] {
        let found = with_facts(missing, |facts| facts.capabilities = capabilities);
        assert_eq!(found.len(), usize::from(!missing.is_empty()), "{capabilities:#x}");
        assert!(found.iter().all(|f| f.starts_with("error: ")), "{found:?}");
    }
}

#[test]
fn pins_need_a_bpf_file_system_and_speed_needs_the_jit() {
    let found = with_facts(&["/sys/fs/bpf/sip-lb", "(/sys is not)"], |facts| {
        facts.pin_dir = PinDir::Elsewhere("/sys".into());
    });
    assert!(found[0].starts_with("error: mount -t bpf bpf /sys/fs/bpf"), "{found:?}");
    let found = with_facts(&["net.core.bpf_jit_enable is 0"], |facts| facts.bpf_jit = Some(0));
    assert_eq!(found, ["warning: sysctl -w net.core.bpf_jit_enable=1"]);
}

#[test]
fn the_worst_comes_first_and_nothing_twice() {
    let mut facts = facts();
    facts.kernel_release = "4.19.0".into();
    facts.bpf_jit = Some(0);
    let mut wanted = wanted();
    wanted.services.push(service("203.0.113.10", "10.0.1.9"));
    let network = two_arms().edit(2, |link| link.kind = LinkKind::Veth { peer: None });
    let network = network.edit(3, |link| link.mtu = 1400).build();
    let findings = check(&wanted, &network, &facts);
    let severities: Vec<Severity> = findings.iter().map(|finding| finding.severity).collect();
    use Severity::*;
    assert_eq!(severities, [Error, Warning, Warning, Note]);
    assert_eq!(
        findings[1].to_string(),
        "warning: net.core.bpf_jit_enable is 0: the XDP program is interpreted, many times \
         slower; sysctl -w net.core.bpf_jit_enable=1"
    );
}
