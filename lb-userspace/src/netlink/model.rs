//! What the kernel knows about links, addresses, routes and neighbours of one network namespace,
//! as plain values: no netlink types, no I/O.
//!
//! Interface indices are the kernel's (from 1), MTUs are bytes without the Ethernet header, tags are
//! host-order numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::route_table::RouteTables;

/// An Ethernet address in wire order.
pub type Mac = [u8; 6];

/// Everything that decides where a packet leaves this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// By interface index.
    pub links: BTreeMap<u32, Link>,
    pub addresses: BTreeSet<InterfaceAddress>,
    /// Shared, because a host may hold a full routing table and snapshots are taken often.
    pub routes: Arc<RouteTables>,
    /// By device (interface index of the VLAN device where there is one) and address.
    pub neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    pub policy_rules: PolicyRules,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `None` for links that are not Ethernet.
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: u32,
    /// Set up by the administrator.
    pub up: bool,
    /// The lower layer is connected; always `false` while the link is down.
    pub carrier: bool,
    pub kind: LinkKind,
    /// The bridge, bond, team or VRF that this link is a port of.
    pub master: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A NIC, or what acts like one (a tap device).
    Ethernet,
    Veth {
        /// Interface index of the other end; `None` when that lives in another namespace.
        peer: Option<u32>,
    },
    Loopback,
    Vlan {
        tag: VlanTag,
        /// `None` when the lower link lives in another namespace.
        lower: Option<u32>,
    },
    /// A further MAC on a lower link, as VRRP daemons make them.
    Macvlan {
        lower: Option<u32>,
    },
    Bridge,
    /// A bond or a team.
    Bond,
    Dummy,
    Vrf,
    /// Tunnels and the rest, by the kernel's name for them.
    Other(String),
}

/// One VLAN tag as it stands in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanTag {
    /// 0x8100 (802.1Q) or 0x88A8 (802.1ad).
    pub tpid: u16,
    /// Priority bits 0, then the 12-bit VLAN id.
    pub tci: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    pub device: u32,
    /// The address with the prefix length it was configured with.
    pub address: IpNet,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// 255 local, 254 main, 253 default, else the administrator's.
    pub table: u32,
    pub destination: IpNet,
    /// Lower is preferred.
    pub metric: u32,
    pub kind: RouteKind,
    /// The route applies only to some types of service or source addresses.
    pub selective: bool,
    /// MTU set on the route itself, bytes.
    pub mtu: Option<u32>,
    /// The host's own address that packets on this route prefer.
    pub preferred_source: Option<IpAddr>,
    /// More than one for ECMP; may be empty unless `kind` is [`RouteKind::Unicast`].
    pub legs: Vec<Leg>,
}

/// One next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    pub device: u32,
    /// `None` = the destination is on-link. May be of the other family (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// The kernel no longer uses it.
    pub dead: bool,
    /// Adds a tunnel or MPLS header of its own.
    pub encapsulates: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    Unicast,
    Local,
    /// Broadcast, multicast, anycast.
    NotUnicast,
    /// Blackhole, unreachable, prohibit.
    Refuse,
    /// Continue in the next table.
    Throw,
    /// A kind, or a next-hop object, that this program does not understand.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub state: NeighbourState,
    pub mac: Option<Mac>,
}

/// The kernel's NUD states (RFC 4861 §7.3.2 and `ip-neighbour(8)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    None,
    Incomplete,
    Reachable,
    Stale,
    Delay,
    Probe,
    Failed,
    NoArp,
    Permanent,
}

/// Whether routing depends on more than the destination (`ip rule`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyRules {
    pub ipv4: bool,
    pub ipv6: bool,
}

impl PolicyRules {
    /// Whether rules beyond local, main and default apply to the family of `address`.
    #[must_use]
    pub fn apply_to(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }
}

impl Neighbour {
    /// The MAC to send to, if the kernel itself would send to it now.
    #[must_use]
    pub fn usable_mac(&self) -> Option<Mac> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::NoArp
            | NeighbourState::Permanent => self.mac,
            NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed => None,
        }
    }
}

impl Network {
    #[must_use]
    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Every address of this host, of all interfaces, and every single address that the local
    /// routing table claims.
    #[must_use]
    pub fn local_addresses(&self) -> BTreeSet<IpAddr> {
        let routed = self
            .routes
            .of_table(super::route_table::LOCAL)
            .filter(|route| route.kind == RouteKind::Local)
            .filter(|route| route.destination.prefix_len() == route.destination.max_prefix_len())
            .map(|route| route.destination.addr());
        self.addresses.iter().map(|a| a.address.addr()).chain(routed).collect()
    }

    /// The MACs under which frames for this host may arrive on an interface: its own first, then
    /// those of VLAN and macvlan devices on it, of the bridge or bond that it is a port of (and
    /// what lies on that), and of its ports if it is one itself.
    #[must_use]
    pub fn interface_macs(&self, index: u32) -> Vec<Mac> {
        let mut devices = vec![index];
        self.add_uppers(index, &mut devices);
        if let Some(master) = self.switching_master(index) {
            devices.push(master);
            self.add_uppers(master, &mut devices);
        }
        devices.extend(self.ports(index).map(|port| port.index));

        let mut macs = Vec::new();
        for mac in devices.iter().filter_map(|d| self.links.get(d)?.mac) {
            if !macs.contains(&mac) {
                macs.push(mac);
            }
        }
        macs
    }

    /// Whether packets are forwarded alike under both views: neighbour states may differ as long
    /// as the same MACs are usable.
    #[must_use]
    pub fn forwards_like(&self, other: &Self) -> bool {
        fn usable(network: &Network) -> impl Iterator<Item = ((u32, IpAddr), Mac)> + '_ {
            network.neighbours.iter().filter_map(|(key, n)| Some((*key, n.usable_mac()?)))
        }
        self.links == other.links
            && self.addresses == other.addresses
            && self.policy_rules == other.policy_rules
            && self.routes == other.routes
            && usable(self).eq(usable(other))
    }

    /// The links enslaved to a bridge or bond; none for any other kind.
    pub(super) fn ports(&self, index: u32) -> impl Iterator<Item = &Link> + '_ {
        let switches = self.links.get(&index).is_some_and(|link| link.kind.has_ports());
        self.links.values().filter(move |link| switches && link.master == Some(index))
    }

    fn switching_master(&self, index: u32) -> Option<u32> {
        let master = self.links.get(&index)?.master?;
        self.links.get(&master)?.kind.has_ports().then_some(master)
    }

    /// Appends the VLAN and macvlan devices above `index`, depth first; `devices` also guards
    /// against a loop in what netlink reported.
    fn add_uppers(&self, index: u32, devices: &mut Vec<u32>) {
        for link in self.links.values().filter(|link| link.kind.lower() == Some(index)) {
            if !devices.contains(&link.index) {
                devices.push(link.index);
                self.add_uppers(link.index, devices);
            }
        }
    }
}

impl LinkKind {
    /// The link below a VLAN or macvlan device.
    #[must_use]
    pub fn lower(&self) -> Option<u32> {
        match self {
            Self::Vlan { lower, .. } | Self::Macvlan { lower } => *lower,
            Self::Ethernet
            | Self::Veth { .. }
            | Self::Loopback
            | Self::Bridge
            | Self::Bond
            | Self::Dummy
            | Self::Vrf
            | Self::Other(_) => None,
        }
    }

    fn has_ports(&self) -> bool {
        matches!(self, Self::Bridge | Self::Bond)
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ethernet => f.write_str("ethernet"),
            Self::Veth { .. } => f.write_str("veth"),
            Self::Loopback => f.write_str("loopback"),
            Self::Vlan { tag, .. } => write!(f, "vlan {tag}"),
            Self::Macvlan { .. } => f.write_str("macvlan"),
            Self::Bridge => f.write_str("bridge"),
            Self::Bond => f.write_str("bond"),
            Self::Dummy => f.write_str("dummy"),
            Self::Vrf => f.write_str("vrf"),
            Self::Other(kind) => f.write_str(kind),
        }
    }
}

impl fmt::Display for VlanTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.tci & 0x0fff)
    }
}
