//! From the keys of the file to a [`Config`].

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::{
    error::Errors,
    health,
    model::{Backend, Config, Dialogs, DomainRule, Limits, MethodRule, Service},
    place::Place,
    raw::{Given, RawBackend, RawConfig, RawDialogs, RawHealth, RawLimits, RawRule, RawService},
    values,
};

/// Largest file that is looked into for a hash key, in bytes.
const HASH_KEY_FILE: u64 = 4096;

/// Builds the model; `None` if anything was refused.
pub(super) fn config(raw: RawConfig, hash_key: Option<String>) -> Option<Config> {
    let defaults = raw.defaults?.health?;
    let services =
        raw.services?.into_iter().map(|s| service(s?, &defaults)).collect::<Option<_>>()?;
    Some(Config {
        interfaces: raw.interfaces?.into_iter().collect::<Option<_>>()?,
        xdp_mode: raw.xdp_mode?,
        hash_key,
        metrics_listen: raw.metrics?.listen?,
        admin_socket: raw.admin?.socket?,
        pin_dir: raw.pin_dir?,
        dialogs: dialogs(&raw.dialogs?)?,
        limits: limits(&raw.limits?)?,
        controller_lost: raw.controller_lost?,
        services,
    })
}

fn dialogs(raw: &RawDialogs) -> Option<Dialogs> {
    Some(Dialogs { max: raw.max?, timeout: raw.timeout?.0 })
}

fn limits(raw: &RawLimits) -> Option<Limits> {
    Some(Limits {
        services: raw.services?,
        endpoints: raw.endpoints?,
        bindings: raw.bindings?,
        tables: raw.tables?,
        fragments: raw.fragments?,
    })
}

fn service(raw: RawService, defaults: &RawHealth) -> Option<Service> {
    Some(Service {
        name: raw.name?,
        listen: raw.listen?.into_iter().collect::<Option<_>>()?,
        transport: raw.transport?.into_iter().next()??,
        forward: raw.forward?,
        balance: raw.balance?,
        affinity: raw.affinity?,
        in_dialog_failover: raw.in_dialog_failover?,
        keepalive: raw.keepalive?,
        malformed: raw.malformed?,
        all_down: raw.all_down?,
        retry_after: raw.retry_after?.0,
        spoof_check: raw.spoof_check?,
        backends: backends(raw.backends, defaults)?,
        domains: rules(raw.domains, |rule| {
            let matches = matches(rule.matches, |text| values::domain(text).ok())?;
            Some(DomainRule { matches, backends: backends(rule.backends, defaults)? })
        })?,
        methods: rules(raw.methods, |rule| {
            let matches = matches(rule.matches, values::rule_method)?;
            Some(MethodRule { matches, backends: backends(rule.backends, defaults)? })
        })?,
        panic: *defaults.panic.value()?,
    })
}

fn rules<T>(
    raw: Given<Vec<Option<RawRule>>>,
    build: impl Fn(RawRule) -> Option<T>,
) -> Option<Vec<T>> {
    match raw {
        Given::Absent => Some(Vec::new()),
        Given::Refused => None,
        Given::Value(rules) => rules.into_iter().map(|rule| build(rule?)).collect(),
    }
}

fn matches<T>(
    raw: Option<Vec<Option<String>>>,
    read: impl Fn(&str) -> Option<T>,
) -> Option<Vec<T>> {
    raw?.into_iter().map(|text| read(&text?)).collect()
}

fn backends(raw: Option<Vec<Option<RawBackend>>>, defaults: &RawHealth) -> Option<Vec<Backend>> {
    raw?.into_iter().map(|b| backend(b?, defaults)).collect()
}

fn backend(raw: RawBackend, defaults: &RawHealth) -> Option<Backend> {
    let health = health::of(&raw, defaults)?;
    Some(Backend {
        name: raw.name?,
        address: raw.address?,
        aliases: match raw.aliases {
            Given::Absent => Vec::new(),
            Given::Refused => return None,
            Given::Value(aliases) => aliases.into_iter().collect::<Option<_>>()?,
        },
        priority: raw.priority?,
        weight: raw.weight?,
        admin: raw.admin?,
        health,
    })
}

/// The hash key, from the file itself or from the one it names (relative to `dir`).
pub(super) fn hash_key(
    raw: &RawConfig,
    root: &Place<'_>,
    dir: &Path,
    errors: &mut Errors,
) -> Option<String> {
    if raw.hash_key.is_present() {
        return raw.hash_key.value().cloned();
    }
    let path = raw.hash_key_file.value()?;
    let path = dir.join(path);
    match read_key(&path) {
        Ok(key) => Some(key),
        Err(problem) => {
            let message = format!("cannot take the hash key from {}: {problem}", path.display());
            root.key("hash_key_file").refuse(errors, message);
            None
        }
    }
}

fn read_key(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|f| f.take(HASH_KEY_FILE).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err("it is not text".to_owned()),
        Err(e) => return Err(e.to_string()),
    }
    let key = text.trim();
    values::hash_key(key).map_err(|allowed| format!("it has {} bytes, {allowed}", key.len()))?;
    Ok(key.to_owned())
}
