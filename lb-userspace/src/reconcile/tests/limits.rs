//! Small pools and full maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::{
    addr::Socket,
    backend::endpoint,
    index::{PROBES, first},
    maps::Capacities,
};

use super::scenario::{CAPACITIES, Told, World, backend, interface, service, udp};
use crate::{
    maps::{Index, LbMaps, faulty::Fault, memory::MemoryMaps},
    reconcile::{
        Reconciler,
        adopt::adopt,
        applied::{Applied, REST},
        diff::Problem,
        index,
    },
    state::{Standing, desired::shares, table::TableCache},
};

const MOMENT: Duration = Duration::from_millis(10);

fn one_service() -> Told {
    Told::new(vec![service(
        "trunk",
        &["203.0.113.10:5060"],
        &[
            ("gw1", "10.0.1.1:5060", 10, 1),
            ("gw2", "10.0.1.2:5060", 10, 1),
            ("gw3", "10.0.1.3:5060", 10, 1),
        ],
    )])
}

fn state(world: &World, id: u16) -> u8 {
    world.maps.endpoint(id).unwrap().state
}

#[test]
fn a_table_that_was_just_replaced_is_not_overwritten_for_100_ms() {
    let capacities = Capacities::new(4, 16, 32, 1, 64);
    assert_eq!(capacities.tables, 3);
    let mut told = one_service();
    let mut world = World::with_capacities(capacities, Fault::Never, TableCache::default());
    world.step(&told);

    told.stands("10.0.1.1:5060", Standing::DOWN);
    let swapped = world.clock.now();
    assert_eq!(world.round(&told).retry_at, None);
    world.later(MOMENT);
    told.stands("10.0.1.2:5060", Standing::DOWN);
    let waiting = world.round(&told);
    assert_eq!((waiting.retry_at, waiting.problems.len()), (Some(swapped + REST), 0));
    // It still owns slots.
    assert_eq!(state(&world, 2), endpoint::UP);
    world.clock.set(swapped + REST);
    assert_eq!(world.round(&told).retry_at, None);
    assert_eq!(state(&world, 2), endpoint::DOWN);
    assert_eq!(shares(world.reconciler.desired().unwrap(), "trunk")["gw3"], 1.0);
}

#[test]
fn a_backend_that_is_back_at_once_costs_no_table() {
    let mut told = one_service();
    let mut world = World::new(Fault::Never, TableCache::default());
    world.step(&told);
    told.stands("10.0.1.1:5060", Standing::DOWN);
    world.round(&told);
    let fills = world.reconciler.cache.fills();
    world.maps.inner.take_log();
    world.later(MOMENT);
    told.stands("10.0.1.1:5060", Standing::UP);
    assert_eq!(world.round(&told).retry_at, None);
    assert_eq!(world.maps.inner.take_log(), ["endpoint[1]", "touched[1]", "choice[1]"]);
    assert_eq!(world.reconciler.cache.fills(), fills);
}

#[test]
fn too_few_tables_are_reported_and_stop_only_what_has_none() {
    let capacities = Capacities::new(4, 16, 32, 1, 64);
    let mut told = Told::new(
        (1..=3)
            .map(|i| {
                service(
                    &format!("s{i}"),
                    &[&format!("203.0.113.{i}:5060")],
                    &[
                        (&format!("a{i}"), &format!("10.0.{i}.1:5060"), 10, 1),
                        (&format!("b{i}"), &format!("10.0.{i}.2:5060"), 10, 1),
                    ],
                )
            })
            .collect(),
    );
    let mut world = World::with_capacities(capacities, Fault::Never, TableCache::default());
    world.reconciler.admit(&told.config).unwrap();
    let first = world.round(&told);
    // The tables that it published might have freed others.
    world.clock.set(first.retry_at.unwrap());
    let outcome = world.round(&told);
    assert_eq!(outcome.retry_at, None);
    assert_eq!(outcome.problems, [Problem::NoFreeTable { capacity: 3 }]);
    let in_force = ["s1", "s2", "s3"].map(|service| world.reconciler.is_in_force(service));
    assert_eq!(in_force, [true, true, false], "the others have what they want");
    let message = outcome.problems[0].to_string();
    assert!(
        message.contains("all 2 slot tables") && message.contains("limits.tables"),
        "{message}"
    );
    let reachable: Vec<_> =
        world.maps.slots(Index::Listeners).unwrap().into_iter().filter(|s| s.id != 0).collect();
    assert_eq!(reachable.len(), 2);

    // A backend that dies meanwhile is known to be down, though its slots cannot be given away.
    world.maps.inner.owners_are_up = false;
    told.stands("10.0.1.1:5060", Standing::DOWN);
    let outcome = world.round(&told);
    assert_eq!(outcome.problems, [Problem::NoFreeTable { capacity: 3 }]);
    assert_eq!(state(&world, 1), endpoint::DOWN);
    // Its record stays for as long as a table names it.
    told.service("s1").backends.remove(0);
    world.reconciler.admit(&told.config).unwrap();
    world.round(&told);
    world.later(Duration::from_secs(1));
    assert!(world.reconciler.sweep_result(&[].into(), world.clock.now()).is_empty());
    world.round(&told);
    assert_eq!(world.maps.binding(1).unwrap().endpoint, 1);
}

#[test]
fn a_configuration_beyond_the_limits_is_refused_whole() {
    let mut told = one_service();
    let mut world = World::new(Fault::Never, TableCache::default());
    world.step(&told);
    let before = world.reconciler.ids().clone();

    let mut wide = told.clone();
    wide.config.services.clear();
    for i in 0..5 {
        let name = format!("s{i}");
        let vip = format!("203.0.113.{i}:5060");
        wide.config.services.push(service(&name, &[&vip], &[("a", "10.0.0.1:5060", 1, 1)]));
    }
    let error = world.reconciler.admit(&wide.config).unwrap_err();
    assert_eq!((error.key, error.needed, error.available), ("limits.services", 6, 4));

    for i in 0..14 {
        let (name, address) = (format!("n{i}"), format!("10.0.9.{i}:5060"));
        told.service("trunk").backends.push(backend((&name, &address, 10, 1)));
    }
    let error = world.reconciler.admit(&told.config).unwrap_err();
    assert_eq!((error.key, error.needed, error.available), ("limits.endpoints", 17, 16));
    assert_eq!(world.reconciler.ids(), &before);
    assert_eq!(
        error.to_string(),
        "17 endpoints are needed, 0 of them for removed backends that live dialogs still use, but \
         limits.endpoints allows 16: raise limits.endpoints and restart, or configure fewer"
    );
}

#[test]
fn ids_that_dialogs_may_hold_are_not_given_away() {
    let mut told = one_service();
    let mut world = World::new(Fault::Never, TableCache::default());
    world.step(&told);
    let mut bindings = 3;
    for round in 0..40u8 {
        // Every round replaces a backend; dialogs hold the last three that were removed.
        let fresh = backend((&format!("r{round}"), &format!("10.0.2.{round}:5060"), 10, 1));
        told.service("trunk").backends.remove(0);
        told.service("trunk").backends.push(fresh);
        world.step(&told);
        world.later(Duration::from_secs(1));
        for _ in 0..2 {
            let retired = world.reconciler.retired();
            let live: BTreeSet<u16> = retired.iter().rev().take(3).map(|r| r.binding).collect();
            world.reconciler.sweep_result(&live, world.clock.now());
            let retired = world.reconciler.retired();
            assert!(live.iter().all(|id| retired.iter().any(|r| r.binding == *id)));
            world.settle(&told);
            world.later(Duration::from_secs(1));
        }
        bindings = bindings.max(world.reconciler.ids().views().count());
    }
    assert!(bindings <= 6, "{bindings}");
}

#[test]
fn a_sweep_that_began_before_the_removal_frees_nothing() {
    let mut told = one_service();
    let mut world = World::new(Fault::Never, TableCache::default());
    world.step(&told);
    let started = world.clock.now();
    told.service("trunk").backends.remove(0);
    world.step(&told);
    assert!(world.reconciler.sweep_result(&[].into(), started).is_empty());
    assert_eq!(world.reconciler.retired().len(), 1);
    world.later(REST);
    // Not in a dialog, but it could start one until the maps forget it as a source.
    assert_eq!(world.reconciler.sweep_result(&[2].into(), world.clock.now()), [1]);
    assert!(world.reconciler.sweep_result(&[].into(), world.clock.now()).is_empty());
    let started = world.clock.now();
    world.settle(&told);
    assert!(world.reconciler.sweep_result(&[].into(), started).is_empty());
    world.later(REST);
    assert_eq!(world.reconciler.sweep_result(&[].into(), world.clock.now()), [1]);
    assert_eq!(world.reconciler.retired(), []);
}

#[test]
fn more_than_four_interfaces_may_not_share_a_row() {
    let mut told = one_service();
    told.network.interfaces = (0..5).map(|i| interface(7 + i * 256, 1)).collect();
    let mut world = World::new(Fault::Never, TableCache::default());
    world.reconciler.admit(&told.config).unwrap();
    let outcome = world.round(&told);
    assert_eq!(outcome.problems, [Problem::TooManyInterfaces { ifindex: 7 + 4 * 256 }]);
    assert!((7..11).all(|row| world.maps.interface(row).unwrap().ifindex != 0));
}

/// Sockets that all start at one row of the endpoint index.
fn crowd(count: usize) -> Vec<Socket> {
    let mask = Index::Endpoints.slots(&CAPACITIES) - 1;
    let target = first(&udp("10.9.0.0:5060"), mask);
    (0..=u16::MAX)
        .map(|i| udp(&format!("10.9.{}.{}:5060", i >> 8, i & 255)))
        .filter(|socket| first(socket, mask) == target)
        .take(count)
        .collect()
}

#[test]
fn a_freed_index_slot_rests_and_a_ninth_entry_of_one_row_is_reported() {
    let sockets = crowd(PROBES as usize + 1);
    let mut wanted: BTreeMap<_, _> = sockets.iter().copied().zip(1u16..).collect();
    let mut applied = Applied::new(CAPACITIES);
    let now = Duration::from_secs(5);
    let apply = |ops: &[crate::reconcile::op::Op], applied: &mut Applied, now| {
        ops.iter().for_each(|op| applied.record(op, now));
    };
    let plan = index::plan(Index::Endpoints, &wanted, &applied, now);
    assert_eq!(plan.adds.len(), 2 * PROBES as usize);
    let full = |socket| Problem::IndexFull { index: Index::Endpoints, socket };
    let last = *wanted.keys().next_back().unwrap();
    assert_eq!((plan.problems, plan.retry_at), (vec![full(last)], None));
    apply(&plan.adds, &mut applied, now);

    let gone = *wanted.keys().next().unwrap();
    wanted.remove(&gone);
    let plan = index::plan(Index::Endpoints, &wanted, &applied, now);
    apply(&plan.removals, &mut applied, now);
    assert_eq!(plan.removals.len(), 1);
    let plan = index::plan(Index::Endpoints, &wanted, &applied, now + MOMENT);
    assert_eq!((plan.adds.len(), plan.retry_at), (0, Some(now + REST)));
    let plan = index::plan(Index::Endpoints, &wanted, &applied, now + REST);
    assert_eq!((plan.adds.len(), plan.retry_at), (2, None));

    // The same socket may have its slot back at once.
    let again = BTreeMap::from([(gone, 9)]);
    let plan = index::plan(Index::Endpoints, &again, &applied, now + MOMENT);
    assert_eq!(plan.adds.len(), 1);
}

/// CPU time of this thread; other work on the machine does not count.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

#[test]
fn a_reload_of_1000_services_of_which_one_changed_takes_less_than_a_second() {
    let capacities = Capacities::new(1_000, 10_000, 10_000, 16, 64);
    let mut maps = MemoryMaps::new(capacities);
    let mut told = Told::new(
        (0..1_000u32)
            .map(|s| {
                let mut made = service(&format!("s{s}"), &[], &[]);
                made.listen = vec![format!("203.0.{}.{}:5060", s >> 8, s & 255).parse().unwrap()];
                let names: Vec<_> = (0..10)
                    .map(|b| (format!("gw{b}"), format!("10.{b}.{}.{}:5060", s >> 8, s & 255)))
                    .collect();
                made.backends =
                    names.iter().map(|(name, at)| backend((name, at, 10, 100))).collect();
                made
            })
            .collect(),
    );
    let adopted = adopt(&maps, Duration::ZERO).unwrap();
    let mut reconciler = Reconciler::adopt(&adopted);
    let now = Duration::from_secs(1);
    reconciler.admit(&told.config).unwrap();
    let first = reconciler.reconcile(&mut maps, &told.inputs(), 0, &|| now);
    assert!(first.failure.is_none() && first.done > 30_000, "{first:?}");

    told.service("s500").backends[3].weight = 50;
    let start = cpu_time();
    reconciler.admit(&told.config).unwrap();
    let outcome = reconciler.reconcile(&mut maps, &told.inputs(), 0, &|| now);
    let spent = cpu_time() - start;
    // Priorities and weights, members, table, touched slots, choice.
    assert_eq!((outcome.done, outcome.retry_at), (5, None));
    assert!(spent < Duration::from_secs(1), "{spent:?}");
}
