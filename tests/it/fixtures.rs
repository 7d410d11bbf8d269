//! Every rule against its fixture: a record with the events that it must give, and near misses.
//! `docs/RULES.md` tells the format. `UPDATE=1` writes the expected events anew.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use catchment::ingest::{Processed, Processor};
use catchment::inventory::Inventory;
use catchment::model::Time;
use catchment::normalize::Engine;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::schema::assert_valid;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    given: Vec<Value>,
    record: Value,
    near: Vec<Near>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Near {
    why: String,
    #[serde(default)]
    set: serde_json::Map<String, Value>,
    #[serde(default)]
    unset: Vec<String>,
    expect: String,
}

impl Case {
    fn records(&self) -> Vec<Value> {
        self.record.as_array().cloned().unwrap_or_else(|| vec![self.record.clone()])
    }
}

/// Runs records over one inventory; gives what became of each.
struct Run {
    processor: Processor,
    envelope: Value,
    name: String,
    count: u32,
}

impl Run {
    fn new(engine: &Arc<Engine>, envelope: &Value, name: &str) -> Self {
        let inventory = Arc::new(Inventory::new());
        let processor = Processor::new(Arc::clone(engine), inventory, "io.catchment".to_owned(), 1_000);
        Self { processor, envelope: envelope.clone(), name: name.to_owned(), count: 0 }
    }

    fn process(&mut self, record: &Value) -> Processed {
        let mut full = self.envelope.clone();
        let members = full.as_object_mut().unwrap();
        members.insert("eventID".to_owned(), json!(format!("{}-{}", self.name, self.count)));
        members.insert("eventTime".to_owned(), json!(format!("2024-05-06T07:08:{:02}Z", self.count % 60)));
        members.extend(record.as_object().unwrap().clone());
        self.count += 1;
        let text = full.to_string();
        self.processor.process(text.as_bytes(), Time::default(), |_| Ok::<_, Infallible>(false)).unwrap()
    }
}

/// The parts of an event that the rule decides.
fn told_by_rule(event: &[u8]) -> Value {
    let event: Value = serde_json::from_slice(event).unwrap();
    assert_valid(&event);
    let data = &event["data"];
    let keys = ["action", "asset", "associations", "configuration", "configuration_state", "previous_state", "changes"];
    keys.iter().map(|key| ((*key).to_owned(), data[*key].clone())).collect()
}

fn events(processed: &Processed) -> Vec<Value> {
    match processed {
        Processed::Changes { events, .. } => events.iter().map(|event| told_by_rule(&event.json)).collect(),
        _ => Vec::new(),
    }
}

fn outcome(processed: &Processed) -> String {
    match processed {
        Processed::Changes { events, rule, .. } => format!("{} changes by {rule}", events.len()),
        Processed::Skipped { reason, .. } => format!("skipped: {reason}"),
        Processed::Duplicate { event_id } => format!("duplicate: {event_id}"),
        Processed::Rejected { reason, .. } => format!("quarantined: {reason}"),
    }
}

/// What is wrong with a case, if something is.
fn check(engine: &Arc<Engine>, envelope: &Value, path: &Path, failures: &mut Vec<String>) {
    let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
    let mut fail = |what: String| failures.push(format!("{}: {what}", path.display()));
    let case: Case = match serde_json::from_slice(&std::fs::read(path).unwrap()) {
        Ok(case) => case,
        Err(error) => return fail(error.to_string()),
    };
    let records = case.records();
    let mut run = Run::new(engine, envelope, &stem);
    let given: Vec<_> = case.given.iter().map(|record| run.process(record)).collect();
    for (index, processed) in given.iter().enumerate() {
        if !matches!(processed, Processed::Changes { .. }) {
            fail(format!("given[{index}]: {}", outcome(processed)));
        }
    }
    let mut expected = Vec::new();
    for record in &records {
        let processed = run.process(record);
        match &processed {
            Processed::Changes { rule, .. } if rule.contains("generic") => fail(format!("only {rule} knows it")),
            Processed::Changes { .. } => expected.extend(events(&processed)),
            Processed::Skipped { reason, .. } => expected.push(json!({ "skipped": reason })),
            other => fail(outcome(other)),
        }
        let mut failed = record.clone();
        failed["errorCode"] = json!("Client.UnauthorizedOperation");
        let twin = outcome(&run.process(&failed));
        if twin != "skipped: failed call" && twin != "skipped: data event" {
            fail(format!("the failed twin: {twin}"));
        }
    }
    compare(path, &expected, &mut fail);
    if case.near.is_empty() {
        fail("no near miss".to_owned());
    }
    for near in &case.near {
        near_miss(engine, envelope, &case, near, &stem, &mut fail);
    }
}

fn compare(path: &Path, found: &[Value], fail: &mut impl FnMut(String)) {
    let expected_path = path.with_extension("expected.json");
    let found = json!(found);
    if std::env::var_os("UPDATE").is_some() {
        let text = serde_json::to_string_pretty(&found).unwrap() + "\n";
        std::fs::write(&expected_path, text).unwrap();
        return;
    }
    let expected = std::fs::read(&expected_path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    if expected.as_ref() != Some(&found) {
        fail(format!("not as expected; UPDATE=1 writes {}: {found:#}", expected_path.display()));
    }
}

fn near_miss(
    engine: &Arc<Engine>,
    envelope: &Value,
    case: &Case,
    near: &Near,
    stem: &str,
    fail: &mut impl FnMut(String),
) {
    let mut run = Run::new(engine, envelope, stem);
    for record in &case.given {
        run.process(record);
    }
    let mut records = case.records();
    let last = records.pop().unwrap();
    for record in &records {
        run.process(record);
    }
    let mut changed = last.clone();
    for (pointer, value) in &near.set {
        jsonptr::Pointer::parse(pointer).unwrap().assign(&mut changed, value.clone()).unwrap();
    }
    for pointer in &near.unset {
        jsonptr::Pointer::parse(pointer).unwrap().delete(&mut changed);
    }
    let hit = {
        let mut twin = Run::new(engine, envelope, stem);
        for record in case.given.iter().chain(&records) {
            twin.process(record);
        }
        events(&twin.process(&last))
    };
    let processed = run.process(&changed);
    let found = events(&processed);
    let holds = match near.expect.as_str() {
        "partial" => found.iter().any(|event| event["configuration_state"] == "partial"),
        "differs" => !found.is_empty() && found != hit,
        outcome_text => outcome(&processed).starts_with(outcome_text),
    };
    if !holds {
        fail(format!("near miss ({}): expected {}, found {}", near.why, near.expect, outcome(&processed)));
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_rule_meets_its_fixture() {
    let engine = Arc::new(Engine::load(None).unwrap_or_else(|error| panic!("{error}")));
    let mut failures = Vec::new();
    let mut covered = BTreeSet::new();
    for folder in folders(Path::new("fixtures/aws")) {
        let Ok(envelope) = std::fs::read(folder.join("_envelope.json")) else { continue };
        let envelope: Value = serde_json::from_slice(&envelope).unwrap();
        for path in folders(&folder) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with('_') || name.ends_with(".expected.json") {
                continue;
            }
            check(&engine, &envelope, &path, &mut failures);
            let service = folder.file_name().unwrap().to_string_lossy().into_owned();
            covered.insert(format!("aws/{service}/{}", name.trim_end_matches(".json")));
        }
    }
    for rule in engine.rule_names() {
        if !covered.remove(&*rule) {
            failures.push(format!("{rule}: no fixture"));
        }
    }
    failures.extend(covered.iter().map(|name| format!("{name}: no such rule")));
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
