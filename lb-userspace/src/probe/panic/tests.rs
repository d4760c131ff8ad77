use super::*;

const SECOND: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(2);

struct Scene {
    zero: Instant,
    members: Vec<PanicMember>,
    tracker: PanicTracker,
}

impl Scene {
    /// Backends by the tenth of a second at which they went down; `None` = up.
    fn new(down_at: &[Option<u64>]) -> Self {
        let zero = Instant::now();
        let members = down_at
            .iter()
            .zip(1..)
            .map(|(at, host)| PanicMember {
                endpoint: ([192, 0, 2, host], 5060).into(),
                state: if at.is_some() { State::Down } else { State::Up },
                since: zero + Duration::from_millis(at.unwrap_or(0) * 100),
                refused: false,
                answering: false,
                failing_since: at.map(|at| zero + Duration::from_millis(at * 100)),
                answered: None,
            })
            .collect();
        Self { zero, members, tracker: PanicTracker::default() }
    }

    fn keeps_at(&mut self, after: Duration) -> bool {
        self.tracker.observe(self.zero + after, INTERVAL, &self.members)
    }
}

#[test]
fn all_down_within_one_interval_keeps_the_table_for_thirty_seconds() {
    let mut scene = Scene::new(&[Some(0), Some(7), Some(20)]);
    assert!(scene.keeps_at(2 * SECOND));
    let deadline = scene.zero + 32 * SECOND;
    assert_eq!(scene.tracker.deadline(), Some(deadline));
    assert!(scene.keeps_at(Duration::from_millis(31_999)));
    assert!(!scene.keeps_at(32 * SECOND));
    assert_eq!(scene.tracker.deadline(), None);
    assert!(!scene.keeps_at(33 * SECOND));
}

#[test]
fn no_panic_while_one_is_up_or_when_they_died_apart_or_when_there_is_only_one() {
    let rows: [(&[Option<u64>], bool); 6] = [
        (&[Some(0), None], false),
        (&[Some(0), Some(21)], false),
        (&[Some(0), Some(20)], true),
        (&[Some(0), Some(1), Some(22)], false),
        (&[Some(0)], false),
        (&[], false),
    ];
    for (down_at, keeps) in rows {
        let mut scene = Scene::new(down_at);
        assert_eq!(scene.keeps_at(3 * SECOND), keeps, "{down_at:?}");
    }
}

#[test]
fn a_refused_port_proves_the_path() {
    let mut scene = Scene::new(&[Some(0), Some(1)]);
    scene.members[1].refused = true;
    assert!(!scene.keeps_at(SECOND));

    // Also while suspicious.
    let mut scene = Scene::new(&[Some(0), Some(1)]);
    assert!(scene.keeps_at(SECOND));
    scene.members[0].refused = true;
    assert!(!scene.keeps_at(2 * SECOND));
}

#[test]
fn a_success_ends_the_suspicion_for_good() {
    let mut scene = Scene::new(&[Some(0), Some(1)]);
    assert!(scene.keeps_at(SECOND));
    scene.members[0].answering = true;
    assert!(!scene.keeps_at(2 * SECOND));
    scene.members[0].answering = false;
    assert!(!scene.keeps_at(3 * SECOND), "the same outage is not suspected twice");
}

#[test]
fn a_recovery_makes_the_next_outage_suspicious_again() {
    let mut scene = Scene::new(&[Some(0), Some(1)]);
    assert!(scene.keeps_at(SECOND));
    assert!(!scene.keeps_at(60 * SECOND));
    for member in &mut scene.members {
        member.state = State::Up;
        member.since = scene.zero + 70 * SECOND;
    }
    assert!(!scene.keeps_at(70 * SECOND));
    for member in &mut scene.members {
        member.state = State::Down;
        member.since = scene.zero + 80 * SECOND;
    }
    assert!(scene.keeps_at(80 * SECOND));
    assert_eq!(scene.tracker.deadline(), Some(scene.zero + 110 * SECOND));
}

#[test]
fn backends_that_were_never_up_have_no_say() {
    let mut scene = Scene::new(&[Some(0), Some(1), Some(0)]);
    scene.members[2].state = State::Unknown;
    assert!(scene.keeps_at(SECOND));
    let mut scene = Scene::new(&[Some(0), Some(0)]);
    scene.members[0].state = State::Unknown;
    assert!(!scene.keeps_at(SECOND), "only one is known");
}

#[test]
fn an_outage_found_too_late_is_obeyed_at_once() {
    // A restarted controller adopts backends that are down for long.
    let mut scene = Scene::new(&[Some(0), Some(1)]);
    assert!(!scene.keeps_at(40 * SECOND));
}

/// Three backends of which the first goes down at once.
fn first_of_three() -> Scene {
    let mut scene = Scene::new(&[Some(0), None, None]);
    for member in &mut scene.members[1..] {
        member.answered = scene.zero.checked_sub(SECOND);
    }
    scene
}

#[test]
fn the_first_of_all_is_not_obeyed_before_another_one_answers() {
    let mut scene = first_of_three();
    assert!(scene.keeps_at(Duration::ZERO));
    assert_eq!(scene.tracker.deadline(), Some(scene.zero + INTERVAL));
    // The others follow: the table was kept all along.
    for n in [1, 2] {
        let member = &mut scene.members[n];
        member.state = State::Down;
        member.since = scene.zero + SECOND;
        member.failing_since = Some(member.since);
        assert!(scene.keeps_at(SECOND), "{n}");
    }
    assert_eq!(scene.tracker.deadline(), Some(scene.zero + 31 * SECOND));
}

#[test]
fn a_backend_that_dies_alone_is_obeyed_as_soon_as_another_one_answers() {
    let mut scene = first_of_three();
    assert!(scene.keeps_at(Duration::ZERO));
    scene.members[1].answered = Some(scene.zero);
    assert!(!scene.keeps_at(SECOND / 10));
    assert_eq!(scene.tracker.deadline(), None);
    // What was obeyed is not taken back, though nothing answers afterwards.
    scene.members[1].answered = None;
    assert!(!scene.keeps_at(SECOND / 5));

    // If the answer is there when it goes down, at once.
    let mut scene = first_of_three();
    scene.members[2].answered = Some(scene.zero);
    assert!(!scene.keeps_at(Duration::ZERO));
}

#[test]
fn doubt_ends_after_an_interval_or_by_a_refused_port() {
    let mut scene = first_of_three();
    assert!(scene.keeps_at(Duration::from_millis(1_999)));
    assert!(!scene.keeps_at(INTERVAL));

    let mut scene = first_of_three();
    scene.members[0].refused = true;
    assert!(!scene.keeps_at(Duration::ZERO));

    // Down since before this controller was there.
    let mut scene = first_of_three();
    scene.members[0].failing_since = None;
    assert!(!scene.keeps_at(Duration::ZERO));
}
