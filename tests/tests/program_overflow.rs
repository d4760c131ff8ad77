//! What is lost when more dialogs come than the table holds: floods of ten times its size.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod world;

use std::net::SocketAddr;

use lb_common::stats::Event;
use lb_tests::message::{Message, Method};
use lb_userspace::{
    datapath::{
        reline::Now,
        sweep::{STEP_LINES, Sweep},
    },
    maps::LbMaps as _,
    reconcile::owners::Owners,
};
use world::{ONE_SERVICE, World, client, vip};

/// Calls of each kind that stand before the flood: with `dialogs.max: 4096` a tenth of all.
const CALLS: u32 = 400;
/// Ten times the table, which has twice as many places as `dialogs.max` says.
const FLOOD: u32 = 10 * 2 * 4096;

fn send(world: &mut World, message: &Message) -> SocketAddr {
    world.client_sends(client(10), vip(), &message.build()).destination()
}

/// A call and where it belongs.
type Call = (String, SocketAddr);

/// Calls that backend gw3 began: only their entries say so.
fn begun(world: &mut World, name: &str, answered: bool) -> Vec<Call> {
    let gw3 = world.address("gw3");
    (0..CALLS)
        .map(|n| {
            let id = format!("{name}-{n}@gw3");
            world.backend_sends(gw3, client(9), &Message::invite(&id).build());
            if answered {
                send(world, &Message::response(200, Method::Invite, &id));
            }
            (id, gw3)
        })
        .collect()
}

/// Calls of clients, where the slots place them.
fn placed(world: &mut World, name: &str) -> Vec<Call> {
    (0..CALLS)
        .map(|n| {
            let id = format!("{name}-{n}@x");
            let backend = send(world, &Message::invite(&id));
            let answer = Message::response(200, Method::Invite, &id).build();
            world.backend_sends(backend, client(10), &answer);
            (id, backend)
        })
        .collect()
}

/// New Call-IDs of a client, answered by the backends or not.
fn flood(world: &mut World, answered: bool) {
    for n in 0..FLOOD {
        let id = format!("flood-{n}@evil");
        let invite = Message::invite(&id).build();
        let backend = world.client_sends(client(66), vip(), &invite).destination();
        if answered {
            let answer = Message::response(200, Method::Invite, &id).build();
            world.backend_sends(backend, client(66), &answer);
        }
    }
}

/// What the controller does to the dialog table every few seconds.
fn sweep(world: &World) {
    let owners = Owners::of(world.applied());
    let elsewhere = |entry| owners.is_elsewhere(entry);
    let service = |id| world.program.maps.binding(id).map_or(0, |binding| binding.service);
    let now = Now { epoch: 0, lifetime: 15 };
    let mut sweep = Sweep::new();
    let entries = world.program.dialogs.entries();
    while !sweep.step_and_rank(entries, now, STEP_LINES, service, elsewhere) {}
}

/// Calls whose BYE does not come to where they belong.
fn moved(world: &mut World, calls: &[Call]) -> usize {
    let bye = |id: &str| Message::request(Method::Bye, id).to_tag("tag");
    calls.iter().filter(|(id, backend)| send(world, &bye(id)) != *backend).count()
}

fn report(world: &World, what: &str) {
    let events = world.program.counters.events().unwrap();
    println!(
        "{what}: {FLOOD} Call-IDs, {} unconfirmed and {} confirmed entries replaced, {} times none",
        events.of(Event::DialogEvicted),
        events.of(Event::DialogEvictedConfirmed),
        events.of(Event::DialogLineFull),
    );
}

#[test]
fn a_flood_that_nobody_answers_moves_no_call_not_even_one_that_still_rings() {
    let mut world = World::new(ONE_SERVICE);
    let (answered, ringing) = (begun(&mut world, "began", true), begun(&mut world, "rings", false));
    let placed = placed(&mut world, "placed");
    flood(&mut world, false);
    report(&world, "unanswered");
    let moved = [&answered, &ringing, &placed].map(|calls| moved(&mut world, calls));
    assert_eq!(moved, [0, 0, 0], "begun by a backend, ringing, placed by the slots");
    assert_eq!(world.program.counters.events().unwrap().of(Event::DialogEvictedConfirmed), 0);
}

#[test]
fn a_flood_that_the_backends_answer_moves_no_call() {
    let mut world = World::new(ONE_SERVICE);
    let (answered, placed) = (begun(&mut world, "began", true), placed(&mut world, "placed"));
    flood(&mut world, true);
    report(&world, "answered");
    let moved = [&answered, &placed].map(|calls| moved(&mut world, calls));
    assert_eq!(moved, [0, 0], "begun by a backend, placed by the slots");
}

#[test]
fn a_flood_that_the_backends_answer_moves_no_call_whose_slot_has_another_owner_by_now() {
    let mut world = World::new(ONE_SERVICE);
    world.set_down(&["gw3", "gw4"]);
    let (silent, spoke) = (placed(&mut world, "silent"), placed(&mut world, "spoke"));
    world.set_down(&[]);
    for (id, backend) in &spoke {
        let info = Message::response(200, Method::Options, id).build();
        world.backend_sends(*backend, client(10), &info);
    }
    // The controller sweeps every few seconds.
    sweep(&world);
    flood(&mut world, true);
    report(&world, "answered, after two backends came back");
    let moved = [&spoke, &silent].map(|calls| moved(&mut world, calls));
    assert_eq!(moved, [0, 0], "spoke since, were silent");
}

#[test]
fn requests_of_backends_that_stand_alone_push_out_no_call() {
    let mut world = World::new(ONE_SERVICE);
    let (ringing, placed) = (begun(&mut world, "rings", false), placed(&mut world, "placed"));
    let gw1 = world.address("gw1");
    for n in 0..FLOOD {
        let id = format!("ping-{n}@gw1");
        let ping = Message::request(Method::Options, &id).build();
        world.backend_sends(gw1, client(66), &ping);
        let answer = Message::response(200, Method::Options, &id).build();
        world.client_sends(client(66), vip(), &answer);
    }
    report(&world, "pings of a backend");
    let moved = [&ringing, &placed].map(|calls| moved(&mut world, calls));
    assert_eq!(moved, [0, 0], "ringing, placed by the slots");
    let events = world.program.counters.events().unwrap();
    assert_eq!(events.of(Event::DialogEvictedConfirmed), 0);
}
