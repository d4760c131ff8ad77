//! What else the dialog table wants to know of a message: the To tag and the CSeq method.

use super::{Method, Window, call_id::skip_blanks, swar};

/// Steps from one special character to the next within a To header.
const MAX_STEPS: u32 = 32;

/// Where in a To header a special character stands.
const PLAIN: u32 = 0;
const QUOTED: u32 = 1;
const ANGLED: u32 = 2;
/// At the end of a line that ends behind a semicolon.
const BEFORE_NAME: u32 = 4;

/// True if the To header whose value starts behind the colon at `value` has a `tag` parameter
/// (RFC 3261 §20.39): the request is inside a dialog.
///
/// Quoted strings and angle brackets hide what is in them. The name stands behind a semicolon and
/// at most four blanks, on its line or the folded one behind it, and ends at `=`, SP or HTAB. The
/// search takes 32 steps; one ends behind a special character (`"\<>;` and LF) or after eight bytes
/// without.
#[inline(always)]
pub fn has_tag<W: Window>(window: &W, value: u32) -> Option<bool> {
    if !may_have_parameter(window, value)? {
        return Some(false);
    }
    let mut at = window.forget(value);
    let mut place = window.forget(PLAIN);
    for _ in 0..MAX_STEPS {
        if window.forget(at) >= window.len() {
            return Some(false);
        }
        let word = window.padded(at)?;
        let special = swar::equal(word, b'"')
            | swar::equal(word, b'\\')
            | swar::equal(word, b'<')
            | swar::equal(word, b'>')
            | swar::equal(word, b';')
            | swar::equal(word, b'\n');
        if special == 0 {
            at = window.forget(at.wrapping_add(8));
            continue;
        }
        let position = swar::first(special);
        let byte = swar::byte(word, position);
        let mut next = window.forget(at.wrapping_add(position).wrapping_add(1));
        let behind = window.padded(next)?;
        let mut parameter = false;
        // What the comparisons teach the verifier stays with this copy.
        let here = window.forget(place);
        if byte == b'\n' {
            if !matches!(swar::byte(behind, 0), b' ' | b'\t') {
                return Some(false);
            }
            // The header goes on in a folded line; a quoted string does not.
            parameter = here == BEFORE_NAME;
            place = here & ANGLED;
        } else if here == QUOTED {
            if byte == b'"' {
                place = PLAIN;
            } else if byte == b'\\' && swar::byte(behind, 0) != b'\n' {
                next = next.wrapping_add(1);
            }
        } else if byte == b'"' && here == PLAIN {
            place = QUOTED;
        } else if byte == b'<' {
            place = ANGLED;
        } else if byte == b'>' {
            place = PLAIN;
        } else if byte == b';' && here == PLAIN {
            parameter = true;
        }
        if parameter {
            // Up to four blanks fit between the semicolon and the name.
            let blanks = swar::first((!swar::blanks(behind) & swar::HIGH_BITS) | 1 << 63);
            let name = (behind >> (blanks * 8)) as u32;
            if (name | 0x0020_2020) & 0x00ff_ffff == u32::from_le_bytes(*b"tag\0")
                && matches!((name >> 24) as u8, b'=' | b' ' | b'\t')
            {
                return Some(true);
            }
            if name as u8 == b'\n' || name as u16 == u16::from_le_bytes(*b"\r\n") {
                place = BEFORE_NAME;
            }
        }
        at = window.forget(next);
        place = window.forget(place);
    }
    Some(false)
}

/// False if the line, and no folded one behind it, has no semicolon: most To headers of requests
/// that begin a dialog.
#[inline(always)]
fn may_have_parameter<W: Window>(window: &W, value: u32) -> Option<bool> {
    let mut at = window.forget(value);
    for _ in 0..16 {
        let word = window.ahead(at)?;
        let stops = swar::equal(word, b';') | swar::equal(word, b'\n');
        if stops == 0 {
            at = window.forget(at.wrapping_add(8));
            continue;
        }
        let stop = swar::first(stops);
        let behind = window.ahead(window.forget(at.wrapping_add(stop).wrapping_add(1)))?;
        return Some(
            swar::byte(word, stop) == b';' || matches!(swar::byte(behind, 0), b' ' | b'\t'),
        );
    }
    Some(true)
}

/// The method in the CSeq header whose value starts behind the colon at `value` (RFC 3261 §20.16).
#[inline(always)]
pub fn cseq_method<W: Window>(window: &W, value: u32) -> Option<Method> {
    let Some(mut at) = skip_blanks(window, value)? else {
        return Some(Method::Other);
    };
    for _ in 0..4 {
        let word = window.padded(at)?;
        // 0x30–0x39 and nothing else becomes 0x00–0x09 and then stays below 0x10 with 6 added.
        let digits = word ^ swar::all(b'0');
        let high = swar::zeros(digits & swar::all(0xf0));
        let low =
            swar::zeros((digits & swar::all(0x0f)).wrapping_add(swar::all(6)) & swar::all(0x10));
        let other = !(high & low) & swar::HIGH_BITS;
        if other != 0 {
            at = window.forget(at.wrapping_add(swar::first(other)));
            break;
        }
        at = window.forget(at.wrapping_add(8));
    }
    let Some(at) = skip_blanks(window, at)? else {
        return Some(Method::Other);
    };
    let word = window.padded(at)?;
    let next = window.padded(window.forget(at.wrapping_add(8)))?;
    Some(Method::of(word, next))
}
