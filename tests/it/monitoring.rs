//! Metrics, alert rules and the dashboard, as Prometheus's own tool sees them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::program::{catchment, finish};
use crate::support::server::{Server, clients, folder};
use crate::support::trail::{create_group, create_group_of_size};

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
    server.wait_until("all durable", || server.metric("catchment_log_tail_sequence", "") >= 2.0);
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
fn a_scrape_tells_of_the_process_the_disk_and_the_answers() {
    let (_folder, server) = server();
    for (name, least) in [
        ("process_resident_memory_bytes", 1e6),
        ("process_open_fds", 5.0),
        ("process_max_fds", 5.0),
        ("process_threads", 2.0),
        ("process_cpu_seconds_total", 0.001),
        ("catchment_log_disk_bytes", 100.0),
        ("catchment_log_fsync_seconds_count", 1.0),
        ("catchment_quarantine_records", 1.0),
        ("catchment_quarantine_bytes", 10.0),
        ("catchment_http_request_seconds_count", 1.0),
    ] {
        assert!(server.metric(name, "") >= least, "{name} is {}", server.metric(name, ""));
    }
    assert_eq!(server.metric("catchment_stream_lag_events", ""), 0.0);
}

/// A subscriber that reads nothing is seen, and seen no more when it has gone.
#[test]
fn the_slowest_subscriber_is_told() {
    let folder = folder();
    let trail = folder.path().join("trail.jsonl");
    // More than the sockets' buffers take.
    let lines: String = (0..2_000).map(|n| format!("{}\n", create_group_of_size(&format!("e{n}"), 20_000))).collect();
    std::fs::write(&trail, lines).unwrap();
    let config = format!(
        "data_dir = {:?}\n[http]\nring_bytes = 1048576\n[sources.trail.file]\npath = {trail:?}\nfollow = false\n",
        folder.path().join("data")
    );
    let server = Server::serve(folder.path(), &config);
    server.wait_until("all events", || server.metric("catchment_log_tail_sequence", "") >= 2_000.0);
    let slow = server.stream("/v1/events?since=1970-01-01T00:00:00Z", &[]);
    server.wait_until("it is behind", || server.metric("catchment_stream_lag_events", "") > 1_000.0);
    assert_eq!(server.metric("catchment_stream_clients_behind", ""), 1.0);
    assert_eq!(server.metric("catchment_stream_clients_replaying", ""), 1.0);
    let status = server.get_json("/v1/status");
    assert!(status["streams"]["lag_events"].as_u64().unwrap() > 1_000, "{status}");
    drop(slow);
    server.wait_until("it has gone", || server.metric("catchment_stream_lag_events", "") == 0.0);
}

#[test]
fn statistics_count_what_a_credential_may_see() {
    let (folder, server) = server();
    let all = server.get_json("/v1/stats?since=2026-01-01T00:00:00Z");
    assert_eq!((&all["events"], &all["complete"]), (&json!(2), &json!(true)), "{all}");
    assert_eq!(all["by"]["action"], json!([{ "value": "create", "events": 2 }]));
    assert_eq!(all["by"]["principal"], json!([{ "value": "arn:aws:iam::123456789012:user/jane", "events": 2 }]));
    assert_eq!(server.get_json("/v1/stats")["events"], 0, "the events are of long ago");
    assert_eq!(server.get_json("/v1/stats?since=2026-01-01T00:00:00Z&type=delete")["events"], 0);
    assert_eq!(server.get("/v1/stats?rows=3").0, 400);
    let token = |arguments: &[&str]| {
        let mut command = catchment();
        command.args(["token", "create"]).args(arguments).arg("--data-dir").arg(folder.path().join("data"));
        let made = finish(&mut command, b"");
        made.stdout.split_whitespace().find(|word| word.starts_with("catchment_")).unwrap().to_owned()
    };
    let ask = |token: &str, path: &str| {
        let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
        let mut answer = agent.get(server.url(path)).header("authorization", format!("Bearer {token}")).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    };
    let other = token(&["other", "--scope", "account=999999999999"]);
    server.wait_until("the token counts", || ask(&other, "/v1/assets").0 == 200);
    let (_, told) = ask(&other, "/v1/stats?since=2026-01-01T00:00:00Z");
    assert!(told.contains("\"events\":0") && !told.contains("123456789012"), "{told}");
    let hidden = token(&["hidden", "--hide", "attribution"]);
    server.wait_until("the token counts", || ask(&hidden, "/v1/assets").0 == 200);
    let (_, told) = ask(&hidden, "/v1/stats?since=2026-01-01T00:00:00Z");
    assert!(told.contains("\"events\":2") && !told.contains("jane") && !told.contains("method"), "{told}");
    assert_eq!(ask(&hidden, "/v1/status").0, 403);
    server.wait_until("refusals are counted", || ask("wrong", "/v1/assets").0 == 401);
}

#[test]
fn the_status_is_told_to_people_and_programs() {
    let (_folder, server) = server();
    let status = |more: &[&str]| finish(catchment().args(["status", "--url", &server.url("")]).args(more), b"");
    let told = status(&[]);
    assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""), "{}", told.stdout);
    for part in
        [": ready\n", "2 events in ", "5 since the start: ", "1 records, ", "truncated: ", "trail (file): finished"]
    {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
    assert!(!told.stdout.contains('\x1b'), "no colours outside of a terminal");
    let json: Value = serde_json::from_str(&status(&["--json"]).stdout).unwrap();
    assert_eq!(
        (&json["ready"], &json["log"]["events"], &json["records"]["received"]),
        (&json!(true), &json!(2), &json!(5))
    );
    assert_eq!(json["quarantine"]["latest"][0]["code"], "truncated");
    let url = server.url("");
    server.kill();
    let gone = finish(catchment().args(["status", "--url", &url]), b"");
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.contains("ask http://127.0.0.1"), "{}", gone.stderr);
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
