//! What chooses beside the Call-ID, with real calls: one key, one backend; what is inside a dialog stays
//! with it, though its URIs are others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_tests::{
    lab::Plan,
    net::FAMILIES,
    peer::{Peer, Tally},
    stage::{Losses, Stage},
};

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(15);
/// A busy machine is no dead backend: probes may take their time.
const PATIENT: &str = "interval: 2s, fast_interval: 1s, timeout: 2s";

/// Three backends; `choose` are the lines of the service that say how.
fn stage(plan: Plan, choose: &str) -> Stage {
    Stage::set(plan, |_site, settings| {
        settings.health = PATIENT.to_owned();
        choose.clone_into(&mut settings.policy);
    })
    .expect("the stage is set")
}

/// All of `count` ended well.
fn assert_well(stage: &Stage, calls: Peer, count: u64) {
    let tally = calls.finish(LONG).expect("the calls come to an end");
    let well = Tally { created: count, successful: count, failed: 0 };
    assert_eq!(tally, well, "{}", stage.balancer.tail());
}

/// No BYE has met a backend that did not know its call, and nothing was lost.
fn assert_no_strays(stage: &Stage) {
    let wires = stage.settled();
    let strays = wires.caller.iter().filter(|message| message.status() == Some(481)).count();
    let seen = (strays, wires.losses());
    // Dialogs of a backend that is down move.
    assert_eq!(seen, (0, Losses::default()), "{}", stage.balancer.tail());
}

/// The position in a line of what a `balance` goes by.
const FIELDS: [(&str, usize); 4] =
    [("request-user", 0), ("request-domain", 1), ("from-user", 2), ("to-user", 3)];

#[test]
fn calls_with_one_user_or_domain_go_to_one_backend_whatever_their_call_id() {
    const CALLS: u64 = 60;
    const VALUES: u64 = 12;
    for family in FAMILIES {
        let mut stage = stage(Plan { family, backends: 3, ..Plan::default() }, "");
        for (port, (balance, field)) in (5070..).zip(FIELDS) {
            stage.settings.policy = format!("    balance: {balance}\n");
            stage.balancer.reload(&stage.settings.yaml()).unwrap();
            // One field repeats, the others are new in every call.
            let line = |n: u64| {
                [0, 1, 2, 3]
                    .map(|at| format!("x{}", if at == field { n % VALUES } else { 1000 + n }))
            };
            let pace = (CALLS, 100, Duration::from_millis(100));
            let calls = stage.play("keyed", port, pace, line).unwrap();
            assert_well(&stage, calls, CALLS);
            let mut by_value = BTreeMap::<u64, BTreeSet<usize>>::new();
            let places = stage.places_of(port);
            assert_eq!(places.len() as u64, CALLS);
            for (n, backends) in places {
                by_value.entry(n % VALUES).or_default().extend(backends);
            }
            assert!(by_value.values().all(|at| at.len() == 1), "{balance}: {by_value:?}");
            let used: BTreeSet<_> = by_value.values().flatten().collect();
            assert_eq!(used.len(), 3, "{balance}: {by_value:?}");
        }
        assert_no_strays(&stage);
    }
}

#[test]
fn all_calls_of_one_address_go_to_one_backend() {
    const EACH: u64 = 10;
    let stage =
        stage(Plan { backends: 3, callers: 8, ..Plan::default() }, "    balance: source-ip\n");
    let callers: Vec<_> = (0..)
        .zip(&stage.site.callers)
        .map(|(n, host)| {
            let (directory, vip) = (stage.site.lab.directory(), stage.settings.listen);
            let (local, pace) = (stage.site.caller_address(n), (EACH, 20));
            Peer::play(host, directory, "uac", local, vip, pace, Duration::from_millis(100))
                .unwrap()
        })
        .collect();
    for mut caller in callers {
        caller.process().wait(LONG).unwrap();
        assert_eq!(caller.count("cut").unwrap(), 0);
        assert_well(&stage, caller, EACH);
    }
    let mut by_source = BTreeMap::<_, BTreeSet<usize>>::new();
    let wires = stage.wires();
    for (n, heard) in wires.backends.iter().enumerate() {
        for message in heard.iter().filter(|message| !message.outgoing) {
            by_source.entry(message.source).or_default().insert(n);
        }
    }
    assert_eq!(wires.places().len() as u64, 8 * EACH);
    assert_eq!(by_source.len(), 8, "{by_source:?}");
    assert!(by_source.values().all(|at| at.len() == 1), "{by_source:?}");
    let used: BTreeSet<_> = by_source.values().flatten().collect();
    assert!(used.len() > 1, "{by_source:?}");
}

/// How many new calls from `port` each of three backends has got.
fn shares(stage: &Stage, port: u16) -> [u64; 3] {
    let mut shares = [0; 3];
    for backends in stage.places_of(port).values() {
        assert_eq!(backends.len(), 1);
        shares[*backends.first().unwrap()] += 1;
    }
    shares
}

/// A line of which no field is used twice.
fn anybody(n: u64) -> [String; 4] {
    [0, 1, 2, 3].map(|at| format!("x{at}-{n}"))
}

#[test]
fn turns_are_taken_by_weight() {
    const CALLS: u64 = 240;
    let mut stage = stage(Plan { backends: 3, ..Plan::default() }, "    balance: round-robin\n");
    for (port, weights) in [(5070, [1, 1, 1]), (5071, [1, 2, 3])] {
        for (backend, weight) in stage.settings.backends.iter_mut().zip(weights) {
            backend.weight = weight;
        }
        stage.balancer.reload(&stage.settings.yaml()).unwrap();
        let pace = (CALLS, 200, Duration::from_millis(500));
        let calls = stage.play("keyed", port, pace, anybody).unwrap();
        assert_well(&stage, calls, CALLS);
        let (shares, sum) = (shares(&stage, port), u64::from(weights.iter().sum::<u16>()));
        println!("weights {weights:?}: {shares:?}");
        for (share, weight) in shares.iter().zip(weights) {
            let due = CALLS * u64::from(weight) / sum;
            // Each CPU has its own turn.
            assert!(share.abs_diff(due) <= 4, "{weights:?}: {shares:?}");
        }
    }
    assert_no_strays(&stage);
}

#[test]
fn new_calls_avoid_the_backend_that_has_more_dialogs_for_its_weight() {
    const HELD: u64 = 60;
    const CALLS: u64 = 90;
    let mut stage = stage(Plan { backends: 3, ..Plan::default() }, "    balance: least-dialogs\n");
    let tell = |stage: &Stage, word: &str, name: &str| {
        let said = stage.balancer.tell(&[word, &format!("trunk-in/{name}")]).unwrap();
        assert_eq!(said.code, Some(0), "{said:?}");
    };
    for name in ["gw2", "gw3"] {
        tell(&stage, "drain", name);
    }
    let hold = Duration::from_secs(6);
    let held = stage.play("keyed", 5070, (HELD, 100, hold), anybody).unwrap();
    stage
        .wait_for("the set-up of the held calls", SOON, |_wires| {
            (held.count("setups").ok()? == HELD).then_some(())
        })
        .unwrap();
    assert_eq!(shares(&stage, 5070), [HELD, 0, 0]);
    for name in ["gw2", "gw3"] {
        tell(&stage, "undrain", name);
    }
    stage.settings.backends[2].weight = 2;
    stage.balancer.reload(&stage.settings.yaml()).unwrap();
    let pace = (CALLS, 100, Duration::from_secs(2));
    let calls = stage.play("keyed", 5071, pace, anybody).unwrap();
    assert_well(&stage, calls, CALLS);
    let shares = shares(&stage, 5071);
    println!("held by the first: {HELD}; of {CALLS} new ones each got {shares:?}");
    // By hash it would be 22, 22, 45. The first is chosen only if all draws of a call fall on it.
    assert!(shares[0] <= 4, "{shares:?}");
    assert!(shares[1].abs_diff(30) <= 6 && shares[2].abs_diff(60) <= 6, "{shares:?}");
    assert_well(&stage, held, HELD);
    assert_no_strays(&stage);
}
