//! Datagrams in fragments: the later ones follow their first one.
//!
//! ```text
//! arrive ─ fragment ─ first:  whose? ─ open a record ─ pipeline decides ─ settle: where it went
//!                   └ later:  the record, is it next? ─ rewrite ─ follow ─ egress.rs
//!                             not yet ─ the controller holds it until it is (slow.rs)
//! ```
//!
//! A later fragment has no ports, so it is ours if its addresses may be and its first one was. All
//! of this lies in functions of their own, which the verifier walks once and other packets never
//! enter.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    backend::NextHop,
    fragment::{self, Record, Step, state},
    maps::address,
    slow::Kind as Slow,
    verdict::{Kind, Verdict},
};

use crate::{
    clock, count, egress, maps,
    packet::{Flag, Packet},
    parse::{Headers, piece::Fragment},
    pipeline::{self, Outcome},
    rewrite::nat,
    server, service, slow,
};

/// What the functions below return for what another one has to go on with: the pipeline, [`first`],
/// [`follow`] or [`hold`].
const GO_ON: u64 = 0;
const FIRST: u64 = 1 << 8;
/// With it come the binding << 16 and [`REPLY`].
const FOLLOW: u64 = 1 << 9;
const HOLD: u64 = 1 << 11;
/// The packet is counted; the action is in the lowest byte.
const DONE: u64 = 1 << 10;

/// From a backend.
const REPLY: u64 = 1 << 32;

/// Deals with a fragment and returns the action; `None` for a first one about which the pipeline
/// decides.
#[inline(always)]
pub fn arrive(packet: Packet) -> Option<u32> {
    let mut packed = fragment(packet.context());
    if packed & FIRST != 0 {
        packed = first(packet.context());
    } else if packed & FOLLOW != 0 {
        packed = follow(packet.context(), packed);
    } else if packed & HOLD != 0 {
        packed = hold(packet.context());
    }
    if packed == GO_ON { None } else { Some(packed as u8 as u32) }
}

#[inline(always)]
fn done(verdict: Verdict) -> u64 {
    DONE | u64::from(crate::action(&Outcome::of(verdict)))
}

/// Looks a fragment up: [`FIRST`], [`FOLLOW`], [`HOLD`] or [`DONE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fragment(ctx: *mut xdp_md) -> u64 {
    look_up(Packet::of(ctx)).unwrap_or_else(done)
}

#[inline(always)]
fn look_up(packet: Packet) -> Result<u64, Verdict> {
    let fragment = Fragment::of(packet)?;
    // Not on the stack, of which there is little.
    let pending = maps::pending()?;
    pending.key = fragment.key(packet)?;
    let key = &pending.key;
    let is_ours = service::address_bits(key.destination) & address::VIP != 0
        || service::address_bits(key.source) & address::BACKEND != 0;
    if !is_ours {
        return Err(Verdict::NotOurs);
    }
    service::check_mac(packet)?;
    pipeline::check_controller()?;
    let piece = fragment.piece(packet)?;
    let now = clock::ticks()?;
    let is_v4 = fragment.datagram.is_v4;
    let record = maps::fragments(key);
    if piece.start == 0 {
        if let Some(record) = record
            && record.age(now) <= fragment::REUSE
            && record.state != state::PASSED
        {
            return Err(seen(record, is_v4, record.judge(piece)));
        }
        pending.record = Record { made: now, state: state::OPEN, ..Record::default() };
        pending.record.advance(piece);
        maps::put_fragments(&pending.key, &pending.record)?;
        return Ok(FIRST);
    }
    let Some(record) = record else { return Ok(HOLD) };
    if record.is_stale(now) {
        return Ok(HOLD);
    }
    match record.state {
        state::FORWARDED | state::REPLIED => {}
        state::OPEN => return Ok(HOLD),
        state::PASSED => return Err(Verdict::NotOurs),
        state::DEAD => return Err(Verdict::FragmentOverlap),
        _ => return Err(Verdict::FragmentDropped),
    }
    match record.judge(piece) {
        Step::InOrder => {}
        Step::Early => return Ok(HOLD),
        step @ (Step::Duplicate | Step::Overlap) => return Err(seen(record, is_v4, step)),
    }
    nat::rewrite_fragment(packet, &fragment, record)?;
    record.advance(piece);
    let reply = if record.state == state::REPLIED { REPLY } else { 0 };
    Ok(FOLLOW | reply | u64::from(record.binding) << 16)
}

/// Hands a fragment that came too early to the controller: [`DONE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hold(ctx: *mut xdp_md) -> u64 {
    slow::note_nothing();
    done(slow::give(Packet::of(ctx), Slow::Fragment, Verdict::FragmentHeld))
}

/// A fragment with bytes that have passed. An overlap spoils an IPv6 datagram (RFC 5722 §4), of
/// which then nothing more passes, so that the receiver never has it whole.
#[inline(always)]
fn seen(record: &mut Record, is_v4: Flag, step: Step) -> Verdict {
    match step {
        Step::Duplicate => Verdict::FragmentDuplicate,
        Step::InOrder | Step::Early | Step::Overlap => {
            if !is_v4.is_set() && record.complete == 0 {
                record.state = state::DEAD;
            }
            Verdict::FragmentOverlap
        }
    }
}

/// Sees from a first fragment's headers whose it is: [`GO_ON`] or [`DONE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn first(ctx: *mut xdp_md) -> u64 {
    let Err(verdict) = check(Packet::of(ctx)) else { return GO_ON };
    let state = match verdict.kind() {
        Kind::Pass => state::PASSED,
        Kind::Forward | Kind::Reply | Kind::Drop | Kind::SlowPath | Kind::Answer => state::DROPPED,
    };
    // A record that cannot be written leaves its later fragments without an owner.
    match write(state) {
        Ok(()) => done(verdict),
        Err(fault) => done(fault),
    }
}

#[inline(always)]
fn check(packet: Packet) -> Result<(), Verdict> {
    let mut datagram = Headers::of(packet)?.datagram(packet)?;
    datagram.forget(packet);
    let listener = service::listener_of(packet, &datagram)?;
    let source = service::sender_of(packet, &datagram)?;
    if source != 0 {
        server::check(packet, &datagram, Flag::new(packet, listener != 0), source)
    } else if listener == 0 {
        Err(Verdict::NotOurs)
    } else {
        Ok(())
    }
}

#[inline(always)]
fn write(state: u8) -> Result<(), Verdict> {
    let pending = maps::pending()?;
    pending.record.state = state;
    maps::put_fragments(&pending.key, &pending.record)
}

/// Remembers where a first fragment goes. The packet has the addresses that it leaves with; it
/// gets another identification, so that two backends behind one VIP, or two VIPs before one
/// backend, never use the same at once.
#[inline(always)]
pub fn settle(packet: Packet, binding: u16, is_reply: bool) {
    let reply = if is_reply { REPLY } else { 0 };
    remember(packet.context(), reply | u64::from(binding) << 16);
}

/// [`settle`]. Returns 1 if that worked; else the later fragments are held and expire.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn remember(ctx: *mut xdp_md, packed: u64) -> u64 {
    complete(Packet::of(ctx), packed).is_ok().into()
}

#[inline(always)]
fn complete(packet: Packet, packed: u64) -> Result<(), Verdict> {
    let fragment = Fragment::of(packet)?;
    let out = fragment.key(packet)?;
    let pending = maps::pending()?;
    pending.record.source = out.source;
    pending.record.destination = out.destination;
    pending.record.id = new_id()?;
    pending.record.binding = (packed >> 16) as u16;
    nat::rewrite_fragment(packet, &fragment, &pending.record)?;
    write(if packed & REPLY != 0 { state::REPLIED } else { state::FORWARDED })
}

#[inline(always)]
fn new_id() -> Result<u32, Verdict> {
    let secret = maps::settings()?.key.k1;
    let id = fragment::identification(maps::count_fragments()?, secret);
    match id {
        Some(id) => Ok(id),
        // One number in 65,536 is left out; its neighbour is not.
        None => {
            let id = fragment::identification(maps::count_fragments()?, secret);
            id.ok_or(Verdict::MissingMap)
        }
    }
}

/// Sends a later fragment that is next, and rewritten already: [`DONE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn follow(ctx: *mut xdp_md, packed: u64) -> u64 {
    match send(Packet::of(ctx), packed) {
        Ok(outcome) => DONE | u64::from(crate::action(&outcome)),
        Err(verdict) => done(verdict),
    }
}

#[inline(always)]
fn send(packet: Packet, packed: u64) -> Result<Outcome, Verdict> {
    const UNKNOWN: NextHop = egress::EMPTY;
    let datagram = &Fragment::of(packet)?.datagram;
    let id = (packed >> 16) as u16;
    let is_reply = packed & REPLY != 0;
    let binding = maps::binding(id)?;
    let endpoint = maps::endpoint(binding.endpoint)?;
    if is_reply {
        service::check_origin(packet, datagram, endpoint)?;
    }
    maps::record(|decision| {
        decision.listener = binding.listener;
        decision.binding = id;
        decision.endpoint = binding.endpoint;
    });
    let bytes = u64::from(datagram.ip_len);
    count::binding(id, |stats| {
        if is_reply {
            stats.replied += 1;
            stats.replied_bytes += bytes;
        } else {
            stats.forwarded += 1;
            stats.forwarded_bytes += bytes;
        }
    });
    if datagram.hop_limit <= 1 {
        return Err(Verdict::HopLimit);
    }
    let next_hop = if is_reply {
        egress::route_to(packet, datagram)?.unwrap_or(&UNKNOWN)
    } else {
        &endpoint.next_hop
    };
    let exit = egress::send_fragment(packet, datagram, next_hop)?;
    let verdict = if is_reply { Verdict::ServerFragment } else { Verdict::Fragment };
    Ok(Outcome { verdict, exit })
}
