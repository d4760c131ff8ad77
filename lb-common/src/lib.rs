//! What the XDP program and the controller share.
//!
//! Everything here is pure and builds without `std`: the kernel compiles the same text as the
//! tests, the fuzzers, `route` and `replay`.
//!
//! # Layout rules for map values
//!
//! 1. Addresses, ports and MACs are byte arrays in network order; accessors convert. Ids, epochs
//!    and counters are integers in host order (the kernel and the controller share one host).
//! 2. No implicit padding, no `bool`, no Rust enum or `Option`: each type has a compile-time size.
//! 3. Ids start at 1; 0 means unset and has a counter of its own.
//! 4. A change of any layout changes [`maps::LAYOUT`], and with it the pin directory.
#![cfg_attr(not(any(feature = "user", test)), no_std)]

pub mod addr;
pub mod backend;
pub mod checksum;
pub mod clock;
pub mod dialog;
pub mod fragment;
pub mod hash;
pub mod index;
pub mod maps;
#[cfg(feature = "user")]
pub mod pod;
pub mod service;
pub mod sip;
pub mod slow;
pub mod stats;
pub mod stun;
pub mod table;
pub mod transition;
pub mod verdict;
pub mod watch;
