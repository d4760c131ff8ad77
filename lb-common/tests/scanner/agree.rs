//! Runs the scanner and the reference over one payload and says where they differ.

use std::fmt::Debug;

use lb_common::hash::HashKey;
use lb_common::sip::{self, CallId, Headers, Message, Method, Payload, Want};

use crate::reference;

pub(crate) const KEY: HashKey = HashKey { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };

/// What a message is, all headers read in one pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reading {
    pub(crate) message: Message,
    pub(crate) start: u32,
    pub(crate) headers: Headers,
    pub(crate) call_id: Option<CallId>,
    /// `None` without a To header.
    pub(crate) to_tag: Option<bool>,
    /// `None` without a CSeq header.
    pub(crate) cseq: Option<Method>,
}

/// What the reference and the scanner both find in `payload`; an error names the first thing on
/// which they differ, or what the scanner could not read.
pub(crate) fn read(payload: &[u8]) -> Result<Reading, String> {
    let window = Payload::new(payload);
    let (message, start) =
        same("start_line", sip::start_line(&window), reference::start_line(payload))?;

    let mut reading = Reading {
        message,
        start,
        headers: Headers::default(),
        call_id: None,
        to_tag: None,
        cseq: None,
    };
    match message {
        Message::Request(_) | Message::Response(_) => {}
        Message::Stun | Message::Keepalive => return Ok(reading),
    }

    // In passes: up to the Call-ID, on to the next, and on for the others or to the end.
    for (to, cseq) in [(false, false), (true, false), (false, true), (true, true)] {
        let want = Want { stop_at_call_id: true, stop_at_others: false, to, cseq };
        let found = scan("scan to the Call-ID", payload, want, start, Headers::default())?;
        if found.next != u32::MAX {
            scan("scan to the second Call-ID", payload, want, found.next, found)?;
            for stop_at_others in [false, true] {
                let want = Want { stop_at_call_id: false, stop_at_others, to: true, cseq: true };
                scan("scan on from the Call-ID", payload, want, found.next, found)?;
            }
        }
        let want = Want { stop_at_call_id: false, stop_at_others: true, to, cseq };
        scan("scan for To and CSeq", payload, want, start, Headers::default())?;
    }
    let whole = Want { stop_at_call_id: false, stop_at_others: false, to: true, cseq: true };
    let headers = scan("scan in one pass", payload, whole, start, Headers::default())?;
    reading.headers = headers;

    if headers.call_id != 0 {
        let value = headers.call_id;
        reading.call_id = same(
            "call_id",
            sip::call_id(&window, value, KEY),
            reference::call_id(payload, value, KEY),
        )?;
    }
    if headers.to != 0 {
        let (value, plain) = (headers.to, reference::has_tag(payload, headers.to));
        reading.to_tag = Some(same("has_tag", sip::has_tag(&window, value), plain)?);
    }
    if headers.cseq != 0 {
        let (value, plain) = (headers.cseq, reference::cseq_method(payload, headers.cseq));
        reading.cseq = Some(same("cseq_method", sip::cseq_method(&window, value), plain)?);
    }
    Ok(reading)
}

fn scan(
    what: &str,
    payload: &[u8],
    want: Want,
    from: u32,
    before: Headers,
) -> Result<Headers, String> {
    let mut fast = before;
    let done = sip::scan(&Payload::new(payload), want, from, &mut fast);
    let mut plain = before;
    reference::scan(payload, want, from, &mut plain);
    same(what, done.map(|()| fast), plain)
}

fn same<T: PartialEq + Debug>(what: &str, fast: Option<T>, plain: T) -> Result<T, String> {
    match fast {
        None => Err(format!("{what}: the scanner read outside the payload")),
        Some(fast) if fast != plain => {
            Err(format!("{what}: the scanner says {fast:?}, the reference {plain:?}"))
        }
        Some(fast) => Ok(fast),
    }
}
