//! What a decision says about the message, in the message's own words.

use std::borrow::Cow;

use etherparse::{LaxSlicedPacket, TransportSlice};
use lb_common::{
    sip::{self, Message, Method, Payload},
    verdict::Decision,
};

/// Length of a UDP header in bytes.
const UDP_HEADER: usize = 8;

/// The UDP payload of an Ethernet frame that the program has recognised as ours, or what its first
/// fragment has of it.
#[must_use]
pub(crate) fn payload(frame: &[u8]) -> Option<&[u8]> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    match packet.transport {
        Some(TransportSlice::Udp(udp)) => Some(udp.payload()),
        Some(
            TransportSlice::Tcp(_)
            | TransportSlice::Icmpv4(_)
            | TransportSlice::Icmpv6(_)
            | TransportSlice::Igmp(_),
        ) => None,
        None => {
            let ip = packet.net?.ip_payload_ref().cloned()?;
            if ip.fragmented { ip.payload.get(UDP_HEADER..) } else { None }
        }
    }
}

/// The Call-ID that the program found.
#[must_use]
pub(super) fn call_id<'a>(decision: &Decision, payload: &'a [u8]) -> Option<Cow<'a, str>> {
    if decision.call_id_len == 0 {
        return None;
    }
    let rest = payload.get(usize::from(decision.call_id)..)?;
    let bytes = rest.get(..usize::from(decision.call_id_len)).unwrap_or(rest);
    Some(String::from_utf8_lossy(bytes))
}

/// The method of a request: the word that it begins with.
#[must_use]
pub(super) fn method(payload: &[u8]) -> Option<Cow<'_, str>> {
    let (message, start) = sip::start_line(&Payload::new(payload))?;
    match message {
        Message::Request(Method::Other) => token(payload.get(start as usize..)?).map(Cow::Borrowed),
        Message::Request(method) => method.name().map(Cow::Borrowed),
        Message::Response(_) | Message::Stun | Message::Keepalive => None,
    }
}

/// The token (RFC 3261 §25.1) that `line` begins with, if a blank follows.
fn token(line: &[u8]) -> Option<&str> {
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(b);
    let length = line.iter().position(|b| !is_token(b))?;
    let (token, rest) = line.split_at(length);
    let is_word = !token.is_empty() && matches!(rest.first(), Some(b' ' | b'\t'));
    if is_word { str::from_utf8(token).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_the_word_that_the_request_begins_with() {
        for (text, expected) in [
            ("INVITE sip:a@b SIP/2.0\r\n\r\n", Some("INVITE")),
            ("\r\n\r\nBYE sip:a@b SIP/2.0\r\n\r\n", Some("BYE")),
            (
                "!interesting-Method0123456789_*+`.%indeed'~ sip:a@b SIP/2.0\r\n\r\n",
                Some("!interesting-Method0123456789_*+`.%indeed'~"),
            ),
            ("invite sip:a@b SIP/2.0\r\n\r\n", Some("invite")),
            ("SIP/2.0 200 OK\r\n\r\n", None),
            ("\r\n\r\n", None),
            ("\u{1}\u{2}binary rubbish here", None),
            ("<?xml version=\"1.0\"?>", None),
            ("wordwithoutanyend", None),
        ] {
            assert_eq!(method(text.as_bytes()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_call_id_is_shown_as_it_stands() {
        let decision =
            |call_id, call_id_len| Decision { call_id, call_id_len, ..Decision::default() };
        assert_eq!(call_id(&decision(0, 0), b"abc"), None);
        assert_eq!(call_id(&decision(1, 2), b"abcd").as_deref(), Some("bc"));
        assert_eq!(call_id(&decision(1, 2), b"a\xffcd").as_deref(), Some("\u{fffd}c"));
    }
}
