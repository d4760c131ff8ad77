//! What a message says of other messages: the sender in a Via, the dialog in Replaces and Join.
//! Slow and plain readers beside those of `lb_common::sip`, at every place of every payload.

use std::hash::Hasher as _;
use std::net::Ipv6Addr;

use lb_common::sip::{self, Payload, SentBy};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use siphasher::sip::SipHasher13;

use crate::{agree::KEY, corpus, mutate, reference};

/// Steps through white space between two tokens: one ends at a fold or after eight bytes.
const BLANK_STEPS: usize = 6;
/// Bytes in which a token before the host must end.
const TOKEN: usize = 32;
/// Longest host.
const HOST: usize = 256;
/// Longest IPv6 address as text.
const V6: usize = 45;

fn rest(payload: &[u8], at: usize) -> &[u8] {
    payload.get(at..).unwrap_or_default()
}

fn is_separator(byte: u8) -> bool {
    b" \t\r\n/:;,".contains(&byte)
}

/// Behind blanks and folds.
fn skip(payload: &[u8], mut at: usize) -> Option<usize> {
    for _ in 0..BLANK_STEPS {
        let blanks = rest(payload, at).iter().take_while(|b| b" \t\r".contains(b)).count();
        if blanks >= 8 {
            at += 8;
            continue;
        }
        at += blanks;
        match rest(payload, at) {
            [b'\n', b' ' | b'\t', ..] => at += 1,
            [] | [b'\n', ..] => return None,
            [_, ..] => return Some(at),
        }
    }
    None
}

/// The end of the token at `at`.
fn token(payload: &[u8], at: usize) -> Option<usize> {
    let length = rest(payload, at).iter().take_while(|&&b| !is_separator(b)).count();
    // A token that the datagram ends is no part of `SIP/2.0/UDP host`.
    (length < TOKEN && at + length < payload.len()).then_some(at + length)
}

fn sent_by(payload: &[u8], value: usize) -> Option<SentBy> {
    let mut at = skip(payload, value)?;
    for _ in ["SIP", "2.0"] {
        at = skip(payload, token(payload, skip(payload, at)?)?)?;
        if payload[at] != b'/' {
            return None;
        }
        at += 1;
    }
    let end = token(payload, skip(payload, at)?)?;
    at = skip(payload, end)?;
    if at == end {
        return None;
    }
    let (host, end) = host(payload, at)?;
    Some(SentBy { host, port: port(payload, end)? })
}

fn host(payload: &[u8], at: usize) -> Option<(u64, usize)> {
    let text = rest(payload, at);
    if let Some(behind) = text.strip_prefix(b"[") {
        let length = behind.iter().position(|&b| b == b']').filter(|&l| l <= V6)?;
        let address: Ipv6Addr = str::from_utf8(&behind[..length]).ok()?.parse().ok()?;
        let bits = u128::from(address);
        return Some((sip::host_v6(KEY, (bits >> 64) as u64, bits as u64), at + length + 2));
    }
    let length = text.iter().take_while(|&&b| !is_separator(b)).count();
    if length == 0 || length > HOST {
        return None;
    }
    let mut hash = SipHasher13::new_with_keys(KEY.k0, !KEY.k1);
    hash.write(&text[..length].iter().map(|b| b | 0x20).collect::<Vec<_>>());
    Some((hash.finish(), at + length))
}

fn port(payload: &[u8], end: usize) -> Option<u16> {
    let Some(at) = skip(payload, end).filter(|&at| payload[at] == b':') else {
        return Some(5060);
    };
    let digits = rest(payload, skip(payload, at + 1)?);
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    if count > 5 {
        return None;
    }
    str::from_utf8(&digits[..count]).ok()?.parse().ok().filter(|&port| port != 0)
}

/// The hash of the Call-ID that a Replaces or Join names: what a Call-ID header with the same
/// value, cut at a semicolon, hashes to.
fn referenced(payload: &[u8], value: usize) -> Option<u64> {
    let mut cut = payload.to_vec();
    let start = value + rest(payload, value).iter().take_while(|b| b" \t\r\n".contains(b)).count();
    if let Some(semicolon) = rest(payload, start).iter().position(|&b| b == b';') {
        cut.truncate(start + semicolon);
    }
    reference::call_id(&cut, value as u32, KEY).map(|id| id.hash)
}

/// Compares the readers with each other at `value`.
fn compare(payload: &[u8], window: &Payload, value: usize) -> Result<(), String> {
    let at = value as u32;
    let (fast, plain) = (sip::sent_by(window, at, KEY), sent_by(payload, value));
    if fast != Some(plain) {
        return Err(format!("sent_by at {value}: {fast:x?}, the reference {plain:x?}"));
    }
    let (fast, plain) = (sip::referenced(window, at, KEY), referenced(payload, value));
    if fast != Some(plain) {
        return Err(format!("referenced at {value}: {fast:x?}, the reference {plain:x?}"));
    }
    Ok(())
}

/// At every place of a payload; returns how many.
fn everywhere(payload: &[u8]) -> Result<usize, String> {
    let window = Payload::new(payload);
    for value in 0..=payload.len() {
        compare(payload, &window, value)
            .map_err(|e| format!("{e}; payload \"{}\"", payload.escape_ascii()))?;
    }
    Ok(payload.len() + 1)
}

#[test]
fn at_every_place_of_every_named_message() {
    let places: usize =
        corpus::load().unwrap().iter().map(|named| everywhere(&named.payload).unwrap()).sum();
    assert!(places > 60_000, "only {places} places");
}

#[test]
fn at_every_header_of_mutants_of_the_named_messages() {
    let payloads: Vec<_> = corpus::load().unwrap().into_iter().map(|named| named.payload).collect();
    for n in 0..20_000 {
        let payload = mutate::mutant(&payloads, 0, n);
        let window = Payload::new(&payload);
        for value in (0..payload.len()).filter(|&at| payload[at] == b':').map(|at| at + 1) {
            if let Err(e) = compare(&payload, &window, value) {
                panic!("mutant {n}: {e}; payload \"{}\"", payload.escape_ascii());
            }
        }
    }
}

/// Pieces of a Via and of a Replaces.
const PIECES: &[&str] = &[
    " ",
    "\t",
    "\r\n ",
    "\n\t",
    "\r\n",
    "\n",
    "\r",
    "        ",
    "SIP",
    "SIP/2.0/",
    "sip/2.0/udp ",
    "SIP/2.0/UDP ",
    "SIP/2.0/UDP [",
    "2.0",
    "/",
    " / ",
    "UDP",
    "TLS-SCTP",
    "/UDP ",
    ":",
    " : ",
    ";",
    " ;branch=z9hG4bK1",
    ",",
    "10.0.1.200",
    "10.0.1.200:5060",
    "gw",
    "GW2.Example.net",
    "aaaaaaaa",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "5060",
    "0",
    "65535",
    "65536",
    "1",
    "[",
    "]",
    "[::1]",
    "::",
    "2001:db8",
    "ffff",
    "FFFF:",
    "1:2:3:4",
    "1.2.3.4",
    "255",
    "256",
    "01",
    ".",
    "g",
    "425928@bobster.example.org",
    ";to-tag=7743",
];

fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        9 => select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..3),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// IPv6 addresses in many forms, right ones more often than wrong ones.
fn v6() -> impl Strategy<Value = String> {
    let group = prop_oneof![
        6 => "[0-9a-fA-F]{1,4}",
        3 => Just(String::new()),
        1 => "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}",
    ];
    let loose = vec(group, 1..10).prop_map(|groups| groups.join(":"));
    let written = (any::<u128>(), any::<u128>(), any::<bool>()).prop_map(|(bits, mask, upper)| {
        let text = Ipv6Addr::from(bits & mask & (mask << 16)).to_string();
        if upper { text.to_uppercase() } else { text }
    });
    prop_oneof![loose, written, Just("::ffff:10.0.1.200".to_owned())]
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn on_pieces_of_referrals(payload in text()) {
        everywhere(&payload).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn on_ipv6_addresses(address in v6(), tail in "[ :;]?[0-9]{0,6}") {
        let payload = format!("SIP/2.0/UDP [{address}]{tail}");
        compare(payload.as_bytes(), &Payload::new(payload.as_bytes()), 0)
            .map_err(TestCaseError::fail)?;
    }
}

#[test]
fn long_hosts_and_call_ids_end_where_they_must() {
    for length in (0..600).chain([2000]) {
        let name = "x".repeat(length);
        for end in ["", ";a", " ", ":5070", "\r\n"] {
            let via = format!("SIP/2.0/UDP {name}{end}");
            compare(via.as_bytes(), &Payload::new(via.as_bytes()), 0).unwrap();
            let replaces = format!("{name}{end}");
            compare(replaces.as_bytes(), &Payload::new(replaces.as_bytes()), 0).unwrap();
        }
    }
}

/// The readers agree on something, not only on nothing.
#[test]
fn vias_of_the_named_messages_are_read() {
    let mut read = 0;
    for named in corpus::load().unwrap() {
        let text = named.payload;
        let line = text.windows(5).position(|w| w.eq_ignore_ascii_case(b"\nvia:"));
        read += usize::from(line.is_some_and(|at| sent_by(&text, at + 5).is_some()));
    }
    assert!(read > 100, "only {read} Vias");
}
