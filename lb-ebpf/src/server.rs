//! Backend side: a packet from a backend leaves as from its VIP.

use lb_common::{
    backend::{Binding, Endpoint, NextHop},
    dialog::State,
    sip::Method,
    stats::Event,
    verdict::{Key, Verdict},
};

use crate::{
    count,
    dialog::{Dialogs, Found},
    egress, maps,
    packet::Packet,
    parse::Datagram,
    pipeline::{Call, Outcome},
    rewrite::nat::{self, Side},
    select::{self, Target},
    service,
};

/// Does a packet from a backend's address leave for a client? If not, it is left alone, or dropped
/// if it cannot have come from the backend.
#[inline(always)]
pub fn check(packet: Packet, datagram: &Datagram, source: u16) -> Result<(), Verdict> {
    let endpoint = maps::endpoint(source)?;
    let to = datagram.destination(packet)?.addr;
    if !to.is_unicast() {
        return Err(Verdict::NotUnicast);
    }
    service::check_origin(packet, datagram, endpoint)?;
    if service::is_host(to) {
        return Err(Verdict::ToThisHost);
    }
    let other = service::receiver_of(packet, datagram)?;
    if other != 0 {
        let ours = maps::binding(endpoint.primary)?;
        let theirs = maps::binding(maps::endpoint(other)?.primary)?;
        if ours.service == theirs.service {
            return Err(Verdict::SameService);
        }
    }
    Ok(())
}

/// Gives the packet its VIP as source, learns from it and sends it to the client.
#[inline(always)]
pub fn reply(call: &Call) -> Result<Outcome, Verdict> {
    let endpoint = maps::endpoint(call.source)?;
    let primary = maps::binding(endpoint.primary)?;
    let mut id = endpoint.primary;
    let mut listener = primary.listener;
    if call.has_call_id != 0 {
        let pinned = note(call, &call.found, endpoint, primary)?;
        if pinned != 0 {
            maps::record(|decision| decision.key = Key::Dialog as u8);
            id = pinned;
            listener = maps::binding(pinned)?.listener;
        }
    }
    if id == 0 || listener == 0 {
        return Err(Verdict::MissingBinding);
    }
    maps::record(|decision| {
        decision.binding = id;
        decision.listener = listener;
    });
    count_reply(call, id);
    let vip = &maps::listener(listener)?.socket;
    nat::rewrite(call.packet, &call.datagram, Side::Source, vip)?;
    if call.datagram.hop_limit <= 1 {
        return Err(Verdict::HopLimit);
    }
    const UNKNOWN: NextHop = egress::EMPTY;
    let next_hop = egress::route_to(call.packet, &call.datagram)?.unwrap_or(&UNKNOWN);
    let exit = egress::send(call.packet, &call.datagram, next_hop)?;
    let verdict = if call.message.is_request() {
        Verdict::ServerRequest
    } else if call.message.is_response() {
        Verdict::Response
    } else {
        Verdict::ServerOther
    };
    Ok(Outcome { verdict, exit })
}

#[inline(always)]
fn count_reply(call: &Call, id: u16) {
    let bytes = u64::from(call.datagram.ip_len);
    let message = call.message;
    count::binding(id, |stats| {
        stats.replied += 1;
        stats.replied_bytes += bytes;
        if message.is_request() {
            stats.server_requests += 1;
        } else if message.is_response() {
            let class = usize::from(message.status() / 100);
            if let Some(count) = stats.responses.get_mut(class.wrapping_sub(1) & 7) {
                *count += 1;
            }
        }
    });
}

/// Learns from a backend's message; returns the binding of the dialog's entry if it is the
/// backend's own, else 0.
#[inline(always)]
pub fn note(
    call: &Call,
    found: &Found,
    endpoint: &Endpoint,
    primary: &Binding,
) -> Result<u16, Verdict> {
    let dialogs = Dialogs::at(call.packet, call.hash, call.now)?;
    let state = found.entry.state_bits();
    let next = next_state(call, found);
    let owner = {
        let listener = maps::listener(primary.listener)?;
        let owner = select::owner(listener, call.hash)?;
        if owner == 0 { 0 } else { maps::binding(owner)?.endpoint }
    };
    if found.exists() && found.is_own != 0 {
        let id = found.entry.binding();
        let new = if next == 0 { state } else { next };
        dialogs.update(found.way, found.entry, id, new);
        dialogs.mark(maps::binding(id)?, owner);
        return Ok(id);
    }
    let new = next;
    if new == 0 {
        return Ok(0);
    }
    if found.exists() {
        // Another backend of the service has the dialog. Only a request takes it over, and only
        // from one that is down: neither a spiral nor a late answer moves a call.
        if !call.message.is_request() || Target::of(found.entry.binding())?.is_usable() {
            return Ok(0);
        }
        count::event(Event::DialogMoved);
        dialogs.update(found.way, found.entry, endpoint.primary, new);
    } else {
        dialogs.insert(endpoint.primary, new);
    }
    dialogs.mark(primary, owner);
    Ok(endpoint.primary)
}

/// The state (as [`State::bits`]) that the entry should have after this message; 0 = the message
/// makes no entry.
#[inline(always)]
fn next_state(call: &Call, found: &Found) -> u64 {
    let own = found.is_own != 0;
    let state = found.entry.state_bits();
    let unconfirmed = State::Unconfirmed.bits();
    let message = call.message;
    if message.is(Method::Bye) {
        return if own { State::Ended.bits() } else { 0 };
    }
    if message.is_request() && !message.is(Method::Ack) {
        if !own {
            return unconfirmed;
        }
        // Inside a dialog the backend's own request proves that the dialog stands.
        let proven = state == unconfirmed && call.in_dialog != 0;
        return if proven { State::ConfirmedOther.bits() } else { state };
    }
    if message.is_success(101) {
        if own && (state != unconfirmed || !message.is_success(200)) {
            return state;
        }
        let confirmed = if call.cseq == Method::Invite as u32 {
            State::ConfirmedInvite.bits()
        } else if call.cseq == Method::Subscribe as u32 {
            State::ConfirmedOther.bits()
        } else {
            return 0;
        };
        return if message.is_success(200) { confirmed } else { unconfirmed };
    }
    0
}
