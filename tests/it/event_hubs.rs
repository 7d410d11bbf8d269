//! The Event Hubs source of the real binary, through the real SDK, against a broker that stands in for the service.

mod chaos;
mod clients;
mod tls;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::operations::{accepted, assert_whole, start, succeeded};
use crate::support::event_hubs::Broker;
use crate::support::program::{catchment, finish};
use crate::support::server::{Server, folder, serve};
use crate::support::trail::{create_group, ids};

/// The key of the connection string; never to be seen anywhere.
const KEY: &str = "bm90IHJlYWxseSBhIGtleSE=";

/// The real binary with the hub `activity` as its source.
fn configuration(folder: &Path, broker: &Broker, more: &str) -> String {
    let key = folder.join("connection");
    let string = "Endpoint=sb://acme.servicebus.windows.net/;SharedAccessKeyName=listen;SharedAccessKey=";
    std::fs::write(&key, format!("{string}{KEY}\n")).unwrap();
    format!(
        "data_dir = {:?}\n[sources.azure.azure_event_hubs]\nnamespace = \"acme\"\nhub = \"activity\"\n\
         check_secs = 1\nendpoint = {:?}\ncredential.connection_string = \"file:{}\"\n{more}\n",
        folder.join("data"),
        broker.endpoint(),
        key.display(),
    )
}

/// The id of a record: which partition it is in, the number of its event there, and its number in the event.
fn record_id(partition: usize, event: usize, record: usize) -> String {
    format!("partition-{partition}-event-{event:05}-record-{record}")
}

/// Puts an event with so many records into a partition.
fn append(broker: &Broker, partition: usize, event: usize, records: usize) {
    let records: Vec<Value> = (0..records).map(|n| create_group(&record_id(partition, event, n))).collect();
    broker.append("activity", partition, json!({ "records": records }).to_string().as_bytes());
}

/// Asserts that every record of these events (partition, number, records) is in the log, once, in the order of its
/// partition.
fn assert_all_once(server: &Server, appended: &[(usize, usize, usize)]) {
    let mut expected: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for &(partition, event, records) in appended {
        expected.entry(partition).or_default().extend((0..records).map(|n| record_id(partition, event, n) + ":0"));
    }
    let mut found: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for id in ids(&server.all_events()) {
        let partition = id.split('-').nth(1).unwrap().parse().unwrap();
        found.entry(partition).or_default().push(id);
    }
    for (partition, expected) in &expected {
        let found = found.remove(partition).unwrap_or_default();
        let missing: Vec<_> = expected.iter().filter(|id| !found.contains(id)).collect();
        assert!(missing.is_empty(), "partition {partition} lacks {missing:?}");
        assert_eq!(&found, expected, "partition {partition}");
    }
    assert_eq!(found, BTreeMap::new(), "nothing else");
}

/// The only source's status.
fn status(server: &Server) -> Value {
    server.get_json("/v1/sources")["sources"][0].clone()
}

/// Waits for an error that has all of these words, and gives it.
fn wait_for_error(server: &Server, words: &[&str]) -> String {
    let error = || status(server)["last_error"].as_str().unwrap_or_default().to_owned();
    server.wait_until(&format!("an error with {words:?}"), || words.iter().all(|word| error().contains(word)));
    error()
}

fn wait_for_events(server: &Server, count: usize) {
    server.wait_until(&format!("{count} events"), || server.metric("catchment_log_tail_sequence", "") >= count as f64);
}

/// The records of one operation may be in different events, and events of one operation in different partitions.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_whose_records_come_one_by_one_is_one_event() {
    let broker = Broker::start(&[("activity", 3)]).await;
    let folder = folder();
    let server = Server::serve(folder.path(), &configuration(folder.path(), &broker, ""));
    let operations = ["together", "apart"];
    broker.append(
        "activity",
        0,
        json!({ "records": [start("together"), accepted("together")] }).to_string().as_bytes(),
    );
    broker.append("activity", 1, json!({ "records": [start("apart")] }).to_string().as_bytes());
    broker.append("activity", 2, json!({ "records": [accepted("apart")] }).to_string().as_bytes());
    server.wait_until("held", || server.metric("catchment_records_total", "folded") as u64 == 4);
    assert!(server.all_events().is_empty(), "nothing is told before the end");
    for (partition, name) in operations.iter().enumerate() {
        broker.append("activity", partition, json!({ "records": [succeeded(name)] }).to_string().as_bytes());
    }
    wait_for_events(&server, operations.len());
    let events = server.all_events();
    assert_eq!(events.len(), operations.len());
    events.iter().for_each(assert_whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_all_partitions_arrive_and_the_status_tells_of_each() {
    let broker = Broker::start(&[("Activity", 3)]).await;
    let appended: Vec<_> = (0..30).map(|n| (n % 3, n / 3, 1 + n % 4)).collect();
    for &(partition, event, records) in &appended {
        append(&broker, partition, event, records);
    }
    let folder = folder();
    let server = Server::serve(folder.path(), &configuration(folder.path(), &broker, ""));
    let records: usize = appended.iter().map(|(_, _, records)| records).sum();
    server.wait_until("all taken", || server.records() == records as u64);
    assert_all_once(&server, &appended);
    server.wait_until("up to date", || status(&server)["lag_secs"] == 0.0);
    let status = status(&server);
    assert_eq!(status["kind"], "azure_event_hubs");
    assert_eq!(status["state"], "running");
    assert_eq!(status["newest_record"], "2026-02-03T04:05:06.000Z");
    assert_eq!(status["last_error"], Value::Null);
    let partitions = status["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 3);
    for (id, partition) in partitions.iter().enumerate() {
        let expected = json!({ "id": id.to_string(), "sequence": 9, "behind": 0, "missed": 0, "error": null });
        for (member, value) in expected.as_object().unwrap() {
            assert_eq!(&partition[member], value, "{member} of {partition}");
        }
    }
    assert!(server.terminate().success());
    let filters = broker.filters();
    assert!(!filters.is_empty() && filters.iter().all(|filter| !filter.contains("@latest")), "{filters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_where_it_was() {
    let broker = Broker::start(&[("activity", 2)]).await;
    append(&broker, 0, 0, 1);
    let folder = folder();
    let config = configuration(folder.path(), &broker, "start = \"latest\"");
    let server = Server::serve(folder.path(), &config);
    // Partition 1 is still empty.
    server.wait_until("placed", || status(&server)["partitions"][0]["sequence"] == 0);
    for event in 1..4 {
        append(&broker, 0, event, 1);
        append(&broker, 1, event - 1, 1);
    }
    wait_for_events(&server, 6);
    assert!(server.terminate().success());
    // While it is down.
    append(&broker, 0, 4, 1);
    append(&broker, 1, 3, 1);
    let server = Server::serve(folder.path(), &config);
    wait_for_events(&server, 8);
    append(&broker, 0, 5, 1);
    wait_for_events(&server, 9);
    let appended: Vec<_> = (1..6).map(|event| (0, event, 1)).chain((0..4).map(|event| (1, event, 1))).collect();
    assert_all_once(&server, &appended);
    let found = server.metric("catchment_records_total", "outcome=\"duplicate\"");
    assert!(found.abs() < 0.5, "nothing was read twice: {found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_and_mended_without_a_restart() {
    let mut broker = Broker::start(&[("activity", 1)]).await;
    broker.answer_tokens(Some((401, "Unauthorized access for 'listen'. TrackingId:0")));
    append(&broker, 0, 0, 1);
    let folder = folder();
    let server = Server::serve(folder.path(), &configuration(folder.path(), &broker, ""));
    let error = wait_for_error(&server, &["look at acme.servicebus.windows.net/activity", "Unauthorized access"]);
    assert!(error.contains("grant the identity the role Azure Event Hubs Data Receiver"), "{error}");
    assert_eq!(status(&server)["state"], "retrying");
    broker.answer_tokens(None);
    wait_for_events(&server, 1);

    // Another program takes the partition.
    broker.steal("activity", "$Default", 0);
    wait_for_error(&server, &["partition 0", "another consumer took the partition", "consumer group of its own"]);
    append(&broker, 0, 1, 1);
    wait_for_events(&server, 2);

    // The broker is restarted.
    broker.stop();
    append(&broker, 0, 2, 1);
    wait_for_error(&server, &["refused"]);
    assert_eq!(status(&server)["state"], "retrying");
    broker.listen().await;
    wait_for_events(&server, 3);
    server.wait_until("running again", || status(&server)["state"] == "running");
    assert_all_once(&server, &[(0, 0, 1), (0, 1, 1), (0, 2, 1)]);
    assert!(server.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_hub_and_a_peer_without_tls_are_told() {
    let broker = Broker::start(&[("other", 1)]).await;
    let first = folder();
    let server = Server::serve(first.path(), &configuration(first.path(), &broker, ""));
    let error = wait_for_error(&server, &["'activity' could not be found"]);
    assert!(error.contains("check namespace, hub and consumer_group"), "{error}");
    assert_eq!(status(&server)["state"], "retrying");

    let second = folder();
    let config = configuration(second.path(), &broker, "").replace("amqp://", "amqps://");
    let server = Server::serve(second.path(), &config);
    wait_for_error(&server, &["look at acme.servicebus.windows.net/activity"]);
    assert_eq!(status(&server)["state"], "retrying", "{}", status(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_retention_dropped_are_counted() {
    let broker = Broker::start(&[("activity", 1)]).await;
    for event in 0..3 {
        append(&broker, 0, event, 1);
    }
    let folder = folder();
    let config = configuration(folder.path(), &broker, "");
    let server = Server::serve(folder.path(), &config);
    wait_for_events(&server, 3);
    assert!(server.terminate().success());
    for event in 3..10 {
        append(&broker, 0, event, 1);
    }
    broker.drop_before("activity", 0, 8);
    let server = Server::serve(folder.path(), &config);
    wait_for_events(&server, 5);
    let error = wait_for_error(&server, &["partition 0: 5 events are missing"]);
    assert!(error.contains("lengthen its retention"), "{error}");
    let status = status(&server);
    assert_eq!(status["partitions"][0]["missed"], 5);
    assert_eq!(status["state"], "running");
    let appended: Vec<_> = [0, 1, 2, 8, 9].into_iter().map(|event| (0, event, 1)).collect();
    assert_all_once(&server, &appended);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_and_a_hub_made_anew_are_read_from_their_first_event() {
    let broker = Broker::start(&[("activity", 1)]).await;
    append(&broker, 0, 0, 1);
    let folder = folder();
    let server = Server::serve(folder.path(), &configuration(folder.path(), &broker, "start = \"latest\""));
    server.wait_until("placed", || status(&server)["partitions"][0]["sequence"] == 0);
    broker.add_partitions("activity", 1);
    append(&broker, 1, 0, 1);
    append(&broker, 1, 1, 1);
    wait_for_events(&server, 2);

    broker.replace_hub("activity", 2);
    append(&broker, 0, 1, 1);
    append(&broker, 1, 2, 1);
    wait_for_events(&server, 4);
    assert_all_once(&server, &[(0, 1, 1), (1, 0, 1), (1, 1, 1), (1, 2, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_falls_silent_is_opened_anew() {
    let broker = Broker::start(&[("activity", 1)]).await;
    append(&broker, 0, 0, 1);
    let folder = folder();
    let server = Server::serve(folder.path(), &configuration(folder.path(), &broker, ""));
    wait_for_events(&server, 1);
    broker.hang_readers();
    append(&broker, 0, 1, 1);
    wait_for_events(&server, 2);
    let error = wait_for_error(&server, &["the link delivers nothing", "up to number 1"]);
    assert!(error.contains("partition 0"), "{error}");
    server.wait_until("running again", || status(&server)["state"] == "running");
    assert_all_once(&server, &[(0, 0, 1), (0, 1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_falls_silent_is_told_and_waited_for() {
    let broker = Broker::start(&[("activity", 1)]).await;
    append(&broker, 0, 0, 1);
    let folder = folder();
    let server = Server::serve(folder.path(), &configuration(folder.path(), &broker, ""));
    wait_for_events(&server, 1);
    broker.fall_silent(true);
    append(&broker, 0, 1, 1);
    wait_for_error(&server, &["no answer within 30 s"]);
    assert_eq!(status(&server)["state"], "retrying");
    broker.fall_silent(false);
    wait_for_events(&server, 2);
    server.wait_until("running again", || status(&server)["state"] == "running");
    assert_all_once(&server, &[(0, 0, 1), (0, 1, 1)]);
    assert!(server.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_never_printed() {
    let broker = Broker::start(&[("activity", 1)]).await;
    append(&broker, 0, 0, 1);
    let folder = folder();
    let config = configuration(folder.path(), &broker, "");
    let mut command = serve(folder.path(), &config);
    command.env("CATCHMENT_LOG", "trace");
    let server = Server::start(command);
    wait_for_events(&server, 1);
    let mut printed = server.get("/v1/sources").1 + &server.get("/metrics").1;
    broker.answer_tokens(Some((401, "no")));
    broker.expire_tokens();
    wait_for_error(&server, &["Data Receiver"]);
    printed += &server.get("/v1/sources").1;
    server.signal("TERM");
    server.wait_until("stopped", || {
        printed += &server.log_lines().join("\n");
        printed.contains("\"message\":\"stopped\"")
    });
    let mut check = catchment();
    check.arg("check").arg("--config").arg(folder.path().join("catchment.toml"));
    let checked = finish(&mut check, b"");
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    printed += &(checked.stdout + &checked.stderr);
    assert!(printed.contains("azure_messaging_eventhubs"), "much is logged");
    assert!(!printed.contains(KEY), "the key is printed");
    let signature = printed.find("&sig=").map(|at| printed[at.saturating_sub(200)..at].to_owned());
    assert_eq!(signature, None, "a token is printed");
    tokio::time::sleep(Duration::ZERO).await;
}
