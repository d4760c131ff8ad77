//! What a configuration and the adopted maps give a controller to start with, and what only a
//! restart can change.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use lb_common::hash::HashKey;

use crate::{
    config::{
        self, Config,
        model::{ControllerLost, Initial},
    },
    datapath::{clock::Heart, live::Origin},
    maps::{LbMaps as _, kernel::KernelMaps},
    probe::{self, Health, Start},
    reconcile::adopt,
    state::{self, ids, route::derive_key},
};

/// What only a restart can change, since the maps are sized by it or others hold it.
pub(super) fn refuse_restart_keys(old: &Config, new: &Config) -> Result<()> {
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

/// Jiffies without a heartbeat after which the program stands aside; 0 = never.
pub(super) fn lost_after(config: &Config) -> u64 {
    match config.controller_lost {
        ControllerLost::Keep => 0,
        ControllerLost::DetachAfter(duration) => Heart::jiffies(duration).unwrap_or_else(|cause| {
            tracing::error!("controller_lost is not in force: {cause}");
            0
        }),
    }
}

/// The configured key, else the one in the maps, else a new one.
pub(super) fn hash_key(config: &Config, maps: &KernelMaps, from: Origin) -> Result<HashKey> {
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
pub(super) fn initial_health(
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

/// Now, in seconds since the epoch.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
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

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

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
