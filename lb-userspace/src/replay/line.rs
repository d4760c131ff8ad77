//! What is said about one packet.

use std::{borrow::Cow, net::SocketAddr};

use lb_common::verdict::{Decision, Exit, Key, Kind, Verdict};
use serde::Serialize;

use super::{message, names::Names};
use crate::slow::Fate;

/// One line of `replay --json`, in the order of its fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line<'a> {
    /// From 1.
    pub packet: u64,
    pub verdict: &'static str,
    pub reason: &'static str,
    pub service: Option<&'a str>,
    pub method: Option<Cow<'a, str>>,
    pub status: Option<u16>,
    pub call_id: Option<Cow<'a, str>>,
    /// What chose the backend.
    pub key: Option<&'static str>,
    pub backend: Option<&'a str>,
    pub address: Option<SocketAddr>,
    pub out: &'static str,
}

/// Why a packet could not be given to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// No room for the headers of its link layer, or nothing behind them.
    TooShort,
    /// The capture holds only its beginning.
    Truncated,
    /// Longer than the kernel takes in a test run.
    TooBig,
}

impl Unfit {
    /// The word in `reason`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooShort => "too-short",
            Self::Truncated => "truncated",
            Self::TooBig => "too-big",
        }
    }

    /// What it means.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::TooShort => "not run: no room for the headers of its link layer",
            Self::Truncated => "not run: the capture holds only its beginning (snap length)",
            Self::TooBig => "not run: longer than the kernel takes in a test run",
        }
    }
}

impl<'a> Line<'a> {
    /// The line of a packet that the program did not see.
    #[must_use]
    pub(super) const fn unfit(packet: u64, why: Unfit) -> Self {
        Self {
            packet,
            verdict: Kind::Pass.label(),
            reason: why.reason(),
            service: None,
            method: None,
            status: None,
            call_id: None,
            key: None,
            backend: None,
            address: None,
            out: Exit::Pass.label(),
        }
    }

    /// Takes in what the slow path made of the packet.
    pub(super) fn settle(&mut self, fate: Fate) {
        match fate {
            Fate::Answered => {
                self.verdict = Kind::Answer.label();
                self.out = Exit::Tx.label();
            }
            Fate::Forwarded => {
                self.verdict = Kind::Forward.label();
                self.out = Exit::Tx.label();
            }
            Fate::Dropped(reason) => {
                self.verdict = Kind::Drop.label();
                self.reason = reason;
            }
            Fate::Held => {}
        }
    }

    /// The line of a decision about `frame` (as it came in); `None` if the decision is none that
    /// this version knows.
    #[must_use]
    pub(crate) fn decided(
        packet: u64,
        decision: &Decision,
        exit: Exit,
        frame: &'a [u8],
        names: &'a Names,
    ) -> Option<Self> {
        let verdict = *Verdict::ALL.get(usize::from(decision.verdict))?;
        let key = *Key::ALL.get(usize::from(decision.key))?;
        // The program notes a key as soon as it has read the message.
        let payload = if key == Key::None { None } else { message::payload(frame) };
        let backend = names.backend(decision);
        let is_chosen = decision.binding != 0;
        Some(Self {
            packet,
            verdict: verdict.kind().label(),
            reason: verdict.reason(),
            service: backend.map(|b| b.service.as_str()).or_else(|| names.service(decision)),
            method: match decision.status {
                0 => payload.and_then(message::method),
                _ => None,
            },
            status: Some(decision.status).filter(|&status| status != 0),
            call_id: payload.and_then(|payload| message::call_id(decision, payload)),
            key: if is_chosen { chooser(verdict.kind(), key) } else { None },
            backend: backend.map(|b| b.name.as_str()),
            address: backend.filter(|_| is_chosen).map(|b| b.address),
            out: exit.label(),
        })
    }
}

/// The word for what chose the backend. A reply's backend chose itself; only its VIP may be that of
/// the dialog.
const fn chooser(kind: Kind, key: Key) -> Option<&'static str> {
    match (kind, key) {
        (Kind::Reply, Key::CallId | Key::SourceIp) => None,
        (
            Kind::Reply | Kind::Forward | Kind::Pass | Kind::Drop | Kind::SlowPath | Kind::Answer,
            _,
        ) => key.label(),
    }
}
