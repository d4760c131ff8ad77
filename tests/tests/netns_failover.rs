//! Backends that die and come back while calls are placed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::time::{Duration, Instant};

use lb_tests::{
    balancer::check,
    lab::Plan,
    sipp::Calls,
    stage::{Losses, Stage},
};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(40);
const SOON: Duration = Duration::from_secs(15);
/// Over the worst detection: what the change itself may take.
const CHANGE: Duration = Duration::from_millis(100);
/// Over that: between two calls at the rate below, and of processes that share a busy machine.
const SLACK: Duration = Duration::from_millis(200);
const RATE: u32 = 100;

/// Lets the second of three backends hang (or die) under load until its calls have moved; then
/// brings it back. Prints what was measured.
fn lose_and_regain(hang: bool) {
    let mut stage = Stage::set(Plan { backends: 3, ..Plan::default() }, |_site, _settings| {})
        .expect("the stage is set");
    let worst = check(stage.balancer.config()).expect("a valid configuration")["services"][0]
        ["worst_detection_seconds"]
        .as_f64()
        .map(Duration::from_secs_f64)
        .expect("a worst detection");
    let calls = Calls { rate: RATE, patience: Some(LONG), ..Calls::default() };
    let mut uac = stage.call(&calls).expect("calls");
    stage
        .wait_for("30 calls at the second backend", SOON, |w| {
            (w.arrivals(1).len() >= 30).then_some(())
        })
        .unwrap();

    let lost = Instant::now();
    if hang {
        stage.servers[1].process().freeze().unwrap();
    } else {
        stage.servers[1].process().kill().unwrap();
    }
    stage.balancer.wait_for("gw2", "health", &"down".into(), SOON).unwrap();
    let said = lost.elapsed();
    // Calls held over the backend's recovery; they come from another port.
    let kept = Calls {
        rate: 50,
        count: Some(50),
        hold: Duration::from_secs(7),
        patience: Some(LONG),
        ..Calls::default()
    };
    let held_since = Instant::now();
    let held = stage.call_from(5070, &kept).expect("held calls");
    stage
        .wait_for("set-up of the held calls", SOON, |_wires| {
            (held.outcome().ok()?.setups == 50).then_some(())
        })
        .unwrap();
    let moved = stage.wires().arrivals(1).last().map(|last| last.saturating_duration_since(lost));
    let moved = moved.expect("calls before");

    stage.restart_server(1).unwrap();
    let up = Instant::now();
    let back = stage
        .wait_for("a call at the backend that came back", SOON, |w| {
            w.arrivals(1).into_iter().find(|at| *at > up)
        })
        .unwrap();
    assert!(held_since.elapsed() < kept.hold, "the held calls ended before the recovery");
    let held = held.finish(LONG).unwrap();
    let outcome = uac.stop(LONG).unwrap();
    println!(
        "{}: down after {said:?}, last new call there after {moved:?} (worst detection {worst:?}), \
         next one {:?} after the server was up; {outcome:?}; held over the recovery: {held:?}",
        if hang { "hang" } else { "death" },
        back.duration_since(up),
    );
    assert!(moved < worst + CHANGE + SLACK, "moved after {moved:?}");
    assert_eq!((held.successful, held.failed, held.cut), (50, 0, 0), "{held:?}");
    // Those in set-up found another backend by their retransmission, which a caller no longer sends
    // after a 180; those set up were cut.
    let abandoned = stage.wires().abandoned() as u64;
    assert!(abandoned <= 1, "{outcome:?}");
    assert_eq!(outcome.failed, abandoned, "{outcome:?}\n{}", uac.errors());
    assert_eq!(outcome.setups, outcome.placed - abandoned, "{outcome:?}");
    let held_there = f64::from(RATE) / 3.0 * (worst + CHANGE + SLACK + calls.hold).as_secs_f64();
    assert!((outcome.cut as f64) < 2.0 * held_there, "{outcome:?}");
    assert_eq!(stage.settled().losses().to_backends, 0);
}

#[test]
fn calls_move_from_a_backend_that_hangs_and_none_is_broken_when_it_comes_back() {
    lose_and_regain(true);
}

#[test]
fn calls_move_from_a_backend_that_dies_and_none_is_broken_when_it_comes_back() {
    lose_and_regain(false);
}

/// Deletes each resolved neighbour of the edge host once; returns how many there were. (`ip neigh
/// flush` goes on in rounds, and would delete entries that are being resolved anew with the packets
/// that the kernel keeps in them.)
fn forget_neighbours(stage: &Stage) -> u32 {
    let edge = &stage.site.edge;
    let list: Value =
        serde_json::from_str(&edge.run("ip", &["-json", "neigh", "show"]).unwrap()).unwrap();
    let mut forgotten = 0;
    for neighbour in list.as_array().unwrap().iter().filter(|n| n["lladdr"].is_string()) {
        let text = |key: &str| neighbour[key].as_str().unwrap().to_owned();
        edge.run("ip", &["neigh", "del", &text("dst"), "dev", &text("dev")]).unwrap();
        forgotten += 1;
    }
    forgotten
}

#[test]
fn neighbours_that_vanish_in_both_directions_lose_no_call() {
    const FLUSHES: u32 = 40;
    let stage = Stage::set(Plan::default(), |_site, _settings| {}).expect("the stage is set");
    let calls = Calls { rate: RATE, ..Calls::default() };
    let mut uac = stage.call(&calls).expect("calls");
    let mut forgotten = 0;
    for _ in 0..FLUSHES {
        forgotten += forget_neighbours(&stage);
        stage.await_invites(3, SOON).unwrap();
    }
    let outcome = uac.stop(LONG).unwrap();
    let lookups = stage.metric("sip_lb_events_total{event=\"fib-lookup\"}").unwrap();
    let kernel = stage.metric("sip_lb_events_total{event=\"kernel-forward\"}").unwrap();
    println!("{FLUSHES} flushes: {lookups} look-ups, {kernel} by the kernel; {outcome:?}");
    assert_eq!((outcome.failed, outcome.cut), (0, 0), "{outcome:?}\n{}", uac.errors());
    assert_eq!(outcome.successful, outcome.placed);
    assert_eq!(stage.settled().losses(), Losses::default());
    assert!(forgotten >= 2 * FLUSHES, "{forgotten}: those of both directions");
    assert!(kernel > 0.0, "no flush was ever noticed");
}

#[test]
fn backends_that_fall_silent_one_after_another_lose_no_call_to_the_last_of_them() {
    let mut stage = Stage::set(Plan { backends: 3, ..Plan::default() }, |_site, settings| {
        // So that they are found silent up to 2 s apart.
        settings.health =
            "interval: 2s, fast_interval: 100ms, timeout: 300ms, rise: 2, fall: 3".into();
    })
    .expect("the stage is set");
    let calls = Calls { rate: 50, hold: Duration::from_secs(1), ..Calls::default() };
    let mut uac = stage.call(&calls).expect("calls");
    stage.await_invites(100, SOON).unwrap();
    // As if the path to all of them were cut.
    for server in &mut stage.servers {
        server.process().freeze().unwrap();
    }
    for name in ["gw1", "gw2", "gw3"] {
        stage.balancer.wait_for(name, "health", &"down".into(), SOON).unwrap();
    }
    stage.await_invites(50, SOON).unwrap();
    let moved = stage.metric("sip_lb_events_total{event=\"dialog-moved\"}").unwrap();
    let places = stage.wires().places();
    let torn = places.values().filter(|backends| backends.len() > 1).count();
    for server in &mut stage.servers {
        server.process().thaw().unwrap();
    }
    let outcome = uac.stop(LONG).unwrap();
    println!("{moved} dialogs moved, {torn} of {} calls torn; {outcome:?}", places.len());
    assert_eq!(torn, 0);
    assert!(moved < 0.5, "{moved}");
}
