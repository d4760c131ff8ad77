//! `sip-lb check`: is the file valid, and what would it do?

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write},
    path::Path,
};

use serde::Serialize;

use crate::config::{
    self, Config, Finding,
    model::{Admin, Affinity, Backend, Service, Set, SetKind},
    show_duration,
};

/// Exit code for a valid file.
pub const VALID: u8 = 0;
/// Exit code for any other.
pub const INVALID: u8 = 2;

/// Shares by backend name.
pub type Shares = Vec<(String, f64)>;

/// What a rendering needs to know besides the configuration.
pub struct Numbers<'a> {
    /// Share of new dialogs of every backend of a set by name, 0 … 1, while all are healthy.
    pub shares: &'a dyn Fn(&Service, &[Backend]) -> Shares,
    /// Bytes of kernel memory that the maps take.
    pub memory_bytes: &'a dyn Fn(&Config) -> u64,
}

/// `check --json`.
#[derive(Debug, Serialize)]
pub struct Report {
    pub valid: bool,
    pub errors: Vec<Finding>,
    pub warnings: Vec<Finding>,
    pub services: Vec<ServiceReport>,
    /// `None` if the file is not valid.
    pub memory_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct ServiceReport {
    pub name: String,
    /// Of the service's own set, best tier first.
    pub tiers: Vec<TierReport>,
    /// Sets of its rules.
    pub sets: Vec<SetReport>,
    /// Longest time from a backend's death to its detection, over the probed backends; `None` if
    /// none is probed.
    pub worst_detection_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct SetReport {
    /// What its rule matches first.
    pub name: String,
    /// Best tier first.
    pub tiers: Vec<TierReport>,
}

#[derive(Debug, Serialize)]
pub struct TierReport {
    pub priority: u16,
    /// In file order.
    pub backends: Vec<BackendReport>,
}

#[derive(Debug, Serialize)]
pub struct BackendReport {
    pub name: String,
    pub weight: u16,
    /// `ready`, `drain` or `maint`, as configured.
    pub admin: &'static str,
    /// Of new dialogs, 0 … 1, while all backends are healthy.
    pub share: f64,
}

/// Reads `file` and writes what is to say about it: everything to `out` as JSON, else errors to
/// `err`. Returns the exit code.
///
/// # Errors
/// `out` or `err` cannot be written.
pub fn run(
    file: &Path,
    json: bool,
    numbers: &Numbers<'_>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    let loaded = config::load(file);
    let code = if loaded.is_ok() { VALID } else { INVALID };
    if json {
        let report = match &loaded {
            Ok(loaded) => report(&loaded.config, &loaded.warnings, numbers),
            Err(errors) => refused(errors.errors.clone()),
        };
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
        return Ok(code);
    }
    match loaded {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                writeln!(err, "warning: {}:{warning}", file.display())?;
            }
            write!(out, "{}", text(&loaded.config, numbers))?;
        }
        Err(errors) => {
            writeln!(err, "{errors}")?;
            let count = errors.errors.len();
            let noun = if count == 1 { "error" } else { "errors" };
            writeln!(err, "{}: not valid, {count} {noun}", file.display())?;
        }
    }
    Ok(code)
}

fn refused(errors: Vec<Finding>) -> Report {
    Report { valid: false, errors, warnings: vec![], services: vec![], memory_bytes: None }
}

/// A valid configuration as `check --json` shows it.
#[must_use]
pub fn report(config: &Config, warnings: &[Finding], numbers: &Numbers<'_>) -> Report {
    Report {
        valid: true,
        errors: vec![],
        warnings: warnings.to_vec(),
        services: config.services.iter().map(|s| service_report(s, numbers)).collect(),
        memory_bytes: Some((numbers.memory_bytes)(config)),
    }
}

fn service_report(service: &Service, numbers: &Numbers<'_>) -> ServiceReport {
    let tiers = |set: &Set<'_>| tiers(service, set.backends, numbers);
    let sets = service.sets().skip(1);
    let probed = service.all_backends().filter_map(|b| b.health.as_ref());
    ServiceReport {
        name: service.name.clone(),
        tiers: service.sets().take(1).flat_map(|set| tiers(&set)).collect(),
        sets: sets.map(|set| SetReport { name: set.name(), tiers: tiers(&set) }).collect(),
        worst_detection_seconds: probed.map(|h| h.worst_detection().as_secs_f64()).reduce(f64::max),
    }
}

fn tiers(service: &Service, backends: &[Backend], numbers: &Numbers<'_>) -> Vec<TierReport> {
    let shares: BTreeMap<_, _> = (numbers.shares)(service, backends).into_iter().collect();
    let mut tiers: BTreeMap<u16, Vec<BackendReport>> = BTreeMap::new();
    for backend in backends {
        tiers.entry(backend.priority).or_default().push(BackendReport {
            name: backend.name.clone(),
            weight: backend.weight,
            admin: backend.admin.label(),
            share: shares.get(&backend.name).copied().unwrap_or(0.0),
        });
    }
    tiers.into_iter().map(|(priority, backends)| TierReport { priority, backends }).collect()
}

/// A valid configuration as a person reads it.
#[must_use]
pub fn text(config: &Config, numbers: &Numbers<'_>) -> String {
    let mut out = String::new();
    for service in &config.services {
        // Writing to a String cannot fail.
        let _ = service_text(&mut out, service, &service_report(service, numbers));
    }
    let services = config.services.len();
    let noun = if services == 1 { "service" } else { "services" };
    let memory = mebibytes((numbers.memory_bytes)(config));
    let _ = writeln!(
        out,
        "valid: {services} {noun} on {}; the maps take {memory} of memory, room for {} dialogs",
        config.interfaces.join(", "),
        config.dialogs.max
    );
    out
}

fn service_text(out: &mut String, service: &Service, report: &ServiceReport) -> std::fmt::Result {
    let vips: Vec<_> = service.listen.iter().map(ToString::to_string).collect();
    writeln!(out, "service {}  {} udp{}", service.name, vips.join(", "), policy(service))?;
    let mut sets = service.sets();
    if let Some(own) = sets.next() {
        tiers_text(out, own.backends, &report.tiers)?;
    }
    for (set, shown) in sets.zip(&report.sets) {
        writeln!(out, "  {}", title(&set))?;
        tiers_text(out, set.backends, &shown.tiers)?;
    }
    writeln!(out)
}

/// What chooses, where that is not the Call-ID.
fn policy(service: &Service) -> String {
    let none = match service.affinity {
        Affinity::Dialog => "",
        Affinity::None => ", affinity none",
    };
    match service.balance.label() {
        "call-id" if none.is_empty() => String::new(),
        label => format!("  by {label}{none}"),
    }
}

/// What a rule's set is for.
fn title(set: &Set<'_>) -> String {
    let (kind, matches): (_, Vec<String>) = match set.kind {
        SetKind::Own => ("all", Vec::new()),
        SetKind::Domains(domains) => ("domains", domains.iter().map(ToString::to_string).collect()),
        SetKind::Methods(methods) => {
            ("methods", methods.iter().filter_map(|m| m.name()).map(str::to_owned).collect())
        }
    };
    format!("{kind} {}", matches.join(", "))
}

fn tiers_text(out: &mut String, backends: &[Backend], tiers: &[TierReport]) -> std::fmt::Result {
    let name = backends.iter().map(|b| b.name.len()).max().unwrap_or(0);
    let address = backends.iter().map(|b| b.address.to_string().len()).max().unwrap_or(0);
    let is_ready = |b: &&Backend| b.admin == Admin::Ready;
    let best = backends.iter().filter(is_ready).map(|b| b.priority).min();
    for tier in tiers {
        let role = match best {
            Some(best) if tier.priority == best => "takes new dialogs",
            Some(best) if tier.priority > best => "takes over if all above are down",
            Some(_) | None => "none of it is ready",
        };
        writeln!(out, "  priority {}, {role}", tier.priority)?;
        let members = backends.iter().filter(|b| b.priority == tier.priority);
        for (backend, shown) in members.zip(&tier.backends) {
            let mut detection = match &backend.health {
                Some(health) => format!("down within {}", show_duration(health.worst_detection())),
                None => "not probed, always up".to_owned(),
            };
            if backend.admin != Admin::Ready {
                detection = format!("{detection}; admin: {}", backend.admin.label());
            }
            writeln!(
                out,
                "    {:name$}  {:<address$}  weight {:>5}  share {:>6.2} %  {detection}",
                backend.name,
                backend.address.to_string(),
                backend.weight,
                shown.share * 100.0,
            )?;
        }
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;

    /// Exact shares by weight of the ready backends of the best tier; the slot table comes as close
    /// as 65,536 slots allow.
    fn by_weight(_: &Service, backends: &[Backend]) -> Shares {
        let ready = || backends.iter().filter(|b| b.admin == Admin::Ready);
        let best = ready().map(|b| b.priority).min();
        let tier = || ready().filter(|b| Some(b.priority) == best);
        let total: u32 = tier().map(|b| u32::from(b.weight)).sum();
        tier().map(|b| (b.name.clone(), f64::from(b.weight) / f64::from(total))).collect()
    }

    fn numbers() -> Numbers<'static> {
        Numbers { shares: &by_weight, memory_bytes: &|_| 3 << 19 }
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/config").join(name)
    }

    fn run_on(file: &Path, json: bool) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(file, json, &numbers(), &mut out, &mut err).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn json_has_the_fields_of_the_interface() {
        let (code, out, err) = run_on(&fixture("valid/everything.yaml"), true);
        assert_eq!((code, err.as_str()), (VALID, ""));
        let expected = json!({
            "valid": true,
            "errors": [],
            "warnings": [{
                "line": 37,
                "column": 7,
                "path": "services[0].backends",
                "message": "priority 10 has a backend with health off, which is always up: no other priority is ever used",
            }],
            "services": [
                {
                    "name": "trunk-in",
                    "tiers": [
                        { "priority": 10, "backends": [
                            { "name": "gw1", "weight": 100, "admin": "ready", "share": 0.25 },
                            { "name": "gw2", "weight": 100, "admin": "ready", "share": 0.25 },
                            { "name": "gw3", "weight": 200, "admin": "ready", "share": 0.5 },
                        ] },
                        { "priority": 20, "backends": [{ "name": "spare", "weight": 0, "admin": "maint", "share": 0.0 }] },
                    ],
                    "sets": [],
                    // 4 s + 4 × 250 ms + 1.5 s
                    "worst_detection_seconds": 6.5,
                },
                {
                    "name": "registrar.example:5060_2",
                    "tiers": [
                        { "priority": 0, "backends": [
                            { "name": "reg1", "weight": 65535, "admin": "drain", "share": 0.0 },
                        ] },
                        { "priority": 65535, "backends": [
                            { "name": "reg2", "weight": 1, "admin": "ready", "share": 1.0 },
                        ] },
                    ],
                    "sets": [],
                    "worst_detection_seconds": 6.5,
                },
            ],
            "memory_bytes": 3 << 19,
        });
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
    }

    #[test]
    fn json_of_an_invalid_file_has_its_errors_and_exit_code_2() {
        let (code, out, err) = run_on(&fixture("invalid/written-twice.yaml"), true);
        assert_eq!((code, err.as_str()), (INVALID, ""));
        let expected = json!({
            "valid": false,
            "errors": [
                { "line": 3, "column": 1, "path": "hash_key",
                  "message": "found this key twice, allowed is once; see line 2" },
                { "line": 8, "column": 50, "path": "services[0].backends[0].name",
                  "message": "found this key twice, allowed is once; see line 8" },
            ],
            "warnings": [],
            "services": [],
            "memory_bytes": null,
        });
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
    }

    #[test]
    fn text_shows_tiers_shares_and_detection() {
        let (code, out, _) = run_on(&fixture("valid/everything.yaml"), false);
        let expected = "\
service trunk-in  203.0.113.10:5060, 203.0.113.10:5080, 203.0.113.11:5060 udp
  priority 10, takes new dialogs
    gw1    10.0.1.200:5060  weight   100  share  25.00 %  down within 6s500ms
    gw2    10.0.1.201:5060  weight   100  share  25.00 %  not probed, always up
    gw3    10.0.1.202:5060  weight   200  share  50.00 %  down within 1s300ms
  priority 20, takes over if all above are down
    spare  10.0.2.200:5060  weight     0  share   0.00 %  down within 6s500ms; admin: maint

service registrar.example:5060_2  [2001:db8::10]:5060 udp
  priority 0, none of it is ready
    reg1  [2001:db8::201]:5060  weight 65535  share   0.00 %  down within 6s500ms; admin: drain
  priority 65535, takes new dialogs
    reg2  [2001:db8::202]:5060  weight     1  share 100.00 %  down within 6s500ms

valid: 2 services on eth0, eth1.100, bond0; the maps take 1.5 MiB of memory, room for 65536 dialogs
";
        assert_eq!(out, expected);
        assert_eq!(code, VALID);
    }

    #[test]
    fn warnings_and_errors_name_the_file_on_standard_error() {
        let file = fixture("valid/minimal.yaml");
        let (_, _, err) = run_on(&file, false);
        let start = format!("warning: {}:1:1: hash_key: no hash_key", file.display());
        assert!(err.starts_with(&start), "{err}");
        let file = fixture("invalid/tag.yaml");
        let (code, out, err) = run_on(&file, false);
        assert_eq!((code, out.as_str()), (INVALID, ""));
        let file = file.display();
        let expected = format!(
            "{file}:1:13: found a tag (!...), allowed are values without tags\n{file}: not valid, 1 error\n"
        );
        assert_eq!(err, expected);
    }

    #[test]
    fn a_service_without_probes_has_no_detection_time() {
        let config = config::load(&fixture("valid/json.yaml")).unwrap().config;
        assert_eq!(report(&config, &[], &numbers()).services[0].worst_detection_seconds, None);
    }
}
