//! The life of the program on kernel 6.1: loaded, pinned, attached, adopted, migrated, taken off.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod pins;
mod world;

use std::{path::PathBuf, process::Command};

use lb_common::{
    maps::Capacities,
    service::Listener,
    table,
    verdict::Verdict,
    watch::{Filter, Filters, wants},
};
use lb_tests::{
    message::{Message, Method},
    packet::Packet,
    qemu::{network_modules, run_in_kernel},
};
use lb_userspace::{
    config::model::XdpMode,
    datapath::{
        Error,
        attach::{Change, attached},
        detach::{Force, detach},
        interfaces::{self, Mode},
        live::{self, Origin},
        load::{Record, Watch},
        private::Private,
        testrun::{self, Action},
    },
    maps::LbMaps as _,
};
use pins::Pins;
use world::{ONE_SERVICE, World, client, vip};

const LIMITS: Capacities = Capacities::new(16, 64, 64, 8, 1024);
const LARGER: Capacities = Capacities::new(16, 64, 64, 8, 4096);

/// In the order in which they can be loaded.
const MODULES: [&str; 1] = ["veth"];

/// Set in the guest, where this program runs a second time.
const IN_GUEST: &str = "SIP_LB_IN_GUEST";

/// What the guest runs, by name.
const CASES: [(&str, fn()); 5] = [
    ("private", loads_and_runs_frames),
    ("watched", shows_packets_while_somebody_watches),
    ("forwards", forwards_a_call_in_both_directions),
    ("pinned", is_pinned_attached_adopted_and_migrated),
    ("foreign", leaves_foreign_programs_and_forgets_vanished_interfaces),
];

#[test]
fn the_program_lives_on_kernel_6_1_as_on_this_one() {
    if std::env::var_os(IN_GUEST).is_some() {
        for (name, case) in CASES {
            case();
            println!("guest: {name}: proven");
        }
        return;
    }
    let program = std::env::current_exe().unwrap();
    let ip = PathBuf::from(run("which", &["ip"]).trim());
    let modules = network_modules(&MODULES).unwrap();
    let places: Vec<String> = MODULES.iter().map(|name| format!("/modules/{name}.ko")).collect();
    let mut files = vec![(program, "/bin/guest"), (ip, "/usr/sbin/ip")];
    files.extend(modules.into_iter().zip(places.iter().map(String::as_str)));
    let command = format!(
        "for module in {}; do insmod $module || exit 9; done
        {IN_GUEST}=1 guest --nocapture 2>&1",
        places.join(" ")
    );
    let output = run_in_kernel(&files, &command).unwrap();
    assert_eq!(output.status, 0, "{}\n{}", output.stdout, output.console);
    for (name, _) in CASES {
        assert!(output.stdout.contains(&format!("guest: {name}: proven")), "{}", output.stdout);
    }
    for line in output.stdout.lines().filter(|line| line.contains("verified")) {
        println!("{line}");
    }
}

/// An INVITE reaches a backend, the answer leaves as from the VIP, a BYE follows the dialog.
fn forwards_a_call_in_both_directions() {
    let mut world = World::new(ONE_SERVICE);
    let invite = Message::invite("old@kernel").build();
    let run = world.client_sends(client(10), vip(), &invite);
    assert_eq!((run.verdict, run.action), (Verdict::NewDialog, Action::Tx));
    let backend = run.destination();
    assert_eq!(run.frame().payload(), invite);
    let answer = Message::response(200, Method::Invite, "old@kernel").build();
    let back = world.backend_sends(backend, client(10), &answer);
    assert_eq!(back.verdict, Verdict::Response);
    assert_eq!((back.frame().source(), back.frame().destination()), (vip(), client(10)));
    let bye = Message::request(Method::Bye, "old@kernel").to_tag("callee").build();
    let run = world.client_sends(client(10), vip(), &bye);
    assert_eq!((run.verdict, run.destination()), (Verdict::Dialog, backend));
    println!("forwards: {} verified instructions", world.program.stats.verified.unwrap_or(0));
}

/// The other build of the program, in place of the live one, and back.
fn shows_packets_while_somebody_watches() {
    add_veth();
    let pins = Pins::new();
    let mut opened = live::open(pins.path(), &LIMITS).unwrap();
    opened.live.attach("v0", XdpMode::Native).unwrap();
    let id = opened.live.program_id();
    let loaded = opened.live.plan_watch(LIMITS).load().unwrap();
    let rings = opened.live.watch(loaded).unwrap();
    assert!(!rings.is_empty() && opened.live.is_watching());
    assert_eq!(programs("v0"), [(Mode::Native, opened.live.program_id())]);
    assert_ne!(opened.live.program_id(), id);
    opened.live.unwatch().unwrap();
    assert_eq!(programs("v0"), [(Mode::Native, id)]);
    ip("link del v0");

    let mut world = World::load_as(ONE_SERVICE, Record::Off, Watch::On);
    let verified = world.program.stats.verified.unwrap_or(0);
    println!("watching: {verified} verified instructions");
    let all = Filter { wants: wants::PACKETS, ..Filter::default() };
    let mut filters = Filters::default();
    filters[0] = all;
    world.program.watch.set(&filters).unwrap();
    let frame = Packet::udp(client(10), vip(), Message::invite("w@kernel").build()).build();
    let run = world.run_bytes(&frame);
    let mut shown = Vec::new();
    world.program.drain_watched(|sample| shown.push((sample.came, sample.left)));
    assert_eq!(shown, [(frame, run.bytes)]);
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn ip(command: &str) {
    run("ip", &command.split(' ').collect::<Vec<_>>());
}

fn add_veth() {
    ip("link add v0 type veth peer name v1");
    ip("link set v0 up");
    ip("link set v1 up");
}

/// The programs on an interface, as the kernel tells.
fn programs(interface: &str) -> Vec<(Mode, u32)> {
    interfaces::find(interface).unwrap().programs
}

fn loads_and_runs_frames() {
    let live = Private::load(&LIMITS, Record::Off).unwrap().stats;
    println!("{} instructions verified in {:?}", live.verified.unwrap(), live.load_time);
    let mut private = Private::load(&LIMITS, Record::On).unwrap();
    for len in [testrun::SHORTEST, testrun::LONGEST] {
        assert_eq!(private.run(&vec![0; len], None).unwrap().action, Action::Pass);
    }
    let counts = private.counters.verdicts().unwrap();
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 2);
}

fn is_pinned_attached_adopted_and_migrated() {
    add_veth();
    let pins = Pins::new();
    let mut first = live::open(pins.path(), &LIMITS).unwrap();
    assert_eq!(first.origin, Origin::Fresh);
    let listener = Listener { service: 7, ..Listener::default() };
    first.maps.put_listener(3, &listener).unwrap();
    first.maps.put_choice(5, table::choice(2, 3)).unwrap();
    first.heart.beat().unwrap();
    assert_eq!(first.live.attach("v0", XdpMode::Native).unwrap(), Change::Attached(Mode::Native));
    let error = live::open(pins.path(), &LIMITS).unwrap_err();
    let me = std::process::id();
    assert!(matches!(error, Error::Locked { pid: Some(pid), .. } if pid == me), "{error}");
    let id = first.live.program_id();
    drop(first);

    assert_eq!(programs("v0"), [(Mode::Native, id)]);
    let mut second = live::open(pins.path(), &LIMITS).unwrap();
    assert_eq!((second.origin, second.live.program_id()), (Origin::Adopted, id));
    assert_eq!(second.live.attach("v0", XdpMode::Auto).unwrap(), Change::Kept(Mode::Native));
    drop(second);

    let mut larger = live::open(pins.path(), &LARGER).unwrap();
    assert!(matches!(larger.origin, Origin::Migrated(_)), "{:?}", larger.origin);
    assert_eq!(larger.maps.listener(3).unwrap(), listener);
    assert_eq!(larger.maps.choice(5).unwrap(), table::choice(2, 3));
    assert_eq!(larger.live.attach("v0", XdpMode::Native).unwrap(), Change::Replaced(Mode::Native));
    larger.live.finish().unwrap();
    assert_eq!(programs("v0"), [(Mode::Native, larger.live.program_id())]);
    drop(larger);

    assert_eq!(detach(pins.path(), Force::No).unwrap().len(), 1);
    assert_eq!(programs("v0"), []);
    assert!(!pins.path().exists());
    ip("link del v0");
}

fn leaves_foreign_programs_and_forgets_vanished_interfaces() {
    add_veth();
    let (theirs, ours) = (Pins::new(), Pins::new());
    let mut other = live::open(theirs.path(), &LIMITS).unwrap();
    other.live.attach("v0", XdpMode::Native).unwrap();
    let mut live = live::open(ours.path(), &LIMITS).unwrap().live;
    let error = live.attach("v0", XdpMode::Auto).unwrap_err();
    let foreign = other.live.program_id();
    assert!(matches!(error, Error::ForeignProgram { program, .. } if program == foreign));
    assert_eq!(programs("v0"), [(Mode::Native, foreign)]);

    live.attach("v1", XdpMode::Generic).unwrap();
    ip("link del v0");
    assert_eq!(attached(ours.path()).unwrap()[0].ifindex, 0);
    assert_eq!(live.remove_vanished().unwrap(), 1);
    add_veth();
    live.attach("v1", XdpMode::Generic).unwrap();
}
