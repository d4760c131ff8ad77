//! `sip-lb capture` and `sip-lb trace`: packets and decisions of real calls, while calls go on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use lb_tests::{
    command,
    lab::{Arms, Plan},
    message::Message,
    net::Family,
    packet::Packet,
    process::{Process, wait_for},
    sipp::Calls,
    stage::Stage,
    tap::Heard,
};
use lb_userspace::slow::send::Sender;
use nix::sys::signal::Signal;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

/// Call-IDs of the calls, and one of them.
const FORM: &str = "call-%u@laboratory";
const WANTED: &str = "call-7@laboratory";

/// Requests and responses of one call.
const MESSAGES: [&str; 6] = ["INVITE", "180", "200", "ACK", "BYE", "200"];

/// A command of sip-lb that goes on until it is told to end, once it is on.
fn start(stage: &Stage, name: &str, words: &[&str]) -> Process {
    let directory = stage.site.lab.directory();
    let mut process = Process::spawn(name, stage.balancer.command(words), directory).unwrap();
    wait_until_watched(stage, true);
    // Its first line: it has been told.
    process
        .wait_until("a sign of life", SOON, |process| Ok(!process.log()?.is_empty()))
        .expect("the watcher starts");
    process
}

/// Is the program on the interfaces the one that shows packets?
fn is_watched(stage: &Stage) -> bool {
    stage.balancer.status().unwrap()["watchers"] != 0
}

fn wait_until_watched(stage: &Stage, watched: bool) {
    wait_for("the watching program", SOON, || {
        Ok((is_watched(stage) == watched && program_is_watching(stage) == watched).then_some(()))
    })
    .unwrap();
}

/// What is pinned beside the live program while somebody watches.
fn program_is_watching(stage: &Stage) -> bool {
    let generations = fs::read_dir(&stage.settings.pin_dir).unwrap().flatten();
    let names = generations.flat_map(|generation| {
        let files = fs::read_dir(generation.path()).into_iter().flatten().flatten();
        files.map(|file| file.file_name().to_string_lossy().into_owned())
    });
    names.into_iter().any(|name| name.starts_with("sip_lb_watch"))
}

fn calls(stage: &Stage, port: u16, count: u64) {
    let calls = Calls {
        rate: 50,
        count: Some(count),
        hold: Duration::from_millis(100),
        // A Call-ID is used once.
        call_ids: (port == 5060).then_some(FORM),
        ..Calls::default()
    };
    let outcome = stage.call_from(port, &calls).unwrap().finish(LONG).unwrap();
    assert_eq!((outcome.successful, outcome.failed), (count, 0), "{outcome:?}");
}

/// Ends a command as Ctrl-C does.
fn interrupt(process: &mut Process) -> String {
    process.signal(Signal::SIGINT).unwrap();
    assert_eq!(process.wait(SOON).unwrap().code(), Some(0), "{}", process.tail());
    process.log().unwrap()
}

/// A packet in a capture, as tshark reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    /// 1 = inbound, 2 = outbound.
    direction: String,
    interface: String,
    source: String,
    destination: String,
    start: String,
    call_id: String,
    comment: String,
}

fn read(path: &Path) -> Vec<Frame> {
    const FIELDS: [&str; 12] = [
        "frame.packet_flags_direction",
        "frame.interface_name",
        "ip.src",
        "ipv6.src",
        "udp.srcport",
        "ip.dst",
        "ipv6.dst",
        "udp.dstport",
        "sip.Request-Line",
        "sip.Status-Line",
        "sip.Call-ID",
        "frame.comment",
    ];
    let mut tshark = command::command("tshark");
    tshark.args(["-o", "udp.check_checksum:TRUE", "-T", "fields", "-E", "separator=/t"]);
    for field in FIELDS {
        tshark.args(["-e", field]);
    }
    // A checksum that is wrong leaves the packet out.
    tshark.args(["-Y", "!(udp.checksum.status == 0)", "-r"]).arg(path);
    let text = command::output(&mut tshark).unwrap();
    text.lines()
        .map(|line| {
            let f: Vec<_> = line.split('\t').collect();
            let end = |v4: &str, v6: &str, port: &str| match v4 {
                "" => format!("[{v6}]:{port}"),
                v4 => format!("{v4}:{port}"),
            };
            Frame {
                direction: f[0].trim_start_matches("0x0000000").to_owned(),
                interface: f[1].to_owned(),
                source: end(f[2], f[3], f[4]),
                destination: end(f[5], f[6], f[7]),
                start: format!("{}{}", f[8], f[9]),
                call_id: f[10].to_owned(),
                comment: f[11].to_owned(),
            }
        })
        .collect()
}

/// How often tshark reads a packet in this capture.
fn count(path: &Path) -> usize {
    let mut tshark = command::command("tshark");
    command::output(tshark.arg("-r").arg(path)).unwrap().lines().count()
}

/// Who sent what to whom, in any order.
fn sorted<'a>(messages: impl Iterator<Item = (String, String, &'a str)>) -> Vec<[String; 3]> {
    let mut all: Vec<_> = messages.map(|(a, b, start)| [a, b, start.to_owned()]).collect();
    all.sort();
    all
}

fn of_frames(frames: &[Frame], direction: &str) -> Vec<[String; 3]> {
    let of = frames.iter().filter(|frame| frame.direction == direction);
    sorted(of.map(|f| (f.source.clone(), f.destination.clone(), f.start.as_str())))
}

/// What the taps heard of a call: what its ends sent, or what they got.
fn of_taps(stage: &Stage, call_id: &str, outgoing: bool) -> Vec<[String; 3]> {
    let wires = stage.settled();
    let heard = wires.backends.iter().flatten().chain(&wires.caller);
    let of = heard.filter(|heard| heard.call_id == call_id && heard.outgoing == outgoing);
    let ends = |heard: &Heard| (heard.source.to_string(), heard.destination.to_string());
    let all: Vec<_> = of.map(|heard| (ends(heard), heard.start_line.clone())).collect();
    sorted(all.iter().map(|((a, b), start)| (a.clone(), b.clone(), start.as_str())))
}

fn a_dialog_is_captured(plan: Plan) {
    let stage = Stage::set(plan, |_site, _settings| {}).expect("the stage is set");
    let path = stage.site.lab.directory().join("out.pcap");
    let file = path.to_str().unwrap();
    let mut capture = start(&stage, "capture", &["capture", "-w", file, "--call-id", WANTED]);
    calls(&stage, 5060, 20);
    let sent = of_taps(&stage, WANTED, true);
    let got = of_taps(&stage, WANTED, false);
    assert!(sent.len() >= MESSAGES.len(), "{sent:?}");
    let log = interrupt(&mut capture);
    assert!(log.contains(&format!("{} packets seen, none lost", sent.len())), "{log}");

    let frames = read(&path);
    assert_eq!(of_frames(&frames, "1"), sent, "as it came in");
    assert_eq!(of_frames(&frames, "2"), got, "as it left");
    assert!(frames.iter().all(|frame| frame.call_id == WANTED), "{frames:?}");
    let invite = frames.iter().find(|frame| frame.start.starts_with("INVITE")).unwrap();
    assert_eq!(invite.direction, "1");
    assert!(
        invite.comment.starts_with("forward new-dialog, key call-id, service trunk-in, backend gw")
    );
    assert_eq!(invite.interface, "eth0");
    let to_backend = frames.iter().find(|frame| frame.direction == "2").unwrap();
    let other = if plan.arms == Arms::One { "eth0" } else { "eth1" };
    assert_eq!(to_backend.interface, other);
    let answer = frames.iter().find(|frame| frame.start.starts_with("SIP/2.0 200")).unwrap();
    assert!(answer.comment.starts_with("reply response, "), "{answer:?}");

    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others must not read it");
    wait_until_watched(&stage, false);
    assert!(!stage.balancer.tail().contains(WANTED), "{}", stage.balancer.tail());
    // Calls go on as before.
    calls(&stage, 5070, 5);
}

#[test]
fn a_dialog_is_captured_as_it_came_in_and_as_it_left() {
    a_dialog_is_captured(Plan::default());
}

#[test]
fn a_dialog_over_one_arm_and_ipv6_is_captured() {
    a_dialog_is_captured(Plan { arms: Arms::One, family: Family::V6, ..Plan::default() });
}

#[test]
fn a_service_is_captured_to_the_count_while_another_dialog_is_traced() {
    let stage = Stage::set(Plan { vips: 2, ..Plan::default() }, |site, settings| {
        settings.backends.truncate(1);
        settings.services = format!(
            "  - name: trunk-out\n    listen: \"{}\"\n    backends:\n      - {{ name: gw2, \
             address: \"{}\" }}\n",
            site.vip(1),
            site.backend_address(1),
        );
    })
    .expect("the stage is set");
    let path = stage.site.lab.directory().join("service.pcap");
    let file = path.to_str().unwrap();
    let mut other = start(&stage, "other", &["capture", "--service", "trunk-out", "--count", "1"]);
    let mut trace = start(&stage, "trace", &["trace", "--call-id", WANTED]);
    let mut json = {
        let words = ["trace", "--json", "--call-id", WANTED];
        Process::spawn("json", stage.balancer.command(&words), stage.site.lab.directory()).unwrap()
    };
    wait_for("three", SOON, || Ok((stage.balancer.status()?["watchers"] == 3).then_some(())))
        .unwrap();
    let words = ["capture", "-w", file, "--service", "trunk-in", "--count", "10"];
    let mut capture = start(&stage, "capture", &words);
    calls(&stage, 5060, 20);
    assert_eq!(capture.wait(SOON).unwrap().code(), Some(0), "{}", capture.tail());
    assert!(capture.log().unwrap().contains("10 packets seen"), "{}", capture.tail());
    // Each as it came in and as it left.
    assert_eq!(count(&path), 20);
    let mut frames = read(&path);
    assert_eq!(frames.len(), 20);
    frames.retain(|frame| !frame.comment.contains("service trunk-in"));
    assert_eq!(frames, []);

    let sent = of_taps(&stage, WANTED, true).len();
    let log = interrupt(&mut trace);
    let rows: Vec<_> = log.lines().filter(|line| line.contains(WANTED)).collect();
    assert_eq!(rows.len(), sent, "{log}");
    for (row, words) in rows.iter().zip([
        ["-> ", " INVITE ", " forward ", " new-dialog ", " call-id ", " trunk-in/gw1 "],
        ["<- ", " 180 ", " reply ", " response ", " dialog ", " trunk-in/gw1 "],
        ["<- ", " 200 ", " reply ", " response ", " dialog ", " trunk-in/gw1 "],
    ]) {
        for word in words {
            assert!(row.contains(word), "no {word:?} in {row}");
        }
    }
    let client = stage.site.caller_address(0).to_string();
    let backend = stage.site.backend_address(0).to_string();
    assert!(rows[0].contains(&client) && rows[0].contains(&backend), "{}", rows[0]);
    assert!(rows[0].contains(" redirect eth1"), "{}", rows[0]);
    assert!(log.contains(&format!("{sent} packets seen, none lost")), "{log}");

    let said = interrupt(&mut json);
    let lines: Vec<Value> =
        said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.len(), sent, "{said}");
    let first = &lines[0];
    let fields = ["from", "client", "method", "verdict", "reason", "key", "service", "backend"];
    let values = fields.map(|field| first[field].as_str().unwrap_or_default().to_owned());
    let expected =
        ["client", &client, "INVITE", "forward", "new-dialog", "call-id", "trunk-in", "gw1"];
    assert_eq!(values, expected);
    let times: Vec<_> = lines.iter().map(|line| line["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");

    // Nothing was for the other service: one call to it ends that capture.
    assert_eq!(other.ended().unwrap(), None, "{}", other.tail());
    let outcome = {
        let calls = Calls { rate: 10, count: Some(1), ..Calls::default() };
        let local = std::net::SocketAddr::new(stage.site.caller_address(0).ip(), 5090);
        let (host, directory) = (&stage.site.callers[0], stage.site.lab.directory());
        lb_tests::sipp::Uac::start(host, directory, local, stage.site.vip(1), &calls)
            .and_then(|uac| uac.finish(LONG))
            .unwrap()
    };
    assert_eq!(outcome.successful, 1);
    assert_eq!(other.wait(SOON).unwrap().code(), Some(0));
    let log = other.log().unwrap();
    assert!(log.contains("trunk-out/gw2") && log.contains("1 packet seen"), "{log}");
    wait_until_watched(&stage, false);
}

#[test]
fn watching_ends_with_whoever_watches_and_begins_off() {
    let mut stage = Stage::set(Plan::default(), |_site, _settings| {}).expect("the stage is set");
    let tell = |stage: &Stage, words: &[&str]| stage.balancer.tell(words).unwrap();
    assert!(!is_watched(&stage) && !program_is_watching(&stage));

    // Killed: nobody says good-bye.
    let mut capture = start(&stage, "capture", &["capture"]);
    calls(&stage, 5060, 3);
    capture.kill().unwrap();
    wait_until_watched(&stage, false);

    let said = tell(&stage, &["capture", "--service", "none"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.contains("no service none") && said.err.contains("trunk-in"), "{said:?}");
    assert_eq!(tell(&stage, &["trace", "--call-id", "a b"]).code, Some(4));
    assert_eq!(tell(&stage, &["capture", "--count", "0"]).code, Some(2));
    wait_until_watched(&stage, false);

    // As many as there are places, and one more.
    let mut all: Vec<_> = (0..8)
        .map(|n| start(&stage, &format!("watcher-{n}"), &["trace", "--call-id", WANTED]))
        .collect();
    wait_for("eight", SOON, || Ok((stage.balancer.status()?["watchers"] == 8).then_some(())))
        .unwrap();
    let said = tell(&stage, &["capture"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.contains("8 watch already"), "{said:?}");
    interrupt(&mut all.remove(3));
    let mut ninth = start(&stage, "ninth", &["capture", "--count", "1"]);
    calls(&stage, 5070, 2);
    assert_eq!(ninth.wait(SOON).unwrap().code(), Some(0));

    // The controller dies: its watchers say so, and the next one begins without them.
    stage.balancer.process().kill().unwrap();
    for watcher in &mut all {
        assert_eq!(watcher.wait(SOON).unwrap().code(), Some(3), "{}", watcher.tail());
    }
    assert!(program_is_watching(&stage), "it is still there, and shows nothing");
    calls(&stage, 5080, 5);
    assert_eq!(tell(&stage, &["capture"]).code, Some(3));
    assert_eq!(tell(&stage, &["trace", "--call-id", WANTED]).code, Some(3));
    stage.balancer.restart().unwrap();
    wait_until_watched(&stage, false);
    calls(&stage, 5090, 5);

    // And one that ends by a signal leaves the other program behind.
    let mut last = start(&stage, "last", &["capture"]);
    stage.balancer.process().terminate(SOON).unwrap();
    assert_eq!(last.wait(SOON).unwrap().code(), Some(3));
    assert!(!program_is_watching(&stage));
    calls(&stage, 5100, 5);
}

#[test]
fn what_the_controller_answers_itself_is_shown() {
    let mut stage = Stage::set(Plan::default(), |_site, settings| {
        settings.health = format!("{}, panic: obey", lb_tests::balancer::Settings::QUICK);
    })
    .expect("the stage is set");
    for server in &mut stage.servers {
        server.process().kill().unwrap();
    }
    wait_for("nobody", SOON, || {
        Ok(stage.balancer.status()?["services"][0]["active_priority"].is_null().then_some(()))
    })
    .unwrap();
    let path: PathBuf = stage.site.lab.directory().join("answers.pcap");
    let words = ["capture", "-w", path.to_str().unwrap(), "--call-id", WANTED];
    let mut capture = start(&stage, "capture", &words);
    let calls = Calls {
        count: Some(10),
        scenario: "rejected",
        call_ids: Some(FORM),
        patience: Some(Duration::from_secs(10)),
        ..Calls::default()
    };
    let outcome = stage.call(&calls).unwrap().finish(LONG).unwrap();
    assert_eq!(outcome.successful, 10, "{outcome:?}");
    let answers = of_taps(&stage, WANTED, false);
    interrupt(&mut capture);
    let frames = read(&path);
    assert_eq!(of_frames(&frames, "2"), answers);
    assert!(answers.iter().all(|[_, _, start]| start.starts_with("SIP/2.0 503")), "{answers:?}");
    let request = frames.iter().find(|frame| frame.start.starts_with("INVITE")).unwrap();
    assert!(request.comment.starts_with("slow-path no-backend"), "{request:?}");
    // Its ACK is dropped, and shown.
    let ack = frames.iter().find(|frame| frame.start.starts_with("ACK")).unwrap();
    assert!(ack.comment.starts_with("drop not-answered"), "{ack:?}");
}

#[test]
fn another_reader_finds_the_dialog_in_the_file() {
    let stage = Stage::set(Plan::default(), |_site, _settings| {}).expect("the stage is set");
    // To standard output, as to a pipe.
    let mut command: Command = stage.balancer.command(&["capture", "-w", "-", "--count", "12"]);
    let path = stage.site.lab.directory().join("piped.pcap");
    command.stdout(fs::File::create(&path).unwrap());
    let mut child = command.spawn().unwrap();
    wait_until_watched(&stage, true);
    calls(&stage, 5060, 10);
    let ended = wait_for("twelve packets", SOON, || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill().unwrap();
    }
    assert_eq!(ended.unwrap().code(), Some(0));
    let frames = read(&path);
    assert!(frames.len() > 12, "{frames:?}");
    // What sngrep makes of it: a pcap file of the SIP messages that it has read.
    let kept = path.with_extension("sngrep");
    let mut sngrep = command::command("sngrep");
    sngrep.args(["--no-interface", "--quiet", "-I"]).arg(&path).arg("-O").arg(&kept);
    command::output(&mut sngrep).unwrap();
    assert_eq!(count(&kept), frames.len());
}

/// A message in three fragments, in the order of `order`.
fn send_fragments(stage: &Stage, id: u16, call_id: &str, order: [usize; 3]) {
    let (client, vip) = (stage.site.caller_address(0), stage.site.vip(0));
    let invite = Message::invite(call_id).size(3500).build();
    let frames = Packet { id: id.into(), ..Packet::udp(client, vip, invite) }.fragments(1440);
    let send = || {
        let sender = Sender::open()?;
        for n in order {
            // The Ethernet header is the kernel's.
            sender.send(&frames[n][14..])?;
        }
        Ok(())
    };
    stage.site.callers[0].enter(send).unwrap();
}

#[test]
fn later_fragments_of_a_dialog_are_captured_with_it_whatever_their_order() {
    for family in [Family::V4, Family::V6] {
        let stage =
            Stage::set(Plan { family, ..Plan::default() }, |_site, _settings| {}).expect("a stage");
        let path = stage.site.lab.directory().join("fragments.pcap");
        let words = ["capture", "-w", path.to_str().unwrap(), "--call-id", WANTED];
        let mut capture = start(&stage, "capture", &words);
        send_fragments(&stage, 1, "another@laboratory", [0, 1, 2]);
        send_fragments(&stage, 2, WANTED, [0, 1, 2]);
        send_fragments(&stage, 3, WANTED, [2, 1, 0]);
        send_fragments(&stage, 4, "another@laboratory", [1, 2, 0]);
        let forwarded = |word: &str| {
            let series = format!(
                "sip_lb_forwarded_packets_total{{direction=\"to-backend\",reason=\"{word}\"}}"
            );
            stage.metric(&series).unwrap()
        };
        wait_for("all fragments", SOON, || Ok((forwarded("fragment") > 7.5).then_some(())))
            .unwrap();
        interrupt(&mut capture);
        let mut frames = frames(&path);
        // What the servers say to it.
        frames.retain(|[_, comment]| !comment.starts_with("reply"));
        let of = |verdict: &str, direction: &str| {
            let of = frames.iter().filter(|f| f[0] == direction && f[1].starts_with(verdict));
            of.count()
        };
        // Two of the second datagram come too early, and go through the program again in their turn.
        let held = of("slow-path fragment-held", "1");
        let later = (of("forward fragment", "1"), of("forward fragment", "2"));
        assert_eq!((held, later), (2, (4, 4)), "{frames:?}");
        let first = ["forward new-dialog", "forward dialog"];
        let first = first.map(|verdict| (of(verdict, "1"), of(verdict, "2")));
        assert_eq!(first, [(1, 1), (1, 1)], "{frames:?}");
        assert_eq!(frames.len(), 2 + 8 + 4, "{frames:?}");
    }
}

/// Direction and comment of every frame.
fn frames(path: &Path) -> Vec<[String; 2]> {
    let mut tshark = command::command("tshark");
    let fields = ["-e", "frame.packet_flags_direction", "-e", "frame.comment"];
    tshark.args(["-T", "fields", "-E", "separator=/t"]).args(fields).arg("-r").arg(path);
    let text = command::output(&mut tshark).unwrap();
    let frame = |line: &str| {
        let (direction, comment) = line.split_once('\t').unwrap_or((line, ""));
        [direction.trim_start_matches("0x0000000").to_owned(), comment.to_owned()]
    };
    text.lines().map(frame).collect()
}
