//! The controller's life under load: reloads, kill -9, bad files, signals, its pages and commands.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{env, fs, path::Path, process::Stdio, time::Duration};

use lb_tests::{
    balancer::{Settings, program, sip_lb},
    command::command,
    lab::Plan,
    process::Process,
    sipp::{Calls, Uac},
    stage::{Losses, Stage},
};
use nix::sys::signal::Signal;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(15);
/// Reloads of an unchanged file; `SIP_LB_RELOADS` asks for more.
const RELOADS: u32 = 50;
/// Times the controller is killed; `SIP_LB_KILLS` asks for more.
const KILLS: u32 = 3;
/// Calls a second; `SIP_LB_RATE` asks for more.
const RATE: u32 = 100;

fn asked(variable: &str, otherwise: u32) -> u32 {
    let value = env::var(variable).ok();
    value.map_or(otherwise, |value| value.parse().expect("a number"))
}

fn stage() -> Stage {
    Stage::set(Plan::default(), |_site, _settings| {}).expect("the stage is set")
}

fn load(stage: &Stage) -> Uac {
    let rate = asked("SIP_LB_RATE", RATE);
    stage.call(&Calls { rate, ..Calls::default() }).expect("calls")
}

/// Ends the calls: none may have failed, nothing may be lost on the way.
fn end(stage: &Stage, mut uac: Uac, what: &str) {
    let outcome = uac.stop(LONG).expect("the calls come to an end");
    let wires = stage.settled();
    let sent = wires.caller.iter().filter(|message| message.outgoing).count();
    let event = |name| stage.metric(&format!("sip_lb_events_total{{event=\"{name}\"}}"));
    // Unless nobody runs that could say.
    let (lookups, kernel) = (event("fib-lookup").ok(), event("kernel-forward").ok());
    println!(
        "{what}: {outcome:?}; {sent} packets sent to the VIP, {:?}; fib look-ups {lookups:?}, \
         forwarded by the kernel {kernel:?}",
        wires.losses()
    );
    assert_eq!((outcome.failed, outcome.cut), (0, 0), "{outcome:?}\n{}", uac.errors());
    assert_eq!(outcome.successful, outcome.placed);
    assert!(outcome.placed > 0);
    assert_eq!(wires.losses(), Losses::default());
    assert!(wires.places().values().all(|backends| backends.len() == 1), "a call was moved");
}

#[test]
fn reloads_under_load_lose_nothing() {
    let reloads = asked("SIP_LB_RELOADS", RELOADS);
    let stage = stage();
    let uac = load(&stage);
    stage.await_invites(20, SOON).unwrap();
    for _ in 0..reloads {
        stage.balancer.reload(&stage.settings.yaml()).unwrap();
    }
    stage.await_invites(20, SOON).unwrap();
    let counted = stage.metric("sip_lb_config_reloads_total{result=\"success\"}").unwrap();
    assert_eq!(counted, f64::from(reloads));
    end(&stage, uac, &format!("{reloads} reloads"));
}

#[test]
fn kill_9_and_restart_under_load_lose_nothing() {
    let kills = asked("SIP_LB_KILLS", KILLS);
    let mut stage = stage();
    let uac = load(&stage);
    for _ in 0..kills {
        stage.await_invites(50, SOON).unwrap();
        stage.balancer.process().kill().unwrap();
        // Calls go on without any controller.
        stage.await_invites(50, SOON).unwrap();
        stage.balancer.restart().unwrap();
    }
    stage.await_invites(50, SOON).unwrap();
    end(&stage, uac, &format!("{kills} kills"));
}

#[test]
fn a_bad_file_changes_nothing_and_is_told() {
    let mut stage = stage();
    let uac = load(&stage);
    stage.await_invites(10, SOON).unwrap();
    let good = stage.balancer.status().unwrap();
    assert_eq!(good["config"]["reload_error"], Value::Null);

    let bad = stage.settings.yaml().replace("services:", "servces:");
    fs::write(stage.balancer.config(), &bad).unwrap();
    let refused =
        sip_lb().args(["reload", "--socket"]).arg(&stage.settings.socket).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(said.contains("servces"), "{said}");

    stage.balancer.process().signal(Signal::SIGHUP).unwrap();
    let failures = "sip_lb_config_reloads_total{result=\"failure\"}";
    lb_tests::process::wait_for("the second refusal", SOON, || {
        Ok((stage.metric(failures)? >= 2.0).then_some(()))
    })
    .unwrap();
    assert_eq!(stage.metric(failures).unwrap(), 2.0);
    let now = stage.balancer.status().unwrap();
    assert!(now["config"]["reload_error"].as_str().unwrap().contains("servces"), "{now}");
    assert_eq!(now["config"]["digest"], good["config"]["digest"]);
    assert_eq!(now["services"][0]["table_digest"], good["services"][0]["table_digest"]);
    stage.await_invites(10, SOON).unwrap();

    stage.balancer.reload(&stage.settings.yaml()).unwrap();
    assert_eq!(stage.balancer.status().unwrap()["config"]["reload_error"], Value::Null);
    end(&stage, uac, "bad file");
}

#[test]
fn pages_answer_and_promtool_has_nothing_to_say() {
    let stage = stage();
    let uac = load(&stage);
    stage.await_invites(20, SOON).unwrap();
    assert_eq!(stage.get("/healthz").unwrap().0, 200);
    assert_eq!(stage.get("/readyz").unwrap().0, 200);
    end(&stage, uac, "pages");
    let (status, text) = stage.get("/metrics").unwrap();
    assert_eq!(status, 200);
    let file = stage.site.lab.directory().join("metrics.txt");
    fs::write(&file, &text).unwrap();
    let judged = command("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::from(fs::File::open(&file).unwrap()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&judged.stderr).into_owned()
        + &String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn a_second_instance_is_refused_and_told_who_runs() {
    let mut stage = stage();
    let pid = stage.balancer.process().id();
    let second = stage
        .site
        .edge
        .command(program())
        .args(["run", "--config"])
        .arg(stage.balancer.config())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("pid {pid}")), "{said} does not name pid {pid}");
    assert_eq!(stage.balancer.status().unwrap()["controller"], "running");
}

/// Exit code of `status --json --pin-dir …`, and what it said.
fn status(settings: &Settings) -> (Option<i32>, String) {
    let done = sip_lb()
        .args(["status", "--json", "--socket"])
        .arg(&settings.socket)
        .arg("--pin-dir")
        .arg(&settings.pin_dir)
        .output()
        .unwrap();
    (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Ids of the XDP programs on the edge host's interfaces.
fn programs(stage: &Stage) -> Vec<u64> {
    let links: Value = serde_json::from_str(
        &stage.site.edge.run("ip", &["-details", "-json", "link", "show"]).unwrap(),
    )
    .unwrap();
    let links = links.as_array().unwrap();
    links.iter().filter_map(|link| link["xdp"]["prog"]["id"].as_u64()).collect()
}

fn pinned(path: &Path) -> usize {
    fs::read_dir(path).map_or(0, Iterator::count)
}

#[test]
fn traffic_flows_on_after_sigterm_until_detach_cleans_up() {
    let mut stage = stage();
    let pins = stage.settings.pin_dir.clone();
    assert_eq!(programs(&stage).len(), stage.site.interfaces.len());
    let uac = load(&stage);
    stage.await_invites(20, SOON).unwrap();
    let ended = stage.balancer.process().terminate(SOON).unwrap();
    assert!(ended.success(), "{ended}");
    stage.await_invites(50, SOON).unwrap();
    let (code, said) = status(&stage.settings);
    assert_eq!(code, Some(3), "{said}");
    let remains: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(remains["controller"], "lost");
    assert_eq!(remains["attached"].as_array().map(Vec::len), Some(2), "{remains}");
    let backends = remains["services"][0]["backends"].as_array().unwrap();
    assert!(backends.iter().all(|b| b["requests_total"].as_u64() > Some(0)), "{remains}");
    end(&stage, uac, "SIGTERM");

    // On the edge host, as an operator would: it awaits that the kernel has let go of its interfaces.
    let mut detach = stage.site.edge.command(program());
    lb_tests::command::output(detach.args(["detach", "--pin-dir"]).arg(&pins)).unwrap();
    assert!(!pins.exists());
    assert!(programs(&stage).is_empty());
    let (code, said) = status(&stage.settings);
    assert_eq!((code, said.trim()), (Some(3), ""));
}

#[test]
fn detach_on_exit_leaves_nothing() {
    let mut stage = stage();
    stage.balancer.process().terminate(SOON).unwrap();
    assert!(pinned(&stage.settings.pin_dir) > 0);
    let mut run = stage.site.edge.command(program());
    run.args(["run", "--detach-on-exit", "--config"]).arg(stage.balancer.config());
    let mut process = Process::spawn("detaching", run, stage.site.lab.directory()).unwrap();
    process.wait_for_line("ready", SOON).unwrap();
    assert_eq!(programs(&stage).len(), stage.site.interfaces.len());
    // Refused while it runs.
    let detach = sip_lb().args(["detach", "--pin-dir"]).arg(&stage.settings.pin_dir).output();
    assert!(!detach.unwrap().status.success());
    assert!(process.terminate(SOON).unwrap().success());
    assert!(!stage.settings.pin_dir.exists());
    assert!(programs(&stage).is_empty());
}
