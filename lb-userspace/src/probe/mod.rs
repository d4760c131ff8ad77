//! probes → health.
//!
//! [`Prober`] asks every endpoint by SIP over UDP whether it lives and sends one [`ProbeEvent`] for
//! each probe to the controller, which owns a [`Health`] for each endpoint and a [`PanicTracker`]
//! for each service. What an answer means ([`judge`]), when the next probe is due
//! ([`schedule::Schedule`]) and when an endpoint changes sides ([`Health::observe`]) are pure.

mod endpoint;
pub mod health;
pub mod options;
pub mod panic;
pub mod schedule;
mod scheduler;
mod transport;

pub use health::{Busy, Health, Judgement, Reason, Standing, Start, State, Transition, judge};
pub use options::is_supported_method;
pub use panic::{PanicMember, PanicTracker};
pub use scheduler::{Prober, ProberError};
pub use transport::Sources;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How one probe ended. The controller records its metrics from these and feeds them to
/// [`Health::observe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeEvent {
    pub endpoint: SocketAddr,
    /// When it ended (CLOCK_MONOTONIC).
    pub at: Instant,
    pub result: ProbeResult,
    /// From sending until `at`; of a probe that timed out, its timeout; zero if it was never sent.
    pub duration: Duration,
    /// The probe failed, but one sent after it has succeeded already. It counts in metrics and no
    /// longer says anything about health.
    pub superseded: bool,
}

/// What came back, before the endpoint's `expect` judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// A well-formed SIP answer. `retry_after` is its Retry-After header (RFC 3261 §20.33), at most
    /// [`options::MAX_RETRY_AFTER`].
    Answered { status: u16, retry_after: Option<Duration> },
    /// Nothing within the timeout.
    Timeout,
    /// ICMP port unreachable: the host lives, nothing listens on the port.
    PortUnreachable,
    /// Another fatal ICMP error: prohibited, protocol unreachable.
    Unreachable,
    /// An answer that is not SIP, or not an answer to what was asked.
    Malformed,
    /// The probe could not be sent: no socket, no route, no permission.
    SendError,
}
