//! What the program learns on the way out, from backends and from those who answer them, and what
//! teaches it nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod world;

use std::net::SocketAddr;

use lb_common::{dialog::State, stats::Event, verdict::Verdict};
use lb_tests::{
    message::{Message, Method},
    net::edge_mac,
    packet::Packet,
};
use lb_userspace::datapath::{
    reline::Now,
    sweep::{Census, STEP_LINES, Sweep},
};
use world::{EPOCH, ONE_SERVICE, World, client, hop, mac_of, vip};

/// Two services; the PBX is the only backend of one, carriers are those of the other.
const TWO_SERVICES: &str = "
interfaces: [lo]
hash_key: tests
dialogs: { max: 4096, timeout: 1h }
limits: { services: 8, endpoints: 64, bindings: 128, tables: 8 }
services:
  - name: inbound
    listen: [\"203.0.113.10:5060\"]
    backends:
      - { name: pbx1, address: \"10.0.1.201:5060\" }
      - { name: pbx2, address: \"10.0.1.202:5060\" }
  - name: outbound
    listen: [\"203.0.113.10:5080\"]
    backends:
      - { name: carrier1, address: \"10.0.1.211:5060\" }
      - { name: carrier2, address: \"10.0.1.212:5060\" }
";

fn outbound() -> SocketAddr {
    "203.0.113.10:5080".parse().unwrap()
}

/// What a sweep of the dialog table finds within the first lifetime.
fn census(world: &World) -> Census {
    let mut sweep = Sweep::new();
    let now = Now { epoch: 0, lifetime: 15 };
    let service = |_binding| 0;
    while !sweep.step(world.program.dialogs.entries(), now, STEP_LINES, service) {}
    sweep.finish()
}

/// States of all entries, as the sweep counts them.
fn states(world: &World) -> [(State, u64); 5] {
    let census = census(world);
    [
        (State::Unconfirmed, census.unconfirmed),
        (State::Ringing, census.ringing),
        (State::Ended, census.ended),
        (State::ConfirmedInvite, census.confirmed_invite),
        (State::ConfirmedOther, census.confirmed_other),
    ]
}

/// The state of the only entry.
fn state(world: &World) -> State {
    let found: Vec<_> = states(world).into_iter().filter(|(_, count)| *count > 0).collect();
    let [(state, 1)] = found[..] else { panic!("{found:?}") };
    state
}

fn send(world: &mut World, message: &Message) -> (Verdict, SocketAddr) {
    let run = world.client_sends(client(10), vip(), &message.build());
    (run.verdict, run.destination())
}

/// A Call-ID that the slots give to another backend than `backend`. Nothing is remembered of the
/// search.
fn call_id_against(world: &mut World, backend: SocketAddr, seed: &str) -> String {
    (0..)
        .map(|n| format!("{seed}-{n}@{backend}"))
        .find(|id| send(world, &Message::request(Method::Options, id)).1 != backend)
        .unwrap()
}

fn in_dialog(method: Method, call_id: &str) -> Message {
    Message::request(method, call_id).to_tag("callee")
}

#[test]
fn whatever_a_callee_sends_in_a_call_that_a_backend_began_comes_back_to_it() {
    let mut world = World::new(ONE_SERVICE);
    let gw3 = world.address("gw3");
    for method in [
        Method::Invite,
        Method::Ack,
        Method::Bye,
        Method::Cancel,
        Method::Register,
        Method::Options,
        Method::Subscribe,
        Method::Notify,
        Method::Refer,
        Method::Message,
        Method::Update,
        Method::Prack,
    ] {
        let id = call_id_against(&mut world, gw3, method.name());
        world.backend_sends(gw3, client(9), &Message::invite(&id).build());
        for status in [100, 180, 183, 199, 200, 302, 401, 407, 486, 487, 503, 600] {
            let answer = Message::response(status, Method::Invite, &id);
            assert_eq!(send(&mut world, &answer), (Verdict::Dialog, gw3), "{status}");
        }
        for _ in 0..2 {
            let request = in_dialog(method, &id);
            assert_eq!(send(&mut world, &request), (Verdict::Dialog, gw3), "{method:?}");
        }
    }
}

#[test]
fn a_call_that_a_backend_began_is_a_live_call_once_answered() {
    let mut world = World::new(ONE_SERVICE);
    let gw3 = world.address("gw3");
    world.backend_sends(gw3, client(9), &Message::invite("out@x").build());
    // A reliable provisional answer, its PRACK, an UPDATE: the call still rings.
    let _ringing = send(&mut world, &Message::response(183, Method::Invite, "out@x"));
    for method in [Method::Prack, Method::Update] {
        world.backend_sends(gw3, client(9), &in_dialog(method, "out@x").build());
        let _done = send(&mut world, &Message::response(200, method, "out@x"));
        assert_eq!(state(&world), State::Ringing, "after {method:?}");
    }
    let _answered = send(&mut world, &Message::response(200, Method::Invite, "out@x"));
    assert_eq!(state(&world), State::ConfirmedInvite);
    let _hung_up = send(&mut world, &in_dialog(Method::Bye, "out@x"));
    assert_eq!(state(&world), State::Ended);
    let events = world.program.counters.events().unwrap();
    let counted =
        [Event::DialogCreated, Event::DialogConfirmed, Event::DialogEnded].map(|e| events.of(e));
    assert_eq!(counted, [1, 1, 1]);
}

#[test]
fn a_farm_that_pings_its_phones_leaves_no_confirmed_dialogs() {
    let mut world = World::new(ONE_SERVICE);
    let gw3 = world.address("gw3");
    for n in 0..300 {
        for method in [Method::Options, Method::Notify, Method::Message] {
            let id = format!("{}-{n}@gw3", method.name());
            world.backend_sends(gw3, client(9), &Message::request(method, &id).build());
            let answer = Message::response(200, method, &id);
            assert_eq!(send(&mut world, &answer), (Verdict::Dialog, gw3));
            // Repeated, as over UDP it may be.
            assert_eq!(send(&mut world, &answer).1, gw3);
        }
    }
    let census = census(&world);
    assert_eq!((census.confirmed_invite, census.confirmed_other, census.unconfirmed), (0, 0, 0));
    assert_eq!(census.ended, 900);
}

#[test]
fn a_notify_that_overtakes_the_200_of_its_subscription_is_part_of_it() {
    let mut world = World::new(ONE_SERVICE);
    let (_, backend) = send(&mut world, &Message::request(Method::Subscribe, "presence@x"));
    let notify = in_dialog(Method::Notify, "presence@x");
    world.backend_sends(backend, client(10), &notify.build());
    let answer = Message::response(200, Method::Notify, "presence@x");
    assert_eq!(send(&mut world, &answer).1, backend);
    assert_eq!(state(&world), State::ConfirmedOther);
    let accepted = Message::response(200, Method::Subscribe, "presence@x");
    world.backend_sends(backend, client(10), &accepted.build());
    assert_eq!(state(&world), State::ConfirmedOther);
    // The other way round: a backend subscribes, the client's NOTIFY is first.
    let gw3 = world.address("gw3");
    let id = call_id_against(&mut world, gw3, "leg");
    world.backend_sends(gw3, client(9), &Message::request(Method::Subscribe, &id).build());
    let notify = in_dialog(Method::Notify, &id);
    assert_eq!(send(&mut world, &notify), (Verdict::Dialog, gw3));
    assert_eq!(send(&mut world, &Message::response(200, Method::Subscribe, &id)).1, gw3);
    assert_eq!(census(&world).confirmed_other, 2);
}

#[test]
fn a_fork_that_is_hung_up_leaves_the_other_a_call_as_soon_as_it_is_heard_of() {
    let mut world = World::new(ONE_SERVICE);
    let (_, backend) = send(&mut world, &Message::invite("fork@x"));
    for tag in ["one", "two"] {
        let answer = Message::response(200, Method::Invite, "fork@x").to_tag(tag);
        world.backend_sends(backend, client(10), &answer.build());
    }
    assert_eq!(state(&world), State::ConfirmedInvite);
    // RFC 3261 §13.2.2.4: the caller ends the dialog that it does not want.
    let _unwanted = send(&mut world, &in_dialog(Method::Bye, "fork@x").to_tag("two"));
    assert_eq!(state(&world), State::Ended);
    let again = in_dialog(Method::Invite, "fork@x").to_tag("one");
    assert_eq!(send(&mut world, &again), (Verdict::Dialog, backend));
    let answer = Message::response(200, Method::Invite, "fork@x").to_tag("one");
    world.backend_sends(backend, client(10), &answer.build());
    assert_eq!(state(&world), State::ConfirmedInvite);
}

#[test]
fn what_crosses_a_bye_does_not_bring_the_call_back() {
    let mut world = World::new(ONE_SERVICE);
    let (_, backend) = send(&mut world, &Message::invite("glare@x"));
    let answer = Message::response(200, Method::Invite, "glare@x");
    world.backend_sends(backend, client(10), &answer.build());
    let bye = in_dialog(Method::Bye, "glare@x");
    assert_eq!(send(&mut world, &bye).1, backend);
    for from_backend in [
        answer,
        bye.clone(),
        Message::response(200, Method::Bye, "glare@x"),
        Message::response(481, Method::Bye, "glare@x"),
        in_dialog(Method::Notify, "glare@x"),
    ] {
        world.backend_sends(backend, client(10), &from_backend.build());
        assert_eq!(state(&world), State::Ended);
    }
    for from_client in [
        bye,
        Message::response(200, Method::Bye, "glare@x"),
        Message::response(200, Method::Notify, "glare@x"),
        in_dialog(Method::Ack, "glare@x"),
    ] {
        assert_eq!(send(&mut world, &from_client).1, backend);
        assert_eq!(state(&world), State::Ended);
    }
}

#[test]
fn a_challenged_request_comes_again_to_the_backend_that_asked_for_credentials() {
    let mut world = World::new(ONE_SERVICE);
    for (n, method) in [Method::Invite, Method::Subscribe, Method::Register].into_iter().enumerate()
    {
        let id = format!("challenge-{n}@x");
        let (_, backend) = send(&mut world, &Message::request(method, &id));
        let challenge = Message::response(407, method, &id).build();
        world.backend_sends(backend, client(10), &challenge);
        if method == Method::Invite {
            assert_eq!(send(&mut world, &in_dialog(Method::Ack, &id)).1, backend);
        }
        let second = Message::request(method, &id).cseq(2).header("Proxy-Authorization", "Digest");
        assert_eq!(send(&mut world, &second).1, backend, "{method:?}");
        let answer = Message::response(200, method, &id).cseq(2).build();
        world.backend_sends(backend, client(10), &answer);
        // Inside the dialog, or the registration, likewise.
        let third = in_dialog(method, &id).cseq(3);
        assert_eq!(send(&mut world, &third).1, backend, "{method:?}");
    }
}

#[test]
fn an_answer_goes_to_who_asked_even_if_it_is_thought_down() {
    let mut world = World::new(ONE_SERVICE);
    let gw3 = world.address("gw3");
    let id = call_id_against(&mut world, gw3, "leg");
    world.backend_sends(gw3, client(9), &Message::invite(&id).build());
    world.set_down(&["gw3"]);
    for status in [100, 180, 200] {
        let answer = Message::response(status, Method::Invite, &id);
        assert_eq!(send(&mut world, &answer), (Verdict::Dialog, gw3));
    }
    // A request may be of use to another backend.
    let (verdict, other) = send(&mut world, &in_dialog(Method::Bye, &id));
    assert_eq!(verdict, Verdict::Rehash);
    assert_ne!(other, gw3);
}

#[test]
fn a_backend_that_is_thought_down_may_call_another_service_on_its_link() {
    let mut world = World::new(TWO_SERVICES);
    let pbx = world.address("pbx1");
    world.set_down(&["pbx1"]);
    for n in 0..20 {
        let id = format!("down-{n}@pbx1");
        let run = world.backend_sends(pbx, outbound(), &Message::invite(&id).build());
        assert_eq!(run.frame().source(), vip());
        let carrier = run.destination();
        for status in [100, 180, 200] {
            let answer = Message::response(status, Method::Invite, &id).build();
            let run = world.backend_sends(carrier, vip(), &answer);
            assert_eq!((run.verdict, run.destination()), (Verdict::Dialog, pbx));
        }
    }
}

#[test]
fn a_backend_that_calls_another_service_beyond_a_router_teaches_its_own_one() {
    let mut world = World::new(TWO_SERVICES);
    let carriers = ["carrier1", "carrier2"].map(|name| world.address(name));
    for carrier in carriers {
        let path = world.view.paths.get_mut(&carrier.ip().into()).unwrap();
        path.next_hop = hop(mac_of(carrier.ip()), 0);
    }
    world.apply();
    let pbx = world.address("pbx2");
    let mut elsewhere = 0;
    for n in 0..20 {
        let id = format!("out-{n}@pbx2");
        let before = send(&mut world, &Message::request(Method::Options, &id)).1;
        elsewhere += u32::from(before != pbx);
        let run = world.backend_sends(pbx, outbound(), &Message::invite(&id).build());
        assert!(carriers.contains(&run.destination()));
        assert_eq!(run.frame().source(), pbx, "the reply crosses this host anyway");
        // The PBX gave its VIP as contact.
        let bye = in_dialog(Method::Bye, &id).build();
        let run = world.backend_sends(run.destination(), vip(), &bye);
        assert_eq!((run.verdict, run.destination()), (Verdict::Dialog, pbx));
    }
    assert!(elsewhere > 4, "the slots alone would have said something else: {elsewhere}");
}

#[test]
fn a_forged_backend_address_reaches_no_vip_and_teaches_nothing() {
    let mut world = World::new(TWO_SERVICES);
    let pbx = world.address("pbx1");
    let forged = Packet::udp(pbx, outbound(), Message::invite("forged@x").build());
    let run = world.run(&forged);
    assert_eq!(run.verdict, Verdict::SpoofedBackend);
    assert_eq!(census(&world).live(), 0);
    let run = world.run(&forged.macs(mac_of(pbx.ip()), edge_mac(0)));
    assert_eq!(run.verdict, Verdict::NewDialog);
    assert_eq!(census(&world).live(), 2, "one for each service");
}

#[test]
fn a_dialog_that_only_its_backend_refreshes_stays_findable() {
    // The two services share both endpoints, but not the weights.
    let yaml = TWO_SERVICES.replace("10.0.1.211", "10.0.1.201").replace("10.0.1.212", "10.0.1.202");
    let weighed =
        |weight| yaml.replace("name: carrier2,", &format!("name: carrier2, weight: {weight},"));
    let mut world = World::new(&weighed(1));
    let first = world.address("carrier1");
    // Calls by the second service at the first endpoint, which the first service's slots agree with.
    let mut calls = Vec::new();
    for n in 0..400 {
        let id = format!("shared-{n}@x");
        let agrees = send(&mut world, &Message::request(Method::Update, &id)).1 == first;
        let invite = Message::invite(&id).build();
        if world.client_sends(client(10), outbound(), &invite).destination() == first && agrees {
            let answer = Message::response(200, Method::Invite, &id).build();
            world.backend_sends(first, client(10), &answer);
            calls.push(id);
        }
    }
    // Most slots of the second service move to its other endpoint.
    world.reload(&weighed(100));
    for _ in 0..4 {
        world.wait(6 * EPOCH);
        for id in &calls {
            let info = in_dialog(Method::Options, id).build();
            let run = world.backend_sends(first, client(10), &info);
            assert_eq!(run.frame().source(), outbound());
        }
    }
    assert!(calls.len() > 50, "{}", calls.len());
    for id in &calls {
        let prack = in_dialog(Method::Prack, id).build();
        let run = world.client_sends(client(10), outbound(), &prack);
        assert_eq!(run.destination(), first, "{id}");
    }
}

#[test]
fn an_answer_through_two_services_of_one_link_bears_the_vip_that_was_called() {
    // Both services share both endpoints: a proxy hands the call to the other one by a second VIP.
    let yaml = TWO_SERVICES.replace("10.0.1.211", "10.0.1.201").replace("10.0.1.212", "10.0.1.202");
    let mut world = World::new(&yaml);
    let mut spirals = 0;
    for n in 0..40 {
        let id = format!("spiral-{n}@x");
        let invite = Message::invite(&id);
        let first = send(&mut world, &invite).1;
        let run = world.backend_sends(first, outbound(), &invite.build());
        let second = run.destination();
        if second == first {
            continue;
        }
        spirals += 1;
        assert_eq!(run.frame().source(), vip());
        for status in [100, 180, 200] {
            let answer = Message::response(status, Method::Invite, &id).build();
            let frame = world.backend_sends(second, vip(), &answer).frame();
            assert_eq!((frame.source(), frame.destination()), (outbound(), first), "{status}");
            let frame = world.backend_sends(first, client(10), &answer).frame();
            assert_eq!(frame.source(), vip(), "{status}");
        }
        // Both hang up the way the call went; nothing has moved.
        let bye = in_dialog(Method::Bye, &id);
        assert_eq!(send(&mut world, &bye), (Verdict::Dialog, first));
        let run = world.backend_sends(first, outbound(), &bye.build());
        assert_eq!(run.destination(), second);
    }
    assert!(spirals > 4, "{spirals}");
    assert_eq!(world.program.counters.events().unwrap().of(Event::DialogMoved), 0);
}
