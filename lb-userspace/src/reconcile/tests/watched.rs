//! Maps that panic as soon as a packet could meet something unfinished.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use lb_common::{
    backend::{Binding, Endpoint, Route, endpoint},
    index::Slot,
    maps::{Capacities, PortSet, Settings, ports},
    service::{Interface, Listener, Name},
    table::{Choice, Members, NO_MEMBER, Table, owners},
};

use crate::{
    maps::{Index, LbMaps, Names, Orders, Result, memory::MemoryMaps},
    reconcile::applied::parts,
};

/// Time and epoch as the test sets them.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    now: Rc<Cell<Duration>>,
    epoch: Rc<Cell<u32>>,
}

impl Clock {
    pub(super) fn now(&self) -> Duration {
        self.now.get()
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch.get()
    }

    pub(super) fn set(&self, now: Duration) {
        assert!(now >= self.now.get());
        self.now.set(now);
    }

    pub(super) fn set_epoch(&self, epoch: u32) {
        self.epoch.set(epoch);
    }
}

#[derive(Debug)]
pub(super) struct Watched {
    pub(super) maps: MemoryMaps,
    clock: Clock,
    /// Owners of each written table.
    owners: BTreeMap<u16, BTreeSet<u8>>,
    lists: BTreeSet<u16>,
    /// When tables and lists were last published, slots last bore an id.
    tables_left: BTreeMap<u16, Duration>,
    lists_left: BTreeMap<u16, Duration>,
    slots_left: BTreeMap<(Index, u32), Duration>,
    /// `MAP[id]` of each write.
    log: RefCell<Vec<String>>,
    /// Owners of slots must be up and ready.
    pub(super) owners_are_up: bool,
}

const REST: Duration = Duration::from_millis(100);

impl Watched {
    pub(super) fn new(maps: MemoryMaps, clock: Clock) -> Self {
        Self {
            maps,
            clock,
            owners: BTreeMap::new(),
            lists: BTreeSet::new(),
            tables_left: BTreeMap::new(),
            lists_left: BTreeMap::new(),
            slots_left: BTreeMap::new(),
            log: RefCell::new(Vec::new()),
            owners_are_up: true,
        }
    }

    /// The writes since the last call.
    pub(super) fn take_log(&self) -> Vec<String> {
        self.log.take()
    }

    fn choices(&self) -> Vec<(u16, Choice)> {
        (1..self.maps.capacities().choices as u16)
            .map(|id| (id, self.maps.choice(id).unwrap()))
            .filter(|(_, choice)| *choice != 0)
            .collect()
    }

    /// A table or list may be written if nothing publishes it and nobody still reads it.
    fn may_write(
        &self,
        id: u16,
        left: &BTreeMap<u16, Duration>,
        published: impl Fn(Choice) -> u16,
    ) {
        for (choice, value) in self.choices() {
            assert_ne!(published(value), id, "choice {choice} publishes what is being written");
        }
        if let Some(&at) = left.get(&id) {
            assert!(self.clock.now() >= at + REST, "{id} was freed a moment ago");
        }
    }

    fn check(&self) {
        let capacities = self.maps.capacities();
        let endpoints = self.index(Index::Endpoints);
        for (id, choice) in self.choices() {
            let (table, list) = parts(choice);
            let owners =
                self.owners.get(&table).unwrap_or_else(|| panic!("choice {id}: table {table}"));
            assert!(self.lists.contains(&list), "choice {id}: list {list}");
            let members = self.maps.members(list).unwrap();
            for &member in owners {
                let binding = members[usize::from(member)];
                assert_ne!(binding, 0, "choice {id}: member {member} has no binding");
                let record = self.maps.binding(binding).unwrap();
                assert_ne!(record.endpoint, 0, "choice {id}: binding {binding} is unset");
                let backend = self.maps.name(Names::Backends, binding).unwrap();
                assert!(!backend.as_bytes().is_empty(), "binding {binding} has no name");
                let owner = self.maps.endpoint(record.endpoint).unwrap();
                assert_ne!(owner.state, endpoint::UNSET, "endpoint {} is unset", record.endpoint);
                let known = endpoints.get(&owner.socket) == Some(&record.endpoint);
                assert!(known, "endpoint {} gets calls and is not known", record.endpoint);
                let ports = self.maps.ports(ports::ENDPOINTS).unwrap();
                assert!(has_port(&ports, owner.socket.port.get()));
                if self.owners_are_up {
                    assert_eq!(
                        owner.state,
                        endpoint::UP,
                        "endpoint {} owns slots",
                        record.endpoint
                    );
                    assert!(record.is_ready(), "binding {binding} owns slots");
                    assert_eq!(record.retired, 0, "binding {binding} owns slots");
                }
            }
        }
        for (socket, id) in self.index(Index::Listeners) {
            assert!(u32::from(id) < capacities.listeners);
            let record = self.maps.listener(id).unwrap();
            assert_eq!(record.socket, socket, "listener {id}");
            assert_ne!(self.maps.choice(record.choice).unwrap(), 0, "listener {id} has no choice");
            let service = self.maps.name(Names::Services, record.service).unwrap();
            assert!(!service.as_bytes().is_empty(), "service {} has no name", record.service);
            assert_ne!(self.maps.settings().unwrap().key.k0, 0, "the hash key is not set");
        }
        for (sender, binding) in self.index(Index::Senders) {
            let record = self.maps.binding(binding).unwrap();
            assert_ne!(record.endpoint, 0, "a Via leads to binding {binding}, which is unset");
            let listener = sender.addr.words()[1] as u16;
            assert_eq!(record.listener, listener, "a Via leads to another listener");
        }
        for (socket, id) in endpoints {
            let record = self.maps.endpoint(id).unwrap();
            assert_eq!(record.socket, socket, "endpoint {id}");
            let primary = self.maps.binding(record.primary).unwrap();
            assert_eq!(primary.endpoint, id, "primary binding {} of endpoint {id}", record.primary);
            let listener = self.maps.listener(primary.listener).unwrap();
            let live = self.choices().iter().any(|(choice, _)| *choice == listener.choice);
            // Until the listener's own record is written nothing is sent to its backends.
            assert!(listener.service != 0 || !live, "listener {} is unset", primary.listener);
        }
    }

    fn index(&self, index: Index) -> BTreeMap<lb_common::addr::Socket, u16> {
        let slots = self.maps.slots(index).unwrap();
        let mut found = BTreeMap::new();
        for slot in slots.into_iter().filter(|slot| slot.id != 0) {
            assert!(found.insert(slot.socket, slot.id).is_none(), "{:?} twice", slot.socket);
        }
        found
    }

    /// Slots whose owner `choice` changes must be marked already.
    fn check_touched(&self, id: u16, choice: Choice) {
        let old = self.maps.choice(id).unwrap();
        if old == 0 || choice == 0 {
            return;
        }
        let view = |choice: Choice| {
            let (table, list) = parts(choice);
            let members = self.maps.members(list).unwrap();
            let endpoints = members.map(|b| self.maps.binding(b).unwrap().endpoint);
            (self.maps.table(table).unwrap(), endpoints, members)
        };
        let ((old, old_endpoints, bindings), (new, new_endpoints, _)) = (view(old), view(choice));
        let service = bindings.iter().find(|b| **b != 0).unwrap();
        let service = self.maps.binding(*service).unwrap().service;
        let touched = self.maps.touched(service).unwrap();
        for (slot, (before, after)) in old.iter().zip(new.iter()).enumerate() {
            if old_endpoints[usize::from(*before)] != new_endpoints[usize::from(*after)] {
                assert_eq!(u32::from(touched[slot]), self.clock.epoch() + 1, "slot {slot}");
            }
        }
    }

    fn written(&self, map: &str, id: impl Into<u32>) {
        self.log.borrow_mut().push(format!("{map}[{}]", id.into()));
        self.check();
    }
}

fn has_port(set: &PortSet, port: u16) -> bool {
    set[usize::from(port) / 64] >> (port % 64) & 1 != 0
}

macro_rules! reads {
    ($($name:ident($($arg:ident: $type:ty),*) -> $value:ty;)+) => {
        $(fn $name(&self, $($arg: $type),*) -> Result<$value> {
            self.maps.$name($($arg),*)
        })+
    };
}

impl LbMaps for Watched {
    fn capacities(&self) -> Capacities {
        self.maps.capacities()
    }

    reads! {
        listener(id: u16) -> Listener;
        endpoint(id: u16) -> Endpoint;
        binding(id: u16) -> Binding;
        members(id: u16) -> Members;
        orders(id: u16) -> Orders;
        table(id: u16) -> Box<Table>;
        choice(id: u16) -> Choice;
        slots(index: Index) -> Vec<Slot>;
        ports(row: u32) -> Box<PortSet>;
        interface(row: u32) -> Interface;
        route(row: u32) -> Route;
        settings() -> Settings;
        name(names: Names, id: u16) -> Name;
        touched(service: u16) -> Box<Table>;
    }

    fn put_listener(&mut self, id: u16, record: &Listener) -> Result<()> {
        self.maps.put_listener(id, record)?;
        self.written("listener", id);
        Ok(())
    }

    fn put_endpoint(&mut self, id: u16, record: &Endpoint) -> Result<()> {
        self.maps.put_endpoint(id, record)?;
        self.written("endpoint", id);
        Ok(())
    }

    fn put_binding(&mut self, id: u16, record: &Binding) -> Result<()> {
        self.maps.put_binding(id, record)?;
        self.written("binding", id);
        Ok(())
    }

    fn put_members(&mut self, id: u16, members: &Members) -> Result<()> {
        self.may_write(id, &self.lists_left, |choice| parts(choice).1);
        self.maps.put_members(id, members)?;
        self.lists.insert(id);
        self.written("members", id);
        Ok(())
    }

    fn put_orders(&mut self, id: u16, orders: &Orders) -> Result<()> {
        self.may_write(id, &self.lists_left, |choice| parts(choice).1);
        self.maps.put_orders(id, orders)?;
        self.written("orders", id);
        Ok(())
    }

    fn put_table(&mut self, id: u16, table: &Table) -> Result<()> {
        self.may_write(id, &self.tables_left, |choice| parts(choice).0);
        self.maps.put_table(id, table)?;
        let owned = owners(table);
        let owners = (0..NO_MEMBER).filter(|m| owned[usize::from(*m)] > 0).collect();
        self.owners.insert(id, owners);
        self.written("table", id);
        Ok(())
    }

    fn put_choice(&mut self, id: u16, choice: Choice) -> Result<()> {
        self.check_touched(id, choice);
        let (table, list) = parts(self.maps.choice(id)?);
        self.maps.put_choice(id, choice)?;
        let used = |of: fn((u16, u16)) -> u16, id: u16| {
            self.choices().iter().any(|(_, choice)| of(parts(*choice)) == id)
        };
        let (table_used, list_used) = (used(|p| p.0, table), used(|p| p.1, list));
        if !table_used {
            self.tables_left.insert(table, self.clock.now());
        }
        if !list_used {
            self.lists_left.insert(list, self.clock.now());
        }
        self.written("choice", id);
        Ok(())
    }

    fn put_slot(&mut self, index: Index, row: u32, slot: &Slot) -> Result<()> {
        let before = self.maps.slots(index)?[row as usize];
        if before.socket != slot.socket {
            assert_eq!((before.id, slot.id), (0, 0), "{index:?} {row} changes while it is read");
            if let Some(&at) = self.slots_left.get(&(index, row)) {
                assert!(self.clock.now() >= at + REST, "{index:?} {row} was freed a moment ago");
            }
        }
        self.maps.put_slot(index, row, slot)?;
        if before.id != 0 && slot.id == 0 {
            self.slots_left.insert((index, row), self.clock.now());
        }
        self.written(index.map(), row);
        Ok(())
    }

    fn put_ports(&mut self, row: u32, ports: &PortSet) -> Result<()> {
        self.maps.put_ports(row, ports)?;
        self.written("ports", row);
        Ok(())
    }

    fn put_interface(&mut self, row: u32, interface: &Interface) -> Result<()> {
        self.maps.put_interface(row, interface)?;
        self.written("interface", row);
        Ok(())
    }

    fn put_route(&mut self, row: u32, route: &Route) -> Result<()> {
        self.maps.put_route(row, route)?;
        self.written("route", row);
        Ok(())
    }

    fn put_settings(&mut self, settings: &Settings) -> Result<()> {
        self.maps.put_settings(settings)?;
        self.written("settings", 0u32);
        Ok(())
    }

    fn put_name(&mut self, names: Names, id: u16, name: &Name) -> Result<()> {
        self.maps.put_name(names, id, name)?;
        self.written(names.map(), id);
        Ok(())
    }

    fn touch(&mut self, service: u16, slots: &[u16], value: u8) -> Result<()> {
        self.maps.touch(service, slots, value)?;
        self.written("touched", service);
        Ok(())
    }
}
