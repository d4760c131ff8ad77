//! Finding header lines (RFC 3261 §7.3, §25.1).
//!
//! A header line starts behind a line feed and ends at the next; the search ends at the blank
//! line. Folded lines start with a blank and so are no header. Names match in any letter case, as
//! a whole, with SP or HTAB allowed before the colon.

use super::{
    Window,
    lines::{self, EveryLine, Lines, TURNS, Turn},
    search::is_call_id,
    swar,
};

/// Blanks that may stand between a name and its colon.
pub const MAX_BLANKS: u32 = 7;

/// Headers that a search may have to find before it ends early; bits.
pub mod need {
    pub const TO: u32 = 1 << super::TO;
    pub const CSEQ: u32 = 1 << super::CSEQ;
    pub const VIA: u32 = 1 << super::VIA;
    pub const FROM: u32 = 1 << super::FROM;
    /// Replaces (RFC 3891) or Join (RFC 3911), whichever stands first; both at once are an error of
    /// the sender.
    pub const REFERENCE: u32 = 1 << super::REFERENCE;
    pub const CALL_ID: u32 = 1 << super::CALL_ID;
    /// Search to the blank line.
    pub const ALL: u32 = 1 << super::BLANK_LINE;
}

/// What a line is. The first five have a field of 12 bits each in [`Headers`].
const TO: u32 = 0;
const CSEQ: u32 = 1;
const VIA: u32 = 2;
const FROM: u32 = 3;
const REFERENCE: u32 = 4;
/// Has two bits there: seen, and seen twice.
const CALL_ID: u32 = 5;
const BLANK_LINE: u32 = 6;
const OTHER: u32 = 7;

const FIELD: u32 = 12;
const ONE_CALL_ID: u64 = 1 << 60;
const TWO_CALL_IDS: u64 = 1 << 61;
const IS_JOIN: u64 = 1 << 62;

/// Where header values were found: offsets of the byte behind the colon of the first such line,
/// 0 = not found.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers(u64);

impl Headers {
    #[inline(always)]
    const fn field(self, kind: u32) -> u32 {
        (self.0 >> (kind * FIELD)) as u32 & 0xfff
    }

    #[inline(always)]
    #[must_use]
    pub const fn to(self) -> u32 {
        self.field(TO)
    }

    #[inline(always)]
    #[must_use]
    pub const fn cseq(self) -> u32 {
        self.field(CSEQ)
    }

    /// The topmost Via.
    #[inline(always)]
    #[must_use]
    pub const fn via(self) -> u32 {
        self.field(VIA)
    }

    #[inline(always)]
    #[must_use]
    pub const fn from(self) -> u32 {
        self.field(FROM)
    }

    /// Replaces or Join.
    #[inline(always)]
    #[must_use]
    pub const fn reference(self) -> u32 {
        self.field(REFERENCE)
    }

    /// True if [`Headers::reference`] is a Join.
    #[inline(always)]
    #[must_use]
    pub const fn is_join(self) -> bool {
        self.0 & IS_JOIN != 0
    }

    /// True if a second Call-ID line was seen; only as far as the search went.
    #[inline(always)]
    #[must_use]
    pub const fn has_second_call_id(self) -> bool {
        self.0 & TWO_CALL_IDS != 0
    }
}

#[cfg(feature = "user")]
impl core::fmt::Debug for Headers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Headers")
            .field("to", &self.to())
            .field("cseq", &self.cseq())
            .field("via", &self.via())
            .field("from", &self.from())
            .field("reference", &self.reference())
            .field("is_join", &self.is_join())
            .field("has_second_call_id", &self.has_second_call_id())
            .finish()
    }
}

/// Searches behind `from`, the offset of the start line, until all of `needed` (bits of [`need`], at
/// least one) are found, at the latest to the blank line or to the end of [`TURNS`].
#[inline(always)]
pub fn scan<W: Lines>(window: &W, needed: u32, from: u32) -> Option<Headers> {
    let mut headers = Headers(window.forget_word(0));
    let mut found = window.forget(0);
    let interest = window.forget_word(interest(needed));
    let mut at = window.forget(from);
    for _ in 0..TURNS {
        match lines::turn::<EveryLine, W>(window, at)? {
            Turn::On(next) => at = next,
            Turn::Line(line) => {
                at = line;
                let word = window.ahead(at)?;
                if window.forget_word(interest) >> letter(word) & 1 != 0 {
                    // One way for all names from here on.
                    let name = Name(window.forget(Name::of(word).0));
                    window.meet();
                    if window.forget(name.kind()) == BLANK_LINE {
                        break;
                    }
                    if window.forget(name.kind()) != OTHER {
                        let value = colon(window, at, word, name.length())?;
                        if window.forget(value) != 0 {
                            headers.note(name, value);
                            headers = Headers(window.forget_word(headers.0));
                            found = window.forget(found | 1 << name.kind());
                            if window.forget(found) & needed == needed {
                                break;
                            }
                        }
                    }
                }
            }
            Turn::End => break,
        }
        window.meet();
    }
    Some(headers)
}

/// A bit for the first byte of a line: letters of either case have one bit, line ends another.
#[inline(always)]
const fn letter(word: u64) -> u64 {
    (word & 0x1f) | (word >> 1 & 0x20)
}

/// The first bytes of lines that are looked at when `needed` is looked for: the bits of [`letter`].
#[inline(always)]
#[must_use]
const fn interest(needed: u32) -> u64 {
    const fn bits(bytes: &[u8]) -> u64 {
        let mut bits = 0;
        let mut i = 0;
        while i < bytes.len() {
            bits |= 1 << letter(bytes[i] as u64);
            i += 1;
        }
        bits
    }
    const ANY: u64 = bits(b"ciCI\r\n");
    const ALL: u64 = ANY | bits(b"tvfrj");
    let mut interest = ANY;
    if needed & need::TO != 0 {
        interest |= const { bits(b"t") };
    }
    if needed & need::VIA != 0 {
        interest |= const { bits(b"v") };
    }
    if needed & need::FROM != 0 {
        interest |= const { bits(b"f") };
    }
    if needed & need::REFERENCE != 0 {
        interest |= const { bits(b"rj") };
    }
    if needed & need::ALL != 0 { ALL } else { interest }
}

impl Headers {
    #[inline(always)]
    const fn note(&mut self, name: Name, value: u32) {
        let kind = name.kind();
        if kind == CALL_ID {
            self.0 |= if self.0 & ONE_CALL_ID == 0 { ONE_CALL_ID } else { TWO_CALL_IDS };
        } else if self.field(kind) == 0 {
            self.0 |= (value as u64) << (kind * FIELD) | name.join();
        }
    }
}

/// What the start of a line says: its kind (0–7), the length of the name shifted left by 4, and
/// 0x100 for Join.
#[derive(Clone, Copy)]
struct Name(u32);

impl Name {
    const fn new(kind: u32, length: u32) -> Self {
        Self(kind | length << 4)
    }

    const fn kind(self) -> u32 {
        self.0 & 7
    }

    const fn length(self) -> u32 {
        self.0 >> 4 & 15
    }

    const fn join(self) -> u64 {
        (self.0 as u64 >> 8 & 1) * IS_JOIN
    }

    /// The name that `word`, the first eight bytes of a line, starts with; not all of them are
    /// looked at if the line is none of those that are looked for.
    #[inline(always)]
    const fn of(word: u64) -> Self {
        const fn text(name: &[u8; 8]) -> u64 {
            u64::from_le_bytes(*name)
        }
        // Folds the case of letters. Other bytes may become letters only from where no letter was
        // compared: a name that matches has letters there, but for the hyphen of Call-ID.
        let folded = word | const { text(b"        ") };
        let first = folded as u8;
        if first == b'c' {
            if is_call_id(word) {
                return Self::new(CALL_ID, 7);
            }
            if folded as u32 == text(b"cseq\0\0\0\0") as u32 {
                return Self::new(CSEQ, 4);
            }
        } else if first == b't' {
            return Self::new(TO, if (folded >> 8) as u8 == b'o' { 2 } else { 1 });
        } else if first == b'v' {
            let is_long = folded as u32 & 0x00ff_ffff == text(b"via\0\0\0\0\0") as u32;
            return Self::new(VIA, if is_long { 3 } else { 1 });
        } else if first == b'f' {
            let is_long = folded as u32 == text(b"from\0\0\0\0") as u32;
            return Self::new(FROM, if is_long { 4 } else { 1 });
        } else if first == b'i' {
            return Self::new(CALL_ID, 1);
        } else if first == b'r' {
            if folded == text(b"replaces") {
                return Self::new(REFERENCE, 8);
            }
        } else if first == b'j' {
            if folded as u32 == text(b"join\0\0\0\0") as u32 {
                return Self(REFERENCE | 4 << 4 | 0x100);
            }
        } else if word as u8 == b'\n' || word as u16 == u16::from_le_bytes(*b"\r\n") {
            return Self::new(BLANK_LINE, 0);
        }
        Self::new(OTHER, 0)
    }
}

/// The offset behind the colon that follows the name, `length` bytes long, at `line`, of which
/// `word` is the start; up to [`MAX_BLANKS`] blanks may stand between. 0 = there is none.
#[inline(always)]
pub(super) fn colon<W: Window>(window: &W, line: u32, word: u64, length: u32) -> Option<u32> {
    let at = line.wrapping_add(length);
    // A name of eight bytes has its colon behind the word; the shift then shows its first letter.
    if (word >> ((length * 8) & 63)) as u8 == b':' {
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
