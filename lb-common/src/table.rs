//! The slot table: 65,536 slots, each holding the member of a set that owns it.
//!
//! Filled by weighted rendezvous (highest random weight): for each slot every member draws a
//! number from its name and the slot alone, scaled by its weight, and the best draw wins. A member
//! that leaves gives up its own slots and moves no other; equal names and weights give equal
//! tables everywhere. Integers only, so that two nodes agree bit for bit.

use crate::hash::{self, HashKey};

/// Slots of a table.
pub const SLOTS: usize = 65_536;
/// Room for members in a list; member indices are 0…254.
pub const MEMBERS: usize = 256;
/// Most members of a set.
pub const MAX_MEMBERS: usize = 255;
/// Slot without a member: no backend is usable.
pub const NO_MEMBER: u8 = 255;

/// A table as it stands in its map.
pub type Table = [u8; SLOTS];
/// Bindings by member index; 0 = none.
pub type Members = [u16; MEMBERS];

/// What a (listener, set) currently uses, published by one store: table id | member list id << 16.
/// Id 0 = none.
pub type Choice = u32;

/// Packs a [`Choice`].
#[must_use]
pub const fn choice(table: u16, members: u16) -> Choice {
    table as u32 | (members as u32) << 16
}

/// The table id of a choice.
#[inline(always)]
#[must_use]
pub const fn choice_table(choice: Choice) -> u32 {
    choice & 0xffff
}

/// The member list id of a choice.
#[inline(always)]
#[must_use]
pub const fn choice_members(choice: Choice) -> u32 {
    choice >> 16
}

/// Priority and weight of one member of a list, for a restarted controller.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct MemberOrder {
    pub priority: u16,
    pub weight: u16,
}
const _: () = assert!(size_of::<MemberOrder>() == 4);

/// A contender for slots.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Contender {
    /// What its slots hold.
    pub member: u8,
    /// [`seed`] of its name.
    pub seed: u64,
    /// 1…65,535.
    pub weight: u16,
}

/// What a backend's draws come from: its name and nothing else, so that one farm behind two
/// services is cut alike and renumbering moves nothing.
#[must_use]
pub fn seed(name: &str) -> u64 {
    hash::bytes(HashKey { k0: 0x7369_702d_6c62, k1: 0x736c_6f74 }, name.as_bytes())
}

/// Fills `table`; without contenders every slot is [`NO_MEMBER`]. Ties go to the earlier contender.
pub fn fill(contenders: &[Contender], table: &mut Table) {
    for (slot, owner) in table.iter_mut().enumerate() {
        *owner = winner(contenders, slot as u64);
    }
}

/// Fills `table` with a sequence in which each contender's turns are spread as evenly as its weight
/// allows; without contenders every slot is [`NO_MEMBER`].
///
/// The k-th turn of a contender of weight w is due at (2k + 1) / w; the earliest is next, ties go
/// to the earlier contender. So after any number of slots every contender has had its due turns,
/// one more or one less.
pub fn sequence(contenders: &[Contender], table: &mut Table) {
    let mut turns = [0u64; MEMBERS];
    for owner in table.iter_mut() {
        *owner = NO_MEMBER;
        let (mut best, mut best_due, mut best_weight) = (0, u64::MAX, 1u64);
        for (i, (contender, turns)) in contenders.iter().zip(&turns).enumerate() {
            let (due, weight) = (2 * turns + 1, u64::from(contender.weight));
            if u128::from(due) * u128::from(best_weight) < u128::from(best_due) * u128::from(weight)
            {
                (best, best_due, best_weight) = (i, due, weight);
                *owner = contender.member;
            }
        }
        if let Some(turns) = turns.get_mut(best) {
            *turns += 1;
        }
    }
}

/// The owner of one slot.
fn winner(contenders: &[Contender], slot: u64) -> u8 {
    let mut best = NO_MEMBER;
    let (mut best_cost, mut best_weight) = (u64::MAX, 1u64);
    for contender in contenders {
        let draw = mix(contender.seed ^ slot.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let weight = u64::from(contender.weight);
        // The smallest -log2(draw) / weight wins; compared by cross multiplication. A cheap lower
        // bound of the logarithm rules out nearly every loser without computing it.
        if (u128::from(lower_bound(draw)) * u128::from(best_weight))
            >= u128::from(best_cost) * u128::from(weight)
        {
            continue;
        }
        let cost = neg_log2(draw);
        if u128::from(cost) * u128::from(best_weight) < u128::from(best_cost) * u128::from(weight) {
            best = contender.member;
            best_cost = cost;
            best_weight = weight;
        }
    }
    best
}

/// Slots owned by each member.
#[must_use]
pub fn owners(table: &Table) -> [u32; MEMBERS] {
    let mut counts = [0; MEMBERS];
    for &member in table {
        if let Some(count) = counts.get_mut(usize::from(member)) {
            *count += 1;
        }
    }
    counts
}

/// A digest of the table's content: equal tables on two nodes have equal digests.
#[must_use]
pub fn digest(table: &Table) -> u64 {
    hash::bytes(HashKey { k0: 0, k1: 0 }, table)
}

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014): every output bit depends on every
/// input bit.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fraction bits of a logarithm.
const FRACTION: u32 = 40;
/// Bits of the mantissa that index the table of logarithms.
const INDEX: u32 = 10;

/// log2(1 + i / 1024) for i = 0…1024, with [`FRACTION`] bits, computed by repeated squaring.
static LOGS: [u64; (1 << INDEX) + 1] = {
    let mut logs = [0; (1 << INDEX) + 1];
    let mut i = 0;
    while i < 1 << INDEX {
        // x in [1, 2) with 62 fraction bits; each squaring yields one bit of the logarithm.
        let mut x = (1u128 << 62) + ((i as u128) << (62 - INDEX));
        let (mut log, mut bit) = (0u64, 0);
        while bit < FRACTION {
            x = (x * x) >> 62;
            log <<= 1;
            if x >= 1 << 63 {
                x >>= 1;
                log |= 1;
            }
            bit += 1;
        }
        logs[i] = log;
        i += 1;
    }
    logs[1 << INDEX] = 1 << FRACTION;
    logs
};

/// -log2((draw + 1) / 2⁶⁴) with [`FRACTION`] bits: table look-up and second-order interpolation.
fn neg_log2(draw: u64) -> u64 {
    let draw = draw.saturating_add(1);
    let zeros = draw.leading_zeros();
    // Mantissa in [1, 2) without its leading one, left-aligned.
    let fraction = (draw << zeros) << 1;
    let index = (fraction >> (64 - INDEX)) as usize;
    let t = (fraction << INDEX) >> 32; // position between two table entries, 32 bits
    let at = |i: usize| LOGS.get(i).copied().unwrap_or(1 << FRACTION);
    let (low, high) = (at(index), at(index + 1));
    let linear = low + (((high - low) * t) >> 32);
    // The chord lies below the curve by t(1-t)/2 · h²/(x² ln 2) at most; x from the entry's middle.
    let x = (1u64 << (INDEX + 1)) + 2 * index as u64 + 1; // 2^11 · x
    let bow = ((t * ((1 << 32) - t)) >> 33) as u128; // t(1-t)/2, 32 bits
    // h² / x² / ln 2 = 2^-20 · 2^22 / x'² / ln 2; 1/ln 2 with 32 bits.
    let correction = (bow * 6_196_328_019 * 4) / u128::from(x * x);
    // bow 32 bits + 1/ln2 32 bits = 64 fraction bits → FRACTION
    let log = linear + (correction >> (64 - FRACTION)) as u64;
    (u64::from(zeros + 1) << FRACTION) - log.min(1 << FRACTION)
}

/// A bound below [`neg_log2`]: 1 − u ≤ −ln u ≤ −log2 u.
const fn lower_bound(draw: u64) -> u64 {
    !draw >> (64 - FRACTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(members: &[(&str, u16)]) -> Vec<Contender> {
        members
            .iter()
            .enumerate()
            .map(|(i, (name, weight))| Contender {
                member: i as u8,
                seed: seed(name),
                weight: *weight,
            })
            .collect()
    }

    fn filled(contenders: &[Contender]) -> Box<Table> {
        let mut table = Box::new([0; SLOTS]);
        fill(contenders, &mut table);
        table
    }

    #[test]
    fn the_logarithm_is_exact_to_nine_digits() {
        let mut worst = 0f64;
        for i in 0..200_000u64 {
            let draw = mix(i);
            let exact = -((draw as f64 + 1.0) / 2f64.powi(64)).log2();
            let got = neg_log2(draw) as f64 / 2f64.powi(FRACTION as i32);
            worst = worst.max((exact - got).abs());
        }
        assert!(worst < 1e-9, "{worst}");
        assert!(neg_log2(u64::MAX) <= 1);
        assert_eq!(neg_log2(0), 64 << FRACTION);
    }

    #[test]
    fn shares_follow_the_weights() {
        for weights in [
            vec![50, 50, 100, 100],
            vec![60, 20, 10, 10],
            vec![10_000, 10_001, 20_000],
            vec![60, 40],
            vec![50, 25, 25],
            vec![1, 1],
        ] {
            let names: Vec<_> = (0..weights.len()).map(|i| format!("gw{i}")).collect();
            let members: Vec<_> =
                names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
            let owned = owners(&filled(&set(&members)));
            let sum: u32 = weights.iter().map(|&w| u32::from(w)).sum();
            for (i, weight) in weights.iter().enumerate() {
                let fair = SLOTS as f64 * f64::from(*weight) / f64::from(sum);
                let off = f64::from(owned[i]) / fair - 1.0;
                assert!(off.abs() < 0.04, "{weights:?}: member {i} is off by {off:+.4}");
            }
        }
    }

    #[test]
    fn a_sequence_gives_every_member_its_turns_at_any_moment() {
        for weights in
            [vec![50u16, 50, 100, 100], vec![1, 1, 1], vec![60, 20, 10, 10], vec![65_535, 1, 300]]
        {
            let names: Vec<_> = (0..weights.len()).map(|i| format!("gw{i}")).collect();
            let members: Vec<_> =
                names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
            let mut table = Box::new([0; SLOTS]);
            sequence(&set(&members), &mut table);
            let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let mut turns = vec![0u32; weights.len()];
            for (slot, &member) in table.iter().enumerate() {
                turns[usize::from(member)] += 1;
                for (turns, weight) in turns.iter().zip(&weights) {
                    let due = (slot + 1) as f64 * f64::from(*weight) / sum;
                    assert!((f64::from(*turns) - due).abs() <= 1.5, "{weights:?} at {slot}");
                }
            }
        }
        let mut table = Box::new([0; SLOTS]);
        sequence(&[], &mut table);
        assert!(table.iter().all(|&m| m == NO_MEMBER));
    }

    #[test]
    fn a_lost_member_moves_only_its_own_slots_and_spreads_them() {
        let all = set(&[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1), ("f", 1)]);
        let before = filled(&all);
        let after = filled(&all[1..]);
        for (b, a) in before.iter().zip(after.iter()) {
            assert!(b == a || *b == 0);
        }
        let owned = owners(&after);
        assert_eq!(owned[0], 0);
        let busiest = owned.iter().max().copied().unwrap();
        assert!(f64::from(busiest) < SLOTS as f64 / 5.0 * 1.05, "{busiest}");
    }

    #[test]
    fn member_numbers_and_order_do_not_matter() {
        let a = filled(&set(&[("a", 3), ("b", 5), ("c", 7)]));
        let mut reordered = set(&[("c", 7), ("a", 3), ("b", 5)]);
        for (contender, member) in reordered.iter_mut().zip([2, 0, 1]) {
            contender.member = member;
        }
        assert!(*a == *filled(&reordered));
    }

    #[test]
    fn without_contenders_no_slot_has_a_member() {
        assert!(filled(&[]).iter().all(|&m| m == NO_MEMBER));
    }

    #[test]
    fn tables_are_bit_identical_everywhere() {
        let digest = digest(&filled(&set(&[
            ("gw1", 100),
            ("gw2", 100),
            ("gw3", 200),
            ("gw4", 65_535),
            ("gw5", 1),
        ])));
        assert_eq!(digest, GOLDEN, "{digest:#x}");
    }

    /// Changing this moves calls on every running node: only with a new layout version.
    const GOLDEN: u64 = 0x9b9e_7d65_9486_eea5;
}
