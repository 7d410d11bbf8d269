//! The demo, as a newcomer runs it.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::program::catchment;
use crate::support::schema::assert_valid;
use crate::support::server::Server;

fn demo(rate: &str) -> Server {
    let mut command = catchment();
    command.args(["demo", "--listen", "127.0.0.1:0", "--rate", rate]);
    Server::start(command)
}

#[test]
fn the_organisation_lives() {
    let server = demo("400");
    server.wait_until("a thousand events in", || {
        server.get("/metrics").1.lines().any(|line| {
            line.strip_prefix("catchment_log_tail_sequence ").is_some_and(|tail| tail.parse::<u64>().unwrap() > 1_000)
        })
    });
    let events = server.all_events();
    let every = |pointer: &str| -> BTreeSet<String> {
        let values = events.iter().filter_map(|event| event.pointer(pointer)?.as_str());
        values.map(str::to_owned).collect()
    };
    events.iter().for_each(assert_valid);
    assert_eq!(every("/data/action").len(), 3, "creates, updates and deletes");
    assert_eq!(every("/data/asset/account").len(), 2, "two accounts");
    for method in ["console", "cli", "terraform", "sdk", "service"] {
        assert!(every("/data/attribution/method").contains(method), "{method}");
    }
    assert!(every("/data/attribution/principal/name").len() >= 6);
    assert!(every("/data/asset/type").len() >= 15);
    let updates: Vec<_> = events.iter().filter(|event| event["data"]["action"] == "update").collect();
    let known = updates.iter().filter(|event| event["data"]["previous_state"] == "present").count();
    assert!(known * 10 > updates.len() * 9, "{known} of {} updates know what was before", updates.len());

    let sum = |name: &str| -> f64 {
        let metrics = server.get("/metrics").1;
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    // Counted record by record, while more come in: now and then the sums are seen to meet.
    server.wait_until("every record accounted for", || {
        let received = sum("catchment_records_received_total{");
        received > 1_000.0 && received == sum("catchment_records_total{")
    });
    assert_eq!(sum("catchment_quarantined_records_total{"), 0.0);
    assert!(sum("catchment_skipped_records_total{") > 0.0, "reads and failed calls are there, and left out");
}

/// The commands that the demo prints, run as they are printed.
#[test]
fn the_commands_it_prints_work() {
    let mut command = catchment();
    command.args(["demo", "--listen", "127.0.0.1:0", "--rate", "400"]);
    let (server, greeting) = Server::start_and_read(command, "/metrics'");
    server.wait_until("events in", || server.events("since=1h&limit=200").len() == 200);
    let commands: Vec<_> =
        greeting.lines().map(str::trim).filter(|line| line.starts_with("curl") || line.contains("=$(curl")).collect();
    assert!(commands.len() >= 8, "{greeting}");
    let mut assignments = String::new();
    for line in commands {
        if line.contains("=$(curl") {
            assignments = format!("{line}\n");
            continue;
        }
        // Streams go on for ever: a few seconds of them tell enough.
        let script = format!("set -o pipefail\n{assignments}timeout --signal=TERM 3 {line}");
        let output = Command::new("bash").arg("-c").arg(&script).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!told.contains("error") && !told.contains("jq:"), "{line}: {told}");
        let quiet = line.contains("console") || line.contains("0.0.0.0/0");
        assert!(quiet || !output.stdout.is_empty(), "{line} prints nothing within 3 s; {told}");
    }
}

#[test]
fn a_kept_demo_goes_on_after_a_restart() {
    let folder = crate::support::server::folder();
    let start = || {
        let mut command = catchment();
        command
            .args(["demo", "--listen", "127.0.0.1:0", "--rate", "200", "--data-dir"])
            .arg(folder.path().join("data"));
        Server::start(command)
    };
    let server = start();
    server.wait_until("events in", || server.events("since=1h&limit=50").len() == 50);
    let first = server.events("since=1h&limit=50");
    assert!(server.terminate().success());
    let server = start();
    assert_eq!(server.events("since=1h&limit=50"), first, "what was logged is there");
}
