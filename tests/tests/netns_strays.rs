//! Real STUN clients and keepalives against sip-lb on an edge host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use lb_tests::{
    balancer::{Balancer, Settings},
    lab::{Arms, Plan, Site},
    net::Family,
    stage::Stage,
};

/// What coturn's client prints about the address that it was told.
const TOLD: &str = "UDP reflexive addr: ";

/// Asks the VIP from the first caller; the address that was told, `None` without an answer.
fn ask(site: &Site) -> Option<IpAddr> {
    let vip = site.vip(0);
    let done = site.callers[0]
        .command("timeout")
        .args(["3", "turnutils_stunclient", "-p", &vip.port().to_string(), &vip.ip().to_string()])
        .output()
        .expect("turnutils_stunclient of coturn");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let (_, told) = said.lines().find_map(|line| line.split_once(TOLD))?;
    // IPv6 addresses are printed without brackets.
    let (address, _port) = told.trim().rsplit_once(':').expect(&said);
    Some(address.parse().expect(&said))
}

#[test]
fn a_stun_client_is_told_its_address_while_a_backend_is_usable() {
    for (family, arms) in
        [(Family::V4, Arms::Two), (Family::V4, Arms::One), (Family::V6, Arms::Two)]
    {
        let plan = Plan { family, arms, backends: 1, ..Plan::default() };
        let mut stage = Stage::set(plan, |_site, _settings| {}).expect("the stage is set");
        let told = ask(&stage.site).expect("an answer");
        assert_eq!(told, stage.site.caller_address(0).ip());
        assert_eq!(stage.metric("sip_lb_answered_packets_total{reason=\"stun\"}").unwrap(), 1.0);

        stage.servers[0].process().kill().expect("a server");
        stage
            .balancer
            .wait_for("gw1", "health", &"down".into(), Duration::from_secs(5))
            .expect("a backend that is down");
        assert_eq!(ask(&stage.site), None, "{family:?}: answered without a backend");

        stage.restart_server(0).expect("a server");
        stage
            .balancer
            .wait_for("gw1", "health", &"up".into(), Duration::from_secs(5))
            .expect("a backend that is up");
        assert_eq!(ask(&stage.site), Some(told));
    }
}

const OPTIONS: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nCall-ID: stray@c\r\nCSeq: 1 OPTIONS\r\n\r\n";

/// Sends keepalives, garbage and at last a request from the first caller; what of it arrives at the
/// backend, with sip-lb's count of a reason.
fn arriving(policy: &str, reason: &str) -> (Vec<Vec<u8>>, String) {
    let site = Plan { backends: 1, ..Plan::default() }.build().expect("a laboratory");
    let mut settings = Settings::of(&site);
    policy.clone_into(&mut settings.policy);
    // Nothing here answers a probe.
    settings.health = "interval: 120s, timeout: 60s".to_owned();
    let backend = site.backends[0].enter(|| Ok(UdpSocket::bind(site.backend_address(0))?)).unwrap();
    backend.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let balancer = Balancer::start(&site, &settings).expect("sip-lb");
    let caller = site.callers[0].enter(|| Ok(UdpSocket::bind(site.caller_address(0))?)).unwrap();
    for message in [b"\r\n\r\n".as_slice(), b"", &[0; 16], b"GET / HTTP/1.1\r\n\r\n", OPTIONS] {
        caller.send_to(message, site.vip(0)).unwrap();
    }
    let mut arrived = Vec::new();
    while arrived.last().is_none_or(|last| last != OPTIONS) {
        let mut buffer = [0; 2048];
        let (length, from) = backend.recv_from(&mut buffer).expect("what was sent arrives");
        // Others are probes.
        if from == site.caller_address(0) {
            arrived.push(buffer[..length].to_vec());
        }
    }
    let stage_metric = site.edge.enter(|| metric(reason)).expect("metrics");
    drop(balancer);
    (arrived, stage_metric)
}

/// The drop counter of a reason, as /metrics on the edge host says it.
fn metric(reason: &str) -> anyhow::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect("127.0.0.1:9560")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let series = format!("sip_lb_dropped_packets_total{{reason=\"{reason}\"}} ");
    Ok(text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("absent").to_owned())
}

#[test]
fn keepalives_end_at_the_edge_unless_they_are_wanted() {
    let http = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    let (arrived, count) = arriving("", "keepalive-absorbed");
    assert_eq!((arrived, count.as_str()), (vec![http.clone(), OPTIONS.to_vec()], "3"));

    let (arrived, count) = arriving("    keepalive: forward\n", "keepalive-absorbed");
    let all = vec![b"\r\n\r\n".to_vec(), Vec::new(), vec![0; 16], http, OPTIONS.to_vec()];
    assert_eq!((arrived, count.as_str()), (all, "0"));
}

#[test]
fn garbage_ends_at_the_edge_where_that_is_wanted() {
    let (arrived, count) = arriving("    malformed: drop\n", "malformed");
    assert_eq!((arrived, count.as_str()), (vec![OPTIONS.to_vec()], "1"));
}
