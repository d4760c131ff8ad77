//! The laboratories that tests ask for: callers, an edge host for sip-lb, backends.
//!
//! ```text
//!   callers ── clients' network ── edge host ── backends' network ── backends      two arms
//!   callers ──────────────────┬── backends                                         one arm
//!                         edge host
//! ```
//!
//! A router may stand between callers and edge host, and between edge host and backends.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Host, Lab};
use crate::net::{self, Family, SIP, Subnet};

/// How the edge host is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    /// `eth0` to the clients, `eth1` to the backends.
    Two,
    /// `eth0` to both, on one wire.
    One,
}

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub family: Family,
    pub arms: Arms,
    pub callers: u8,
    pub backends: u8,
    /// Virtual addresses on the edge host's loopback.
    pub vips: u8,
    /// Callers live behind a router.
    pub client_router: bool,
    /// Backends live behind a router.
    pub backend_router: bool,
}

impl Default for Plan {
    /// IPv4, two arms, one caller, two backends, one VIP, no routers.
    fn default() -> Self {
        Self {
            family: Family::V4,
            arms: Arms::Two,
            callers: 1,
            backends: 2,
            vips: 1,
            client_router: false,
            backend_router: false,
        }
    }
}

/// A laboratory ready for traffic: everything is routed, nothing runs.
#[derive(Debug)]
pub struct Site {
    pub lab: Lab,
    pub family: Family,
    pub edge: Host,
    /// The edge host's NICs, as `interfaces:` takes them.
    pub interfaces: Vec<String>,
    pub callers: Vec<Host>,
    pub backends: Vec<Host>,
    /// Where callers and backends live.
    client_net: Net,
    backend_net: Net,
}

impl Plan {
    /// Builds the laboratory.
    ///
    /// # Errors
    /// Names the command that failed.
    pub fn build(self) -> Result<Site> {
        let family = self.family;
        let mut lab = Lab::new()?;
        let edge = lab.host("edge")?;
        edge.forward()?;
        let (clients, backends, interfaces) = self.plug_edge(&mut lab, &edge)?;
        edge.address(clients.nic, &Subnet::Clients.interface(family, 1))?;
        edge.address(backends.nic, &Subnet::Backends.interface(family, 1))?;
        for n in 0..self.vips {
            edge.address("lo", &net::vip(family, n).ip().to_string())?;
        }

        let mut near = |near: &Net, far: &Net, name: &str| -> Result<()> {
            let router = lab.host(name)?;
            router.forward()?;
            lab.plug(&router, "eth0", near.network)?;
            lab.plug(&router, "eth1", far.network)?;
            router.address("eth0", &near.subnet.interface(family, 2))?;
            router.address("eth1", &far.subnet.interface(family, 1))?;
            router.route(&format!("default via {}", near.subnet.host(family, 1)))?;
            let router = near.subnet.host(family, 2);
            edge.route(&format!("{} via {router}", far.subnet.network(family)))
        };
        let mut client_net = clients;
        if self.client_router {
            let far = Net::new("farclients", Subnet::FarClients, "");
            near(&client_net, &far, "crouter")?;
            client_net = far;
        }
        let mut backend_net = backends;
        if self.backend_router {
            let far = Net::new("farbackends", Subnet::FarBackends, "");
            near(&backend_net, &far, "brouter")?;
            backend_net = far;
        }

        let mut site = Site {
            lab,
            family,
            edge,
            interfaces,
            callers: Vec::new(),
            backends: Vec::new(),
            client_net,
            backend_net,
        };
        for n in 0..self.callers {
            let host = site.leaf(&format!("caller{n}"), client_net, 10 + n)?;
            site.callers.push(host);
        }
        for n in 0..self.backends {
            let host = site.leaf(&format!("backend{n}"), backend_net, 200 + n)?;
            site.backends.push(host);
        }
        Ok(site)
    }

    /// The edge host's networks towards clients and backends, and its NICs.
    fn plug_edge(self, lab: &mut Lab, edge: &Host) -> Result<(Net, Net, Vec<String>)> {
        let eth0 = "eth0".to_owned();
        lab.plug(edge, "eth0", "clients")?;
        let clients = Net::new("clients", Subnet::Clients, "eth0");
        match self.arms {
            Arms::Two => {
                lab.plug(edge, "eth1", "backends")?;
                let backends = Net::new("backends", Subnet::Backends, "eth1");
                Ok((clients, backends, vec![eth0, "eth1".to_owned()]))
            }
            Arms::One => {
                let backends = Net::new("clients", Subnet::Backends, "eth0");
                Ok((clients, backends, vec![eth0]))
            }
        }
    }
}

impl Site {
    /// A host with one NIC and a default route: by the edge host, or by the router before it.
    fn leaf(&mut self, name: &str, net: Net, number: u8) -> Result<Host> {
        let host = self.lab.host(name)?;
        self.lab.plug(&host, "eth0", net.network)?;
        host.address("eth0", &net.subnet.interface(self.family, number))?;
        host.route(&format!("default via {}", net.subnet.host(self.family, 1)))?;
        Ok(host)
    }

    /// One more host among the backends, such as a client that shares their network; its address
    /// is host `number` of their subnet.
    ///
    /// # Errors
    /// Names the command that failed.
    pub fn add_among_backends(&mut self, name: &str, number: u8) -> Result<(Host, SocketAddr)> {
        let net = self.backend_net;
        let host = self.leaf(name, net, number)?;
        Ok((host, SocketAddr::new(net.subnet.host(self.family, number), SIP)))
    }

    /// The n-th virtual address, port 5060.
    #[must_use]
    pub fn vip(&self, n: u8) -> SocketAddr {
        net::vip(self.family, n)
    }

    /// The n-th caller's address, port 5060.
    #[must_use]
    pub fn caller_address(&self, n: u8) -> SocketAddr {
        SocketAddr::new(self.client_net.subnet.host(self.family, 10 + n), SIP)
    }

    /// The n-th backend's address, port 5060.
    #[must_use]
    pub fn backend_address(&self, n: u8) -> SocketAddr {
        SocketAddr::new(self.backend_net.subnet.host(self.family, 200 + n), SIP)
    }
}

/// A network, and the edge host's device on it (empty if it has none).
#[derive(Clone, Copy, Debug)]
struct Net {
    network: &'static str,
    subnet: Subnet,
    nic: &'static str,
}

impl Net {
    const fn new(network: &'static str, subnet: Subnet, nic: &'static str) -> Self {
        Self { network, subnet, nic }
    }
}
