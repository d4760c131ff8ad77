//! What the tests of sip-lb stand on: packets with checksums of their own, SIP messages, a
//! laboratory of network namespaces, and real SIP peers in it.
//!
//! `cargo xtask demo` runs in the same laboratory.
#![deny(unsafe_code)]

pub mod balancer;
pub mod command;
pub mod frame;
pub mod kamailio;
pub mod lab;
pub mod message;
pub mod net;
pub mod packet;
pub mod peer;
pub mod process;
pub mod qemu;
pub mod sipp;
pub mod socket;
pub mod stage;
mod statistics;
pub mod tap;
