//! `defaults.health` and what backends override of it.

use std::collections::HashMap;

use super::{
    error::Errors,
    model::HealthCheck,
    place::Place,
    raw::{Given, RawBackend, RawBackendHealth, RawConfig, RawHealth, RawService},
    rules::{Placed, lists, title},
    values::show_duration,
};

/// The defaults, which have every key.
pub(super) fn defaults(raw: &RawConfig) -> Option<&RawHealth> {
    raw.defaults.as_ref()?.health.as_ref()
}

pub(super) fn is_off(backend: &RawBackend) -> bool {
    matches!(backend.health, Given::Value(RawBackendHealth::Off))
}

/// Health settings of a backend; `None` inside = off, outside = something was refused.
pub(super) fn of(backend: &RawBackend, defaults: &RawHealth) -> Option<Option<HealthCheck>> {
    match &backend.health {
        Given::Absent => merged(&RawHealth::default(), defaults).map(Some),
        Given::Refused => None,
        Given::Value(RawBackendHealth::Off) => Some(None),
        Given::Value(RawBackendHealth::Own(own)) => merged(own, defaults).map(Some),
    }
}

fn merged(own: &RawHealth, defaults: &RawHealth) -> Option<HealthCheck> {
    Some(HealthCheck {
        method: own.method.or(&defaults.method)?.clone(),
        interval: own.interval.or(&defaults.interval)?.0,
        fast_interval: own.fast_interval.or(&defaults.fast_interval)?.0,
        timeout: own.timeout.or(&defaults.timeout)?.0,
        rise: *own.rise.or(&defaults.rise)?,
        fall: *own.fall.or(&defaults.fall)?,
        expect: own.expect.or(&defaults.expect)?.resolve()?,
        initial: *own.initial.or(&defaults.initial)?,
    })
}

/// Times that contradict each other, and services that disagree about an endpoint.
pub(super) fn check(
    raw: &RawConfig,
    root: &Place<'_>,
    services: &[Placed<'_, RawService>],
    errors: &mut Errors,
) {
    let Some(defaults) = defaults(raw) else { return };
    times(defaults, defaults, &root.key("defaults").key("health"), errors);
    let mut first = HashMap::new();
    for (service, place) in services {
        for (list, (backend, backend_place)) in lists(service, place)
            .into_iter()
            .enumerate()
            .flat_map(|(i, list)| list.into_iter().map(move |placed| (i, placed)))
        {
            if let Given::Value(RawBackendHealth::Own(own)) = &backend.health {
                times(own, defaults, &backend_place.key("health"), errors);
            }
            let (Some(address), Some(health)) = (backend.address, of(backend, defaults)) else {
                continue;
            };
            let name = title(service, place);
            let Some((other, other_list, other_health, line)) = first.get(&address) else {
                first.insert(address, (name, list, health, backend_place.at().line));
                continue;
            };
            // The same list: it has the address twice, which is an error of its own.
            if *other_health != health && (*other != name || *other_list != list) {
                let who = if *other == name {
                    format!("two lists of service {name} give")
                } else {
                    format!("services {other} and {name} give")
                };
                let message = format!(
                    "{who} {address} different health settings, allowed are equal ones; see line \
                     {line}"
                );
                backend_place.key("health").refuse(errors, message);
            }
        }
    }
}

/// fast_interval and timeout are at most the interval. `place` is that of `own`.
fn times(own: &RawHealth, defaults: &RawHealth, place: &Place<'_>, errors: &mut Errors) {
    let Some(interval) = own.interval.or(&defaults.interval) else { return };
    let shorter = [
        ("fast_interval", own.fast_interval.or(&defaults.fast_interval)),
        ("timeout", own.timeout.or(&defaults.timeout)),
    ];
    for (key, value) in shorter {
        let Some(value) = value.filter(|v| v.0 > interval.0) else { continue };
        let (value, interval) = (show_duration(value.0), show_duration(interval.0));
        if place.key(key).is_written() {
            let message = format!("found {value}, allowed is at most the interval, {interval}");
            place.key(key).refuse(errors, message);
        } else if place.key("interval").is_written() {
            let message = format!(
                "found {interval}, allowed is at least {key}, {value} by default; set {key} too"
            );
            place.key("interval").refuse(errors, message);
        }
    }
}
