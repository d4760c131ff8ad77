//! The text of probes and of their answers (RFC 3261 §11, §8.1.1, §17.1.3). Pure; the only module
//! that knows rsip.
//!
//! A probe is an OPTIONS request outside any dialog to `sip:<address of the endpoint>`, each with its
//! own branch, Call-ID and From tag. **Max-Forwards is 1**: with 0 an element may answer 483 before
//! it looks at the method (the stock configuration of Kamailio does), which a strict `expect` would
//! take for a failure; with the usual 70 a proxy that does not recognise its own address would relay
//! the probe, back to itself or to a server that answers in its place. With 1 it gets through to the
//! endpoint, and no further than one hop beyond.
//!
//! Answers are read leniently: folded lines, compact names, bare LF, text that is not UTF-8, a
//! missing reason phrase. A well-formed answer is one with a status of 100–699, the Via branch and
//! Call-ID of the probe and its method in the CSeq.

use std::{borrow::Cow, fmt::Write, net::SocketAddr, time::Duration};

use rsip::{
    Header, Method, Request, Response, Uri, Version,
    headers::{
        Accept, CSeq, CallId, Contact, ContentLength, From, MaxForwards, To, UntypedHeader,
        UserAgent, Via,
    },
    message::HeadersExt,
};

/// A longer Retry-After is taken as this: a typing error must not keep a backend idle for a day.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// First part of every branch that this RFC's elements make (RFC 3261 §8.1.1.7).
const COOKIE: &str = "z9hG4bK";

/// The methods that a probe may use. Not those that set something up (INVITE) or belong to something
/// set up before (ACK, CANCEL, BYE, PRACK, UPDATE), nor those that are incomplete without a header
/// or body of their own (SUBSCRIBE, REFER, PUBLISH).
const METHODS: [Method; 5] =
    [Method::Options, Method::Info, Method::Message, Method::Notify, Method::Register];

/// Whether `health.method` may have this value. SIP methods are case-sensitive.
#[must_use]
pub fn is_supported_method(method: &str) -> bool {
    find_method(method).is_some()
}

fn find_method(name: &str) -> Option<Method> {
    METHODS.into_iter().find(|m| m.to_string() == name)
}

/// What tells one probe from another; random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeId {
    pub branch: u64,
    pub call: u64,
    pub tag: u32,
}

/// The datagram of a probe from `local` to `endpoint`; `None` = `method` is not a supported one.
#[must_use]
pub fn build(
    method: &str,
    id: ProbeId,
    local: SocketAddr,
    endpoint: SocketAddr,
) -> Option<Vec<u8>> {
    let method = find_method(method)?;
    // SocketAddr's text is the hostport of RFC 3261 §25.1, except for the scope of link-local IPv6.
    let here = hostport(local);
    let there = hostport(endpoint);
    let mut headers: Vec<Header> = vec![
        Via::new(format!("SIP/2.0/UDP {here};branch={COOKIE}{:016x};rport", id.branch)).into(),
        MaxForwards::new("1").into(),
        From::new(format!("<sip:probe@{here}>;tag={:08x}", id.tag)).into(),
        To::new(format!("<sip:{there}>")).into(),
        CallId::new(format!("{:016x}@{}", id.call, host(local))).into(),
        CSeq::new(format!("1 {method}")).into(),
    ];
    // A REGISTER without Contact asks for the bindings; with one it would make a binding (§10.2).
    if method != Method::Register {
        headers.push(Contact::new(format!("<sip:probe@{here}>")).into());
    }
    headers.push(Accept::new("application/sdp").into());
    headers.push(UserAgent::new("sip-lb").into());
    headers.push(ContentLength::new("0").into());
    let request = Request {
        method,
        uri: Uri {
            scheme: Some(rsip::Scheme::Sip),
            host_with_port: rsip::Domain::from(there).into(),
            ..Uri::default()
        },
        version: Version::V2,
        headers: headers.into(),
        body: Vec::new(),
    };
    Some(request.into())
}

fn host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

fn hostport(address: SocketAddr) -> String {
    format!("{}:{}", host(address), address.port())
}

/// What a datagram that arrived on a probe socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datagram {
    Answer(Answer),
    /// Not SIP, or broken SIP. `branch`: of the probe that it seems to answer.
    Malformed {
        branch: Option<u64>,
    },
    /// A request or a keepalive: nobody is home here, and it says nothing about a probe.
    Unrelated,
}

/// A SIP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub branch: u64,
    pub call: Option<u64>,
    /// Of the CSeq.
    pub method: String,
    pub status: u16,
    /// At most [`MAX_RETRY_AFTER`]; `None` also if it cannot be read.
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// Whether it answers the probe `id`, given that the branch is the same (RFC 3261 §17.1.3).
    #[must_use]
    pub fn belongs_to(&self, id: ProbeId, method: &str) -> bool {
        self.branch == id.branch && self.call == Some(id.call) && self.method == method
    }
}

#[must_use]
pub fn parse(datagram: &[u8]) -> Datagram {
    if datagram.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Datagram::Unrelated;
    }
    let Some(text) = normalise(datagram) else {
        return Datagram::Malformed { branch: find_branch(datagram) };
    };
    if is_request(&text) {
        return Datagram::Unrelated;
    }
    match read_response(&text) {
        Some(answer) => Datagram::Answer(answer),
        None => Datagram::Malformed { branch: find_branch(datagram) },
    }
}

fn is_request(text: &str) -> bool {
    let start_line = text.lines().next().unwrap_or_default();
    !start_line.starts_with("SIP/")
        && start_line.rsplit(' ').next().is_some_and(|last| last.starts_with("SIP/"))
}

fn read_response(text: &str) -> Option<Answer> {
    let response = Response::try_from(text.as_bytes()).ok()?;
    let status = response.status_code.code();
    let cseq = response.cseq_header().ok()?.value().trim();
    let (sequence, method) = cseq.split_once([' ', '\t'])?;
    let sequence_is_number = sequence.parse::<u32>().is_ok();
    let via = response.via_header().ok()?.value();
    let call = response.call_id_header().ok()?.value();
    if !(100..700).contains(&status) || response.version != Version::V2 || !sequence_is_number {
        return None;
    }
    Some(Answer {
        branch: via_branch(via)?,
        call: call.split('@').next().and_then(parse_hex),
        method: method.trim().to_owned(),
        status,
        retry_after: response.headers.iter().find_map(|header| {
            if let Header::RetryAfter(value) = header {
                parse_retry_after(value.value())
            } else {
                None
            }
        }),
    })
}

/// The number in our kind of branch of the first Via. rsip cannot read a Via with an IPv6 address,
/// and every server adds one as `received`.
fn via_branch(via: &str) -> Option<u64> {
    let topmost = via.split(',').next()?;
    topmost.split(';').skip(1).find_map(|param| {
        let (name, value) = param.split_once('=')?;
        let ours = name.trim().eq_ignore_ascii_case("branch");
        ours.then(|| value.trim().strip_prefix(COOKIE)).flatten().and_then(parse_hex)
    })
}

/// Exactly 16 hexadecimal digits.
fn parse_hex(digits: &str) -> Option<u64> {
    (digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// delta-seconds, then maybe a comment and parameters (RFC 3261 §20.33).
fn parse_retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (digits, rest) = value.split_at(end);
    let delimited = rest.is_empty() || rest.starts_with([' ', '\t', ';', '(']);
    if digits.is_empty() || !delimited {
        return None;
    }
    // What overflows is too long anyway.
    let seconds = digits.parse().unwrap_or(u64::MAX);
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// The branch of a probe anywhere in a message that cannot be parsed.
fn find_branch(datagram: &[u8]) -> Option<u64> {
    let cookie = COOKIE.as_bytes();
    let at = datagram.windows(cookie.len()).position(|window| window == cookie)? + cookie.len();
    let digits = datagram.get(at..at + 16)?;
    parse_hex(std::str::from_utf8(digits).ok()?)
}

/// The message head in the one spelling that rsip reads: CRLF, no folded lines (RFC 3261 §7.3.1), no
/// space before colons, long header names (§7.3.3), UTF-8, a space after the status code. `None` = no
/// blank line ends the head. The body is left out.
fn normalise(datagram: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(datagram);
    let mut out = String::with_capacity(text.len() + 16);
    // Line ends before the start line are to be skipped (§7.5).
    let mut rest = text.trim_start_matches(['\r', '\n']);
    let mut ended = false;
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            ended = true;
            break;
        }
        if out.is_empty() {
            out.push_str(&start_line(line));
        } else if line.starts_with([' ', '\t']) {
            out.push(' ');
            out.push_str(line.trim());
        } else {
            out.push_str("\r\n");
            match line.split_once(':') {
                Some((name, value)) => {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "{}: {}", long_name(name.trim_end()), value.trim());
                }
                None => out.push_str(line),
            }
        }
    }
    out.push_str("\r\n\r\n");
    ended.then_some(out)
}

fn start_line(line: &str) -> Cow<'_, str> {
    let bare_status = line.starts_with("SIP/") && line.split_ascii_whitespace().count() == 2;
    if bare_status { format!("{} ", line.trim_end()).into() } else { line.into() }
}

fn long_name(name: &str) -> &str {
    match name {
        "v" | "V" => "Via",
        "i" | "I" => "Call-ID",
        "f" | "F" => "From",
        "t" | "T" => "To",
        _ => name,
    }
}

#[cfg(test)]
mod tests;
