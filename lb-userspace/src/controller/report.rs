//! The state in words: snapshots for `status` and metrics, lines for the log.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use lb_common::stats::BindingStats;
use tracing::{info, warn};

use super::Controller;
use crate::{
    config::{
        Config,
        model::{AllDown, Backend, Service},
    },
    datapath::{self, counters::add, sweep::Holding},
    event::{Snapshot, Traffic},
    probe::{Busy, State, Transition},
    state::{commanded, desired::SetState},
    status::{
        AttachedInterface, BackendStatus, ConfigStatus, ControllerState, RetiredStatus,
        ServiceStatus, SetStatus, Status,
    },
};

/// Counters and dialogs of one backend of one service, all listeners together.
#[derive(Clone, Copy, Default)]
struct Sums {
    stats: BindingStats,
    recent: u64,
    calls: u64,
    ringing: u64,
}

impl Controller {
    /// Everything that can be seen from outside.
    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        let sums = self.sums()?;
        let traffic = sums
            .iter()
            .map(|((service, backend), sums)| Traffic {
                service: service.clone(),
                backend: backend.clone(),
                stats: sums.stats,
            })
            .collect();
        Ok(Snapshot {
            status: self.status(&sums)?,
            verdicts: self.counters.verdicts()?,
            events: self.counters.events()?,
            slow_path: self.slow_path.taken(),
            slow_path_lost: self.slow_path.lost(),
            traffic,
            census: self.census.clone(),
            cleared: self.cleared,
            dialog_capacity: self.dialogs.entries().len() as u64,
            reloads: self.reloads,
            program: self.count_program_time.then(|| self.live.run_time()).transpose()?,
            ready: self.is_ready,
        })
    }

    fn sums(&self) -> Result<BTreeMap<(String, String), Sums>> {
        let mut sums: BTreeMap<(String, String), Sums> = BTreeMap::new();
        for view in self.reconciler.ids().views() {
            let stats = self.counters.binding(view.id)?;
            let holding = self.census.bindings.get(&view.id).copied().unwrap_or_default();
            let sum = sums.entry((view.service.to_owned(), view.backend.to_owned())).or_default();
            sum.stats = add(sum.stats, stats);
            sum.recent += self.traffic.recent(view.id, stats.requests);
            sum.calls += holding.calls;
            sum.ringing += holding.ringing;
        }
        Ok(sums)
    }

    fn status(&self, sums: &BTreeMap<(String, String), Sums>) -> Result<Status> {
        let config = &self.source.config;
        let attached = datapath::attach::attached(self.live.pin_dir())?
            .into_iter()
            .map(|link| AttachedInterface {
                interface: link.interface,
                mode: link.mode.map_or("unknown", |mode| mode.label()).to_owned(),
                link: link.ifindex,
            })
            .collect();
        let retired = self.reconciler.retired().into_iter().map(|backend| {
            let holding: Holding =
                self.census.bindings.get(&backend.binding).copied().unwrap_or_default();
            RetiredStatus {
                service: backend.service,
                backend: backend.backend,
                address: backend.endpoint.address().to_string(),
                live_dialogs: holding.calls,
            }
        });
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            attached,
            config: ConfigStatus {
                path: Some(self.source.path.clone()),
                loaded_at: Some(rfc3339(self.source.loaded_at)),
                digest: Some(self.source.digest.clone()),
                reload_error: self.reload_error.clone(),
            },
            controller: ControllerState::Running,
            services: config.services.iter().map(|s| self.service(s, sums)).collect(),
            retired: retired.collect(),
            watchers: self.hub.watchers(),
            notices: self.notices.iter().cloned().collect(),
        })
    }

    fn service(&self, service: &Service, sums: &BTreeMap<(String, String), Sums>) -> ServiceStatus {
        let desired = self.reconciler.desired().and_then(|d| d.services.get(&service.name));
        let of = |backend: &Backend| {
            let key = (service.name.clone(), backend.name.clone());
            sums.get(&key).copied().unwrap_or_default()
        };
        let recent: u64 = service.all_backends().map(|backend| of(backend).recent).sum();
        let own = desired.map(|d| &d.own);
        let backends = |backends: &[Backend], set: Option<&SetState>| {
            backends
                .iter()
                .map(|backend| self.backend(service, backend, set, of(backend), recent))
                .collect::<Vec<_>>()
        };
        let sets = service.sets().skip(1).enumerate().map(|(i, set)| {
            let state = desired.and_then(|d| d.rules.get(i));
            SetStatus {
                name: set.name(),
                active_priority: state.and_then(|s| s.active_priority),
                table_digest: format!("{:016x}", state.map_or(0, |s| s.table_digest)),
                backends: backends(set.backends, state),
            }
        });
        ServiceStatus {
            name: service.name.clone(),
            listen: service.listen.iter().map(|vip| format!("{vip}/udp")).collect(),
            forward: "nat".to_owned(),
            balance: service.balance.label().to_owned(),
            active_priority: own.and_then(|s| s.active_priority),
            table_digest: format!("{:016x}", own.map_or(0, |s| s.table_digest)),
            suspected: self.suspected.contains(&service.name),
            all_down: own.filter(|d| d.active_priority.is_none()).map(|d| {
                // There may be no last table to keep.
                let kept = service.all_down != AllDown::KeepLast || d.keeps_last;
                let now = if kept { service.all_down } else { AllDown::Reject };
                now.label().to_owned()
            }),
            backends: backends(&service.backends, own),
            sets: sets.collect(),
        }
    }

    fn backend(
        &self,
        service: &Service,
        backend: &Backend,
        set: Option<&SetState>,
        sums: Sums,
        recent: u64,
    ) -> BackendStatus {
        let now = Instant::now();
        let health = self.health.get(&backend.address);
        let slots = set
            .and_then(|d| d.backends.iter().find(|b| b.name == backend.name))
            .map_or(0, |b| b.slots);
        let busy = health.and_then(|health| health.busy(now)).map(|busy| match busy {
            Busy::Until(until) => rfc3339(SystemTime::now() + until.duration_since(now)),
            Busy::UntilNextAnswer => "next-answer".to_owned(),
        });
        BackendStatus {
            name: backend.name.clone(),
            address: backend.address.to_string(),
            aliases: backend.aliases.iter().map(ToString::to_string).collect(),
            priority: backend.priority,
            weight: backend.weight,
            share: f64::from(slots) / lb_common::table::SLOTS as f64,
            traffic_share: (recent > 0).then(|| sums.recent as f64 / recent as f64),
            health: health.map_or(State::Unknown, |h| h.state()).label().to_owned(),
            busy_until: busy,
            admin: backend
                .admin
                .max(commanded(&self.admin, &service.name, &backend.name))
                .label()
                .to_owned(),
            since: health.map(|h| rfc3339(SystemTime::now() - (now - h.since()))),
            last_reason: health.map(|h| h.last_reason().to_string()),
            live_dialogs: sums.calls,
            ringing_dialogs: sums.ringing,
            requests_total: sums.stats.requests,
            responses: (1..)
                .zip(sums.stats.responses)
                .map(|(c, n)| (format!("{c}xx"), n))
                .collect(),
        }
    }
}

/// A moment in RFC 3339, UTC, to the second.
pub(super) fn rfc3339(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    time::OffsetDateTime::from_unix_timestamp(seconds.cast_signed())
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

/// Only what changes a table is worth a line.
pub(super) fn log_transition(endpoint: SocketAddr, transition: &Transition) {
    let (from, to) = (transition.from, transition.to);
    let reason = transition.reason.to_string();
    if to.state == State::Down {
        warn!(%endpoint, reason, "backend down");
    } else if from.state != to.state {
        info!(%endpoint, reason, "backend up");
    } else if to.busy {
        info!(%endpoint, reason, "backend busy: no new dialogs");
    } else {
        info!(%endpoint, reason, "backend takes new dialogs again");
    }
}

/// What a reload changes, in one line.
pub(super) fn difference(old: &Config, new: &Config) -> String {
    let names = |config: &Config| -> BTreeMap<(String, String), Backend> {
        config
            .services
            .iter()
            .flat_map(|s| s.all_backends().map(|b| ((s.name.clone(), b.name.clone()), b.clone())))
            .collect()
    };
    let (before, after) = (names(old), names(new));
    let list = |words: Vec<String>| words.join(", ");
    let path = |(service, backend): &(String, String)| format!("{service}/{backend}");
    let added: Vec<_> = after.keys().filter(|k| !before.contains_key(k)).map(path).collect();
    let removed: Vec<_> = before.keys().filter(|k| !after.contains_key(k)).map(path).collect();
    let changed: Vec<_> = after
        .iter()
        .filter(|(key, backend)| before.get(key).is_some_and(|b| b != *backend))
        .map(|(key, _)| path(key))
        .collect();
    let mut parts = Vec::new();
    for (what, words) in [("added", added), ("removed", removed), ("changed", changed)] {
        if !words.is_empty() {
            parts.push(format!("{what} {}", list(words)));
        }
    }
    if parts.is_empty() {
        let same = if old == new { "nothing changed" } else { "backends unchanged" };
        return format!("reloaded: {same}");
    }
    format!("reloaded: {}", parts.join("; "))
}
