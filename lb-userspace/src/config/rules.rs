//! Rules between keys: what is unique, what must agree, what must fit.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::{IpAddr, SocketAddr},
};

use lb_common::maps::{RULE_SETS_PER_SERVICE, RULES_PER_SERVICE};

use super::{
    alias::{self, Alias},
    error::{Errors, Finding},
    health,
    model::{Admin, Affinity, Balance},
    place::Place,
    raw::{Given, RawBackend, RawConfig, RawLimits, RawRule, RawService},
    schema::LISTENERS_PER_SERVICE,
    values,
};
use lb_common::maps::SENDERS_PER_BINDING;

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

/// The lists of backends of a service: its own, then those of its rules.
pub(super) fn lists<'a>(
    service: &'a RawService,
    place: &Place<'a>,
) -> Vec<Vec<Placed<'a, RawBackend>>> {
    let own = present(service.backends.as_deref(), place.key("backends")).collect();
    let rules = rules(&service.domains, place.key("domains"))
        .chain(rules(&service.methods, place.key("methods")))
        .map(|(rule, at)| present(rule.backends.as_deref(), at.key("backends")).collect());
    std::iter::once(own).chain(rules).collect()
}

/// The backends of all lists; one that several sets share is there several times.
pub(super) fn backends<'a>(
    service: &'a RawService,
    place: &Place<'a>,
) -> impl Iterator<Item = Placed<'a, RawBackend>> + use<'a> {
    lists(service, place).into_iter().flatten()
}

fn rules<'a>(
    rules: &'a Given<Vec<Option<RawRule>>>,
    place: Place<'a>,
) -> impl Iterator<Item = Placed<'a, RawRule>> + use<'a> {
    present(rules.value().map(Vec::as_slice), place)
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
    for list in lists(service, place) {
        let list = || list.iter();
        let names = list().filter_map(|(b, p)| Some((b.name.as_ref()?, p.key("name"))));
        unique("backend name", "in a list", names, errors);
        let addresses = list().filter_map(|(b, p)| Some((b.address?, p.key("address"))));
        unique("backend address", "in a list", addresses, errors);
    }
    one_name_one_address(service, place, errors);
    matches(service, place, errors);
    if service.affinity == Some(Affinity::None) && service.balance == Some(Balance::LeastDialogs) {
        let message = "found none with balance least-dialogs, which counts what is remembered; \
                       allowed is dialog";
        place.key("affinity").refuse(errors, message);
    }
    let addresses =
        || backends(service, place).filter_map(|(b, p)| Some((b.address?, p.key("address"))));

    senders(service, place, errors);

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

/// In all lists of a service a name stands for one address, and an address has one name.
fn one_name_one_address<'a>(service: &'a RawService, place: &Place<'a>, errors: &mut Errors) {
    let mut by_name = HashMap::new();
    let mut by_address = HashMap::new();
    let mut by_admin = HashMap::new();
    for (i, list) in lists(service, place).into_iter().enumerate() {
        for (backend, backend_place) in list {
            let (Some(name), Some(address)) = (backend.name.as_ref(), backend.address) else {
                continue;
            };
            let line = backend_place.at().line;
            if let Some(admin) = backend.admin {
                let (first_list, known, first) = *by_admin.entry(name).or_insert((i, admin, line));
                if first_list != i && known != admin {
                    let message = format!(
                        "found {} for the backend {name}, allowed is {} as in line {first}: in all \
                         lists of a service a name stands for one backend",
                        admin.label(),
                        known.label()
                    );
                    backend_place.key("admin").refuse(errors, message);
                }
            }
            let (first_list, known, first) = *by_name.entry(name).or_insert((i, address, line));
            // Within a list the name or address itself is an error.
            if first_list != i && known != address {
                let message = format!(
                    "found {address} for the backend {name}, allowed is {known} as in line {first}: \
                     in all lists of a service a name stands for one backend"
                );
                backend_place.key("address").refuse(errors, message);
                continue;
            }
            let (first_list, known, first) = *by_address.entry(address).or_insert((i, name, line));
            if first_list != i && known != name {
                let message = format!(
                    "found the name {name} for {address}, allowed is {known} as in line {first}: in \
                     all lists of a service an address has one name"
                );
                backend_place.key("name").refuse(errors, message);
            }
        }
    }
}

fn aliases<'a>(
    backend: &'a RawBackend,
    place: &Place<'a>,
) -> impl Iterator<Item = Placed<'a, Alias>> + use<'a> {
    let aliases = backend.aliases.value().map(Vec::as_slice);
    present(aliases, place.key("aliases"))
}

/// How many entries the index of senders needs for a backend of one VIP.
fn names(backend: &RawBackend, place: &Place<'_>) -> usize {
    let Some(address) = backend.address else { return 0 };
    let aliases: Vec<_> = aliases(backend, place).map(|(alias, _)| alias).collect();
    alias::sure(address, aliases.iter().copied()).count()
        + alias::likely(address, aliases.iter().copied()).count()
}

/// A Via header names one backend of a service, and no VIP of it.
fn senders<'a>(service: &'a RawService, place: &Place<'a>, errors: &mut Errors) {
    let vips: HashSet<_> = vips(service, place)
        .flat_map(|(vip, _)| alias::sure(vip, None).map(|sender| sender.to_string()))
        .collect();
    let mut owner = HashMap::new();
    for (backend, backend_place) in backends(service, place) {
        if let Some(address) = backend.address {
            let own = alias::sure(address, None).map(|sender| sender.to_string());
            let path = backend_place.path();
            owner.extend(own.map(|sender| (sender, (backend.name.as_ref(), path.to_owned()))));
        }
    }
    for (backend, backend_place) in backends(service, place) {
        let Some(address) = backend.address else { continue };
        for (alias, alias_place) in aliases(backend, &backend_place) {
            for sender in alias::sure(address, Some(alias)).skip(1) {
                let sender = sender.to_string();
                if vips.contains(&sender) {
                    let message = format!(
                        "found {sender}, which is a VIP of its own service {}, allowed is what \
                         means this backend alone",
                        title(service, place)
                    );
                    alias_place.refuse(errors, message);
                    continue;
                }
                let path = backend_place.path().to_owned();
                let name = backend.name.as_ref();
                let (owner, first) =
                    owner.entry(sender.clone()).or_insert_with(|| (name, path.clone()));
                // In another list of the service it is the same backend.
                if *first != path && (name.is_none() || *owner != name) {
                    let message = format!(
                        "found {sender}, which means {first} too, allowed is what means this \
                         backend alone"
                    );
                    alias_place.refuse(errors, message);
                }
            }
        }
    }
}

/// A domain and a method stand in one rule of a service.
fn matches<'a>(service: &'a RawService, place: &Place<'a>, errors: &mut Errors) {
    let all = |given: &'a Given<Vec<Option<RawRule>>>, key| {
        rules(given, place.key(key))
            .flat_map(|(rule, at)| present(rule.matches.as_deref(), at.key("match")))
    };
    let domains = all(&service.domains, "domains")
        .filter_map(|(text, at)| Some((values::domain(text).ok()?, at)));
    unique("domain", "in a service", domains, errors);
    unique("method", "in a service", all(&service.methods, "methods"), errors);
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
    let (mut listeners, mut bindings, mut rule_sets, mut rule_keys) = (0, 0usize, 0, 0);
    let mut senders = 0usize;
    let mut endpoints = HashSet::new();
    let mut listeners_of: HashMap<SocketAddr, usize> = HashMap::new();
    for (service, place) in services {
        for address in backends(service, place).filter_map(|(b, _)| b.address) {
            *listeners_of.entry(address).or_default() += vips(service, place).count();
        }
    }
    let mut sets = HashSet::new();
    for (service, place) in services {
        let vips = vips(service, place).count();
        listeners += vips;
        let addresses: HashSet<_> =
            backends(service, place).filter_map(|(b, _)| b.address).collect();
        bindings += vips * addresses.len();
        endpoints.extend(addresses);
        let lists = lists(service, place);
        rule_sets += vips * (lists.len() - 1);
        rule_keys += vips
            * rules(&service.domains, place.key("domains"))
                .chain(rules(&service.methods, place.key("methods")))
                .flat_map(|(rule, _)| rule.matches.as_deref())
                .map(<[_]>::len)
                .sum::<usize>();
        for list in lists {
            let mut set: Vec<_> = list
                .into_iter()
                .map(|(b, _)| (b.name.as_deref(), b.address, b.priority, b.weight))
                .collect();
            set.sort_unstable();
            // A sequence for round-robin is another table than slots for a hash.
            sets.insert((service.balance == Some(Balance::RoundRobin), set));
        }
        for (backend, place) in backends(service, place) {
            let is_shared = backend.address.is_some_and(|a| listeners_of.get(&a) > Some(&1));
            senders += vips * (names(backend, &place) + usize::from(is_shared));
        }
    }
    let room = limits.services.map(|s| s * LISTENERS_PER_SERVICE);
    let room_sets = limits.services.map(|s| s * RULE_SETS_PER_SERVICE);
    let room_keys = limits.services.map(|s| s * RULES_PER_SERVICE);
    fits(services.len(), "services", limits.services, "limits.services");
    fits(listeners, "VIPs", room, "four for each of limits.services");
    fits(rule_sets, "VIPs times rules", room_sets, "four for each of limits.services");
    let per = "eight for each of limits.services";
    fits(rule_keys, "VIPs times domains and methods of rules", room_keys, per);
    fits(endpoints.len(), "different backend addresses", limits.endpoints, "limits.endpoints");
    fits(bindings, "VIPs times backends", limits.bindings, "limits.bindings");
    // Too many bindings are told already.
    let room = limits.bindings.filter(|&b| bindings <= b as usize);
    let room = room.map(|b| b * SENDERS_PER_BINDING);
    fits(
        senders,
        "VIPs times addresses and aliases of backends",
        room,
        "two for each of limits.bindings",
    );
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
        for list in lists(service, place) {
            never_left(&list, place, &mut warn);
        }
        if service.affinity == Some(Affinity::None) && service.balance == Some(Balance::RoundRobin)
        {
            let message = "with affinity none round-robin sends ACK, CANCEL, BYE and every \
                           retransmission to another backend than the request that they belong to";
            warn(&place.key("affinity"), message.to_owned());
        }
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
    list: &[Placed<'a, RawBackend>],
    place: &Place<'a>,
    warn: &mut impl FnMut(&Place<'_>, String),
) {
    let Some(best) = list.iter().filter_map(|(b, _)| b.priority).min() else { return };
    let mut tier = list.iter().filter(|(b, _)| b.priority == Some(best));
    let more = list.iter().any(|(b, _)| b.priority != Some(best));
    if more && tier.any(|(b, _)| health::is_off(b)) {
        let message = format!(
            "priority {best} has a backend with health off, which is always up: no other priority is ever used"
        );
        warn(&place.key("backends"), message);
    }
}
