//! What a packet costs: `cargo xtask bench`.
//!
//! Every case is run in turn with an empty program, with a floor that only parses and sends back,
//! and with the balancer, all fed by the same program; the difference to the empty one is shown.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool that may fail loudly")]

#[path = "../tests/world/mod.rs"]
mod world;

use std::{collections::BTreeMap, path::PathBuf};

use aya::{
    Ebpf, Pod,
    maps::{Array, ProgramArray},
    programs::Xdp,
};
use lb_tests::{
    message::{Message, Method},
    net::{backend_mac, edge_mac},
    packet::Packet,
};
use lb_userspace::{
    datapath::{load::Record, testrun},
    maps::LbMaps as _,
};
use world::{World, client, vip};

/// Runs of a program at each measurement.
const REPEAT: u32 = 100_000;
const WORDS: usize = 184;
const MILLION: u32 = 1 << 20;

#[repr(C)]
#[derive(Clone, Copy)]
struct Feed {
    words: u32,
    letters: u32,
    frame: [u64; WORDS],
}
// SAFETY: `repr(C)` of integers without padding.
unsafe impl Pod for Feed {}

#[repr(C)]
#[derive(Clone, Copy)]
struct Plan {
    runs: u64,
    dialogs: u32,
    messages: u32,
}
// SAFETY: `repr(C)` of integers without padding.
unsafe impl Pod for Plan {}

/// One kind of traffic.
struct Case {
    name: &'static str,
    /// A power of two of them.
    frames: Vec<Vec<u8>>,
    dialogs: u32,
    /// One of so many slots has been touched lately, 0 = none.
    touched: usize,
    /// Each dialog is seen once before.
    warm: bool,
    must: Option<u32>,
    goal: Option<u32>,
}

/// What a phone offers.
const SDP: &str = "v=0\r\no=caller 2890844526 2890844526 IN IP4 198.51.100.10\r\ns=-\r\n\
    c=IN IP4 198.51.100.10\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0 8 97 101\r\na=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:8 PCMA/8000\r\na=rtpmap:97 iLBC/8000\r\na=rtpmap:101 telephone-event/8000\r\n\
    a=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n";

/// Replaced by the letters that number the dialog.
const LETTERS: &[u8] = b"LLLLLLLL";

fn call_id(n: usize) -> String {
    format!("{:0width$}-LLLLLLLL@pc{n}.atlanta.example", n * 7919, width = 4 + n % 13)
}

fn frame(message: &Message) -> Vec<u8> {
    Packet::udp(client(10), vip(), message.build()).build()
}

/// Messages that differ in the order, the length and the number of what stands before the Call-ID.
fn different(method: Method) -> Vec<Vec<u8>> {
    (0..256)
        .map(|n: usize| {
            let mut message = Message::request(method, &call_id(n));
            for h in 0..n % 5 {
                message = message
                    .header(&format!("X-Header-{h}"), &"v".repeat(8 + (n * 31 + h * 17) % 50));
            }
            if n.is_multiple_of(3) {
                message = message.call_id_last();
            }
            frame(&message.size(700 + (n * 37) % 200))
        })
        .collect()
}

fn cases() -> Vec<Case> {
    let case = |name, frames, dialogs, must, goal| Case {
        name,
        frames,
        dialogs,
        touched: 0,
        warm: true,
        must,
        goal,
    };
    let invite = vec![frame(&Message::invite(&call_id(1)).body("application/sdp", SDP).size(900))];
    // A dialog of its own: another backend may own that of the INVITE.
    let answer = Message::response(200, Method::Invite, &call_id(1_000)).size(550).build();
    let answer = Packet::udp("10.0.1.201:5060".parse().unwrap(), client(10), answer)
        .macs(backend_mac(1), edge_mac(0))
        .build();
    let foreign =
        Packet::udp(client(10), "203.0.113.10:9".parse().unwrap(), vec![b'x'; 800]).build();
    let without = frame(&Message::request(Method::Options, "x").without_call_id().size(1400));
    vec![
        case("not ours, 800 B", vec![foreign], 1, Some(5), Some(2)),
        case("INVITE 900 B, pinned, one hot", invite.clone(), 1, Some(90), Some(55)),
        Case {
            warm: false,
            ..case("INVITE 900 B, new each time", invite, u32::MAX, Some(140), Some(90))
        },
        case("256 different PRACKs, hot", different(Method::Prack), 256, Some(130), Some(85)),
        case("256 different INVITEs, hot", different(Method::Invite), 256, None, None),
        case(
            "PRACKs of 1 M dialogs, 0 % touched",
            different(Method::Prack),
            MILLION,
            Some(220),
            Some(110),
        ),
        Case {
            touched: 2,
            ..case(
                "PRACKs of 1 M dialogs, 50 % touched",
                different(Method::Prack),
                MILLION,
                Some(220),
                Some(150),
            )
        },
        Case {
            touched: 1,
            ..case(
                "PRACKs of 1 M dialogs, 100 % touched",
                different(Method::Prack),
                MILLION,
                Some(220),
                Some(190),
            )
        },
        case("INVITEs of 1 M dialogs", different(Method::Invite), MILLION, None, None),
        case("backend to client, 550 B, learned", vec![answer], 1, Some(220), Some(110)),
        case("1,400 B without Call-ID", vec![without], 1, Some(130), Some(70)),
    ]
}

const FARM: &str = "
interfaces: [lo]
hash_key: bench
dialogs: { max: 1048576 }
services:
  - name: trunk
    listen: [\"203.0.113.10:5060\"]
    backends:
      - { name: gw1, address: \"10.0.1.201:5060\" }
      - { name: gw2, address: \"10.0.1.202:5060\" }
      - { name: gw3, address: \"10.0.1.203:5060\" }
      - { name: gw4, address: \"10.0.1.204:5060\" }
";

struct Bench {
    world: World,
    ebpf: Ebpf,
}

impl Bench {
    fn new() -> Self {
        let mut ebpf = Ebpf::load(testrun::FEED).unwrap();
        for name in ["feed", "empty", "floor"] {
            let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        Self { world: World::load(FARM, Record::Off), ebpf }
    }

    /// Loads the messages of a case; returns the length of its frames.
    fn prepare(&mut self, case: &Case) -> usize {
        let longest = case.frames.iter().map(Vec::len).max().unwrap().next_multiple_of(8);
        let mut messages: Array<_, Feed> =
            self.ebpf.map_mut("MESSAGES").unwrap().try_into().unwrap();
        for (row, frame) in (0..).zip(&case.frames) {
            let mut feed = Feed { words: 0, letters: 0, frame: [0; WORDS] };
            feed.words = frame.len().div_ceil(8) as u32;
            for (word, bytes) in feed.frame.iter_mut().zip(frame.chunks(8)) {
                let mut padded = [0; 8];
                padded[..bytes.len()].copy_from_slice(bytes);
                *word = u64::from_ne_bytes(padded);
            }
            if let Some(at) = frame.windows(8).position(|window| window == LETTERS) {
                feed.letters = at as u32;
            }
            messages.set(row, feed, 0).unwrap();
        }
        let all: Vec<u16> = (0..=u16::MAX).collect();
        self.world.program.maps.touch(1, &all, 0).unwrap();
        if case.touched != 0 {
            let some: Vec<u16> = all.into_iter().step_by(case.touched).collect();
            self.world.program.maps.touch(1, &some, 1).unwrap();
        }
        longest
    }

    fn plan(&mut self, case: &Case) {
        let mut plan: Array<_, Plan> = self.ebpf.map_mut("PLAN").unwrap().try_into().unwrap();
        let runs = plan.get(&0, 0).unwrap().runs;
        let dialogs = case.dialogs.checked_next_power_of_two().map_or(u32::MAX, |n| n - 1);
        let messages = case.frames.len() as u32 - 1;
        plan.set(0, Plan { runs, dialogs, messages }, 0).unwrap();
    }

    /// Nanoseconds of a run of `feed` with the program `next` behind it.
    fn time(&mut self, next: &str, len: usize, repeat: u32) -> f64 {
        let fd = match next {
            "sip_lb" => self.world.program.program().unwrap().fd().unwrap().try_clone().unwrap(),
            name => {
                let program: &Xdp = self.ebpf.program(name).unwrap().try_into().unwrap();
                program.fd().unwrap().try_clone().unwrap()
            }
        };
        let mut array: ProgramArray<_> = self.ebpf.map_mut("NEXT").unwrap().try_into().unwrap();
        array.set(0, &fd, 0).unwrap();
        let feed: &Xdp = self.ebpf.program("feed").unwrap().try_into().unwrap();
        testrun::time(feed, &vec![0; len], None, repeat).unwrap().as_nanos() as f64
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.get(at + 1).cloned()
    };
    let rounds: usize = option("--rounds").map_or(11, |n| n.parse().unwrap());
    let json: Option<PathBuf> = option("--json").map(Into::into);

    let mut bench = Bench::new();
    let stats = bench.world.program.stats;
    println!(
        "sip_lb: {} verified instructions, loaded in {} ms, {} bytes of machine code",
        stats.verified.unwrap_or(0),
        stats.load_time.as_millis(),
        stats.jited
    );
    let mut cases = cases();
    if let Some(only) = option("--only") {
        cases.retain(|case| case.name.contains(&only));
        assert!(!cases.is_empty(), "no row is called like `{only}`");
    }
    let mut figures: BTreeMap<(usize, &str), Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        eprint!("\rround {round} of {rounds}");
        for (index, case) in cases.iter().enumerate() {
            let len = bench.prepare(case);
            bench.plan(case);
            if case.warm {
                bench.time("sip_lb", len, case.dialogs.max(1000));
            }
            for program in ["empty", "floor", "sip_lb"] {
                let time = bench.time(program, len, REPEAT);
                figures.entry((index, program)).or_default().push(time);
            }
        }
    }
    eprintln!();
    println!("nanoseconds a packet above an empty program; median and minimum of {rounds} rounds");
    println!(
        "{:<40} {:>7} {:>7} {:>7} {:>7} {:>6} {:>6}",
        "", "floor", "min", "sip_lb", "min", "must", "goal"
    );
    let mut rows = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let empty = figures[&(index, "empty")].clone();
        let above = |program: &'static str| -> (f64, f64) {
            let mut net: Vec<f64> =
                figures[&(index, program)].iter().zip(&empty).map(|(t, e)| t - e).collect();
            let least = |v: &[f64]| v.iter().copied().fold(f64::MAX, f64::min);
            (median(&mut net), least(&figures[&(index, program)]) - least(&empty))
        };
        let (floor, floor_min) = above("floor");
        let (ours, ours_min) = above("sip_lb");
        let show = |bound: Option<u32>| bound.map_or("-".to_owned(), |ns| ns.to_string());
        println!(
            "{:<40} {floor:>7.0} {floor_min:>7.0} {ours:>7.0} {ours_min:>7.0} {:>6} {:>6}",
            case.name,
            show(case.must),
            show(case.goal)
        );
        rows.push(serde_json::json!({
            "case": case.name, "floor": floor, "floor_min": floor_min, "sip_lb": ours,
            "sip_lb_min": ours_min, "must": case.must, "goal": case.goal,
        }));
    }
    if let Some(file) = json {
        let report = serde_json::json!({
            "unit": "ns above an empty program", "rounds": rounds, "repeat": REPEAT,
            "verified_instructions": stats.verified, "load_ms": stats.load_time.as_millis() as u64,
            "cases": rows,
        });
        std::fs::write(&file, format!("{report:#}\n")).unwrap();
        println!("written to {}", file.display());
    }
}
