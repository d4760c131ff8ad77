//! Programs of the benchmark: `feed` puts another message into the packet at each run and calls the
//! program under measurement; `empty` and `floor` are what that is compared with.
//!
//! BPF_PROG_TEST_RUN repeats on one buffer without resetting it, so a program that rewrites packets
//! would measure its own output, and a single message trains the branch predictor.
#![no_std]
#![no_main]
#![allow(unreachable_pub, reason = "symbols are for the kernel's loader")]

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{Array, ProgramArray},
    programs::XdpContext,
};

/// Words of eight bytes that a frame has at most.
const WORDS: usize = 184;

/// A frame and where its Call-ID varies.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Message {
    /// Length of the frame in words.
    words: u32,
    /// Offset of the eight letters that number the dialog; 0 = none.
    letters: u32,
    frame: [u64; WORDS],
}

/// How messages follow each other.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Plan {
    /// Runs so far.
    runs: u64,
    /// Dialogs minus one; a power of two minus one.
    dialogs: u32,
    /// Messages minus one; a power of two minus one, at most 255.
    messages: u32,
}

#[map]
static MESSAGES: Array<Message> = Array::with_max_entries(256, 0);
#[map]
static PLAN: Array<Plan> = Array::with_max_entries(1, 0);
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Writes the next message and calls the program under measurement.
#[xdp]
pub fn feed(ctx: XdpContext) -> u32 {
    match write_message(&ctx) {
        Some(()) => {
            // SAFETY: the context is the one that the kernel gave; on failure the call returns.
            unsafe { NEXT.tail_call(&ctx, 0) };
            xdp_action::XDP_ABORTED
        }
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn write_message(ctx: &XdpContext) -> Option<()> {
    let plan = PLAN.get_ptr_mut(0)?;
    // SAFETY: the one value of the map; test runs follow each other.
    let (runs, plan) = unsafe {
        (*plan).runs += 1;
        ((*plan).runs, *plan)
    };
    // An odd factor visits every dialog once in as many runs, in no order.
    let dialog = (runs.wrapping_mul(0x9e37_79b1) as u32) & plan.dialogs;
    let message = MESSAGES.get(dialog & plan.messages)?;
    let start = ctx.data();
    for word in 0..WORDS {
        if word as u32 >= message.words {
            break;
        }
        let at = start + word * 8;
        if at + 8 > ctx.data_end() {
            return None;
        }
        // SAFETY: the eight bytes lie in the packet.
        unsafe { (at as *mut u64).write_unaligned(message.frame[word]) };
    }
    if message.letters != 0 {
        let at = start + (message.letters & 0x7ff) as usize;
        if at + 8 > ctx.data_end() {
            return None;
        }
        // Eight nibbles become eight letters a…p.
        let mut letters = u64::from(dialog);
        letters = (letters | letters << 16) & 0x0000_ffff_0000_ffff;
        letters = (letters | letters << 8) & 0x00ff_00ff_00ff_00ff;
        letters = (letters | letters << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        // SAFETY: as above.
        unsafe { (at as *mut u64).write_unaligned(letters + 0x6161_6161_6161_6161) };
    }
    Some(())
}

/// Costs nothing but the run itself.
#[xdp]
pub fn empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The least that a balancer does: looks at the headers, swaps the MACs, sends the frame back.
#[xdp]
pub fn floor(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + 42 > end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: 42 bytes lie in the packet.
    unsafe {
        let ethertype = ((start + 12) as *const u16).read_unaligned();
        let protocol = ((start + 23) as *const u8).read();
        let port = ((start + 36) as *const u16).read_unaligned();
        if ethertype != 0x0800u16.to_be() || protocol != 17 || port != 5060u16.to_be() {
            return xdp_action::XDP_PASS;
        }
        let destination = (start as *const [u8; 6]).read();
        let source = ((start + 6) as *const [u8; 6]).read();
        (start as *mut [u8; 6]).write(source);
        ((start + 6) as *mut [u8; 6]).write(destination);
    }
    xdp_action::XDP_TX
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
