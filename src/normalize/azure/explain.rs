//! Explains what the rules look for in an Azure record, or in the records of one operation, and what results.

use serde_json::{Map, Value, json};

use super::super::catalog::Catalog;
use super::super::eval::Place;
use super::super::{explain, not_json, sanitize};
use super::activity::Activity;
use super::change::{self, Operation};
use super::entra::{self, Audit};
use super::generic::Verdict;
use super::{Kind, Outcome, Rules, recognize, redacting, unwrapped};
use crate::json::Arena;

/// Explains each rule of a record, with secrets redacted. `{"records": [...]}` is one operation, as in `raw` of an
/// event. `None` if no rule is consulted.
pub(in crate::normalize) fn explain(catalog: &Catalog, text: &str) -> Option<Vec<Value>> {
    let rules = &catalog.azure;
    let value: Value = serde_json::from_str(text).ok()?;
    let texts: Vec<String> = match value.get("records").and_then(Value::as_array) {
        Some(records) => records.iter().map(Value::to_string).collect(),
        None => vec![text.to_owned()],
    };
    let mut activities = Vec::with_capacity(texts.len());
    for text in &texts {
        let value: Value = serde_json::from_str(text).ok()?;
        let record = unwrapped(&value)?;
        match recognize(&record)? {
            Kind::Other(_) => return None,
            Kind::Audit => return explain_audit(rules, text, &record).ok(),
            Kind::Activity => activities.push(sanitized_activity(rules, text, &record).ok()?),
        }
    }
    activities.sort_by_key(|record| (record.time, record.phase as u8));
    Some(explain_operation(rules, &Operation::of(&activities)?))
}

fn sanitized_activity(rules: &Rules, text: &str, record: &Map<String, Value>) -> Result<Activity, Outcome> {
    let text = sanitize(&rules.secrets, text, redacting(rules, &Activity::read(record)?).into_iter())?;
    let value: Value = serde_json::from_str(&text).map_err(not_json)?;
    Activity::read(&unwrapped(&value).unwrap_or(std::borrow::Cow::Borrowed(record)))
}

fn explain_operation(rules: &Rules, operation: &Operation<'_>) -> Vec<Value> {
    let own = rules.events(operation.name);
    if own.is_empty() {
        return vec![explain_generic(rules, operation)];
    }
    let (account, namespace) = (operation.account(), rules.namespace(operation.name));
    let place = Place { service: &namespace, account: &account, region: "-" };
    let arena = Arena::new();
    let mut told = explain::rules(&rules.plan, own, operation.view(rules).facts(&arena), &place);
    for rule in told.iter_mut().filter_map(Value::as_object_mut) {
        if rule.contains_key("id") && !rule.contains_key("apply") {
            rule.insert("body".to_owned(), json!(operation.body_taken()));
        }
    }
    told
}

/// Explains an operation without a rule, whose name determines the change.
fn explain_generic(rules: &Rules, operation: &Operation<'_>) -> Value {
    let verdict = rules.generic.verdict(operation.name);
    if let Verdict::Skip(reason) = &verdict {
        return json!({ "rule": "azure/arm/skip", "result": format!("skips the record: {reason}") });
    }
    let draft = change::generic(rules, operation, &verdict);
    let known = match (&verdict, rules.kind(&operation.resource).1) {
        (Verdict::Unknown, _) => "no entry of generic.toml covers the operation: it counts as a change",
        (_, false) => "neither a rule file nor taxonomy.toml knows the type",
        (_, true) => "the operation's name says what it does",
    };
    json!({
        "rule": draft.rule, "why": known, "asset": draft.asset.kind.provider_type, "id": operation.resource.text(),
        "body": operation.body_taken(), "result": [explain::draft(&draft)],
    })
}

fn explain_audit(rules: &Rules, text: &str, record: &Map<String, Value>) -> Result<Vec<Value>, Outcome> {
    let activity = Audit::read(record)?.activity;
    let text = sanitize(&rules.secrets, text, rules.activity(&activity).iter())?;
    let value: Value = serde_json::from_str(&text).map_err(not_json)?;
    let audit = Audit::read(value.as_object().unwrap_or(record))?;
    let own = rules.activity(&audit.activity);
    if own.is_empty() {
        return Ok(vec![entra::explain_generic(rules, &audit)]);
    }
    let place = Place { service: entra::SERVICE, account: &audit.tenant, region: "-" };
    let arena = Arena::new();
    Ok(explain::rules(&rules.plan, own, audit.view.facts(&arena), &place))
}
