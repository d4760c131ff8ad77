//! Domains and methods have backends of their own, with real calls and registrations.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{collections::BTreeSet, time::Duration};

use lb_tests::{
    lab::Plan,
    peer::Tally,
    stage::{Losses, Stage},
};

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(15);
const CALLS: u64 = 30;

/// Request domains, and the backends that calls for them go to.
const DOMAINS: [(&str, &[usize]); 6] = [
    ("corporate.example", &[2]),
    ("Corporate.EXAMPLE", &[2]),
    ("one.branch.example", &[2]),
    ("deep.below.branch.example:5060", &[2]),
    ("branch.example", &[0, 1]),
    ("other.example", &[0, 1]),
];

/// Two backends of the service; two of some domains, one for when the other is down; two registrars.
fn stage() -> (Stage, String, String) {
    let (mut domains, mut methods) = (String::new(), String::new());
    let stage = Stage::set(Plan { backends: 6, ..Plan::default() }, |site, settings| {
        settings.backends.truncate(2);
        let [corp1, corp2, reg1, reg2] = [2, 3, 4, 5].map(|n| site.backend_address(n));
        domains = format!(
            "    domains:\n      - match: [corporate.example, \"*.branch.example\"]\n        backends:\n\
             \x20         - {{ name: corp1, address: \"{corp1}\", priority: 1 }}\n\
             \x20         - {{ name: corp2, address: \"{corp2}\", priority: 2 }}\n"
        );
        methods = format!(
            "    methods:\n      - match: [REGISTER]\n        backends:\n\
             \x20         - {{ name: reg1, address: \"{reg1}\" }}\n\
             \x20         - {{ name: reg2, address: \"{reg2}\" }}\n"
        );
        settings.policy.clone_from(&domains);
    })
    .expect("the stage is set");
    (stage, domains, methods)
}

/// Plays a scenario with each of [`DOMAINS`] by turns: all must end well, each at one backend. The
/// backends that each domain used.
fn play(stage: &Stage, scenario: &str, port: u16) -> Vec<BTreeSet<usize>> {
    let count = CALLS * DOMAINS.len() as u64;
    let domain = |n: u64| usize::try_from(n).unwrap() % DOMAINS.len();
    let line = |n: u64| {
        // Who calls and who is called says nothing of the domain.
        [format!("user{n}"), DOMAINS[domain(n)].0.into(), "corporate.example".into(), "x".into()]
    };
    let pace = (count, 100, Duration::from_millis(300));
    let calls = stage.play(scenario, port, pace, line).unwrap();
    let tally = calls.finish(LONG).expect("an end");
    let well = Tally { created: count, successful: count, failed: 0 };
    assert_eq!(tally, well, "{}", stage.balancer.tail());
    let mut used = vec![BTreeSet::new(); DOMAINS.len()];
    let places = stage.places_of(port);
    assert_eq!(places.len() as u64, count);
    for (n, at) in places {
        assert_eq!(at.len(), 1, "{scenario} {n}: {at:?}");
        used[domain(n)].extend(at);
    }
    used
}

/// What [`DOMAINS`] says, with another backend in the place of the domain's first one.
fn as_written(domain_at: usize) -> Vec<BTreeSet<usize>> {
    let each = DOMAINS.iter().map(|(_, at)| if *at == [2] { vec![domain_at] } else { at.to_vec() });
    each.map(BTreeSet::from_iter).collect()
}

#[test]
fn calls_and_registrations_for_a_domain_go_to_its_backends_and_to_its_next_tier() {
    let (mut stage, _, _) = stage();
    assert_eq!(play(&stage, "keyed", 5070), as_written(2));
    // A registration goes by its Request-URI.
    assert_eq!(play(&stage, "registering", 5071), as_written(2));
    let wires = stage.settled();
    let strays = wires.caller.iter().filter(|message| message.status() == Some(481)).count();
    assert_eq!((strays, wires.losses()), (0, Losses::default()));

    let up = "sip_lb_backend_up{backend=\"corp1\",priority=\"1\",service=\"trunk-in\"}";
    assert!(stage.metric(up).unwrap() > 0.5);
    stage.servers[2].process().freeze().unwrap();
    stage
        .wait_for("the domain's first backend to be down", SOON, |_wires| {
            (stage.metric(up).ok()? < 0.5).then_some(())
        })
        .unwrap();
    assert_eq!(play(&stage, "keyed", 5072), as_written(3));
}

#[test]
fn registrations_go_to_the_registrars_whatever_their_domain_and_calls_do_not() {
    let (mut stage, domains, methods) = stage();
    stage.settings.policy = format!("{domains}{methods}");
    stage.balancer.reload(&stage.settings.yaml()).unwrap();
    // Added by the reload: in use from their first answer on.
    stage
        .wait_for("the registrars", SOON, |_wires| {
            let up = |name| {
                let series = format!(
                    "sip_lb_backend_up{{backend=\"{name}\",priority=\"10\",service=\"trunk-in\"}}"
                );
                Some(stage.metric(&series).ok()? > 0.5)
            };
            (up("reg1")? && up("reg2")?).then_some(())
        })
        .unwrap();
    let registrars = vec![BTreeSet::from([4, 5]); DOMAINS.len()];
    assert_eq!(play(&stage, "registering", 5070), registrars);
    assert_eq!(play(&stage, "keyed", 5071), as_written(2));
}
