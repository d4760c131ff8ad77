//! Calls in every layout and mode, and by tiers: what the other tests of calls leave out.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use lb_tests::{
    balancer::{Settings, program},
    lab::{Arms, Plan},
    net::{FAMILIES, Family},
    sipp::{Calls, Outcome, Uac},
    stage::{Losses, Stage},
    tap::Heard,
};
use serde_json::json;

const LONG: Duration = Duration::from_secs(40);
/// What `check` prints for [`Settings::QUICK`]: 500 + 2 × 100 + 300 ms.
const WORST_DETECTION: Duration = Duration::from_millis(1_000);

/// Every call ended well, on one backend, and nothing was lost on the way. A retransmission of a
/// peer that was slow is no fault: every copy arrived.
fn assert_all_well(stage: &Stage, outcome: &Outcome, about: &str) {
    let said = format!("{about}: {outcome:?}\n{}", stage.balancer.tail());
    assert_eq!((outcome.failed, outcome.cut), (0, 0), "{said}");
    assert_eq!((outcome.successful, outcome.setups), (outcome.placed, outcome.placed), "{said}");
    let wires = stage.settled();
    assert_eq!(wires.losses(), Losses::default(), "{said}");
    let places = wires.places();
    assert_eq!(places.len() as u64, outcome.placed, "{said}");
    let strangers = places.values().filter(|backends| backends.len() != 1).count();
    assert_eq!(strangers, 0, "calls on several backends; {said}");
}

/// Calls through one layout, in native and in generic mode, with addresses as they must be.
fn calls_through(family: Family, arms: Arms) {
    const CALLS: u64 = 40;
    for (routers, mode) in [(true, "native"), (false, "generic"), (true, "generic")] {
        let plan = Plan {
            family,
            arms,
            client_router: routers,
            backend_router: routers,
            ..Plan::default()
        };
        let about = format!("{plan:?} {mode}");
        let stage = Stage::set(plan, |_site, s| mode.clone_into(&mut s.xdp_mode)).unwrap();
        let attached = stage.balancer.status().unwrap()["attached"].clone();
        assert_eq!(attached[0]["mode"], mode, "{attached}");
        let calls = Calls { rate: 100, count: Some(CALLS), ..Calls::default() };
        let outcome = stage.call(&calls).unwrap().finish(LONG).unwrap();
        assert_eq!(outcome.placed, CALLS);
        assert_all_well(&stage, &outcome, &about);

        let wires = stage.wires();
        let used: BTreeSet<_> = wires.places().into_values().flatten().collect();
        assert_eq!(used, BTreeSet::from([0, 1]), "{about}");
        let sources = |heard: &[Heard]| -> BTreeSet<_> {
            heard.iter().filter(|m| !m.outgoing).map(|m| m.source).collect()
        };
        // The client sees the service alone, the backends see the client.
        assert_eq!(sources(&wires.caller), BTreeSet::from([stage.site.vip(0)]), "{about}");
        for heard in &wires.backends {
            assert_eq!(sources(heard), BTreeSet::from([stage.site.caller_address(0)]), "{about}");
        }
    }
}

#[test]
fn calls_go_through_routers_and_generic_mode_over_two_arms() {
    for family in FAMILIES {
        calls_through(family, Arms::Two);
    }
}

#[test]
fn calls_go_through_routers_and_generic_mode_over_one_arm() {
    for family in FAMILIES {
        calls_through(family, Arms::One);
    }
}

#[test]
fn ipv6_neighbours_forgotten_under_load_cost_no_packet() {
    let plan = Plan { family: Family::V6, ..Plan::default() };
    let stage = Stage::set(plan, |_site, _settings| ()).unwrap();
    let mut uac = stage.call(&Calls { rate: 100, ..Calls::default() }).unwrap();
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(150));
        for nic in &stage.site.interfaces {
            stage.site.edge.ip(&[&format!("neigh flush dev {nic}")]).unwrap();
        }
    }
    let outcome = uac.stop(LONG).unwrap();
    assert!(outcome.placed > 100, "{outcome:?}");
    assert_all_well(&stage, &outcome, "20 flushes");
}

#[test]
fn a_hairpin_to_a_neighbour_that_is_not_known_yet_comes_back_through_sip_lb() {
    const CALLS: u64 = 20;
    for family in FAMILIES {
        let plan = Plan { family, vips: 2, ..Plan::default() };
        // The first backend serves the first VIP, the second the second, on one link. Without
        // health checks nothing makes the edge host ask for their MACs before calls come.
        let mut stage = Stage::set(plan, |site, settings| {
            settings.one_backend_each(site);
            settings.health = "interval: 120s, timeout: 60s".to_owned();
        })
        .unwrap();
        stage.servers[0].process().kill().unwrap();
        let (host, directory) = (&stage.site.backends[0], stage.site.lab.directory());
        let (local, remote) = (stage.site.backend_address(0), stage.site.vip(1));
        let calls = Calls { rate: 20, count: Some(CALLS), ..Calls::default() };
        for nic in &stage.site.interfaces {
            stage.site.edge.ip(&[&format!("neigh flush dev {nic}")]).unwrap();
        }
        let mut uac = Uac::start(host, directory, local, remote, &calls).unwrap();
        while uac.process().ended().unwrap().is_none() {
            for nic in &stage.site.interfaces {
                stage.site.edge.ip(&[&format!("neigh flush dev {nic}")]).unwrap();
            }
            thread::sleep(Duration::from_millis(20));
        }
        let outcome = uac.finish(LONG).unwrap();
        assert_eq!((outcome.successful, outcome.failed), (CALLS, 0), "{outcome:?}");
        let wires = stage.wires();
        let sources = |heard: &[Heard]| -> BTreeSet<_> {
            heard.iter().filter(|m| !m.outgoing).map(|m| m.source).collect()
        };
        assert_eq!(sources(&wires.backends[0]), BTreeSet::from([remote]), "replies");
        assert_eq!(sources(&wires.backends[1]), BTreeSet::from([stage.site.vip(0)]), "requests");
    }
}

#[test]
fn a_closed_port_is_noticed_before_any_probe_times_out() {
    let mut stage = Stage::set(Plan::default(), |_site, settings| {
        // By time-outs alone: at least two fast intervals and one time-out, 4 s.
        settings.health = "interval: 2s, fast_interval: 1s, timeout: 2s, rise: 2, fall: 3".into();
    })
    .unwrap();
    let killed = Instant::now();
    stage.servers[0].process().kill().unwrap();
    // Three probes, each refused at once by ICMP port-unreachable.
    stage.balancer.wait_for("gw1", "health", &json!("down"), LONG).unwrap();
    let took = killed.elapsed();
    println!("down after {took:?}");
    // The next probe comes within 2 s, two more a second apart at the latest.
    assert!(took < Duration::from_millis(4_500), "{took:?}");
    let reason = stage.balancer.backend("gw1", "last_reason").unwrap();
    assert!(reason.as_str().unwrap().contains("unreachable"), "{reason}");
}

#[test]
fn the_next_tier_takes_over_in_time_and_gives_back_without_breaking_dialogs() {
    let plan = Plan { backends: 3, ..Plan::default() };
    let mut stage = Stage::set(plan, |_site, s| s.backends[2].priority = 20).unwrap();
    let short = Calls { rate: 100, hold: Duration::ZERO, ..Calls::default() };
    let mut short = stage.call_from(5070, &short).unwrap();
    stage
        .wait_for("calls on the first tier", LONG, |wires| {
            (wires.arrivals(0).len() > 20 && wires.arrivals(1).len() > 20).then_some(())
        })
        .unwrap();
    assert!(stage.wires().arrivals(2).is_empty(), "the second tier has calls already");
    let hung = Instant::now();
    for n in [0, 1] {
        stage.servers[n].process().freeze().unwrap();
    }
    let first =
        stage.wait_for("a call on the second tier", LONG, |w| w.arrivals(2).first().copied());
    let took = first.unwrap().duration_since(hung);
    println!("second tier after {took:?}");
    // 100 ms for the change itself, 200 for processes that share a busy machine.
    assert!(took < WORST_DETECTION + Duration::from_millis(300), "{took:?}");
    short.stop(Duration::from_secs(60)).unwrap();

    // Long calls on the second tier, which end only after the first is back.
    let before = stage.wires().arrivals(2).len();
    let long = Calls { rate: 50, hold: Duration::from_secs(6), ..Calls::default() };
    let mut long = stage.call(&long).unwrap();
    stage
        .wait_for("long calls", LONG, |w| (w.arrivals(2).len() > before + 100).then_some(()))
        .unwrap();
    let back = Instant::now();
    for n in [0, 1] {
        stage.restart_server(n).unwrap();
        let name = format!("gw{}", n + 1);
        stage.balancer.wait_for(&name, "health", &json!("up"), LONG).unwrap();
    }
    stage
        .wait_for("new calls on the first tier", LONG, |wires| {
            [0, 1].iter().all(|n| wires.arrivals(*n).iter().any(|at| *at > back)).then_some(())
        })
        .unwrap();
    let outcome = long.stop(LONG).unwrap();
    assert_eq!((outcome.failed, outcome.cut), (0, 0), "{outcome:?}\n{}", long.errors());
    assert_eq!(outcome.successful, outcome.placed, "{outcome:?}");
}

#[test]
fn a_bad_configuration_at_the_start_ends_with_status_2_and_names_the_place() {
    let site = Plan::default().build().unwrap();
    let path = site.lab.directory().join("bad.yaml");
    let yaml = Settings::of(&site).yaml().replace("weight: 1", "weight: heavy");
    fs::write(&path, yaml).unwrap();
    let mut run = site.edge.command(program());
    let done = run.arg("run").arg("--config").arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("weight") && said.contains("heavy"), "{said}");
    assert!(!site.lab.pin_dir().exists());
}
