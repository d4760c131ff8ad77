//! A controller's world, changed step by step.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{
    addr::{Addr, Socket},
    backend::{IngressPath, NextHop, Route, next_hop},
    hash::HashKey,
    maps::Capacities,
    service::Interface,
};

use super::watched::{Clock, Watched};
use crate::{
    config::model::{
        Affinity, AllDown, Backend, Balance, Config, ControllerLost, Dialogs, Forward,
        InDialogFailover, Keepalive, Limits, Malformed, PanicMode, Service, SpoofCheck, Transport,
        XdpMode,
    },
    maps::{
        LbMaps,
        dump::dump,
        faulty::{Fault, FaultyMaps},
        memory::MemoryMaps,
    },
    reconcile::{Outcome, Reconciler, adopt::adopt},
    state::{
        Admin, AdminStates, Standing,
        desired::{Inputs, NetworkView, Path},
        table::TableCache,
    },
};

/// A small node.
pub(super) const CAPACITIES: Capacities = Capacities::new(4, 16, 32, 4, 64);

/// What the controller is told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) config: Config,
    pub(super) health: BTreeMap<Socket, Standing>,
    pub(super) admin: AdminStates,
    pub(super) suspected: BTreeSet<String>,
    pub(super) network: NetworkView,
    /// Bindings in live dialogs; `None` = no sweep has ended since the last step.
    pub(super) sweep: Option<BTreeSet<u16>>,
}

impl Told {
    pub(super) fn new(services: Vec<Service>) -> Self {
        Self {
            config: config(services),
            health: BTreeMap::new(),
            admin: BTreeMap::new(),
            suspected: BTreeSet::new(),
            network: NetworkView {
                interfaces: vec![interface(2, 1)],
                host_addresses: [addr("192.0.2.1")].into(),
                ..NetworkView::default()
            },
            sweep: None,
        }
    }

    pub(super) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            config: &self.config,
            health: &self.health,
            admin: &self.admin,
            suspected: &self.suspected,
            network: &self.network,
            key: HashKey { k0: 1, k1: 2 },
            lost_after: 0,
        }
    }

    pub(super) fn service(&mut self, name: &str) -> &mut Service {
        self.config.services.iter_mut().find(|s| s.name == name).unwrap()
    }

    pub(super) fn stands(&mut self, address: &str, standing: Standing) {
        self.health.insert(udp(address), standing);
    }

    pub(super) fn set_admin(&mut self, service: &str, backend: &str, admin: Admin) {
        self.admin.insert((service.to_owned(), backend.to_owned()), admin);
    }
}

pub(super) fn udp(address: &str) -> Socket {
    Socket::udp(address.parse::<SocketAddr>().unwrap())
}

pub(super) fn addr(address: &str) -> Addr {
    address.parse::<IpAddr>().unwrap().into()
}

pub(super) fn interface(ifindex: u32, mac: u8) -> Interface {
    let mut interface = Interface { ifindex, count: 1, ..Interface::default() };
    interface.macs[0] = [2, 0, 0, 0, 0, mac];
    interface
}

pub(super) fn path(ifindex: u32, mac: u8) -> Path {
    Path { next_hop: hop(ifindex, mac), ingress: vec![IngressPath { ifindex, vids: [0, 0] }] }
}

pub(super) fn hop(ifindex: u32, mac: u8) -> NextHop {
    NextHop {
        ifindex,
        state: next_hop::VALID,
        mtu: 1500,
        dst_mac: [2, 0, 0, 0, 1, mac],
        src_mac: [2, 0, 0, 0, 0, 1],
        on_link: 1,
        ..NextHop::default()
    }
}

pub(super) fn route(prefix: &str, bits: u32) -> Route {
    Route::new(addr(prefix), bits, hop(2, 99))
}

/// (name, address, priority, weight)
pub(super) fn backend((name, address, priority, weight): (&str, &str, u16, u16)) -> Backend {
    Backend {
        aliases: Vec::new(),
        name: name.to_owned(),
        address: address.parse().unwrap(),
        priority,
        weight,
        admin: Admin::Ready,
        health: None,
    }
}

pub(super) fn service(name: &str, vips: &[&str], backends: &[(&str, &str, u16, u16)]) -> Service {
    Service {
        name: name.to_owned(),
        listen: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
        transport: Transport::Udp,
        forward: Forward::Nat,
        balance: Balance::CallId,
        affinity: Affinity::Dialog,
        domains: Vec::new(),
        methods: Vec::new(),
        in_dialog_failover: InDialogFailover::Rehash,
        keepalive: Keepalive::Absorb,
        malformed: Malformed::Forward,
        all_down: AllDown::Reject,
        retry_after: Duration::from_secs(120),
        spoof_check: SpoofCheck::Strict,
        backends: backends.iter().map(|b| backend(*b)).collect(),
        panic: PanicMode::Keep,
    }
}

fn config(services: Vec<Service>) -> Config {
    Config {
        interfaces: vec!["eth0".to_owned()],
        xdp_mode: XdpMode::Auto,
        hash_key: None,
        metrics_listen: "127.0.0.1:9560".parse().unwrap(),
        admin_socket: "/run/sip-lb/admin.sock".into(),
        pin_dir: "/sys/fs/bpf/sip-lb".into(),
        dialogs: Dialogs { max: 64, timeout: Duration::from_secs(10_800) },
        limits: Limits { services: 4, endpoints: 16, bindings: 32, tables: 4, fragments: 64 },
        controller_lost: ControllerLost::Keep,
        services,
    }
}

/// A controller with its maps.
pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) maps: FaultyMaps<Watched>,
    pub(super) reconciler: Reconciler,
}

impl World {
    pub(super) fn new(fault: Fault, cache: TableCache) -> Self {
        Self::with_capacities(CAPACITIES, fault, cache)
    }

    pub(super) fn with_capacities(capacities: Capacities, fault: Fault, cache: TableCache) -> Self {
        let clock = Clock::default();
        clock.set(Duration::from_secs(1));
        let maps =
            FaultyMaps::new(Watched::new(MemoryMaps::new(capacities), clock.clone()), fault, 1);
        let mut world = Self { reconciler: start(&maps, &clock), clock, maps };
        world.reconciler.cache = cache;
        world
    }

    /// As after a crash: only the maps remain.
    pub(super) fn restart(&mut self) {
        let cache = std::mem::take(&mut self.reconciler.cache);
        self.reconciler = start(&self.maps, &self.clock);
        self.reconciler.cache = cache;
    }

    pub(super) fn later(&self, by: Duration) {
        self.clock.set(self.clock.now() + by);
    }

    pub(super) fn round(&mut self, told: &Told) -> Outcome {
        let clock = self.clock.clone();
        self.reconciler.reconcile(&mut self.maps, &told.inputs(), clock.epoch(), &|| clock.now())
    }

    /// Rounds until nothing is left to do; returns how many of them failed.
    pub(super) fn settle(&mut self, told: &Told) -> usize {
        let mut failures = 0;
        for _ in 0..100 {
            let outcome = self.round(told);
            assert_eq!(outcome.problems, []);
            failures += usize::from(outcome.failure.is_some());
            let Some(at) = outcome.retry_at else {
                assert!(outcome.failure.is_none());
                let again = self.round(told);
                assert_eq!((again.done, again.retry_at), (0, None), "a second round finds work");
                return failures;
            };
            self.clock.set(at);
        }
        panic!("no end of retries");
    }

    /// What a step does: a reload if the configuration changed, a sweep if one ended, rounds.
    pub(super) fn step(&mut self, told: &Told) -> usize {
        self.later(Duration::from_secs(1));
        if let Some(live) = &told.sweep {
            self.reconciler.sweep_result(live, self.clock.now());
        }
        self.reconciler.admit(&told.config).unwrap();
        self.settle(told)
    }

    pub(super) fn dump(&self) -> String {
        dump(&self.maps).unwrap()
    }

    /// A restarted controller that is told the same must find nothing to do.
    pub(super) fn assert_restart_changes_nothing(&mut self, told: &Told) {
        let mut restarted = start(&self.maps, &self.clock);
        restarted.cache = std::mem::take(&mut self.reconciler.cache);
        let admission = restarted.admit(&told.config).unwrap();
        assert_eq!(admission, Default::default());
        let clock = self.clock.clone();
        let outcome =
            restarted.reconcile(&mut self.maps, &told.inputs(), clock.epoch(), &|| clock.now());
        assert_eq!((outcome.done, outcome.retry_at), (0, None), "a restart finds work");
        assert!(outcome.failure.is_none() && outcome.problems.is_empty());
        assert_eq!(restarted.desired(), self.reconciler.desired());
        self.reconciler.cache = std::mem::take(&mut restarted.cache);
    }
}

fn start(maps: &dyn LbMaps, clock: &Clock) -> Reconciler {
    Reconciler::adopt(&adopt(maps, clock.now()).unwrap())
}

/// A step: its name and what changes.
pub(super) type Step = (&'static str, fn(&mut Told));

/// What a run of a scenario came to.
pub(super) struct Run {
    /// By step.
    pub(super) dumps: Vec<String>,
    pub(super) logs: Vec<Vec<String>>,
    pub(super) writes: u64,
    pub(super) failures: usize,
    pub(super) cache: TableCache,
}

/// Runs `steps` from new maps.
pub(super) fn run(first: &Told, steps: &[Step], fault: Fault, cache: TableCache) -> Run {
    let mut world = World::new(fault, cache);
    let mut told = first.clone();
    let (mut dumps, mut logs, mut failures) = (Vec::new(), Vec::new(), 0);
    for (epoch, (_, change)) in (10..).zip(steps) {
        told.sweep = None;
        change(&mut told);
        world.clock.set_epoch(epoch);
        failures += world.step(&told);
        logs.push(world.maps.inner.take_log());
        dumps.push(world.dump());
        world.assert_restart_changes_nothing(&told);
    }
    Run { dumps, logs, writes: world.maps.writes(), failures, cache: world.reconciler.cache }
}
