//! yaml → maps: one task owns the state, everything else sends it events.
//!
//! ```text
//! file ─ config ───────────┐
//! probes ─ health, panic ──┼─ desired state ─ diff ─ ordered writes ─ maps
//! netlink ─ network view ──┤
//! admin ───────────────────┘
//! ```

mod operator;
mod report;
mod start;
mod traffic;
mod view;
mod watching;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
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
use tracing::{debug, error, info, warn};

use crate::{
    config::{
        self, Config,
        model::{HealthByEndpoint, HealthCheck, Initial, PanicMode},
    },
    controller::{
        start::{hash_key, initial_health, lost_after, refuse_restart_keys, unix_seconds},
        traffic::TrafficWindow,
    },
    datapath::{
        self,
        clock::Heart,
        counters::Counters,
        dialogs::DialogTable,
        live::{Live, Opened},
        loads::Loads,
        sweep::{self, Census, Cleared, Sweep},
        watch::WatchMaps,
    },
    event::{Reloads, Request},
    maps::kernel::KernelMaps,
    metrics::control::ProbeMetrics,
    netlink::{NetlinkHandle, Network},
    probe::{self, Health, PanicMember, PanicTracker, ProbeEvent, Prober, Start},
    reconcile::{Reconciler, adopt, owners::Owners},
    shutdown::Signal,
    slow::{answer::RetryAfter, queue::Counts},
    state::{self, AdminStates, desired::Inputs, ids},
    watch::{hub::Hub, stream::Join},
};

/// Between two signs of life, two steps of the sweep, two looks at what is overdue.
const TICK: Duration = Duration::from_secs(1);
/// Between the end of a sweep of the dialog table and the start of the next.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
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
    /// True if the last round wrote all that was to be written.
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

/// Everything that [`Controller::start`] needs beside the maps.
pub struct Parts {
    pub source: Source,
    pub opened: Opened,
    pub prober: Prober,
    pub netlink: NetlinkHandle,
    pub network: Arc<Network>,
    pub probe_metrics: ProbeMetrics,
    pub slow_path: Arc<Counts>,
    pub retry_after: RetryAfter,
    pub hub: Arc<Hub>,
    pub count_program_time: bool,
}

impl Controller {
    /// Adopts what the maps hold, fills them by the configuration, attaches the interfaces.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read or written, or an interface cannot be attached. What carried
    /// traffic before still does.
    pub fn start(parts: Parts) -> Result<Self> {
        let Parts {
            source,
            opened,
            prober,
            netlink,
            network,
            probe_metrics,
            slow_path,
            retry_after,
            hub,
            count_program_time,
        } = parts;
        let Opened {
            live,
            maps,
            counters,
            dialogs,
            loads,
            heart,
            rings: _,
            watch: watch_maps,
            held: _,
            origin: maps_from,
            stats,
        } = opened;
        if let Some(stats) = stats {
            info!(
                verified_instructions = stats.verified,
                load_ms = stats.load_time.as_millis() as u64,
                map_bytes = stats.map_memory,
                "loaded the XDP program"
            );
        }
        let origin = Instant::now();
        let adopted = adopt::adopt(&maps, Duration::ZERO).context("cannot read the pinned maps")?;
        let key = hash_key(&source.config, &maps, maps_from)?;
        let health = initial_health(&source.config, &adopted, origin);
        let mut controller = Self {
            reconciler: Reconciler::adopt(&adopted),
            admin: adopted.admin,
            source,
            live,
            maps,
            counters,
            dialogs,
            loads,
            load_changes: Vec::new(),
            heart,
            prober,
            netlink,
            network,
            key,
            health,
            probed_endpoints: HealthByEndpoint::new(),
            panics: BTreeMap::new(),
            suspected: BTreeSet::new(),
            origin,
            retry_at: None,
            is_written: false,
            sweep: None,
            sweep_at: origin,
            verify_at: origin + VERIFY_EVERY,
            sweeps_begun: 0,
            last_sweep: 0,
            census: Census::default(),
            cleared: Cleared::default(),
            traffic: TrafficWindow::default(),
            reloads: Reloads { last_success: unix_seconds(), ..Reloads::default() },
            reload_error: None,
            notices: BTreeSet::new(),
            probe_metrics,
            slow_path,
            retry_after,
            hub,
            watch_readers: Vec::new(),
            watch_maps,
            watch_lost: [0; SLOTS],
            count_program_time,
            is_ready: false,
        };
        state::forget_removed(&mut controller.admin, &controller.source.config);
        // Whoever watched before is gone.
        controller.watch_maps.clear()?;
        controller.heart.start(controller.source.config.dialogs.timeout)?;
        let admission = controller.reconciler.admit(&controller.source.config)?;
        controller.counters.reset(&admission.added)?;
        controller.follow_endpoints()?;
        controller.reconcile();
        if controller.retry_at.is_some() && !controller.is_ready {
            anyhow::bail!("the maps could not be written; see the log");
        }
        for interface in controller.source.config.interfaces.clone() {
            controller.live.attach(&interface, controller.source.config.xdp_mode)?;
        }
        controller.live.finish()?;
        controller.drop_other_interfaces()?;
        Ok(controller)
    }

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
                            self.live.unwatch()?;
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

    fn elapsed(&self) -> Duration {
        self.origin.elapsed()
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

    /// Takes in a probe's result; true if a table may depend on it.
    fn probed(&mut self, event: &ProbeEvent) -> bool {
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
    fn suspect(&mut self) -> bool {
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

    /// One round from the state to the maps.
    fn reconcile(&mut self) {
        let epoch = match self.heart.now() {
            Ok(now) => now.epoch,
            Err(cause) => {
                error!("cannot read the datapath's clock: {cause}");
                self.is_written = false;
                self.retry_at = Some(Instant::now() + TICK);
                return;
            }
        };
        let now = Instant::now();
        let config = &self.source.config;
        let addresses: BTreeSet<IpAddr> =
            self.probed_endpoints.keys().map(SocketAddr::ip).collect();
        let view = view::view(&self.network, &config.interfaces, &addresses);
        let standings = self
            .health
            .iter()
            .map(|(&endpoint, health)| {
                let standing = health.standing(now);
                let socket = ids::socket(endpoint, config::model::Transport::Udp);
                (socket, state::Standing { health: standing.state.into(), busy: standing.busy })
            })
            .collect();
        let inputs = Inputs {
            config,
            health: &standings,
            admin: &self.admin,
            suspected: &self.suspected,
            network: &view,
            key: self.key,
            lost_after: lost_after(config),
        };
        let origin = self.origin;
        let outcome =
            self.reconciler.reconcile(&mut self.maps, &inputs, epoch, &|| origin.elapsed());
        if outcome.done > 0 {
            debug!(writes = outcome.done, "maps written");
        }
        self.is_written = outcome.failure.is_none() && outcome.problems.is_empty();
        self.is_ready |= outcome.failure.is_none();
        if let Some(failure) = &outcome.failure {
            error!("{failure}; trying again");
        }
        self.retry_at = outcome.retry_at.map(|at| origin + at);
        let mut notices: BTreeSet<String> =
            outcome.problems.iter().map(ToString::to_string).collect();
        if let Some(desired) = self.reconciler.desired() {
            notices.extend(desired.notices.iter().cloned());
        }
        for notice in notices.difference(&self.notices) {
            warn!("{notice}");
        }
        self.notices = notices;
        self.name_watched();
    }

    /// Tells prober and netlink which endpoints there are.
    fn follow_endpoints(&mut self) -> Result<()> {
        let endpoints = self.endpoints();
        self.health.retain(|endpoint, _| endpoints.contains_key(endpoint));
        self.netlink.keep_resolved(endpoints.keys().map(SocketAddr::ip).collect());
        self.prober.set_endpoints(endpoints.clone())?;
        self.probed_endpoints = endpoints;
        Ok(())
    }

    /// Reads the configuration again. A bad one is refused and changes nothing.
    fn reload(&mut self) -> Result<String, String> {
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

    /// Attaches configured interfaces that are not: new ones, and those that came back.
    fn reattach(&mut self) {
        let attached = match datapath::attach::attached(self.live.pin_dir()) {
            Ok(attached) => attached,
            Err(cause) => return error!("cannot list the links: {cause}"),
        };
        for interface in self.source.config.interfaces.clone() {
            let Some(link) = self.network.link_by_name(&interface) else {
                continue;
            };
            if attached.iter().any(|a| a.ifindex == link.index) {
                continue;
            }
            if let Err(cause) = self.live.attach(&interface, self.source.config.xdp_mode) {
                error!(interface, "{cause}");
            }
        }
    }

    fn drop_other_interfaces(&mut self) -> Result<()> {
        let keep: Vec<u32> = self
            .source
            .config
            .interfaces
            .iter()
            .filter_map(|name| Some(self.network.link_by_name(name)?.index))
            .collect();
        self.live.detach_others(&keep)?;
        Ok(())
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

    /// Compares the maps with what was written, and repairs what somebody else changed.
    fn verify(&mut self) {
        match self.reconciler.verify(&self.maps) {
            Ok(differences) if differences.is_empty() => {}
            Ok(differences) => {
                for difference in &differences {
                    warn!("{difference}; writing it again");
                }
                self.reconcile();
            }
            Err(cause) => error!("cannot verify the maps: {cause}"),
        }
    }

    /// Goes on with the sweep; a finished one says which retired backends may be forgotten.
    fn sweep(&mut self) -> Result<()> {
        if self.sweep.is_none() {
            if Instant::now() < self.sweep_at {
                return Ok(());
            }
            self.sweep = Some((Sweep::new(), self.elapsed()));
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
