//! Nobody home: what callers get while no backend is usable.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::time::Duration;

use lb_tests::{
    balancer::Settings,
    lab::{Arms, Plan},
    net::Family,
    process::wait_for,
    sipp::{Calls, Outcome},
    stage::Stage,
};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);
const CALLS: u64 = 30;

const ANSWERED: &str = "sip_lb_slow_path_taken_total{kind=\"no-backend\",outcome=\"answered\"}";
const NOT_ANSWERED: &str = "sip_lb_dropped_packets_total{reason=\"not-answered\"}";

/// A stage whose backends are believed at once when all of them are silent.
fn stage(plan: Plan, policy: &str) -> Stage {
    Stage::set(plan, |_site, settings| {
        settings.health = format!("{}, panic: obey", Settings::QUICK);
        settings.policy = policy.to_owned();
    })
    .expect("the stage is set")
}

fn service(stage: &Stage) -> Value {
    stage.balancer.status().unwrap()["services"][0].clone()
}

fn wait_for_usable(stage: &Stage, usable: bool) {
    wait_for("the backends", SOON, || {
        Ok((service(stage)["active_priority"].is_null() != usable).then_some(()))
    })
    .unwrap();
}

/// Places some calls by a scenario; all of them must end.
fn calls(stage: &Stage, port: u16, scenario: &'static str) -> Outcome {
    let calls = Calls {
        count: Some(CALLS),
        patience: Some(Duration::from_secs(10)),
        scenario,
        ..Calls::default()
    };
    stage.call_from(port, &calls).unwrap().finish(LONG).unwrap()
}

fn kill(stage: &mut Stage) {
    for server in &mut stage.servers {
        server.process().kill().unwrap();
    }
}

fn callers_are_told_to_come_back(plan: Plan) {
    let mut stage = stage(plan, "");
    assert_eq!(calls(&stage, 5060, "uac").successful, CALLS);
    assert_eq!(service(&stage)["all_down"], Value::Null);
    kill(&mut stage);
    wait_for_usable(&stage, false);
    assert_eq!(service(&stage)["all_down"], "reject");

    let outcome = calls(&stage, 5070, "rejected");
    assert_eq!((outcome.successful, outcome.failed), (CALLS, 0), "{outcome:?}");
    let wires = stage.wires();
    let from_here: Vec<_> = wires
        .caller
        .iter()
        .filter(|heard| {
            if heard.outgoing { heard.source } else { heard.destination }.port() == 5070
        })
        .collect();
    let sent =
        |method: &str| from_here.iter().filter(|m| m.outgoing && m.is_request(method)).count();
    let got: Vec<_> = from_here.iter().filter(|heard| !heard.outgoing).collect();
    println!("{} INVITEs, {} ACKs, {} answers", sent("INVITE"), sent("ACK"), got.len());
    assert!(sent("INVITE") >= CALLS as usize);
    assert_eq!(sent("ACK"), got.len());
    assert_eq!(got.len(), sent("INVITE"), "each INVITE is answered once, and no ACK");
    let vip = stage.settings.listen;
    for answer in got {
        assert_eq!((answer.status(), answer.source), (Some(503), vip));
        assert_eq!(answer.start_line, "SIP/2.0 503 Service Unavailable");
        assert_eq!(answer.cseq_method, "INVITE");
    }
    assert_eq!(stage.metric(ANSWERED).unwrap(), sent("INVITE") as f64);
    assert_eq!(stage.metric(NOT_ANSWERED).unwrap(), sent("ACK") as f64);

    for n in 0..stage.servers.len() {
        stage.restart_server(n).unwrap();
    }
    wait_for_usable(&stage, true);
    assert_eq!(service(&stage)["all_down"], Value::Null);
    let outcome = calls(&stage, 5080, "uac");
    assert_eq!((outcome.successful, outcome.failed), (CALLS, 0), "{outcome:?}");
}

#[test]
fn callers_are_answered_503_from_the_vip_until_a_backend_is_back() {
    callers_are_told_to_come_back(Plan::default());
}

#[test]
fn so_are_callers_by_ipv6_of_a_vip_that_is_no_address_of_the_host() {
    callers_are_told_to_come_back(Plan {
        family: Family::V6,
        arms: Arms::One,
        vips: 0,
        ..Plan::default()
    });
}

#[test]
fn drop_drops_and_keep_last_goes_on_as_before_each_from_the_reload_on() {
    let mut stage = stage(Plan::default(), "    all_down: keep-last\n");
    stage.servers[0].process().kill().unwrap();
    stage.balancer.wait_for("gw1", "health", &"down".into(), SOON).unwrap();
    let before = service(&stage);
    stage.servers[1].process().kill().unwrap();
    stage.balancer.wait_for("gw2", "health", &"down".into(), SOON).unwrap();
    wait_for_usable(&stage, false);
    let kept = service(&stage);
    assert_eq!(kept["all_down"], "keep-last");
    assert_eq!(kept["table_digest"], before["table_digest"]);
    assert_eq!(
        (&kept["backends"][0]["share"], &kept["backends"][1]["share"]),
        (&0.0.into(), &1.0.into())
    );
    assert_eq!(stage.metric("sip_lb_service_usable{service=\"trunk-in\"}").unwrap(), 0.0);

    let silent = Calls {
        count: Some(CALLS),
        retransmissions: 2,
        patience: Some(Duration::from_secs(5)),
        ..Calls::default()
    };
    let outcome = stage.call_from(5070, &silent).unwrap().finish(LONG).unwrap();
    assert_eq!((outcome.successful, outcome.setups), (0, 0), "{outcome:?}");
    assert_eq!(stage.wires().arrivals(1).len() as u64, CALLS, "the last backend still gets them");
    assert_eq!(stage.wires().arrivals(0).len(), 0);

    // The table outlives the controller.
    stage.balancer.process().kill().unwrap();
    stage.balancer.restart().unwrap();
    wait_for_usable(&stage, false);
    assert_eq!(service(&stage)["table_digest"], before["table_digest"]);

    stage.settings.policy = "    all_down: drop\n".to_owned();
    stage.balancer.reload(&stage.settings.yaml()).unwrap();
    assert_eq!(service(&stage)["all_down"], "drop");
    let arrived = stage.wires().arrivals(1).len();
    let dropped = stage.metric(NOT_ANSWERED).unwrap();
    let outcome = stage.call_from(5080, &silent).unwrap().finish(LONG).unwrap();
    assert_eq!((outcome.successful, outcome.setups), (0, 0), "{outcome:?}");
    assert_eq!(stage.wires().arrivals(1).len(), arrived);
    assert!(stage.metric(NOT_ANSWERED).unwrap() - dropped >= CALLS as f64);
    let answers = stage.wires().caller.iter().filter(|m| !m.outgoing).count();
    assert_eq!((answers, stage.metric(ANSWERED).unwrap()), (0, 0.0), "nobody was answered");
}
