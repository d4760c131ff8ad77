//! Two CPUs that meet the first request of one dialog at the same time choose one backend.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod world;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use lb_tests::{
    frame::Frame,
    message::{Message, Method},
    packet::Packet,
};
use lb_userspace::datapath::{load::Record, testrun};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use world::{ONE_SERVICE, World, client, vip};

/// Dialogs that both CPUs meet.
const DIALOGS: usize = 10_000;

/// A message about the n-th dialog: two proxies send it on, as after a fork.
fn frame(proxy: usize, n: usize, message: Message) -> Vec<u8> {
    Packet::udp(client(10 + proxy as u8), vip(), message.cseq(n as u32 + 1).build()).build()
}

fn call_id(n: usize) -> String {
    format!("race-{n}@x")
}

/// Runs the n-th frame of each list at the same time, each list on a CPU of its own; where each went.
fn side_by_side(world: &World, lists: &[Vec<Vec<u8>>; 2]) -> [Vec<SocketAddr>; 2] {
    let program = world.program.program().unwrap();
    let arrived = AtomicUsize::new(0);
    let arrived = &arrived;
    let run = |cpu: usize| {
        let mut only = CpuSet::new();
        only.set(cpu).unwrap();
        sched_setaffinity(Pid::from_raw(0), &only).unwrap();
        let each = lists[cpu].iter().enumerate().map(|(n, frame)| {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 * (n + 1) {
                std::hint::spin_loop();
            }
            testrun::run(program, frame, None).unwrap().1
        });
        let frames: Vec<_> = each.collect();
        frames.iter().map(|bytes| Frame::parse(bytes).unwrap().destination()).collect()
    };
    thread::scope(|scope| {
        let threads = [0, 1].map(|cpu| scope.spawn(move || run(cpu)));
        threads.map(|thread| thread.join().unwrap())
    })
}

fn one_backend_for_each(balance: &str) {
    let yaml = ONE_SERVICE
        .replace("    backends:\n", &format!("    balance: {balance}\n    backends:\n"))
        .replace("max: 4096", "max: 262144");
    let world = World::load(&yaml, Record::Off);
    let invites = [0, 1].map(|proxy| {
        (0..DIALOGS).map(|n| frame(proxy, n, Message::invite(&call_id(n)))).collect::<Vec<_>>()
    });
    let [one, other] = side_by_side(&world, &invites);
    let apart: Vec<_> = (0..DIALOGS).filter(|&n| one[n] != other[n]).collect();
    println!("{balance}: {} of {DIALOGS} dialogs went two ways", apart.len());
    assert_eq!(apart, Vec::<usize>::new(), "{balance}");

    // What follows goes there too.
    let acks = [0, 1].map(|proxy| {
        let ack = |n| Message::request(Method::Ack, &call_id(n)).to_tag("callee");
        (0..DIALOGS).map(|n| frame(proxy, n, ack(n))).collect::<Vec<_>>()
    });
    let then = side_by_side(&world, &acks);
    assert!(then == [one.clone(), one], "{balance}: a dialog was moved");
}

#[test]
fn two_cpus_choose_one_backend_for_one_dialog() {
    for balance in ["round-robin", "least-dialogs"] {
        one_backend_for_each(balance);
    }
}
