//! What the maps hold after each step, compared with files; the same with every write failing once.
//!
//! `UPDATE_GOLDEN=1` rewrites the files.

use std::{fs, path::Path};

use super::scenario::{Run, Step, Told, addr, backend, interface, path, route, run, service};
use crate::{
    config::model::SpoofCheck,
    maps::faulty::Fault,
    state::{Admin, Standing, table::TableCache},
};

/// Runs a scenario without faults against its golden file, then with a fault at every write.
fn scenario(name: &str, first: &Told, steps: &[Step]) {
    let calm = run(first, steps, Fault::Never, TableCache::default());
    assert!(calm.writes > 10);
    compare(name, steps, &calm);
    let mut cache = calm.cache;
    for nth in 0..calm.writes {
        let faulty = run(first, steps, Fault::Nth(nth), cache);
        assert_eq!(faulty.failures, 1, "{name}: write {nth} did not fail");
        for (step, (expected, found)) in steps.iter().zip(calm.dumps.iter().zip(&faulty.dumps)) {
            assert_eq!(expected, found, "{name}: write {nth} failed, after {}", step.0);
        }
        cache = faulty.cache;
    }
    for seed_rate in [50, 300] {
        let faulty = run(first, steps, Fault::Random { per_mille: seed_rate }, cache);
        assert!(faulty.failures > 0);
        assert_eq!(calm.dumps, faulty.dumps, "{name}: {seed_rate} ‰ of writes failed");
        cache = faulty.cache;
    }
}

fn compare(name: &str, steps: &[Step], run: &Run) {
    let mut text = String::new();
    for ((step, _), (log, dump)) in steps.iter().zip(run.logs.iter().zip(&run.dumps)) {
        text.push_str(&format!("== {step}\n"));
        for line in log {
            text.push_str(&format!("write {line}\n"));
        }
        text.push_str(&format!("{dump}\n"));
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/golden/reconcile")
        .join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &text).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap();
    assert_eq!(text, expected, "{}", file.display());
}

fn trunk() -> Told {
    let mut told = Told::new(vec![service(
        "trunk",
        &["203.0.113.10:5060"],
        &[
            ("gw1", "10.0.1.1:5060", 10, 100),
            ("gw2", "10.0.1.2:5060", 10, 100),
            ("gw3", "10.0.1.3:5060", 10, 200),
            ("spare", "10.0.2.1:5060", 20, 1),
        ],
    )]);
    for (host, mac) in [("10.0.1.1", 1), ("10.0.1.2", 2), ("10.0.1.3", 3)] {
        told.network.paths.insert(addr(host), path(2, mac));
    }
    told
}

fn nothing(_: &mut Told) {}

#[test]
fn backends_come_and_go_and_change_their_weight() {
    scenario(
        "backends",
        &trunk(),
        &[
            ("first start", nothing),
            ("a backend is added", |t| {
                t.service("trunk").backends.insert(0, backend(("a-new", "10.0.1.4:5080", 10, 100)));
            }),
            ("a weight changes", |t| t.service("trunk").backends[1].weight = 300),
            ("a backend is removed", |t| t.service("trunk").backends.retain(|b| b.name != "gw2")),
            ("a sweep finds it in dialogs", |t| t.sweep = Some([2, 3].into())),
            ("a sweep finds it nowhere", |t| t.sweep = Some([3].into())),
            ("it had begun a call meanwhile", |t| t.sweep = Some([2].into())),
            ("a sweep finds it nowhere again", |t| t.sweep = Some([].into())),
            ("nor does the next", |t| t.sweep = Some([].into())),
            ("another is added", |t| {
                t.service("trunk").backends.push(backend(("gw9", "10.0.1.9:5060", 10, 100)));
            }),
        ],
    );
}

#[test]
fn tiers_fail_over_and_back() {
    scenario(
        "tiers",
        &trunk(),
        &[
            ("first start", nothing),
            ("one is down", |t| t.stands("10.0.1.1:5060", Standing::DOWN)),
            ("the tier is down", |t| {
                t.stands("10.0.1.2:5060", Standing::DOWN);
                t.stands("10.0.1.3:5060", Standing::DOWN);
            }),
            ("all are down", |t| t.stands("10.0.2.1:5060", Standing::DOWN)),
            ("the spare is up", |t| t.stands("10.0.2.1:5060", Standing::UP)),
            ("one of the tier is up", |t| t.stands("10.0.1.3:5060", Standing::UP)),
            ("all are up", |t| t.health.clear()),
        ],
    );
}

#[test]
fn the_operator_drains_and_a_backend_is_busy_or_suspected() {
    scenario(
        "operator",
        &trunk(),
        &[
            ("first start", nothing),
            ("drain", |t| t.set_admin("trunk", "gw1", Admin::Drain)),
            ("maint", |t| t.set_admin("trunk", "gw1", Admin::Maint)),
            ("ready", |t| t.set_admin("trunk", "gw1", Admin::Ready)),
            ("busy", |t| t.stands("10.0.1.2:5060", Standing { busy: true, ..Standing::UP })),
            ("not busy", |t| t.stands("10.0.1.2:5060", Standing::UP)),
            ("all down, not believed", |t| {
                t.suspected.insert("trunk".to_owned());
                for host in ["10.0.1.1:5060", "10.0.1.2:5060", "10.0.1.3:5060", "10.0.2.1:5060"] {
                    t.stands(host, Standing::DOWN);
                }
            }),
            ("believed", |t| t.suspected.clear()),
        ],
    );
}

fn two_services() -> Told {
    Told::new(vec![
        service(
            "alpha",
            &["203.0.113.10:5060", "203.0.113.11:5060"],
            &[("gw1", "10.0.1.1:5060", 10, 1), ("gw2", "10.0.1.2:5060", 10, 1)],
        ),
        service("beta", &["203.0.113.20:5070"], &[("gw1", "10.0.1.1:5060", 10, 1)]),
    ])
}

#[test]
fn services_and_their_addresses_come_and_go() {
    scenario(
        "services",
        &two_services(),
        &[
            ("first start", nothing),
            ("beta checks less and gets alpha's backends", |t| {
                t.service("beta").spoof_check = SpoofCheck::Interface;
                t.service("beta").backends = t.service("alpha").backends.clone();
            }),
            ("a VIP moves from alpha to beta", |t| {
                let vip = t.service("alpha").listen.remove(1);
                t.service("beta").listen.push(vip);
            }),
            ("alpha is removed", |t| {
                t.config.services.remove(0);
            }),
            ("alpha is back before its dialogs ended", |t| {
                t.config.services.push(two_services().config.services[0].clone());
                t.service("alpha").listen.truncate(1);
            }),
            ("a sweep finds no dialogs", |t| t.sweep = Some([].into())),
            ("alpha is removed again", |t| {
                t.config.services.pop();
            }),
            ("its dialogs have ended", |t| t.sweep = Some([].into())),
            ("and no new ones have begun", |t| t.sweep = Some([].into())),
            ("its backend in beta is called otherwise", |t| {
                t.service("beta").backends[0].name = "gw1b".to_owned();
            }),
        ],
    );
}

#[test]
fn the_network_changes() {
    scenario(
        "network",
        &trunk(),
        &[
            ("first start", |t| {
                t.network.client_routes = vec![route("198.51.100.0", 120), route("0.0.0.0", 96)];
            }),
            ("a neighbour moves, an interface is added", |t| {
                t.network.paths.insert(addr("10.0.1.2"), path(3, 9));
                t.network.interfaces.push(interface(258, 2));
                t.network.host_addresses.insert(addr("192.0.2.2"));
            }),
            ("the first interface is gone, a route too", |t| {
                t.network.interfaces.remove(0);
                t.network.client_routes.remove(0);
                t.network.host_addresses.remove(&addr("192.0.2.1"));
            }),
            ("a neighbour moves while its backend goes down", |t| {
                t.network.paths.insert(addr("10.0.1.3"), path(3, 7));
                t.stands("10.0.1.3:5060", Standing::DOWN);
            }),
        ],
    );
}
