//! The content of the maps as text: one line an entry, in the order of ids, the same for the same
//! content. For tests and for looking around.
//!
//! Tables and member lists are shown where a choice publishes them; the hash key is not shown.

use lb_common::{
    backend::{Endpoint, NextHop, ROUTES, Route, endpoint, next_hop, spoof},
    maps::{PortSet, ports},
    service::INTERFACES,
    table::{self, NO_MEMBER, choice_members, choice_table},
};

use super::{Index, LbMaps, Names, Result};
use crate::state::Admin;

/// All of it.
///
/// # Errors
/// The first read that failed.
pub fn dump(maps: &dyn LbMaps) -> Result<String> {
    let capacities = maps.capacities();
    let mut out = Vec::new();
    let settings = maps.settings()?;
    out.push(format!("settings routes={} lost_after={}", settings.routes, settings.lost_after));
    for row in 0..ROUTES {
        let route = maps.route(row)?;
        if route != Route::default() {
            out.push(format!("route {row} {}{}", prefix(&route), way(&route.next_hop)));
        }
    }
    for row in 0..INTERFACES {
        let interface = maps.interface(row)?;
        if interface.ifindex != 0 {
            let macs: Vec<_> =
                interface.macs.iter().take(interface.count as usize).map(mac).collect();
            out.push(format!("interface {} {}", interface.ifindex, macs.join(",")));
        }
    }
    for id in ids(capacities.services) {
        let name = maps.name(Names::Services, id)?;
        if !name.as_bytes().is_empty() {
            out.push(format!("service {id} {name}{}", touched(&*maps.touched(id)?)));
        }
    }
    for id in ids(capacities.listeners) {
        let record = maps.listener(id)?;
        if record.service != 0 {
            let socket = record.socket;
            let (service, choice) = (record.service, record.choice);
            out.push(format!("listener {id} {socket:?} service={service} choice={choice}"));
        }
    }
    for id in ids(capacities.choices) {
        let choice = maps.choice(id)?;
        if choice != 0 {
            choice_lines(maps, id, choice, &mut out)?;
        }
    }
    for id in ids(capacities.bindings) {
        let record = maps.binding(id)?;
        if record.endpoint != 0 {
            out.push(format!(
                "binding {id} {} service={} listener={} endpoint={} {}{}",
                maps.name(Names::Backends, id)?,
                record.service,
                record.listener,
                record.endpoint,
                admin(record.admin),
                if record.retired != 0 { " retired" } else { "" },
            ));
        }
    }
    for id in ids(capacities.endpoints) {
        let record = maps.endpoint(id)?;
        if record.state != endpoint::UNSET {
            out.push(format!("endpoint {id} {}", endpoint_line(&record)));
        }
    }
    for index in Index::ALL {
        let mut entries: Vec<_> = maps.slots(index)?;
        entries.retain(|slot| slot.id != 0);
        entries.sort_unstable_by_key(|slot| slot.socket);
        for slot in entries {
            let socket = match index {
                Index::Listeners
                | Index::Endpoints
                | Index::Hosts
                | Index::Rules
                | Index::Addresses => {
                    format!("{:?}", slot.socket)
                }
                Index::Senders => sender(&slot.socket),
            };
            out.push(format!("{} {socket} = {}", index.map().to_lowercase(), slot.id));
        }
    }
    for (row, label) in [(ports::LISTENERS, "listener"), (ports::ENDPOINTS, "endpoint")] {
        out.push(format!("{label} ports{}", port_list(&*maps.ports(row)?)));
    }
    out.push(String::new());
    Ok(out.join("\n"))
}

/// The parts of a [`lb_common::sip::SentBy::key`].
fn sender(key: &lb_common::addr::Socket) -> String {
    let [host, rest] = key.addr.words();
    format!("{host:016x}:{} to listener {}", key.port.get(), rest as u16)
}

fn ids(entries: u32) -> impl Iterator<Item = u16> {
    1..=u16::try_from(entries.saturating_sub(1)).unwrap_or(u16::MAX)
}

fn choice_lines(maps: &dyn LbMaps, id: u16, choice: u32, out: &mut Vec<String>) -> Result<()> {
    // Each is 16 bits wide in a choice.
    let (table, list) = (choice_table(choice) as u16, choice_members(choice) as u16);
    let slots = maps.table(table)?;
    let owned = table::owners(&slots);
    let set = maps.name(Names::Sets, id)?;
    out.push(format!(
        "choice {id} set=\"{set}\" table={table} list={list} digest={:016x} unowned={}",
        table::digest(&slots),
        owned[usize::from(NO_MEMBER)],
    ));
    let (members, orders) = (maps.members(list)?, maps.orders(list)?);
    for (index, binding) in members.iter().enumerate().filter(|(_, binding)| **binding != 0) {
        let order = orders.get(index).copied().unwrap_or_default();
        let slots = owned.get(index).copied().unwrap_or(0);
        out.push(format!(
            "  {index} binding={binding} priority={} weight={} slots={slots}",
            order.priority, order.weight
        ));
    }
    Ok(())
}

fn endpoint_line(record: &Endpoint) -> String {
    let mut line = format!(
        "{:?} {} primary={} spoof={}{}{}",
        record.socket,
        match record.state {
            endpoint::UP => "up",
            endpoint::DOWN => "down",
            _ => "?",
        },
        record.primary,
        match record.spoof {
            spoof::STRICT => "strict",
            spoof::INTERFACE => "interface",
            spoof::OFF => "off",
            _ => "?",
        },
        if record.shared != 0 { " shared" } else { "" },
        way(&record.next_hop),
    );
    for path in record.ingress.iter().take(usize::from(record.paths)) {
        line.push_str(&format!(" from {}", path.ifindex));
        for vid in path.vids.iter().filter(|vid| **vid != 0) {
            line.push_str(&format!(".{vid}"));
        }
    }
    line
}

fn way(hop: &NextHop) -> String {
    if hop.state != next_hop::VALID {
        return " via fib".to_owned();
    }
    let on_link = if hop.on_link != 0 { " on-link" } else { "" };
    let tags: String = hop
        .tags
        .iter()
        .take(usize::from(hop.vlans))
        .map(|tag| format!(" tag {:02x}{:02x}{:02x}{:02x}", tag[0], tag[1], tag[2], tag[3]))
        .collect();
    let (from, to) = (mac(&hop.src_mac), mac(&hop.dst_mac));
    format!(" via {}{tags} {from} > {to} mtu {}{on_link}", hop.ifindex, hop.mtu)
}

fn mac(mac: &lb_common::addr::Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn prefix(route: &Route) -> String {
    let bytes = route.network.map(u64::to_ne_bytes);
    let mut octets = [0; 16];
    for (to, from) in octets.iter_mut().zip(bytes.as_flattened()) {
        *to = *from;
    }
    let bits: u32 = route.mask.iter().map(|word| word.count_ones()).sum();
    format!("{:?}/{bits}", lb_common::addr::Addr::v6(octets))
}

/// How many slots bear which mark.
fn touched(slots: &table::Table) -> String {
    let mut counts = [0u32; 256];
    for &value in slots {
        if let Some(count) = counts.get_mut(usize::from(value)) {
            *count += 1;
        }
    }
    let mut text = String::new();
    for (value, count) in counts.iter().enumerate().skip(1).filter(|(_, count)| **count > 0) {
        text.push_str(&format!(" touched@{}={count}", value - 1));
    }
    text
}

fn port_list(set: &PortSet) -> String {
    let mut text = String::new();
    for (at, word) in set.iter().enumerate() {
        for bit in (0..64).filter(|bit| word >> bit & 1 != 0) {
            text.push_str(&format!(" {}", at * 64 + bit));
        }
    }
    text
}

/// What is in force, and what the operator said by command if that is another thing.
fn admin(value: u8) -> String {
    let (in_force, by_command) = (Admin::in_force(value), Admin::by_command(value));
    if by_command == in_force {
        in_force.label().to_owned()
    } else {
        format!("{} ({} by command)", in_force.label(), by_command.label())
    }
}
