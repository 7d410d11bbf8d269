//! Explains what the rules of a call look for in a record, what they find, and what results.
//!
//! It queries the plan in the same way as the evaluation, which itself knows nothing of explanations.

use serde_json::{Map, Value, json};

use super::eval::{Evaluated, Place, evaluate, step};
use super::expression::{Facts, Scope, Sources};
use super::plan::{
    AssetPick, AssociationPlan, Body, ChangePlan, Condition, ElementsPlan, EventPlan, OpPlan, Plan, StepPlan, ValuePlan,
};
use super::template::Parts;
use crate::json::Json;
use crate::model::{Draft, DraftAction};

/// Explains each rule of the call, in the order in which they are tried.
pub(super) fn rules(plan: &Plan, rules: &[EventPlan], record: Facts<'_>, place: &Place<'_>) -> Vec<Value> {
    rules.iter().map(|rule| explain(plan, rule, record, place)).collect()
}

fn explain(plan: &Plan, rule: &EventPlan, record: Facts<'_>, place: &Place<'_>) -> Value {
    let scope = record.scope();
    let mut told = Map::new();
    told.insert("rule".to_owned(), json!(rule.rule));
    if !rule.when.is_empty() {
        let of_record = rule.when.iter().filter(|condition| !condition.what.is_of_element());
        told.insert("when".to_owned(), of_record.map(|test| condition(test, scope)).collect());
    }
    if !rule.holds(scope) {
        told.insert("result".to_owned(), json!("does not apply: a condition does not hold"));
        return told.into();
    }
    match &rule.body {
        Body::Skip(reason) => {
            told.insert("result".to_owned(), json!(format!("skips the record: {reason}")));
        }
        Body::Change(change) => {
            told.extend(looked_for(rule, change, record, place));
            let evaluated = evaluate(plan, std::slice::from_ref(rule), record, place);
            told.insert("result".to_owned(), result(&evaluated));
        }
    }
    told.into()
}

/// What the keys of a rule find; with `each`, for the first element.
fn looked_for(rule: &EventPlan, change: &ChangePlan, record: Facts<'_>, place: &Place<'_>) -> Map<String, Value> {
    let mut told = Map::new();
    let scope = record.scope();
    let elements = change.each.as_ref().map(|each| each.elements(scope));
    if let (Some(each), Some(elements)) = (&change.each, elements) {
        told.insert("each".to_owned(), sources(each, scope));
        told.insert("elements".to_owned(), json!(format!("{}; the rest is about the first", elements.len())));
    }
    let element = elements.and_then(|elements| elements.first()).copied();
    let scope = Scope { element, ..scope };
    let of_element: Vec<_> = rule.when.iter().filter(|condition| condition.what.is_of_element()).collect();
    if !of_element.is_empty() {
        told.insert("when_of_element".to_owned(), of_element.iter().map(|test| condition(test, scope)).collect());
    }
    told.insert("asset".to_owned(), asset(&change.asset));
    told.insert("id".to_owned(), sources(&change.id, scope));
    let named =
        [("arn", &change.arn), ("account", &change.account), ("region", &change.region), ("except", &change.except)];
    told.extend(named.iter().filter_map(|(key, found)| Some(((*key).to_owned(), sources(found.as_ref()?, scope)))));
    if !change.vars.is_empty() {
        let vars: Map<_, _> =
            change.vars.iter().map(|(name, found)| (name.to_string(), sources(found, scope))).collect();
        told.insert("vars".to_owned(), vars.into());
    }
    if !change.apply.is_empty() {
        told.insert(
            "apply".to_owned(),
            change.apply.iter().map(|plan| explain_step(plan, change, scope, place)).collect(),
        );
    }
    if !change.associations.is_empty() {
        told.insert(
            "associations".to_owned(),
            change.associations.iter().map(|plan| association(plan, scope)).collect(),
        );
    }
    told
}

/// Each alternative with what it resolves to, null for nothing; the first that finds something wins.
fn sources(sources: &Sources, scope: Scope<'_>) -> Value {
    let found = sources.alternatives(scope).into_iter();
    found.map(|(source, found)| json!({ "source": source, "found": found.map(Json::to_value) })).collect()
}

fn condition(condition: &Condition, scope: Scope<'_>) -> Value {
    json!({ "found": sources(&condition.what, scope), "expected": condition.test.to_string(), "holds": condition.holds(scope) })
}

fn asset(pick: &AssetPick) -> Value {
    match pick {
        AssetPick::Kind(asset) => json!(asset.kind.provider_type),
        AssetPick::ByIdPrefix => json!("by id prefix"),
        AssetPick::ByArn => json!("by ARN"),
        AssetPick::ByArmId => json!("by ARM id"),
    }
}

fn explain_step(plan: &StepPlan, change: &ChangePlan, scope: Scope<'_>, place: &Place<'_>) -> Value {
    let (op, at, value) = match &plan.op {
        OpPlan::Replace(found) => ("replace", None, value(found, scope)),
        OpPlan::Set { at, value: found } => ("set", Some(at), value(found, scope)),
        OpPlan::Unset { at } => ("unset", Some(at), Value::Null),
        OpPlan::Merge { at, patch } => ("merge", Some(at), value(patch, scope)),
        OpPlan::Add { set, elements: found } => ("add", Some(&set.at), elements(found, scope)),
        OpPlan::Remove { set, elements: found } => ("remove", Some(&set.at), elements(found, scope)),
        OpPlan::RemoveMembers { at, keys } => ("remove", Some(at), elements(keys, scope)),
        OpPlan::MergeElements { set, elements: found } => ("merge", Some(&set.at), elements(found, scope)),
        OpPlan::Recall(found) => ("recall", None, value(found, scope)),
        OpPlan::Rename { id } => ("rename", None, sources(id, scope)),
        OpPlan::Copy { id, at, .. } => ("copy", Some(at), sources(id, scope)),
        OpPlan::Touch => ("touch", None, Value::Null),
    };
    let mut told = Map::new();
    told.insert("op".to_owned(), json!(op));
    told.extend(at.map(|at| ("at".to_owned(), json!(at))));
    if !value.is_null() {
        told.insert("from".to_owned(), value);
    }
    if !plan.when.is_empty() {
        told.insert("when".to_owned(), plan.when.iter().map(|test| condition(test, scope)).collect());
    }
    let holds = plan.when.iter().all(|condition| condition.holds(scope));
    let does = match (holds, has_effect(plan, change, scope, place), plan.required) {
        (false, ..) => "left out: a condition does not hold",
        (true, true, _) => "applied",
        (true, false, true) => "nothing found: partial, since it is required",
        (true, false, false) => "left out: nothing found",
    };
    told.insert("result".to_owned(), json!(does));
    told.into()
}

fn has_effect(plan: &StepPlan, change: &ChangePlan, scope: Scope<'_>, place: &Place<'_>) -> bool {
    let id = change.id.text(scope).unwrap_or_default();
    let parts = Parts { partition: "aws", region: place.region, account: place.account, id, vars: &[] };
    match (&plan.op, &change.asset) {
        (OpPlan::Rename { id }, _) | (OpPlan::Copy { id, .. }, _) => id.text(scope).is_some(),
        (_, AssetPick::Kind(asset)) => step(plan, asset, &parts, scope).is_some(),
        (_, AssetPick::ByIdPrefix | AssetPick::ByArn | AssetPick::ByArmId) => true,
    }
}

fn value(plan: &ValuePlan, scope: Scope<'_>) -> Value {
    match plan {
        ValuePlan::From(found) => sources(found, scope),
        ValuePlan::Without(whole, _) => value(whole, scope),
        ValuePlan::Literal(literal) => json!({ "value": literal }),
        ValuePlan::Object(members) => members.iter().map(|(key, found)| (key.clone(), value(found, scope))).collect(),
    }
}

fn elements(plan: &ElementsPlan, scope: Scope<'_>) -> Value {
    let mut told = Map::new();
    if let Some(each) = &plan.each {
        told.insert("each".to_owned(), sources(each, scope));
    }
    told.insert("elements".to_owned(), plan.elements(scope).into_iter().map(Json::to_value).collect());
    told.into()
}

fn association(plan: &AssociationPlan, scope: Scope<'_>) -> Value {
    let first = plan.each.as_ref().map(|each| each.elements(scope));
    let element = first.and_then(|elements| elements.first()).copied().or(scope.element);
    let inner = Scope { element, ..scope };
    let mut told = Map::new();
    told.insert("relation".to_owned(), json!(plan.relation));
    told.insert("type".to_owned(), asset(&plan.asset));
    if let Some(each) = &plan.each {
        told.insert("each".to_owned(), sources(each, scope));
    }
    told.insert("id".to_owned(), sources(&plan.id, inner));
    if !plan.when.is_empty() {
        told.insert("when".to_owned(), plan.when.iter().map(|test| condition(test, inner)).collect());
    }
    told.into()
}

fn result(evaluated: &Evaluated) -> Value {
    match evaluated {
        Evaluated::Drafts(drafts) => drafts.iter().map(draft).collect(),
        Evaluated::Unnamed { .. } => {
            json!("no asset named: no source of the id, or of a part of the name, has a value")
        }
        Evaluated::NoRuleApplies | Evaluated::Skipped { .. } => json!("no element left"),
    }
}

/// A summary of a draft.
pub(super) fn draft(draft: &Draft) -> Value {
    let action = match draft.action {
        DraftAction::Known(action) => action.as_str(),
        DraftAction::Upsert => "create, or update where it is known",
    };
    json!({
        "action": action,
        "asset": draft.asset.name,
        "type": draft.asset.kind.neutral_type,
        "steps": draft.steps.len(),
        "partial": draft.partial,
    })
}
