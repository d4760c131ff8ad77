//! The dialog table: a set-associative cache of one `u64` per dialog.
//!
//! A line is one cache line of eight entries. The hash picks the line (bits 0–23) and the tag
//! (bits 27–63, the entry's top 37 bits). Every change is a single store of one entry, so that CPUs
//! and the controller's sweep never see half an entry; two CPUs that write one line at once may
//! lose one of the two entries, never mix them.
//!
//! Entry: tag 37 | binding 16 | age 7 (epoch of the last refresh) | elsewhere 1 | state 3. 0 = empty.
//! *Elsewhere* says that the slot names another endpoint than the entry, as of the entry's last
//! store: then the entry alone knows where the dialog belongs.

use crate::clock;

/// Entries of a line.
pub const WAYS: usize = 8;

/// One line.
pub type Line = [u64; WAYS];

const STATE_BITS: u32 = 3;
const ELSEWHERE_SHIFT: u32 = STATE_BITS;
const AGE_SHIFT: u32 = ELSEWHERE_SHIFT + 1;
const AGE_BITS: u32 = 7;
const BINDING_SHIFT: u32 = AGE_SHIFT + AGE_BITS;
/// Position of the tag in an entry and in a hash.
pub const TAG_SHIFT: u32 = BINDING_SHIFT + 16;
const _: () = assert!(1 << AGE_BITS == clock::EPOCHS);

/// How far a dialog has come; 0 never stands in an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub enum State {
    /// A request was seen, no answer that makes a dialog.
    Unconfirmed,
    /// A BYE was seen; kept for retransmissions.
    Ended,
    /// A new INVITE was seen, its final answer was not.
    Ringing,
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
            Self::ConfirmedInvite => 2,
            Self::ConfirmedOther => 3,
            Self::Ended => 4,
            Self::Ringing => 5,
        }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_confirmed(self) -> bool {
        is_confirmed(self.bits())
    }
}

/// As [`State::is_confirmed`], of a state's bits.
#[inline(always)]
#[must_use]
pub const fn is_confirmed(state: u64) -> bool {
    state & 2 != 0
}

/// A decoded entry.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Entry(pub u64);

impl Entry {
    #[inline(always)]
    #[must_use]
    pub const fn new(hash: u64, binding: u16, epoch: u32, state: State) -> Self {
        Self::with_bits(hash, binding, epoch, state.bits(), 0)
    }

    /// As [`Entry::new`], with the state as [`State::bits`] gives it; `elsewhere` is 1 if the slot
    /// names another endpoint, else 0.
    #[inline(always)]
    #[must_use]
    pub const fn with_bits(
        hash: u64,
        binding: u16,
        epoch: u32,
        state: u64,
        elsewhere: u64,
    ) -> Self {
        Self(
            (hash >> TAG_SHIFT << TAG_SHIFT)
                | (binding as u64) << BINDING_SHIFT
                | ((epoch % clock::EPOCHS) as u64) << AGE_SHIFT
                | elsewhere << ELSEWHERE_SHIFT
                | state,
        )
    }

    /// The state as [`State::bits`] gives it, 0 in an empty entry.
    #[inline(always)]
    #[must_use]
    pub const fn state_bits(self) -> u64 {
        self.0 & ((1 << STATE_BITS) - 1)
    }

    /// True if only the entry knows where the dialog belongs: its slot names another endpoint.
    #[inline(always)]
    #[must_use]
    pub const fn is_elsewhere(self) -> bool {
        self.0 >> ELSEWHERE_SHIFT & 1 != 0 && !self.is_ended()
    }

    /// The same entry, of which the slot names another endpoint or does not. Not for ended ones.
    #[inline(always)]
    #[must_use]
    pub const fn with_elsewhere(self, elsewhere: bool) -> Self {
        Self(self.0 & !(1 << ELSEWHERE_SHIFT) | (elsewhere as u64) << ELSEWHERE_SHIFT)
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
        (self.0 >> AGE_SHIFT) as u32 % clock::EPOCHS
    }

    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> Option<State> {
        match self.state_bits() {
            1 => Some(State::Unconfirmed),
            2 => Some(State::ConfirmedInvite),
            3 => Some(State::ConfirmedOther),
            4 => Some(State::Ended),
            5 => Some(State::Ringing),
            _ => None,
        }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_confirmed(self) -> bool {
        is_confirmed(self.0)
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_ended(self) -> bool {
        self.state_bits() == State::Ended.bits()
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

/// How willingly an entry is given up, most willing first: empty, expired, ended, unconfirmed or
/// ringing, the same elsewhere, confirmed, confirmed elsewhere (of each older ones first). Comparable
/// across a line.
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
    rank(entry.0, entry.0 >> ELSEWHERE_SHIFT & 1) + clock::EPOCHS - age
}

/// Least [`reluctance`] of a live entry that is not ended.
#[inline(always)]
const fn rank(state: u64, elsewhere: u64) -> u32 {
    UNCONFIRMED + ((state as u32 & 2) + elsewhere as u32) * RANK
}

/// The [`reluctance`] from which on an entry does not make room for a newcomer: those whose loss
/// does more harm stay. A client can begin as many dialogs as it likes; where the slots place them
/// anyhow, they push out none that only its entry can find.
#[inline(always)]
#[must_use]
pub const fn limit(state: u64, elsewhere: u64) -> u32 {
    rank(state, elsewhere) + RANK
}

const RANK: u32 = 0x100;
/// Least [`reluctance`] of a live unconfirmed entry.
pub const UNCONFIRMED: u32 = 0x100;
/// Least [`reluctance`] of a live confirmed entry; only a confirmed newcomer takes its place.
pub const CONFIRMED: u32 = UNCONFIRMED + 2 * RANK;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = State> {
        prop::sample::select(vec![
            State::Unconfirmed,
            State::Ended,
            State::Ringing,
            State::ConfirmedInvite,
            State::ConfirmedOther,
        ])
    }

    proptest! {
        #[test]
        fn an_entry_returns_what_was_put_in(hash: u64, binding: u16, epoch in 0u32..128, state in any_state()) {
            let entry = Entry::new(hash, binding, epoch, state);
            prop_assert!(entry.has_tag(hash));
            prop_assert!(entry.has_tag(hash ^ ((1 << TAG_SHIFT) - 1)));
            prop_assert!(!entry.has_tag(hash ^ (1 << TAG_SHIFT)));
            prop_assert_eq!(entry.binding(), binding);
            prop_assert_eq!(entry.epoch(), epoch);
            prop_assert_eq!(entry.state(), Some(state));
            prop_assert_eq!(entry.is_confirmed(), state.is_confirmed());
            prop_assert_eq!(entry.is_ended(), state == State::Ended);
            prop_assert!(!entry.is_elsewhere());
            let elsewhere = Entry::with_bits(hash, binding, epoch, state.bits(), 1);
            prop_assert_eq!(elsewhere.state(), Some(state));
            if state != State::Ended {
                prop_assert_eq!(entry.with_elsewhere(true), elsewhere);
                prop_assert_eq!(elsewhere.with_elsewhere(false), entry);
            }
            prop_assert_eq!(elsewhere.state_bits(), state.bits());
            prop_assert_eq!(elsewhere.is_confirmed(), state.is_confirmed());
            prop_assert_eq!(elsewhere.is_ended(), state == State::Ended);
            prop_assert_eq!(elsewhere.is_elsewhere(), state != State::Ended);
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
        let elsewhere =
            |age: u32, state: State| Entry::with_bits(7 << 30, 1, now - age, state.bits(), 1).0;
        let order = [
            0,
            elsewhere(43, State::ConfirmedInvite),
            elsewhere(0, State::Ended),
            entry(42, State::Unconfirmed),
            entry(0, State::Ringing),
            elsewhere(42, State::Unconfirmed),
            elsewhere(0, State::Unconfirmed),
            entry(42, State::ConfirmedOther),
            entry(0, State::ConfirmedInvite),
            elsewhere(42, State::ConfirmedInvite),
            elsewhere(0, State::ConfirmedOther),
        ];
        let ranks: Vec<_> = order.iter().map(|&e| reluctance(e, now, lifetime)).collect();
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
        assert!(ranks[3] >= UNCONFIRMED && ranks[6] < CONFIRMED);
        assert!(ranks[7] >= CONFIRMED);
        assert_eq!(
            reluctance(entry(0, State::Ended), now, lifetime),
            reluctance(elsewhere(0, State::Ended), now, lifetime)
        );
    }

    #[test]
    fn a_newcomer_takes_the_place_of_what_is_missed_no_more_than_itself() {
        let (now, lifetime) = (100, 42);
        let kinds =
            [State::Unconfirmed, State::Ringing, State::ConfirmedInvite, State::ConfirmedOther]
                .into_iter()
                .flat_map(|state| [(state, 0), (state, 1)]);
        for (newcomer, new_elsewhere) in kinds.clone() {
            for (held, elsewhere) in kinds.clone() {
                let harm = |state: State, elsewhere| (state.is_confirmed(), elsewhere);
                let stays = harm(held, elsewhere) > harm(newcomer, new_elsewhere);
                for age in [0, 42] {
                    let entry = Entry::with_bits(1 << 50, 1, now - age, held.bits(), elsewhere).0;
                    let refused =
                        reluctance(entry, now, lifetime) >= limit(newcomer.bits(), new_elsewhere);
                    assert_eq!(refused, stays, "{newcomer:?} {new_elsewhere} {held:?} {elsewhere}");
                }
            }
        }
    }
}
