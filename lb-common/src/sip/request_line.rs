//! Does a line that is no status line at least look like a request line (RFC 3261 §7.1)?

use super::{Window, swar};

/// Longest request line that is recognised, in bytes; the end of the datagram may take its place.
const LONGEST_LINE: u32 = 512;

/// True if the line at `from` has a SIP version behind a blank, in any letter case, in its last 16
/// bytes. Any method, any URI, any version and blanks at the end pass: a backend answers those. `None`
/// if the window ends before its length.
#[inline(always)]
pub fn may_be_request_line<W: Window>(window: &W, from: u32) -> Option<bool> {
    let len = window.len();
    let mut end = window.forget(from);
    let mut ends = window.forget(0);
    for _ in 0..LONGEST_LINE / 8 {
        let feeds = swar::equal(window.padded(end)?, b'\n');
        let step = if feeds != 0 { swar::first(feeds) } else { 8 };
        end = window.forget(end.wrapping_add(step));
        if feeds != 0 || window.forget(end) >= len {
            ends = window.forget(1);
            break;
        }
    }
    if window.forget(ends) == 0 {
        return Some(false);
    }
    end = end.wrapping_sub(window.excess(end, len));
    // "A b SIP/2" is the shortest that could be one; the 16 bytes may begin before the line, where
    // CR, LF or the packet's headers stand.
    if window.excess(end, window.forget(from)) < 9 {
        return Some(false);
    }
    let low = window.word(end.wrapping_sub(16))?;
    let high = window.word(end.wrapping_sub(8))?;
    let mut found = false;
    let mut shift = 0;
    while shift < 64 {
        let word = if shift == 0 { low } else { low >> shift | high << (64 - shift) };
        found |= is_version(word) | is_version(high >> shift);
        shift += 8;
    }
    Some(found)
}

/// True for a blank and `sip/`, in any letter case, in the lower five bytes.
#[inline(always)]
fn is_version(word: u64) -> bool {
    const VERSION: u64 = u64::from_le_bytes(*b"\0sip/\0\0\0");
    let blank = word as u8;
    const FOLD: u64 = u64::from_le_bytes(*b"\0   \0\0\0\0");
    const MASK: u64 = u64::from_le_bytes([0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);
    (word | FOLD) & MASK == VERSION && (blank == b' ' || blank == b'\t')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sip::Payload;

    fn of(text: &[u8]) -> bool {
        may_be_request_line(&Payload::new(text), 0).unwrap()
    }

    #[test]
    fn whatever_ends_in_a_version_may_be_a_request() {
        for line in [
            "INVITE sip:bob@biloxi.example SIP/2.0\r\nTo: x\r\n\r\n",
            "OPTIONS sip:a SIP/2.0\n",
            "OPTIONS sip:a SIP/2.0",
            "x y SIP/2",
            "!interesting-Method0123456789_*+`.%indeed'~ sip:1_unusual.URI~(to-be!sure) SIP/2.0\r\n",
            "REGISTER sip:a sip/7.0\r\n",
            "INVITE sip:a\tSIP/2.0  \r\n",
            "INVITE  sip:a  SIP/2.00  \r\n",
        ] {
            assert!(of(line.as_bytes()), "{line:?}");
        }
        let long = |n| format!("INVITE sip:{} SIP/2.0\r\n", "a".repeat(n));
        assert!(of(long(490).as_bytes()));
        assert!(!of(long(600).as_bytes()), "too long to be looked for");
    }

    #[test]
    fn what_does_not_is_none() {
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "\u{16}\u{3}\u{1}client hello client hello",
            "x SIP/2",
            "hello, world\r\n",
            "hello, world\r\nINVITE sip:a SIP/2.0\r\n",
            "INVITE sip:a SIP/2.0 and then much more\r\n",
            "INVITE sip:aSIP/2.0\r\n",
            "INVITE sip:a HSIP/2.0\r\n",
            "INVITE sip:a SIPS2.0\r\n",
        ] {
            assert!(!of(text.as_bytes()), "{text:?}");
        }
        assert!(!of(&[0xf8; 300]));
        assert!(!of(b""));
    }

    #[test]
    fn the_line_begins_where_it_is_said_to() {
        let text = b"\r\n\r\nOPTIONS sip:a SIP/2.0\r\n";
        assert!(may_be_request_line(&Payload::new(text), 4).unwrap());
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_reading(head in "[a-z :@]{0,40}", tail in "( |\t|x)(SIP/|sip/|SIP|HTTP/)[0-9. ]{1,9}", feed in "(\r\n|\n|)") {
            let text = format!("{head}{tail}{feed}");
            let line = text.split('\n').next().unwrap().as_bytes();
            let last = &line[line.len().saturating_sub(16)..];
            let expected = line.len() >= 9
                && last.windows(5).any(|w| {
                    matches!(w[0], b' ' | b'\t') && w[1..].eq_ignore_ascii_case(b"sip/")
                });
            prop_assert_eq!(of(text.as_bytes()), expected, "{:?}", text);
        }
    }
}
