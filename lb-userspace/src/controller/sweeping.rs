//! The sweep of the dialog table, some of it each second: live calls, and retired backends without any.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Controller;
use crate::{
    datapath::sweep::{self, Sweep},
    reconcile::owners::Owners,
};

/// Between the end of a sweep of the dialog table and the start of the next.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

impl Controller {
    /// Goes on with the sweep; a finished one says which retired backends may be forgotten.
    pub(super) fn sweep(&mut self) -> Result<()> {
        if self.sweep.is_none() {
            if Instant::now() < self.sweep_at {
                return Ok(());
            }
            self.sweep = Some((Sweep::new(), self.origin.elapsed()));
            self.load_changes = self.loads.changes();
            self.sweeps_begun += 1;
        }
        let now = self.heart.now()?;
        let applied = self.reconciler.applied();
        let owners = Owners::of(applied);
        let Some((sweep, _)) = &mut self.sweep else { return Ok(()) };
        // A quarter of a million lines a second at most: the largest table takes half a minute.
        let is_done = (0..4).any(|_| {
            let service = |id| applied.bindings.get(&id).map_or(0, |binding| binding.service);
            let elsewhere = |entry| owners.is_elsewhere(entry);
            let entries = self.dialogs.entries();
            sweep.step_and_rank(entries, now, sweep::STEP_LINES, service, elsewhere)
        });
        if !is_done {
            return Ok(());
        }
        if let Some((sweep, started)) = self.sweep.take() {
            self.census = sweep.finish();
            self.cleared.add(self.census.cleared);
            self.last_sweep = self.sweeps_begun;
            self.sweep_at = Instant::now() + SWEEP_EVERY;
            let calls = |binding| self.census.bindings.get(&binding).map_or(0, |held| held.calls);
            self.loads.settle(&self.load_changes, calls);
            let live = self.census.bindings.keys().copied().collect();
            if !self.reconciler.sweep_result(&live, started).is_empty() {
                self.follow_endpoints()?;
                self.reconcile();
            }
        }
        Ok(())
    }
}
