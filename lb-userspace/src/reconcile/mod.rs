//! Bringing the maps to the desired state, step by step, and keeping them there.
//!
//! [`diff::plan`] compares the desired state with what is [`applied`](applied::Applied) and lists
//! writes in an order that never breaks traffic; [`apply::apply`] does them; [`adopt`] reads what
//! another controller left. [`Reconciler`] holds it all together.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::addr::Socket;

pub mod adopt;
pub mod applied;
pub mod apply;
pub mod diff;
mod index;
pub mod op;
mod publish;

#[cfg(test)]
mod tests;

use adopt::{Adopted, Difference};
use applied::{Applied, REST};
use apply::{Backoff, Interrupted};
use diff::{Moment, Plan, Problem};

use crate::{
    config::model::Config,
    maps::{LbMaps, Result},
    state::{
        desired::{DesiredState, Inputs, desired},
        ids::{Admission, BindingView, CapacityError, Ids},
        table::TableCache,
    },
};

/// What a round of [`Reconciler::reconcile`] came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Writes that succeeded.
    pub done: usize,
    /// Reconcile again then, though no input has changed.
    pub retry_at: Option<Duration>,
    /// The write that failed; what was written before it holds.
    pub failure: Option<Box<Interrupted>>,
    /// What repeating will not cure.
    pub problems: Vec<Problem>,
}

/// A backend that is no longer configured and that dialogs may still use: to be probed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredBackend {
    pub binding: u16,
    pub service: String,
    pub backend: String,
    pub listener: Socket,
    pub endpoint: Socket,
}

/// Owner of the ids and of the knowledge of what the maps hold.
#[derive(Debug)]
pub struct Reconciler {
    ids: Ids,
    applied: Applied,
    cache: TableCache,
    backoff: Backoff,
    desired: Option<DesiredState>,
    /// Retired bindings, and since when the maps send no new dialog to them.
    quiet_since: BTreeMap<u16, Duration>,
}

impl Reconciler {
    /// Continues from what was found in the maps; [`adopt::adopt`] of new maps starts afresh.
    #[must_use]
    pub fn new(ids: Ids, applied: Applied) -> Self {
        Self {
            ids,
            applied,
            cache: TableCache::default(),
            backoff: Backoff::new(),
            desired: None,
            quiet_since: BTreeMap::new(),
        }
    }

    /// [`Reconciler::new`] without consuming what else was adopted.
    #[must_use]
    pub fn adopt(adopted: &Adopted) -> Self {
        Self::new(adopted.ids.clone(), adopted.applied.clone())
    }

    /// Gives ids to a configuration; to be called before it is passed to [`Self::reconcile`].
    ///
    /// # Errors
    /// If the maps are too small; the running configuration goes on then.
    pub fn admit(&mut self, config: &Config) -> std::result::Result<Admission, CapacityError> {
        let admission = self.ids.admit(config, &self.applied.occupied())?;
        for binding in admission.added.iter().chain(&admission.revived) {
            self.quiet_since.remove(binding);
        }
        Ok(admission)
    }

    /// One round: what should be, what must be written, writing it. `clock` tells the monotonic
    /// time since any fixed origin, `epoch` is that of the datapath's clock (0…127).
    pub fn reconcile(
        &mut self,
        maps: &mut dyn LbMaps,
        inputs: &Inputs<'_>,
        epoch: u32,
        clock: &dyn Fn() -> Duration,
    ) -> Outcome {
        let state = desired(inputs, &self.ids, &mut self.cache);
        let Plan { ops, retry_at, problems } =
            diff::plan(&state, &self.applied, Moment { now: clock(), epoch });
        self.desired = Some(state);
        let applied = apply::apply(&ops, maps, &mut self.applied, clock);
        let mut outcome = Outcome { retry_at, problems, ..Outcome::default() };
        match applied {
            Ok(done) => {
                self.backoff.reset();
                outcome.done = done;
                self.note_quiet(clock());
            }
            Err(failure) => {
                outcome.done = failure.done;
                outcome.retry_at = Some(clock() + self.backoff.pause());
                outcome.failure = Some(failure);
            }
        }
        outcome
    }

    /// Notes which retired bindings get no new dialogs from now on.
    fn note_quiet(&mut self, now: Duration) {
        let listed = self.applied.listed_bindings();
        for (&id, binding) in &self.applied.bindings {
            if binding.retired != 0 && !listed.contains(&id) {
                self.quiet_since.entry(id).or_insert(now);
            }
        }
        self.quiet_since.retain(|id, _| self.applied.bindings.contains_key(id));
    }

    /// Takes the result of a sweep of the whole dialog table that began at `started`: the bindings
    /// that it found in live entries. Frees retired bindings that had been quiet before and are not
    /// among them; reconcile afterwards. Returns the freed ones.
    pub fn sweep_result(&mut self, live: &BTreeSet<u16>, started: Duration) -> Vec<u16> {
        let may_go = self
            .quiet_since
            .iter()
            .filter(|&(_, &since)| since + REST <= started)
            .map(|(id, _)| *id)
            .collect();
        let freed = self.ids.free_retired(&may_go, live);
        for id in &freed {
            self.quiet_since.remove(id);
        }
        freed
    }

    /// Compares the maps with what was written; reconcile afterwards to repair what differs.
    ///
    /// # Errors
    /// The first read that failed.
    pub fn verify(&mut self, maps: &dyn LbMaps) -> Result<Vec<Difference>> {
        adopt::verify(maps, &mut self.applied)
    }

    /// The desired state of the last round.
    #[must_use]
    pub const fn desired(&self) -> Option<&DesiredState> {
        self.desired.as_ref()
    }

    #[must_use]
    pub const fn ids(&self) -> &Ids {
        &self.ids
    }

    #[must_use]
    pub const fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Backends that are no longer configured and not free yet, one for each binding.
    #[must_use]
    pub fn retired(&self) -> Vec<RetiredBackend> {
        self.ids
            .views()
            .filter(|view| view.retired)
            .map(|BindingView { id, service, backend, listener, endpoint, .. }| RetiredBackend {
                binding: id,
                service: service.to_owned(),
                backend: backend.to_owned(),
                listener,
                endpoint,
            })
            .collect()
    }
}
