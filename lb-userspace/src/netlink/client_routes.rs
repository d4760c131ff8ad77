//! The routes towards clients as a list short enough for the datapath to walk for every packet.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    model::{Network, Route, RouteKind},
    next_hop::{NextHop, Unusable},
    route_table::{DEFAULT, LOCAL, MAIN},
};

/// Entries, of both families together, that the datapath walks.
pub const MAX_CLIENT_ROUTES: usize = 16;

/// Where packets to the addresses of one prefix go. Anything but [`NextHop::Resolved`] means: ask
/// the kernel (connected prefixes are [`Unusable::OnLinkPrefix`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRoute {
    pub prefix: IpNet,
    pub next_hop: NextHop,
}

impl Network {
    /// The routing table without redundant entries, longest prefix first: the first entry that
    /// covers an address decides, and an address that none covers has no route.
    ///
    /// `None` when such a list cannot say where packets go: there are policy rules, routes that
    /// hand over to another table, or more than [`MAX_CLIENT_ROUTES`] entries.
    #[must_use]
    pub fn client_routes(&self) -> Option<Vec<ClientRoute>> {
        if self.policy_rules.ipv4 || self.policy_rules.ipv6 {
            return None;
        }
        let claimed: Vec<(IpNet, &[Route])> = self.claimed_prefixes().collect();
        // The local table answers first, however long a prefix the main table has.
        let in_main = |(prefix, _): &(IpNet, &[Route])| {
            !claimed.iter().any(|(claim, _)| claim.contains(prefix))
        };
        let mut groups: Vec<(IpNet, &[Route])> = self
            .routes
            .prefixes(MAIN)
            .map(|(prefix, routes)| (*prefix, routes.as_slice()))
            .filter(in_main)
            .chain(claimed.iter().copied())
            .collect();
        let hands_over = |(_, routes): &(IpNet, &[Route])| {
            routes.iter().any(|route| route.kind == RouteKind::Throw)
        };
        if groups.iter().any(hands_over) || self.routes.of_table(DEFAULT).next().is_some() {
            return None;
        }

        // Shortest first, so that an entry is redundant if what covers it so far decides alike.
        groups.sort_by_key(|(prefix, _)| prefix.prefix_len());
        let mut kept: Vec<ClientRoute> = Vec::new();
        for (prefix, routes) in groups {
            let Some(next_hop) = self.via_prefix(routes) else { continue };
            let covering = kept.iter().rev().find(|route| route.prefix.contains(&prefix));
            if covering.is_some_and(|route| route.next_hop == next_hop) {
                continue;
            }
            if kept.len() == MAX_CLIENT_ROUTES {
                return None;
            }
            kept.push(ClientRoute { prefix, next_hop });
        }
        kept.reverse();
        Some(kept)
    }

    /// The neighbours behind which clients are, as (device, address): the gateways of
    /// [`Self::client_routes`].
    #[must_use]
    pub fn client_gateways(&self) -> Vec<(u32, IpAddr)> {
        let hops = self.client_routes().unwrap_or_default().into_iter().map(|r| r.next_hop);
        hops.filter_map(|hop| match hop {
            NextHop::Resolved(hop) => Some((hop.device, hop.gateway?)),
            NextHop::Incomplete(hop) => Some((hop.device, hop.resolve)),
            NextHop::Unusable(_) => None,
        })
        .collect()
    }

    /// Prefixes whose every address this host takes for its own. Single addresses are in
    /// [`Self::local_addresses`], and nobody sends to loopback ones from outside.
    fn claimed_prefixes(&self) -> impl Iterator<Item = (IpNet, &[Route])> + '_ {
        self.routes
            .prefixes(LOCAL)
            .filter(|(prefix, routes)| {
                prefix.prefix_len() < prefix.max_prefix_len()
                    && !prefix.addr().is_loopback()
                    && routes.iter().any(|route| route.kind == RouteKind::Local)
            })
            .map(|(prefix, routes)| (*prefix, routes.as_slice()))
    }
}

impl ClientRoute {
    /// Whether addresses of this prefix are neighbours themselves.
    #[must_use]
    pub fn is_on_link(&self) -> bool {
        self.next_hop == NextHop::Unusable(Unusable::OnLinkPrefix)
    }
}
