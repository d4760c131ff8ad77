//! The controller of sip-lb. YAML → maps, in the order of the modules below.
#![deny(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod controller;
pub mod datapath;
pub mod event;
pub mod host;
pub mod maps;
pub mod metrics;
pub mod netlink;
pub mod probe;
pub mod reconcile;
pub mod replay;
pub mod shutdown;
pub mod slow;
pub mod state;
pub mod status;
pub mod watch;
