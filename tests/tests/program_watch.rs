//! What the program shows to those who watch: what they asked for, as it came in and as it left,
//! and nothing else.
#![cfg(test)]

mod world;

use lb_common::{
    sip::{self, Payload},
    verdict::{Exit, Kind, Verdict},
    watch::{Filter, Filters, SLOTS, Sample, wants},
};
use lb_tests::{
    message::{Message, Method},
    packet::Packet,
};
use lb_userspace::datapath::{
    load::{Record, Watch},
    testrun::Action,
};
use world::{INGRESS, ONE_SERVICE, Run, World, client, key, vip};

const TWO_SERVICES: &str = "
interfaces: [lo]
hash_key: tests
dialogs: { max: 4096, timeout: 1h }
limits: { services: 8, endpoints: 64, bindings: 128, tables: 8 }
services:
  - name: one
    listen: [\"203.0.113.10:5060\"]
    backends: [{ name: gw1, address: \"10.0.1.201:5060\" }]
  - name: two
    listen: [\"203.0.113.10:5070\"]
    backends: [{ name: gw2, address: \"10.0.1.202:5060\" }]
";

const EVERYTHING: Filter =
    Filter { hash: 0, service: 0, wants: wants::PACKETS, by_call: 0, pad: 0 };

fn watching(yaml: &str, filters: &[Filter]) -> World {
    let mut world = World::load_as(yaml, Record::On, Watch::On);
    watch(&mut world, filters);
    world
}

fn watch(world: &mut World, filters: &[Filter]) {
    let mut all: Filters = Default::default();
    all[..filters.len()].copy_from_slice(filters);
    world.program.watch.set(&all).unwrap();
}

fn of_call(world: &World, call_id: &str) -> Filter {
    let id = sip::call_id(&Payload::new(call_id.as_bytes()), 0, key(&world.config));
    Filter { hash: id.unwrap().unwrap().hash, by_call: 1, ..EVERYTHING }
}

/// Everything that was shown since the last time.
fn shown(world: &mut World) -> Vec<Sample> {
    let mut all = Vec::new();
    assert_eq!(world.program.drain_watched(|sample| all.push(sample)), 0);
    all
}

fn one(world: &mut World) -> Sample {
    let mut all = shown(world);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn invite(call_id: &str, size: usize) -> Packet {
    Packet::udp(client(10), vip(), Message::invite(call_id).size(size).build())
}

#[test]
fn a_forwarded_packet_is_shown_as_it_came_in_and_as_it_left_with_its_decision() {
    let mut world = watching(ONE_SERVICE, &[EVERYTHING]);
    for packet in [
        invite("a", 461),
        Packet::udp(client(10), vip(), Message::request(Method::Options, "f").build()),
        invite("b", 901),
        invite("c", 1400),
        invite("d", 3000).vlan(7),
        invite("e", 1000).vlan(7).vlan(8),
    ] {
        let frame = packet.build();
        let run = world.run_bytes(&frame);
        assert_eq!(run.verdict.kind(), Kind::Forward);
        let sample = one(&mut world);
        assert_eq!(sample.came, frame);
        assert_eq!(sample.left, run.bytes);
        let seen = sample.seen;
        assert_eq!((seen.came_len as usize, seen.ingress), (frame.len(), INGRESS));
        assert_eq!((seen.end_len as usize, seen.wanted), (run.bytes.len(), 1));
        assert_eq!(seen.decision, run.decision);
        assert_ne!(seen.decision.binding, 0);
        assert!(seen.came > 0 && seen.decided >= seen.came);
    }
}

#[test]
fn an_answer_of_a_backend_is_shown_too() {
    let mut world = watching(ONE_SERVICE, &[]);
    let run = world.run(&invite("reply", 700));
    let backend = run.destination();
    let filter = of_call(&world, "reply");
    watch(&mut world, &[Filter::default(), filter]);
    let ok = Message::response(200, Method::Invite, "reply").build();
    let run = world.backend_sends(backend, client(10), &ok);
    assert_eq!(run.verdict, Verdict::Response);
    let sample = one(&mut world);
    assert_eq!((sample.seen.decision, sample.seen.wanted), (run.decision, 2));
    assert_eq!(sample.left, run.bytes);
    assert_ne!(sample.came, run.bytes);
}

#[test]
fn what_is_dropped_is_shown_whole_as_it_came_in_and_what_is_not_ours_is_not() {
    let policy = ONE_SERVICE.replace("    backends:", "    malformed: drop\n    backends:");
    let mut world = watching(&policy, &[EVERYTHING]);
    let garbage = Packet::udp(client(10), vip(), vec![b'x'; 1400]);
    let frame = garbage.build();
    assert_eq!(world.run_bytes(&frame).verdict, Verdict::Malformed);
    let sample = one(&mut world);
    assert_eq!((sample.came, sample.left), (frame, Vec::new()));
    assert_eq!(sample.seen.decision.exit, Exit::Drop as u8);

    let other = Packet::udp(client(10), client(11), Message::invite("other").build());
    assert_eq!(world.run(&other).verdict, Verdict::NotOurs);
    assert_eq!(shown(&mut world), []);
    // From a backend, but by another MAC than its own.
    let backend = world.address("gw1");
    let spoofed = Packet::udp(backend, client(10), Message::invite("s").build());
    assert_eq!(world.run(&spoofed).verdict, Verdict::SpoofedBackend);
    assert_eq!(one(&mut world).seen.decision.verdict, Verdict::SpoofedBackend as u8);
}

#[test]
fn a_stun_answer_is_shown_with_the_request_that_it_replaces() {
    let mut world = watching(ONE_SERVICE, &[EVERYTHING]);
    let software = [&[0x80, 0x22, 0, 124][..], &[b'x'; 124]].concat();
    let request = [&b"\0\x01\0\x80\x21\x12\xa4\x42abcdefghijkl"[..], &software].concat();
    let frame = Packet::udp(client(10), vip(), request).build();
    let run = world.run_bytes(&frame);
    assert_eq!((run.verdict, run.action), (Verdict::Stun, Action::Tx));
    let sample = one(&mut world);
    assert_eq!((sample.came, sample.left), (frame, run.bytes));
}

#[test]
fn only_the_dialog_and_the_service_that_are_asked_for_are_shown_to_each() {
    let mut world = watching(TWO_SERVICES, &[]);
    let service = |world: &mut World, port: u16, call_id: &str| -> Run {
        let to = std::net::SocketAddr::new(vip().ip(), port);
        world.client_sends(client(10), to, &Message::invite(call_id).build())
    };
    let first = service(&mut world, 5060, "x").decision.listener;
    let second = service(&mut world, 5070, "y").decision.listener;
    let id = |world: &World, listener: u16| world.applied().listeners[&listener].service;
    let (one, two) = (id(&world, first), id(&world, second));
    assert_eq!(shown(&mut world), [], "nobody has asked");

    let mut filters = [Filter::default(); SLOTS];
    filters[0] = of_call(&world, "wanted");
    filters[3] = Filter { service: two, ..EVERYTHING };
    filters[7] = Filter { service: one, ..of_call(&world, "wanted") };
    watch(&mut world, &filters);
    let mut wanted_by = |port, call_id: &str| {
        let run = service(&mut world, port, call_id);
        let wanted = shown(&mut world).into_iter().map(|sample| sample.seen.wanted);
        (run.verdict, wanted.collect::<Vec<_>>())
    };
    use Verdict::{Dialog, NewDialog};
    assert_eq!(wanted_by(5060, "wanted"), (NewDialog, vec![1 | 1 << 7]));
    assert_eq!(wanted_by(5060, "other"), (NewDialog, vec![]));
    assert_eq!(wanted_by(5070, "third"), (NewDialog, vec![1 << 3]));
    assert_eq!(wanted_by(5060, "wanted"), (Dialog, vec![1 | 1 << 7]));
    assert_eq!(wanted_by(5070, "wanted"), (NewDialog, vec![1 | 1 << 3]));

    // What the backend of the other service answers.
    let backend = world.address("gw2");
    let ok = Message::response(200, Method::Invite, "third").build();
    world.backend_sends(backend, client(10), &ok);
    let wanted: Vec<_> = shown(&mut world).iter().map(|sample| sample.seen.wanted).collect();
    assert_eq!(wanted, [1 << 3]);
}

#[test]
fn who_wants_decisions_is_shown_no_packets() {
    let mut world = watching(ONE_SERVICE, &[Filter { wants: wants::DECISIONS, ..EVERYTHING }]);
    let packet = invite("decision", 1400);
    let run = world.run(&packet);
    let sample = one(&mut world);
    assert_eq!((sample.seen.len, sample.seen.decision), (0, run.decision));
    assert_eq!(sample.came, packet.build()[..1024]);
    assert!(sample.left.is_empty());
}

#[test]
fn the_program_that_is_live_otherwise_shows_nothing_and_has_no_code_for_it() {
    let mut world = World::new(ONE_SERVICE);
    watch(&mut world, &[EVERYTHING]);
    assert_eq!(world.run(&invite("off", 700)).verdict, Verdict::NewDialog);
    assert_eq!(shown(&mut world), []);
    assert_eq!(world.program.watch.lost().unwrap(), [0; SLOTS]);
    let watching = watching(ONE_SERVICE, &[]);
    let (off, on) = (world.program.stats, watching.program.stats);
    println!("{off:?}\n{on:?}");
    assert!(off.verified.unwrap() < on.verified.unwrap() && off.jited < on.jited);
}

#[test]
fn what_does_not_fit_is_counted_for_those_who_wanted_it() {
    let mut world = watching(ONE_SERVICE, &[EVERYTHING]);
    let packet = invite("many", 1400);
    for _ in 0..2000 {
        world.run(&packet);
    }
    let all = shown(&mut world).len() as u64;
    let lost = world.program.watch.lost().unwrap();
    assert_eq!(all + lost[0], 2000);
    assert!(all > 100 && lost[0] > 0, "{all} {lost:?}");
    assert_eq!(lost[1..], [0; SLOTS - 1]);
    assert_eq!(world.count(Verdict::Dialog), 1999, "traffic does not care");

    let mut world = World::load_as(ONE_SERVICE, Record::Off, Watch::On);
    watch(&mut world, &[Filter { wants: wants::DECISIONS, ..EVERYTHING }]);
    world.program.beat(1000).unwrap();
    for _ in 0..20_000 {
        world.run(&invite("rate", 500));
    }
    let all = shown(&mut world).len() as u64;
    assert_eq!(all + world.program.watch.lost().unwrap()[0], 20_000);
}
