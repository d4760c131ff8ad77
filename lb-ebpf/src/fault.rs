//! Says in the controller's log what must never happen. Nothing on the way of a packet that fares well
//! comes here.

use aya_ebpf::bindings::xdp_md;
use aya_log_ebpf::error;
use lb_common::verdict::Verdict;

use crate::{count, packet::Packet};

/// Logs a verdict whose count must stay zero.
#[inline(always)]
pub fn report(packet: Packet, verdict: Verdict) {
    if verdict.is_fault() {
        fault(packet.context(), verdict as u32);
    }
}

/// Logs the first such packet on each CPU, and again whenever their number has doubled: a fault at
/// every packet must not drown the log. A function of its own, which the verifier walks once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fault(ctx: *mut xdp_md, verdict: u32) -> u32 {
    let number = count::so_far(verdict).wrapping_add(1);
    if number & number.wrapping_sub(1) != 0 {
        return 0;
    }
    let ingress = Packet::of(ctx).ingress();
    macro_rules! say {
        ($($name:ident)+) => {
            $(if verdict == Verdict::$name as u32 {
                const REASON: &str = Verdict::$name.reason();
                error!(
                    ctx,
                    "{}: a packet from interface {} was dropped by a fault of sip-lb, the {}. on this CPU",
                    REASON,
                    ingress,
                    number
                );
            })+
        };
    }
    say!(MissingListener MissingBinding MissingEndpoint MissingMap OutOfBounds);
    1
}
