//! Open-addressed index from a socket to an id, in one array map: about 2 ns where a kernel hash
//! map costs 22 (it has a call).
//!
//! One writer. A slot is published by its id: the writer stores the socket with id 0, then the id.
//! A freed slot keeps its socket, and so its place in the probe sequence: a look-up goes on behind it
//! and ends at a slot that was never used, at the latest after [`PROBES`] slots.

use crate::addr::Socket;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Slot {
    pub socket: Socket,
    /// 0 = free.
    pub id: u16,
    pub pad: u16,
}
const _: () = assert!(size_of::<Slot>() == 24);

/// Slots that a look-up tries. With eight slots per possible entry a ninth is never needed in
/// practice; the writer reports it if it ever is.
pub const PROBES: u32 = 8;

/// Slots for `entries` entries: a power of two.
#[must_use]
pub const fn slots(entries: u32) -> u32 {
    (entries * 8).next_power_of_two()
}

/// First slot to try; `mask` is the number of slots minus one.
#[inline(always)]
#[must_use]
pub const fn first(socket: &Socket, mask: u32) -> u32 {
    place(socket.addr.words(), socket.tail(), mask)
}

/// The same for what [`Addr::words`](crate::addr::Addr::words) and [`Socket::tail`] give.
#[inline(always)]
#[must_use]
pub const fn place([high, low]: [u64; 2], tail: u32, mask: u32) -> u32 {
    let mixed = (high ^ low.rotate_left(29) ^ (tail as u64).rotate_left(7))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32 & mask
}

/// True if no socket has ever stood in `slot`: none that is looked for stands behind it.
#[inline(always)]
#[must_use]
pub const fn is_unused(slot: &Slot) -> bool {
    let [high, low] = slot.socket.addr.words();
    high | low == 0
}

/// True if `slot` belongs to `socket`.
#[inline(always)]
#[must_use]
pub const fn holds(slot: &Slot, socket: &Socket) -> bool {
    let (a, b) = (slot.socket.addr.words(), socket.addr.words());
    a[1] == b[1] && a[0] == b[0] && slot.socket.tail() == socket.tail()
}
