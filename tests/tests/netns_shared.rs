//! Services that share their backends: whoever calls a VIP is answered, and called back, from that VIP.
//! With real peers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use lb_tests::{
    balancer::{Balancer, Settings},
    kamailio,
    lab::{Plan, Site},
    net::{FAMILIES, Family},
    peer::{Peer, Tally},
    process::wait_for,
    tap::Tap,
};

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(15);
const CALLS: u64 = 40;

/// All of `count` ended well.
fn well(count: u64) -> Tally {
    Tally { created: count, successful: count, failed: 0 }
}

/// Two backends behind two VIPs, and as many callers as there are VIPs, and one more.
fn site(family: Family) -> (Site, Settings) {
    let site =
        Plan { family, callers: 3, vips: 2, ..Plan::default() }.build().expect("a laboratory");
    let mut settings = Settings::of(&site);
    let backends: String = (0..2)
        .map(|n| format!("      - {{ name: same{n}, address: \"{}\" }}\n", site.backend_address(n)))
        .collect();
    settings.services =
        format!("  - name: second\n    listen: \"{}\"\n    backends:\n{backends}", site.vip(1));
    (site, settings)
}

/// Where all that a host was sent came from.
fn sources(tap: &Tap) -> BTreeSet<SocketAddr> {
    tap.heard().iter().filter(|message| !message.outgoing).map(|message| message.source).collect()
}

#[test]
fn who_calls_a_vip_hears_from_that_vip_alone_whoever_speaks_first() {
    for family in FAMILIES {
        let (site, settings) = site(family);
        let directory = site.lab.directory();
        let callee = site.caller_address(2);
        let _borders = kamailio::borders(&site, callee).expect("border elements");
        let wires: Vec<_> =
            site.callers.iter().map(|host| Tap::on(host, "eth0").expect("a tap")).collect();
        let balancer = Balancer::start(&site, &settings).expect("sip-lb");
        let pause = Duration::from_millis(100);
        let served = Peer::serve(&site.callers[2], directory, "callee", callee, pause).unwrap();
        // Callers who are invited again, notified and hung up on by the other side.
        let callers: Vec<_> = (0..2)
            .map(|n| {
                let (host, local) = (&site.callers[usize::from(n)], site.caller_address(n));
                let pace = (CALLS, 40);
                Peer::play(host, directory, "caller", local, site.vip(n), pace, Duration::ZERO)
                    .unwrap()
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.finish(LONG).expect("an end"), well(CALLS), "{}", balancer.tail());
        }
        wait_for("the end of the callee's part", SOON, || {
            Ok((served.tally()?.successful == 2 * CALLS).then_some(()))
        })
        .unwrap();
        // A question that makes no dialog, too; who asks from a connected socket hears no other address.
        for n in 0..2u8 {
            let host = &site.callers[usize::from(n)];
            let uri = format!("sip:service@{}", site.vip(n));
            for _ in 0..10 {
                if family == Family::V4 {
                    host.run("sipsak", &["-s", &uri]).expect("an answer");
                }
            }
            assert_eq!(sources(&wires[usize::from(n)]), BTreeSet::from([site.vip(n)]));
        }
        // To whom backends speak first they do so by their first VIP.
        assert_eq!(sources(&wires[2]), BTreeSet::from([site.vip(0)]));
    }
}

#[test]
fn a_call_that_a_backend_began_goes_on_by_the_vip_that_the_phone_was_told() {
    let (site, mut settings) = site(Family::V4);
    let directory = site.lab.directory();
    settings.unprobed();
    settings.services = settings.services.replace("5060\" }", "5060\", health: off }");
    let wire = Tap::on(&site.callers[0], "eth0").expect("a tap");
    let balancer = Balancer::start(&site, &settings).expect("sip-lb");
    let (host, phone) = (&site.callers[0], site.caller_address(0));
    let pause = Duration::from_millis(200);
    let phones = Peer::serve(host, directory, "answerer", phone, pause).unwrap();
    for (n, told) in [(1, site.vip(0)), (2, site.vip(1))] {
        let contact = told.to_string();
        let words = ["-key", "contact", &contact];
        let servers: Vec<_> = (0..)
            .zip(&site.backends)
            .map(|(n, host)| {
                let (local, pace) = (site.backend_address(n), (CALLS / 2, 40, Duration::ZERO));
                Peer::play_with(host, directory, "inviter", local, phone, pace, &words).unwrap()
            })
            .collect();
        for server in servers {
            assert_eq!(
                server.finish(LONG).expect("an end"),
                well(CALLS / 2),
                "{}",
                balancer.tail()
            );
        }
        wait_for("the end of the phones' part", SOON, || {
            Ok((phones.tally()?.successful == n * CALLS).then_some(()))
        })
        .unwrap();
    }
    for message in wire.heard().iter().filter(|m| !m.outgoing && m.cseq_method != "BYE") {
        assert_eq!(message.source, site.vip(0), "{message:?}");
    }
    let answers_from = |vip: SocketAddr| {
        let heard = wire.heard();
        let byes = heard.iter().filter(|m| !m.outgoing && m.cseq_method == "BYE");
        let from: BTreeSet<_> =
            byes.filter(|m| m.source == vip).map(|m| m.call_id.clone()).collect();
        from.len() as u64
    };
    assert_eq!([answers_from(site.vip(0)), answers_from(site.vip(1))], [CALLS, CALLS]);
}
