//! Whether packets for a VIP get here, and whether the kernel takes packets that bear it as
//! their source.

use std::net::IpAddr;

use crate::netlink::{Link, Network, NextHop, Unusable, model::RouteKind, route_table::MAIN};

use super::{Finding, HostFacts, Wanted, WantedService, paths, sysctl};

pub(super) fn check(
    wanted: &Wanted,
    network: &Network,
    facts: &HostFacts,
    findings: &mut Vec<Finding>,
) {
    for service in &wanted.services {
        for vip in &service.vips {
            if !network.is_local(*vip) {
                check_arrival(network, service, *vip, findings);
            }
            if vip.is_ipv4() {
                // IPv6 has no such filters.
                for link in paths::links(network, &paths::backend_devices(network, service)) {
                    check_source(network, *vip, link, facts, findings);
                }
            }
        }
    }
}

fn check_arrival(
    network: &Network,
    service: &WantedService,
    vip: IpAddr,
    findings: &mut Vec<Finding>,
) {
    let name = &service.name;
    let connected = network.routes.of_table(MAIN).find(|route| {
        route.kind == RouteKind::Unicast
            && route.destination.contains(&vip)
            && route.legs.iter().any(|leg| leg.gateway.is_none())
    });
    findings.push(match connected {
        Some(route) => Finding::warning(
            format!(
                "VIP {vip} of {name} lies in the connected prefix {} but is not an address of \
                 this host: unless another node holds it now, nobody answers {} requests for it",
                route.destination,
                if vip.is_ipv4() { "ARP" } else { "neighbour" },
            ),
            format!("ip addr add {vip}/{} dev lo", if vip.is_ipv4() { 32 } else { 128 }),
        ),
        None => Finding::note(
            format!("VIP {vip} of {name} is not an address of this host"),
            "routers in front must send it here",
        ),
    });
}

/// Answers of backends that take the kernel's way arrive on `link` with the VIP as their source.
fn check_source(
    network: &Network,
    vip: IpAddr,
    link: &Link,
    facts: &HostFacts,
    findings: &mut Vec<Finding>,
) {
    let Some(own) = facts.devices.get(&link.name) else { return };
    let device = &link.name;
    let lost = "answers of backends that take the kernel's way (such as while a neighbour is \
                unknown) are dropped";
    let rp_key = sysctl("ipv4", device, "rp_filter");
    // The kernel applies the stricter of both: 0 off, 1 strict, 2 loose; it takes the larger.
    let rp_filter = own.rp_filter.max(facts.all.rp_filter);
    if rp_filter == Some(1) {
        findings.push(Finding::warning(
            format!("rp_filter of {device} is 1 (strict): {lost}"),
            format!("sysctl -w {rp_key}=2"),
        ));
    }
    if network.is_local(vip) {
        let accept_local = own.accept_local == Some(1) || facts.all.accept_local == Some(1);
        if !accept_local && own.accept_local.is_some() {
            let key = sysctl("ipv4", device, "accept_local");
            findings.push(Finding::warning(
                format!("{key} is 0 and VIP {vip} is an address of this host: {lost}"),
                format!("sysctl -w {key}=1"),
            ));
        }
    } else if rp_filter == Some(2)
        && matches!(network.next_hop(vip), NextHop::Unusable(Unusable::NoRoute | Unusable::Refused))
    {
        findings.push(Finding::warning(
            format!("rp_filter of {device} is 2 (loose) and no route covers VIP {vip}: {lost}"),
            format!("sysctl -w net.ipv4.conf.all.rp_filter=0 {rp_key}=0, or add a default route"),
        ));
    }
}
