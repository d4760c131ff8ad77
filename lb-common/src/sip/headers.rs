//! Finding header lines (RFC 3261 §7.3, §25.1).
//!
//! A header line starts behind a line feed and ends at the next; the search ends at the blank
//! line. Folded lines start with a blank and so are no header. Names match in any letter case, as
//! a whole, with SP or HTAB allowed before the colon.

use super::{Window, swar};

/// A header line is found if it starts 1 to so many bytes behind the start of the search; a search
/// that goes on from a Call-ID reaches as far again.
pub const REACH: u32 = 1408;

/// Lines that a search looks at.
pub const MAX_LINES: u32 = 160;

/// Steps of a search: blocks of 32 bytes, and lines.
const TURNS: u32 = REACH / 32 + MAX_LINES;

/// Blanks that may stand between a name and its colon.
pub const MAX_BLANKS: u32 = 7;

/// [`Headers::next`] of a search that did not stop at a Call-ID.
pub const END: u32 = 0xfff;

/// Which headers a search is for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Want {
    /// Stop at the first Call-ID; `Headers::next` says where to go on.
    pub stop_at_call_id: bool,
    /// Stop once those of To and CSeq that are looked for are found.
    pub stop_at_others: bool,
    pub to: bool,
    pub cseq: bool,
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
    /// Start of the Call-ID line at which the search stopped and from which it may go on;
    /// [`END`] = it stopped for another reason.
    pub next: u32,
}

/// Searches behind `from` (the start line's offset, or `next` of an earlier search that stopped at
/// the Call-ID; never a line feed), adding to `headers`.
#[inline(always)]
pub fn scan<W: Window>(window: &W, want: Want, from: u32, headers: &mut Headers) -> Option<()> {
    let mut at = window.forget(from);
    headers.call_id = window.forget(headers.call_id);
    headers.to = window.forget(headers.to);
    headers.cseq = window.forget(headers.cseq);
    headers.second_call_id = window.forget(headers.second_call_id);
    headers.next = window.forget(END);
    let mut lines = window.forget(0);
    // Line feeds of the current block that are still to be looked at, and where the block starts.
    let mut feeds = 0;
    let mut base = 0;
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
            if feeds == 0 {
                continue;
            }
        }
        let line = base.wrapping_add(swar::lowest(feeds)).wrapping_add(1);
        feeds &= feeds.wrapping_sub(1);
        lines = window.forget(lines + 1);
        if window.forget(lines) > MAX_LINES || visit(window, want, window.forget(line), headers)? {
            break;
        }
    }
    Some(())
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

const CALL_ID: u32 = 1;
const TO: u32 = 2;
const CSEQ: u32 = 3;

/// Looks at the line that starts at `line`; true = the search ends.
#[inline(always)]
fn visit<W: Window>(window: &W, want: Want, line: u32, headers: &mut Headers) -> Option<bool> {
    const fn name(text: &[u8; 8]) -> u64 {
        u64::from_le_bytes(*text)
    }
    let word = window.padded(line)?;
    let first = word as u8;
    if first == b'\n' || word as u16 == u16::from_le_bytes(*b"\r\n") {
        return Some(true);
    }
    // Fold the case of letters, and of letters only: CR | 0x20 would be a hyphen.
    let folded = first | 0x20;
    let (kind, length) = if folded == b'c' {
        let call_id = (word | const { name(b"    \0  \0") }) & 0x00ff_ffff_ffff_ffff;
        if call_id == const { name(b"call-id\0") } {
            (CALL_ID, 7)
        } else if want.cseq && (word as u32 | 0x2020_2020) == u32::from_le_bytes(*b"cseq") {
            (CSEQ, 4)
        } else {
            return Some(false);
        }
    } else if folded == b'i' {
        (CALL_ID, 1)
    } else if want.to && folded == b't' {
        (TO, if (word >> 8) as u8 | 0x20 == b'o' { 2 } else { 1 })
    } else {
        return Some(false);
    };
    // One way for all names from here on.
    let packed = window.forget(kind << 4 | length);
    let (kind, length) = (packed >> 4, packed & 7);
    let Some(value) = colon(window, line, word, length)? else {
        return Some(false);
    };
    // Each comparison takes a copy of its own, so that what it teaches the verifier does not last.
    if kind == CALL_ID {
        let known = window.forget(headers.call_id);
        if known == 0 {
            headers.call_id = value;
        } else if known != value {
            headers.second_call_id = window.forget(1);
        }
        if want.stop_at_call_id {
            // The next search starts inside this line: its own feed is the first that it sees.
            headers.next = line;
            return Some(true);
        }
    } else if kind == TO {
        if window.forget(headers.to) == 0 {
            headers.to = value;
        }
    } else if window.forget(headers.cseq) == 0 {
        headers.cseq = value;
    }
    let complete = (!want.to || window.forget(headers.to) != 0)
        && (!want.cseq || window.forget(headers.cseq) != 0);
    Some(want.stop_at_others && complete)
}

/// The offset behind the colon that follows the name, `length` bytes long, at `line`, of which
/// `word` is the start; up to [`MAX_BLANKS`] blanks may stand between.
#[inline(always)]
fn colon<W: Window>(window: &W, line: u32, word: u64, length: u32) -> Option<Option<u32>> {
    let at = line.wrapping_add(length);
    if (word >> (length * 8)) as u8 == b':' {
        return Some(Some(window.forget(at.wrapping_add(1))));
    }
    let word = window.padded(window.forget(at))?;
    let other = !swar::blanks(word) & swar::HIGH_BITS;
    if other == 0 {
        return Some(None);
    }
    let blanks = swar::first(other);
    let found = (word >> (blanks * 8)) as u8 == b':';
    Some(found.then(|| window.forget(at.wrapping_add(blanks).wrapping_add(1))))
}
