//! The first line: request or response (RFC 3261 §7.1, §7.2).

use super::{Window, swar};

/// CR and LF bytes that may stand before the start line (RFC 3261 §7.5 sets no bound; a datagram
/// that has more is a keepalive).
pub const MAX_LEADING: u32 = 16;

macro_rules! methods {
    ($($name:ident = $text:literal,)+) => {
        /// A request method; methods are not checked against this list, others are `Other`.
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(feature = "user", derive(Debug, Hash))]
        #[repr(u8)]
        pub enum Method {
            /// Any other token.
            Other,
            $($name,)+
        }

        impl Method {
            /// Every method, in the order of their numbers.
            pub const ALL: &'static [Self] = &[Self::Other, $(Self::$name,)+];

            /// The method's token; `None` for `Other`.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self { Self::Other => None, $(Self::$name => Some($text),)+ }
            }
        }
    };
}

methods! {
    Invite = "INVITE",
    Ack = "ACK",
    Bye = "BYE",
    Cancel = "CANCEL",
    Register = "REGISTER",
    Options = "OPTIONS",
    Subscribe = "SUBSCRIBE",
    Notify = "NOTIFY",
    Publish = "PUBLISH",
    Info = "INFO",
    Refer = "REFER",
    Message = "MESSAGE",
    Update = "UPDATE",
    Prack = "PRACK",
}

impl Method {
    /// The method whose token stands at the low end of `word` (first byte lowest) and goes on in
    /// `next`, followed by a space or the end of the line.
    #[inline(always)]
    pub(super) fn of(word: u64, next: u64) -> Self {
        const fn token(text: &[u8]) -> u64 {
            let mut word = 0;
            let mut i = 0;
            while i < text.len() && i < 8 {
                word |= (text[i] as u64) << (8 * i);
                i += 1;
            }
            word
        }
        // Methods are case-sensitive (RFC 3261 §7.1). Cut the word behind its token and compare.
        let end = swar::spaces(word) | swar::zeros(word);
        if end == 0 {
            let ends = |word: u64| matches!(swar::byte(word, 0), b' ' | b'\t' | b'\r' | b'\n' | 0);
            if word == const { token(b"REGISTER") } && ends(next) {
                return Self::Register;
            }
            if word == const { token(b"SUBSCRIB") }
                && swar::byte(next, 0) == b'E'
                && ends(next >> 8)
            {
                return Self::Subscribe;
            }
            return Self::Other;
        }
        let word = swar::keep(word, swar::first(end));
        if word == const { token(b"INVITE") } {
            Self::Invite
        } else if word == const { token(b"ACK") } {
            Self::Ack
        } else if word == const { token(b"BYE") } {
            Self::Bye
        } else if word == const { token(b"CANCEL") } {
            Self::Cancel
        } else if word == const { token(b"OPTIONS") } {
            Self::Options
        } else if word == const { token(b"NOTIFY") } {
            Self::Notify
        } else if word == const { token(b"PUBLISH") } {
            Self::Publish
        } else if word == const { token(b"INFO") } {
            Self::Info
        } else if word == const { token(b"REFER") } {
            Self::Refer
        } else if word == const { token(b"MESSAGE") } {
            Self::Message
        } else if word == const { token(b"UPDATE") } {
            Self::Update
        } else if word == const { token(b"PRACK") } {
            Self::Prack
        } else {
            Self::Other
        }
    }
}

/// What kind of datagram this is, by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub enum Message {
    /// A request, or anything else that is not one of the kinds below.
    Request(Method),
    /// A response with its status code (RFC 3261 §7.2), 0 if no three digits stand behind a version
    /// of three characters and a space.
    Response(u16),
    /// A STUN message: first two bits 0 and the magic cookie (RFC 5389 §6).
    Stun,
    /// Fewer than 12 bytes, or where the start line should be none: the end, a 17th CR or LF, NUL,
    /// or another control character up to CR, such as a STUN message without the cookie has.
    Keepalive,
}

/// A [`Message`] as the datapath carries it: a set of bits, so that each question about it is one
/// AND. Bits 0–15 are the methods by their numbers, those from 16 on as named below, 32–47 the
/// number of the method or the status code.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Code(u64);

impl Code {
    const REQUEST: u64 = 0xffff;
    const RESPONSE: u64 = 1 << 16;
    /// 101–299: an early dialog or a success.
    const LASTING: u64 = 1 << 17;
    /// 200–299.
    const SUCCESS: u64 = 1 << 18;
    const STUN: u64 = 1 << 19;
    const KEEPALIVE: u64 = 1 << 20;
    /// 300 and more.
    const REFUSAL: u64 = 1 << 21;

    #[inline(always)]
    #[must_use]
    pub const fn new(message: Message) -> Self {
        Self(match message {
            Message::Request(method) => Self::bit(method) | (method as u64) << 32,
            Message::Stun => Self::STUN,
            Message::Keepalive => Self::KEEPALIVE,
            Message::Response(status) => {
                let class = if status >= 300 {
                    Self::REFUSAL
                } else if status <= 100 {
                    0
                } else if status < 200 {
                    Self::LASTING
                } else {
                    Self::LASTING | Self::SUCCESS
                };
                Self::RESPONSE | class | (status as u64) << 32
            }
        })
    }

    #[inline(always)]
    const fn bit(method: Method) -> u64 {
        1 << method as u64
    }

    #[inline(always)]
    const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// The same code, passed through `change`, which must return what it is given.
    #[inline(always)]
    #[must_use]
    pub fn via(self, change: impl Fn(u64) -> u64) -> Self {
        Self(change(self.0))
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_request(self) -> bool {
        self.has(Self::REQUEST)
    }

    #[inline(always)]
    #[must_use]
    pub const fn is(self, method: Method) -> bool {
        self.has(Self::bit(method))
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_response(self) -> bool {
        self.has(Self::RESPONSE)
    }

    /// True for a response of 101–299: a dialog, early at least.
    #[inline(always)]
    #[must_use]
    pub const fn is_lasting(self) -> bool {
        self.has(Self::LASTING)
    }

    /// True for a response of 200–299.
    #[inline(always)]
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.has(Self::SUCCESS)
    }

    /// True for a response of 300 and more: the request came to nothing here.
    #[inline(always)]
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        self.has(Self::REFUSAL)
    }

    /// True for requests that can create a dialog or its like (RFC 3261 §12, RFC 6665, RFC 3515).
    #[inline(always)]
    #[must_use]
    pub const fn forms_dialog(self) -> bool {
        self.has(
            Self::bit(Method::Invite) | Self::bit(Method::Subscribe) | Self::bit(Method::Refer),
        )
    }

    /// True for requests that are complete without a dialog; unknown methods count so.
    #[inline(always)]
    #[must_use]
    pub const fn stands_alone(self) -> bool {
        self.has(
            Self::bit(Method::Register)
                | Self::bit(Method::Message)
                | Self::bit(Method::Publish)
                | Self::bit(Method::Options)
                | Self::bit(Method::Other),
        )
    }

    /// True for messages that make a dialog's entry, keep it fresh or end it.
    #[inline(always)]
    #[must_use]
    pub const fn concerns_entry(self) -> bool {
        self.forms_dialog()
            || self.has(
                Self::bit(Method::Update) | Self::bit(Method::Bye) | Self::SUCCESS | Self::REFUSAL,
            )
    }

    /// True for requests and responses.
    #[inline(always)]
    #[must_use]
    pub const fn is_sip(self) -> bool {
        self.has(Self::REQUEST | Self::RESPONSE)
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_stun(self) -> bool {
        self.has(Self::STUN)
    }

    /// Status code of a response, else 0.
    #[inline(always)]
    #[must_use]
    pub const fn status(self) -> u16 {
        if self.is_response() { (self.0 >> 32) as u16 } else { 0 }
    }

    /// Number of the method of a request, else 0.
    #[inline(always)]
    #[must_use]
    pub const fn method(self) -> u8 {
        if self.is_request() { (self.0 >> 32) as u8 } else { 0 }
    }
}

/// Reads the start line; also returns where it starts, behind leading CR and LF (RFC 3261 §7.5).
#[inline(always)]
pub fn start_line<W: Window>(window: &W) -> Option<(Message, u32)> {
    if window.forget(window.len()) < 12 {
        return Some((Message::Keepalive, 0));
    }
    let mut start = 0;
    let mut word = window.padded(0)?;
    // 0x2112A442 in network order stands in bytes 4–7.
    if word & 0xc0 == 0 && (word >> 32) as u32 == 0x2112_a442u32.swap_bytes() {
        return Some((Message::Stun, 0));
    }
    if swar::byte(word, 0) <= b'\r' {
        while start < MAX_LEADING {
            let byte = swar::byte(window.padded(start)?, 0);
            if byte != b'\r' && byte != b'\n' {
                break;
            }
            start += 1;
        }
        start = window.forget(start);
        word = window.padded(start)?;
        if swar::byte(word, 0) <= b'\r' {
            return Some((Message::Keepalive, start));
        }
    }
    // In any letter case (RFC 3261 §7.1); no method has a slash.
    if word as u32 | 0x0020_2020 == u32::from_le_bytes(*b"sip/") {
        // "SIP/2.0 200": the version is three characters in every SIP that exists.
        let status = window.padded(window.forget(start.wrapping_add(8)))?;
        let digit = |n| u16::from(swar::byte(status, n).wrapping_sub(b'0'));
        let (a, b, c, d) = (digit(0), digit(1), digit(2), digit(3));
        let code = if a < 10 && b < 10 && c < 10 && d > 9 { a * 100 + b * 10 + c } else { 0 };
        return Some((Message::Response(code), start));
    }
    let next = window.padded(window.forget(start.wrapping_add(8)))?;
    Some((Message::Request(Method::of(word, next)), start))
}
