//! The user and the host of a URI (RFC 3261 §19.1.1, RFC 3966 §3), where they stand in a message:
//! what `balance` keys and domain rules look at.

use super::{Window, call_id::skip_blanks, swar};
use crate::hash::{HashKey, SipHash};

/// Longest user or host in bytes; a longer one is none. A password and its colon count with the
/// user.
pub const MAX_KEY: u32 = 127;

/// Bytes of a start line in which the Request-URI must begin.
const MAX_METHOD: u32 = 64;

/// Steps from one special character to the next before a URI in From or To.
const MAX_STEPS: u32 = 20;

/// Bytes of a payload, `start..end`; `end` 0 = none.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub const NONE: Self = Self { start: 0, end: 0 };

    #[inline(always)]
    #[must_use]
    pub const fn exists(self) -> bool {
        self.end != 0
    }

    /// In one number: the start in bits 0–11, the end in bits 16–27.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.start as u64 | (self.end as u64) << 16
    }

    /// What was packed.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(packed: u64) -> Self {
        Self { start: packed as u32 & 0xfff, end: (packed >> 16) as u32 & 0xfff }
    }
}

/// Where the parts of a URI stand.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Uri {
    /// Before the `@` and before a password, escapes as they stand; of a `tel:` URI the number.
    pub user: Span,
    /// Without port and final dot, an IPv6 address with its brackets.
    pub host: Span,
}

/// Where a URI starts.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Place {
    /// 0 = there is none.
    pub at: u32,
    /// 1 if it stands without angle brackets in a header: what follows a semicolon, a comma or a
    /// question mark is not the URI's (RFC 3261 §20).
    pub bare: u32,
}

/// The Request-URI of the request whose start line begins at `line`: behind the method and blanks.
#[inline(always)]
pub fn request_uri<W: Window>(window: &W, line: u32) -> Option<Place> {
    const NONE: Place = Place { at: 0, bare: 0 };
    let mut at = window.forget(line);
    for _ in 0..MAX_METHOD / 8 {
        let word = window.padded(at)?;
        let found = swar::spaces(word) | swar::zeros(word);
        if found == 0 {
            at = window.forget(at.wrapping_add(8));
            continue;
        }
        at = window.forget(at.wrapping_add(swar::first(found)));
        let word = window.padded(at)?;
        let other = !swar::blanks(word) & swar::HIGH_BITS;
        if other == 0 || swar::first(other) == 0 {
            return Some(NONE);
        }
        return Some(Place { at: window.forget(at.wrapping_add(swar::first(other))), bare: 0 });
    }
    Some(NONE)
}

/// The URI of a From or To header whose value starts behind the colon at `value`: behind the first
/// `<` that stands neither in a quoted display name nor behind a semicolon, else the value itself.
/// Neither a display name nor a quoted string goes on behind the line's end, unless it is folded.
#[inline(always)]
pub fn address<W: Window>(window: &W, value: u32) -> Option<Place> {
    let mut at = window.forget(value);
    let mut quoted = window.forget(0);
    for _ in 0..MAX_STEPS {
        let word = window.padded(at)?;
        let special = swar::equal(word, b'"')
            | swar::equal(word, b'\\')
            | swar::equal(word, b'<')
            | swar::equal(word, b';')
            | swar::equal(word, b'\n')
            | swar::zeros(word);
        if special == 0 {
            at = window.forget(at.wrapping_add(8));
            continue;
        }
        let position = swar::first(special);
        let byte = swar::byte(word, position);
        let mut next = window.forget(at.wrapping_add(position).wrapping_add(1));
        let in_quotes = window.forget(quoted) != 0;
        if byte == b'\n' {
            let behind = window.padded(next)? as u8;
            if behind != b' ' && behind != b'\t' {
                break;
            }
            quoted = 0;
        } else if byte == 0 {
            break;
        } else if byte == b'"' {
            quoted = u32::from(!in_quotes);
        } else if byte == b'\\' {
            // An escaped character, unless that is the end of the line.
            let behind = window.padded(next)? as u8;
            next = next.wrapping_add(u32::from(in_quotes && behind != b'\n'));
        } else if !in_quotes {
            if byte == b'<' {
                return Some(Place { at: next, bare: 0 });
            }
            break;
        }
        at = window.forget(next);
        quoted = window.forget(quoted);
    }
    let at = skip_blanks(window, value)?.unwrap_or(0);
    Some(Place { at: window.forget(at), bare: 1 })
}

/// The parts of the URI at `place`: of `sip:` and `sips:` user and host, of `tel:` the user, of any
/// other none.
#[inline(always)]
pub fn uri<W: Window>(window: &W, place: Place) -> Option<Uri> {
    let mut uri = Uri::default();
    if place.at == 0 {
        return Some(uri);
    }
    // Schemes are read in any letter case (RFC 3261 §25.1).
    let word = window.padded(place.at)? | 0x20_2020;
    let is_tel = word as u32 == u32::from_le_bytes(*b"tel:");
    let is_sip = word as u32 == u32::from_le_bytes(*b"sip:");
    let is_sips = (word | 0x2000_0000) & 0xff_ffff_ffff == u64::from_le_bytes(*b"sips:\0\0\0");
    if !is_tel && !is_sip && !is_sips {
        return Some(uri);
    }
    let start = window.forget(place.at.wrapping_add(4 + u32::from(is_sips)));
    if is_tel {
        let end = window.seek(start, stop::PARTS | stop::ENDS)?;
        uri.user = span(window, start, end);
        return Some(uri);
    }
    // A raw `@` stands nowhere in a URI but behind the user.
    let parts = if place.bare != 0 { stop::PARTS } else { 0 };
    let at = window.seek(start, stop::AT | parts | stop::ENDS)?;
    if at == 0 {
        return Some(uri);
    }
    let mut host = start;
    if window.padded(at)? as u8 == b'@' {
        let end = window.seek(start, stop::AT | stop::COLON)?;
        uri.user = span(window, start, end);
        host = window.forget(at.wrapping_add(1));
    }
    uri.host = self::host(window, host)?;
    Some(uri)
}

/// The host that starts at `start`.
#[inline(always)]
fn host<W: Window>(window: &W, start: u32) -> Option<Span> {
    let start = window.forget(start);
    if window.padded(start)? as u8 == b'[' {
        let end = window.seek(start, stop::BRACKET | stop::ENDS)?;
        if end == 0 || window.padded(end)? as u8 != b']' {
            return Some(Span::NONE);
        }
        let end = window.forget(end.wrapping_add(1));
        if window.excess(end, start.wrapping_add(MAX_KEY)) != 0 {
            return Some(Span::NONE);
        }
        return Some(Span { start, end });
    }
    let end = window.seek(start, stop::COLON | stop::PARTS | stop::AT | stop::ENDS)?;
    let mut host = span(window, start, end);
    if host.exists() && window.padded(host.end.wrapping_sub(1))? as u8 == b'.' {
        // The root: `example.com.` is `example.com`.
        host = span(window, start, host.end.wrapping_sub(1));
    }
    Some(host)
}

/// What a search stops at.
mod stop {
    pub(super) const AT: u32 = 1;
    pub(super) const COLON: u32 = 2;
    /// What parameters and headers of a URI, or the next URI, begin with: `;`, `?`, `,`.
    pub(super) const PARTS: u32 = 4;
    pub(super) const BRACKET: u32 = 8;
    /// What ends any URI: SP, HTAB, CR, LF, `<`, `>`, `"`.
    pub(super) const ENDS: u32 = 16;
}

/// The first byte from `from` on that one of `stops` (bits of `stop`) names, or that is NUL or
/// beyond the end; 0 if it is more than [`MAX_KEY`] bytes away.
#[inline(always)]
pub fn seek<W: Window>(window: &W, from: u32, stops: u32) -> Option<u32> {
    // All bits where a stop is wanted, without a branch, so that no word takes two ways.
    let mask = |stop: u32| {
        window.forget_word(u64::from(stops >> stop.trailing_zeros() & 1).wrapping_neg())
    };
    let (at_sign, colon) = (mask(stop::AT), mask(stop::COLON));
    let (parts, bracket, ends) = (mask(stop::PARTS), mask(stop::BRACKET), mask(stop::ENDS));
    let mut at = window.forget(from);
    for _ in 0..MAX_KEY.div_ceil(8) {
        let word = window.padded(at)?;
        let part = swar::equal(word, b';') | swar::equal(word, b'?') | swar::equal(word, b',');
        let end = swar::spaces(word)
            | swar::equal(word, b'<')
            | swar::equal(word, b'>')
            | swar::equal(word, b'"');
        let found = swar::zeros(word)
            | (swar::equal(word, b'@') & at_sign)
            | (swar::equal(word, b':') & colon)
            | (swar::equal(word, b']') & bracket)
            | (part & parts)
            | (end & ends);
        if found != 0 {
            return Some(window.forget(at.wrapping_add(swar::first(found))));
        }
        at = window.forget(at.wrapping_add(8));
    }
    Some(0)
}

/// `start..end`, or none if it is empty or `end` is 0.
#[inline(always)]
fn span<W: Window>(window: &W, start: u32, end: u32) -> Span {
    if window.excess(end, start) == 0 { Span::NONE } else { Span { start, end } }
}

/// The hash of a span that exists; with `fold` of 1 the hash of its text in lower case.
#[inline(always)]
pub fn span_hash<W: Window>(window: &W, span: Span, key: HashKey, fold: u32) -> Option<u64> {
    let fold = if fold != 0 { u64::MAX } else { 0 };
    let length = window.forget(span.end.wrapping_sub(span.start));
    let mut hash = SipHash::new(key);
    let mut at = window.forget(span.start);
    for i in 0..=MAX_KEY / 8 {
        let word = window.padded(at)?;
        let word = word | (swar::capitals(word) >> 2 & fold);
        let left = window.excess(length, i * 8);
        if left < 8 {
            return Some(hash.finish(swar::keep(word, left), length));
        }
        hash.word(word);
        at = window.forget(at.wrapping_add(8));
    }
    // Not reached: no span is that long.
    Some(hash.finish(0, length))
}

/// The hash by which domain rules are found. It grows from the end of a name, so that on the way
/// to the hash of `a.b.example` those of `example` and `b.example` are had.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct DomainHash(u64);

impl DomainHash {
    #[inline(always)]
    #[must_use]
    pub const fn new(key: HashKey) -> Self {
        Self(key.k1 ^ 0x646f_6d61_696e_2072)
    }

    /// Puts a character before the name; capitals count as small letters.
    #[inline(always)]
    #[must_use]
    pub const fn before(self, byte: u8) -> Self {
        // 1 for a capital, without a branch.
        let capital = (byte.wrapping_sub(b'A') as u32).wrapping_sub(26) >> 31;
        let byte = byte as u64 | (capital as u64) << 5;
        let mixed = (self.0.rotate_left(8) ^ byte).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(mixed ^ (mixed >> 32))
    }

    #[inline(always)]
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// Of a whole name.
    #[must_use]
    pub fn of(key: HashKey, name: &[u8]) -> Self {
        name.iter().rev().fold(Self::new(key), |hash, &byte| hash.before(byte))
    }
}

/// Labels of a host that [`domains`] takes apart; of one with more it finds nothing.
pub const MAX_LABELS: u32 = 16;

/// Passes to `note` a number and a hash for each domain that `host`, which exists, lies below: 0 for
/// the highest, and so on; the last number is that of the host itself, and returned. A number is
/// noted again and again until its hash is complete.
#[inline(always)]
pub fn domains<W: Window>(
    window: &W,
    host: Span,
    key: HashKey,
    mut note: impl FnMut(u32, DomainHash),
) -> Option<u32> {
    let mut hash = DomainHash::new(key);
    let mut at = window.forget(host.end);
    let mut number = window.forget(0);
    let start = window.forget(host.start);
    for _ in 0..MAX_KEY {
        if window.excess(at, start) == 0 {
            break;
        }
        at = window.forget(at.wrapping_sub(1));
        let byte = window.padded(at)? as u8;
        // 1 for a dot, without a branch: what stands behind it is a domain of its own.
        let dot = u32::from(byte ^ b'.').wrapping_sub(1) >> 31;
        number = window.forget(number.wrapping_add(dot));
        hash = hash.before(byte);
        // A dot completes the number before; what is noted for its own starts with the dot.
        note(number & (MAX_LABELS - 1), hash);
    }
    Some(number)
}
