//! Moving dialog entries into a table with another number of lines.
//!
//! An entry bears bits 27–63 of its hash; bits 0–23 pick the line, and a table with 2ⁿ lines shows
//! only the lowest n of these. So:
//!
//! - Into fewer or as many lines: the new line is known. Where two old lines meet in one, the
//!   entries that are given up least willingly stay.
//! - Into more lines: the bits between are not known, so a copy goes to every line that they might
//!   name. The right one is found and refreshed by the dialog's next message. The others fit no
//!   hash (a dialog of the same 37-bit tag would have to come to that very line), are never
//!   refreshed and expire. The load of each line stays what it was. Until the copies expire, a sweep
//!   counts such a dialog once for each.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::dialog::{Entry, WAYS, reluctance};

/// What became of the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relined {
    /// Live entries that were taken over.
    pub moved: u64,
    /// Lines that each of them was written to; 1 unless the table grew.
    pub copies: u64,
    /// Live entries left behind because their binding is not there any more.
    pub without_binding: u64,
    /// Live entries left behind because their line is full of ones that matter more.
    pub overflowed: u64,
}

/// The time by which entries are judged.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Current epoch.
    pub epoch: u32,
    /// Lifetime in epochs.
    pub lifetime: u32,
}

/// Copies the live entries of `old` whose binding passes `keep` into `new`. Both are whole tables:
/// a power of two of lines.
pub fn copy(
    old: &[u64],
    new: &[AtomicU64],
    now: Now,
    mut keep: impl FnMut(u16) -> bool,
) -> Relined {
    let (old_lines, new_lines) = (old.len() / WAYS, new.len() / WAYS);
    let mut outcome = Relined { copies: copies(old_lines, new_lines) as u64, ..Relined::default() };
    for (index, &word) in old.iter().enumerate() {
        let entry = Entry(word);
        if word == 0 || entry.is_expired(now.epoch, now.lifetime) {
            continue;
        }
        if !keep(entry.binding()) {
            outcome.without_binding += 1;
            continue;
        }
        let mut placed = false;
        for line in targets(index / WAYS, old_lines, new_lines) {
            placed |= ways(new, line).is_some_and(|line| place(line, word, now));
        }
        if placed {
            outcome.moved += 1;
        } else {
            outcome.overflowed += 1;
        }
    }
    outcome
}

/// Brings `new` up to date with what changed in `old` since `before` was read from it, while the
/// datapath already writes to `new`. Returns the number of entries carried over.
pub fn catch_up(old: &[AtomicU64], before: &[u64], new: &[AtomicU64], now: Now) -> u64 {
    let (old_lines, new_lines) = (old.len() / WAYS, new.len() / WAYS);
    let mut carried = 0;
    for (index, (word, &before)) in old.iter().zip(before).enumerate() {
        let word = word.load(Ordering::Relaxed);
        if word == before || word == 0 {
            continue;
        }
        for line in targets(index / WAYS, old_lines, new_lines) {
            let Some(line) = ways(new, line) else { continue };
            let same = line.iter().find(|way| Entry(way.load(Ordering::Relaxed)).has_tag(word));
            let done = match same {
                // Unless the datapath has written it since, it is still what was copied.
                Some(way) => {
                    way.compare_exchange(before, word, Ordering::Relaxed, Ordering::Relaxed).is_ok()
                }
                None => place(line, word, now),
            };
            carried += u64::from(done);
        }
    }
    carried
}

/// The lines of the new table where an entry of old line `line` may belong.
fn targets(line: usize, old_lines: usize, new_lines: usize) -> impl Iterator<Item = usize> {
    let first = if new_lines == 0 { 0 } else { line & (new_lines - 1) };
    (0..copies(old_lines, new_lines)).map(move |copy| first + copy * old_lines)
}

fn copies(old_lines: usize, new_lines: usize) -> usize {
    (new_lines / old_lines.max(1)).max(1)
}

fn ways(table: &[AtomicU64], line: usize) -> Option<&[AtomicU64]> {
    table.get(line * WAYS..(line + 1) * WAYS)
}

/// Writes `word` over what is given up most willingly, if that is less than `word` itself. An entry
/// of the same tag and binding is the same dialog.
fn place(line: &[AtomicU64], word: u64, now: Now) -> bool {
    let rank = |word| reluctance(word, now.epoch, now.lifetime);
    let binding = Entry(word).binding();
    let known = line.iter().find(|way| {
        let entry = Entry(way.load(Ordering::Relaxed));
        entry.has_tag(word) && entry.binding() == binding
    });
    let victim = known.or_else(|| line.iter().min_by_key(|way| rank(way.load(Ordering::Relaxed))));
    let Some(way) = victim else { return false };
    let held = way.load(Ordering::Relaxed);
    if held != 0 && rank(held) >= rank(word) {
        // The same dialog is there already, and at least as fresh.
        return known.is_some();
    }
    way.compare_exchange(held, word, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use lb_common::dialog::{self, State};
    use proptest::prelude::*;

    use super::*;

    const NOW: Now = Now { epoch: 100, lifetime: 43 };

    fn table(lines: usize) -> Vec<AtomicU64> {
        (0..lines * WAYS).map(|_| AtomicU64::new(0)).collect()
    }

    fn words(table: &[AtomicU64]) -> Vec<u64> {
        table.iter().map(|way| way.load(Ordering::Relaxed)).collect()
    }

    /// Puts an entry where the datapath would.
    fn insert(table: &[AtomicU64], hash: u64, word: u64) -> bool {
        let mask = (table.len() / WAYS - 1) as u32;
        let line = ways(table, dialog::line(hash, mask) as usize).unwrap();
        let free = line.iter().find(|way| way.load(Ordering::Relaxed) == 0);
        free.is_some_and(|way| {
            way.store(word, Ordering::Relaxed);
            true
        })
    }

    /// Looks an entry up as the datapath would.
    fn find(table: &[AtomicU64], hash: u64) -> Option<u16> {
        let mask = (table.len() / WAYS - 1) as u32;
        let line = ways(table, dialog::line(hash, mask) as usize).unwrap();
        line.iter()
            .map(|way| Entry(way.load(Ordering::Relaxed)))
            .find(|entry| entry.has_tag(hash))
            .map(Entry::binding)
    }

    proptest! {
        #[test]
        fn every_dialog_is_found_by_its_hash_in_a_table_of_another_size(
            hashes in prop::collection::vec(any::<u64>(), 1..60),
            old_bits in 0u32..7,
            new_bits in 0u32..9,
        ) {
            let old = table(1 << old_bits);
            let mut held = Vec::new();
            for (binding, hash) in hashes.into_iter().enumerate() {
                let word = Entry::new(hash, binding as u16 + 1, 99, State::ConfirmedInvite).0;
                if find(&old, hash).is_none() && insert(&old, hash, word) {
                    held.push((hash, binding as u16 + 1));
                }
            }
            let new = table(1 << new_bits);
            let outcome = copy(&words(&old), &new, NOW, |_| true);
            prop_assert_eq!(outcome.moved + outcome.overflowed, held.len() as u64);
            let found = held.iter().filter(|(hash, binding)| find(&new, *hash) == Some(*binding));
            prop_assert_eq!(found.count() as u64, outcome.moved);
            if new_bits >= old_bits {
                prop_assert_eq!(outcome.overflowed, 0);
                prop_assert_eq!(outcome.copies, 1 << (new_bits - old_bits));
            }
        }
    }

    #[test]
    fn growing_and_shrinking_again_leaves_one_entry() {
        let old = table(4);
        let word = Entry::new(3, 7, 99, State::ConfirmedInvite).0;
        assert!(insert(&old, 3, word));
        let large = table(64);
        assert_eq!(copy(&words(&old), &large, NOW, |_| true).copies, 16);
        assert_eq!(words(&large).iter().filter(|&&w| w == word).count(), 16);
        let small = table(4);
        assert_eq!(copy(&words(&large), &small, NOW, |_| true).overflowed, 0);
        assert_eq!(words(&small), words(&old));
    }

    #[test]
    fn expired_entries_and_those_of_unknown_bindings_stay_behind() {
        let old = table(4);
        let entry = |hash, binding, epoch| Entry::new(hash, binding, epoch, State::Unconfirmed).0;
        for (hash, word) in
            [(0, entry(1 << 40, 1, 100)), (1, entry(2 << 40, 1, 50)), (2, entry(3 << 40, 9, 100))]
        {
            assert!(insert(&old, hash, word));
        }
        let new = table(4);
        let outcome = copy(&words(&old), &new, NOW, |binding| binding < 9);
        let expected = Relined { moved: 1, copies: 1, without_binding: 1, overflowed: 0 };
        assert_eq!(outcome, expected);
    }

    #[test]
    fn of_two_lines_that_meet_the_calls_stay() {
        let old = table(2);
        for way in 0..WAYS as u64 {
            let tag = (way + 1) << 40;
            assert!(insert(&old, tag, Entry::new(tag, 1, 100, State::ConfirmedInvite).0));
            assert!(insert(&old, tag | 1, Entry::new(tag << 8, 2, 100, State::Unconfirmed).0));
        }
        let new = table(1);
        let outcome = copy(&words(&old), &new, NOW, |_| true);
        assert_eq!((outcome.moved, outcome.overflowed), (8, 8));
        assert!(words(&new).iter().all(|&word| Entry(word).binding() == 1));
    }

    #[test]
    fn what_changed_meanwhile_is_carried_over_and_what_is_newer_stays() {
        let entry = |hash, binding, state| Entry::new(hash, binding, 100, state).0;
        let (kept, confirmed, moved, fresh) = (1 << 40, 2 << 40, 3 << 40, 4 << 40);
        let old = table(2);
        for hash in [kept, confirmed, moved] {
            assert!(insert(&old, hash, entry(hash, 1, State::Unconfirmed)));
        }
        let before = words(&old);
        let new = table(4);
        copy(&before, &new, NOW, |_| true);
        // The old program confirms one and learns another, while the new one moves a third.
        old[1].store(entry(confirmed, 1, State::ConfirmedInvite), Ordering::Relaxed);
        old[2].store(entry(moved, 1, State::ConfirmedInvite), Ordering::Relaxed);
        assert!(insert(&old, fresh, entry(fresh, 5, State::Unconfirmed)));
        for way in &new {
            if Entry(way.load(Ordering::Relaxed)).has_tag(moved) {
                way.store(entry(moved, 8, State::Unconfirmed), Ordering::Relaxed);
            }
        }
        assert_eq!(catch_up(&old, &before, &new, NOW), 4, "two entries, two lines each");
        assert_eq!(find(&new, kept), Some(1));
        assert_eq!(find(&new, moved), Some(8));
        assert_eq!(find(&new, fresh), Some(5));
        let state = words(&new)
            .into_iter()
            .map(Entry)
            .filter(|entry| entry.has_tag(confirmed))
            .map(Entry::state)
            .collect::<Vec<_>>();
        assert_eq!(state, [Some(State::ConfirmedInvite); 2]);
    }
}
