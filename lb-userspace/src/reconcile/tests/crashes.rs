//! Restarts: in peace and in the middle of every change.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    backend::{Binding, Endpoint},
    index::Slot,
    maps::name,
    service::{Listener, Name},
    table::{NO_MEMBER, SLOTS},
};

use super::scenario::{Step, Told, World, addr, backend, path, service, udp};
use crate::{
    maps::{Index, LbMaps, Names, faulty::Fault},
    reconcile::adopt::{Difference, adopt},
    state::{Admin, Health, Standing, desired::ServiceState, table::TableCache},
};

fn told() -> Told {
    Told::new(vec![
        service(
            "alpha",
            &["203.0.113.10:5060"],
            &[("gw1", "10.0.1.1:5060", 10, 1), ("gw2", "10.0.1.2:5060", 10, 2)],
        ),
        service("beta", &["203.0.113.20:5060"], &[("gw1", "10.0.1.1:5060", 10, 1)]),
    ])
}

const STEPS: &[Step] = &[
    ("first start", |_| {}),
    ("a backend is added, one is down", |t| {
        t.service("beta").backends.push(backend(("gw3", "10.0.1.3:5060", 20, 1)));
        t.stands("10.0.1.1:5060", Standing::DOWN);
    }),
    ("a backend and a service are removed", |t| {
        t.service("alpha").backends.remove(0);
        t.service("alpha").listen.push("203.0.113.11:5060".parse().unwrap());
        t.config.services.remove(1);
        t.network.paths.insert(addr("10.0.1.2"), path(2, 2));
    }),
];

/// What a run ends with, whatever the ids.
#[derive(Debug, PartialEq)]
struct End {
    services: BTreeMap<String, ServiceState>,
    entries: usize,
}

fn end(world: &World) -> End {
    let mut services = world.reconciler.desired().unwrap().services.clone();
    services.values_mut().for_each(|state| state.id = 0);
    End { services, entries: world.dump().lines().count() }
}

#[test]
fn a_crash_at_any_write_is_made_good_by_the_next_start() {
    let mut cache = TableCache::default();
    let mut expected = Vec::new();
    let mut writes = 0;
    for nth in 0.. {
        let calm = nth == 0;
        let fault = if calm { Fault::Never } else { Fault::Nth(nth - 1) };
        if nth > writes {
            break;
        }
        let mut world = World::new(fault, cache);
        let (mut told, mut crashes) = (told(), 0);
        for (step, (what, change)) in STEPS.iter().enumerate() {
            change(&mut told);
            world.later(std::time::Duration::from_secs(1));
            world.reconciler.admit(&told.config).unwrap();
            if world.round(&told).failure.is_some() {
                crashes += 1;
                world.restart();
                world.reconciler.admit(&told.config).unwrap();
            }
            world.settle(&told);
            world.assert_restart_changes_nothing(&told);
            if calm {
                expected.push(end(&world));
            } else {
                assert_eq!(end(&world), expected[step], "crash at write {}, {what}", nth - 1);
            }
        }
        assert_eq!(crashes, u32::from(!calm), "write {nth}");
        if calm {
            writes = world.maps.writes();
            assert!(writes > 50);
        }
        cache = world.reconciler.cache;
    }
}

#[test]
fn a_restart_knows_drains_health_and_who_was_busy() {
    let mut told = told();
    told.service("alpha").backends.push(backend(("gw4", "10.0.1.4:5060", 10, 1)));
    told.service("alpha").backends.push(backend(("standby", "10.0.1.5:5060", 10, 0)));
    told.service("alpha").backends.push(backend(("spare", "10.0.1.6:5060", 20, 1)));
    told.set_admin("alpha", "gw1", Admin::Drain);
    told.set_admin("beta", "gw1", Admin::Maint);
    told.stands("10.0.1.2:5060", Standing::DOWN);
    told.stands("10.0.1.4:5060", Standing { busy: true, ..Standing::UP });
    let mut world = World::new(Fault::Never, TableCache::default());
    world.step(&told);
    let adopted = adopt(&world.maps, world.clock.now()).unwrap();
    assert_eq!(adopted.admin, told.admin);
    assert!(!adopted.is_fresh());
    let health: BTreeMap<_, _> = adopted.health.iter().map(|(s, h)| (*s, *h)).collect();
    assert_eq!(health[&udp("10.0.1.1:5060")], Health::Up);
    assert_eq!(health[&udp("10.0.1.2:5060")], Health::Down);
    assert_eq!(health[&udp("10.0.1.6:5060")], Health::Up);
    assert_eq!(adopted.busy, BTreeSet::from([udp("10.0.1.4:5060")]));
}

#[test]
fn a_restart_tells_what_was_commanded_from_what_was_configured() {
    let mut told = told();
    for backend in &mut told.service("alpha").backends {
        backend.admin = match backend.name.as_str() {
            "gw1" => Admin::Drain,
            _ => Admin::Maint,
        };
    }
    told.set_admin("alpha", "gw2", Admin::Drain);
    let mut world = World::new(Fault::Never, TableCache::default());
    world.step(&told);
    let admin = |name: &str| {
        let id = world.reconciler.ids().views().find(|v| (v.service, v.backend) == ("alpha", name));
        world.maps.binding(id.unwrap().id).unwrap().admin
    };
    assert_eq!(Admin::in_force(admin("gw1")), Admin::Drain);
    assert_eq!(Admin::in_force(admin("gw2")), Admin::Maint, "the stricter one");
    let adopted = adopt(&world.maps, world.clock.now()).unwrap();
    assert_eq!(adopted.admin, told.admin, "the configuration speaks for itself");
    assert!(adopted.busy.is_empty(), "{:?}", adopted.busy);
}

#[test]
fn maps_that_were_never_written_are_adopted_as_empty() {
    let world = World::new(Fault::Never, TableCache::default());
    let adopted = adopt(&world.maps, world.clock.now()).unwrap();
    assert!(adopted.is_fresh() && adopted.health.is_empty() && adopted.admin.is_empty());
    // Nobody reads them, so that the first table need not wait.
    assert!(adopted.applied.freed_tables.is_empty());
}

#[test]
fn a_restart_with_another_configuration_changes_only_what_differs() {
    let mut told = told();
    let mut world = World::new(Fault::Never, TableCache::default());
    world.step(&told);
    world.restart();
    world.maps.inner.take_log();
    told.service("beta").backends[0].weight = 7;
    world.step(&told);
    // A single backend owns every slot whatever its weight: only the recorded weight is new.
    assert_eq!(world.maps.inner.take_log(), ["orders[3]", "members[3]", "choice[2]"]);
}

#[test]
fn whatever_someone_else_changed_is_reported_and_repaired() {
    let told = told();
    let mut world = World::new(Fault::Never, TableCache::default());
    world.step(&told);
    let dump = world.dump();
    assert_eq!(world.reconciler.verify(&world.maps).unwrap(), []);

    let maps = &mut world.maps.inner.maps;
    let rows = maps.slots(Index::Listeners).unwrap();
    let row = rows.iter().position(|slot| slot.id == 1).unwrap() as u32;
    maps.put_slot(Index::Listeners, row, &Slot { id: 2, ..rows[row as usize] }).unwrap();
    maps.put_listener(2, &Listener::default()).unwrap();
    maps.put_endpoint(1, &Endpoint::default()).unwrap();
    maps.put_binding(9, &Binding { endpoint: 7, listener: 1, ..Binding::default() }).unwrap();
    maps.put_name(Names::Services, 1, &Name::new("other")).unwrap();
    maps.put_table(1, &[NO_MEMBER; SLOTS]).unwrap();
    maps.put_ports(0, &[0; 1024]).unwrap();
    maps.put_settings(&Default::default()).unwrap();

    let mut found = world.reconciler.verify(&world.maps).unwrap();
    found.sort();
    let expected = [
        (name::BINDINGS, 9),
        (name::ENDPOINTS, 1),
        (name::LISTENERS, 2),
        (name::LISTENER_INDEX, row),
        (name::PORTS, 0),
        (name::SERVICE_NAMES, 1),
        (name::SETTINGS, 0),
        (name::TABLES, 1),
    ];
    assert_eq!(found, expected.map(|(map, id)| Difference { map, id }));
    // Broken maps break the invariants until they are repaired: round without the watch.
    let mut plain = world.maps.inner.maps.clone();
    let clock = world.clock.clone();
    for _ in 0..2 {
        let outcome = world.reconciler.reconcile(&mut plain, &told.inputs(), 0, &|| clock.now());
        assert!(outcome.failure.is_none());
        world.clock.set(outcome.retry_at.unwrap_or(clock.now()));
    }
    assert_eq!(world.reconciler.verify(&plain).unwrap(), []);
    // The broken table was not overwritten but replaced.
    let repaired = crate::maps::dump::dump(&plain).unwrap();
    let normal = |dump: &str| {
        dump.lines()
            .map(|line| line.split(" touched").next().unwrap().replace("table=3", "table=1"))
            .collect::<Vec<_>>()
    };
    assert_eq!(normal(&repaired), normal(&dump));
    assert_ne!(repaired, dump);
}
