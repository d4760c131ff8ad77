//! Users and hosts of URIs: the scanner against a slow reader that follows RFC 3261 word for word.
#![cfg(test)]

use std::collections::BTreeMap;

use lb_common::{
    hash::{self, HashKey},
    sip::{self, DomainHash, MAX_KEY, Payload, Place, Span},
};
use proptest::prelude::*;

const KEY: HashKey = HashKey { k0: 3, k1: 5 };

/// User and host as text.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    user: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
}

const NOTHING: Parts = Parts { user: None, host: None };

/// The slow reader: one byte after the other.
mod slow {
    use super::{MAX_KEY, NOTHING, Parts};

    fn is_blank(b: u8) -> bool {
        b == b' ' || b == b'\t'
    }

    /// Where the Request-URI starts.
    pub(super) fn request(text: &[u8]) -> Option<usize> {
        let method = text.iter().take(64).position(|b| b" \t\r\n\0".contains(b))?;
        let blanks = text[method..].iter().take_while(|b| is_blank(**b)).count();
        (1..8).contains(&blanks).then_some(method + blanks)
    }

    /// Where the URI of a header's value starts, and whether without angle brackets. `None` if the
    /// value is empty.
    pub(super) fn address(text: &[u8]) -> Option<(usize, bool)> {
        let mut quoted = false;
        let mut at = 0;
        while at < text.len() {
            let next = text.get(at + 1).copied().unwrap_or(0);
            match text[at] {
                0 => break,
                b'\n' if is_blank(next) => quoted = false,
                b'\n' => break,
                b'"' => quoted = !quoted,
                b'\\' if quoted && next != b'\n' => at += 1,
                b'<' if !quoted => return Some((at + 1, false)),
                b';' if !quoted => break,
                _ => {}
            }
            at += 1;
        }
        // The value itself: behind blanks and at most one fold.
        let mut at = text.iter().take_while(|b| is_blank(**b)).count();
        let rest = &text[at..];
        let feed = usize::from(rest.first() == Some(&b'\r'));
        if rest.get(feed) == Some(&b'\n') {
            let behind = &rest[feed + 1..];
            let blanks = behind.iter().take_while(|b| is_blank(**b)).count();
            if blanks == 0 {
                return None;
            }
            at += feed + 1 + blanks;
            let ended = match behind.get(blanks) {
                None | Some(b'\n') => true,
                Some(b'\r') => true,
                Some(_) => false,
            };
            return (!ended).then_some((at, true));
        }
        (feed == 0 && at < text.len()).then_some((at, true))
    }

    pub(super) fn uri(text: &[u8], bare: bool) -> Parts {
        let lower = text.to_ascii_lowercase();
        let (skip, is_tel) = if lower.starts_with(b"sip:") {
            (4, false)
        } else if lower.starts_with(b"sips:") {
            (5, false)
        } else if lower.starts_with(b"tel:") {
            (4, true)
        } else {
            return NOTHING;
        };
        let text = &text[skip..];
        let end = |stops: &[u8], text: &[u8]| {
            let ends = |b: &u8| stops.contains(b) || b"\0 \t\r\n<>\"".contains(b);
            let end = text.iter().position(ends).unwrap_or(text.len());
            (end <= MAX_KEY as usize).then_some(end)
        };
        let some = |text: &[u8]| (!text.is_empty()).then(|| text.to_vec());
        if is_tel {
            let user = end(b";?,", text).and_then(|end| some(&text[..end]));
            return Parts { user, host: None };
        }
        let Some(at) = end(if bare { b"@;?," } else { b"@" }, text) else { return NOTHING };
        let mut parts = NOTHING;
        let mut host = text;
        if text.get(at) == Some(&b'@') {
            let user = text[..at].split(|b| *b == b':').next().unwrap_or_default();
            parts.user = some(user);
            host = &text[at + 1..];
        }
        parts.host = if host.first() == Some(&b'[') {
            end(b"]", host)
                .filter(|&end| host.get(end) == Some(&b']') && end < MAX_KEY as usize)
                .map(|end| host[..=end].to_vec())
        } else {
            end(b":;?,@", host)
                .and_then(|end| some(host[..end].strip_suffix(b".").unwrap_or(&host[..end])))
        };
        parts
    }
}

fn text_of(text: &[u8], span: Span) -> Option<Vec<u8>> {
    span.exists().then(|| text[span.start as usize..span.end as usize].to_vec())
}

/// What the scanner reads at `place`.
fn at(text: &[u8], place: Place) -> Parts {
    let window = Payload::new(text);
    let uri = sip::uri(&window, place).unwrap();
    Parts { user: text_of(text, uri.user), host: text_of(text, uri.host) }
}

fn request(text: &[u8]) -> Parts {
    at(text, sip::request_uri(&Payload::new(text), 0).unwrap())
}

/// The value of a header, which is never at the start of a message.
fn header(value: &[u8]) -> Parts {
    let text = [b"From:", value].concat();
    at(&text, sip::address(&Payload::new(&text), 5).unwrap())
}

fn parts(user: &str, host: &str) -> Parts {
    let some = |text: &str| (!text.is_empty()).then(|| text.as_bytes().to_vec());
    Parts { user: some(user), host: some(host) }
}

#[test]
fn request_uris_are_taken_apart() {
    for (uri, user, host) in [
        ("sip:bob@biloxi.example", "bob", "biloxi.example"),
        ("SIPS:Bob@Biloxi.Example:5061;transport=tls", "Bob", "Biloxi.Example"),
        ("sip:biloxi.example;lr?Subject=x", "", "biloxi.example"),
        ("sip:bob:secret@10.0.0.1:5070", "bob", "10.0.0.1"),
        ("sip:b%6Fb@[2001:db8::1]:5060;x=y", "b%6Fb", "[2001:db8::1]"),
        (
            "sip:+12125551212;phone-context=+1@gw.example;user=phone",
            "+12125551212;phone-context=+1",
            "gw.example",
        ),
        ("sip:a?b,c/d@biloxi.example", "a?b,c/d", "biloxi.example"),
        ("sip:biloxi.example.", "", "biloxi.example"),
        ("tel:+1-212-555-1212;phone-context=example.com", "+1-212-555-1212", ""),
        ("TEL:911", "911", ""),
        ("sip:@biloxi.example", "", "biloxi.example"),
        ("sip:bob@", "bob", ""),
        ("sip:", "", ""),
        ("urn:service:sos", "", ""),
        ("http:bob@biloxi.example", "", ""),
        ("sip:bob@[2001:db8::1", "bob", ""),
    ] {
        let text = format!("INVITE {uri} SIP/2.0\r\nVia: x\r\n\r\n");
        assert_eq!(request(text.as_bytes()), parts(user, host), "{uri}");
    }
}

#[test]
fn addresses_are_found_behind_display_names() {
    for (value, user, host) in [
        (" <sip:alice@atlanta.example>;tag=1\r\n", "alice", "atlanta.example"),
        (" Alice Liddell <sip:alice@atlanta.example>\r\n", "alice", "atlanta.example"),
        (r#" "Bob; <sip:no@no>" <sip:bob@b.example>;tag=2"#, "bob", "b.example"),
        (r#""a \" <sip:x@y>" <sip:bob@b.example>"#, "bob", "b.example"),
        (" sip:carol@chicago.example;tag=3\r\n", "carol", "chicago.example"),
        (" sip:carol;x@chicago.example\r\n", "", "carol"),
        ("<sip:carol;x@chicago.example>", "carol;x", "chicago.example"),
        ("\r\n sip:folded@c.example\r\n", "folded", "c.example"),
        (" \"Folded\"\r\n\t<sip:f@c.example>", "f", "c.example"),
        (" tel:+49891234;tag=x\r\n", "+49891234", ""),
        (" <tel:+49891234;isub=1>;tag=x\r\n", "+49891234", ""),
        (" nonsense\r\n", "", ""),
        (" sip:a@b;x=<sip:no@no>\r\n", "a", "b"),
        ("\r\nTo: <sip:other@header>\r\n", "", ""),
        (" \"unclosed\r\nTo: <sip:other@header>\r\n", "", ""),
        ("", "", ""),
    ] {
        assert_eq!(header(value.as_bytes()), parts(user, host), "{value:?}");
    }
}

#[test]
fn what_is_too_long_is_none() {
    let long = "u".repeat(MAX_KEY as usize);
    let uri =
        |user: &str, host: &str| request(format!("INVITE sip:{user}@{host} SIP/2.0").as_bytes());
    assert_eq!(uri(&long, "h.example"), parts(&long, "h.example"));
    assert_eq!(uri(&format!("{long}u"), "h.example"), NOTHING);
    assert_eq!(uri("bob", &long), parts("bob", &long));
    assert_eq!(uri("bob", &format!("{long}u")), parts("bob", ""));
    let v6 = format!("[{}]", "1".repeat(MAX_KEY as usize - 2));
    assert_eq!(uri("bob", &v6), parts("bob", &v6));
    assert_eq!(uri("bob", &format!("[1{}", &v6[1..])), parts("bob", ""));
}

#[test]
fn domains_are_noted_from_the_highest_to_the_host() {
    let text = b"INVITE sip:bob@Gw.Branch.Example:5060 SIP/2.0\r\n";
    let window = Payload::new(text);
    let uri = sip::uri(&window, sip::request_uri(&window, 0).unwrap()).unwrap();
    let mut noted = BTreeMap::new();
    let last = sip::domains(&window, uri.host, KEY, |number, hash| {
        noted.insert(number, hash);
    });
    assert_eq!(last, Some(2));
    let of = |name: &str| DomainHash::of(KEY, name.as_bytes());
    let expected = [of("example"), of("branch.example"), of("gw.branch.example")];
    assert_eq!(noted.into_values().collect::<Vec<_>>(), expected);
    assert_ne!(of("gw.branch.example"), of("branch.example"));
    assert_ne!(of("a.b"), DomainHash::of(HashKey { k0: 3, k1: 6 }, b"a.b"));
}

/// Text in which everything that matters is likely.
fn pieces(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[a-cA-C0-9.]{1,4}",
        3 => prop::sample::select(vec![
            "sip:", "sips:", "SIP:", "tel:", "@", ":", ";", "?", ",", "<", ">", "\"", "\\", "[",
            "]", " ", "\t", "\r\n", "\n", "\r", "\r\n ", "\0", ".", "=", "INVITE ",
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..most).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn uris_agree_with_the_slow_reader(text in pieces(12), bare: bool, scheme in prop::sample::select(vec!["sip:", "sips:", "tel:", ""])) {
        // A URI never stands at the start of a message.
        let text = [b"x", scheme.as_bytes(), &text].concat();
        let place = Place { at: 1, bare: bare.into() };
        prop_assert_eq!(at(&text, place), slow::uri(&text[1..], bare), "{}", text.escape_ascii());
    }

    #[test]
    fn request_uris_agree_with_the_slow_reader(text in pieces(12)) {
        let expected = slow::request(&text).map_or(NOTHING, |at| slow::uri(&text[at..], false));
        prop_assert_eq!(request(&text), expected, "{}", text.escape_ascii());
    }

    #[test]
    fn addresses_agree_with_the_slow_reader(value in pieces(9)) {
        // So short that the bound on steps is not met.
        prop_assume!(value.len() < 20);
        let expected = slow::address(&value).map_or(NOTHING, |(at, bare)| slow::uri(&value[at..], bare));
        prop_assert_eq!(header(&value), expected, "{}", value.escape_ascii());
    }

    #[test]
    fn span_hashes_are_siphashes_of_their_text(text in prop::collection::vec(any::<u8>(), 1..=MAX_KEY as usize), before in 0usize..9) {
        let message = [vec![b'.'; before], text.clone(), vec![b'A'; 9]].concat();
        let window = Payload::new(&message);
        let span = Span { start: before as u32, end: (before + text.len()) as u32 };
        prop_assert_eq!(sip::span_hash(&window, span, KEY, 0), Some(hash::bytes(KEY, &text)));
        let lower = text.to_ascii_lowercase();
        prop_assert_eq!(sip::span_hash(&window, span, KEY, 1), Some(hash::bytes(KEY, &lower)));
    }
}
