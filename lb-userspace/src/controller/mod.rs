//! yaml → maps: one task owns the state, everything else sends it events.
//!
//! ```text
//! file ─ reload.rs ────────┐
//! probes ─ health.rs ──────┼─ round.rs: desired state ─ diff ─ ordered writes ─ maps
//! netlink ─ view.rs ───────┤
//! admin ─ operator.rs ─────┘
//! each second ─ sweeping.rs (live calls, backends that may be forgotten), traffic.rs
//! asked ─ report.rs (status, metrics), watching.rs (capture, trace)
//! ```

mod health;
mod interfaces;
mod operator;
mod reload;
mod report;
mod round;
mod start;
mod sweeping;
mod traffic;
mod view;
mod watching;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use lb_common::{hash::HashKey, watch::SLOTS};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::error;

pub use self::start::Parts;
use self::traffic::TrafficWindow;
use crate::{
    config::{Config, model::HealthByEndpoint},
    datapath::{
        clock::Heart,
        counters::Counters,
        dialogs::DialogTable,
        live::Live,
        loads::Loads,
        sweep::{Census, Cleared, Sweep},
        watch::WatchMaps,
    },
    event::{Reloads, Request},
    maps::kernel::KernelMaps,
    metrics::control::ProbeMetrics,
    netlink::{NetlinkHandle, Network},
    probe::{Health, PanicTracker, ProbeEvent, Prober},
    reconcile::Reconciler,
    shutdown::Signal,
    slow::{answer::RetryAfter, queue::Counts},
    state::AdminStates,
    watch::{hub::Hub, stream::Join},
};

/// Between two signs of life, two steps of the sweep, two looks at what is overdue.
const TICK: Duration = Duration::from_secs(1);
/// Between comparisons of the maps with what was written.
const VERIFY_EVERY: Duration = Duration::from_secs(600);

/// A configuration and where it came from.
pub struct Source {
    pub path: PathBuf,
    pub config: Config,
    pub digest: String,
    pub loaded_at: SystemTime,
}

/// Where the controller's events come from.
pub struct Inbox {
    pub probes: mpsc::Receiver<ProbeEvent>,
    pub network: watch::Receiver<Arc<Network>>,
    pub requests: mpsc::Receiver<Request>,
    pub signals: mpsc::Receiver<Signal>,
}

/// The owner of the state.
pub struct Controller {
    source: Source,
    live: Live,
    maps: KernelMaps,
    counters: Counters,
    dialogs: DialogTable,
    loads: Loads,
    /// What they were when the sweep in progress began.
    load_changes: Vec<u64>,
    heart: Heart,
    prober: Prober,
    netlink: NetlinkHandle,
    network: Arc<Network>,
    reconciler: Reconciler,
    key: HashKey,
    health: BTreeMap<SocketAddr, Health>,
    /// What the prober was told to probe, and how.
    probed_endpoints: HealthByEndpoint,
    panics: BTreeMap<String, PanicTracker>,
    suspected: BTreeSet<String>,
    admin: AdminStates,
    origin: Instant,
    retry_at: Option<Instant>,
    /// True if no write of the last round failed.
    is_written: bool,
    /// The sweep in progress, since when, and when the next is due.
    sweep: Option<(Sweep, Duration)>,
    sweep_at: Instant,
    verify_at: Instant,
    /// How many sweeps have begun, and the number of the last that has ended: the one that found
    /// `census`.
    sweeps_begun: u64,
    last_sweep: u64,
    census: Census,
    cleared: Cleared,
    traffic: TrafficWindow,
    reloads: Reloads,
    reload_error: Option<String>,
    notices: BTreeSet<String>,
    probe_metrics: ProbeMetrics,
    slow_path: Arc<Counts>,
    retry_after: RetryAfter,
    /// Who watches packets, those who read them, and what each slot had lost before.
    hub: Arc<Hub>,
    watch_readers: Vec<JoinHandle<()>>,
    watch_maps: WatchMaps,
    watch_lost: [u64; SLOTS],
    count_program_time: bool,
    is_ready: bool,
}

impl Controller {
    /// Serves events until a signal ends it; traffic goes on when the controller is dropped.
    ///
    /// # Errors
    ///
    /// If probes or netlink end, which they only do by a fault.
    pub async fn run(mut self, mut inbox: Inbox) -> Result<Self> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let deadline = self.deadline();
            tokio::select! {
                event = inbox.probes.recv() => {
                    let event = event.context("the prober has ended")?;
                    // A burst of results makes one round.
                    let mut changed = self.probed(&event);
                    while let Ok(event) = inbox.probes.try_recv() {
                        changed |= self.probed(&event);
                    }
                    if changed { self.reconcile(); }
                }
                changed = inbox.network.changed() => {
                    changed.context("the netlink task has ended")?;
                    self.network = Arc::clone(&inbox.network.borrow_and_update());
                    self.reattach();
                    self.reconcile();
                }
                Some(request) = inbox.requests.recv() => self.serve(request),
                Some(signal) = inbox.signals.recv() => match signal {
                    Signal::Reload => { drop(self.reload()); }
                    Signal::Stop => {
                        if self.live.has_watched() {
                            // It shows nothing without its reader; the next start takes it off.
                            if let Err(cause) = self.live.unwatch() {
                                error!("cannot take the program off that shows packets: {cause}");
                            }
                        }
                        return Ok(self);
                    }
                },
                _ = tick.tick() => self.tick(),
                () = tokio::time::sleep_until(deadline.into()) => self.overdue(),
            }
        }
    }

    /// Where the program is pinned.
    #[must_use]
    pub fn pin_dir(&self) -> &std::path::Path {
        self.live.pin_dir()
    }

    /// The key of the Call-ID hash, configured or pinned.
    #[must_use]
    pub const fn hash_key(&self) -> HashKey {
        self.key
    }

    /// When something is due though nothing happens: a Retry-After, a suspicion or a rest ends.
    fn deadline(&self) -> Instant {
        let health = self.health.values().filter_map(Health::deadline);
        let panics = self.panics.values().filter_map(PanicTracker::deadline);
        let far = Instant::now() + Duration::from_secs(3600);
        health.chain(panics).chain(self.retry_at).min().unwrap_or(far)
    }

    fn overdue(&mut self) {
        let now = Instant::now();
        let expired: Vec<_> = self
            .health
            .iter_mut()
            .filter_map(|(endpoint, health)| Some((*endpoint, health.expire(now)?)))
            .collect();
        for (endpoint, transition) in expired {
            report::log_transition(endpoint, &transition);
        }
        self.suspect();
        self.retry_at = None;
        self.reconcile();
    }

    fn serve(&mut self, request: Request) {
        // Whoever asked may have gone; the answer is then nobody's.
        match request {
            Request::Snapshot(reply) => match self.snapshot() {
                Ok(snapshot) => drop(reply.send(snapshot)),
                Err(cause) => error!("cannot read the counters: {cause:#}"),
            },
            Request::Reload(reply) => drop(reply.send(self.reload())),
            Request::Wish(wish, reply) => drop(reply.send(self.obey(&wish))),
            Request::Remaining(service, backend, reply) => {
                drop(reply.send(self.remaining(&service, &backend)));
            }
            Request::Watch(wanted, loaded, reply) => {
                // Whoever asked is gone: so is its slot.
                if let Err(Join::Seat(seat)) = reply.send(self.watch(&wanted, loaded)) {
                    self.unwatch(seat.slot);
                }
            }
            Request::Quiet(slot, reply) => {
                self.quiet(slot);
                let _gone = reply.send(());
            }
            Request::Unwatch(slot, reply) => drop(reply.send(self.unwatch(slot))),
        }
    }

    fn tick(&mut self) {
        if let Err(cause) = self.heart.beat() {
            error!("cannot give a sign of life to the datapath: {cause}");
        }
        if let Err(cause) = self.sweep() {
            error!("cannot sweep the dialog table: {cause}");
        }
        if let Err(cause) = self.traffic.note(&self.counters, self.reconciler.ids()) {
            error!("cannot read the counters: {cause}");
        }
        self.stop_watching();
        if Instant::now() >= self.verify_at {
            self.verify_at = Instant::now() + VERIFY_EVERY;
            self.verify();
        }
    }
}
