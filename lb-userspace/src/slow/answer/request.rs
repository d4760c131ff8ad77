//! What an answer repeats of a request (RFC 3261 §8.2.6), read leniently: folded lines, compact
//! names, bare LF, whatever else the message holds. Pure.
//!
//! rsip reads no Via with an IPv6 address, no compact names and no folded lines, so it only writes.

use std::fmt::Write as _;

/// Why a request cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Neither a request line of SIP/2.0 nor a blank line after the headers.
    Malformed,
    /// An ACK, which is never answered.
    Ack,
    /// A header that an answer must repeat is missing, cannot be read or stands there twice.
    Header,
}

impl Refusal {
    /// The word that labels the metric.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Ack => "ack",
            Self::Header => "bad-header",
        }
    }
}

/// The headers that an answer repeats: on one line each, without blanks around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// In order, the topmost first; a value may hold several, joined by commas.
    pub vias: Vec<String>,
    pub from: String,
    pub to: String,
    pub call_id: String,
    pub cseq: String,
}

impl Request {
    /// Reads a datagram.
    ///
    /// # Errors
    ///
    /// Why it cannot be answered.
    pub fn read(datagram: &[u8]) -> Result<Self, Refusal> {
        let head = head(datagram).ok_or(Refusal::Malformed)?;
        let mut lines = head.into_iter();
        let method = method(&lines.next().ok_or(Refusal::Malformed)?)?;
        let mut request = Self {
            method,
            vias: Vec::new(),
            from: String::new(),
            to: String::new(),
            call_id: String::new(),
            cseq: String::new(),
        };
        for line in lines {
            // What is no header does not concern the answer.
            let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
            let (name, value) = line.split_at(colon);
            let name = name.trim_ascii_end().to_ascii_lowercase();
            let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii();
            let slot = match name.as_slice() {
                b"via" | b"v" => {
                    request.vias.push(text(value)?);
                    continue;
                }
                b"from" | b"f" => &mut request.from,
                b"to" | b"t" => &mut request.to,
                b"call-id" | b"i" => &mut request.call_id,
                b"cseq" => &mut request.cseq,
                _ => continue,
            };
            if !slot.is_empty() {
                return Err(Refusal::Header);
            }
            *slot = text(value)?;
        }
        let is_whole = !request.vias.is_empty()
            && request.via().is_some()
            && !request.from.is_empty()
            && !request.to.is_empty()
            && !request.call_id.is_empty()
            && request.numbers_its_method();
        if is_whole { Ok(request) } else { Err(Refusal::Header) }
    }

    /// Does the CSeq hold a number below 2³¹ and the method of the request (§8.1.1.5)?
    fn numbers_its_method(&self) -> bool {
        let mut words = self.cseq.split_ascii_whitespace();
        let number = words.next().and_then(|word| word.parse::<u32>().ok());
        number.is_some_and(|number| number < 1 << 31)
            && words.next() == Some(&self.method)
            && words.next().is_none()
    }

    /// The topmost Via, and what follows it on its line from the comma on.
    pub(super) fn via(&self) -> Option<(Via<'_>, &str)> {
        let line = self.vias.first()?;
        let end = outside(line, |c| c == ',').unwrap_or(line.len());
        let (top, rest) = line.split_at_checked(end)?;
        Some((Via::read(top)?, rest))
    }
}

/// One Via value: `SIP/2.0/UDP host:port;params`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Via<'a> {
    /// Protocol and sent-by as they stand there.
    pub(super) front: &'a str,
    pub(super) host: &'a str,
    /// 5060 if none is given.
    pub(super) port: u16,
    /// With the semicolon, or empty.
    pub(super) params: &'a str,
}

impl<'a> Via<'a> {
    fn read(value: &'a str) -> Option<Self> {
        let (front, params) = match outside(value, |c| c == ';') {
            Some(at) => value.split_at_checked(at)?,
            None => (value, ""),
        };
        let front = front.trim_ascii();
        // Blanks may stand around the slashes (§25.1): the sent-by follows the third part.
        let (name, rest) = front.split_once('/')?;
        let (version, rest) = rest.split_once('/')?;
        if !name.trim_ascii().eq_ignore_ascii_case("SIP") || version.trim_ascii() != "2.0" {
            return None;
        }
        let (_transport, sent_by) = rest.trim_ascii_start().split_once([' ', '\t'])?;
        let sent_by = sent_by.trim_ascii();
        let (host, port) = if sent_by.starts_with('[') {
            let end = sent_by.find(']')? + 1;
            sent_by.split_at_checked(end)?
        } else {
            sent_by.split_at_checked(sent_by.find(':').unwrap_or(sent_by.len()))?
        };
        let host = host.trim_ascii();
        let port = match port.trim_ascii().strip_prefix(':') {
            Some(port) => port.trim_ascii().parse().ok().filter(|&port| port != 0)?,
            None if port.trim_ascii().is_empty() => 5060,
            None => return None,
        };
        let is_host = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]%".contains(&b));
        is_host.then_some(Self { front, host, port, params })
    }

    /// Names and values of the parameters.
    pub(super) fn params(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        params(self.params)
    }
}

/// Names and values of `;name=value;name…`.
pub(super) fn params(mut rest: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    std::iter::from_fn(move || {
        loop {
            rest = rest.strip_prefix(';')?;
            let end = outside(rest, |c| c == ';').unwrap_or(rest.len());
            let (one, after) = rest.split_at_checked(end)?;
            rest = after;
            if one.trim_ascii().is_empty() {
                continue;
            }
            return Some(match one.split_once('=') {
                Some((name, value)) => (name.trim_ascii(), Some(value.trim_ascii())),
                None => (one.trim_ascii(), None),
            });
        }
    })
}

/// The header parameters of a From or To value: those behind the angle brackets, if there are any
/// (§20.10).
pub(super) fn header_params(value: &str) -> &str {
    let brackets = outside(value, |c| c == '<').and_then(|at| {
        let end = value.get(at..)?.find('>')? + at;
        value.get(end + 1..)
    });
    let rest = brackets.unwrap_or(value);
    outside(rest, |c| c == ';').and_then(|at| rest.get(at..)).unwrap_or_default()
}

/// Where the first character that `is_it` stands outside quotation marks.
pub(super) fn outside(text: &str, is_it: impl Fn(char) -> bool) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if quoted && c == '\\' {
            escaped = true;
        } else if c == '"' {
            quoted = !quoted;
        } else if !quoted && is_it(c) {
            return Some(at);
        }
    }
    None
}

/// The method of a request line.
fn method(line: &[u8]) -> Result<String, Refusal> {
    let line = std::str::from_utf8(line).map_err(|_invalid| Refusal::Malformed)?;
    let mut words = line.split_ascii_whitespace();
    let method = words.next().ok_or(Refusal::Malformed)?;
    let version = words.next_back().ok_or(Refusal::Malformed)?;
    let is_token = method.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b));
    if !is_token || !version.eq_ignore_ascii_case("SIP/2.0") || words.next().is_none() {
        return Err(Refusal::Malformed);
    }
    if method == "ACK" { Err(Refusal::Ack) } else { Ok(method.to_owned()) }
}

/// A header's value, as it can be repeated byte by byte.
fn text(value: &[u8]) -> Result<String, Refusal> {
    let text = std::str::from_utf8(value).map_err(|_invalid| Refusal::Header)?;
    // What ends a line elsewhere must not begin one in the answer.
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Refusal::Header);
    }
    Ok(text.to_owned())
}

/// The lines up to the blank one, folded ones made whole; `None` if no blank line ends them.
fn head(datagram: &[u8]) -> Option<Vec<Vec<u8>>> {
    let start = datagram.iter().position(|b| !b"\r\n".contains(b))?;
    let mut rest = datagram.get(start..)?;
    let mut lines: Vec<Vec<u8>> = Vec::new();
    loop {
        let end = rest.iter().position(|&b| b == b'\n')?;
        let (line, after) = rest.split_at_checked(end)?;
        rest = after.get(1..)?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Some(lines);
        }
        match lines.last_mut() {
            // The request line is never continued.
            Some(before) if matches!(line.first(), Some(b' ' | b'\t')) => {
                before.push(b' ');
                before.extend_from_slice(line.trim_ascii());
            }
            Some(_) | None => lines.push(line.to_vec()),
        }
    }
}

/// Appends `;name=value`.
pub(super) fn add_param(to: &mut String, name: &str, value: Option<&str>) {
    // Writing to a String cannot fail.
    let _ = match value {
        Some(value) => write!(to, ";{name}={value}"),
        None => write!(to, ";{name}"),
    };
}
