//! What the program hands to the controller.
#![cfg(test)]

mod world;

use lb_common::{
    slow::{Kind, Record as Note},
    verdict::Verdict,
};
use lb_tests::{message::Message, packet::Packet};
use lb_userspace::datapath::{load::Record, testrun::Action};
use world::{INGRESS, ONE_SERVICE, World, client, vip};

const ALL: [&str; 6] = ["gw1", "gw2", "gw3", "gw4", "spare1", "spare2"];

fn nobody_home(record: Record) -> World {
    let mut world = World::load(ONE_SERVICE, record);
    world.set_down(&ALL);
    world
}

fn invite(size: usize) -> Packet {
    Packet::udp(client(10), vip(), Message::invite("a84b4c76e66710@pc33").size(size).build())
}

/// Everything that was handed over.
fn drain(world: &mut World) -> (Vec<(Kind, Note, Vec<u8>)>, u64) {
    let mut all = Vec::new();
    let lost = world
        .program
        .drain(|packet| all.push((packet.kind, *packet.record, packet.frame.to_vec())));
    (all, lost)
}

#[test]
fn a_request_without_a_backend_is_handed_over_as_it_came() {
    let mut world = nobody_home(Record::On);
    for packet in [invite(700), invite(701), invite(1400).vlan(7)] {
        let frame = packet.build();
        let run = world.run_bytes(&frame);
        assert_eq!((run.verdict, run.action), (Verdict::NoBackend, Action::Drop));
        let (handed, lost) = drain(&mut world);
        assert_eq!(lost, 0);
        let [(kind, record, bytes)] = &handed[..] else { panic!("{handed:?}") };
        assert_eq!(*kind, Kind::NoBackend);
        assert_eq!(*bytes, frame);
        assert_eq!(record.frame_len as usize, frame.len());
        assert_eq!(record.ingress, INGRESS);
        assert_eq!(usize::from(record.l3), if frame[12] == 0x81 { 18 } else { 14 });
        assert_eq!(record.decision.verdict, Verdict::NoBackend as u8);
        assert_eq!(record.decision.listener, run.decision.listener);
        assert_ne!(record.decision.listener, 0);
        assert_eq!(record.decision.hash, run.decision.hash);
        assert_eq!(record.decision.method, run.decision.method);
        assert_ne!(record.time, 0);
    }
    world.set_down(&[]);
    assert_eq!(world.run(&invite(700)).verdict, Verdict::NewDialog);
    assert_eq!(drain(&mut world), (Vec::new(), 0));
}

#[test]
fn drop_hands_nothing_over() {
    let mut world =
        World::new(&ONE_SERVICE.replace("    backends:", "    all_down: drop\n    backends:"));
    world.set_down(&ALL);
    assert_eq!(world.run(&invite(700)).verdict, Verdict::NotAnswered);
    assert_eq!(drain(&mut world), (Vec::new(), 0));
}

#[test]
fn keep_last_goes_on_by_the_last_table() {
    let mut world =
        World::new(&ONE_SERVICE.replace("    backends:", "    all_down: keep-last\n    backends:"));
    let before = world.run(&invite(700)).destination();
    world.set_down(&ALL);
    let run = world.run(&invite(700));
    assert_eq!((run.verdict, run.destination()), (Verdict::Dialog, before));
    let other = Message::invite("another@pc33").build();
    assert_eq!(world.client_sends(client(10), vip(), &other).verdict, Verdict::NewDialog);
    assert_eq!(drain(&mut world), (Vec::new(), 0));
}

#[test]
fn a_full_ring_drops_under_a_reason_of_its_own_and_what_was_in_it_stays_whole() {
    let mut world = nobody_home(Record::On);
    let packet = invite(3000);
    // A test run may move to another CPU with another ring, hence so many.
    for _ in 0..2000 {
        world.run(&packet);
    }
    let (handed, full) = (world.count(Verdict::NoBackend), world.count(Verdict::SlowPathFull));
    assert_eq!(handed + full, 2000);
    assert!(handed >= 150 && full > 0, "{handed} {full}");
    let (packets, _) = drain(&mut world);
    assert_eq!(packets.len() as u64, handed);
    let frame = packet.build();
    assert!(packets.iter().all(|(_, _, bytes)| *bytes == frame));
    assert_eq!(world.run(&packet).verdict, Verdict::NoBackend, "there is room again");
}

#[test]
fn nothing_is_handed_over_without_a_sign_of_life_and_no_more_than_the_rate_with_it() {
    let mut world = nobody_home(Record::Off);
    let packet = invite(700);
    world.program.beat(1000).unwrap();
    for _ in 0..2000 {
        world.run(&packet);
    }
    let (handed, limited) = (world.count(Verdict::NoBackend), world.count(Verdict::SlowPathLimit));
    assert_eq!(handed + limited, 2000, "nothing else");
    assert_eq!(drain(&mut world).0.len() as u64, handed);
    // A burst for each CPU, and what a slow machine lets come after it.
    assert!((250..1900).contains(&handed), "{handed}");

    // With 20 jiffies taken for a second, five seconds are over after at most one.
    let mut world = nobody_home(Record::Off);
    world.program.beat(20).unwrap();
    assert_eq!(world.run(&packet).action, Action::Drop);
    assert_eq!(world.count(Verdict::NoBackend), 1);
    std::thread::sleep(std::time::Duration::from_millis(1200));
    world.run(&packet);
    assert_eq!(world.count(Verdict::SlowPathOff), 1);
    assert_eq!(drain(&mut world).0.len(), 1);
}
