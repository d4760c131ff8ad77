//! What chooses a backend where the slot of the Call-ID does not: method and domain rules, other
//! keys, turns and loads.
//!
//! All of it is the first request's business: the choice is remembered before the request leaves.
//! Functions of their own, which the verifier walks once; numbers are packed into their arguments.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_get_smp_processor_id};
use lb_common::{
    addr::Addr,
    hash,
    service::{Listener, affinity, balance, rule},
    sip::{self, Method, Place, Span, Window as _, need},
    table,
    verdict::{Key, Verdict},
};

use crate::{
    examine::examine,
    maps,
    packet::{Packet, Payload},
    pipeline::Call,
    query::Text,
    select::{self, Target},
    service,
};

/// What a listener asks for beyond the slot of the Call-ID; 0 = nothing.
#[derive(Clone, Copy)]
pub struct Policy(u32);

impl Policy {
    /// Of a packet that is to no listener.
    pub const NONE: Self = Self(0);
    const AFFINITY: u32 = 0x100;
    const RULES: u32 = 0x200;

    #[inline(always)]
    pub fn of(packet: Packet, listener: &Listener) -> Self {
        let has_rules = listener.methods | u32::from(listener.domains) != 0;
        let is_loose = listener.affinity != affinity::DIALOG;
        let bits = u32::from(listener.balance & 0xf)
            | if is_loose { Self::AFFINITY } else { 0 }
            | if has_rules { Self::RULES } else { 0 };
        Self(packet.forget(bits))
    }

    /// True if the slot of the Call-ID decides, and dialogs are remembered. As with
    /// [`crate::packet::Flag`] each question takes a copy of its own.
    #[inline(always)]
    pub fn is_plain(self, packet: Packet) -> bool {
        packet.forget(self.0) == 0
    }

    /// True if nothing is remembered.
    #[inline(always)]
    pub fn is_loose(self, packet: Packet) -> bool {
        packet.forget(self.0) & Self::AFFINITY != 0
    }

    /// True if the slot of the Call-ID says nothing about a dialog: its entry must be looked for.
    #[inline(always)]
    pub fn hides_slots(self, packet: Packet) -> bool {
        packet.forget(self.0) & 0xf != u32::from(balance::CALL_ID)
    }

    /// True if live dialogs are counted.
    #[inline(always)]
    pub fn counts(self, packet: Packet) -> bool {
        packet.forget(self.0) & 0xf == u32::from(balance::LEAST_DIALOGS)
    }
}

/// What [`choose`] has come to.
#[derive(Clone, Copy)]
pub struct Chosen(u64);

impl Chosen {
    /// The slot of the Call-ID in the service's own set decides.
    const NOT: u64 = 0;
    /// The binding in bits 0–15, 0 = the set has no usable backend.
    const SET: u64 = 1 << 16;

    /// True if the slot does not decide.
    #[inline(always)]
    pub fn is_set(self, packet: Packet) -> bool {
        packet.forget_all(self.0) & Self::SET != 0
    }

    /// The binding chosen, else `owner`.
    #[inline(always)]
    pub fn or(self, packet: Packet, owner: u16) -> u16 {
        let binding = if self.is_set(packet) { self.0 as u16 } else { owner };
        packet.forget_word(binding.into()) as u16
    }
}

/// The backend of a request without an entry, or of one whose backend is down.
#[inline(always)]
pub fn choose(call: &Call, listener: &Listener) -> Result<Chosen, Verdict> {
    let is_request = call.message().is_request();
    if Policy::of(call.packet, listener).is_plain(call.packet)
        || (!is_request && call.has_call_id.is_set())
    {
        return Ok(Chosen(Chosen::NOT));
    }
    let mut down = 0;
    if call.found.exists() {
        down = call.found.entry.binding();
        if Target::of(down)?.is_usable() {
            return Ok(Chosen(Chosen::NOT));
        }
    }
    let place = call.payload.pack(call.line)
        | u64::from(call.message().method()) << 48
        | u64::from(is_request) << 56
        | u64::from(call.has_call_id.is_set()) << 57;
    let ids = u64::from(call.listener)
        | u64::from(down) << 16
        | u64::from(call.datagram.l3) << 32
        | u64::from(call.datagram.is_v4.is_set()) << 48;
    let ctx = call.packet.context();
    // Not from within: the stack of that function lies beside this one's, not below.
    let examined = examine(ctx, place & PLACE, need::TO | need::FROM);
    Ok(Chosen(choose_by_policy(ctx, place, call.hash, ids, examined)))
}

/// [`choose`] with its arguments packed: step by step, each of which finds what the others noted in
/// [`crate::query::Query`], so that the stack holds one of them at a time.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn choose_by_policy(
    ctx: *mut xdp_md,
    place: u64,
    hash: u64,
    ids: u64,
    examined: u64,
) -> u64 {
    if read_query(ctx, place, hash, ids, examined) == 0 {
        return Chosen::NOT;
    }
    let choice = choose_set(domain_rule(part(request_place(HOST))));
    hash_key(part(key_place(ids & 0xffff)));
    choose_member(choice)
}

/// Of a place as [`Payload::pack`] has it.
const PLACE: u64 = 0x01ff_0fff_0fff;
/// Offset of a URI.
const OFFSET: u64 = 0xfff;
/// A URI without angle brackets in a header.
const BARE: u64 = 1 << 12;
/// Not its user but its host.
const HOST: u64 = 1 << 13;

/// Copies the message to the query, where reading it costs the verifier a third, and notes what is
/// known; 0 if that fails.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_query(
    ctx: *mut xdp_md,
    place: u64,
    hash: u64,
    ids: u64,
    examined: u64,
) -> u64 {
    let Ok(text) = Text::open() else { return 0 };
    let packet = Packet::of(ctx);
    let (payload, line) = Payload::unpack(packet, place & PLACE);
    text.note(|query| {
        query.hash = hash;
        query.key_hash = 0;
        query.examined = examined;
        query.listener = ids as u16;
        query.down = (ids >> 16) as u16;
        query.line = line as u16;
        query.method = (place >> 48) as u8;
        query.is_request = (place >> 56) as u8 & 1;
        query.has_call_id = (place >> 57) as u8 & 1;
        query.key = Key::CallId as u8;
    });
    if text.fill(&payload).is_none() {
        return 0;
    }
    let Ok(source) = source_hash(packet, (ids >> 32) as u32 & 0xfff, ids >> 48 & 1 != 0) else {
        return 0;
    };
    let Ok(listener) = maps::listener(ids as u16) else { return 0 };
    if listener.balance == balance::SOURCE_IP {
        text.note(|query| {
            query.key_hash = source;
            query.key = Key::SourceIp as u8;
        });
    }
    1
}

/// The hash of the client's address.
#[inline(always)]
fn source_hash(packet: Packet, l3: u32, is_v4: bool) -> Result<u64, Verdict> {
    let address =
        if is_v4 { packet.read(l3 + 12).map(Addr::v4) } else { packet.read(l3 + 8).map(Addr::v6) };
    let address = address.ok_or(Verdict::OutOfBounds)?;
    Ok(hash::source_address(maps::settings()?.key, &address))
}

/// Offset of the Request-URI, and `which`; 0 = there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn request_place(which: u64) -> u64 {
    let Ok(text) = Text::open() else { return 0 };
    if text.query().is_request == 0 {
        return 0;
    }
    let at = sip::request_uri(&text, text.query().line.into()).map_or(0, |uri| uri.at);
    if at == 0 { 0 } else { u64::from(at) & OFFSET | which }
}

/// Offset of the URI in the header whose value is at the offset `value`, and [`BARE`]; 0 = there is
/// none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn address_place(value: u64) -> u64 {
    let Ok(text) = Text::open() else { return 0 };
    if value == 0 {
        return 0;
    }
    match sip::address(&text, (value & OFFSET) as u32) {
        Some(uri) => u64::from(uri.at) & OFFSET | if uri.bare != 0 { BARE } else { 0 },
        None => 0,
    }
}

/// Where the user, with [`HOST`] the host, of the URI at the offset `uri` stands: [`Span::pack`], of
/// a host with [`FOLD`]; 0 = there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn part(uri: u64) -> u64 {
    let Ok(text) = Text::open() else { return 0 };
    let place = Place { at: (uri & OFFSET) as u32, bare: u32::from(uri & BARE != 0) };
    let Some(found) = sip::uri(&text, place) else { return 0 };
    if uri & HOST == 0 {
        found.user.pack()
    } else if found.host.exists() {
        found.host.pack() | FOLD
    } else {
        0
    }
}

/// The choice of the best domain rule for the host at `span`, 0 = none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn domain_rule(span: u64) -> u64 {
    let (Ok(text), Ok(settings)) = (Text::open(), maps::settings()) else { return 0 };
    let listener = text.query().listener;
    let Ok(record) = maps::listener(listener) else { return 0 };
    if record.domains == 0 || span == 0 || text.examined().in_dialog() {
        return 0;
    }
    let last = sip::domains(&text, Span::unpack(span), settings.key, |number, hash| {
        text.note_domain(number, hash.value());
    });
    let last = text.forget(last.unwrap_or(sip::MAX_LABELS));
    if last >= sip::MAX_LABELS {
        return 0;
    }
    let mut choice = 0;
    for number in 0..sip::MAX_LABELS {
        if number > last {
            break;
        }
        let kind = if number == last { rule::DOMAIN } else { rule::BELOW };
        let found = rule(rule_ids(listener, kind), text.domain(number));
        // The longest name comes last.
        if found != 0 {
            choice = found;
        }
    }
    choice
}

/// [`sip::seek`] in the query's text.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn seek(from: u64, stops: u64) -> u64 {
    let Ok(text) = Text::open() else { return 0 };
    sip::seek(&text, (from & OFFSET) as u32, stops as u32).map_or(0, u64::from)
}

#[inline(always)]
fn rule_ids(listener: u16, kind: u8) -> u64 {
    u64::from(listener) | u64::from(kind) << 16
}

/// The choice of the rule of a listener and kind (`ids`) with `value`, 0 = none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rule(ids: u64, value: u64) -> u64 {
    let key = rule::key(ids as u16, (ids >> 16) as u8, value);
    service::find(&key, maps::rule_mask(), maps::rule_slot).into()
}

/// The choice of the method's rule, else `by_domain`; inside a dialog, whose URI is the other
/// side's address, that of the set to which its backend belonged. 0 = the service's own set.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn choose_set(by_domain: u64) -> u64 {
    let Ok(text) = Text::open() else { return 0 };
    set_of(text, by_domain as u16).map_or(0, u64::from)
}

#[inline(always)]
fn set_of(text: Text, by_domain: u16) -> Result<u16, Verdict> {
    let query = text.query();
    let method = query.method;
    let mut found = by_domain;
    if text.examined().in_dialog() {
        found = if query.down != 0 { maps::binding(query.down)?.home } else { 0 };
    } else if text.begins() && maps::listener(query.listener)?.methods >> (method & 31) & 1 != 0 {
        found = rule(rule_ids(query.listener, rule::METHOD), method.into()) as u16;
    }
    // A set that was never published counts as none.
    Ok(if found != 0 && maps::choice(found)? != 0 { found } else { 0 })
}

/// Offset of the URI that the `balance` of a listener goes by, as [`part`] takes it; 0 = none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn key_place(listener: u64) -> u64 {
    let Ok(text) = Text::open() else { return 0 };
    let query = text.query();
    let Ok(listener) = maps::listener(listener as u16) else { return 0 };
    if query.is_request == 0 {
        return 0;
    }
    let key = key_of(listener.balance, query.method.into());
    let found = match key {
        Key::RequestDomain => request_place(HOST),
        Key::RequestUser => request_place(0),
        Key::FromUser => address_place(text.examined().from().into()),
        Key::ToUser => address_place(text.examined().to().into()),
        Key::None
        | Key::CallId
        | Key::Dialog
        | Key::Via
        | Key::Replaces
        | Key::SourceIp
        | Key::RoundRobin
        | Key::LeastDialogs => 0,
    };
    if found != 0 {
        text.note(|query| query.key = key as u8);
    }
    found
}

/// Beside a span: its text counts in lower case.
const FOLD: u64 = 1 << 32;

/// Notes the hash of the text at `span`, with [`FOLD`] in lower case.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hash_key(span: u64) -> u64 {
    let (Ok(text), Ok(settings)) = (Text::open(), maps::settings()) else { return 0 };
    let fold = u32::from(span & FOLD != 0);
    let span = Span::unpack(span);
    if !span.exists() {
        return 0;
    }
    let hash = sip::span_hash(&text, span, settings.key, fold).unwrap_or(0);
    text.note(|query| query.key_hash = hash);
    hash
}

/// The answer, [`Chosen`], from the set of `choice`, 0 = the service's own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn choose_member(choice: u64) -> u64 {
    let Ok(text) = Text::open() else { return Chosen::NOT };
    member(text, choice as u16).unwrap_or(Chosen::NOT)
}

#[inline(always)]
fn member(text: Text, ruled: u16) -> Result<u64, Verdict> {
    let query = text.query();
    let listener = maps::listener(query.listener)?;
    let choice = if ruled == 0 { listener.choice } else { ruled };
    // Turns and loads are for what begins something that is known again by its Call-ID.
    let takes_turn = text.begins() && query.has_call_id != 0;
    let (binding, key) = if takes_turn && listener.balance == balance::ROUND_ROBIN {
        (next_turn(choice)?, Key::RoundRobin as u8)
    } else if takes_turn && listener.balance == balance::LEAST_DIALOGS {
        (less_loaded(choice.into(), query.hash) as u16, Key::LeastDialogs as u8)
    } else if query.key_hash != 0 {
        (select::owner(choice, query.key_hash)?, query.key)
    } else if ruled != 0 {
        let key = if query.has_call_id != 0 { Key::CallId } else { Key::SourceIp };
        (select::owner(choice, query.hash)?, key as u8)
    } else {
        return Ok(Chosen::NOT);
    };
    maps::record(|decision| {
        decision.key = key;
        if query.key_hash != 0 {
            decision.hash = query.key_hash;
        }
    });
    Ok(Chosen::SET | u64::from(binding))
}

/// What a `balance` goes by.
#[inline(always)]
fn key_of(balance: u8, method: u32) -> Key {
    match balance {
        balance::SOURCE_IP => Key::SourceIp,
        // A REGISTER's Request-URI names the registrar; its To is who registers (RFC 3261 §10.2).
        balance::REQUEST_USER if method == Method::Register as u32 => Key::ToUser,
        balance::REQUEST_USER => Key::RequestUser,
        balance::REQUEST_DOMAIN => Key::RequestDomain,
        balance::FROM_USER => Key::FromUser,
        balance::TO_USER => Key::ToUser,
        _ => Key::CallId,
    }
}

/// The backend whose turn it is on this CPU, 0 = none.
#[inline(always)]
fn next_turn(choice: u16) -> Result<u16, Verdict> {
    let turn = maps::next_turn(choice)?;
    let start = if maps::records() {
        0
    } else {
        // The CPUs begin apart: else the first backend would have the first turn of each.
        // SAFETY: the helper takes nothing and only reads this CPU's number.
        unsafe { bpf_get_smp_processor_id() }.wrapping_mul(40_503)
    };
    select::at_slot(choice, turn.wrapping_add(start))
}

/// Of two backends that `hash` draws by weight the one with fewer live dialogs for its weight; 0 =
/// none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn less_loaded(choice: u64, hash: u64) -> u64 {
    draw(choice as u16, hash).map_or(0, u64::from)
}

#[inline(always)]
fn draw(choice: u16, hash: u64) -> Result<u16, Verdict> {
    let published = maps::choice(choice)?;
    let id = table::choice_table(published);
    if id == 0 {
        return Ok(0);
    }
    let table = maps::table(id)?;
    let list = table::choice_members(published);
    let members = maps::members(list)?;
    let orders = maps::member_orders(list)?;
    let at = |shift: u32| table[(hash >> shift) as usize & (table::SLOTS - 1)];
    let first = at(48);
    if first == table::NO_MEMBER {
        return Ok(0);
    }
    let mut second = at(32);
    if second == first {
        second = at(16);
    }
    if second == first {
        second = at(0);
    }
    let (a, b) = (members[usize::from(first)], members[usize::from(second)]);
    // A weight of 0 counts among such only, and there all count alike.
    let weight = |member: u8| u64::from(orders[usize::from(member)].weight).max(1);
    let is_lighter = maps::load(b)? * weight(first) < maps::load(a)? * weight(second);
    Ok(if is_lighter { b } else { a })
}
