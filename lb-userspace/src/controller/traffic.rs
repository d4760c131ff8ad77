//! Requests by binding over the last minute, for `traffic_share`.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    datapath::{self, counters::Counters},
    state::ids::Ids,
};

/// How far back `traffic_share` looks.
const WINDOW: Duration = Duration::from_secs(60);
/// Between two samples.
const EVERY: Duration = Duration::from_secs(5);

/// Samples of the request counters.
#[derive(Debug, Default)]
pub(super) struct TrafficWindow {
    samples: VecDeque<(Instant, BTreeMap<u16, u64>)>,
}

impl TrafficWindow {
    /// Takes a sample if one is due.
    pub(super) fn note(
        &mut self,
        counters: &Counters,
        ids: &Ids,
    ) -> Result<(), datapath::error::Error> {
        let now = Instant::now();
        if self.samples.back().is_some_and(|(at, _)| now - *at < EVERY) {
            return Ok(());
        }
        let stats = counters.bindings(ids.views().map(|view| view.id))?;
        let requests = stats.into_iter().map(|(id, stats)| (id, stats.requests)).collect();
        self.samples.push_back((now, requests));
        // The oldest one kept is the first at or before the start of the window.
        while self.samples.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            self.samples.pop_front();
        }
        Ok(())
    }

    /// Requests of a binding within the window, given its count now.
    pub(super) fn recent(&self, binding: u16, requests: u64) -> u64 {
        let before = self.samples.front().and_then(|(_, sample)| sample.get(&binding));
        requests.saturating_sub(before.copied().unwrap_or(0))
    }
}
