//! What chooses beside the Call-ID: other keys, turns, loads, domains and methods.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::verdict::{Key, Verdict};
use lb_tests::message::{Message, Method};
use lb_userspace::{
    maps::LbMaps as _,
    state::{
        choose::{self, Request},
        route::expected,
        table::TableCache,
    },
};
use world::{ONE_SERVICE, World, client, key, vip};

/// [`ONE_SERVICE`] with other words for the service.
fn with(words: &str) -> String {
    ONE_SERVICE.replace("    backends:\n", &format!("    {words}\n    backends:\n"))
}

/// [`ONE_SERVICE`] with rules.
const RULES: &str = "
    domains:
      - match: [corporate.example, '*.branch.example']
        backends:
          - { name: corp1, address: '10.0.1.211:5060', priority: 1 }
          - { name: corp2, address: '10.0.1.212:5060', priority: 2 }
      - match: ['*.special.branch.example', lone]
        backends: [{ name: special, address: '10.0.1.213:5060' }]
    methods:
      - match: [REGISTER, PUBLISH]
        backends:
          - { name: reg1, address: '10.0.1.214:5060' }
          - { name: reg2, address: '10.0.1.215:5060' }
";

fn ruled() -> World {
    World::new(&format!("{ONE_SERVICE}{RULES}"))
}

fn key_of(run: &world::Run) -> Key {
    Key::ALL[usize::from(run.decision.key)]
}

/// Sends it from a client; where it went and by what.
fn send_from(world: &mut World, n: u8, message: &Message) -> (Verdict, Key, SocketAddr) {
    let run = world.client_sends(client(n), vip(), &message.build());
    (run.verdict, key_of(&run), run.destination())
}

fn send(world: &mut World, message: &Message) -> (Verdict, Key, SocketAddr) {
    send_from(world, 10, message)
}

/// A request with another Request-URI.
fn to_uri(method: Method, id: &str, uri: &str) -> Message {
    Message::request(method, id).start_line(&format!("{} {uri} SIP/2.0", method.name()))
}

/// The binding of the backend at an address.
fn binding_of(world: &World, address: SocketAddr) -> u16 {
    let maps = &world.program.maps;
    let is_it = |id: &u16| {
        let endpoint = maps.binding(*id).unwrap().endpoint;
        maps.endpoint(endpoint).unwrap().socket.address() == address
    };
    (1..100).find(is_it).unwrap()
}

/// Everything inside the dialog of `invite` goes where that went, with other URIs and users.
fn stays(world: &mut World, id: &str, to: SocketAddr) {
    for method in [Method::Ack, Method::Update, Method::Invite, Method::Bye] {
        let message = to_uri(method, id, "sip:contact@192.0.2.7:5070").to_tag("callee");
        let (_, _, there) = send_from(world, 77, &message);
        assert_eq!(there, to, "{id} {method:?}");
    }
}

#[test]
fn one_user_goes_to_one_backend_whatever_the_call_id() {
    let mut world = World::new(&with("balance: request-user"));
    let mut places: BTreeMap<String, BTreeSet<SocketAddr>> = BTreeMap::new();
    for n in 0..240 {
        let user = format!("user{}", n % 40);
        // Registrations go by who registers: to where calls for that user go.
        let (method, uri) = if n % 3 == 0 {
            (Method::Register, "sip:registrar.example".to_owned())
        } else {
            (Method::Invite, format!("sip:{user}:secret@Some.Host{n}:5070;x=y"))
        };
        let id = format!("{n}-call@x");
        let mut message = to_uri(method, &id, &uri);
        if method == Method::Register {
            message = message.to(&format!("\"N. <sip:no@x>; {n}\" <sips:{user}@aor.example>"));
        }
        let (verdict, key, to) = send(&mut world, &message);
        let by = if method == Method::Register { Key::ToUser } else { Key::RequestUser };
        assert_eq!((verdict, key), (Verdict::NewDialog, by), "{id}");
        // Its retransmission follows the entry.
        assert_eq!(send(&mut world, &message), (Verdict::Dialog, Key::Dialog, to));
        if method == Method::Invite {
            stays(&mut world, &id, to);
        }
        places.entry(user).or_default().insert(to);
    }
    assert!(places.values().all(|places| places.len() == 1), "{places:?}");
    assert_eq!(places.values().flatten().collect::<BTreeSet<_>>().len(), 4);
}

#[test]
fn every_key_chooses_as_route_says() {
    for balance in ["source-ip", "request-user", "request-domain", "from-user", "to-user"] {
        let mut world = World::new(&with(&format!("balance: {balance}")));
        let mut met = BTreeSet::new();
        for n in 0..120u8 {
            let id = format!("{n}-{balance}@x");
            let uri = format!("sip:u{}@d{}.Example.:5060;p", n % 17, n % 19);
            let (from, to) = (format!("F <sip:f{}@a>;tag=1", n % 23), format!("sip:t{}@b", n % 29));
            let message = to_uri(Method::Invite, &id, &uri).from(&from).to(&to);
            let source = client(n % 13);
            let run = world.client_sends(source, vip(), &message.build());
            let request = Request {
                call_id: &id,
                method: lb_common::sip::Method::Invite,
                uri: Some(&uri),
                from: Some(&from),
                to: Some(&to),
                source: Some(source.ip()),
            };
            let service = &world.config.services[0];
            let (hash, key) = choose::hash(service, key(&world.config), &request).unwrap();
            assert_eq!(key.label(), Some(balance));
            let none = BTreeSet::new();
            let mut cache = TableCache::default();
            let set = expected(&service.backends, service.balance, &none, &mut cache);
            assert_eq!(set.backend(hash), Some(world.name(run.destination())), "{id}");
            assert_eq!((key_of(&run), run.decision.hash), (key, hash));
            met.insert(run.destination());
            stays(&mut world, &id, run.destination());
        }
        assert!(met.len() >= 3, "{balance}: {met:?}");
    }
}

#[test]
fn without_the_part_that_is_asked_for_the_call_id_decides() {
    for (balance, uri) in [
        ("request-user", "sip:no-user.example"),
        ("request-domain", "tel:+4989123"),
        ("request-user", "urn:service:sos"),
    ] {
        let mut world = World::new(&with(&format!("balance: {balance}")));
        let mut plain = World::new(ONE_SERVICE);
        for n in 0..40 {
            let message = to_uri(Method::Invite, &format!("{n}-{balance}"), uri);
            let (_, key, to) = send(&mut world, &message);
            assert_eq!((key, to), (Key::CallId, send(&mut plain, &message).2));
        }
    }
}

#[test]
fn keepalives_of_a_client_go_with_its_requests_where_the_source_decides() {
    let mut world = World::new(&with("balance: source-ip\n    keepalive: forward"));
    for n in 0..30 {
        let (_, _, to) = send_from(&mut world, n, &Message::invite(&format!("k{n}")));
        let other_port = SocketAddr::new(client(n).ip(), 61_000);
        let run = world.client_sends(other_port, vip(), b"\r\n\r\n");
        assert_eq!((run.verdict, run.destination()), (Verdict::Keepalive, to));
    }
}

#[test]
fn turns_are_taken_by_weight_and_calls_stay() {
    let mut world = World::new(&with("balance: round-robin"));
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for n in 0..600 {
        let id = format!("rr-{n}@x");
        let (verdict, key, to) = send(&mut world, &Message::invite(&id));
        assert_eq!((verdict, key), (Verdict::NewDialog, Key::RoundRobin));
        stays(&mut world, &id, to);
        *shares.entry(world.name(to).to_owned()).or_default() += 1;
        // At any moment everyone has had its turns: 1:1:2:2.
        for (name, part) in [("gw1", 6.0), ("gw2", 6.0), ("gw3", 3.0), ("gw4", 3.0)] {
            let due = f64::from(n + 1) / part;
            let had = f64::from(shares.get(name).copied().unwrap_or(0));
            assert!((had - due).abs() <= 1.5, "{name} after {n}: {shares:?}");
        }
    }
    world.set_down(&["gw3"]);
    for n in 0..300 {
        let (_, _, to) = send(&mut world, &Message::invite(&format!("rest-{n}@x")));
        assert_ne!(world.name(to), "gw3");
    }
}

#[test]
fn the_less_loaded_of_two_is_chosen_and_weights_are_respected() {
    let mut world = World::new(&with("balance: least-dialogs"));
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for n in 0..1200 {
        let (verdict, key, to) = send(&mut world, &Message::invite(&format!("ld-{n}@x")));
        assert_eq!((verdict, key), (Verdict::NewDialog, Key::LeastDialogs));
        *shares.entry(world.name(to).to_owned()).or_default() += 1;
    }
    // A hash alone has a standard deviation of 13 to 16 calls here.
    for (name, due) in [("gw1", 200), ("gw2", 200), ("gw3", 400), ("gw4", 400)] {
        assert!(shares[name].abs_diff(due) <= 12, "{shares:?}");
    }
    // A sweep finds that gw1 has 500 calls: new ones avoid it where they can.
    let gw1 = world.address("gw1");
    let binding = binding_of(&world, gw1);
    world
        .program
        .loads
        .settle(&world.program.loads.changes(), |id| if id == binding { 500 } else { 0 });
    assert_eq!(world.program.loads.dialogs(binding), 500);
    let to_gw1 =
        (0..600).filter(|n| send(&mut world, &Message::invite(&format!("ld2-{n}@x"))).2 == gw1);
    let count = to_gw1.count();
    // Only if all four draws fall on it: (1/6)^4 of 600.
    assert!(count <= 5, "{count}");
}

#[test]
fn an_ended_call_is_no_load() {
    let mut world = World::new(&with("balance: least-dialogs"));
    let (_, _, to) = send(&mut world, &Message::invite("end@x"));
    let binding = binding_of(&world, to);
    assert_eq!(world.program.loads.dialogs(binding), 1);
    let answer = Message::response(200, Method::Invite, "end@x").build();
    world.backend_sends(to, client(10), &answer);
    stays(&mut world, "end@x", to);
    assert_eq!(world.program.loads.dialogs(binding), 0);
}

#[test]
fn domains_have_backends_of_their_own() {
    let mut world = ruled();
    for (uri, set) in [
        ("sip:bob@corporate.example", &["corp1"][..]),
        ("sips:CORPORATE.example.:5061;lr", &["corp1"]),
        ("sip:bob@a.branch.example", &["corp1"]),
        ("sip:bob@a.b.branch.example:5070", &["corp1"]),
        ("sip:bob@x.special.branch.example", &["special"]),
        ("sip:bob@lone", &["special"]),
        ("sip:bob@special.branch.example", &["corp1"]),
        ("sip:bob@branch.example", &["gw1", "gw2", "gw3", "gw4"]),
        ("sip:bob@xbranch.example", &["gw1", "gw2", "gw3", "gw4"]),
        ("sip:bob@sub.corporate.example", &["gw1", "gw2", "gw3", "gw4"]),
        ("sip:bob@corporate.example.org", &["gw1", "gw2", "gw3", "gw4"]),
        ("sip:corporate.example@10.0.0.1", &["gw1", "gw2", "gw3", "gw4"]),
        ("tel:+1;phone-context=corporate.example", &["gw1", "gw2", "gw3", "gw4"]),
    ] {
        for n in 0..12 {
            let id = format!("{n}-{uri}");
            let message = to_uri(Method::Invite, &id, uri);
            let (verdict, key, to) = send(&mut world, &message);
            assert_eq!((verdict, key), (Verdict::NewDialog, Key::CallId), "{uri}");
            assert!(set.contains(&world.name(to)), "{uri}: {}", world.name(to));
            // A CANCEL has the same URI, requests in the dialog have others.
            assert_eq!(send(&mut world, &to_uri(Method::Cancel, &id, uri)).2, to);
            stays(&mut world, &id, to);
        }
    }
}

#[test]
fn a_domain_has_tiers_and_keeps_its_calls_among_its_backends() {
    let mut world = ruled();
    let uri = "sip:bob@corporate.example";
    let (_, _, corp1) = send(&mut world, &to_uri(Method::Invite, "tier@x", uri));
    world.set_down(&["corp1"]);
    let corp2 = world.address("corp2");
    // In the dialog the URI says nothing of the domain, yet the call moves to the same farm.
    let inside = to_uri(Method::Update, "tier@x", "sip:contact@192.0.2.7").to_tag("callee");
    let (verdict, _, to) = send(&mut world, &inside);
    assert_eq!((verdict, to), (Verdict::Rehash, corp2));
    assert_eq!(send(&mut world, &to_uri(Method::Invite, "new@x", uri)).2, corp2);
    world.set_down(&[]);
    assert_eq!(send(&mut world, &inside).2, corp2, "no flapping");
    assert_eq!(send(&mut world, &to_uri(Method::Invite, "newer@x", uri)).2, corp1);
    // With nobody left in the domain's set, no other set helps out.
    world.set_down(&["corp1", "corp2"]);
    let run = world.client_sends(client(10), vip(), &to_uri(Method::Invite, "none@x", uri).build());
    assert_ne!(run.verdict, Verdict::NewDialog);
    assert_eq!(run.decision.binding, 0);
}

#[test]
fn a_registrar_farm_gets_registrations_and_nothing_else() {
    let mut world = ruled();
    let mut met = BTreeSet::new();
    for n in 0..40 {
        // The method goes before the domain.
        for uri in ["sip:registrar.example", "sip:corporate.example"] {
            let message = to_uri(Method::Register, &format!("reg-{n}-{uri}"), uri);
            let (verdict, _, to) = send(&mut world, &message);
            assert_eq!(verdict, Verdict::NewDialog);
            assert!(["reg1", "reg2"].contains(&world.name(to)));
            assert_eq!(send(&mut world, &message), (Verdict::Dialog, Key::Dialog, to));
            met.insert(to);
        }
        let (_, _, to) = send(&mut world, &Message::invite(&format!("inv-{n}")));
        assert!(world.name(to).starts_with("gw"));
    }
    assert_eq!(met.len(), 2);
}

#[test]
fn a_registration_goes_by_the_domain_of_its_request_uri() {
    let rules = RULES.split("    methods:").next().unwrap();
    let mut world = World::new(&format!("{ONE_SERVICE}{rules}"));
    let message =
        to_uri(Method::Register, "r@x", "sip:corporate.example").to("<sip:bob@other.example>");
    assert_eq!(world.address("corp1"), send(&mut world, &message).2);
    let message =
        to_uri(Method::Register, "s@x", "sip:other.example").to("<sip:bob@corporate.example>");
    let (_, _, to) = send(&mut world, &message);
    assert!(world.name(to).starts_with("gw"));
}

#[test]
fn a_reload_changes_rules_for_new_dialogs_only() {
    let mut world = ruled();
    let uri = "sip:bob@corporate.example";
    let (_, _, corp1) = send(&mut world, &to_uri(Method::Invite, "old@x", uri));
    world.reload(&format!("{ONE_SERVICE}{}", RULES.replace("corporate.example", "other.example")));
    stays(&mut world, "old@x", corp1);
    let (_, _, to) = send(&mut world, &to_uri(Method::Invite, "new@x", uri));
    assert!(world.name(to).starts_with("gw"));
    let (_, _, to) = send(&mut world, &to_uri(Method::Invite, "new2@x", "sip:other.example"));
    assert_eq!(to, corp1);
}

#[test]
fn without_affinity_every_request_is_placed_for_itself() {
    let mut world = World::new(&with("balance: round-robin\n    affinity: none"));
    let met: BTreeSet<_> = (0..6).map(|_| send(&mut world, &Message::invite("same@x")).2).collect();
    assert_eq!(met.len(), 4);
    let mut world = World::new(&with("affinity: none"));
    let (verdict, key, to) = send(&mut world, &Message::invite("same@x"));
    assert_eq!((verdict, key), (Verdict::Hash, Key::CallId));
    // Nothing is learned from backends either.
    let other = world.address(if world.name(to) == "gw1" { "gw2" } else { "gw1" });
    world.backend_sends(other, client(10), &Message::invite("same@x").build());
    assert_eq!(send(&mut world, &Message::request(Method::Options, "same@x")).2, to);
}
