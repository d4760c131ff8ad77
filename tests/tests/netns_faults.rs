//! What the XDP program says of its own faults arrives in the controller's log.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{fs, net::UdpSocket, path::Path, time::Duration};

use lb_tests::{
    balancer::{Balancer, Settings},
    command::{command, output},
    lab::{Plan, Site},
    process::wait_for,
};

/// What the log says of packets that find no listener.
const SAID: &str = "missing-listener: a packet from interface";

/// Overwrites the records of all listeners in the pinned map.
fn forget_listeners(pin_dir: &Path) {
    let generation = fs::read_dir(pin_dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.join("LISTENERS").exists())
        .expect("pinned maps");
    let zeros = "0x00 ".repeat(64);
    let words = format!("key 1 0 0 0 value {}", zeros.trim());
    output(
        command("bpftool")
            .args(["map", "update", "pinned"])
            .arg(generation.join("LISTENERS"))
            .args(words.split(' ')),
    )
    .expect("a record is overwritten");
}

/// Sends messages to the VIP until the log speaks of it once more.
fn provoke(site: &Site, balancer: &Balancer) {
    let before = balancer.tail().matches(SAID).count();
    let caller = site.callers[0].enter(|| Ok(UdpSocket::bind(site.caller_address(0))?)).unwrap();
    wait_for("a line of the program in the log", Duration::from_secs(5), || {
        caller.send_to(b"OPTIONS sip:a@b SIP/2.0\r\nCall-ID: a@b\r\n\r\n", site.vip(0))?;
        Ok((balancer.tail().matches(SAID).count() > before).then_some(()))
    })
    .unwrap_or_else(|why| panic!("{why:#}\n{}", balancer.tail()));
}

#[test]
fn a_fault_of_the_program_is_logged_also_by_a_controller_that_adopted_it() {
    let site = Plan { backends: 1, ..Plan::default() }.build().expect("a laboratory");
    let mut settings = Settings::of(&site);
    settings.health = "interval: 120s, timeout: 60s".to_owned();
    let mut balancer = Balancer::start(&site, &settings).expect("sip-lb");
    assert_eq!(balancer.tail().matches(SAID).count(), 0);
    forget_listeners(&settings.pin_dir);
    provoke(&site, &balancer);

    balancer.process().kill().expect("sip-lb");
    balancer.restart().expect("sip-lb again");
    forget_listeners(&settings.pin_dir);
    provoke(&site, &balancer);
}
