//! The interface is what its descriptions say: OpenAPI for the requests, AsyncAPI for the stream; and both are what their
//! specifications say, as other people's tools see it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use catchment::source::demo;
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::support::program::{Finished, catchment, finish};
use crate::support::schema::assert_valid;
use crate::support::server::{Server, clients, folder, serve};

/// A server that has taken in some days of an organisation's life, and a record that nobody understands.
struct Case {
    folder: tempfile::TempDir,
    server: Server,
    token: Option<String>,
}

impl Case {
    fn new(with_token: bool) -> Self {
        let folder = folder();
        let records = folder.path().join("trail");
        std::fs::create_dir(&records).unwrap();
        let lines = demo::generate(3, 400).join("\n") + "\n{\"eventVersion\":\n";
        std::fs::write(records.join("records.jsonl"), lines).unwrap();
        // A tool that asks as fast as it can is one credential.
        let config = format!(
            "data_dir = {:?}\n[auth]\nrequests_per_minute = 1000000\n[sources.trail.file]\npath = {records:?}\nfollow = false\npoll_millis = 10\n",
            folder.path().join("data")
        );
        let command = serve(folder.path(), &config);
        let token = with_token.then(|| {
            let mut command = catchment();
            command.args(["token", "create", "tool", "--config"]).arg(folder.path().join("catchment.toml"));
            let made = finish(&mut command, b"");
            assert_eq!(made.code, Some(0), "{}", made.stderr);
            made.stdout.trim().to_owned()
        });
        let case = Self { folder, server: Server::start(command), token };
        case.server.wait_until("all records in", || {
            case.json("/v1/quarantine")["records"][0].is_object()
                && case.json("/v1/sources")["sources"][0]["state"] == "finished"
        });
        case
    }

    /// The body of an answer that must be good.
    fn text(&self, path: &str) -> String {
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(60))).build();
        let mut request = ureq::Agent::new_with_config(agent).get(self.server.url(path));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.call().unwrap_or_else(|error| panic!("{path}: {error}")).body_mut().read_to_string().unwrap()
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The newest update that tells what was before.
    fn update(&self) -> Value {
        let lines = self.text(
            "/v1/events?format=ndjson&since=1970-01-01T00:00:00Z&until=0s&type=update&where=previous_state=='present'",
        );
        serde_json::from_str(lines.lines().last().expect("an update")).unwrap()
    }
}

/// By a schema that is a part of a document.
fn part(document: &Value, pointer: &str) -> Validator {
    let schema =
        json!({ "$ref": format!("#{pointer}"), "components": document["components"], "paths": document["paths"] });
    jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .unwrap_or_else(|error| panic!("{pointer}: {error}"))
}

fn assert_fits(validator: &Validator, value: &Value, what: &str) {
    let mistakes: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(mistakes.is_empty(), "{what}: {mistakes:#?}\n{value:#}");
}

#[test]
fn answers_are_as_described() {
    let case = Case::new(false);
    let openapi = case.json("/v1/openapi.json");
    let event = case.update();
    assert_valid(&event);
    let (id, name) = (event["id"].as_str().unwrap(), event["subject"].as_str().unwrap());
    let encoded = name.replace('%', "%25").replace('/', "%2F");
    let of = |name: &str| part(&openapi, &format!("/components/schemas/{name}"));
    let fits = |schema: &str, path: &str| {
        let answer = case.json(path);
        assert_fits(&of(schema), &answer, path);
        answer
    };
    assert_fits(&of("AssetEvent"), &event, "the event itself");
    fits("AssetEvent", &format!("/v1/events/{id}"));
    fits("PartOfEvent", &format!("/v1/events/{id}?fields=time,changes"));
    for schema in ["Asset", "AssetWithConfiguration"] {
        let asset = fits(schema, &format!("/v1/assets/{encoded}"));
        assert_eq!(asset["name"], name);
    }
    let then =
        fits("AssetWithConfiguration", &format!("/v1/assets/{encoded}?as_of={}", event["time"].as_str().unwrap()));
    assert_eq!(then["as_of"], event["time"]);
    let page = fits("AssetPage", "/v1/assets?limit=3&include=configuration");
    assert_eq!((page["assets"].as_array().unwrap().len(), page["next"].is_string()), (3, true));
    let page = fits("HistoryPage", &format!("/v1/assets/{encoded}/history?limit=1"));
    assert_fits(&of("AssetEvent"), &page["events"][0], "an event of a history");
    let blame = fits("Blame", &format!("/v1/assets/{encoded}/blame"));
    assert!(blame["fields"].as_array().unwrap().iter().any(|field| field["set_by"].is_object()), "{blame:#}");
    fits("SourceList", "/v1/sources");
    assert!(fits("Stats", "/v1/stats?since=1970-01-01T00:00:00Z")["events"].as_u64().unwrap() > 100);
    assert_eq!(fits("Status", "/v1/status")["ready"], true);
    assert!(!fits("QuarantinePage", "/v1/quarantine")["records"].as_array().unwrap().is_empty());
    fits("Index", "/");
    fits("SchemaList", "/v1/schema");
    fits("Readiness", "/readyz");
    let (status, problem) = case.server.get("/v1/assets?limit=0");
    assert_eq!(status, 400);
    assert_fits(&of("Problem"), &serde_json::from_str(&problem).unwrap(), "a problem");
    // A schema that passes everything would be no description.
    assert!(!of("Asset").is_valid(&event) && !of("Problem").is_valid(&page) && !of("Blame").is_valid(&page));
}

#[test]
fn the_stream_is_as_described() {
    let case = Case::new(false);
    let asyncapi = case.json("/v1/asyncapi.json");
    let payload = |message: &str| part(&asyncapi, &format!("/components/messages/{message}/payload"));
    let headers = part(&asyncapi, "/components/schemas/FrameId");
    // From another log's position: a gap, then everything, then nothing more.
    let frames: Vec<_> = case.server.stream("/v1/events?last_event_id=1.5&until=0s", &[]).collect();
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for frame in &frames {
        let message = match frame.event.as_deref() {
            None => "event",
            Some("caught-up") => "caughtUp",
            Some("gap") => "gap",
            Some("closing") => "closing",
            Some(other) => panic!("a frame {other} is not described"),
        };
        *seen.entry(message).or_default() += 1;
        assert_fits(&payload(message), &frame.json(), message);
        assert_fits(&headers, &json!({ "id": frame.id }), message);
    }
    assert_eq!((seen["gap"], seen["closing"]), (1, 1), "{seen:?}");
    assert!(seen["event"] > 100, "{seen:?}");
    let live = case.server.stream("/v1/events", &[]).next().unwrap();
    assert_eq!(live.event.as_deref(), Some("caught-up"));
    assert_fits(&payload("caughtUp"), &live.json(), "caught-up");
    assert!(!payload("gap").is_valid(&live.json()) && !payload("closing").is_valid(&live.json()));
    let lines = case.text("/v1/events?format=ndjson&since=1970-01-01T00:00:00Z&until=0s&limit=5");
    for line in lines.lines() {
        assert_fits(&payload("line"), &serde_json::from_str(line).unwrap(), "a line");
    }
}

fn python(module: &str) -> Command {
    let mut command = Command::new(clients().join("python/bin/python"));
    command.args(["-m", module]);
    command
}

#[test]
fn the_openapi_document_is_valid() {
    let case = Case::new(false);
    let folder = folder();
    let check = |document: &Value| {
        let path = folder.path().join("openapi.json");
        std::fs::write(&path, document.to_string()).unwrap();
        finish(python("openapi_spec_validator").arg(path), b"")
    };
    let mut document = case.json("/v1/openapi.json");
    let told = check(&document);
    assert_eq!(told.code, Some(0), "{}{}", told.stdout, told.stderr);
    document["paths"]["/v1/assets"]["get"]["parameters"][0]["in"] = "header or so".into();
    assert_ne!(check(&document).code, Some(0), "the tool does look");
}

/// By the schema that the AsyncAPI project publishes.
#[test]
fn the_asyncapi_document_is_valid() {
    let case = Case::new(false);
    let path = clients().join("node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json");
    let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let validator = jsonschema::options().build(&schema).unwrap();
    let mut document = case.json("/v1/asyncapi.json");
    assert_fits(&validator, &document, "asyncapi.json");
    document["operations"]["sendLines"]["action"] = "subscribe".into();
    assert!(!validator.is_valid(&document), "the schema does look");
}

/// What schemathesis makes up from a description, asked of the server; its exit code, and what it says.
fn schemathesis(case: &Case, description: &str, more: &[&str]) -> Finished {
    let event = case.update();
    let position = case.text("/v1/events?since=1970-01-01T00:00:00Z&limit=1");
    let position = position.lines().find_map(|line| line.strip_prefix("id: ")).expect("a frame's id").to_owned();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut command = python("schemathesis.cli");
    command.arg("--config-file").arg(scripts.join("schemathesis.toml"));
    command.args(["run", description, "--url", &case.server.url("")]).args(more);
    command.env("SCHEMATHESIS_HOOKS", "schemathesis_hooks").env("PYTHONPATH", scripts);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("CATCHMENT_EVENT", event["id"].as_str().unwrap());
    command.env("CATCHMENT_ASSET", event["subject"].as_str().unwrap());
    command.env("CATCHMENT_POSITION", position);
    command.current_dir(case.folder.path());
    finish(&mut command, b"")
}

fn assert_kept(case: &Case, more: &[&str]) {
    let told = schemathesis(case, &case.server.url("/v1/openapi.json"), more);
    assert_eq!(told.code, Some(0), "{}{}", told.stdout, told.stderr);
    let failed: Vec<_> = case.server.log_lines().into_iter().filter(|line| line.contains("request failed")).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn the_server_keeps_to_the_openapi_document() {
    let case = Case::new(false);
    // Without credentials there is nothing to ask for.
    assert_kept(&case, &["--exclude-checks", "ignored_auth"]);
    let mut document = case.json("/v1/openapi.json");
    document["components"]["schemas"]["Readiness"]["properties"]["ready"]["type"] = "string".into();
    let path = case.folder.path().join("wrong.json");
    std::fs::write(&path, document.to_string()).unwrap();
    let told = schemathesis(&case, path.to_str().unwrap(), &["--include-path", "/readyz"]);
    assert!(told.code != Some(0) && told.stdout.contains("schema"), "the tool does look: {}", told.stdout);
}

#[test]
fn the_server_keeps_to_the_openapi_document_with_credentials() {
    let case = Case::new(true);
    let header = format!("Authorization: Bearer {}", case.token.as_deref().unwrap());
    assert_kept(&case, &["-H", &header]);
}
