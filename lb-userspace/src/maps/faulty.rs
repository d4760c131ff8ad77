//! Maps that fail on purpose: the same sequence of failures for the same seed.

use lb_common::{
    backend::{Binding, Endpoint, Route},
    index::Slot,
    maps::{Capacities, PortSet, Settings, name},
    service::{Interface, Listener, Name},
    table::{Choice, Members, Table},
};

use super::{Index, LbMaps, MapError, Names, Orders, Result};

/// When a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Never,
    /// The write with this number, counted from 0, fails; those after it succeed.
    Nth(u64),
    /// Each write fails with the probability `per_mille` / 1000.
    Random {
        per_mille: u32,
    },
}

/// A wrapper whose reads work and whose writes fail as told, without any effect.
#[derive(Clone, Debug)]
pub struct FaultyMaps<M> {
    pub inner: M,
    pub fault: Fault,
    writes: u64,
    state: u64,
}

impl<M> FaultyMaps<M> {
    /// Wraps `inner`; `seed` decides which writes a random fault hits.
    #[must_use]
    pub const fn new(inner: M, fault: Fault, seed: u64) -> Self {
        Self { inner, fault, writes: 0, state: seed }
    }

    /// Writes tried so far, failed ones included.
    #[must_use]
    pub const fn writes(&self) -> u64 {
        self.writes
    }

    fn gate(&mut self, map: &'static str, id: impl Into<u32>) -> Result<()> {
        let number = self.writes;
        self.writes += 1;
        let fails = match self.fault {
            Fault::Never => false,
            Fault::Nth(nth) => nth == number,
            Fault::Random { per_mille } => self.draw() % 1000 < u64::from(per_mille),
        };
        if fails {
            return Err(MapError::write(map, id.into(), "injected fault"));
        }
        Ok(())
    }

    /// splitmix64 (Steele, Lea and Flood 2014).
    const fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl<M: LbMaps> LbMaps for FaultyMaps<M> {
    fn capacities(&self) -> Capacities {
        self.inner.capacities()
    }

    fn listener(&self, id: u16) -> Result<Listener> {
        self.inner.listener(id)
    }

    fn put_listener(&mut self, id: u16, record: &Listener) -> Result<()> {
        self.gate(name::LISTENERS, id)?;
        self.inner.put_listener(id, record)
    }

    fn endpoint(&self, id: u16) -> Result<Endpoint> {
        self.inner.endpoint(id)
    }

    fn put_endpoint(&mut self, id: u16, record: &Endpoint) -> Result<()> {
        self.gate(name::ENDPOINTS, id)?;
        self.inner.put_endpoint(id, record)
    }

    fn binding(&self, id: u16) -> Result<Binding> {
        self.inner.binding(id)
    }

    fn put_binding(&mut self, id: u16, record: &Binding) -> Result<()> {
        self.gate(name::BINDINGS, id)?;
        self.inner.put_binding(id, record)
    }

    fn members(&self, id: u16) -> Result<Members> {
        self.inner.members(id)
    }

    fn put_members(&mut self, id: u16, members: &Members) -> Result<()> {
        self.gate(name::MEMBERS, id)?;
        self.inner.put_members(id, members)
    }

    fn orders(&self, id: u16) -> Result<Orders> {
        self.inner.orders(id)
    }

    fn put_orders(&mut self, id: u16, orders: &Orders) -> Result<()> {
        self.gate(name::MEMBER_ORDERS, id)?;
        self.inner.put_orders(id, orders)
    }

    fn table(&self, id: u16) -> Result<Box<Table>> {
        self.inner.table(id)
    }

    fn put_table(&mut self, id: u16, table: &Table) -> Result<()> {
        self.gate(name::TABLES, id)?;
        self.inner.put_table(id, table)
    }

    fn choice(&self, id: u16) -> Result<Choice> {
        self.inner.choice(id)
    }

    fn put_choice(&mut self, id: u16, choice: Choice) -> Result<()> {
        self.gate(name::CHOICES, id)?;
        self.inner.put_choice(id, choice)
    }

    fn slots(&self, index: Index) -> Result<Vec<Slot>> {
        self.inner.slots(index)
    }

    fn put_slot(&mut self, index: Index, row: u32, slot: &Slot) -> Result<()> {
        self.gate(index.map(), row)?;
        self.inner.put_slot(index, row, slot)
    }

    fn ports(&self, row: u32) -> Result<Box<PortSet>> {
        self.inner.ports(row)
    }

    fn put_ports(&mut self, row: u32, ports: &PortSet) -> Result<()> {
        self.gate(name::PORTS, row)?;
        self.inner.put_ports(row, ports)
    }

    fn interface(&self, row: u32) -> Result<Interface> {
        self.inner.interface(row)
    }

    fn put_interface(&mut self, row: u32, interface: &Interface) -> Result<()> {
        self.gate(name::INTERFACES, row)?;
        self.inner.put_interface(row, interface)
    }

    fn route(&self, row: u32) -> Result<Route> {
        self.inner.route(row)
    }

    fn put_route(&mut self, row: u32, route: &Route) -> Result<()> {
        self.gate(name::ROUTES, row)?;
        self.inner.put_route(row, route)
    }

    fn settings(&self) -> Result<Settings> {
        self.inner.settings()
    }

    fn put_settings(&mut self, settings: &Settings) -> Result<()> {
        self.gate(name::SETTINGS, 0u32)?;
        self.inner.put_settings(settings)
    }

    fn name(&self, names: Names, id: u16) -> Result<Name> {
        self.inner.name(names, id)
    }

    fn put_name(&mut self, names: Names, id: u16, name: &Name) -> Result<()> {
        self.gate(names.map(), id)?;
        self.inner.put_name(names, id, name)
    }

    fn touched(&self, service: u16) -> Result<Box<Table>> {
        self.inner.touched(service)
    }

    fn touch(&mut self, service: u16, slots: &[u16], value: u8) -> Result<()> {
        self.gate(name::TOUCHED, service)?;
        self.inner.touch(service, slots, value)
    }
}
