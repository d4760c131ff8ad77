//! A map of the kernel as memory of this process: the only unsafe code of the controller.
//!
//! Only array maps made with `BPF_F_MMAPABLE` can be mapped. The datapath reads and writes the same
//! bytes at the same time, hence atomics of the size that the datapath uses.

#![allow(unsafe_code, reason = "aya keeps its own mapping type to itself")]

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    slice,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64},
};

use aya::maps::{MapData, MapInfo, MapType};
use memmap2::{MmapOptions, MmapRaw};

/// `BPF_F_MMAPABLE` of `linux/bpf.h`.
const MMAPABLE: u32 = 1 << 10;

/// Types that may lie in memory shared with the datapath.
///
/// # Safety
///
/// Every bit pattern is valid, the alignment is at most 8, and access through a shared reference
/// is atomic.
pub unsafe trait Shared: Send + Sync {}

// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU8 {}
// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU32 {}
// SAFETY: an atomic integer, aligned to 8 bytes at most.
unsafe impl Shared for AtomicU64 {}

/// All bytes of an array map, as a slice of `T`.
///
/// Each value begins at a multiple of eight bytes, as the kernel lays them out: a map of `u32`
/// values, seen as `AtomicU32`, has its values at even indices ([`MappedArray::stride`]).
#[derive(Debug)]
pub struct MappedArray<T> {
    memory: MmapRaw,
    /// Elements of `T`.
    len: usize,
    /// Elements of `T` from one value to the next.
    stride: usize,
    element: PhantomData<T>,
}

impl<T: Shared> MappedArray<T> {
    /// Maps the whole of `map`, readable and writable; it stays mapped after `map` is closed.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the map is no mappable array; else what mmap(2) says.
    pub fn new(map: &MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let bytes = mapped_bytes(&info)?;
        let memory = MmapOptions::new().len(bytes).map_raw(map.fd().as_fd().as_raw_fd())?;
        let value = value_stride(&info);
        let size = size_of::<T>();
        Ok(Self { memory, len: bytes / size, stride: value / size, element: PhantomData })
    }

    /// Every element of every value.
    #[must_use]
    pub fn elements(&self) -> &[T] {
        // SAFETY: the pointer is the start of a mapping of `len * size_of::<T>()` bytes or more,
        // page-aligned and so aligned for T, that lives as long as `self.memory`, which the
        // returned borrow keeps. The kernel zeroes the array when it makes it and never shrinks
        // it, and T is valid for every bit pattern. Others (the datapath, other mappings) write to
        // it only while we hold `&T`s of atomic types, which allow that. That the length is within
        // the mapping follows from `mapped_bytes`: value size rounded up to 8 times the number of
        // entries is the size of the kernel's own allocation for an array map, which mmap would
        // otherwise have refused.
        unsafe { slice::from_raw_parts(self.memory.as_mut_ptr().cast::<T>(), self.len) }
    }

    /// Elements of `T` from the begin of one value to that of the next.
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// The elements of value `row`, alignment padding included.
    #[must_use]
    pub fn row(&self, row: u32) -> Option<&[T]> {
        let begin = self.stride.checked_mul(row as usize)?;
        self.elements().get(begin..begin + self.stride)
    }
}

/// Bytes from one value to the next (`array_map_alloc` rounds up to 8).
fn value_stride(info: &MapInfo) -> usize {
    (info.value_size() as usize).next_multiple_of(8)
}

fn mapped_bytes(info: &MapInfo) -> io::Result<usize> {
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why.to_owned()));
    if !matches!(info.map_type(), Ok(MapType::Array)) {
        return refuse("only an array map can be mapped");
    }
    if info.map_flags() & MMAPABLE == 0 {
        return refuse("the map was made without BPF_F_MMAPABLE");
    }
    value_stride(info)
        .checked_mul(info.max_entries() as usize)
        .map_or_else(|| refuse("the map is larger than memory"), Ok)
}
