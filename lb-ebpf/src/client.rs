//! Client side: a packet to a VIP goes to a backend.

use lb_common::{
    addr::Socket,
    backend::endpoint,
    service::Listener,
    sip::{Code, Method, need},
    stats::Event,
    transition,
    verdict::{Key, Verdict},
};

use crate::{
    count,
    dialog::{Dialogs, Whose},
    egress,
    examine::{self, Examined},
    fragment, maps,
    pipeline::{Call, Outcome},
    policy::{self, Chosen, Policy},
    rewrite::nat::{self, Side},
    select::Target,
    server, slow, steer, stray,
};

/// Chooses the backend, remembers the choice where that is due, and sends the packet there.
#[inline(always)]
pub fn forward(call: &Call) -> Result<Outcome, Verdict> {
    let listener = maps::listener(call.listener)?;
    if listener.service == 0 {
        return Err(Verdict::MissingListener);
    }
    let named = named(call, listener.shared != 0);
    let chosen = if call.packet.forget_word(named.into()) != 0 {
        steered(call, named, call.owner)
    } else {
        let policy = policy::choose(call, listener)?;
        if call.has_call_id.is_set() {
            choose(call, listener, call.owner, policy)
        } else {
            if let Some(outcome) = stray::judge(call, listener)? {
                return Ok(outcome);
            }
            let owner = policy.or(call.packet, call.owner);
            usable(owner).map(|target| (by_source(call.message()), target))
        }
    };
    let (verdict, target) = match chosen {
        Err(Verdict::NoBackend) => return Err(slow::no_backend(call)),
        chosen => chosen?,
    };
    maps::record(|decision| {
        decision.binding = target.id;
        decision.endpoint = target.binding.endpoint;
    });
    let is_request = call.message().is_request();
    let bytes = u64::from(call.datagram.ip_len);
    count::binding(target.id, |stats| {
        stats.forwarded += 1;
        stats.forwarded_bytes += bytes;
        stats.requests += u64::from(is_request);
    });
    deliver(call, &target, verdict)
}

/// The backend by the dialog's entry, else by its slot.
#[inline(always)]
fn choose(
    call: &Call,
    listener: &Listener,
    owner: u16,
    chosen: Chosen,
) -> Result<(Verdict, Target), Verdict> {
    let packet = call.packet;
    let dialogs = Dialogs::at(call.packet, call.hash, call.now)?;
    let found = &call.found;
    if !found.exists() {
        let mut target = usable(chosen.or(packet, owner))?;
        if Policy::of(packet, listener).is_loose(packet)
            || !is_worth_an_entry(call, chosen, target.endpoint.shared)
        {
            return Ok((Verdict::Hash, target));
        }
        let state = transition::by_client(call.message(), 0, call.examined.in_dialog(), 0);
        let state = packet.forget_all(state);
        let elsewhere = u64::from(chosen.is_set(packet));
        let mut first = target.id;
        if target.endpoint.shared == 0 && !chosen.is_set(packet) {
            dialogs.insert(target.id, state, elsewhere);
        } else {
            let state = state | elsewhere << 8;
            first = steer::insert(packet.context(), call.hash, target.id.into(), state) as u16;
        }
        if chosen.is_set(packet) {
            dialogs.mark(target.binding.service);
        }
        if first != target.id {
            // Another CPU met the dialog at the same time, and chose otherwise.
            target = Target::of(first)?;
        } else if Policy::of(packet, listener).counts(packet) {
            maps::add_load(target.id, 1);
        }
        return Ok((Verdict::NewDialog, target));
    }
    let pinned = Target::of(found.entry.binding())?;
    let (cseq, in_dialog) = (call.examined.cseq(), call.examined.in_dialog());
    let state = transition::by_client(call.message(), cseq, in_dialog, found.state());
    let state = call.packet.forget_all(state);
    // A response is of use to nobody but who sent the request.
    let is_theirs = pinned.is_usable() || !call.message().is_request();
    if is_theirs || pinned.keeps(listener, found.entry, call.message()) {
        maps::record(|decision| decision.key = Key::Dialog as u8);
        let pinned = Target::of(steer::at_listener(pinned, call.listener))?;
        let elsewhere = owner != pinned.id && pinned.binding.endpoint != endpoint_of(owner)?;
        let bit = call.packet.forget(elsewhere.into());
        dialogs.update(found.way, found.entry, pinned.id, state, bit.into());
        if call.packet.forget(bit) != 0 {
            dialogs.mark(pinned.binding.service);
        }
        return Ok((if is_theirs { Verdict::Dialog } else { Verdict::Keep }, pinned));
    }
    // Its backend is down. The dialog moves, so that it does not flap back.
    let target = usable(chosen.or(packet, owner))?;
    count::event(Event::DialogMoved);
    let elsewhere = u64::from(chosen.is_set(packet));
    dialogs.update(found.way, found.entry, target.id, state, elsewhere);
    if chosen.is_set(packet) {
        dialogs.mark(target.binding.service);
    }
    Ok((Verdict::Rehash, target))
}

/// The slot's owner, which is there whenever any backend is usable.
#[inline(always)]
fn usable(owner: u16) -> Result<Target, Verdict> {
    if owner == 0 {
        return Err(Verdict::NoBackend);
    }
    Target::of(owner)
}

#[inline(always)]
fn endpoint_of(binding: u16) -> Result<u16, Verdict> {
    if binding == 0 { Ok(0) } else { Ok(maps::binding(binding)?.endpoint) }
}

/// The binding that the message names: a response by its Via, a new INVITE by the dialog that it
/// replaces or joins, a request inside a dialog by what another service knows of it; 0 = none.
#[inline(always)]
fn named(call: &Call, is_shared: bool) -> u16 {
    let context = call.packet.context();
    let mut named = 0;
    if call.message().is_response() {
        let place = call.payload.pack(call.line);
        let via = Examined(examine::examine(context, place, need::VIA)).via();
        if via != 0 {
            named = steer::by_via(context, call.payload.pack(via), call.listener.into());
        }
    } else if call.message().is(Method::Invite)
        && !call.found.exists()
        && !call.examined.in_dialog()
        && call.examined.reference() != 0
    {
        let place = call.payload.pack(call.examined.reference());
        let hash = steer::referenced(context, place);
        if hash != 0 {
            named = steer::owner_of(context, hash, call.listener.into());
        }
    } else if is_shared && is_inside(call) {
        let is_bye = call.message().is(Method::Bye).into();
        named = steer::elsewhere(context, call.hash, call.listener.into(), is_bye);
    }
    call.packet.forget_word(named) as u16
}

/// Is it a client's request inside a dialog that its service does not know? (What another backend
/// sends on to this service goes its own way.)
#[inline(always)]
fn is_inside(call: &Call) -> bool {
    call.has_call_id.is_set()
        && !call.found.exists()
        && !call.from_backend()
        && call.message().is_request()
        && !call.message().stands_alone()
        && (!call.message().forms_dialog() || call.examined.in_dialog())
}

/// The backend that the message names. Down or not: nobody else can make anything of a response,
/// and what is referred to was chosen among those that are up.
#[inline(always)]
fn steered(call: &Call, named: u16, owner: u16) -> Result<(Verdict, Target), Verdict> {
    let target = Target::of(named)?;
    let found = &call.found;
    let dialogs = Dialogs::at(call.packet, call.hash, call.now)?;
    let elsewhere = target.binding.endpoint != endpoint_of(owner)?;
    let bit = call.packet.forget(elsewhere.into());
    if is_inside(call) {
        maps::record(|decision| decision.key = Key::Dialog as u8);
        return Ok((Verdict::Dialog, target));
    }
    if call.message().is_request() {
        let target = Target::of(steer::at_listener(target, call.listener))?;
        maps::record(|decision| decision.key = Key::Replaces as u8);
        let state = transition::by_client(call.message(), 0, false, 0);
        let state = call.packet.forget_all(state) | u64::from(bit) << 8;
        steer::insert(call.packet.context(), call.hash, target.id.into(), state);
        if call.packet.forget(bit) != 0 {
            dialogs.mark(target.binding.service);
        }
        return Ok((Verdict::Replaces, target));
    }
    maps::record(|decision| decision.key = Key::Via as u8);
    if found.exists() && endpoint_of(found.entry.binding())? == target.binding.endpoint {
        let (cseq, in_dialog) = (call.examined.cseq(), call.examined.in_dialog());
        let state = transition::by_client(call.message(), cseq, in_dialog, found.state());
        let state = call.packet.forget_all(state);
        dialogs.update(found.way, found.entry, target.id, state, bit.into());
    }
    Ok((Verdict::Via, target))
}

#[inline(always)]
fn by_source(message: Code) -> Verdict {
    if message.is_sip() {
        Verdict::NoCallId
    } else if message.is_stun() {
        Verdict::StunOther
    } else {
        Verdict::Keepalive
    }
}

/// Is a request without an entry remembered? Dialog-forming ones always; those that stand alone
/// only where the slot might not repeat the choice. Of a shared backend all that are answered: the
/// entry tells which VIP the answer must come from.
#[inline(always)]
fn is_worth_an_entry(call: &Call, chosen: Chosen, shared: u8) -> bool {
    if shared != 0 {
        return call.message().is_request() && !call.message().is(Method::Ack);
    }
    if call.message().forms_dialog() {
        return !call.examined.in_dialog();
    }
    let is_certain = !call.has_call_id.other().is_set() && !chosen.is_set(call.packet);
    call.message().stands_alone() && !is_certain
}

/// Rewrites the destination and sends the packet.
#[inline(always)]
fn deliver(call: &Call, target: &Target, verdict: Verdict) -> Result<Outcome, Verdict> {
    let destination = &target.endpoint.socket;
    if let Some(vip) = hairpin(call, target)? {
        nat::rewrite(call.packet, &call.datagram, Side::Source, vip)?;
    }
    nat::rewrite(call.packet, &call.datagram, Side::Destination, destination)?;
    if call.datagram.hop_limit <= 1 {
        return Err(Verdict::HopLimit);
    }
    if call.datagram.is_fragment() {
        fragment::settle(call.packet, target.id, false);
    }
    let exit = egress::send(call.packet, &call.datagram, &target.endpoint.next_hop)?;
    Ok(Outcome { verdict, exit })
}

/// What a backend sends to another service teaches its own one. If it is on the link of the chosen
/// backend, the reply would go straight back and bypass this host: the client then appears as the
/// VIP of its dialog, else of its own service.
#[inline(always)]
fn hairpin(call: &Call, target: &Target) -> Result<Option<&'static Socket>, Verdict> {
    if !call.from_backend() {
        return Ok(None);
    }
    let client = maps::endpoint(call.source)?;
    if client.state == endpoint::UNSET {
        return Ok(None);
    }
    let primary = maps::binding(client.primary)?;
    let mut listener = primary.listener;
    if call.has_call_id.is_set() {
        // For the backend's own service this is a message that it sends out.
        let dialogs = Dialogs::at(call.packet, call.hash, call.now)?;
        let whose = Whose { service: primary.service, endpoint: call.source };
        let found = dialogs.find(whose)?;
        let pinned = server::note(call, &found, client)?;
        if pinned != 0 {
            listener = maps::binding(pinned)?.listener;
        }
    }
    let (a, b) = (&client.next_hop, &target.endpoint.next_hop);
    if a.on_link == 0
        || b.on_link == 0
        || a.ifindex != b.ifindex
        || a.vlans != b.vlans
        || a.tags != b.tags
    {
        return Ok(None);
    }
    Ok(Some(&maps::listener(listener)?.socket))
}
