//! What else the dialog table wants to know of a message: the To tag and the CSeq method.

use super::{Method, Window, call_id::skip_blanks, swar};

/// Steps from one special character to the next within a To header.
const MAX_STEPS: u32 = 40;

/// True if the To header whose value starts behind the colon at `value` has a `tag` parameter
/// (RFC 3261 §20.39): the request is inside a dialog.
///
/// Quoted strings and angle brackets hide what is in them. A header of more than 40 special
/// characters or words counts as untagged.
#[inline(always)]
pub fn has_tag<W: Window>(window: &W, value: u32) -> Option<bool> {
    let mut at = window.forget(value);
    let len = window.len();
    // Within quotes 1, within angle brackets 2.
    let mut inside = 0u32;
    for _ in 0..MAX_STEPS {
        if at >= len {
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
        let mut next = at.wrapping_add(position).wrapping_add(1);
        if byte == b'\n' {
            // The header goes on in a folded line.
            let behind = swar::byte(window.padded(window.forget(next))?, 0);
            if behind != b' ' && behind != b'\t' {
                return Some(false);
            }
            // A quoted string never spans lines.
            inside &= 2;
        } else if inside == 1 {
            if byte == b'"' {
                inside = 0;
            } else if byte == b'\\' {
                next = next.wrapping_add(1);
            }
        } else if byte == b'"' && inside == 0 {
            inside = 1;
        } else if byte == b'<' {
            inside = 2;
        } else if byte == b'>' {
            inside = 0;
        } else if byte == b';' && inside == 0 {
            let word = window.padded(window.forget(next))?;
            // Up to four blanks fit between the semicolon and the name.
            let blanks = swar::first((!swar::blanks(word) & swar::HIGH_BITS) | 1 << 63);
            let name = (word >> (blanks * 8)) as u32;
            if (name | 0x0020_2020) & 0x00ff_ffff == u32::from_le_bytes(*b"tag\0")
                && matches!((name >> 24) as u8, b'=' | b' ' | b'\t')
            {
                return Some(true);
            }
        }
        at = window.forget(next);
        inside = window.forget(inside);
    }
    Some(false)
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
