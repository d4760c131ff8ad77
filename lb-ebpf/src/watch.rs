//! What `capture` and `trace` see: each packet as it came in and as it left, with the decision.
//!
//! ```text
//! main.rs ─ arrives(): the frame's start is kept ─ pipeline, which notes its decision (maps::record)
//!         └ leaves(): does anybody want it? rate? ─ WATCHED ─ lb-userspace/src/watch
//! ```
//!
//! Only the program that the loader has given the constant WATCH does any of this. It takes the
//! other's place while somebody watches; of the other one the kernel removes every trace of it.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_ktime_get_ns};
use lb_common::{
    verdict::{Decision, Exit},
    watch::{self, Desk, Facts, HEAD, LONGEST, Seen, wants},
};

use crate::{
    clock, maps,
    packet::{Flag, Packet, meet},
};

/// Before anything else is done with a packet.
#[inline(always)]
pub fn arrives(packet: Packet) {
    if maps::watches() {
        watch_arrive(packet.context());
    }
}

/// When the decision about it is made and noted.
#[inline(always)]
pub fn leaves(packet: Packet) {
    if maps::watches() {
        watch_leave(packet.context());
    }
}

/// Keeps the frame's start, and forgets the packet before.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn watch_arrive(ctx: *mut xdp_md) -> u32 {
    // Asked here too: older kernels walk through functions that nobody calls.
    if !maps::watches() {
        return 0;
    }
    let packet = Packet::of(ctx);
    let Some(desk) = maps::watch_desk() else { return 0 };
    desk.seen = Seen {
        came: now(),
        decision: Decision::default(),
        ingress: packet.ingress(),
        came_len: packet.len(),
        ..Seen::default()
    };
    let (words, _) = desk.head.as_chunks_mut::<8>();
    let mut kept = 0;
    for (i, word) in words.iter_mut().enumerate() {
        let Some(bytes) = packet.read(i as u32 * 8) else { break };
        *word = bytes;
        kept = (i as u32 + 1) * 8;
    }
    let kept = packet.forget(kept);
    for i in 0..7 {
        let at = kept + i;
        if at >= HEAD as u32 {
            break;
        }
        let Some([byte]) = packet.read(at) else { break };
        if let Some(place) = desk.head.get_mut(at as usize & (HEAD - 1)) {
            *place = byte;
        }
    }
    1
}

/// Hands over what was noted, and the frame as it is now, if somebody wants to see it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn watch_leave(ctx: *mut xdp_md) -> u32 {
    if !maps::watches() {
        return 0;
    }
    let (Some(desk), Some(filters)) = (maps::watch_desk(), maps::watch_filters()) else { return 0 };
    let decision = desk.seen.decision;
    if !watch::has(watch::SHOWN, decision.verdict) {
        return 0;
    }
    let packet = Packet::of(ctx);
    let has_call_id = Flag::new(packet, decision.call_id_len != 0);
    let is_piece = Flag::new(packet, watch::has(watch::PIECES, decision.verdict));
    let service = packet.forget_word(service_of(&decision).into()) as u16;
    let (mut wanted, mut most) = (0, 0);
    for (slot, filter) in filters.iter().enumerate() {
        let facts = Facts {
            hash: decision.hash,
            has_call_id: has_call_id.is_set(),
            is_piece: is_piece.is_set(),
            service,
        };
        // Data from here on: else the paths would be walked for each set of watchers.
        let suits = packet.forget_word(filter.suits(facts).into());
        wanted |= suits << slot;
        most |= suits * u32::from(filter.wants);
        meet();
    }
    let (wanted, most) = (wanted as u8, most as u8);
    if wanted == 0 {
        return 0;
    }
    if !is_within_rate(desk) || !hand_over(packet, desk, wanted, most) {
        for (slot, lost) in desk.lost.iter_mut().enumerate() {
            *lost += u64::from(wanted >> slot & 1);
        }
    }
    1
}

/// The service that the packet is for, or from; 0 = none.
#[inline(always)]
fn service_of(decision: &Decision) -> u16 {
    let binding = if decision.binding == 0 && decision.listener == 0 {
        maps::endpoint(decision.endpoint).map_or(0, |endpoint| endpoint.primary)
    } else {
        decision.binding
    };
    if binding != 0 {
        maps::binding(binding).map_or(0, |binding| binding.service)
    } else {
        maps::listener(decision.listener).map_or(0, |listener| listener.service)
    }
}

#[inline(always)]
fn is_within_rate(desk: &mut Desk) -> bool {
    let Ok(clock) = maps::clock() else { return false };
    let hz = u64::from(clock.hz);
    // A recording program has no rates.
    hz == 0 || maps::records() || desk.bucket.take(u64::from(watch::RATE), hz, clock::jiffies())
}

#[inline(always)]
fn hand_over(packet: Packet, desk: &mut Desk, wanted: u8, most: u8) -> bool {
    let seen = &mut desk.seen;
    let end_len = packet.len();
    let is_gone = seen.decision.exit == Exit::Drop as u8;
    seen.left = u8::from(watch::has(watch::LEAVING, seen.decision.verdict) && !is_gone);
    seen.decided = now();
    seen.end_len = end_len;
    seen.wanted = wanted;
    seen.len = match most & wants::PACKETS {
        0 => 0,
        _ if end_len > LONGEST => LONGEST,
        _ => end_len,
    };
    let (head, len) = (seen.head_len(), seen.len);
    maps::show(packet.context(), desk, head, len)
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing and reads a clock.
    unsafe { bpf_ktime_get_ns() }
}
