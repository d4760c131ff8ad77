//! Where a message belongs that neither its dialog's entry nor its slot can place: who sent the
//! request that it answers, whose dialog it refers to, whom another service knows it of.
//!
//! Functions of their own, which the verifier walks once and not for each path that leads there.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    addr::Socket,
    dialog::{State, WAYS},
    sip::{self, Code, Message, Method, SentBy},
    verdict::Verdict,
};

use crate::{
    clock,
    dialog::{Dialogs, Whose},
    maps,
    packet::{Packet, Payload},
    policy::Policy,
    select::{self, Target},
    service,
};

/// What an INVITE is to [`Target::keeps`].
const INVITE: Code = Code::new(Message::Request(Method::Invite));

/// The binding of the backend that the topmost Via of a response to `listener` names; 0 = none of
/// the service's. `packed` is the place of the Via's value (see [`Payload::pack`]).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn by_via(ctx: *mut xdp_md, packed: u64, listener: u32) -> u32 {
    let (payload, value) = Payload::unpack(Packet::of(ctx), packed);
    let Ok(settings) = maps::settings() else { return 0 };
    // Out of bounds cannot happen, and means no name.
    match sip::sent_by(&payload, value, settings.key) {
        Some(Some(sender)) => sent_to(sender.key(listener as u16)).into(),
        Some(None) | None => 0,
    }
}

/// The binding under `key` in the index of senders, 0 = none.
#[inline(always)]
fn sent_to(key: Socket) -> u16 {
    service::find(&key, maps::sender_mask(), maps::sender_slot)
}

/// The binding of `endpoint` for `listener`, if several listeners share the endpoint; 0 = none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn binding_at(endpoint: u32, listener: u32) -> u32 {
    sent_to(SentBy::endpoint(endpoint as u16).key(listener as u16)).into()
}

/// The hash of the Call-ID in the Replaces or Join header whose value is `packed`, 0 = none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn referenced(ctx: *mut xdp_md, packed: u64) -> u64 {
    let (payload, value) = Payload::unpack(Packet::of(ctx), packed);
    let Ok(settings) = maps::settings() else { return 0 };
    sip::referenced(&payload, value, settings.key).flatten().unwrap_or(0)
}

/// The binding of the backend that has the dialog of `hash`: the entry's, else the owner of its
/// slot; 0 = there is none. It may be the binding of another listener of the service.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn owner_of(ctx: *mut xdp_md, hash: u64, listener: u32) -> u32 {
    find_owner(Packet::of(ctx), hash, listener as u16).unwrap_or(0).into()
}

#[inline(always)]
fn find_owner(packet: Packet, hash: u64, listener: u16) -> Result<u16, Verdict> {
    let record = maps::listener(listener)?;
    let dialogs = Dialogs::at(packet, hash, clock::now()?)?;
    let found = dialogs.find(Whose { service: record.service, endpoint: 0 })?;
    if found.exists() {
        let pinned = Target::of(found.entry.binding())?;
        // As in the dialog that is referred to.
        if pinned.is_usable() || pinned.keeps(record, found.entry, INVITE) {
            return Ok(pinned.id);
        }
    }
    if Policy::of(packet, record).hides_slots(packet) {
        // Its Call-ID did not choose its backend.
        return Ok(0);
    }
    // Where the dialog's next request would go too.
    select::owner(record.choice, hash)
}

/// The id of the same backend as seen from `listener`: its replies come from that VIP.
#[inline(always)]
pub fn at_listener(target: Target, listener: u16) -> u16 {
    if target.binding.listener == listener {
        return target.id;
    }
    let here = binding_at(target.binding.endpoint.into(), listener.into()) as u16;
    if here == 0 { target.id } else { here }
}

/// Of a client's message inside a dialog that its service has no entry for: the binding of the backend
/// by whose entry another service knows the dialog, if `listener` shares that backend; 0 = none. The
/// entry is rewritten to that binding, as ended if `is_bye` is 1.
///
/// A dialog that a shared backend began left by its primary VIP, though the backend may have told
/// the client another one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn elsewhere(ctx: *mut xdp_md, hash: u64, listener: u32, is_bye: u32) -> u32 {
    find_elsewhere(Packet::of(ctx), hash, listener as u16, is_bye).unwrap_or(0).into()
}

#[inline(always)]
fn find_elsewhere(packet: Packet, hash: u64, listener: u16, is_bye: u32) -> Result<u16, Verdict> {
    let dialogs = Dialogs::at(packet, hash, clock::now()?)?;
    for way in 0..WAYS as u32 {
        if let Some(entry) = dialogs.entry(way) {
            let pinned = Target::of(entry.binding())?;
            let here = binding_at(pinned.binding.endpoint.into(), listener.into()) as u16;
            if here != 0 && pinned.is_usable() {
                let state = if is_bye != 0 { State::Ended.bits() } else { entry.state_bits() };
                dialogs.update(way, entry, here, state, 1);
                dialogs.mark(maps::binding(here)?.service);
                return Ok(here);
            }
        }
    }
    Ok(0)
}

/// Adds the entry of a new dialog; bit 8 of `state` says that the slot names another endpoint. Returns
/// the binding of the dialog's entry: another one if another CPU was first, and chose another backend.
///
/// If another service knows the same Call-ID at the same backend, unconfirmed, its entry is taken:
/// who tries the next VIP is answered from there.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn insert(ctx: *mut xdp_md, hash: u64, binding: u32, state: u64) -> u32 {
    // Without maps, which cannot be, there is nothing to write to.
    try_insert(Packet::of(ctx), hash, binding as u16, state).map_or(binding, u32::from)
}

#[inline(always)]
fn try_insert(packet: Packet, hash: u64, id: u16, state: u64) -> Result<u16, Verdict> {
    /// Who is late finds the entry of who was first at the second look, unless others crowd in.
    const LOOKS: u32 = 3;
    let (state, elsewhere) = (state & 7, state >> 8 & 1);
    let own = maps::binding(id)?;
    let dialogs = Dialogs::at(packet, hash, clock::now()?)?;
    for _ in 0..LOOKS {
        // Before the look: then either that finds who was first, or the place is taken.
        let place = dialogs.place();
        for way in 0..WAYS as u32 {
            let Some(entry) = dialogs.entry(way) else { continue };
            let known = maps::binding(entry.binding())?;
            if known.service == own.service {
                return Ok(entry.binding());
            }
            if !entry.is_confirmed() && known.endpoint == own.endpoint {
                dialogs.update(way, entry, id, state, elsewhere);
                return Ok(id);
            }
        }
        if dialogs.claim(place, id, state, elsewhere) {
            return Ok(id);
        }
    }
    dialogs.insert(id, state, elsewhere);
    Ok(id)
}

/// 1 if the first service of either endpoint has endpoint `a` too. Asked both ways, it is exact but for
/// two whose only common service is the first of neither.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn are_neighbours(a: u32, b: u32) -> u32 {
    has_both(a as u16, b as u16).unwrap_or(false).into()
}

#[inline(always)]
fn has_both(a: u16, b: u16) -> Result<bool, Verdict> {
    let of_a = maps::binding(maps::endpoint(a)?.primary)?;
    let of_b = maps::binding(maps::endpoint(b)?.primary)?;
    // Not by `binding_at`, and one way only: the stack of Linux 6.1 has no room for more.
    Ok(of_a.service == of_b.service || sent_to(SentBy::endpoint(a).key(of_b.listener)) != 0)
}
