//! What the watching program hands to the controller: packets as they came in and as they left,
//! with the decision about them.
//!
//! A [`Seen`] comes first, then the start of the frame as it came in ([`HEAD`] bytes, or all of it),
//! then the frame as it was at the end. What the program changes of a packet lies within the former,
//! so that the frame that came in can be put together from both, see [`Seen::split`].

use crate::{
    slow::Bucket,
    verdict::{Decision, Kind, VERDICTS, Verdict},
};

/// Watchers at a time.
pub const SLOTS: usize = 8;

/// Packets that each CPU hands over, a second at most; a quarter of a second's worth may come at
/// once.
pub const RATE: u32 = 20_000;

/// Bytes of the frame that came in that are kept. Headers end before 456 (the longest chain that is
/// stepped over, and UDP); of what is answered here, and so replaced, there are 548 bytes more at
/// most.
pub const HEAD: usize = 1024;

/// Bytes of a frame that are handed over at most.
pub const LONGEST: u32 = crate::slow::LONGEST;

/// Values of [`Filter::wants`].
pub mod wants {
    /// The slot is free.
    pub const NOTHING: u8 = 0;
    /// Decisions, and the starts of the frames as they came in.
    pub const DECISIONS: u8 = 1;
    /// Whole frames, as they came in and as they left.
    pub const PACKETS: u8 = 2;
}

/// What one watcher wants to see.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Filter {
    /// Hash of the Call-ID, if [`Self::by_call`].
    pub hash: u64,
    /// Service id, 0 = every service.
    pub service: u16,
    /// See [`wants`].
    pub wants: u8,
    /// 1 = only the Call-ID with this hash.
    pub by_call: u8,
    pub pad: u32,
}
const _: () = assert!(size_of::<Filter>() == 16);

/// All watchers, by slot.
pub type Filters = [Filter; SLOTS];

/// What is known of a packet that is asked for.
#[derive(Clone, Copy)]
pub struct Facts {
    /// Hash of its Call-ID.
    pub hash: u64,
    /// False if it has no Call-ID, or was not read so far.
    pub has_call_id: bool,
    /// A later fragment, which has no Call-ID; whose it is only the controller can tell.
    pub is_piece: bool,
    /// Service id, 0 = of none.
    pub service: u16,
}

impl Filter {
    /// Does the watcher want it? Of later fragments more may be let through than it asked for.
    #[inline(always)]
    #[must_use]
    pub const fn suits(&self, facts: Facts) -> bool {
        let call =
            self.by_call == 0 || facts.is_piece || (facts.has_call_id && facts.hash == self.hash);
        let service = self.service == 0 || self.service == facts.service;
        self.wants != wants::NOTHING && call && service
    }
}

/// A set of verdicts, by discriminant.
const fn set(contains: &[bool; VERDICTS]) -> u64 {
    const { assert!(VERDICTS <= 64) };
    let (mut bits, mut i) = (0, 0);
    while i < VERDICTS {
        bits |= (contains[i] as u64) << i;
        i += 1;
    }
    bits
}

/// Verdicts about packets that are shown: all but those about other hosts' traffic, and about
/// answers to probes, which this host's own tools see.
pub const SHOWN: u64 = {
    let mut shown = [true; VERDICTS];
    shown[Verdict::NotOurs as usize] = false;
    shown[Verdict::BadHeader as usize] = false;
    shown[Verdict::ToThisHost as usize] = false;
    set(&shown)
};

/// Verdicts about packets that leave as the program made them.
pub const LEAVING: u64 = {
    let (mut leaving, mut i) = ([false; VERDICTS], 0);
    while i < VERDICTS {
        let kind = Verdict::ALL[i].kind();
        leaving[i] = matches!(kind, Kind::Forward | Kind::Reply | Kind::Answer);
        i += 1;
    }
    set(&leaving)
};

/// Verdicts about later fragments.
pub const PIECES: u64 = {
    let mut pieces = [false; VERDICTS];
    pieces[Verdict::Fragment as usize] = true;
    pieces[Verdict::ServerFragment as usize] = true;
    pieces[Verdict::FragmentHeld as usize] = true;
    pieces[Verdict::FragmentDuplicate as usize] = true;
    pieces[Verdict::FragmentOverlap as usize] = true;
    pieces[Verdict::FragmentDropped as usize] = true;
    set(&pieces)
};

/// True if the set has the verdict of this discriminant.
#[inline(always)]
#[must_use]
pub const fn has(set: u64, verdict: u8) -> bool {
    set >> (verdict & 63) & 1 != 0
}

/// What stands before the frames.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Seen {
    /// When the packet came in and when the decision was made, in nanoseconds of CLOCK_MONOTONIC.
    pub came: u64,
    pub decided: u64,
    pub decision: Decision,
    /// Interfaces that it came in by, and left by; the latter 0 if it is not the program that sends
    /// it by another one.
    pub ingress: u32,
    pub egress: u32,
    /// Lengths of the frame as it came in and at the end.
    pub came_len: u32,
    pub end_len: u32,
    /// Bytes of the latter that follow the head; 0 if only decisions are wanted.
    pub len: u32,
    /// Bit n: wanted by the watcher in slot n.
    pub wanted: u8,
    /// 1 = the frame left, as it was at the end.
    pub left: u8,
    pub pad: [u8; 2],
}
const _: () = assert!(size_of::<Seen>() == 64);

impl Seen {
    /// Bytes of the head.
    #[inline(always)]
    #[must_use]
    pub const fn head_len(&self) -> u32 {
        if self.came_len < HEAD as u32 { self.came_len } else { HEAD as u32 }
    }
}

/// A CPU's own place to put it together.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Desk {
    pub seen: Seen,
    /// The frame as it came in.
    pub head: [u8; HEAD],
    pub bucket: Bucket,
    /// What each slot did not get, since the maps were made: above the rate, or no room.
    pub lost: [u64; SLOTS],
}
const _: () = assert!(size_of::<Desk>() == 64 + HEAD + 16 + 64);

#[cfg(feature = "user")]
mod read {
    use super::{HEAD, Seen};
    use crate::pod;

    /// A packet as it was handed over.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Sample {
        pub seen: Seen,
        /// The frame as it came in; shorter than [`Seen::came_len`] if not all of it is there.
        pub came: Vec<u8>,
        /// The frame as it left, or its beginning; empty if it did not, or nobody asked for it.
        pub left: Vec<u8>,
    }

    impl Seen {
        /// Reads a sample; `None` if it is none of this version's. The kernel may have padded it.
        #[must_use]
        pub fn split(sample: &[u8]) -> Option<Sample> {
            let (seen, rest): (Self, _) = pod::split(sample)?;
            let (head, rest) = rest.split_at_checked(seen.head_len() as usize)?;
            let end = rest.get(..seen.len as usize)?;
            let mut came = head.to_vec();
            // Beyond the head nothing changes but, by VLAN tags, the distance from the start.
            if seen.came_len > seen.head_len() {
                let shift = i64::from(seen.end_len) - i64::from(seen.came_len);
                let from = usize::try_from(HEAD as i64 + shift).ok()?;
                came.extend_from_slice(end.get(from..).unwrap_or_default());
            }
            let left = if seen.left == 0 { Vec::new() } else { end.to_vec() };
            Some(Sample { seen, came, left })
        }
    }
}
#[cfg(feature = "user")]
pub use read::Sample;

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use crate::pod;

    const SOME: Facts = Facts { hash: 7, has_call_id: true, is_piece: false, service: 3 };

    #[test]
    fn a_watcher_gets_the_call_and_the_service_that_it_asked_for() {
        let all = Filter { wants: wants::PACKETS, ..Filter::default() };
        let call = Filter { hash: 7, by_call: 1, ..all };
        let service = Filter { service: 3, ..all };
        let both = Filter { service: 4, ..call };
        let of = |facts| [all, call, service, both].map(|filter| filter.suits(facts));
        assert_eq!(of(SOME), [true, true, true, false]);
        assert_eq!(of(Facts { hash: 8, ..SOME }), [true, false, true, false]);
        assert_eq!(of(Facts { service: 4, ..SOME }), [true, true, false, true]);
        // The hash of a source is no Call-ID's.
        assert_eq!(of(Facts { has_call_id: false, ..SOME }), [true, false, true, false]);
        let piece = Facts { hash: 0, has_call_id: false, is_piece: true, service: 4 };
        assert_eq!(of(piece), [true, true, false, true]);
        assert!(!Filter::default().suits(SOME), "a free slot");
    }

    #[test]
    fn sets_hold_the_verdicts_that_they_name() {
        for verdict in Verdict::ALL {
            let number = *verdict as u8;
            let kind = verdict.kind();
            let leaves = matches!(kind, Kind::Forward | Kind::Reply | Kind::Answer);
            assert_eq!(has(LEAVING, number), leaves, "{verdict:?}");
            assert_eq!(has(PIECES, number), verdict.reason().contains("fragment"), "{verdict:?}");
            let others =
                matches!(verdict, Verdict::NotOurs | Verdict::BadHeader | Verdict::ToThisHost);
            assert_eq!(has(SHOWN, number), !others, "{verdict:?}");
        }
    }

    /// A frame of `len` bytes that differ from their neighbours.
    fn frame(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 % 251) as u8).collect()
    }

    fn sample(came: &[u8], end: &[u8], left: u8, len: usize) -> Vec<u8> {
        let seen = Seen {
            came_len: came.len() as u32,
            end_len: end.len() as u32,
            len: len as u32,
            left,
            ..Seen::default()
        };
        let head = &came[..seen.head_len() as usize];
        [pod::bytes(&seen), head, &end[..len], &[0; 5]].concat()
    }

    #[test]
    fn the_frame_that_came_in_is_put_together_also_if_tags_came_or_went() {
        for len in [60, 1023, 1024, 1025, 1500, 3000] {
            let came = frame(len);
            let other = |mut frame: Vec<u8>| {
                frame[..12].fill(1);
                frame
            };
            let tagged = [&came[..12], b"tags", &came[12..]].concat();
            let bare = [&came[..12], &came[16..]].concat();
            for left in [other(came.clone()), other(tagged), other(bare)] {
                let read = Seen::split(&sample(&came, &left, 1, left.len())).unwrap();
                assert_eq!((&read.came, &read.left), (&came, &left), "{len} {}", left.len());
            }
            let dropped = Seen::split(&sample(&came, &came, 0, len)).unwrap();
            assert_eq!((dropped.came, dropped.left), (came.clone(), Vec::new()));
            let decision = Seen::split(&sample(&came, &came, 1, 0)).unwrap();
            assert_eq!(decision.came, came[..len.min(HEAD)], "the head, and no more");
        }
        let came = frame(2000);
        let read = Seen::split(&sample(&came, &came, 1, 1500)).unwrap();
        assert_eq!(read.came, came[..1500], "cut where what left is cut");
    }

    #[test]
    fn what_is_cut_is_no_sample() {
        let whole = sample(&frame(100), &frame(100), 1, 100);
        let len = whole.len() - 5;
        assert!(Seen::split(&whole[..len]).is_some());
        for cut in 0..len {
            assert!(Seen::split(&whole[..cut]).is_none(), "{cut}");
        }
    }
}
