//! The fast search for the Call-ID line, which every packet pays for.
//!
//! It stops only at lines that start with few letters, see [`CallIdLine`].

use super::{
    headers::colon,
    lines::{self, CallIdLine, Lines, TURNS, Turn},
};

/// Offset of the byte behind the colon of the first `Call-ID` or `i` line (RFC 3261 §20.8, §7.3.3)
/// behind the start line at `from`; 0 = there is none before the blank line, or within the reach of
/// [`TURNS`].
#[inline(always)]
pub fn find_call_id<W: Lines>(window: &W, from: u32) -> Option<u32> {
    let mut at = window.forget(from);
    for _ in 0..TURNS {
        match lines::turn::<CallIdLine, W>(window, at)? {
            Turn::On(next) => at = next,
            Turn::Line(line) => {
                at = line;
                let word = window.ahead(at)?;
                if fold(word) == CALL_ID {
                    return Some(window.forget(at.wrapping_add(8)));
                }
                // One way for all kinds of lines from here on.
                let kind = window.forget(kind(word));
                window.meet();
                if window.forget(kind) == BLANK_LINE {
                    break;
                }
                if window.forget(kind) != 0 {
                    let value = window.forget(colon(window, at, word, kind)?);
                    if value != 0 {
                        return Some(value);
                    }
                }
            }
            Turn::End => break,
        }
        window.meet();
    }
    Some(0)
}

const CALL_ID: u64 = u64::from_le_bytes(*b"call-id:");
/// Not the length of a name.
const BLANK_LINE: u32 = 8;

/// The length of the name of a Call-ID line, [`BLANK_LINE`], or 0 for any other line.
#[inline(always)]
fn kind(word: u64) -> u32 {
    if word as u8 == b'\n' || word as u16 == u16::from_le_bytes(*b"\r\n") {
        BLANK_LINE
    } else if is_call_id(word) {
        7
    } else {
        u32::from(word as u8 | 0x20 == b'i')
    }
}

/// The word with the letters that might spell `Call-ID` in lower case, and with letters only: CR |
/// 0x20 would be a hyphen.
#[inline(always)]
const fn fold(word: u64) -> u64 {
    word | const { u64::from_le_bytes(*b"    \0  \0") }
}

/// True if the word starts with `Call-ID` in any letter case.
#[inline(always)]
pub(super) const fn is_call_id(word: u64) -> bool {
    (fold(word) ^ CALL_ID) << 8 == 0
}
