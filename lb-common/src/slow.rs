//! What the program hands to the controller: a [`Record`], followed by the packet as it came in.
//!
//! # A new kind of packet
//!
//! 1. Name it in [`Kind`], with its share of the rate.
//! 2. In the program, where the packet is given up, fill the record and hand it over
//!    (`lb-ebpf/src/slow.rs` shows how), then return the verdict that came of it.
//! 3. In the controller implement `slow::Consumer` and put it into `slow::Consumers`.

use crate::verdict::Decision;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal, $rate:literal;)+) => {
        /// Why a packet was handed over.
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(feature = "user", derive(Debug, Hash, PartialOrd, Ord))]
        #[repr(u8)]
        pub enum Kind {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Kind {
            /// Every kind, by discriminant.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word that labels metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// Packets of this kind that each CPU hands over, a second at most; a quarter of a
            /// second's worth may come at once.
            #[must_use]
            pub const fn rate(self) -> u32 {
                match self { $(Self::$name => $rate,)+ }
            }
        }
    };
}

kinds! {
    /// A request for which there is no usable backend; it is answered 503.
    NoBackend = "no-backend", 1_000;
    /// A fragment that cannot be sent on as it came.
    Fragment = "fragment", 8_000;
}

/// Kinds of packets.
pub const KINDS: usize = Kind::ALL.len();

/// Seconds without a heartbeat after which nobody is taken to read what is handed over.
pub const STALE_SECONDS: u64 = 5;

/// Bytes of a frame that are handed over at most.
pub const LONGEST: u32 = 9_216;

/// What stands before the packet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Record {
    /// When the packet came in, in nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// What was decided so far; what was not found out yet is 0.
    pub decision: Decision,
    /// Interface that the packet came in by.
    pub ingress: u32,
    /// Length of the frame in bytes.
    pub frame_len: u32,
    /// Bytes of it that follow this record.
    pub len: u32,
    /// Discriminant of [`Kind`].
    pub kind: u8,
    /// For the kind's own use.
    pub note: u8,
    /// Offset of the IP header in the frame; 0 = not looked for.
    pub l3: u16,
}
const _: () = assert!(size_of::<Record>() == 48);

/// What is left of a kind's rate on one CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Bucket {
    /// Jiffies at the last packet.
    pub last: u64,
    /// Packets × jiffies a second.
    pub credit: u64,
}

impl Bucket {
    /// Takes one packet's worth at `now` (in jiffies, of which a second has `hz`); false if there is
    /// none left.
    #[inline(always)]
    #[must_use]
    pub const fn take(&mut self, rate: u64, hz: u64, now: u64) -> bool {
        let full = (rate * hz) >> 2;
        let since = now.wrapping_sub(self.last);
        self.last = now;
        // Longer than it takes to fill up is as good as that.
        let earned = if since > hz { full } else { since * rate };
        let credit = self.credit + earned;
        let credit = if credit > full { full } else { credit };
        if credit < hz {
            self.credit = credit;
            return false;
        }
        self.credit = credit - hz;
        true
    }
}

/// A CPU's own place to put the record together.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Desk {
    pub record: Record,
    pub buckets: [Bucket; 8],
}
const _: () = assert!(size_of::<Desk>() == 176 && KINDS <= 8);

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets that pass if `per_jiffy` are offered in each of `jiffies`.
    fn passed(
        bucket: &mut Bucket,
        rate: u64,
        hz: u64,
        from: u64,
        jiffies: u64,
        offered: u64,
    ) -> u64 {
        let taken = |now| (0..offered).filter(|_| bucket.take(rate, hz, now)).count() as u64;
        (from..from + jiffies).map(taken).sum()
    }

    #[test]
    fn a_flood_gets_a_burst_and_then_its_rate() {
        for hz in [100, 250, 300, 1000] {
            let mut bucket = Bucket::default();
            let first = passed(&mut bucket, 1000, hz, 1 << 32, 1, 10_000);
            assert_eq!(first, 250, "{hz}");
            let ten_seconds = passed(&mut bucket, 1000, hz, (1 << 32) + 1, 10 * hz, 100);
            assert!((9_990..=10_010).contains(&ten_seconds), "{hz}: {ten_seconds}");
        }
    }

    #[test]
    fn fewer_than_the_rate_all_pass() {
        let mut bucket = Bucket::default();
        assert_eq!(passed(&mut bucket, 1000, 250, 77, 2500, 4), 10_000);
        assert_eq!(passed(&mut bucket, 50, 1000, 77, 1, 12), 12, "a burst");
        assert_eq!(passed(&mut bucket, 50, 1000, 78, 20, 1), 1, "one in twenty milliseconds");
    }
}
