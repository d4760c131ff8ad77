//! The XDP program in the kernel: loading and pinning it, attaching it to interfaces, reading what
//! it counts, and keeping its dialog table tidy.
//!
//! [`live::Live`] is the program that balances traffic, pinned so that it outlives this process;
//! [`private::Private`] is one of its own, attached to nothing, for `replay`, tests and benchmarks.

pub mod attach;
pub mod clock;
pub mod counters;
pub mod detach;
pub mod dialogs;
pub mod error;
mod fdinfo;
pub mod fragments;
pub(crate) mod generation;
pub mod inspect;
pub mod interfaces;
pub mod live;
pub mod load;
pub mod loads;
pub mod logs;
mod migrate;
pub mod pins;
pub mod private;
pub mod reline;
pub mod remains;
mod shape;
pub mod stats;
pub mod sweep;
pub mod testrun;
pub mod watch;

pub use error::{Error, Result};
