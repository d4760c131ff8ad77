//! What phones answer goes to the backend that their answer names, whoever else has the Call-ID and
//! wherever its slot leads. With real peers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use lb_tests::{
    balancer::{Balancer, Settings},
    kamailio::Kamailio,
    lab::{Plan, Site},
    net::{FAMILIES, Family},
    peer::{Peer, Tally},
    stage::metric,
    tap::Tap,
};

const LONG: Duration = Duration::from_secs(60);
/// Call-IDs of each server.
const ASKED: u64 = 60;

/// The Via headers of the n-th backend: up to the branch, what follows it, the header below. The others
/// are named only below the topmost one.
fn vias(site: &Site, n: u8) -> String {
    let (own, other) = (site.backend_address(n), site.backend_address((n + 1) % 3));
    let host = match own {
        SocketAddr::V4(own) => own.ip().to_string(),
        SocketAddr::V6(own) => format!("[{}]", own.ip()),
    };
    let name = format!("gw{}.example.net", n + 1);
    let below = format!("Via: SIP/2.0/UDP {other}");
    let joined = format!(", SIP/2.0/UDP {other}");
    let forms = [
        (format!("Via: SIP/2.0/UDP {own}"), "", "Subject: address and port"),
        (format!("Via: SIP/2.0/UDP {host}"), "", "Subject: address"),
        (format!("v: SIP/2.0/UDP {own}"), "", "Subject: compact"),
        (format!("Via: SIP/2.0/UDP {name}"), "", "Subject: alias"),
        (format!("V:SIP / 2.0 / UDP {name}:5060"), "", "Subject: alias and port"),
        (format!("Via: SIP/2.0/UDP {own}"), "", &*below),
        (format!("v: SIP/2.0/UDP {}", name.to_uppercase()), &*joined, "Subject: joined"),
    ];
    let mut lines = "SEQUENTIAL\n".to_owned();
    for (top, tail, line) in forms {
        lines += &format!("{top};{tail};{line}\n");
    }
    lines
}

/// Three servers that use the same Call-IDs ask and tell the same phones. An entry may name one of
/// them, and so may a slot.
fn answered(family: Family, policy: &str) {
    let site = Plan { family, backends: 3, ..Plan::default() }.build().expect("a laboratory");
    let directory = site.lab.directory();
    let wires: Vec<_> =
        site.backends.iter().map(|host| Tap::on(host, "eth0").expect("a tap")).collect();
    let mut settings = Settings::of(&site);
    settings.unprobed();
    settings.policy = policy.to_owned();
    for backend in &mut settings.backends {
        backend.more += &format!(", aliases: [{}.example.net]", backend.name);
    }
    let balancer = Balancer::start(&site, &settings).expect("sip-lb");
    let phones = site.caller_address(0);
    let config = include_str!("../fixtures/kamailio/phones.cfg");
    let _phones = Kamailio::alone(&site.callers[0], directory, phones, config).expect("Kamailio");
    let servers: Vec<_> = (0..)
        .zip(&site.backends)
        .map(|(n, host)| {
            let injected = directory.join(format!("vias-{n}.csv"));
            fs::write(&injected, vias(&site, n)).expect("a file");
            let words = ["-inf", injected.to_str().unwrap(), "-cid_str", "%u@farm"];
            let pace = (ASKED, 60, Duration::ZERO);
            let local = site.backend_address(n);
            Peer::play_with(host, directory, "asker", local, phones, pace, &words).unwrap()
        })
        .collect();
    let tallies: Vec<_> =
        servers.into_iter().map(|server| server.finish(LONG).expect("an end")).collect();
    let all_well = Tally { created: ASKED, successful: ASKED, failed: 0 };
    assert_eq!(tallies, vec![all_well; 3], "{}", balancer.tail());

    let (mut asked, mut answers) = (BTreeMap::<String, u32>::new(), 0);
    for (n, wire) in wires.iter().enumerate() {
        let mut heard = wire.heard();
        heard.retain(|message| message.call_id.ends_with("@farm"));
        let (sent, got): (Vec<_>, Vec<_>) = heard.iter().partition(|message| message.outgoing);
        for message in &sent {
            *asked.entry(message.call_id.clone()).or_default() |= 1 << n;
        }
        assert!(got.iter().all(|message| message.status() == Some(200)), "{got:?}");
        // A question that was repeated is answered again.
        assert_eq!(got.len(), sent.len(), "answers and questions at backend {n}");
        answers += got.len();
    }
    assert_eq!(asked.len() as u64, ASKED, "{asked:?}");
    assert!(asked.values().all(|by| *by == 0b111), "each Call-ID was used by all three");
    let via = "sip_lb_forwarded_packets_total{direction=\"to-backend\",reason=\"via\"}";
    assert_eq!(metric(&site, via).unwrap() as usize, answers);
}

#[test]
fn an_answer_reaches_the_backend_that_it_names_though_another_has_the_call_id() {
    for family in FAMILIES {
        answered(family, "");
    }
}

#[test]
fn an_answer_reaches_the_backend_that_it_names_where_nothing_is_remembered() {
    answered(Family::V4, "    affinity: none\n");
}
