//! Map values that may be copied to and from the kernel byte by byte.

use aya::Pod;

use crate::{
    backend::{Binding, Endpoint, Route},
    clock::Clock,
    fragment,
    index::Slot,
    maps::Settings,
    service::{Interface, Listener, Name},
    slow::{Desk, Record},
    stats::BindingStats,
    table::MemberOrder,
    verdict::Decision,
    watch,
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
    Desk,
    Record,
    fragment::Key,
    fragment::Record,
    watch::Desk,
    watch::Filter,
    watch::Seen,
);

/// The value that `bytes` begin with, and the rest; `None` if there are too few.
#[must_use]
pub fn split<T: Pod>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (head, rest) = bytes.split_at_checked(size_of::<T>())?;
    // SAFETY: as many bytes as the value has, any of which are valid for it; they are copied
    // without regard to alignment.
    Some((unsafe { head.as_ptr().cast::<T>().read_unaligned() }, rest))
}

/// The bytes of a value.
#[must_use]
pub fn bytes<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: all bytes of the value are initialised, and they live as long as it does.
    unsafe { core::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}
