//! [`LbMaps`] over the maps of the kernel.

use std::sync::atomic::Ordering;

use aya::{
    Pod,
    maps::{Array, Map, MapData},
};
use lb_common::{
    backend::{Binding, Endpoint, Route},
    index::Slot,
    maps::{Capacities, PortSet, Settings, name},
    service::{Interface, Listener, Name},
    table::{Choice, Members, Table},
};

use super::{Index, LbMaps, MapError, Names, Orders, Result, mmap::MappedArray};
use crate::datapath::error::Error;

/// Gives the handle of a map by its name; each name is asked for once.
pub(crate) type Open<'a> = dyn FnMut(&'static str) -> std::result::Result<MapData, Error> + 'a;

/// The maps that the controller reconciles, opened.
#[derive(Debug)]
pub struct KernelMaps {
    capacities: Capacities,
    listeners: Records<Listener>,
    endpoints: Records<Endpoint>,
    bindings: Records<Binding>,
    members: Records<Members>,
    orders: Records<Orders>,
    tables: Records<Table>,
    listener_index: Records<Slot>,
    endpoint_index: Records<Slot>,
    host_index: Records<Slot>,
    rule_index: Records<Slot>,
    address_index: Records<Slot>,
    sender_index: Records<Slot>,
    ports: Records<PortSet>,
    interfaces: Records<Interface>,
    routes: Records<Route>,
    settings: Records<Settings>,
    service_names: Records<Name>,
    set_names: Records<Name>,
    backend_names: Records<Name>,
    choices: Words<std::sync::atomic::AtomicU32>,
    touched: Words<std::sync::atomic::AtomicU8>,
}

impl KernelMaps {
    pub(crate) fn open(
        capacities: Capacities,
        open: &mut Open<'_>,
    ) -> std::result::Result<Self, Error> {
        Ok(Self {
            capacities,
            listeners: Records::open(name::LISTENERS, open)?,
            endpoints: Records::open(name::ENDPOINTS, open)?,
            bindings: Records::open(name::BINDINGS, open)?,
            members: Records::open(name::MEMBERS, open)?,
            orders: Records::open(name::MEMBER_ORDERS, open)?,
            tables: Records::open(name::TABLES, open)?,
            listener_index: Records::open(name::LISTENER_INDEX, open)?,
            endpoint_index: Records::open(name::ENDPOINT_INDEX, open)?,
            host_index: Records::open(name::HOST_INDEX, open)?,
            rule_index: Records::open(name::RULE_INDEX, open)?,
            address_index: Records::open(name::ADDRESS_INDEX, open)?,
            sender_index: Records::open(name::SENDER_INDEX, open)?,
            ports: Records::open(name::PORTS, open)?,
            interfaces: Records::open(name::INTERFACES, open)?,
            routes: Records::open(name::ROUTES, open)?,
            settings: Records::open(name::SETTINGS, open)?,
            service_names: Records::open(name::SERVICE_NAMES, open)?,
            set_names: Records::open(name::SET_NAMES, open)?,
            backend_names: Records::open(name::BACKEND_NAMES, open)?,
            choices: Words::open(name::CHOICES, open)?,
            touched: Words::open(name::TOUCHED, open)?,
        })
    }

    const fn index(&self, index: Index) -> &Records<Slot> {
        match index {
            Index::Listeners => &self.listener_index,
            Index::Endpoints => &self.endpoint_index,
            Index::Hosts => &self.host_index,
            Index::Rules => &self.rule_index,
            Index::Addresses => &self.address_index,
            Index::Senders => &self.sender_index,
        }
    }

    const fn index_mut(&mut self, index: Index) -> &mut Records<Slot> {
        match index {
            Index::Listeners => &mut self.listener_index,
            Index::Endpoints => &mut self.endpoint_index,
            Index::Hosts => &mut self.host_index,
            Index::Rules => &mut self.rule_index,
            Index::Addresses => &mut self.address_index,
            Index::Senders => &mut self.sender_index,
        }
    }

    const fn names(&self, names: Names) -> &Records<Name> {
        match names {
            Names::Services => &self.service_names,
            Names::Sets => &self.set_names,
            Names::Backends => &self.backend_names,
        }
    }
}

/// An array map of `V`, with its name for errors.
#[derive(Debug)]
pub(crate) struct Records<V: Pod> {
    name: &'static str,
    array: ArrayOf<V>,
}

/// aya's `Array` has no `Debug`.
struct ArrayOf<V: Pod>(Array<MapData, V>);

impl<V: Pod> std::fmt::Debug for ArrayOf<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} entries", self.0.len())
    }
}

impl<V: Pod> Records<V> {
    pub(crate) fn open(
        name: &'static str,
        open: &mut Open<'_>,
    ) -> std::result::Result<Self, Error> {
        let what = || format!("open map {name}");
        let map = Map::from_map_data(open(name)?).map_err(|cause| Error::aya(what(), cause))?;
        let array = Array::try_from(map).map_err(|cause| Error::aya(what(), cause))?;
        Ok(Self { name, array: ArrayOf(array) })
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> u32 {
        self.array.0.len()
    }

    pub(crate) fn get(&self, id: u32) -> Result<V> {
        self.array.0.get(&id, 0).map_err(|cause| MapError::read(self.name, id, cause))
    }

    pub(crate) fn put(&mut self, id: u32, value: &V) -> Result<()> {
        self.array.0.set(id, value, 0).map_err(|cause| MapError::write(self.name, id, cause))
    }
}

/// A mapped array map, with its name for errors.
#[derive(Debug)]
struct Words<T> {
    name: &'static str,
    array: MappedArray<T>,
}

impl<T: super::mmap::Shared> Words<T> {
    fn open(name: &'static str, open: &mut Open<'_>) -> std::result::Result<Self, Error> {
        let map = open(name)?;
        let array = MappedArray::new(&map)
            .map_err(|cause| Error::kernel(format!("map {name} into memory"), cause))?;
        Ok(Self { name, array })
    }

    /// The elements of entry `id`.
    fn row(&self, id: u32) -> Option<&[T]> {
        self.array.row(id)
    }
}

const BEYOND: &str = "beyond the capacity of the map";

impl LbMaps for KernelMaps {
    fn capacities(&self) -> Capacities {
        self.capacities
    }

    fn listener(&self, id: u16) -> Result<Listener> {
        self.listeners.get(id.into())
    }

    fn put_listener(&mut self, id: u16, record: &Listener) -> Result<()> {
        self.listeners.put(id.into(), record)
    }

    fn endpoint(&self, id: u16) -> Result<Endpoint> {
        self.endpoints.get(id.into())
    }

    fn put_endpoint(&mut self, id: u16, record: &Endpoint) -> Result<()> {
        self.endpoints.put(id.into(), record)
    }

    fn binding(&self, id: u16) -> Result<Binding> {
        self.bindings.get(id.into())
    }

    fn put_binding(&mut self, id: u16, record: &Binding) -> Result<()> {
        self.bindings.put(id.into(), record)
    }

    fn members(&self, id: u16) -> Result<Members> {
        self.members.get(id.into())
    }

    fn put_members(&mut self, id: u16, members: &Members) -> Result<()> {
        self.members.put(id.into(), members)
    }

    fn orders(&self, id: u16) -> Result<Orders> {
        self.orders.get(id.into())
    }

    fn put_orders(&mut self, id: u16, orders: &Orders) -> Result<()> {
        self.orders.put(id.into(), orders)
    }

    fn table(&self, id: u16) -> Result<Box<Table>> {
        self.tables.get(id.into()).map(Box::new)
    }

    fn put_table(&mut self, id: u16, table: &Table) -> Result<()> {
        self.tables.put(id.into(), table)
    }

    fn choice(&self, id: u16) -> Result<Choice> {
        match self.choices.row(id.into()).and_then(<[_]>::first) {
            Some(choice) => Ok(choice.load(Ordering::Acquire)),
            None => Err(MapError::read(self.choices.name, id.into(), BEYOND)),
        }
    }

    fn put_choice(&mut self, id: u16, value: Choice) -> Result<()> {
        match self.choices.row(id.into()).and_then(<[_]>::first) {
            // What the choice points to was written before, and is seen before.
            Some(choice) => choice.store(value, Ordering::Release),
            None => return Err(MapError::write(self.choices.name, id.into(), BEYOND)),
        }
        Ok(())
    }

    fn slots(&self, index: Index) -> Result<Vec<Slot>> {
        let slots = self.index(index);
        (0..slots.len()).map(|row| slots.get(row)).collect()
    }

    fn put_slot(&mut self, index: Index, row: u32, slot: &Slot) -> Result<()> {
        self.index_mut(index).put(row, slot)
    }

    fn ports(&self, row: u32) -> Result<Box<PortSet>> {
        self.ports.get(row).map(Box::new)
    }

    fn put_ports(&mut self, row: u32, ports: &PortSet) -> Result<()> {
        self.ports.put(row, ports)
    }

    fn interface(&self, row: u32) -> Result<Interface> {
        self.interfaces.get(row)
    }

    fn put_interface(&mut self, row: u32, interface: &Interface) -> Result<()> {
        self.interfaces.put(row, interface)
    }

    fn route(&self, row: u32) -> Result<Route> {
        self.routes.get(row)
    }

    fn put_route(&mut self, row: u32, route: &Route) -> Result<()> {
        self.routes.put(row, route)
    }

    fn settings(&self) -> Result<Settings> {
        self.settings.get(0)
    }

    fn put_settings(&mut self, settings: &Settings) -> Result<()> {
        self.settings.put(0, settings)
    }

    fn name(&self, names: Names, id: u16) -> Result<Name> {
        self.names(names).get(id.into())
    }

    fn put_name(&mut self, names: Names, id: u16, name: &Name) -> Result<()> {
        let map = match names {
            Names::Services => &mut self.service_names,
            Names::Sets => &mut self.set_names,
            Names::Backends => &mut self.backend_names,
        };
        map.put(id.into(), name)
    }

    fn touched(&self, service: u16) -> Result<Box<Table>> {
        let Some(row) = self.touched.row(service.into()) else {
            return Err(MapError::read(self.touched.name, service.into(), BEYOND));
        };
        let mut table: Box<Table> = Box::new([0; lb_common::table::SLOTS]);
        for (to, from) in table.iter_mut().zip(row) {
            *to = from.load(Ordering::Relaxed);
        }
        Ok(table)
    }

    fn touch(&mut self, service: u16, slots: &[u16], value: u8) -> Result<()> {
        let Some(row) = self.touched.row(service.into()) else {
            return Err(MapError::write(self.touched.name, service.into(), BEYOND));
        };
        for &slot in slots {
            match row.get(usize::from(slot)) {
                Some(byte) => byte.store(value, Ordering::Release),
                None => return Err(MapError::write(self.touched.name, service.into(), BEYOND)),
            }
        }
        Ok(())
    }
}
