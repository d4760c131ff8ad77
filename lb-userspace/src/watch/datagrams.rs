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
