//! The slow path: packets that the XDP program hands to the controller, and what comes of them.
//!
//! ```text
//! program ─ SLOW_PATH (a ring for each CPU) ─ rings ─ queue ─ Consumers ─ Action ─ raw socket
//!                                                               replay ─┘        └─ replay's line
//! ```
//!
//! A *consumer* deals with one kind of packet. It does no input or output of its own: it is given a
//! packet and the time, and says what is to be sent, so that `replay` and the tests run the very
//! same code without sockets.
//!
//! # A new consumer
//!
//! 1. `lb_common::slow::Kind`: name the kind and its rate.
//! 2. `lb-ebpf/src/slow.rs`: `note` what is known of the packet, `give` it, return the verdict that
//!    comes back; `Verdict::…` of `Kind::SlowPath` counts it. Mere copies do not come this way but by
//!    rings of their own ([`crate::watch`]), so that they never harm traffic.
//! 3. Implement [`Consumer`]: [`Consumer::take`] for each packet, [`Consumer::tick`] ten times a
//!    second for what has a deadline. State lives in the consumer, which one task owns: no locks.
//!    Someone outside is told through a channel that the consumer holds.
//! 4. Put it into [`Consumers`] with [`Consumers::on`], in `cli/run.rs` and, if replay should have
//!    it, in `replay/mod.rs`.

pub mod answer;
pub mod fragments;
pub mod queue;
pub mod rings;
pub mod send;

use std::{collections::BTreeMap, fmt, time::Duration};

pub use lb_common::slow::{Kind, Record};

/// A packet as it was handed over.
#[derive(Clone, Copy, Debug)]
pub struct Handed<'a> {
    pub kind: Kind,
    pub record: &'a Record,
    /// The Ethernet frame as it came in, at most [`lb_common::slow::LONGEST`] bytes of it.
    pub frame: &'a [u8],
}

impl Handed<'_> {
    /// True if not all of the frame was handed over.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.frame.len() < self.record.frame_len as usize
    }
}

/// What is to be done for a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send an IP packet, with its header and checksums, by the host's routing table. Its source
    /// need not be an address of this host.
    Send(Vec<u8>),
    /// Count what became of a packet that was taken before.
    Count(Kind, Fate),
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// It was answered in the name of the VIP.
    Answered,
    /// It is kept until more is known.
    Held,
    /// It was sent on.
    Forwarded,
    /// It was dropped, for this reason: a stable kebab-case word.
    Dropped(&'static str),
}

impl Fate {
    /// The word that labels the metric.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Held => "held",
            Self::Forwarded => "forwarded",
            Self::Dropped(reason) => reason,
        }
    }
}

/// Deals with one kind of packet.
pub trait Consumer: Send {
    /// Takes a packet at `now`, pushes what is to be done to `out` and says what became of it.
    fn take(&mut self, packet: &Handed<'_>, now: Duration, out: &mut Vec<Action>) -> Fate;

    /// Called ten times a second, and every 5 ms while a consumer waits for something; what is
    /// overdue at `now` is dealt with.
    fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        let _ = (now, out);
    }

    /// True while it waits for something that may happen at any time.
    fn is_waiting(&self) -> bool {
        false
    }
}

/// Why a packet had no consumer.
pub const NO_CONSUMER: Fate = Fate::Dropped("no-consumer");

/// All consumers, by kind.
#[derive(Default)]
pub struct Consumers(BTreeMap<Kind, Box<dyn Consumer>>);

impl fmt::Debug for Consumers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Consumers {
    /// Lets `consumer` deal with packets of `kind`.
    #[must_use]
    pub fn on(mut self, kind: Kind, consumer: impl Consumer + 'static) -> Self {
        self.0.insert(kind, Box::new(consumer));
        self
    }

    /// Gives a packet to its consumer.
    pub fn take(&mut self, packet: &Handed<'_>, now: Duration, out: &mut Vec<Action>) -> Fate {
        match self.0.get_mut(&packet.kind) {
            Some(consumer) => consumer.take(packet, now, out),
            None => NO_CONSUMER,
        }
    }

    /// True while one of them waits for something that may happen at any time.
    #[must_use]
    pub fn are_waiting(&self) -> bool {
        self.0.values().any(|consumer| consumer.is_waiting())
    }

    /// Lets all of them do what is overdue.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        for consumer in self.0.values_mut() {
            consumer.tick(now, out);
        }
    }
}
