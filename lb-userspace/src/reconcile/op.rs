//! One write to one map entry.

use std::{fmt, sync::Arc};

use lb_common::{
    backend::{Binding, Endpoint, Route},
    index::Slot,
    maps::{PortSet, Settings, name},
    service::{Interface, Listener, Name},
    table::{Choice, choice_members, choice_table},
};

use crate::{
    maps::{Index, LbMaps, MapError, Names},
    state::{desired::MemberList, table::SlotTable},
};

/// A write; what stands in the entry before does not matter.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Name {
        names: Names,
        id: u16,
        name: Name,
    },
    Listener {
        id: u16,
        record: Listener,
    },
    Endpoint {
        id: u16,
        record: Box<Endpoint>,
    },
    Binding {
        id: u16,
        record: Binding,
    },
    /// The priorities and weights of a list; written before its members.
    Orders {
        id: u16,
        list: Arc<MemberList>,
    },
    Members {
        id: u16,
        list: Arc<MemberList>,
    },
    Table {
        id: u16,
        table: Arc<SlotTable>,
    },
    /// Marks slots of a service whose owner is about to change.
    Touch {
        service: u16,
        slots: Vec<u16>,
        value: u8,
    },
    Choice {
        id: u16,
        choice: Choice,
    },
    Slot {
        index: Index,
        row: u32,
        slot: Slot,
    },
    Ports {
        row: u32,
        ports: Box<PortSet>,
    },
    Interface {
        row: u32,
        interface: Interface,
    },
    Route {
        row: u32,
        route: Box<Route>,
    },
    Settings(Box<Settings>),
}

impl Op {
    /// Does it.
    ///
    /// # Errors
    /// As the map says; nothing was written then.
    pub fn write(&self, maps: &mut dyn LbMaps) -> Result<(), MapError> {
        match self {
            Self::Name { names, id, name } => maps.put_name(*names, *id, name),
            Self::Listener { id, record } => maps.put_listener(*id, record),
            Self::Endpoint { id, record } => maps.put_endpoint(*id, record),
            Self::Binding { id, record } => maps.put_binding(*id, record),
            Self::Orders { id, list } => maps.put_orders(*id, &list.orders),
            Self::Members { id, list } => maps.put_members(*id, &list.members),
            Self::Table { id, table } => maps.put_table(*id, table.slots()),
            Self::Touch { service, slots, value } => maps.touch(*service, slots, *value),
            Self::Choice { id, choice } => maps.put_choice(*id, *choice),
            Self::Slot { index, row, slot } => maps.put_slot(*index, *row, slot),
            Self::Ports { row, ports } => maps.put_ports(*row, ports),
            Self::Interface { row, interface } => maps.put_interface(*row, interface),
            Self::Route { row, route } => maps.put_route(*row, route),
            Self::Settings(settings) => maps.put_settings(settings),
        }
    }

    /// The map and the entry that it writes.
    #[must_use]
    pub fn target(&self) -> (&'static str, u32) {
        match self {
            Self::Name { names, id, .. } => (names.map(), (*id).into()),
            Self::Listener { id, .. } => (name::LISTENERS, (*id).into()),
            Self::Endpoint { id, .. } => (name::ENDPOINTS, (*id).into()),
            Self::Binding { id, .. } => (name::BINDINGS, (*id).into()),
            Self::Orders { id, .. } => (name::MEMBER_ORDERS, (*id).into()),
            Self::Members { id, .. } => (name::MEMBERS, (*id).into()),
            Self::Table { id, .. } => (name::TABLES, (*id).into()),
            Self::Touch { service, .. } => (name::TOUCHED, (*service).into()),
            Self::Choice { id, .. } => (name::CHOICES, (*id).into()),
            Self::Slot { index, row, .. } => (index.map(), *row),
            Self::Ports { row, .. } => (name::PORTS, *row),
            Self::Interface { row, .. } => (name::INTERFACES, *row),
            Self::Route { row, .. } => (name::ROUTES, *row),
            Self::Settings(_) => (name::SETTINGS, 0),
        }
    }
}

/// The entry and, where it is short, what is written.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (map, id) = self.target();
        write!(f, "{map}[{id}]")?;
        match self {
            Self::Name { name, .. } => write!(f, " = {name:?}"),
            Self::Listener { record, .. } if *record == Listener::default() => {
                write!(f, " = unset")
            }
            Self::Listener { record, .. } => {
                write!(f, " = {:?} choice {}", record.socket, record.choice)
            }
            Self::Endpoint { record, .. } if **record == Endpoint::default() => {
                write!(f, " = unset")
            }
            Self::Endpoint { record, .. } => {
                write!(f, " = {:?} state {}", record.socket, record.state)
            }
            Self::Binding { record, .. } if *record == Binding::default() => write!(f, " = unset"),
            Self::Binding { record, .. } => write!(
                f,
                " = listener {} endpoint {} admin {} retired {}",
                record.listener, record.endpoint, record.admin, record.retired
            ),
            Self::Table { table, .. } => write!(f, " = {:016x}", table.digest()),
            Self::Touch { slots, value, .. } => write!(f, " {} slots = {value}", slots.len()),
            Self::Choice { choice, .. } => {
                write!(f, " = table {} list {}", choice_table(*choice), choice_members(*choice))
            }
            Self::Slot { slot, .. } => write!(f, " = {:?} id {}", slot.socket, slot.id),
            Self::Interface { interface, .. } => write!(f, " = ifindex {}", interface.ifindex),
            Self::Orders { .. }
            | Self::Members { .. }
            | Self::Ports { .. }
            | Self::Route { .. }
            | Self::Settings(_) => Ok(()),
        }
    }
}
