//! Which fragments wait, and whose turn it is.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
    time::Duration,
};

use lb_common::fragment::{Key, Piece, Record, state};

use super::parse::Arrival;

/// How much is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub datagrams: usize,
    /// Bytes of frames in all.
    pub bytes: usize,
    /// Fragments of one datagram.
    pub pieces: usize,
    /// How long the fragments of a datagram wait, from the first that does.
    pub time: Duration,
}

impl Limits {
    /// 4,096 datagrams, 4 MiB, a second.
    pub const DEFAULT: Self =
        Self { datagrams: 4096, bytes: 4 << 20, pieces: 64, time: Duration::from_secs(1) };
}

/// Why a fragment is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The very piece is held.
    Duplicate,
    /// Some of its bytes are held, or its datagram had an overlap before.
    Overlap,
    /// One of the [`Limits`].
    Full,
}

impl Refusal {
    /// The word that labels the metric.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Overlap => "overlap",
            Self::Full => "full",
        }
    }
}

#[derive(Debug)]
struct Waiting {
    piece: Piece,
    ingress: u32,
    frame: Vec<u8>,
}

#[derive(Debug)]
struct Datagram {
    since: Duration,
    /// By place.
    pieces: Vec<Waiting>,
    /// IPv6 with an overlap: nothing of it is held any more (RFC 5722 §4).
    is_dead: bool,
}

/// Fragments that wait for their turn.
#[derive(Debug)]
pub struct Holder {
    limits: Limits,
    datagrams: BTreeMap<Key, Datagram>,
    bytes: usize,
}

impl Holder {
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, datagrams: BTreeMap::new(), bytes: 0 }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Bytes of frames that are held.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The datagrams of which something is held.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.datagrams.keys().copied().collect()
    }

    /// At most so many of them: those after `key`, then those from the first on.
    #[must_use]
    pub fn keys_after(&self, key: Option<Key>, most: usize) -> Vec<Key> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        let after = self.datagrams.range((from, Bound::Unbounded));
        let before = key.map(|key| self.datagrams.range(..=key)).into_iter().flatten();
        after.chain(before).take(most).map(|(key, _)| *key).collect()
    }

    /// Holds a fragment that came in by interface `ingress`.
    ///
    /// # Errors
    ///
    /// Why not. An overlap in an IPv6 datagram lets go of all that is held of it.
    pub fn put(
        &mut self,
        arrival: Arrival,
        ingress: u32,
        frame: Vec<u8>,
        now: Duration,
    ) -> Result<(), Refusal> {
        let Arrival { key, piece, is_v4 } = arrival;
        let limits = self.limits;
        let count = self.datagrams.len();
        let datagram = match self.datagrams.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if count >= limits.datagrams || limits.pieces == 0 => {
                return Err(Refusal::Full);
            }
            Entry::Vacant(_) if self.bytes + frame.len() > limits.bytes => {
                return Err(Refusal::Full);
            }
            Entry::Vacant(entry) => {
                entry.insert(Datagram { since: now, pieces: Vec::new(), is_dead: false })
            }
        };
        if datagram.is_dead {
            return Err(Refusal::Overlap);
        }
        let at = datagram.pieces.partition_point(|waiting| waiting.piece.start < piece.start);
        if datagram.pieces.get(at).is_some_and(|waiting| waiting.piece == piece) {
            return Err(Refusal::Duplicate);
        }
        let before = at.checked_sub(1).and_then(|at| datagram.pieces.get(at));
        let overlaps = before.is_some_and(|before| before.piece.end > piece.start)
            || datagram.pieces.get(at).is_some_and(|after| after.piece.start < piece.end);
        if overlaps {
            if !is_v4 {
                datagram.is_dead = true;
                let freed: usize = datagram.pieces.iter().map(|held| held.frame.len()).sum();
                datagram.pieces.clear();
                self.bytes -= freed;
            }
            return Err(Refusal::Overlap);
        }
        if datagram.pieces.len() >= limits.pieces || self.bytes + frame.len() > limits.bytes {
            return Err(Refusal::Full);
        }
        self.bytes += frame.len();
        datagram.pieces.insert(at, Waiting { piece, ingress, frame });
        Ok(())
    }

    /// The next fragment of a datagram for the program, if by `record` it would not hand it over
    /// again, and the interface that it came in by.
    pub fn next(&mut self, key: &Key, record: Option<&Record>) -> Option<(u32, Vec<u8>)> {
        let record = record?;
        let datagram = self.datagrams.get_mut(key)?;
        let first = datagram.pieces.first()?;
        let is_due = match record.state {
            state::OPEN => false,
            state::FORWARDED | state::REPLIED => {
                first.piece.start <= u32::from(record.next) || record.complete != 0
            }
            // The program passes or drops them in any order.
            _ => true,
        };
        if !is_due {
            return None;
        }
        let waiting = datagram.pieces.remove(0);
        self.bytes -= waiting.frame.len();
        if datagram.pieces.is_empty() {
            self.datagrams.remove(key);
        }
        Some((waiting.ingress, waiting.frame))
    }

    /// Lets go of datagrams that waited long enough, and returns how many fragments that were.
    pub fn expire(&mut self, now: Duration) -> usize {
        let mut expired = 0;
        let limit = self.limits.time;
        let bytes = &mut self.bytes;
        self.datagrams.retain(|_, datagram| {
            let keep = now.saturating_sub(datagram.since) < limit;
            if !keep {
                expired += datagram.pieces.len();
                *bytes -= datagram.pieces.iter().map(|held| held.frame.len()).sum::<usize>();
            }
            keep
        });
        expired
    }
}

#[cfg(test)]
#[path = "holder_tests.rs"]
mod tests;
