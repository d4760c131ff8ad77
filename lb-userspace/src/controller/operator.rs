//! What the operator says by command: `drain` and `undrain`.

use std::time::Instant;

use tracing::info;

use super::Controller;
use crate::{
    config::model::Config,
    event::{Remaining, Wish},
    state::{Admin, commanded},
};

impl Controller {
    /// Drains a backend, or takes that back. `Ok` says what is the case now, `Err` why not.
    pub(super) fn obey(&mut self, wish: &Wish) -> Result<String, String> {
        let Wish { service, backend, drain } = wish;
        let configured = configured(&self.source.config, service, backend)?;
        let name = format!("{service}/{backend}");
        let key = (service.clone(), backend.clone());
        let before = commanded(&self.admin, service, backend);
        if *drain {
            self.admin.insert(key, Admin::Drain);
        } else {
            if configured != Admin::Ready {
                return Err(format!(
                    "the configuration says admin: {} of {name}: change it in {} and reload",
                    configured.label(),
                    self.source.path.display()
                ));
            }
            self.admin.remove(&key);
        }
        let now = commanded(&self.admin, service, backend);
        if now != before {
            info!(service, backend, admin = configured.max(now).label(), "operator's command");
            self.reconcile();
            // What is to be tried again has to wait for a table to rest, a tenth of a second.
            let is_stuck = self.retry_at.is_none() && !self.reconciler.is_in_force(service);
            if !self.is_written || is_stuck {
                return Err(format!(
                    "{name}: noted, but not in force yet, as the maps could not be written: see the log"
                ));
            }
        }
        let mut said = match (drain, now == before, configured) {
            (true, _, Admin::Maint) => {
                format!("{name}: drained; the configuration's admin: maint stays in force")
            }
            (true, true, _) => format!("{name} is drained already"),
            (true, false, _) => format!("{name}: no new dialogs from now on, live ones stay"),
            (false, true, _) => format!("{name} is not drained"),
            (false, false, _) => format!("{name}: takes new dialogs again"),
        };
        let active = self.reconciler.desired().and_then(|d| d.services.get(service));
        if active.is_some_and(|service| service.own.active_priority.is_none()) {
            said.push_str("; the service has no usable backend left");
        }
        Ok(said)
    }

    /// How many calls a backend still has; `Err` if it is neither configured nor retired.
    pub(super) fn remaining(&mut self, service: &str, backend: &str) -> Result<Remaining, String> {
        // Somebody waits: the next sweep follows the last without a pause.
        self.sweep_at = Instant::now();
        let mut remaining = Remaining {
            calls: 0,
            ringing: 0,
            admin: Admin::Ready,
            sweeps_begun: self.sweeps_begun,
            last_sweep: self.last_sweep,
        };
        let mut is_known = false;
        for view in self.reconciler.ids().views() {
            if (view.service, view.backend) == (service, backend) {
                let holding = self.census.bindings.get(&view.id).copied().unwrap_or_default();
                remaining.calls += holding.calls;
                remaining.ringing += holding.ringing;
                is_known = true;
            }
        }
        match configured(&self.source.config, service, backend) {
            Ok(configured) => {
                remaining.admin = configured.max(commanded(&self.admin, service, backend));
            }
            // Retired: it gets no new dialogs either.
            Err(_) if is_known => remaining.admin = Admin::Drain,
            Err(unknown) => return Err(unknown),
        }
        Ok(remaining)
    }
}

/// What the configuration says of a backend; `Err` if it has none of that name.
fn configured(config: &Config, service: &str, backend: &str) -> Result<Admin, String> {
    if let Some(backend) = config.backend(service, backend) {
        return Ok(backend.admin);
    }
    let names: Vec<_> = config
        .services
        .iter()
        .flat_map(|s| s.all_backends().map(|b| format!("{}/{}", s.name, b.name)))
        .collect();
    Err(format!("no backend {service}/{backend} is configured; there are {}", names.join(", ")))
}
