use std::{fs, net::SocketAddr, path::Path, time::Duration};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, PacketBuilder, SlicedPacket, TransportSlice};
use lb_common::{
    hash::HashKey,
    slow::{Kind, Record},
};

use super::*;
use crate::slow::{Action, Consumer as _, Fate, Handed};

const KEY: HashKey = HashKey { k0: 1, k1: 2 };
const SPAN: Duration = Duration::from_secs(120);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// An INVITE with these Via lines and this To value.
fn invite(vias: &[&str], to: &str) -> String {
    let vias: String = vias.iter().map(|via| format!("Via: {via}\r\n")).collect();
    format!(
        "INVITE sip:bob@203.0.113.10 SIP/2.0\r\n{vias}Max-Forwards: 70\r\n\
         From: \"A, \\\"B\\\" <x>\" <sip:alice@a.example;tag=no>;tag=from1\r\nTo: {to}\r\n\
         Call-ID: Abc.1@host\r\nCSeq: 7 INVITE\r\nContact: <sip:a@h>\r\nContent-Length: 4\r\n\r\nbody"
    )
}

fn answered(request: &str, source: &str) -> (SocketAddr, String) {
    let request = Request::read(request.as_bytes()).unwrap();
    let answer = answer(&request, addr(source), SPAN, KEY);
    (answer.to, String::from_utf8(answer.text).unwrap())
}

const PLAIN: &str = "SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bK1";

#[test]
fn the_whole_answer_letter_by_letter() {
    let request = invite(&[PLAIN, "SIP/2.0/TCP b;branch=z9hG4bK2"], "<sip:bob@203.0.113.10>");
    let (to, text) = answered(&request, "198.51.100.7:5070");
    let tag = text.split("10>;tag=").nth(1).unwrap().split('\r').next().unwrap();
    assert_eq!(tag.len(), 16);
    assert_eq!(
        text,
        format!(
            "SIP/2.0 503 Service Unavailable\r\n\
             Via: {PLAIN}\r\n\
             Via: SIP/2.0/TCP b;branch=z9hG4bK2\r\n\
             From: \"A, \\\"B\\\" <x>\" <sip:alice@a.example;tag=no>;tag=from1\r\n\
             To: <sip:bob@203.0.113.10>;tag={tag}\r\n\
             Call-ID: Abc.1@host\r\n\
             CSeq: 7 INVITE\r\n\
             Retry-After: 120\r\n\
             Content-Length: 0\r\n\r\n"
        )
    );
    assert_eq!(to, addr("198.51.100.7:5070"));
}

#[test]
fn the_topmost_via_tells_where_the_answer_goes_and_where_the_request_came_from() {
    // RFC 3261 §18.2.1, §18.2.2; RFC 3581 §4.
    let source = "198.51.100.7:40000";
    for (via, expected, to) in [
        ("SIP/2.0/UDP 198.51.100.7:5070;branch=b", "=", "198.51.100.7:5070"),
        ("SIP/2.0/UDP 198.51.100.7;branch=b", "=", "198.51.100.7:5060"),
        ("SIP/2.0/UDP pc33.example:5070;branch=b", "=;received=198.51.100.7", "198.51.100.7:5070"),
        ("SIP/2.0/UDP 10.0.0.1:5070", "=;received=198.51.100.7", "198.51.100.7:5070"),
        (
            "SIP/2.0/UDP 198.51.100.7:5070;rport;branch=b",
            "SIP/2.0/UDP 198.51.100.7:5070;rport=40000;branch=b;received=198.51.100.7",
            source,
        ),
        (
            "SIP/2.0/UDP h;RPORT=9;branch=b",
            "SIP/2.0/UDP h;RPORT=40000;branch=b;received=198.51.100.7",
            source,
        ),
        (
            "SIP/2.0/UDP h;received=203.0.113.99;branch=b",
            "SIP/2.0/UDP h;branch=b;received=198.51.100.7",
            "198.51.100.7:5060",
        ),
        // Nobody else is made to get what he did not ask for.
        (
            "SIP/2.0/UDP h:5070;maddr=192.0.2.1;ttl=1",
            "=;received=198.51.100.7",
            "198.51.100.7:5070",
        ),
        (
            "SIP / 2.0 / UDP  h : 5070 ; branch=b;x=\"a;b,c\", SIP/2.0/UDP second;rport;q=\",\"",
            "SIP / 2.0 / UDP  h : 5070;branch=b;x=\"a;b,c\";received=198.51.100.7, \
             SIP/2.0/UDP second;rport;q=\",\"",
            "198.51.100.7:5070",
        ),
    ] {
        let (sent_to, text) =
            answered(&invite(&[via, "SIP/2.0/UDP last;rport"], "<sip:b@c>"), source);
        let expected = expected.replacen('=', via, usize::from(expected.starts_with('=')));
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("Via: ")).collect();
        assert_eq!(lines, [&*format!("Via: {expected}"), "Via: SIP/2.0/UDP last;rport"]);
        assert_eq!(sent_to, addr(to), "{via}");
    }
}

#[test]
fn ipv6_is_answered_alike() {
    let source = "[2001:db8::7]:40000";
    for (via, added, to) in [
        ("SIP/2.0/UDP [2001:DB8:0::7]:5070", "", "[2001:db8::7]:5070"),
        ("SIP/2.0/UDP [2001:db8::7]", "", "[2001:db8::7]:5060"),
        ("SIP/2.0/UDP [2001:db8::8]", ";received=2001:db8::7", "[2001:db8::7]:5060"),
        ("SIP/2.0/UDP [2001:db8::7]:5070;rport", "=40000;received=2001:db8::7", source),
    ] {
        let (sent_to, text) = answered(&invite(&[via], "<sip:b@c>"), source);
        assert!(text.contains(&format!("Via: {via}{added}\r\n")), "{text}");
        assert_eq!(sent_to, addr(to), "{via}");
    }
}

#[test]
fn a_to_tag_is_kept_and_a_new_one_is_the_same_for_a_retransmission_only() {
    for (to, has_tag) in [
        ("<sip:b@c>;tag=mine", true),
        ("<sip:b@c>;x=y; TAG = mine", true),
        ("sip:b@c;tag=mine", true),
        ("\";tag=q\" <sip:b@c;tag=uri>", false),
        ("<sip:b@c>;x=\";tag=y\"", false),
        ("sip:b@c", false),
    ] {
        let (_, text) = answered(&invite(&[PLAIN], to), "198.51.100.7:5070");
        let line = text.lines().find_map(|line| line.strip_prefix("To: ")).unwrap();
        assert_eq!(line == to, has_tag, "{line}");
        assert!(has_tag || line.starts_with(&format!("{to};tag=")), "{line}");
    }
    let tag = |request: &str, key| {
        let request = Request::read(request.as_bytes()).unwrap();
        answer(&request, addr("198.51.100.7:5070"), SPAN, key).text
    };
    let request = invite(&[PLAIN], "<sip:b@c>");
    assert_eq!(tag(&request, KEY), tag(&request, KEY));
    assert_ne!(tag(&request, KEY), tag(&request, HashKey { k0: 1, k1: 3 }), "nobody guesses it");
    for (old, new) in [("tag=from1", "tag=from2"), ("Abc.1", "Abc.2"), ("CSeq: 7", "CSeq: 8")] {
        let other = request.replace(old, new);
        let tag_of = |text: Vec<u8>| {
            let text = String::from_utf8(text).unwrap();
            text.split("<sip:b@c>;tag=").nth(1).unwrap()[..16].to_owned()
        };
        assert_ne!(tag_of(tag(&other, KEY)), tag_of(tag(&request, KEY)), "{new}");
    }
}

#[test]
fn odd_spellings_are_read() {
    let request = "\r\n\r\nOPTIONS  sip:x@y  sip/2.0\n\
         v : SIP/2.0/UDP\n\t h;branch=b\n\
         no header at all\n\
         f: <sip:a@b>;tag=1\nt:<sip:x@y>\ni: 1@2\ncSEQ:\n 3\n OPTIONS\n\nrest";
    let read = Request::read(request.as_bytes()).unwrap();
    assert_eq!(read.vias, ["SIP/2.0/UDP h;branch=b"]);
    assert_eq!((&*read.cseq, &*read.call_id, &*read.method), ("3 OPTIONS", "1@2", "OPTIONS"));
}

#[test]
fn what_cannot_be_answered_is_refused_by_a_reason() {
    let good = invite(&[PLAIN], "<sip:b@c>");
    assert!(Request::read(good.as_bytes()).is_ok());
    let ack = good.replace("INVITE", "ACK");
    let without = |name: &str| {
        let keep = |line: &&str| !line.starts_with(name);
        good.split_inclusive("\r\n").filter(keep).collect::<String>()
    };
    for (text, refusal) in [
        (ack, Refusal::Ack),
        (good.replace("\r\n\r\nbody", "\r\n"), Refusal::Malformed),
        (good.replace("SIP/2.0\r", "SIP/3.0\r"), Refusal::Malformed),
        (good.replace("INVITE sip:bob@203.0.113.10 ", "INVITE "), Refusal::Malformed),
        (good.replacen("INVITE", "IN VITE", 1).replacen("SIP/2.0", "x", 1), Refusal::Malformed),
        ("\u{feff}rubbish\r\n\r\n".to_owned(), Refusal::Malformed),
        (String::new(), Refusal::Malformed),
        (without("Via"), Refusal::Header),
        (without("From"), Refusal::Header),
        (without("To"), Refusal::Header),
        (without("Call-ID"), Refusal::Header),
        (without("CSeq"), Refusal::Header),
        (good.replace("Max-Forwards: 70", "Call-ID: second"), Refusal::Header),
        (good.replace("CSeq: 7 INVITE", "CSeq: 7 BYE"), Refusal::Header),
        (good.replace("CSeq: 7 INVITE", "CSeq: 4294967296 INVITE"), Refusal::Header),
        (good.replace("Call-ID: Abc", "Call-ID: A\rInjected: x"), Refusal::Header),
        (good.replace("198.51.100.7:5070", "198.51.100.7:99999"), Refusal::Header),
        (good.replace("SIP/2.0/UDP", "HTTP/2.0/UDP"), Refusal::Header),
        (good.replace("198.51.100.7:5070", ""), Refusal::Header),
    ] {
        assert_eq!(Request::read(text.as_bytes()), Err(refusal), "{text}");
    }
    let mut bytes = good.into_bytes();
    let at = bytes.windows(3).position(|w| w == b"Abc").unwrap();
    bytes[at] = 0xff;
    assert_eq!(Request::read(&bytes), Err(Refusal::Header), "it could not be repeated");
}

/// Every message of the scanner's corpus: no panic, and whatever is answered is an answer.
#[test]
fn whatever_is_answered_in_the_corpus_is_well_formed_and_repeats_the_call_id() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/messages");
    let (mut answers, mut refused) = (0, 0);
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "sip") {
            continue;
        }
        let Ok(request) = Request::read(&fs::read(&path).unwrap()) else {
            refused += 1;
            continue;
        };
        let answer = answer(&request, addr("198.51.100.7:40000"), SPAN, KEY);
        assert_eq!(answer.to.ip(), addr("198.51.100.7:1").ip());
        let text = String::from_utf8(answer.text).unwrap();
        assert!(text.ends_with("\r\nContent-Length: 0\r\n\r\n"), "{text}");
        let response = rsip::Response::try_from(text.as_bytes()).unwrap();
        let count = |name: &str| {
            response.headers.iter().filter(|h| h.to_string().starts_with(name)).count()
        };
        for name in ["From: ", "To: ", "Call-ID: ", "CSeq: ", "Retry-After: "] {
            assert_eq!(count(name), 1, "{}: {name}", path.display());
        }
        assert_eq!(count("Via: "), request.vias.len(), "{}", path.display());
        assert_eq!(text.lines().count(), 8 + request.vias.len(), "{}", path.display());
        assert!(text.contains(&format!("\r\nCall-ID: {}\r\n", request.call_id)));
        answers += 1;
    }
    println!("{answers} answered, {refused} refused");
    assert!(answers > 40 && refused > 40, "{answers} {refused}");
}

const VIP: &str = "203.0.113.10:5060";

fn config() -> Config {
    let yaml = "interfaces: [eth0]\nhash_key: x\nservices:\n  \
        - { name: a, listen: [\"203.0.113.10:5060\", \"203.0.113.11:5060\"], retry_after: 90s,\n      \
            backends: [{ name: b, address: \"10.0.0.1:5060\" }] }\n";
    crate::config::parse(yaml, Path::new("/")).unwrap().config
}

/// What the consumer makes of a datagram from `source`.
fn consume(consumer: &mut Answerer, source: &str, now: Duration) -> (Fate, Vec<Action>) {
    let request = invite(&[PLAIN], "<sip:b@c>");
    let (from, to) = (addr(source), addr(VIP));
    let (IpAddr::V4(a), IpAddr::V4(b)) = (from.ip(), to.ip()) else { panic!("IPv4") };
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(a.octets(), b.octets(), 64)
        .udp(from.port(), to.port());
    let mut frame = Vec::new();
    builder.write(&mut frame, request.as_bytes()).unwrap();
    let record = Record { frame_len: frame.len() as u32, ..Record::default() };
    let mut out = Vec::new();
    let handed = Handed { kind: Kind::NoBackend, record: &record, frame: &frame };
    (consumer.take(&handed, now, &mut out), out)
}

#[test]
fn an_answer_is_a_packet_from_the_vip_with_right_checksums() {
    let retry_after = RetryAfter::new(&config());
    let mut consumer = Answerer::new(retry_after.clone(), KEY);
    let (fate, out) = consume(&mut consumer, "198.51.100.7:5070", Duration::ZERO);
    assert_eq!(fate, Fate::Answered);
    let [Action::Send(packet)] = &out[..] else { panic!("{out:?}") };
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("UDP") };
    assert_eq!((udp.source_port(), udp.destination_port()), (5060, 5070));
    let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("IPv4") };
    let header = ip.header().to_header();
    assert_eq!((header.source, header.destination), ([203, 0, 113, 10], [198, 51, 100, 7]));
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let checksum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
    assert_eq!(udp.checksum(), checksum);
    let text = String::from_utf8_lossy(udp.payload());
    assert!(text.contains("\r\nRetry-After: 90\r\n"), "{text}");

    let mut other = config();
    other.services[0].retry_after = Duration::from_millis(1900);
    retry_after.set(&other);
    let (_, out) = consume(&mut consumer, "198.51.100.7:5070", Duration::ZERO);
    let [Action::Send(packet)] = &out[..] else { panic!("{out:?}") };
    assert!(String::from_utf8_lossy(packet).contains("\r\nRetry-After: 1\r\n"));

    other.services.clear();
    retry_after.set(&other);
    let (fate, out) = consume(&mut consumer, "198.51.100.7:5070", Duration::ZERO);
    assert_eq!((fate, out.len()), (Fate::Dropped("unknown-vip"), 0));
}

/// A fragment of the datagram that `request` is sent in: its first `len` bytes, at this offset.
fn piece(request: &str, is_v4: bool, len: usize, offset: u16) -> Vec<u8> {
    let whole = u16::try_from(8 + request.len()).unwrap();
    let udp = [5070_u16, 5060, whole, 0].map(u16::to_be_bytes).concat();
    let part = &[&udp[..], request.as_bytes()].concat()[..len];
    if is_v4 {
        let (from, to) = ([198, 51, 100, 7], [203, 0, 113, 10]);
        let mut ip = Ipv4Header::new(len as u16, 64, IpNumber::UDP, from, to).unwrap();
        ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        ip.more_fragments = true;
        ip.header_checksum = ip.calc_header_checksum();
        return [&[2; 12][..], &[8, 0], &ip.to_bytes(), part].concat();
    }
    let all = (len as u16 + 8).to_be_bytes();
    let header = [&[0x60, 0, 0, 0][..], &all, &[44, 64], &[0x20; 16], &[0x21; 16]].concat();
    let fragment = [&[17, 0][..], &(offset << 3 | 1).to_be_bytes(), &[1, 2, 3, 4]].concat();
    [&[2; 12][..], &[0x86, 0xdd], &header, &fragment, part].concat()
}

#[test]
fn a_request_in_fragments_is_answered_if_its_first_one_has_all_headers() {
    let request = invite(&[PLAIN], "<sip:b@c>") + &"x".repeat(2000);
    // All fragments but the last are of eight-byte units.
    let head = (8 + request.find("\r\n\r\n").unwrap() + 4).next_multiple_of(8);
    let take = |is_v4, len, offset| {
        let frame = piece(&request, is_v4, len, offset);
        let record = Record { frame_len: frame.len() as u32, ..Record::default() };
        let handed = Handed { kind: Kind::NoBackend, record: &record, frame: &frame };
        let mut out = Vec::new();
        let mut consumer = Answerer::new(RetryAfter::new(&config()), KEY);
        (consumer.take(&handed, Duration::ZERO, &mut out), out)
    };
    let (fate, out) = take(true, 1400, 0);
    assert_eq!(fate, Fate::Answered);
    let [Action::Send(packet)] = &out[..] else { panic!("{out:?}") };
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("UDP") };
    assert_eq!((udp.source_port(), udp.destination_port()), (5060, 5070));
    assert!(udp.payload().starts_with(b"SIP/2.0 503 "));

    assert_eq!(take(true, head, 0).0, Fate::Answered, "hardly a byte of its body");
    assert_eq!(take(true, head - 8, 0).0, Fate::Dropped("malformed"), "headers are missing");
    assert_eq!(take(true, 0, 0).0, Fate::Dropped("no-datagram"));
    assert_eq!(take(true, 1400, 5).0, Fate::Dropped("no-datagram"), "a later one has no ports");
    // It is read; the configuration has no VIP of IPv6.
    assert_eq!(take(false, 1400, 0).0, Fate::Dropped("unknown-vip"));
    assert_eq!(take(false, 1400, 5).0, Fate::Dropped("no-datagram"));
}

#[test]
fn nothing_goes_to_many_to_nobody_or_home() {
    let mut consumer = Answerer::new(RetryAfter::new(&config()), KEY);
    for source in [
        "224.0.0.1:5060",
        "255.255.255.255:5060",
        "0.0.0.0:5060",
        "127.0.0.1:5060",
        "198.51.100.7:0",
    ] {
        let (fate, out) = consume(&mut consumer, source, Duration::ZERO);
        assert_eq!((fate, out.len()), (Fate::Dropped("bad-source"), 0), "{source}");
    }
}

#[test]
fn answers_are_capped_in_rate() {
    let mut consumer = Answerer::new(RetryAfter::new(&config()), KEY);
    let mut sent = 0;
    for millis in 0..2000 {
        for _ in 0..10 {
            let now = Duration::from_millis(millis);
            let (fate, out) = consume(&mut consumer, "198.51.100.7:5070", now);
            assert_eq!(fate == Fate::Answered, out.len() == 1);
            assert!(fate == Fate::Answered || fate == Fate::Dropped("rate"));
            sent += out.len() as u32;
        }
    }
    let expected = RATE * 2 + RATE / 10;
    assert!(sent.abs_diff(expected) <= 10, "{sent}");
    let mut unlimited = consumer.unlimited();
    assert!((0..5000).all(|_| {
        consume(&mut unlimited, "198.51.100.7:5070", Duration::ZERO).0 == Fate::Answered
    }));
}
