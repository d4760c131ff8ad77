//! Where a packet leaves this host, and by which way its sender's packets come in.
//!
//! The datapath sends frames itself: it needs the physical interface (VLAN devices cannot take
//! redirected frames), the tags, both MACs and the MTU. What it cannot know that way is
//! [`NextHop::Unusable`], and the program asks the kernel packet by packet instead.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use super::{
    model::{Leg, LinkKind, Mac, Network, Route, RouteKind, VlanTag},
    route_table::{DEFAULT, LOCAL, MAIN},
};

/// Tags that the datapath can read and write.
pub const MAX_VLANS: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Ready to send.
    Resolved(Resolved),
    /// The way is known, the neighbour's MAC is not: resolve it.
    Incomplete(Incomplete),
    /// The datapath must ask the kernel.
    Unusable(Unusable),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Physical interface, below VLAN and macvlan devices.
    pub ifindex: u32,
    /// Tags to put on the frame, outermost first; at most [`MAX_VLANS`].
    pub vlans: Vec<VlanTag>,
    pub src_mac: Mac,
    pub dst_mac: Mac,
    /// Smallest of the devices' and the route's, bytes of IP packet.
    pub mtu: u32,
    /// The destination itself is the neighbour.
    pub on_link: bool,
    pub gateway: Option<IpAddr>,
    /// The device that the route names: what neighbours and sysctls belong to.
    pub device: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// Physical interface, below VLAN and macvlan devices.
    pub ifindex: u32,
    /// Outermost first.
    pub vlans: Vec<VlanTag>,
    pub on_link: bool,
    /// The address whose MAC is unknown, a neighbour on `device`.
    pub resolve: IpAddr,
    pub device: u32,
}

/// Why the datapath cannot send to a destination by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    NoRoute,
    /// A blackhole, unreachable or prohibit route.
    Refused,
    /// An address of this host.
    Local,
    /// Broadcast, multicast or unspecified.
    NotUnicast,
    /// `ip rule` entries beyond the standard ones: routing depends on more than the destination.
    PolicyRules,
    /// The route applies to some types of service or sources only.
    SelectiveRoute,
    /// The route adds a header of its own.
    Encapsulated,
    /// The route is of a kind that this program does not understand.
    UnknownRoute,
    /// The route names a device that netlink has not shown (yet).
    UnknownDevice {
        index: u32,
    },
    LinkDown {
        device: String,
    },
    /// Bridges, bonds, tunnels: the kernel decides about the frame behind them.
    UnsupportedDevice {
        device: String,
        kind: String,
    },
    TooManyVlans {
        device: String,
    },
    /// A connected prefix: each address in it has a neighbour of its own.
    OnLinkPrefix,
}

/// A physical interface and the tags that frames bear on it, outermost first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IngressPath {
    pub ifindex: u32,
    pub vlans: Vec<VlanTag>,
}

/// What a device adds to a frame on its way to the wire.
struct Egress {
    ifindex: u32,
    vlans: Vec<VlanTag>,
    src_mac: Mac,
    mtu: u32,
}

impl Network {
    /// Where a packet to `destination` leaves. Of several equal next hops the first that is
    /// resolved; else the first that could be.
    #[must_use]
    pub fn next_hop(&self, destination: IpAddr) -> NextHop {
        match self.routes_to(destination) {
            Ok(routes) => self.first_usable(&routes, destination),
            Err(reason) => NextHop::Unusable(reason),
        }
    }

    /// Every way by which packets from `source` may come in if it answers on the path that this
    /// host uses towards it: all next hops of the best route (all tables' where `ip rule`
    /// entries choose among them), and every port of a bridge or bond.
    #[must_use]
    pub fn ingress_paths(&self, source: IpAddr) -> Vec<IngressPath> {
        let mut paths = BTreeSet::new();
        for leg in self.legs_towards(source) {
            self.add_paths(leg.device, &[], 0, &mut paths);
        }
        paths.into_iter().collect()
    }

    /// The neighbours on all equal ways to `destination`, as (device, address).
    #[must_use]
    pub fn neighbours_towards(&self, destination: IpAddr) -> Vec<(u32, IpAddr)> {
        let Ok(routes) = self.routes_to(destination) else { return Vec::new() };
        let mut neighbours = Vec::new();
        for leg in routes.iter().flat_map(|route| &route.legs) {
            let neighbour = (leg.device, leg.gateway.unwrap_or(destination));
            if self.is_live(leg) && self.egress(leg.device).is_ok() {
                neighbours.push(neighbour);
            }
        }
        neighbours
    }

    /// The devices that routes towards `destination` name, before VLANs are resolved.
    #[must_use]
    pub fn devices_towards(&self, destination: IpAddr) -> BTreeSet<u32> {
        self.legs_towards(destination).map(|leg| leg.device).collect()
    }

    /// Whether the kernel delivers packets for `address` to this host itself.
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.routes_to(address) == Err(Unusable::Local)
    }

    /// The next hop of the routes of one prefix, for any address in it; `None` where the prefix
    /// decides nothing (all its routes are dead).
    pub(super) fn via_prefix(&self, group: &[Route]) -> Option<NextHop> {
        let routes = match self.choose(group, self.best_route(group)?) {
            Ok(routes) => routes,
            Err(reason) => return Some(NextHop::Unusable(reason)),
        };
        if routes.iter().any(|route| route.legs.iter().any(|leg| leg.gateway.is_none())) {
            return Some(NextHop::Unusable(Unusable::OnLinkPrefix));
        }
        // Every leg has a gateway, so the destination does not matter.
        Some(self.first_usable(&routes, IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
    }

    fn legs_towards(&self, address: IpAddr) -> impl Iterator<Item = &Leg> + '_ {
        let routes = if self.policy_rules.apply_to(address) {
            let best = |table| self.best_of(table, address)?.ok();
            self.routes.tables().filter_map(best).flatten().collect()
        } else {
            self.routes_to(address).unwrap_or_default()
        };
        routes.into_iter().flat_map(|route| &route.legs)
    }

    /// The unicast routes to a destination that share the longest prefix and the best metric.
    fn routes_to(&self, destination: IpAddr) -> Result<Vec<&Route>, Unusable> {
        if destination.is_multicast()
            || destination.is_unspecified()
            || destination == IpAddr::V4(Ipv4Addr::BROADCAST)
        {
            return Err(Unusable::NotUnicast);
        }
        if let Some(decision) = self.best_of(LOCAL, destination) {
            return decision;
        }
        if self.policy_rules.apply_to(destination) {
            return Err(Unusable::PolicyRules);
        }
        self.best_of(MAIN, destination)
            .or_else(|| self.best_of(DEFAULT, destination))
            .unwrap_or(Err(Unusable::NoRoute))
    }

    /// The decision of one table, `None` where it has none and the next table is asked.
    fn best_of(&self, table: u32, destination: IpAddr) -> Option<Result<Vec<&Route>, Unusable>> {
        let (group, best) = self
            .routes
            .covering(table, destination)
            .find_map(|group| Some((group, self.best_route(group)?)))?;
        (best.kind != RouteKind::Throw).then(|| self.choose(group, best))
    }

    /// The route that wins within one prefix; `None` when all of them are dead, as the kernel
    /// then tries the next shorter prefix.
    fn best_route<'a>(&self, group: &'a [Route]) -> Option<&'a Route> {
        group.iter().find(|route| match route.kind {
            RouteKind::Unicast => route.legs.iter().any(|leg| self.is_live(leg)),
            RouteKind::Local
            | RouteKind::NotUnicast
            | RouteKind::Refuse
            | RouteKind::Throw
            | RouteKind::Unknown => true,
        })
    }

    /// The unicast routes of one prefix that are as good as the best one.
    fn choose<'a>(&self, group: &'a [Route], best: &Route) -> Result<Vec<&'a Route>, Unusable> {
        if group.iter().any(|route| route.selective) {
            return Err(Unusable::SelectiveRoute);
        }
        match best.kind {
            RouteKind::Unicast => Ok(group
                .iter()
                .filter(|route| route.metric == best.metric && route.kind == RouteKind::Unicast)
                .collect()),
            RouteKind::Local => Err(Unusable::Local),
            RouteKind::NotUnicast => Err(Unusable::NotUnicast),
            RouteKind::Refuse => Err(Unusable::Refused),
            RouteKind::Throw => Err(Unusable::NoRoute),
            RouteKind::Unknown => Err(Unusable::UnknownRoute),
        }
    }

    fn is_live(&self, leg: &Leg) -> bool {
        !leg.dead && self.links.get(&leg.device).is_none_or(|link| link.up)
    }

    fn first_usable(&self, routes: &[&Route], destination: IpAddr) -> NextHop {
        let mut fallback: Option<NextHop> = None;
        for (route, leg) in routes.iter().flat_map(|r| r.legs.iter().map(move |leg| (r, leg))) {
            if !self.is_live(leg) {
                continue;
            }
            let hop = self.via(route, leg, destination);
            match (&hop, &fallback) {
                (NextHop::Resolved(_), _) => return hop,
                (NextHop::Incomplete(_), None | Some(NextHop::Unusable(_)))
                | (NextHop::Unusable(_), None) => fallback = Some(hop),
                (NextHop::Incomplete(_) | NextHop::Unusable(_), Some(_)) => {}
            }
        }
        fallback.unwrap_or(NextHop::Unusable(Unusable::NoRoute))
    }

    fn via(&self, route: &Route, leg: &Leg, destination: IpAddr) -> NextHop {
        if leg.encapsulates {
            return NextHop::Unusable(Unusable::Encapsulated);
        }
        let Egress { ifindex, vlans, src_mac, mtu } = match self.egress(leg.device) {
            Ok(egress) => egress,
            Err(reason) => return NextHop::Unusable(reason),
        };
        let device = leg.device;
        let on_link = leg.gateway.is_none();
        let resolve = leg.gateway.unwrap_or(destination);
        match self.neighbours.get(&(device, resolve)).and_then(|n| n.usable_mac()) {
            Some(dst_mac) => NextHop::Resolved(Resolved {
                ifindex,
                vlans,
                src_mac,
                dst_mac,
                mtu: route.mtu.map_or(mtu, |own| own.min(mtu)),
                on_link,
                gateway: leg.gateway,
                device,
            }),
            None => NextHop::Incomplete(Incomplete { ifindex, vlans, on_link, resolve, device }),
        }
    }

    /// Follows a device down to the wire.
    fn egress(&self, device: u32) -> Result<Egress, Unusable> {
        let mut vlans = Vec::new();
        let mut mtu = u32::MAX;
        let mut src_mac = None;
        let mut index = device;
        // A chain of devices is at most as long as there are links; more is a loop.
        for _ in 0..=self.links.len() {
            let link = self.links.get(&index).ok_or(Unusable::UnknownDevice { index })?;
            let name = || link.name.clone();
            let unsupported =
                || Unusable::UnsupportedDevice { device: name(), kind: link.kind.to_string() };
            if !(link.up && link.carrier) {
                return Err(Unusable::LinkDown { device: name() });
            }
            mtu = mtu.min(link.mtu);
            src_mac = src_mac.or(link.mac);
            match &link.kind {
                LinkKind::Vlan { tag, lower } => {
                    vlans.insert(0, *tag);
                    if vlans.len() > MAX_VLANS {
                        return Err(Unusable::TooManyVlans { device: name() });
                    }
                    index = lower.ok_or_else(unsupported)?;
                }
                LinkKind::Macvlan { lower } => index = lower.ok_or_else(unsupported)?,
                LinkKind::Ethernet | LinkKind::Veth { .. } => {
                    let src_mac = src_mac.ok_or_else(unsupported)?;
                    return Ok(Egress { ifindex: index, vlans, src_mac, mtu });
                }
                LinkKind::Loopback
                | LinkKind::Bridge
                | LinkKind::Bond
                | LinkKind::Dummy
                | LinkKind::Vrf
                | LinkKind::Other(_) => return Err(unsupported()),
            }
        }
        Err(Unusable::UnknownDevice { index })
    }

    /// `depth` bounds the walk should netlink report devices in a circle.
    fn add_paths(
        &self,
        index: u32,
        inner: &[VlanTag],
        depth: usize,
        paths: &mut BTreeSet<IngressPath>,
    ) {
        let Some(link) = self.links.get(&index).filter(|_| depth <= self.links.len()) else {
            return;
        };
        match &link.kind {
            LinkKind::Vlan { tag, lower } => {
                let vlans: Vec<VlanTag> = [&[*tag], inner].concat();
                if let Some(lower) = lower {
                    self.add_paths(*lower, &vlans, depth + 1, paths);
                }
            }
            LinkKind::Macvlan { lower } => {
                if let Some(lower) = lower {
                    self.add_paths(*lower, inner, depth + 1, paths);
                }
            }
            LinkKind::Ethernet
            | LinkKind::Veth { .. }
            | LinkKind::Loopback
            | LinkKind::Bridge
            | LinkKind::Bond
            | LinkKind::Dummy
            | LinkKind::Vrf
            | LinkKind::Other(_) => {
                paths.insert(IngressPath { ifindex: index, vlans: inner.to_vec() });
                for port in self.ports(index) {
                    self.add_paths(port.index, inner, depth + 1, paths);
                }
            }
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("no route"),
            Self::Refused => f.write_str("a blackhole, unreachable or prohibit route"),
            Self::Local => f.write_str("an address of this host"),
            Self::NotUnicast => f.write_str("not a unicast address"),
            Self::PolicyRules => f.write_str("policy routing rules (ip rule)"),
            Self::SelectiveRoute => {
                f.write_str("a route for some types of service or sources only")
            }
            Self::Encapsulated => f.write_str("a route that encapsulates"),
            Self::UnknownRoute => f.write_str("a route of unknown kind"),
            Self::UnknownDevice { index } => write!(f, "unknown interface index {index}"),
            Self::LinkDown { device } => write!(f, "{device} is down"),
            Self::UnsupportedDevice { device, kind } => write!(f, "{device} is a {kind} device"),
            Self::TooManyVlans { device } => {
                write!(f, "{device} adds more than {MAX_VLANS} VLAN tags")
            }
            Self::OnLinkPrefix => f.write_str("a connected prefix"),
        }
    }
}
