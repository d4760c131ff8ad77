//! The one doorway to packet memory.
//!
//! Every access re-reads the packet's bounds from the context, adds an offset of at most 4,095
//! bytes to its start and compares with its end. The verifier proves the rest; the functions here
//! only keep the compiler from rearranging that comparison.

use core::arch::asm;

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::sip::{BLOCK, Lines, STRIDE, Stops, Window, feeds, may_have_feed, swar};

use crate::examine;

/// Largest offset that is ever read.
const MASK: u32 = 0xfff;

/// The packet that the program was called for.
#[derive(Clone, Copy)]
pub struct Packet {
    ctx: *mut xdp_md,
}

impl Packet {
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }

    /// In a function that was given the context.
    #[inline(always)]
    pub fn of(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    /// For helpers that take the context.
    #[inline(always)]
    pub fn context(self) -> *mut xdp_md {
        self.ctx
    }

    /// Index of the interface that the packet came in by.
    #[inline(always)]
    pub fn ingress(self) -> u32 {
        // SAFETY: the kernel passes a valid context for the whole run of the program.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    /// Bytes from the start of the frame to its end.
    #[inline(always)]
    pub fn len(self) -> u32 {
        let (data, end) = self.bounds();
        (end - data) as u32
    }

    /// A number of 64 bits that the verifier knows nothing of.
    #[inline(always)]
    fn unknown(self) -> u64 {
        let (data, end) = self.bounds();
        end.wrapping_sub(data) as u64
    }

    /// Returns `offset`, below 4,096, which the verifier then knows nothing more of.
    #[inline(always)]
    pub fn forget(self, offset: u32) -> u32 {
        forget(offset, self.unknown())
    }

    /// The same for numbers below 65,536.
    #[inline(always)]
    pub fn forget_word(self, value: u32) -> u32 {
        forget_word(value, self.unknown())
    }

    /// The same for any number.
    #[inline(always)]
    pub fn forget_all(self, value: u64) -> u64 {
        launder(value, self.unknown())
    }

    #[inline(always)]
    fn bounds(self) -> (usize, usize) {
        // SAFETY: as in `ingress`. Volatile, so that each phase has fresh pointers without the
        // range history of an earlier one.
        unsafe {
            (
                (&raw const (*self.ctx).data).read_volatile() as usize,
                (&raw const (*self.ctx).data_end).read_volatile() as usize,
            )
        }
    }

    /// The address of `N` bytes at `offset`; `None` if they are not all in the frame.
    #[inline(always)]
    fn at<const N: usize>(self, offset: u32) -> Option<usize> {
        let (data, end) = self.bounds();
        let pointer = opaque(data + (offset & MASK) as usize);
        if pointer + N > end { None } else { Some(pointer) }
    }

    /// Copies `N` bytes from `offset`.
    #[inline(always)]
    pub fn read<const N: usize>(self, offset: u32) -> Option<[u8; N]> {
        let pointer = self.at::<N>(offset)?;
        // SAFETY: `at` has checked that N bytes lie between the pointer and the packet's end;
        // byte arrays have no alignment and any content.
        Some(unsafe { *(pointer as *const [u8; N]) })
    }

    /// Writes `N` bytes at `offset`.
    #[inline(always)]
    pub fn write<const N: usize>(self, offset: u32, bytes: [u8; N]) -> Option<()> {
        let pointer = self.at::<N>(offset)?;
        // SAFETY: as in `read`; no reference into the packet outlives an accessor, so nothing
        // aliases the write.
        unsafe { *(pointer as *mut [u8; N]) = bytes };
        Some(())
    }
}

/// Returns `pointer`, hidden from the compiler, which would otherwise move the offset behind the
/// comparison with the packet's end, where the verifier no longer sees it.
#[inline(always)]
fn opaque(mut pointer: usize) -> usize {
    // SAFETY: assigns a register to itself. (An instruction is needed: two line records at one
    // address make the kernel refuse the program.)
    unsafe {
        asm!("{0} = {0}", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags))
    };
    pointer
}

/// Returns `value`, of which the verifier afterwards knows nothing.
///
/// `unknown` is any number that the verifier knows nothing of. Without this every path that found
/// another value would be walked through all later code. Not `pure`: each use must yield a value
/// of its own, so that what a comparison teaches of one copy stays with that copy.
#[inline(always)]
fn launder(mut value: u64, unknown: u64) -> u64 {
    // SAFETY: arithmetic on a register: v ^ u ^ u = v.
    unsafe {
        asm!(
            "{0} ^= {1}",
            "{0} ^= {1}",
            inout(reg) value,
            in(reg) unknown,
            options(nomem, nostack, preserves_flags)
        );
    }
    value
}

/// Makes the verifier remember its state and compare others that come here with it.
///
/// It does so at targets of jumps, but only if it has walked two jumps and eight instructions since
/// the last time (`is_state_visited`, kernel 5.3 and later). These nine jumps go nowhere, and the
/// kernel removes them.
#[inline(always)]
pub fn meet() {
    // SAFETY: jumps to the next instruction. Not `pure`: the block is there for its instructions.
    unsafe {
        asm!(
            "goto +0",
            "goto +0",
            "goto +0",
            "goto +0",
            "goto +0",
            "goto +0",
            "goto +0",
            "goto +0",
            "goto +0",
            options(nomem, nostack, preserves_flags)
        );
    };
}

/// Returns `value`, below 65,536, of which the verifier knows only that.
#[inline(always)]
fn forget_word(value: u32, unknown: u64) -> u32 {
    launder(value.into(), unknown) as u32 & 0xffff
}

/// The same for an offset in the packet, below 4,096.
#[inline(always)]
fn forget(value: u32, unknown: u64) -> u32 {
    launder(value.into(), unknown) as u32 & MASK
}

/// A yes or no of which the verifier knows nothing, nor learns anything that lasts: else each answer
/// would part the paths behind it, down to the end of the program.
#[derive(Clone, Copy)]
pub struct Flag(u64);

impl Flag {
    pub const NO: Self = Self(0);

    #[inline(always)]
    pub fn new(packet: Packet, is_set: bool) -> Self {
        Self(packet.forget_all(is_set.into()))
    }

    #[inline(always)]
    pub fn is_set(self) -> bool {
        let mut copy = self.0;
        // SAFETY: arithmetic on a register. Not `pure`: the compiler must not keep the answer.
        unsafe { asm!("{0} &= 1", inout(reg) copy, options(nomem, nostack, preserves_flags)) };
        copy != 0
    }

    /// This flag with another one, which takes no further place on the stack.
    #[inline(always)]
    pub fn with(self, packet: Packet, other: bool) -> Self {
        Self(self.0 | packet.forget_all(u64::from(other) << 1))
    }

    /// The other one.
    #[inline(always)]
    pub fn other(self) -> Self {
        Self(self.0 >> 1)
    }
}

/// The payload of a datagram, for the scanner.
#[derive(Clone, Copy)]
pub struct Payload {
    packet: Packet,
    start: u32,
    len: u32,
    unknown: u64,
}

impl Payload {
    /// `len` bytes from `start`, which lie in the frame; at most 4,095 of them are looked at.
    #[inline(always)]
    pub fn new(packet: Packet, start: u32, len: u32) -> Self {
        let unknown = packet.unknown();
        let len = if len > MASK { MASK } else { len };
        Self { packet, start: forget(start, unknown) & 0x1ff, len: forget(len, unknown), unknown }
    }

    /// Offset in the frame.
    #[inline(always)]
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The payload's place and an offset in it, below 4,096, as one argument.
    #[inline(always)]
    pub fn pack(&self, offset: u32) -> u64 {
        u64::from(self.start) << 32 | u64::from(self.len) << 16 | u64::from(offset)
    }

    /// What was packed.
    #[inline(always)]
    pub fn unpack(packet: Packet, packed: u64) -> (Self, u32) {
        let start = (packed >> 32) as u32 & MASK;
        let len = (packed >> 16) as u32 & MASK;
        (Self::new(packet, start, len), packed as u32 & MASK)
    }

    #[inline(always)]
    fn offset(&self, offset: u32) -> u32 {
        self.start.wrapping_add(offset)
    }
}

/// The address of a block of packet memory, and one byte more, which have been checked to be there.
#[derive(Clone, Copy)]
struct Block(usize);

impl Block {
    /// The word at `8 * I`, and the one that starts a byte later.
    #[inline(always)]
    fn pair<const I: usize>(self) -> (u64, u64) {
        const { assert!(I < 4) };
        let word = |place: usize| {
            let pointer = (self.0 + 8 * I + place) as *const u64;
            // SAFETY: of the 33 bytes, which are there, at most the last is read; unaligned reads
            // take any address.
            u64::from_le(unsafe { pointer.read_unaligned() })
        };
        (word(0), word(1))
    }

    /// False if no line feed of the kind that is looked for stands in it.
    #[inline(always)]
    fn may_have_feed<S: Stops>(self) -> bool {
        let test = |(word, next)| may_have_feed::<S>(word, next);
        let tests = test(self.pair::<0>())
            | test(self.pair::<1>())
            | test(self.pair::<2>())
            | test(self.pair::<3>());
        tests & swar::HIGH_BITS != 0
    }
}

impl Window for Payload {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn block(&self, offset: u32) -> Option<[u64; 4]> {
        let pointer = self.packet.at::<32>(self.offset(offset))?;
        // SAFETY: as in `Packet::read`.
        Some(unsafe { (pointer as *const [u64; 4]).read_unaligned() })
    }

    #[inline(always)]
    fn word(&self, offset: u32) -> Option<u64> {
        self.packet.read(self.offset(offset)).map(u64::from_le_bytes)
    }

    #[inline(always)]
    fn forget(&self, offset: u32) -> u32 {
        forget(offset, self.unknown)
    }

    #[inline(always)]
    fn forget_all(&self, number: u32) -> u32 {
        self.forget_word(number.into()) as u32
    }

    #[inline(always)]
    fn forget_word(&self, number: u64) -> u64 {
        launder(number, self.unknown)
    }

    #[inline(always)]
    fn meet(&self) {
        meet();
    }

    #[inline(always)]
    fn ahead(&self, offset: u32) -> Option<u64> {
        let left = i64::from(self.len) - i64::from(offset);
        // Both ways lead to an unknown word, so the verifier walks what follows once.
        if left >= 8 { self.word(offset) } else { self.padded(offset) }
    }

    #[inline(always)]
    fn long_length(&self, at: u32) -> Option<u32> {
        Some(examine::long_length(self.packet.ctx, self.pack(at)))
    }

    #[inline(always)]
    fn positive(&self, number: i64) -> u32 {
        positive(number)
    }
}

impl Lines for Payload {
    #[inline(always)]
    fn clean<S: Stops>(&self, offset: u32) -> Option<u32> {
        const { assert!(STRIDE == 4 * BLOCK, "written out, for the verifier and for speed") };
        let start = self.packet.at::<{ STRIDE as usize + 1 }>(self.offset(offset))?;
        Some(if Block(start).may_have_feed::<S>() {
            0
        } else if Block(start + 32).may_have_feed::<S>() {
            32
        } else if Block(start + 64).may_have_feed::<S>() {
            64
        } else if Block(start + 96).may_have_feed::<S>() {
            96
        } else {
            128
        })
    }

    #[inline(always)]
    fn line_feed<S: Stops>(&self, offset: u32) -> Option<u32> {
        let block = Block(self.packet.at::<{ BLOCK as usize + 1 }>(self.offset(offset))?);
        let feeds = |(word, next)| feeds::<S>(word, next);
        let found = feeds(block.pair::<0>());
        if found != 0 {
            return Some(swar::first(found));
        }
        let found = feeds(block.pair::<1>());
        if found != 0 {
            return Some(8 + swar::first(found));
        }
        let found = feeds(block.pair::<2>());
        if found != 0 {
            return Some(16 + swar::first(found));
        }
        let found = feeds(block.pair::<3>());
        Some(if found != 0 { 24 + swar::first(found) } else { 2 * BLOCK })
    }
}

/// `number`, or 0 if it is negative, without a branch.
#[inline(always)]
pub fn positive(mut number: i64) -> u32 {
    // SAFETY: arithmetic on registers: the sign, spread over all bits, masks the number.
    unsafe {
        asm!(
            "{1} = {0}",
            "{1} s>>= 63",
            "{1} ^= -1",
            "{0} &= {1}",
            inout(reg) number,
            out(reg) _,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    number as u32
}
