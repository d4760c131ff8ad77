//! Which devices a service's packets pass.

use std::{collections::BTreeSet, net::IpAddr};

use crate::netlink::{Link, Network, model::RouteKind, route_table::MAIN};

use super::{Wanted, WantedService};

/// Devices that routes towards the backends of a service name, in order of their index.
pub(super) fn backend_devices(network: &Network, service: &WantedService) -> BTreeSet<u32> {
    service.backends.iter().flat_map(|(_, address)| network.devices_towards(*address)).collect()
}

/// Devices by which clients may come: those of gateway routes, and those whose connected prefix
/// holds a VIP.
pub(super) fn client_devices(network: &Network, service: &WantedService) -> BTreeSet<u32> {
    let same_family = |address: IpAddr| {
        service.vips.first().is_some_and(|vip| vip.is_ipv4() == address.is_ipv4())
    };
    let routes = network
        .routes
        .of_table(MAIN)
        .filter(|route| route.kind == RouteKind::Unicast && same_family(route.destination.addr()));
    routes
        .flat_map(|route| {
            let connected = service.vips.iter().any(|vip| route.destination.contains(vip));
            route.legs.iter().filter(move |leg| leg.gateway.is_some() || connected)
        })
        .map(|leg| leg.device)
        .collect()
}

/// Every device whose settings decide about packets that the kernel forwards, for one family.
pub(super) fn all_devices(wanted: &Wanted, network: &Network, ipv4: bool) -> BTreeSet<u32> {
    if !has_family(wanted, ipv4) {
        return BTreeSet::new();
    }
    let attached = wanted.interfaces.iter().filter_map(|name| network.link_by_name(name));
    let mut devices: BTreeSet<u32> = attached.map(|link| link.index).collect();
    for service in &wanted.services {
        if service.vips.iter().any(|vip| vip.is_ipv4() == ipv4) {
            devices.extend(backend_devices(network, service));
            devices.extend(client_devices(network, service));
        }
    }
    devices
}

pub(super) fn has_family(wanted: &Wanted, ipv4: bool) -> bool {
    wanted.services.iter().flat_map(|service| &service.vips).any(|vip| vip.is_ipv4() == ipv4)
}

/// The links of some devices, those that still exist.
pub(super) fn links<'a>(network: &'a Network, devices: &BTreeSet<u32>) -> Vec<&'a Link> {
    devices.iter().filter_map(|device| network.links.get(device)).collect()
}
