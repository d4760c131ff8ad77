//! The configuration: every fixture, every mutation of one, and what nobody should write.
#![cfg(test)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use lb_userspace::config::{
    self, Config, ConfigErrors,
    alias::{Alias, Host},
    model::{
        Admin, Affinity, AllDown, Backend, Balance, ControllerLost, Dialogs, Expect, Forward,
        HealthCheck, InDialogFailover, Initial, Keepalive, Limits, Malformed, PanicMode, Service,
        SpoofCheck, Transport, XdpMode,
    },
};
use proptest::prelude::*;
use serde_yaml::Value;

fn fixtures(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/config").join(kind)
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sip-lb.example.yaml")
}

/// Files of one kind with one ending, sorted.
fn files(kind: &str, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(fixtures(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == ending))
        .collect();
    files.sort();
    files
}

/// Valid files that mutations start from.
fn valid_texts() -> Vec<(PathBuf, String)> {
    let mut files = files("valid", "yaml");
    files.push(example());
    assert!(files.len() >= 9, "only {} valid files", files.len());
    files
        .into_iter()
        .map(|f| {
            (f.clone(), fs::read_to_string(&f).unwrap().trim_start_matches('\u{feff}').to_owned())
        })
        .collect()
}

fn parse(text: &str) -> Result<config::Loaded, ConfigErrors> {
    config::parse(text, &fixtures("valid"))
}

fn lines<T: ToString>(findings: &[T]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

fn sidecar(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file.with_extension("txt")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn valid_files_load_with_exactly_the_expected_warnings() {
    let files = files("valid", "yaml");
    assert_eq!(files.len(), 9);
    for file in files {
        let loaded = config::load(&file).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(lines(&loaded.warnings), sidecar(&file), "{}", file.display());
        assert_eq!(loaded.digest.len(), 16);
    }
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
    ];
    let on = keys.iter().fold(text, |text, key| {
        assert_eq!(text.matches(&format!("# {key}")).count(), 1, "{key}");
        text.replace(&format!("# {key}"), key)
    });
    assert_eq!(parse(&on).unwrap_or_else(|e| panic!("{e}")).config, expected);
}

#[test]
fn invalid_files_give_exactly_the_expected_errors() {
    let files = files("invalid", "yaml");
    assert_eq!(files.len(), 32);
    for file in &files {
        let errors = config::load(file).expect_err(&file.display().to_string());
        // Paths in messages depend on where the tests run.
        let directory = format!("{}/", fixtures("invalid").display());
        let found: Vec<_> =
            lines(&errors.errors).iter().map(|l| l.replace(&directory, "")).collect();
        assert_eq!(found, sidecar(file), "{}", file.display());
        assert!(errors.errors.iter().all(|e| e.line > 0 && e.column > 0));
    }
    let sidecars = self::files("invalid", "txt");
    assert_eq!(sidecars.len(), files.len(), "a sidecar without its file");
}

#[test]
fn errors_name_file_line_column_path_found_and_allowed() {
    let file = fixtures("invalid").join("health-interval-below-defaults.yaml");
    let shown = config::load(&file).unwrap_err().to_string();
    let start =
        format!("{}:6:70: services[0].backends[0].health.interval: found 200ms, ", file.display());
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.starts_with(&start)), "{shown}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_without_a_line() {
    let errors = config::load(Path::new("/nonexistent/config.yaml")).unwrap_err();
    assert!(
        errors.to_string().starts_with("/nonexistent/config.yaml: cannot read the file: "),
        "{errors}"
    );
    let errors = config::load(Path::new("/")).unwrap_err();
    assert!(errors.to_string().starts_with("/: cannot read the file: "), "{errors}");
}

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

/// A step into a value.
#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Item(usize),
}

/// Every value below `value`, with the way to it.
fn walk(value: &Value, way: &mut Vec<Step>, visit: &mut impl FnMut(&[Step], &Value)) {
    visit(way, value);
    match value {
        Value::Mapping(map) => {
            for (key, inner) in map {
                way.push(Step::Key(key.as_str().unwrap().to_owned()));
                walk(inner, way, visit);
                way.pop();
            }
        }
        Value::Sequence(items) => {
            for (i, inner) in items.iter().enumerate() {
                way.push(Step::Item(i));
                walk(inner, way, visit);
                way.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Tagged(_) => {}
    }
}

fn at<'a>(value: &'a mut Value, way: &[Step]) -> &'a mut Value {
    way.iter().fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key.as_str()).unwrap(),
        Step::Item(i) => value.get_mut(*i).unwrap(),
    })
}

fn shown(way: &[Step]) -> String {
    let mut path = String::new();
    for step in way {
        match step {
            Step::Key(key) if path.is_empty() => path.push_str(key),
            Step::Key(key) => path.push_str(&format!(".{key}")),
            Step::Item(i) => path.push_str(&format!("[{i}]")),
        }
    }
    path
}

fn ways(value: &Value) -> Vec<(Vec<Step>, Value)> {
    let mut ways = Vec::new();
    walk(value, &mut Vec::new(), &mut |way, value| ways.push((way.to_vec(), value.clone())));
    ways
}

#[test]
fn an_unknown_key_is_refused_in_every_mapping_of_every_valid_file() {
    let mut tried = 0;
    let schema = jsonschema::validator_for(&config::json_schema()).unwrap();
    for (file, text) in valid_texts() {
        let original: Value = serde_yaml::from_str(&text).unwrap();
        for (way, _) in ways(&original).iter().filter(|(_, value)| value.is_mapping()) {
            let mut mutated = original.clone();
            let map = at(&mut mutated, way).as_mapping_mut().unwrap();
            map.insert("zebra".into(), 1.into());
            let text = serde_yaml::to_string(&mutated).unwrap();
            let errors = parse(&text).expect_err(&text).errors;
            let place = format!("{} of {}", shown(way), file.display());
            assert_eq!(errors.len(), 1, "{place}: {errors:?}");
            let mut path = way.clone();
            path.push(Step::Key("zebra".to_owned()));
            assert_eq!(errors[0].path, shown(&path), "{place}");
            let line = text.lines().position(|l| l.contains("zebra")).unwrap();
            assert_eq!(errors[0].line, line + 1, "{place}");
            let column = text.lines().nth(line).unwrap().find("zebra").unwrap();
            assert_eq!(errors[0].column, column + 1, "{place}");
            assert!(errors[0].message.starts_with("unknown key; "), "{place}");
            assert!(!schema.is_valid(&serde_json::to_value(&mutated).unwrap()), "{place}");
            tried += 1;
        }
    }
    assert!(tried > 60, "only {tried} mappings");
}

#[test]
fn a_value_of_another_type_is_refused_at_every_place_of_every_valid_file() {
    let mut tried = 0;
    let schema = jsonschema::validator_for(&config::json_schema()).unwrap();
    for (file, text) in valid_texts() {
        let original: Value = serde_yaml::from_str(&text).unwrap();
        for (way, value) in ways(&original) {
            let wrong: Value = match value {
                Value::Mapping(_) | Value::Sequence(_) => Value::from(-1),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Tagged(_) => serde_yaml::from_str("{ zebra: 1 }").unwrap(),
            };
            let mut mutated = original.clone();
            *at(&mut mutated, &way) = wrong;
            let errors = parse(&serde_yaml::to_string(&mutated).unwrap()).unwrap_err().errors;
            let path = shown(&way);
            let place = format!("{path} of {}: {errors:?}", file.display());
            assert!(errors.iter().any(|e| e.path.starts_with(&path)), "{place}");
            assert!(!schema.is_valid(&serde_json::to_value(&mutated).unwrap()), "{place}");
            tried += 1;
        }
    }
    assert!(tried > 250, "only {tried} values");
}

#[test]
fn the_json_schema_accepts_every_valid_file() {
    let schema = config::json_schema();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (file, text) in valid_texts() {
        let value: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        let errors: Vec<_> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", file.display());
    }
}

#[test]
fn the_json_schema_refuses_what_is_wrong_in_structure() {
    let validator = jsonschema::validator_for(&config::json_schema()).unwrap();
    let names = [
        "addresses",
        "many-errors",
        "missing",
        "missing-in-a-service",
        "not-a-mapping",
        "not-yet",
        "nothing-written",
        "panic-at-a-backend",
        "socket-and-lost",
        "spelling",
        "wrong-types",
    ];
    for name in names {
        let file = fixtures("invalid").join(name).with_extension("yaml");
        let value: serde_json::Value =
            serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        assert!(!validator.is_valid(&value), "{name}");
    }
}

/// Every key of the schema, as paths without indices.
fn schema_keys(schema: &serde_json::Value, path: &str, keys: &mut Vec<String>) {
    for inner in schema["anyOf"].as_array().into_iter().flatten().chain(schema.get("items")) {
        schema_keys(inner, path, keys);
    }
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        schema_keys(inner, &path, keys);
        keys.push(path);
    }
}

#[test]
fn two_valid_files_use_every_key_of_the_schema() {
    let mut keys = Vec::new();
    schema_keys(&config::json_schema(), "", &mut keys);
    // Only one of the two may be written; another fixture has the file.
    keys.retain(|key| key != ".hash_key_file");
    // A backend of a rule is one like any other.
    let plain = |key: &str| {
        key.replace(".domains.backends", ".backends").replace(".methods.backends", ".backends")
    };
    keys = keys.iter().map(|key| plain(key)).collect();
    keys.sort();
    keys.dedup();
    assert!(keys.len() > 50, "only {} keys", keys.len());
    let mut used = Vec::new();
    for file in ["everything.yaml", "sets.yaml"] {
        let text = fs::read_to_string(fixtures("valid").join(file)).unwrap();
        for (way, _) in ways(&serde_yaml::from_str(&text).unwrap()) {
            let step = |step: &Step| match step {
                Step::Key(key) => format!(".{key}"),
                Step::Item(_) => String::new(),
            };
            used.push(plain(&way.iter().map(step).collect::<String>()));
        }
    }
    let unused: Vec<_> = keys.iter().filter(|key| !used.contains(key)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn all_255_backends_fit_and_256_do_not() {
    let file = |count: u32| {
        let backend = |i| {
            format!(
                "      - {{ name: gw{i}, address: \"10.0.{}.{}:5060\" }}\n",
                i / 200,
                i % 200 + 1
            )
        };
        let backends: String = (0..count).map(backend).collect();
        format!(
            "interfaces: [eth0]\nservices:\n  - name: a\n    listen: \"203.0.113.10:5060\"\n    backends:\n{backends}"
        )
    };
    assert_eq!(parse(&file(255)).unwrap().config.services[0].backends.len(), 255);
    let errors = parse(&file(256)).unwrap_err().errors;
    assert_eq!(
        lines(&errors),
        ["6:7: services[0].backends: found 256 of them, allowed are at most 255"]
    );
}

/// What this thread has computed so far; unlike a clock it does not count what others do meanwhile.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Refused within a second.
fn hostile(name: &str, bytes: &[u8]) -> Vec<String> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{name}.yaml"));
    fs::write(&file, bytes).unwrap();
    let start = cpu_time();
    let errors = config::load(&file).expect_err(name);
    let took = cpu_time() - start;
    fs::remove_file(&file).unwrap();
    assert!(took < Duration::from_secs(1), "{name} took {took:?}");
    assert!(errors.errors.len() <= 1001, "{name}: {} errors", errors.errors.len());
    lines(&errors.errors)
}

#[test]
fn hostile_files_are_refused_within_a_second() {
    let only = |name, bytes: &[u8], expected: &str| {
        assert_eq!(hostile(name, bytes), [expected], "{name}");
    };
    only("empty", b"", "1:1: the file is empty; at least interfaces and services are needed");
    only(
        "blank",
        b"\n\n  \n",
        "1:1: the file is empty; at least interfaces and services are needed",
    );
    only(
        "markers",
        b"---
...
",
        "1:1: the file is empty; at least interfaces and services are needed",
    );
    only(
        "latin-1",
        b"interfaces: [eth0]\nhash_key: \"gr\xfc\xdfe\"\n",
        "2:14: found the byte 0xfc, allowed is UTF-8 text",
    );
    only(
        "elf",
        b"\x7fELF\x02\x01\x01\0\0\0",
        "1:1: found the control character U+007F, allowed is text; is this a configuration file?",
    );
    only(
        "nul",
        b"interfaces: [eth0]\nhash_key: a\0b\n",
        "2:12: found the control character U+0000, allowed is text; is this a configuration file?",
    );
    let ten_megabytes = vec![b'a'; 10 << 20];
    only(
        "10-mb",
        &ten_megabytes,
        "1:1: found more than 1048576 bytes, allowed are at most 1048576",
    );
    let deep = "found lists and mappings nested more than 32 deep; allowed are fewer";
    only("nested-lists", "[".repeat(10_000).as_bytes(), &format!("1:256: {deep}"));
    only("nested-dashes", "- ".repeat(10_000).as_bytes(), &format!("1:65: {deep}"));
    only(
        "nested-closed",
        format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000)).as_bytes(),
        &format!("1:259: {deep}"),
    );
}

#[test]
fn aliases_cannot_multiply_without_bound() {
    // Nine levels of nine: 387 million values from 400 bytes.
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let inner = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
    }
    let errors = hostile("laughs", laughs.as_bytes());
    assert_eq!(
        errors,
        ["6:5: found more than 150000 values, counting what aliases stand for; allowed are fewer"]
    );

    // Each level one deeper than the one before.
    let mut deeper = String::from("a0: &a0 [x]\n");
    for level in 1..40 {
        deeper.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    let errors = hostile("deeper", deeper.as_bytes());
    assert_eq!(
        errors,
        ["32:12: found lists and mappings nested more than 32 deep; allowed are fewer"]
    );
}

#[test]
fn a_megabyte_of_anything_is_refused_within_a_second() {
    let patterns = [
        "[",
        "{",
        "- ",
        "? ",
        ": ",
        "a: ",
        "&a ",
        "!t ",
        "\"",
        "'",
        "|\n",
        "\n",
        "a:\n",
        "[a, ",
        "{a: ",
        "- a\n",
        "a",
        "%",
        ",",
        "---\n",
        "é",
        "\t",
        "\\",
        "\"\\x41",
        "? a\n: ",
        "a: &a\n",
        "- !!str a\n",
        "- &a a\n",
        "\r",
        "[]\n",
        "[],",
        "- *a\n",
        "a: b\n",
        "- {name: a, address: b}\n",
    ];
    for (i, pattern) in patterns.iter().enumerate() {
        let count = (1 << 20) / pattern.len();
        hostile(&format!("pattern-{i}"), pattern.repeat(count).as_bytes());
        hostile(
            &format!("in-services-{i}"),
            format!("services:\n{}", pattern.repeat(count - 8)).as_bytes(),
        );
    }
}

#[test]
fn a_thousand_errors_are_shown_and_the_rest_is_counted_out() {
    let text = format!("interfaces: [{}]", "1, ".repeat(5000));
    let errors = hostile("many", text.as_bytes());
    assert_eq!(errors.len(), 1001);
    assert_eq!(errors[0], "1:13: interfaces: found 5000 of them, allowed are at most 64");
    assert_eq!(errors[1000], "more than 1000 errors; the rest is not shown");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bytes.yaml");
        fs::write(&file, bytes).unwrap();
        prop_assert!(config::load(&file).is_err());
    }

    #[test]
    fn text_like_yaml_never_panics(text in "([a-z\\[\\]{}:,&*!|>'\"%@#?\n\t -]|: |- |\n  |interfaces|services|é){0,80}") {
        prop_assert!(parse(&text).is_err());
    }

    #[test]
    fn a_damaged_file_never_panics(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        length in 0usize..8,
        insert in "[a-z0-9\\[\\]{}:,&*!|>'\"%@#?\n\t -]{0,6}",
    ) {
        let texts = valid_texts();
        let chars: Vec<char> = texts[which.index(texts.len())].1.chars().collect();
        let at = at.index(chars.len());
        let end = (at + length).min(chars.len());
        let damaged: String = chars[..at].iter().copied().chain(insert.chars()).chain(chars[end..].iter().copied()).collect();
        match parse(&damaged) {
            Ok(loaded) => prop_assert!(!loaded.config.services.is_empty()),
            Err(errors) => prop_assert!(!errors.errors.is_empty()),
        }
    }
}
