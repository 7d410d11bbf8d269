//! Entra ID's directory audit: changes of users, groups, roles, devices and applications.
//!
//! <https://learn.microsoft.com/entra/identity/monitoring-health/reference-audit-activities>,
//! <https://learn.microsoft.com/graph/api/resources/directoryaudit>

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jsonptr::PointerBuf;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::Outcome;
use super::super::eval::{Evaluated, Place, evaluate};
use super::super::explain;
use super::super::plan::Glob;
use super::super::rule::RuleAction;
use super::super::template::Parts;
use super::Rules;
use super::change::View;
use super::fields::{Fields, text_of};
use crate::json::Arena;
use crate::model::{Action, AssetRef, Confidence, Draft, DraftAction, Step, Time};

/// The event source of the rules in `normalizers/azure/entra.toml`.
pub(super) const SERVICE: &str = "entra";

/// Names of the generic rules.
const SKIP: &str = "azure/entra/skip";
const GENERIC: &str = "azure/generic/directory";

/// `[entra]` of `normalizers/azure/generic.toml`: activities without a rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::normalize) struct Activities {
    /// Activity → other names that are treated by its rule.
    same_as: BTreeMap<String, Vec<Glob>>,
    /// Activities with a known action on their first target.
    known: Vec<Known>,
    /// Activities to skip, in order; the first match wins.
    skip: Vec<Skip>,
    /// Activities that create their target.
    creates: Vec<Glob>,
    /// Activities that delete their target.
    deletes: Vec<Glob>,
    /// Activities that add something to their target or remove it, whatever their first word: updates.
    parts: Vec<Glob>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    names: Vec<Glob>,
    action: RuleAction,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    names: Vec<Glob>,
    reason: Arc<str>,
}

impl Activities {
    fn fits(globs: &[Glob], activity: &str) -> bool {
        globs.iter().any(|glob| glob.matches(activity))
    }

    fn skipped(&self, activity: &str) -> Option<&Arc<str>> {
        self.skip.iter().find(|skip| Self::fits(&skip.names, activity)).map(|skip| &skip.reason)
    }

    /// The activity whose rule applies: another one under `same_as`, else itself.
    pub(super) fn ruled_as<'a>(&'a self, activity: &'a str) -> &'a str {
        let same = self.same_as.iter().find(|(_, names)| Self::fits(names, activity));
        same.map_or(activity, |(name, _)| name.as_str())
    }

    /// The action of an activity on its first target, and whether it is known, not guessed from its words.
    fn action(&self, activity: &str) -> (Action, bool) {
        match self.known.iter().find(|known| Self::fits(&known.names, activity)).map(|known| known.action) {
            Some(RuleAction::Create) => (Action::Create, true),
            Some(RuleAction::Delete) => (Action::Delete, true),
            Some(RuleAction::Update | RuleAction::Upsert) => (Action::Update, true),
            None => (self.guessed(activity), false),
        }
    }

    fn guessed(&self, activity: &str) -> Action {
        if Self::fits(&self.parts, activity) {
            Action::Update
        } else if Self::fits(&self.creates, activity) {
            Action::Create
        } else if Self::fits(&self.deletes, activity) {
            Action::Delete
        } else {
            Action::Update
        }
    }
}

/// An audit record.
pub(super) struct Audit {
    pub(super) activity: String,
    pub(super) time: Time,
    pub(super) tenant: String,
    pub(super) event_id: Option<String>,
    pub(super) correlation: Option<String>,
    pub(super) failed: bool,
    pub(super) initiated_by: Map<String, Value>,
    pub(super) user_agent: Option<String>,
    pub(super) address: Option<String>,
    pub(super) view: View,
}

impl Audit {
    pub(super) fn read(record: &Map<String, Value>) -> Result<Self, Outcome> {
        let outer = Fields(record);
        let properties = outer.object(&["properties"]);
        let inner = Fields(&properties);
        let text = |names: &[&str]| inner.text(names).or_else(|| outer.text(names));
        let list = |names: &[&str]| inner.get(names).or_else(|| outer.get(names)).map(parsed);
        let activity = text(&["activityDisplayName"]).or_else(|| text(&["operationName"])).ok_or_else(|| {
            Outcome::rejected("unknown_format", "a directory audit record without activityDisplayName")
        })?;
        let time = text(&["activityDateTime"]).or_else(|| outer.text(&["time", "timeGenerated"]));
        let time = time
            .ok_or_else(|| Outcome::rejected("no_event_time", "no activityDateTime or time"))?
            .parse()
            .map_err(|error| Outcome::rejected("no_event_time", format!("activityDateTime: {error}")))?;
        let details = details(list(&["additionalDetails"]).as_deref());
        let initiated_by = inner.object(&["initiatedBy"]);
        let initiated_by = if initiated_by.is_empty() { outer.object(&["initiatedBy"]) } else { initiated_by };
        let targets: Vec<Value> = match list(&["targetResources", "targetResource"]).as_deref() {
            Some(Value::Array(targets)) => targets.iter().filter_map(Value::as_object).map(target).collect(),
            Some(Value::Object(one)) => vec![target(one)],
            _ => Vec::new(),
        };
        let user_agent = details.get("User-Agent").and_then(text_of).or_else(|| text(&["userAgent"]));
        Ok(Self {
            // Activity names have dashes of several kinds, and trailing spaces.
            activity: activity.replace(['\u{2013}', '\u{2014}'], "-").trim().to_owned(),
            time,
            tenant: tenant(outer, inner).unwrap_or_else(|| "-".to_owned()),
            event_id: inner.text(&["id"]).or_else(|| outer.text(&["id"])).map(str::to_owned),
            correlation: text(&["correlationId"]).map(str::to_owned),
            failed: text(&["result", "resultType"]).is_some_and(|result| {
                let result = result.to_ascii_lowercase();
                result.starts_with("fail") || result == "timeout" || result == "1"
            }),
            user_agent: user_agent.map(str::to_owned),
            address: outer.text(&["callerIpAddress"]).or_else(|| text(&["ipAddress"])).map(str::to_owned),
            view: view(activity, text(&["operationType"]), targets, details, &initiated_by),
            initiated_by: initiated_by.into_owned(),
        })
    }
}

fn view(
    activity: &str,
    operation_type: Option<&str>,
    targets: Vec<Value>,
    details: Map<String, Value>,
    initiated_by: &Map<String, Value>,
) -> View {
    let mut first_of_type = Map::new();
    for target in &targets {
        let kind = target.get("type").and_then(Value::as_str).unwrap_or("Other");
        first_of_type.entry(kind.to_owned()).or_insert_with(|| target.clone());
    }
    let principal = principal(&targets, &first_of_type);
    let group = joined(principal, &first_of_type, "Group", "group.ObjectID", "group.DisplayName");
    let role = joined(principal, &first_of_type, "Role", "role.TemplateId", "role.DisplayName");
    let principal = principal.map(|target| {
        let name = ["userPrincipalName", "displayName"].into_iter().find_map(|key| target[key].as_str());
        json!({ "id": target["id"], "type": target["type"], "name": name, "old": target["old"], "new": target["new"] })
    });
    View(json!({
        "activity": activity, "operationType": operation_type, "targets": targets, "target": first_of_type,
        "principal": principal, "group": group, "role": role, "details": details, "initiatedBy": initiated_by,
    }))
}

/// The target that joins or leaves a group, holds a role or owns something: the first user, service principal or
/// device, else the first group.
fn principal<'t>(targets: &'t [Value], first_of_type: &Map<String, Value>) -> Option<&'t Value> {
    let is = |target: &&Value, kinds: &[&str]| target["type"].as_str().is_some_and(|kind| kinds.contains(&kind));
    let person = targets.iter().find(|target| is(target, &["User", "ServicePrincipal", "Device"]));
    let group = || targets.iter().find(|target| is(target, &["Group"]));
    // Without types, it is the first target.
    person.or_else(group).or_else(|| targets.first().filter(|_| first_of_type.contains_key("Other")))
}

/// The group or role that a principal joins or leaves: from the principal's properties, or another target.
fn joined(
    principal: Option<&Value>,
    first_of_type: &Map<String, Value>,
    kind: &str,
    id: &str,
    name: &str,
) -> Option<Value> {
    let property = |key| ["new", "old"].into_iter().find_map(|state| principal?[state][key].as_str());
    let own = first_of_type.get(kind).filter(|target| Some(*target) != principal);
    // A role is identified by its template, which is the same in every tenant.
    let template = || ["new", "old"].into_iter().find_map(|state| own?[state]["templateId"].as_str());
    let told = property(id).or_else(template).or_else(|| own?["id"].as_str())?;
    let name = property(name).or_else(|| own?["displayName"].as_str());
    Some(json!({ "id": told.to_ascii_lowercase(), "name": name }))
}

fn parsed(value: &Value) -> Cow<'_, Value> {
    match value.as_str().and_then(|text| serde_json::from_str(text).ok()) {
        Some(parsed) => Cow::Owned(parsed),
        None => Cow::Borrowed(value),
    }
}

/// The tenant, in lower case: its own member, or the one in `/tenants/<id>/providers/Microsoft.aadiam`.
fn tenant(outer: Fields<'_>, inner: Fields<'_>) -> Option<String> {
    let in_path = || outer.text(&["resourceId"])?.get("/tenants/".len()..)?.split('/').next();
    let is_path = || outer.text(&["resourceId"]).is_some_and(|id| id.to_ascii_lowercase().starts_with("/tenants/"));
    let told = outer.text(&["aadTenantId", "tenantId"]).or_else(|| inner.text(&["tenantId"]));
    told.or_else(|| is_path().then(in_path).flatten()).map(str::to_ascii_lowercase)
}

/// `[{"key": k, "value": v}]` as an object.
fn details(list: Option<&Value>) -> Map<String, Value> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    let told = list.filter_map(|detail| {
        let detail = Fields(detail.as_object()?);
        Some((detail.text(&["key"])?.to_owned(), detail.get(&["value"])?.clone()))
    });
    told.collect()
}

/// Types of targets, for a schema in which records state them differently.
const KINDS: [&str; 6] = ["User", "Group", "Role", "ServicePrincipal", "Application", "Device"];

/// Prefixes of properties that describe the other properties, or the record.
const NO_PROPERTIES: [&str; 4] =
    ["included updated properties", "action client name", "methodexecutionresult.", "targetid."];

/// A target as rules see it: `old` and `new` contain the parsed values of `modifiedProperties`.
fn target(told: &Map<String, Value>) -> Value {
    let fields = Fields(told);
    let (mut old, mut new) = (Map::new(), Map::new());
    let modified = fields.get(&["modifiedProperties"]).and_then(Value::as_array);
    for property in modified.into_iter().flatten().filter_map(Value::as_object).map(Fields) {
        let Some(name) = property.text(&["displayName", "name"]) else { continue };
        let lower = name.to_lowercase();
        if NO_PROPERTIES.iter().any(|no| lower.starts_with(no)) {
            continue;
        }
        let name = camel(name);
        if let Some(value) = property.get(&["oldValue"]).and_then(property_value) {
            old.insert(name.clone(), value);
        }
        new.insert(name, property.get(&["newValue"]).and_then(property_value).unwrap_or(Value::Null));
    }
    // `#microsoft.graph.targetResourceUser`
    let by_schema = || {
        fields
            .text(&["@odata.type"])?
            .to_ascii_lowercase()
            .rsplit_once("targetresource")
            .and_then(|(_, kind)| KINDS.into_iter().find(|known| known.eq_ignore_ascii_case(kind)))
    };
    json!({
        "id": fields.text(&["id"]).map(str::to_ascii_lowercase),
        "type": fields.text(&["type"]).or_else(by_schema),
        "displayName": fields.text(&["displayName"]),
        "userPrincipalName": fields.text(&["userPrincipalName"]),
        "old": old, "new": new,
    })
}

fn camel(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect()
}

/// A property's value is JSON in a string; single values are in a list, too.
fn property_value(value: &Value) -> Option<Value> {
    let value = parsed(value).into_owned();
    let value = match value {
        Value::Array(mut elements) if elements.len() == 1 && elements.iter().all(is_scalar) => elements.pop()?,
        Value::Array(elements) if elements.is_empty() => return None,
        value => value,
    };
    (!value.is_null() && value.as_str() != Some("")).then_some(value)
}

fn is_scalar(value: &Value) -> bool {
    !value.is_array() && !value.is_object()
}

/// The drafts of an audit record.
pub(super) fn drafts(rules: &Rules, audit: &Audit) -> Evaluated {
    let place = Place { service: SERVICE, account: &audit.tenant, region: "-" };
    let own = rules.activity(&audit.activity);
    if !own.is_empty() {
        let arena = Arena::new();
        return evaluate(&rules.plan, own, audit.view.facts(&arena), &place);
    }
    if let Some(reason) = rules.entra.skipped(&audit.activity) {
        return Evaluated::Skipped { reason: Arc::clone(reason), rule: SKIP.into() };
    }
    match generic(rules, audit) {
        Ok(draft) => Evaluated::Drafts(vec![draft]),
        Err(rule) => Evaluated::Unnamed { rule },
    }
}

/// Explains the result of the generic rule.
pub(super) fn explain_generic(rules: &Rules, audit: &Audit) -> Value {
    if let Some(reason) = rules.entra.skipped(&audit.activity) {
        return json!({ "rule": SKIP, "result": format!("skips the record: {reason}") });
    }
    let why = match rules.entra.action(&audit.activity) {
        (_, true) => "the activity is known to change its first target, and the target's properties say what",
        (_, false) => "no rule for the activity: it counts as a change of its first target",
    };
    match generic(rules, audit) {
        Ok(draft) => json!({ "rule": draft.rule, "why": why, "result": [explain::draft(&draft)] }),
        Err(rule) => json!({ "rule": rule, "why": why, "result": "no asset named: no target has an id or a name" }),
    }
}

/// The draft for an activity without a rule: it changes its first target, by the target's properties. The error is the
/// name of the rule, if no target has an id.
fn generic(rules: &Rules, audit: &Audit) -> Result<Draft, Arc<str>> {
    let (action, known) = rules.entra.action(&audit.activity);
    let rule: Arc<str> = if known { format!("azure/directory/{}", action.as_str()).into() } else { GENERIC.into() };
    about_first_target(rules, audit, (action, known), &rule).ok_or(rule)
}

fn about_first_target(rules: &Rules, audit: &Audit, (action, known): (Action, bool), rule: &Arc<str>) -> Option<Draft> {
    let targets = audit.view.0.get("targets")?.as_array()?;
    let (target, id) = targets.iter().find_map(|target| {
        let id = target.get("id").and_then(Value::as_str);
        // A domain is identified by its name.
        Some((target.as_object()?, id.or_else(|| target.get("displayName")?.as_str())?))
    })?;
    let plan = rules.directory_kind(target.get("type").and_then(Value::as_str));
    let parts = Parts { partition: "-", region: "-", account: &audit.tenant, id, vars: &[] };
    let (steps, told) = steps(target, action);
    Some(Draft {
        action: DraftAction::Known(action),
        asset: AssetRef {
            name: plan.asset_name(&parts)?,
            kind: Arc::clone(&plan.kind),
            id: id.to_owned(),
            arn: None,
            arn_is_told: false,
            region: "-".to_owned(),
            account: audit.tenant.clone(),
        },
        steps,
        // The directory records only some of the properties.
        partial: !told || matches!(action, Action::Create),
        associations: Vec::new(),
        rule: Arc::clone(rule),
        confidence: if known { Confidence::High } else { Confidence::Low },
    })
}

/// The steps from a target's properties, and whether it has any new ones.
fn steps(target: &Map<String, Value>, action: Action) -> (Vec<Step>, bool) {
    let own = ["displayName", "userPrincipalName"].into_iter().filter_map(|key| {
        let value = target.get(key).filter(|value| !value.is_null())?;
        Some((key.to_owned(), value.clone()))
    });
    let old = target.get("old").and_then(Value::as_object).cloned().unwrap_or_default();
    let new = target.get("new").and_then(Value::as_object).cloned().unwrap_or_default();
    let told = !new.is_empty();
    let mut steps = vec![Step::Recall(Value::Object(old).into())];
    let at = |key: String| PointerBuf::from_tokens([key]);
    if action != Action::Delete {
        steps.extend(own.map(|(key, value)| Step::Set { at: at(key), value: value.into() }));
        steps.extend(new.into_iter().map(|(key, value)| match value {
            Value::Null => Step::Unset { at: at(key) },
            value => Step::Set { at: at(key), value: value.into() },
        }));
    }
    (steps, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(properties: Value) -> Audit {
        let record = json!({ "time": "2024-05-06T07:08:09Z", "category": "AuditLogs", "tenantId": "T1", "properties": properties });
        Audit::read(record.as_object().unwrap()).unwrap()
    }

    #[test]
    fn old_and_new_values_are_told_in_json_in_texts() {
        let audit = audit(json!({
            "activityDisplayName": "Update policy \u{2013} x ", "result": "success",
            "targetResources": [{ "id": "ABC", "type": "User", "modifiedProperties": [
                { "displayName": "AccountEnabled", "oldValue": "[false]", "newValue": "[true]" },
                { "displayName": "Groups", "oldValue": "[\"a\",\"b\"]", "newValue": "[\"a\"]" },
                { "displayName": "Apps", "oldValue": "[]", "newValue": "[{\"id\":1}]" },
                { "displayName": "Plain", "oldValue": "was", "newValue": "" },
                { "displayName": "Included Updated Properties", "oldValue": null, "newValue": "\"AccountEnabled\"" },
            ] }],
            "additionalDetails": [{ "key": "User-Agent", "value": "Mozilla/5.0" }],
        }));
        assert_eq!((audit.activity.as_str(), audit.tenant.as_str(), audit.failed), ("Update policy - x", "t1", false));
        assert_eq!(audit.user_agent.as_deref(), Some("Mozilla/5.0"));
        let target = &audit.view.0["target"]["User"];
        assert_eq!(target["id"], "abc");
        assert_eq!(target["old"], json!({ "accountEnabled": false, "groups": ["a", "b"], "plain": "was" }));
        assert_eq!(
            target["new"],
            json!({ "accountEnabled": true, "groups": "a", "apps": [{ "id": 1 }], "plain": null })
        );
    }

    #[test]
    fn what_a_record_may_lack() {
        for (result, failed) in
            [("success", false), ("failure", true), ("Failed", true), ("timeout", true), ("0", false)]
        {
            assert_eq!(audit(json!({ "activityDisplayName": "x", "result": result })).failed, failed, "{result}");
        }
        let bare = audit(json!({ "activityDisplayName": "x", "initiatedBy": {} }));
        assert!(bare.initiated_by.is_empty() && bare.view.0["targets"] == json!([]));
        let graph = json!({ "activityDateTime": "2024-05-06T07:08:09Z", "activityDisplayName": "Add user", "id": "Directory_1",
                            "targetResources": "[{\"id\":\"a\"}]" });
        let graph = Audit::read(graph.as_object().unwrap()).unwrap();
        assert_eq!((graph.tenant.as_str(), graph.event_id.as_deref()), ("-", Some("Directory_1")));
        assert_eq!(graph.view.0["target"]["Other"]["id"], "a");
    }
}
