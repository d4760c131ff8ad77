//! Captures for tests of `replay`, written by code that shares nothing with what reads them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use lb_userspace::cli::{
    replay::{self, ReplayArgs},
    route::{self, RouteArgs},
};
use serde_json::Value;

pub(crate) const CONFIG: &str = r#"
interfaces: [does-not-exist0]
hash_key: "replay tests"
dialogs: { max: 65536, timeout: 1h }
limits: { services: 4, endpoints: 32, bindings: 64, tables: 8, fragments: 16 }
services:
  - name: trunk
    listen: ["203.0.113.10:5060", "203.0.113.10:5080"]
    backends:
      - { name: gw1, address: "10.0.1.1:5060", priority: 10, weight: 100 }
      - { name: gw2, address: "10.0.1.2:5060", priority: 10, weight: 100 }
      - { name: gw3, address: "10.0.1.3:5070", priority: 10, weight: 200 }
      - { name: spare, address: "10.0.2.1:5060", priority: 20 }
  - name: six
    listen: "[2001:db8::10]:5060"
    backends:
      - { name: a, address: "[2001:db8:1::1]:5060" }
      - { name: b, address: "[2001:db8:1::2]:5060", health: { initial: down } }
"#;

/// A directory that goes with the test.
pub(crate) struct Workplace {
    path: PathBuf,
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Workplace {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sip-lb-replay-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("config.yaml"), CONFIG).unwrap();
        Self { path }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn args(&self, capture: &Path) -> ReplayArgs {
        ReplayArgs {
            config: self.path("config.yaml"),
            input: capture.to_owned(),
            json: true,
            write: None,
            down: Vec::new(),
            local: Vec::new(),
            on_link: false,
        }
    }

    /// The lines for a capture of Ethernet frames, one second apart.
    pub(crate) fn replay(&self, frames: &[Vec<u8>]) -> Vec<Value> {
        self.replay_down(frames, &[])
    }

    pub(crate) fn replay_down(&self, frames: &[Vec<u8>], down: &[&str]) -> Vec<Value> {
        let capture = self.file("in.pcap", &pcap(1, &records(frames)));
        let down = down.iter().map(|&d| d.to_owned()).collect();
        lines(&run(&ReplayArgs { down, ..self.args(&capture) }))
    }

    /// The name that `route` prints.
    pub(crate) fn route(&self, service: &str, call_id: &str, down: &[&str]) -> String {
        let args = RouteArgs {
            config: self.path("config.yaml"),
            service: service.to_owned(),
            call_id: call_id.to_owned(),
            method: "INVITE".to_owned(),
            request_uri: None,
            from: None,
            to: None,
            source: None,
            down: down.iter().map(|&d| d.to_owned()).collect(),
            json: false,
        };
        let mut out = Vec::new();
        assert_eq!(route::run_to(&args, &mut out).unwrap(), 0);
        String::from_utf8(out).unwrap().trim_end().to_owned()
    }
}

/// What a replay that succeeds prints.
pub(crate) fn run(args: &ReplayArgs) -> String {
    let mut out = Vec::new();
    assert_eq!(replay::run_to(args, &mut out).unwrap(), 0);
    String::from_utf8(out).unwrap()
}

pub(crate) fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A record of a capture.
#[derive(Clone)]
pub(crate) struct Record {
    /// In microseconds since 1970.
    pub(crate) time: u64,
    pub(crate) data: Vec<u8>,
    /// Bytes on the wire.
    pub(crate) length: usize,
}

pub(crate) const START: u64 = 1_700_000_000_000_000;

pub(crate) fn records(frames: &[Vec<u8>]) -> Vec<Record> {
    (0..)
        .zip(frames)
        .map(|(n, frame)| Record {
            time: START + n * 1_000_000,
            data: frame.clone(),
            length: frame.len(),
        })
        .collect()
}

/// A pcap file in microseconds, little-endian.
pub(crate) fn pcap(link: u32, records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in [0xa1b2_c3d4u32, 2 | 4 << 16, 0, 0, 65_535, link] {
        out.extend(field.to_le_bytes());
    }
    for record in records {
        let (seconds, micros) = (record.time / 1_000_000, record.time % 1_000_000);
        let fields =
            [seconds as u32, micros as u32, record.data.len() as u32, record.length as u32];
        out.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        out.extend(&record.data);
    }
    out
}

/// The same in nanoseconds, big-endian.
pub(crate) fn pcap_big_endian(link: u32, records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(0xa1b2_3c4du32.to_be_bytes());
    out.extend([0, 2, 0, 4]);
    for field in [0, 0, 65_535, link] {
        out.extend(field.to_be_bytes());
    }
    for record in records {
        let (seconds, micros) = (record.time / 1_000_000, record.time % 1_000_000);
        let nanos = micros as u32 * 1000;
        let fields = [seconds as u32, nanos, record.data.len() as u32, record.length as u32];
        out.extend(fields.iter().flat_map(|field| field.to_be_bytes()));
        out.extend(&record.data);
    }
    out
}

/// A pcapng file of one interface with time stamps in units of 2⁻²⁰ s.
pub(crate) fn pcapng(link: u16, records: &[Record]) -> Vec<u8> {
    let mut out =
        block(0x0a0d_0d0a, &[&[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0], &[0xff; 8][..]].concat());
    let mut interface = link.to_le_bytes().to_vec();
    interface.extend([0, 0, 0, 0, 4, 0]);
    interface.extend([9, 0, 1, 0, 0x80 | 20, 0, 0, 0, 0, 0, 0, 0]);
    out.extend(block(1, &interface));
    // Blocks of other kinds are no packets.
    out.extend(block(0x0bad, b"whatever"));
    for record in records {
        let ticks = (u128::from(record.time) << 20) / 1_000_000;
        let mut body = 0u32.to_le_bytes().to_vec();
        body.extend(((ticks >> 32) as u32).to_le_bytes());
        body.extend((ticks as u32).to_le_bytes());
        body.extend((record.data.len() as u32).to_le_bytes());
        body.extend((record.length as u32).to_le_bytes());
        body.extend(&record.data);
        out.extend(block(6, &body));
    }
    out
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
    let length = (12 + body.len() + padding.len()) as u32;
    [&kind.to_le_bytes(), &length.to_le_bytes(), body, &padding[..], &length.to_le_bytes()].concat()
}

/// The frames of a pcap file in nanoseconds, little-endian, with their times.
pub(crate) fn read_pcap(path: &Path) -> Vec<(u64, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(20)), (0xa1b2_3c4d, 1), "nanoseconds, Ethernet");
    let mut at = 24;
    let mut frames = Vec::new();
    while at < bytes.len() {
        let (seconds, nanos, length) = (word(at), word(at + 4), word(at + 8) as usize);
        assert_eq!(word(at + 12) as usize, length);
        frames.push((
            u64::from(seconds) * 1_000_000_000 + u64::from(nanos),
            bytes[at + 16..at + 16 + length].to_vec(),
        ));
        at += 16 + length;
    }
    frames
}
