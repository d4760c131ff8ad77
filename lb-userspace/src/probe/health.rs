//! Whether an endpoint is alive: the state machine of one endpoint.
//!
//! Pure: it is told what a probe brought and when. The health of an endpoint is the prober's
//! finding; what the operator wants (ready, drain, maint) is kept elsewhere.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::{ProbeEvent, ProbeResult};
use crate::config::model::{Expect, HealthCheck, Initial};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No probe has ended yet and the endpoint is not presumed up. Gets no traffic.
    Unknown,
    Up,
    Down,
}

impl State {
    /// The word in `status` and in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// How an endpoint came under this controller's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing was running before. `initial: up`: up at once, and one failed probe is down until
    /// a success was seen. `initial: down`: not used until one success.
    FirstEver,
    /// New in a running configuration: not used until one success.
    AddedByReload,
    /// As the previous controller left it, until fall or rise decide.
    Adopted(State),
}

/// Why an endpoint is in its state, or what its last probe brought. A closed set: [`Reason::label`]
/// is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Presumed by `initial`, not probed yet.
    Initial,
    /// Added by a reload, not probed yet.
    Added,
    /// Taken over from the previous controller, not probed yet.
    Adopted,
    /// The answer with this status was a good one.
    Answer(u16),
    /// 503: alive, wants no new dialogs.
    Busy,
    Timeout,
    PortUnreachable,
    Unreachable,
    MalformedAnswer,
    /// The answer with this status is not in `expect`.
    UnexpectedStatus(u16),
    SendError,
}

impl Reason {
    /// Kebab-case and stable, without the status code: the `reason` label of metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Added => "added",
            Self::Adopted => "adopted",
            Self::Answer(_) => "answer",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::PortUnreachable => "port-unreachable",
            Self::Unreachable => "unreachable",
            Self::MalformedAnswer => "malformed-answer",
            Self::UnexpectedStatus(_) => "unexpected-status",
            Self::SendError => "send-error",
        }
    }

    /// The labels that a failed probe can have, for metrics that exist before the first failure.
    pub const FAILURES: [&'static str; 6] = [
        "timeout",
        "port-unreachable",
        "unreachable",
        "malformed-answer",
        "unexpected-status",
        "send-error",
    ];
}

/// The label, with the status code where there is one: `unexpected-status-486`, `answer-200`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(status) | Self::UnexpectedStatus(status) => {
                write!(f, "{}-{status}", self.label())
            }
            Self::Initial
            | Self::Added
            | Self::Adopted
            | Self::Busy
            | Self::Timeout
            | Self::PortUnreachable
            | Self::Unreachable
            | Self::MalformedAnswer
            | Self::SendError => f.write_str(self.label()),
        }
    }
}

/// What a probe's result means under the endpoint's `expect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    Good(Reason),
    /// Alive, and wants no new dialogs for this long; `None` = until its next other answer.
    Busy(Option<Duration>),
    Bad(Reason),
}

impl Judgement {
    /// Whether it counts as a success.
    #[must_use]
    pub fn is_alive(self) -> bool {
        match self {
            Self::Good(_) | Self::Busy(_) => true,
            Self::Bad(_) => false,
        }
    }

    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Good(reason) | Self::Bad(reason) => reason,
            Self::Busy(_) => Reason::Busy,
        }
    }
}

/// Only `expect: any` reads a 503 as "drain"; under a list of codes it is a code like any other.
#[must_use]
pub fn judge(result: &ProbeResult, expect: &Expect) -> Judgement {
    match *result {
        ProbeResult::Answered { status, retry_after } => match expect {
            Expect::Any if status == 503 => Judgement::Busy(retry_after),
            Expect::Any => Judgement::Good(Reason::Answer(status)),
            Expect::Codes(ranges)
                if ranges.iter().any(|&(low, high)| (low..=high).contains(&status)) =>
            {
                Judgement::Good(Reason::Answer(status))
            }
            Expect::Codes(_) => Judgement::Bad(Reason::UnexpectedStatus(status)),
        },
        ProbeResult::Timeout => Judgement::Bad(Reason::Timeout),
        ProbeResult::PortUnreachable => Judgement::Bad(Reason::PortUnreachable),
        ProbeResult::Unreachable => Judgement::Bad(Reason::Unreachable),
        ProbeResult::Malformed => Judgement::Bad(Reason::MalformedAnswer),
        ProbeResult::SendError => Judgement::Bad(Reason::SendError),
    }
}

/// How long an endpoint that answered 503 gets no new dialogs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    Until(Instant),
    /// The 503 had no Retry-After.
    UntilNextAnswer,
}

/// What the tables depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub state: State,
    /// No new dialogs; live ones stay.
    pub busy: bool,
}

/// A change that the tables must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: Standing,
    pub to: Standing,
    pub at: Instant,
    pub reason: Reason,
}

/// The health of one endpoint. Settings are passed in with every event, so that a reload may change
/// them at any time.
#[derive(Clone, Debug)]
pub struct Health {
    state: State,
    since: Instant,
    /// Why `state`.
    reason: Reason,
    /// What the last probe brought.
    last_reason: Reason,
    /// Successes since the last failure, and failures since the last success.
    good: u32,
    bad: u32,
    /// When the first of the `bad` ended, and the latest success.
    failing_since: Option<Instant>,
    answered: Option<Instant>,
    busy: Option<Busy>,
    /// A port-unreachable is among the `bad`.
    refused: bool,
    /// Until the first success, one failure means down.
    first_failure_decides: bool,
    /// Until the first success, one success means up.
    first_success_decides: bool,
}

impl Health {
    /// `since`: now, or, if adopted, since when the state has lasted.
    #[must_use]
    pub fn new(start: Start, initial: Initial, since: Instant) -> Self {
        let (state, reason, first_failure_decides, first_success_decides) = match (start, initial) {
            (Start::FirstEver, Initial::Up) => (State::Up, Reason::Initial, true, false),
            (Start::FirstEver, Initial::Down) => (State::Unknown, Reason::Initial, true, true),
            (Start::AddedByReload, _) => (State::Unknown, Reason::Added, true, true),
            (Start::Adopted(State::Unknown), _) => (State::Unknown, Reason::Adopted, true, true),
            (Start::Adopted(state @ (State::Up | State::Down)), _) => {
                (state, Reason::Adopted, false, false)
            }
        };
        Self {
            state,
            since,
            reason,
            last_reason: reason,
            good: 0,
            bad: 0,
            failing_since: None,
            answered: None,
            busy: None,
            refused: false,
            first_failure_decides,
            first_success_decides,
        }
    }

    /// It had answered 503 to the previous controller's probes: no new dialogs until the next answer.
    pub fn presume_busy(&mut self) {
        self.busy = Some(Busy::UntilNextAnswer);
    }

    /// Only [`State::Up`] gets traffic.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Why the state is what it is, since [`Health::since`].
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What the most recent probe brought; `status` shows it.
    #[must_use]
    pub fn last_reason(&self) -> Reason {
        self.last_reason
    }

    /// Consecutive successes; 0 after a failure.
    #[must_use]
    pub fn consecutive_good(&self) -> u32 {
        self.good
    }

    /// Consecutive failures; 0 after a success.
    #[must_use]
    pub fn consecutive_bad(&self) -> u32 {
        self.bad
    }

    /// When the first of the consecutive failures ended; `None` after a success.
    #[must_use]
    pub fn failing_since(&self) -> Option<Instant> {
        self.failing_since
    }

    /// When the latest success came.
    #[must_use]
    pub fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// Whether the endpoint's host itself said, since the last success, that nothing listens there.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.refused
    }

    /// `busy_until` as it stands at `now`.
    #[must_use]
    pub fn busy(&self, now: Instant) -> Option<Busy> {
        match self.busy {
            Some(Busy::Until(until)) if until <= now => None,
            other => other,
        }
    }

    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        Standing { state: self.state, busy: self.busy(now).is_some() }
    }

    /// When [`Health::expire`] has something to say; `None` = nothing is pending.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.busy {
            Some(Busy::Until(until)) => Some(until),
            Some(Busy::UntilNextAnswer) | None => None,
        }
    }

    /// Ends a Retry-After that is over.
    pub fn expire(&mut self, now: Instant) -> Option<Transition> {
        let expired = self.busy.is_some() && self.busy(now).is_none();
        if !expired {
            return None;
        }
        self.busy = None;
        let to = self.standing(now);
        let from = Standing { busy: true, ..to };
        Some(Transition { from, to, at: now, reason: self.last_reason })
    }

    /// Takes in how a probe ended. `None` = nothing that a table depends on has changed.
    pub fn observe(&mut self, event: &ProbeEvent, check: &HealthCheck) -> Option<Transition> {
        if event.superseded {
            return None;
        }
        let now = event.at;
        // An expired Retry-After that nobody collected yet is part of this change.
        let from = Standing { state: self.state, busy: self.busy.is_some() };
        let judgement = judge(&event.result, &check.expect);
        self.last_reason = judgement.reason();
        match judgement {
            Judgement::Good(_) => {
                self.busy = None;
                self.succeed(now, check.rise);
            }
            Judgement::Busy(retry_after) => {
                self.busy = Some(match retry_after {
                    Some(after) => Busy::Until(now + after),
                    None => Busy::UntilNextAnswer,
                });
                self.succeed(now, check.rise);
            }
            Judgement::Bad(reason) => self.fail(now, reason, check.fall),
        }
        self.busy = self.busy(now);
        let to = self.standing(now);
        (from != to).then_some(Transition { from, to, at: now, reason: self.last_reason })
    }

    fn succeed(&mut self, now: Instant, rise: u32) {
        let needed = if self.first_success_decides { 1 } else { rise };
        self.first_success_decides = false;
        self.first_failure_decides = false;
        self.refused = false;
        self.bad = 0;
        self.failing_since = None;
        self.answered = Some(now);
        self.good = self.good.saturating_add(1);
        match self.state {
            // The presumption has become knowledge; the state lasts since it began.
            State::Up if self.is_presumed() => self.reason = self.last_reason,
            State::Up => {}
            State::Unknown | State::Down if self.good >= needed => self.enter(State::Up, now),
            State::Unknown | State::Down => {}
        }
    }

    fn fail(&mut self, now: Instant, reason: Reason, fall: u32) {
        let needed = if self.first_failure_decides { 1 } else { fall };
        self.good = 0;
        self.bad = self.bad.saturating_add(1);
        self.failing_since.get_or_insert(now);
        self.refused |= reason == Reason::PortUnreachable;
        match self.state {
            State::Unknown | State::Up if self.bad >= needed => self.enter(State::Down, now),
            State::Unknown | State::Up | State::Down => {}
        }
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
        self.reason = self.last_reason;
    }

    fn is_presumed(&self) -> bool {
        match self.reason {
            Reason::Initial | Reason::Added | Reason::Adopted => true,
            Reason::Answer(_)
            | Reason::Busy
            | Reason::Timeout
            | Reason::PortUnreachable
            | Reason::Unreachable
            | Reason::MalformedAnswer
            | Reason::UnexpectedStatus(_)
            | Reason::SendError => false,
        }
    }
}

#[cfg(test)]
mod tests;
