//! Whether to believe that every backend of a service has died at once.
//!
//! When all of them stop answering within one probe interval, the likelier cause is the path from
//! here to them, and an empty table would turn a lost probe path into lost calls. So the last table
//! is kept for [`SUSPICION`]; then the finding is obeyed. No suspicion if a backend's host itself
//! reported the port closed, or if any probe succeeds meanwhile: then the path works.
//!
//! Pure, one tracker for each service with `panic: keep`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Health, State};

/// How long the last table is kept after the last backend went down.
pub const SUSPICION: Duration = Duration::from_secs(30);

/// What the tracker needs to know of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanicMember {
    pub endpoint: SocketAddr,
    pub state: State,
    pub since: Instant,
    /// [`Health::refused`].
    pub refused: bool,
    /// The last probe succeeded, though `rise` is not reached yet.
    pub answering: bool,
}

impl PanicMember {
    #[must_use]
    pub fn new(endpoint: SocketAddr, health: &Health) -> Self {
        Self {
            endpoint,
            state: health.state(),
            since: health.since(),
            refused: health.refused(),
            answering: health.consecutive_good() > 0,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct PanicTracker {
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Not everything is down.
    #[default]
    Calm,
    /// Everything went down at once; the last table is kept until then.
    Suspicious(Instant),
    /// Everything is down and that is believed, until something is up again.
    Convinced,
}

impl PanicTracker {
    /// Whether to keep the service's last table instead of obeying the health of its backends.
    ///
    /// To be called with all probed backends of the service whenever the health of one of them has
    /// changed or answered again, and at [`PanicTracker::deadline`]. `interval` is the longest probe
    /// interval among them. A backend with `health: off` is always up: its service never panics.
    /// Backends that were never up ([`State::Unknown`]) have no say.
    #[must_use]
    pub fn observe(&mut self, now: Instant, interval: Duration, backends: &[PanicMember]) -> bool {
        let known = || backends.iter().filter(|b| b.state != State::Unknown);
        let path_works = known().any(|b| b.refused || b.answering);
        self.phase = match (known().all(|b| b.state == State::Down), self.phase) {
            (false, _) => Phase::Calm,
            (true, Phase::Convinced) => Phase::Convinced,
            (true, Phase::Suspicious(until)) if now < until && !path_works => self.phase,
            (true, Phase::Suspicious(_)) => Phase::Convinced,
            (true, Phase::Calm) => {
                let first = known().map(|b| b.since).min();
                let last = known().map(|b| b.since).max();
                match (first, last) {
                    (Some(first), Some(last))
                        if known().count() >= 2
                            && last.duration_since(first) <= interval
                            && now < last + SUSPICION
                            && !path_works =>
                    {
                        Phase::Suspicious(last + SUSPICION)
                    }
                    (Some(_), Some(_)) => Phase::Convinced,
                    // No backend is known: nothing was up, there is no table to keep.
                    (None, _) | (_, None) => Phase::Calm,
                }
            }
        };
        match self.phase {
            Phase::Suspicious(_) => true,
            Phase::Calm | Phase::Convinced => false,
        }
    }

    /// When [`PanicTracker::observe`] is due though no health has changed.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Suspicious(until) => Some(until),
            Phase::Calm | Phase::Convinced => None,
        }
    }
}

#[cfg(test)]
mod tests;
