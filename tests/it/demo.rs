//! The demo, as one meets it who tries Catchment for the first time.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::program::{catchment, signal};
use crate::support::schema::assert_valid;
use crate::support::server::{PATIENCE, Server, folder};

/// Calls of the demo that no rule but the generic ones knows.
const UNMAPPED: [&str; 2] = ["autoscaling.amazonaws.com", "cloudformation.amazonaws.com"];

fn command(rate: &str) -> Command {
    let mut command = catchment();
    command.args(["demo", "--listen", "127.0.0.1:0", "--rate", rate]);
    command
}

#[test]
fn an_organisation_changes_everything_in_every_way() {
    let server = Server::start(command("500"));
    server.wait_until("1,500 events", || server.metric("catchment_log_tail_sequence", "") > 1_499.5);
    let events = server.all_events();
    events.iter().for_each(assert_valid);
    let all = |pointer: &str| -> BTreeSet<&str> {
        events.iter().filter_map(|event| event.pointer(pointer).and_then(Value::as_str)).collect()
    };
    assert_eq!(all("/data/action"), BTreeSet::from(["create", "update", "delete"]));
    let methods = all("/data/attribution/method");
    for method in ["console", "cli", "terraform", "sdk", "service"] {
        assert!(methods.contains(method), "{method}: {methods:?}");
    }
    assert_eq!(all("/data/asset/account").len(), 2);
    assert!(all("/data/attribution/principal/name").len() >= 6);
    assert!(all("/data/asset/type").len() >= 15);
    for kind in ["network.security_group", "compute.instance", "storage.bucket", "identity.role"] {
        assert!(all("/data/asset/type").contains(kind), "{kind}: {:?}", all("/data/asset/type"));
    }
    let told = |action: &str, member: &str| {
        let of_action: Vec<_> = events.iter().filter(|event| event["data"]["action"] == action).collect();
        let known = of_action.iter().filter(|event| event["data"][member].is_object()).count();
        (known, of_action.len())
    };
    for action in ["update", "delete"] {
        let (known, all) = told(action, "previous_configuration");
        assert!(known * 10 >= all * 9, "what was before is known of {known} of {all} assets with a {action}");
    }
    assert_eq!(told("delete", "configuration").0, 0);

    assert!(server.metric("catchment_quarantined_records_total", "") < 0.5, "{}", server.get("/v1/quarantine").1);
    assert!(server.metric("catchment_skipped_records_total", "read-only call") > 0.5);
    assert!(server.metric("catchment_skipped_records_total", "failed call") > 0.5);
    let mapped = |event: &&Value| !event["data"]["normalizer"]["rule"].as_str().unwrap().contains("generic");
    let unmapped: BTreeSet<_> = events
        .iter()
        .filter(|event| !mapped(event))
        .map(|event| event["data"]["operation"]["service"].as_str().unwrap())
        .collect();
    assert!(unmapped.is_subset(&UNMAPPED.into()), "{unmapped:?}");
}

/// The commands, of each paragraph together; the paragraphs' titles are left out.
fn commands(greeting: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    for line in greeting.lines() {
        match line.strip_prefix("    ") {
            Some(line) if line.starts_with("curl") || line.contains("=$(curl") => {
                let so_far = commands.last_mut().filter(|so_far| so_far.ends_with(")\n"));
                match so_far {
                    Some(so_far) => so_far.push_str(line),
                    None => commands.push(line.to_owned()),
                }
                if line.ends_with(')') {
                    commands.last_mut().unwrap().push('\n');
                }
            }
            Some(line) => panic!("what is this? {line}"),
            None => {}
        }
    }
    commands
}

/// The first lines that a command prints within a time, and what it says of errors. It is ended after them.
fn first_lines(command: &str, count: usize, within: Duration) -> (Vec<String>, String) {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = shell.spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = sync_channel(1_000);
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let deadline = Instant::now() + within;
    let next = || lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
    let found = std::iter::from_fn(next).take(count).collect();
    // Gone already, when the command has an end.
    signal("TERM", -i64::from(child.id()));
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    child.wait().unwrap();
    (found, errors)
}

#[test]
fn the_commands_that_it_prints_work() {
    let (server, greeting) = Server::start_and_read(command("500"), "/metrics'");
    assert!(greeting.contains(&server.url("")), "{greeting}");
    server.wait_until("1,000 events", || server.metric("catchment_log_tail_sequence", "") > 999.5);
    let commands = commands(&greeting);
    assert_eq!(commands.len(), 12, "{commands:?}");
    for command in &commands {
        // An incident may be minutes away; everything else happens all the time.
        let rare = command.contains("0.0.0.0/0");
        let within = if rare { Duration::from_secs(2) } else { PATIENCE };
        let (lines, errors) = first_lines(command, 3, within);
        assert!(!["curl: ", "jq: ", "sh: "].iter().any(|program| errors.contains(program)), "{command}: {errors}");
        assert!(rare || lines.len() == 3, "{command}: {lines:?}; {errors}");
    }
    let output = |part: &str, count: usize| {
        let command = commands.iter().find(|command| command.contains(part)).unwrap();
        first_lines(command, count, PATIENCE).0
    };
    for line in output("Last-Event-ID", 40).iter().filter_map(|line| line.strip_prefix("data: ")) {
        serde_json::from_str::<Value>(line).unwrap();
    }
    let table = output("since=5m&omit=raw", 200);
    assert!(table.iter().all(|line| line.split('\t').count() == 6), "{table:?}");
    let sources = output("/v1/sources", usize::MAX).join("\n");
    assert_eq!(serde_json::from_str::<Value>(&sources).unwrap()["sources"][0]["name"], json!("demo"));
    assert!(server.terminate().success());
}

#[test]
fn a_kept_demo_goes_on_after_a_restart() {
    let folder = folder();
    let start = || {
        let mut command = command("200");
        command.arg("--data-dir").arg(folder.path().join("data"));
        Server::start(command)
    };
    let server = start();
    server.wait_until("events in", || server.events("since=1h&limit=50").len() == 50);
    let first = server.events("since=1h&limit=50");
    assert!(server.terminate().success());
    let server = start();
    assert_eq!(server.events("since=1h&limit=50"), first, "what was logged is there");
}
