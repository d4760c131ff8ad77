//! Another configuration while traffic goes on, and what only a restart can change.

use std::time::{Instant, SystemTime};

use anyhow::Result;
use tracing::{error, info};

use super::{Controller, report};
use crate::{
    config::{self, Config, model::Initial},
    probe::{Health, Start},
    state,
};

impl Controller {
    /// Reads the configuration again. A bad one is refused and changes nothing.
    pub(super) fn reload(&mut self) -> Result<String, String> {
        match self.try_reload() {
            Ok(summary) => {
                self.reloads.succeeded += 1;
                self.reloads.last_success = unix_seconds();
                self.reload_error = None;
                info!("{summary}");
                Ok(summary)
            }
            Err(cause) => {
                self.reloads.failed += 1;
                let message = format!("{cause:#}");
                error!("configuration refused, the running one goes on: {message}");
                self.reload_error = Some(message.clone());
                Err(message)
            }
        }
    }

    fn try_reload(&mut self) -> Result<String> {
        let loaded = config::load(&self.source.path)?;
        let (old, new) = (&self.source.config, loaded.config);
        refuse_restart_keys(old, &new)?;
        let missing: Vec<_> = new
            .interfaces
            .iter()
            .filter(|name| self.network.link_by_name(name).is_none())
            .cloned()
            .collect();
        if !missing.is_empty() {
            anyhow::bail!("no interface {}", missing.join(", "));
        }
        let summary = report::difference(old, &new);
        let admission = self.reconciler.admit(&new)?;
        self.counters.reset(&admission.added)?;
        let now = Instant::now();
        for (&endpoint, check) in &new.endpoints() {
            let initial = check.as_ref().map_or(Initial::Up, |check| check.initial);
            let start = match check {
                Some(_) => Start::AddedByReload,
                None => Start::FirstEver,
            };
            let without_probes = check.is_none();
            let health =
                self.health.entry(endpoint).or_insert_with(|| Health::new(start, initial, now));
            if without_probes {
                *health = Health::new(Start::FirstEver, Initial::Up, now);
            }
        }
        self.retry_after.set(&new);
        self.source.config = new;
        state::forget_removed(&mut self.admin, &self.source.config);
        self.source.digest = loaded.digest;
        self.source.loaded_at = SystemTime::now();
        self.heart.start(self.source.config.dialogs.timeout)?;
        self.follow_endpoints()?;
        self.suspect();
        self.reconcile();
        self.reattach();
        self.drop_other_interfaces()?;
        Ok(summary)
    }
}

/// What only a restart can change, since the maps are sized by it or others hold it.
fn refuse_restart_keys(old: &Config, new: &Config) -> Result<()> {
    let mut changed = Vec::new();
    let mut compare = |key, differs: bool| {
        if differs {
            changed.push(key);
        }
    };
    compare("limits", old.limits != new.limits);
    compare("dialogs.max", old.dialogs.max != new.dialogs.max);
    compare("pin_dir", old.pin_dir != new.pin_dir);
    compare("metrics.listen", old.metrics_listen != new.metrics_listen);
    compare("admin.socket", old.admin_socket != new.admin_socket);
    compare("hash_key", old.hash_key != new.hash_key);
    if changed.is_empty() {
        return Ok(());
    }
    anyhow::bail!("{} can only change by a restart of sip-lb", changed.join(", "))
}

/// Now, in seconds since the epoch.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
