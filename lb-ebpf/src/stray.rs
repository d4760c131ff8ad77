//! Datagrams to a VIP that are no SIP message, or may be none: STUN, keepalives, and the rest.

use aya_ebpf::bindings::xdp_md;
use lb_common::{
    service::{Listener, keepalive, malformed},
    sip,
    verdict::Verdict,
};

use crate::{
    packet::{Packet, Payload},
    pipeline::{Call, Outcome},
    stun,
};

/// Ends what the service's policy ends here; `None` sends the datagram on to a backend.
#[inline(always)]
pub fn judge(call: &Call, listener: &Listener) -> Result<Option<Outcome>, Verdict> {
    if call.message().is_stun() {
        // Silence tells the client to try another edge (RFC 5626 §4.4).
        if call.owner == 0 {
            return Err(Verdict::NotAnswered);
        }
        return stun::answer(call);
    }
    if !call.message().is_sip() {
        if listener.keepalive == keepalive::ABSORB {
            return Err(Verdict::KeepaliveAbsorbed);
        }
        return Ok(None);
    }
    if listener.malformed == malformed::DROP && is_no_sip(call) {
        return Err(Verdict::Malformed);
    }
    Ok(None)
}

/// True if neither a status line nor anything like a request line stands at the start. (What has a
/// Call-ID is not looked at.)
#[inline(always)]
fn is_no_sip(call: &Call) -> bool {
    if call.message().is_response() {
        return call.message().status() == 0;
    }
    request_line(call.packet.context(), call.payload.pack(call.line)) == 0
}

/// 1 if the line at `packed` (see [`Payload::pack`]) may be a request line.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn request_line(ctx: *mut xdp_md, packed: u64) -> u32 {
    let (payload, line) = Payload::unpack(Packet::of(ctx), packed);
    // Out of bounds cannot happen; nothing is dropped for it.
    sip::may_be_request_line(&payload, line).unwrap_or(true).into()
}
