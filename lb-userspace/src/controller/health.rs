//! How endpoints stand: what probes say, and whether a whole service is to be doubted.

use std::{net::SocketAddr, time::Instant};

use anyhow::Result;
use tracing::{error, warn};

use super::{Controller, report};
use crate::{
    config::model::{HealthByEndpoint, HealthCheck, PanicMode},
    probe::{self, PanicMember, ProbeEvent},
    state,
};

impl Controller {
    /// Takes in a probe's result; true if a table may depend on it.
    pub(super) fn probed(&mut self, event: &ProbeEvent) -> bool {
        let Some(check) = self.check_of(event.endpoint) else { return false };
        let judgement = probe::judge(&event.result, &check.expect);
        self.probe_metrics.observe(event, judgement);
        let Some(health) = self.health.get_mut(&event.endpoint) else { return false };
        let transition = health.observe(event, &check);
        if let Some(transition) = &transition {
            report::log_transition(event.endpoint, transition);
        }
        if !judgement.is_alive() && health.consecutive_bad() == 1 {
            self.call_the_roll(event.endpoint);
        }
        // An answer that changes nothing can still end a suspicion.
        let matters = transition.is_some() || (judgement.is_alive() && !self.suspected.is_empty());
        let suspected = matters && self.suspect();
        transition.is_some() || suspected
    }

    /// An endpoint begins to fail: probes those beside it now, lest it is the path that fails.
    fn call_the_roll(&self, failing: SocketAddr) {
        for service in &self.source.config.services {
            if service.panic == PanicMode::Obey
                || service.backends.iter().all(|backend| backend.address != failing)
            {
                continue;
            }
            for backend in service.backends.iter().filter(|b| b.address != failing) {
                if let Err(cause) = self.prober.probe_now(backend.address) {
                    error!("cannot probe {}: {cause}", backend.address);
                }
            }
        }
    }

    /// The health settings of an endpoint, configured or retired.
    fn check_of(&self, endpoint: SocketAddr) -> Option<HealthCheck> {
        self.probed_endpoints.get(&endpoint).cloned().flatten()
    }

    /// Every endpoint that is probed: those of the configuration, and retired ones, which are
    /// probed by the settings of any other, as theirs are gone.
    fn endpoints(&self) -> HealthByEndpoint {
        let mut endpoints = self.source.config.endpoints();
        let common = endpoints.values().flatten().next().cloned();
        for retired in self.reconciler.retired() {
            endpoints.entry(retired.endpoint.address()).or_insert_with(|| common.clone());
        }
        endpoints
    }

    /// Looks whether all backends of a service went down at once; true if that changes a table.
    pub(super) fn suspect(&mut self) -> bool {
        let now = Instant::now();
        let before = self.suspected.clone();
        self.suspected.clear();
        self.panics.retain(|name, _| self.source.config.services.iter().any(|s| s.name == *name));
        for service in &self.source.config.services {
            if service.panic == PanicMode::Obey {
                self.panics.remove(&service.name);
                continue;
            }
            let members: Option<Vec<_>> = service
                .all_backends()
                .map(|backend| {
                    backend.health.as_ref()?;
                    let health = self.health.get(&backend.address)?;
                    Some(PanicMember::new(backend.address, health))
                })
                .collect();
            let interval = service.all_backends().flat_map(|b| &b.health).map(|h| h.interval).max();
            // A backend without probes is always up: nothing to suspect.
            let (Some(members), Some(interval)) = (members, interval) else {
                self.panics.remove(&service.name);
                continue;
            };
            let tracker = self.panics.entry(service.name.clone()).or_default();
            if tracker.observe(now, interval, &members) {
                self.suspected.insert(service.name.clone());
                if !before.contains(&service.name) {
                    warn!(
                        service = service.name,
                        "no backend answers any more; suspecting the path to them and keeping \
                         the last table for at most {} s",
                        probe::panic::SUSPICION.as_secs()
                    );
                }
            }
        }
        before != self.suspected
    }

    /// Tells prober and netlink which endpoints there are.
    pub(super) fn follow_endpoints(&mut self) -> Result<()> {
        let endpoints = self.endpoints();
        self.health.retain(|endpoint, _| endpoints.contains_key(endpoint));
        self.netlink.keep_resolved(endpoints.keys().map(SocketAddr::ip).collect());
        self.prober.set_endpoints(endpoints.clone())?;
        self.probed_endpoints = endpoints;
        Ok(())
    }
}

impl From<probe::State> for state::Health {
    fn from(state: probe::State) -> Self {
        match state {
            probe::State::Unknown => Self::Unknown,
            probe::State::Up => Self::Up,
            probe::State::Down => Self::Down,
        }
    }
}

impl From<state::Health> for probe::State {
    fn from(health: state::Health) -> Self {
        match health {
            state::Health::Unknown => Self::Unknown,
            state::Health::Up => Self::Up,
            state::Health::Down => Self::Down,
        }
    }
}
