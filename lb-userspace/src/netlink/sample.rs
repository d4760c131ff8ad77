//! A `Network` written down in a few lines, for tests.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::model::{
    InterfaceAddress, Leg, Link, LinkKind, Mac, Neighbour, NeighbourState, Network, Route,
    RouteKind, VlanTag,
};

#[derive(Default)]
pub(crate) struct Sample {
    network: Network,
    routes: Vec<Route>,
}

/// The MAC that a sample link of this index has.
pub(crate) fn link_mac(index: u32) -> Mac {
    [2, 0, 0, 0, 0, u8::try_from(index).unwrap()]
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn q(id: u16) -> VlanTag {
    VlanTag { tpid: 0x8100, tci: id }
}

pub(crate) fn ad(id: u16) -> VlanTag {
    VlanTag { tpid: 0x88a8, tci: id }
}

pub(crate) fn leg(device: u32, gateway: Option<&str>) -> Leg {
    Leg { device, gateway: gateway.map(ip), dead: false, encapsulates: false }
}

pub(crate) fn route(destination: &str, legs: Vec<Leg>) -> Route {
    Route {
        table: 254,
        destination: net(destination),
        metric: 0,
        kind: RouteKind::Unicast,
        selective: false,
        mtu: None,
        preferred_source: None,
        legs,
    }
}

pub(crate) fn special(table: u32, destination: &str, kind: RouteKind) -> Route {
    Route { table, kind, ..route(destination, Vec::new()) }
}

impl Sample {
    pub(crate) fn link(mut self, index: u32, name: &str, kind: LinkKind) -> Self {
        let link = Link {
            index,
            name: name.into(),
            mac: Some(link_mac(index)),
            mtu: 1500,
            up: true,
            carrier: true,
            kind,
            master: None,
        };
        self.network.links.insert(index, link);
        self
    }

    pub(crate) fn vlan(self, index: u32, name: &str, tag: VlanTag, lower: u32) -> Self {
        self.link(index, name, LinkKind::Vlan { tag, lower: Some(lower) })
    }

    /// Changes a link already there.
    pub(crate) fn edit(mut self, index: u32, change: impl FnOnce(&mut Link)) -> Self {
        change(self.network.links.get_mut(&index).unwrap());
        self
    }

    /// An address with what the kernel derives from it: the local and the connected route.
    pub(crate) fn address(mut self, device: u32, address: &str) -> Self {
        let address = net(address);
        self.network.addresses.insert(InterfaceAddress { device, address });
        self.routes.push(special(255, &IpNet::from(address.addr()).to_string(), RouteKind::Local));
        if address.addr().is_loopback() {
            self.routes.push(special(255, &address.trunc().to_string(), RouteKind::Local));
        } else if address.prefix_len() < address.max_prefix_len() {
            self.routes.push(route(&address.trunc().to_string(), vec![leg(device, None)]));
        }
        self
    }

    pub(crate) fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    pub(crate) fn gateway(self, destination: &str, device: u32, gateway: &str) -> Self {
        self.route(route(destination, vec![leg(device, Some(gateway))]))
    }

    pub(crate) fn neighbour(self, device: u32, address: &str, mac: u8) -> Self {
        self.neighbour_in(NeighbourState::Reachable, device, address, mac)
    }

    pub(crate) fn neighbour_in(
        mut self,
        state: NeighbourState,
        device: u32,
        address: &str,
        mac: u8,
    ) -> Self {
        let mac = Some([2, 1, 1, 1, 1, mac]);
        self.network.neighbours.insert((device, ip(address)), Neighbour { state, mac });
        self
    }

    pub(crate) fn build(self) -> Network {
        Network { routes: Arc::new(self.routes.into_iter().collect()), ..self.network }
    }
}
