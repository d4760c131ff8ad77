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
pub mod owners;
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
    /// Those of them that cannot start one either, as their endpoint is not known as a source, or
    /// is known as another binding's.
    silent_since: BTreeMap<u16, Duration>,
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
            silent_since: BTreeMap::new(),
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
            self.silent_since.remove(binding);
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
        let applied = &self.applied;
        let last = |choice| applied.owners(choice);
        let state = desired(inputs, &self.ids, &last, &mut self.cache);
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

    /// True if what was wanted of a service's choices in the last round is what the maps hold.
    #[must_use]
    pub fn is_in_force(&self, service: &str) -> bool {
        let id = self.ids.service(service);
        let choices = self.desired.iter().flat_map(|desired| &desired.choices);
        let mut own = choices.filter(|(_, want)| Some(want.service) == id);
        own.all(|(&id, want)| publish::is_published(id, want, &self.applied))
    }

    /// Notes which retired bindings get no new dialogs from now on, and which make none.
    fn note_quiet(&mut self, now: Duration) {
        let applied = &self.applied;
        if applied.bindings.values().all(|binding| binding.retired == 0) {
            self.quiet_since.clear();
            self.silent_since.clear();
            return;
        }
        let (listed, indexed) = (applied.listed_bindings(), applied.indexed_endpoints());
        let quiet = |id: &u16| {
            applied.bindings.get(id).is_some_and(|b| b.retired != 0) && !listed.contains(id)
        };
        let silent = |id: &u16| {
            let endpoint = applied.bindings.get(id).map_or(0, |binding| binding.endpoint);
            let is_primary = applied.endpoints.get(&endpoint).is_some_and(|e| e.primary == *id);
            quiet(id) && !(is_primary && indexed.contains(&endpoint))
        };
        note_since(&mut self.quiet_since, applied.bindings.keys(), quiet, now);
        note_since(&mut self.silent_since, applied.bindings.keys(), silent, now);
    }

    /// Takes the result of a sweep of the whole dialog table that began at `started`: the bindings
    /// that it found in live entries.
    ///
    /// A retired binding that got no new dialogs since before the sweep and is not among them is
    /// first no longer known as a source, so that it starts none behind the sweep's back; the next
    /// sweep that does not find it frees it. Returns the bindings that this concerns: reconcile
    /// afterwards if there are any.
    pub fn sweep_result(&mut self, live: &BTreeSet<u16>, started: Duration) -> Vec<u16> {
        let before = |since: Option<&Duration>| since.is_some_and(|&s| s + REST <= started);
        let retired: Vec<u16> = self.ids.views().filter(|v| v.retired).map(|v| v.id).collect();
        let (mut freed, mut changed) = (Vec::new(), Vec::new());
        for id in retired {
            if live.contains(&id) {
                if self.ids.set_leaving(id, false) {
                    changed.push(id);
                }
            } else if before(self.silent_since.get(&id)) {
                freed.push(id);
            } else if before(self.quiet_since.get(&id)) && self.ids.set_leaving(id, true) {
                changed.push(id);
            }
        }
        self.ids.free(&freed);
        for id in &freed {
            self.quiet_since.remove(id);
            self.silent_since.remove(id);
        }
        changed.append(&mut freed);
        changed
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

/// Keeps for each of `ids` that is so since when it has been so.
fn note_since<'a>(
    since: &mut BTreeMap<u16, Duration>,
    ids: impl Iterator<Item = &'a u16>,
    is_so: impl Fn(&u16) -> bool,
    now: Duration,
) {
    since.retain(|id, _| is_so(id));
    for id in ids.filter(|id| is_so(id)) {
        since.entry(*id).or_insert(now);
    }
}
