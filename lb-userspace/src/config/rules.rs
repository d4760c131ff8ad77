//! Rules between keys: what is unique, what must agree, what must fit.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::{IpAddr, SocketAddr},
};

use super::{
    error::{Errors, Finding},
    health,
    model::Admin,
    place::Place,
    raw::{RawBackend, RawConfig, RawLimits, RawService},
    schema::LISTENERS_PER_SERVICE,
};

/// Checks every rule around the values that were refused before.
pub(super) fn check(raw: &RawConfig, root: &Place<'_>, errors: &mut Errors) {
    let interfaces = present(raw.interfaces.as_deref(), root.key("interfaces"));
    unique("interface", "in the list", interfaces, errors);
    if raw.hash_key.is_present() && raw.hash_key_file.is_present() {
        let message = "found hash_key and hash_key_file, allowed is one of them";
        root.key("hash_key_file").refuse(errors, message);
    }
    let services: Vec<_> = present(raw.services.as_deref(), root.key("services")).collect();
    let names =
        services.iter().filter_map(|(s, place)| Some((s.name.as_ref()?, place.key("name"))));
    unique("service name", "in the file", names, errors);
    listeners(&services, errors);
    for (service, place) in &services {
        within(service, place, errors);
    }
    health::check(raw, root, &services, errors);
    if let Some(raw_limits) = &raw.limits {
        limits(raw_limits, &services, root, errors);
    }
}

/// A service that is a mapping at least, and its place.
pub(super) type Placed<'a, T> = (&'a T, Place<'a>);

/// The elements of a list that were not refused, with their places.
pub(super) fn present<'a, T>(
    list: Option<&'a [Option<T>]>,
    place: Place<'a>,
) -> impl Iterator<Item = Placed<'a, T>> {
    let items = list.unwrap_or_default().iter().enumerate();
    items.filter_map(move |(i, item)| Some((item.as_ref()?, place.item(i))))
}

pub(super) fn backends<'a>(
    service: &'a RawService,
    place: &Place<'a>,
) -> impl Iterator<Item = Placed<'a, RawBackend>> + use<'a> {
    present(service.backends.as_deref(), place.key("backends"))
}

fn vips<'a>(
    service: &'a RawService,
    place: &Place<'a>,
) -> impl Iterator<Item = (SocketAddr, Place<'a>)> + use<'a> {
    present(service.listen.as_deref(), place.key("listen")).map(|(a, place)| (*a, place))
}

/// A service as errors name it.
pub(super) fn title(service: &RawService, place: &Place<'_>) -> String {
    service.name.clone().unwrap_or_else(|| place.path().to_owned())
}

fn unique<'a, T: Hash + Eq + std::fmt::Display + 'a>(
    what: &str,
    scope: &str,
    items: impl Iterator<Item = (T, Place<'a>)>,
    errors: &mut Errors,
) {
    let mut first = HashMap::new();
    for (item, place) in items {
        if let Some(line) = first.get(&item) {
            let message = format!(
                "found the {what} {item} again, allowed is each once {scope}; see line {line}"
            );
            place.refuse(errors, message);
        } else {
            first.insert(item, place.at().line);
        }
    }
}

/// One address, port and transport belongs to one service, once.
fn listeners(services: &[Placed<'_, RawService>], errors: &mut Errors) {
    let mut owner = HashMap::new();
    for (service, place) in services {
        for (vip, vip_place) in vips(service, place) {
            let name = title(service, place);
            let line = vip_place.at().line;
            let Some((index, other, first)) = owner.get(&vip) else {
                owner.insert(vip, (place.path().to_owned(), name, line));
                continue;
            };
            let who = if index == place.path() {
                format!("service {name} listens on {vip} udp twice")
            } else {
                format!("services {other} and {name} both listen on {vip} udp")
            };
            let message = format!(
                "{who}, allowed is one listener for each address, port and transport; see line {first}"
            );
            vip_place.refuse(errors, message);
        }
    }
}

/// Rules inside one service.
fn within<'a>(service: &'a RawService, place: &Place<'a>, errors: &mut Errors) {
    if let Some(transports) = &service.transport
        && transports.len() > 1
        && transports.iter().all(Option::is_some)
    {
        let message = "found the transport udp again, allowed is each once";
        place.key("transport").item(1).refuse(errors, message);
    }
    let names =
        backends(service, place).filter_map(|(b, p)| Some((b.name.as_ref()?, p.key("name"))));
    unique("backend name", "in a list", names, errors);
    let addresses =
        || backends(service, place).filter_map(|(b, p)| Some((b.address?, p.key("address"))));
    unique("backend address", "in a list", addresses(), errors);

    let vips: Vec<_> = vips(service, place).collect();
    let Some((first, _)) = vips.first() else { return };
    for (address, address_place) in vips.iter().cloned().chain(addresses()) {
        if address.is_ipv4() != first.is_ipv4() {
            let message = format!(
                "found the {} address {address}, allowed is {} as the service's first VIP {first} has it",
                family(address),
                family(*first)
            );
            address_place.refuse(errors, message);
        }
    }
    for (address, address_place) in addresses() {
        if vips.iter().any(|(vip, _)| *vip == address) {
            let message = format!(
                "found {address}, which is a VIP of its own service {}, allowed are other addresses",
                title(service, place)
            );
            address_place.refuse(errors, message);
        }
    }
}

fn family(address: SocketAddr) -> &'static str {
    match address.ip() {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// What the maps have room for.
fn limits(
    limits: &RawLimits,
    services: &[Placed<'_, RawService>],
    root: &Place<'_>,
    errors: &mut Errors,
) {
    let place = root.key("services");
    let mut fits = |count: usize, what: &str, limit: Option<u32>, key: &str| {
        if let Some(limit) = limit
            && count > limit as usize
        {
            let message = format!(
                "found {count} {what}, allowed are at most {limit} ({key}); raise the limit"
            );
            place.refuse(errors, message);
        }
    };
    let (mut listeners, mut bindings) = (0, 0usize);
    let mut endpoints = HashSet::new();
    let mut sets = HashSet::new();
    for (service, place) in services {
        let vips = vips(service, place).count();
        listeners += vips;
        bindings += vips * backends(service, place).count();
        endpoints.extend(backends(service, place).filter_map(|(b, _)| b.address));
        let mut set: Vec<_> = backends(service, place)
            .map(|(b, _)| (b.name.as_deref(), b.address, b.priority, b.weight))
            .collect();
        set.sort_unstable();
        sets.insert(set);
    }
    let room = limits.services.map(|s| s * LISTENERS_PER_SERVICE);
    fits(services.len(), "services", limits.services, "limits.services");
    fits(listeners, "VIPs", room, "four for each of limits.services");
    fits(endpoints.len(), "different backend addresses", limits.endpoints, "limits.endpoints");
    fits(bindings, "VIPs times backends", limits.bindings, "limits.bindings");
    fits(sets.len(), "different sets of backends", limits.tables, "limits.tables");
}

/// What works but is probably not meant. Only for files without errors.
pub(super) fn warnings(raw: &RawConfig, root: &Place<'_>) -> Vec<Finding> {
    let mut warnings = Vec::new();
    let mut warn = |place: &Place<'_>, message: String| {
        warnings.push(Finding::new(place.at(), place.path(), message));
    };
    if !raw.hash_key.is_present() && !raw.hash_key_file.is_present() {
        let message = "no hash_key and no hash_key_file: a random key is made and pinned, so that \
                       other nodes choose other backends";
        warn(&root.key("hash_key"), message.to_owned());
    }
    let services: Vec<_> = present(raw.services.as_deref(), root.key("services")).collect();
    let owner: HashMap<_, _> =
        services.iter().flat_map(|(s, p)| vips(s, p).map(|(vip, _)| (vip, title(s, p)))).collect();
    for (service, place) in &services {
        let vips: Vec<_> = vips(service, place).collect();
        for (vip, vip_place) in &vips {
            if vip.ip().is_loopback() {
                let message = format!("{vip} is a loopback address: only this host can call it");
                warn(vip_place, message);
            }
        }
        for (backend, backend_place) in backends(service, place) {
            let Some(address) = backend.address else { continue };
            let address_place = backend_place.key("address");
            if let Some(other) = owner.get(&address) {
                let message = format!(
                    "{address} is a VIP of service {other}: what is forwarded there is not balanced again"
                );
                warn(&address_place, message);
            } else if vips.iter().any(|(vip, _)| vip.ip() == address.ip()) {
                let message = format!(
                    "{} is also the address of the VIP: answers of a backend on this host do not pass the XDP program",
                    address.ip()
                );
                warn(&address_place, message);
            }
        }
        never_left(service, place, &mut warn);
        if !backends(service, place).any(|(b, _)| b.admin == Some(Admin::Ready)) {
            let message = "no backend is ready: new dialogs have nowhere to go";
            warn(&place.key("backends"), message.to_owned());
        }
    }
    warnings.sort_by_key(|w| (w.line, w.column));
    warnings
}

/// A best tier whose backends are never probed is never down, so that no other tier is ever used.
fn never_left<'a>(
    service: &'a RawService,
    place: &Place<'a>,
    warn: &mut impl FnMut(&Place<'_>, String),
) {
    let Some(best) = backends(service, place).filter_map(|(b, _)| b.priority).min() else { return };
    let mut tier = backends(service, place).filter(|(b, _)| b.priority == Some(best));
    let more = backends(service, place).any(|(b, _)| b.priority != Some(best));
    if more && tier.any(|(b, _)| health::is_off(b)) {
        let message = format!(
            "priority {best} has a backend with health off, which is always up: no other priority is ever used"
        );
        warn(&place.key("backends"), message);
    }
}
