//! An INVITE that replaces or joins a dialog goes to the backend that has that dialog, and stays
//! there. With real peers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use lb_tests::{
    balancer::{Balancer, Settings},
    lab::{Plan, Site},
    net::{FAMILIES, Family},
    peer::{Peer, Tally},
    process::wait_for,
    stage::metric,
    tap::Tap,
};

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(15);
const CALLS: u64 = 60;
const RATE: u32 = 60;
/// What a second call's Call-ID has before that of the first.
const SECOND: &str = "transfer///";

/// All of `count` ended well.
fn well(count: u64) -> Tally {
    Tally { created: count, successful: count, failed: 0 }
}

/// Taps on the wires of the backends.
fn taps(site: &Site) -> Vec<Tap> {
    site.backends.iter().map(|host| Tap::on(host, "eth0").expect("a tap")).collect()
}

/// The hosts where requests of each call arrived, of its first Call-ID and of its second.
fn places(wires: &[Tap]) -> BTreeMap<String, [BTreeSet<usize>; 2]> {
    let mut places = BTreeMap::<_, [BTreeSet<_>; 2]>::new();
    for (n, tap) in wires.iter().enumerate() {
        for message in tap.heard() {
            if !message.outgoing && message.cseq_method != "OPTIONS" {
                let second = message.call_id.strip_prefix(SECOND);
                let id = second.unwrap_or(&message.call_id).to_owned();
                places.entry(id).or_default()[usize::from(second.is_some())].insert(n);
            }
        }
    }
    places
}

/// Each call and the one that refers to it were at one backend, and the calls at all of them.
fn assert_together(wires: &[Tap]) {
    let places = places(wires);
    assert_eq!(places.len() as u64, CALLS, "{places:?}");
    for (call, [first, second]) in &places {
        assert_eq!((first, first.len()), (second, 1), "{call}");
    }
    let used: BTreeSet<_> = places.into_values().flat_map(|[first, _]| first).collect();
    assert_eq!(used.len(), wires.len(), "{used:?}");
}

/// Calls to servers that are taken over, after `meanwhile`.
fn taken_over(family: Family, hold: Duration, meanwhile: impl FnOnce(&Balancer, Settings)) {
    let site = Plan { family, backends: 3, ..Plan::default() }.build().expect("a laboratory");
    let directory = site.lab.directory();
    let servers: Vec<_> = (0..)
        .zip(&site.backends)
        .map(|(n, host)| {
            let address = site.backend_address(n);
            Peer::serve(host, directory, "transferee", address, Duration::ZERO).unwrap()
        })
        .collect();
    let wires = taps(&site);
    let balancer = Balancer::start(&site, &Settings::of(&site)).expect("sip-lb");
    let headers = directory.join("headers.csv");
    fs::write(&headers, "SEQUENTIAL\nReplaces\nJoin\n").unwrap();
    let words = ["-inf", headers.to_str().unwrap()];
    let (host, local, vip) = (&site.callers[0], site.caller_address(0), site.vip(0));
    let pace = (CALLS, RATE, hold);
    let caller = Peer::play_with(host, directory, "transferor", local, vip, pace, &words).unwrap();
    wait_for("the set-up of all calls", SOON, || {
        Ok((caller.count("setups").unwrap_or(0) == CALLS).then_some(()))
    })
    .unwrap();
    meanwhile(&balancer, Settings::of(&site));
    assert_eq!(caller.finish(LONG).expect("an end"), well(CALLS), "{}", balancer.tail());
    assert_together(&wires);
    let counts = |counter: &str| -> u64 {
        wait_for("the servers' counts", SOON, || {
            let sum = servers.iter().map(|server| server.count(counter)).sum::<anyhow::Result<_>>();
            Ok(sum.ok())
        })
        .unwrap()
    };
    wait_for("all transfers", SOON, || Ok((counts("transfers") == CALLS).then_some(()))).unwrap();
    assert_eq!(counts("strangers"), 0);
    let by_name = "sip_lb_forwarded_packets_total{direction=\"to-backend\",reason=\"replaces\"}";
    assert!(metric(&site, by_name).unwrap() >= CALLS as f64);
}

#[test]
fn a_call_that_replaces_or_joins_another_goes_to_its_backend_and_stays_there() {
    for family in FAMILIES {
        taken_over(family, Duration::from_millis(1500), |_balancer, _settings| ());
    }
}

#[test]
fn it_finds_its_backend_though_slots_have_other_owners_now() {
    taken_over(Family::V4, Duration::from_secs(4), |balancer, mut settings| {
        // The first two have next to none of the slots by which they got their calls.
        settings.backends[2].weight = 60_000;
        balancer.reload(&settings.yaml()).unwrap();
        assert_eq!(balancer.tell(&["drain", "trunk-in/gw1"]).unwrap().code, Some(0));
    });
}

#[test]
fn it_goes_to_the_backend_that_began_the_call() {
    const EACH: u64 = CALLS / 3;
    let site = Plan { backends: 3, ..Plan::default() }.build().expect("a laboratory");
    let directory = site.lab.directory();
    let wires = taps(&site);
    let mut settings = Settings::of(&site);
    settings.unprobed();
    let balancer = Balancer::start(&site, &settings).expect("sip-lb");
    let address = site.caller_address(0);
    for refers in ["Replaces", "Join"] {
        let (phone, hold) = (&site.callers[0], Duration::from_millis(200));
        let words = ["-key", "refers", refers];
        let phones = Peer::serve_with(phone, directory, "taker", address, hold, &words).unwrap();
        let servers: Vec<_> = (0..)
            .zip(&site.backends)
            .map(|(n, host)| {
                let local = site.backend_address(n);
                let pace = (EACH / 2, RATE);
                Peer::play(host, directory, "dialer", local, address, pace, Duration::ZERO).unwrap()
            })
            .collect();
        for server in servers {
            assert_eq!(server.finish(LONG).expect("an end"), well(EACH / 2), "{}", balancer.tail());
        }
        wait_for("the end of the phones' part", SOON, || {
            Ok((phones.tally()?.successful == CALLS / 2).then_some(()))
        })
        .unwrap();
    }
    assert_together(&wires);
}
