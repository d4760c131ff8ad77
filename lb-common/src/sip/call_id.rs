//! The value of a Call-ID header: where it lies and its hash, in one pass.

use super::{Window, lines::BLOCK, swar};
use crate::hash::{HashKey, SipHash};

/// Bytes of a Call-ID that are hashed; of a longer one the first so many, then its length as a
/// little-endian word of eight bytes.
pub const MAX_HASHED: u32 = 256;
/// A longer Call-ID counts as this long.
pub const MAX_LENGTH: u32 = 512;
/// Bytes that may stand between a colon and the value: blanks and a fold.
pub const MAX_SKIPPED: u32 = 48;

/// A Call-ID in a payload.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct CallId {
    /// Where the value starts, in bytes from the start of the payload.
    pub offset: u32,
    /// Length in bytes, at least 1; at most 512 (longer ones count so).
    pub length: u32,
    pub hash: u64,
}

/// The Call-ID behind the colon at `value`, hashed byte for byte; `Some(None)` if it is empty.
///
/// The value runs to SP, HTAB, CR, LF or the end of the datagram (RFC 3261 §25.1: a word has none
/// of them).
#[inline(always)]
pub fn call_id<W: Window>(window: &W, value: u32, key: HashKey) -> Option<Option<CallId>> {
    let Some(offset) = skip_blanks(window, value)? else {
        return Some(None);
    };
    window.meet();
    let len = window.len();
    let mut hash = SipHash::new(key);
    let mut at = offset;
    let mut done = window.forget(0);
    // Most are longer than a block; it is read at once.
    if i64::from(len) - i64::from(at) >= i64::from(BLOCK) {
        let words = window.block(at)?;
        if words.iter().fold(0, |all, &word| all | swar::may_have_space(word)) == 0 {
            words.iter().for_each(|&word| hash.word(word));
            at = at.wrapping_add(BLOCK);
            done = BLOCK;
        }
    }
    let (mut at, mut done) = (window.forget(at), window.forget(done));
    window.meet();
    let mut tail = 0;
    let mut is_whole = window.forget(0);
    for _ in 0..MAX_HASHED / 8 {
        if window.forget(done) == MAX_HASHED {
            break;
        }
        let word = window.ahead(at)?;
        let end = ends(word, len.wrapping_sub(at));
        if end != 0 {
            let rest = swar::first(end);
            tail = swar::keep(word, rest);
            done = window.forget(done.wrapping_add(rest));
            is_whole = window.forget(1);
            break;
        }
        hash.word(word);
        at = window.forget(at.wrapping_add(8));
        done = window.forget(done.wrapping_add(8));
        window.meet();
    }
    window.meet();
    let mut length = done;
    if window.forget(is_whole) == 0 {
        length = window.long_length(at)?;
        length = window.forget(length);
        if window.forget(length) != MAX_HASHED {
            hash.word(u64::from(length));
            done = window.forget(MAX_HASHED + 8);
        }
    }
    if window.forget(length) == 0 {
        return Some(None);
    }
    Some(Some(CallId { offset, length, hash: hash.finish(tail, done) }))
}

/// Length of a Call-ID whose first [`MAX_HASHED`] bytes end at `at`, at most [`MAX_LENGTH`].
#[inline(always)]
pub fn long_length<W: Window>(window: &W, at: u32) -> Option<u32> {
    let mut at = window.forget(at);
    for i in MAX_HASHED / 8..MAX_LENGTH / 8 {
        let word = window.padded(at)?;
        let end = ends(word, window.len().wrapping_sub(at));
        if end != 0 {
            return Some(i * 8 + swar::first(end));
        }
        at = window.forget(at.wrapping_add(8));
    }
    Some(MAX_LENGTH)
}

/// Where a token ends within `word`, of which `left` bytes belong to the datagram.
#[inline(always)]
fn ends(word: u64, left: u32) -> u64 {
    // Padding behind the end is zero, which raises the filter.
    if swar::may_have_space(word) == 0 {
        return 0;
    }
    let beyond = if left < 8 { 0x80 << (left * 8) } else { 0 };
    swar::spaces(word) | beyond
}

/// The first byte of a value: behind SP and HTAB and at most one folded line (RFC 3261 §7.3.1).
/// `Some(None)` if the value is empty or more than [`MAX_SKIPPED`] bytes stand before it.
#[inline(always)]
pub(super) fn skip_blanks<W: Window>(window: &W, value: u32) -> Option<Option<u32>> {
    let word = window.ahead(value)?;
    if swar::byte(word, 0) > b' ' {
        return Some(Some(value));
    }
    if swar::byte(word, 0) == b' ' && swar::byte(word, 1) > b' ' {
        return Some(Some(window.forget(value.wrapping_add(1))));
    }
    let mut at = value;
    let mut folded = window.forget(0);
    // Each turn takes eight blanks, but for the one at the fold and the one at the value.
    for _ in 0..MAX_SKIPPED / 8 + 2 {
        let word = window.padded(at)?;
        let other = !swar::blanks(word) & swar::HIGH_BITS;
        if other == 0 {
            at = window.forget(at.wrapping_add(8));
            continue;
        }
        at = window.forget(at.wrapping_add(swar::first(other)));
        let word = window.padded(at)?;
        let feed = u32::from(word as u8 == b'\r');
        if (word >> (feed * 8)) as u8 != b'\n' {
            // Any other byte starts the value; a lone CR ends the line before it started.
            let starts = feed == 0
                && window.forget(at) < window.len()
                && window.excess(at, value) <= MAX_SKIPPED;
            return Some(starts.then_some(at));
        }
        let behind = (word >> (feed * 8 + 8)) as u8;
        if window.forget(folded) != 0 || (behind != b' ' && behind != b'\t') {
            return Some(None);
        }
        folded = window.forget(1);
        at = window.forget(at.wrapping_add(feed).wrapping_add(2));
    }
    Some(None)
}
