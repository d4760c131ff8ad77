//! Datagrams in fragments, both families, both directions, in every order.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod world;

use std::{net::SocketAddr, time::Duration};

use etherparse::UdpHeader;
use lb_common::verdict::Verdict;
use lb_tests::{
    frame::Frame,
    message::{Message, Method},
    net::{self, FAMILIES, Family, edge_mac},
    packet::{Checksum, Packet},
};
use lb_userspace::{
    datapath::testrun::Action,
    slow::{
        self, Fate,
        fragments::{Holder, Limits, hold, release},
    },
};
use world::{Run, World, mac_of};

/// gw1 … gw4 behind a VIP of each family.
const BOTH_FAMILIES: &str = "
interfaces: [lo]
hash_key: tests
dialogs: { max: 4096, timeout: 1h }
limits: { services: 8, endpoints: 64, bindings: 128, tables: 8, fragments: 256 }
services:
  - name: v4
    listen: [\"203.0.113.10:5060\"]
    backends:
      - { name: gw0, address: \"10.0.1.200:5060\" }
      - { name: gw1, address: \"10.0.1.201:5060\" }
      - { name: gw2, address: \"10.0.1.202:5070\" }
  - name: v6
    listen: [\"[2001:db8:f::a]:5060\"]
    backends:
      - { name: six0, address: \"[fd00:0:1::c8]:5060\" }
      - { name: six1, address: \"[fd00:0:1::c9]:5060\" }
      - { name: six2, address: \"[fd00:0:1::ca]:5070\" }
";

fn backend(family: Family, n: u8) -> SocketAddr {
    SocketAddr::new(net::backend(family, n).ip(), if n == 2 { 5070 } else { 5060 })
}

fn invite(family: Family, call_id: &str) -> Packet {
    let message = Message::invite(call_id).size(3500).build();
    Packet::udp(net::client(family, 0), net::vip(family, 0), message)
}

fn answer(family: Family, from: SocketAddr, call_id: &str) -> Packet {
    let message = Message::response(200, Method::Invite, call_id).size(3500).build();
    let packet = Packet::udp(from, net::client(family, 0), message);
    packet.macs(mac_of(from.ip()), edge_mac(0))
}

/// Identification of a fragment, as it stands in the frame.
fn id(frame: &[u8]) -> Vec<u8> {
    match frame[12..14] {
        [0x08, 0x00] => frame[18..20].to_vec(),
        [0x86, 0xdd] => {
            assert_eq!(frame[20], 44, "the fragment header comes first");
            frame[58..62].to_vec()
        }
        _ => panic!("a tag"),
    }
}

/// Puts the fragments that left together as a receiver does, and checks all checksums.
fn reassemble(frames: &[Vec<u8>]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let parsed: Vec<Frame> = frames.iter().map(|bytes| Frame::parse(bytes).unwrap()).collect();
    let mut segment = Vec::new();
    for (n, frame) in parsed.iter().enumerate() {
        frame.verify().unwrap();
        let fragment = frame.fragment().unwrap();
        assert_eq!(usize::from(fragment.offset) * 8, segment.len(), "no gap before {n}");
        assert_eq!(fragment.more, n + 1 < parsed.len());
        assert_eq!(frame.source().ip(), parsed[0].source().ip());
        assert_eq!(frame.destination().ip(), parsed[0].destination().ip());
        assert_eq!(id(&frames[n]), id(&frames[0]));
        segment.extend_from_slice(frame.ip_payload());
    }
    let (source, destination) = (parsed[0].source(), parsed[0].destination());
    let (header, payload) = UdpHeader::from_slice(&segment).unwrap();
    assert_eq!(usize::from(header.length), segment.len());
    let sum = match (source.ip(), destination.ip()) {
        (std::net::IpAddr::V4(s), std::net::IpAddr::V4(d)) => {
            header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload)
        }
        (std::net::IpAddr::V6(s), std::net::IpAddr::V6(d)) => {
            header.calc_checksum_ipv6_raw(s.octets(), d.octets(), payload)
        }
        _ => panic!("two families"),
    };
    if header.checksum != 0 {
        assert_eq!(header.checksum, sum.unwrap());
    }
    (source, destination, payload.to_vec())
}

/// Runs frames that must all leave.
fn through(world: &mut World, frames: &[Vec<u8>], later: Verdict) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (n, frame) in frames.iter().enumerate() {
        let run = world.run_bytes(frame);
        assert_eq!(run.action, Action::Tx, "fragment {n}: {:?}", run.verdict);
        if n > 0 {
            assert_eq!(run.verdict, later, "fragment {n}");
        }
        out.push(run.bytes);
    }
    out
}

#[test]
fn fragments_in_order_follow_their_first_one_both_ways() {
    let mut world = World::new(BOTH_FAMILIES);
    for family in FAMILIES {
        // 2 to 5 fragments.
        for (n, (bytes, size)) in
            [(2500, 1440), (3500, 1440), (3500, 1024), (3500, 704)].into_iter().enumerate()
        {
            let call_id = format!("in-order-{n}@pc33");
            let mut packet = Packet { id: 100 + n as u32, ..invite(family, &call_id) };
            packet.payload = Message::invite(&call_id).size(bytes).build();
            let fragments = packet.fragments(size);
            assert_eq!(fragments.len(), n + 2);
            let out = through(&mut world, &fragments, Verdict::Fragment);
            let (source, to, payload) = reassemble(&out);
            assert_eq!(source, packet.source);
            assert!(payload == packet.payload, "SIP text was altered");
            assert_ne!(id(&out[0]), id(&fragments[0]), "another identification");
            for frame in &out {
                let frame = Frame::parse(frame).unwrap();
                assert_eq!(frame.ttl(), 63);
                assert_eq!(frame.destination_mac(), mac_of(to.ip()));
            }
            // The Call-ID in the first fragment has chosen as in a whole message.
            let prack = Message::request(Method::Prack, &call_id).to_tag("x").build();
            let whole = world.run(&Packet::udp(packet.source, packet.destination, prack));
            assert_eq!(whole.destination(), to);

            let packet = Packet { id: 100 + n as u32, ..answer(family, to, &call_id) };
            let out = through(&mut world, &packet.fragments(size), Verdict::ServerFragment);
            let (source, to, payload) = reassemble(&out);
            assert_eq!((source, to), (net::vip(family, 0), net::client(family, 0)));
            assert!(payload == packet.payload, "SIP text was altered");
        }
    }
}

#[test]
fn a_call_id_is_found_to_the_end_of_the_first_fragment_and_no_further() {
    let mut world = World::new(BOTH_FAMILIES);
    for family in FAMILIES {
        let message = Message::invite("far-down@pc33").call_id_last().size(1600).build();
        let at = message.windows(8).position(|window| window == b"Call-ID:").unwrap();
        let end = at + message[at..].windows(2).position(|window| window == b"\r\n").unwrap();
        let packet = Packet::udp(net::client(family, 0), net::vip(family, 0), message);
        // The UDP header counts.
        for (size, verdict) in [
            ((8 + end).next_multiple_of(8) + 8, Verdict::NewDialog),
            (8 * (at / 8), Verdict::NoCallId),
        ] {
            let fragments = Packet { id: size as u32, ..packet.clone() }.fragments(size);
            assert_eq!(world.run_bytes(&fragments[0]).verdict, verdict, "{size} {end}");
        }
    }
}

#[test]
fn a_datagram_without_a_checksum_stays_without_one() {
    let mut world = World::new(BOTH_FAMILIES);
    let packet = invite(Family::V4, "no-sum@pc33").checksum(Checksum::Fixed(0));
    let out = through(&mut world, &packet.fragments(1480), Verdict::Fragment);
    assert_eq!(Frame::parse(&out[0]).unwrap().checksum(), Some(0));
    reassemble(&out);
}

#[test]
fn extension_headers_options_and_tags_are_no_hindrance() {
    let mut world = World::new(BOTH_FAMILIES);
    let packet = invite(Family::V6, "extended@pc33").extension(0, 0).extension(60, 1);
    for frame in packet.fragments(1024) {
        assert_eq!(world.run_bytes(&frame).action, Action::Tx);
    }
    let packet = invite(Family::V4, "options@pc33").options(&[1; 8]);
    reassemble(&through(&mut world, &packet.fragments(1024), Verdict::Fragment));
    let packet = Packet { id: 7, ..invite(Family::V4, "tagged@pc33").vlan(3) };
    reassemble(&through(&mut world, &packet.fragments(1024), Verdict::Fragment));
}

#[test]
fn two_backends_with_one_identification_reach_a_client_with_two() {
    let mut world = World::new(BOTH_FAMILIES);
    for family in FAMILIES {
        let frames = [0, 1].map(|n| {
            let packet = Packet { id: 4711, ..answer(family, backend(family, n), "twins@pc33") };
            packet.fragments(1440)
        });
        let mut out = [Vec::new(), Vec::new()];
        for n in 0..3 {
            for (frames, out) in frames.iter().zip(&mut out) {
                let run = world.run_bytes(&frames[n]);
                assert_eq!(run.action, Action::Tx, "{:?}", run.verdict);
                out.push(run.bytes);
            }
        }
        assert_ne!(id(&out[0][0]), id(&out[1][0]));
        for out in &out {
            assert_eq!(reassemble(out).0, net::vip(family, 0));
        }
    }
}

#[test]
fn duplicates_and_overlaps_are_dropped_and_an_overlap_spoils_an_ipv6_datagram() {
    for family in FAMILIES {
        let mut world = World::new(BOTH_FAMILIES);
        let packet = invite(family, "again@pc33");
        let pieces = packet.fragments(1024);
        let overlapping = packet.fragments(1016);
        let run = |world: &mut World, frame: &Vec<u8>| {
            let run = world.run_bytes(frame);
            if run.action == Action::Drop {
                assert!(run.bytes == *frame, "a dropped frame was changed");
            }
            run.verdict
        };
        assert_eq!(run(&mut world, &pieces[0]), Verdict::NewDialog);
        assert_eq!(run(&mut world, &pieces[0]), Verdict::FragmentDuplicate);
        assert_eq!(run(&mut world, &pieces[1]), Verdict::Fragment);
        assert_eq!(run(&mut world, &pieces[1]), Verdict::FragmentDuplicate);
        assert_eq!(run(&mut world, &overlapping[1]), Verdict::FragmentOverlap);
        let rest = match family {
            Family::V4 => Verdict::Fragment,
            Family::V6 => Verdict::FragmentOverlap,
        };
        assert_eq!(run(&mut world, &pieces[2]), rest);
        assert_eq!(run(&mut world, &pieces[3]), rest);
        if family == Family::V4 {
            assert_eq!(run(&mut world, &pieces[3]), Verdict::FragmentDuplicate);
            assert_eq!(run(&mut world, &pieces[0]), Verdict::FragmentDuplicate);
            // The number is free again: a random one of 16 bits comes back soon.
            world.wait(2);
            let out = through(&mut world, &pieces, Verdict::Fragment);
            reassemble(&out);
        }
    }
}

/// What the next hop cannot take whole is left to the kernel, which cuts it further or says so to
/// the sender; all fragments go that way.
#[test]
fn fragments_above_the_mtu_or_without_a_neighbour_go_by_the_kernel_rewritten() {
    for family in FAMILIES {
        let mut world = World::new(BOTH_FAMILIES);
        for way in world.view.paths.values_mut() {
            way.next_hop.state = lb_common::backend::next_hop::ASK_FIB;
        }
        world.apply();
        for (n, size) in [1440, 2000].into_iter().enumerate() {
            let packet = Packet { id: n as u32 + 1, ..invite(family, "wide@pc33") };
            let mut out = Vec::new();
            for frame in packet.fragments(size) {
                let run = world.run_bytes(&frame);
                assert_eq!(run.action, Action::Pass, "{size}: {:?}", run.verdict);
                out.push(run.bytes);
            }
            let (source, to, payload) = reassemble(&out);
            assert_eq!(source, packet.source);
            assert!((0..3).any(|n| backend(family, n) == to));
            assert!(payload == packet.payload);
            assert_eq!(Frame::parse(&out[1]).unwrap().ttl(), 64, "the kernel takes one");
        }
    }
}

#[test]
fn a_record_lives_for_thirty_seconds() {
    for family in FAMILIES {
        let mut world = World::new(BOTH_FAMILIES);
        let pieces = invite(family, "slow@pc33").fragments(1480);
        world.run_bytes(&pieces[0]);
        world.wait(30);
        assert_eq!(world.run_bytes(&pieces[1]).verdict, Verdict::Fragment);
        world.wait(1);
        assert_eq!(world.run_bytes(&pieces[2]).verdict, Verdict::FragmentHeld);
    }
}

#[test]
fn later_fragments_share_the_fate_of_a_first_one_that_is_not_balanced() {
    for family in FAMILIES {
        let mut world = World::new(BOTH_FAMILIES);
        let pieces = |packet: Packet| packet.fragments(1480);
        let client = net::client(family, 0);
        let own = SocketAddr::new(net::vip(family, 0).ip(), 53);
        let from = backend(family, 0);
        let to_neighbour =
            Packet { destination: backend(family, 1), ..answer(family, from, "a@b") };
        let other_port =
            Packet { source: SocketAddr::new(from.ip(), 53), ..answer(family, from, "a@b") };
        let elsewhere = Packet::udp(client, SocketAddr::new(client.ip(), 5060), [7; 3000]);
        for (n, (name, packet, verdict, action)) in [
            (
                "another port of the VIP",
                Packet::udp(client, own, [7; 3000]),
                Verdict::NotOurs,
                Action::Pass,
            ),
            ("another port of a backend", other_port, Verdict::NotOurs, Action::Pass),
            ("neither VIP nor backend", elsewhere, Verdict::NotOurs, Action::Pass),
            ("a backend to a neighbour", to_neighbour, Verdict::SameService, Action::Pass),
            (
                "a backend's address elsewhere",
                answer(family, from, "a@b").macs(net::client_mac(9), edge_mac(0)),
                Verdict::SpoofedBackend,
                Action::Drop,
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let frames = pieces(Packet { id: n as u32 + 1, ..packet });
            let first = world.run_bytes(&frames[0]);
            assert_eq!((first.verdict, first.action), (verdict, action), "{name}");
            for frame in [&frames[2], &frames[1]] {
                let run = world.run_bytes(frame);
                let later = if action == Action::Drop {
                    Verdict::FragmentDropped
                } else {
                    Verdict::NotOurs
                };
                assert_eq!((run.verdict, run.action), (later, action), "{name}");
                assert!(run.bytes == *frame, "{name}: changed");
            }
        }
        let flooded = invite(family, "flooded@pc33").macs(net::client_mac(0), edge_mac(7));
        for frame in pieces(flooded) {
            assert_eq!(world.run_bytes(&frame).verdict, Verdict::OtherHost);
        }
    }
}

#[test]
fn a_later_fragment_of_a_backend_comes_the_way_of_its_backend() {
    let mut world = World::new(BOTH_FAMILIES);
    let packet = answer(Family::V4, backend(Family::V4, 0), "spoof@pc33");
    world.run_bytes(&packet.fragments(1480)[0]);
    let forged = packet.macs(net::client_mac(9), edge_mac(0)).fragments(1480);
    assert_eq!(world.run_bytes(&forged[1]).verdict, Verdict::SpoofedBackend);
}

#[test]
fn impossible_fragments_are_dropped() {
    let mut world = World::new(BOTH_FAMILIES);
    let packet = invite(Family::V4, "odd@pc33");
    for (name, frame) in [
        ("not the last, and no multiple of 8", packet.clone().marked_fragment(185, true)),
        ("beyond 65,535 bytes", packet.clone().marked_fragment(8000, false)),
        ("cut short", Packet { truncate: Some(300), ..packet.marked_fragment(8, false) }),
    ] {
        let mut frame = frame;
        frame.payload.truncate(3001);
        assert_eq!(world.run(&frame).verdict, Verdict::BadLength, "{name}");
    }
}

/// What is between the program and the network: the slow path, with its clock in our hands.
struct Path {
    world: World,
    holder: Holder,
    out: Vec<slow::Action>,
}

impl Path {
    fn new(limits: Limits) -> Self {
        let world = World::new(BOTH_FAMILIES);
        Self { world, holder: Holder::new(limits), out: Vec::new() }
    }

    /// Runs a frame, and then what was held for it.
    fn run(&mut self, frame: &[u8], now: Duration) -> (Run, Vec<Fate>) {
        let run = self.world.run_bytes(frame);
        let (holder, mut fates) = (&mut self.holder, Vec::new());
        self.world.program.drain(|packet| fates.push(hold(holder, packet, now)));
        release(&mut self.holder, &mut self.world.program, &mut self.out);
        (run, fates)
    }
}

/// Every order of `0..n`.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(n - 1);
    let insert = |at| {
        shorter.iter().map(move |order| {
            let mut order = order.clone();
            order.insert(at, n - 1);
            order
        })
    };
    (0..n).flat_map(insert).collect()
}

#[test]
fn fragments_in_any_order_leave_in_the_right_one() {
    let mut path = Path::new(Limits::DEFAULT);
    let mut number = 0;
    for family in FAMILIES {
        for order in orders(4) {
            for from_backend in [false, true] {
                number += 1;
                let call_id = format!("order-{number}@pc33");
                let packet = if from_backend {
                    answer(family, backend(family, 0), &call_id)
                } else {
                    invite(family, &call_id)
                };
                let frames = Packet { id: number, ..packet.clone() }.fragments(1024);
                assert_eq!(frames.len(), 4);
                let mut left = Vec::new();
                for &n in &order {
                    let (run, fates) = path.run(&frames[n], Duration::ZERO);
                    if run.action == Action::Tx {
                        left.push(run.bytes);
                    } else {
                        assert_eq!(
                            (run.verdict, &fates[..]),
                            (Verdict::FragmentHeld, &[Fate::Held][..])
                        );
                    }
                    for action in path.out.drain(..) {
                        match action {
                            // Raw sockets are given IP packets; the Ethernet header is any.
                            slow::Action::Send(packet) => left.push(ethernet(&packet)),
                            slow::Action::Count(kind, fate) => {
                                assert_eq!((kind, fate), (slow::Kind::Fragment, Fate::Forwarded));
                            }
                        }
                    }
                }
                let (source, destination, payload) = reassemble(&left);
                assert!(payload == packet.payload, "{order:?}");
                if from_backend {
                    assert_eq!((source, destination), (net::vip(family, 0), packet.destination));
                } else {
                    assert_eq!(source, packet.source);
                    assert!((0..3).any(|n| backend(family, n) == destination), "{destination}");
                }
                assert!(path.holder.is_empty());
            }
        }
    }
}

fn ethernet(packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[0; 12][..], &kind, packet].concat()
}

#[test]
fn a_foreign_datagram_goes_to_the_host_in_any_order() {
    for family in FAMILIES {
        let mut path = Path::new(Limits::DEFAULT);
        let own = SocketAddr::new(net::vip(family, 0).ip(), 53);
        let frames = Packet::udp(net::client(family, 0), own, [7; 3000]).fragments(1480);
        let (run, fates) = path.run(&frames[1], Duration::ZERO);
        assert_eq!((run.verdict, &fates[..]), (Verdict::FragmentHeld, &[Fate::Held][..]));
        let (run, _) = path.run(&frames[0], Duration::ZERO);
        assert_eq!(run.action, Action::Pass);
        let [slow::Action::Send(packet), slow::Action::Count(_, Fate::Forwarded)] = &path.out[..]
        else {
            panic!("{:?}", path.out)
        };
        let sent = Frame::parse(&ethernet(packet)).unwrap();
        sent.verify().unwrap();
        assert_eq!(sent.ttl(), 63);
        assert_eq!(sent.destination().ip(), own.ip());
        assert_eq!(id(&ethernet(packet)), id(&frames[1]));
    }
}

#[test]
fn a_fragment_whose_first_one_never_comes_is_dropped_after_a_second() {
    let mut path = Path::new(Limits::DEFAULT);
    let frames = invite(Family::V4, "lost@pc33").fragments(1480);
    assert_eq!(path.run(&frames[1], Duration::ZERO).1, [Fate::Held]);
    assert_eq!(path.run(&frames[1], Duration::ZERO).1, [Fate::Dropped("duplicate")]);
    assert_eq!(path.holder.expire(Duration::from_millis(999)), 0);
    assert_eq!(path.holder.expire(Duration::from_millis(1000)), 1);
    assert!(path.holder.is_empty() && path.out.is_empty());
    let none = Limits { datagrams: 0, ..Limits::DEFAULT };
    assert_eq!(Path::new(none).run(&frames[1], Duration::ZERO).1, [Fate::Dropped("full")]);
}
