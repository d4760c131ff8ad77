//! The 503 itself (RFC 3261 §8.2.6, §18.2.1, §18.2.2, §21.5.4; RFC 3581 §4). Pure.
//!
//! It differs from the RFC in one point: a `maddr` in the Via is not obeyed. Answers go to the
//! address that the request came from, so that nobody is made to send packets to a third party.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::hash::{self, HashKey};
use rsip::{
    Response, StatusCode, Version,
    headers::{CSeq, CallId, ContentLength, From, RetryAfter, To, UntypedHeader as _, Via},
};

use super::request::{Request, add_param, header_params, params};

/// An answer and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub to: SocketAddr,
    pub text: Vec<u8>,
}

/// The 503 for a request that came from `source`. Equal requests get equal answers: nothing is
/// remembered (§8.2.7).
#[must_use]
pub fn answer(
    request: &Request,
    source: SocketAddr,
    retry_after: Duration,
    key: HashKey,
) -> Answer {
    let (first, to) = topmost(request, source);
    let vias = std::iter::once(first).chain(request.vias.iter().skip(1).cloned());
    let mut headers: Vec<rsip::Header> = vias.map(|via| Via::new(via).into()).collect();
    headers.push(From::new(request.from.as_str()).into());
    headers.push(To::new(tagged(request, key)).into());
    headers.push(CallId::new(request.call_id.as_str()).into());
    headers.push(CSeq::new(request.cseq.as_str()).into());
    headers.push(RetryAfter::new(retry_after.as_secs().max(1).to_string()).into());
    headers.push(ContentLength::new("0").into());
    let response = Response {
        // rsip would write `ServiceUnavailable`.
        status_code: StatusCode::Other(503, "Service Unavailable".into()),
        version: Version::V2,
        headers: headers.into(),
        body: Vec::new(),
    };
    Answer { to, text: response.into() }
}

/// The first Via line with `received` and `rport` filled in, and where the answer goes.
fn topmost(request: &Request, source: SocketAddr) -> (String, SocketAddr) {
    // Reading the request has seen to it that there is one.
    let Some((via, rest)) = request.via() else { return (String::new(), source) };
    let is_asked = |name: &str| name.eq_ignore_ascii_case("rport");
    let rport = via.params().any(|(name, _)| is_asked(name));
    let mut line = via.front.to_owned();
    for (name, value) in via.params() {
        if is_asked(name) {
            add_param(&mut line, name, Some(&source.port().to_string()));
        } else if !name.eq_ignore_ascii_case("received") {
            // A `received` of the client's own would be a lie about its address.
            add_param(&mut line, name, value);
        }
    }
    if rport || !is_address(via.host, source.ip()) {
        add_param(&mut line, "received", Some(&source.ip().to_canonical().to_string()));
    }
    let port = if rport { source.port() } else { via.port };
    line.push_str(rest);
    (line, SocketAddr::new(source.ip(), port))
}

/// True if `host` is the address, in any notation.
fn is_address(host: &str, address: IpAddr) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse() == Ok(address)
}

/// The To header with a tag: its own, or one that follows from the request (§8.2.7).
fn tagged(request: &Request, key: HashKey) -> String {
    let own = header_params(&request.to);
    if params(own).any(|(name, _)| name.eq_ignore_ascii_case("tag")) {
        return request.to.clone();
    }
    let Request { call_id, from, cseq, .. } = request;
    let number = cseq.split_ascii_whitespace().next().unwrap_or_default();
    let seed = format!("to-tag\0{call_id}\0{from}\0{number}");
    let mut to = request.to.clone();
    add_param(&mut to, "tag", Some(&format!("{:016x}", hash::bytes(key, seed.as_bytes()))));
    to
}
