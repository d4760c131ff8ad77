//! What comes to a VIP and is no SIP: STUN is answered, keepalives and garbage go by the service's
//! policy. Answers are read by `stun_codec` and the CRC of `crc`, not by what is under test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod world;

use std::net::SocketAddr;

use bytecodec::{DecodeExt as _, EncodeExt as _};
use lb_common::verdict::Verdict;
use lb_tests::{
    message::{Message, Method},
    net::{client_mac, edge_mac},
    packet::{Checksum, Packet},
};
use lb_userspace::datapath::testrun::Action;
use stun_codec::{
    MessageClass, MessageDecoder, MessageEncoder, TransactionId,
    rfc5389::{
        Attribute,
        attributes::{ErrorCode, Fingerprint, Software, UnknownAttributes, XorMappedAddress},
        methods::BINDING,
    },
};
use world::{ONE_SERVICE, Run, World, client, vip};

type Stun = stun_codec::Message<Attribute>;

fn id() -> TransactionId {
    TransactionId::new(*b"abcdefghijkl")
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn request() -> Stun {
    Stun::new(MessageClass::Request, BINDING, id())
}

fn with_fingerprint(mut message: Stun) -> Stun {
    message.add_attribute(Fingerprint::new(&message).unwrap());
    message
}

fn encode(message: Stun) -> Vec<u8> {
    MessageEncoder::new().encode_into_bytes(message).unwrap()
}

/// A request with attributes that no library would write.
fn raw(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&(value.len() as u16).to_be_bytes());
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = (body.len() as u16).to_be_bytes();
    [b"\0\x01", &length[..], b"\x21\x12\xa4\x42abcdefghijkl", &body].concat()
}

/// The answer in a frame that went back the way it came, as an independent reader sees it.
fn answer(name: &str, run: &Run, packet: &Packet) -> Stun {
    assert_eq!(run.action, Action::Tx, "{name}");
    let frame = run.frame();
    assert_eq!(
        (frame.source(), frame.destination()),
        (packet.destination, packet.source),
        "{name}"
    );
    assert_eq!(frame.source_mac(), packet.destination_mac, "{name}");
    assert_eq!(frame.destination_mac(), packet.source_mac, "{name}");
    assert_eq!(frame.vlans(), packet.vlans, "{name}");
    assert_eq!(frame.ttl(), 64, "{name}");
    // IPv4 may go without, an answer does not.
    assert_ne!(frame.checksum(), Some(0), "{name}");
    let bytes = frame.payload();
    let stun: Stun = MessageDecoder::new().decode_from_bytes(bytes).unwrap().unwrap();
    assert_eq!((stun.transaction_id(), stun.method()), (id(), BINDING), "{name}");
    if let Some(print) = stun.get_attribute::<Fingerprint>() {
        let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&bytes[..bytes.len() - 8]);
        assert_eq!(print.crc32(), sum ^ 0x5354_554e, "{name}");
        assert_eq!(bytes[bytes.len() - 8..][..4], [0x80, 0x28, 0, 4], "{name}");
    }
    stun
}

const SIX: &str = "
interfaces: [lo]
hash_key: tests
dialogs: { max: 4096 }
limits: { services: 8, endpoints: 64, bindings: 128, tables: 8 }
services:
  - name: trunk
    listen: [\"[2001:db8:f::10]:5060\"]
    backends: [{ name: gw1, address: \"[2001:db8:b::201]:5060\" }]
";

#[test]
fn a_binding_request_is_told_its_source_in_every_shape_of_frame() {
    let mut four = World::new(ONE_SERVICE);
    let mut six = World::new(SIX);
    let plain = encode(request());
    let mut long = request();
    long.add_attribute(Software::new("x".repeat(127)).unwrap());
    let long = encode(long);
    let v4 = |payload: &[u8]| Packet::udp(addr("198.51.100.10:49152"), vip(), payload);
    let to_six = addr("[2001:db8:f::10]:5060");
    let v6 = |payload: &[u8]| Packet::udp(addr("[2001:db8:c::5]:49152"), to_six, payload);
    let shapes = [
        ("IPv4", v4(&plain)),
        ("IPv4, a request longer than its answer", v4(&long)),
        ("IPv4 options", v4(&plain).options(&[1, 1, 1, 0])),
        ("no UDP checksum", v4(&plain).checksum(Checksum::Fixed(0))),
        ("padding behind the datagram", Packet { padding: 30, ..v4(&plain) }),
        ("a VLAN", v4(&plain).vlan(7)),
        ("two VLANs", v4(&plain).vlan(7).vlan(8)),
        ("TTL 1", v4(&plain).ttl(1)),
        ("IPv6", v6(&plain)),
        ("IPv6, a longer request", v6(&long)),
        ("IPv6 hop-by-hop options", v6(&plain).extension(0, 3)),
        ("IPv6 on a VLAN", v6(&plain).vlan(7)),
    ];
    for (name, packet) in shapes {
        let world = if packet.source.is_ipv4() { &mut four } else { &mut six };
        let packet = packet.macs(client_mac(3), edge_mac(0));
        let run = world.run(&packet);
        assert_eq!(run.verdict, Verdict::Stun, "{name}");
        let stun = answer(name, &run, &packet);
        assert_eq!(stun.class(), MessageClass::SuccessResponse, "{name}");
        let mapped = stun.get_attribute::<XorMappedAddress>().unwrap();
        assert_eq!(mapped.address(), packet.source, "{name}");
        assert_eq!(stun.attributes().count(), 1, "{name}");
    }
    assert_eq!(four.count(Verdict::Stun), 8);
}

#[test]
fn a_fingerprint_is_checked_and_answered_with_one() {
    let mut four = World::new(ONE_SERVICE);
    let mut six = World::new(SIX);
    for length in [0, 1, 3, 100, 127] {
        let mut message = request();
        message.add_attribute(Software::new("x".repeat(length)).unwrap());
        let bytes = encode(with_fingerprint(message));
        let from_six =
            Packet::udp(addr("[2001:db8:c::5]:1024"), addr("[2001:db8:f::10]:5060"), bytes.clone());
        for (world, packet) in
            [(&mut four, Packet::udp(client(10), vip(), bytes)), (&mut six, from_six)]
        {
            let name = format!("{length} from {}", packet.source);
            let run = world.run(&packet);
            assert_eq!(run.verdict, Verdict::Stun, "{name}");
            let stun = answer(&name, &run, &packet);
            assert!(stun.get_attribute::<Fingerprint>().is_some(), "{name}");
            assert_eq!(stun.attributes().count(), 2, "{name}");

            // One bit anywhere spoils it.
            for at in [1, 9, packet.payload.len() - 9, packet.payload.len() - 1] {
                let mut spoilt = packet.clone();
                spoilt.payload[at] ^= 0x20;
                let frame = spoilt.build();
                let run = world.run_bytes(&frame);
                assert_ne!(run.verdict, Verdict::Stun, "{name}: bit at {at}");
                assert!(run.action != Action::Tx || at == 1, "{name}: bit at {at}");
            }
        }
    }
    assert!(four.count(Verdict::StunMalformed) >= 10);
}

#[test]
fn what_must_be_understood_and_is_not_is_refused_by_name() {
    let mut world = World::new(ONE_SERVICE);
    let rows: [(&str, Vec<u8>, Vec<u16>); 5] = [
        ("CHANGE-REQUEST", raw(&[(0x0003, &[0, 0, 0, 6])]), vec![3]),
        ("two", raw(&[(0x0024, &[0; 4]), (0x0025, &[])]), vec![0x24, 0x25]),
        (
            "three",
            raw(&[(0x24, &[]), (0x8022, b"abc"), (0x25, &[]), (0x7fff, &[])]),
            vec![0x24, 0x25, 0x7fff],
        ),
        (
            "four",
            raw(&[(0x31, &[]), (0x32, &[]), (0x33, &[]), (0x34, &[])]),
            vec![0x31, 0x32, 0x33, 0x34],
        ),
        (
            "five, of which four are named",
            raw(&[(0x31, &[]), (0x32, &[]), (0x33, &[]), (0x34, &[]), (0x35, &[])]),
            vec![0x31, 0x32, 0x33, 0x34],
        ),
    ];
    for (name, bytes, types) in rows {
        for print in [false, true] {
            let mut bytes = bytes.clone();
            if print {
                let length = u16::from_be_bytes([bytes[2], bytes[3]]) + 8;
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                let sum =
                    crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&bytes) ^ 0x5354_554e;
                bytes.extend_from_slice(&[0x80, 0x28, 0, 4]);
                bytes.extend_from_slice(&sum.to_be_bytes());
            }
            let packet = Packet::udp(client(10), vip(), bytes);
            let run = world.run(&packet);
            assert_eq!(run.verdict, Verdict::StunRefused, "{name}");
            let stun = answer(name, &run, &packet);
            assert_eq!(stun.class(), MessageClass::ErrorResponse, "{name}");
            let error = stun.get_attribute::<ErrorCode>().unwrap();
            assert_eq!((error.code(), error.reason_phrase()), (420, "Unknown Attribute"), "{name}");
            let named = stun.get_attribute::<UnknownAttributes>().unwrap();
            assert!(named.unknowns().iter().map(|kind| kind.as_u16()).eq(types.clone()), "{name}");
            assert_eq!(stun.get_attribute::<Fingerprint>().is_some(), print, "{name}");
            assert!(stun.get_attribute::<XorMappedAddress>().is_none(), "{name}");
        }
    }
}

#[test]
fn broken_requests_and_sources_that_cannot_be_answered_get_nothing() {
    let mut world = World::new(ONE_SERVICE);
    let good = encode(request());
    let rows: [(&str, SocketAddr, Vec<u8>); 6] = [
        ("a byte too many", client(10), [&good[..], b"x"].concat()),
        ("an attribute beyond the end", client(10), raw(&[(0x8022, &[0; 8])])[..28].to_vec()),
        ("a hundred attributes", client(10), raw(&[(0x8022, &[][..]); 100])),
        ("more than 548 bytes", client(10), raw(&[(0x8022, &[0; 528])])),
        ("source port 0", addr("198.51.100.10:0"), good.clone()),
        ("a multicast source", addr("224.0.0.5:5060"), good),
    ];
    for (name, source, bytes) in rows {
        let frame = Packet::udp(source, vip(), bytes).build();
        let run = world.run_bytes(&frame);
        assert_eq!((run.verdict, run.action), (Verdict::StunMalformed, Action::Drop), "{name}");
        assert!(run.bytes == frame, "{name}: the frame was changed");
    }
}

#[test]
fn other_stun_messages_go_to_a_backend() {
    let mut world = World::new(ONE_SERVICE);
    for class in
        [MessageClass::Indication, MessageClass::SuccessResponse, MessageClass::ErrorResponse]
    {
        let packet = Packet::udp(client(10), vip(), encode(Stun::new(class, BINDING, id())));
        let run = world.run(&packet);
        assert_eq!((run.verdict, run.action), (Verdict::StunOther, Action::Tx), "{class:?}");
        assert_eq!(run.frame().payload(), packet.payload, "{class:?}");
        assert_ne!(run.destination(), packet.source, "{class:?}");
    }
}

#[test]
fn stun_is_not_answered_while_no_backend_is_usable() {
    let mut world = World::new(ONE_SERVICE);
    let packet = Packet::udp(client(10), vip(), encode(request()));
    assert_eq!(world.run(&packet).verdict, Verdict::Stun);
    world.set_down(&["gw1", "gw2", "gw3", "gw4", "spare1", "spare2"]);
    let run = world.run(&packet);
    assert_eq!((run.verdict, run.action), (Verdict::NotAnswered, Action::Drop));
    world.set_down(&["gw1", "gw2", "gw3", "gw4", "spare1"]);
    assert_eq!(world.run(&packet).verdict, Verdict::Stun, "another tier will do");
}

#[test]
fn stun_from_a_backend_leaves_as_from_the_vip() {
    let mut world = World::new(ONE_SERVICE);
    let bytes = encode(request());
    let run = world.backend_sends(world.address("gw1"), client(10), &bytes);
    assert_eq!(run.verdict, Verdict::ServerOther);
    assert_eq!((run.frame().source(), run.destination()), (vip(), client(10)));
    assert_eq!(run.frame().payload(), bytes);
}

/// What clients send to keep a NAT binding open.
fn keepalives() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("CRLF", b"\r\n".to_vec()),
        ("CRLF CRLF", b"\r\n\r\n".to_vec()),
        ("empty", Vec::new()),
        ("one NUL", vec![0]),
        ("16 NULs", vec![0; 16]),
        ("500 NULs", vec![0; 500]),
        ("twenty CRLFs", b"\r\n".repeat(20)),
        ("a word", b"jaK".to_vec()),
        // RFC 3489 has no magic cookie.
        ("classic STUN", b"\0\x01\0\0abcdefghijklmnop".to_vec()),
    ]
}

#[test]
fn keepalives_end_here_counted_apart() {
    let mut world = World::new(ONE_SERVICE);
    let all = keepalives();
    for (n, (name, payload)) in all.iter().enumerate() {
        let frame = Packet::udp(client(10), vip(), payload.clone()).build();
        let run = world.run_bytes(&frame);
        assert_eq!((run.verdict, run.action), (Verdict::KeepaliveAbsorbed, Action::Drop), "{name}");
        assert!(run.bytes == frame, "{name}: the frame was changed");
        assert_eq!(world.count(Verdict::KeepaliveAbsorbed), n as u64 + 1, "{name}");
    }
    // Also when nobody is there: an absorbed keepalive lacks no backend.
    world.set_down(&["gw1", "gw2", "gw3", "gw4", "spare1", "spare2"]);
    let run = world.run(&Packet::udp(client(10), vip(), *b"\r\n\r\n"));
    assert_eq!(run.verdict, Verdict::KeepaliveAbsorbed);
}

/// [`ONE_SERVICE`] with more keys of the service.
fn with(keys: &str) -> World {
    World::new(&ONE_SERVICE.replace("    backends:\n", &format!("    {keys}\n    backends:\n")))
}

#[test]
fn keepalives_are_forwarded_where_that_is_wanted() {
    let mut world = with("keepalive: forward\n    malformed: drop");
    for (name, payload) in keepalives() {
        let packet = Packet::udp(client(10), vip(), payload);
        let run = world.run(&packet);
        assert_eq!((run.verdict, run.action), (Verdict::Keepalive, Action::Tx), "{name}");
        assert_eq!(run.frame().payload(), packet.payload, "{name}");
        assert_eq!(run.frame().source(), packet.source, "{name}");
    }
    // One source, one backend.
    let places =
        [1, 2, 3].map(|_| world.run(&Packet::udp(client(9), vip(), *b"\r\n")).destination());
    assert!(places.iter().all(|place| *place == places[0]));
}

/// Neither SIP nor a keepalive nor STUN.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("bytes", vec![0xf8; 300]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("RTP", [&[0x80, 0, 0, 1][..], &[0xaa; 168]].concat()),
        ("a DTLS hello", [&[0x16, 0xfe, 0xfd][..], &[0; 60]].concat()),
        ("a status line without a status", b"SIP/2.0 abc\r\n\r\n".to_vec()),
        ("text", b"this is no SIP at all".to_vec()),
        ("a line of 1,000 bytes", vec![b'x'; 1000]),
    ]
}

#[test]
fn what_is_no_sip_is_dropped_where_that_is_wanted_and_nothing_else() {
    let mut forwards = World::new(ONE_SERVICE);
    let mut drops = with("malformed: drop");
    for (name, payload) in garbage() {
        let packet = Packet::udp(client(10), vip(), payload);
        let run = forwards.run(&packet);
        assert_eq!(run.action, Action::Tx, "{name}: {:?}", run.verdict);
        assert_eq!(run.frame().payload(), packet.payload, "{name}");
        let run = drops.run(&packet);
        assert_eq!((run.verdict, run.action), (Verdict::Malformed, Action::Drop), "{name}");
    }
    let message = |text: &str| text.as_bytes().to_vec();
    let sip: [(&str, Vec<u8>); 9] = [
        ("an INVITE", Message::invite("a@b").build()),
        ("no Call-ID", Message::request(Method::Options, "a@b").without_call_id().build()),
        ("a response", Message::response(200, Method::Invite, "a@b").build()),
        ("an unknown method", message("NEWMETHOD sip:a@b SIP/2.0\r\ni: x\r\n\r\n")),
        ("another version", message("OPTIONS sip:a@b SIP/7.0\r\n\r\n")),
        ("blanks behind the version", message("X sip:a@b SIP/2.0   \r\n\r\n")),
        ("leading CRLFs", message("\r\n\r\nX sip:a@b SIP/2.0\r\n\r\n")),
        ("a Call-ID all the same", message("hello\r\ni: x\r\n\r\n")),
        ("no header at all", message("X sip:a@b SIP/2.0\r\n\r\n")),
    ];
    for (name, payload) in sip {
        let run = drops.run(&Packet::udp(client(10), vip(), payload));
        assert_eq!(run.action, Action::Tx, "{name}: {:?}", run.verdict);
    }
    for (name, payload) in keepalives() {
        let run = drops.run(&Packet::udp(client(10), vip(), payload));
        assert_eq!(run.verdict, Verdict::KeepaliveAbsorbed, "{name}");
    }
}
