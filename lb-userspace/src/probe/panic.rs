//! Whether to believe that every backend of a service has died at once.
//!
//! When all of them stop answering within one probe interval, the likelier cause is the path from
//! here to them, and an empty table would turn a lost probe path into lost calls. So the last table
//! is kept for [`SUSPICION`]; then the finding is obeyed. No suspicion if a backend's host itself
//! reported the port closed, or if any probe succeeds meanwhile: then the path works.
//!
//! They do not go down at the same instant. So the first that does is not obeyed before another one
//! has answered since it began to fail, for at most an interval: else the table would shrink, and
//! calls would move, before all of them are down. The controller asks the others at the first
//! failure, so that a backend that dies alone is obeyed without delay.
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
    /// [`Health::failing_since`].
    pub failing_since: Option<Instant>,
    /// [`Health::answered`].
    pub answered: Option<Instant>,
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
            failing_since: health.failing_since(),
            answered: health.answered(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct PanicTracker {
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing is down.
    #[default]
    Calm,
    /// Something went down and nothing has answered since; the table is kept until then.
    Doubtful(Instant),
    /// Something is down, and that is believed.
    Obeying,
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
            (false, phase) => some_down(phase, now, interval, backends),
            (true, Phase::Convinced) => Phase::Convinced,
            (true, Phase::Suspicious(until)) if now < until && !path_works => self.phase,
            (true, Phase::Suspicious(_)) => Phase::Convinced,
            (true, Phase::Calm | Phase::Doubtful(_) | Phase::Obeying) => {
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
            Phase::Doubtful(_) | Phase::Suspicious(_) => true,
            Phase::Calm | Phase::Obeying | Phase::Convinced => false,
        }
    }

    /// When [`PanicTracker::observe`] is due though no health has changed.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Doubtful(until) | Phase::Suspicious(until) => Some(until),
            Phase::Calm | Phase::Obeying | Phase::Convinced => None,
        }
    }
}

/// The phase while some backends are up.
fn some_down(phase: Phase, now: Instant, interval: Duration, backends: &[PanicMember]) -> Phase {
    let down = || backends.iter().filter(|b| b.state == State::Down);
    let Some(last) = down().map(|b| b.since).max() else { return Phase::Calm };
    let failing = down().map(|b| b.failing_since).min().flatten();
    let is_silent = failing.is_some_and(|failing| {
        backends.iter().all(|b| b.answered.is_none_or(|answered| answered < failing))
    });
    let until = last + interval;
    match phase {
        // Once obeyed, a table does not come back before something else does.
        Phase::Calm | Phase::Doubtful(_)
            if is_silent && now < until && !down().any(|b| b.refused) =>
        {
            Phase::Doubtful(until)
        }
        Phase::Calm
        | Phase::Doubtful(_)
        | Phase::Obeying
        | Phase::Suspicious(_)
        | Phase::Convinced => Phase::Obeying,
    }
}

#[cfg(test)]
mod tests;
