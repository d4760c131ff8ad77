//! The slow look at a message: all headers that a new dialog is placed by.
//!
//! Functions of their own, which the verifier walks once and not for each path that leads there;
//! the call costs some nanoseconds, paid by what makes or confirms dialogs.

use aya_ebpf::bindings::xdp_md;
use lb_common::sip::{self, Headers, MAX_LENGTH, Window as _};

use crate::packet::{Packet, Payload};

/// What [`examine`] found, in one word: bit 0 = the To header has a tag, bit 1 = there is a second
/// Call-ID, bits 2–6 = number of the method in the CSeq, 0 = other, bit 7 = the reference is a
/// Join; then offsets of header values, 12 bits each, 0 = none: from bit 8 reference, 20 Via,
/// 32 From, 44 To.
#[derive(Clone, Copy, Default)]
pub struct Examined(pub u64);

impl Examined {
    #[inline(always)]
    fn new(headers: Headers, has_tag: bool, cseq: u32) -> Self {
        Self(
            u64::from(has_tag)
                | u64::from(headers.has_second_call_id()) << 1
                | u64::from(cseq & 31) << 2
                | u64::from(headers.is_join()) << 7
                | u64::from(headers.reference()) << 8
                | u64::from(headers.via()) << 20
                | u64::from(headers.from()) << 32
                | u64::from(headers.to()) << 44,
        )
    }

    /// True if the request is inside a dialog.
    #[inline(always)]
    pub fn in_dialog(self) -> bool {
        self.0 & 1 != 0
    }

    #[inline(always)]
    pub fn has_second_call_id(self) -> bool {
        self.0 & 2 != 0
    }

    /// Offset of the From header's value, 0 = none.
    #[inline(always)]
    pub fn from(self) -> u32 {
        (self.0 >> 32) as u32 & 0xfff
    }

    /// Offset of the To header's value, 0 = none.
    #[inline(always)]
    pub fn to(self) -> u32 {
        (self.0 >> 44) as u32 & 0xfff
    }

    /// Offset of the topmost Via's value, 0 = none.
    #[inline(always)]
    pub fn via(self) -> u32 {
        (self.0 >> 20) as u32 & 0xfff
    }

    /// Offset of the value of Replaces or Join, 0 = none.
    #[inline(always)]
    pub fn reference(self) -> u32 {
        (self.0 >> 8) as u32 & 0xfff
    }

    /// Number of the method that a response answers, 0 = other.
    #[inline(always)]
    pub fn cseq(self) -> u32 {
        (self.0 >> 2) as u32 & 31
    }
}

/// Searches the header lines behind the start line for what `needed` (bits of [`sip::need`]) says;
/// `packed` is the place of the start line (see [`Payload::pack`]). Returns [`Examined`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn examine(ctx: *mut xdp_md, packed: u64, needed: u32) -> u64 {
    let (payload, line) = Payload::unpack(Packet::of(ctx), packed);
    // Out of bounds cannot happen; nothing found means at worst an entry too many.
    let headers = sip::scan(&payload, needed, line).unwrap_or_default();
    // Asked anew, lest the answers part the paths through the search.
    let needed = payload.forget_all(needed);
    let has_tag = headers.to() != 0
        && needed & sip::need::TO != 0
        && sip::has_tag(&payload, headers.to()).unwrap_or(false);
    let cseq = if headers.cseq() != 0 && needed & sip::need::CSEQ != 0 {
        sip::cseq_method(&payload, headers.cseq()).map_or(0, |method| method as u32)
    } else {
        0
    };
    Examined::new(headers, has_tag, cseq).0
}

/// Length of a Call-ID of more than 256 bytes, of which `packed` is the place.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn long_length(ctx: *mut xdp_md, packed: u64) -> u32 {
    let (payload, at) = Payload::unpack(Packet::of(ctx), packed);
    sip::long_length(&payload, at).unwrap_or(MAX_LENGTH)
}
