use std::{collections::VecDeque, time::Duration};

use tokio::{net::UdpSocket, time::timeout};

use super::*;
use crate::{
    config::model::{Expect, HealthCheck, Initial},
    probe::{Health, ProbeResult, Start, State},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// The promise is 100 ms, on a machine that has nothing else to do.
const BUSY_MACHINE: Duration = Duration::from_millis(300);

/// The timeout is long enough for a machine that is busy with other tests.
fn check() -> HealthCheck {
    HealthCheck {
        method: "OPTIONS".into(),
        interval: Duration::from_millis(400),
        fast_interval: Duration::from_millis(50),
        timeout: Duration::from_millis(400),
        rise: 2,
        fall: 3,
        expect: Expect::Any,
        initial: Initial::Up,
    }
}

fn answered(status: u16, retry_after: Option<u64>) -> ProbeResult {
    ProbeResult::Answered { status, retry_after: retry_after.map(Duration::from_secs) }
}

/// What the backend does about one probe.
#[derive(Clone, Copy)]
enum Does {
    Nothing,
    Answers(&'static str),
    /// After a delay.
    Late(Duration),
    Says(&'static str),
    /// An answer with the right branch that is no SIP.
    Garbles,
}

fn answer(request: &str, status_line: &str) -> String {
    let copied = request
        .lines()
        .filter(|l| ["Via:", "From:", "To:", "Call-ID:", "CSeq:"].iter().any(|n| l.starts_with(n)));
    let headers: String = copied.map(|line| format!("{line}\r\n")).collect();
    format!("SIP/2.0 {status_line}\r\n{headers}Content-Length: 0\r\n\r\n")
}

/// A backend that does these things in turn, the last one for ever.
async fn backend(local: &str, does: &[Does]) -> SocketAddr {
    let socket = std::sync::Arc::new(UdpSocket::bind(local).await.expect("loopback socket"));
    let address = socket.local_addr().expect("bound");
    let mut script: VecDeque<Does> = does.iter().copied().collect();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.expect("receive");
            let request = String::from_utf8(buffer[..length].to_vec()).expect("a probe is text");
            let does = if script.len() > 1 { script.pop_front() } else { script.front().copied() };
            let (delay, reply) = match does.expect("a script") {
                Does::Nothing => continue,
                Does::Answers(line) => (Duration::ZERO, answer(&request, line)),
                Does::Late(delay) => (delay, answer(&request, "200 OK")),
                Does::Says(text) => (Duration::ZERO, text.to_owned()),
                Does::Garbles => {
                    (Duration::ZERO, answer(&request, "200 OK").replacen("SIP/2.0", "SIP/9", 1))
                }
            };
            let socket = std::sync::Arc::clone(&socket);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                socket.send_to(reply.as_bytes(), from).await.expect("send");
            });
        }
    });
    address
}

struct Bench {
    prober: Prober,
    events: mpsc::Receiver<ProbeEvent>,
}

impl Bench {
    fn new() -> Self {
        let (sender, events) = mpsc::channel(64);
        Self { prober: Prober::start(Sources::default(), sender), events }
    }

    fn probing(endpoints: &[(SocketAddr, HealthCheck)]) -> Self {
        let bench = Self::new();
        bench.set(endpoints);
        bench
    }

    fn set(&self, endpoints: &[(SocketAddr, HealthCheck)]) {
        let wanted = endpoints.iter().map(|(address, check)| (*address, Some(check.clone())));
        self.prober.set_endpoints(wanted.collect()).expect("the prober runs");
    }

    async fn event(&mut self) -> ProbeEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event comes").expect("it runs")
    }

    async fn results(&mut self, count: usize) -> Vec<ProbeResult> {
        let mut results = Vec::new();
        for _ in 0..count {
            results.push(self.event().await.result);
        }
        results
    }
}

#[tokio::test]
async fn answers_are_reported_as_they_are() {
    for local in ["127.0.0.1:0", "[::1]:0"] {
        let does = [
            Does::Answers("200 OK"),
            Does::Answers("404 Not Found"),
            Does::Answers("503 Service Unavailable\r\nRetry-After: 7 (soon)"),
            Does::Garbles,
            Does::Answers("486 Busy Here"),
        ];
        let address = backend(local, &does).await;
        let mut bench = Bench::probing(&[(address, check())]);
        let results = bench.results(5).await;
        let expected = [
            answered(200, None),
            answered(404, None),
            answered(503, Some(7)),
            ProbeResult::Malformed,
            answered(486, None),
        ];
        assert_eq!(results, expected);
        bench.prober.stop().await.expect("a clean end");
    }
}

#[tokio::test]
async fn events_say_which_endpoint_and_how_long() {
    let slow = backend("127.0.0.1:0", &[Does::Late(Duration::from_millis(70))]).await;
    let mut bench = Bench::probing(&[(slow, check())]);
    let before = Instant::now();
    for _ in 0..3 {
        let event = bench.event().await;
        assert_eq!((event.endpoint, event.result), (slow, answered(200, None)));
        // Later than the fast interval: others were sent meanwhile, and it counts all the same.
        assert!(event.duration >= Duration::from_millis(70), "{event:?}");
        assert!(event.at >= before && event.at <= Instant::now());
        assert!(!event.superseded);
    }
}

#[tokio::test]
async fn silence_is_a_timeout_and_garbage_its_reason() {
    let mute = backend("127.0.0.1:0", &[Does::Nothing]).await;
    let mut bench = Bench::probing(&[(mute, check())]);
    let event = bench.event().await;
    assert_eq!((event.result, event.duration), (ProbeResult::Timeout, check().timeout));

    for (says, reported) in [
        ("no sip at all", ProbeResult::Malformed),
        ("\r\n\r\n", ProbeResult::Timeout),
        ("OPTIONS sip:lb SIP/2.0\r\n\r\n", ProbeResult::Timeout),
    ] {
        let chatter = backend("127.0.0.1:0", &[Does::Says(says)]).await;
        let mut bench = Bench::probing(&[(chatter, check())]);
        let event = bench.event().await;
        assert_eq!((event.result, event.duration), (reported, check().timeout), "{says}");
    }
}

/// When this process got no processor for longer than the timeout, the answer is already there.
#[tokio::test]
async fn an_endpoint_is_not_blamed_for_our_own_delay() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback socket");
    let address = socket.local_addr().expect("bound");
    let (asked, mut is_asked) = mpsc::channel(64);
    let (replied, has_replied) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // Until the prober's socket is closed.
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if asked.blocking_send(()).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
            socket.send_to(answer(&request, "200 OK").as_bytes(), from).expect("send");
            if replied.send(()).is_err() {
                return;
            }
        }
    });
    let mut bench = Bench::probing(&[(address, check())]);
    for _ in 0..5 {
        timeout(PATIENCE, is_asked.recv()).await.expect("a probe comes");
        // Blocks the only thread that this test and the prober have.
        has_replied.recv_timeout(PATIENCE).expect("a reply");
        std::thread::sleep(check().timeout * 2);
        assert_eq!(bench.event().await.result, answered(200, None));
    }
}

#[tokio::test]
async fn a_closed_port_fails_every_probe_at_once_and_a_new_server_is_found() {
    // No other test binds to 127.0.0.77: the port stays closed.
    for local in ["127.0.0.77:0", "[::1]:0"] {
        let free = UdpSocket::bind(local).await.expect("socket");
        let address = free.local_addr().expect("bound");
        drop(free);
        // A timeout would take as long as the test's patience.
        let check = HealthCheck {
            interval: PATIENCE,
            timeout: PATIENCE,
            fast_interval: Duration::from_millis(20),
            ..check()
        };
        let mut health = Health::new(Start::Adopted(State::Up), Initial::Up, Instant::now());
        let mut bench = Bench::probing(&[(address, check.clone())]);
        bench.prober.probe_now(address).expect("the prober runs");
        for failures in 1..=3 {
            let event = bench.event().await;
            assert_eq!(event.result, ProbeResult::PortUnreachable);
            let transition = health.observe(&event, &check);
            assert_eq!(transition.is_some(), failures == 3);
        }
        assert_eq!(health.state(), State::Down);
        assert!(health.refused());

        backend(&address.to_string(), &[Does::Answers("200 OK")]).await;
        bench.prober.probe_now(address).expect("the prober runs");
        // The second follows at the fast interval: it is recovering.
        for successes in 1..=2 {
            let event = bench.event().await;
            assert_eq!(event.result, answered(200, None));
            assert_eq!(health.observe(&event, &check).is_some(), successes == 2);
        }
        assert_eq!(health.state(), State::Up);
    }
}

#[tokio::test]
async fn a_death_is_found_within_the_worst_detection() {
    let does = [Does::Answers("200 OK"), Does::Answers("200 OK"), Does::Nothing];
    let address = backend("127.0.0.1:0", &does).await;
    let check = check();
    let mut health = Health::new(Start::FirstEver, Initial::Up, Instant::now());
    let mut bench = Bench::probing(&[(address, check.clone())]);
    let mut last_life = Instant::now();
    let found = loop {
        let event = bench.event().await;
        if event.result == answered(200, None) {
            last_life = event.at;
        }
        if let Some(change) = health.observe(&event, &check) {
            assert_eq!(change.to.state, State::Down);
            break event.at;
        }
    };
    let took = found - last_life;
    assert!(took <= check.worst_detection() + BUSY_MACHINE, "{took:?}");
    // And not earlier than three failures can be known.
    assert!(took >= check.timeout + check.fast_interval * 2, "{took:?}");
}

#[tokio::test]
async fn endpoints_come_change_and_go_at_runtime() {
    let first = backend("127.0.0.1:0", &[Does::Answers("200 OK")]).await;
    let second = backend("127.0.0.1:0", &[Does::Answers("200 OK")]).await;
    let quick = HealthCheck { interval: Duration::from_millis(50), ..check() };
    let mut bench = Bench::probing(&[(first, quick.clone())]);
    assert_eq!(bench.event().await.endpoint, first);

    bench.set(&[(first, quick.clone()), (second, quick.clone())]);
    while bench.event().await.endpoint != second {}

    // `health: off` ends the probes as removal does; what was under way may still be reported.
    let wanted = [(first, None), (second, Some(quick.clone()))];
    bench.prober.set_endpoints(wanted.into()).expect("the prober runs");
    while bench.event().await.endpoint != second {}
    for _ in 0..5 {
        assert_eq!(bench.event().await.endpoint, second);
    }

    // Other settings apply without waiting for the old interval to pass.
    bench.set(&[(second, HealthCheck { interval: PATIENCE * 2, ..check() })]);
    bench.set(&[(second, HealthCheck { method: "INFO".into(), ..quick })]);
    for _ in 0..5 {
        assert_eq!(bench.event().await.result, answered(200, None));
    }
}

#[tokio::test]
async fn probe_now_does_not_wait_for_the_interval() {
    let address = backend("127.0.0.1:0", &[Does::Answers("200 OK")]).await;
    let slow = HealthCheck { interval: PATIENCE * 100, rise: 1, ..check() };
    let mut bench = Bench::probing(&[(address, slow)]);
    for _ in 0..5 {
        bench.prober.probe_now(address).expect("the prober runs");
        assert_eq!(bench.event().await.result, answered(200, None));
    }
    // Of an endpoint that is gone: nothing happens.
    bench.prober.probe_now(([127, 0, 0, 1], 1).into()).expect("the prober runs");
    bench.prober.probe_now(address).expect("the prober runs");
    assert_eq!(bench.event().await.endpoint, address);
}

#[tokio::test]
async fn what_cannot_be_sent_is_reported_and_tried_again() {
    // Not an address of this host, so no socket can be opened with it.
    let sources = Sources { ipv4: Some([192, 0, 2, 1].into()), ipv6: None };
    let address = backend("127.0.0.1:0", &[Does::Answers("200 OK")]).await;
    let (sender, events) = mpsc::channel(64);
    let mut bench = Bench { prober: Prober::start(sources, sender), events };
    bench.set(&[(address, check())]);
    assert_eq!(bench.results(4).await, [ProbeResult::SendError; 4]);

    let mut bench =
        Bench::probing(&[(address, HealthCheck { method: "INVITE".into(), ..check() })]);
    assert_eq!(bench.results(2).await, [ProbeResult::SendError; 2]);
    bench.set(&[(address, check())]);
    while bench.event().await.result == ProbeResult::SendError {}
    assert_eq!(bench.event().await.result, answered(200, None));
}

#[tokio::test]
async fn the_prober_ends_when_nobody_listens() {
    let address = backend("127.0.0.1:0", &[Does::Answers("200 OK")]).await;
    let Bench { prober, events } = Bench::probing(&[(address, check())]);
    drop(events);
    let gone = async {
        while prober.probe_now(address).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it ends");
    assert!(matches!(prober.set_endpoints(HealthByEndpoint::new()), Err(ProberError::Gone)));
    prober.stop().await.expect("a clean end");
}

#[tokio::test]
async fn the_prober_can_be_stopped_while_it_waits_for_the_controller() {
    let address = backend("127.0.0.1:0", &[Does::Answers("200 OK")]).await;
    let (sender, events) = mpsc::channel(1);
    let prober = Prober::start(Sources::default(), sender);
    let quick = HealthCheck { interval: Duration::from_millis(20), rise: 1, ..check() };
    prober.set_endpoints([(address, Some(quick))].into()).expect("the prober runs");
    timeout(PATIENCE, async {
        while events.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the first event");
    // Long enough for the next event, for which there is no room.
    tokio::time::sleep(Duration::from_millis(200)).await;
    timeout(PATIENCE, prober.stop()).await.expect("it stops").expect("a clean end");
}

#[tokio::test]
async fn many_endpoints_share_one_task() {
    let mut endpoints = Vec::new();
    for _ in 0..200 {
        let address = backend("127.0.0.1:0", &[Does::Answers("200 OK")]).await;
        endpoints.push((address, check()));
    }
    let mut bench = Bench::probing(&endpoints);
    let mut seen = HashMap::new();
    for _ in 0..2000 {
        let event = bench.event().await;
        *seen.entry(event.endpoint).or_insert(0_u32) += 1;
    }
    assert_eq!(seen.len(), 200);
    assert!(seen.values().all(|&count| count >= 3), "no endpoint is left behind: {seen:?}");
}
