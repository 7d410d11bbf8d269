//! Every event is what the published schema says, and a CloudEvent.

use std::fmt::Write;
use std::fs;

use catchment::source::demo;
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::fixtures;
use crate::support::program::{catchment, finish};
use crate::support::server::{Server, folder};

const SCHEMA: &str = "schema/asset-event-1.json";
const CLOUD_EVENTS: &str = "tests/schemas/cloudevents-1.0.json";

fn read(path: &str) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Formats count too.
fn validator(path: &str) -> Validator {
    jsonschema::options().should_validate_formats(true).build(&read(path)).unwrap()
}

/// What is wrong with an event by a schema.
fn mistakes(validator: &Validator, event: &Value) -> Vec<String> {
    validator.iter_errors(event).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn normalize(records: &str) -> Vec<Value> {
    let finished = finish(catchment().arg("normalize"), records.as_bytes());
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished.json_lines()
}

fn story() -> String {
    let files = fs::read_dir("fixtures/stories/intrusion").unwrap();
    files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn every_event_meets_both_schemas() {
    let schemas = [SCHEMA, CLOUD_EVENTS].map(|path| (path, validator(path)));
    let mut wrong = String::new();
    let lines = |records: Vec<String>| records.join("\n");
    let unmapped = json!({
        "eventVersion": "1.11", "eventID": "unmapped", "eventTime": "2026-01-02T03:04:05Z",
        "eventSource": "quicksight.amazonaws.com", "eventName": "CreateDataSource", "awsRegion": "eu-west-1",
        "recipientAccountId": "111122223333", "requestParameters": { "name": "a b/ü" }, "readOnly": false,
    });
    for (origin, records, at_least) in [
        ("the demo", lines(demo::generate(fastrand::u64(..), 3_000)), 2_000),
        ("the fixtures", lines(fixtures::all_records().iter().map(Value::to_string).collect()), 1_000),
        ("the story", story(), 10),
        ("a call without a rule", unmapped.to_string(), 1),
    ] {
        let events = normalize(&records);
        assert!(events.len() >= at_least, "{origin}: {} events", events.len());
        for event in &events {
            for (path, schema) in &schemas {
                for mistake in mistakes(schema, event) {
                    let _ = writeln!(wrong, "{origin}: {}: {path}: {mistake}", event["data"]["operation"]["name"]);
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} mistakes:\n{}",
        wrong.lines().count(),
        wrong.lines().take(50).collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn the_schemas_find_mistakes() {
    let event = read("schema/asset-event-1.example.json");
    let by_schema = [SCHEMA, CLOUD_EVENTS].map(validator);
    for schema in &by_schema {
        assert_eq!(mistakes(schema, &event), [""; 0]);
    }
    for (pointer, value) in [
        ("/specversion", json!("0.3")),
        ("/id", json!("")),
        ("/source", json!("a b")),
        ("/time", json!("2023-07-10 12:10:05")),
        ("/dataschema", json!("/v1/schema/asset-event-1.json")),
    ] {
        let mut event = event.clone();
        *event.pointer_mut(pointer).unwrap() = value;
        for (schema, path) in by_schema.iter().zip([SCHEMA, CLOUD_EVENTS]) {
            assert!(!mistakes(schema, &event).is_empty(), "{path} does not see {pointer}");
        }
    }
    for (pointer, value) in [
        ("/data/action", json!("delete")),
        ("/data/asset/name", json!("//aws/x")),
        ("/data/attribution/confidence", json!("sure")),
        ("/data/configuration_state", json!("deleted")),
        ("/data/changes/0/op", json!("set")),
        ("/data/raw", json!("{}")),
        ("/data/late", Value::Null),
    ] {
        let mut event = event.clone();
        *event.pointer_mut(pointer).unwrap() = value;
        assert!(!mistakes(&by_schema[0], &event).is_empty(), "{SCHEMA} does not see {pointer}");
    }
}

#[test]
fn the_schema_that_events_name_is_served() {
    let folder = folder();
    let server = Server::serve(folder.path(), &format!("data_dir = {:?}", folder.path().join("data")));
    let (status, served) = server.get("/v1/schema/asset-event-1.json");
    assert_eq!((status, served), (200, fs::read_to_string(SCHEMA).unwrap()));
    let event = normalize(&demo::generate(1, 20).join("\n")).remove(0);
    let identifier = event["dataschema"].as_str().unwrap();
    assert_eq!(read(SCHEMA)["$id"], identifier);
    let path = identifier.strip_prefix("catchment:").unwrap();
    assert_eq!(server.get_json(path), read(SCHEMA), "where the event says");
    assert!(server.get_json("/v1/schema").to_string().contains(path));
}
