//! Backend side: a packet from a backend leaves as from its VIP.

use lb_common::{
    backend::{Endpoint, NextHop},
    service::affinity,
    stats::Event,
    transition,
    verdict::{Key, Verdict},
};

use crate::{
    count,
    dialog::{Dialogs, Found},
    egress, fragment, maps,
    packet::{Flag, Packet},
    parse::Datagram,
    pipeline::{Call, Outcome},
    rewrite::nat::{self, Side},
    select::{self, Target},
    service, steer,
};

/// Has a packet with a backend's address come from the backend, and does it leave for a client or,
/// by a VIP, for another backend? If not, it is dropped, or left alone.
#[inline(always)]
pub fn check(
    packet: Packet,
    datagram: &Datagram,
    to_vip: Flag,
    source: u16,
) -> Result<(), Verdict> {
    let endpoint = maps::endpoint(source)?;
    let to = datagram.destination(packet)?.addr;
    if !to.is_unicast() {
        return Err(Verdict::NotUnicast);
    }
    service::check_origin(packet, datagram, endpoint)?;
    if to_vip.is_set() {
        return Ok(());
    }
    if service::is_host(to) {
        return Err(Verdict::ToThisHost);
    }
    let other = service::receiver_of(packet, datagram)?;
    if other != 0
        && (steer::are_neighbours(source.into(), other.into()) != 0
            || steer::are_neighbours(other.into(), source.into()) != 0)
    {
        return Err(Verdict::SameService);
    }
    Ok(())
}

/// Gives the packet its VIP as source, learns from it and sends it to the client.
#[inline(always)]
pub fn reply(call: &Call) -> Result<Outcome, Verdict> {
    let endpoint = maps::endpoint(call.source)?;
    let mut id = endpoint.primary;
    let mut listener = maps::binding(id)?.listener;
    if call.has_call_id.is_set() {
        let pinned = note(call, &call.found, endpoint)?;
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
    if call.datagram.is_fragment() {
        fragment::settle(call.packet, id, true);
    }
    const UNKNOWN: NextHop = egress::EMPTY;
    let next_hop = egress::route_to(call.packet, &call.datagram)?.unwrap_or(&UNKNOWN);
    let exit = egress::send(call.packet, &call.datagram, next_hop)?;
    let verdict = if call.message().is_request() {
        Verdict::ServerRequest
    } else if call.message().is_response() {
        Verdict::Response
    } else {
        Verdict::ServerOther
    };
    Ok(Outcome { verdict, exit })
}

#[inline(always)]
fn count_reply(call: &Call, id: u16) {
    let bytes = u64::from(call.datagram.ip_len);
    let message = call.message();
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
pub fn note(call: &Call, found: &Found, endpoint: &Endpoint) -> Result<u16, Verdict> {
    let dialogs = Dialogs::at(call.packet, call.hash, call.now)?;
    let state = if found.is_own() { found.state() } else { 0 };
    let examined = call.examined;
    let new = transition::by_backend(call.message(), examined.cseq(), examined.in_dialog(), state);
    let new = call.packet.forget_all(new);
    if call.packet.forget_all(new) == 0 {
        return Ok(0);
    }
    // The entry may be that of another service that has the endpoint too: its slots count.
    let id = if found.is_own() { found.entry.binding() } else { endpoint.primary };
    let id = call.packet.forget_word(id.into()) as u16;
    let binding = maps::binding(id)?;
    let owner = {
        let listener = maps::listener(binding.listener)?;
        if listener.affinity != affinity::DIALOG {
            return Ok(0);
        }
        let owner = select::owner(listener.choice, call.hash)?;
        if owner == 0 { 0 } else { maps::binding(owner)?.endpoint }
    };
    let elsewhere = call.packet.forget((binding.endpoint != owner).into());
    if found.is_own() {
        dialogs.update(found.way, found.entry, id, new, elsewhere.into());
    } else if found.exists() {
        // Another backend of the service has the dialog. Only a request takes it over, and only
        // from one that is down and does not keep it: neither a spiral nor a late answer moves a
        // call.
        let holder = Target::of(found.entry.binding())?;
        let listener = maps::listener(binding.listener)?;
        if !call.message().is_request()
            || holder.is_usable()
            || holder.keeps(listener, found.entry, call.message())
        {
            return Ok(0);
        }
        count::event(Event::DialogMoved);
        dialogs.update(found.way, found.entry, id, new, elsewhere.into());
    } else {
        dialogs.insert(id, new, elsewhere.into());
    }
    if call.packet.forget(elsewhere) != 0 {
        dialogs.mark(binding.service);
    }
    Ok(id)
}
