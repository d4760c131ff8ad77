//! Random configurations and healths.

use std::collections::BTreeSet;

use lb_common::maps::Capacities;
use proptest::prelude::*;

use super::scenario::{Told, World, service};
use crate::{
    maps::faulty::Fault,
    state::{Admin, Standing, table::TableCache},
};

const CAPACITIES: Capacities = Capacities::new(8, 64, 512, 8, 64);

/// A service as random choices: whether it is there, its VIPs, its backends (which of five, under
/// which name, priority, weight).
#[derive(Clone, Debug)]
struct Random {
    present: bool,
    vips: BTreeSet<u8>,
    backends: Vec<(bool, bool, u16, u16)>,
}

/// A state of the world.
#[derive(Clone, Debug)]
struct Scene {
    services: [Random; 3],
    /// Of each endpoint.
    health: Vec<(u8, bool)>,
    /// Of each (service, endpoint).
    admin: Vec<u8>,
    suspected: u8,
    swept: bool,
}

fn random() -> impl Strategy<Value = Random> {
    let backend = (any::<bool>(), any::<bool>(), 1u16..3, 0u16..4);
    (prop::bool::weighted(0.8), prop::collection::btree_set(0u8..3, 1..3), vec_of(backend, 5))
        .prop_map(|(present, vips, backends)| Random { present, vips, backends })
}

fn vec_of<S: Strategy>(strategy: S, count: usize) -> prop::collection::VecStrategy<S> {
    prop::collection::vec(strategy, count)
}

fn scene() -> impl Strategy<Value = Scene> {
    (
        [random(), random(), random()],
        vec_of((0u8..4, prop::bool::weighted(0.1)), 5),
        vec_of(0u8..6, 15),
        0u8..16,
        any::<bool>(),
    )
        .prop_map(|(services, health, admin, suspected, swept)| Scene {
            services,
            health,
            admin,
            suspected,
            swept,
        })
}

fn told(scene: &Scene) -> Told {
    let mut told = Told::new(Vec::new());
    for (s, random) in scene.services.iter().enumerate().filter(|(_, random)| random.present) {
        let name = format!("s{s}");
        let mut made = service(&name, &[], &[]);
        made.listen = random
            .vips
            .iter()
            .map(|vip| format!("203.0.113.{}:5060", s * 10 + usize::from(*vip)).parse().unwrap())
            .collect();
        for (b, &(present, renamed, priority, weight)) in random.backends.iter().enumerate() {
            // At least one.
            if present || b == 0 {
                let label = if renamed { format!("alt{b}") } else { format!("gw{b}") };
                let address = format!("10.0.0.{b}:5060");
                made.backends.push(super::scenario::backend((&label, &address, priority, weight)));
                match scene.admin[s * 5 + b] {
                    0 => told.set_admin(&name, &label, Admin::Drain),
                    1 => told.set_admin(&name, &label, Admin::Maint),
                    _ => {}
                }
            }
        }
        if scene.suspected == s as u8 {
            told.suspected.insert(name);
        }
        told.config.services.push(made);
    }
    for (b, &(health, busy)) in scene.health.iter().enumerate() {
        let standing = match health {
            0 => Standing::DOWN,
            1 => Standing::UNKNOWN,
            _ => Standing::UP,
        };
        told.stands(&format!("10.0.0.{b}:5060"), Standing { busy, ..standing });
    }
    told.sweep = scene.swept.then(BTreeSet::new);
    told
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// `settle` asserts that a second round writes nothing, the watched maps that no write breaks
    /// an invariant.
    #[test]
    fn any_sequence_of_changes_settles_and_survives_a_restart(
        scenes in prop::collection::vec(scene(), 2..5),
        per_mille in prop::sample::select(vec![0u32, 40]),
    ) {
        let fault = Fault::Random { per_mille };
        let mut world = World::with_capacities(CAPACITIES, fault, TableCache::default());
        for (epoch, scene) in (0..).zip(&scenes) {
            let told = told(scene);
            world.clock.set_epoch(epoch);
            world.step(&told);
            world.maps.fault = Fault::Never;
            world.assert_restart_changes_nothing(&told);
            world.maps.fault = fault;
            let desired = world.reconciler.desired().unwrap();
            for state in desired.services.values() {
                let slots: u32 = state.own.backends.iter().map(|b| b.slots).sum();
                let expected = if state.own.active_priority.is_some() { 65_536 } else { 0 };
                prop_assert_eq!(slots, expected);
            }
        }
    }
}
