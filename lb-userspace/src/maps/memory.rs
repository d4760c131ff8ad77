//! The maps as plain vectors: for tests, `check`, `route`.

use lb_common::{
    backend::{Binding, Endpoint, ROUTES, Route},
    index::Slot,
    maps::{Capacities, PortSet, Settings, name},
    service::{INTERFACES, Interface, Listener, Name},
    table::{Choice, MEMBERS, MemberOrder, Members, SLOTS, Table},
};

use super::{Access, Index, LbMaps, MapError, Names, Orders, Result};

/// In-memory twin of the kernel's maps: same bounds, same zero-initialised entries.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryMaps {
    capacities: Capacities,
    listeners: Vec<Listener>,
    endpoints: Vec<Endpoint>,
    bindings: Vec<Binding>,
    members: Vec<Members>,
    orders: Vec<Orders>,
    /// Made on first write: most of a pool is never used.
    tables: Vec<Option<Box<Table>>>,
    choices: Vec<Choice>,
    slots: [Vec<Slot>; 6],
    ports: [Box<PortSet>; 2],
    interfaces: Vec<Interface>,
    routes: Vec<Route>,
    settings: Settings,
    names: [Vec<Name>; 3],
    touched: Vec<Option<Box<Table>>>,
}

impl MemoryMaps {
    /// Maps as they are right after creation.
    #[must_use]
    pub fn new(capacities: Capacities) -> Self {
        let index = |index: Index| vec![Slot::default(); index.slots(&capacities) as usize];
        let names = |entries: u32| vec![Name::default(); entries as usize];
        Self {
            capacities,
            listeners: vec![Listener::default(); capacities.listeners as usize],
            endpoints: vec![Endpoint::default(); capacities.endpoints as usize],
            bindings: vec![Binding::default(); capacities.bindings as usize],
            members: vec![[0; MEMBERS]; capacities.member_lists as usize],
            orders: vec![[MemberOrder::default(); MEMBERS]; capacities.member_lists as usize],
            tables: vec![None; capacities.tables as usize],
            choices: vec![0; capacities.choices as usize],
            slots: Index::ALL.map(index),
            ports: [Box::new([0; 1024]), Box::new([0; 1024])],
            interfaces: vec![Interface::default(); INTERFACES as usize],
            routes: vec![Route::default(); ROUTES as usize],
            settings: Settings::default(),
            names: [
                names(capacities.services),
                names(capacities.choices),
                names(capacities.bindings),
            ],
            touched: vec![None; capacities.services as usize],
        }
    }
}

fn beyond(access: Access, map: &'static str, id: u32, entries: usize) -> MapError {
    MapError { access, map, id, cause: format!("the map has {entries} entries").into() }
}

fn get<T: Clone>(entries: &[T], map: &'static str, id: impl Into<u32>) -> Result<T> {
    let id = id.into();
    entries.get(id as usize).cloned().ok_or_else(|| beyond(Access::Read, map, id, entries.len()))
}

fn put<T>(entries: &mut [T], map: &'static str, id: impl Into<u32>, value: T) -> Result<()> {
    let id = id.into();
    let len = entries.len();
    let entry = entries.get_mut(id as usize).ok_or_else(|| beyond(Access::Write, map, id, len))?;
    *entry = value;
    Ok(())
}

fn zeroed() -> Box<Table> {
    Box::new([0; SLOTS])
}

impl LbMaps for MemoryMaps {
    fn capacities(&self) -> Capacities {
        self.capacities
    }

    fn listener(&self, id: u16) -> Result<Listener> {
        get(&self.listeners, name::LISTENERS, id)
    }

    fn put_listener(&mut self, id: u16, record: &Listener) -> Result<()> {
        put(&mut self.listeners, name::LISTENERS, id, *record)
    }

    fn endpoint(&self, id: u16) -> Result<Endpoint> {
        get(&self.endpoints, name::ENDPOINTS, id)
    }

    fn put_endpoint(&mut self, id: u16, record: &Endpoint) -> Result<()> {
        put(&mut self.endpoints, name::ENDPOINTS, id, *record)
    }

    fn binding(&self, id: u16) -> Result<Binding> {
        get(&self.bindings, name::BINDINGS, id)
    }

    fn put_binding(&mut self, id: u16, record: &Binding) -> Result<()> {
        put(&mut self.bindings, name::BINDINGS, id, *record)
    }

    fn members(&self, id: u16) -> Result<Members> {
        get(&self.members, name::MEMBERS, id)
    }

    fn put_members(&mut self, id: u16, members: &Members) -> Result<()> {
        put(&mut self.members, name::MEMBERS, id, *members)
    }

    fn orders(&self, id: u16) -> Result<Orders> {
        get(&self.orders, name::MEMBER_ORDERS, id)
    }

    fn put_orders(&mut self, id: u16, orders: &Orders) -> Result<()> {
        put(&mut self.orders, name::MEMBER_ORDERS, id, *orders)
    }

    fn table(&self, id: u16) -> Result<Box<Table>> {
        Ok(get(&self.tables, name::TABLES, id)?.unwrap_or_else(zeroed))
    }

    fn put_table(&mut self, id: u16, table: &Table) -> Result<()> {
        put(&mut self.tables, name::TABLES, id, Some(Box::new(*table)))
    }

    fn choice(&self, id: u16) -> Result<Choice> {
        get(&self.choices, name::CHOICES, id)
    }

    fn put_choice(&mut self, id: u16, choice: Choice) -> Result<()> {
        put(&mut self.choices, name::CHOICES, id, choice)
    }

    fn slots(&self, index: Index) -> Result<Vec<Slot>> {
        let [listeners, endpoints, hosts, rules, addresses, senders] = &self.slots;
        Ok(match index {
            Index::Listeners => listeners.clone(),
            Index::Endpoints => endpoints.clone(),
            Index::Hosts => hosts.clone(),
            Index::Rules => rules.clone(),
            Index::Addresses => addresses.clone(),
            Index::Senders => senders.clone(),
        })
    }

    fn put_slot(&mut self, index: Index, row: u32, slot: &Slot) -> Result<()> {
        let [listeners, endpoints, hosts, rules, addresses, senders] = &mut self.slots;
        let slots = match index {
            Index::Listeners => listeners,
            Index::Endpoints => endpoints,
            Index::Hosts => hosts,
            Index::Rules => rules,
            Index::Addresses => addresses,
            Index::Senders => senders,
        };
        put(slots, index.map(), row, *slot)
    }

    fn ports(&self, row: u32) -> Result<Box<PortSet>> {
        get(&self.ports, name::PORTS, row)
    }

    fn put_ports(&mut self, row: u32, ports: &PortSet) -> Result<()> {
        put(&mut self.ports, name::PORTS, row, Box::new(*ports))
    }

    fn interface(&self, row: u32) -> Result<Interface> {
        get(&self.interfaces, name::INTERFACES, row)
    }

    fn put_interface(&mut self, row: u32, interface: &Interface) -> Result<()> {
        put(&mut self.interfaces, name::INTERFACES, row, *interface)
    }

    fn route(&self, row: u32) -> Result<Route> {
        get(&self.routes, name::ROUTES, row)
    }

    fn put_route(&mut self, row: u32, route: &Route) -> Result<()> {
        put(&mut self.routes, name::ROUTES, row, *route)
    }

    fn settings(&self) -> Result<Settings> {
        Ok(self.settings)
    }

    fn put_settings(&mut self, settings: &Settings) -> Result<()> {
        self.settings = *settings;
        Ok(())
    }

    fn name(&self, names: Names, id: u16) -> Result<Name> {
        let [services, sets, backends] = &self.names;
        let entries = match names {
            Names::Services => services,
            Names::Sets => sets,
            Names::Backends => backends,
        };
        get(entries, names.map(), id)
    }

    fn put_name(&mut self, names: Names, id: u16, name: &Name) -> Result<()> {
        let [services, sets, backends] = &mut self.names;
        let entries = match names {
            Names::Services => services,
            Names::Sets => sets,
            Names::Backends => backends,
        };
        put(entries, names.map(), id, *name)
    }

    fn touched(&self, service: u16) -> Result<Box<Table>> {
        Ok(get(&self.touched, name::TOUCHED, service)?.unwrap_or_else(zeroed))
    }

    fn touch(&mut self, service: u16, slots: &[u16], value: u8) -> Result<()> {
        let entries = self.touched.len();
        let row = self
            .touched
            .get_mut(usize::from(service))
            .ok_or_else(|| beyond(Access::Write, name::TOUCHED, service.into(), entries))?
            .get_or_insert_with(zeroed);
        for &slot in slots {
            if let Some(byte) = row.get_mut(usize::from(slot)) {
                *byte = value;
            }
        }
        Ok(())
    }
}
