//! The published schemas: of our events, and of CloudEvents 1.0.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

static ASSET_EVENT: LazyLock<Validator> = LazyLock::new(|| validator("schema/asset-event-1.json"));
/// The JSON Schema that the CloudEvents 1.0 specification publishes.
static CLOUD_EVENT: LazyLock<Validator> = LazyLock::new(|| validator("tests/schemas/cloudevents-1.0.json"));

fn validator(path: &str) -> Validator {
    let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

/// The violations of either schema by an event.
pub(crate) fn mistakes(event: &Value) -> Vec<String> {
    [("asset event", &ASSET_EVENT), ("CloudEvents", &CLOUD_EVENT)]
        .into_iter()
        .flat_map(|(name, schema)| {
            schema.iter_errors(event).map(move |error| format!("{name} schema: {}: {error}", error.instance_path()))
        })
        .collect()
}

pub(crate) fn assert_valid(event: &Value) {
    let mistakes = mistakes(event);
    assert!(mistakes.is_empty(), "{}\n{event:#}", mistakes.join("\n"));
}
