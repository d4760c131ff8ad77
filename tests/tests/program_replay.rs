//! `replay`: captures through the real program in the kernel. Needs root.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod pins;
mod replay;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::Command,
    time::Instant,
};

use lb_common::maps::{Capacities, Settings};
use lb_tests::{
    command,
    frame::Frame,
    message::{Message, Method},
    packet::Packet,
};
use lb_userspace::{
    cli::{
        replay::{ReplayArgs, run_to},
        route,
    },
    datapath::live,
    maps::LbMaps as _,
    state::route::derive_key,
};
use pins::Pins;
use replay::{
    Record, START, Workplace, lines, pcap, pcap_big_endian, pcapng, read_pcap, records, run,
};
use serde_json::{Value, json};

const VIP: &str = "203.0.113.10:5060";
const CLIENT: &str = "198.51.100.10:5062";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn to_vip(payload: impl Into<Vec<u8>>) -> Packet {
    Packet::udp(at(CLIENT), at(VIP), payload)
}

fn invite(call_id: &str) -> Vec<u8> {
    to_vip(Message::invite(call_id).build()).build()
}

fn reply(from: &str, payload: impl Into<Vec<u8>>) -> Vec<u8> {
    Packet::udp(at(from), at(CLIENT), payload).build()
}

fn invites(count: usize) -> (Vec<String>, Vec<Vec<u8>>) {
    let ids: Vec<String> = (0..count).map(|n| format!("{n:x}-call@pc{}", n % 7)).collect();
    let frames = ids.iter().map(|id| invite(id)).collect();
    (ids, frames)
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_else(|| panic!("no {field} in {line}"))
}

#[test]
fn a_dialog_stays_with_its_backend_and_its_answers_are_replies() {
    let work = Workplace::new();
    let id = "dialog@pc33";
    let backend = work.route("trunk", id, &[]);
    let address = address_of(&backend);
    let bye = Message::request(Method::Bye, id).to_tag("callee").build();
    let got = work.replay(&[
        invite(id),
        reply(address, Message::response(180, Method::Invite, id).build()),
        reply(address, Message::response(200, Method::Invite, id).build()),
        to_vip(Message::request(Method::Ack, id).to_tag("callee").build()).build(),
        // Another source, another VIP of the service.
        Packet::udp(at("198.51.100.99:1024"), at("203.0.113.10:5080"), bye).build(),
        reply(address, Message::response(200, Method::Bye, id).build()),
    ]);
    let line = |packet, verdict, reason, method: Value, status: Value, key: Value| {
        json!({
            "packet": packet, "verdict": verdict, "reason": reason, "service": "trunk",
            "method": method, "status": status, "call_id": id, "key": key, "backend": backend,
            "address": address, "out": "tx",
        })
    };
    let null = || Value::Null;
    let expected = [
        line(1, "forward", "new-dialog", "INVITE".into(), null(), "call-id".into()),
        line(2, "reply", "response", null(), 180.into(), "dialog".into()),
        line(3, "reply", "response", null(), 200.into(), "dialog".into()),
        line(4, "forward", "dialog", "ACK".into(), null(), "dialog".into()),
        line(5, "forward", "dialog", "BYE".into(), null(), "dialog".into()),
        line(6, "reply", "response", null(), 200.into(), "dialog".into()),
    ];
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(got, expected);
    }
    assert_eq!(got.len(), expected.len());
}

fn address_of(backend: &str) -> &'static str {
    match backend {
        "gw1" => "10.0.1.1:5060",
        "gw2" => "10.0.1.2:5060",
        "gw3" => "10.0.1.3:5070",
        "spare" => "10.0.2.1:5060",
        other => panic!("no backend {other}"),
    }
}

#[test]
fn fields_stand_in_the_order_of_the_interface() {
    let work = Workplace::new();
    let capture = work.file("in.pcap", &pcap(1, &records(&[invite("a84b4c76e66710@pc33")])));
    let backend = work.route("trunk", "a84b4c76e66710@pc33", &[]);
    let address = address_of(&backend);
    let expected = format!(
        "{{\"packet\":1,\"verdict\":\"forward\",\"reason\":\"new-dialog\",\"service\":\"trunk\",\
         \"method\":\"INVITE\",\"status\":null,\"call_id\":\"a84b4c76e66710@pc33\",\
         \"key\":\"call-id\",\"backend\":\"{backend}\",\"address\":\"{address}\",\"out\":\"tx\"}}\n"
    );
    assert_eq!(run(&work.args(&capture)), expected);
}

#[test]
fn a_backend_that_is_down_loses_its_calls_and_no_other_does() {
    let work = Workplace::new();
    let (ids, frames) = invites(300);
    let before = work.replay(&frames);
    let after = work.replay_down(&frames, &["trunk/gw1"]);
    let mut moved = BTreeMap::new();
    for (before, after) in before.iter().zip(&after) {
        let (old, new) = (text(before, "backend"), text(after, "backend"));
        assert_ne!(new, "gw1");
        if old == "gw1" {
            *moved.entry(new.to_owned()).or_insert(0) += 1;
        } else {
            assert_eq!(old, new);
        }
    }
    assert_eq!(moved.keys().collect::<Vec<_>>(), ["gw2", "gw3"], "{moved:?}");

    let tier = ["trunk/gw1", "trunk/gw2", "trunk/gw3"];
    let spare = work.replay_down(&frames, &tier);
    assert!(spare.iter().all(|line| line["backend"] == "spare"));
    assert_eq!(work.route("trunk", &ids[0], &tier), "spare");

    let all = ["trunk/gw1", "trunk/gw2", "trunk/gw3", "trunk/spare"];
    for line in work.replay_down(&frames, &all) {
        let shown =
            [&line["verdict"], &line["reason"], &line["backend"], &line["key"], &line["out"]];
        assert_eq!(json!(shown), json!(["answer", "no-backend", null, null, "tx"]));
        assert_eq!(line["service"], "trunk");
    }
}

#[test]
fn with_nobody_home_requests_are_answered_and_the_answers_are_written() {
    let work = Workplace::new();
    let (ids, mut frames) = invites(500);
    let source: SocketAddr = "198.51.100.10:5060".parse().unwrap();
    let vip: SocketAddr = "203.0.113.10:5060".parse().unwrap();
    let bad = String::from_utf8(Message::invite("bad@pc").build()).unwrap().replace("CSeq", "XSeq");
    frames.push(Packet::udp(source, vip, bad.into_bytes()).build());
    let ack = Message::request(Method::Ack, "ack@pc").build();
    frames.push(Packet::udp(source, vip, ack).build());
    let (capture, written) = (work.file("in.pcap", &pcap(1, &records(&frames))), work.path("out"));
    let down = ["trunk/gw1", "trunk/gw2", "trunk/gw3", "trunk/spare"].map(str::to_owned).to_vec();
    let args =
        || ReplayArgs { write: Some(written.clone()), down: down.clone(), ..work.args(&capture) };
    let out = run(&args());
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown = |line: &Value| json!([line["verdict"], line["reason"], line["out"]]);
    assert!(lines[..500].iter().all(|l| shown(l) == json!(["answer", "no-backend", "tx"])));
    assert_eq!(shown(&lines[500]), json!(["drop", "bad-header", "drop"]));
    assert_eq!(shown(&lines[501]), json!(["drop", "not-answered", "drop"]));

    let answers = read_pcap(&written);
    assert_eq!(answers.len(), 500);
    for (id, (_, bytes)) in ids.iter().zip(&answers) {
        let frame = Frame::parse(bytes).unwrap();
        frame.verify().unwrap();
        assert_eq!(frame.source(), vip);
        let text = String::from_utf8_lossy(frame.payload());
        assert!(text.starts_with("SIP/2.0 503 Service Unavailable\r\n"), "{text}");
        assert!(text.contains(&format!("\r\nCall-ID: {id}\r\n")), "{text}");
        assert!(text.contains("\r\nRetry-After: 120\r\n"), "{text}");
    }
    assert_eq!(run(&args()), out);
    assert_eq!(read_pcap(&written), answers, "two runs say the same");
}

#[test]
fn replay_and_route_agree() {
    let work = Workplace::new();
    let (ids, frames) = invites(1000);
    for (count, down) in [(1000, &[][..]), (100, &["trunk/gw3"])] {
        let got = work.replay_down(&frames[..count], down);
        assert_eq!(got.len(), count);
        let mut seen = BTreeSet::new();
        for (id, line) in ids.iter().zip(&got) {
            let backend = work.route("trunk", id, down);
            assert_eq!(text(line, "backend"), backend, "{id}");
            assert_eq!(text(line, "call_id"), id);
            seen.insert(backend);
        }
        assert_eq!(seen.len(), 3 - down.len());
    }
}

#[test]
fn two_replays_are_identical_to_the_byte() {
    let work = Workplace::new();
    let (ids, mut frames) = invites(200);
    for id in &ids {
        let backend = work.route("trunk", id, &[]);
        let answer = Message::response(200, Method::Invite, id).build();
        frames.push(reply(address_of(&backend), answer));
    }
    let capture = work.file("in.pcap", &pcap(1, &records(&frames)));
    let outputs: Vec<_> = ["one.pcap", "two.pcap"]
        .iter()
        .map(|name| {
            let written = work.path(name);
            let out = run(&ReplayArgs { write: Some(written.clone()), ..work.args(&capture) });
            (out, std::fs::read(written).unwrap())
        })
        .collect();
    assert!(outputs[0] == outputs[1]);
    let packets = lines(&outputs[0].0);
    assert!((1..).zip(&packets).all(|(n, line)| line["packet"] == n));
    assert_eq!(packets.len(), 400);
}

#[test]
fn every_format_and_link_layer_tells_the_same() {
    let work = Workplace::new();
    let (_, frames) = invites(20);
    let ethernet = records(&frames);
    let with = |change: &dyn Fn(&[u8]) -> Vec<u8>| -> Vec<Record> {
        let changed: Vec<_> = frames.iter().map(|frame| change(frame)).collect();
        records(&changed)
    };
    let raw = with(&|frame| frame[14..].to_vec());
    let cooked = with(&|frame| [&[0; 14][..], &frame[12..]].concat());
    let cooked2 = with(&|frame| [&frame[12..14], &[0; 18], &frame[14..]].concat());
    let tagged = with(&|frame| [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat());
    let double =
        with(&|frame| [&frame[..12], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], &frame[12..]].concat());
    let null = with(&|frame| [&[2, 0, 0, 0][..], &frame[14..]].concat());
    let files = [
        ("pcap", pcap(1, &ethernet)),
        ("big-endian", pcap_big_endian(1, &ethernet)),
        ("pcapng", pcapng(1, &ethernet)),
        ("two sections", [pcapng(1, &ethernet[..10]), pcapng(101, &raw[10..])].concat()),
        ("VLAN", pcap(1, &tagged)),
        ("two VLANs", pcapng(1, &double)),
        ("raw", pcap(101, &raw)),
        ("raw of BSD", pcap(12, &raw)),
        ("IPv4", pcap(228, &raw)),
        ("cooked", pcap(113, &cooked)),
        ("cooked 2", pcapng(276, &cooked2)),
        ("loopback", pcap(0, &null)),
    ];
    let mut first = None;
    for (name, bytes) in files {
        let capture = work.file("in", &bytes);
        let written = work.path("out.pcap");
        let out = run(&ReplayArgs { write: Some(written.clone()), ..work.args(&capture) });
        let got = (out, read_pcap(&written));
        assert_eq!(got.1.len(), 20, "{name}");
        for (n, (time, _)) in got.1.iter().enumerate() {
            assert_eq!(*time, (START + n as u64 * 1_000_000) * 1000, "{name}");
        }
        match &first {
            Some(first) => assert!(first == &got, "{name} differs: {}", got.0),
            None => first = Some(got),
        }
    }
    assert!(lines(&first.unwrap().0).iter().all(|line| line["reason"] == "new-dialog"));
}

#[test]
fn what_the_program_cannot_take_still_has_its_line() {
    let work = Workplace::new();
    let whole = invite("whole");
    let big = to_vip(vec![b'x'; 4000]).build();
    let mut input = records(&[whole.clone(), whole.clone(), big, vec![0; 13], vec![], whole]);
    input[1].data.truncate(200);
    let capture = work.file("in.pcap", &pcap(1, &input));
    let got = lines(&run(&work.args(&capture)));
    let reasons: Vec<_> = got.iter().map(|line| text(line, "reason")).collect();
    assert_eq!(reasons, ["new-dialog", "truncated", "too-big", "too-short", "too-short", "dialog"]);
    let expected = json!({
        "packet": 2, "verdict": "pass", "reason": "truncated", "service": null, "method": null,
        "status": null, "call_id": null, "key": null, "backend": null, "address": null,
        "out": "pass",
    });
    assert_eq!(got[1], expected);
}

#[test]
fn other_packets_get_the_programs_own_verdict() {
    let work = Workplace::new();
    let options = Message::request(Method::Options, "o").build();
    let odd = Message::request(Method::Options, "odd").start_line("X-ODD sip:a@b SIP/2.0").build();
    let long = to_vip(Message::invite("fragments").size(1400).build()).fragments(800);
    let arp = [&[0xff; 6][..], &[2; 6], &[8, 6], &[0; 28]].concat();
    let six = Packet::udp(at("[2001:db8:9::9]:5060"), at("[2001:db8::10]:5060"), options.clone());
    let from_b = at("[2001:db8:1::2]:5060");
    let server = Packet::udp(from_b, at("[2001:db8:9::9]:5060"), options.clone());
    let same = Packet::udp(at("10.0.1.1:5060"), at("10.0.1.2:5060"), options.clone());
    let local = Packet::udp(at("10.0.1.1:5060"), at("10.0.1.250:5060"), options.clone());
    let frames = [
        arp,
        Packet::udp(at(CLIENT), at("203.0.113.10:9"), options).build(),
        to_vip(*b"\r\n\r\n").build(),
        to_vip(odd).build(),
        long[0].clone(),
        long[1].clone(),
        to_vip(Message::invite("old").build()).ttl(1).build(),
        six.build(),
        server.build(),
        same.build(),
        local.build(),
        reply("10.0.1.1:5060", Message::response(404, Method::Options, "stranger").build()),
    ];
    let capture = work.file("in.pcap", &pcap(1, &records(&frames)));
    let local = vec!["10.0.1.250".parse().unwrap()];
    let got = lines(&run(&ReplayArgs { local, ..work.args(&capture) }));
    let short: Vec<_> = got
        .iter()
        .map(|l| json!([l["verdict"], l["reason"], l["service"], l["method"], l["key"], l["out"]]))
        .collect();
    let expected = [
        json!(["pass", "not-ours", null, null, null, "pass"]),
        json!(["pass", "not-ours", null, null, null, "pass"]),
        json!(["drop", "keepalive-absorbed", "trunk", null, null, "drop"]),
        json!(["forward", "new-dialog", "trunk", "X-ODD", "call-id", "tx"]),
        json!(["forward", "new-dialog", "trunk", "INVITE", "call-id", "tx"]),
        json!(["forward", "fragment", "trunk", null, null, "tx"]),
        json!(["pass", "hop-limit", "trunk", "INVITE", "call-id", "pass"]),
        json!(["forward", "hash", "six", "OPTIONS", "call-id", "tx"]),
        json!(["reply", "server-request", "six", "OPTIONS", "dialog", "tx"]),
        json!(["pass", "same-service", "trunk", null, null, "pass"]),
        json!(["pass", "to-this-host", "trunk", null, null, "pass"]),
        json!(["reply", "response", "trunk", null, null, "tx"]),
    ];
    for (n, (got, expected)) in short.iter().zip(&expected).enumerate() {
        assert_eq!(got, expected, "packet {}", n + 1);
    }
    assert_eq!(short.len(), expected.len());
}

#[test]
fn written_packets_are_rewritten_and_their_checksums_right() {
    let work = Workplace::new();
    let id = "written@pc";
    let backend = at(address_of(&work.route("trunk", id, &[])));
    let dialogue = [
        invite(id),
        reply(&backend.to_string(), Message::response(200, Method::Invite, id).build()),
        // Stays here.
        vec![0; 60],
        Packet::udp(
            at("[2001:db8:1::1]:5060"),
            at("[2001:db8:9::9]:5071"),
            "SIP/2.0 200 OK\r\n\r\n",
        )
        .build(),
    ];
    let capture = work.file("in.pcap", &pcap(1, &records(&dialogue)));
    let written = work.path("out.pcap");
    run(&ReplayArgs { write: Some(written.clone()), ..work.args(&capture) });
    let frames: Vec<_> = read_pcap(&written)
        .into_iter()
        .map(|(time, bytes)| {
            let frame = Frame::parse(&bytes).unwrap();
            frame.verify().unwrap();
            assert_eq!(frame.ttl(), 63);
            (time, frame.source(), frame.destination(), frame.payload().to_vec())
        })
        .collect();
    let payload = |n: usize| Frame::parse(&dialogue[n]).unwrap().payload().to_vec();
    let time = |n: u64| (START + n * 1_000_000) * 1000;
    let expected = [
        (time(0), at(CLIENT), backend, payload(0)),
        (time(1), at(VIP), at(CLIENT), payload(1)),
        (time(3), at("[2001:db8::10]:5060"), at("[2001:db8:9::9]:5071"), payload(3)),
    ];
    assert_eq!(frames, expected);

    let mut tshark = Command::new("tshark");
    tshark.args(["-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]);
    tshark.args(["-T", "fields", "-e", "udp.checksum.status", "-e", "sip.Call-ID", "-r"]);
    let seen = command::output(tshark.arg(&written)).unwrap();
    assert_eq!(seen.trim_end(), format!("1\t{id}\n1\t{id}\n1"));
}

#[test]
fn a_backend_that_calls_a_vip_keeps_its_address_unless_on_link() {
    let work = Workplace::new();
    let caller = at("10.0.2.1:5060");
    let call = Packet::udp(caller, at(VIP), Message::invite("from-backend").build()).build();
    let capture = work.file("in.pcap", &pcap(1, &records(&[call])));
    let chosen = at(address_of(&work.route("trunk", "from-backend", &[])));
    for (on_link, source) in [(false, caller), (true, at(VIP))] {
        let written = work.path("out.pcap");
        let write = Some(written.clone());
        let got = lines(&run(&ReplayArgs { write, on_link, ..work.args(&capture) }));
        assert_eq!(got[0]["verdict"], "forward");
        let frames = read_pcap(&written);
        let frame = Frame::parse(&frames[0].1).unwrap();
        frame.verify().unwrap();
        assert_eq!((frame.source(), frame.destination()), (source, chosen), "on link: {on_link}");
    }
}

#[test]
fn without_a_hash_key_the_pinned_one_decides_and_stays_as_it_is() {
    let work = Workplace::new();
    let pins = Pins::new();
    let keyed = |key: &str| {
        let pin_dir = format!("pin_dir: {}\n", pins.path().display());
        let text = replay::CONFIG.replace("hash_key: \"replay tests\"\n", &(pin_dir + key));
        std::fs::write(work.path("config.yaml"), text).unwrap();
        let (ids, frames) = invites(60);
        let replayed: Vec<_> =
            work.replay(&frames).iter().map(|line| text_of(line, "backend")).collect();
        let routed: Vec<_> = ids.iter().map(|id| work.route("trunk", id, &[])).collect();
        assert_eq!(replayed, routed);
        routed
    };
    let (empty, live) = (keyed(""), keyed("hash_key: \"live\"\n"));
    assert_ne!(empty, live);

    let mut running = live::open(pins.path(), &Capacities::new(4, 32, 64, 8, 1024)).unwrap();
    // A key that is not written yet is none.
    assert_eq!(keyed(""), empty);
    let settings = Settings { key: derive_key("live"), ..Settings::default() };
    running.maps.put_settings(&settings).unwrap();
    assert_eq!(keyed(""), live);
    assert_eq!(running.maps.settings().unwrap(), settings);
    assert!(running.dialogs.read().iter().all(|&entry| entry == 0));
}

fn text_of(line: &Value, field: &str) -> String {
    text(line, field).to_owned()
}

#[test]
fn dialogs_expire_by_the_captures_clock_and_never_come_back() {
    let work = Workplace::new();
    let id = "moved@pc";
    let owner = work.route("trunk", id, &[]);
    let other = ["gw1", "gw2"].into_iter().find(|name| *name != owner).unwrap();
    let from_other = reply(address_of(other), Message::invite(id).build());
    let bye = to_vip(Message::request(Method::Bye, id).to_tag("x").build()).build();
    let with_pause = |seconds: u64| {
        let mut input = records(&[from_other.clone(), bye.clone()]);
        input[1].time = START + seconds * 1_000_000;
        let capture = work.file("in.pcap", &pcap(1, &input));
        let got = lines(&run(&work.args(&capture)));
        text(&got[1], "backend").to_owned()
    };
    // The call that the other backend began is known for as long as `dialogs.timeout` says.
    assert_eq!(with_pause(1), other);
    assert_eq!(with_pause(3500), other);
    assert_eq!(with_pause(4200), owner);
    // 128 epochs later the time stamp of an entry would look young again.
    assert_eq!(with_pause(128 * 256), owner);
    assert_eq!(with_pause(130 * 256 + 7), owner);
    // Time stamps that go back do not move time back.
    let mut input = records(&[from_other.clone(), vec![0; 60], bye.clone()]);
    input[1].time = START + 4200 * 1_000_000;
    let capture = work.file("in.pcap", &pcap(1, &input));
    assert_eq!(lines(&run(&work.args(&capture)))[2]["backend"], owner.as_str());
}

#[test]
fn wrong_arguments_name_what_there_is() {
    let work = Workplace::new();
    let capture = work.file("in.pcap", &pcap(1, &[]));
    let mut out = Vec::new();
    let args = ReplayArgs { down: vec!["trunk/none".to_owned()], ..work.args(&capture) };
    assert_eq!(run_to(&args, &mut out).unwrap(), 2);
    let args = ReplayArgs { config: capture.clone(), ..work.args(&capture) };
    assert_eq!(run_to(&args, &mut out).unwrap(), 2);
    let args = ReplayArgs { write: Some(capture.clone()), ..work.args(&capture) };
    let why = format!("{:#}", run_to(&args, &mut out).unwrap_err());
    assert!(why.contains("this is the capture that is read"), "{why}");
    assert_eq!(std::fs::read(&capture).unwrap(), pcap(1, &[]));
    for (service, call_id, down) in [
        ("none", "a", None),
        ("trunk", "", None),
        ("trunk", "a b", None),
        ("trunk", "a", Some("gw1")),
    ] {
        let args = route::RouteArgs {
            config: work.path("config.yaml"),
            service: service.to_owned(),
            call_id: call_id.to_owned(),
            method: "INVITE".to_owned(),
            request_uri: None,
            from: None,
            to: None,
            source: None,
            down: down.into_iter().map(str::to_owned).collect(),
            json: true,
        };
        assert_eq!(route::run_to(&args, &mut out).unwrap(), 2, "{service} {call_id} {down:?}");
    }
    assert!(out.is_empty());
}

#[test]
fn damaged_captures_are_replayed_as_far_as_they_go() {
    let work = Workplace::new();
    let (_, frames) = invites(3);
    let whole = pcap(1, &records(&frames));
    let cut = &whole[..whole.len() - 10];
    let other = [whole.clone(), vec![0xff; 40]].concat();
    let cases: [(&[u8], usize, &str); 6] = [
        (cut, 2, "ends in the middle of packet 3"),
        (&other, 3, "ends in the middle of packet 4"),
        (b"this is no capture, but text that goes on", 0, "neither a pcap nor a pcapng"),
        (b"", 0, "the capture is empty"),
        (&pcap(105, &records(&frames)), 0, "packet 1 has link type 105"),
        (&pcapng(1, &records(&frames))[..150], 0, "middle of packet 1"),
    ];
    for (bytes, packets, expected) in cases {
        let capture = work.file("in.pcap", bytes);
        let mut out = Vec::new();
        let why = format!("{:#}", run_to(&work.args(&capture), &mut out).unwrap_err());
        assert!(why.contains(expected), "{why}");
        assert!(why.contains("in.pcap"), "{why}");
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), packets, "{expected}");
    }
    // An empty capture is fine.
    assert_eq!(run(&work.args(&work.file("in.pcap", &pcap(1, &[])))), "");
}

#[test]
fn a_person_sees_rows_and_a_summary() {
    let work = Workplace::new();
    let (_, frames) = invites(400);
    let capture = work.file("in.pcap", &pcap(1, &records(&frames)));
    let out = run(&ReplayArgs { json: false, ..work.args(&capture) });
    assert!(out.starts_with(" packet  verdict   reason "), "{out}");
    assert!(out.contains("\n400 packets\n"), "{out}");
    assert_eq!(out.lines().filter(|line| line.contains("  forward   new-dialog")).count(), 401);
    assert!(out.lines().any(|line| line.ends_with("  trunk/gw3") && line.contains(" %")), "{out}");
}

#[test]
fn fifty_thousand_packets_take_seconds() {
    let work = Workplace::new();
    let (_, frames) = invites(50_000);
    let capture = work.file("in.pcap", &pcap(1, &records(&frames)));
    let begin = Instant::now();
    let out = run(&work.args(&capture));
    let took = begin.elapsed();
    assert_eq!(out.lines().count(), 50_000);
    println!("{:.0} packets/s", 50_000.0 / took.as_secs_f64());
    assert!(took.as_secs() < 60, "{took:?}");
}
