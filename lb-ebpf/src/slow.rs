//! Packets for the controller: rare ones that need more than a program may do.
//!
//! ```text
//! caller ─ note() what is known ─ hand_over(): alive? rate? ─ SLOW_PATH ─ lb-userspace/src/slow
//! ```
//!
//! Whoever gives a packet up this way calls [`note`] and [`give`] and returns the verdict that
//! comes back.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_ktime_get_ns};
use lb_common::{
    service::all_down,
    sip::Method,
    slow::{KINDS, Kind, LONGEST, Record, STALE_SECONDS},
    verdict::{Decision, Key, Verdict},
};

use crate::{clock, maps, packet::Packet, pipeline::Call};

/// Results of [`hand_over`].
mod result {
    pub(super) const DONE: u64 = 0;
    pub(super) const LIMIT: u64 = 1;
    pub(super) const OFF: u64 = 2;
    pub(super) const FULL: u64 = 3;
}

/// A message to a VIP that no backend can have: requests are answered by the controller.
#[inline(always)]
pub fn no_backend(call: &Call) -> Verdict {
    let is_answered = call.message().is_request() && !call.message().is(Method::Ack);
    let drops =
        maps::listener(call.listener).is_ok_and(|listener| listener.all_down == all_down::DROP);
    if !is_answered || drops {
        return Verdict::NotAnswered;
    }
    note(call, 0);
    give(call.packet, Kind::NoBackend, Verdict::NoBackend)
}

/// Writes down for the controller what is known of the packet.
#[inline(always)]
pub fn note(call: &Call, remark: u8) {
    let Some(desk) = maps::desk() else { return };
    let key = if call.has_call_id.is_set() { Key::CallId } else { Key::SourceIp };
    desk.record = Record {
        decision: Decision {
            hash: call.hash,
            key: key as u8,
            method: call.message().method(),
            status: call.message().status(),
            listener: call.listener,
            endpoint: call.source,
            ..Decision::default()
        },
        note: remark,
        l3: call.datagram.l3 as u16,
        ..Record::default()
    };
}

/// The same for a packet of which nothing is known yet.
#[inline(always)]
pub fn note_nothing() {
    if let Some(desk) = maps::desk() {
        desk.record = Record::default();
    }
}

/// Hands the packet to the controller; `verdict` if that worked, else why not.
#[inline(always)]
pub fn give(packet: Packet, kind: Kind, verdict: Verdict) -> Verdict {
    match send(packet, kind, verdict) {
        result::DONE => verdict,
        result::LIMIT => Verdict::SlowPathLimit,
        result::OFF => Verdict::SlowPathOff,
        _ => Verdict::SlowPathFull,
    }
}

#[inline(always)]
fn send(packet: Packet, kind: Kind, verdict: Verdict) -> u64 {
    let packed = u64::from(kind.rate()) << 32 | (verdict as u64) << 8 | kind as u64;
    hand_over(packet.context(), packed)
}

/// Hands over what was noted on the desk, and the packet. `packed` is kind, verdict << 8 and the
/// kind's rate << 32. A function of its own, which the verifier walks once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hand_over(ctx: *mut xdp_md, packed: u64) -> u64 {
    let packet = Packet::of(ctx);
    let (Some(desk), Ok(clock), Ok(heartbeat)) = (maps::desk(), maps::clock(), maps::heartbeat())
    else {
        return result::FULL;
    };
    let hz = u64::from(clock.hz);
    // Not in replay, where time is the capture's and packets are taken one by one.
    if !maps::records() && hz != 0 {
        let now = clock::jiffies();
        if now.wrapping_sub(heartbeat) > hz * STALE_SECONDS {
            return result::OFF;
        }
        let Some(bucket) = desk.buckets.get_mut(packed as usize & 7) else { return result::FULL };
        if !bucket.take(packed >> 32, hz, now) {
            return result::LIMIT;
        }
    }
    const { assert!(KINDS <= 8) };
    let frame_len = packet.len();
    let len = if frame_len > LONGEST { LONGEST } else { frame_len };
    let record = &mut desk.record;
    record.kind = packed as u8;
    record.decision.verdict = (packed >> 8) as u8;
    record.ingress = packet.ingress();
    record.frame_len = frame_len;
    record.len = len;
    // SAFETY: the helper takes nothing and reads a clock.
    record.time = unsafe { bpf_ktime_get_ns() };
    if maps::output(ctx, record, len) { result::DONE } else { result::FULL }
}
