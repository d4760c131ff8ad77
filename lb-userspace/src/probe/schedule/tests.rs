use proptest::prelude::*;

use super::*;
use crate::{
    config::model::{Expect, Initial},
    probe::{Health, ProbeEvent, Start, State},
};

const OK: ProbeResult = ProbeResult::Answered { status: 200, retry_after: None };

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn check() -> HealthCheck {
    HealthCheck {
        method: "OPTIONS".into(),
        interval: ms(2000),
        fast_interval: ms(500),
        timeout: ms(1000),
        rise: 2,
        fall: 3,
        expect: Expect::Any,
        initial: Initial::Up,
    }
}

fn id(number: u64) -> ProbeId {
    ProbeId { branch: number, call: number, tag: 0 }
}

/// A schedule with its clock, in milliseconds after the start.
struct Desk {
    zero: Instant,
    schedule: Schedule,
    sent: u64,
}

impl Desk {
    fn new(check: HealthCheck) -> Self {
        let zero = Instant::now();
        Self { zero, schedule: Schedule::new(check, zero, 0.0), sent: 0 }
    }

    /// Whose last `rise` probes were answered, the last one at 0 ms.
    fn settled(check: HealthCheck) -> Self {
        let mut desk = Self::new(check);
        let rise = desk.schedule.check.rise;
        for _ in 0..rise {
            desk.send_at(0);
            desk.answer_at(0, desk.sent);
        }
        desk
    }

    fn at(&self, at: u64) -> Instant {
        self.zero + ms(at)
    }

    fn next(&self) -> u64 {
        u64::try_from(self.schedule.next_probe().duration_since(self.zero).as_millis())
            .expect("a test is short")
    }

    fn send_at(&mut self, at: u64) -> u64 {
        self.sent += 1;
        let now = self.at(at);
        self.schedule.sent(id(self.sent), now);
        self.sent
    }

    fn answer_at(&mut self, at: u64, number: u64) -> Option<Settled> {
        let now = self.at(at);
        self.schedule.answered(id(number), OK, now)
    }

    fn expired_at(&mut self, at: u64) -> Vec<Settled> {
        let now = self.at(at);
        std::iter::from_fn(|| self.schedule.expire(now)).collect()
    }
}

#[test]
fn jitter_moves_only_the_first_probe() {
    let now = Instant::now();
    for (interval, jitter, first) in
        [(2000, 0.0, 0), (2000, 0.5, 1000), (200, 0.5, 100), (60_000, 0.5, 1000)]
    {
        let check = HealthCheck { interval: ms(interval), ..check() };
        let schedule = Schedule::new(check, now, jitter);
        assert_eq!(schedule.next_probe(), now + ms(first));
    }
    let mut schedule = Schedule::new(check(), now, 0.3);
    let mut due = schedule.next_probe();
    for number in 0..10 {
        schedule.sent(id(number), due);
        assert!(schedule.answered(id(number), OK, due + ms(3)).is_some());
        let next = schedule.next_probe();
        // Two successes at the fast pace, then exactly the interval.
        assert_eq!(next - due, if number < 1 { ms(500) } else { ms(2000) });
        due = next;
    }
}

#[test]
fn an_unanswered_probe_is_followed_at_the_fast_interval_without_waiting_for_its_timeout() {
    let mut desk = Desk::settled(check());
    assert_eq!(desk.next(), 2000);
    desk.send_at(2000);
    assert_eq!(desk.next(), 2500);
    desk.send_at(2500);
    assert_eq!(desk.next(), 3000);
    assert_eq!(desk.schedule.next_timeout(), Some(desk.at(3000)));
    desk.send_at(3000);
    let settled = desk.expired_at(3000);
    assert_eq!(settled.len(), 1);
    assert_eq!((settled[0].result, settled[0].duration), (ProbeResult::Timeout, ms(1000)));
    assert_eq!(desk.next(), 3500);
}

#[test]
fn a_late_answer_inside_its_own_timeout_counts() {
    let mut desk = Desk::settled(check());
    let first = desk.send_at(2000);
    let second = desk.send_at(2500);
    let settled = desk.answer_at(2900, first).expect("not timed out");
    assert_eq!((settled.result, settled.duration, settled.superseded), (OK, ms(900), false));
    assert_eq!(desk.answer_at(2950, first), None, "answered twice");
    assert!(desk.answer_at(2950, second).is_some());
    assert_eq!(desk.next(), 4500, "answered again: the interval counts from the last probe");
    let third = desk.send_at(4500);
    assert_eq!(desk.expired_at(5500).len(), 1);
    assert_eq!(desk.answer_at(5501, third), None, "after its timeout");
}

#[test]
fn a_failure_does_not_count_after_the_success_of_a_later_probe() {
    let mut desk = Desk::settled(HealthCheck { fall: 1, ..check() });
    desk.send_at(2000);
    let second = desk.send_at(2500);
    assert!(desk.answer_at(2510, second).is_some_and(|s| !s.superseded));
    let settled = desk.expired_at(3000);
    assert_eq!(settled.len(), 1);
    assert!(settled[0].superseded);
    assert_eq!(desk.next(), 4500, "the lost probe is forgiven");
    desk.send_at(4500);
    assert!(desk.expired_at(5500).iter().all(|s| !s.superseded));
}

#[test]
fn failing_probes_keep_the_fast_pace_until_fall_and_recovering_ones_until_rise() {
    let mut desk = Desk::settled(check());
    for (at, next) in [(2000, 2500), (2500, 3000), (3000, 5000), (5000, 7000)] {
        desk.send_at(at);
        let now = desk.at(at);
        let settled = desk.schedule.refused(ProbeResult::PortUnreachable, now);
        assert!(settled.is_some_and(|s| s.result == ProbeResult::PortUnreachable));
        assert_eq!(desk.next(), next);
    }
    for (at, next) in [(7000, 7500), (7500, 9500)] {
        let number = desk.send_at(at);
        assert!(desk.answer_at(at + 1, number).is_some());
        assert_eq!(desk.next(), next);
    }
}

#[test]
fn a_probe_that_cannot_be_sent_is_a_failure_with_a_pace() {
    let mut desk = Desk::settled(check());
    for (at, next) in [(2000, 2500), (2500, 3000), (3000, 5000)] {
        let now = desk.at(at);
        let settled = desk.schedule.send_failed(now);
        assert_eq!((settled.result, settled.duration), (ProbeResult::SendError, Duration::ZERO));
        assert_eq!(desk.next(), next);
    }
}

#[test]
fn probe_now_keeps_the_minimum_distance() {
    let mut desk = Desk::settled(check());
    let now = desk.at(100);
    desk.schedule.probe_now(now);
    assert_eq!(desk.next(), 500);
    let now = desk.at(1200);
    desk.schedule.probe_now(now);
    assert_eq!(desk.next(), 1200);
    let number = desk.send_at(1200);
    assert!(desk.answer_at(1201, number).is_some());
    assert_eq!(desk.next(), 3200, "one wish, one probe");
    // It never delays a probe that is due earlier.
    let now = desk.at(1300);
    desk.send_at(1250);
    desk.schedule.probe_now(now);
    assert_eq!(desk.next(), 1750);
}

#[test]
fn an_icmp_error_about_a_settled_probe_asks_for_another() {
    let mut desk = Desk::settled(check());
    let now = desk.at(700);
    assert_eq!(desk.schedule.refused(ProbeResult::PortUnreachable, now), None);
    assert_eq!(desk.next(), 700);
}

#[test]
fn a_provisional_answer_counts_if_no_final_one_follows() {
    let trying = ProbeResult::Answered { status: 100, retry_after: None };
    let busy = ProbeResult::Answered { status: 503, retry_after: Some(ms(5000)) };
    let mut desk = Desk::settled(check());
    let first = desk.send_at(2000);
    let second = desk.send_at(2500);
    let now = desk.at(2600);
    assert_eq!(desk.schedule.answered(id(first), trying, now), None);
    assert_eq!(desk.schedule.answered(id(second), trying, now), None);
    let settled = desk.schedule.answered(id(second), busy, now);
    assert!(settled.is_some_and(|s| s.result == busy));
    assert_eq!(desk.expired_at(3000)[0].result, trying);
}

#[test]
fn garbage_settles_nothing_but_is_the_reason_of_the_timeout() {
    let mut desk = Desk::settled(check());
    let answered = desk.send_at(2000);
    desk.send_at(2500);
    desk.schedule.garbage();
    desk.send_at(2900);
    assert!(desk.answer_at(2950, answered).is_some_and(|s| s.result == OK));
    let results: Vec<_> = desk.expired_at(4000).iter().map(|s| s.result).collect();
    assert_eq!(results, [ProbeResult::Malformed, ProbeResult::Timeout]);
}

#[test]
fn new_settings_apply_to_the_next_probe() {
    let mut desk = Desk::settled(check());
    desk.schedule.set_check(HealthCheck { interval: ms(700), rise: 1, ..check() });
    assert_eq!(desk.next(), 500, "the success is judged anew under the new rise");
    let number = desk.send_at(500);
    assert!(desk.answer_at(501, number).is_some());
    assert_eq!(desk.next(), 1200);
}

#[test]
fn zero_distances_do_not_spin() {
    let zero = Duration::ZERO;
    let mut desk = Desk::new(HealthCheck { interval: zero, fast_interval: zero, ..check() });
    desk.send_at(0);
    assert_eq!(desk.next(), 1);
    let now = desk.at(0);
    desk.schedule.probe_now(now);
    assert_eq!(desk.next(), 1);
}

/// An endpoint that answers until it dies, seen through a network that delays and loses.
#[derive(Clone, Debug)]
struct Backend {
    death: Duration,
    /// Of each probe in turn, repeated; `None` = the answer is lost.
    delays: Vec<Option<Duration>>,
    /// What the dead one's host does about each probe in turn, repeated: reports the closed port
    /// after this time, or nothing.
    refusals: Vec<Option<Duration>>,
}

/// Runs probes and health on a simulated clock. Returns when the health went down, if it was up when
/// the backend died, and the distances between probes.
fn simulate(check: &HealthCheck, start: Start, backend: &Backend) -> Outcome {
    let zero = Instant::now();
    let death = zero + backend.death;
    let mut schedule = Schedule::new(check.clone(), zero, 0.7);
    let mut health = Health::new(start, check.initial, zero);
    let mut arrivals: Vec<(Instant, Option<ProbeId>)> = Vec::new();
    let mut outcome = Outcome::default();
    let mut last_sent = None;
    let mut number = 0;
    // Long after any detection.
    let end = death + check.worst_detection() * 2 + ms(1);
    loop {
        let arrival = arrivals.iter().map(|&(at, _)| at).min();
        let now = arrival.map_or(schedule.next_wake(), |at| at.min(schedule.next_wake()));
        if now > end {
            return outcome;
        }
        if now >= death && outcome.up_at_death.is_none() {
            outcome.up_at_death = Some(health.state() == State::Up);
        }
        let mut settled = Vec::new();
        arrivals.retain(|&(at, id)| {
            let due = at <= now;
            if due {
                settled.extend(match id {
                    Some(id) => schedule.answered(id, OK, now),
                    None => schedule.refused(ProbeResult::PortUnreachable, now),
                });
            }
            !due
        });
        settled.extend(std::iter::from_fn(|| schedule.expire(now)));
        if schedule.next_probe() <= now {
            number += 1;
            schedule.sent(id(number), now);
            outcome.distances.extend(last_sent.map(|last| now - last));
            last_sent = Some(now);
            let turn = usize::try_from(number).expect("few probes");
            let answer = backend.delays[turn % backend.delays.len()].map(|delay| now + delay);
            // Nothing arrives after the death.
            if let Some(at) = answer.filter(|&at| at < death) {
                arrivals.push((at, Some(id(number))));
            } else if now >= death {
                let refusal = backend.refusals[turn % backend.refusals.len()];
                arrivals.extend(refusal.map(|delay| (now + delay, None)));
            }
        }
        for Settled { result, duration, superseded } in settled {
            let endpoint = ([192, 0, 2, 1], 5060).into();
            let event = ProbeEvent { endpoint, at: now, result, duration, superseded };
            if let Some(change) = health.observe(&event, check)
                && change.to.state == State::Down
            {
                if now >= death {
                    outcome.detected.get_or_insert(now - death);
                } else {
                    outcome.false_alarms += 1;
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct Outcome {
    up_at_death: Option<bool>,
    /// After the death.
    detected: Option<Duration>,
    false_alarms: usize,
    distances: Vec<Duration>,
}

/// At most 50 probes overlap: more would only make the test slow.
fn settings() -> impl Strategy<Value = HealthCheck> {
    (1..=5000_u64, 0.02..=1.0, 0.0..=1.0, 1..=5_u32, 1..=6_u32, any::<bool>()).prop_map(
        |(interval, fast, timeout, rise, fall, up)| HealthCheck {
            interval: ms(interval),
            fast_interval: ms(interval).mul_f64(fast).max(MIN_DISTANCE),
            timeout: ms(interval).mul_f64(timeout).max(MIN_DISTANCE),
            rise,
            fall,
            initial: if up { Initial::Up } else { Initial::Down },
            ..check()
        },
    )
}

fn starts() -> impl Strategy<Value = Start> {
    prop_oneof![
        Just(Start::FirstEver),
        Just(Start::AddedByReload),
        Just(Start::Adopted(State::Up)),
        Just(Start::Adopted(State::Down)),
    ]
}

/// Delays as fractions of the timeout, up to beyond it; some answers are lost.
fn delays() -> impl Strategy<Value = Vec<Option<f64>>> {
    prop::collection::vec(prop::option::weighted(0.8, 0.0..1.2), 1..12)
}

/// Delays below the timeout; no answer is lost.
fn timely_delays() -> impl Strategy<Value = Vec<Option<f64>>> {
    prop::collection::vec((0.0..0.999).prop_map(Some), 1..12)
}

fn times(fractions: &[Option<f64>], unit: Duration) -> Vec<Option<Duration>> {
    fractions.iter().map(|delay| delay.map(|d| unit.mul_f64(d))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn no_death_goes_unnoticed_longer_than_the_worst_detection(
        check in settings(),
        start in starts(),
        answers in delays(),
        refusals in delays(),
        death in 0.0..20.0,
    ) {
        let backend = Backend {
            death: check.interval.mul_f64(death),
            delays: times(&answers, check.timeout),
            refusals: times(&refusals, check.timeout),
        };
        let outcome = simulate(&check, start, &backend);
        // A first probe that is not sent yet comes within the interval too.
        if outcome.up_at_death == Some(true) {
            let detected = outcome.detected;
            prop_assert!(
                detected.is_some_and(|d| d <= check.worst_detection()),
                "{detected:?} > {:?}", check.worst_detection()
            );
        }
        // Nor do probes come closer than the fast interval, whatever happens.
        prop_assert!(outcome.distances.iter().all(|&d| d >= check.fast_interval));
    }

    #[test]
    fn an_endpoint_that_answers_every_probe_in_time_is_never_down(
        check in settings(),
        answers in timely_delays(),
        death in 1.0..10.0,
    ) {
        let backend = Backend {
            death: check.interval.mul_f64(death),
            delays: times(&answers, check.timeout),
            refusals: vec![None],
        };
        for start in [Start::FirstEver, Start::Adopted(State::Up), Start::AddedByReload] {
            prop_assert_eq!(simulate(&check, start, &backend).false_alarms, 0);
        }
    }
}

/// The bound is no idle promise: dying right after an answer takes exactly that long.
#[test]
fn the_worst_detection_is_reached() {
    for fall in 1..=6 {
        let check = HealthCheck { fall, ..check() };
        // The first probe is sent at 1400 ms (0.7 of the interval), the second, after one fast
        // interval, at 1900 ms; each is answered at once, and the third never.
        let death = ms(1900) + Duration::from_nanos(1);
        let backend = Backend { death, delays: vec![Some(ms(0))], refusals: vec![None] };
        let outcome = simulate(&check, Start::FirstEver, &backend);
        let expected = check.worst_detection() - Duration::from_nanos(1);
        assert_eq!((outcome.up_at_death, outcome.detected), (Some(true), Some(expected)));
    }
}
