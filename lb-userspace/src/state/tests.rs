//! Placement of Call-IDs as users count on it.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::hash::{self, HashKey};
use proptest::prelude::*;

use super::{
    route::{NotACallId, SetMember, SetTable, backend_of, call_id_hash, derive_key},
    table::TableCache,
};
use crate::config::model::{Admin, Backend, Balance};

fn expected(backends: &[Backend], down: &BTreeSet<&str>, cache: &mut TableCache) -> SetTable {
    super::route::expected(backends, Balance::CallId, down, cache)
}

fn backends(spec: &[(&str, u16, u16)]) -> Vec<Backend> {
    spec.iter()
        .enumerate()
        .map(|(i, (name, priority, weight))| Backend {
            name: (*name).to_owned(),
            address: format!("10.0.0.{}:5060", i + 1).parse().unwrap(),
            priority: *priority,
            weight: *weight,
            admin: Admin::Ready,
            aliases: Vec::new(),
            health: None,
        })
        .collect()
}

/// Backends, those that are down, and what the others are due.
type Case<'a> = (&'a [(&'a str, u16, u16)], &'a [&'a str], &'a [(&'a str, u32)]);

/// Where each of `count` Call-IDs goes.
fn place(set: &SetTable, count: u32) -> Vec<String> {
    let key = derive_key("edge-cluster-1");
    (0..count)
        .map(|i| {
            let hash = call_id_hash(key, format!("{i:08x}-4711@198.51.100.7").as_bytes()).unwrap();
            set.backend(hash).unwrap().to_owned()
        })
        .collect()
}

fn counts(placed: &[String]) -> BTreeMap<&str, u32> {
    let mut counts = BTreeMap::new();
    for name in placed {
        *counts.entry(name.as_str()).or_default() += 1;
    }
    counts
}

#[test]
fn new_dialogs_follow_the_weights_of_the_best_tier() {
    let two_tiers = [
        ("a1", 10, 50),
        ("a2", 10, 50),
        ("a3", 10, 100),
        ("a4", 10, 100),
        ("b1", 20, 50),
        ("b2", 20, 50),
    ];
    let backup =
        [("gw1", 10, 60), ("gw2", 10, 20), ("gw3", 10, 10), ("gw4", 10, 10), ("backup", 20, 0)];
    let uneven = [("x", 10, 10_000), ("y", 10, 10_001), ("z", 10, 20_000)];
    let pair = [("left", 10, 60), ("right", 10, 40)];
    let cases: [Case<'_>; 7] = [
        (&two_tiers, &[], &[("a1", 50), ("a2", 50), ("a3", 100), ("a4", 100)]),
        (&backup, &[], &[("gw1", 60), ("gw2", 20), ("gw3", 10), ("gw4", 10)]),
        (&uneven, &[], &[("x", 10_000), ("y", 10_001), ("z", 20_000)]),
        (&pair, &[], &[("left", 60), ("right", 40)]),
        (&backup, &["gw1"], &[("gw2", 50), ("gw3", 25), ("gw4", 25)]),
        (&two_tiers, &["a1", "a2", "a3", "a4"], &[("b1", 50), ("b2", 50)]),
        (&backup, &["gw1", "gw2", "gw3", "gw4"], &[("backup", 1)]),
    ];
    let mut cache = TableCache::default();
    for (spec, down, shares) in cases {
        let set = expected(&backends(spec), &down.iter().copied().collect(), &mut cache);
        let placed = place(&set, 60_000);
        let counts = counts(&placed);
        assert_eq!(counts.len(), shares.len(), "{counts:?}");
        let sum: u32 = shares.iter().map(|(_, share)| share).sum();
        for (name, share) in shares {
            let fair = f64::from(*share) / f64::from(sum);
            let off = f64::from(counts[name]) / 60_000.0 / fair - 1.0;
            assert!(off.abs() <= 0.05, "{name} of {shares:?}: dialogs off by {off:+.4}");
            let off = set.share(name) / fair - 1.0;
            assert!(off.abs() <= 0.04, "{name} of {shares:?}: slots off by {off:+.4}");
        }
    }
}

#[test]
fn a_dead_backend_moves_nobody_elses_dialogs_and_no_survivor_is_overloaded() {
    let names = ["gw1", "gw2", "gw3", "gw4", "gw5", "gw6"];
    let spec = names.map(|name| (name, 10, 100));
    let mut cache = TableCache::default();
    let before = place(&expected(&backends(&spec), &BTreeSet::new(), &mut cache), 60_000);
    for dead in names {
        let after = place(&expected(&backends(&spec), &[dead].into(), &mut cache), 60_000);
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a && *b != dead).count();
        assert_eq!(moved, 0);
        let counts = counts(&after);
        assert_eq!(counts.len(), 5);
        let busiest = counts.values().max().copied().unwrap();
        assert!(f64::from(busiest) <= 1.05 * 60_000.0 / 5.0, "{dead} is down: {counts:?}");
    }
}

#[test]
fn order_and_company_in_the_file_change_no_table() {
    let mut cache = TableCache::default();
    let one = expected(&backends(&[("a", 1, 5), ("b", 1, 7)]), &BTreeSet::new(), &mut cache);
    let two = expected(&backends(&[("b", 3, 7), ("a", 3, 5)]), &BTreeSet::new(), &mut cache);
    assert_eq!(one.table.digest(), two.table.digest());
    assert_eq!(cache.fills(), 1);
    // A spare in another tier shifts member numbers, not dialogs.
    let three = [("a", 1, 5), ("aa-spare", 9, 1), ("b", 1, 7)];
    let three = expected(&backends(&three), &BTreeSet::new(), &mut cache);
    assert_eq!(place(&one, 5_000), place(&three, 5_000));
}

#[test]
fn without_a_usable_member_nobody_is_chosen() {
    let member = SetMember { name: "a".to_owned(), priority: 1, weight: 1, usable: false };
    let set = SetTable::new(vec![member], Balance::CallId, &mut TableCache::default());
    assert_eq!((set.backend(7), set.active_priority, set.share("a")), (None, None, 0.0));
}

#[test]
fn the_backend_of_a_call_id_is_the_one_whose_slot_it_has() {
    let mut trunk = crate::config::model::Service {
        name: "trunk".to_owned(),
        listen: vec!["203.0.113.10:5060".parse().unwrap()],
        transport: crate::config::model::Transport::Udp,
        forward: crate::config::model::Forward::Nat,
        balance: Balance::CallId,
        affinity: crate::config::model::Affinity::Dialog,
        domains: Vec::new(),
        methods: Vec::new(),
        in_dialog_failover: crate::config::model::InDialogFailover::Rehash,
        keepalive: crate::config::model::Keepalive::Absorb,
        malformed: crate::config::model::Malformed::Forward,
        all_down: crate::config::model::AllDown::Reject,
        retry_after: std::time::Duration::from_secs(120),
        spoof_check: crate::config::model::SpoofCheck::Strict,
        backends: backends(&[("b", 10, 1), ("a", 10, 3), ("c", 20, 1)]),
        panic: crate::config::model::PanicMode::Keep,
    };
    let (key, none) = (derive_key("edge-cluster-1"), BTreeSet::new());
    let set = expected(&trunk.backends, &none, &mut TableCache::default());
    let id = "a84b4c76e66710@pc33";
    let chosen = backend_of(&trunk, key, id, &none).unwrap().unwrap();
    let slot = hash::bytes(key, id.as_bytes()) >> 48;
    assert_eq!(set.members[usize::from(set.table.slots()[slot as usize])].name, chosen);
    let others = ["a", "b"].into();
    assert_eq!(backend_of(&trunk, key, id, &others).unwrap().as_deref(), Some("c"));
    assert_eq!(backend_of(&trunk, key, "no id", &none), Err(NotACallId("no id".to_owned())));
    trunk.backends.truncate(1);
    assert_eq!(backend_of(&trunk, key, id, &["b"].into()), Ok(None));
}

#[test]
fn keys_come_from_sha_256() {
    // Computed with Python's hashlib.
    let empty = HashKey { k0: 0x9b92_9d71_002a_b66b, k1: 0xeae5_80fd_b192_8b34 };
    let named = HashKey { k0: 0x9085_b1fe_fd7a_11d6, k1: 0xfedf_b8c8_3788_f60a };
    assert_eq!(derive_key(""), empty);
    assert_eq!(derive_key("edge-cluster-1"), named);
}

#[test]
fn what_cannot_be_a_call_id_has_no_hash() {
    let key = derive_key("");
    for text in ["", " ", "a b", "a\r\n", "a\tb"] {
        assert_eq!(call_id_hash(key, text.as_bytes()), None, "{text:?}");
    }
}

proptest! {
    #[test]
    fn a_call_id_is_hashed_byte_for_byte(k0: u64, k1: u64, id in "[!-~]{1,256}") {
        let key = HashKey { k0, k1 };
        prop_assert_eq!(call_id_hash(key, id.as_bytes()), Some(hash::bytes(key, id.as_bytes())));
    }

    #[test]
    fn beyond_256_bytes_the_first_256_and_the_length_count(id in "[!-~]{257,500}", k0: u64) {
        let key = HashKey { k0, k1: 1 };
        let mut hashed = id.as_bytes()[..256].to_vec();
        hashed.extend((id.len() as u64).to_le_bytes());
        prop_assert_eq!(call_id_hash(key, id.as_bytes()), Some(hash::bytes(key, &hashed)));
    }
}
