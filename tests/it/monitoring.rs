//! Metrics, alert rules and the dashboard, as Prometheus's own tool sees them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::program::finish;
use crate::support::server::{Server, clients, folder};
use crate::support::trail::create_group;

fn promtool(arguments: &[&str], input: &[u8]) {
    let mut command = Command::new(clients().join("prometheus/usr/bin/promtool"));
    let told = finish(command.args(arguments).current_dir(monitoring()), input);
    assert_eq!(told.code, Some(0), "{arguments:?}: {}{}", told.stdout, told.stderr);
    assert_eq!((told.stdout.contains("FAILED"), told.stderr.as_str()), (false, ""), "{arguments:?}: {}", told.stdout);
}

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring")
}

/// A server that has taken in records of every outcome.
fn server() -> (tempfile::TempDir, Server) {
    let folder = folder();
    let records = folder.path().join("trail");
    std::fs::create_dir(&records).unwrap();
    let (one, two) = (create_group("one"), create_group("two"));
    let mut read = create_group("three");
    read["readOnly"] = true.into();
    let lines = [&one, &two, &two, &read].map(Value::to_string).join("\n") + "\n{\"eventVersion\":\n";
    std::fs::write(records.join("records.jsonl"), lines).unwrap();
    let config = format!(
        "data_dir = {:?}\n[sources.trail.file]\npath = {records:?}\nfollow = false\npoll_millis = 10\n",
        folder.path().join("data")
    );
    let server = Server::serve(folder.path(), &config);
    server.wait_until("all records", || server.metric("catchment_records_received_total", "trail") >= 5.0);
    (folder, server)
}

#[test]
fn the_metrics_are_clean_and_add_up() {
    let (_folder, server) = server();
    let (_, text) = server.get("/metrics");
    promtool(&["check", "metrics"], text.as_bytes());
    let outcome = |word: &str| server.metric("catchment_records_total", &format!("outcome=\"{word}\""));
    let outcomes = ["changes", "skipped", "duplicate", "quarantined", "folded"].map(outcome);
    assert_eq!(outcomes, [2.0, 1.0, 1.0, 1.0, 0.0]);
    assert_eq!(outcomes.iter().sum::<f64>(), server.metric("catchment_records_received_total", ""));
}

#[test]
fn alert_rules_fire_when_they_should() {
    promtool(&["check", "rules", "alerts.yaml"], b"");
    promtool(&["test", "rules", "alerts_test.yaml"], b"");
}

/// A misspelt metric never fires and never draws.
#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let source = include_str!("../../src/metrics.rs");
    let known: BTreeSet<&str> = words(source).collect();
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(monitoring().join(file)).unwrap();
        let asked: BTreeSet<&str> = words(&text).map(|word| word.trim_end_matches("_bucket")).collect();
        assert!(asked.len() > 5, "{file}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(monitoring().join("dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "every panel has a number of its own");
}

/// The metric names in a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.split(move |c| !is_word(c)).filter(|word| word.starts_with("catchment_"))
}
