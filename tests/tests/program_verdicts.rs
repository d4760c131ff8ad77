//! A packet in → verdict and packet out: at least one row for every verdict.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod world;

use std::{collections::BTreeSet, net::SocketAddr};

use lb_common::{
    stats::Event,
    verdict::{Kind, Verdict},
};
use lb_tests::{
    frame::Frame,
    message::{Message, Method},
    net::{backend_mac, client_mac, edge_mac},
    packet::{Checksum, Packet},
};
use lb_userspace::{datapath::testrun::Action, maps::LbMaps as _};
use world::{ELSEWHERE, ONE_SERVICE, World, client, hop, mac_of, vip};

fn invite() -> Packet {
    Packet::udp(client(10), vip(), Message::invite("a84b4c76e66710@pc33").build())
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// gw1 answers an INVITE.
fn answer() -> Packet {
    let message = Message::response(200, Method::Invite, "answered@pc33").build();
    Packet::udp(addr("10.0.1.201:5060"), client(10), message).macs(backend_mac(1), edge_mac(0))
}

struct Row {
    name: &'static str,
    packet: Packet,
    verdict: Verdict,
    action: Action,
}

/// Rows that leave the packet alone: it passes untouched or is dropped.
fn untouched() -> Vec<Row> {
    let row = |name, packet, verdict: Verdict| {
        let action = match verdict.kind() {
            Kind::Pass => Action::Pass,
            Kind::Drop => Action::Drop,
            Kind::Forward | Kind::Reply | Kind::SlowPath | Kind::Answer => {
                panic!("{name}: not left alone")
            }
        };
        Row { name, packet, verdict, action }
    };
    let with = |packet: Packet, change: fn(&mut Packet)| {
        let mut packet = packet;
        change(&mut packet);
        packet
    };
    vec![
        row("TCP to the VIP", Packet::tcp(client(10), vip(), 2), Verdict::NotOurs),
        row(
            "another port",
            Packet::udp(client(10), addr("203.0.113.10:5080"), *b"x"),
            Verdict::NotOurs,
        ),
        row(
            "another address",
            Packet::udp(client(10), addr("203.0.113.99:5060"), *b"x"),
            Verdict::NotOurs,
        ),
        row(
            "a port below the VIP's",
            Packet::udp(client(10), addr("203.0.113.10:5059"), *b"x"),
            Verdict::NotOurs,
        ),
        row(
            "no whole Ethernet header",
            with(invite(), |p| p.truncate = Some(14)),
            Verdict::BadHeader,
        ),
        row(
            "an IP header cut short",
            with(invite(), |p| p.truncate = Some(14 + 19)),
            Verdict::BadHeader,
        ),
        row(
            "a UDP header cut short",
            with(invite(), |p| p.truncate = Some(14 + 20 + 3)),
            Verdict::BadHeader,
        ),
        row("three VLAN tags", invite().vlan(1).vlan(2).vlan(3), Verdict::NotOurs),
        row("another host's MAC", invite().macs(client_mac(0), edge_mac(7)), Verdict::OtherHost),
        row(
            "a UDP length beyond the packet",
            with(invite(), |p| p.udp_length = Some(4000)),
            Verdict::BadLength,
        ),
        row(
            "a UDP length below its header",
            with(invite(), |p| p.udp_length = Some(7)),
            Verdict::BadLength,
        ),
        row(
            "an IP length below the UDP length",
            with(invite(), |p| p.ip_length = Some(100)),
            Verdict::BadLength,
        ),
        row("a datagram cut short", with(invite(), |p| p.truncate = Some(200)), Verdict::BadLength),
        row(
            "a backend's address with another MAC",
            answer().macs(client_mac(5), edge_mac(0)),
            Verdict::SpoofedBackend,
        ),
        row("a backend's address on a VLAN", answer().vlan(7), Verdict::SpoofedBackend),
        row(
            "a backend answers our probe",
            Packet { destination: addr("10.0.1.1:40000"), ..answer() },
            Verdict::ToThisHost,
        ),
        row(
            "a backend speaks to another of its service",
            Packet { destination: addr("10.0.1.202:5060"), ..answer() },
            Verdict::SameService,
        ),
        row(
            "a backend sends to a multicast address",
            Packet { destination: addr("224.0.1.75:5060"), ..answer() },
            Verdict::NotUnicast,
        ),
    ]
}

#[test]
fn packets_that_are_not_ours_pass_untouched_and_bad_ones_are_dropped_by_a_reason() {
    let mut world = World::new(ONE_SERVICE);
    let rows = untouched();
    assert!(rows.len() > 15);
    for row in rows {
        let before = world.count(row.verdict);
        let frame = row.packet.build();
        let run = world.run_bytes(&frame);
        assert_eq!(run.verdict, row.verdict, "{}", row.name);
        assert_eq!(run.action, row.action, "{}", row.name);
        assert!(run.bytes == frame, "{}: the frame was changed", row.name);
        assert_eq!(world.count(row.verdict), before + 1, "{}", row.name);
    }
}

/// What NAT towards a backend must have done to `packet`.
fn assert_forwarded(name: &str, packet: &Packet, out: &Frame, to: SocketAddr) {
    assert_eq!(out.destination(), to, "{name}");
    assert_eq!(out.source(), packet.source, "{name}: the client's address stays");
    assert_eq!(out.payload(), packet.payload, "{name}: SIP text was altered");
    assert_eq!(out.ttl(), packet.ttl - 1, "{name}");
    assert_eq!(out.source_mac(), edge_mac(0), "{name}");
    assert_eq!(out.destination_mac(), mac_of(to.ip()), "{name}");
}

#[test]
fn client_messages_are_rewritten_to_a_backend() {
    let mut world = World::new(ONE_SERVICE);
    let message = |m: Message| Packet::udp(client(10), vip(), m.build());
    let in_dialog = Message::request(Method::Prack, "a84b4c76e66710@pc33").to_tag("x");
    let rows = [
        ("a new INVITE", invite(), Verdict::NewDialog),
        ("its retransmission", invite(), Verdict::Dialog),
        ("a PRACK of its dialog on a settled slot", message(in_dialog), Verdict::Hash),
        (
            "its BYE",
            message(Message::request(Method::Bye, "a84b4c76e66710@pc33").to_tag("x")),
            Verdict::Dialog,
        ),
        ("a REGISTER", message(Message::request(Method::Register, "r@x")), Verdict::Hash),
        (
            "a response without an entry",
            message(Message::response(200, Method::Options, "o@x")),
            Verdict::Hash,
        ),
        (
            "no Call-ID",
            message(Message::request(Method::Options, "o@x").without_call_id()),
            Verdict::NoCallId,
        ),
        ("garbage", Packet::udp(client(10), vip(), [0xf8; 300]), Verdict::NoCallId),
        ("compact headers", message(Message::invite("compact@x").compact()), Verdict::NewDialog),
        (
            "Call-ID last",
            message(Message::invite("late@x").call_id_last().size(1390)),
            Verdict::NewDialog,
        ),
    ];
    for (name, packet, verdict) in rows {
        let run = world.run(&packet);
        assert_eq!(run.verdict, verdict, "{name}");
        assert_eq!(run.action, Action::Tx, "{name}");
        let to = run.destination();
        assert!(world.config.services[0].backends.iter().any(|b| b.address == to), "{name}");
        assert_forwarded(name, &packet, &run.frame(), to);
    }
}

#[test]
fn every_header_shape_is_rewritten_with_right_checksums() {
    let mut world = World::new(ONE_SERVICE);
    let shapes: Vec<(&str, Packet)> = vec![
        ("plain", invite()),
        ("IPv4 options", invite().options(&[1, 1, 1, 0])),
        ("no UDP checksum", invite().checksum(Checksum::Fixed(0))),
        ("padding behind the datagram", Packet { padding: 17, ..invite() }),
        ("TTL 2", invite().ttl(2)),
        ("an odd length", Packet { payload: [&invite().payload[..], b"x"].concat(), ..invite() }),
    ];
    for (name, packet) in shapes {
        let run = world.run(&packet);
        assert_eq!(run.action, Action::Tx, "{name}");
        let frame = run.frame();
        assert_forwarded(name, &packet, &frame, run.destination());
        let had = matches!(packet.checksum, Checksum::Fixed(0));
        assert_eq!(frame.checksum() == Some(0), had, "{name}: zero stays zero");
    }
}

const IPV6: &str = "
interfaces: [lo]
hash_key: tests
dialogs: { max: 4096 }
limits: { services: 8, endpoints: 64, bindings: 128, tables: 8 }
services:
  - name: trunk
    listen: [\"[2001:db8:f::10]:5060\"]
    backends:
      - { name: gw1, address: \"[2001:db8:b::201]:5060\" }
      - { name: gw2, address: \"[2001:db8:b::202]:5062\" }
";

#[test]
fn ipv6_is_rewritten_in_both_directions() {
    let mut world = World::new(IPV6);
    let (client, vip) = (addr("[2001:db8:c::5]:5060"), addr("[2001:db8:f::10]:5060"));
    for (name, packet) in [
        ("plain", Packet::udp(client, vip, Message::invite("six@x").build())),
        (
            "hop-by-hop options",
            Packet::udp(client, vip, Message::invite("six@x").build()).extension(0, 1),
        ),
        (
            "two extension headers",
            Packet::udp(client, vip, Message::invite("six@x").build())
                .extension(0, 0)
                .extension(60, 2),
        ),
    ] {
        let run = world.run(&packet);
        assert_eq!(run.action, Action::Tx, "{name}");
        assert_forwarded(name, &packet, &run.frame(), run.destination());
        let back = Message::response(200, Method::Invite, "six@x").build();
        let back = world.backend_sends(run.destination(), client, &back);
        assert_eq!(back.verdict, Verdict::Response, "{name}");
        assert_eq!(back.frame().source(), vip, "{name}");
        assert_eq!(back.frame().destination(), client, "{name}");
    }
}

#[test]
fn backend_messages_leave_as_from_the_vip_whatever_the_clients_port() {
    let mut world = World::new(ONE_SERVICE);
    let gw3 = world.address("gw3");
    let client = SocketAddr::new(client(10).ip(), 49_152);
    let rows: [(&str, Vec<u8>, Verdict); 4] = [
        ("a response", Message::response(200, Method::Invite, "x@y").build(), Verdict::Response),
        ("a request", Message::request(Method::Options, "srv@gw3").build(), Verdict::ServerRequest),
        ("a BYE", Message::request(Method::Bye, "x@y").to_tag("t").build(), Verdict::ServerRequest),
        ("NULs that hold a pinhole open", vec![0; 4], Verdict::ServerOther),
    ];
    for (name, payload, verdict) in rows {
        let run = world.backend_sends(gw3, client, &payload);
        assert_eq!(run.verdict, verdict, "{name}");
        assert_eq!(run.action, Action::Tx, "{name}");
        let frame = run.frame();
        assert_eq!(frame.source(), vip(), "{name}");
        assert_eq!(frame.destination(), client, "{name}");
        assert_eq!(frame.payload(), payload, "{name}");
        assert_eq!(frame.destination_mac(), client_mac(0), "{name}");
        assert_eq!(frame.ttl(), 63, "{name}");
    }
}

#[test]
fn a_hop_limit_of_one_goes_to_the_kernel_rewritten_for_its_icmp_error() {
    let mut world = World::new(ONE_SERVICE);
    let run = world.run(&invite().ttl(1));
    assert_eq!((run.verdict, run.action), (Verdict::HopLimit, Action::Pass));
    let frame = run.frame();
    assert_ne!(frame.destination(), vip());
    assert_eq!(frame.ttl(), 1);
}

#[test]
fn without_a_usable_backend_what_is_no_request_is_dropped() {
    let mut world = World::new(ONE_SERVICE);
    world.set_down(&["gw1", "gw2", "gw3", "gw4", "spare1", "spare2"]);
    let ack = Message::request(Method::Ack, "a84b4c76e66710@pc33").build();
    let answer = Message::response(200, Method::Invite, "a84b4c76e66710@pc33").build();
    for message in [ack, answer] {
        let run = world.client_sends(client(10), vip(), &message);
        assert_eq!((run.verdict, run.action), (Verdict::NotAnswered, Action::Drop));
    }
}

#[test]
fn a_frame_by_another_interface_passes() {
    let mut world = World::new(ONE_SERVICE);
    world.view.interfaces[0].ifindex = ELSEWHERE;
    world.apply();
    let run = world.run(&invite());
    assert_eq!((run.verdict, run.action), (Verdict::OtherInterface, Action::Pass));
}

#[test]
fn a_next_hop_elsewhere_is_a_redirect_and_one_with_vlan_tags_gets_them() {
    for tags in
        [&[][..], &[[0x81, 0x00, 0x00, 0x07]][..], &[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 7]][..]]
    {
        for arriving in 0..=2 {
            let mut world = World::new(ONE_SERVICE);
            for way in world.view.paths.values_mut() {
                way.next_hop.ifindex = ELSEWHERE;
                way.next_hop.vlans = tags.len() as u8;
                for (to, from) in way.next_hop.tags.iter_mut().zip(tags) {
                    *to = *from;
                }
            }
            world.apply();
            let mut packet = invite();
            packet.vlans = vec![100; arriving];
            let run = world.run(&packet);
            assert_eq!(run.action, Action::Redirect, "{arriving} tags to {}", tags.len());
            let frame = run.frame();
            let vids: Vec<u16> =
                tags.iter().map(|tag| u16::from_be_bytes([tag[2], tag[3]])).collect();
            assert_eq!(frame.vlans(), vids, "{arriving} tags to {}", tags.len());
            assert_forwarded("tags", &packet, &frame, run.destination());
        }
    }
}

#[test]
fn an_unknown_next_hop_asks_the_routing_table_and_then_the_kernel() {
    let mut world = World::new(ONE_SERVICE);
    for way in world.view.paths.values_mut() {
        way.next_hop = lb_common::backend::NextHop::default();
    }
    world.apply();
    let run = world.run(&invite());
    assert_eq!((run.verdict, run.action), (Verdict::NewDialog, Action::Pass));
    let frame = run.frame();
    assert_ne!(frame.destination(), vip(), "the kernel gets it rewritten");
    assert_eq!(frame.ttl(), 64, "the kernel takes one itself");
    let events = world.program.counters.events().unwrap();
    assert_eq!((events.of(Event::FibLookup), events.of(Event::KernelForward)), (1, 1));
}

#[test]
fn a_packet_beyond_the_next_hops_mtu_goes_to_the_kernel() {
    let mut world = World::new(ONE_SERVICE);
    for way in world.view.paths.values_mut() {
        way.next_hop.mtu = 500;
    }
    world.apply();
    let packet = Packet::udp(client(10), vip(), Message::invite("big@x").size(900).build());
    assert_eq!(world.run(&packet).action, Action::Pass);
}

#[test]
fn a_lost_controller_ends_balancing_after_its_time() {
    let mut world = World::new(ONE_SERVICE);
    assert_eq!(world.run(&invite()).action, Action::Tx);
    // The heartbeat was never given: jiffies since boot are more than one.
    world.lost_after = 1;
    world.apply();
    let run = world.run(&invite());
    assert_eq!((run.verdict, run.action), (Verdict::ControllerLost, Action::Pass));
}

#[test]
fn records_that_are_missing_are_faults_not_crashes() {
    use lb_common::{
        backend::{Binding, Endpoint},
        service::Listener,
    };

    let mut world = World::new(ONE_SERVICE);
    let chosen = world.run(&invite()).decision;
    let binding = world.program.maps.binding(chosen.binding).unwrap();
    world.program.maps.put_binding(chosen.binding, &Binding::default()).unwrap();
    assert_eq!(world.run(&invite()).verdict, Verdict::MissingBinding);
    let missing = Binding { endpoint: 60_000, ..binding };
    world.program.maps.put_binding(chosen.binding, &missing).unwrap();
    assert_eq!(world.run(&invite()).verdict, Verdict::MissingEndpoint);
    world.program.maps.put_binding(chosen.binding, &binding).unwrap();
    assert_eq!(world.run(&invite()).verdict, Verdict::Dialog);

    let listener = world.program.maps.listener(chosen.listener).unwrap();
    world.program.maps.put_listener(chosen.listener, &Listener::default()).unwrap();
    assert_eq!(world.run(&invite()).verdict, Verdict::MissingListener);
    let missing = Listener { choice: 60_000, ..listener };
    world.program.maps.put_listener(chosen.listener, &missing).unwrap();
    assert_eq!(world.run(&invite()).verdict, Verdict::MissingMap);
    world.program.maps.put_listener(chosen.listener, &listener).unwrap();

    // An endpoint's next hop is of no use for one that was never written.
    let endpoint = world.program.maps.endpoint(binding.endpoint).unwrap();
    world.program.maps.put_endpoint(binding.endpoint, &Endpoint::default()).unwrap();
    assert_eq!(world.run(&invite()).verdict, Verdict::MissingEndpoint);
    world.program.maps.put_endpoint(binding.endpoint, &endpoint).unwrap();
    assert_eq!(world.run(&invite()).verdict, Verdict::Dialog);
}

#[test]
fn a_dead_backends_dialog_is_placed_anew() {
    let mut world = World::new(ONE_SERVICE);
    let first = world.run(&invite()).destination();
    let name = world.name(first).to_owned();
    world.set_down(&[&name]);
    let run = world.run(&invite());
    assert_eq!(run.verdict, Verdict::Rehash);
    assert_ne!(run.destination(), first);
    world.set_down(&[]);
    assert_eq!(world.run(&invite()).destination(), run.destination(), "it does not flap back");
}

#[test]
fn a_dead_backend_keeps_its_confirmed_dialog_where_that_is_wished() {
    let keep = "    in_dialog_failover: keep\n    backends:";
    let mut world = World::new(&ONE_SERVICE.replace("    backends:", keep));
    let first = world.run(&invite()).destination();
    let answer = Message::response(200, Method::Invite, "a84b4c76e66710@pc33").build();
    world.backend_sends(first, client(10), &answer);
    let name = world.name(first).to_owned();
    world.set_down(&[&name]);
    let run = world.run(&invite());
    assert_eq!((run.verdict, run.destination()), (Verdict::Keep, first));
    assert_eq!(run.action, Action::Tx);
}

const TWO_SERVICES: &str = "
interfaces: [lo]
hash_key: tests
dialogs: { max: 4096 }
limits: { services: 8, endpoints: 64, bindings: 128, tables: 8 }
services:
  - name: inbound
    listen: [\"203.0.113.10:5060\"]
    backends: [{ name: pbx, address: \"10.0.1.201:5060\" }]
  - name: outbound
    listen: [\"203.0.113.10:5080\"]
    backends: [{ name: carrier, address: \"10.0.1.202:5060\" }]
";

#[test]
fn a_backend_that_calls_a_vip_of_its_link_appears_as_its_own_vip() {
    let mut world = World::new(TWO_SERVICES);
    let (pbx, carrier) = (world.address("pbx"), world.address("carrier"));
    let packet = Packet::udp(pbx, addr("203.0.113.10:5080"), Message::invite("out@pbx").build())
        .macs(backend_mac(1), edge_mac(0));
    let run = world.run(&packet);
    let frame = run.frame();
    assert_eq!((frame.source(), frame.destination()), (addr("203.0.113.10:5060"), carrier));
    // The carrier's answer finds its way back by what was learned.
    let answer = Message::response(200, Method::Invite, "out@pbx").build();
    let back =
        Packet::udp(carrier, addr("203.0.113.10:5060"), answer).macs(backend_mac(2), edge_mac(0));
    let run = world.run(&back);
    let frame = run.frame();
    assert_eq!((frame.source(), frame.destination()), (addr("203.0.113.10:5080"), pbx));
    assert_eq!(run.verdict, Verdict::Dialog);

    // Behind a gateway the reply crosses this host anyway: the client's address stays.
    for way in world.view.paths.values_mut() {
        way.next_hop = hop(backend_mac(9), 0);
    }
    world.apply();
    let packet = packet.macs(backend_mac(9), edge_mac(0));
    assert_eq!(world.run(&packet).frame().source(), pbx);
}

#[test]
fn no_prefix_of_any_packet_makes_the_program_abort() {
    let mut world = World::new(ONE_SERVICE);
    let mut seen = BTreeSet::new();
    for packet in [
        invite(),
        answer(),
        invite().vlan(5).options(&[1, 1, 1, 1]),
        Packet::udp(
            addr("[2001:db8::1]:5060"),
            addr("[2001:db8:f::10]:5060"),
            Message::invite("p@q").build(),
        )
        .extension(0, 3),
    ] {
        let frame = packet.build();
        for len in 14..=frame.len() {
            seen.insert(world.run_bytes(&frame[..len]).verdict.reason());
        }
    }
    assert!(
        seen.contains("bad-length") && seen.contains("bad-header") && seen.len() >= 4,
        "{seen:?}"
    );
}

#[test]
fn every_verdict_has_a_row() {
    let covered: BTreeSet<Verdict> = untouched().iter().map(|row| row.verdict).collect();
    let elsewhere = [
        Verdict::NewDialog,
        Verdict::Dialog,
        Verdict::Hash,
        // In program_steering.
        Verdict::Via,
        Verdict::Replaces,
        Verdict::Rehash,
        Verdict::Keep,
        Verdict::NoCallId,
        Verdict::Keepalive,
        // In program_strays.rs.
        Verdict::StunOther,
        Verdict::Stun,
        Verdict::StunRefused,
        Verdict::KeepaliveAbsorbed,
        Verdict::StunMalformed,
        Verdict::Malformed,
        Verdict::Response,
        Verdict::ServerRequest,
        Verdict::ServerOther,
        // In `program_fragments.rs`.
        Verdict::Fragment,
        Verdict::ServerFragment,
        Verdict::FragmentHeld,
        Verdict::FragmentDuplicate,
        Verdict::FragmentOverlap,
        Verdict::FragmentDropped,
        Verdict::NoBackend,
        Verdict::NotAnswered,
        Verdict::SlowPathLimit,
        Verdict::SlowPathOff,
        Verdict::SlowPathFull,
        Verdict::HopLimit,
        Verdict::OtherInterface,
        Verdict::ControllerLost,
        Verdict::MissingListener,
        Verdict::MissingBinding,
        Verdict::MissingEndpoint,
        Verdict::MissingMap,
        // Cannot be provoked: guarded by an earlier check of the same bytes, or by the kernel's
        // headroom of 256 bytes.
        Verdict::OutOfBounds,
        Verdict::NoHeadroom,
    ];
    for verdict in Verdict::ALL {
        assert!(covered.contains(verdict) || elsewhere.contains(verdict), "{verdict:?}");
    }
}

/// Verified instructions on a recent kernel; older ones count up to twice as many, and refuse a
/// million.
const MOST_VERIFIED: u32 = 700_000;

#[test]
fn the_program_stays_within_its_budget() {
    let world = World::new(ONE_SERVICE);
    let verified = world.program.stats.verified.unwrap();
    println!("{verified} verified instructions");
    assert!(verified <= MOST_VERIFIED, "{verified} verified instructions");
}
