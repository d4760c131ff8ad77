//! The fast search for the Call-ID line, which every packet pays for.
//!
//! Of all lines it looks only at those whose first byte has bit 4 clear: the letters A to O and the
//! line ends among them, hence `Call-ID`, `i` and the blank line. The rest of the text goes by in
//! blocks of 32 bytes.

use super::{Window, headers::colon, swar};

/// Bytes of a block.
pub const BLOCK: u32 = 32;

/// Blocks that are skipped at one turn, where so many are left.
pub(super) const STRIDE: u32 = 4;

/// A search looks at all lines that start within so many bytes, if no more than 64 of them start
/// with a byte that has bit 4 clear.
pub const REACH: u32 = 1408;

/// Turns of the search, each of which goes on to the next such line or, where none starts in them,
/// by `STRIDE` blocks, at the end of the payload by one block.
pub const SEARCH_TURNS: u32 = 64 + REACH / (BLOCK * STRIDE) + STRIDE + 1;

/// Offset of the byte behind the colon of the first `Call-ID` or `i` line (RFC 3261 §20.8, §7.3.3)
/// behind the start line at `from`; 0 = there is none before the blank line, or within the reach of
/// [`SEARCH_TURNS`].
#[inline(always)]
pub fn find_call_id<W: Window>(window: &W, from: u32) -> Option<u32> {
    // A line needs a byte behind its line feed.
    let end = i64::from(window.len()) - 1;
    let mut at = window.forget(from);
    for _ in 0..SEARCH_TURNS {
        let left = end - i64::from(at);
        let start = if left >= i64::from(BLOCK * STRIDE) {
            let skipped = window.skip::<{ STRIDE as usize }>(at, may_have_candidate)?;
            if skipped == STRIDE {
                at = window.forget(at.wrapping_add(BLOCK * STRIDE));
                continue;
            }
            at.wrapping_add(BLOCK * skipped)
        } else if left > 0 {
            at
        } else {
            break;
        };
        at = window.forget(start);
        window.meet();
        // The last block is the last 32 bytes, which may start before the payload.
        let beyond = window.positive(i64::from(BLOCK) - end + i64::from(at));
        let start = at.wrapping_sub(beyond);
        let feeds = candidates(window.pairs(start)?) >> (beyond & 31) << (beyond & 31);
        let mut next = at.wrapping_add(BLOCK);
        if feeds != 0 {
            next = start.wrapping_add(swar::lowest(feeds)).wrapping_add(1);
            match visit(window, window.forget(next))? {
                NOTHING => {}
                END => break,
                value => return Some(value),
            }
        }
        at = window.forget(next);
        window.meet();
    }
    Some(0)
}

/// Words of a block, each with the word that starts one byte behind it.
pub type Pairs = [(u64, u64); 4];

/// A byte is zero where a line feed stands before a byte with bit 4 clear.
#[inline(always)]
const fn mark(pair: (u64, u64)) -> u64 {
    // The line feed has bit 4 clear, so one comparison does for both.
    (pair.0 | (pair.1 & swar::all(0x10))) ^ swar::all(b'\n')
}

/// Never false where [`candidates`] finds one.
#[inline(always)]
const fn may_have_candidate(pairs: Pairs) -> bool {
    let suspect = swar::may_have_zero(mark(pairs[0]))
        | swar::may_have_zero(mark(pairs[1]))
        | swar::may_have_zero(mark(pairs[2]))
        | swar::may_have_zero(mark(pairs[3]));
    suspect & swar::HIGH_BITS != 0
}

/// One bit for each line feed of a block that a byte with bit 4 clear follows.
#[inline(always)]
const fn candidates(pairs: Pairs) -> u32 {
    swar::gather(swar::zeros(mark(pairs[0])))
        | swar::gather(swar::zeros(mark(pairs[1]))) << 8
        | swar::gather(swar::zeros(mark(pairs[2]))) << 16
        | swar::gather(swar::zeros(mark(pairs[3]))) << 24
}

/// What [`visit`] returns if it is no offset.
const NOTHING: u32 = 0;
const END: u32 = 1;

/// The offset behind the colon if a Call-ID line starts at `line`, [`END`] at the blank line.
#[inline(always)]
fn visit<W: Window>(window: &W, line: u32) -> Option<u32> {
    let word = window.padded_near(line)?;
    let first = word as u8;
    if first == b'\n' || word as u16 == u16::from_le_bytes(*b"\r\n") {
        return Some(END);
    }
    let length = if is_call_id(word) {
        7
    } else if first | 0x20 == b'i' {
        1
    } else {
        return Some(NOTHING);
    };
    colon(window, line, word, window.forget(length))
}

/// True if the word starts with `Call-ID` in any letter case.
#[inline(always)]
pub(super) const fn is_call_id(word: u64) -> bool {
    // Fold the case of letters, and of letters only: CR | 0x20 would be a hyphen.
    let folded = (word | const { u64::from_le_bytes(*b"    \0  \0") }) & 0x00ff_ffff_ffff_ffff;
    folded == const { u64::from_le_bytes(*b"call-id\0") }
}
