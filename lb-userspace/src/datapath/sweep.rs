//! The sweep of the dialog table: who holds how many dialogs, and clearing what is dead.
//!
//! The datapath writes to the table meanwhile, so an entry is cleared only by a compare-exchange
//! with what was judged, and counts are those of an instant that differs from line to line.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use lb_common::dialog::{Entry, State, WAYS, reluctance};

use super::reline::Now;

/// Lines that a step takes; 3 ms of work if they are full.
pub const STEP_LINES: usize = 16_384;

/// Epochs (of 256 s) after which a call that nobody answers, refuses or retransmits does not count
/// as ringing any more: a proxy gives up after some 3 minutes (RFC 3261 §16.6, timer C).
const RINGING: u32 = 1;

/// Live entries of one binding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// All of them, ended ones included: while there are any, the binding is still needed.
    pub entries: u64,
    /// Answered INVITEs that no BYE has ended: calls.
    pub calls: u64,
    /// INVITEs without a final answer that were heard of within the last `RINGING` epochs.
    pub ringing: u64,
}

/// What a finished sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Bindings with at least one live entry.
    pub bindings: BTreeMap<u16, Holding>,
    /// Live entries by state.
    pub unconfirmed: u64,
    pub ringing: u64,
    pub ended: u64,
    pub confirmed_invite: u64,
    pub confirmed_other: u64,
    /// Places in the table.
    pub capacity: u64,
    pub cleared: Cleared,
}

/// Entries that sweeps have cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Their lifetime was over.
    pub expired: u64,
    /// The same dialog stood in the line twice.
    pub duplicates: u64,
    /// They had no meaning.
    pub invalid: u64,
}

impl Cleared {
    /// Adds what another sweep has cleared.
    pub const fn add(&mut self, more: Self) {
        self.expired += more.expired;
        self.duplicates += more.duplicates;
        self.invalid += more.invalid;
    }
}

impl Census {
    /// Live entries.
    #[must_use]
    pub const fn live(&self) -> u64 {
        self.unconfirmed + self.ringing + self.ended + self.confirmed_invite + self.confirmed_other
    }
}

/// A sweep in progress.
#[derive(Debug, Default)]
pub struct Sweep {
    next_line: usize,
    holdings: Vec<Holding>,
    census: Census,
}

impl Sweep {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sweeps the next `lines` lines of `table`. `service` tells the service of a binding, 0 if
    /// there is no such binding. Returns true when the end was reached.
    pub fn step(
        &mut self,
        table: &[AtomicU64],
        now: Now,
        lines: usize,
        service: impl Fn(u16) -> u16,
    ) -> bool {
        self.step_and_rank(table, now, lines, service, |_entry| None)
    }

    /// The same, and writes into each entry whether its slot names another endpoint now: the datapath
    /// does so only when the dialog speaks. `elsewhere` tells, `None` if it does not know.
    pub fn step_and_rank(
        &mut self,
        table: &[AtomicU64],
        now: Now,
        lines: usize,
        service: impl Fn(u16) -> u16,
        elsewhere: impl Fn(Entry) -> Option<bool>,
    ) -> bool {
        let begin = self.next_line * WAYS;
        let end = (begin + lines * WAYS).min(table.len());
        let (slice, _) = table.get(begin..end).unwrap_or_default().as_chunks::<WAYS>();
        for line in slice {
            self.line(line, now, &service);
            rank(line, &elsewhere);
        }
        self.census.capacity = table.len() as u64;
        self.next_line += lines;
        end == table.len()
    }

    /// The result, once [`Sweep::step`] has returned true.
    #[must_use]
    pub fn finish(self) -> Census {
        let mut census = self.census;
        census.bindings =
            (0..).zip(self.holdings).filter(|(_, holding)| holding.entries > 0).collect();
        census
    }

    fn line(&mut self, line: &[AtomicU64; WAYS], now: Now, service: &impl Fn(u16) -> u16) {
        let mut words = line.each_ref().map(|way| way.load(Ordering::Relaxed));
        for index in 0..WAYS {
            let word = get(&words, index);
            if word == 0 {
                continue;
            }
            let counts = &mut self.census.cleared;
            let cleared = if Entry(word).state().is_none() {
                Some(&mut counts.invalid)
            } else if Entry(word).is_expired(now.epoch, now.lifetime) {
                Some(&mut counts.expired)
            } else if is_lesser_duplicate(&words, index, now, service) {
                Some(&mut counts.duplicates)
            } else {
                None
            };
            // If the datapath wrote to it meanwhile, the next sweep judges it anew.
            if let (Some(count), Some(way)) = (cleared, line.get(index))
                && way.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                *count += 1;
                if let Some(word) = words.get_mut(index) {
                    *word = 0;
                }
            }
        }
        for word in words {
            self.count(Entry(word), now);
        }
    }

    fn count(&mut self, entry: Entry, now: Now) {
        let state = match entry.state() {
            Some(State::Unconfirmed) => &mut self.census.unconfirmed,
            Some(State::Ringing) => &mut self.census.ringing,
            Some(State::Ended) => &mut self.census.ended,
            Some(State::ConfirmedInvite) => &mut self.census.confirmed_invite,
            Some(State::ConfirmedOther) => &mut self.census.confirmed_other,
            None => return,
        };
        *state += 1;
        let binding = usize::from(entry.binding());
        if self.holdings.len() <= binding {
            self.holdings.resize(binding + 1, Holding::default());
        }
        if let Some(holding) = self.holdings.get_mut(binding) {
            holding.entries += 1;
            holding.calls += u64::from(entry.state() == Some(State::ConfirmedInvite));
            let rings =
                entry.state() == Some(State::Ringing) && !entry.is_expired(now.epoch, RINGING);
            holding.ringing += u64::from(rings);
        }
    }
}

/// Writes into the entries of a line whether their slots name another endpoint.
fn rank(line: &[AtomicU64; WAYS], elsewhere: &impl Fn(Entry) -> Option<bool>) {
    for way in line {
        let word = way.load(Ordering::Relaxed);
        let entry = Entry(word);
        if word == 0 || entry.is_ended() {
            continue;
        }
        if let Some(elsewhere) = elsewhere(entry)
            && elsewhere != entry.is_elsewhere()
        {
            // If the datapath wrote to it meanwhile, it knew better.
            let new = entry.with_elsewhere(elsewhere).0;
            let _unchanged = way.compare_exchange(word, new, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

fn get(words: &[u64; WAYS], index: usize) -> u64 {
    words.get(index).copied().unwrap_or(0)
}

/// True if another entry of the line has the same tag for the same service and is given up less
/// willingly (confirmed before unconfirmed, younger before older), or alike and stands before it.
fn is_lesser_duplicate(
    words: &[u64; WAYS],
    index: usize,
    now: Now,
    service: &impl Fn(u16) -> u16,
) -> bool {
    let word = get(words, index);
    let rank = |word| reluctance(word, now.epoch, now.lifetime);
    words.iter().enumerate().any(|(other, &rival)| {
        other != index
            && Entry(rival).has_tag(word)
            && Entry(rival).state().is_some()
            && is_one_service(Entry(rival).binding(), Entry(word).binding(), service)
            && (rank(rival) > rank(word) || (rank(rival) == rank(word) && other < index))
    })
}

/// Two bindings of one service; of an unknown service only if they are the same binding.
fn is_one_service(a: u16, b: u16, service: &impl Fn(u16) -> u16) -> bool {
    a == b || (service(a) != 0 && service(a) == service(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { epoch: 100, lifetime: 43 };

    fn entry(tag: u64, binding: u16, age: u32, state: State) -> u64 {
        Entry::new(tag << 40, binding, NOW.epoch - age, state).0
    }

    fn table(lines: &[&[u64]]) -> Vec<AtomicU64> {
        lines
            .iter()
            .flat_map(|line| {
                assert!(line.len() <= WAYS);
                line.iter().copied().chain([0; WAYS]).take(WAYS)
            })
            .map(AtomicU64::new)
            .collect()
    }

    fn words(table: &[AtomicU64]) -> Vec<u64> {
        table.iter().map(|way| way.load(Ordering::Relaxed)).collect()
    }

    /// Bindings 1–9 belong to service 1, 10–19 to service 2, others to none.
    fn service(binding: u16) -> u16 {
        match binding {
            1..=9 => 1,
            10..=19 => 2,
            _ => 0,
        }
    }

    fn sweep(table: &[AtomicU64]) -> Census {
        let mut sweep = Sweep::new();
        while !sweep.step(table, NOW, 1, service) {}
        sweep.finish()
    }

    #[test]
    fn live_entries_are_counted_by_state_and_binding_and_left_alone() {
        let table = table(&[
            &[entry(1, 1, 0, State::ConfirmedInvite), entry(2, 1, 43, State::Unconfirmed)],
            &[],
            &[entry(3, 11, 5, State::ConfirmedOther), entry(4, 11, 1, State::Ended)],
            &[entry(5, 11, 5, State::ConfirmedInvite)],
        ]);
        let before = words(&table);
        let census = sweep(&table);
        assert_eq!(words(&table), before);
        let holdings = [
            (1, Holding { entries: 2, calls: 1, ringing: 0 }),
            (11, Holding { entries: 3, calls: 1, ringing: 0 }),
        ];
        assert_eq!(census.bindings, holdings.into());
        assert_eq!(
            [census.unconfirmed, census.ended, census.confirmed_invite, census.confirmed_other],
            [1, 1, 2, 1]
        );
        assert_eq!((census.live(), census.capacity), (5, 32));
        assert_eq!(census.cleared, Cleared::default());
    }

    #[test]
    fn calls_ring_until_they_are_old() {
        let table = table(&[&[
            entry(1, 1, 0, State::Ringing),
            entry(2, 1, 1, State::Ringing),
            entry(3, 1, 2, State::Ringing),
        ]]);
        let census = sweep(&table);
        let holding = Holding { entries: 3, calls: 0, ringing: 2 };
        assert_eq!(census.bindings, [(1, holding)].into());
        assert_eq!((census.ringing, census.live()), (3, 3));
    }

    #[test]
    fn expired_and_meaningless_entries_are_cleared_and_not_counted() {
        let live = entry(1, 1, 43, State::ConfirmedInvite);
        let table = table(&[&[
            entry(2, 1, 44, State::ConfirmedInvite),
            live,
            entry(3, 1, 0, State::Ended) & !7,
        ]]);
        let census = sweep(&table);
        let cleared = Cleared { expired: 1, invalid: 1, ..Cleared::default() };
        assert_eq!((census.cleared, census.live()), (cleared, 1));
        assert_eq!(words(&table).iter().filter(|&&w| w != 0).collect::<Vec<_>>(), [&live]);
    }

    #[test]
    fn of_one_dialog_twice_the_confirmed_then_the_younger_stays() {
        let confirmed = entry(1, 2, 9, State::ConfirmedInvite);
        let younger = entry(2, 3, 1, State::Unconfirmed);
        let first = entry(3, 4, 1, State::ConfirmedOther);
        let table = table(&[
            &[entry(1, 1, 0, State::Unconfirmed), confirmed],
            &[younger, entry(2, 3, 2, State::Unconfirmed)],
            &[first, entry(3, 4, 1, State::ConfirmedOther), entry(3, 5, 1, State::ConfirmedOther)],
        ]);
        let census = sweep(&table);
        assert_eq!(census.cleared.duplicates, 4);
        let left: Vec<_> = words(&table).into_iter().filter(|&word| word != 0).collect();
        assert_eq!(left, [confirmed, younger, first]);
    }

    #[test]
    fn one_tag_may_stand_once_for_each_service() {
        let table = table(&[&[
            entry(1, 1, 0, State::ConfirmedInvite),
            entry(1, 10, 0, State::ConfirmedInvite),
            entry(1, 100, 0, State::ConfirmedInvite),
            entry(1, 101, 0, State::ConfirmedInvite),
        ]]);
        let census = sweep(&table);
        assert_eq!((census.cleared.duplicates, census.live()), (0, 4));
    }

    #[test]
    fn a_sweep_in_steps_of_any_length_finds_the_same() {
        let lines: Vec<_> =
            (1..=10).map(|tag| [entry(tag, 1, 0, State::ConfirmedInvite)]).collect();
        let lines: Vec<&[u64]> = lines.iter().map(<[u64; 1]>::as_slice).collect();
        let table = table(&lines);
        for step in [1, 3, 10, 1000] {
            let mut sweep = Sweep::new();
            let mut steps = 1;
            while !sweep.step(&table, NOW, step, service) {
                steps += 1;
            }
            assert_eq!(steps, 10usize.div_ceil(step), "step {step}");
            assert_eq!(sweep.finish().confirmed_invite, 10, "step {step}");
        }
    }

    #[test]
    fn entries_learn_whether_their_slots_name_another_endpoint() {
        let live = |tag, state| Entry(entry(tag, 1, 3, state));
        let (stays, goes) = (live(1, State::ConfirmedInvite), live(2, State::Unconfirmed));
        let comes = live(3, State::ConfirmedOther).with_elsewhere(true);
        let unknown = live(4, State::ConfirmedInvite).with_elsewhere(true);
        let ended = live(5, State::Ended);
        let table = table(&[&[stays.0, goes.0, comes.0, unknown.0, ended.0]]);
        let elsewhere = |entry: Entry| match entry.0 >> 40 {
            1 | 3 => Some(false),
            2 | 5 => Some(true),
            _ => None,
        };
        assert!(Sweep::new().step_and_rank(&table, NOW, 1, |_| 1, elsewhere));
        let goes = goes.with_elsewhere(true).0;
        let comes = comes.with_elsewhere(false).0;
        assert_eq!(words(&table)[..5], [stays.0, goes, comes, unknown.0, ended.0]);
    }
}
