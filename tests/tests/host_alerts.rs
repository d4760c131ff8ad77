//! The alert rules, by Prometheus' own tool.

use std::path::{Path, PathBuf};

use lb_tests::command::{command, output};

fn rules(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus").join(name)
}

#[test]
fn the_alert_rules_are_valid() {
    let said = output(command("promtool").arg("check").arg("rules").arg(rules("alerts.yaml")));
    let said = said.unwrap();
    assert!(said.contains("SUCCESS: 13 rules found"), "{said}");
}

#[test]
fn each_alert_fires_on_its_fault_and_a_healthy_instance_raises_none() {
    let said = output(command("promtool").arg("test").arg("rules").arg(rules("alerts-test.yaml")));
    assert!(said.unwrap().contains("SUCCESS"));
}
