//! The one way by which the scanner reads bytes.

#[cfg(feature = "user")]
use super::{
    lines::{BLOCK, Lines, STRIDE, Stops, feeds, may_have_feed},
    swar,
};

/// A datagram's payload, readable in words.
///
/// Offsets count bytes from the start of the payload. They may lie up to 32 bytes before it (the
/// headers of the packet stand there), given as wrapped-around `u32`.
pub trait Window {
    /// Length of the payload in bytes, by the UDP header.
    fn len(&self) -> u32;

    /// The 32 bytes at `offset` as four little-endian words; `None` if they are not all in the
    /// packet.
    fn block(&self, offset: u32) -> Option<[u64; 4]>;

    /// The 8 bytes at `offset`, little-endian; `None` if they are not all in the packet.
    fn word(&self, offset: u32) -> Option<u64>;

    /// Returns `offset`, which is below 4,096, unchanged. In the kernel it makes the verifier
    /// forget what it knows of it, so that paths which differ only in that knowledge merge.
    #[inline(always)]
    #[must_use]
    fn forget(&self, offset: u32) -> u32 {
        offset
    }

    /// The same for any number.
    #[inline(always)]
    #[must_use]
    fn forget_all(&self, number: u32) -> u32 {
        number
    }

    /// The same for any 64-bit number.
    #[inline(always)]
    #[must_use]
    fn forget_word(&self, number: u64) -> u64 {
        number
    }

    /// Where paths of a search meet again; in the kernel the verifier is made to remember the state
    /// here, so that it walks what follows once for all paths that come with the same one.
    #[inline(always)]
    fn meet(&self) {}

    /// [`super::long_length`]; a window may call it out of line.
    #[inline(always)]
    fn long_length(&self, at: u32) -> Option<u32>
    where
        Self: Sized,
    {
        super::long_length(self, at)
    }

    /// [`super::seek`]; a window may call it out of line.
    #[inline(always)]
    fn seek(&self, from: u32, stops: u32) -> Option<u32>
    where
        Self: Sized,
    {
        super::seek(self, from, stops)
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `number`, or 0 if it is negative; in the kernel without a branch, which the verifier would
    /// walk both ways.
    #[inline(always)]
    fn positive(&self, number: i64) -> u32 {
        number.max(0) as u32
    }

    /// `a - b`, or 0 if that would be negative.
    #[inline(always)]
    fn excess(&self, a: u32, b: u32) -> u32 {
        self.positive(i64::from(a) - i64::from(b))
    }

    /// The 8 bytes at `offset`; those at and beyond the end read as zero.
    #[inline(always)]
    fn padded(&self, offset: u32) -> Option<u64> {
        self.padded_near(offset.wrapping_sub(self.excess(offset, self.len())))
    }

    /// As [`Window::padded`], faster where the end is far.
    #[inline(always)]
    fn ahead(&self, offset: u32) -> Option<u64> {
        self.padded(offset)
    }

    /// As [`Window::padded`], for an offset that lies at most 7 bytes beyond the end.
    #[inline(always)]
    fn padded_near(&self, offset: u32) -> Option<u64> {
        let beyond = self.excess(offset.wrapping_add(8), self.len());
        let word = self.word(offset.wrapping_sub(beyond))?;
        // In two steps, as a shift by 64 does nothing.
        let shift = (beyond * 4) & 63;
        Some((word >> shift) >> shift)
    }
}

/// A payload on the host: a copy with the room before it that [`Window`] asks for.
#[cfg(feature = "user")]
#[derive(Clone, Debug)]
pub struct Payload {
    padded: Vec<u8>,
}

#[cfg(feature = "user")]
impl Payload {
    const BEFORE: usize = 64;

    #[must_use]
    pub fn new(payload: &[u8]) -> Self {
        // Line feeds in front, the worst that headers could hold.
        let mut padded = vec![b'\n'; Self::BEFORE];
        padded.extend_from_slice(payload);
        Self { padded }
    }

    fn at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = Self::BEFORE.checked_add_signed(offset as i32 as isize)?;
        self.padded.get(start..)?.first_chunk::<N>().copied()
    }
}

#[cfg(feature = "user")]
impl Window for Payload {
    fn len(&self) -> u32 {
        (self.padded.len() - Self::BEFORE) as u32
    }

    fn block(&self, offset: u32) -> Option<[u64; 4]> {
        let bytes = self.at::<32>(offset)?;
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        Some(words)
    }

    fn word(&self, offset: u32) -> Option<u64> {
        self.at::<8>(offset).map(u64::from_le_bytes)
    }
}

#[cfg(feature = "user")]
impl Payload {
    /// The words of a block, each with the one that starts a byte later.
    fn pairs(&self, offset: u32) -> Option<impl Iterator<Item = (u64, u64)>> {
        Some(self.block(offset)?.into_iter().zip(self.block(offset.wrapping_add(1))?))
    }
}

#[cfg(feature = "user")]
impl Lines for Payload {
    fn clean<S: Stops>(&self, offset: u32) -> Option<u32> {
        for place in (0..STRIDE).step_by(BLOCK as usize) {
            let tests = self.pairs(offset.wrapping_add(place))?;
            let test = tests.fold(0, |all, (word, next)| all | may_have_feed::<S>(word, next));
            if test & swar::HIGH_BITS != 0 {
                return Some(place);
            }
        }
        Some(STRIDE)
    }

    fn line_feed<S: Stops>(&self, offset: u32) -> Option<u32> {
        for (place, (word, next)) in (0..).step_by(8).zip(self.pairs(offset)?) {
            let found = feeds::<S>(word, next);
            if found != 0 {
                return Some(place + swar::first(found));
            }
        }
        Some(2 * BLOCK)
    }
}
