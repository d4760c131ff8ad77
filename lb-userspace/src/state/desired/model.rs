//! What the maps should say, map by map, and what `status` says of it.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::{
    addr::Socket,
    backend::{Binding, Endpoint, Route},
    maps::{PortSet, Settings},
    service::{Interface, Listener, Name},
    table::Members,
};

use super::super::{Admin, Standing, table::SlotTable};
use crate::maps::Orders;

/// A member list with its priorities and weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberList {
    pub members: Members,
    pub orders: Orders,
}

/// What a choice should publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredChoice {
    pub listener: u16,
    pub service: u16,
    pub set: Name,
    pub list: Arc<MemberList>,
    pub table: Arc<SlotTable>,
}

/// A configured backend and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendState {
    pub name: String,
    pub endpoint: Socket,
    pub priority: u16,
    pub weight: u16,
    pub standing: Standing,
    /// What is in force.
    pub admin: Admin,
    /// Slots of the table: its share of new dialogs × 65,536.
    pub slots: u32,
}

/// A configured service and how new dialogs are shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceState {
    pub id: u16,
    /// The service's own set.
    pub own: SetState,
    /// Those of its rules, in file order.
    pub rules: Vec<SetState>,
}

/// A set and how new dialogs are shared out in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetState {
    /// Empty for the service's own set.
    pub name: String,
    /// The tier in use; `None` if no backend is usable.
    pub active_priority: Option<u16>,
    /// No backend is usable, and new dialogs go where the last table sent them.
    pub keeps_last: bool,
    pub table_digest: u64,
    /// By name.
    pub backends: Vec<BackendState>,
}

/// What the maps should say. Unset entries are not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredState {
    pub settings: Settings,
    pub routes: Vec<Route>,
    /// By ifindex.
    pub interfaces: BTreeMap<u32, Interface>,
    pub service_names: BTreeMap<u16, Name>,
    pub set_names: BTreeMap<u16, Name>,
    pub backend_names: BTreeMap<u16, Name>,
    pub listeners: BTreeMap<u16, Listener>,
    pub endpoints: BTreeMap<u16, Endpoint>,
    pub bindings: BTreeMap<u16, Binding>,
    pub choices: BTreeMap<u16, DesiredChoice>,
    /// Ids by socket.
    pub listener_index: BTreeMap<Socket, u16>,
    pub endpoint_index: BTreeMap<Socket, u16>,
    pub host_index: BTreeMap<Socket, u16>,
    /// Choices by [`lb_common::service::rule::key`].
    pub rule_index: BTreeMap<Socket, u16>,
    pub address_index: BTreeMap<Socket, u16>,
    /// Bindings by [`lb_common::sip::SentBy::key`].
    pub sender_index: BTreeMap<Socket, u16>,
    /// Rows of [`lb_common::maps::ports`].
    pub ports: [Box<PortSet>; 2],
    /// By name; for people, not for maps.
    pub services: BTreeMap<String, ServiceState>,
    /// What had to be left out.
    pub notices: Vec<String>,
}

/// Share of new dialogs of each backend in the own set of `service`: exact slots / 65,536.
#[must_use]
pub fn shares(desired: &DesiredState, service: &str) -> BTreeMap<String, f64> {
    desired
        .services
        .get(service)
        .map(|state| {
            let share = |slots: u32| f64::from(slots) / lb_common::table::SLOTS as f64;
            state.own.backends.iter().map(|b| (b.name.clone(), share(b.slots))).collect()
        })
        .unwrap_or_default()
}
