use super::*;

const ID: ProbeId =
    ProbeId { branch: 0x0123_4567_89ab_cdef, call: 0x1122_3344_5566_7788, tag: 0xfeed };

fn built(method: &str, local: &str, endpoint: &str) -> String {
    let local = local.parse().expect("address");
    let endpoint = endpoint.parse().expect("address");
    String::from_utf8(build(method, ID, local, endpoint).expect("method")).expect("text")
}

/// A response to the probe `ID` with `status line` and extra header lines.
fn response(status_line: &str, extra: &str) -> String {
    format!(
        "{status_line}\r\n\
         Via: SIP/2.0/UDP 192.0.2.9:40000;branch=z9hG4bK0123456789abcdef;rport=40000;received=192.0.2.9\r\n\
         From: <sip:probe@192.0.2.9:40000>;tag=0000feed\r\n\
         To: <sip:198.51.100.1:5060>;tag=as5d1f\r\n\
         Call-ID: 1122334455667788@192.0.2.9\r\n\
         CSeq: 1 OPTIONS\r\n{extra}\
         Content-Length: 0\r\n\r\n"
    )
}

fn answer(text: &str) -> Answer {
    match parse(text.as_bytes()) {
        Datagram::Answer(answer) => answer,
        other @ (Datagram::Malformed { .. } | Datagram::Unrelated) => {
            panic!("{other:?}: {text}")
        }
    }
}

#[test]
fn a_probe_is_a_complete_request_of_its_own() {
    assert_eq!(
        built("OPTIONS", "192.0.2.9:40000", "198.51.100.1:5060"),
        "OPTIONS sip:198.51.100.1:5060 SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.9:40000;branch=z9hG4bK0123456789abcdef;rport\r\n\
         Max-Forwards: 1\r\n\
         From: <sip:probe@192.0.2.9:40000>;tag=0000feed\r\n\
         To: <sip:198.51.100.1:5060>\r\n\
         Call-ID: 1122334455667788@192.0.2.9\r\n\
         CSeq: 1 OPTIONS\r\n\
         Contact: <sip:probe@192.0.2.9:40000>\r\n\
         Accept: application/sdp\r\n\
         User-Agent: sip-lb\r\n\
         Content-Length: 0\r\n\r\n"
    );
}

#[test]
fn ipv6_addresses_are_bracketed_and_without_scope() {
    let text = built("OPTIONS", "[2001:db8::9]:40000", "[fe80::1%7]:5070");
    assert!(text.starts_with("OPTIONS sip:[fe80::1]:5070 SIP/2.0\r\n"), "{text}");
    assert!(text.contains("\r\nVia: SIP/2.0/UDP [2001:db8::9]:40000;branch="), "{text}");
    assert!(text.contains("\r\nCall-ID: 1122334455667788@[2001:db8::9]\r\n"), "{text}");
    assert!(text.contains("\r\nTo: <sip:[fe80::1]:5070>\r\n"), "{text}");
}

#[test]
fn only_methods_that_stand_alone_are_supported() {
    for method in ["OPTIONS", "INFO", "MESSAGE", "NOTIFY", "REGISTER"] {
        assert!(is_supported_method(method));
        let text = built(method, "192.0.2.9:40000", "198.51.100.1:5060");
        assert!(text.starts_with(&format!("{method} sip:")), "{text}");
        assert!(text.contains(&format!("\r\nCSeq: 1 {method}\r\n")), "{text}");
        // A REGISTER probe must not register anyone.
        assert_eq!(text.contains("\r\nContact:"), method != "REGISTER");
    }
    for method in ["INVITE", "ACK", "CANCEL", "BYE", "options", "OPTIONS ", "", "PING"] {
        assert!(!is_supported_method(method), "{method}");
    }
}

#[test]
fn an_answer_is_read() {
    let expected = Answer {
        branch: ID.branch,
        call: Some(ID.call),
        method: "OPTIONS".into(),
        status: 404,
        retry_after: None,
    };
    let read = answer(&response("SIP/2.0 404 Not Found", ""));
    assert_eq!(read, expected);
    assert!(read.belongs_to(ID, "OPTIONS"));
    assert!(!read.belongs_to(ID, "INFO"));
    assert!(!read.belongs_to(ProbeId { branch: 1, ..ID }, "OPTIONS"));
    assert!(!read.belongs_to(ProbeId { call: 1, ..ID }, "OPTIONS"));
}

#[test]
fn answers_in_other_spellings_are_the_same() {
    let plain = response("SIP/2.0 200 OK", "");
    let expected = answer(&plain);
    let spellings = [
        plain.replace("Via:", "v:").replace("Call-ID:", "i:").replace("From:", "f:"),
        plain.replace("Via:", "VIA \t:").replace("Call-ID:", "CALL-ID:").replace("CSeq:", "cseq:"),
        plain.replace("Via: ", "Via:\r\n "),
        plain.replace(";rport=", ";\r\n\trport="),
        plain.replace("CSeq: 1 ", "CSeq:   1 \t"),
        plain.replace("\r\n", "\n"),
        format!("\r\n\r\n{plain}"),
        plain.replace("200 OK", "200 "),
        plain.replace("200 OK", "200"),
        plain.replace("200 OK", "200 Надёжно"),
        plain.replace("Content-Length: 0", "Content-Length: 4") + "\0\u{1}\r\n",
        plain.replace("received=192.0.2.9", "received=[2001:db8::9]"),
        plain.replace("UDP 192.0.2.9:40000", "UDP [2001:db8::9]:40000"),
        plain.replace(";branch=", " ; Branch = "),
        plain
            .replace("received=192.0.2.9", "received=192.0.2.9, SIP/2.0/UDP other;branch=z9hG4bKx"),
        plain.replace("From:", "Server: X (a;b) \"q\"\r\nX-Odd: \u{80}\r\nFrom:"),
    ];
    for text in spellings {
        assert_eq!(answer(&text), expected, "{text}");
    }
    // Not UTF-8.
    let mut latin = response("SIP/2.0 200 OK", "Server: M?nchen\r\n").into_bytes();
    let odd = latin.iter().position(|&byte| byte == b'?').expect("there is one");
    latin[odd] = 0xfc;
    assert_eq!(parse(&latin), Datagram::Answer(expected));
}

#[test]
fn retry_after_is_read_and_capped() {
    let rows = [
        ("120", Some(120)),
        ("0", Some(0)),
        ("18000;duration=3600", Some(3600)),
        ("120 (I'm in a meeting)", Some(120)),
        ("5;duration=10", Some(5)),
        ("99999999999999999999999", Some(3600)),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("12x", None),
        ("Fri, 20 Nov 2026 10:00:00 GMT", None),
    ];
    for (value, seconds) in rows {
        let text =
            response("SIP/2.0 503 Service Unavailable", &format!("Retry-After: {value}\r\n"));
        assert_eq!(answer(&text).retry_after, seconds.map(Duration::from_secs), "{value}");
    }
}

#[test]
fn broken_answers_are_malformed_and_name_their_probe() {
    let plain = response("SIP/2.0 200 OK", "");
    let broken = [
        plain.replace("SIP/2.0 200 OK", "SIP/2.0 99 Low"),
        plain.replace("SIP/2.0 200 OK", "SIP/2.0 099 Low"),
        plain.replace("SIP/2.0 200 OK", "SIP/2.0 700 High"),
        plain.replace("SIP/2.0 200 OK", "SIP/2.0 abc OK"),
        plain.replace("SIP/2.0 200 OK", "SIP/3.0 200 OK"),
        plain.replace("SIP/2.0 200 OK", "HTTP/1.1 200 OK"),
        plain.replace("CSeq: 1 OPTIONS\r\n", ""),
        plain.replace("CSeq: 1 OPTIONS", "CSeq: one OPTIONS"),
        plain.replace("CSeq: 1 OPTIONS", "CSeq: 1"),
        plain.replace("Call-ID: 1122334455667788@192.0.2.9\r\n", ""),
        plain.replace("To: ", "To "),
        plain.trim_end_matches("\r\n").to_owned(),
    ];
    for text in broken {
        let expected = Datagram::Malformed { branch: Some(ID.branch) };
        assert_eq!(parse(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn what_names_no_probe_is_malformed_without_one() {
    let plain = response("SIP/2.0 200 OK", "");
    let texts = [
        "garbage".to_owned(),
        "\u{1}\u{1}\0\0!\u{12}\u{a4}B".to_owned(),
        plain.replace("z9hG4bK", "z9hG4b_"),
        plain.replace("z9hG4bK0123456789abcdef", "z9hG4bK0123456789abcde"),
        plain.replace("z9hG4bK0123456789abcdef", "z9hG4bK+123456789abcdef"),
    ];
    for text in texts {
        assert_eq!(parse(text.as_bytes()), Datagram::Malformed { branch: None }, "{text}");
    }
}

#[test]
fn a_strange_call_id_is_not_the_probes() {
    let plain = response("SIP/2.0 200 OK", "");
    for call in ["x", "1122334455667788x@192.0.2.9", "+122334455667788@192.0.2.9"] {
        let text = plain.replace("1122334455667788@192.0.2.9", call);
        assert_eq!(answer(&text).call, None);
        assert!(!answer(&text).belongs_to(ID, "OPTIONS"));
    }
}

#[test]
fn requests_and_keepalives_are_unrelated() {
    let request = built("OPTIONS", "192.0.2.9:40000", "198.51.100.1:5060");
    for text in [request.as_str(), "", "\r\n", "\r\n\r\n", "\0\0\0\0"] {
        assert_eq!(parse(text.as_bytes()), Datagram::Unrelated, "{text}");
    }
}

/// No prefix and no single changed byte of an answer makes the reader fall over.
#[test]
fn every_prefix_and_every_flipped_byte_is_survived() {
    let plain = response("SIP/2.0 503 Busy", "Retry-After: 5 (x);y=z\r\n").into_bytes();
    for end in 0..plain.len() {
        assert!(!matches!(parse(&plain[..end]), Datagram::Answer(_)), "prefix of {end} bytes");
    }
    for at in 0..plain.len() {
        for flip in [0x01, 0x20, 0x80, 0xff] {
            let mut bytes = plain.clone();
            bytes[at] ^= flip;
            let _survives = parse(&bytes);
        }
    }
}
