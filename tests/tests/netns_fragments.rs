//! Messages above the MTU, between real peers and their kernels: SIPp in order, raw senders in any
//! order.
#![cfg(test)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use lb_tests::{
    balancer::{Balancer, Settings},
    lab::{Plan, Site},
    message::{Message, Method},
    net::{FAMILIES, Family},
    packet::Packet,
    peer::Peer,
    stage::metric,
};
use lb_userspace::slow::send::Sender;

const LONG: Duration = Duration::from_secs(60);

fn forwarded(site: &Site, direction: &str, reason: &str) -> f64 {
    let series =
        format!("sip_lb_forwarded_packets_total{{direction=\"{direction}\",reason=\"{reason}\"}}");
    metric(site, &series).unwrap()
}

fn calls(family: Family) {
    const CALLS: u64 = 60;
    let site = Plan { family, ..Plan::default() }.build().expect("a laboratory");
    let directory = site.lab.directory();
    let servers: Vec<_> = (0..2u8)
        .map(|n| {
            let (host, address) = (&site.backends[usize::from(n)], site.backend_address(n));
            Peer::serve(host, directory, "large-callee", address, Duration::ZERO).unwrap()
        })
        .collect();
    let balancer = Balancer::start(&site, &Settings::of(&site)).expect("sip-lb starts");
    let (host, local) = (&site.callers[0], site.caller_address(0));
    let hold = Duration::from_millis(100);
    let tally = Peer::play(host, directory, "large-caller", local, site.vip(0), (CALLS, 20), hold)
        .and_then(|caller| caller.finish(LONG))
        .expect("the calls come to an end");
    assert_eq!((tally.successful, tally.failed), (CALLS, 0), "{}", balancer.tail());
    // An INVITE and a 200 of three fragments each; the first ones count otherwise.
    let (there, back) = (
        forwarded(&site, "to-backend", "fragment"),
        forwarded(&site, "to-client", "server-fragment"),
    );
    assert!(there >= 2.0 * CALLS as f64 && back >= 2.0 * CALLS as f64, "{there} {back}");
    drop(servers);
}

#[test]
fn calls_whose_messages_come_in_fragments_succeed() {
    calls(Family::V4);
}

#[test]
fn calls_whose_messages_come_in_fragments_succeed_over_ipv6() {
    calls(Family::V6);
}

/// Sends fragments from `host` in this order, as its kernel would.
fn send(host: &lb_tests::lab::Host, frames: &[Vec<u8>], order: &[usize], pause: Duration) {
    host.enter(|| {
        let sender = Sender::open()?;
        for &n in order {
            // The Ethernet header is the kernel's.
            sender.send(&frames[n][14..])?;
            std::thread::sleep(pause);
        }
        Ok(())
    })
    .unwrap();
}

fn socket(host: &lb_tests::lab::Host, address: SocketAddr) -> UdpSocket {
    host.enter(|| {
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        Ok(socket)
    })
    .unwrap()
}

/// The next message that is no probe.
fn hear(
    socket: &UdpSocket,
    bytes: &mut [u8],
    order: &[usize],
    balancer: &Balancer,
) -> (usize, SocketAddr) {
    loop {
        let heard = socket.recv_from(bytes);
        let (len, from) =
            heard.unwrap_or_else(|why| panic!("{order:?}: {why}\n{}", balancer.tail()));
        if !bytes.starts_with(b"OPTIONS") {
            return (len, from);
        }
    }
}

/// One backend, which is not probed, behind sip-lb.
fn quiet(family: Family) -> (Site, Balancer) {
    let site = Plan { family, backends: 1, ..Plan::default() }.build().expect("a laboratory");
    let mut settings = Settings::of(&site);
    settings.unprobed();
    let balancer = Balancer::start(&site, &settings).expect("sip-lb starts");
    (site, balancer)
}

/// The kernel of the receiver puts together what left the edge host.
#[test]
fn fragments_in_any_order_reach_the_receiver_as_one_message() {
    for family in FAMILIES {
        let (site, balancer) = quiet(family);
        let (caller, backend) = (&site.callers[0], &site.backends[0]);
        let (client, server) = (site.caller_address(0), site.backend_address(0));
        let (at_client, at_server) = (socket(caller, client), socket(backend, server));
        let mut bytes = vec![0; 8192];
        let mut id = 1;
        for pause in [Duration::ZERO, Duration::from_millis(30)] {
            for order in [&[0, 1, 2][..], &[2, 1, 0], &[1, 2, 0], &[0, 2, 1], &[1, 1, 0, 0, 2]] {
                id += 1;
                let call_id = format!("{id}@order");
                let invite = Message::invite(&call_id).size(3500).build();
                let packet = Packet { id, ..Packet::udp(client, site.vip(0), invite.clone()) };
                send(caller, &packet.fragments(1440), order, pause);
                let (len, from) = hear(&at_server, &mut bytes, order, &balancer);
                assert!(bytes[..len] == invite, "{order:?}");
                assert_eq!(from, client);

                let answer = Message::response(200, Method::Invite, &call_id).size(3500).build();
                let packet = Packet { id, ..Packet::udp(server, client, answer.clone()) };
                send(backend, &packet.fragments(1440), order, pause);
                let (len, from) = hear(&at_client, &mut bytes, order, &balancer);
                assert!(bytes[..len] == answer, "{order:?}");
                assert_eq!(from, site.vip(0));
            }
        }
        let taken = |outcome: &str| {
            let series =
                format!("sip_lb_slow_path_taken_total{{kind=\"fragment\",outcome=\"{outcome}\"}}");
            metric(&site, &series).unwrap()
        };
        assert!(taken("held") >= 20.0 && taken("forwarded") >= 20.0, "{}", balancer.tail());

        // A later fragment alone waits for a second and goes no further.
        let lone = Packet { id: 9999, ..Packet::udp(client, site.vip(0), vec![b'x'; 3000]) };
        send(caller, &lone.fragments(1440), &[1], Duration::ZERO);
        std::thread::sleep(Duration::from_millis(1500));
        assert!((taken("expired") - 1.0).abs() < f64::EPSILON, "{}", balancer.tail());
    }
}

#[test]
fn messages_of_two_to_five_fragments_arrive_whole_and_overlaps_do_not_spoil_ipv4() {
    for family in FAMILIES {
        let (site, balancer) = quiet(family);
        let (caller, backend) = (&site.callers[0], &site.backends[0]);
        let (client, server) = (site.caller_address(0), site.backend_address(0));
        let (at_client, at_server) = (socket(caller, client), socket(backend, server));
        let mut bytes = vec![0; 8192];
        let mut id = 100;
        for (size, cut, pieces) in
            [(2400, 1440, 2), (3500, 1440, 3), (3500, 880, 4), (3500, 704, 5)]
        {
            let forth: Vec<_> = (0..pieces).collect();
            let back: Vec<_> = (0..pieces).rev().collect();
            for order in [forth, back] {
                id += 1;
                let call_id = format!("{id}@pieces");
                for (host, from, to, message) in [
                    (caller, client, site.vip(0), Message::invite(&call_id)),
                    (backend, server, client, Message::response(200, Method::Invite, &call_id)),
                ] {
                    let message = message.size(size).build();
                    let frames =
                        Packet { id, ..Packet::udp(from, to, message.clone()) }.fragments(cut);
                    assert_eq!(frames.len(), pieces);
                    send(host, &frames, &order, Duration::ZERO);
                    let (receiver, source) =
                        if to == client { (&at_client, site.vip(0)) } else { (&at_server, client) };
                    let (len, heard_from) = hear(receiver, &mut bytes, &order, &balancer);
                    assert!(bytes[..len] == message, "{order:?}");
                    assert_eq!(heard_from, source);
                }
            }
        }

        // A piece of another cut in between: it reaches into the one before it.
        let invite = Message::invite("overlap@pieces").size(3500).build();
        let packet = Packet { id: 999, ..Packet::udp(client, site.vip(0), invite.clone()) };
        let frames = [packet.fragments(1440), packet.fragments(1432)].concat();
        send(caller, &frames, &[0, 4, 1, 2], Duration::ZERO);
        let last = Message::invite("last@pieces").build();
        send(
            caller,
            &[Packet::udp(client, site.vip(0), last.clone()).build()],
            &[0],
            Duration::ZERO,
        );
        let heard = hear(&at_server, &mut bytes, &[0, 4, 1, 2], &balancer).0;
        let dropped = metric(&site, "sip_lb_dropped_packets_total{reason=\"fragment-overlap\"}");
        // An overlap ends an IPv6 datagram (RFC 5722).
        let (arrives, drops) = if family == Family::V4 { (invite, 1.0) } else { (last, 3.0) };
        assert!(bytes[..heard] == arrives, "{family:?}");
        assert!((dropped.unwrap() - drops).abs() < 0.5, "{family:?}");
    }
}
