//! When the probes of one endpoint are due, and which of them are still unanswered.
//!
//! Pure: the clock is passed in. The rules:
//!
//! - A probe follows the previous one after `interval` if that was answered well, else after
//!   `fast_interval`; it does not wait for the timeout of the previous one, so probes overlap.
//! - The fast pace holds while it is undecided: until `fall` failures in a row on the way down, until
//!   `rise` successes in a row on the way up. So a dead endpoint costs no more than a live one, and a
//!   returning one is back after at most interval + (rise − 1) × fast_interval and an answer.
//! - A probe is settled by its own answer, however many were sent after it, or by its own timeout.
//! - A failure does not count once a probe sent later has succeeded.
//! - [`Schedule::probe_now`] pulls the next probe forward, but no closer than `fast_interval` to the
//!   previous: what asks for it (an ICMP error) can be forged.
//!
//! From the death of an endpoint that is up until `fall` failures are counted it takes at most
//! [`HealthCheck::worst_detection`]: the first probe after the death is sent within `interval`, the
//! others follow at `fast_interval`, the last one fails within `timeout`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{ProbeResult, judge, options::ProbeId};
use crate::config::model::HealthCheck;

/// The first probes of all endpoints are spread over this, or over their interval if shorter.
pub const MAX_JITTER: Duration = Duration::from_secs(2);

/// A `fast_interval` of zero must not mean infinitely many probes.
const MIN_DISTANCE: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
pub struct Schedule {
    check: HealthCheck,
    /// When the first probe is due; later ones follow from `last`.
    first: Instant,
    /// Asked for by [`Schedule::probe_now`].
    pulled: Option<Instant>,
    last: Option<Last>,
    /// In the order of sending.
    outstanding: VecDeque<Outstanding>,
    /// Number of the next probe, and of the latest that succeeded.
    next: u64,
    newest_good: Option<u64>,
    good: u32,
    bad: u32,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    sent: Instant,
    number: u64,
    good: bool,
}

#[derive(Clone, Debug)]
struct Outstanding {
    id: ProbeId,
    number: u64,
    sent: Instant,
    /// What to report if nothing better comes before the timeout.
    so_far: ProbeResult,
}

/// A probe that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub result: ProbeResult,
    pub duration: Duration,
    pub superseded: bool,
}

impl Schedule {
    /// `jitter` in 0.0..1.0 places the first probe.
    #[must_use]
    pub fn new(check: HealthCheck, now: Instant, jitter: f64) -> Self {
        let first = now + check.interval.min(MAX_JITTER).mul_f64(jitter.clamp(0.0, 1.0));
        Self {
            check,
            first,
            pulled: None,
            last: None,
            outstanding: VecDeque::new(),
            next: 0,
            newest_good: None,
            good: 0,
            bad: 0,
        }
    }

    #[must_use]
    pub fn check(&self) -> &HealthCheck {
        &self.check
    }

    /// New settings; probes under way go on.
    pub fn set_check(&mut self, check: HealthCheck) {
        self.check = check;
        // Counted under the old `rise` and `fall`: go on at the fast pace until they are reached.
        self.good = 0;
        self.bad = 0;
    }

    /// When the next probe is to be sent.
    #[must_use]
    pub fn next_probe(&self) -> Instant {
        let regular = self.last.map_or(self.first, |last| {
            let decided =
                if last.good { self.good >= self.check.rise } else { self.bad >= self.check.fall };
            let distance = if decided { self.check.interval } else { self.check.fast_interval };
            last.sent + distance.max(MIN_DISTANCE)
        });
        self.pulled.map_or(regular, |pulled| pulled.min(regular))
    }

    /// When something is to be done next: a probe, or a timeout.
    #[must_use]
    pub fn next_wake(&self) -> Instant {
        let probe = self.next_probe();
        self.outstanding.front().map_or(probe, |o| probe.min(o.sent + self.check.timeout))
    }

    /// No timeout runs out before this; `None` = no probe is unanswered.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.outstanding.front().map(|o| o.sent + self.check.timeout)
    }

    /// A probe is wanted as soon as the minimum distance allows.
    pub fn probe_now(&mut self, now: Instant) {
        let earliest =
            self.last.map_or(now, |last| last.sent + self.check.fast_interval.max(MIN_DISTANCE));
        self.pulled = Some(now.max(earliest));
    }

    /// Records that a probe was sent.
    pub fn sent(&mut self, id: ProbeId, now: Instant) {
        let number = self.start(now);
        let so_far = ProbeResult::Timeout;
        self.outstanding.push_back(Outstanding { id, number, sent: now, so_far });
    }

    /// Records that a probe was due and could not be sent.
    pub fn send_failed(&mut self, now: Instant) -> Settled {
        let number = self.start(now);
        self.settle(number, ProbeResult::SendError, Duration::ZERO)
    }

    fn start(&mut self, now: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        self.pulled = None;
        self.last = Some(Last { sent: now, number, good: false });
        number
    }

    /// The endpoint's answer to probe `id`. `None` = the probe is not settled by it: it is over
    /// already, or the answer is provisional (1xx) and the final one may still come. A provisional
    /// answer counts at the timeout, if nothing else comes.
    pub fn answered(&mut self, id: ProbeId, result: ProbeResult, now: Instant) -> Option<Settled> {
        let position = self.outstanding.iter().position(|o| o.id == id)?;
        let provisional =
            matches!(result, ProbeResult::Answered { status, .. } if (100..200).contains(&status));
        if provisional {
            self.outstanding[position].so_far = result;
            return None;
        }
        let probe = self.outstanding.remove(position)?;
        let duration = now.saturating_duration_since(probe.sent);
        Some(self.settle(probe.number, result, duration))
    }

    /// The id of the unanswered probe whose branch this is.
    #[must_use]
    pub fn find(&self, branch: u64) -> Option<ProbeId> {
        self.outstanding.iter().map(|o| o.id).find(|id| id.branch == branch)
    }

    /// Something came from the endpoint that belongs to no probe and is not SIP. It settles nothing,
    /// but probes that time out are reported as answered by garbage.
    pub fn garbage(&mut self) {
        for probe in &mut self.outstanding {
            if probe.so_far == ProbeResult::Timeout {
                probe.so_far = ProbeResult::Malformed;
            }
        }
    }

    /// An ICMP error came. It says nothing of the probe it is about, so it settles the one sent
    /// first; with none under way it is about a settled one, and asks for a new one.
    pub fn refused(&mut self, result: ProbeResult, now: Instant) -> Option<Settled> {
        match self.outstanding.pop_front() {
            Some(probe) => {
                let duration = now.saturating_duration_since(probe.sent);
                Some(self.settle(probe.number, result, duration))
            }
            None => {
                self.probe_now(now);
                None
            }
        }
    }

    /// The next probe whose timeout has run out; to be called until `None`.
    pub fn expire(&mut self, now: Instant) -> Option<Settled> {
        let timeout = self.check.timeout;
        let probe = self.outstanding.pop_front_if(|o| o.sent + timeout <= now)?;
        Some(self.settle(probe.number, probe.so_far, timeout))
    }

    fn settle(&mut self, number: u64, result: ProbeResult, duration: Duration) -> Settled {
        let good = judge(&result, &self.check.expect).is_alive();
        let superseded = !good && self.newest_good.is_some_and(|newest| newest > number);
        if good {
            self.newest_good = self.newest_good.max(Some(number));
            self.good = self.good.saturating_add(1);
            self.bad = 0;
        } else if !superseded {
            self.bad = self.bad.saturating_add(1);
            self.good = 0;
        }
        if let Some(last) = self.last.as_mut().filter(|last| last.number == number) {
            last.good = good;
        }
        Settled { result, duration, superseded }
    }
}

#[cfg(test)]
mod tests;
