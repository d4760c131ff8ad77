//! Dialogs that backends begin, that pass two backends, or whose backend was away for a while: each
//! message of theirs reaches the backend that it is for. With real peers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use lb_tests::{
    balancer::{Balancer, Settings},
    kamailio::{self, Kamailio},
    lab::{Host, Plan, Site},
    message::{Message, Method},
    net::Family,
    peer::{Peer, Tally},
    process::wait_for,
    sipp::{Calls, Uac, Uas},
    stage::metric,
    tap::{Heard, Tap},
};

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(15);
/// Between the set-up of a call and what follows.
const HOLD: Duration = Duration::from_millis(100);

/// All of `count` ended well.
fn well(count: u64) -> Tally {
    Tally { created: count, successful: count, failed: 0 }
}

/// Taps on the wires of hosts.
fn taps<'a>(hosts: impl IntoIterator<Item = &'a Host>) -> Vec<Tap> {
    hosts.into_iter().map(|host| Tap::on(host, "eth0").expect("a tap")).collect()
}

/// Of each Call-ID that `counts` for a message: the hosts where such messages arrived.
fn places(taps: &[Tap], counts: impl Fn(&Heard) -> bool) -> BTreeMap<String, BTreeSet<usize>> {
    let mut places = BTreeMap::<_, BTreeSet<_>>::new();
    for (n, tap) in taps.iter().enumerate() {
        for message in tap.heard() {
            if !message.outgoing && message.cseq_method != "OPTIONS" && counts(&message) {
                places.entry(message.call_id).or_default().insert(n);
            }
        }
    }
    places
}

fn events(site: &Site, event: &str) -> f64 {
    metric(site, &format!("sip_lb_events_total{{event=\"{event}\"}}")).unwrap()
}

fn callee_of(site: &Site) -> SocketAddr {
    site.caller_address(1)
}

/// Calls through border elements that invent the second leg; the callee offers anew, notifies and
/// hangs up.
fn invented_legs(family: Family) {
    const CALLS: u64 = 60;
    let site = Plan { family, callers: 2, backends: 3, ..Plan::default() }.build().expect("a lab");
    let directory = site.lab.directory();
    let _borders = kamailio::borders(&site, callee_of(&site)).expect("border elements");
    let wires = taps(&site.backends);
    let balancer = Balancer::start(&site, &Settings::of(&site)).expect("sip-lb");
    let callee =
        Peer::serve(&site.callers[1], directory, "callee", callee_of(&site), HOLD).unwrap();
    let caller = Peer::play(
        &site.callers[0],
        directory,
        "caller",
        site.caller_address(0),
        site.vip(0),
        (CALLS, 20),
        Duration::ZERO,
    )
    .unwrap();
    let called = caller.finish(LONG).expect("the calls come to an end");
    let answered = wait_for("the end of the callee's part", SOON, || {
        let tally = callee.tally()?;
        Ok((tally.successful == CALLS).then_some(tally))
    });
    assert_eq!(called, well(CALLS), "{}", balancer.tail());
    assert_eq!(answered.expect("all calls"), well(CALLS));

    // Twice as many Call-IDs as calls, each at one backend.
    let places = places(&wires, |_| true);
    assert_eq!(places.len() as u64, 2 * CALLS);
    assert!(places.values().all(|hosts| hosts.len() == 1), "{places:?}");
    let invented: Vec<_> = places.keys().filter(|id| id.starts_with("!!:")).collect();
    assert_eq!(invented.len() as u64, CALLS, "{invented:?}");
    let used: BTreeSet<_> = places.values().flatten().collect();
    assert_eq!(used.len(), 3, "all backends took part");
    assert!(events(&site, "dialog-moved") < 0.5);
}

#[test]
fn a_callee_reaches_the_border_element_that_invented_its_leg() {
    invented_legs(Family::V4);
}

#[test]
fn a_callee_reaches_the_border_element_that_invented_its_leg_over_ipv6() {
    invented_legs(Family::V6);
}

/// Two servers ask phones whether they are there, then notify them; what phones answer, and send
/// themselves, comes back to the server that began.
fn begun_by_servers(family: Family) {
    const EACH: u64 = 40;
    let site = Plan { family, ..Plan::default() }.build().expect("a lab");
    let directory = site.lab.directory();
    let wires = taps(&site.backends);
    let mut settings = Settings::of(&site);
    settings.unprobed();
    let balancer = Balancer::start(&site, &settings).expect("sip-lb");
    let address = site.caller_address(0);
    let _phones = Peer::serve(&site.callers[0], directory, "phone", address, HOLD).unwrap();
    for scenario in ["pinger", "notifier"] {
        let servers: Vec<_> = (0..)
            .zip(&site.backends)
            .map(|(n, host)| {
                let local = site.backend_address(n);
                let rate = (EACH, 40);
                Peer::play(host, directory, scenario, local, address, rate, Duration::ZERO).unwrap()
            })
            .collect();
        for server in servers {
            let tally = server.finish(LONG).expect("an end");
            assert_eq!(tally, well(EACH), "{scenario}: {}", balancer.tail());
        }
    }
    // Each Call-ID bears the address of the server that made it up.
    let heard = |n: u8| -> Vec<Heard> {
        let heard = wires[usize::from(n)].heard().into_iter();
        heard.filter(|message| message.source == address).collect()
    };
    // An answer to OPTIONS; two to NOTIFY and a SUBSCRIBE. The wires are read a little later.
    wait_for("what the phones sent", SOON, || {
        Ok((heard(0).len() + heard(1).len() >= 2 * 4 * EACH as usize).then_some(()))
    })
    .unwrap();
    for n in [0, 1] {
        let own = site.backend_address(n).ip().to_string();
        for message in heard(n) {
            assert!(message.call_id.ends_with(&own), "at {own}: {message:?}");
        }
    }
    let series = "sip_lb_dialog_entries{state=\"confirmed-invite\"}";
    assert!(metric(&site, series).unwrap() < 0.5, "pings are no calls");
}

#[test]
fn what_phones_answer_returns_to_the_server_that_asked() {
    begun_by_servers(Family::V4);
}

#[test]
fn what_phones_answer_returns_to_the_server_that_asked_over_ipv6() {
    begun_by_servers(Family::V6);
}

#[test]
fn a_call_that_one_backend_hands_to_another_by_a_second_service_stays_with_both() {
    const CALLS: u64 = 100;
    let site = Plan { vips: 2, backends: 3, ..Plan::default() }.build().expect("a lab");
    let directory = site.lab.directory();
    let mut settings = Settings::of(&site);
    // The same endpoints under other names, so that Call-IDs go elsewhere.
    settings.services =
        format!("  - name: second\n    listen: \"{}\"\n    backends:\n", site.vip(1));
    let mut peers = Vec::new();
    for (n, host) in (0..).zip(&site.backends) {
        let address = site.backend_address(n);
        settings.services += &format!("      - {{ name: other{n}, address: \"{address}\" }}\n");
        let server = SocketAddr::new(address.ip(), 5080);
        let config = include_str!("../fixtures/kamailio/spiral.cfg")
            .replace("@FIRST@", &site.vip(0).to_string())
            .replace("@SECOND@", &site.vip(1).to_string())
            .replace("@SERVER@", &server.to_string());
        let proxy = Kamailio::alone(host, directory, address, &config).expect("Kamailio");
        peers.push((proxy, Uas::start(host, directory, server).expect("a server")));
    }
    let wires = taps(&site.backends);
    let balancer = Balancer::start(&site, &settings).expect("sip-lb");
    let calls = Calls { rate: 50, count: Some(CALLS), ..Calls::default() };
    let caller = site.caller_address(0);
    let outcome = Uac::start(&site.callers[0], directory, caller, site.vip(0), &calls)
        .and_then(|uac| uac.finish(LONG))
        .expect("the calls come to an end");
    assert_eq!((outcome.successful, outcome.failed), (CALLS, 0), "{}", balancer.tail());
    let served: Vec<_> = peers.into_iter().map(|(_, server)| server.finish().unwrap()).collect();
    assert_eq!(served.iter().map(|s| s.byes).sum::<u64>(), CALLS);
    assert!(served.iter().all(|s| s.invites == s.byes && s.strays == 0), "{served:?}");

    let first = places(&wires, |m| m.source == caller);
    let second = places(&wires, |m| m.source != caller && m.status().is_none());
    assert_eq!((first.len() as u64, second.len() as u64), (CALLS, CALLS));
    assert!(first.values().chain(second.values()).all(|hosts| hosts.len() == 1), "{second:?}");
    let is_spiral = |id: &String| first[id] != second[id];
    let spirals = first.keys().filter(|id| is_spiral(id)).count();
    println!("{spirals} of {CALLS} calls passed two backends");
    assert!(spirals > 30);
    // Who was asked by a VIP answers by it; who holds both ends of a call may do so by either.
    for message in wires.iter().flat_map(Tap::heard).filter(|m| !m.outgoing) {
        let is_answer = message.status().is_some() && message.cseq_method != "OPTIONS";
        if is_answer && is_spiral(&message.call_id) && message.source.port() == 5060 {
            assert_eq!(message.source, site.vip(1), "{message:?}");
        }
    }
    assert!(events(&site, "dialog-moved") < 0.5);
}

#[test]
fn a_backend_that_hung_and_wakes_up_moves_no_call() {
    let site = Plan { backends: 3, ..Plan::default() }.build().expect("a lab");
    let directory = site.lab.directory();
    let mut servers: Vec<_> = (0..)
        .zip(&site.backends)
        .map(|(n, host)| {
            Peer::serve(host, directory, "thawed", site.backend_address(n), HOLD).unwrap()
        })
        .collect();
    let wires = taps(&site.backends);
    let mut balancer = Balancer::start(&site, &Settings::of(&site)).expect("sip-lb");
    let place = |port: u16, count: u64, seconds: u64| {
        let local = SocketAddr::new(site.caller_address(0).ip(), port);
        let hold = Duration::from_secs(seconds);
        let (host, vip) = (&site.callers[0], site.vip(0));
        Peer::play(host, directory, "uac", local, vip, (count, 60), hold).unwrap()
    };
    let setups = |uac: &Peer, count| {
        wait_for("the set-up of all calls", SOON, || {
            Ok((uac.count("setups").unwrap_or(0) == count).then_some(()))
        })
    };
    let arrived = |n: usize, is: &dyn Fn(&Heard) -> bool| -> BTreeSet<String> {
        let heard = wires[n].heard();
        let calls = heard.into_iter().filter(|m| m.cseq_method != "OPTIONS" && is(m));
        calls.map(|m| m.call_id).collect()
    };

    // Calls that say nothing while the second backend hangs.
    let silent = place(5070, 30, 20);
    setups(&silent, 30).unwrap();
    let quiet = arrived(1, &|m| !m.outgoing);
    assert!(quiet.len() > 2, "{quiet:?}");

    servers[1].process().freeze().unwrap();
    let placed = place(5060, 60, 12);
    balancer.wait_for("gw2", "health", &"down".into(), SOON).unwrap();
    setups(&placed, 60).unwrap();
    let moved: BTreeSet<_> = arrived(1, &|m| !m.outgoing && m.is_request("INVITE"))
        .difference(&quiet)
        .cloned()
        .collect();
    assert!(moved.len() > 5, "{moved:?}");
    let before = events(&site, "dialog-moved");

    servers[1].process().thaw().unwrap();
    let late = |is: &dyn Fn(&Heard) -> bool| {
        let said = arrived(1, &|m| m.outgoing && is(m));
        moved.is_subset(&said).then_some(())
    };
    wait_for("late answers", SOON, || Ok(late(&|m| m.status() == Some(200)))).unwrap();
    wait_for("late requests", SOON, || Ok(late(&|m| m.is_request("INFO")))).unwrap();
    balancer.wait_for("gw2", "health", &"up".into(), SOON).unwrap();
    let awake = wires[1].count();

    assert_eq!(placed.finish(LONG).unwrap(), well(60), "{}", balancer.tail());
    assert_eq!(silent.finish(LONG).unwrap(), well(30), "{}", balancer.tail());
    let after: BTreeSet<_> = wires[1].look(awake, |heard| {
        let requests = heard.iter().filter(|m| !m.outgoing && m.is_request("BYE"));
        requests.map(|m| m.call_id.clone()).collect()
    });
    assert_eq!(after, quiet, "what was there before is there again, and nothing else");
    let byes = places(&wires, |m| m.is_request("BYE"));
    assert_eq!(byes.len(), 90);
    assert!(byes.values().all(|hosts| hosts.len() == 1));
    let moves = events(&site, "dialog-moved");
    println!("{} calls moved, {moves} by the metric; {} stayed", moved.len(), quiet.len());
    assert!((moves - before).abs() < 0.5, "{before} {moves}");
    assert!((moves - moved.len() as f64).abs() < 0.5, "{moves}, not {}", moved.len());
    let strays: u64 = servers.iter().map(|server| server.count("strays").unwrap()).sum();
    assert_eq!(strays, 0);
}

#[test]
fn a_flood_of_ten_times_the_dialog_table_moves_no_call() {
    const CALLS: u64 = 60;
    /// `dialogs.max`; the table has twice as many places.
    const MAX: usize = 1_024;
    const FLOOD: usize = 10 * 2 * MAX;
    let site = Plan { callers: 2, backends: 3, ..Plan::default() }.build().expect("a lab");
    let directory = site.lab.directory();
    let _borders = kamailio::borders(&site, callee_of(&site)).expect("border elements");
    let wires = taps(&site.backends);
    let mut settings = Settings::of(&site);
    // A flood that takes its time is no failure.
    settings.unprobed();
    settings.more = format!("dialogs: {{ max: {MAX} }}\n");
    let balancer = Balancer::start(&site, &settings).expect("sip-lb");
    let hold = Duration::from_secs(20);
    let callee =
        Peer::serve(&site.callers[1], directory, "callee", callee_of(&site), hold).unwrap();
    let (caller, vip) = (site.caller_address(0), site.vip(0));
    let host = &site.callers[0];
    let caller =
        Peer::play(host, directory, "caller", caller, vip, (CALLS, 60), Duration::ZERO).unwrap();
    wait_for("the set-up of all calls", SOON, || {
        Ok((callee.count("calls").unwrap_or(0) == CALLS).then_some(()))
    })
    .unwrap();

    // New Call-IDs, each answered by a backend: as many dialogs, established like any other.
    let local = SocketAddr::new(site.caller_address(0).ip(), 5066);
    host.enter(|| {
        let socket = UdpSocket::bind(local)?;
        for n in 0..FLOOD {
            let id = format!("flood-{n}@{local}");
            let subscribe = Message::request(Method::Subscribe, &id).only_via(local, &id).build();
            socket.send_to(&subscribe, vip)?;
            if n % 10 == 0 {
                // What the backends can answer.
                std::thread::sleep(Duration::from_millis(3));
            }
        }
        Ok(())
    })
    .unwrap();
    let [replaced, without] =
        ["dialog-evicted-confirmed", "dialog-line-full"].map(|event| events(&site, event));
    assert_eq!(callee.tally().unwrap().successful, 0, "the flood is over before the calls go on");

    let called = caller.finish(LONG).expect("the calls come to an end");
    assert_eq!(called, well(CALLS), "{}", balancer.tail());
    let calls = places(&wires, |m| m.cseq_method != "SUBSCRIBE");
    assert_eq!(calls.len() as u64, 2 * CALLS);
    let moved = calls.values().filter(|hosts| hosts.len() > 1).count();
    println!(
        "{FLOOD} new Call-IDs over {} places: {replaced} confirmed entries replaced, {without} \
         times none written; {moved} of {} legs moved",
        2 * MAX,
        calls.len()
    );
    assert_eq!(moved, 0);
    assert!(replaced > FLOOD as f64 / 2.0, "{replaced}: the table did not overflow");
}
