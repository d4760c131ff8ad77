//! Runs the scanner and the reference over one payload and says where they differ.

use std::fmt::Debug;

use lb_common::hash::HashKey;
use lb_common::sip::{self, CallId, Message, Method, Payload, need};

use crate::reference::{self, Lines};

pub(crate) const KEY: HashKey = HashKey { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };

/// Sets of headers that a search may end with; the last is the search to the blank line.
const SETS: [u32; 7] = [
    need::CALL_ID,
    need::TO,
    need::CSEQ | need::CALL_ID,
    need::VIA,
    need::FROM | need::TO,
    need::REFERENCE,
    need::ALL,
];

/// What a message is, all headers read in one pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reading {
    pub(crate) message: Message,
    pub(crate) start: u32,
    pub(crate) headers: Lines,
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
        headers: Lines::default(),
        call_id: None,
        to_tag: None,
        cseq: None,
    };
    match message {
        Message::Request(_) | Message::Response(_) => {}
        Message::Stun | Message::Keepalive => return Ok(reading),
    }

    for needed in SETS {
        reading.headers = same(
            "scan",
            sip::scan(&window, needed, start).map(Lines::from),
            reference::scan(payload, needed, start),
        )?;
    }

    let headers = reading.headers;
    let value = same(
        "find_call_id",
        sip::find_call_id(&window, start),
        reference::find_call_id(payload, start),
    )?;
    if value != 0 {
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

fn same<T: PartialEq + Debug>(what: &str, fast: Option<T>, plain: T) -> Result<T, String> {
    match fast {
        None => Err(format!("{what}: the scanner read outside the payload")),
        Some(fast) if fast != plain => {
            Err(format!("{what}: the scanner says {fast:?}, the reference {plain:?}"))
        }
        Some(fast) => Ok(fast),
    }
}
