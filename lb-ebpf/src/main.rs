//! The XDP program of sip-lb.
#![no_std]
#![no_main]
// The entry and the licence are for the kernel, which finds them by section.
#![allow(unreachable_pub, reason = "symbols are for the kernel's loader")]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Entry of the program.
#[xdp]
pub fn sip_lb(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
