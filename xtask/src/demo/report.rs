//! What came of the demonstration, and whether it is what was promised.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, bail};
use lb_tests::sipp::Outcome;

use super::{ledger::Setups, screen::milliseconds};

/// A change, and how long it took to work.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) what: String,
    pub(super) took: Duration,
    /// Bound by the worst detection.
    pub(super) failover: bool,
}

/// A backend's part of the new calls while all were up.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) name: &'static str,
    pub(super) software: &'static str,
    pub(super) priority: u16,
    pub(super) weight: u16,
    /// By weight, within the tier in use.
    pub(super) expected: f64,
    /// Before the failures, and after the recovery.
    pub(super) measured: [f64; 2],
    /// New calls in all.
    pub(super) calls: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) backends: Vec<Share>,
    pub(super) total: Setups,
    pub(super) steady: Setups,
    pub(super) events: Vec<Event>,
    pub(super) outcome: Outcome,
    pub(super) worst_detection: Duration,
    /// `eth0 native`, ….
    pub(super) attached: String,
}

/// Largest part of calls that may fail: those whose backend died between its 180 and its 200.
const FAILED: f64 = 0.005;
/// A share is right within this, relative to the weight's: about four standard deviations of the
/// smallest share at the lowest rate.
const TOLERANCE: f64 = 0.35;
/// On top of the worst detection: one round of polling and a machine that does much else.
const GRACE: Duration = Duration::from_secs(1);

impl Report {
    pub(super) fn text(&self) -> String {
        let mut text = format!("\nsip-lb demo: summary ({})\n\n", self.attached);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  backend          prio weight   by weight   measured   after recovery     calls"
        );
        for share in &self.backends {
            let _ = writeln!(
                text,
                "  {:<5} {:<10} {:>4} {:>6}   {:>7.1} %  {:>7.1} %  {:>13.1} %  {:>8}",
                share.name,
                share.software,
                share.priority,
                share.weight,
                share.expected * 100.0,
                share.measured[0] * 100.0,
                share.measured[1] * 100.0,
                share.calls,
            );
        }
        let Outcome { placed, successful, failed, cut, setups, retransmissions, .. } = self.outcome;
        let _ = writeln!(
            text,
            "\n  calls placed {placed}, set up {setups}, ended well {successful}, failed {failed}"
        );
        let _ = writeln!(
            text,
            "  {cut} had been set up on a backend that then died; the caller's BYE got a 481"
        );
        for (reason, count) in &self.outcome.failures {
            let _ = writeln!(text, "  failed by {reason}: {count}");
        }
        if self.total.abandoned > 0 {
            let _ = writeln!(
                text,
                "  {} got a 1xx from a backend that then died: such an INVITE is not sent again",
                self.total.abandoned
            );
        }
        let _ = writeln!(
            text,
            "\n  set-up time: p50 {}, p99 {}; through all failures p99 {}, longest {}\n  \
             (callers retransmitted {retransmissions} times: RFC 3261's timer is 500 ms)\n",
            milliseconds(self.steady.p50),
            milliseconds(self.steady.p99),
            milliseconds(self.total.p99),
            milliseconds(self.total.longest),
        );
        for Event { what, took, .. } in &self.events {
            let _ = writeln!(text, "  {what:<60} {:>6.2} s", took.as_secs_f64());
        }
        let _ = writeln!(
            text,
            "  {:<60} {:>6.2} s",
            "(worst detection by the configuration)",
            self.worst_detection.as_secs_f64()
        );
        text
    }

    /// An error that names everything that is not as it should be.
    pub(super) fn verdict(&self) -> Result<()> {
        let mut wrong = Vec::new();
        let Outcome { placed, setups, failed, .. } = self.outcome;
        if placed == 0 || setups == 0 {
            wrong.push("no call went through".to_owned());
        }
        if failed as f64 > placed as f64 * FAILED {
            wrong.push(format!("{failed} of {placed} calls failed"));
        }
        for share in &self.backends {
            for measured in share.measured {
                if (measured - share.expected).abs() > share.expected * TOLERANCE {
                    wrong.push(format!(
                        "{} got {:.1} % of the calls, by weight {:.1} %",
                        share.name,
                        measured * 100.0,
                        share.expected * 100.0
                    ));
                }
            }
        }
        for event in self.events.iter().filter(|event| event.failover) {
            let limit = self.worst_detection + GRACE;
            if event.took > limit {
                wrong.push(format!("{}: took more than {limit:?}", event.what));
            }
        }
        if wrong.is_empty() {
            println!("\n  All as it should be.");
            return Ok(());
        }
        bail!("not as it should be:\n  {}", wrong.join("\n  "))
    }
}
