//! An operation of Azure's is one event, in whatever order its records come, and wherever the process is killed.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::program::{catchment, finish};
use crate::support::schema::assert_valid;
use crate::support::server::{Server, folder};
use crate::support::trail::{add, create_group};

const GROUP: &str = "/subscriptions/0f1e2d3c-0000-4000-8000-000000000001/resourceGroups/web";

/// A record of one operation on a network security group.
fn record(name: &str, status: &str, answer: &str, second: u32) -> Value {
    json!({
        "time": format!("2024-05-06T07:08:{second:02}.1234567Z"), "category": "Administrative",
        "resourceId": format!("{GROUP}/providers/Microsoft.Network/networkSecurityGroups/{name}"),
        "operationName": "Microsoft.Network/networkSecurityGroups/write", "correlationId": format!("9a4f-{name}"),
        "resultType": status, "resultSignature": answer, "callerIpAddress": "192.0.2.10",
        "tenantId": "7d2a0000-0000-4000-8000-000000000001",
        "identity": { "claims": { "appid": "c44b4083-3bb0-49c1-b47d-974e53cbdf3c", "upn": "jane@example.com" } },
    })
}

/// What was asked for stands in the record of the start.
pub(crate) fn start(name: &str) -> Value {
    let mut record = record(name, "Start", "Started.", 0);
    record["properties"] = json!({ "requestbody": "{\"location\":\"westeurope\",\"tags\":{\"team\":\"web\"},\"properties\":{\"securityRules\":[]}}" });
    record
}

pub(crate) fn accepted(name: &str) -> Value {
    record(name, "Accept", "Accepted.Created", 1)
}

pub(crate) fn succeeded(name: &str) -> Value {
    record(name, "Success", "Succeeded.", 9)
}

fn configuration(folder: &Path) -> String {
    let (data, trail) = (folder.join("data"), folder.join("trail.ndjson"));
    format!("data_dir = {data:?}\n[sources.trail.file]\npath = {trail:?}\npoll_millis = 10\n")
}

pub(crate) fn assert_whole(event: &Value) {
    assert_valid(event);
    let data = &event["data"];
    assert_eq!(event["time"], "2024-05-06T07:08:09.123Z", "the time of the end");
    assert_eq!((&data["action"], &data["operation"]["outcome"]), (&json!("create"), &json!("success")));
    assert_eq!(data["asset"]["tags"], json!({ "team": "web" }));
    assert_eq!(
        (&data["configuration"]["location"], &data["configuration_state"]),
        (&json!("westeurope"), &json!("complete"))
    );
    assert_eq!(
        (&data["attribution"]["method"], &data["attribution"]["human"]["id"]),
        (&json!("console"), &json!("jane@example.com"))
    );
    assert_eq!(data["raw"]["records"].as_array().map(Vec::len), Some(3), "raw holds what it was told by");
}

#[test]
fn an_operation_that_began_before_a_kill_is_told_once_after_it() {
    let folder = folder();
    let trail = folder.path().join("trail.ndjson");
    let configuration = configuration(folder.path());
    add(&trail, &start("held"));
    add(&trail, &accepted("held"));
    let server = Server::serve(folder.path(), &configuration);
    server.wait_until("held", || server.metric("catchment_records_total", "outcome=\"folded\"") as u64 == 2);
    assert!(server.all_events().is_empty(), "an operation under way is no change yet");
    assert_eq!(server.metric("catchment_operations_waiting", "") as u64, 1);
    // What waits and the position of the source are one commit; a change after them proves that it is on disk.
    add(&trail, &create_group("sync"));
    server.wait_until("durable", || server.all_events().len() == 1);
    server.kill();

    add(&trail, &succeeded("held"));
    for late in [start("held"), accepted("held"), succeeded("held")] {
        add(&trail, &late);
    }
    add(&trail, &record("held", "Failure", "Failed.Conflict", 10));
    let server = Server::serve(folder.path(), &configuration);
    server.wait_until("read", || server.records() == 5);
    let events = server.all_events();
    assert_eq!(events.len(), 2, "the sync and the operation: {events:#?}");
    assert_whole(&events[1]);
    assert_eq!(server.metric("catchment_operations_waiting", "") as u64, 0);
}

#[test]
fn the_order_of_the_records_does_not_matter_and_raw_gives_the_same_event_again() {
    let normalize = |input: &str| {
        let finished = finish(catchment().args(["normalize"]), input.as_bytes());
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
        finished.json_lines()
    };
    let records = [start("a"), accepted("a"), succeeded("a")];
    let mut ids = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
        let input = json!({ "records": order.map(|index| records[index].clone()) }).to_string();
        let events = normalize(&input);
        assert_eq!(events.len(), 1, "{order:?}: {events:#?}");
        if order[0] != 2 || order[1] != 0 {
            assert_whole(&events[0]);
        }
        ids.push(events[0]["id"].clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "one id: {ids:?}");
    let [event] = &normalize(&json!({ "value": records }).to_string())[..] else { panic!("not one event") };
    let again = normalize(&event["data"]["raw"].to_string());
    assert_eq!(
        (again[0]["id"].clone(), &again[0]["data"]["configuration"]),
        (event["id"].clone(), &event["data"]["configuration"])
    );
}

#[test]
fn a_missing_end_is_no_failure_and_a_bad_end_is_no_change() {
    let told = |records: &[Value]| {
        let input: Vec<String> = records.iter().map(Value::to_string).collect();
        finish(catchment().args(["normalize"]), input.join("\n").as_bytes()).json_lines()
    };
    let [event] = &told(&[start("a"), accepted("a")])[..] else { panic!("not one event") };
    assert_eq!(
        (&event["data"]["action"], &event["data"]["operation"]["outcome"]),
        (&json!("create"), &json!("accepted"))
    );
    let failed = record("a", "Failure", "Failed.Conflict", 8);
    assert!(told(&[start("a"), accepted("a"), failed.clone()]).is_empty());
    assert!(told(&[failed, start("a")]).is_empty());
}

/// A record of a deployment; all that it makes bears its correlation.
fn deployment(name: &str, status: &str, second: u32) -> Value {
    let mut record = record("x", status, "", second);
    record["operationName"] = json!("Microsoft.Resources/deployments/write");
    record["resourceId"] = json!(format!("{GROUP}/providers/Microsoft.Resources/deployments/{name}"));
    record
}

#[test]
fn what_a_deployment_makes_is_told_as_a_part_of_it_after_a_kill_too() {
    let folder = folder();
    let trail = folder.path().join("trail.ndjson");
    let configuration = configuration(folder.path());
    let part = |record: Value, second: u32| {
        let mut record = record;
        record["correlationId"] = json!("9a4f-x");
        record["time"] = json!(format!("2024-05-06T07:08:{second:02}Z"));
        record
    };
    add(&trail, &deployment("main", "Start", 0));
    add(&trail, &part(start("before"), 2));
    add(&trail, &part(succeeded("before"), 3));
    let server = Server::serve(folder.path(), &configuration);
    server.wait_until("told", || server.all_events().len() == 1);
    server.kill();
    for record in [
        deployment("nested", "Start", 4),
        part(start("after"), 5),
        part(succeeded("after"), 6),
        deployment("nested", "Success", 7),
        deployment("main", "Success", 8),
        start("alone"),
        succeeded("alone"),
    ] {
        add(&trail, &record);
    }
    let server = Server::serve(folder.path(), &configuration);
    server.wait_until("all told", || server.all_events().len() == 5);
    let main = format!("{GROUP}/providers/Microsoft.Resources/deployments/main");
    for event in server.all_events() {
        assert_valid(&event);
        let name = event["subject"].as_str().unwrap().rsplit('/').next().unwrap();
        let part_of = json!({ "kind": "arm_deployment", "id": main, "how": "correlationId" });
        let expected = if ["main", "alone"].contains(&name) { Value::Null } else { part_of };
        assert_eq!(event["data"]["attribution"]["deployment"], expected, "{name}");
    }
}

#[test]
fn a_region_is_told_with_the_location_and_stays_known() {
    let deleted = |name: &str| {
        let mut record = record(name, "Success", "OK", 20);
        record["operationName"] = json!("Microsoft.Network/networkSecurityGroups/delete");
        record
    };
    let mut west = start("a");
    west["properties"]["requestbody"] = json!("{\"location\":\"West Europe\",\"properties\":{}}");
    let input = json!({ "records": [west, succeeded("a"), deleted("a"), deleted("b")] }).to_string();
    let events = finish(catchment().args(["normalize"]), input.as_bytes()).json_lines();
    let regions: Vec<_> = events.iter().map(|event| event["data"]["asset"]["region"].as_str().unwrap()).collect();
    assert_eq!(regions, ["westeurope", "westeurope", "-"]);
}

#[test]
fn an_operation_is_explained_by_all_of_its_records_and_counted_once() {
    let input = json!({ "records": [start("a"), accepted("a"), succeeded("a"), start("b")] }).to_string();
    let explain = |more: &[&str]| {
        finish(catchment().args(["explain", "--json"]).args(more).arg("-"), input.as_bytes()).json_lines()
    };
    let told = explain(&[]);
    let outcomes: Vec<_> = told.iter().map(|told| told["outcome"].as_str().unwrap()).collect();
    assert_eq!(
        outcomes,
        ["folded", "folded", "changes: 1 by azure/arm/write", "folded", "changes: 1 by azure/arm/write"]
    );
    assert_eq!(told[0]["rules"][0]["body"], "the whole request");
    assert_eq!(told[1]["rules"][0]["body"], "none: no record of the operation contains one");
    let rule = &told[2]["rules"][0];
    assert_eq!(
        (&rule["rule"], &rule["body"]),
        (&json!("azure/arm/write"), &json!("the whole request")),
        "the body stands in the start, which the end comes after"
    );
    assert_eq!(rule["result"][0]["action"], "create");
    assert_eq!(told[4]["record"], "an operation whose end was not reported");
    let of_one = explain(&["--event", "9A4F-b"]);
    assert_eq!(of_one.len(), 2, "{of_one:#?}");

    let counted = finish(catchment().args(["coverage", "--json", "-"]), input.as_bytes()).json_lines();
    assert_eq!((&counted[0]["records"], &counted[0]["outcomes"]), (&json!(4), &json!({ "changes": 2, "folded": 2 })));
}
