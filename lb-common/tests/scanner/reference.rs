//! The scanner once more, slow and plain: byte by byte, line by line, over one slice.
//!
//! It states what `lb_common::sip` promises. Where the two differ, one of them is wrong.

use std::hash::Hasher as _;

use lb_common::hash::HashKey;
use lb_common::sip::{CallId, Headers, Message, Method, need};
use siphasher::sip::SipHasher13;

/// CR and LF that may stand before the start line.
const LEADING: usize = 16;
/// Bytes of a block, of a stride, and of a step near the end.
const BLOCK: usize = 32;
const STRIDE: usize = 128;
const STEP: usize = 7;
/// Turns of a search: 64 stops spread over 1,408 bytes at the worst.
const TURNS: usize = 64 + 1408 / STRIDE + STRIDE / BLOCK + BLOCK / STEP + 1;
/// Blanks between a name and its colon.
const NAME_BLANKS: usize = 7;
/// Bytes before a value: blanks and a fold.
const VALUE_BLANKS: usize = 48;
/// Bytes of a Call-ID that are hashed.
const HASHED: usize = 256;
/// A longer Call-ID counts as this long.
const LONGEST: usize = 512;
/// Steps within a To header: one ends behind a special character or after eight bytes without.
const TO_STEPS: usize = 32;
/// Blanks between a semicolon or the start of a folded line and a parameter's name.
const PARAMETER_BLANKS: usize = 4;
/// Digits of a CSeq number.
const DIGITS: usize = 32;

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn ends_token(byte: u8) -> bool {
    is_blank(byte) || byte == b'\r' || byte == b'\n'
}

/// The bytes from `at` on; none beyond the end.
fn rest(payload: &[u8], at: usize) -> &[u8] {
    payload.get(at..).unwrap_or_default()
}

fn count(bytes: &[u8], matches: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|&&byte| matches(byte)).count()
}

/// What the datagram is, and where its start line starts.
pub(crate) fn start_line(payload: &[u8]) -> (Message, u32) {
    if payload.len() < 12 {
        return (Message::Keepalive, 0);
    }
    if payload[0] < 0x40 && payload[4..8] == [0x21, 0x12, 0xa4, 0x42] {
        return (Message::Stun, 0);
    }
    let start = count(payload, |byte| byte == b'\r' || byte == b'\n').min(LEADING);
    let line = rest(payload, start);
    let message = match line {
        // Nothing, or a control character that no start line has.
        [] | [..=b'\r', ..] => Message::Keepalive,
        [a, b, c, b'/', ..] if [*a, *b, *c].eq_ignore_ascii_case(b"sip") => {
            Message::Response(status(rest(line, 8)))
        }
        _ => Message::Request(method(line)),
    };
    (message, start as u32)
}

fn status(text: &[u8]) -> u16 {
    match text.get(..count(text, |byte| byte.is_ascii_digit())) {
        Some([a, b, c]) => [a, b, c].iter().fold(0, |sum, &&d| sum * 10 + u16::from(d - b'0')),
        _ => 0,
    }
}

/// The method whose token stands at the start of `text`; NUL ends it as a space does.
fn method(text: &[u8]) -> Method {
    let token = &text[..count(text, |byte| !ends_token(byte) && byte != 0)];
    Method::ALL
        .iter()
        .copied()
        .find(|known| known.name().is_some_and(|name| name.as_bytes() == token))
        .unwrap_or(Method::Other)
}

/// Header values, as [`sip::Headers`] has them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Lines {
    pub(crate) to: u32,
    pub(crate) cseq: u32,
    pub(crate) via: u32,
    pub(crate) from: u32,
    pub(crate) reference: u32,
    pub(crate) is_join: bool,
    pub(crate) has_second_call_id: bool,
}

impl From<Headers> for Lines {
    fn from(headers: Headers) -> Self {
        Self {
            to: headers.to(),
            cseq: headers.cseq(),
            via: headers.via(),
            from: headers.from(),
            reference: headers.reference(),
            is_join: headers.is_join(),
            has_second_call_id: headers.has_second_call_id(),
        }
    }
}

/// Walks the lines behind the one at `from` until all of `needed` are found.
pub(crate) fn scan(payload: &[u8], needed: u32, from: u32) -> Lines {
    let mut lines = Lines::default();
    let asked = |header| needed & (header | need::ALL) != 0;
    let mut call_ids = 0;
    let mut found = 0;
    for start in line_starts(payload, from as usize, 0) {
        let line = rest(payload, start);
        if is_blank_line(line) {
            break;
        }
        let value = |names: &[&str]| {
            let behind = names.iter().find_map(|name| behind_colon(line, name))?;
            Some((start + behind) as u32)
        };
        let first = |field: &mut u32, value: u32| *field = if *field == 0 { value } else { *field };
        if value(&["call-id", "i"]).is_some() {
            found |= need::CALL_ID;
            call_ids += 1;
        } else if let (true, Some(value)) = (asked(need::TO), value(&["to", "t"])) {
            found |= need::TO;
            first(&mut lines.to, value);
        } else if let Some(value) = value(&["cseq"]) {
            found |= need::CSEQ;
            first(&mut lines.cseq, value);
        } else if let (true, Some(value)) = (asked(need::VIA), value(&["via", "v"])) {
            found |= need::VIA;
            first(&mut lines.via, value);
        } else if let (true, Some(value)) = (asked(need::FROM), value(&["from", "f"])) {
            found |= need::FROM;
            first(&mut lines.from, value);
        } else if let (true, Some(value)) = (asked(need::REFERENCE), value(&["replaces", "join"])) {
            found |= need::REFERENCE;
            if lines.reference == 0 {
                lines.reference = value;
                lines.is_join = line[0].eq_ignore_ascii_case(&b'j');
            }
        }
        if found & needed == needed {
            break;
        }
    }
    lines.has_second_call_id = call_ids > 1;
    lines
}

fn is_blank_line(line: &[u8]) -> bool {
    line.starts_with(b"\n") || line.starts_with(b"\r\n")
}

/// Where the value of the first Call-ID line starts, 0 = not found.
///
/// The search stops only at lines that start with a byte whose bit 4 is clear.
pub(crate) fn find_call_id(payload: &[u8], from: u32) -> u32 {
    for start in line_starts(payload, from as usize, 0x10) {
        let line = rest(payload, start);
        if is_blank_line(line) {
            break;
        }
        let value = ["call-id", "i"].iter().find_map(|name| behind_colon(line, name));
        if let Some(behind) = value {
            return (start + behind) as u32;
        }
    }
    0
}

/// Where the lines behind the one at `from` start whose first byte has none of the bits of `bars`,
/// as far as a search goes.
///
/// It goes on from line to line or, where none starts in them, by strides; a stride ends behind a
/// block with a byte that is no text, of which only the bits of `bars` of its successor count, too.
fn line_starts(payload: &[u8], from: usize, bars: u8) -> Vec<usize> {
    // A line needs a byte behind its line feed.
    let end = payload.len().saturating_sub(1);
    let barred = |i: usize| payload[i] | payload[i + 1] & bars;
    let feed = |range: std::ops::Range<usize>| range.into_iter().find(|&i| barred(i) == b'\n');
    let mut starts = Vec::new();
    let mut at = from;
    for _ in 0..TURNS {
        if at + STRIDE <= end {
            let is_no_text = |&i: &usize| !(0x0b..=0x8a).contains(&barred(i));
            let Some(first) = (at..at + STRIDE).find(is_no_text) else {
                at += STRIDE;
                continue;
            };
            at += (first - at) / BLOCK * BLOCK;
        }
        let span = if at + BLOCK <= end { BLOCK } else { STEP };
        match feed(at..(at + span).min(end)) {
            Some(feed) => {
                at = feed + 1;
                starts.push(at);
            }
            None => at += span,
        }
    }
    starts
}

/// Index of the byte behind the colon if `line` is a header of that name.
fn behind_colon(line: &[u8], name: &str) -> Option<usize> {
    let (start, behind) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name.as_bytes()) {
        return None;
    }
    let blanks = count(behind, is_blank);
    (blanks <= NAME_BLANKS && behind.get(blanks) == Some(&b':')).then_some(name.len() + blanks + 1)
}

/// Where the value behind a colon starts; `None` if it is empty.
fn skip_blanks(payload: &[u8], colon: usize) -> Option<usize> {
    let mut at = colon;
    let mut folds = 0;
    loop {
        match rest(payload, at) {
            [b' ' | b'\t', ..] => at += 1,
            [b'\r', b'\n', b' ' | b'\t', ..] if folds == 0 => {
                folds = 1;
                at += 3;
            }
            [b'\n', b' ' | b'\t', ..] if folds == 0 => {
                folds = 1;
                at += 2;
            }
            [] | [b'\r' | b'\n', ..] => return None,
            [_, ..] => return (at - colon <= VALUE_BLANKS).then_some(at),
        }
    }
}

/// The Call-ID behind the colon at `value`.
pub(crate) fn call_id(payload: &[u8], value: u32, key: HashKey) -> Option<CallId> {
    let offset = skip_blanks(payload, value as usize)?;
    let text = rest(payload, offset);
    let text = &text[..count(text, |byte| !ends_token(byte))];
    let length = text.len().min(LONGEST);
    let mut hash = SipHasher13::new_with_keys(key.k0, key.k1);
    if text.len() <= HASHED {
        hash.write(text);
    } else {
        hash.write(&text[..HASHED]);
        hash.write(&(length as u64).to_le_bytes());
    }
    Some(CallId { offset: offset as u32, length: length as u32, hash: hash.finish() })
}

/// Where a walk through a To header is.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Nothing,
    Quotes,
    Angles,
}

/// True if the To header has a tag of its own.
pub(crate) fn has_tag(payload: &[u8], value: u32) -> bool {
    let mut inside = Inside::Nothing;
    // Only blanks and a line end since the semicolon.
    let mut parameter_awaited = false;
    let mut steps = 0;
    let mut resumed = value as usize;
    let mut at = resumed;
    while let Some(&byte) = payload.get(at) {
        if !b"\"\\<>;\n".contains(&byte) {
            at += 1;
            continue;
        }
        steps += (at - resumed) / 8 + 1;
        if steps > TO_STEPS {
            return false;
        }
        at += 1;
        let mut parameter = false;
        match (byte, inside) {
            (b'\n', _) => {
                if !payload.get(at).is_some_and(|&byte| is_blank(byte)) {
                    return false;
                }
                // A quoted string never spans lines, an address may.
                if inside == Inside::Quotes {
                    inside = Inside::Nothing;
                }
                parameter = parameter_awaited;
            }
            (b'"', Inside::Quotes) => inside = Inside::Nothing,
            // What is escaped is not looked at, unless it is the end of the line.
            (b'\\', Inside::Quotes) if payload.get(at) != Some(&b'\n') => at += 1,
            (_, Inside::Quotes) => {}
            (b'"', Inside::Nothing) => inside = Inside::Quotes,
            (b'<', _) => inside = Inside::Angles,
            (b'>', _) => inside = Inside::Nothing,
            (b';', Inside::Nothing) => parameter = true,
            (_, Inside::Nothing | Inside::Angles) => {}
        }
        parameter_awaited = false;
        if parameter {
            let text = rest(payload, at);
            let blanks = count(text, is_blank);
            let name = &text[blanks..];
            if blanks <= PARAMETER_BLANKS && is_tag(name) {
                return true;
            }
            // A look ahead reaches eight bytes.
            let line_end =
                name.starts_with(b"\n") && blanks < 8 || name.starts_with(b"\r\n") && blanks < 7;
            parameter_awaited = line_end;
        }
        resumed = at;
    }
    false
}

fn is_tag(text: &[u8]) -> bool {
    matches!(text, [t, a, g, b'=' | b' ' | b'\t', ..]
        if [*t, *a, *g].eq_ignore_ascii_case(b"tag"))
}

/// The method in a CSeq header.
pub(crate) fn cseq_method(payload: &[u8], value: u32) -> Method {
    let Some(number) = skip_blanks(payload, value as usize) else {
        return Method::Other;
    };
    let digits = count(rest(payload, number), |byte| byte.is_ascii_digit()).min(DIGITS);
    match skip_blanks(payload, number + digits) {
        Some(at) => method(rest(payload, at)),
        None => Method::Other,
    }
}
