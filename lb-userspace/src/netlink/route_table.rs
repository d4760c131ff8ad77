//! Routes ordered for longest-prefix look-up.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::model::Route;

/// The routing tables that every host consults, in this order (`ip rule`).
pub const LOCAL: u32 = 255;
pub const MAIN: u32 = 254;
pub const DEFAULT: u32 = 253;

/// Every route by table and prefix; the routes of one prefix are in order of their metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTables(BTreeMap<u32, BTreeMap<IpNet, Vec<Route>>>);

impl RouteTables {
    /// The ids of all tables that hold a route.
    pub fn tables(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.keys().copied()
    }

    /// The routes of one table in order of address and prefix length.
    pub fn of_table(&self, table: u32) -> impl Iterator<Item = &Route> + '_ {
        self.prefixes(table).flat_map(|(_, routes)| routes)
    }

    /// The prefixes of one table with their routes, best metric first.
    pub fn prefixes(&self, table: u32) -> impl Iterator<Item = (&IpNet, &Vec<Route>)> + '_ {
        self.0.get(&table).into_iter().flatten()
    }

    /// The routes of one table that cover an address, grouped by prefix, longest first.
    pub fn covering(&self, table: u32, address: IpAddr) -> impl Iterator<Item = &[Route]> + '_ {
        let longest = IpNet::from(address).max_prefix_len();
        let prefixes = self.0.get(&table);
        (0..=longest).rev().filter_map(move |length| {
            let prefix = IpNet::new(address, length).ok()?.trunc();
            prefixes?.get(&prefix).map(Vec::as_slice)
        })
    }
}

impl FromIterator<Route> for RouteTables {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        let mut tables: BTreeMap<u32, BTreeMap<IpNet, Vec<Route>>> = BTreeMap::new();
        for route in routes {
            let prefixes = tables.entry(route.table).or_default();
            prefixes.entry(route.destination.trunc()).or_default().push(route);
        }
        for group in tables.values_mut().flat_map(BTreeMap::values_mut) {
            group.sort_by_key(|route| route.metric);
        }
        Self(tables)
    }
}
