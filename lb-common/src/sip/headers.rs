//! Finding header lines (RFC 3261 §7.3, §25.1).
//!
//! A header line starts behind a line feed and ends at the next; the search ends at the blank
//! line. Folded lines start with a blank and so are no header. Names match in any letter case, as
//! a whole, with SP or HTAB allowed before the colon.

use super::{Window, swar};

/// A header line is found if it starts 1 to so many bytes behind the start of the search; a search
/// that goes on from a Call-ID reaches as far again.
pub const REACH: u32 = 1408;

/// Blocks of 32 bytes that cover [`REACH`].
const BLOCKS: u32 = REACH / 32;

/// Blanks that may stand between a name and its colon.
const MAX_BLANKS: u32 = 15;

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
    /// `u32::MAX` = it stopped for another reason.
    pub next: u32,
}

/// Searches behind `from` (the start line's offset, or `next` of an earlier search that stopped at
/// the Call-ID; never a line feed), adding to `headers`.
#[inline(always)]
pub fn scan<W: Window>(window: &W, want: Want, from: u32, headers: &mut Headers) -> Option<()> {
    let len = window.len();
    let mut at = window.forget(from);
    headers.call_id = window.forget(headers.call_id);
    headers.to = window.forget(headers.to);
    headers.cseq = window.forget(headers.cseq);
    headers.second_call_id = window.forget(headers.second_call_id);
    headers.next = u32::MAX;
    for _ in 0..BLOCKS {
        // The last block is the last 32 bytes; what it repeats of the one before, or has of the
        // bytes before the payload, `visit` ignores.
        let end = at.wrapping_add(32);
        let base = if end <= len { at } else { len.wrapping_sub(32) };
        let base = window.forget(base.wrapping_add(32)).wrapping_sub(32);
        let words = window.block(base)?;
        let mut suspect = 0;
        for word in words {
            suspect |= swar::may_have_line_feed(word);
        }
        if suspect & swar::HIGH_BITS != 0 {
            for (i, word) in words.into_iter().enumerate() {
                let mut feeds = swar::equal(word, b'\n');
                // Feeds in a row end the search, so that no more than every other byte is one.
                for _ in 0..4 {
                    if feeds == 0 {
                        break;
                    }
                    let position = swar::first(feeds);
                    feeds &= feeds.wrapping_sub(1);
                    let line = base.wrapping_add(8 * i as u32 + 1).wrapping_add(position);
                    // Signed: the line may lie before the payload.
                    if (line as i32) <= from as i32 {
                        // Drop the other feeds before the search too: they may stand in a row.
                        let before = from.wrapping_sub(base.wrapping_add(8 * i as u32));
                        feeds &= if before < 8 { u64::MAX << (before * 8) } else { 0 };
                        continue;
                    }
                    if line >= len {
                        continue;
                    }
                    let line = window.forget(line);
                    if visit(window, want, line, headers)? {
                        return Some(());
                    }
                }
            }
        }
        if end >= len {
            break;
        }
        at = window.forget(end);
    }
    Some(())
}

/// Looks at the line that starts at `line`; true = the search ends.
#[inline(always)]
fn visit<W: Window>(window: &W, want: Want, line: u32, headers: &mut Headers) -> Option<bool> {
    const fn name(text: &[u8; 8]) -> u64 {
        u64::from_le_bytes(*text)
    }
    let word = window.padded(line)?;
    let (first, second) = (swar::byte(word, 0), swar::byte(word, 1));
    if first == b'\n' || (first == b'\r' && second == b'\n') {
        return Some(true);
    }
    // Fold the case of letters, and of letters only: CR | 0x20 would be a hyphen.
    let (kind, length) = if (word | const { name(b"    \0  \0") }) & 0x00ff_ffff_ffff_ffff
        == const { name(b"call-id\0") }
    {
        (Kind::CallId, 7)
    } else if first | 0x20 == b'i' {
        (Kind::CallId, 1)
    } else if want.cseq && (word as u32 | 0x2020_2020) == u32::from_le_bytes(*b"cseq") {
        (Kind::CSeq, 4)
    } else if want.to && (word as u16 | 0x2020) == u16::from_le_bytes(*b"to") {
        (Kind::To, 2)
    } else if want.to && first | 0x20 == b't' {
        (Kind::To, 1)
    } else {
        return Some(false);
    };
    let Some(value) = colon(window, window.forget(line.wrapping_add(length)))? else {
        return Some(false);
    };
    match kind {
        Kind::CallId => {
            if headers.call_id == 0 {
                headers.call_id = value;
            } else if headers.call_id != value {
                headers.second_call_id = window.forget(1);
            }
            if want.stop_at_call_id {
                // The next search starts inside this line, so that its own feed is the first it sees.
                headers.next = window.forget(line);
                return Some(true);
            }
        }
        Kind::To => {
            if headers.to == 0 {
                headers.to = value;
            }
        }
        Kind::CSeq => {
            if headers.cseq == 0 {
                headers.cseq = value;
            }
        }
    }
    let complete = (!want.to || headers.to != 0) && (!want.cseq || headers.cseq != 0);
    Some(want.stop_at_others && complete)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    CallId,
    To,
    CSeq,
}

/// The offset behind the colon that follows `at` after at most [`MAX_BLANKS`] blanks.
#[inline(always)]
fn colon<W: Window>(window: &W, at: u32) -> Option<Option<u32>> {
    let word = window.padded(at)?;
    if swar::byte(word, 0) == b':' {
        return Some(Some(window.forget(at.wrapping_add(1))));
    }
    let mut other = !swar::blanks(word) & swar::HIGH_BITS;
    let mut at = at;
    let mut word = word;
    if other == 0 {
        at = window.forget(at.wrapping_add(8));
        word = window.padded(at)?;
        other = !swar::blanks(word) & swar::HIGH_BITS;
    }
    if other == 0 {
        return Some(None);
    }
    let position = swar::first(other);
    let found = swar::byte(word, position) == b':';
    const { assert!(MAX_BLANKS == 15) };
    Some(found.then(|| window.forget(at.wrapping_add(position).wrapping_add(1))))
}
