//! What a controller finds in maps that another one left, and whether they still hold what was
//! written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use lb_common::{
    addr::Socket,
    backend::{ROUTES, endpoint},
    maps::name,
    service::INTERFACES,
};

use super::applied::{Applied, parts};
use crate::{
    maps::{Index, LbMaps, Names, Result},
    state::{
        Admin, AdminStates, Health,
        ids::{BindingInfo, BindingKey, ChoiceKey, Ids, ListenerKey},
        table::SlotTable,
    },
};

/// What the maps say, in the terms of a controller that starts.
#[derive(Debug)]
pub struct Adopted {
    pub ids: Ids,
    /// What the operator said by command.
    pub admin: AdminStates,
    /// By endpoint: how the last controller judged it. An endpoint that it did not know yet counts
    /// as down.
    pub health: BTreeMap<Socket, Health>,
    /// Endpoints that got no new dialogs though they were up and ready: they had answered 503.
    pub busy: BTreeSet<Socket>,
    pub applied: Applied,
}

impl Adopted {
    /// True if the maps were never used.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.applied.listeners.is_empty() && self.applied.choices.is_empty()
    }
}

/// Reads the maps at `now`.
///
/// # Errors
/// The first read that failed.
pub fn adopt(maps: &dyn LbMaps, now: Duration) -> Result<Adopted> {
    let mut applied = snapshot(maps)?;
    rest_unreferenced(&mut applied, now);
    let ids = identify(&applied);
    let mut adopted = Adopted {
        admin: BTreeMap::new(),
        health: BTreeMap::new(),
        busy: BTreeSet::new(),
        applied,
        ids,
    };
    let applied = &adopted.applied;
    // Retired bindings first: those that are in use overrule them.
    let mut views: Vec<_> = adopted.ids.views().collect();
    views.sort_by_key(|view| !view.retired);
    for view in views {
        let Some(binding) = applied.bindings.get(&view.id) else { continue };
        let key = (view.service.to_owned(), view.backend.to_owned());
        match Admin::by_command(binding.admin) {
            Admin::Ready => adopted.admin.remove(&key),
            admin @ (Admin::Drain | Admin::Maint) => adopted.admin.insert(key, admin),
        };
    }
    for (id, socket) in adopted.ids.endpoints.keys() {
        let state = applied.endpoints.get(&id).map(|record| record.state);
        let health = if state == Some(endpoint::UP) { Health::Up } else { Health::Down };
        adopted.health.insert(*socket, health);
    }
    adopted.busy = busy(applied);
    Ok(adopted)
}

/// Members that should own slots by all that the maps say, and do not.
fn busy(applied: &Applied) -> BTreeSet<Socket> {
    let mut busy = BTreeSet::new();
    for &choice in applied.choices.values() {
        let (table, list) = parts(choice);
        let (Some(table), Some(members), Some(orders)) =
            (applied.tables.get(&table), applied.members.get(&list), applied.orders.get(&list))
        else {
            continue;
        };
        let order = |member: u8| orders.get(usize::from(member)).copied().unwrap_or_default();
        let active = table.owners().map(|member| order(member).priority).min();
        let has_weight = table.owners().any(|member| order(member).weight > 0);
        for (member, binding) in (0..u8::MAX).zip(members).filter(|(_, binding)| **binding != 0) {
            let order = order(member);
            let standby = Some(order.priority) == active && order.weight == 0 && has_weight;
            if table.owned(member) > 0 || active.is_some_and(|a| order.priority > a) || standby {
                continue;
            }
            let Some(binding) = applied.bindings.get(binding) else { continue };
            let Some(endpoint) = applied.endpoints.get(&binding.endpoint) else { continue };
            let is_ready = binding.is_ready() && binding.retired == 0;
            if is_ready && endpoint.state == endpoint::UP {
                busy.insert(endpoint.socket);
            }
        }
    }
    busy
}

/// Reads everything but tables and member lists that nothing publishes.
fn snapshot(maps: &dyn LbMaps) -> Result<Applied> {
    let capacities = maps.capacities();
    let mut applied = Applied::new(capacities);
    applied.settings = maps.settings()?;
    applied.routes = rows(ROUTES, |row| maps.route(row))?;
    applied.interfaces = rows(INTERFACES, |row| maps.interface(row))?;
    applied.listeners = records(capacities.listeners, |id| maps.listener(id))?;
    applied.endpoints = records(capacities.endpoints, |id| maps.endpoint(id))?;
    applied.bindings = records(capacities.bindings, |id| maps.binding(id))?;
    applied.choices = records(capacities.choices, |id| maps.choice(id))?;
    applied.service_names = records(capacities.services, |id| maps.name(Names::Services, id))?;
    applied.set_names = records(capacities.choices, |id| maps.name(Names::Sets, id))?;
    applied.backend_names = records(capacities.bindings, |id| maps.name(Names::Backends, id))?;
    let (tables, lists) = applied.published();
    for id in tables.into_iter().filter(|&id| id != 0) {
        applied.tables.insert(id, Arc::new(SlotTable::new(maps.table(id)?)));
    }
    for id in lists.into_iter().filter(|&id| id != 0) {
        applied.members.insert(id, maps.members(id)?);
        applied.orders.insert(id, maps.orders(id)?);
    }
    for index in Index::ALL {
        for (row, slot) in (0..).zip(maps.slots(index)?) {
            if slot != lb_common::index::Slot::default() {
                applied.slots.insert((index, row), slot);
            }
        }
    }
    for (row, ports) in (0..).zip(&mut applied.ports) {
        *ports = maps.ports(row)?;
    }
    Ok(applied)
}

fn records<T: Default + PartialEq>(
    entries: u32,
    read: impl Fn(u16) -> Result<T>,
) -> Result<BTreeMap<u16, T>> {
    let last = u16::try_from(entries.saturating_sub(1)).unwrap_or(u16::MAX);
    let mut found = BTreeMap::new();
    for id in 1..=last {
        let record = read(id)?;
        if record != T::default() {
            found.insert(id, record);
        }
    }
    Ok(found)
}

fn rows<T: Default + PartialEq>(
    entries: u32,
    read: impl Fn(u32) -> Result<T>,
) -> Result<BTreeMap<u32, T>> {
    let mut found = BTreeMap::new();
    for row in 0..entries {
        let record = read(row)?;
        if record != T::default() {
            found.insert(row, record);
        }
    }
    Ok(found)
}

/// Whatever is not referenced may have been until a moment ago; maps that publish nothing have no
/// readers.
fn rest_unreferenced(applied: &mut Applied, now: Duration) {
    if applied.choices.is_empty() {
        return;
    }
    let (tables, lists) = applied.published();
    let all = |entries: u32| 1..=u16::try_from(entries.saturating_sub(1)).unwrap_or(u16::MAX);
    let unused = |entries: u32, used: BTreeSet<u16>| {
        all(entries).filter(|id| !used.contains(id)).map(|id| (id, now)).collect()
    };
    applied.freed_tables = unused(applied.capacities.tables, tables);
    applied.freed_lists = unused(applied.capacities.member_lists, lists);
    applied.freed_slots =
        applied.slots.iter().filter(|(_, slot)| slot.id == 0).map(|(key, _)| (*key, now)).collect();
}

/// Ids by what the records say of themselves. Records that contradict each other get none, and the
/// next plan clears them.
fn identify(applied: &Applied) -> Ids {
    let mut ids = Ids::new(&applied.capacities);
    let text = |name: &lb_common::service::Name| name.to_string();
    let used: BTreeSet<u16> = applied.listeners.values().map(|l| l.service).collect();
    for (&id, name) in applied.service_names.iter().filter(|(id, _)| used.contains(id)) {
        ids.services.adopt(id, text(name));
    }
    for (&id, listener) in &applied.listeners {
        if ids.services.key(listener.service).is_none() {
            continue;
        }
        let key = ListenerKey { service: listener.service, socket: listener.socket };
        if ids.listeners.adopt(id, key) && applied.choices.contains_key(&listener.choice) {
            let set = applied.set_names.get(&listener.choice).map(text).unwrap_or_default();
            ids.choices.adopt(listener.choice, ChoiceKey { listener: id, set });
        }
    }
    for slot in applied.slots_of(Index::Rules).filter(|slot| slot.id != 0) {
        // The key says whose rule it is; several rules may lead to one set.
        let listener = slot.socket.port.get();
        if ids.listeners.key(listener).is_some() && applied.choices.contains_key(&slot.id) {
            let set = applied.set_names.get(&slot.id).map(text).unwrap_or_default();
            ids.choices.adopt(slot.id, ChoiceKey { listener, set });
        }
    }
    let bound: BTreeSet<u16> = applied.bindings.values().map(|b| b.endpoint).collect();
    for (&id, record) in applied.endpoints.iter().filter(|(id, _)| bound.contains(id)) {
        if ids.endpoints.adopt(id, record.socket) {
            ids.spoof.insert(id, record.spoof);
        }
    }
    let indexed = applied.indexed_endpoints();
    for (&id, binding) in &applied.bindings {
        let known =
            ids.listeners.key(binding.listener).is_some_and(|l| l.service == binding.service)
                && ids.endpoints.key(binding.endpoint).is_some();
        let key = BindingKey { listener: binding.listener, endpoint: binding.endpoint };
        if known && ids.bindings.adopt(id, key) {
            let backend = applied.backend_names.get(&id).map(text).unwrap_or_default();
            let retired = binding.retired != 0;
            let leaving = retired && !indexed.contains(&binding.endpoint);
            ids.info.insert(id, BindingInfo { backend, retired, leaving });
        }
    }
    ids
}

/// An entry that does not hold what was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    pub map: &'static str,
    pub id: u32,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of map {} was changed by someone else", self.id, self.map)
    }
}

/// Compares the maps with `applied` and makes `applied` what the maps really hold, so that the next
/// plan repairs them.
///
/// # Errors
/// The first read that failed; `applied` is as before then.
pub fn verify(maps: &dyn LbMaps, applied: &mut Applied) -> Result<Vec<Difference>> {
    let mut real = snapshot(maps)?;
    let mut found = Vec::new();
    compare(&mut found, name::SERVICE_NAMES, &applied.service_names, &real.service_names);
    compare(&mut found, name::SET_NAMES, &applied.set_names, &real.set_names);
    compare(&mut found, name::BACKEND_NAMES, &applied.backend_names, &real.backend_names);
    compare(&mut found, name::LISTENERS, &applied.listeners, &real.listeners);
    compare(&mut found, name::ENDPOINTS, &applied.endpoints, &real.endpoints);
    compare(&mut found, name::BINDINGS, &applied.bindings, &real.bindings);
    compare(&mut found, name::CHOICES, &applied.choices, &real.choices);
    compare(&mut found, name::ROUTES, &applied.routes, &real.routes);
    compare(&mut found, name::INTERFACES, &applied.interfaces, &real.interfaces);
    for index in Index::ALL {
        let of = |slots: &BTreeMap<(Index, u32), lb_common::index::Slot>| {
            let range = (index, 0)..=(index, u32::MAX);
            slots.range(range).map(|((_, row), slot)| (*row, *slot)).collect::<BTreeMap<_, _>>()
        };
        compare(&mut found, index.map(), &of(&applied.slots), &of(&real.slots));
    }
    for (row, (expected, ports)) in (0..).zip(applied.ports.iter().zip(&real.ports)) {
        if expected != ports {
            found.push(Difference { map: name::PORTS, id: row });
        }
    }
    if applied.settings != real.settings {
        found.push(Difference { map: name::SETTINGS, id: 0 });
    }
    // Only what is published was read.
    let published = |found: &mut Vec<Difference>, map, id: u16, equal: bool| {
        if !equal {
            found.push(Difference { map, id: id.into() });
        }
    };
    for (&id, table) in &real.tables {
        published(&mut found, name::TABLES, id, applied.tables.get(&id) == Some(table));
    }
    for (&id, members) in &real.members {
        published(&mut found, name::MEMBERS, id, applied.members.get(&id) == Some(members));
    }
    for (&id, orders) in &real.orders {
        published(&mut found, name::MEMBER_ORDERS, id, applied.orders.get(&id) == Some(orders));
    }
    real.freed_tables = std::mem::take(&mut applied.freed_tables);
    real.freed_lists = std::mem::take(&mut applied.freed_lists);
    real.freed_slots = std::mem::take(&mut applied.freed_slots);
    *applied = real;
    Ok(found)
}

fn compare<K: Ord + Copy + Into<u32>, V: PartialEq>(
    found: &mut Vec<Difference>,
    map: &'static str,
    expected: &BTreeMap<K, V>,
    real: &BTreeMap<K, V>,
) {
    let ids: BTreeSet<K> = expected.keys().chain(real.keys()).copied().collect();
    for id in ids.into_iter().filter(|id| expected.get(id) != real.get(id)) {
        found.push(Difference { map, id: id.into() });
    }
}
