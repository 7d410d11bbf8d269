//! Every event has the published shape.

use std::convert::Infallible;
use std::sync::Arc;

use catchment::ingest::{Processed, Processor};
use catchment::inventory::Inventory;
use catchment::model::{EventHead, Time};
use catchment::normalize::Engine;
use catchment::source::demo;
use serde_json::Value;

use crate::support::program::catchment;
use crate::support::schema::{assert_valid, mistakes};
use crate::support::server::Server;

#[test]
fn events_of_an_organisations_life_are_valid() {
    let engine = Arc::new(Engine::load(None).unwrap());
    let mut processor = Processor::new(engine, Arc::new(Inventory::new()), "io.catchment".to_owned(), 10_000);
    let mut count = 0;
    for record in demo::generate(5, 3_000) {
        let processed = processor.process(record.as_bytes(), Time::default(), |_| Ok::<_, Infallible>(false)).unwrap();
        let Processed::Changes { events, .. } = processed else { continue };
        for event in events {
            let value: Value = serde_json::from_slice(&event.json).unwrap();
            assert_valid(&value);
            assert_eq!(
                EventHead::parse(&event.json).unwrap(),
                event.head,
                "what the log indexes is what the event says"
            );
            count += 1;
        }
    }
    assert!(count > 2_000, "{count} events");
}

#[test]
fn a_wrong_event_is_told() {
    let event: Value = serde_json::from_slice(&std::fs::read("schema/asset-event-1.example.json").unwrap()).unwrap();
    assert_valid(&event);
    for (pointer, wrong) in [
        ("/specversion", Value::from("0.3")),
        ("/time", Value::from("2023-07-10T12:10:05Z")),
        ("/type", Value::from("io.catchment.asset.changed")),
        ("/source", Value::from("a b")),
        ("/dataschema", Value::from("/v1/schema/asset-event-1.json")),
        ("/data/action", Value::from("delete")),
        ("/data/asset/name", Value::from("//aws/x")),
        ("/data/changes/0/op", Value::from("set")),
        ("/data/raw", Value::from("{}")),
        ("/data/previous_state", Value::from("none")),
        ("/data/attribution", Value::Null),
    ] {
        let mut event = event.clone();
        *event.pointer_mut(pointer).unwrap() = wrong;
        assert!(!mistakes(&event).is_empty(), "{pointer}");
    }
}

#[test]
fn the_schema_is_served_as_it_is_published() {
    let mut command = catchment();
    command.args(["demo", "--listen", "127.0.0.1:0", "--rate", "100"]);
    let server = Server::start(command);
    let (status, served) = server.get("/v1/schema/asset-event-1.json");
    assert_eq!(status, 200);
    assert_eq!(served, std::fs::read_to_string("schema/asset-event-1.json").unwrap());
    // Events name it, and where to ask for it.
    let schema: Value = serde_json::from_str(&served).unwrap();
    server.wait_until("an event in", || !server.events("since=1h&limit=1").is_empty());
    let named = server.events("since=1h&limit=1")[0]["dataschema"].as_str().unwrap().to_owned();
    assert_eq!(schema["$id"], named);
    assert_eq!(server.get_json(named.strip_prefix("catchment:").unwrap()), schema);
}
