//! What every map should say: a pure function of configuration, health, the operator's word and
//! the network.
//!
//! ```text
//! ids ─ backends.rs ─ sets.rs: usable, tier, table ─ listeners.rs: policy, rules, choices
//!                   ├ senders.rs: addresses, Via headers                 ├─ DesiredState
//! network ───────── network.rs: routes, interfaces, this host ──────────┘
//! ```

mod backends;
mod listeners;
mod model;
mod network;
mod senders;
mod sets;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    addr::Socket,
    hash::HashKey,
    maps::{PortSet, Settings},
    service::Name,
};

pub use self::{
    listeners::balance_value,
    model::{
        BackendState, DesiredChoice, DesiredState, MemberList, ServiceState, SetState, shares,
    },
    network::{NetworkView, Path},
};
use super::{AdminStates, Standing, ids::Ids, table::TableCache};
use crate::config::model::Config;

/// Everything that decides what the maps should say, beside [`Ids`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub config: &'a Config,
    /// By endpoint; one that is missing stands as its `initial` says.
    pub health: &'a BTreeMap<Socket, Standing>,
    /// What the operator said by command.
    pub admin: &'a AdminStates,
    /// Services whose backends all went down at once, which is not believed yet: those that are
    /// down count as up, so that the last table stays.
    pub suspected: &'a BTreeSet<String>,
    pub network: &'a NetworkView,
    pub key: HashKey,
    /// [`Settings::lost_after`], in jiffies.
    pub lost_after: u64,
}

/// The desired state. `ids` must have admitted the configuration; `last` tells which endpoints own
/// slots of the table that a choice publishes now.
#[must_use]
pub fn desired(
    inputs: &Inputs<'_>,
    ids: &Ids,
    last: &dyn Fn(u16) -> BTreeSet<Socket>,
    cache: &mut TableCache,
) -> DesiredState {
    let mut state = Builder::new(inputs, ids, last);
    state.bindings();
    for service in &inputs.config.services {
        state.service(service, cache);
    }
    state.endpoints();
    state.addresses();
    state.retired_listeners();
    state.senders();
    state.network();
    cache.trim();
    state.out
}

struct Builder<'a> {
    inputs: &'a Inputs<'a>,
    ids: &'a Ids,
    last: &'a dyn Fn(u16) -> BTreeSet<Socket>,
    out: DesiredState,
    /// By endpoint id: the binding to its first listener in file order.
    primary: BTreeMap<u16, u16>,
    /// Endpoints that are configured, and whether packets go there.
    up: BTreeMap<u16, bool>,
}

impl<'a> Builder<'a> {
    fn new(
        inputs: &'a Inputs<'a>,
        ids: &'a Ids,
        last: &'a dyn Fn(u16) -> BTreeSet<Socket>,
    ) -> Self {
        let out = DesiredState {
            settings: Settings {
                key: inputs.key,
                lost_after: inputs.lost_after,
                ..Settings::default()
            },
            routes: Vec::new(),
            interfaces: BTreeMap::new(),
            service_names: ids.service_names().map(|(id, name)| (id, Name::new(name))).collect(),
            set_names: BTreeMap::new(),
            backend_names: BTreeMap::new(),
            listeners: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            bindings: BTreeMap::new(),
            choices: BTreeMap::new(),
            listener_index: BTreeMap::new(),
            endpoint_index: BTreeMap::new(),
            host_index: BTreeMap::new(),
            rule_index: BTreeMap::new(),
            address_index: BTreeMap::new(),
            sender_index: BTreeMap::new(),
            ports: [Box::new([0; 1024]), Box::new([0; 1024])],
            services: BTreeMap::new(),
            notices: Vec::new(),
        };
        Self { inputs, ids, last, out, primary: BTreeMap::new(), up: BTreeMap::new() }
    }
}

fn add_port(ports: &mut PortSet, socket: Socket) {
    let port = usize::from(socket.port.get());
    if let Some(word) = ports.get_mut(port / 64) {
        *word |= 1 << (port % 64);
    }
}
