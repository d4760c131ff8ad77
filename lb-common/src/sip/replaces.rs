//! The dialog that a new one refers to: `Replaces` (RFC 3891 §6.1) and `Join` (RFC 3911 §7.1).

use super::{
    Window,
    call_id::{MAX_HASHED, MAX_LENGTH, skip_blanks},
    swar,
    via::beyond,
};
use crate::hash::{HashKey, SipHash};

/// The hash of the Call-ID in the header whose value starts behind the colon at `value`, as
/// [`super::call_id()`] hashes the same Call-ID in its own header; `Some(None)` if there is none.
///
/// The Call-ID runs to a semicolon, SP, HTAB, CR, LF or the end of the datagram. Nothing in it is
/// escaped: percent signs and quotes belong to it (a `Refer-To` URI escapes its copy, the INVITE
/// that follows does not).
#[inline(always)]
pub fn referenced<W: Window>(window: &W, value: u32, key: HashKey) -> Option<Option<u64>> {
    let Some(at) = skip_blanks(window, value)? else {
        return Some(None);
    };
    let mut at = window.forget(at);
    let mut hash = SipHash::new(key);
    for i in 0..MAX_HASHED / 8 {
        let word = window.padded(at)?;
        let end = ends(window, word, at);
        if end != 0 {
            let rest = swar::first(end);
            let length = i * 8 + rest;
            if window.forget(length) == 0 {
                return Some(None);
            }
            let hash = hash.finish(swar::keep(word, rest), window.forget(length));
            return Some(Some(window.forget_word(hash)));
        }
        hash.word(word);
        at = window.forget(at.wrapping_add(8));
    }
    let mut length = window.forget(MAX_LENGTH);
    for i in MAX_HASHED / 8..MAX_LENGTH / 8 {
        let word = window.padded(at)?;
        let end = ends(window, word, at);
        if end != 0 {
            length = window.forget(i * 8 + swar::first(end));
            break;
        }
        at = window.forget(at.wrapping_add(8));
    }
    if window.forget(length) == MAX_HASHED {
        return Some(Some(hash.finish(0, MAX_HASHED)));
    }
    hash.word(u64::from(length));
    Some(Some(hash.finish(0, MAX_HASHED + 8)))
}

/// Where the Call-ID ends within the word at `at`.
#[inline(always)]
fn ends<W: Window>(window: &W, word: u64, at: u32) -> u64 {
    swar::spaces(word) | swar::equal(word, b';') | beyond(window, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hash, sip::Payload};

    #[test]
    fn the_referenced_call_id_hashes_as_in_its_own_header() {
        let key = HashKey { k0: 1, k1: 2 };
        let read = |value: &str| referenced(&Payload::new(value.as_bytes()), 0, key).unwrap();
        for value in [
            " 425928@bobster.example.org;to-tag=7743;from-tag=6472\r\n",
            "425928@bobster.example.org ;to-tag=7743",
            "\r\n\t425928@bobster.example.org\r\n ;to-tag=1",
            "425928@bobster.example.org",
        ] {
            assert_eq!(
                read(value),
                Some(hash::bytes(key, b"425928@bobster.example.org")),
                "{value}"
            );
        }
        for value in ["", " ;to-tag=1", "\r\nTo: <sip:a@b>"] {
            assert_eq!(read(value), None, "{value}");
        }
        for length in [7, 8, 255, 256, 257, 511, 512, 600] {
            let id = "x".repeat(length);
            let own = super::super::call_id(&Payload::new(id.as_bytes()), 0, key).unwrap();
            assert_eq!(read(&format!("{id};to-tag=1")), own.map(|id| id.hash), "{length}");
        }
    }
}
