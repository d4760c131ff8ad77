//! What a file says reaches the model, and what it does not say has the documented default.

use std::{fs, time::Duration};

use lb_userspace::config::{
    self, Config,
    alias::{Alias, Host},
    model::{
        Admin, Affinity, AllDown, Backend, Balance, ControllerLost, Dialogs, Expect, Forward,
        HealthCheck, InDialogFailover, Initial, Keepalive, Limits, Malformed, PanicMode, Service,
        SpoofCheck, Transport, XdpMode,
    },
};

use super::{example, fixtures, parse};

fn health() -> HealthCheck {
    HealthCheck {
        method: "OPTIONS".to_owned(),
        interval: Duration::from_secs(2),
        fast_interval: Duration::from_millis(500),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
        expect: Expect::Any,
        initial: Initial::Up,
    }
}

fn backend(name: &str, address: &str, priority: u16, weight: u16) -> Backend {
    let address = address.parse().unwrap();
    let (name, admin, health) = (name.to_owned(), Admin::Ready, Some(health()));
    Backend { name, address, aliases: Vec::new(), priority, weight, admin, health }
}

fn alias(host: Host, port: Option<u16>) -> Alias {
    Alias { host, port }
}

fn minimal() -> Config {
    Config {
        interfaces: vec!["eth0".to_owned()],
        xdp_mode: XdpMode::Auto,
        hash_key: None,
        metrics_listen: "127.0.0.1:9560".parse().unwrap(),
        admin_socket: "/run/sip-lb/admin.sock".into(),
        pin_dir: "/sys/fs/bpf/sip-lb".into(),
        dialogs: Dialogs { max: 1_048_576, timeout: Duration::from_secs(3 * 3600) },
        limits: Limits {
            services: 256,
            endpoints: 4096,
            bindings: 16_384,
            tables: 256,
            fragments: 8192,
        },
        controller_lost: ControllerLost::Keep,
        services: vec![Service {
            name: "trunk-in".to_owned(),
            listen: vec!["203.0.113.10:5060".parse().unwrap()],
            transport: Transport::Udp,
            forward: Forward::Nat,
            balance: Balance::CallId,
            affinity: Affinity::Dialog,
            domains: Vec::new(),
            methods: Vec::new(),
            in_dialog_failover: InDialogFailover::Rehash,
            keepalive: Keepalive::Absorb,
            malformed: Malformed::Forward,
            all_down: AllDown::Reject,
            retry_after: Duration::from_secs(120),
            spoof_check: SpoofCheck::Strict,
            backends: vec![backend("gw1", "10.0.1.200:5060", 10, 100)],
            panic: PanicMode::Keep,
        }],
    }
}

#[test]
fn absent_keys_have_the_documented_defaults() {
    let loaded = config::load(&fixtures("valid").join("minimal.yaml")).unwrap();
    assert_eq!(loaded.config, minimal());
}

#[test]
fn defaults_written_out_change_nothing() {
    let text = r#"
interfaces: [eth0]
xdp_mode: auto
metrics: { listen: "127.0.0.1:9560" }
admin: { socket: /run/sip-lb/admin.sock }
pin_dir: /sys/fs/bpf/sip-lb
dialogs: { max: 1048576, timeout: 3h }
limits: { services: 256, endpoints: 4096, bindings: 16384, tables: 256, fragments: 8192 }
controller_lost: keep
defaults:
  health: { method: OPTIONS, interval: 2s, fast_interval: 500ms, timeout: 1s, rise: 2, fall: 3, expect: any, initial: up, panic: keep }
services:
  - name: trunk-in
    listen: ["203.0.113.10:5060"]
    transport: udp
    forward: nat
    balance: call-id
    affinity: dialog
    in_dialog_failover: rehash
    keepalive: absorb
    malformed: forward
    all_down: reject
    retry_after: 120s
    spoof_check: strict
    backends:
      - { name: gw1, address: "10.0.1.200:5060", priority: 10, weight: 100, admin: ready, health: {} }
"#;
    assert_eq!(parse(text).unwrap().config, minimal());
}

#[test]
fn every_key_reaches_the_model() {
    let config = config::load(&fixtures("valid").join("everything.yaml")).unwrap().config;
    let defaults = HealthCheck {
        method: "INFO".to_owned(),
        interval: Duration::from_secs(4),
        fast_interval: Duration::from_millis(250),
        timeout: Duration::from_millis(1500),
        rise: 1,
        fall: 5,
        expect: Expect::Codes(vec![(200, 200), (404, 404), (400, 499)]),
        initial: Initial::Down,
    };
    let own = HealthCheck {
        method: "OPTIONS".to_owned(),
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_millis(100),
        timeout: Duration::from_millis(200),
        rise: 3,
        fall: 2,
        expect: Expect::Codes(vec![(200, 299)]),
        initial: Initial::Up,
    };
    let with = |backend: Backend, health: Option<HealthCheck>| Backend { health, ..backend };
    let expected = Config {
        interfaces: ["eth0", "eth1.100", "bond0"].map(str::to_owned).to_vec(),
        xdp_mode: XdpMode::Native,
        hash_key: Some("edge-cluster-1".to_owned()),
        metrics_listen: "0.0.0.0:9560".parse().unwrap(),
        admin_socket: "/run/sip-lb/other.sock".into(),
        pin_dir: "/sys/fs/bpf/other".into(),
        dialogs: Dialogs { max: 65_536, timeout: Duration::from_secs(5400) },
        limits: Limits { services: 16, endpoints: 64, bindings: 128, tables: 16, fragments: 1024 },
        controller_lost: ControllerLost::DetachAfter(Duration::from_secs(600)),
        services: vec![
            Service {
                name: "trunk-in".to_owned(),
                listen: ["203.0.113.10:5060", "203.0.113.10:5080", "203.0.113.11:5060"]
                    .map(|a| a.parse().unwrap())
                    .to_vec(),
                transport: Transport::Udp,
                forward: Forward::Nat,
                balance: Balance::CallId,
                affinity: Affinity::Dialog,
                domains: Vec::new(),
                methods: Vec::new(),
                in_dialog_failover: InDialogFailover::Keep,
                keepalive: Keepalive::Forward,
                malformed: Malformed::Drop,
                all_down: AllDown::KeepLast,
                retry_after: Duration::from_secs(90),
                spoof_check: SpoofCheck::Interface,
                backends: vec![
                    with(backend("gw1", "10.0.1.200:5060", 10, 100), Some(defaults.clone())),
                    Backend {
                        health: None,
                        aliases: vec![
                            alias(Host::Name("gw2.example.net".to_owned()), None),
                            alias(Host::Address([203, 0, 113, 77].into()), Some(5099)),
                        ],
                        ..backend("gw2", "10.0.1.201:5060", 10, 100)
                    },
                    with(backend("gw3", "10.0.1.202:5060", 10, 200), Some(own)),
                    Backend {
                        admin: Admin::Maint,
                        ..with(backend("spare", "10.0.2.200:5060", 20, 0), Some(defaults.clone()))
                    },
                ],
                panic: PanicMode::Obey,
            },
            Service {
                name: "registrar.example:5060_2".to_owned(),
                listen: vec!["[2001:db8::10]:5060".parse().unwrap()],
                transport: Transport::Udp,
                forward: Forward::Nat,
                balance: Balance::CallId,
                affinity: Affinity::Dialog,
                domains: Vec::new(),
                methods: Vec::new(),
                in_dialog_failover: InDialogFailover::Rehash,
                keepalive: Keepalive::Absorb,
                malformed: Malformed::Forward,
                all_down: AllDown::Reject,
                retry_after: Duration::from_secs(120),
                spoof_check: SpoofCheck::Off,
                backends: vec![
                    Backend {
                        admin: Admin::Drain,
                        aliases: vec![alias(Host::Address("2001:db8::77".parse().unwrap()), None)],
                        ..with(
                            backend("reg1", "[2001:db8::201]:5060", 0, 65535),
                            Some(defaults.clone()),
                        )
                    },
                    with(
                        backend("reg2", "[2001:db8::202]:5060", 65535, 1),
                        Some(HealthCheck { expect: Expect::Any, ..defaults }),
                    ),
                ],
                panic: PanicMode::Obey,
            },
        ],
    };
    assert_eq!(config, expected);
}

#[test]
fn off_is_read_as_text_and_as_the_false_of_yaml_1_1() {
    let config = config::load(&fixtures("valid").join("json.yaml")).unwrap().config;
    let service = &config.services[0];
    assert_eq!(service.spoof_check, SpoofCheck::Off);
    assert_eq!(service.backends.iter().filter(|b| b.health.is_none()).count(), 2);
}

#[test]
fn the_hash_key_file_is_relative_to_the_configuration_and_trimmed() {
    let config = config::load(&fixtures("valid").join("key-file.yaml")).unwrap().config;
    assert_eq!(config.hash_key.as_deref(), Some("secret of the cluster"));
}

#[test]
fn the_digest_is_the_start_of_the_sha_256_of_the_file() {
    // printf '' | sha256sum would do; this is `sha256sum minimal.yaml`.
    let loaded = config::load(&fixtures("valid").join("minimal.yaml")).unwrap();
    assert_eq!(loaded.digest, "c476f713822107e7");
}

#[test]
fn the_example_is_valid_and_says_what_the_defaults_are() {
    let loaded = config::load(&example()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.warnings, []);
    let service = &loaded.config.services[0];
    assert_eq!(service.backends.len(), 4);
    assert_eq!(service.backends[0].health, Some(health()));
    let expected = Config {
        hash_key: loaded.config.hash_key.clone(),
        services: loaded.config.services.clone(),
        ..minimal()
    };
    assert_eq!(loaded.config, expected);

    // The same with every commented key switched on.
    let text = fs::read_to_string(example()).unwrap();
    let keys = [
        "xdp_mode:",
        "metrics:",
        "admin:",
        "pin_dir:",
        "dialogs:",
        "limits:",
        "controller_lost:",
        "in_dialog_failover:",
        "keepalive:",
        "malformed:",
        "spoof_check:",
        "all_down:",
        "retry_after:",
        "transport:",
        "forward:",
        "balance:",
        "affinity:",
    ];
    let on = keys.iter().fold(text, |text, key| {
        assert_eq!(text.matches(&format!("# {key}")).count(), 1, "{key}");
        text.replace(&format!("# {key}"), key)
    });
    assert_eq!(parse(&on).unwrap_or_else(|e| panic!("{e}")).config, expected);
}
