//! Real calls through sip-lb: both families, both layouts, spread by weight, each call on one
//! backend from INVITE to BYE.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::time::Duration;

use lb_tests::{
    lab::{Arms, Plan},
    net::Family,
    sipp::{Calls, Outcome, Uac},
    stage::{Losses, Stage},
};

const LONG: Duration = Duration::from_secs(60);

/// Places calls; all must succeed, each on one backend, nothing lost. How many each backend got.
fn place(plan: Plan, weights: &[u16], rate: u32, count: u64) -> Vec<u64> {
    let stage = Stage::set(plan, |_site, settings| {
        for (backend, weight) in settings.backends.iter_mut().zip(weights) {
            backend.weight = *weight;
        }
    })
    .expect("the stage is set");
    let calls = Calls { rate, count: Some(count), ..Calls::default() };
    let outcome =
        stage.call(&calls).and_then(|uac| uac.finish(LONG)).expect("the calls come to an end");
    let all_well = Outcome {
        placed: count,
        successful: count,
        setups: count,
        // A busy machine may answer late; that is no failure.
        retransmissions: outcome.retransmissions,
        ..Outcome::default()
    };
    assert_eq!(outcome, all_well);

    let wires = stage.settled();
    assert_eq!(wires.losses(), Losses::default());
    let places = wires.places();
    assert_eq!(places.len() as u64, count);
    assert!(places.values().all(|backends| backends.len() == 1), "{places:?}");
    let Stage { balancer, servers, .. } = stage;
    let served: Vec<_> =
        servers.into_iter().map(|server| server.finish().expect("a count")).collect();
    assert!(served.iter().all(|s| s.invites == s.byes && s.strays == 0), "{served:?}");
    assert_eq!(served.iter().map(|s| s.invites).sum::<u64>(), count, "{}", balancer.tail());
    served.into_iter().map(|s| s.invites).collect()
}

#[test]
fn calls_over_two_arms_are_spread_by_weight() {
    const CALLS: u64 = 2_000;
    const WEIGHTS: [u16; 3] = [1, 1, 2];
    let got = place(Plan { backends: 3, ..Plan::default() }, &WEIGHTS, 200, CALLS);
    println!("{CALLS} calls over weights {WEIGHTS:?}: {got:?}");
    let all: u16 = WEIGHTS.iter().sum();
    for (got, weight) in got.into_iter().zip(WEIGHTS) {
        let part = f64::from(weight) / f64::from(all);
        // Call-IDs are like dice: five standard deviations are exceeded once in 1.7 million.
        let tolerance = 5.0 * (CALLS as f64 * part * (1.0 - part)).sqrt();
        let expected = CALLS as f64 * part;
        assert!((got as f64 - expected).abs() < tolerance, "{got}, not {expected} ± {tolerance}");
    }
}

#[test]
fn calls_succeed_over_ipv6() {
    place(Plan { family: Family::V6, ..Plan::default() }, &[1, 1], 100, 300);
}

#[test]
fn calls_succeed_over_one_arm() {
    place(Plan { arms: Arms::One, ..Plan::default() }, &[1, 1], 100, 300);
}

#[test]
fn calls_succeed_over_one_arm_and_ipv6() {
    place(Plan { arms: Arms::One, family: Family::V6, ..Plan::default() }, &[1, 1], 100, 200);
}

#[test]
fn a_backend_that_calls_another_service_on_its_link_is_answered_by_the_vip() {
    const CALLS: u64 = 100;
    let plan = Plan { arms: Arms::One, vips: 2, ..Plan::default() };
    // The first backend serves the first VIP, the second the second.
    let stage = Stage::set(plan, |site, settings| {
        settings.one_backend_each(site);
        // A caller of SIPp answers no probes.
        settings.health = "interval: 120s, timeout: 60s".to_owned();
    })
    .expect("the stage is set");
    let Stage { site, mut servers, balancer, .. } = stage;
    // Only the endpoint itself is a backend: the call must come from its own port.
    drop(servers.remove(0));
    let server = servers.remove(0);
    let tap = lb_tests::tap::Tap::on(&site.backends[0], "eth0").expect("a tap");
    let (host, directory) = (&site.backends[0], site.lab.directory());
    let (local, remote) = (site.backend_address(0), site.vip(1));
    let calls = Calls { rate: 50, count: Some(CALLS), ..Calls::default() };
    let outcome = Uac::start(host, directory, local, remote, &calls)
        .and_then(|uac| uac.finish(LONG))
        .expect("the calls come to an end");
    assert_eq!((outcome.successful, outcome.failed), (CALLS, 0), "{}", balancer.tail());
    let served = server.finish().expect("a count");
    assert_eq!((served.invites, served.byes, served.strays), (CALLS, CALLS, 0));
    let heard = tap.heard();
    let answers: Vec<_> = heard
        .iter()
        .filter(|m| !m.outgoing && m.status().is_some() && m.cseq_method != "OPTIONS")
        .collect();
    assert!(answers.len() as u64 >= 3 * CALLS, "{}", answers.len());
    assert!(answers.iter().all(|m| m.source == remote), "a reply came past this host");
}
