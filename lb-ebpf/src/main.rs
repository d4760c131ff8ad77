//! The XDP program of sip-lb.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(unreachable_pub, reason = "a binary has no outside; `pub` marks what other modules use")]

mod client;
mod clock;
mod count;
mod dialog;
mod egress;
mod examine;
mod fault;
mod fragment;
mod maps;
mod packet;
mod parse;
mod pipeline;
mod policy;
mod query;
mod rewrite;
mod select;
mod server;
mod service;
mod slow;
mod steer;
mod stray;
mod stun;
mod watch;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use lb_common::verdict::{Decision, Exit};

use crate::{
    packet::Packet,
    pipeline::{Answer, Outcome},
};

/// The balancer: decides, counts, and returns the action.
#[xdp]
#[inline(always)]
pub fn sip_lb(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx);
    maps::record(|decision| *decision = Decision::default());
    watch::arrives(packet);
    let action = match pipeline::balance(packet) {
        Answer::Decided(outcome) => action(&outcome),
        Answer::Counted(action) => action,
    };
    watch::leaves(packet);
    action
}

/// Counts a packet and names the action.
#[inline(always)]
fn action(outcome: &Outcome) -> u32 {
    count::verdict(outcome.verdict);
    maps::record(|decision| {
        decision.verdict = outcome.verdict as u8;
        decision.exit = outcome.exit as u8;
    });
    match outcome.exit {
        Exit::Pass => xdp_action::XDP_PASS,
        Exit::Drop => xdp_action::XDP_DROP,
        Exit::Tx => xdp_action::XDP_TX,
        Exit::Redirect => xdp_action::XDP_REDIRECT,
    }
}

/// Run by the controller once a second, never attached: stores the time of its heartbeat.
#[xdp]
pub fn heartbeat(_ctx: XdpContext) -> u32 {
    maps::set_heartbeat(clock::jiffies());
    xdp_action::XDP_PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
