//! Where a search through the lines is.

use super::{Window, swar};

/// Bytes of a block.
pub(super) const BLOCK: u32 = 32;

/// The offset of the next block (bits 0–15), the current block's offset plus 32 (16–31), and one
/// bit for each line feed of it that is still to be looked at (32–63): in one word, so that a
/// window can make the verifier forget all of it at once.
#[derive(Clone, Copy)]
pub(super) struct Cursor(u64);

impl Cursor {
    /// Before the block at `offset`, below 4,096.
    #[inline(always)]
    pub(super) fn before<W: Window>(window: &W, offset: u32) -> Self {
        Self(window.forget_word(offset.into()))
    }

    /// True if the current block has been looked at.
    #[inline(always)]
    pub(super) fn needs_block<W: Window>(self, window: &W) -> bool {
        window.high(self.0) == 0
    }

    /// Goes on to the next block; `None` if it would start at or behind `end`. The last block is
    /// the last 32 bytes before the end, which may start before the payload.
    #[inline(always)]
    pub(super) fn next_block<W: Window>(&mut self, window: &W, end: u32) -> Option<Block> {
        let at = self.0 as u32 & 0xfff;
        if window.excess(end, at) == 0 {
            return None;
        }
        let next = at.wrapping_add(BLOCK);
        let repeated = window.excess(next, end);
        let offset = at.wrapping_sub(repeated);
        self.0 = u64::from(next) | u64::from(offset.wrapping_add(BLOCK)) << 16;
        Some(Block { offset, repeated })
    }

    /// Notes the line feeds of the block just read, one bit each.
    #[inline(always)]
    pub(super) fn note<W: Window>(&mut self, window: &W, block: Block, feeds: u32) {
        // What the block repeats of the one before, or has of the bytes before the payload, is
        // masked.
        let mask = u64::from(u32::MAX) << (block.repeated & 31);
        self.0 = window.forget_word(self.0 | (u64::from(feeds) & mask) << 32);
    }

    /// Offset of the line behind the first line feed that is still to be looked at.
    #[inline(always)]
    pub(super) fn line<W: Window>(self, window: &W) -> u32 {
        let block = (self.0 >> 16) as u32 & 0xffff;
        let feed = swar::lowest((self.0 >> 32) as u32);
        window.forget(block.wrapping_add(feed).wrapping_sub(BLOCK - 1))
    }

    /// Drops that line feed; the verifier forgets all.
    #[inline(always)]
    pub(super) fn step<W: Window>(&mut self, window: &W) {
        let low = self.0 & 0xffff_ffff;
        let feeds = self.0 ^ low;
        self.0 = window.forget_word(low | (feeds & feeds.wrapping_sub(1)));
        window.meet();
    }
}

/// A block of [`BLOCK`] bytes.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) offset: u32,
    /// Bytes at its start that have been looked at, 0–31.
    repeated: u32,
}
