//! The dialog table: a set-associative cache of one `u64` per dialog.
//!
//! A line is one cache line of eight entries. The hash picks the line (bits 0–23) and the tag
//! (bits 26–63, the entry's top 38 bits). Every change is a single store of one entry, so that CPUs
//! and the controller's sweep never see half an entry; two CPUs that write one line at once may
//! lose one of the two entries, never mix them.
//!
//! Entry: tag 38 | binding 16 | age 7 (epoch of the last refresh) | state 3. 0 = empty.

use crate::clock;

/// Entries of a line.
pub const WAYS: usize = 8;

/// One line.
pub type Line = [u64; WAYS];

const STATE_BITS: u32 = 3;
const AGE_BITS: u32 = 7;
const BINDING_SHIFT: u32 = STATE_BITS + AGE_BITS;
/// Position of the tag in an entry and in a hash.
pub const TAG_SHIFT: u32 = 26;

/// How far a dialog has come; 0 never stands in an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub enum State {
    /// A request was seen, no answer that makes a dialog.
    Unconfirmed,
    /// A BYE was seen; kept for retransmissions.
    Ended,
    /// An INVITE was answered by 2xx: a call.
    ConfirmedInvite,
    /// A SUBSCRIBE was, or a dialog is known only from the middle.
    ConfirmedOther,
}

impl State {
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Self::Unconfirmed => 1,
            Self::Ended => 2,
            Self::ConfirmedInvite => 3,
            Self::ConfirmedOther => 4,
        }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_confirmed(self) -> bool {
        self.bits() >= 3
    }
}

/// A decoded entry.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Entry(pub u64);

impl Entry {
    #[inline(always)]
    #[must_use]
    pub const fn new(hash: u64, binding: u16, epoch: u32, state: State) -> Self {
        Self::with_bits(hash, binding, epoch, state.bits())
    }

    /// As [`Entry::new`], with the state as [`State::bits`] gives it.
    #[inline(always)]
    #[must_use]
    pub const fn with_bits(hash: u64, binding: u16, epoch: u32, state: u64) -> Self {
        Self(
            (hash >> TAG_SHIFT << TAG_SHIFT)
                | (binding as u64) << BINDING_SHIFT
                | ((epoch % clock::EPOCHS) as u64) << STATE_BITS
                | state,
        )
    }

    /// The state as [`State::bits`] gives it.
    #[inline(always)]
    #[must_use]
    pub const fn state_bits(self) -> u64 {
        self.0 & ((1 << STATE_BITS) - 1)
    }

    /// True if the entry bears the tag of `hash` (an empty one never does: its state is 0).
    #[inline(always)]
    #[must_use]
    pub const fn has_tag(self, hash: u64) -> bool {
        (self.0 ^ hash) >> TAG_SHIFT == 0 && self.0 != 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn binding(self) -> u16 {
        (self.0 >> BINDING_SHIFT) as u16
    }

    #[inline(always)]
    #[must_use]
    pub const fn epoch(self) -> u32 {
        (self.0 >> STATE_BITS) as u32 % clock::EPOCHS
    }

    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> Option<State> {
        match self.0 & ((1 << STATE_BITS) - 1) {
            1 => Some(State::Unconfirmed),
            2 => Some(State::Ended),
            3 => Some(State::ConfirmedInvite),
            4 => Some(State::ConfirmedOther),
            _ => None,
        }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_confirmed(self) -> bool {
        self.0 & ((1 << STATE_BITS) - 1) >= 3
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_ended(self) -> bool {
        self.0 & ((1 << STATE_BITS) - 1) == 2
    }

    /// True once `lifetime` epochs have passed since the last refresh.
    ///
    /// An entry of the next epoch is fresh: whoever read the clock just before it ticked meets what
    /// others wrote just after.
    #[inline(always)]
    #[must_use]
    pub const fn is_expired(self, now: u32, lifetime: u32) -> bool {
        clock::age(now + 1, self.epoch()) > lifetime + 1
    }
}

/// The line of `hash`; `mask` is the number of lines minus one, at most 2²⁴ − 1.
#[inline(always)]
#[must_use]
pub const fn line(hash: u64, mask: u32) -> u32 {
    hash as u32 & 0x00ff_ffff & mask
}

/// How willingly an entry is given up, most willing first: empty, expired, ended, unconfirmed
/// (older ones first), confirmed (older ones first). Comparable across a line.
#[inline(always)]
#[must_use]
pub const fn reluctance(entry: u64, now: u32, lifetime: u32) -> u32 {
    let entry = Entry(entry);
    if entry.0 == 0 {
        return 0;
    }
    // 0 for the next epoch, see `is_expired`.
    let age = clock::age(now + 1, entry.epoch());
    if age > lifetime + 1 {
        return 1;
    }
    if entry.is_ended() {
        return 2;
    }
    let base = if entry.is_confirmed() { CONFIRMED } else { UNCONFIRMED };
    base + clock::EPOCHS - age
}

/// Least [`reluctance`] of a live unconfirmed entry.
pub const UNCONFIRMED: u32 = 0x100;
/// Least [`reluctance`] of a live confirmed entry; only a confirmed newcomer takes its place.
pub const CONFIRMED: u32 = 0x200;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = State> {
        prop::sample::select(vec![
            State::Unconfirmed,
            State::Ended,
            State::ConfirmedInvite,
            State::ConfirmedOther,
        ])
    }

    proptest! {
        #[test]
        fn an_entry_returns_what_was_put_in(hash: u64, binding: u16, epoch in 0u32..128, state in any_state()) {
            let entry = Entry::new(hash, binding, epoch, state);
            prop_assert!(entry.has_tag(hash));
            prop_assert!(entry.has_tag(hash ^ 0x3ff_ffff));
            prop_assert!(!entry.has_tag(hash ^ (1 << 26)));
            prop_assert_eq!(entry.binding(), binding);
            prop_assert_eq!(entry.epoch(), epoch);
            prop_assert_eq!(entry.state(), Some(state));
            prop_assert_eq!(entry.is_confirmed(), state.is_confirmed());
        }
    }

    #[test]
    fn an_empty_entry_has_no_tag_even_for_hash_zero() {
        assert!(!Entry(0).has_tag(0));
    }

    #[test]
    fn an_entry_of_the_next_epoch_is_fresh() {
        for now in 0..128 {
            let entry = |ahead: u32| Entry::new(7 << 30, 1, now + ahead, State::ConfirmedInvite);
            assert!(!entry(1).is_expired(now, 42), "at {now}");
            assert!(reluctance(entry(1).0, now, 42) > reluctance(entry(0).0, now, 42));
            assert!(!entry(128 - 42).is_expired(now, 42), "at {now}");
            assert!(entry(128 - 43).is_expired(now, 42), "at {now}");
            assert!(entry(2).is_expired(now, 42), "at {now}");
        }
    }

    #[test]
    fn victims_are_taken_in_order() {
        let (now, lifetime) = (100, 42);
        let entry = |age: u32, state| Entry::new(7 << 30, 1, now - age, state).0;
        let order = [
            0,
            entry(43, State::ConfirmedInvite),
            entry(0, State::Ended),
            entry(40, State::Unconfirmed),
            entry(1, State::Unconfirmed),
            entry(42, State::ConfirmedOther),
            entry(0, State::ConfirmedInvite),
        ];
        let ranks: Vec<_> = order.iter().map(|&e| reluctance(e, now, lifetime)).collect();
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
        assert!(ranks[4] >= UNCONFIRMED && ranks[4] < CONFIRMED);
        assert!(ranks[5] >= CONFIRMED);
    }
}
