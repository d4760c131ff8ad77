//! Established calls stay put while the farm changes around them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::{Duration, Instant},
};

use lb_tests::{
    balancer::Settings,
    lab::Plan,
    sipp::{Calls, Uac},
    stage::{Losses, Stage, Wires},
    tap::Heard,
};

const LONG: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(15);

/// Calls of the long run, placed at [`RATE`]; `SIP_LB_CALLS` asks for more.
const CALLS: u64 = 1_500;
/// Calls a second of the long run; `SIP_LB_RATE` asks for more.
const RATE: u32 = 100;

fn asked(variable: &str, otherwise: u64) -> u64 {
    let value = env::var(variable).ok();
    value.map_or(otherwise, |value| value.parse().expect("a number"))
}

/// Calls from a port of their own that are set up now and stay for `hold`.
fn hold(stage: &Stage, port: u16, count: u64, hold: Duration) -> Uac {
    let calls =
        Calls { rate: 50, count: Some(count), hold, patience: Some(LONG), ..Calls::default() };
    let uac = stage.call_from(port, &calls).expect("held calls");
    stage
        .wait_for("set-up of the held calls", SOON, |_wires| {
            (uac.outcome().ok()?.setups == count).then_some(())
        })
        .unwrap();
    uac
}

fn assert_unbroken(stage: &Stage, uac: Uac, count: u64) {
    let outcome = uac.finish(LONG).unwrap();
    let seen = (outcome.successful, outcome.failed, outcome.cut);
    assert_eq!(seen, (count, 0, 0), "{outcome:?}");
    let wires = stage.settled();
    assert_eq!(wires.losses(), Losses::default());
    assert!(wires.places().values().all(|backends| backends.len() == 1), "a call was moved");
}

fn arrivals(stage: &Stage) -> Vec<usize> {
    let wires = stage.wires();
    (0..wires.backends.len()).map(|n| wires.arrivals(n).len()).collect()
}

/// Loads a configuration with other backends.
fn reload(stage: &Stage, change: impl FnOnce(&mut Settings)) {
    let mut settings = stage.settings.clone();
    change(&mut settings);
    stage.balancer.reload(&settings.yaml()).unwrap();
}

#[test]
fn calls_stay_while_weights_change_and_backends_are_added_and_removed() {
    const COUNT: u64 = 90;
    const HOLD: Duration = Duration::from_secs(12);
    let stage = Stage::set(Plan { backends: 4, ..Plan::default() }, |_site, settings| {
        settings.backends.truncate(3);
    })
    .expect("the stage is set");
    let all = Settings::of(&stage.site).backends;
    let held_since = Instant::now();
    let held = hold(&stage, 5070, COUNT, HOLD);
    let first = arrivals(&stage);
    assert!(first[..3].iter().all(|got| *got > 10), "{first:?}");

    // Weights turned upside down: most slots change hands.
    reload(&stage, |s| (s.backends[0].weight, s.backends[1].weight) = (1, 100));
    let weighted = hold(&stage, 5071, 60, HOLD);
    let then = arrivals(&stage);
    assert!(then[1] - first[1] > 50, "{first:?} {then:?}");
    // A fourth one that should have most of what the others hold; up after its first probe.
    reload(&stage, |s| {
        s.backends.clone_from(&all);
        s.backends[3].weight = 1_000;
    });
    let mut settings = stage.settings.clone();
    settings.backends.clone_from(&all);
    stage
        .wait_for("the new backend's share", SOON, |_w| {
            let share = stage.balancer.backend("gw4", "share").ok()?.as_f64()?;
            (share > 0.9).then_some(())
        })
        .unwrap();
    let before = arrivals(&stage);
    let added = hold(&stage, 5072, 60, HOLD);
    let after = arrivals(&stage);
    assert!(after[3] - before[3] > 50, "{before:?} {after:?}");
    // The second, which has most calls, is removed: retired, not forgotten.
    reload(&stage, |s| {
        s.backends.remove(1);
    });
    let status = stage.balancer.status().unwrap();
    let retired = status["retired"].as_array().unwrap();
    let named: Vec<_> = retired.iter().map(|r| r["backend"].as_str().unwrap()).collect();
    assert_eq!(named, ["gw2", "gw4"], "{status}");
    let before = arrivals(&stage);
    let removed = hold(&stage, 5073, 60, Duration::from_secs(1));
    let after = arrivals(&stage);
    assert_eq!((after[1], after[3]), (before[1], before[3]), "a new call came to a retired one");
    assert!(held_since.elapsed() < HOLD, "the held calls ended before the last change");
    // A sweep finds the calls of those that were removed.
    let calls_of = |name: &str| {
        let status = stage.balancer.status().ok()?;
        let retired = status["retired"].as_array()?.iter().find(|r| r["backend"] == name)?;
        retired["live_dialogs"].as_u64()
    };
    stage
        .wait_for("the retired backend's calls in status", SOON, |_w| {
            (calls_of("gw4")? == after[3] as u64).then_some(())
        })
        .unwrap();
    assert_unbroken(&stage, held, COUNT);
    for uac in [weighted, added, removed] {
        assert_unbroken(&stage, uac, 60);
    }
    println!("calls at each backend: {:?}", arrivals(&stage));
    assert_eq!(stage.metric("sip_lb_events_total{event=\"dialog-moved\"}").unwrap(), 0.0);
}

#[test]
fn calls_of_the_second_tier_stay_there_when_the_first_one_comes_back() {
    const COUNT: u64 = 60;
    let mut stage = Stage::set(Plan { backends: 3, ..Plan::default() }, |_site, settings| {
        for backend in &mut settings.backends[1..] {
            backend.priority = 20;
        }
    })
    .expect("the stage is set");
    stage.servers[0].process().freeze().unwrap();
    stage.balancer.wait_for("gw1", "health", &"down".into(), SOON).unwrap();
    // The first backend that falls silent is believed once another one has answered.
    let asked = Instant::now();
    while stage.balancer.status().unwrap()["services"][0]["active_priority"] != 20 {
        assert!(asked.elapsed() < Duration::from_secs(1), "the second tier does not take over");
        std::thread::sleep(Duration::from_millis(10));
    }
    let since = Instant::now();
    let held = hold(&stage, 5070, COUNT, Duration::from_secs(7));
    assert_eq!(arrivals(&stage)[0], 0);
    stage.servers[0].process().thaw().unwrap();
    stage.balancer.wait_for("gw1", "health", &"up".into(), SOON).unwrap();
    let new = hold(&stage, 5071, 30, Duration::from_secs(1));
    assert_eq!(arrivals(&stage)[0], 30, "the first tier has all new calls");
    assert!(since.elapsed() < Duration::from_secs(7), "the held calls ended before the change");
    assert_unbroken(&stage, held, COUNT);
    assert_unbroken(&stage, new, 30);
}

/// What the wires say of a run in which one backend was killed.
#[derive(Debug, Default)]
struct Broken {
    /// Calls that the killed backend had when it died.
    of_the_killed: usize,
    /// Others that began while it was dead and not yet known to be: set up elsewhere.
    begun_at_the_dead: usize,
    /// All others that got requests at two backends, ...
    moved: usize,
    /// ... whose BYE was answered by 481, ...
    misrouted: usize,
    /// ... or by no 200.
    unfinished: usize,
    /// Their requests that were sent again.
    retransmissions: usize,
}

/// Judges each call by what was on the wires; the backend `killed` was dead until `back`.
///
/// Which calls it had is told by what it said itself: it went on for a moment after its death was
/// resolved on, and a tap on a busy machine notes the time late.
fn judge(wires: &Wires, killed: usize, back: Instant) -> Broken {
    let answers = |heard: &'_ [Heard], status: u16, outgoing: bool| -> BTreeSet<String> {
        let byes = heard.iter().filter(|m| m.outgoing == outgoing && m.cseq_method == "BYE");
        byes.filter(|m| m.status() == Some(status)).map(|m| m.call_id.clone()).collect()
    };
    let (ended, refused) = (answers(&wires.caller, 200, false), answers(&wires.caller, 481, false));
    let before: Vec<_> = wires.backends[killed].iter().filter(|m| m.at < back).cloned().collect();
    let calls = |outgoing: bool| -> BTreeSet<String> {
        before.iter().filter(|m| m.outgoing == outgoing).map(|m| m.call_id.clone()).collect()
    };
    let done = answers(&before, 200, true);
    let lost: BTreeSet<_> = calls(true).difference(&done).cloned().collect();
    let dead: BTreeSet<_> = calls(false).difference(&calls(true)).cloned().collect();
    let mut broken =
        Broken { of_the_killed: lost.len(), begun_at_the_dead: dead.len(), ..Broken::default() };
    for (id, backends) in &wires.places() {
        if lost.contains(id) {
            continue;
        }
        broken.moved += usize::from(backends.len() > 1 && !dead.contains(id));
        broken.misrouted += usize::from(refused.contains(id));
        broken.unfinished += usize::from(!ended.contains(id));
    }
    let mut sent: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for message in wires.caller.iter().filter(|m| m.outgoing && m.status().is_none()) {
        let id = &message.call_id;
        if !lost.contains(id) && !dead.contains(id) {
            *sent.entry((id, &message.start_line)).or_default() += 1;
        }
    }
    broken.retransmissions = sent.values().map(|times| times - 1).sum();
    broken
}

#[test]
fn no_call_is_broken_while_backends_die_return_drain_come_and_go_and_weights_change() {
    const KILLED: usize = 2;
    let count = asked("SIP_LB_CALLS", CALLS);
    let rate = u32::try_from(asked("SIP_LB_RATE", RATE.into())).unwrap();
    let mut stage = Stage::set(Plan { backends: 5, ..Plan::default() }, |_site, settings| {
        settings.backends.truncate(4);
    })
    .expect("the stage is set");
    let all = Settings::of(&stage.site).backends;
    let calls = Calls {
        rate,
        count: Some(count),
        // Long enough that a call sees several reloads.
        hold: Duration::from_secs(4),
        patience: Some(LONG),
        ..Calls::default()
    };
    let uac = stage.call(&calls).expect("calls");
    let placing = Duration::from_secs_f64(count as f64 / f64::from(rate));
    let start = Instant::now();
    let at = |part: f64| placing.mul_f64(part);
    let (mut reloads, mut killed, mut back, mut drained, mut undrained) =
        (0_u16, false, None, false, false);
    while start.elapsed() < placing + calls.hold {
        let now = start.elapsed();
        if !killed && now > at(0.2) {
            killed = true;
            stage.servers[KILLED].process().kill().unwrap();
        }
        if back.is_none() && now > at(0.4) {
            back = Some(Instant::now());
            stage.restart_server(KILLED).unwrap();
        }
        if !drained && now > at(0.3) {
            assert_eq!(stage.balancer.tell(&["drain", "trunk-in/gw2"]).unwrap().code, Some(0));
            drained = true;
        }
        if !undrained && now > at(0.7) {
            assert_eq!(stage.balancer.tell(&["undrain", "trunk-in/gw2"]).unwrap().code, Some(0));
            undrained = true;
        }
        reload(&stage, |settings| {
            // A fifth backend is there for the middle part.
            if now > at(0.35) && now < at(0.75) {
                settings.backends.clone_from(&all);
            }
            for (weight, backend) in (1..).zip(&mut settings.backends) {
                backend.weight = 1 + (weight * (reloads + 1) * 37) % 100;
            }
        });
        reloads += 1;
        std::thread::sleep(Duration::from_secs(1).saturating_sub(start.elapsed() - now));
    }
    let outcome = uac.finish(LONG).unwrap();
    let wires = stage.settled();
    let back = back.expect("a killed backend that returns");
    let broken = judge(&wires, KILLED, back);
    let served: Vec<_> = stage.servers.iter().map(|s| s.served().unwrap()).collect();
    println!(
        "{count} calls at {rate}/s, {reloads} reloads with other weights, gw3 killed and returned, \
         gw2 drained and undrained, gw5 added and removed: {outcome:?}; {broken:?}; \
         calls at each backend {:?}; 481s of each {:?}; losses {:?}",
        arrivals(&stage),
        served.iter().map(|s| s.strays).collect::<Vec<_>>(),
        wires.losses(),
    );
    assert!(drained && undrained);
    assert_eq!((broken.moved, broken.misrouted, broken.unfinished), (0, 0, 0), "{broken:?}");
    assert_eq!(outcome.placed, count);
    // Death is noticed within a second.
    assert!(broken.begun_at_the_dead < 2 * rate as usize, "{broken:?}");
    assert!(outcome.cut + outcome.failed <= broken.of_the_killed as u64, "{outcome:?}");
    assert_eq!(wires.losses().to_callers, 0);
    let fifth = wires.arrivals(4).len();
    assert!(fifth > 0, "the fifth backend had no call");
    let returned = wires.arrivals(KILLED).iter().filter(|at| **at > back).count();
    assert!(returned > 0, "the killed backend had no call after its return");
}
