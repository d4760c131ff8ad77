//! The laboratory itself: hosts reach each other, and its SIP peers hold calls together without
//! any sip-lb. Whatever fails in other tests is then not theirs.

use std::{
    collections::HashSet,
    net::UdpSocket,
    time::{Duration, Instant},
};

use lb_tests::{
    kamailio::Kamailio,
    lab::{Arms, Plan},
    message::{Message, Method},
    net::FAMILIES,
    sipp::{Calls, Outcome, Served, Uac, Uas, percentile},
    tap::Tap,
};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn callers_reach_backends_through_the_edge_host_in_every_layout() {
    let mut seen = 0;
    for family in FAMILIES {
        for arms in [Arms::Two, Arms::One] {
            for (client_router, backend_router) in [(false, false), (true, true)] {
                let plan = Plan { family, arms, client_router, backend_router, ..Plan::default() };
                let site = plan.build().unwrap();
                let caller = &site.callers[0];
                let ping = ["-c1", "-W2"];
                for n in 0..2 {
                    let address = site.backend_address(n).ip().to_string();
                    caller.run("ping", &[&ping[..], &[&address]].concat()).unwrap();
                }
                let vip = site.vip(0).ip().to_string();
                caller.run("ping", &[&ping[..], &[&vip]].concat()).unwrap();
                let back = site.caller_address(0).ip().to_string();
                site.backends[1].run("ping", &[&ping[..], &[&back]].concat()).unwrap();
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 8);
}

#[test]
fn a_laboratory_of_six_hosts_is_up_within_two_seconds_and_leaves_nothing() {
    let start = Instant::now();
    let site = Plan { backends: 4, ..Plan::default() }.build().unwrap();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let (namespace, directory) =
        (site.edge.namespace().to_owned(), site.lab.directory().to_owned());
    let there = || std::path::Path::new("/run/netns").join(&namespace).exists();
    assert!(there() && directory.exists());
    drop(site);
    assert!(!there() && !directory.exists());
}

#[test]
fn calls_are_held_over_both_families_and_counted_alike_on_both_ends() {
    const CALLS: u64 = 60;
    for family in FAMILIES {
        let site = Plan { family, backends: 1, ..Plan::default() }.build().unwrap();
        let directory = site.lab.directory();
        let tap = Tap::on(&site.backends[0], "eth0").unwrap();
        let uas = Uas::start(&site.backends[0], directory, site.backend_address(0)).unwrap();
        let calls = Calls { rate: 100, count: Some(CALLS), ..Calls::default() };
        let (local, remote) = (site.caller_address(0), site.backend_address(0));
        let mut uac = Uac::start(&site.callers[0], directory, local, remote, &calls).unwrap();
        uac.process().wait(LONG).unwrap();
        let times = uac.setup_times().unwrap();
        let outcome = uac.finish(LONG).unwrap();
        let all_well =
            Outcome { placed: CALLS, successful: CALLS, setups: CALLS, ..Outcome::default() };
        assert_eq!(outcome, all_well);
        assert_eq!(times.len() as u64, CALLS);
        assert!(percentile(&times, 50).unwrap() < Duration::from_secs(1));
        let served = uas.finish().unwrap();
        assert_eq!(served, Served { invites: CALLS, byes: CALLS, ..Served::default() });

        let heard = tap.heard();
        let count = |method, outgoing| {
            let of = heard.iter().filter(|m| m.is_request(method) && m.outgoing == outgoing);
            of.map(|m| m.call_id.clone()).collect::<HashSet<_>>().len() as u64
        };
        for method in ["INVITE", "ACK", "BYE"] {
            assert_eq!((count(method, false), count(method, true)), (CALLS, 0), "{method}");
        }
        let ringing = heard.iter().filter(|m| m.status() == Some(180) && m.outgoing).count();
        assert_eq!(ringing as u64, CALLS);
        assert!(heard.iter().filter(|m| !m.outgoing).all(|m| m.source == local));
    }
}

#[test]
fn a_server_answers_options_and_strays_without_counting_them_as_calls() {
    let site = Plan { backends: 1, ..Plan::default() }.build().unwrap();
    let address = site.backend_address(0);
    let uas = Uas::start(&site.backends[0], site.lab.directory(), address).unwrap();
    let uri = format!("sip:probe@{address}");
    for _ in 0..3 {
        site.edge.run("sipsak", &["-s", &uri]).unwrap();
    }
    let caller = site.caller_address(0);
    let socket = site.callers[0].enter(|| Ok(UdpSocket::bind(caller)?)).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let bye = Message::request(Method::Bye, "unknown@dialog").to_tag("nobody").build();
    socket.send_to(&bye, address).unwrap();
    let mut buffer = [0; 2_000];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    let answer = String::from_utf8_lossy(&buffer[..length]);
    assert!(answer.starts_with("SIP/2.0 481 "), "{answer}");
    assert_eq!(from, address);
    let served = uas.finish().unwrap();
    assert_eq!(served, Served { options: 3, strays: 1, ..Served::default() });
}

#[test]
fn a_frozen_server_answers_nothing_and_calls_complete_once_it_thaws() {
    let site = Plan { backends: 1, ..Plan::default() }.build().unwrap();
    let directory = site.lab.directory();
    let mut uas = Uas::start(&site.backends[0], directory, site.backend_address(0)).unwrap();
    uas.process().freeze().unwrap();
    let calls = Calls { rate: 10, count: Some(3), ..Calls::default() };
    let (local, remote) = (site.caller_address(0), site.backend_address(0));
    let tap = Tap::on(&site.backends[0], "eth0").unwrap();
    let mut uac = Uac::start(&site.callers[0], directory, local, remote, &calls).unwrap();
    // The second INVITE of the third call: nothing was answered for as long as T1.
    lb_tests::process::wait_for("retransmissions", LONG, || {
        let invites = tap.heard().iter().filter(|m| m.is_request("INVITE")).count();
        Ok((invites >= 6).then_some(()))
    })
    .unwrap();
    assert!(tap.heard().iter().all(|m| !m.outgoing));
    uas.process().thaw().unwrap();
    let outcome = uac.stop(LONG).unwrap();
    assert_eq!((outcome.placed, outcome.successful, outcome.failed), (3, 3, 0), "{outcome:?}");
    assert!(outcome.retransmissions >= 3, "{outcome:?}");
}

#[test]
fn a_pulled_cable_fails_calls_with_a_reason() {
    let site = Plan { backends: 1, ..Plan::default() }.build().unwrap();
    let directory = site.lab.directory();
    let _uas = Uas::start(&site.backends[0], directory, site.backend_address(0)).unwrap();
    site.lab.pull_cable(&site.backends[0], "eth0").unwrap();
    let calls = Calls { count: Some(2), retransmissions: 1, ..Calls::default() };
    let (local, remote) = (site.caller_address(0), site.backend_address(0));
    let uac = Uac::start(&site.callers[0], directory, local, remote, &calls).unwrap();
    let outcome = uac.finish(LONG).unwrap();
    assert_eq!((outcome.placed, outcome.successful, outcome.failed), (2, 0, 2), "{outcome:?}");
    assert_eq!(outcome.failures.get("MaxUDPRetrans"), Some(&2), "{outcome:?}");
    site.lab.push_cable(&site.backends[0], "eth0").unwrap();
    let address = site.backend_address(0).ip().to_string();
    site.callers[0].run("ping", &["-c3", "-W2", &address]).unwrap();
}

#[test]
fn kamailio_answers_options_itself_and_relays_calls() {
    const CALLS: u64 = 40;
    for family in FAMILIES {
        let site = Plan { family, backends: 1, ..Plan::default() }.build().unwrap();
        let directory = site.lab.directory();
        let address = site.backend_address(0);
        let kamailio = Kamailio::start(&site.backends[0], directory, address).unwrap();
        if address.is_ipv4() {
            site.edge.run("sipsak", &["-s", &format!("sip:probe@{address}")]).unwrap();
        }
        let calls = Calls { count: Some(CALLS), ..Calls::default() };
        let local = site.caller_address(0);
        let uac = Uac::start(&site.callers[0], directory, local, address, &calls).unwrap();
        let outcome = uac.finish(LONG).unwrap();
        let all_well =
            Outcome { placed: CALLS, successful: CALLS, setups: CALLS, ..Outcome::default() };
        assert_eq!(outcome, all_well);
        let served = kamailio.finish().unwrap();
        assert_eq!(served, Served { invites: CALLS, byes: CALLS, ..Served::default() });
    }
}
