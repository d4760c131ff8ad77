//! The packet's story: parse → whose? → scan → choose → remember → rewrite → send.

use lb_common::{
    dialog::State,
    hash,
    sip::{self, Code, Method, Window as _, need},
    stats::Event,
    verdict::{Exit, Key, Kind, Verdict},
};

use crate::{
    client,
    clock::{self, Now},
    count,
    dialog::{Dialogs, Found, Whose},
    examine::{self, Examined},
    fault, fragment, maps,
    packet::{Flag, Packet, Payload},
    parse::{self, Datagram, Headers},
    policy::Policy,
    select, server, service,
};

/// A packet that is ours, and everything that was found out about it.
pub struct Call {
    pub packet: Packet,
    pub datagram: Datagram,
    /// To a VIP; the other one: from a backend's address.
    sides: Flag,
    /// Listener at the destination, 0 = none.
    pub listener: u16,
    /// Endpoint at the source, 0 = none.
    pub source: u16,
    pub payload: Payload,
    message: Code,
    /// Offset of the start line in the payload.
    pub line: u32,
    /// Else the message is placed by its source address. The other one: an entry may say something
    /// else than the slot.
    pub has_call_id: Flag,
    /// Hash of the Call-ID, else of the source.
    pub hash: u64,
    pub now: Now,
    /// Binding that owns the hash's slot, 0 = none; client side only.
    pub owner: u16,
    /// The dialog's entry.
    pub found: Found,
    /// What else the headers say, as far as it matters.
    pub examined: Examined,
}

impl Call {
    /// To a VIP.
    #[inline(always)]
    pub fn is_to_vip(&self) -> bool {
        self.sides.is_set()
    }

    /// From a backend's address.
    #[inline(always)]
    pub fn is_from_backend(&self) -> bool {
        self.sides.other().is_set()
    }

    /// What kind of message it is; a new copy for each question, see [`Flag`].
    #[inline(always)]
    pub fn message(&self) -> Code {
        self.message.via(|code| self.payload.forget_word(code))
    }
}

/// What came of it: the verdict and the way out.
pub struct Outcome {
    pub verdict: Verdict,
    pub exit: Exit,
}

impl Outcome {
    /// Of a packet that goes no way of ours.
    #[inline(always)]
    pub fn of(verdict: Verdict) -> Self {
        let exit = match verdict.kind() {
            Kind::Pass => Exit::Pass,
            Kind::Forward | Kind::Reply | Kind::Drop | Kind::SlowPath | Kind::Answer => Exit::Drop,
        };
        Self { verdict, exit }
    }
}

/// What the main program has to do about a packet.
pub enum Answer {
    Decided(Outcome),
    /// A fragment, counted already: the action.
    Counted(u32),
}

/// Decides about one packet and changes it accordingly.
#[inline(always)]
pub fn balance(packet: Packet) -> Answer {
    let headers = match Headers::of(packet) {
        Ok(headers) => headers,
        Err(verdict) => return Answer::Decided(Outcome::of(verdict)),
    };
    if headers.is_fragment()
        && let Some(action) = fragment::arrive(packet)
    {
        return Answer::Counted(action);
    }
    Answer::Decided(match decide(packet, &headers) {
        Ok(outcome) => outcome,
        Err(verdict) => {
            fault::report(packet, verdict);
            Outcome::of(verdict)
        }
    })
}

/// Decides about a whole datagram or a first fragment.
#[inline(always)]
fn decide(packet: Packet, headers: &Headers) -> Result<Outcome, Verdict> {
    let mut datagram = headers.datagram(packet)?;
    let listener = service::listener_of(packet, &datagram)?;
    let source = service::sender_of(packet, &datagram)?;
    if listener == 0 && source == 0 {
        return Err(Verdict::NotOurs);
    }
    // From here on one path for all frames: what differs is data.
    let sides = Flag::new(packet, listener != 0).with(packet, source != 0);
    datagram.forget(packet);
    let listener = packet.forget_word(listener.into()) as u16;
    let source = packet.forget_word(source.into()) as u16;
    service::check_mac(packet)?;
    check_controller()?;
    maps::record(|decision| {
        decision.listener = listener;
        decision.endpoint = source;
    });
    if sides.other().is_set() {
        server::check(packet, &datagram, sides, source)?;
    }
    let mut call = read(packet, datagram, sides, listener, source)?;
    if sides.is_set() {
        let listener = maps::listener(listener)?;
        // Before the marks are looked at: the controller marks slots before it publishes.
        let owner = select::owner(listener.choice, call.hash)?;
        call.owner = packet.forget_word(owner.into()) as u16;
    }
    if call.has_call_id.is_set() {
        recall(&mut call)?;
        read_on(&mut call);
    }
    if sides.is_set() { client::forward(&call) } else { server::reply(&call) }
}

/// Reads what both directions need: kind of message, Call-ID, hash.
#[inline(always)]
fn read(
    packet: Packet,
    datagram: Datagram,
    sides: Flag,
    listener: u16,
    source: u16,
) -> Result<Call, Verdict> {
    let (start, len) = parse::payload(packet, &datagram)?;
    let payload = Payload::new(packet, start, len);
    let (message, line) = sip::start_line(&payload).ok_or(Verdict::OutOfBounds)?;
    let message = Code::new(message).via(|code| payload.forget_word(code));
    let line = packet.forget(line);
    let key = maps::settings()?.key;
    let mut call = Call {
        packet,
        datagram,
        sides,
        listener,
        source,
        payload,
        message,
        line,
        has_call_id: Flag::NO,
        hash: 0,
        now: clock::now()?,
        owner: 0,
        found: Found::NOTHING,
        examined: Examined::default(),
    };
    let mut has_call_id = false;
    if call.message().is_sip() {
        let value = sip::find_call_id(&payload, line).ok_or(Verdict::OutOfBounds)?;
        let value = payload.forget(value);
        if value != 0 {
            let found = sip::call_id(&payload, value, key);
            if let Some(id) = found.ok_or(Verdict::OutOfBounds)? {
                has_call_id = true;
                call.hash = id.hash;
                maps::record_call(id.hash);
                maps::record(|decision| {
                    decision.call_id = id.offset as u16;
                    decision.call_id_len = id.length as u16;
                });
                if id.length > sip::MAX_HASHED {
                    count::event(Event::LongCallId);
                }
            }
        }
        if !has_call_id {
            count::event(Event::NoCallId);
        }
    }
    if !has_call_id {
        call.hash = hash::source(key, &call.datagram.source(packet)?);
    }
    maps::record(|decision| {
        decision.key = if has_call_id { Key::CallId } else { Key::SourceIp } as u8;
        decision.hash = call.hash;
        decision.method = message.method();
        decision.status = message.status();
    });
    call.has_call_id = Flag::new(packet, has_call_id);
    Ok(call)
}

/// Looks the dialog up, unless its slot is known to say the same.
#[inline(always)]
fn recall(call: &mut Call) -> Result<(), Verdict> {
    let dialogs = Dialogs::at(call.packet, call.hash, call.now)?;
    let mut policy = Policy::NONE;
    let mut is_shared = false;
    let whose = if call.is_to_vip() {
        let listener = maps::listener(call.listener)?;
        policy = Policy::of(call.packet, listener);
        is_shared = listener.shared != 0;
        Whose { service: listener.service, endpoint: 0 }
    } else {
        let primary = maps::endpoint(call.source)?.primary;
        Whose { service: maps::binding(primary)?.service, endpoint: call.source }
    };
    let is_marked = dialogs.is_marked(whose.service)? || is_shared;
    let asks = is_marked
        || !call.is_to_vip()
        || policy.hides_slots(call.packet)
        || call.message().concerns_entry();
    if asks && !policy.is_loose(call.packet) {
        call.found = dialogs.find(whose)?;
    }
    call.has_call_id = call.has_call_id.with(call.packet, is_marked);
    Ok(())
}

/// Reads the other headers where they decide: the To tag says whether a request makes a dialog or
/// is inside one, the CSeq which request a backend answers.
#[inline(always)]
fn read_on(call: &mut Call) {
    let needed = needed(call);
    if needed != 0 {
        let place = call.payload.pack(call.line);
        let examined = Examined(examine::examine(call.packet.context(), place, needed));
        if examined.has_second_call_id() {
            count::event(Event::SecondCallId);
        }
        call.examined = examined;
    }
    call.examined = Examined(call.payload.forget_word(call.examined.0));
}

/// Which headers decide, as bits of [`need`]; 0 = none.
#[inline(always)]
fn needed(call: &Call) -> u32 {
    let message = || call.message();
    let found = &call.found;
    let mut needed = 0;
    if call.is_from_backend() {
        // To another service's VIP it goes as a client's: what its own entry says is not known.
        let own = if call.is_to_vip() || !found.is_own() { 0 } else { found.state() };
        if message().is_request()
            && own != State::ConfirmedInvite.bits()
            && own != State::ConfirmedOther.bits()
        {
            needed = need::TO;
        } else if (message().is_lasting() && own != State::ConfirmedInvite.bits())
            || (message().is_refusal() && (call.is_to_vip() || own == State::Ringing.bits()))
        {
            needed = need::CSEQ;
        }
    } else if found.exists()
        && ((message().is_success() && found.state() != State::ConfirmedInvite.bits())
            || (message().is_refusal() && found.state() == State::Ringing.bits()))
    {
        needed = need::CSEQ;
    } else if found.exists()
        && message().is(Method::Invite)
        && !found.entry.is_confirmed()
        && found.state() != State::Ringing.bits()
    {
        // Refused or ended: does it ring anew?
        needed = need::TO;
    }
    if call.is_to_vip() && !found.exists() && message().forms_dialog() {
        needed |= need::TO | need::ALL;
    }
    needed
}

/// A table without probes may live for `controller_lost`; then the program stands aside.
#[inline(always)]
pub fn check_controller() -> Result<(), Verdict> {
    let lost_after = maps::settings()?.lost_after;
    if lost_after != 0 && clock::jiffies().wrapping_sub(maps::heartbeat()?) > lost_after {
        return Err(Verdict::ControllerLost);
    }
    Ok(())
}
