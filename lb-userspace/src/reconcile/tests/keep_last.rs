//! `all_down: keep-last`.

use lb_common::{
    backend::endpoint,
    service::all_down::{DROP, REJECT},
};

use super::scenario::{Told, World, service, udp};
use crate::{
    config::model::AllDown,
    maps::faulty::Fault,
    state::{
        Admin, Standing,
        desired::{SetState, shares},
        table::TableCache,
    },
};

const HOSTS: [&str; 3] = ["10.0.1.1:5060", "10.0.1.2:5060", "10.0.1.3:5060"];

fn told(all_down: AllDown) -> Told {
    let [a, b, c] = HOSTS;
    let mut told = Told::new(vec![service(
        "trunk",
        &["203.0.113.10:5060", "203.0.113.11:5060"],
        &[("gw1", a, 10, 1), ("gw2", b, 10, 1), ("gw3", c, 20, 1)],
    )]);
    told.service("trunk").all_down = all_down;
    told
}

fn state(world: &World) -> SetState {
    world.reconciler.desired().unwrap().services["trunk"].own.clone()
}

/// Shares of gw1, gw2, gw3 in per cent.
fn share(world: &World) -> [u32; 3] {
    let shares = shares(world.reconciler.desired().unwrap(), "trunk");
    ["gw1", "gw2", "gw3"].map(|name| (shares[name] * 100.0).round() as u32)
}

/// Takes the backends down one after the other, each in a round of its own.
fn lose_all(world: &mut World, told: &mut Told) {
    for host in [HOSTS[2], HOSTS[0], HOSTS[1]] {
        told.stands(host, Standing::DOWN);
        world.step(told);
    }
}

#[test]
fn the_last_table_stays_for_as_long_as_nobody_is_usable() {
    let mut told = told(AllDown::KeepLast);
    let mut world = World::new(Fault::Never, TableCache::default());
    world.step(&told);
    let of_two = state(&world).table_digest;
    lose_all(&mut world, &mut told);
    assert_eq!(share(&world), [0, 100, 0], "gw2 was the last");
    let kept = state(&world);
    assert_eq!((kept.active_priority, kept.keeps_last), (None, true));
    let up = |world: &World, host: &str| {
        world.reconciler.applied().endpoints.values().find(|e| e.socket == udp(host)).unwrap().state
    };
    assert_eq!(up(&world, HOSTS[1]), endpoint::UP, "its dialogs stay, too");
    assert_eq!(up(&world, HOSTS[0]), endpoint::DOWN);

    // Neither another round nor a crash forgets it.
    world.assert_restart_changes_nothing(&told);
    world.restart();
    world.step(&told);
    assert_eq!(state(&world).table_digest, kept.table_digest);

    // The operator's word counts.
    told.set_admin("trunk", "gw2", Admin::Maint);
    world.step(&told);
    assert_eq!((share(&world), state(&world).keeps_last), ([0, 0, 0], false));

    told.set_admin("trunk", "gw2", Admin::Ready);
    for host in HOSTS {
        told.stands(host, Standing::UP);
    }
    world.step(&told);
    assert_eq!(state(&world).table_digest, of_two);
    assert!(!state(&world).keeps_last);
}

#[test]
fn those_that_fail_at_once_are_kept_all() {
    let mut told = told(AllDown::KeepLast);
    let mut world = World::new(Fault::Never, TableCache::default());
    world.step(&told);
    let before = (share(&world), state(&world).table_digest);
    for host in HOSTS {
        told.stands(host, Standing::DOWN);
    }
    world.step(&told);
    assert_eq!((share(&world), state(&world).table_digest), before);
}

#[test]
fn otherwise_nobody_owns_a_slot_and_the_listeners_say_what_follows() {
    for (all_down, value) in [(AllDown::Reject, REJECT), (AllDown::Drop, DROP)] {
        let mut told = told(all_down);
        let mut world = World::new(Fault::Never, TableCache::default());
        world.step(&told);
        lose_all(&mut world, &mut told);
        assert_eq!((share(&world), state(&world).keeps_last), ([0, 0, 0], false), "{all_down:?}");
        let listeners = &world.reconciler.applied().listeners;
        assert_eq!(listeners.len(), 2);
        assert!(listeners.values().all(|listener| listener.all_down == value), "{all_down:?}");
    }
    // Without a last table there is nothing to keep.
    let mut told = told(AllDown::KeepLast);
    for host in HOSTS {
        told.stands(host, Standing::UNKNOWN);
    }
    let mut world = World::new(Fault::Never, TableCache::default());
    world.step(&told);
    assert_eq!((share(&world), state(&world).keeps_last), ([0, 0, 0], false));
}
