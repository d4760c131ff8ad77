//! Map values that may be copied to and from the kernel byte by byte.

use aya::Pod;

use crate::{
    backend::{Binding, Endpoint, Route},
    clock::Clock,
    index::Slot,
    maps::Settings,
    service::{Interface, Listener, Name},
    stats::BindingStats,
    table::MemberOrder,
    verdict::Decision,
};

macro_rules! pod {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)` of integers and byte arrays, with explicit padding only (its
            // size is asserted beside the type), so every byte is initialised and every bit
            // pattern is valid.
            unsafe impl Pod for $type {}
        )+
    };
}

pod!(
    Binding,
    BindingStats,
    Clock,
    Decision,
    Endpoint,
    Interface,
    Listener,
    MemberOrder,
    Name,
    Route,
    Settings,
    Slot,
);
