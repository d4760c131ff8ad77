//! The controller of sip-lb. YAML → maps, in the order of the modules below.

pub mod cli;
pub mod config;
pub mod datapath;
pub mod host;
pub mod maps;
pub mod netlink;
pub mod probe;
pub mod reconcile;
pub mod state;
