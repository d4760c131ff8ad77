//! (desired, applied) → ordered writes, make before break.
//!
//! First everything that new choices refer to, then the choices, then what leads to them; at last,
//! in reverse, what is no longer referred to. So a packet never meets a reference to an entry that
//! is not written, and a slot's owner is up for as long as it owns the slot.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use lb_common::{
    addr::Socket,
    backend::{Binding, Endpoint, endpoint},
    maps::{PortSet, ports as row},
    service::{INTERFACE_PROBES, INTERFACES, Interface, Listener, Name},
};

use super::{
    applied::{Applied, parts},
    index,
    op::Op,
    publish::{self, Publishing},
};
use crate::{
    maps::{Index, Names},
    state::desired::DesiredState,
};

/// When a plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic time since any fixed origin.
    pub now: Duration,
    /// Epoch of the datapath's clock, 0…127.
    pub epoch: u32,
}

/// What cannot be done however often it is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    NoFreeTable { capacity: u32 },
    NoFreeList,
    IndexFull { index: Index, socket: Socket },
    TooManyInterfaces { ifindex: u32 },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFreeTable { capacity } => write!(
                f,
                "all {} slot tables are in use, some services keep their last one: raise \
                 limits.tables and restart",
                capacity.saturating_sub(1)
            ),
            Self::NoFreeList => write!(
                f,
                "all member lists are in use, some services keep their last one: raise \
                 limits.services and restart"
            ),
            Self::IndexFull { index: Index::Senders, .. } => write!(
                f,
                "map {} has no room for all aliases: raise limits.bindings and restart",
                Index::Senders.map()
            ),
            Self::IndexFull { index, socket } => write!(
                f,
                "map {} has no room near {}: raise limits.{} and restart",
                index.map(),
                socket.address(),
                match index {
                    Index::Listeners | Index::Rules => "services",
                    Index::Endpoints | Index::Hosts | Index::Addresses => "endpoints",
                    Index::Senders => "bindings",
                }
            ),
            Self::TooManyInterfaces { ifindex } => write!(
                f,
                "interface {ifindex} finds no free row: at most {INTERFACE_PROBES} interfaces may \
                 have indices that are equal modulo {INTERFACES}"
            ),
        }
    }
}

/// Writes that bring the maps to the desired state, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub ops: Vec<Op>,
    /// Something waits for a freed entry to rest; plan again then.
    pub retry_at: Option<Duration>,
    pub problems: Vec<Problem>,
}

impl Plan {
    /// True if the maps are as desired.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.ops.is_empty() && self.retry_at.is_none() && self.problems.is_empty()
    }
}

/// Plans. Planning again after all of it was applied yields no writes.
#[must_use]
pub fn plan(desired: &DesiredState, applied: &Applied, at: Moment) -> Plan {
    let publishing = publish::plan(desired, applied, at);
    let blocked = Blocked::new(desired, applied, &publishing);
    let mut listener_index = desired.listener_index.clone();
    listener_index.retain(|_, id| !blocked.listeners.contains(id));
    let listeners = index::plan(Index::Listeners, &listener_index, applied, at.now);
    let endpoints = index::plan(Index::Endpoints, &desired.endpoint_index, applied, at.now);
    let hosts = index::plan(Index::Hosts, &desired.host_index, applied, at.now);
    let mut rule_index = desired.rule_index.clone();
    rule_index.retain(|_, choice| !blocked.rules.contains(choice));
    let rules = index::plan(Index::Rules, &rule_index, applied, at.now);
    let addresses = index::plan(Index::Addresses, &desired.address_index, applied, at.now);
    let senders = index::plan(Index::Senders, &desired.sender_index, applied, at.now);
    let (new_interfaces, old_interfaces, crowded) = interfaces(desired, applied);

    let mut plan = Plan {
        ops: Vec::new(),
        retry_at: [
            publishing.retry_at,
            listeners.retry_at,
            endpoints.retry_at,
            hosts.retry_at,
            rules.retry_at,
            addresses.retry_at,
            senders.retry_at,
        ]
        .into_iter()
        .flatten()
        .min(),
        problems: publishing.problems,
    };
    for found in [
        listeners.problems,
        endpoints.problems,
        hosts.problems,
        rules.problems,
        addresses.problems,
        senders.problems,
        crowded,
    ] {
        plan.problems.extend(found);
    }

    let ops = &mut plan.ops;
    // Make.
    routes_and_settings(ops, desired, applied);
    ops.extend(hosts.adds);
    ops.extend(addresses.adds);
    names(ops, Names::Services, &desired.service_names, applied);
    names(ops, Names::Sets, &desired.set_names, applied);
    names(ops, Names::Backends, &desired.backend_names, applied);
    ops.extend(changed_endpoints(desired, applied, |old, _| old.is_none()));
    ops.extend(changed_bindings(desired, applied, |old, new| !worsens_binding(old, new)));
    ops.extend(changed_endpoints(desired, applied, |old, new| {
        old.is_some() && !worsens_endpoint(old, new)
    }));
    // Answers of a new backend are recognised before its first request leaves.
    ops.extend(endpoints.adds);
    // So are answers to what it sends of its own accord.
    ops.extend(senders.adds);
    ports(ops, desired, applied, row::ENDPOINTS, Ports::Both);
    ops.extend(publishing.lists);
    ops.extend(publishing.tables);
    ops.extend(publishing.touches);
    ops.extend(publishing.choices);
    ops.extend(rules.adds);
    for (&id, record) in &desired.listeners {
        let live = record.choice != 0 && !blocked.listeners.contains(&id);
        if live && applied.listeners.get(&id) != Some(record) {
            ops.push(Op::Listener { id, record: *record });
        }
    }
    ops.extend(listeners.adds);
    ports(ops, desired, applied, row::LISTENERS, Ports::Both);
    ops.extend(new_interfaces);

    // Break.
    ops.extend(old_interfaces);
    ports(ops, desired, applied, row::LISTENERS, Ports::Desired);
    ops.extend(listeners.removals);
    for (&id, record) in &desired.listeners {
        if record.choice == 0 && applied.listeners.get(&id) != Some(record) {
            ops.push(Op::Listener { id, record: *record });
        }
    }
    ops.extend(rules.removals);
    for &id in applied.choices.keys().filter(|id| !desired.choices.contains_key(id)) {
        ops.push(Op::Choice { id, choice: 0 });
    }
    ops.extend(changed_endpoints(desired, applied, worsens_endpoint).filter(
        |op| !matches!(op, Op::Endpoint { id, .. } if blocked.waiting_endpoints.contains(id)),
    ));
    ops.extend(changed_bindings(desired, applied, worsens_binding).filter(
        |op| !matches!(op, Op::Binding { id, .. } if blocked.waiting_bindings.contains(id)),
    ));
    ports(ops, desired, applied, row::ENDPOINTS, Ports::Desired);
    ops.extend(endpoints.removals);
    ops.extend(senders.removals);
    ops.extend(hosts.removals);
    ops.extend(addresses.removals);
    for &id in applied.bindings.keys().filter(|id| !desired.bindings.contains_key(id)) {
        if !blocked.bindings.contains(&id) {
            ops.push(Op::Binding { id, record: Binding::default() });
        }
    }
    for &id in applied.endpoints.keys().filter(|id| !desired.endpoints.contains_key(id)) {
        if !blocked.endpoints.contains(&id) {
            ops.push(Op::Endpoint { id, record: Box::default() });
        }
    }
    for &id in applied.listeners.keys().filter(|id| !desired.listeners.contains_key(id)) {
        ops.push(Op::Listener { id, record: Listener::default() });
    }
    old_names(ops, Names::Backends, &desired.backend_names, applied);
    old_names(ops, Names::Sets, &desired.set_names, applied);
    old_names(ops, Names::Services, &desired.service_names, applied);
    for &row in applied.routes.keys().filter(|&&row| row as usize >= desired.routes.len()) {
        ops.push(Op::Route { row, route: Box::default() });
    }
    plan
}

/// What must wait because a choice could not be published.
#[derive(Default)]
struct Blocked {
    /// Listeners whose first choice is missing: not reachable yet.
    listeners: BTreeSet<u16>,
    /// Choices of rules that were never published: the service's own set serves until then.
    rules: BTreeSet<u16>,
    /// Published by a choice that keeps its old table: their records stay.
    bindings: BTreeSet<u16>,
    endpoints: BTreeSet<u16>,
    /// Those of them that will leave the table within [`super::applied::REST`]: until then their
    /// records say that they may have slots. If the table never comes they must not say so.
    waiting_bindings: BTreeSet<u16>,
    waiting_endpoints: BTreeSet<u16>,
}

impl Blocked {
    fn new(desired: &DesiredState, applied: &Applied, publishing: &Publishing) -> Self {
        let mut blocked = Self::default();
        for id in &publishing.stuck {
            let (_, list) = parts(applied.choices.get(id).copied().unwrap_or(0));
            if let Some(members) = applied.members.get(&list).filter(|_| list != 0) {
                blocked.bindings.extend(members.iter().filter(|&&binding| binding != 0));
            } else if let Some(choice) = desired.choices.get(id) {
                if choice.set.as_bytes().is_empty() {
                    blocked.listeners.insert(choice.listener);
                } else {
                    blocked.rules.insert(*id);
                }
            }
        }
        blocked.endpoints = blocked
            .bindings
            .iter()
            .filter_map(|id| applied.bindings.get(id))
            .map(|binding| binding.endpoint)
            .collect();
        if publishing.retry_at.is_some() {
            blocked.waiting_bindings.clone_from(&blocked.bindings);
            blocked.waiting_endpoints.clone_from(&blocked.endpoints);
        }
        blocked
    }
}

fn worsens_endpoint(old: Option<&Endpoint>, new: &Endpoint) -> bool {
    old.is_some_and(|old| old.state == endpoint::UP) && new.state != endpoint::UP
}

fn worsens_binding(old: Option<&Binding>, new: &Binding) -> bool {
    let eligible = |binding: &Binding| binding.is_ready() && binding.retired == 0;
    old.is_some_and(eligible) && !eligible(new)
}

fn changed_endpoints(
    desired: &DesiredState,
    applied: &Applied,
    when: impl Fn(Option<&Endpoint>, &Endpoint) -> bool,
) -> impl Iterator<Item = Op> {
    desired.endpoints.iter().filter_map(move |(&id, record)| {
        let old = applied.endpoints.get(&id);
        (old != Some(record) && when(old, record))
            .then(|| Op::Endpoint { id, record: Box::new(*record) })
    })
}

fn changed_bindings(
    desired: &DesiredState,
    applied: &Applied,
    when: impl Fn(Option<&Binding>, &Binding) -> bool,
) -> impl Iterator<Item = Op> {
    desired.bindings.iter().filter_map(move |(&id, record)| {
        let old = applied.bindings.get(&id);
        (old != Some(record) && when(old, record)).then_some(Op::Binding { id, record: *record })
    })
}

fn names(ops: &mut Vec<Op>, names: Names, desired: &BTreeMap<u16, Name>, applied: &Applied) {
    for (&id, name) in desired {
        if applied.names(names).get(&id).copied().unwrap_or_default() != *name {
            ops.push(Op::Name { names, id, name: *name });
        }
    }
}

fn old_names(ops: &mut Vec<Op>, names: Names, desired: &BTreeMap<u16, Name>, applied: &Applied) {
    for &id in applied.names(names).keys().filter(|id| !desired.contains_key(id)) {
        ops.push(Op::Name { names, id, name: Name::default() });
    }
}

fn routes_and_settings(ops: &mut Vec<Op>, desired: &DesiredState, applied: &Applied) {
    for (row, route) in (0..).zip(&desired.routes) {
        if applied.routes.get(&row).copied().unwrap_or_default() != *route {
            ops.push(Op::Route { row, route: Box::new(*route) });
        }
    }
    if applied.settings != desired.settings {
        ops.push(Op::Settings(Box::new(desired.settings)));
    }
}

/// What a port set should hold at this point of the plan.
enum Ports {
    /// Old and new ports: a port too many only costs a look-up.
    Both,
    Desired,
}

fn ports(ops: &mut Vec<Op>, desired: &DesiredState, applied: &Applied, row: u32, content: Ports) {
    let at = row as usize;
    let (Some(have), Some(want)) = (applied.ports.get(at), desired.ports.get(at)) else { return };
    let both = union(have, want);
    let (before, ports) = match content {
        Ports::Both => (have, both),
        Ports::Desired => (&both, want.clone()),
    };
    if *before != ports {
        ops.push(Op::Ports { row, ports });
    }
}

fn union(a: &PortSet, b: &PortSet) -> Box<PortSet> {
    let mut ports = Box::new(*a);
    for (word, other) in ports.iter_mut().zip(b) {
        *word |= other;
    }
    ports
}

/// New and changed rows, rows to clear, and interfaces without room.
fn interfaces(desired: &DesiredState, applied: &Applied) -> (Vec<Op>, Vec<Op>, Vec<Problem>) {
    let (mut new, mut old, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    let rows = |ifindex: u32| (0..INTERFACE_PROBES).map(move |i| (ifindex + i) % INTERFACES);
    let mut kept = BTreeSet::new();
    let mut homeless = Vec::new();
    for (&ifindex, interface) in &desired.interfaces {
        let row = rows(ifindex)
            .find(|row| applied.interfaces.get(row).is_some_and(|i| i.ifindex == ifindex));
        let Some(row) = row else {
            homeless.push((ifindex, *interface));
            continue;
        };
        kept.insert(row);
        if applied.interfaces.get(&row) != Some(interface) {
            new.push(Op::Interface { row, interface: *interface });
        }
    }
    for (ifindex, interface) in homeless {
        // Rows of interfaces that are gone may be taken over at once, if no other is free.
        let free = |row: &u32| !kept.contains(row);
        let empty = rows(ifindex).find(|row| free(row) && !applied.interfaces.contains_key(row));
        match empty.or_else(|| rows(ifindex).find(free)) {
            Some(row) => {
                kept.insert(row);
                new.push(Op::Interface { row, interface });
            }
            None => problems.push(Problem::TooManyInterfaces { ifindex }),
        }
    }
    for &row in applied.interfaces.keys().filter(|row| !kept.contains(row)) {
        old.push(Op::Interface { row, interface: Interface::default() });
    }
    (new, old, problems)
}
