//! Loading, pinning, adopting and migrating the program and its maps, in the kernel but attached
//! to nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod pins;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use lb_common::{
    addr::Socket,
    backend::{Binding, Endpoint, endpoint},
    clock::Clock,
    dialog::{self, Entry, State, WAYS},
    index::Slot,
    maps::{Capacities, name},
    service::{Listener, Name},
    stats::BindingStats,
    table,
};
use lb_userspace::{
    datapath::{
        Error,
        detach::{Force, detach},
        inspect::inspect,
        live::{self, Opened, Origin},
        load::Record,
        pins::holder,
        private::Private,
        testrun::{self, Action},
    },
    maps::{Index, LbMaps, Names},
};
use pins::Pins;

const LIMITS: Capacities = Capacities::new(16, 64, 64, 8, 1024);
const TIMEOUT: Duration = Duration::from_secs(3 * 3600);

fn open(pins: &Pins, capacities: &Capacities) -> Opened {
    let mut opened = live::open(pins.path(), capacities).unwrap();
    opened.heart.start(TIMEOUT).unwrap();
    opened
}

fn socket(port: u16) -> Socket {
    Socket::udp(SocketAddr::from(([10, 0, 0, 1], port)))
}

/// A hash whose bits do not depend on each other.
fn hash(n: u64) -> u64 {
    let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn line(table: &[AtomicU64], hash: u64) -> &[AtomicU64] {
    let line = dialog::line(hash, (table.len() / WAYS - 1) as u32) as usize;
    &table[line * WAYS..(line + 1) * WAYS]
}

/// Puts an entry where the datapath would; false if its line is full.
fn learn(table: &[AtomicU64], hash: u64, binding: u16, epoch: u32) -> bool {
    let entry = Entry::new(hash, binding, epoch, State::ConfirmedInvite).0;
    let free = line(table, hash).iter().find(|way| way.load(Ordering::Relaxed) == 0);
    free.is_some_and(|way| {
        way.store(entry, Ordering::Relaxed);
        true
    })
}

/// Looks an entry up as the datapath would.
fn recall(table: &[AtomicU64], hash: u64) -> Option<u16> {
    let ways = line(table, hash).iter().map(|way| Entry(way.load(Ordering::Relaxed)));
    ways.into_iter().find(|entry| entry.has_tag(hash)).map(Entry::binding)
}

#[test]
fn a_private_program_runs_frames_and_counts_them() {
    let mut private = Private::load(&LIMITS, Record::On).unwrap();
    let (verified, load_time) = (private.stats.verified.unwrap(), private.stats.load_time);
    println!("{verified} instructions verified in {load_time:?}");
    assert!(verified > 0);
    assert!(private.stats.map_memory > 1 << 20);
    private.set_time(3 * 256, 43).unwrap();
    for run in 1..=3 {
        let result = private.run(&[0; 64], None).unwrap();
        assert_eq!(result.action, Action::Pass, "a frame that is not IP is not ours");
        assert_eq!(result.frame_out, [0; 64]);
        let counts = private.counters.verdicts().unwrap();
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), run);
    }
    let took = testrun::time(private.program().unwrap(), &[0; 64], None, 1000).unwrap();
    assert!(took < Duration::from_millis(1), "{took:?}");
    // The kernel's own limits are the ones that are promised.
    for len in [testrun::SHORTEST, testrun::LONGEST] {
        assert_eq!(private.run(&vec![0; len], None).unwrap().frame_out.len(), len);
    }
    assert!(matches!(
        private.run(&[0; testrun::LONGEST + 1], None),
        Err(Error::FrameLength { len }) if len == testrun::LONGEST + 1
    ));
    assert!(private.run(&[0; 64], Some(9999)).is_err(), "no such ingress interface");
    assert_eq!(private.run(&[0; 64], Some(1)).unwrap().action, Action::Pass);
}

#[test]
fn every_map_gives_back_what_was_put_into_it() {
    let mut maps = Private::load(&LIMITS, Record::Off).unwrap().maps;
    let listener = Listener { socket: socket(5060), service: 3, ..Listener::default() };
    maps.put_listener(2, &listener).unwrap();
    assert_eq!(maps.listener(2).unwrap(), listener);
    assert_eq!(maps.listener(1).unwrap(), Listener::default());
    let record = Endpoint { socket: socket(5061), state: endpoint::UP, ..Endpoint::default() };
    maps.put_endpoint(64, &record).unwrap();
    assert_eq!(maps.endpoint(64).unwrap(), record);
    let binding = Binding { endpoint: 64, listener: 2, service: 3, ..Binding::default() };
    maps.put_binding(1, &binding).unwrap();
    assert_eq!(maps.binding(1).unwrap(), binding);
    let mut members = [0; table::MEMBERS];
    members[254] = 7;
    maps.put_members(1, &members).unwrap();
    assert_eq!(maps.members(1).unwrap(), members);
    let mut slots = Box::new([255; table::SLOTS]);
    slots[65_535] = 9;
    maps.put_table(3, &slots).unwrap();
    assert_eq!(maps.table(3).unwrap(), slots);
    // The values of this map are four bytes, eight bytes apart.
    for id in 0..LIMITS.choices as u16 {
        maps.put_choice(id, u32::from(id) << 16 | 5).unwrap();
    }
    for id in 0..LIMITS.choices as u16 {
        assert_eq!(maps.choice(id).unwrap(), u32::from(id) << 16 | 5);
    }
    assert!(maps.put_choice(LIMITS.choices as u16, 1).is_err());
    assert!(maps.choice(LIMITS.choices as u16).is_err());
    maps.touch(16, &[0, 65_535], 9).unwrap();
    let touched = maps.touched(16).unwrap();
    assert_eq!((touched[0], touched[1], touched[65_535]), (9, 0, 9));
    assert!(maps.touched(15).unwrap().iter().all(|&byte| byte == 0));
    assert!(maps.touch(17, &[0], 1).is_err());
    for index in Index::ALL {
        let slot = Slot { socket: socket(1), id: 1, pad: 0 };
        let rows = index.slots(&LIMITS);
        maps.put_slot(index, rows - 1, &slot).unwrap();
        let slots = maps.slots(index).unwrap();
        assert_eq!((slots.len() as u32, slots[slots.len() - 1]), (rows, slot));
        assert!(maps.put_slot(index, rows, &slot).is_err(), "{index:?}");
    }
    for names in [Names::Services, Names::Sets, Names::Backends] {
        maps.put_name(names, 1, &Name::new(names.map())).unwrap();
    }
    assert_eq!(maps.name(Names::Sets, 1).unwrap().as_bytes(), b"SET_NAMES");
    assert!(maps.put_listener(LIMITS.listeners as u16, &listener).is_err());
}

#[test]
fn an_id_beyond_a_map_is_told_with_the_map() {
    let maps = Private::load(&LIMITS, Record::Off).unwrap().maps;
    let error = maps.binding(65).unwrap_err();
    assert_eq!((error.map, error.id), (name::BINDINGS, 65));
}

#[test]
fn the_heartbeat_follows_the_kernels_clock() {
    let pins = Pins::new();
    let mut heart = open(&pins, &LIMITS).heart;
    let (begin, first) = (Instant::now(), heart.beat().unwrap());
    thread::sleep(Duration::from_millis(200));
    let passed = heart.beat().unwrap() - first;
    let expected = live_hz() * begin.elapsed().as_millis() as u64 / 1000;
    assert!(passed.abs_diff(expected) <= 3, "{passed} jiffies passed, not {expected}");
    assert_eq!(heart.now().unwrap().epoch, 0);
    assert_eq!(heart.now().unwrap().lifetime, 43);
}

#[test]
fn adopted_maps_keep_their_clock_and_get_the_new_lifetime() {
    let pins = Pins::new();
    drop(open(&pins, &LIMITS));
    let path = generation(pins.path()).join(name::CLOCK);
    let map = Map::Array(MapData::from_pin(path).unwrap());
    let mut map = Array::<_, Clock>::try_from(map).unwrap();
    let mut clock = map.get(&0, 0).unwrap();
    // Ten epochs and a half ago.
    clock.base -= live_hz() * (10 * 256 + 128);
    map.set(0, clock, 0).unwrap();

    let mut heart = live::open(pins.path(), &LIMITS).unwrap().heart;
    heart.start(Duration::from_secs(2 * 256)).unwrap();
    let now = heart.now().unwrap();
    assert_eq!((now.epoch, now.lifetime), (10, 2));
    assert_eq!(map.get(&0, 0).unwrap(), Clock { lifetime: 2, ..clock });
}

#[test]
fn a_pin_directory_with_a_dot_is_refused_before_the_kernel_does() {
    let path = Path::new(pins::BPFFS).join("sip-lb.test");
    let error = live::open(&path, &LIMITS).unwrap_err();
    assert!(matches!(error, Error::DotInPinDir { .. }), "{error}");
}

/// Jiffies in a second, as the loader counts them.
fn live_hz() -> u64 {
    lb_userspace::datapath::clock::Heart::jiffies(Duration::from_secs(1)).unwrap()
}

#[test]
fn a_second_instance_is_refused_with_the_pid_of_the_first() {
    let pins = Pins::new();
    let first = open(&pins, &LIMITS);
    let error = live::open(pins.path(), &LIMITS).unwrap_err();
    let me = std::process::id();
    assert!(matches!(error, Error::Locked { pid: Some(pid), .. } if pid == me), "{error}");
    assert!(error.to_string().contains(&format!("pid {me}")), "{error}");
    assert_eq!(holder(pins.path()).unwrap(), Some(me));
    drop(first);
    assert_eq!(holder(pins.path()).unwrap(), None);
    assert_eq!(open(&pins, &LIMITS).origin, Origin::Adopted);
}

#[test]
fn maps_and_program_are_adopted_as_they_were_left() {
    let pins = Pins::new();
    let mut first = open(&pins, &LIMITS);
    assert_eq!(first.origin, Origin::Fresh);
    assert!(first.stats.is_some());
    let listener = Listener { socket: socket(5060), service: 1, ..Listener::default() };
    first.maps.put_listener(1, &listener).unwrap();
    first.maps.put_choice(1, 77).unwrap();
    assert!(learn(first.dialogs.entries(), hash(1), 3, 0));
    let program = first.live.program_id();
    drop(first);

    let second = open(&pins, &LIMITS);
    assert_eq!(second.origin, Origin::Adopted);
    assert_eq!(second.stats, None, "nothing was loaded");
    assert_eq!(second.live.program_id(), program);
    assert_eq!(second.maps.listener(1).unwrap(), listener);
    assert_eq!(second.maps.choice(1).unwrap(), 77);
    assert_eq!(recall(second.dialogs.entries(), hash(1)), Some(3));
}

/// Fills the maps as a controller would, with as many dialogs as fit.
fn fill(opened: &mut Opened) -> Vec<u64> {
    let maps = &mut opened.maps;
    for id in 1..=40 {
        let listener = Listener { socket: socket(id), service: 1, ..Listener::default() };
        maps.put_listener(id, &listener).unwrap();
        let binding = Binding { endpoint: 1, listener: 1, service: 1, ..Binding::default() };
        maps.put_binding(id, &binding).unwrap();
    }
    let rows = Index::Listeners.slots(&maps.capacities());
    for id in 1..=40 {
        let first = lb_common::index::first(&socket(id), rows - 1);
        let row = (0..8).map(|probe| (first + probe) & (rows - 1));
        let free = row
            .into_iter()
            .find(|&row| maps.slots(Index::Listeners).unwrap()[row as usize].id == 0);
        maps.put_slot(Index::Listeners, free.unwrap(), &Slot { socket: socket(id), id, pad: 0 })
            .unwrap();
    }
    maps.put_choice(1, table::choice(2, 3)).unwrap();
    maps.put_choice(2, table::choice(16, 3)).unwrap();
    maps.touch(1, &[500], 9).unwrap();
    (0..1000)
        .map(hash)
        .filter(|&hash| learn(opened.dialogs.entries(), hash, binding_of(hash), 0))
        .collect()
}

fn binding_of(hash: u64) -> u16 {
    (hash % 40) as u16 + 1
}

fn index_of(opened: &Opened, port: u16) -> Option<u16> {
    let slots = opened.maps.slots(Index::Listeners).unwrap();
    let mask = slots.len() as u32 - 1;
    let first = lb_common::index::first(&socket(port), mask);
    (0..8)
        .map(|probe| slots[((first + probe) & mask) as usize])
        .find(|slot| slot.id != 0 && lb_common::index::holds(slot, &socket(port)))
        .map(|slot| slot.id)
}

#[test]
fn other_capacities_keep_ids_indices_and_dialogs() {
    let pins = Pins::new();
    let mut small = open(&pins, &LIMITS);
    let dialogs = fill(&mut small);
    assert!(dialogs.len() > 950, "{}", dialogs.len());
    drop(small);

    let larger = Capacities::new(32, 128, 128, 16, 8192);
    let mut large = open(&pins, &larger);
    let Origin::Migrated(relined) = large.origin else { panic!("{:?}", large.origin) };
    assert_eq!((relined.moved, relined.copies), (dialogs.len() as u64, 8));
    assert_eq!((relined.overflowed, relined.without_binding), (0, 0));
    assert_eq!(large.maps.capacities(), larger);
    for &hash in &dialogs {
        assert_eq!(recall(large.dialogs.entries(), hash), Some(binding_of(hash)));
    }
    for id in 1..=40 {
        assert_eq!(index_of(&large, id), Some(id));
        assert_eq!(large.maps.listener(id).unwrap().socket, socket(id));
    }
    assert_eq!(large.maps.choice(1).unwrap(), table::choice(2, 3));
    assert_eq!(large.maps.touched(1).unwrap()[500], 9);
    // What the old program learns until the links are moved.
    let late = hash(5000);
    learn_by_old_program(pins.path(), late, 7);
    assert_eq!(recall(large.dialogs.entries(), late), None);
    large.live.finish().unwrap();
    assert_eq!(recall(large.dialogs.entries(), late), Some(7));
    drop(large);
    assert_eq!(generations(pins.path()), 1);

    // Back again, and with too few bindings and tables.
    let fewer = Capacities::new(16, 64, 20, 4, 1024);
    let small = open(&pins, &fewer);
    let Origin::Migrated(relined) = small.origin else { panic!("{:?}", small.origin) };
    let kept = dialogs.iter().filter(|&&hash| binding_of(hash) <= 20).count();
    assert!(kept > 300 && kept < dialogs.len());
    assert_eq!(relined.overflowed, 0, "what fitted before fits again");
    for &hash in &dialogs {
        let expected = Some(binding_of(hash)).filter(|&binding| binding <= 20);
        assert_eq!(recall(small.dialogs.entries(), hash), expected);
    }
    assert_eq!(small.maps.choice(1).unwrap(), table::choice(2, 3));
    assert_eq!(small.maps.choice(2).unwrap(), 0, "its table is not there any more");
}

/// Puts an entry into the table of the former generation.
fn learn_by_old_program(pin_dir: &Path, hash: u64, binding: u16) {
    let old = generation_paths(pin_dir).find(|path| path.to_str().unwrap().ends_with("-old"));
    let map = MapData::from_pin(old.unwrap().join(name::DIALOGS)).unwrap();
    let mut map = Array::<_, dialog::Line>::try_from(Map::Array(map)).unwrap();
    let row = dialog::line(hash, map.len() - 1);
    let mut line = map.get(&row, 0).unwrap();
    let free = line.iter_mut().find(|entry| **entry == 0).unwrap();
    *free = Entry::new(hash, binding, 0, State::ConfirmedInvite).0;
    map.set(row, line, 0).unwrap();
}

fn generations(pin_dir: &Path) -> usize {
    generation_paths(pin_dir).count()
}

/// The only generation.
fn generation(pin_dir: &Path) -> PathBuf {
    let [path] = &generation_paths(pin_dir).collect::<Vec<_>>()[..] else { panic!("several") };
    path.clone()
}

fn generation_paths(pin_dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(pin_dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('v'))
}

#[test]
fn maps_of_an_older_layout_are_carried_over() {
    let pins = Pins::new();
    let mut first = open(&pins, &LIMITS);
    let dialogs = fill(&mut first);
    drop(first);
    rename_generation(pins.path(), "v00000000000000aa");

    let mut second = open(&pins, &LIMITS);
    assert!(matches!(second.origin, Origin::Migrated(_)), "{:?}", second.origin);
    for &hash in &dialogs {
        assert_eq!(recall(second.dialogs.entries(), hash), Some(binding_of(hash)));
    }
    assert_eq!(generations(pins.path()), 2, "the old one stays until no link runs it");
    second.live.finish().unwrap();
    assert_eq!(generations(pins.path()), 1);
}

fn rename_generation(pin_dir: &Path, to: &str) {
    std::fs::rename(generation(pin_dir), pin_dir.join(to)).unwrap();
}

#[test]
fn maps_of_an_older_layout_that_cannot_be_read_are_replaced_by_empty_ones() {
    let pins = Pins::new();
    let mut first = open(&pins, &LIMITS);
    fill(&mut first);
    drop(first);
    let old = pins.path().join("v00000000000000aa");
    rename_generation(pins.path(), "v00000000000000aa");
    // An entry of another size under a known name.
    std::fs::rename(old.join(name::BINDINGS), old.join("swap")).unwrap();
    std::fs::rename(old.join(name::ENDPOINTS), old.join(name::BINDINGS)).unwrap();
    std::fs::rename(old.join("swap"), old.join(name::ENDPOINTS)).unwrap();

    let mut second = open(&pins, &LIMITS);
    assert_eq!(second.origin, Origin::Fresh);
    assert_eq!(second.maps.listener(1).unwrap(), Listener::default());
    second.live.finish().unwrap();
    assert_eq!(generations(pins.path()), 1);
}

#[test]
fn pinned_maps_can_be_looked_at_whoever_holds_them() {
    let pins = Pins::new();
    assert!(inspect(pins.path()).unwrap().is_none());
    let mut opened = open(&pins, &LIMITS);
    opened.maps.put_choice(1, 77).unwrap();
    assert!(learn(opened.dialogs.entries(), hash(1), 3, 0));
    let mut holder = Some(opened);
    for held in [true, false] {
        if !held {
            holder.take();
        }
        let seen = inspect(pins.path()).unwrap().unwrap();
        assert_eq!(seen.maps.capacities(), LIMITS, "held: {held}");
        assert_eq!(seen.maps.choice(1).unwrap(), 77, "held: {held}");
        assert_eq!(recall(seen.dialogs.entries(), hash(1)), Some(3), "held: {held}");
        assert_eq!(seen.counters.binding(1).unwrap(), BindingStats::default(), "held: {held}");
    }
    rename_generation(pins.path(), "v00000000000000aa");
    let error = inspect(pins.path()).unwrap_err();
    assert!(matches!(error, Error::OtherLayout { .. }), "{error}");
}

#[test]
fn what_a_crash_left_half_made_does_not_matter() {
    let pins = Pins::new();
    let mut first = open(&pins, &LIMITS);
    let dialogs = fill(&mut first);
    drop(first);
    let current = generation(pins.path());
    let named = |suffix: &str| {
        let mut name = current.file_name().unwrap().to_owned();
        name.push(suffix);
        pins.path().join(name)
    };
    // Killed while it made new maps, ...
    std::fs::create_dir(named("-new")).unwrap();
    let second = open(&pins, &LIMITS);
    assert_eq!(second.origin, Origin::Adopted);
    assert!(!named("-new").exists());
    drop(second);
    // ... and between the two renames that put them in place.
    std::fs::rename(&current, named("-old")).unwrap();
    let third = open(&pins, &LIMITS);
    assert_eq!(third.origin, Origin::Adopted);
    assert_eq!(recall(third.dialogs.entries(), dialogs[0]), Some(binding_of(dialogs[0])));
}

#[test]
fn detach_removes_every_pin_and_may_be_repeated() {
    let pins = Pins::new();
    let opened = open(&pins, &LIMITS);
    std::fs::create_dir(pins.path().join("v00000000000000aa")).unwrap();
    assert!(matches!(detach(pins.path(), Force::No), Err(Error::Locked { .. })));
    assert!(pins.path().join("links").exists(), "a refusal removes nothing");
    drop(opened);
    assert_eq!(detach(pins.path(), Force::No).unwrap(), []);
    assert!(!pins.path().exists());
    assert_eq!(detach(pins.path(), Force::No).unwrap(), []);
}

#[test]
fn detach_leaves_what_is_not_ours() {
    let pins = Pins::new();
    drop(open(&pins, &LIMITS));
    let other = pins.path().join("other");
    std::fs::create_dir(&other).unwrap();
    detach(pins.path(), Force::No).unwrap();
    assert!(other.exists());
    assert_eq!(std::fs::read_dir(pins.path()).unwrap().count(), 1);
}
