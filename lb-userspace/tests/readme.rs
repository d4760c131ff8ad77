//! What README.md and the alert rules promise: every word that the program may say, and no other.
#![cfg(test)]

use std::{collections::BTreeSet, fs, path::Path};

use clap::CommandFactory as _;
use lb_common::{
    slow::Kind as Kinds,
    stats::Event,
    verdict::{Kind, Verdict},
};
use lb_userspace::{
    cli::Cli,
    config::json_schema,
    metrics::names,
    replay::line::Unfit,
    slow::answer::{self, Refusal},
};
use serde_json::Value;

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(path).unwrap()
}

/// The lines below a heading, up to the next heading of any level.
fn section<'a>(readme: &'a str, heading: &str) -> Vec<&'a str> {
    let mut lines = readme.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "README.md has no heading `{heading}`");
    lines.take_while(|line| !line.starts_with('#')).collect()
}

/// The cells of every row of the table below a heading, without its head.
fn table<'a>(readme: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let cells =
        |line: &'a str| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>();
    let rows = section(readme, heading).into_iter().filter(|line| line.starts_with('|'));
    let rows: Vec<_> = rows.skip(2).map(cells).collect();
    assert!(rows.len() > 1, "no table below `{heading}`");
    rows
}

/// The words in backquotes of a cell.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_reason_stands_in_the_table_with_its_outcome_and_no_other_does() {
    let readme = text("README.md");
    let rows = table(&readme, "### Reasons");
    let found: Vec<_> = rows.iter().map(|row| (row[0].trim_matches('`'), row[1])).collect();
    let expected: Vec<_> = Verdict::ALL.iter().map(|v| (v.reason(), v.kind().label())).collect();
    assert_eq!(found, expected);
    for (row, verdict) in rows.iter().zip(Verdict::ALL) {
        assert_eq!(row[2].starts_with("fault:"), verdict.is_fault(), "{}", row[0]);
    }
}

#[test]
fn every_kind_of_the_slow_path_is_explained_with_its_rate_and_every_outcome_of_requests() {
    let readme = text("README.md");
    let rows = table(&readme, "### Slow path");
    for kind in Kinds::ALL {
        let row = rows.iter().find(|row| quoted(row[0]).any(|word| word == kind.label()));
        let row = row.unwrap_or_else(|| panic!("{}", kind.label()));
        let rate = match kind.rate() {
            rate @ ..1000 => rate.to_string(),
            rate => format!("{},{:03}", rate / 1000, rate % 1000),
        };
        assert_eq!(row[1], rate, "{}", kind.label());
    }
    let outcomes: BTreeSet<_> = rows.iter().flat_map(|row| quoted(row[2])).collect();
    let refusals = [Refusal::Malformed, Refusal::Ack, Refusal::Header].map(Refusal::label);
    for outcome in refusals.iter().chain(&answer::REASONS) {
        assert!(outcomes.contains(outcome), "{outcome}");
    }
    assert!(section(&readme, "### Slow path").join("\n").contains("`no-consumer`"));
}

#[test]
fn every_event_stands_in_the_table_and_no_other_does() {
    let readme = text("README.md");
    let rows = table(&readme, "### Events");
    let found: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let expected: Vec<_> = Event::ALL.iter().map(|event| event.label()).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_metric_stands_in_the_table_with_its_labels_and_no_other_does() {
    let readme = text("README.md");
    let rows = table(&readme, "### Metrics");
    let found: BTreeSet<_> = rows.iter().flat_map(|row| quoted(row[0])).collect();
    let expected: BTreeSet<_> = names::ALL.iter().map(|metric| metric.name).collect();
    assert!(expected.len() > 20);
    assert_eq!(found, expected);
    for metric in names::ALL {
        let row = rows.iter().find(|row| quoted(row[0]).any(|name| name == metric.name)).unwrap();
        let labels: Vec<_> = quoted(row[1]).collect();
        assert!(metric.labels.iter().all(|label| labels.contains(label)), "{}", metric.name);
    }
}

/// Names of all keys in a JSON Schema.
fn keys<'a>(schema: &'a Value, found: &mut BTreeSet<&'a str>) {
    match schema {
        Value::Object(map) => {
            for (name, value) in map {
                if let ("properties", Value::Object(properties)) = (name.as_str(), value) {
                    found.extend(properties.keys().map(String::as_str));
                }
                keys(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_key_of_the_configuration_is_explained() {
    let readme = text("README.md");
    let section = table(&readme, "## Configuration");
    let words: BTreeSet<_> = section
        .iter()
        .flat_map(|row| quoted(row[0]))
        .flat_map(|key| key.split(['.', '[']))
        .map(|word| word.trim_matches(']'))
        .collect();
    let schema = json_schema();
    let mut all = BTreeSet::new();
    keys(&schema, &mut all);
    assert!(all.len() > 30, "{all:?}");
    let missing: Vec<_> = all.difference(&words).collect();
    assert!(missing.is_empty(), "not in README.md: {missing:?}");
}

#[test]
fn everything_that_is_not_supported_yet_stands_among_the_limits() {
    let readme = text("README.md");
    let limits = section(&readme, "## Limits").join("\n");
    let refused = text("tests/fixtures/config/invalid/not-yet.txt");
    let mut seen = 0;
    for line in refused.lines().filter(|line| line.contains("not supported yet")) {
        let mut parts = line.splitn(3, ": ");
        let key = parts.nth(1).unwrap().rsplit('.').next().unwrap();
        // A word that is refused, or the whole key.
        let word = line.split('"').nth(1).unwrap_or(key);
        let found =
            limits.split('`').any(|shown| shown == word || shown == format!("{key}: {word}"));
        assert!(found, "{line}");
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn every_command_stands_in_the_table_with_its_options() {
    let readme = text("README.md");
    let rows = table(&readme, "### Commands");
    let mut command = Cli::command();
    command.build();
    let mut seen = 0;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = sub.get_name();
        let shown = |row: &&Vec<&str>| {
            quoted(row[0]).any(|shown| {
                let shown = shown.strip_prefix("sip-lb ").unwrap_or(shown);
                shown.split(' ').next() == Some(name)
            })
        };
        let Some(row) = rows.iter().find(shown) else { panic!("no row for `{name}`") };
        let options = sub.get_arguments().filter_map(|option| option.get_long());
        for option in options.filter(|option| !matches!(*option, "help" | "version")) {
            let wanted = format!("--{option}");
            let words = row[0].split([' ', '[', ']', '`', '\\', '|', '.']);
            assert!(words.into_iter().any(|word| word == wanted), "{name} {wanted}");
            seen += 1;
        }
    }
    assert!(seen > 8, "{seen}");
}

#[test]
fn reasons_of_packets_that_replay_cannot_run_are_explained() {
    let readme = text("README.md");
    let section = section(&readme, "### Asking beforehand").join("\n");
    for unfit in [Unfit::TooShort, Unfit::Truncated, Unfit::TooBig] {
        assert!(section.contains(&format!("`{}`", unfit.reason())), "{}", unfit.reason());
    }
}

#[test]
fn every_fault_has_an_alert() {
    let alerts = text("deploy/prometheus/alerts.yaml");
    let mut faults = 0;
    for verdict in Verdict::ALL.iter().filter(|v| v.is_fault()) {
        assert_eq!(verdict.kind(), Kind::Drop, "alerts look at drops only");
        let wanted = format!(
            "increase(sip_lb_dropped_packets_total{{reason=\"{}\"}}[5m]) > 0",
            verdict.reason()
        );
        assert!(alerts.contains(&wanted), "no alert for {}", verdict.reason());
        faults += 1;
    }
    assert!(faults >= 5);
}

#[test]
fn alerts_name_only_metrics_that_exist() {
    let alerts = text("deploy/prometheus/alerts.yaml");
    let known: BTreeSet<_> = names::ALL.iter().map(|metric| metric.name).collect();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let mut named = 0;
    for (at, _) in alerts.match_indices("sip_lb_") {
        let name: String = alerts[at..].chars().take_while(|&c| is_name(c)).collect();
        assert!(known.contains(name.as_str()), "{name}");
        named += 1;
    }
    assert!(named >= 10, "{named}");
}

#[test]
fn alerts_name_only_reasons_that_exist() {
    let alerts = text("deploy/prometheus/alerts.yaml");
    let reasons: BTreeSet<_> = Verdict::ALL.iter().map(|v| v.reason()).collect();
    let named: Vec<_> =
        alerts.split("reason=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(named.len() >= 7, "{named:?}");
    for reason in named {
        assert!(reasons.contains(reason), "{reason}");
    }
}
