//! The machine-readable descriptions of the interface: OpenAPI for the requests, AsyncAPI for the stream, and the index
//! at `/`.
//!
//! The files in `schema/` refer to the schema of an event by the name of its file. Served, each holds the schema: not
//! every tool follows references into other documents.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::params::NoParams;
use super::schema::{ASSET_EVENT, ASSET_EVENT_SCHEMA};

const OPENAPI: &str = include_str!("../../schema/openapi.json");
const ASYNCAPI: &str = include_str!("../../schema/asyncapi.json");
/// The reference to the event's schema within a description.
const IN_PLACE: &str = "#/components/schemas/AssetEvent";

struct Descriptions {
    openapi: Bytes,
    asyncapi: Bytes,
    index: Bytes,
}

static DESCRIPTIONS: LazyLock<Result<Descriptions, serde_json::Error>> = LazyLock::new(|| {
    let openapi = self_contained(OPENAPI)?;
    let text = |value: &Value| serde_json::to_vec_pretty(value).map(Bytes::from);
    Ok(Descriptions {
        index: text(&index_of(&openapi))?,
        openapi: text(&openapi)?,
        asyncapi: text(&self_contained(ASYNCAPI)?)?,
    })
});

/// Embeds the schema of an event in a description.
fn self_contained(description: &str) -> Result<Value, serde_json::Error> {
    let (mut description, mut event): (Value, Value) =
        (serde_json::from_str(description)?, serde_json::from_str(ASSET_EVENT_SCHEMA)?);
    redirect(&mut description, ASSET_EVENT);
    redirect(&mut event, "#");
    if let Value::Object(members) = &mut event {
        // Within another document it has neither a dialect nor an address of its own.
        members.retain(|name, _| name != "$schema" && name != "$id");
    }
    if let Some(Value::Object(schemas)) = description.pointer_mut("/components/schemas") {
        schemas.insert("AssetEvent".to_owned(), event);
    }
    Ok(description)
}

/// Rewrites references into the document `from` so that they point to the embedded schema.
fn redirect(value: &mut Value, from: &str) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(reference) if name == "$ref" => {
                        if let Some(rest) = reference.strip_prefix(from) {
                            *reference = format!("{IN_PLACE}{}", rest.trim_start_matches('#'));
                        }
                    }
                    value => redirect(value, from),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redirect(item, from)),
        _ => {}
    }
}

/// Each path with the summary of its operation.
fn index_of(openapi: &Value) -> Value {
    let line = |(path, operations): (&String, &Value)| {
        let (method, operation) = operations.as_object()?.iter().next()?;
        let summary = operation.get("summary")?.as_str()?;
        let line = if method == "get" { summary.to_owned() } else { format!("{}: {summary}", method.to_uppercase()) };
        Some((path.clone(), Value::String(line)))
    };
    let paths = openapi.get("paths").and_then(Value::as_object).into_iter().flatten();
    let resources: Map<String, Value> = paths.filter_map(line).collect();
    json!({ "name": "catchment", "version": env!("CARGO_PKG_VERSION"), "resources": resources })
}

fn answer(choose: fn(&Descriptions) -> &Bytes) -> Result<Response, ApiError> {
    let descriptions = DESCRIPTIONS.as_ref().map_err(|error| ApiError::Internal { cause: error.to_string() })?;
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((json, choose(descriptions).clone()).into_response())
}

/// `GET /`: the resources.
pub(super) async fn index(_: NoParams) -> Result<Response, ApiError> {
    answer(|descriptions| &descriptions.index)
}

/// `GET /v1/openapi.json`: the interface in OpenAPI 3.1 (<https://spec.openapis.org/oas/v3.1.1>).
pub(super) async fn openapi(_: NoParams) -> Result<Response, ApiError> {
    answer(|descriptions| &descriptions.openapi)
}

/// `GET /v1/asyncapi.json`: the stream in AsyncAPI 3.0 (<https://www.asyncapi.com/docs/reference/specification/v3.0.0>).
pub(super) async fn asyncapi(_: NoParams) -> Result<Response, ApiError> {
    answer(|descriptions| &descriptions.asyncapi)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use axum::http::StatusCode;

    use super::super::testing::World;
    use super::super::{open, protected};
    use super::*;

    fn openapi() -> Value {
        self_contained(OPENAPI).unwrap()
    }

    fn paths(openapi: &Value) -> &Map<String, Value> {
        openapi["paths"].as_object().unwrap()
    }

    /// Every operation, with its path and method.
    fn operations(openapi: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
        paths(openapi).iter().flat_map(|(path, operations)| {
            let operations = operations.as_object().unwrap().iter();
            operations.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
    }

    #[tokio::test]
    async fn what_is_described_is_there_with_its_methods() {
        let world = World::new(1).await;
        let openapi = openapi();
        for (path, operations) in paths(&openapi) {
            let mut allowed: BTreeSet<String> =
                operations.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
            if allowed.contains("GET") {
                allowed.insert("HEAD".to_owned());
            }
            let uri = path.replace("{name}", "x").replace("{id}", "x");
            let answer = world.send("OPTIONS", &uri, &[]).await;
            assert_eq!(answer.status, StatusCode::NO_CONTENT, "{path}");
            let allow = answer.header("allow").split(',').map(str::to_owned).collect::<BTreeSet<_>>();
            assert_eq!(allow, allowed, "{path}");
        }
    }

    #[test]
    fn what_is_there_is_described_with_its_need_of_a_credential() {
        let openapi = openapi();
        for (resources, needs) in [(protected(), true), (open(), false)] {
            for (route, _) in resources {
                let path = route.replace("{*", "{");
                let described = operations(&openapi).filter(|(known, ..)| *known == path);
                let by_nobody = |operation: &Value| {
                    let security = operation.get("security").unwrap_or(&openapi["security"]).as_array().unwrap();
                    security.is_empty() || security.contains(&json!({}))
                };
                let found: Vec<bool> = described.map(|(.., operation)| !by_nobody(operation)).collect();
                assert_eq!(found, [needs], "{path}");
            }
        }
    }

    /// The query parameters of an operation, with their schemas.
    fn query_parameters<'a>(openapi: &'a Value, operation: &'a Value) -> BTreeMap<&'a str, &'a Value> {
        let parameters = operation.get("parameters").and_then(Value::as_array).into_iter().flatten();
        let resolved = parameters.map(|parameter| match parameter.get("$ref").and_then(Value::as_str) {
            Some(reference) => openapi.pointer(reference.trim_start_matches('#')).unwrap(),
            None => parameter,
        });
        let of_query = resolved.filter(|parameter| parameter["in"] == "query");
        of_query.map(|parameter| (parameter["name"].as_str().unwrap(), &parameter["schema"])).collect()
    }

    #[tokio::test]
    async fn parameters_and_their_bounds_are_those_that_the_server_knows() {
        let world = World::new(1).await;
        let openapi = openapi();
        for (path, method, operation) in operations(&openapi) {
            let described = query_parameters(&openapi, operation);
            if operation["responses"].get("400").is_none() {
                assert!(described.is_empty(), "{path} refuses nothing");
                continue;
            }
            let uri = path.replace("{name}", "x").replace("{id}", "x");
            let ask = async |query: &str| {
                let answer = world.send(&method.to_uppercase(), &format!("{uri}?{query}"), &[]).await;
                (answer.problem(), answer.json()["detail"].as_str().unwrap().to_owned())
            };
            let (problem, detail) = ask("surprise=1").await;
            assert_eq!(problem, (400, "unknown_parameter".to_owned()), "{path}");
            let (_, known) = detail.split_once("known parameters are ").unwrap();
            let known: BTreeSet<&str> = known.split(", ").filter(|name| *name != "none").collect();
            assert_eq!(known, described.keys().copied().collect(), "{path}");
            for (name, schema) in described.iter().filter(|(_, schema)| schema["type"] == "integer") {
                let (_, detail) = ask(&format!("{name}=x")).await;
                let bounds = format!("from {} to {}", schema["minimum"], schema["maximum"]);
                assert!(detail.contains(&bounds), "{path} {name}: {bounds}, and the server says: {detail}");
            }
        }
    }

    #[test]
    fn people_find_every_path_and_parameter_as_well() {
        let docs = include_str!("../../docs/API.md");
        let openapi = openapi();
        for (path, _, operation) in operations(&openapi) {
            assert!(docs.contains(path), "{path} is missing in docs/API.md");
            for name in query_parameters(&openapi, operation).keys() {
                let told = ["`{}`", "`{}=", "?{}="].map(|form| form.replace("{}", name));
                assert!(told.iter().any(|told| docs.contains(told)), "{name} of {path} is missing in docs/API.md");
            }
        }
    }

    #[test]
    fn every_problem_is_an_example_of_its_status() {
        let openapi = openapi();
        let mut described = BTreeSet::new();
        for response in openapi["components"]["responses"].as_object().unwrap().values() {
            let examples = &response["content"]["application/problem+json"]["examples"];
            for (code, example) in examples.as_object().unwrap() {
                assert_eq!(example["value"]["code"], code.as_str());
                described.insert((code.clone(), example["value"]["status"].as_u64().unwrap() as u16));
            }
        }
        assert_eq!(described, super::super::error::codes());
    }

    /// Operations list each problem under the problem's own status.
    #[test]
    fn problems_are_told_under_their_status() {
        let openapi = openapi();
        for (path, method, operation) in operations(&openapi) {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let Some(reference) = response.get("$ref").and_then(Value::as_str) else { continue };
                let problem = openapi.pointer(reference.trim_start_matches('#')).unwrap();
                let examples = problem["content"]["application/problem+json"]["examples"].as_object().unwrap();
                for (code, example) in examples {
                    assert_eq!(example["value"]["status"].to_string(), *status, "{method} {path}: {code}");
                }
            }
        }
    }

    #[test]
    fn references_lead_somewhere() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    members.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        for text in [OPENAPI, ASYNCAPI] {
            let description = self_contained(text).unwrap();
            let mut found = BTreeSet::new();
            references(&description, &mut found);
            assert!(found.iter().any(|reference| reference.starts_with(IN_PLACE)), "{found:?}");
            for reference in found {
                let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads elsewhere"));
                assert!(description.pointer(pointer).is_some(), "{reference}");
            }
        }
    }

    #[tokio::test]
    async fn the_index_names_every_resource() {
        let world = World::new(1).await;
        let index = world.get("/").await.json();
        let openapi = openapi();
        let (listed, described) = (index["resources"].as_object().unwrap(), paths(&openapi));
        assert!(listed.keys().eq(described.keys()), "{listed:?}");
        assert!(listed["/v1/login"].as_str().unwrap().starts_with("POST: "));
        assert_eq!(world.get("/v1/openapi.json").await.json(), openapi);
        assert_eq!(
            world.get("/v1/asyncapi.json").await.json()["components"]["schemas"]["AssetEvent"]["type"],
            "object"
        );
        assert_eq!(world.get("/v1/openapi.json?x=1").await.problem(), (400, "unknown_parameter".to_owned()));
    }
}
