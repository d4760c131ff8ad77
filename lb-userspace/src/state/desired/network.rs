//! The host's network, as far as the program must know it.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    addr::{Addr, Socket},
    backend::{IngressPath, NextHop, ROUTES, Route},
    maps::HOST_ADDRESSES,
    service::Interface,
};

use super::Builder;

/// The ways to and from an endpoint's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The default asks the kernel's routing table for every packet.
    pub next_hop: NextHop,
    /// Where its packets may arrive.
    pub ingress: Vec<IngressPath>,
}

/// The host's network, as far as the program must know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkView {
    /// By endpoint address.
    pub paths: BTreeMap<Addr, Path>,
    /// NICs that the program is attached to; [`Interface::ifindex`] is set.
    pub interfaces: Vec<Interface>,
    /// Unicast addresses of this host.
    pub host_addresses: BTreeSet<Addr>,
    /// Routes towards clients, most specific first.
    pub client_routes: Vec<Route>,
}

impl Builder<'_> {
    pub(super) fn network(&mut self) {
        let network = self.inputs.network;
        self.out.interfaces = network.interfaces.iter().map(|i| (i.ifindex, *i)).collect();
        self.out.routes = network.client_routes.iter().take(ROUTES as usize).copied().collect();
        self.out.settings.routes = self.out.routes.len() as u32;
        let room = HOST_ADDRESSES as usize;
        self.out.host_index =
            network.host_addresses.iter().take(room).map(|&a| (Socket::host(a), 1)).collect();
        if network.host_addresses.len() > room {
            self.out.notices.push(format!(
                "this host has {} addresses; answers of backends to all but {room} of them are \
                 taken for answers to clients",
                network.host_addresses.len()
            ));
        }
    }
}
