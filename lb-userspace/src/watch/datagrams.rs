//! Which later fragments belong to a dialog that is watched. Pure.
//!
//! A later fragment has no Call-ID. The program hands over all of them to who watches a dialog; here
//! those are picked whose first fragment was of that dialog. CPUs hand over apart, so that one may
//! come before its first fragment.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use lb_common::fragment::Key;

use super::Sight;

/// As long as a host takes to send all fragments of a datagram, and CPUs differ.
const PATIENCE: Duration = Duration::from_secs(1);
/// Datagrams and fragments that are remembered.
const MOST: usize = 256;

/// How a datagram is known: by source, destination and identification.
type Id = ([u64; 2], [u64; 2], u32);

fn id(key: &Key) -> Id {
    (key.source, key.destination, key.id)
}

/// The datagrams of one dialog.
#[derive(Debug, Default)]
pub struct Datagrams {
    /// First fragments of the dialog, by when they came.
    ours: BTreeMap<Id, Duration>,
    /// Later ones whose first fragment has not come.
    early: VecDeque<(Id, Duration, Arc<Sight>)>,
}

impl Datagrams {
    /// A first fragment of the dialog came: gives back those that came before it.
    pub fn first(&mut self, key: &Key, now: Duration) -> Vec<Arc<Sight>> {
        self.expire(now);
        if self.ours.len() >= MOST
            && let Some(oldest) = self.ours.iter().min_by_key(|(_, at)| **at).map(|(id, _)| *id)
        {
            self.ours.remove(&oldest);
        }
        self.ours.insert(id(key), now);
        let (ours, others) = self.early.drain(..).partition(|(of, ..): &(Id, _, _)| *of == id(key));
        self.early = others;
        let ours: VecDeque<(Id, Duration, Arc<Sight>)> = ours;
        ours.into_iter().map(|(_, _, sight)| sight).collect()
    }

    /// A later fragment came: true if it is of the dialog. Else it is kept for a while.
    pub fn later(&mut self, key: &Key, now: Duration, sight: &Arc<Sight>) -> bool {
        self.expire(now);
        if self.ours.contains_key(&id(key)) {
            return true;
        }
        if self.early.len() >= MOST {
            self.early.pop_front();
        }
        self.early.push_back((id(key), now, Arc::clone(sight)));
        false
    }

    fn expire(&mut self, now: Duration) {
        // As long as the program remembers a datagram.
        let of = Duration::from_secs(30);
        self.ours.retain(|_, at| now.saturating_sub(*at) <= of);
        self.early.retain(|(_, at, _)| now.saturating_sub(*at) <= PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::sight::tests::sight;

    const fn key(id: u32) -> Key {
        Key { source: [0, 1], destination: [0, 2], id, pad: 0 }
    }

    fn piece(time: u64) -> Arc<Sight> {
        Arc::new(Sight { time, ..sight() })
    }

    #[test]
    fn later_fragments_follow_their_first_one_also_if_they_came_before_it() {
        let mut datagrams = Datagrams::default();
        let now = Duration::from_secs(100);
        assert!(!datagrams.later(&key(1), now, &piece(1)));
        assert!(!datagrams.later(&key(2), now, &piece(2)));
        assert!(!datagrams.later(&key(1), now, &piece(3)));
        let early: Vec<_> = datagrams.first(&key(1), now).iter().map(|s| s.time).collect();
        assert_eq!(early, [1, 3]);
        assert!(datagrams.later(&key(1), now, &piece(4)));
        assert!(!datagrams.later(&key(2), now, &piece(5)), "of another call");
        assert!(datagrams.first(&key(1), now).is_empty());
    }

    #[test]
    fn what_nobody_claims_is_forgotten_after_a_while_or_for_newer_ones() {
        let mut datagrams = Datagrams::default();
        let start = Duration::from_secs(100);
        datagrams.later(&key(1), start, &piece(1));
        let late = start + PATIENCE + Duration::from_millis(1);
        assert!(datagrams.first(&key(1), late).is_empty());
        assert!(!datagrams.later(&key(1), late + Duration::from_secs(31), &piece(2)));

        let mut datagrams = Datagrams::default();
        for id in 0..=MOST as u32 {
            datagrams.first(&key(id), start + Duration::from_millis(id.into()));
            datagrams.later(&key(id + 1000), start, &piece(id.into()));
        }
        let now = start + Duration::from_secs(1);
        assert!(!datagrams.later(&key(0), now, &piece(0)), "the oldest");
        assert!(datagrams.later(&key(1), now, &piece(0)));
        assert!(datagrams.first(&key(1000), start).is_empty(), "the oldest");
    }
}
