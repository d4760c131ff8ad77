//! Who sent the request that a response answers: the `sent-by` of the topmost Via header
//! (RFC 3261 §18.2.2, §20.42).

use super::{Window, swar};
use crate::{
    addr::{Addr, Port, Socket},
    hash::{HashKey, SipHash},
};

/// The port of a `sent-by` that names none (RFC 3261 §18.2.2).
pub const DEFAULT_PORT: u16 = 5060;
/// Longest host in bytes; a longer one is none.
pub const MAX_HOST: u32 = 256;
/// Longest IPv6 address as text: six groups and a dotted quad.
pub const MAX_V6: u32 = 45;
/// Words of eight bytes in which a token before the host must end.
pub const TOKEN_WORDS: u32 = 4;
/// Steps through white space between two tokens; one ends at a fold or after eight bytes.
pub const BLANK_STEPS: u32 = 6;

/// A host and a port as a Via names them; the host is known by its hash alone.
///
/// Names are hashed in lower case, IPv4 addresses as the text that they are: only leading zeros,
/// which nobody writes, would give one address two texts. IPv6 addresses have many texts and are
/// hashed as the 16 bytes that they mean.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug, PartialOrd, Ord, Hash))]
pub struct SentBy {
    /// [`host_text`] or [`host_v6`].
    pub host: u64,
    /// Host order; [`DEFAULT_PORT`] if none is named.
    pub port: u16,
}

impl SentBy {
    /// In the place of a sender: the endpoint itself. Its key leads to the binding of that endpoint
    /// for a listener.
    #[inline(always)]
    #[must_use]
    pub const fn endpoint(id: u16) -> Self {
        // No Via has port 0.
        Self { host: id as u64, port: 0 }
    }

    /// The key under which the index holds the binding that a response to `listener` belongs to.
    #[inline(always)]
    #[must_use]
    pub const fn key(self, listener: u16) -> Socket {
        let (h, l) = (self.host.to_ne_bytes(), listener.to_ne_bytes());
        let octets = [h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], l[0], l[1], 0, 0, 0, 0, 0, 0];
        Socket::new(Addr::v6(octets), Port::new(self.port), 0)
    }
}

/// Sets the bit that parts lower from upper case. It merges some other characters too, none of
/// which stands in a host name (RFC 3261 §25.1).
const FOLD: u64 = swar::all(0x20);

/// Keeps the hashes of hosts apart from those of Call-IDs and of sources.
#[inline(always)]
const fn start(key: HashKey) -> SipHash {
    SipHash::new(HashKey { k0: key.k0, k1: !key.k1 })
}

/// The hash of a name, or of an IPv4 address in its usual form.
#[must_use]
pub fn host_text(key: HashKey, text: &[u8]) -> u64 {
    let mut hash = start(key);
    let (words, rest) = text.as_chunks::<8>();
    for word in words {
        hash.word(u64::from_le_bytes(*word) | FOLD);
    }
    let mut tail = [0; 8];
    for (to, from) in tail.iter_mut().zip(rest) {
        *to = *from | 0x20;
    }
    hash.finish(u64::from_le_bytes(tail), text.len() as u32)
}

/// The hash of an IPv6 address, given as two numbers.
#[inline(always)]
#[must_use]
pub const fn host_v6(key: HashKey, high: u64, low: u64) -> u64 {
    let mut hash = start(key);
    hash.word(high);
    hash.word(low);
    // No text of 16 bytes ends so.
    hash.finish(1, 16)
}

/// The `sent-by` of the first Via in the header whose value starts behind the colon at `value`;
/// `Some(None)` if it makes no sense.
///
/// White space may stand around the slashes and the colon, folded lines included. Neither the
/// protocol nor the transport is judged. A port is one to five digits, 1 to 65535.
#[inline(always)]
pub fn sent_by<W: Window>(window: &W, value: u32, key: HashKey) -> Option<Option<SentBy>> {
    let Some(at) = host(window, value)? else {
        return Some(None);
    };
    let found = if swar::byte(window.padded(at)?, 0) == b'[' {
        v6(window, window.forget(at.wrapping_add(1)), key)?
    } else {
        text(window, at, key)?
    };
    let Some((host, end)) = found else {
        return Some(None);
    };
    Some(port(window, end)?.map(|port| SentBy { host, port }))
}

/// Where the host starts: behind `SIP / 2.0 / UDP` and white space.
#[inline(always)]
fn host<W: Window>(window: &W, value: u32) -> Option<Option<u32>> {
    let Some(at) = skip(window, value)? else {
        return Some(None);
    };
    let word = window.padded(at)?;
    let transport = if word | 0x0020_2020 == u64::from_le_bytes(*b"sip/2.0/") {
        Some(window.forget(at.wrapping_add(8)))
    } else {
        match behind_slash(window, at)? {
            Some(version) => behind_slash(window, version)?,
            None => None,
        }
    };
    let Some(at) = transport else {
        return Some(None);
    };
    let Some(at) = skip(window, at)? else {
        return Some(None);
    };
    let Some(end) = token(window, at)? else {
        return Some(None);
    };
    let Some(at) = skip(window, end)? else {
        return Some(None);
    };
    // A transport that nothing parts from the host is none.
    Some((window.forget(at) != window.forget(end)).then_some(at))
}

/// Behind a token, which may be empty, and a slash.
#[inline(always)]
fn behind_slash<W: Window>(window: &W, at: u32) -> Option<Option<u32>> {
    let Some(at) = skip(window, at)? else {
        return Some(None);
    };
    let Some(end) = token(window, at)? else {
        return Some(None);
    };
    let Some(at) = skip(window, end)? else {
        return Some(None);
    };
    let is_slash = swar::byte(window.padded(at)?, 0) == b'/';
    Some(is_slash.then_some(window.forget(at.wrapping_add(1))))
}

/// Behind blanks and folds; `Some(None)` if the header or the datagram ends before anything else.
#[inline(always)]
fn skip<W: Window>(window: &W, at: u32) -> Option<Option<u32>> {
    let mut at = window.forget(at);
    for _ in 0..BLANK_STEPS {
        let word = window.padded(at)?;
        let other = !(swar::blanks(word) | swar::equal(word, b'\r')) & swar::HIGH_BITS;
        let blanks = swar::first(other);
        at = window.forget(at.wrapping_add(blanks));
        if other == 0 {
            continue;
        }
        if window.forget(at) >= window.len() {
            return Some(None);
        }
        if swar::byte(word, blanks) != b'\n' {
            return Some(Some(at));
        }
        at = window.forget(at.wrapping_add(1));
        if !matches!(swar::byte(window.padded(at)?, 0), b' ' | b'\t') {
            return Some(None);
        }
    }
    Some(None)
}

/// White space and what parts tokens: `/ : ; ,`.
#[inline(always)]
const fn separators(word: u64) -> u64 {
    swar::spaces(word)
        | swar::equal(word, b'/')
        | swar::equal(word, b':')
        | swar::equal(word, b';')
        | swar::equal(word, b',')
}

/// The end of the token at `at`, within [`TOKEN_WORDS`] words and the datagram.
#[inline(always)]
fn token<W: Window>(window: &W, at: u32) -> Option<Option<u32>> {
    let mut at = window.forget(at);
    for _ in 0..TOKEN_WORDS {
        let end = separators(window.padded(at)?);
        if end != 0 {
            return Some(Some(window.forget(at.wrapping_add(swar::first(end)))));
        }
        at = window.forget(at.wrapping_add(8));
    }
    Some(None)
}

/// Bit 7 of the first byte of the word at `at` that lies beyond the datagram; 0 = none does.
#[inline(always)]
pub(super) fn beyond<W: Window>(window: &W, at: u32) -> u64 {
    let left = window.excess(window.len(), at);
    let left = left.wrapping_sub(window.excess(left, 8));
    // In two steps, as a shift by 64 does nothing.
    let shift = (left * 4) & 63;
    (0x80 << shift) << shift
}

/// Hash and end of a host that is a name or an IPv4 address.
#[inline(always)]
fn text<W: Window>(window: &W, start_at: u32, key: HashKey) -> Option<Option<(u64, u32)>> {
    let mut hash = start(key);
    let mut at = start_at;
    for i in 0..=MAX_HOST / 8 {
        let word = window.padded(at)?;
        let end = separators(word) | beyond(window, at);
        if end != 0 {
            let rest = swar::first(end);
            let length = i * 8 + rest;
            if length == 0 || length > MAX_HOST {
                return Some(None);
            }
            let hash = hash.finish(swar::keep(word | FOLD, rest), length);
            return Some(Some((hash, window.forget(at.wrapping_add(rest)))));
        }
        hash.word(word | FOLD);
        at = window.forget(at.wrapping_add(8));
    }
    Some(None)
}

/// What the last characters of an IPv6 address were.
mod seen {
    /// Nothing.
    pub(super) const START: u32 = 0;
    /// One colon at the start: another must follow.
    pub(super) const LEAD: u32 = 1;
    pub(super) const DIGITS: u32 = 2;
    pub(super) const COLON: u32 = 3;
    /// Two colons.
    pub(super) const GAP: u32 = 4;
    pub(super) const DOT: u32 = 5;
}

/// Above every number of bytes: there was no gap.
const NO_GAP: u32 = 64;
/// Above every number in a dotted quad, and every number that goes on from it is too.
const NO_NUMBER: u32 = 256;

/// Hash of the IPv6 address at `at`, and the end behind its bracket (RFC 3986 §3.2.2).
#[inline(always)]
fn v6<W: Window>(window: &W, at: u32, key: HashKey) -> Option<Option<(u64, u32)>> {
    let mut at = window.forget(at);
    // The bytes found so far, right-aligned; how many, and how many stood before the gap.
    let (mut high, mut low) = (0u64, 0u64);
    let mut count = window.forget_all(0);
    let mut gap = window.forget_all(NO_GAP);
    let mut last = window.forget_all(seen::START);
    // The digits of the current group as a hexadecimal and as a decimal number.
    let mut digits = window.forget_all(0);
    let mut hex = window.forget_all(0);
    let mut decimal = window.forget_all(0);
    let mut dots = window.forget_all(0);
    for _ in 0..=MAX_V6 {
        if window.forget(at) >= window.len() {
            return Some(None);
        }
        let byte = swar::byte(window.padded(at)?, 0);
        at = window.forget(at.wrapping_add(1));
        let here = window.forget_all(last);
        if let Some(digit) = hex_digit(byte) {
            let leading_zero = window.forget_all(digits) == 1 && window.forget_all(decimal) == 0;
            decimal = if leading_zero || digit > 9 { NO_NUMBER } else { decimal * 10 + digit };
            hex = hex << 4 | digit;
            digits += 1;
            if window.forget_all(digits) > 4 {
                return Some(None);
            }
            last = seen::DIGITS;
        } else if here == seen::DIGITS {
            // A group ends, or a number of a dotted quad.
            let in_quad = byte == b'.' || window.forget_all(dots) != 0;
            let bytes = if in_quad { 1 } else { 2 };
            if in_quad && window.forget_all(decimal) > 255 {
                return Some(None);
            }
            let number = if in_quad { decimal } else { hex };
            high = high << (bytes * 8) | low >> (64 - bytes * 8);
            low = low << (bytes * 8) | u64::from(number);
            count += bytes;
            if window.forget_all(count) > 16 {
                return Some(None);
            }
            digits = 0;
            hex = 0;
            decimal = 0;
            if byte == b']' {
                let dots = window.forget_all(dots);
                if dots != 0 && dots != 3 {
                    return Some(None);
                }
                return Some(address(window, high, low, count, gap, key).map(|hash| (hash, at)));
            } else if byte == b':' && window.forget_all(dots) == 0 {
                last = seen::COLON;
            } else if byte == b'.' && window.forget_all(dots) < 3 {
                dots += 1;
                last = seen::DOT;
            } else {
                return Some(None);
            }
        } else if byte == b':' && here == seen::START {
            last = seen::LEAD;
        } else if byte == b':' && (here == seen::COLON || here == seen::LEAD) {
            if window.forget_all(gap) != NO_GAP {
                return Some(None);
            }
            gap = count;
            last = seen::GAP;
        } else if byte == b']' && here == seen::GAP {
            return Some(address(window, high, low, count, gap, key).map(|hash| (hash, at)));
        } else {
            return Some(None);
        }
        if window.forget_all(last) == seen::DIGITS && here == seen::LEAD {
            return Some(None);
        }
        high = window.forget_word(high);
        low = window.forget_word(low);
        count = window.forget_all(count);
        gap = window.forget_all(gap);
        last = window.forget_all(last);
        digits = window.forget_all(digits);
        hex = window.forget_all(hex);
        decimal = window.forget_all(decimal);
        dots = window.forget_all(dots);
    }
    Some(None)
}

#[inline(always)]
fn hex_digit(byte: u8) -> Option<u32> {
    let (digit, letter) = (byte.wrapping_sub(b'0'), (byte | 0x20).wrapping_sub(b'a'));
    if digit < 10 {
        Some(digit.into())
    } else if letter < 6 {
        Some(u32::from(letter) + 10)
    } else {
        None
    }
}

/// The hash of an address of which `count` bytes were written, `gap` of them before the two colons.
#[inline(always)]
fn address<W: Window>(
    window: &W,
    high: u64,
    low: u64,
    count: u32,
    gap: u32,
    key: HashKey,
) -> Option<u64> {
    let gap = window.forget_all(gap);
    let missing = 16u32.wrapping_sub(window.forget_all(count));
    if gap == NO_GAP {
        return (missing == 0).then(|| host_v6(key, high, low));
    }
    // Two colons stand for at least one group.
    if !(2..=16).contains(&missing) {
        return None;
    }
    // What stood behind the gap stays, what stood before it moves up.
    let (mut before_high, mut before_low) = (high, low);
    let (mut mask_high, mut mask_low) = (0u64, 0u64);
    for i in 0..16 {
        if i < window.forget_all(count.wrapping_sub(gap)) {
            mask_high = mask_high << 8 | mask_low >> 56;
            mask_low = mask_low << 8 | 0xff;
        }
        mask_high = window.forget_word(mask_high);
        mask_low = window.forget_word(mask_low);
    }
    before_high &= !mask_high;
    before_low &= !mask_low;
    for i in 0..16 {
        if i < window.forget_all(missing) {
            before_high = before_high << 8 | before_low >> 56;
            before_low <<= 8;
        }
        before_high = window.forget_word(before_high);
        before_low = window.forget_word(before_low);
    }
    Some(host_v6(key, high & mask_high | before_high, low & mask_low | before_low))
}

/// The port behind a host that ends at `at`.
#[inline(always)]
fn port<W: Window>(window: &W, at: u32) -> Option<Option<u16>> {
    let Some(at) = skip(window, at)? else {
        return Some(Some(DEFAULT_PORT));
    };
    if swar::byte(window.padded(at)?, 0) != b':' {
        return Some(Some(DEFAULT_PORT));
    }
    let Some(at) = skip(window, window.forget(at.wrapping_add(1)))? else {
        return Some(None);
    };
    let word = window.padded(at)?;
    let mut port = window.forget_all(0);
    for i in 0..6 {
        let digit = u32::from(swar::byte(word, i).wrapping_sub(b'0'));
        if digit > 9 {
            break;
        }
        if i == 5 {
            return Some(None);
        }
        port = window.forget_all(port * 10 + digit);
    }
    let port = window.forget_all(port);
    Some((port > 0 && port <= 65_535).then_some(port as u16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::Payload;

    const KEY: HashKey = HashKey { k0: 1, k1: 2 };

    fn read(value: &str) -> Option<(u64, u16)> {
        let window = Payload::new(value.as_bytes());
        sent_by(&window, 0, KEY).unwrap().map(|found| (found.host, found.port))
    }

    #[test]
    fn a_host_is_the_same_in_every_way_that_a_via_may_write_it() {
        let text = |host: &str, port| Some((host_text(KEY, host.as_bytes()), port));
        for (value, expected) in [
            (" SIP/2.0/UDP 10.0.1.200:5060;branch=z9hG4bK1\r\n", text("10.0.1.200", 5060)),
            ("SIP/2.0/UDP 10.0.1.200;branch=z9hG4bK1\r\n", text("10.0.1.200", 5060)),
            (" SIP/2.0/UDP 10.0.1.200:5070, SIP/2.0/UDP 10.9.9.9\r\n", text("10.0.1.200", 5070)),
            (
                " SIP / 2.0 / UDP first.example.com: 4000;ttl=16\r\n ;maddr=224.2.0.1",
                text("first.example.com", 4000),
            ),
            ("\tsip/2.0/udp\tGW2.Example.NET : 5080 ;x", text("gw2.example.net", 5080)),
            ("\r\n SIP\r\n /2.0/UDP\r\n gw\r\n :\r\n 5061", text("gw", 5061)),
            (" SIP/2.0/TLS-SCTP gw", text("gw", 5060)),
            (" SIP/2.0/UDP gw:65535", text("gw", 65_535)),
            (" SIP/2.0/UDP gw:65536", None),
            (" SIP/2.0/UDP gw:0", None),
            (" SIP/2.0/UDP gw:05060", text("gw", 5060)),
            (" SIP/2.0/UDP gw:005060", None),
            (" SIP/2.0/UDP gw:x", None),
            (" SIP/2.0/UDP :5060", None),
            (" SIP/2.0/UDP", None),
            (" SIP/2.0/UDP\r\nTo: <sip:a@b>", None),
            (" SIP/2.0;x=/UDP gw", None),
            (" gw", None),
            ("", None),
        ] {
            assert_eq!(read(value), expected, "{value}");
        }
    }

    #[test]
    fn an_ipv6_address_is_known_by_what_it_means() {
        let v6 = |high, low| Some((host_v6(KEY, high, low), 5060));
        for (text, expected) in [
            ("[2001:db8::1]", v6(0x2001_0db8_0000_0000, 1)),
            ("[2001:0DB8:0:0:0000::0001]", v6(0x2001_0db8_0000_0000, 1)),
            ("[::]", v6(0, 0)),
            ("[1::]", v6(0x0001_0000_0000_0000, 0)),
            ("[::ffff:10.0.1.200]", v6(0, 0xffff_0a00_01c8)),
            ("[1:2:3:4:5:6:7:8]", v6(0x0001_0002_0003_0004, 0x0005_0006_0007_0008)),
            ("[1:2:3:4:5:6:7:8:9]", None),
            ("[1:2:3:4:5:6:7]", None),
            ("[1:2:3:4:5:6:7::8]", None),
            ("[1::2::3]", None),
            ("[:1::]", None),
            ("[1:]", None),
            ("[12345::]", None),
            ("[fe80::1%eth0]", None),
            ("[2001:db8::1", None),
            ("2001:db8::1", None),
        ] {
            assert_eq!(read(&format!(" SIP/2.0/UDP {text};x")), expected, "{text}");
        }
    }

    #[test]
    fn the_key_keeps_listener_host_and_port_apart() {
        let key = |host, port, listener| SentBy { host, port }.key(listener);
        assert_eq!(key(7, 5060, 1), key(7, 5060, 1));
        assert_ne!(key(7, 5060, 1), key(7, 5060, 2));
        assert_ne!(key(7, 5060, 1), key(7, 5061, 1));
        assert_ne!(key(7, 5060, 1), key(8, 5060, 1));
    }
}
