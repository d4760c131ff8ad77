//! The real program with private maps, filled by the real controller code from a configuration,
//! in a network that exists only in its maps.
#![allow(dead_code, unreachable_pub, reason = "each test target uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use lb_common::{
    addr::{Addr, Socket},
    backend::{IngressPath, NextHop, Route, next_hop},
    hash::HashKey,
    maps::Capacities,
    service::Interface,
    verdict::{Decision, Verdict},
};
use lb_tests::{
    frame::Frame,
    net::{Mac, backend_mac, client_mac, edge_mac},
    packet::Packet,
};
use lb_userspace::{
    config::{self, Config},
    datapath::{
        load::{self, Record, Watch},
        private::Private,
        testrun::Action,
    },
    reconcile::{Reconciler, adopt, applied::Applied},
    state::{
        Admin, AdminStates, Standing,
        desired::{Inputs, NetworkView, Path as Way},
        route::derive_key,
    },
};

/// The loopback interface, by which test-run lets frames come in.
pub const INGRESS: u32 = 1;
/// Another interface, to which frames are redirected.
pub const ELSEWHERE: u32 = 2;
/// 256 s, the length of an epoch.
pub const EPOCH: u64 = 256;

/// One service of two tiers, as most tests want it: gw1 … gw4 (1:1:2:2) over spare1, spare2.
pub const ONE_SERVICE: &str = "
interfaces: [lo]
hash_key: tests
dialogs: { max: 4096, timeout: 1h }
limits: { services: 8, endpoints: 64, bindings: 128, tables: 8 }
services:
  - name: trunk
    listen: [\"203.0.113.10:5060\"]
    backends:
      - { name: gw1, address: \"10.0.1.201:5060\", priority: 10, weight: 50 }
      - { name: gw2, address: \"10.0.1.202:5060\", priority: 10, weight: 50 }
      - { name: gw3, address: \"10.0.1.203:5070\", priority: 10, weight: 100 }
      - { name: gw4, address: \"10.0.1.204:5060\", priority: 10, weight: 100 }
      - { name: spare1, address: \"10.0.1.205:5060\", priority: 20, weight: 50 }
      - { name: spare2, address: \"10.0.1.206:5060\", priority: 20, weight: 50 }
";

/// The VIP of [`ONE_SERVICE`].
pub fn vip() -> SocketAddr {
    "203.0.113.10:5060".parse().unwrap()
}

/// The n-th client, behind the router towards the clients.
pub fn client(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 5060))
}

/// What the program did.
#[derive(Debug)]
pub struct Run {
    pub verdict: Verdict,
    pub action: Action,
    pub decision: Decision,
    pub bytes: Vec<u8>,
}

impl Run {
    /// The frame, parsed, with all checksums verified.
    pub fn frame(&self) -> Frame {
        let frame = Frame::parse(&self.bytes).unwrap();
        frame.verify().unwrap();
        frame
    }

    /// Where it went.
    pub fn destination(&self) -> SocketAddr {
        self.frame().destination()
    }
}

/// The program, its maps and everything that fills them.
pub struct World {
    pub program: Private,
    pub config: Config,
    pub down: BTreeSet<SocketAddr>,
    pub admin: AdminStates,
    pub view: NetworkView,
    pub lost_after: u64,
    reconciler: Reconciler,
    seconds: u64,
    origin: Instant,
}

impl World {
    /// Loads the program and fills its maps; everything is up.
    pub fn new(yaml: &str) -> Self {
        Self::load(yaml, Record::On)
    }

    /// As [`World::new`]; without recording there are no decisions to see, and the time is real.
    pub fn load(yaml: &str, record: Record) -> Self {
        Self::load_as(yaml, record, Watch::Off)
    }

    /// As [`World::load`], with the program that shows packets, or the other.
    pub fn load_as(yaml: &str, record: Record, watch: Watch) -> Self {
        let config = config::parse(yaml, Path::new("/")).unwrap().config;
        let capacities: Capacities = load::capacities(&config);
        let program = Private::load_as(&capacities, record, watch).unwrap();
        let adopted = adopt::adopt(&program.maps, Duration::ZERO).unwrap();
        let mut world = Self {
            view: network(&config),
            reconciler: Reconciler::adopt(&adopted),
            program,
            config,
            down: BTreeSet::new(),
            admin: AdminStates::new(),
            lost_after: 0,
            seconds: 0,
            origin: Instant::now(),
        };
        world.wait(0);
        world.reconciler.admit(&world.config).unwrap();
        world.apply();
        world
    }

    /// Takes another configuration, as a reload does.
    pub fn reload(&mut self, yaml: &str) {
        self.config = config::parse(yaml, Path::new("/")).unwrap().config;
        for (addr, way) in network(&self.config).paths {
            self.view.paths.entry(addr).or_insert(way);
        }
        self.reconciler.admit(&self.config).unwrap();
        self.apply();
    }

    /// Lets `seconds` pass for the dialog table.
    pub fn wait(&mut self, seconds: u64) {
        self.seconds += seconds;
        let lifetime = lb_common::clock::lifetime(self.config.dialogs.timeout.as_secs());
        self.program.set_time(self.seconds, lifetime).unwrap();
    }

    /// The address of a backend.
    pub fn address(&self, backend: &str) -> SocketAddr {
        let mut all = self.config.services.iter().flat_map(config::model::Service::all_backends);
        all.find(|b| b.name == backend).unwrap().address
    }

    /// The name of the backend at an address.
    pub fn name(&self, address: SocketAddr) -> &str {
        let mut all = self.config.services.iter().flat_map(config::model::Service::all_backends);
        &all.find(|b| b.address == address).unwrap().name
    }

    /// Backends that are down from now on, and no others.
    pub fn set_down(&mut self, names: &[&str]) {
        self.down = names.iter().map(|name| self.address(name)).collect();
        self.apply();
    }

    /// The operator's word for a backend.
    pub fn set_admin(&mut self, service: &str, backend: &str, admin: Admin) {
        self.admin.insert((service.to_owned(), backend.to_owned()), admin);
        self.apply();
    }

    /// Writes what the state demands to the maps.
    pub fn apply(&mut self) {
        let health: BTreeMap<Socket, Standing> = self
            .config
            .endpoints()
            .into_keys()
            .map(|address| {
                let down = self.down.contains(&address);
                (Socket::udp(address), if down { Standing::DOWN } else { Standing::UP })
            })
            .collect();
        loop {
            let inputs = Inputs {
                config: &self.config,
                health: &health,
                admin: &self.admin,
                suspected: &BTreeSet::new(),
                network: &self.view,
                key: key(&self.config),
                lost_after: self.lost_after,
            };
            let epoch = (self.seconds / EPOCH % 128) as u32;
            let origin = self.origin;
            let clock = move || origin.elapsed();
            let outcome = self.reconciler.reconcile(&mut self.program.maps, &inputs, epoch, &clock);
            assert!(outcome.failure.is_none(), "{outcome:?}");
            // A freed table rests for 100 ms before it is used again.
            match outcome.retry_at {
                Some(at) => std::thread::sleep(at.saturating_sub(origin.elapsed())),
                None => return,
            }
        }
    }

    /// What the controller has written to the maps.
    pub fn applied(&self) -> &Applied {
        self.reconciler.applied()
    }

    /// Runs a packet through the program.
    pub fn run(&mut self, packet: &Packet) -> Run {
        self.run_bytes(&packet.build())
    }

    /// Runs any bytes through the program.
    pub fn run_bytes(&mut self, frame: &[u8]) -> Run {
        let result = self.program.run(frame, None).unwrap();
        assert_ne!(result.action, Action::Aborted);
        let verdict = Verdict::ALL[usize::from(result.decision.verdict)];
        Run { verdict, action: result.action, decision: result.decision, bytes: result.frame_out }
    }

    /// A message from a client to a VIP.
    pub fn client_sends(&mut self, client: SocketAddr, vip: SocketAddr, message: &[u8]) -> Run {
        self.run(&Packet::udp(client, vip, message))
    }

    /// A message from a backend to a client.
    pub fn backend_sends(
        &mut self,
        backend: SocketAddr,
        client: SocketAddr,
        message: &[u8],
    ) -> Run {
        let packet = Packet::udp(backend, client, message);
        self.run(&packet.macs(mac_of(backend.ip()), edge_mac(0)))
    }

    /// The count of a verdict so far.
    pub fn count(&self, verdict: Verdict) -> u64 {
        self.program.counters.verdicts().unwrap().of(verdict)
    }
}

/// The key that the configuration's `hash_key` gives.
pub fn key(config: &Config) -> HashKey {
    derive_key(config.hash_key.as_deref().unwrap())
}

/// The MAC of the backend at an address: its last byte, counted from 200.
pub fn mac_of(address: IpAddr) -> Mac {
    let last = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    backend_mac(last.wrapping_sub(200))
}

/// A next hop on the interface that frames come in by.
pub fn hop(mac: Mac, on_link: u8) -> NextHop {
    NextHop {
        ifindex: INGRESS,
        state: next_hop::VALID,
        mtu: 1500,
        dst_mac: mac,
        src_mac: edge_mac(0),
        on_link,
        ..NextHop::default()
    }
}

/// Backends on the link, clients behind a router on the same link.
fn network(config: &Config) -> NetworkView {
    let ways = config.endpoints().into_keys().map(|address| {
        let way = Way {
            next_hop: hop(mac_of(address.ip()), 1),
            ingress: vec![IngressPath { ifindex: INGRESS, vids: [0, 0] }],
        };
        (Addr::from(address.ip()), way)
    });
    let own = Interface { ifindex: INGRESS, count: 1, macs: [edge_mac(0), [0; 6], [0; 6], [0; 6]] };
    let router = hop(client_mac(0), 0);
    NetworkView {
        paths: ways.collect(),
        interfaces: vec![own],
        host_addresses: ["203.0.113.10", "10.0.1.1", "2001:db8:f::10"]
            .map(|text| Addr::from(text.parse::<IpAddr>().unwrap()))
            .into(),
        client_routes: vec![
            Route::new(Addr::v4([0; 4]), 96, router),
            Route::new(Addr::v6([0; 16]), 0, router),
        ],
    }
}
