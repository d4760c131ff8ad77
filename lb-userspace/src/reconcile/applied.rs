//! What the maps hold, as far as the controller wrote or read it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lb_common::{
    addr::Socket,
    backend::{Binding, Endpoint, Route},
    index::Slot,
    maps::{Capacities, PortSet, Settings},
    service::{Interface, Listener, Name},
    table::{Choice, Members, choice_members, choice_table},
};

use super::op::Op;
use crate::{
    maps::{Index, Names, Orders},
    state::{ids::Occupied, table::SlotTable},
};

/// How long a freed table, member list or index slot rests before it is written again: longer than
/// any packet is under way in the program.
pub const REST: Duration = Duration::from_millis(100);

/// The content of the maps; entries that hold zeros are not listed. Of tables and member lists only
/// those are known that were written or are published.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    pub capacities: Capacities,
    pub settings: Settings,
    pub routes: BTreeMap<u32, Route>,
    pub interfaces: BTreeMap<u32, Interface>,
    pub service_names: BTreeMap<u16, Name>,
    pub set_names: BTreeMap<u16, Name>,
    pub backend_names: BTreeMap<u16, Name>,
    pub listeners: BTreeMap<u16, Listener>,
    pub endpoints: BTreeMap<u16, Endpoint>,
    pub bindings: BTreeMap<u16, Binding>,
    pub members: BTreeMap<u16, Members>,
    pub orders: BTreeMap<u16, Orders>,
    pub tables: BTreeMap<u16, Arc<SlotTable>>,
    pub choices: BTreeMap<u16, Choice>,
    /// Rows of each index; those with id 0 still bear a socket.
    pub slots: BTreeMap<(Index, u32), Slot>,
    pub ports: [Box<PortSet>; 2],
    /// When tables, member lists and index slots were freed that may still be read.
    pub freed_tables: BTreeMap<u16, Duration>,
    pub freed_lists: BTreeMap<u16, Duration>,
    pub freed_slots: BTreeMap<(Index, u32), Duration>,
}

impl Applied {
    /// Maps that were never written.
    #[must_use]
    pub fn new(capacities: Capacities) -> Self {
        Self {
            capacities,
            settings: Settings::default(),
            routes: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            service_names: BTreeMap::new(),
            set_names: BTreeMap::new(),
            backend_names: BTreeMap::new(),
            listeners: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            bindings: BTreeMap::new(),
            members: BTreeMap::new(),
            orders: BTreeMap::new(),
            tables: BTreeMap::new(),
            choices: BTreeMap::new(),
            slots: BTreeMap::new(),
            ports: [Box::new([0; 1024]), Box::new([0; 1024])],
            freed_tables: BTreeMap::new(),
            freed_lists: BTreeMap::new(),
            freed_slots: BTreeMap::new(),
        }
    }

    /// Takes note of a write that succeeded at `now`.
    pub fn record(&mut self, op: &Op, now: Duration) {
        match op {
            Op::Name { names, id, name } => set(self.names_mut(*names), *id, *name),
            Op::Listener { id, record } => set(&mut self.listeners, *id, *record),
            Op::Endpoint { id, record } => set(&mut self.endpoints, *id, **record),
            Op::Binding { id, record } => set(&mut self.bindings, *id, *record),
            Op::Orders { id, list } => {
                self.orders.insert(*id, list.orders);
            }
            Op::Members { id, list } => {
                self.members.insert(*id, list.members);
                self.freed_lists.remove(id);
            }
            Op::Table { id, table } => {
                self.tables.insert(*id, Arc::clone(table));
                self.freed_tables.remove(id);
            }
            Op::Touch { .. } => {}
            Op::Choice { id, choice } => self.publish(*id, *choice, now),
            Op::Slot { index, row, slot } => {
                let key = (*index, *row);
                let before = self.slots.insert(key, *slot);
                if slot.id != 0 {
                    self.freed_slots.remove(&key);
                } else if before.is_some_and(|before| before.id != 0) {
                    self.freed_slots.insert(key, now);
                }
            }
            Op::Ports { row, ports } => {
                if let Some(set) = self.ports.get_mut(*row as usize) {
                    set.clone_from(ports);
                }
            }
            Op::Interface { row, interface } => set(&mut self.interfaces, *row, *interface),
            Op::Route { row, route } => set(&mut self.routes, *row, **route),
            Op::Settings(settings) => self.settings = **settings,
        }
    }

    fn publish(&mut self, id: u16, choice: Choice, now: Duration) {
        let old = self.choices.get(&id).copied().unwrap_or(0);
        set(&mut self.choices, id, choice);
        let (old_table, old_list) = parts(old);
        if old_table != 0 && !self.choices.values().any(|&c| parts(c).0 == old_table) {
            self.freed_tables.insert(old_table, now);
        }
        if old_list != 0 && !self.choices.values().any(|&c| parts(c).1 == old_list) {
            self.freed_lists.insert(old_list, now);
        }
        let (table, list) = parts(choice);
        self.freed_tables.remove(&table);
        self.freed_lists.remove(&list);
    }

    /// Ids of tables and of member lists that a choice publishes.
    #[must_use]
    pub fn published(&self) -> (BTreeSet<u16>, BTreeSet<u16>) {
        self.choices.values().map(|&choice| parts(choice)).unzip()
    }

    /// Endpoints that own slots of the table that a choice publishes.
    #[must_use]
    pub fn owners(&self, choice: u16) -> BTreeSet<Socket> {
        let (table, list) = parts(self.choices.get(&choice).copied().unwrap_or(0));
        let (Some(table), Some(members)) = (self.tables.get(&table), self.members.get(&list))
        else {
            return BTreeSet::new();
        };
        table
            .owners()
            .filter_map(|member| {
                let binding = self.bindings.get(members.get(usize::from(member))?)?;
                Some(self.endpoints.get(&binding.endpoint)?.socket)
            })
            .collect()
    }

    /// Bindings that a published member list names.
    #[must_use]
    pub fn listed_bindings(&self) -> BTreeSet<u16> {
        let (_, lists) = self.published();
        lists
            .iter()
            .filter_map(|list| self.members.get(list))
            .flatten()
            .copied()
            .filter(|&binding| binding != 0)
            .collect()
    }

    /// Endpoints that are known as sources of packets.
    #[must_use]
    pub fn indexed_endpoints(&self) -> BTreeSet<u16> {
        self.slots_of(Index::Endpoints).map(|slot| slot.id).filter(|&id| id != 0).collect()
    }

    /// The slots of an index.
    pub fn slots_of(&self, index: Index) -> impl Iterator<Item = &Slot> {
        self.slots.range((index, 0)..=(index, u32::MAX)).map(|(_, slot)| slot)
    }

    #[must_use]
    pub fn names(&self, names: Names) -> &BTreeMap<u16, Name> {
        match names {
            Names::Services => &self.service_names,
            Names::Sets => &self.set_names,
            Names::Backends => &self.backend_names,
        }
    }

    fn names_mut(&mut self, names: Names) -> &mut BTreeMap<u16, Name> {
        match names {
            Names::Services => &mut self.service_names,
            Names::Sets => &mut self.set_names,
            Names::Backends => &mut self.backend_names,
        }
    }

    /// Ids whose records are set.
    #[must_use]
    pub fn occupied(&self) -> Occupied {
        Occupied {
            services: self.service_names.keys().copied().collect(),
            listeners: self.listeners.keys().copied().collect(),
            endpoints: self.endpoints.keys().copied().collect(),
            bindings: self.bindings.keys().copied().collect(),
            choices: self.choices.keys().copied().collect(),
        }
    }
}

/// Table and member list of a choice; 0 = none.
#[must_use]
pub fn parts(choice: Choice) -> (u16, u16) {
    // Each is 16 bits wide in a choice.
    (choice_table(choice) as u16, choice_members(choice) as u16)
}

/// An entry that holds its default is not listed.
fn set<K: Ord, V: Default + PartialEq>(entries: &mut BTreeMap<K, V>, key: K, value: V) {
    if value == V::default() {
        entries.remove(&key);
    } else {
        entries.insert(key, value);
    }
}
