//! Microsoft's own JavaScript client takes the stand-in for the service: it produces into it and consumes from it. So
//! what the source is tested against is not only what our own SDK believes.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{append, assert_all_once, configuration, record_id, wait_for_events};
use crate::support::event_hubs::Broker;
use crate::support::server::{Server, clients, folder};
use crate::support::trail::create_group;

const RECORDS: usize = 40;

/// Runs the client with these arguments and this standard input; gives the lines that it prints.
fn run_client(arguments: &[&str], input: &str) -> Vec<Value> {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/event_hubs.mjs");
    // A module finds its packages beside itself or above.
    let tools = clients();
    let copy = tools.join("event_hubs.mjs");
    std::fs::copy(script, &copy).unwrap();
    let mut command = Command::new("node");
    command.arg(copy).args(arguments).current_dir(&tools);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn microsofts_own_client_produces_into_the_broker_and_consumes_from_it() {
    let broker = Broker::start(&[("activity", 2)]).await;
    let port = broker.port().to_string();
    let lines: Vec<String> =
        (0..RECORDS).map(|event| create_group(&record_id(event % 2, event / 2, 0)).to_string()).collect();
    let told = tokio::task::spawn_blocking({
        let (port, lines) = (port.clone(), lines.join("\n"));
        move || run_client(&["produce", &port, "activity"], &lines)
    });
    let properties = told.await.unwrap().remove(0);
    assert_eq!(properties["partitionIds"], json!(["0", "1"]));

    // What it produced, in batches, reaches the log through the source.
    let folder = folder();
    let server = Server::serve(folder.path(), &configuration(folder.path(), &broker, ""));
    wait_for_events(&server, RECORDS);
    let appended: Vec<_> = (0..RECORDS).map(|event| (event % 2, event / 2, 1)).collect();
    assert_all_once(&server, &appended);

    // What we put there reaches it, with the positions that the service gives.
    append(&broker, 0, RECORDS / 2, 1);
    let count = (RECORDS + 1).to_string();
    let consumed = tokio::task::spawn_blocking(move || run_client(&["consume", &port, "activity", &count], ""));
    let consumed = consumed.await.unwrap();
    assert_eq!(consumed.len(), RECORDS + 1);
    for partition in ["0", "1"] {
        let of_partition: Vec<&Value> = consumed.iter().filter(|event| event["partition"] == partition).collect();
        for (sequence, event) in of_partition.iter().enumerate() {
            assert_eq!(event["sequence"], sequence);
            let offset: usize = event["offset"].as_str().unwrap().parse().unwrap();
            assert_eq!(offset == sequence, sequence == 0, "{event}");
            let text = event["body"].to_string();
            assert!(text.contains(&record_id(partition.parse().unwrap(), sequence, 0)), "{text}");
        }
    }
}
