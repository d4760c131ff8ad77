//! What a configuration and the adopted maps give a controller to start with.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_common::{hash::HashKey, watch::SLOTS};
use tracing::info;

use super::{Controller, Source, VERIFY_EVERY, reload::unix_seconds, traffic::TrafficWindow};
use crate::{
    config::{
        self, Config,
        model::{HealthByEndpoint, Initial},
    },
    datapath::{
        live::{Opened, Origin},
        sweep::{Census, Cleared},
    },
    event::Reloads,
    maps::{LbMaps as _, kernel::KernelMaps},
    metrics::control::ProbeMetrics,
    netlink::{NetlinkHandle, Network},
    probe::{Health, Prober, Start},
    reconcile::{Reconciler, adopt},
    slow::{answer::RetryAfter, queue::Counts},
    state::{self, ids, route::derive_key},
    watch::hub::Hub,
};

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
        // First, as one that is no longer configured may still run another program.
        controller.drop_other_interfaces()?;
        controller.live.finish()?;
        Ok(controller)
    }
}

/// The configured key, else the one in the maps, else a new one.
fn hash_key(config: &Config, maps: &KernelMaps, from: Origin) -> Result<HashKey> {
    if let Some(key) = &config.hash_key {
        return Ok(derive_key(key));
    }
    let pinned = maps.settings().context("cannot read the pinned hash key")?.key;
    if from != Origin::Fresh && pinned != HashKey::default() {
        return Ok(pinned);
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|cause| anyhow::anyhow!("the kernel gives no random numbers: {cause}"))?;
    let (words, _) = bytes.as_chunks::<8>();
    let word = |i: usize| words.get(i).map_or(0, |word| u64::from_le_bytes(*word));
    Ok(HashKey { k0: word(0), k1: word(1) })
}

/// How each endpoint stands before its first probe.
fn initial_health(
    config: &Config,
    adopted: &adopt::Adopted,
    now: Instant,
) -> BTreeMap<SocketAddr, Health> {
    let is_fresh = adopted.is_fresh();
    let mut health = BTreeMap::new();
    for (endpoint, check) in config.endpoints() {
        let initial = check.as_ref().map_or(Initial::Up, |check| check.initial);
        let socket = ids::socket(endpoint, config::model::Transport::Udp);
        let start = match adopted.health.get(&socket) {
            Some(&before) if check.is_some() => Start::Adopted(before.into()),
            None if check.is_some() && !is_fresh => Start::AddedByReload,
            Some(_) | None => Start::FirstEver,
        };
        let mut judged = Health::new(start, initial, now);
        if check.is_some() && adopted.busy.contains(&socket) {
            judged.presume_busy();
        }
        health.insert(endpoint, judged);
    }
    // Retired endpoints: as they were left.
    for (socket, &before) in &adopted.health {
        health
            .entry(socket.address())
            .or_insert_with(|| Health::new(Start::Adopted(before.into()), Initial::Up, now));
    }
    health
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lb_common::maps::Capacities;

    use super::*;
    use crate::{maps::memory::MemoryMaps, probe::State};

    #[test]
    fn a_backend_that_was_busy_gets_no_new_dialogs_before_its_next_answer() {
        let text = r#"
interfaces: [eth0]
services:
  - name: trunk-in
    listen: "203.0.113.10:5060"
    backends:
      - { name: gw1, address: "10.0.1.201:5060" }
      - { name: gw2, address: "10.0.1.202:5060" }
      - { name: gw3, address: "10.0.1.203:5060", health: off }
"#;
        let config = config::parse(text, Path::new("/")).unwrap().config;
        let maps = MemoryMaps::new(Capacities::new(4, 16, 32, 4, 64));
        let mut adopted = adopt::adopt(&maps, Duration::ZERO).unwrap();
        let socket = |n: u8| {
            let address = SocketAddr::from(([10, 0, 1, 200 + n], 5060));
            ids::socket(address, config::model::Transport::Udp)
        };
        for n in 1..=3 {
            adopted.health.insert(socket(n), state::Health::Up);
        }
        adopted.busy = [socket(1), socket(3)].into();
        let now = Instant::now();
        let health = initial_health(&config, &adopted, now);
        let standings: Vec<_> = health
            .values()
            .map(|health| health.standing(now))
            .map(|standing| (standing.state, standing.busy))
            .collect();
        // Who is not probed would never be heard to have recovered.
        assert_eq!(standings, [(State::Up, true), (State::Up, false), (State::Up, false)]);
    }
}
