//! From line to line, quickly: what all searches through a message have in common.
//!
//! The verifier follows each turn of a search by every path, so all paths of a turn meet twice: where
//! a block has been chosen, and where a line has been found in it.

use super::{Window, swar};

/// Bytes of a block.
pub const BLOCK: u32 = 32;

/// Bytes that are looked at in one turn, where so many are left.
pub const STRIDE: u32 = 4 * BLOCK;

/// Near the end: bytes that are looked at in one turn, one less than a word has, as a line feed is
/// judged with the byte behind it.
const STEP: u32 = 7;

/// A search reaches all lines that start within so many bytes, if it stops at no more than 64
/// places before.
pub const REACH: u32 = 1408;

/// Turns of a search. A turn goes on to the next place that is stopped at or, where none is in it,
/// by a stride, near the end by a block or a step.
pub const TURNS: u32 = 64 + REACH / STRIDE + STRIDE / BLOCK + BLOCK / STEP + 1;

/// A window in which lines are searched.
pub trait Lines: Window {
    /// How many of the [`STRIDE`] bytes at `offset`, in whole blocks, come before the first block in
    /// which [`may_have_feed`] finds something. `None` if they, and a byte behind them, are not all
    /// in the packet.
    fn clean<S: Stops>(&self, offset: u32) -> Option<u32>;

    /// Where in the block at `offset` [`feeds`] first finds something, twice [`BLOCK`] if nowhere.
    /// `None` if its bytes, and one more, are not all in the packet.
    fn line_feed<S: Stops>(&self, offset: u32) -> Option<u32>;
}

/// Which lines a search stops at.
pub trait Stops {
    /// Zero in each byte of `word` that is a first byte to stop at; else a bit of those that a line
    /// feed has not, and no others.
    fn bars(word: u64) -> u64;
}

/// Every line.
pub enum EveryLine {}

impl Stops for EveryLine {
    #[inline(always)]
    fn bars(_: u64) -> u64 {
        0
    }
}

/// Lines that start with a byte in which bit 4 is clear: with the letters A to O and with line ends,
/// hence `Call-ID`, `i` and the blank line.
pub enum CallIdLine {}

impl Stops for CallIdLine {
    #[inline(always)]
    fn bars(word: u64) -> u64 {
        word & swar::all(0x10)
    }
}

/// The quick test of a word: not zero at bit 7 of some byte if [`feeds`] finds a line feed in it;
/// also if there is a byte below 0x0b or above 0x8a.
#[inline(always)]
pub fn may_have_feed<S: Stops>(word: u64, next: u64) -> u64 {
    (word | S::bars(next)).wrapping_sub(swar::all(b'\n' + 1))
}

/// Bit 7 of the first byte of `word` that is a line feed before a byte of `next` to stop at; what
/// is set behind it means nothing. `next` is the word that starts a byte later.
#[inline(always)]
pub fn feeds<S: Stops>(word: u64, next: u64) -> u64 {
    swar::first_zero((word | S::bars(next)) ^ swar::all(b'\n'))
}

/// What a turn came to.
pub(super) enum Turn {
    /// Here a line starts that is stopped at.
    Line(u32),
    /// No such line starts before this place.
    On(u32),
    /// The payload is at its end.
    End,
}

/// Looks for the next line behind `at` to stop at.
#[inline(always)]
pub(super) fn turn<S: Stops, W: Lines>(window: &W, at: u32) -> Option<Turn> {
    // A line needs a byte behind its line feed.
    let left = i64::from(window.len()) - 1 - i64::from(at);
    let mut at = at;
    let feed = if left >= i64::from(BLOCK) {
        if left >= i64::from(STRIDE) {
            let clean = window.forget(window.clean::<S>(at)?);
            window.meet();
            at = at.wrapping_add(clean);
            if clean == STRIDE {
                return Some(Turn::On(window.forget(at)));
            }
        }
        at = window.forget(at);
        window.line_feed::<S>(at)?
    } else if left > 0 {
        let word = window.ahead(at)?;
        let feeds = feeds::<S>(word, word >> 8) & (u64::MAX >> 8);
        // 8 if there is none, which becomes 32 and the step.
        let feed = swar::first(feeds);
        feed + (feed >> 3) * (BLOCK + STEP - 8)
    } else {
        return Some(Turn::End);
    };
    let feed = window.forget(feed);
    window.meet();
    Some(if feed >= BLOCK {
        Turn::On(window.forget(at.wrapping_add(feed).wrapping_sub(BLOCK)))
    } else {
        Turn::Line(window.forget(at.wrapping_add(feed).wrapping_add(1)))
    })
}
