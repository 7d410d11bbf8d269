//! The JSON Schemas of events.

use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::error::ApiError;
use super::params::NoParams;

/// JSON Schema 2020-12 of an event.
pub(super) const ASSET_EVENT_SCHEMA: &str = include_str!("../../schema/asset-event-1.json");

/// Its file name.
pub(super) const ASSET_EVENT: &str = "asset-event-1.json";

/// File names and contents. A published name never changes its meaning.
const SCHEMAS: [(&str, &str); 1] = [(ASSET_EVENT, ASSET_EVENT_SCHEMA)];

/// `GET /v1/schema`.
pub(super) async fn list(_: NoParams) -> Response {
    let paths: Vec<String> = SCHEMAS.iter().map(|(name, _)| format!("/v1/schema/{name}")).collect();
    Json(json!({ "schemas": paths })).into_response()
}

/// `GET /v1/schema/{name}`.
pub(super) async fn schema(
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
    _: NoParams,
) -> Result<Response, ApiError> {
    // What is no UTF-8 when it is decoded is the name of nothing.
    let Path(name) = name.map_err(|_| ApiError::SchemaNotFound { name: uri.path().to_owned() })?;
    let Some((_, text)) = SCHEMAS.iter().find(|(known, _)| *known == name) else {
        return Err(ApiError::SchemaNotFound { name });
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/schema+json"))], *text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const EXAMPLE: &str = include_str!("../../schema/asset-event-1.example.json");

    fn errors(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let schema: Value = serde_json::from_str(ASSET_EVENT_SCHEMA).unwrap();
        let mut event: Value = serde_json::from_str(EXAMPLE).unwrap();
        change(&mut event);
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        validator.iter_errors(&event).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    #[test]
    fn the_example_is_valid_and_reads_as_a_head() {
        assert_eq!(errors(|_| {}), Vec::<String>::new());
        let head = crate::model::EventHead::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(head.asset_type, "network.security_group");
    }

    #[test]
    fn the_schema_is_strict_where_the_shape_is_ours() {
        for pointer in ["", "/data", "/data/asset", "/data/attribution", "/data/attribution/tool", "/data/changes/0"] {
            let found = errors(|event| {
                event.pointer_mut(pointer).unwrap()["surprise"] = json!(1);
            });
            assert!(!found.is_empty(), "a surprise in {pointer:?} passes");
        }
        for pointer in ["/data/configuration", "/data/raw", "/data/asset/tags"] {
            let found = errors(|event| {
                event.pointer_mut(pointer).unwrap()["surprise"] = json!({ "a": [1] });
            });
            assert_eq!(found, Vec::<String>::new(), "{pointer} is free");
        }
        for (pointer, value) in [
            ("/time", json!("2023-07-10T12:10:05Z")),
            ("/type", json!("io.catchment.asset.created")),
            ("/subject", json!("sg-1")),
            ("/data/previous_state", json!("gone")),
            ("/data/action", json!("delete")),
            ("/data/changes/0/op", json!("test")),
        ] {
            assert!(
                !errors(|event| *event.pointer_mut(pointer).unwrap() = value.clone()).is_empty(),
                "{pointer} {value}"
            );
        }
    }
}
