//! Call-IDs as user agents make them, spread over slots, lines of the dialog table and backends as
//! evenly as chance would; and the slot table against a plain computation in floating point.

use std::collections::HashSet;

use lb_common::dialog;
use lb_common::hash::{self, HashKey};
use lb_common::table::{self, Contender, MEMBERS, SLOTS, Table};

const CALLS: u64 = 400_000;
const KEY: HashKey = HashKey { k0: 0x1122_3344_5566_7788, k1: 0x99aa_bbcc_ddee_ff00 };

/// The finaliser of splitmix64: a number as good as random for each `n`.
fn random(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

type Maker = fn(u64) -> String;

/// How user agents make Call-IDs.
const KINDS: [(&str, Maker); 7] = [
    ("a counter", |n| n.to_string()),
    ("a counter with zeros", |n| format!("{n:016}")),
    ("a counter, a process and a host", |n| format!("{n}-4711@192.0.2.10")),
    ("a counter on each of 200 hosts", |n| format!("{}@198.51.100.{}", n / 200, n % 200)),
    ("a time-based UUID", |n| format!("{:08x}-1b2c-11f0-8a3e-0242ac110002", 0x5d2e_0000 + n * 13)),
    ("a random UUID", |n| {
        let (a, b) = (random(2 * n), random(2 * n + 1));
        let (time, node) = (a >> 32, b & 0xffff_ffff_ffff);
        format!("{time:08x}-{:04x}-4{:03x}-a{:03x}-{node:012x}", a & 0xffff, b >> 52, b >> 48 & 15)
    }),
    ("random digits and a host", |n| format!("{:032x}@pbx.example.net:5060", random(n))),
];

fn hashes(make: Maker) -> Vec<u64> {
    (1..=CALLS).map(|n| hash::bytes(KEY, make(n).as_bytes())).collect()
}

/// Standard deviations by which the chi-square of `counts` is off what chance gives.
fn unevenness(counts: &[u32]) -> f64 {
    let expected = counts.iter().map(|&c| f64::from(c)).sum::<f64>() / counts.len() as f64;
    let square: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
    let freedom = counts.len() as f64 - 1.0;
    (square - freedom) / (2.0 * freedom).sqrt()
}

fn count(bins: usize, of: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut counts = vec![0; bins];
    of.for_each(|bin| counts[bin] += 1);
    counts
}

#[test]
fn call_ids_of_every_kind_spread_evenly_over_slots_and_lines() {
    for (kind, make) in KINDS {
        let hashes = hashes(make);
        let slot = |hash: u64| hash::slot(hash) as usize;
        let line = |hash: u64| dialog::line(hash, 0xffff) as usize;
        // What the next Call-ID of a counter gets must not depend on what this one got.
        let neighbours = hashes.windows(2).map(|pair| slot(pair[0]) & 0xff00 | slot(pair[1]) >> 8);
        for (what, counts) in [
            ("slots", count(SLOTS, hashes.iter().map(|&hash| slot(hash)))),
            ("lines", count(SLOTS, hashes.iter().map(|&hash| line(hash)))),
            ("slots of neighbours", count(SLOTS, neighbours)),
        ] {
            let off = unevenness(&counts);
            assert!(off.abs() < 4.5, "{kind}: {what} are off by {off:+.1} standard deviations");
        }
        // The calls of one slot must not crowd on a few lines: no byte of one depends on one of the
        // other.
        for (i, j) in [(0, 0), (0, 8), (0, 16), (8, 0), (8, 8), (8, 16)] {
            let line = |hash: u64| dialog::line(hash, 0x00ff_ffff) as usize;
            let both = |hash: u64| (slot(hash) >> i & 0xff) << 8 | (line(hash) >> j & 0xff);
            let off = unevenness(&count(SLOTS, hashes.iter().map(|&hash| both(hash))));
            assert!(off.abs() < 4.5, "{kind}: slots and lines are off by {off:+.1} deviations");
        }
    }
}

#[test]
fn no_two_of_many_call_ids_share_line_and_tag() {
    let mut seen = HashSet::new();
    for (kind, make) in KINDS {
        for hash in hashes(make) {
            let line = u64::from(dialog::line(hash, 0x00ff_ffff));
            assert!(seen.insert(hash >> dialog::TAG_SHIFT << 24 | line), "{kind}: {hash:#x}");
        }
    }
}

/// `count` backends, weights by turns from `weights`.
fn contenders(count: usize, weights: &[u16]) -> Vec<Contender> {
    (0..count)
        .map(|i| Contender {
            member: i as u8,
            seed: table::seed(&format!("gw{i}.example.net")),
            weight: weights[i % weights.len()],
        })
        .collect()
}

fn filled(contenders: &[Contender]) -> Box<Table> {
    let mut table = Box::new([0; SLOTS]);
    table::fill(contenders, &mut table);
    table
}

#[test]
fn calls_of_every_kind_reach_backends_as_their_slots_say() {
    let table = filled(&contenders(6, &[1, 1, 2]));
    let owned = table::owners(&table);
    for (kind, make) in KINDS {
        let hashes = hashes(make);
        let slots = hashes.iter().map(|&hash| hash::slot(hash) as usize);
        let got = count(MEMBERS, slots.map(|slot| usize::from(table[slot])));
        for (member, (&got, &owned)) in got.iter().zip(&owned).enumerate() {
            let share = f64::from(owned) / SLOTS as f64;
            let deviation = (CALLS as f64 * share * (1.0 - share)).sqrt();
            let off = f64::from(got) - CALLS as f64 * share;
            assert!(off.abs() <= 4.5 * deviation, "{kind}: member {member} is off by {off} calls");
        }
    }
}

#[test]
fn every_slot_goes_to_the_least_cost_in_floating_point() {
    let mut ties = 0;
    for (members, weights) in
        [(2, &[1][..]), (6, &[50, 100]), (64, &[1, 65_535]), (255, &[100, 101, 7, 65_535])]
    {
        let contenders = contenders(members, weights);
        for (slot, &owner) in filled(&contenders).iter().enumerate() {
            let cost = |contender: &Contender| {
                let step = (slot as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let draw = random(contender.seed ^ step);
                -((draw as f64 + 1.0) / 2f64.powi(64)).log2() / f64::from(contender.weight)
            };
            let least = contenders.iter().map(cost).fold(f64::INFINITY, f64::min);
            let paid = cost(&contenders[usize::from(owner)]);
            // The integers carry nine digits.
            ties += u32::from(paid != least);
            assert!(paid - least <= 2e-9, "slot {slot}");
        }
    }
    assert!(ties < 3, "{ties} slots went to the second least cost");
}
