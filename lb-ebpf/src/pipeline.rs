//! The packet's story: parse → whose? → scan → choose → remember → rewrite → send.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    hash,
    sip::{self, Code, Headers, need},
    stats::Event,
    verdict::{Exit, Key, Verdict},
};

use crate::{
    client,
    clock::{self, Now},
    count,
    dialog::{Dialogs, Found, Whose},
    maps,
    packet::{Packet, Payload},
    parse::{self, Datagram},
    select, server, service,
};

/// A packet that is ours, and everything that was found out about it.
pub struct Call {
    pub packet: Packet,
    pub datagram: Datagram,
    /// Listener at the destination, 0 = none.
    pub listener: u16,
    /// Endpoint at the source, 0 = none.
    pub source: u16,
    pub payload: Payload,
    pub message: Code,
    pub headers: Headers,
    /// 0 if the message is placed by its source address.
    pub has_call_id: u32,
    /// Hash of the Call-ID, else of the source.
    pub hash: u64,
    pub now: Now,
    /// Binding that owns the hash's slot, 0 = none; client side only.
    pub owner: u16,
    /// The dialog's entry.
    pub found: Found,
    /// 1 if an entry may say something else than the slot.
    pub is_marked: u32,
    /// 1 if the request is inside a dialog: its To header has a tag. Read where it matters.
    pub in_dialog: u32,
    /// Number of the method in the CSeq header of a response, 0 = other. Read where it matters.
    pub cseq: u32,
}

/// What came of it: the verdict and the way out.
pub struct Outcome {
    pub verdict: Verdict,
    pub exit: Exit,
}

/// Decides about one packet and changes it accordingly.
#[inline(always)]
pub fn balance(packet: Packet) -> Result<Outcome, Verdict> {
    let mut datagram = parse::datagram(packet)?;
    let listener = service::listener_of(packet, &datagram)?;
    let source = service::sender_of(packet, &datagram)?;
    if listener == 0 && source == 0 {
        return Err(Verdict::NotOurs);
    }
    // From here on one path for all frames: what differs is data.
    datagram.forget(packet);
    let listener = packet.forget_word(listener.into()) as u16;
    let source = packet.forget_word(source.into()) as u16;
    service::check_mac(packet)?;
    check_controller()?;
    maps::record(|decision| {
        decision.listener = listener;
        decision.endpoint = source;
    });
    if source != 0 {
        server::check(packet, &datagram, listener, source)?;
    }
    if datagram.is_fragment != 0 {
        return Err(Verdict::Fragment);
    }
    let mut call = read(packet, datagram, listener, source)?;
    if listener != 0 {
        // Before the marks are looked at: the controller marks slots before it publishes.
        let owner = select::owner(maps::listener(listener)?, call.hash)?;
        call.owner = packet.forget_word(owner.into()) as u16;
    }
    if call.has_call_id != 0 {
        recall(&mut call)?;
        read_on(&mut call)?;
    }
    if listener == 0 { server::reply(&call) } else { client::forward(&call) }
}

/// Reads what both directions need: kind of message, Call-ID, hash.
#[inline(always)]
fn read(packet: Packet, datagram: Datagram, listener: u16, source: u16) -> Result<Call, Verdict> {
    let (start, len) = parse::payload(packet, &datagram)?;
    let payload = Payload::new(packet, start, len);
    let (message, line) = sip::start_line(&payload).ok_or(Verdict::OutOfBounds)?;
    let message = Code::new(message).via(|code| packet.forget(code));
    let line = packet.forget(line);
    let key = maps::settings()?.key;
    let mut call = Call {
        packet,
        datagram,
        listener,
        source,
        payload,
        message,
        headers: Headers::default(),
        has_call_id: 0,
        hash: 0,
        now: clock::now()?,
        owner: 0,
        found: Found::NOTHING,
        is_marked: 0,
        in_dialog: 0,
        cseq: 0,
    };
    if message.is_sip() {
        call.headers = sip::scan(&payload, needed(&call), line).ok_or(Verdict::OutOfBounds)?;
        if call.headers.second_call_id != 0 {
            count::event(Event::SecondCallId);
        }
        if call.headers.call_id != 0 {
            let found = sip::call_id(&payload, call.headers.call_id, key);
            if let Some(id) = found.ok_or(Verdict::OutOfBounds)? {
                call.has_call_id = 1;
                call.hash = id.hash;
                maps::record(|decision| {
                    decision.call_id = id.offset as u16;
                    decision.call_id_len = id.length as u16;
                });
                if id.length > sip::MAX_HASHED {
                    count::event(Event::LongCallId);
                }
            }
        }
        if call.has_call_id == 0 {
            count::event(Event::NoCallId);
        }
    }
    if call.has_call_id == 0 {
        call.hash = hash::source(key, &call.datagram.source(packet)?);
    }
    maps::record(|decision| {
        decision.key = if call.has_call_id != 0 { Key::CallId } else { Key::SourceIp } as u8;
        decision.hash = call.hash;
        decision.method = message.method();
        decision.status = message.status();
    });
    call.has_call_id = packet.forget(call.has_call_id);
    Ok(call)
}

/// Looks the dialog up, unless its slot is known to say the same.
#[inline(always)]
fn recall(call: &mut Call) -> Result<(), Verdict> {
    let dialogs = Dialogs::at(call.packet, call.hash, call.now)?;
    let whose = if call.listener != 0 {
        Whose { service: maps::listener(call.listener)?.service, endpoint: 0 }
    } else {
        let primary = maps::endpoint(call.source)?.primary;
        Whose { service: maps::binding(primary)?.service, endpoint: call.source }
    };
    let is_marked = dialogs.is_marked(whose.service)?;
    if is_marked || call.listener == 0 || client::needs_entry(call.message) {
        call.found = dialogs.find(whose)?;
    }
    call.is_marked = call.packet.forget(is_marked.into());
    Ok(())
}

/// Which headers decide: the To tag says whether a request makes a dialog or is inside one, the
/// CSeq which request a backend answers.
#[inline(always)]
fn needed(call: &Call) -> u32 {
    let message = call.message;
    let from_backend = call.source != 0;
    if message.forms_dialog() || (from_backend && message.is_request()) {
        need::CALL_ID | need::TO
    } else if message.is_success(200) || (from_backend && message.is_success(101)) {
        need::CALL_ID | need::CSEQ
    } else {
        need::CALL_ID
    }
}

/// Reads the headers that [`needed`] names, where it matters.
#[inline(always)]
fn read_on(call: &mut Call) -> Result<(), Verdict> {
    if call.message.is_request() {
        let unknown = !call.found.exists() && call.message.forms_dialog();
        if call.headers.to != 0 && (unknown || call.source != 0) {
            call.in_dialog = to_tag(call.packet.context(), call.payload.pack(call.headers.to));
        }
    } else if call.headers.cseq != 0 && (call.source != 0 || call.found.exists()) {
        call.cseq = cseq(call.packet.context(), call.payload.pack(call.headers.cseq));
    }
    call.in_dialog = call.packet.forget(call.in_dialog);
    call.cseq = call.packet.forget(call.cseq);
    Ok(())
}

/// A table without probes may live for `controller_lost`; then the program stands aside.
#[inline(always)]
fn check_controller() -> Result<(), Verdict> {
    let lost_after = maps::settings()?.lost_after;
    if lost_after != 0 && clock::jiffies().wrapping_sub(maps::heartbeat()?) > lost_after {
        return Err(Verdict::ControllerLost);
    }
    Ok(())
}

/// 1 if the To header whose value is `packed` (see [`Payload::pack`]) has a tag. A function of its
/// own, which the verifier walks once and not for each path that leads here; the call costs new
/// dialogs some nanoseconds.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn to_tag(ctx: *mut xdp_md, packed: u64) -> u32 {
    let (payload, value) = Payload::unpack(Packet::of(ctx), packed);
    // Out of bounds, which cannot happen, means no tag: at worst an entry too many.
    sip::has_tag(&payload, value).unwrap_or(false).into()
}

/// Number of the method in the CSeq header whose value is `packed`, 0 = other; as [`to_tag`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cseq(ctx: *mut xdp_md, packed: u64) -> u32 {
    let (payload, value) = Payload::unpack(Packet::of(ctx), packed);
    sip::cseq_method(&payload, value).map_or(0, |method| method as u32)
}

/// Length of a Call-ID of more than 256 bytes, of which `packed` is the place; as [`to_tag`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn long_length(ctx: *mut xdp_md, packed: u64) -> u32 {
    let (payload, at) = Payload::unpack(Packet::of(ctx), packed);
    sip::long_length(&payload, at).unwrap_or(sip::MAX_LENGTH)
}
