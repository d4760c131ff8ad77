//! What the program remembers: pins, learning, confirming, ending, and what moves nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod world;

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::{stats::Event, verdict::Verdict};
use lb_tests::message::{Message, Method};
use lb_userspace::{
    datapath::{
        reline::Now,
        sweep::{Census, STEP_LINES, Sweep},
    },
    maps::LbMaps as _,
    state::Admin,
};
use world::{EPOCH, ONE_SERVICE, World, client, vip};

/// What a sweep of the dialog table finds at the epoch `epoch`.
fn census(world: &World, epoch: u32) -> Census {
    let mut sweep = Sweep::new();
    let now = Now { epoch, lifetime: 15 };
    let service = |id| world.program.maps.binding(id).map_or(0, |binding| binding.service);
    while !sweep.step(world.program.dialogs.entries(), now, STEP_LINES, service) {}
    sweep.finish()
}

fn send(world: &mut World, message: &Message) -> (Verdict, SocketAddr) {
    let run = world.client_sends(client(10), vip(), &message.build());
    (run.verdict, run.destination())
}

/// A call set up: INVITE and its 200.
fn call(world: &mut World, call_id: &str) -> SocketAddr {
    let (verdict, backend) = send(world, &Message::invite(call_id));
    assert_eq!(verdict, Verdict::NewDialog);
    let answer = Message::response(200, Method::Invite, call_id).build();
    assert_eq!(world.backend_sends(backend, client(10), &answer).verdict, Verdict::Response);
    backend
}

/// A Call-ID that the slots give to `backend`.
fn call_id_for(world: &mut World, backend: &str) -> String {
    let address = world.address(backend);
    (0..)
        .map(|n| format!("seek-{n}@{backend}"))
        .find(|id| send(world, &Message::request(Method::Register, id)).1 == address)
        .unwrap()
}

#[test]
fn a_call_rings_is_confirmed_and_ends() {
    let mut world = World::new(ONE_SERVICE);
    let (_, backend) = send(&mut world, &Message::invite("life@x"));
    assert_eq!((census(&world, 0).ringing, census(&world, 0).live()), (1, 1));
    let ringing = Message::response(180, Method::Invite, "life@x").build();
    world.backend_sends(backend, client(10), &ringing);
    assert_eq!(census(&world, 0).ringing, 1, "a 180 confirms nothing");
    let answer = Message::response(200, Method::Invite, "life@x").build();
    world.backend_sends(backend, client(10), &answer);
    assert_eq!((census(&world, 0).confirmed_invite, census(&world, 0).live()), (1, 1));
    let _hung_up = send(&mut world, &Message::request(Method::Bye, "life@x").to_tag("callee"));
    assert_eq!((census(&world, 0).ended, census(&world, 0).live()), (1, 1));
    // Its retransmission still finds the backend.
    let (verdict, again) =
        send(&mut world, &Message::request(Method::Bye, "life@x").to_tag("callee"));
    assert_eq!((verdict, again), (Verdict::Dialog, backend));
    let events = world.program.counters.events().unwrap();
    let counted =
        [Event::DialogCreated, Event::DialogConfirmed, Event::DialogEnded].map(|e| events.of(e));
    assert_eq!(counted, [1, 1, 1]);
}

#[test]
fn a_backend_that_hangs_up_ends_the_call() {
    let mut world = World::new(ONE_SERVICE);
    let backend = call(&mut world, "hangup@x");
    let bye = Message::request(Method::Bye, "hangup@x").to_tag("caller").build();
    assert_eq!(world.backend_sends(backend, client(10), &bye).verdict, Verdict::ServerRequest);
    assert_eq!(census(&world, 0).ended, 1);
}

#[test]
fn live_calls_stay_through_weight_changes_and_returning_backends() {
    let mut world = World::new(ONE_SERVICE);
    world.set_down(&["gw3", "gw4"]);
    let calls: BTreeMap<String, SocketAddr> = (0..300)
        .map(|n| {
            let id = format!("stay-{n}@x");
            let backend = call(&mut world, &id);
            (id, backend)
        })
        .collect();
    world.set_down(&[]);
    let mut settled = 0;
    for step in ["weight: 50", "weight: 7", "weight: 500"] {
        world.reload(
            &ONE_SERVICE.replace("priority: 10, weight: 50", &format!("priority: 10, {step}")),
        );
        for (id, backend) in &calls {
            for method in [Method::Update, Method::Prack, Method::Refer, Method::Invite] {
                let (verdict, to) =
                    send(&mut world, &Message::request(method, id).to_tag("callee"));
                assert_eq!(to, *backend, "{id} {method:?} after {step}");
                settled += usize::from(verdict == Verdict::Hash);
            }
        }
    }
    assert!(settled > 100, "settled slots need no entry: {settled}");
}

#[test]
fn a_draining_backend_keeps_its_calls_and_gets_no_new_ones() {
    let mut world = World::new(ONE_SERVICE);
    let id = call_id_for(&mut world, "gw3");
    let backend = call(&mut world, &id);
    world.set_admin("trunk", "gw3", Admin::Drain);
    let (_, to) = send(&mut world, &Message::request(Method::Bye, &id).to_tag("callee"));
    assert_eq!(to, backend);
    for n in 0..500 {
        assert_ne!(send(&mut world, &Message::invite(&format!("new-{n}@x"))).1, backend);
    }
}

/// [`ONE_SERVICE`] with `in_dialog_failover: keep`.
fn keeping() -> World {
    let keep = "    in_dialog_failover: keep\n    backends:";
    World::new(&ONE_SERVICE.replace("    backends:", keep))
}

#[test]
fn a_kept_call_waits_for_its_backend_and_one_that_rings_is_moved() {
    let mut world = keeping();
    let talking = call_id_for(&mut world, "gw3");
    let gw3 = call(&mut world, &talking);
    let ringing = (0..)
        .map(|n| format!("ringing-{n}@gw3"))
        .find(|id| send(&mut world, &Message::invite(id)).1 == gw3)
        .unwrap();
    world.set_down(&["gw3"]);
    for method in [Method::Ack, Method::Refer, Method::Prack, Method::Update, Method::Invite] {
        let message = Message::request(method, &talking).to_tag("callee");
        assert_eq!(send(&mut world, &message), (Verdict::Keep, gw3), "{method:?}");
    }
    // Neither a response of the client nor another backend's request moves it.
    let answer = Message::response(200, Method::Update, &talking);
    assert_eq!(send(&mut world, &answer), (Verdict::Dialog, gw3));
    let gw1 = world.address("gw1");
    world.backend_sends(gw1, client(10), &Message::invite(&talking).to_tag("x").build());
    let update = Message::request(Method::Update, &talking).to_tag("callee");
    assert_eq!(send(&mut world, &update), (Verdict::Keep, gw3));
    let (verdict, to) = send(&mut world, &Message::invite(&ringing));
    assert_eq!(verdict, Verdict::Rehash, "nobody has answered it yet");
    assert_ne!(to, gw3);
    assert_eq!(world.program.counters.events().unwrap().of(Event::DialogMoved), 1);
    let bye = Message::request(Method::Bye, &talking).to_tag("callee");
    for _ in 0..3 {
        assert_eq!(send(&mut world, &bye), (Verdict::Keep, gw3), "a BYE is repeated");
    }
    // Back again, it has its call, and the other one stays where it is.
    world.set_down(&[]);
    assert_eq!(send(&mut world, &Message::invite(&ringing)), (Verdict::Dialog, to));
    assert_eq!(send(&mut world, &bye), (Verdict::Dialog, gw3));
}

#[test]
fn maintenance_moves_even_kept_calls() {
    let mut world = keeping();
    let id = call_id_for(&mut world, "gw3");
    let gw3 = call(&mut world, &id);
    world.set_admin("trunk", "gw3", Admin::Maint);
    world.set_down(&["gw3"]);
    let (verdict, to) = send(&mut world, &Message::request(Method::Update, &id).to_tag("callee"));
    assert_eq!(verdict, Verdict::Rehash);
    assert_ne!(to, gw3);
}

#[test]
fn the_configuration_drains_and_keeps_in_maintenance_as_a_command_does() {
    let mut world = World::new(ONE_SERVICE);
    let id = call_id_for(&mut world, "gw3");
    let gw3 = call(&mut world, &id);
    let configured = |word: &str| {
        let line = "address: \"10.0.1.203:5070\"";
        ONE_SERVICE.replace(line, &format!("{line}, admin: {word}"))
    };
    world.reload(&configured("drain"));
    let update = Message::request(Method::Update, &id).to_tag("callee");
    assert_eq!(send(&mut world, &update), (Verdict::Dialog, gw3));
    for n in 0..500 {
        assert_ne!(send(&mut world, &Message::invite(&format!("drained-{n}@x"))).1, gw3);
    }
    // The stricter of file and command is in force.
    world.set_admin("trunk", "gw3", Admin::Drain);
    world.reload(&configured("maint"));
    let (verdict, to) = send(&mut world, &update);
    assert_eq!(verdict, Verdict::Rehash);
    assert_ne!(to, gw3);
    world.reload(ONE_SERVICE);
    let new = |world: &mut World, what: &str| {
        (0..500).any(|n| send(world, &Message::invite(&format!("{what}-{n}@x"))).1 == gw3)
    };
    assert!(!new(&mut world, "commanded"), "the command holds over the reload");
    world.set_admin("trunk", "gw3", Admin::Ready);
    assert!(new(&mut world, "ready"));
}

#[test]
fn a_call_that_is_refused_cancelled_or_challenged_rings_no_more() {
    let mut world = World::new(ONE_SERVICE);
    for (n, status) in [302, 401, 407, 486, 487, 503, 603].into_iter().enumerate() {
        let id = format!("refused-{status}@x");
        let (_, backend) = send(&mut world, &Message::invite(&id));
        let _cancel = send(&mut world, &Message::request(Method::Cancel, &id));
        let cancelled = Message::response(200, Method::Cancel, &id).build();
        world.backend_sends(backend, client(10), &cancelled);
        let found = census(&world, 0);
        assert_eq!((found.ringing, found.unconfirmed as usize), (1, n), "{status}");
        let answer = Message::response(status, Method::Invite, &id).build();
        world.backend_sends(backend, client(10), &answer);
        let found = census(&world, 0);
        assert_eq!((found.ringing, found.unconfirmed as usize), (0, n + 1), "{status}");
    }
    let events = world.program.counters.events().unwrap();
    let counted =
        [Event::DialogRefused, Event::DialogEnded, Event::DialogConfirmed].map(|e| events.of(e));
    assert_eq!(counted, [7, 0, 0]);
}

#[test]
fn a_challenged_call_rings_again_with_its_credentials_and_is_counted_once() {
    let mut world = World::new(ONE_SERVICE);
    let (_, backend) = send(&mut world, &Message::invite("challenge@x"));
    let answer = |status| Message::response(status, Method::Invite, "challenge@x").build();
    world.backend_sends(backend, client(10), &answer(401));
    assert_eq!(census(&world, 0).ringing, 0);
    assert_eq!(send(&mut world, &Message::invite("challenge@x")), (Verdict::Dialog, backend));
    assert_eq!(census(&world, 0).ringing, 1);
    world.backend_sends(backend, client(10), &answer(200));
    let found = census(&world, 0);
    assert_eq!((found.confirmed_invite, found.live()), (1, 1));
    let calls: u64 = found.bindings.values().map(|holding| holding.calls).sum();
    assert_eq!(calls, 1);
    // A re-INVITE that is refused ends nothing.
    let _again = send(&mut world, &Message::invite("challenge@x").to_tag("callee"));
    world.backend_sends(backend, client(10), &answer(488));
    assert_eq!(census(&world, 0).confirmed_invite, 1);
}

#[test]
fn a_backend_in_maintenance_loses_its_calls_to_others() {
    let mut world = World::new(ONE_SERVICE);
    let id = call_id_for(&mut world, "gw3");
    let backend = call(&mut world, &id);
    world.set_admin("trunk", "gw3", Admin::Maint);
    let (verdict, to) = send(&mut world, &Message::request(Method::Update, &id).to_tag("callee"));
    assert_eq!(verdict, Verdict::Rehash);
    assert_ne!(to, backend);
}

#[test]
fn a_request_from_a_backend_pins_its_call_id_to_it() {
    let mut world = World::new(ONE_SERVICE);
    let mut elsewhere = 0;
    for n in 0..40 {
        let id = format!("leg-{n}@gw3");
        let gw3 = world.address("gw3");
        elsewhere += u32::from(send(&mut world, &Message::request(Method::Register, &id)).1 != gw3);
        let run = world.backend_sends(gw3, client(9), &Message::invite(&id).build());
        assert_eq!(run.verdict, Verdict::ServerRequest);
        // The callee's answer, and later its BYE, come back to the backend that called.
        let answer = Message::response(200, Method::Invite, &id);
        assert_eq!(send(&mut world, &answer), (Verdict::Dialog, gw3));
        let bye = Message::request(Method::Bye, &id).to_tag("caller");
        assert_eq!(send(&mut world, &bye), (Verdict::Dialog, gw3));
    }
    assert!(elsewhere > 10, "the slots alone would have said something else");
}

#[test]
fn spirals_and_late_answers_move_nothing() {
    let mut world = World::new(ONE_SERVICE);
    let id = call_id_for(&mut world, "gw3");
    let gw3 = call(&mut world, &id);
    let gw1 = world.address("gw1");
    // gw1 sends a request and a 200 with the Call-ID of a call that gw3 has.
    for message in [
        Message::request(Method::Options, &id),
        Message::invite(&id),
        Message::response(200, Method::Invite, &id),
        Message::request(Method::Bye, &id).to_tag("x"),
    ] {
        world.backend_sends(gw1, client(9), &message.build());
        let update = Message::request(Method::Update, &id).to_tag("callee");
        assert_eq!(send(&mut world, &update), (Verdict::Dialog, gw3));
    }
    // gw3 dies, the call moves; gw3 thaws and answers late: the call stays where it is.
    world.set_down(&["gw3"]);
    let (verdict, now) = send(&mut world, &Message::invite(&id));
    assert_eq!(verdict, Verdict::Rehash);
    world.set_down(&[]);
    world.backend_sends(gw3, client(10), &Message::response(200, Method::Invite, &id).build());
    assert_eq!(send(&mut world, &Message::invite(&id)), (Verdict::Dialog, now));
}

#[test]
fn a_backend_takes_over_the_call_of_a_dead_one_by_a_request_only() {
    let mut world = World::new(ONE_SERVICE);
    let id = call_id_for(&mut world, "gw3");
    call(&mut world, &id);
    let gw1 = world.address("gw1");
    world.set_down(&["gw3"]);
    world.backend_sends(gw1, client(10), &Message::response(200, Method::Invite, &id).build());
    let moved = world.program.counters.events().unwrap().of(Event::DialogMoved);
    assert_eq!(moved, 0);
    world.backend_sends(gw1, client(10), &Message::invite(&id).to_tag("x").build());
    let update = Message::request(Method::Update, &id).to_tag("callee");
    assert_eq!(send(&mut world, &update), (Verdict::Dialog, gw1));
}

#[test]
fn entries_are_forgotten_after_the_lifetime_and_kept_by_refreshes() {
    let mut world = World::new(ONE_SERVICE);
    let gw3 = world.address("gw3");
    let id = (0..)
        .map(|n| format!("old-{n}@gw3"))
        .find(|id| send(&mut world, &Message::request(Method::Register, id)).1 != gw3)
        .unwrap();
    world.backend_sends(gw3, client(9), &Message::invite(&id).build());
    let bye = Message::request(Method::Update, &id).to_tag("x");
    // 1 h is 15 epochs.
    for _ in 0..6 {
        world.wait(12 * EPOCH);
        assert_eq!(send(&mut world, &bye), (Verdict::Dialog, gw3), "refreshed in time");
    }
    world.wait(17 * EPOCH);
    let (verdict, to) = send(&mut world, &bye);
    assert_eq!(verdict, Verdict::Hash);
    assert_ne!(to, gw3);
}

#[test]
fn a_flood_of_new_call_ids_moves_no_established_call() {
    let mut world = World::new(ONE_SERVICE);
    let gw3 = world.address("gw3");
    // Calls that backends began: only their entries say where they belong.
    let learned: Vec<String> = (0..400).map(|n| format!("learned-{n}@gw3")).collect();
    for id in &learned {
        world.backend_sends(gw3, client(9), &Message::invite(id).build());
        let _answered = send(&mut world, &Message::response(200, Method::Invite, id));
    }
    let placed: Vec<(String, SocketAddr)> = (0..400)
        .map(|n| format!("placed-{n}@x"))
        .map(|id| {
            let b = call(&mut world, &id);
            (id, b)
        })
        .collect();
    // dialogs.max is 4096: ten times its 8192 entries.
    for n in 0..81_920 {
        let message = Message::request(Method::Invite, &format!("flood-{n}@evil")).build();
        world.client_sends(client(66), vip(), &message);
    }
    for id in &learned {
        let bye = Message::request(Method::Bye, id).to_tag("caller");
        assert_eq!(send(&mut world, &bye).1, gw3, "{id}");
    }
    for (id, backend) in &placed {
        let bye = Message::request(Method::Bye, id).to_tag("callee");
        assert_eq!(send(&mut world, &bye).1, *backend, "{id}");
    }
    assert_eq!(world.program.counters.events().unwrap().of(Event::DialogEvictedConfirmed), 0);
}

/// Backends by name that `calls` new Call-IDs go to.
fn spread(world: &mut World, calls: u32) -> BTreeMap<String, u32> {
    let mut spread = BTreeMap::new();
    for n in 0..calls {
        let run = world.client_sends(
            client(10),
            vip(),
            &Message::request(Method::Options, &format!("{n}-7f3a@10.20.30.40")).build(),
        );
        *spread.entry(world.name(run.destination()).to_owned()).or_default() += 1;
    }
    spread
}

fn assert_shares(world: &mut World, calls: u32, weights: &[(&str, f64)]) {
    let spread = spread(world, calls);
    let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
    assert_eq!(spread.len(), weights.len(), "{spread:?}");
    for (name, weight) in weights {
        let fair = f64::from(calls) * weight / sum;
        let off = f64::from(spread[*name]) / fair - 1.0;
        assert!(off.abs() < 0.05, "{name}: {} calls, {:+.2} % off", spread[*name], off * 100.0);
    }
}

#[test]
fn shares_of_60_000_new_call_ids_are_within_five_percent_of_the_weights() {
    let calls = 60_000;
    let mut world = World::new(ONE_SERVICE);
    assert_shares(&mut world, calls, &[("gw1", 50.), ("gw2", 50.), ("gw3", 100.), ("gw4", 100.)]);
    world.set_down(&["gw1", "gw2", "gw3", "gw4"]);
    assert_shares(&mut world, calls, &[("spare1", 50.), ("spare2", 50.)]);
}

#[test]
fn one_of_six_backends_that_dies_moves_no_other_call_id() {
    let six =
        ONE_SERVICE.replace("priority: 20", "priority: 10").replace("weight: 100", "weight: 50");
    let mut world = World::new(&six);
    let place = |world: &mut World| -> Vec<SocketAddr> {
        (0..30_000)
            .map(|n| send(world, &Message::request(Method::Options, &format!("six-{n}@x"))).1)
            .collect()
    };
    let before = place(&mut world);
    let dead = world.address("gw2");
    world.set_down(&["gw2"]);
    let after = place(&mut world);
    let moved = before.iter().zip(&after).filter(|(b, a)| **b != dead && b != a).count();
    assert_eq!(moved, 0);
    let mut load: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    for to in after {
        *load.entry(to).or_default() += 1;
    }
    let busiest = load.values().max().unwrap();
    assert!(f64::from(*busiest) <= 30_000. / 5. * 1.05, "{busiest}");
    assert_eq!(load.len(), 5);
}
