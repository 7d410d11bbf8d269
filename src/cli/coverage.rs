//! `catchment coverage`: counts which records of the given files have rules.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Failure, records};
use crate::correlate::{Folded, Operations};
use crate::decode::Piece;
use crate::model::{Confidence, OperationRecord, Time};
use crate::normalize::{Engine, Outcome};

const EXAMPLES: &str = "\
Examples:
  catchment coverage /var/log/cloudtrail
  zcat trail/*.gz | catchment coverage - --json | jq '.unmapped[:20]'
  catchment coverage trail.json.gz --normalizers rules --unmatched

Counts the records by outcome, reason and rule, and lists the calls that only generic rules cover
(candidates for a rule of their own), the calls that are quarantined, and the number of rules that
no record matched.";

/// Count which calls in the given records have rules, and which rules matched
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Files or folders of records; - is standard input, the default
    #[arg(value_name = "FILES")]
    files: Vec<PathBuf>,
    /// A folder of rules that add to the built-in ones or override them
    #[arg(long, value_name = "DIR")]
    normalizers: Option<PathBuf>,
    /// List the rules that no record matched, not only their number
    #[arg(long)]
    unmatched: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Counts by key.
type Counts<K> = BTreeMap<K, u64>;

#[derive(Default)]
struct Coverage {
    records: u64,
    outcomes: Counts<&'static str>,
    skipped: Counts<String>,
    /// Code, service, call.
    quarantined: Counts<(String, String, String)>,
    /// Service, call, generic rule.
    unmapped: Counts<(String, String, String)>,
    /// Rule, outcome.
    rules: Counts<(String, &'static str)>,
    /// Pending operations: Azure describes one in several records.
    operations: Operations,
}

impl Coverage {
    fn take(&mut self, engine: &Engine, piece: &Piece) {
        self.records += 1;
        let (outcome, rule) = match piece {
            Piece::Record { bytes, .. } => match engine.normalize(bytes) {
                Outcome::Operation(record) => self.part(engine, *record),
                outcome => self.outcome(outcome, || call_of(bytes)),
            },
            Piece::Rejected { code, .. } => {
                add(&mut self.quarantined, ((*code).to_owned(), String::new(), String::new()));
                ("quarantined", None)
            }
        };
        self.count(outcome, rule);
    }

    /// Called after the last record: processes pending operations with what is known. Their records are counted
    /// already, as folded.
    fn rest(&mut self, engine: &Engine) {
        while let Some(records) = self.operations.rest() {
            let (outcome, rule) = self.fold(engine, &records);
            if let Some(folded) = self.outcomes.get_mut("folded") {
                *folded = folded.saturating_sub(1);
            }
            self.count(outcome, rule);
        }
    }

    fn count(&mut self, outcome: &'static str, rule: Option<String>) {
        add(&mut self.outcomes, outcome);
        if let Some(rule) = rule {
            add(&mut self.rules, (rule, outcome));
        }
    }

    /// Takes a record of an operation: the outcome follows with the last of them.
    fn part(&mut self, engine: &Engine, record: OperationRecord) -> (&'static str, Option<String>) {
        let mut skipped = |reason: &str| {
            add(&mut self.skipped, reason.to_owned());
            ("skipped", None)
        };
        match self.operations.take(record, Time::default()) {
            Folded::Whole(records) => self.fold(engine, &records),
            Folded::Held => ("folded", None),
            Folded::Duplicate => ("duplicate", None),
            Folded::Late => skipped("late record of an operation that was told"),
            Folded::Failed => skipped("failed call"),
        }
    }

    fn fold(&mut self, engine: &Engine, records: &[Bytes]) -> (&'static str, Option<String>) {
        self.outcome(engine.fold(records), || records.last().map(|record| call_of(record)).unwrap_or_default())
    }

    fn outcome(&mut self, outcome: Outcome, call: impl FnOnce() -> (String, String)) -> (&'static str, Option<String>) {
        match outcome {
            Outcome::Changes { record, drafts } => {
                let rule = drafts.first().map(|draft| draft.rule.to_string());
                if drafts.iter().any(|draft| draft.confidence == Confidence::Low) {
                    let operation = record.operation;
                    add(&mut self.unmapped, (operation.service, operation.name, rule.clone().unwrap_or_default()));
                }
                ("changes", rule)
            }
            Outcome::Operation(_) => ("folded", None),
            Outcome::Skipped { reason, rule, .. } => {
                add(&mut self.skipped, reason.to_string());
                ("skipped", rule.map(|rule| rule.to_string()))
            }
            Outcome::Rejected { code, rule, .. } => {
                let (service, call) = call();
                add(&mut self.quarantined, (code.to_owned(), service, call));
                ("quarantined", rule.map(|rule| rule.to_string()))
            }
        }
    }
}

fn add<K: Ord>(counts: &mut Counts<K>, key: K) {
    *counts.entry(key).or_default() += 1;
}

/// Service and name of a call in a rejected record, as far as it contains them.
fn call_of(bytes: &[u8]) -> (String, String) {
    let record: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = |keys: [&str; 2]| keys.iter().find_map(|key| record[*key].as_str()).unwrap_or("?").to_owned();
    (text(["eventSource", "category"]), text(["eventName", "operationName"]))
}

/// The most frequent first.
fn sorted<K: Clone + Ord>(counts: &Counts<K>) -> Vec<(K, u64)> {
    let mut sorted: Vec<_> = counts.iter().map(|(key, count)| (key.clone(), *count)).collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sorted
}

pub(super) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<(), Failure> {
    records::given(&arguments.files, "coverage")?;
    let engine = Engine::load(arguments.normalizers.as_deref())?;
    let mut coverage = Coverage::default();
    records::each(&arguments.files, &mut |_, _, piece| {
        coverage.take(&engine, &piece);
        Ok(())
    })?;
    coverage.rest(&engine);
    let matched: BTreeSet<&str> = coverage.rules.keys().map(|(rule, _)| rule.as_str()).collect();
    let rules = engine.rule_names();
    let unmatched: Vec<&str> = rules.iter().map(|rule| &**rule).filter(|rule| !matched.contains(rule)).collect();
    if arguments.json {
        return json_report(&coverage, &unmatched, output);
    }
    report(&coverage, output)?;
    writeln!(output, "\n{} of {} rules matched no record", unmatched.len(), rules.len())?;
    if arguments.unmatched {
        unmatched.iter().try_for_each(|rule| writeln!(output, "  {rule}"))?;
    }
    Ok(())
}

fn report(coverage: &Coverage, output: &mut dyn Write) -> Result<(), Failure> {
    let outcomes: Vec<_> = coverage.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    writeln!(output, "{} records: {}", coverage.records, outcomes.join(", "))?;
    let mut section = |title: &str, lines: Vec<(String, u64)>| -> Result<(), Failure> {
        if !lines.is_empty() {
            writeln!(output, "\n{title}")?;
            lines.iter().try_for_each(|(line, count)| writeln!(output, "{count:>9}  {line}"))?;
        }
        Ok(())
    };
    let three = |counts: &Counts<(String, String, String)>| {
        sorted(counts)
            .into_iter()
            .map(|((a, b, c), count)| (format!("{a} {b} {c}").trim_end().to_owned(), count))
            .collect()
    };
    section("calls covered by generic rules only", three(&coverage.unmapped))?;
    section("quarantined", three(&coverage.quarantined))?;
    section("skipped", sorted(&coverage.skipped))?;
    let by_rule =
        sorted(&coverage.rules).into_iter().map(|((rule, outcome), count)| (format!("{rule} {outcome}"), count));
    section("by rule", by_rule.collect())
}

fn json_report(coverage: &Coverage, unmatched: &[&str], output: &mut dyn Write) -> Result<(), Failure> {
    let three = |counts: &Counts<(String, String, String)>, names: [&str; 3]| -> Vec<Value> {
        let object = |((a, b, c), count)| json!({ names[0]: a, names[1]: b, names[2]: c, "count": count });
        sorted(counts).into_iter().map(object).collect()
    };
    let report = json!({
        "records": coverage.records,
        "outcomes": coverage.outcomes,
        "unmapped": three(&coverage.unmapped, ["service", "name", "rule"]),
        "quarantined": three(&coverage.quarantined, ["code", "service", "name"]),
        "skipped": coverage.skipped,
        "rules": sorted(&coverage.rules).into_iter()
            .map(|((rule, outcome), count)| json!({ "rule": rule, "outcome": outcome, "count": count })).collect::<Vec<_>>(),
        "unmatched": unmatched,
    });
    Ok(writeln!(output, "{report}")?)
}
