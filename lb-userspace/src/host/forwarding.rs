//! Whether the kernel would forward what the XDP program leaves to it, and whether the ways are
//! such that the XDP program can do without.

use std::collections::BTreeSet;

use crate::netlink::{Link, Network, NextHop, Unusable};

use super::{Finding, HostFacts, Wanted, WantedService, facts::DeviceSettings, paths, sysctl};

pub(super) fn check(
    wanted: &Wanted,
    network: &Network,
    facts: &HostFacts,
    findings: &mut Vec<Finding>,
) {
    check_ipv4_forwarding(wanted, network, facts, findings);
    check_ipv6_forwarding(wanted, network, facts, findings);
    for service in &wanted.services {
        let backends = paths::backend_devices(network, service);
        let clients = paths::client_devices(network, service);
        check_ways(wanted, network, service, findings);
        check_mtu(network, service, &clients, &backends, findings);
        if service.vips.iter().any(std::net::IpAddr::is_ipv4) {
            let both: BTreeSet<u32> = clients.intersection(&backends).copied().collect();
            check_redirects(network, &both, facts, findings);
        }
    }
}

fn check_ipv4_forwarding(
    wanted: &Wanted,
    network: &Network,
    facts: &HostFacts,
    findings: &mut Vec<Finding>,
) {
    let devices = paths::all_devices(wanted, network, true);
    let off =
        devices_with(network, facts, &devices, |settings| settings.ipv4_forwarding == Some(0));
    if off.is_empty() {
        return;
    }
    if facts.ip_forward == Some(0) {
        findings.push(Finding::error(
            format!(
                "net.ipv4.ip_forward is 0: neither the kernel nor the XDP program's route look-up \
                 forwards packets that come in by {}",
                names(&off)
            ),
            "sysctl -w net.ipv4.ip_forward=1",
        ));
        return;
    }
    for link in off {
        let key = sysctl("ipv4", &link.name, "forwarding");
        findings.push(Finding::error(
            format!("{key} is 0: packets that come in by {} are not forwarded", link.name),
            format!("sysctl -w {key}=1"),
        ));
    }
}

fn check_ipv6_forwarding(
    wanted: &Wanted,
    network: &Network,
    facts: &HostFacts,
    findings: &mut Vec<Finding>,
) {
    if paths::has_family(wanted, false) && facts.all.ipv6_forwarding == Some(0) {
        findings.push(Finding::error(
            "net.ipv6.conf.all.forwarding is 0: IPv6 packets are not forwarded",
            "sysctl -w net.ipv6.conf.all.forwarding=1 (where addresses come by router \
             advertisements, set accept_ra=2 on that interface first)",
        ));
        return;
    }
    let devices = paths::all_devices(wanted, network, false);
    for link in
        devices_with(network, facts, &devices, |settings| settings.ipv6_forwarding == Some(0))
    {
        let key = sysctl("ipv6", &link.name, "forwarding");
        findings.push(Finding::error(
            format!("{key} is 0: IPv6 packets that come in by {} are not forwarded", link.name),
            format!("sysctl -w {key}=1"),
        ));
    }
}

/// Backends that cannot be reached, or not without the kernel, or not by an XDP interface.
fn check_ways(
    wanted: &Wanted,
    network: &Network,
    service: &WantedService,
    findings: &mut Vec<Finding>,
) {
    let attached: BTreeSet<u32> = wanted
        .interfaces
        .iter()
        .filter_map(|name| network.link_by_name(name))
        .map(|link| link.index)
        .collect();
    for (name, address) in &service.backends {
        let backend = format!("backend {name} ({address}) of {}", service.name);
        if let NextHop::Unusable(reason) = network.next_hop(*address) {
            let (lost, remedy) = match reason {
                Unusable::NoRoute | Unusable::Refused | Unusable::NotUnicast => {
                    (true, "add a route to it".to_owned())
                }
                Unusable::Local => {
                    (true, "a backend must be another host, container or namespace".to_owned())
                }
                Unusable::LinkDown { ref device } => (true, format!("ip link set {device} up")),
                Unusable::PolicyRules
                | Unusable::SelectiveRoute
                | Unusable::Encapsulated
                | Unusable::UnknownRoute
                | Unusable::UnknownDevice { .. }
                | Unusable::UnsupportedDevice { .. }
                | Unusable::TooManyVlans { .. }
                | Unusable::OnLinkPrefix => {
                    (false, "nothing to do unless speed matters".to_owned())
                }
            };
            findings.push(if lost {
                Finding::warning(format!("{backend} cannot be reached: {reason}"), remedy)
            } else {
                let what =
                    format!("{backend}: every packet asks the kernel for its way ({reason})");
                Finding::note(what, remedy)
            });
        }
        let ways = network.ingress_paths(*address);
        if !ways.is_empty() && !ways.iter().any(|way| attached.contains(&way.ifindex)) {
            let links: BTreeSet<u32> = ways.iter().map(|way| way.ifindex).collect();
            let links = names(&paths::links(network, &links));
            findings.push(Finding::warning(
                format!(
                    "{backend} is behind {links}, where no XDP program runs: its answers would \
                     reach clients from its own address instead of the VIP"
                ),
                format!("interfaces: add {links}"),
            ));
        }
    }
}

fn check_mtu(
    network: &Network,
    service: &WantedService,
    clients: &BTreeSet<u32>,
    backends: &BTreeSet<u32>,
    findings: &mut Vec<Finding>,
) {
    for client in paths::links(network, clients) {
        for backend in paths::links(network, backends) {
            if client.mtu == backend.mtu {
                continue;
            }
            let (larger, smaller) =
                if client.mtu > backend.mtu { (client, backend) } else { (backend, client) };
            findings.push(Finding::warning(
                format!(
                    "{} passes {} (MTU {}) and {} (MTU {}): messages that fit the one do not fit \
                     the other",
                    service.name, larger.name, larger.mtu, smaller.name, smaller.mtu
                ),
                format!("ip link set {} mtu {}, on its neighbours too", larger.name, smaller.mtu),
            ));
        }
    }
}

/// On one arm the kernel would tell senders to go to each other directly, past the XDP program.
fn check_redirects(
    network: &Network,
    devices: &BTreeSet<u32>,
    facts: &HostFacts,
    findings: &mut Vec<Finding>,
) {
    let everywhere = facts.all.send_redirects == Some(1);
    for link in paths::links(network, devices) {
        let own = facts.devices.get(&link.name).and_then(|settings| settings.send_redirects);
        if own.is_none() || !(everywhere || own == Some(1)) {
            continue;
        }
        let key = sysctl("ipv4", &link.name, "send_redirects");
        findings.push(Finding::warning(
            format!(
                "clients and backends are both on {} and send_redirects is on: for packets that \
                 the kernel forwards it sends ICMP redirects, which lead peers past this host",
                link.name
            ),
            format!("sysctl -w net.ipv4.conf.all.send_redirects=0 {key}=0"),
        ));
    }
}

fn devices_with<'a>(
    network: &'a Network,
    facts: &HostFacts,
    devices: &BTreeSet<u32>,
    condition: impl Fn(&DeviceSettings) -> bool,
) -> Vec<&'a Link> {
    let mut links = paths::links(network, devices);
    links.retain(|link| facts.devices.get(&link.name).is_some_and(&condition));
    links
}

fn names(links: &[&Link]) -> String {
    links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ")
}
