use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn check() -> HealthCheck {
    HealthCheck {
        method: "OPTIONS".into(),
        interval: 2 * SECOND,
        fast_interval: SECOND / 2,
        timeout: SECOND,
        rise: 2,
        fall: 3,
        expect: Expect::Any,
        initial: Initial::Up,
    }
}

/// A health with its own clock: one second passes between any two results.
struct Patient {
    health: Health,
    check: HealthCheck,
    start: Instant,
    now: Instant,
}

impl Patient {
    fn new(start: Start, initial: Initial) -> Self {
        let now = Instant::now();
        let check = HealthCheck { initial, ..check() };
        Self { health: Health::new(start, initial, now), check, start: now, now }
    }

    fn adopted(state: State) -> Self {
        Self::new(Start::Adopted(state), Initial::Up)
    }

    fn expecting(mut self, expect: Expect) -> Self {
        self.check.expect = expect;
        self
    }

    fn see(&mut self, result: ProbeResult) -> Option<Transition> {
        self.see_superseded(result, false)
    }

    fn see_superseded(&mut self, result: ProbeResult, superseded: bool) -> Option<Transition> {
        self.now += SECOND;
        let event = ProbeEvent {
            endpoint: ([192, 0, 2, 1], 5060).into(),
            at: self.now,
            result,
            duration: Duration::ZERO,
            superseded,
        };
        self.health.observe(&event, &self.check)
    }

    /// Seconds after the start.
    fn since(&self) -> u64 {
        self.health.since().duration_since(self.start).as_secs()
    }

    fn busy(&self) -> bool {
        self.health.standing(self.now).busy
    }
}

fn status(status: u16) -> ProbeResult {
    ProbeResult::Answered { status, retry_after: None }
}

fn busy_for(seconds: u64) -> ProbeResult {
    ProbeResult::Answered { status: 503, retry_after: Some(Duration::from_secs(seconds)) }
}

/// `g` = 200, `t` = timeout, `r` = port-unreachable; states after each: `U`p, `D`own, `?` unknown.
#[test]
fn states_follow_probes_from_every_start() {
    let first_up = (Start::FirstEver, Initial::Up);
    let first_down = (Start::FirstEver, Initial::Down);
    let added = (Start::AddedByReload, Initial::Up);
    let adopted = |state| (Start::Adopted(state), Initial::Down);
    let rows = [
        // start, its state, probes, states
        (first_up, 'U', "t", "D"),
        (first_up, 'U', "r", "D"),
        (first_up, 'U', "tgg", "DDU"),
        (first_up, 'U', "gttgttt", "UUUUUUD"),
        (first_up, 'U', "gtttgtgg", "UUUDDDDU"),
        (first_down, '?', "g", "U"),
        (first_down, '?', "tttg", "DDDU"),
        (first_down, '?', "gttt", "UUUD"),
        (added, '?', "g", "U"),
        (added, '?', "tg", "DU"),
        (added, '?', "tgtttgg", "DUUUDDU"),
        (adopted(State::Up), 'U', "ttgttt", "UUUUUD"),
        (adopted(State::Up), 'U', "rrr", "UUD"),
        (adopted(State::Down), 'D', "gtgg", "DDDU"),
        (adopted(State::Down), 'D', "ggttt", "DUUUD"),
        (adopted(State::Unknown), '?', "g", "U"),
        (adopted(State::Unknown), '?', "tg", "DU"),
    ];
    let letter = |state| match state {
        State::Unknown => '?',
        State::Up => 'U',
        State::Down => 'D',
    };
    for ((start, initial), before, probes, states) in rows {
        let mut patient = Patient::new(start, initial);
        assert_eq!(letter(patient.health.state()), before, "{start:?} {initial:?}");
        let mut seen = String::new();
        let mut state = patient.health.state();
        for probe in probes.chars() {
            let transition = patient.see(match probe {
                'g' => status(200),
                't' => ProbeResult::Timeout,
                'r' => ProbeResult::PortUnreachable,
                other => panic!("no probe {other}"),
            });
            let after = patient.health.state();
            // A transition is told exactly when the state changes, and tells the truth.
            assert_eq!(transition.map(|t| (t.from.state, t.to.state)), {
                (state != after).then_some((state, after))
            });
            assert!(transition.is_none_or(|t| t.at == patient.now));
            state = after;
            seen.push(letter(after));
        }
        assert_eq!(seen, states, "{start:?} {initial:?} {probes}");
    }
}

#[test]
fn since_and_reason_are_of_the_state_and_last_reason_of_the_last_probe() {
    let mut patient = Patient::new(Start::FirstEver, Initial::Up);
    assert_eq!((patient.since(), patient.health.reason()), (0, Reason::Initial));
    patient.see(status(200));
    patient.see(status(404));
    assert_eq!((patient.since(), patient.health.reason()), (0, Reason::Answer(200)));
    assert_eq!(patient.health.last_reason(), Reason::Answer(404));
    patient.see(ProbeResult::Timeout);
    patient.see(ProbeResult::Timeout);
    assert_eq!((patient.since(), patient.health.reason()), (0, Reason::Answer(200)));
    patient.see(ProbeResult::Malformed);
    assert_eq!((patient.since(), patient.health.reason()), (5, Reason::MalformedAnswer));
    patient.see(ProbeResult::Timeout);
    assert_eq!((patient.since(), patient.health.reason()), (5, Reason::MalformedAnswer));
    assert_eq!(patient.health.last_reason(), Reason::Timeout);
    assert_eq!(patient.health.consecutive_bad(), 4);
}

#[test]
fn reasons_have_stable_words() {
    let rows = [
        (Reason::Initial, "initial", "initial"),
        (Reason::Added, "added", "added"),
        (Reason::Adopted, "adopted", "adopted"),
        (Reason::Answer(200), "answer", "answer-200"),
        (Reason::Busy, "busy", "busy"),
        (Reason::Timeout, "timeout", "timeout"),
        (Reason::PortUnreachable, "port-unreachable", "port-unreachable"),
        (Reason::Unreachable, "unreachable", "unreachable"),
        (Reason::MalformedAnswer, "malformed-answer", "malformed-answer"),
        (Reason::UnexpectedStatus(486), "unexpected-status", "unexpected-status-486"),
        (Reason::SendError, "send-error", "send-error"),
    ];
    for (reason, label, text) in rows {
        assert_eq!((reason.label(), reason.to_string().as_str()), (label, text));
    }
    // Every failure that a probe can bring has its metric from the start.
    let strict = Expect::Codes(vec![(200, 299)]);
    let failures = [
        ProbeResult::Timeout,
        ProbeResult::PortUnreachable,
        ProbeResult::Unreachable,
        ProbeResult::Malformed,
        status(486),
        ProbeResult::SendError,
    ];
    let labels = failures.map(|result| judge(&result, &strict).reason().label());
    assert_eq!(labels, Reason::FAILURES);
}

#[test]
fn any_well_formed_answer_is_alive_unless_codes_are_listed() {
    let any = Expect::Any;
    let strict = Expect::Codes(vec![(200, 299), (404, 404)]);
    for code in [100, 199, 200, 301, 404, 486, 500, 502, 504, 603, 699] {
        assert_eq!(judge(&status(code), &any), Judgement::Good(Reason::Answer(code)));
    }
    for code in [200, 299, 404] {
        assert_eq!(judge(&status(code), &strict), Judgement::Good(Reason::Answer(code)));
    }
    for code in [199, 300, 403, 405, 486, 503] {
        let bad = Judgement::Bad(Reason::UnexpectedStatus(code));
        assert_eq!(judge(&status(code), &strict), bad);
    }
    assert_eq!(judge(&status(503), &any), Judgement::Busy(None));
    // A 503 that is expected is good, and no drain.
    let listed = Expect::Codes(vec![(503, 503)]);
    assert_eq!(judge(&busy_for(60), &listed), Judgement::Good(Reason::Answer(503)));
}

#[test]
fn a_strict_endpoint_goes_down_by_other_codes() {
    let mut patient = Patient::adopted(State::Up).expecting(Expect::Codes(vec![(200, 200)]));
    assert_eq!(patient.see(status(486)), None);
    assert_eq!(patient.see(busy_for(60)), None);
    let down = patient.see(status(486)).expect("third failure");
    assert_eq!((down.to.state, down.reason), (State::Down, Reason::UnexpectedStatus(486)));
    assert!(!patient.busy());
}

#[test]
fn a_503_drains_until_its_retry_after_and_the_endpoint_stays_up() {
    let mut patient = Patient::adopted(State::Up);
    let up = Standing { state: State::Up, busy: false };
    let draining = Standing { state: State::Up, busy: true };
    let transition = patient.see(busy_for(10)).expect("drain begins");
    assert_eq!((transition.from, transition.to, transition.reason), (up, draining, Reason::Busy));
    let until = patient.now + 10 * SECOND;
    assert_eq!(patient.health.deadline(), Some(until));

    let before = until - Duration::from_nanos(1);
    assert_eq!(patient.health.busy(before), Some(Busy::Until(until)));
    assert_eq!(patient.health.expire(before), None);
    let over = patient.health.expire(until).expect("drain ends");
    assert_eq!((over.from, over.to), (draining, up));
    assert_eq!(patient.health.expire(until), None);
    assert_eq!(patient.health.deadline(), None);
}

#[test]
fn the_newest_503_says_how_long() {
    let mut patient = Patient::adopted(State::Up);
    assert!(patient.see(busy_for(60)).is_some());
    assert_eq!(patient.see(busy_for(5)), None, "still busy");
    assert_eq!(patient.health.deadline(), Some(patient.now + 5 * SECOND));
    assert_eq!(patient.see(status(503)), None, "still busy");
    assert_eq!(patient.health.busy(patient.now), Some(Busy::UntilNextAnswer));
    assert_eq!(patient.health.deadline(), None);
    assert!(patient.see(busy_for(0)).is_some_and(|t| !t.to.busy), "Retry-After: 0 is no drain");
}

#[test]
fn any_other_answer_ends_a_drain_and_silence_does_not() {
    for retry_after in [None, Some(60 * SECOND)] {
        let mut patient = Patient::adopted(State::Up);
        patient.see(ProbeResult::Answered { status: 503, retry_after });
        assert_eq!(patient.see(ProbeResult::Timeout), None);
        assert!(patient.busy());
        let over = patient.see(status(404)).expect("drain ends");
        assert!(over.from.busy && !over.to.busy);
        assert_eq!(over.to.state, State::Up);
    }
}

#[test]
fn a_503_is_a_sign_of_life() {
    let mut patient = Patient::adopted(State::Down);
    assert!(patient.see(status(503)).is_some_and(|t| t.to.state == State::Down && t.to.busy));
    let up = patient.see(status(503)).expect("second success");
    assert_eq!((up.from.state, up.to.state, up.to.busy), (State::Down, State::Up, true));

    let mut patient = Patient::adopted(State::Up);
    for _ in 0..2 {
        patient.see(ProbeResult::Timeout);
        patient.see(ProbeResult::Timeout);
        patient.see(status(503));
    }
    assert_eq!(patient.health.state(), State::Up);
}

#[test]
fn a_drain_that_ran_out_unnoticed_is_part_of_the_next_transition() {
    let mut patient = Patient::adopted(State::Up);
    patient.see(busy_for(1));
    patient.now += 5 * SECOND;
    let over = patient.see(ProbeResult::Timeout).expect("the tables still drain it");
    assert!(over.from.busy && !over.to.busy);
}

#[test]
fn a_superseded_failure_changes_nothing() {
    let mut patient = Patient::adopted(State::Up);
    patient.check.fall = 1;
    assert_eq!(patient.see_superseded(ProbeResult::Timeout, true), None);
    assert_eq!(patient.health.consecutive_bad(), 0);
    assert!(patient.see(ProbeResult::Timeout).is_some());
}

#[test]
fn a_refused_port_is_remembered_until_the_next_success() {
    let mut patient = Patient::adopted(State::Up);
    for result in [ProbeResult::Timeout, ProbeResult::PortUnreachable, ProbeResult::Timeout] {
        patient.see(result);
    }
    assert_eq!(patient.health.state(), State::Down);
    assert!(patient.health.refused());
    patient.see(status(200));
    assert!(!patient.health.refused());
    patient.see(ProbeResult::Unreachable);
    assert!(!patient.health.refused());
}
