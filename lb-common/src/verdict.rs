//! What became of a packet, and why: one enum that the program counts by, `replay` prints and the
//! metrics are labelled with.

/// What was done, in the words of `replay --json`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub enum Kind {
    /// Towards a backend.
    Forward,
    /// From a backend to a client.
    Reply,
    /// To the host's own network stack.
    Pass,
    Drop,
    /// Handed to the controller.
    SlowPath,
    /// Answered here, in the name of the VIP.
    Answer,
}

impl Kind {
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reply => "reply",
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::SlowPath => "slow-path",
            Self::Answer => "answer",
        }
    }
}

macro_rules! verdicts {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal, $kind:ident $(, $zero:ident)?;)+) => {
        /// The decision about one packet. The discriminant indexes the verdict counters.
        #[must_use]
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(feature = "user", derive(Debug, Hash, PartialOrd, Ord))]
        #[repr(u8)]
        pub enum Verdict {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Verdict {
            /// Every verdict, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            #[inline(always)]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)+ }
            }

            /// The stable word in `replay --json` and the metrics' `reason` label.
            #[must_use]
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// What it means.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }

            /// True if a count above zero is a fault of this product, not of the traffic.
            #[must_use]
            pub const fn is_fault(self) -> bool {
                match self { $(Self::$name => verdicts!(@zero $($zero)?),)+ }
            }
        }
    };
    (@zero must_be_zero) => { true };
    (@zero) => { false };
}

verdicts! {
    /// Not IP, not UDP, or no configured address and port in it.
    NotOurs = "not-ours", Pass;
    /// The frame is addressed to another host's MAC and was flooded here.
    OtherHost = "other-host", Pass;
    /// To a VIP, but by an interface that is not configured.
    OtherInterface = "other-interface", Pass;
    /// A header is cut short or contradicts itself; the host's stack judges it.
    BadHeader = "bad-header", Pass;
    /// From a backend to an address of this host: an answer to a probe, or the operator's own traffic.
    ToThisHost = "to-this-host", Pass;
    /// From a backend to a multicast or broadcast address.
    NotUnicast = "not-unicast", Pass;
    /// From a backend to another backend of the same service: routed, not rewritten.
    SameService = "same-service", Pass;
    /// The hop limit is used up; the host's stack sends the ICMP error.
    HopLimit = "hop-limit", Pass;
    /// The controller has been gone for longer than `controller_lost` allows.
    ControllerLost = "controller-lost", Pass;

    /// A new dialog, placed by the hash of its Call-ID and remembered.
    NewDialog = "new-dialog", Forward;
    /// Placed by the hash of its Call-ID; nothing is remembered about it.
    Hash = "hash", Forward;
    /// By the entry of its dialog.
    Dialog = "dialog", Forward;
    /// A response: to the backend that sent the request, as the topmost Via says.
    Via = "via", Forward;
    /// A new dialog that replaces or joins another: to that one's backend, and remembered.
    Replaces = "replaces", Forward;
    /// The dialog's backend is down: placed anew and remembered there.
    Rehash = "rehash", Forward;
    /// The dialog's backend is down, and `in_dialog_failover: keep` sends it there all the same.
    Keep = "keep", Forward;
    /// Without a Call-ID: placed by source address and port.
    NoCallId = "no-call-id", Forward;
    /// An empty, CRLF, NUL or very short datagram: placed by source address and port.
    Keepalive = "keepalive", Forward;
    /// A STUN message other than a Binding request: placed by source address and port.
    StunOther = "stun-other", Forward;

    /// A STUN Binding request: told its source address and port.
    Stun = "stun", Answer;
    /// A STUN Binding request with attributes that must be understood and are not: error 420.
    StunRefused = "stun-refused", Answer;

    /// A later fragment: goes where its first one went.
    Fragment = "fragment", Forward;

    /// A response from a backend.
    Response = "response", Reply;
    /// A request from a backend: a call, an OPTIONS or a NOTIFY that the server starts.
    ServerRequest = "server-request", Reply;
    /// From a backend, not SIP (keepalives that hold pinholes open).
    ServerOther = "server-other", Reply;
    /// A later fragment from a backend: goes where its first one went.
    ServerFragment = "server-fragment", Reply;

    /// A later fragment that came before the one it follows: the controller holds it until then.
    FragmentHeld = "fragment-held", SlowPath;
    /// A request for which no backend is usable in any tier: the controller answers it 503.
    NoBackend = "no-backend", SlowPath;

    /// An empty, CRLF, NUL or very short datagram, which `keepalive: absorb` ends here.
    KeepaliveAbsorbed = "keepalive-absorbed", Drop;
    /// A STUN Binding request whose lengths, attributes, FINGERPRINT or source are wrong.
    StunMalformed = "stun-malformed", Drop;
    /// No SIP, no keepalive and no STUN, which `malformed: drop` ends here.
    Malformed = "malformed", Drop;
    /// No backend is usable, and nothing is to be answered: an ACK, a response, no SIP.
    NotAnswered = "not-answered", Drop;
    /// More packets for the controller than it is given in a second.
    SlowPathLimit = "slow-path-limit", Drop;
    /// For the controller, which has given no sign of life for five seconds.
    SlowPathOff = "slow-path-off", Drop;
    /// For the controller, which has no room for it.
    SlowPathFull = "slow-path-full", Drop;
    /// A fragment that has passed already.
    FragmentDuplicate = "fragment-duplicate", Drop;
    /// A fragment with bytes that have passed already, or beyond the end of its datagram.
    FragmentOverlap = "fragment-overlap", Drop;
    /// A later fragment of a datagram whose first fragment was dropped.
    FragmentDropped = "fragment-dropped", Drop;
    /// A UDP header to or from one of ours whose length contradicts the packet.
    BadLength = "bad-length", Drop;
    /// A backend's address on a packet that did not come from the backend.
    SpoofedBackend = "spoofed-backend", Drop;
    /// The packet could not be made (the driver gave no room for VLAN tags or for an answer).
    NoHeadroom = "no-headroom", Drop;

    /// A listener id without a record.
    MissingListener = "missing-listener", Drop, must_be_zero;
    /// A binding id without a record.
    MissingBinding = "missing-binding", Drop, must_be_zero;
    /// An endpoint id without a record.
    MissingEndpoint = "missing-endpoint", Drop, must_be_zero;
    /// A map look-up that cannot fail did.
    MissingMap = "missing-map", Drop, must_be_zero;
    /// A bounds check that cannot fail did.
    OutOfBounds = "out-of-bounds", Drop, must_be_zero;
}

/// Counters in the verdict map.
pub const VERDICTS: usize = Verdict::ALL.len();

/// How a packet leaves the program.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
#[repr(u8)]
pub enum Exit {
    Pass,
    Drop,
    /// Out by the interface it came in.
    Tx,
    Redirect,
}

impl Exit {
    /// The word in `replay --json`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Tx => "tx",
            Self::Redirect => "redirect",
        }
    }

    #[inline(always)]
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Pass),
            1 => Some(Self::Drop),
            2 => Some(Self::Tx),
            3 => Some(Self::Redirect),
            _ => None,
        }
    }
}

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:expr,)+) => {
        /// What chose the backend.
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(feature = "user", derive(Debug))]
        #[repr(u8)]
        pub enum Key {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Key {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word in `replay --json`.
            #[must_use]
            pub const fn label(self) -> Option<&'static str> {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

keys! {
    /// Nothing was chosen.
    None = None,
    /// The hash of the Call-ID.
    CallId = Some("call-id"),
    /// An entry of the dialog table.
    Dialog = Some("dialog"),
    /// The topmost Via of a response.
    Via = Some("via"),
    /// The dialog that a Replaces or Join header refers to.
    Replaces = Some("replaces"),
    /// The hash of the source: its address and, for what has no Call-ID, its port.
    SourceIp = Some("source-ip"),
    /// The hash of the Request-URI's user; of a REGISTER, of the user in To.
    RequestUser = Some("request-user"),
    /// The hash of the Request-URI's host.
    RequestDomain = Some("request-domain"),
    /// The hash of the user in From.
    FromUser = Some("from-user"),
    /// The hash of the user in To.
    ToUser = Some("to-user"),
    /// Whose turn it was.
    RoundRobin = Some("round-robin"),
    /// The less loaded of two.
    LeastDialogs = Some("least-dialogs"),
}

/// One decision in full, as `replay` reads it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Decision {
    /// Hash of the Call-ID or of the source.
    pub hash: u64,
    /// Discriminants of [`Verdict`], [`Exit`], [`Key`] and [`crate::sip::Method`].
    pub verdict: u8,
    pub exit: u8,
    pub key: u8,
    pub method: u8,
    /// Status code of a response, else 0.
    pub status: u16,
    /// Ids, 0 = none.
    pub listener: u16,
    pub binding: u16,
    pub endpoint: u16,
    /// Where the Call-ID stands in the payload, in bytes; length 0 = none.
    pub call_id: u16,
    pub call_id_len: u16,
}
const _: () = assert!(size_of::<Decision>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_unique_kebab_case_words() {
        let mut reasons: Vec<_> = Verdict::ALL.iter().map(|v| v.reason()).collect();
        let total = reasons.len();
        assert!(total > 20);
        for reason in &reasons {
            assert!(reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{reason}");
        }
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), total);
    }

    #[test]
    fn discriminants_are_counter_indices() {
        for (index, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, index);
        }
    }
}
