//! The one door to the BPF maps.
//!
//! [`LbMaps`] has a method pair for each map of [`lb_common::maps::name`] that the controller
//! writes. Everything that decides what to write ([`crate::reconcile`]) sees only this trait, so
//! that it is tested against [`memory::MemoryMaps`] and [`faulty::FaultyMaps`].
//!
//! Counters, the clock, the heartbeat and the dialog table are not here: the controller reads them
//! elsewhere and never reconciles them.

use std::{error::Error, fmt};

use lb_common::{
    backend::{Binding, Endpoint, Route},
    index::Slot,
    maps::{Capacities, PortSet, Settings, name},
    service::{Interface, Listener, Name},
    table::{Choice, MEMBERS, MemberOrder, Members, Table},
};

pub mod dump;
pub mod faulty;
pub mod kernel;
pub mod memory;
pub mod mmap;

/// Priorities and weights of a member list, by member index.
pub type Orders = [MemberOrder; MEMBERS];

/// What every access to a map returns.
pub type Result<T> = std::result::Result<T, MapError>;

/// Which way an access went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// An access that failed: the map, the entry, the cause.
#[derive(Debug)]
pub struct MapError {
    pub access: Access,
    /// Name of the map, as in [`name`].
    pub map: &'static str,
    pub id: u32,
    pub cause: Box<dyn Error + Send + Sync>,
}

impl MapError {
    /// A read of entry `id` of `map` that failed by `cause`.
    pub fn read(
        map: &'static str,
        id: u32,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { access: Access::Read, map, id, cause: cause.into() }
    }

    /// A write of entry `id` of `map` that failed by `cause`.
    pub fn write(
        map: &'static str,
        id: u32,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { access: Access::Write, map, id, cause: cause.into() }
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
        };
        write!(f, "cannot {access} entry {} of map {}: {}", self.id, self.map, self.cause)
    }
}

impl Error for MapError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}

/// An index from sockets to ids ([`lb_common::index`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Index {
    /// VIP:port:transport → listener.
    Listeners,
    /// address:port:transport → endpoint.
    Endpoints,
    /// Addresses of this host; the id is 1.
    Hosts,
    /// Method and domain rules ([`lb_common::service::rule`]) → choice.
    Rules,
    /// Addresses of listeners and endpoints; the id is bits of [`lb_common::maps::address`].
    Addresses,
    /// Listener and sender of a request, as a Via names it, → binding; also listener and endpoint,
    /// where several listeners share it ([`lb_common::sip::SentBy`]).
    Senders,
}

impl Index {
    pub const ALL: [Self; 6] = [
        Self::Listeners,
        Self::Endpoints,
        Self::Hosts,
        Self::Rules,
        Self::Addresses,
        Self::Senders,
    ];

    /// The map that holds it.
    #[must_use]
    pub const fn map(self) -> &'static str {
        match self {
            Self::Listeners => name::LISTENER_INDEX,
            Self::Endpoints => name::ENDPOINT_INDEX,
            Self::Hosts => name::HOST_INDEX,
            Self::Rules => name::RULE_INDEX,
            Self::Addresses => name::ADDRESS_INDEX,
            Self::Senders => name::SENDER_INDEX,
        }
    }

    /// Slots of the map: a power of two.
    #[must_use]
    pub const fn slots(self, capacities: &Capacities) -> u32 {
        lb_common::index::slots(match self {
            Self::Listeners => capacities.listeners,
            Self::Endpoints => capacities.endpoints,
            Self::Hosts => lb_common::maps::HOST_ADDRESSES,
            Self::Rules => capacities.rules(),
            Self::Addresses => capacities.addresses(),
            Self::Senders => capacities.senders(),
        })
    }
}

/// The names that stand beside ids, so that a restarted controller knows what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Names {
    /// By service id.
    Services,
    /// By choice id: the set of that choice; the service's own set is "".
    Sets,
    /// By binding id.
    Backends,
}

impl Names {
    /// The map that holds them.
    #[must_use]
    pub const fn map(self) -> &'static str {
        match self {
            Self::Services => name::SERVICE_NAMES,
            Self::Sets => name::SET_NAMES,
            Self::Backends => name::BACKEND_NAMES,
        }
    }
}

/// Typed access to the maps. Entries that were never written read as zero; every method fails for
/// an id beyond the map's capacity. Ids and rows are indices of array maps; a record of an id that
/// is given up is overwritten by the default (0 = unset).
pub trait LbMaps {
    /// Entries of each map, as the maps were made.
    fn capacities(&self) -> Capacities;

    fn listener(&self, id: u16) -> Result<Listener>;
    fn put_listener(&mut self, id: u16, record: &Listener) -> Result<()>;

    fn endpoint(&self, id: u16) -> Result<Endpoint>;
    fn put_endpoint(&mut self, id: u16, record: &Endpoint) -> Result<()>;

    fn binding(&self, id: u16) -> Result<Binding>;
    fn put_binding(&mut self, id: u16, record: &Binding) -> Result<()>;

    /// Bindings by member index.
    fn members(&self, id: u16) -> Result<Members>;
    fn put_members(&mut self, id: u16, members: &Members) -> Result<()>;

    /// Priorities and weights of the member list of the same id; the datapath does not read them.
    fn orders(&self, id: u16) -> Result<Orders>;
    fn put_orders(&mut self, id: u16, orders: &Orders) -> Result<()>;

    fn table(&self, id: u16) -> Result<Box<Table>>;
    fn put_table(&mut self, id: u16, table: &Table) -> Result<()>;

    fn choice(&self, id: u16) -> Result<Choice>;
    /// One store of four bytes: no CPU sees half a choice.
    fn put_choice(&mut self, id: u16, choice: Choice) -> Result<()>;

    /// All slots of an index, in order.
    fn slots(&self, index: Index) -> Result<Vec<Slot>>;
    fn put_slot(&mut self, index: Index, row: u32, slot: &Slot) -> Result<()>;

    /// A row of [`lb_common::maps::ports`].
    fn ports(&self, row: u32) -> Result<Box<PortSet>>;
    fn put_ports(&mut self, row: u32, ports: &PortSet) -> Result<()>;

    fn interface(&self, row: u32) -> Result<Interface>;
    fn put_interface(&mut self, row: u32, interface: &Interface) -> Result<()>;

    fn route(&self, row: u32) -> Result<Route>;
    fn put_route(&mut self, row: u32, route: &Route) -> Result<()>;

    fn settings(&self) -> Result<Settings>;
    fn put_settings(&mut self, settings: &Settings) -> Result<()>;

    fn name(&self, names: Names, id: u16) -> Result<Name>;
    fn put_name(&mut self, names: Names, id: u16, name: &Name) -> Result<()>;

    /// The touched slots of a service: for each slot 0 = never, else 1 + epoch (0…127).
    fn touched(&self, service: u16) -> Result<Box<Table>>;
    /// Stores `value` for each of `slots` as single byte stores into the mapped array: the datapath
    /// writes the other bytes of the row at the same time, so the row is never written as a whole.
    fn touch(&mut self, service: u16, slots: &[u16], value: u8) -> Result<()>;
}
