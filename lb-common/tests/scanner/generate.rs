//! Payloads for the scanner: any bytes, pieces of SIP in any order, and messages with oddities.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Longest payload generated: what a packet can hold in native XDP.
const LONGEST: usize = 3500;

/// Pieces that mean something to the scanner, alone or joined.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\n ",
    b"\n\t",
    b" ",
    b"\t",
    b":",
    b": ",
    b"Call-ID",
    b"call-id",
    b"CALL-ID",
    b"cALL-iD",
    b"Call-IDX",
    b"Call-Info",
    b"Call",
    b"-ID",
    b"i",
    b"I",
    b"i2",
    b"To",
    b"to",
    b"t",
    b"T",
    b"tO",
    b"Tox",
    b"CSeq",
    b"cseq",
    b"CSEQ",
    b"CSeqs",
    b"Contact",
    b"Via: SIP/2.0/UDP a;branch=z9hG4bK",
    b"From: <sip:a@b>;tag=1",
    b"\r\nCall-ID: ",
    b"\r\ni:",
    b"\r\nTo: ",
    b"\r\nt:",
    b"\r\nCSeq: ",
    b"INVITE sip:a SIP/2.0",
    b"SIP/2.0 200 OK",
    b"SIP/",
    b"sip/2.0 ",
    b"REGISTER",
    b"SUBSCRIBE",
    b"BYE",
    b"ACK",
    b"PRACK",
    b"invite",
    b"12345678",
    b"1",
    b"99999999999999999999999999999999",
    b"a@b",
    b"abcdefgh",
    b"\"",
    b"\\",
    b"\\\"",
    b"<",
    b">",
    b";",
    b";tag=",
    b"; tag =",
    b";TAG\t=",
    b";\r\n tag=",
    b";tag",
    b"tag=",
    b";tags=",
    b"=",
    b"%",
    b"\0",
    b"\0\0\0\0",
    b"\x7f",
    b"\x80",
    b"\x8a",
    b"\xa0",
    b"\xff",
    b"\x0b",
    b"\x0c",
    b"\x1f",
    b"J",
    b"*",
    b"-",
    b"\x21\x12\xa4\x42",
    b"        ",
    b"                                ",
];

pub(crate) fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..100), vec(select(&b"\r\n\n :iItT\tc<>\";\\a"[..]), 0..100),]
}

/// Pieces in any order.
pub(crate) fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        40 => select(PIECES).prop_map(<[u8]>::to_vec),
        1 => (select(&b" \ta\n\xe9\"\0"[..]), 0usize..60).prop_map(|(b, n)| vec![b; n]),
    ];
    vec(piece, 0..40).prop_map(|pieces| joined(&pieces))
}

/// A SIP message of odd but mostly recognisable lines.
pub(crate) fn message() -> impl Strategy<Value = Vec<u8>> {
    (leading(), start_line(), vec(line(), 0..14), body(), select(&[true, true, false][..]))
        .prop_map(|(leading, start, lines, body, whole)| {
            let mut message = leading;
            message.extend(start);
            lines.iter().for_each(|line| message.extend(line));
            if whole {
                message.extend(body);
            }
            message.truncate(LONGEST);
            message
        })
}

fn joined(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut all = parts.concat();
    all.truncate(LONGEST);
    all
}

fn text(choices: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    select(choices).prop_map(|text| text.as_bytes().to_vec())
}

fn leading() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => Just(Vec::new()),
        2 => vec(select(&b"\r\n"[..]), 0..20),
        1 => text(&["\0", " ", "\t", "\r\n\0"]),
    ]
}

fn start_line() -> impl Strategy<Value = Vec<u8>> {
    text(&[
        "INVITE sip:bob@example.net SIP/2.0\r\n",
        "REGISTER sip:example.net SIP/2.0\r\n",
        "SUBSCRIBE sip:bob@example.net SIP/2.0\n",
        "SUBSCRIBED sip:bob@example.net SIP/2.0\n",
        "BYE sip:bob@example.net SIP/3.0\r\n",
        "invite sip:bob@example.net SIP/2.0\r\n",
        "REGISTERS\r\n",
        "MESSAGE\tsip:a\r\n",
        "A\n",
        "PUBLISH",
        "SIP/2.0 200 OK\r\n",
        "SIP/2.0 100\r\n",
        "sip/2.0 603 Decline\n",
        "SIP/2.0 1000 Odd\r\n",
        "SIP/2.0 20\r\n",
        "SIP/10.0 200\r\n",
        "SIP/\r\n",
    ])
}

/// End of a line: mostly as it should be.
fn end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => text(&["\r\n"]),
        4 => text(&["\n"]),
        2 => text(&["\r", "\r\r\n", "", "\n\r"]),
        2 => text(&[" \r\n", "\t\n", "\0\r\n"]),
    ]
}

/// Space where the grammar allows some, and more of it than anybody writes.
fn space() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => text(&["", " ", " "]),
        4 => vec(select(&b" \t"[..]), 0..5),
        4 => text(&["\r\n ", "\n\t", " \r\n  ", "\t\n ", "\r\n \r\n ", "\r ", "\r\n", "\n"]),
        1 => vec(select(&b"  \t"[..]), 0..55),
        1 => (vec(select(&b"  \t"[..]), 0..50), vec(select(&b" \t"[..]), 0..30))
            .prop_map(|(before, behind)| [&before[..], b"\r\n ", &behind].concat()),
    ]
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let any_case = |name: &'static str| {
        vec(any::<bool>(), name.len()).prop_map(move |upper| {
            name.bytes()
                .zip(upper)
                .map(|(b, up)| if up { b.to_ascii_uppercase() } else { b })
                .collect::<Vec<u8>>()
        })
    };
    let blanks = prop_oneof![
        12 => Just(Vec::new()),
        2 => vec(select(&b" \t"[..]), 0..4),
        1 => vec(select(&b" \t"[..]), 0..20),
    ];
    let call_id =
        (prop_oneof![any_case("call-id"), any_case("i")], blanks.clone(), space(), token(), end())
            .prop_map(|(name, blanks, space, value, end)| {
                [&name[..], &blanks, b":", &space, &value, &end].concat()
            });
    let to = (
        prop_oneof![any_case("to"), any_case("t")],
        blanks.clone(),
        vec(address_part(), 0..10),
        end(),
    )
        .prop_map(|(name, blanks, parts, end)| {
            [&name[..], &blanks, b":", &parts.concat(), &end].concat()
        });
    let number = prop_oneof![
        6 => text(&["1", "314159", "4294967295", "", "12345678", "0x1"]),
        1 => (0usize..40).prop_map(|n| vec![b'7'; n]),
    ];
    let method = text(&[
        "INVITE",
        "ACK",
        "BYE",
        "CANCEL",
        "REGISTER",
        "OPTIONS",
        "SUBSCRIBE",
        "NOTIFY",
        "PUBLISH",
        "INFO",
        "REFER",
        "MESSAGE",
        "UPDATE",
        "PRACK",
        "invite",
        "INVITES",
        "REGISTERED",
        "SUBSCRIBES",
        "",
        "NOTIFY\0",
        "X",
    ]);
    let cseq = (any_case("cseq"), blanks, space(), number, space(), method, end()).prop_map(
        |(name, blanks, before, number, between, method, end)| {
            [&name[..], &blanks, b":", &before, &number, &between, &method, &end].concat()
        },
    );
    let other = (
        text(&[
            "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1",
            "v: SIP/2.0/UDP [2001:db8::1]",
            "From: \"To: x\" <sip:a@b>;tag=88",
            "Contact: <sip:a@b>",
            "Call-Info: <http://a>",
            "Call-IDs: no",
            "X-Call-ID: no",
            "i2: no",
            "Total: 1",
            "CSeqs: 1 INVITE",
            "Subject: Call-ID: no",
            "Subject: folded\r\n Call-ID: no",
            "Subject: folded\n\ti: no",
            "x",
            " ",
            "",
            "Record-Route: <sip:p1.example.net;lr>, <sip:p2.example.net;lr>",
        ]),
        prop_oneof![
            10 => Just(0usize),
            1 => 0usize..60,
            1 => 0usize..1500,
        ],
        end(),
    )
        .prop_map(|(line, more, end)| [&line[..], &vec![b'z'; more], &end].concat());
    prop_oneof![3 => call_id, 3 => to, 2 => cseq, 6 => other]
}

/// A Call-ID, also around the lengths at which hashing changes.
fn token() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => text(&[
            "", "a84b4c76e66710@pc33.example.net", "x", "[2001:db8::1]", "<a>\"b\"\\%(;)", "\0", "a\0b",
            "caf\u{e9}", "1-1@127.0.0.1",
        ]),
        2 => vec(0x21u8..=0xff, 0..40),
        1 => (prop_oneof![248usize..264, 504usize..520, 0usize..1500], 0x21u8..=0xff)
            .prop_map(|(length, byte)| (0..length).map(|i| byte.wrapping_add(i as u8).max(0x21)).collect()),
    ]
}

fn address_part() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => text(&[
            " ", "Bob", "\"Bob\"", "\"B;tag=1\"", "<sip:b@c;tag=2>", "<sip:b@c>", ";tag=3", "; tag=4", ";TaG =5",
            ";\r\n tag=6", "; \n\ttag=7", ";\r\n  \r\n tag=8", "\r\n ", "\n\t", ";tags=9", ";x=tag=", ";tag", ";tag\r\n =1",
            "\"", "\\", "\\\"", "\"\\\\\"", "\"\\", "<", ">", ";", "sip:b@c;user=phone", ";     tag=1", ";    tag=1",
            ";      \n tag=1", ";       \n tag=1", ";     \r\n tag=1", ";      \r\n tag=1", "\r", ";\r tag=1", "\0", "\u{e9}",
        ]),
        1 => (1usize..45).prop_map(|n| b";a".repeat(n)),
        1 => (1usize..340).prop_map(|n| vec![b'n'; n]),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    text(&[
        "\r\n",
        "\n",
        "\r\nCall-ID: body\r\nTo: <sip:x>;tag=1\r\n",
        "\n\ni: body\n",
        "\r\n\r\nINVITE sip:second SIP/2.0\r\nCall-ID: second\r\n\r\n",
        "",
        "\r",
    ])
}
