//! Messages that name their backend: responses by their Via, transfers by the dialog that they
//! replace or join. And backends that several services share.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod world;

use std::net::SocketAddr;

use lb_common::verdict::{Key, Verdict};
use lb_tests::message::{Message, Method};
use lb_userspace::{
    datapath::{
        reline::Now,
        sweep::{Census, STEP_LINES, Sweep},
    },
    maps::LbMaps as _,
    state::Admin,
};
use world::{ONE_SERVICE, Run, World, client, vip};

/// [`ONE_SERVICE`] with aliases.
const ALIASES: &str = "
interfaces: [lo]
hash_key: tests
dialogs: { max: 4096, timeout: 1h }
limits: { services: 8, endpoints: 64, bindings: 128, tables: 8 }
services:
  - name: trunk
    listen: [\"203.0.113.10:5060\"]
    backends:
      - { name: gw1, address: \"10.0.1.201:5060\", aliases: [gw1.example.net] }
      - { name: gw2, address: \"10.0.1.202:5060\", aliases: [\"203.0.113.77:5099\", \"gw2.example.net:5070\"] }
      - { name: gw3, address: \"10.0.1.203:5070\", aliases: [gw3.example.net] }
      - { name: gw4, address: \"10.0.1.204:5060\", aliases: \"198.51.100.4\" }
  - name: six
    listen: [\"[2001:db8:f::10]:5060\"]
    backends:
      - { name: a, address: \"[2001:db8:1::201]:5060\" }
      - { name: b, address: \"[2001:db8:1::202]:5080\", aliases: [b.example.net] }
";

/// Two services with the same backends, and one backend that only the second has.
const SHARED: &str = "
interfaces: [lo]
hash_key: tests
dialogs: { max: 4096, timeout: 1h }
limits: { services: 8, endpoints: 64, bindings: 128, tables: 8 }
services:
  - name: first
    listen: [\"203.0.113.10:5060\"]
    backends:
      - { name: gw1, address: \"10.0.1.201:5060\" }
      - { name: gw2, address: \"10.0.1.202:5060\" }
      - { name: gw3, address: \"10.0.1.203:5060\" }
  - name: second
    listen: [\"203.0.113.20:5060\", \"203.0.113.21:5060\"]
    backends:
      - { name: s1, address: \"10.0.1.201:5060\" }
      - { name: s2, address: \"10.0.1.202:5060\" }
      - { name: own, address: \"10.0.1.204:5060\" }
";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What a sweep of the dialog table finds.
fn census(world: &World) -> Census {
    let mut sweep = Sweep::new();
    let now = Now { epoch: 0, lifetime: 15 };
    let service = |id| world.program.maps.binding(id).map_or(0, |binding| binding.service);
    while !sweep.step(world.program.dialogs.entries(), now, STEP_LINES, service) {}
    sweep.finish()
}

/// Live entries of any state.
fn entries(world: &World) -> u64 {
    census(world).live()
}

fn send(world: &mut World, message: &Message) -> (Verdict, SocketAddr) {
    send_to(world, vip(), message)
}

fn send_to(world: &mut World, vip: SocketAddr, message: &Message) -> (Verdict, SocketAddr) {
    let run = world.client_sends(client(10), vip, &message.build());
    (run.verdict, run.destination())
}

/// Which backend of `vip` the slot of a Call-ID belongs to.
fn slot_owner(world: &mut World, vip: SocketAddr, call_id: &str) -> SocketAddr {
    let (verdict, to) = send_to(world, vip, &Message::request(Method::Prack, call_id));
    assert!(matches!(verdict, Verdict::Hash | Verdict::NewDialog), "{verdict:?}");
    to
}

/// A Call-ID that the slots give to another backend than the one at `not`.
fn call_id_elsewhere(world: &mut World, not: SocketAddr, name: &str) -> String {
    let mut ids = (0..).map(|n| format!("{name}-{n}@x"));
    ids.find(|id| slot_owner(world, vip(), id) != not).unwrap()
}

fn key(run: &Run) -> Key {
    Key::ALL[usize::from(run.decision.key)]
}

/// A client's answer whose Via header lines are `vias`.
fn answer(call_id: Option<&str>, vias: &str) -> Vec<u8> {
    let id = call_id.map_or_else(String::new, |id| format!("Call-ID: {id}\r\n"));
    format!(
        "SIP/2.0 200 OK\r\n{vias}From: <sip:gw@example.com>;tag=1\r\nTo: <sip:ada@example.com>;tag=2\r\n\
         {id}CSeq: 7 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

#[test]
fn a_response_goes_to_the_backend_that_its_topmost_via_names() {
    let mut world = World::new(ALIASES);
    let v4 = [
        ("Via: SIP/2.0/UDP 10.0.1.201:5060;branch=z9hG4bK1\r\n", "gw1"),
        ("v: SIP/2.0/UDP 10.0.1.202;branch=z9hG4bK1;received=10.9.9.9;rport=9\r\n", "gw2"),
        ("V : SIP / 2.0 / UDP\t10.0.1.203 : 5070;branch=z9hG4bK1\r\n", "gw3"),
        ("Via:\r\n  SIP/2.0/UDP\r\n\t10.0.1.204\r\n ;branch=z9hG4bK1\r\n", "gw4"),
        // Without a port: 5060, or the only backend of that address.
        ("Via: SIP/2.0/UDP 10.0.1.203;branch=z9hG4bK1\r\n", "gw3"),
        // Of several the first, on one line or on more.
        ("Via: SIP/2.0/UDP 10.0.1.201, SIP/2.0/UDP 10.0.1.202\r\n", "gw1"),
        ("Via: SIP/2.0/UDP 10.0.1.202\r\nVia: SIP/2.0/UDP 10.0.1.201\r\n", "gw2"),
        ("VIA: sip/2.0/tcp GW1.Example.NET;branch=z9hG4bK1\r\n", "gw1"),
        ("Via: SIP/2.0/UDP 203.0.113.77:5099;branch=z9hG4bK1\r\n", "gw2"),
        ("Via: SIP/2.0/UDP gw2.example.net:5070\r\n", "gw2"),
        ("Via: SIP/2.0/UDP gw3.example.net:5070\r\n", "gw3"),
        ("Via: SIP/2.0/UDP gw3.example.net\r\n", "gw3"),
        ("X: y\r\nVia: SIP/2.0/UDP 198.51.100.4:5060\r\n", "gw4"),
    ];
    for (vias, backend) in v4 {
        let expected = world.address(backend);
        for n in 0..20 {
            let id = format!("{n}@{backend}");
            let message = answer((n != 0).then_some(&id), vias);
            let run = world.client_sends(client(10), vip(), &message);
            assert_eq!(run.destination(), expected, "{vias}");
            assert_eq!((run.verdict, key(&run)), (Verdict::Via, Key::Via), "{vias}");
            assert_eq!(run.frame().payload(), message);
        }
    }
    let (six, caller) = (addr("[2001:db8:f::10]:5060"), addr("[2001:db8:99::7]:5060"));
    for (sent_by, backend) in [
        ("[2001:db8:1::201]:5060", "a"),
        ("[2001:DB8:1:0:0:0:0:201]", "a"),
        ("[2001:db8:1::202]:5080", "b"),
        ("[2001:db8:1::202]", "b"),
        ("b.example.net:5080", "b"),
    ] {
        for n in 0..10 {
            let via = format!("Via: SIP/2.0/UDP {sent_by};branch=z9hG4bK1\r\n");
            let message = answer(Some(&format!("six-{n}@x")), &via);
            let run = world.client_sends(caller, six, &message);
            let went = (run.verdict, run.destination());
            assert_eq!(went, (Verdict::Via, world.address(backend)), "{sent_by}");
        }
    }
    assert_eq!(entries(&world), 0, "a response makes no entry");
}

#[test]
fn a_via_that_names_no_backend_of_the_service_leaves_it_to_the_dialog_then_to_the_slot() {
    let mut world = World::new(ALIASES);
    for sent_by in [
        "203.0.113.10:5060",
        "10.0.1.201:5061",
        "10.0.1.209",
        "gw1.example.org",
        "203.0.113.77",
        "[2001:db8:1::201]",
        "gw1.example.net:0",
    ] {
        let via = format!("Via: SIP/2.0/UDP {sent_by};branch=z9hG4bK1\r\n");
        let id = format!("stray@{sent_by}");
        let owner = slot_owner(&mut world, vip(), &id);
        let run = world.client_sends(client(10), vip(), &answer(Some(&id), &via));
        assert_eq!((run.verdict, run.destination()), (Verdict::Hash, owner), "{sent_by}");

        // The backend that sent the request wrote the VIP into its Via: its entry tells.
        let backend = world.address("gw1");
        let id = call_id_elsewhere(&mut world, backend, sent_by);
        let ping = Message::request(Method::Options, &id).build();
        assert_eq!(world.backend_sends(backend, client(10), &ping).verdict, Verdict::ServerRequest);
        let run = world.client_sends(client(10), vip(), &answer(Some(&id), &via));
        assert_eq!((run.verdict, run.destination()), (Verdict::Dialog, backend), "{sent_by}");
    }
    let run =
        world.client_sends(client(10), vip(), &answer(None, "Via: SIP/2.0/UDP 10.0.1.209\r\n"));
    assert_eq!(run.verdict, Verdict::NoCallId);
}

#[test]
fn a_response_finds_its_backend_down_draining_in_maintenance_and_removed() {
    let mut world = World::new(ONE_SERVICE);
    let backend = world.address("gw1");
    let via = "Via: SIP/2.0/UDP 10.0.1.201;branch=z9hG4bK1\r\n";
    let goes = |world: &mut World| {
        let run = world.client_sends(client(10), vip(), &answer(Some("one@x"), via));
        (run.verdict, run.destination())
    };
    world.set_down(&["gw1"]);
    assert_eq!(goes(&mut world), (Verdict::Via, backend), "down");
    world.set_down(&["gw1", "gw2", "gw3", "gw4", "spare1", "spare2"]);
    assert_eq!(goes(&mut world), (Verdict::Via, backend), "all down");
    world.set_down(&[]);
    for admin in [Admin::Drain, Admin::Maint, Admin::Ready] {
        world.set_admin("trunk", "gw1", admin);
        assert_eq!(goes(&mut world), (Verdict::Via, backend), "{admin:?}");
    }
    let without: String = ONE_SERVICE
        .lines()
        .filter(|line| !line.contains("name: gw1,"))
        .fold(String::new(), |text, line| text + line + "\n");
    world.reload(&without);
    assert_eq!(goes(&mut world), (Verdict::Via, backend), "removed, and not forgotten yet");
}

#[test]
fn a_response_confirms_the_dialog_of_its_backend_and_moves_nobody_elses() {
    let mut world = World::new(ONE_SERVICE);
    let (gw1, gw2) = (world.address("gw1"), world.address("gw2"));
    // gw1 calls a client.
    let id = call_id_elsewhere(&mut world, gw1, "call");
    let invite = Message::invite(&id).build();
    assert_eq!(world.backend_sends(gw1, client(10), &invite).verdict, Verdict::ServerRequest);
    let ok = Message::response(200, Method::Invite, &id).only_via(gw1, "z9hG4bK1");
    assert_eq!(send(&mut world, &ok), (Verdict::Via, gw1));
    assert_eq!(census(&world).confirmed_invite, 1);
    // A spiral: gw2 sent the same request on, its answer comes by gw2's Via.
    let ok = Message::response(200, Method::Invite, &id).only_via(gw2, "z9hG4bK2");
    assert_eq!(send(&mut world, &ok), (Verdict::Via, gw2));
    let bye = Message::request(Method::Bye, &id).to_tag("callee");
    assert_eq!(send(&mut world, &bye), (Verdict::Dialog, gw1), "the call stayed");
}

fn replaces(id: &str) -> String {
    format!("{id};to-tag=7743;from-tag=6472")
}

#[test]
fn a_transfer_goes_to_the_owner_of_the_dialog_that_it_refers_to_and_stays_there() {
    let mut world = World::new(ONE_SERVICE);
    let mut moved = 0;
    for n in 0..200 {
        let (old, new) = (format!("old-{n}@x"), format!("new-{n}@x"));
        let slot = slot_owner(&mut world, vip(), &new);
        // Half of the old dialogs are known, half are not.
        let owner = if n % 2 == 0 {
            send(&mut world, &Message::invite(&old)).1
        } else {
            slot_owner(&mut world, vip(), &old)
        };
        let header = ["Replaces", "Join", "REPLACES ", "join"][n % 4];
        let invite = Message::invite(&new).header(header, &replaces(&old));
        let run = world.client_sends(client(11), vip(), &invite.build());
        assert_eq!((run.verdict, key(&run)), (Verdict::Replaces, Key::Replaces));
        assert_eq!(run.destination(), owner);
        for method in [Method::Ack, Method::Prack, Method::Update, Method::Bye] {
            let message = Message::request(method, &new).to_tag("callee");
            let (verdict, to) = send(&mut world, &message);
            assert_eq!(to, owner, "{method:?} after {verdict:?}");
        }
        moved += usize::from(slot != owner);
    }
    assert!(moved > 100, "only {moved} would have gone elsewhere");
}

#[test]
fn a_transfer_finds_a_dialog_that_a_backend_began() {
    let mut world = World::new(ONE_SERVICE);
    for n in 0..50 {
        let backend = world.address(["gw1", "gw2", "gw3", "gw4"][n % 4]);
        let old = call_id_elsewhere(&mut world, backend, &format!("begun-{n}"));
        let invite = Message::invite(&old).build();
        assert_eq!(
            world.backend_sends(backend, client(10), &invite).verdict,
            Verdict::ServerRequest
        );
        let new = Message::invite(&format!("taken-{n}@x")).header("Replaces", &replaces(&old));
        assert_eq!(send(&mut world, &new), (Verdict::Replaces, backend));
    }
}

#[test]
fn a_transfer_goes_where_the_next_request_of_the_old_dialog_would_go() {
    let mut world = World::new(ONE_SERVICE);
    let (_, owner) = send(&mut world, &Message::invite("lost@x"));
    let name = world.name(owner).to_owned();
    world.set_down(&[&name]);
    let new = Message::invite("new@x").header("Replaces", &replaces("lost@x"));
    let (verdict, to) = send(&mut world, &new);
    assert_eq!(verdict, Verdict::Replaces);
    assert_ne!(to, owner);
    let info = Message::request(Method::Update, "lost@x").to_tag("callee");
    assert_eq!(send(&mut world, &info), (Verdict::Rehash, to));
    // A draining one keeps its calls, and what joins them.
    let (_, owner) = send(&mut world, &Message::invite("drained@x"));
    let name = world.name(owner).to_owned();
    world.set_admin("trunk", &name, Admin::Drain);
    let new = Message::invite("joins@x").header("Join", &replaces("drained@x"));
    assert_eq!(send(&mut world, &new), (Verdict::Replaces, owner));
}

#[test]
fn only_an_invite_that_begins_a_dialog_is_a_transfer() {
    let mut world = World::new(ONE_SERVICE);
    let gw1 = world.address("gw1");
    let old = (0..)
        .map(|n| format!("held-{n}@x"))
        .find(|id| slot_owner(&mut world, vip(), id) == gw1)
        .unwrap();
    let refers = |message: Message| message.header("Replaces", &replaces(&old));
    let id = call_id_elsewhere(&mut world, gw1, "other");
    let owner = slot_owner(&mut world, vip(), &id);
    for method in [Method::Message, Method::Register, Method::Subscribe, Method::Refer] {
        let id = call_id_elsewhere(&mut world, gw1, method.name());
        let (verdict, to) = send(&mut world, &refers(Message::request(method, &id)));
        assert_ne!((verdict, to), (Verdict::Replaces, gw1), "{method:?}");
        assert_ne!(to, gw1, "{method:?}");
    }
    let inside = refers(Message::invite(&id).to_tag("callee"));
    assert_eq!(send(&mut world, &inside), (Verdict::Hash, owner), "a re-INVITE");
    assert_eq!(send(&mut world, &Message::invite(&id)).1, owner);
    assert_eq!(send(&mut world, &refers(Message::invite(&id))), (Verdict::Dialog, owner));
    let body = Message::invite(&format!("b{id}")).body("message/sipfrag", "Replaces: held@x\r\n");
    assert_eq!(send(&mut world, &body).0, Verdict::NewDialog, "in a body");
    let empty = Message::invite(&format!("e{id}")).header("Replaces", ";to-tag=1");
    assert_eq!(send(&mut world, &empty).0, Verdict::NewDialog, "of nothing");
}

/// The VIPs of [`SHARED`].
fn vips() -> [SocketAddr; 3] {
    ["203.0.113.10:5060", "203.0.113.20:5060", "203.0.113.21:5060"].map(addr)
}

/// Which VIP a backend's message to a client comes from.
fn source(world: &mut World, backend: SocketAddr, message: &Message) -> SocketAddr {
    let run = world.backend_sends(backend, client(10), &message.build());
    assert!(matches!(run.verdict, Verdict::Response | Verdict::ServerRequest), "{run:?}");
    run.frame().source()
}

fn ok(method: Method, call_id: &str) -> Message {
    Message::response(200, method, call_id)
}

#[test]
fn calls_by_services_that_share_backends_are_answered_from_their_own_vips() {
    let mut world = World::new(SHARED);
    for n in 0..90 {
        let (id, vip) = (format!("shared-{n}@x"), vips()[n % 3]);
        let (verdict, backend) = send_to(&mut world, vip, &Message::invite(&id));
        assert_eq!(verdict, Verdict::NewDialog);
        for status in [100, 180, 200] {
            let answer = Message::response(status, Method::Invite, &id);
            assert_eq!(source(&mut world, backend, &answer), vip, "{status}");
        }
        for method in [Method::Ack, Method::Prack, Method::Update] {
            let message = Message::request(method, &id).to_tag("callee");
            assert_eq!(send_to(&mut world, vip, &message), (Verdict::Dialog, backend));
            assert_eq!(source(&mut world, backend, &ok(method, &id)), vip, "{method:?}");
        }
        let bye = Message::request(Method::Bye, &id).to_tag("caller");
        assert_eq!(source(&mut world, backend, &bye), vip, "the backend hangs up");
    }
    assert_eq!(entries(&world), 90, "each call has one entry");
}

#[test]
fn whatever_a_shared_backend_answers_leaves_from_the_vip_that_was_asked() {
    let mut world = World::new(SHARED);
    let methods = [
        Method::Register,
        Method::Options,
        Method::Message,
        Method::Subscribe,
        Method::Refer,
        Method::Notify,
        Method::Update,
        Method::Prack,
        Method::Cancel,
        Method::Bye,
        Method::Invite,
    ];
    for method in methods {
        for (n, vip) in vips().into_iter().enumerate() {
            for in_dialog in [false, true] {
                let id = format!("{method:?}-{n}-{in_dialog}@x");
                let message = Message::request(method, &id);
                let message = if in_dialog { message.to_tag("callee") } else { message };
                let (_, backend) = send_to(&mut world, vip, &message);
                assert_eq!(source(&mut world, backend, &ok(method, &id)), vip, "{message:?}");
            }
        }
    }
}

#[test]
fn what_a_phone_repeats_to_a_shared_backend_stays_one_entry() {
    let mut world = World::new(SHARED);
    for vip in vips() {
        let register = Message::request(Method::Register, &format!("again@{vip}"));
        let (_, backend) = send_to(&mut world, vip, &register);
        for _ in 0..20 {
            assert_eq!(send_to(&mut world, vip, &register), (Verdict::Dialog, backend));
        }
    }
    assert_eq!(entries(&world), 3);
}

#[test]
fn a_dialog_that_goes_on_by_another_vip_is_answered_from_there() {
    let mut world = World::new(SHARED);
    for n in 0..40 {
        let id = format!("wanders-{n}@x");
        let (_, backend) = send_to(&mut world, vips()[1], &Message::invite(&id));
        assert_eq!(source(&mut world, backend, &ok(Method::Invite, &id)), vips()[1]);
        // The other VIP of the same service, though nothing but the entry knows the backend.
        world.set_admin("second", "own", Admin::Drain);
        let update = Message::request(Method::Update, &id).to_tag("callee");
        assert_eq!(send_to(&mut world, vips()[2], &update), (Verdict::Dialog, backend));
        assert_eq!(source(&mut world, backend, &ok(Method::Update, &id)), vips()[2]);
        world.set_admin("second", "own", Admin::Ready);
    }
    assert_eq!(entries(&world), 40);
}

#[test]
fn a_call_that_a_shared_backend_began_is_found_by_each_of_its_vips() {
    let mut world = World::new(SHARED);
    let mut elsewhere = 0;
    for n in 0..60 {
        let backend = world.address(["gw1", "gw2"][n % 2]);
        let id = format!("outward-{n}@x");
        let invite = Message::invite(&id);
        assert_eq!(source(&mut world, backend, &invite), vips()[0], "from the primary VIP");
        let answer = ok(Method::Invite, &id).only_via(backend, "z9hG4bK1");
        assert_eq!(send_to(&mut world, vips()[0], &answer), (Verdict::Via, backend));
        // Its Contact names the VIP of the other service.
        for method in [Method::Ack, Method::Invite, Method::Bye] {
            let message = Message::request(method, &id).to_tag("caller");
            let went = send_to(&mut world, vips()[1], &message);
            assert_eq!(went, (Verdict::Dialog, backend), "{method:?}");
            assert_eq!(source(&mut world, backend, &ok(method, &id)), vips()[1], "{method:?}");
        }
        let fresh = format!("fresh-{n}@x");
        elsewhere += usize::from(slot_owner(&mut world, vips()[1], &fresh) != backend);
    }
    assert!(elsewhere > 20, "only {elsewhere} would have gone elsewhere");
    // A new request with a Call-ID of the other service is none of that dialog.
    let own = world.address("own");
    let id = (0..)
        .map(|n| format!("seek-{n}@x"))
        .find(|id| slot_owner(&mut world, vips()[1], id) == own)
        .unwrap();
    let mut world = World::new(SHARED);
    let gw1 = world.address("gw1");
    assert_eq!(source(&mut world, gw1, &Message::invite(&id)), vips()[0]);
    assert_eq!(send_to(&mut world, vips()[1], &Message::invite(&id)), (Verdict::NewDialog, own));
}

#[test]
fn a_call_that_another_service_knows_waits_for_its_backend_if_calls_are_kept() {
    let kept = SHARED.replace("    backends:", "    in_dialog_failover: keep\n    backends:");
    assert_ne!(kept, SHARED);
    let mut moved = 0;
    for n in 0..4 {
        for (yaml, is_kept) in [(kept.as_str(), true), (SHARED, false)] {
            let mut world = World::new(yaml);
            let gw1 = world.address("gw1");
            let id = format!("outward-{n}@x");
            source(&mut world, gw1, &Message::invite(&id));
            let answer = ok(Method::Invite, &id).only_via(gw1, "z9hG4bK1");
            assert_eq!(send_to(&mut world, vips()[0], &answer), (Verdict::Via, gw1));
            world.set_down(&["gw1"]);
            let bye = Message::request(Method::Bye, &id).to_tag("caller");
            let (_, to) = send_to(&mut world, vips()[1], &bye);
            assert_eq!(to == gw1, is_kept, "{n}: {to}");
            moved += u32::from(to != gw1);
        }
    }
    assert_eq!(moved, 4, "those whose backend is down are moved otherwise");
}

#[test]
fn who_tries_the_next_vip_with_the_same_call_id_is_answered_from_there() {
    let mut world = World::new(SHARED);
    let mut same = 0;
    for n in 0..60 {
        let id = format!("retry-{n}@x");
        let (_, first) = send_to(&mut world, vips()[0], &Message::invite(&id));
        let refused = Message::response(503, Method::Invite, &id);
        assert_eq!(source(&mut world, first, &refused), vips()[0]);
        let (verdict, second) = send_to(&mut world, vips()[1], &Message::invite(&id).cseq(2));
        assert_eq!(verdict, Verdict::NewDialog);
        assert_eq!(source(&mut world, second, &ok(Method::Invite, &id)), vips()[1]);
        same += usize::from(first == second);
    }
    assert!(same > 10, "only {same} came to the same backend");
}

#[test]
fn a_spiral_through_both_services_moves_nothing() {
    let mut world = World::new(SHARED);
    let mut spirals = 0;
    for n in 0..60 {
        let id = format!("spiral-{n}@x");
        let (_, first) = send_to(&mut world, vips()[0], &Message::invite(&id));
        let run = world.backend_sends(first, vips()[1], &Message::invite(&id).build());
        assert_eq!(run.verdict, Verdict::NewDialog);
        let second = run.destination();
        if second == first {
            continue;
        }
        spirals += 1;
        assert_eq!(source(&mut world, first, &ok(Method::Invite, &id)), vips()[0]);
        for (vip, backend) in [(vips()[0], first), (vips()[1], second)] {
            let bye = Message::request(Method::Update, &id).to_tag("callee");
            assert_eq!(send_to(&mut world, vip, &bye), (Verdict::Dialog, backend));
        }
    }
    assert!(spirals > 20, "only {spirals}");
}

#[test]
fn backends_that_share_any_service_talk_to_each_other_untouched() {
    let mut world = World::new(SHARED);
    for (from, to, verdict) in [
        ("gw1", "gw2", Verdict::SameService),
        ("gw1", "gw3", Verdict::SameService),
        ("gw1", "own", Verdict::SameService),
        ("own", "gw1", Verdict::SameService),
        ("gw3", "own", Verdict::ServerRequest),
        ("own", "gw3", Verdict::ServerRequest),
    ] {
        let (from_address, to_address) = (world.address(from), world.address(to));
        let message = Message::request(Method::Options, "peer@x").build();
        let run = world.backend_sends(from_address, to_address, &message);
        assert_eq!(run.verdict, verdict, "{from} to {to}");
    }
}
