//! Draining by command and by file, and calls that wait for their backend, with live calls.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::time::{Duration, Instant};

use lb_tests::{
    lab::Plan,
    process::Process,
    sipp::{Calls, Uac},
    stage::{Losses, Stage},
};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(15);
/// A sweep that was under way, the next one, and the command's own pace.
const SWEEPS: Duration = Duration::from_secs(25);
const RATE: u32 = 50;

/// Three backends with equal weights.
fn stage(keep: bool) -> Stage {
    Stage::set(Plan { backends: 3, ..Plan::default() }, |_site, settings| {
        if keep {
            settings.policy = "    in_dialog_failover: keep\n".to_owned();
        }
    })
    .expect("the stage is set")
}

/// Calls from a port of their own that are set up now and stay for `hold`.
fn hold(stage: &Stage, port: u16, count: u64, hold: Duration) -> Uac {
    let calls =
        Calls { rate: RATE, count: Some(count), hold, patience: Some(LONG), ..Calls::default() };
    let uac = stage.call_from(port, &calls).expect("held calls");
    stage
        .wait_for("set-up of the held calls", SOON, |_wires| {
            (uac.outcome().ok()?.setups == count).then_some(())
        })
        .unwrap();
    uac
}

/// Calls that the second backend has got so far.
fn at_second(stage: &Stage) -> usize {
    stage.wires().arrivals(1).len()
}

fn assert_unbroken(uac: Uac, count: u64) {
    let outcome = uac.finish(LONG).unwrap();
    let seen = (outcome.successful, outcome.failed, outcome.cut);
    assert_eq!(seen, (count, 0, 0), "{outcome:?}");
}

#[test]
fn drain_waits_for_the_last_call_over_reload_and_crash_and_breaks_none() {
    const CALLS: u64 = 90;
    const HOLD: Duration = Duration::from_secs(22);
    let mut stage = stage(false);
    let held_since = Instant::now();
    let held = hold(&stage, 5070, CALLS, HOLD);
    let there = at_second(&stage);
    assert!(there > 10, "{there}");
    let load = Calls { rate: RATE, patience: Some(LONG), ..Calls::default() };
    let mut uac = stage.call(&load).expect("calls");
    stage.await_invites(20, SOON).unwrap();

    let said = stage.balancer.tell(&["drain", "trunk-in/gw2"]).unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("no new dialogs"), "{said:?}");
    let before = at_second(&stage);
    stage.await_invites(60, SOON).unwrap();
    assert_eq!(stage.balancer.backend("gw2", "admin").unwrap(), "drain");
    assert_eq!(stage.balancer.backend("gw2", "share").unwrap(), 0.0);
    assert_eq!(stage.balancer.backend("gw2", "health").unwrap(), "up");
    stage.balancer.reload(&stage.settings.yaml()).unwrap();
    assert_eq!(stage.balancer.backend("gw2", "admin").unwrap(), "drain", "after a reload");
    stage.balancer.process().kill().unwrap();
    stage.balancer.restart().unwrap();
    assert_eq!(stage.balancer.backend("gw2", "admin").unwrap(), "drain", "after a crash");
    stage.await_invites(60, SOON).unwrap();
    assert_eq!(at_second(&stage), before, "a new call came to the drained backend");

    // Drained already, and the calls of before are still there.
    let command = stage.balancer.command(&["drain", "trunk-in/gw2", "--wait"]);
    let mut wait = Process::spawn("wait", command, stage.site.lab.directory()).unwrap();
    wait.wait_for_line("calls left", SWEEPS).unwrap();
    let live: Value = stage.balancer.backend("gw2", "live_dialogs").unwrap();
    assert_eq!(live, there, "a sweep counts the held calls");
    assert!(held_since.elapsed() < HOLD, "the held calls ended too early for this machine");
    assert!(wait.ended().unwrap().is_none(), "{}", wait.tail());
    assert_unbroken(held, CALLS);
    let over = Instant::now();
    assert!(wait.wait(SWEEPS).unwrap().success(), "{}", wait.tail());
    let log = wait.log().unwrap();
    println!("returned {:?} after the last of {there} calls:\n{log}", over.elapsed());
    assert!(log.trim_end().ends_with("trunk-in/gw2: no calls left"), "{log}");
    assert!(log.contains(&format!("{there} calls left")), "{log}");
    assert_eq!(
        stage.metric("sip_lb_live_dialogs{backend=\"gw2\",service=\"trunk-in\"}").unwrap(),
        0.
    );

    let said = stage.balancer.tell(&["undrain", "trunk-in/gw2"]).unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    stage
        .wait_for("a new call at the backend", SOON, |w| {
            (w.arrivals(1).len() > before).then_some(())
        })
        .unwrap();
    let outcome = uac.stop(LONG).unwrap();
    assert_eq!((outcome.failed, outcome.cut), (0, 0), "{outcome:?}\n{}", uac.errors());
    assert_eq!(stage.settled().losses(), Losses::default());
}

#[test]
fn what_cannot_be_drained_is_refused_with_the_reason() {
    let mut stage = stage(false);
    let tell = |stage: &Stage, words: &[&str]| stage.balancer.tell(words).unwrap();
    let said = tell(&stage, &["drain", "trunk-in/gw9"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.contains("no backend trunk-in/gw9") && said.err.contains("trunk-in/gw3"));
    assert_eq!(tell(&stage, &["drain", "gw1"]).code, Some(2));
    assert!(tell(&stage, &["undrain", "trunk-in/gw1"]).out.contains("is not drained"));

    // The file's word and the command's stand beside each other; the stricter is in force.
    let line = "{ name: gw1,";
    let drained = stage.settings.yaml().replace(line, "{ name: gw1, admin: drain,");
    stage.balancer.reload(&drained).unwrap();
    assert_eq!(stage.balancer.backend("gw1", "admin").unwrap(), "drain");
    let said = tell(&stage, &["undrain", "trunk-in/gw1"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.contains("admin: drain") && said.err.contains("config.yaml"), "{said:?}");
    assert_eq!(tell(&stage, &["drain", "trunk-in/gw1"]).code, Some(0));
    let maint = stage.settings.yaml().replace(line, "{ name: gw1, admin: maint,");
    stage.balancer.reload(&maint).unwrap();
    assert_eq!(stage.balancer.backend("gw1", "admin").unwrap(), "maint");
    stage.balancer.reload(&stage.settings.yaml()).unwrap();
    assert_eq!(stage.balancer.backend("gw1", "admin").unwrap(), "drain", "the command's word");
    // Removing the backend ends it.
    let without: Vec<_> =
        stage.settings.yaml().lines().filter(|l| !l.contains(line)).map(str::to_owned).collect();
    stage.balancer.reload(&without.join("\n")).unwrap();
    assert_eq!(tell(&stage, &["drain", "trunk-in/gw1"]).code, Some(4));
    stage.balancer.reload(&stage.settings.yaml()).unwrap();
    assert_eq!(stage.balancer.backend("gw1", "admin").unwrap(), "ready");

    for backend in ["gw1", "gw2"] {
        assert_eq!(tell(&stage, &["drain", &format!("trunk-in/{backend}")]).code, Some(0));
    }
    let said = tell(&stage, &["drain", "trunk-in/gw3"]);
    assert!(said.code == Some(0) && said.out.contains("no usable backend left"), "{said:?}");
    stage.balancer.process().terminate(SOON).unwrap();
    assert_eq!(tell(&stage, &["drain", "trunk-in/gw1"]).code, Some(3));
    assert_eq!(tell(&stage, &["undrain", "trunk-in/gw1"]).code, Some(3));
}

/// Holds calls while the second backend hangs, so that their BYEs are sent to a backend that is
/// down, and lets it run again. How many were held there; what became of all; the backends that
/// each call's requests arrived at.
fn hang_up_on_a_hanging_backend(keep: bool) -> (u64, lb_tests::sipp::Outcome, usize) {
    const CALLS: u64 = 60;
    let mut stage = stage(keep);
    let held = hold(&stage, 5070, CALLS, Duration::from_secs(6));
    let there = at_second(&stage) as u64;
    assert!(there > 5, "{there}");
    stage.servers[1].process().freeze().unwrap();
    stage.balancer.wait_for("gw2", "health", &"down".into(), SOON).unwrap();
    let byes = |stage: &Stage| {
        let wires = stage.wires();
        let byes = wires.caller.iter().filter(|m| m.outgoing && m.is_request("BYE"));
        byes.map(|m| m.call_id.clone()).collect::<std::collections::BTreeSet<_>>().len()
    };
    lb_tests::process::wait_for("the BYE of every call", LONG, || {
        Ok((byes(&stage) == CALLS as usize).then_some(()))
    })
    .unwrap();
    assert_eq!(stage.balancer.backend("gw2", "health").unwrap(), "down");
    stage.servers[1].process().thaw().unwrap();
    let outcome = held.finish(LONG).unwrap();
    let moved = stage.wires().places().values().filter(|backends| backends.len() > 1).count();
    let kept =
        stage.metric("sip_lb_forwarded_packets_total{direction=\"to-backend\",reason=\"keep\"}");
    assert_eq!(kept.unwrap() > 0.0, keep);
    (there, outcome, moved)
}

#[test]
fn kept_calls_wait_for_their_backend_to_come_back() {
    let (there, outcome, moved) = hang_up_on_a_hanging_backend(true);
    println!("keep: {there} calls at the backend that hung; {outcome:?}");
    assert_eq!((outcome.successful, outcome.failed, outcome.cut), (60, 0, 0), "{outcome:?}");
    assert_eq!(moved, 0);
}

#[test]
fn rehashed_calls_leave_a_backend_that_hangs() {
    let (there, outcome, moved) = hang_up_on_a_hanging_backend(false);
    println!("rehash: {there} calls at the backend that hung; {outcome:?}");
    assert_eq!((outcome.successful, outcome.cut), (60 - there, there), "{outcome:?}");
    assert_eq!(moved as u64, there);
}
