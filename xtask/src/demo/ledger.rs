//! Counts calls by what was heard on the wire of the caller and of each backend.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use lb_tests::{sipp::percentile, tap::Heard};

/// Every call by its Call-ID, and where it arrived.
#[derive(Debug)]
pub(super) struct Ledger {
    calls: HashMap<String, Call>,
    /// Of each backend: the first INVITE of each call that arrived there, in order.
    arrivals: Vec<Vec<Instant>>,
    seen: Vec<HashSet<String>>,
}

#[derive(Debug)]
struct Call {
    placed: Instant,
    /// A 1xx to the INVITE reached the caller, which does not send it again.
    provisional: bool,
    /// The 200 to the INVITE reached the caller.
    answered: Option<Instant>,
}

/// Set-up of calls that were placed within some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Setups {
    pub(super) placed: usize,
    pub(super) answered: usize,
    /// Answered by a 1xx and nothing more.
    pub(super) abandoned: usize,
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
    pub(super) longest: Option<Duration>,
}

impl Ledger {
    pub(super) fn new(backends: usize) -> Self {
        Self {
            calls: HashMap::new(),
            arrivals: vec![Vec::new(); backends],
            seen: vec![HashSet::new(); backends],
        }
    }

    /// A message on the caller's wire.
    pub(super) fn at_caller(&mut self, heard: Heard) {
        if heard.outgoing && heard.is_request("INVITE") {
            // Retransmissions keep the time of the first.
            let call = Call { placed: heard.at, provisional: false, answered: None };
            self.calls.entry(heard.call_id).or_insert(call);
        } else if heard.cseq_method == "INVITE"
            && let Some(status) = heard.status()
            && let Some(call) = self.calls.get_mut(&heard.call_id)
        {
            if status < 200 {
                call.provisional = true;
            } else if status == 200 {
                call.answered.get_or_insert(heard.at);
            }
        }
    }

    /// A message on a backend's wire.
    pub(super) fn at_backend(&mut self, backend: usize, heard: Heard) {
        if heard.outgoing || !heard.is_request("INVITE") {
            return;
        }
        let (at, new) = (heard.at, self.seen[backend].insert(heard.call_id));
        if new {
            self.arrivals[backend].push(at);
        }
    }

    /// Calls that arrived at a backend at all.
    pub(super) fn arrived(&self, backend: usize) -> usize {
        self.arrivals[backend].len()
    }

    /// Calls that arrived at a backend from one time to another.
    pub(super) fn arrived_between(&self, backend: usize, from: Instant, to: Instant) -> usize {
        self.arrivals[backend].iter().filter(|at| (from..to).contains(*at)).count()
    }

    pub(super) fn last_arrival(&self, backend: usize) -> Option<Instant> {
        self.arrivals[backend].last().copied()
    }

    pub(super) fn first_arrival_after(&self, backend: usize, since: Instant) -> Option<Instant> {
        self.arrivals[backend].iter().find(|at| **at > since).copied()
    }

    /// Set-up of calls that were placed from one time to another.
    pub(super) fn setups(&self, from: Instant, to: Instant) -> Setups {
        let calls = self.calls.values().filter(|call| (from..to).contains(&call.placed));
        let (mut placed, mut abandoned) = (0, 0);
        let mut times = Vec::new();
        for call in calls {
            placed += 1;
            abandoned += usize::from(call.provisional && call.answered.is_none());
            times.extend(call.answered.map(|at| at.duration_since(call.placed)));
        }
        times.sort_unstable();
        Setups {
            placed,
            answered: times.len(),
            abandoned,
            p50: percentile(&times, 50),
            p99: percentile(&times, 99),
            longest: times.last().copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(at: Instant, outgoing: bool, start_line: &str, call_id: &str) -> Heard {
        let address = "192.0.2.1:5060".parse().unwrap();
        Heard {
            at,
            outgoing,
            source: address,
            destination: address,
            start_line: start_line.to_owned(),
            call_id: call_id.to_owned(),
            cseq_method: "INVITE".to_owned(),
        }
    }

    const INVITE: &str = "INVITE sip:a SIP/2.0";

    #[test]
    fn a_call_counts_once_from_its_first_invite_to_its_first_answer() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut ledger = Ledger::new(1);
        for (time, outgoing, line) in [
            (0, true, INVITE),
            (500, true, INVITE),
            (501, false, "SIP/2.0 180 Ringing"),
            (510, false, "SIP/2.0 200 OK"),
            (900, false, "SIP/2.0 200 OK"),
        ] {
            ledger.at_caller(heard(at(time), outgoing, line, "a"));
        }
        ledger.at_caller(heard(at(20), true, INVITE, "b"));
        ledger.at_caller(heard(at(21), false, "SIP/2.0 100 Trying", "b"));
        let setups = ledger.setups(start, at(1_000));
        assert_eq!((setups.placed, setups.answered, setups.abandoned), (2, 1, 1));
        assert_eq!(setups.longest, Some(Duration::from_millis(510)));
        assert_eq!(ledger.setups(at(1), at(1_000)).answered, 0);
    }

    #[test]
    fn a_backend_is_charged_once_for_each_call_that_reaches_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut ledger = Ledger::new(2);
        ledger.at_backend(0, heard(at(1), false, INVITE, "a"));
        ledger.at_backend(0, heard(at(5), false, INVITE, "a"));
        ledger.at_backend(0, heard(at(6), true, INVITE, "x"));
        ledger.at_backend(0, heard(at(7), false, "BYE sip:a SIP/2.0", "y"));
        ledger.at_backend(0, heard(at(9), false, INVITE, "b"));
        ledger.at_backend(1, heard(at(8), false, INVITE, "a"));
        assert_eq!((ledger.arrived(0), ledger.arrived(1)), (2, 1));
        assert_eq!(ledger.last_arrival(0), Some(at(9)));
        assert_eq!(ledger.first_arrival_after(0, at(1)), Some(at(9)));
        assert_eq!(ledger.first_arrival_after(1, at(8)), None);
        assert_eq!(ledger.arrived_between(0, at(0), at(9)), 1);
    }
}
