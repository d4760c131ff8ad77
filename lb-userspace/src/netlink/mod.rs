//! Links, addresses, routes and neighbours of this host, followed by netlink.
//!
//! [`Network`] and what it answers ([`Network::next_hop`], [`Network::ingress_paths`],
//! [`Network::client_routes`]) are pure; [`spawn`] starts the task that keeps one up to date.

pub mod client_routes;
mod decode;
mod keeper;
mod kernel;
mod mirror;
pub mod model;
pub mod next_hop;
mod offload;
pub mod route_table;

pub use client_routes::{ClientRoute, MAX_CLIENT_ROUTES};
pub use kernel::NetlinkError;
pub use mirror::{NetlinkHandle, Options, spawn};
pub use model::{Link, LinkKind, Mac, Neighbour, NeighbourState, Network, VlanTag};
pub use next_hop::{Incomplete, IngressPath, NextHop, Resolved, Unusable};
pub use offload::{OffloadError, Offloads, offloads};

#[cfg(test)]
mod client_routes_tests;
#[cfg(test)]
mod decode_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod next_hop_tests;
#[cfg(test)]
pub(crate) mod sample;
