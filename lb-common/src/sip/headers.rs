//! Finding header lines (RFC 3261 §7.3, §25.1).
//!
//! A header line starts behind a line feed and ends at the next; the search ends at the blank
//! line. Folded lines start with a blank and so are no header. Names match in any letter case, as
//! a whole, with SP or HTAB allowed before the colon.

use super::{Window, swar};

/// A search looks at the line feeds in at least this many bytes from its start, if there are no
/// more than 64 of them.
pub const REACH: u32 = 1408;

/// Turns of a search: one for each block of 32 bytes without a line feed, one for each line feed.
pub const TURNS: u32 = REACH / 32 + 64;

/// Blanks that may stand between a name and its colon.
pub const MAX_BLANKS: u32 = 7;

/// Headers that a search may have to find before it ends early; bits.
pub mod need {
    pub const CALL_ID: u32 = 1;
    pub const TO: u32 = 2;
    pub const CSEQ: u32 = 4;
    /// Search to the blank line.
    pub const ALL: u32 = 8;
}

/// Where header values were found: offset of the byte behind the colon of the first such line,
/// 0 = not found.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Headers {
    pub call_id: u32,
    pub to: u32,
    pub cseq: u32,
    /// 1 if a second Call-ID line was seen; only as far as the search went.
    pub second_call_id: u32,
}

/// Searches behind `from`, the offset of the start line, until all of `needed` (bits of [`need`])
/// are found, at the latest to the blank line.
#[inline(always)]
pub fn scan<W: Window>(window: &W, needed: u32, from: u32) -> Option<Headers> {
    let zero = || window.forget(0);
    let mut headers = Headers { call_id: zero(), to: zero(), cseq: zero(), second_call_id: zero() };
    let mut found = zero();
    let mut at = window.forget(from);
    // Line feeds of the current block that are still to be looked at, and where the block starts.
    let mut feeds = window.forget_all(0);
    let mut base = window.forget_all(0);
    // One flat loop that takes a block or a line at each turn: the verifier walks its body once a
    // turn, not once for each line that a block might have.
    for _ in 0..TURNS {
        if feeds == 0 {
            let len = window.len();
            if window.forget(at) >= len {
                break;
            }
            // The last block is the last 32 bytes; what it repeats of the one before, or has of
            // the bytes before the payload, is masked.
            let repeated = window.excess(at.wrapping_add(32), len);
            base = at.wrapping_sub(repeated);
            at = window.forget(at.wrapping_add(32));
            feeds = line_feeds(window.block(base)?) >> (repeated & 31) << (repeated & 31);
        }
        if feeds != 0 {
            let line = window.forget(base.wrapping_add(swar::lowest(feeds)).wrapping_add(1));
            let kind = visit(window, line, &mut headers)?;
            found = window.forget(found | kind);
            if kind == BLANK_LINE || window.forget(found) & needed == needed {
                break;
            }
        }
        feeds = window.forget_all(feeds & feeds.wrapping_sub(1));
    }
    Some(headers)
}

/// One bit for each line feed of a block.
#[inline(always)]
fn line_feeds(words: [u64; 4]) -> u32 {
    let suspect = swar::may_have_line_feed(words[0])
        | swar::may_have_line_feed(words[1])
        | swar::may_have_line_feed(words[2])
        | swar::may_have_line_feed(words[3]);
    if suspect & swar::HIGH_BITS == 0 {
        return 0;
    }
    swar::gather(swar::equal(words[0], b'\n'))
        | swar::gather(swar::equal(words[1], b'\n')) << 8
        | swar::gather(swar::equal(words[2], b'\n')) << 16
        | swar::gather(swar::equal(words[3], b'\n')) << 24
}

/// What [`visit`] returns beside the bits of [`need`].
const BLANK_LINE: u32 = 16;

/// Looks at the line that starts at `line`: what it is, 0 = nothing that is looked for.
#[inline(always)]
fn visit<W: Window>(window: &W, line: u32, headers: &mut Headers) -> Option<u32> {
    const fn name(text: &[u8; 8]) -> u64 {
        u64::from_le_bytes(*text)
    }
    let word = window.padded_near(line)?;
    let first = word as u8;
    if first == b'\n' || word as u16 == u16::from_le_bytes(*b"\r\n") {
        return Some(BLANK_LINE);
    }
    // Fold the case of letters, and of letters only: CR | 0x20 would be a hyphen.
    let folded = first | 0x20;
    let (kind, length) = if folded == b'c' {
        let call_id = (word | const { name(b"    \0  \0") }) & 0x00ff_ffff_ffff_ffff;
        if call_id == const { name(b"call-id\0") } {
            (need::CALL_ID, 7)
        } else if (word as u32 | 0x2020_2020) == u32::from_le_bytes(*b"cseq") {
            (need::CSEQ, 4)
        } else {
            return Some(0);
        }
    } else if folded == b'i' {
        (need::CALL_ID, 1)
    } else if folded == b't' {
        (need::TO, if (word >> 8) as u8 | 0x20 == b'o' { 2 } else { 1 })
    } else {
        return Some(0);
    };
    // One way for all names from here on.
    let packed = window.forget(kind << 4 | length);
    let (kind, length) = (packed >> 4, packed & 7);
    let value = colon(window, line, word, length)?;
    if value == 0 {
        return Some(0);
    }
    // Each comparison takes a copy of its own, so that what it teaches the verifier does not last.
    if window.forget(kind) == need::CALL_ID {
        if window.forget(headers.call_id) == 0 {
            headers.call_id = value;
        } else {
            headers.second_call_id = window.forget(1);
        }
    } else if window.forget(kind) == need::TO {
        if window.forget(headers.to) == 0 {
            headers.to = value;
        }
    } else if window.forget(headers.cseq) == 0 {
        headers.cseq = value;
    }
    Some(kind)
}

/// The offset behind the colon that follows the name, `length` bytes long, at `line`, of which
/// `word` is the start; up to [`MAX_BLANKS`] blanks may stand between. 0 = there is none.
#[inline(always)]
fn colon<W: Window>(window: &W, line: u32, word: u64, length: u32) -> Option<u32> {
    let at = line.wrapping_add(length);
    if (word >> (length * 8)) as u8 == b':' {
        return Some(window.forget(at.wrapping_add(1)));
    }
    let word = window.padded_near(at)?;
    let other = !swar::blanks(word) & swar::HIGH_BITS;
    if other == 0 {
        return Some(0);
    }
    let blanks = swar::first(other);
    if (word >> (blanks * 8)) as u8 != b':' {
        return Some(0);
    }
    Some(window.forget(at.wrapping_add(blanks).wrapping_add(1)))
}
