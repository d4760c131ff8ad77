//! STUN Binding requests (RFC 8489; RFC 5389) as RFC 5626 §8 has them on a SIP port: reading one,
//! and what an answer consists of.

use crate::sip::Window;

/// Bytes of the header.
pub const HEADER: u32 = 20;
/// In bytes 4–7 of every message, in wire order.
pub const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Longest request that is looked at, in bytes: what a client may send over IPv4 without knowing the
/// path's MTU (RFC 8489 §6.1).
pub const MAX_REQUEST: u32 = 548;
/// Attributes that a request may have.
pub const MAX_ATTRIBUTES: u32 = 12;
/// Unknown attributes that an answer names; further ones are left out.
pub const MAX_NAMED: u32 = 4;
/// Longest answer in bytes: four unknown attributes named, with FINGERPRINT.
pub const MAX_ANSWER: u32 = HEADER + ERROR_CODE.len() as u32 + 4 + 2 * MAX_NAMED + FINGERPRINT_LEN;

/// First four bytes of a message without its length: type and zeros.
const REQUEST: u16 = 0x0001;
/// Message types of the two answers, in wire order.
pub const SUCCESS: [u8; 2] = [0x01, 0x01];
pub const ERROR: [u8; 2] = [0x01, 0x11];

const MESSAGE_INTEGRITY: u32 = 0x0008;
pub const UNKNOWN_ATTRIBUTES: [u8; 2] = [0x00, 0x0a];
pub const XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];
const FINGERPRINT: u32 = 0x8028;
/// Type and length of a FINGERPRINT attribute.
pub const FINGERPRINT_HEAD: [u8; 4] = [0x80, 0x28, 0, 4];
/// Bytes of a FINGERPRINT attribute.
pub const FINGERPRINT_LEN: u32 = 8;
/// What the CRC-32 is combined with (RFC 8489 §14.7).
pub const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// ERROR-CODE 420 with its recommended reason phrase, padded to 28 bytes.
pub const ERROR_CODE: [u8; 28] = *b"\x00\x09\x00\x15\x00\x00\x04\x14Unknown Attribute\0\0\0";

/// Comprehension-required attributes (types below 0x8000) that a Binding request may have without
/// being refused, one bit each: MAPPED-ADDRESS, USERNAME, MESSAGE-INTEGRITY, ERROR-CODE,
/// UNKNOWN-ATTRIBUTES, REALM, NONCE, MESSAGE-INTEGRITY-SHA256, PASSWORD-ALGORITHM, USERHASH,
/// XOR-MAPPED-ADDRESS (RFC 8489 §18.3). Credentials are not asked for, so they are not checked.
const KNOWN: u64 = 1 << 0x01
    | 1 << 0x06
    | 1 << 0x08
    | 1 << 0x09
    | 1 << 0x0a
    | 1 << 0x14
    | 1 << 0x15
    | 1 << 0x1c
    | 1 << 0x1d
    | 1 << 0x1e
    | 1 << 0x20;

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub enum Kind {
    /// A well-formed Binding request; its FINGERPRINT is not checked yet.
    Binding,
    /// An indication, an answer, or a request of another method.
    Other,
    /// A Binding request whose lengths contradict each other, that has an attribute behind its
    /// FINGERPRINT, or that is too long or has too many attributes. RFC 8489 §6.3: discarded.
    Malformed,
}

/// A STUN message as far as an answer depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Request {
    pub kind: Kind,
    /// Offset of its FINGERPRINT, 0 = none; the CRC covers all bytes before that.
    pub fingerprint: u32,
    /// Number of attributes that must be understood and are not, at most [`MAX_NAMED`].
    pub unknown: u32,
    /// Their types, 16 bits each, the first one highest; aligned to the upper end.
    pub types: u64,
}

impl Request {
    const fn only(kind: Kind) -> Self {
        Self { kind, fingerprint: 0, unknown: 0, types: 0 }
    }
}

/// Reads a message that has the magic cookie; `None` if the window ends before its length.
#[inline(always)]
pub fn read<W: Window>(window: &W) -> Option<Request> {
    let len = window.len();
    let head = window.padded(0)?;
    if (head as u16).swap_bytes() != REQUEST {
        return Some(Request::only(Kind::Other));
    }
    let announced = u32::from(((head >> 16) as u16).swap_bytes());
    if announced.wrapping_add(HEADER) != len || announced & 3 != 0 || len > MAX_REQUEST {
        return Some(Request::only(Kind::Malformed));
    }
    let mut request = Request::only(Kind::Binding);
    let mut at = window.forget(HEADER);
    // Whatever follows MESSAGE-INTEGRITY, apart from FINGERPRINT, is ignored (RFC 8489 §14.5).
    let mut sealed = window.forget(0);
    for _ in 0..MAX_ATTRIBUTES {
        if window.forget(at) >= len {
            break;
        }
        let word = window.padded_near(at)? as u32;
        let kind = u32::from((word as u16).swap_bytes());
        let length = u32::from(((word >> 16) as u16).swap_bytes());
        let next = at.wrapping_add(4).wrapping_add(length.wrapping_add(3) & 0x1_fffc);
        if next > len || window.forget(request.fingerprint) != 0 {
            return Some(Request::only(Kind::Malformed));
        }
        if kind == FINGERPRINT {
            if length != 4 {
                return Some(Request::only(Kind::Malformed));
            }
            request.fingerprint = window.forget(at);
        }
        let is_known = kind >= 0x8000 || (kind < 64 && KNOWN >> kind & 1 != 0);
        if !is_known && window.forget(sealed) == 0 && window.forget(request.unknown) < MAX_NAMED {
            request.unknown = window.forget(request.unknown.wrapping_add(1));
            request.types = request.types << 16 | u64::from(kind);
        }
        if kind == MESSAGE_INTEGRITY {
            sealed = window.forget(1);
        }
        at = window.forget(next);
    }
    if window.forget(at) < len {
        return Some(Request::only(Kind::Malformed));
    }
    request.types <<= ((MAX_NAMED - request.unknown) * 16) & 63;
    Some(request)
}

/// The CRC-32 (ISO/IEC 13239, as in Ethernet) of the first `len` bytes, a multiple of four up to
/// [`MAX_REQUEST`]; the window must go on for four bytes more, as it does where a FINGERPRINT follows.
#[inline(always)]
pub fn crc<W: Window>(window: &W, len: u32) -> Option<u32> {
    let mut crc = window.forget_all(u32::MAX);
    let mut at = window.forget(0);
    for _ in 0..MAX_REQUEST / 8 {
        if window.forget(at.wrapping_add(8)) > len {
            break;
        }
        let word = window.word(at)?;
        crc = window.forget_all(four_bytes(four_bytes(crc, word as u32), (word >> 32) as u32));
        at = window.forget(at.wrapping_add(8));
    }
    if window.forget(at) < len {
        crc = four_bytes(crc, window.word(at)? as u32);
    }
    Some(!crc)
}

#[inline(always)]
fn four_bytes(crc: u32, bytes: u32) -> u32 {
    let mut crc = crc ^ bytes;
    let mut byte = 0;
    while byte < 4 {
        crc = CRC[(crc & 255) as usize] ^ crc >> 8;
        byte += 1;
    }
    crc
}

/// Remainders of single bytes, lowest bit first.
static CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sip::Payload;

    const ID: &[u8; 12] = b"abcdefghijkl";

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [kind.to_be_bytes(), (value.len() as u16).to_be_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), &COOKIE, ID, &body].concat()
    }

    fn of(bytes: &[u8]) -> Request {
        read(&Payload::new(bytes)).unwrap()
    }

    #[test]
    fn a_plain_binding_request_asks_for_nothing_more() {
        assert_eq!(of(&message(1, &[])), Request::only(Kind::Binding));
    }

    #[test]
    fn only_binding_requests_are_answered() {
        for kind in [0x0011, 0x0101, 0x0111, 0x0003, 0x0002, 0x3fff] {
            assert_eq!(of(&message(kind, &[])).kind, Kind::Other, "{kind:#06x}");
        }
    }

    #[test]
    fn lengths_must_agree() {
        let good = message(1, &[attribute(0x8022, b"client")]);
        assert_eq!(of(&good).kind, Kind::Binding);
        assert_eq!(of(&good[..good.len() - 4]).kind, Kind::Malformed, "cut short");
        assert_eq!(of(&[&good[..], &[0; 4]].concat()).kind, Kind::Malformed, "bytes behind it");
        let mut longer = good.clone();
        longer[23] += 4;
        assert_eq!(of(&longer).kind, Kind::Malformed, "an attribute beyond the end");
        let mut huge = good;
        huge[22..24].fill(0xff);
        assert_eq!(of(&huge).kind, Kind::Malformed, "an attribute far beyond the end");
        assert_eq!(of(&message(1, &[vec![0; 3]])).kind, Kind::Malformed, "not in units of four");
    }

    #[test]
    fn what_must_be_understood_and_is_not_is_named() {
        let known = [0x0001, 0x0006, 0x0008, 0x0014, 0x0015, 0x001c, 0x001d, 0x001e, 0x0020];
        for kind in known.into_iter().chain([0x8022, 0x8028 + 1, 0xffff]) {
            assert_eq!(of(&message(1, &[attribute(kind, b"x")])).unknown, 0, "{kind:#06x}");
        }
        // CHANGE-REQUEST, PRIORITY, the ends of the range.
        for kind in [0x0003, 0x0024, 0x0000, 0x7fff] {
            let request = of(&message(1, &[attribute(kind, &[0; 4])]));
            assert_eq!((request.unknown, request.types), (1, u64::from(kind) << 48), "{kind:#06x}");
        }
        let many: Vec<_> = (0x30..0x36).map(|kind| attribute(kind, b"")).collect();
        let request = of(&message(1, &many));
        assert_eq!((request.unknown, request.types), (4, 0x0030_0031_0032_0033));
    }

    #[test]
    fn what_follows_message_integrity_is_ignored() {
        let seal = attribute(0x0008, &[0; 20]);
        let request = of(&message(1, &[attribute(3, b""), seal, attribute(0x24, b"")]));
        assert_eq!((request.unknown, request.types), (1, 3 << 48));
    }

    #[test]
    fn a_fingerprint_comes_last_and_has_four_bytes() {
        let print = || attribute(0x8028, &[1, 2, 3, 4]);
        let request = of(&message(1, &[attribute(0x8022, b"abc"), print()]));
        assert_eq!((request.kind, request.fingerprint), (Kind::Binding, 28));
        assert_eq!(of(&message(1, &[print(), attribute(0x8022, b"")])).kind, Kind::Malformed);
        assert_eq!(of(&message(1, &[attribute(0x8028, b"12345")])).kind, Kind::Malformed);
    }

    #[test]
    fn longer_and_more_than_a_client_may_send_is_malformed() {
        let long = message(1, &[attribute(0x8022, &[0; 524])]);
        assert_eq!((long.len(), of(&long).kind), (548, Kind::Binding));
        assert_eq!(of(&message(1, &[attribute(0x8022, &[0; 525])])).kind, Kind::Malformed);
        let twelve = vec![attribute(0x8022, b""); 12];
        assert_eq!(of(&message(1, &twelve)).kind, Kind::Binding);
        assert_eq!(of(&message(1, &[&twelve[..], &twelve[..1]].concat())).kind, Kind::Malformed);
    }

    #[test]
    fn the_fingerprint_of_the_rfcs_sample_request_is_right() {
        // RFC 5769 §2.1.
        let sample: [u8; 108] = *b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
            \x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\
            \x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\x00\x06\x00\x09evtj:h6vY\x20\x20\x20\
            \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\
            \x80\x28\x00\x04\xe5\x7a\x3b\xcf";
        let request = of(&sample);
        assert_eq!((request.kind, request.fingerprint), (Kind::Binding, 100));
        assert_eq!((request.unknown, request.types), (1, 0x24 << 48), "PRIORITY belongs to ICE");
        let crc = crc(&Payload::new(&sample), request.fingerprint).unwrap();
        assert_eq!(crc ^ FINGERPRINT_XOR, 0xe57a_3bcf);
    }

    #[test]
    fn the_error_code_has_its_length_and_its_padding() {
        let reason = b"Unknown Attribute";
        assert_eq!(usize::from(ERROR_CODE[3]), 4 + reason.len());
        assert_eq!(ERROR_CODE[8..8 + reason.len()], *reason);
        assert_eq!(ERROR_CODE.len() % 4, 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 20..600), sound: bool) {
            bytes[..2].copy_from_slice(&[0, 1]);
            if sound {
                let length = bytes.len() as u16 - 20;
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
            }
            let request = of(&bytes);
            prop_assert!(request.unknown <= MAX_NAMED);
            if request.fingerprint != 0 {
                prop_assert_eq!(request.fingerprint as usize + 8, bytes.len());
            }
        }
    }
}
