//! What is remembered of a datagram in fragments (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! Only the first fragment has ports and a Call-ID. The [`Record`] that it leaves behind tells the
//! later ones where to go, and which bytes have passed already. Offsets are in units of 8 bytes, as
//! on the wire.

/// Which datagram a fragment belongs to. The protocol is always UDP.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Key {
    /// As the packet came in: [`crate::addr::Addr::words`].
    pub source: [u64; 2],
    pub destination: [u64; 2],
    /// Identification, its wire bytes read as a native number; of IPv4 16 bits.
    pub id: u32,
    /// Always 0: a key must have no bytes of unknown content.
    pub pad: u32,
}
const _: () = assert!(size_of::<Key>() == 40);

/// Fragments whose bounds are remembered; of later ones a duplicate counts as an overlap.
pub const BOUNDS: usize = 8;

/// A datagram whose first fragment was decided about.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Record {
    /// Addresses that the fragments leave with.
    pub source: [u64; 2],
    pub destination: [u64; 2],
    /// Identification that they leave with, as in [`Key::id`]; IPv4 takes the lower 16 bits.
    pub id: u32,
    /// When the first fragment came, in [`TICKS`].
    pub made: u32,
    /// Where the next fragment in order begins.
    pub next: u16,
    /// See [`state`].
    pub state: u8,
    /// 1 if the last fragment has passed, so that `next` is the end.
    pub complete: u8,
    /// Fragments that have passed, up to 255.
    pub pieces: u8,
    pub pad: u8,
    /// Binding that the datagram was counted for.
    pub binding: u16,
    /// Where the first [`BOUNDS`] fragments begin.
    pub starts: [u16; BOUNDS],
}
const _: () = assert!(size_of::<Record>() == 64);

/// Values of [`Record::state`].
pub mod state {
    /// The first fragment is being decided about, or was dropped by what it said.
    pub const OPEN: u8 = 0;
    /// To a backend.
    pub const FORWARDED: u8 = 1;
    /// From a backend to a client.
    pub const REPLIED: u8 = 2;
    /// Not ours: the host's stack has it.
    pub const PASSED: u8 = 3;
    /// The first fragment was dropped by its headers.
    pub const DROPPED: u8 = 4;
    /// An IPv6 datagram with an overlap: nothing more of it passes (RFC 5722).
    pub const DEAD: u8 = 5;
}

/// Ticks of [`Record::made`] in a second.
pub const TICKS: u32 = 1024;
/// How long a record lives, in ticks.
pub const LIFE: u32 = 30 * TICKS;
/// After this long, in ticks, a first fragment with the same identification is another datagram's,
/// and so is any fragment if the record's is complete. Senders that draw 16-bit numbers at random
/// come back to one much sooner than the 30 s of a record.
pub const REUSE: u32 = TICKS;

/// Place of a fragment in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Piece {
    pub start: u32,
    /// End, rounded up: only the last fragment's need not be a multiple of 8 bytes.
    pub end: u32,
    pub is_last: bool,
}

impl Piece {
    /// A piece of `len` bytes at `start`; `None` if it is no possible one: empty, beyond 65,535
    /// bytes, or not the last and no multiple of 8 bytes.
    #[inline(always)]
    #[must_use]
    pub const fn new(start: u32, len: u32, is_last: bool) -> Option<Self> {
        if len == 0 || len > 0xffff || start > 0x1fff || (!is_last && len & 7 != 0) {
            return None;
        }
        let end = start * 8 + len;
        if end > 0xffff {
            return None;
        }
        Some(Self { start, end: (end + 7) >> 3, is_last })
    }
}

/// What a fragment is to the record of its datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub enum Step {
    /// The next one.
    InOrder,
    /// One before it is missing.
    Early,
    /// The very piece has passed.
    Duplicate,
    /// Some of its bytes have passed, or it lies beyond the end.
    Overlap,
}

impl Record {
    /// Ticks since the first fragment.
    #[inline(always)]
    #[must_use]
    pub const fn age(&self, now: u32) -> u32 {
        now.wrapping_sub(self.made)
    }

    /// True if the record says nothing of a fragment that comes `now`.
    #[inline(always)]
    #[must_use]
    pub const fn is_stale(&self, now: u32) -> bool {
        self.age(now) > if self.complete != 0 { REUSE } else { LIFE }
    }

    /// What `piece` is to this datagram.
    #[inline(always)]
    #[must_use]
    pub const fn judge(&self, piece: Piece) -> Step {
        if piece.start == self.next as u32 && self.complete == 0 {
            return Step::InOrder;
        }
        if piece.start >= self.next as u32 {
            return if self.complete == 0 { Step::Early } else { Step::Overlap };
        }
        let mut i = 0;
        while i < BOUNDS {
            if i < self.pieces as usize && self.starts[i] as u32 == piece.start {
                let end = if i + 1 == self.pieces as usize {
                    self.next
                } else if i + 1 < BOUNDS {
                    self.starts[i + 1]
                } else {
                    0
                };
                let was_last = self.complete != 0 && end == self.next;
                if end as u32 == piece.end && was_last == piece.is_last {
                    return Step::Duplicate;
                }
            }
            i += 1;
        }
        Step::Overlap
    }

    /// Notes that `piece`, which is in order, has passed.
    #[inline(always)]
    pub const fn advance(&mut self, piece: Piece) {
        if (self.pieces as usize) < BOUNDS {
            self.starts[self.pieces as usize & (BOUNDS - 1)] = piece.start as u16;
        }
        self.pieces = self.pieces.saturating_add(1);
        self.complete = piece.is_last as u8;
        self.next = piece.end as u16;
    }
}

/// A new identification, of which also the last 16 bits never repeat within 65,535 numbers and are
/// never zero. `count` counts the datagrams; who does not know `secret` cannot tell the next one
/// (RFC 7739).
#[inline(always)]
#[must_use]
pub const fn identification(count: u32, secret: u64) -> Option<u32> {
    // Multiplying by an odd number and adding permute both the whole word and its last 16 bits.
    let number = count.wrapping_mul(secret as u32 | 1).wrapping_add((secret >> 32) as u32);
    if number & 0xffff == 0 { None } else { Some(number) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(start: u32, len: u32, is_last: bool) -> Piece {
        Piece::new(start, len, is_last).unwrap()
    }

    /// A datagram of three pieces, of which `passed` have.
    fn record(passed: usize) -> Record {
        let pieces = [piece(0, 1480, false), piece(185, 1480, false), piece(370, 541, true)];
        let mut record = Record::default();
        for piece in pieces.into_iter().take(passed) {
            assert_eq!(record.judge(piece), Step::InOrder);
            record.advance(piece);
        }
        record
    }

    #[test]
    fn impossible_pieces_are_none() {
        for (start, len, is_last) in
            [(0, 0, true), (0, 12, false), (8191, 8, true), (8191, 1480, true), (0, 0x1_0000, true)]
        {
            assert_eq!(Piece::new(start, len, is_last), None, "{start} {len}");
        }
        assert_eq!(piece(8191, 7, true).end, 8192);
        assert_eq!(piece(1, 9, true).end, 3);
    }

    #[test]
    fn a_piece_is_in_order_early_a_duplicate_or_an_overlap() {
        let first = record(1);
        for (name, record, piece, step) in [
            ("the second", first, piece(185, 1480, false), Step::InOrder),
            ("the second, another length", first, piece(185, 8, false), Step::InOrder),
            ("the third before the second", first, piece(370, 541, true), Step::Early),
            ("the first again", first, piece(0, 1480, false), Step::Duplicate),
            ("the first as the last", first, piece(0, 1480, true), Step::Overlap),
            ("a shorter first", first, piece(0, 1472, false), Step::Overlap),
            ("inside the first", first, piece(10, 800, false), Step::Overlap),
            ("across the end of the first", first, piece(184, 1480, false), Step::Overlap),
            ("the last again", record(3), piece(370, 541, true), Step::Duplicate),
            ("the second again", record(3), piece(185, 1480, false), Step::Duplicate),
            ("the last as not the last", record(3), piece(370, 544, false), Step::Overlap),
            ("beyond the end", record(3), piece(438, 8, true), Step::Overlap),
            ("far beyond the end", record(3), piece(900, 8, false), Step::Overlap),
        ] {
            assert_eq!(record.judge(piece), step, "{name}");
        }
    }

    #[test]
    fn a_complete_datagrams_number_is_free_again_soon() {
        let (open, complete) = (record(2), record(3));
        assert!(!open.is_stale(LIFE) && open.is_stale(LIFE + 1));
        assert!(!complete.is_stale(REUSE) && complete.is_stale(REUSE + 1));
        let wrapped = Record { made: u32::MAX - 10, ..complete };
        assert!(!wrapped.is_stale(100));
    }

    #[test]
    fn identifications_of_16_bits_come_back_only_after_all_others() {
        let mut seen = vec![false; 0x1_0000];
        let mut skipped = 0;
        for count in 5..0x1_0005u32 {
            match identification(count, 0x1234_5678_9abc_def0) {
                Some(id) => {
                    let low = (id & 0xffff) as usize;
                    assert!(low != 0 && !seen[low], "{low} twice");
                    seen[low] = true;
                }
                None => skipped += 1,
            }
        }
        assert_eq!(skipped, 1);
    }

    proptest! {
        /// Whatever arrives in whatever order: what passes as in order are adjoining pieces from
        /// the start on, and nothing passes twice.
        #[test]
        fn what_passes_is_whole_and_without_overlap(
            arrivals in prop::collection::vec((0u32..40, 1u32..12, any::<bool>()), 1..60),
        ) {
            let mut record = Record::default();
            let mut passed = Vec::<Piece>::new();
            for (start, units, is_last) in arrivals {
                let piece = piece(start, units * 8, is_last);
                let touches = |p: &Piece| p.start < piece.end && piece.start < p.end;
                match record.judge(piece) {
                    Step::InOrder => {
                        prop_assert_eq!(piece.start, passed.last().map_or(0, |p| p.end));
                        prop_assert!(!passed.last().is_some_and(|p| p.is_last));
                        record.advance(piece);
                        passed.push(piece);
                    }
                    Step::Early => prop_assert!(!passed.iter().any(touches)),
                    Step::Duplicate => prop_assert!(passed.contains(&piece)),
                    Step::Overlap => {
                        let beyond = passed.last().is_some_and(|p| p.is_last && piece.start >= p.end);
                        prop_assert!(beyond || passed.iter().any(touches));
                        prop_assert!(passed.len() > BOUNDS || !passed.contains(&piece));
                    }
                }
            }
        }
    }
}
