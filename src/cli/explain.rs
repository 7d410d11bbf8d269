//! `catchment explain`: what the rules look for in a record, what they find, and the result.

use std::convert::Infallible;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Failure, records};
use crate::decode::Piece;
use crate::ingest::{Processed, Processor};
use crate::inventory::Inventory;
use crate::normalize::Engine;
use crate::source::Clock;

/// Limit of the inventory, which provides the previous configurations, in bytes.
const INVENTORY_BYTES: usize = 64 << 20;
const RECENT_IDS: usize = 1 << 16;
/// Maximum number of characters of a value printed as text; `--json` prints all.
const LONGEST: usize = 400;

const EXAMPLES: &str = "\
Examples:
  catchment explain record.json
  catchment explain trail.json.gz --event 7e96f0e7-4d78-423d-b3f5-391370685b30
  pbpaste | catchment explain - --normalizers rules --json | jq .rules

Shows for each record its outcome and why; which rules its call has, which of their conditions
hold, what each source resolves to and what each step does; and how the method of the change was
determined. Secrets are redacted. All records share one inventory, which starts empty.";

/// Explain what the rules make of a record, and why
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Files or folders of records; - is standard input, the default
    #[arg(value_name = "RECORD")]
    files: Vec<PathBuf>,
    /// Explain only the record with this event id, or those with this correlation id; all are processed
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// A folder of rules that add to the built-in ones or override them
    #[arg(long, value_name = "DIR")]
    normalizers: Option<PathBuf>,
    /// Print one JSON object per record
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<(), Failure> {
    records::given(&arguments.files, "explain")?;
    let engine = Arc::new(Engine::load(arguments.normalizers.as_deref())?);
    let inventory = Arc::new(Inventory::bounded(INVENTORY_BYTES));
    let mut processor = Processor::new(Arc::clone(&engine), inventory, "io.catchment".to_owned(), RECENT_IDS);
    let clock = Clock::system();
    let mut telling = Telling { engine, arguments, told: 0, output };
    records::each(&arguments.files, &mut |file, index, piece| {
        let (bytes, processed) = match piece {
            Piece::Record { bytes, .. } => {
                let Ok(processed) = processor.process(&bytes, clock.now(), |_| Ok::<_, Infallible>(false));
                (bytes, processed)
            }
            Piece::Rejected { code, reason, bytes, .. } => (bytes, Processed::Rejected { code, reason, rule: None }),
        };
        telling.tell(&format!("{file}, number {}", index + 1), &bytes, &processed)
    })?;
    // There are no more records: pending operations are processed with what is known.
    while let Some(records) = processor.operations().rest() {
        let Ok(processed) = processor.tell(&records, clock.now(), |_| Ok::<_, Infallible>(false));
        if let Some(last) = records.last() {
            telling.tell("an operation whose end was not reported", last, &processed)?;
        }
    }
    match &arguments.event {
        Some(id) if telling.told == 0 => Err(Failure::run("explain", format!("no record has the event id {id}"))),
        _ => Ok(()),
    }
}

struct Telling<'a> {
    engine: Arc<Engine>,
    arguments: &'a Arguments,
    told: usize,
    output: &'a mut dyn Write,
}

impl Telling<'_> {
    fn tell(&mut self, which: &str, bytes: &[u8], processed: &Processed) -> Result<(), Failure> {
        let record: Value = serde_json::from_slice(bytes).unwrap_or_default();
        if self.arguments.event.as_ref().is_some_and(|id| !is_called(&record, id)) {
            return Ok(());
        }
        self.told += 1;
        let mut explanation = head(which, &record);
        let rules = match raw(processed) {
            Some(raw) => self.engine.explain(raw.to_string().as_bytes()),
            None => self.engine.explain(bytes),
        };
        explanation.extend(outcome(processed, &rules));
        if self.arguments.json {
            return Ok(writeln!(self.output, "{}", Value::Object(explanation))?);
        }
        let mut text = String::new();
        lines(&Value::Object(explanation), 0, &mut text);
        Ok(writeln!(self.output, "{text}")?)
    }
}

/// Whether a record has this id; an Azure record also by its correlation id.
fn is_called(record: &Value, id: &str) -> bool {
    let own = ["eventID", "eventDataId", "id", "correlationId"].map(|member| &record[member]);
    let inner = ["id", "correlationId"].map(|member| &record["properties"][member]);
    own.into_iter().chain(inner).any(|told| told.as_str().is_some_and(|told| told.eq_ignore_ascii_case(id)))
}

/// The records that describe a change, if there are several.
fn raw(processed: &Processed) -> Option<Value> {
    let Processed::Changes { events, .. } = processed else { return None };
    let mut event: Value = serde_json::from_slice(&events.first()?.json).ok()?;
    let raw = event["data"]["raw"].take();
    raw.get("records").is_some().then_some(raw)
}

/// The members that identify the record.
fn head(which: &str, record: &Value) -> Map<String, Value> {
    let mut head = Map::new();
    head.insert("record".to_owned(), json!(which));
    for (key, member) in [
        ("event_id", "eventID"),
        ("event_id", "eventDataId"),
        ("correlation", "correlationId"),
        ("service", "eventSource"),
        ("call", "eventName"),
        ("operation", "operationName"),
    ] {
        head.extend(record.get(member).map(|value| (key.to_owned(), value.clone())));
    }
    head
}

fn outcome(processed: &Processed, rules: &[Value]) -> Map<String, Value> {
    let mut told = Map::new();
    let mut tell = |key: &str, value: Value| drop(told.insert(key.to_owned(), value));
    match processed {
        Processed::Changes { events, rule, unmapped, .. } => {
            tell("outcome", json!(format!("changes: {} by {rule}", events.len())));
            if unmapped.is_some() {
                tell(
                    "why",
                    json!(
                        "no rule for this call; the generic rules take the action from its name, the asset from its ids"
                    ),
                );
            }
            tell("events", events.iter().map(|event| essence(&event.json)).collect());
        }
        Processed::Skipped { reason, rule } => {
            tell("outcome", json!(format!("skipped: {reason}")));
            if let Some(rule) = rule {
                tell("rule", json!(rule));
            }
        }
        Processed::Folded => {
            tell("outcome", json!("folded"));
            tell("why", json!("one of several records of an operation; the change comes with the last of them"));
        }
        Processed::Duplicate { event_id } => {
            tell("outcome", json!("duplicate"));
            tell("why", json!(format!("the event id {event_id} was seen before")));
        }
        Processed::Rejected { code, reason, rule } => {
            tell("outcome", json!(format!("quarantined: {code}")));
            tell("why", json!(reason));
            if let Some(rule) = rule {
                tell("rule", json!(rule));
            }
        }
    }
    if !rules.is_empty() {
        tell("rules", rules.into());
    }
    told
}

/// The parts of the event about the asset, and about who changed it.
fn essence(event: &[u8]) -> Value {
    let event: Value = serde_json::from_slice(event).unwrap_or_default();
    let data = &event["data"];
    let keys = ["action", "configuration_state", "previous_state", "changes", "associations"];
    let mut essence: Map<_, _> = keys.iter().map(|key| ((*key).to_owned(), data[*key].clone())).collect();
    essence.insert(
        "asset".to_owned(),
        json!(format!(
            "{} {}",
            data["asset"]["type"].as_str().unwrap_or_default(),
            event["subject"].as_str().unwrap_or_default()
        )),
    );
    let attribution = &data["attribution"];
    let how = ["method", "method_reason", "confidence", "human"];
    essence.insert(
        "attribution".to_owned(),
        how.iter().map(|key| ((*key).to_owned(), attribution[*key].clone())).collect(),
    );
    essence.into()
}

/// The order of members in the text; those that are not listed come last.
const ORDER: [&str; 26] = [
    "record",
    "event_id",
    "correlation",
    "service",
    "call",
    "operation",
    "outcome",
    "why",
    "action",
    "op",
    "at",
    "rule",
    "relation",
    "when",
    "each",
    "elements",
    "when_of_element",
    "asset",
    "type",
    "id",
    "vars",
    "body",
    "apply",
    "associations",
    "rules",
    "events",
];

/// A document as indented lines.
fn lines(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    let mut line = |name: &str, value: &Value| {
        let opens = match value {
            Value::Object(members) => !members.is_empty() && found(value).is_none(),
            Value::Array(elements) => elements.iter().any(Value::is_object),
            _ => false,
        };
        if opens {
            text.push_str(&format!("{indent}{name}\n"));
            lines(value, depth + 1, text);
        } else {
            text.push_str(&format!("{indent}{name} {}\n", found(value).unwrap_or_else(|| scalar(value))));
        }
    };
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| ORDER.iter().position(|known| known == key).unwrap_or(ORDER.len()));
            members.iter().for_each(|(key, value)| line(&format!("{key}:"), value));
        }
        Value::Array(elements) => {
            elements.iter().enumerate().for_each(|(index, value)| line(&format!("{}.", index + 1), value));
        }
        other => text.push_str(&format!("{indent}{}\n", scalar(other))),
    }
}

/// A source and the value that it found, on one line.
fn found(value: &Value) -> Option<String> {
    let source = value.get("source")?.as_str()?;
    let found = value.get("found").filter(|found| !found.is_null());
    Some(format!("{source} → {}", found.map_or_else(|| "(nothing)".to_owned(), scalar)))
}

fn scalar(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len()),
        None => text,
    }
}
