//! Azure records: the activity log, Entra ID's directory audit, and others that arrive the same way and change nothing.

mod activity;
mod arm;
mod attribution;
mod change;
mod entra;
mod explain;
mod fields;
mod generic;
mod seed;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jsonptr::PointerBuf;
use serde_json::{Map, Value, json};

use self::activity::Activity;
use self::change::Operation;
use self::entra::Audit;
use self::fields::Fields;
use self::generic::Verdict;
use super::catalog::Catalog;
use super::eval::Evaluated;
use super::method::MethodRules;
use super::plan::{AssetPlan, EventPlan, Plan};
use super::redact::Secrets;
use super::template::Template;
use super::{Outcome, hashed_id, not_json, sanitize};
use crate::json::Arena;
use crate::model::{AssetKind, Evidence, Operation as Call, OperationRecord, Phase, RecordInfo, UniqueId};

pub(super) use self::arm::ArmId;
pub(super) use self::attribution::Apps;
pub(super) use self::entra::Activities;
pub(super) use self::explain::explain;
pub(super) use self::generic::Generic;
pub(super) use self::seed::{is_directory_id, seed_object, seed_resource};

/// The rules for Azure. Case is ignored in the names of operations, types and activities: keys are in lower case.
#[derive(Debug)]
pub(super) struct Rules {
    plan: Plan,
    generic: Generic,
    entra: Activities,
    apps: Apps,
    methods: MethodRules,
    secrets: Secrets,
}

/// `normalizers/azure/generic.toml`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GenericFile {
    arm: Generic,
    entra: Activities,
}

impl Rules {
    /// `neutral_types` maps provider types that no rule file defines to neutral types.
    pub(super) fn new(
        plan: Plan,
        generic: GenericFile,
        apps: Apps,
        methods: MethodRules,
        secrets: Secrets,
        neutral_types: BTreeMap<String, String>,
    ) -> Self {
        let mut folded = Plan::default();
        for (name, mut service) in plan.services {
            service.events = service.events.into_iter().map(|(name, events)| (lower(&name), events)).collect();
            folded.services.insert(lower(&name), service);
        }
        let listed = neutral_types.into_iter().map(|(provider_type, neutral)| {
            let directory = provider_type.starts_with(DIRECTORY);
            let name = if directory {
                format!("entra/{}/{{id}}", provider_type.trim_start_matches(DIRECTORY).to_lowercase())
            } else {
                "{arm_id}".to_owned()
            };
            let display = if directory { ["displayName", "userPrincipalName"].as_slice() } else { ["name"].as_slice() };
            (lower(&provider_type), Arc::new(asset(provider_type, neutral, &name, display)))
        });
        folded.assets = listed.collect();
        folded.assets.extend(plan.assets.into_iter().map(|(name, asset)| (lower(&name), asset)));
        Self { plan: folded, generic: generic.arm, entra: generic.entra, apps, methods, secrets }
    }

    /// The definitions of secrets in Azure records.
    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The names of all rules.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let events = self.plan.services.values().flat_map(|service| service.events.values());
        events.filter_map(|rules| rules.first()).map(|rule| &rule.rule)
    }

    /// The namespace of an operation: `microsoft.compute` for `Microsoft.Compute/virtualMachines/write`.
    fn namespace(&self, operation: &str) -> String {
        operation.split('/').next().unwrap_or_default().to_lowercase()
    }

    /// The rules of an operation.
    fn events(&self, operation: &str) -> &[EventPlan] {
        self.plan.events(&self.namespace(operation), &operation.to_lowercase()).unwrap_or_default()
    }

    /// The rules of a directory activity.
    fn activity(&self, activity: &str) -> &[EventPlan] {
        self.plan.events(entra::SERVICE, &self.entra.ruled_as(activity).to_lowercase()).unwrap_or_default()
    }

    /// The asset type of a resource, and whether a rule or the taxonomy covers it.
    fn kind(&self, id: &ArmId<'_>) -> (Arc<AssetPlan>, bool) {
        kind(&self.plan, id)
    }

    /// The operation's name. If no record has it in mixed case, the part for the type is spelled as the type is.
    fn operation_name(&self, operation: &Operation<'_>) -> String {
        let (kind, _) = self.kind(&operation.resource);
        let known = kind.kind.provider_type.as_str();
        match operation.name.get(known.len()..) {
            Some(rest) if arm::is_of_one_case(operation.name) && arm::has_prefix(operation.name, known) => {
                format!("{known}{}", rest.to_lowercase())
            }
            _ => operation.name.to_owned(),
        }
    }

    /// The resource of a known type that an id belongs to: the front end of a load balancer is a part of it. The id
    /// itself if there is none.
    fn known_part<'a>(&self, id: ArmId<'a>) -> ArmId<'a> {
        let known = |id: &ArmId<'_>| self.plan.assets.contains_key(id.resource_type().to_lowercase().as_str());
        let mut at = id.clone();
        while !known(&at) {
            match at.parent().filter(|_| at.is_part()) {
                Some(parent) => at = parent,
                None => return id,
            }
        }
        at
    }

    /// The asset type for a target of the directory audit.
    fn directory_kind(&self, target: Option<&str>) -> Arc<AssetPlan> {
        let target = target.unwrap_or("Other");
        let provider_type = format!("{DIRECTORY}{target}");
        self.plan.assets.get(provider_type.to_lowercase().as_str()).cloned().unwrap_or_else(|| {
            let name = format!("entra/{}/{{id}}", target.to_lowercase().replace(['{', '}', '/'], ""));
            Arc::new(asset(provider_type, "unclassified.entra".to_owned(), &name, &["displayName"]))
        })
    }
}

/// The prefix of the provider types of directory objects, which are named as in Microsoft Graph.
const DIRECTORY: &str = "Microsoft.Graph/";

fn lower(text: &str) -> Box<str> {
    text.to_lowercase().into()
}

/// The asset type of a resource, and whether a rule or the taxonomy covers it.
pub(super) fn kind(plan: &Plan, id: &ArmId<'_>) -> (Arc<AssetPlan>, bool) {
    let provider_type = id.resource_type();
    let lower = provider_type.to_lowercase();
    if let Some(known) = plan.assets.get(lower.as_str()) {
        return (Arc::clone(known), true);
    }
    let namespace = lower.split('/').next().unwrap_or_default();
    let last = id.last_type().to_lowercase();
    let patterns = [format!("*/{last}"), format!("{namespace}/*")];
    let fits = patterns.iter().find_map(|pattern| plan.assets.get(pattern.as_str()));
    let neutral = fits.map(|fits| fits.kind.neutral_type.clone());
    let unknown = || format!("unclassified.{}", namespace.trim_start_matches("microsoft."));
    let kind = asset(provider_type, neutral.unwrap_or_else(unknown), "{arm_id}", &["name"]);
    (Arc::new(kind), fits.is_some())
}

fn asset(provider_type: String, neutral_type: String, name: &str, display: &[&str]) -> AssetPlan {
    let uid = provider_type.starts_with(DIRECTORY).then_some(UniqueId::Id).into_iter().collect();
    AssetPlan {
        kind: Arc::new(AssetKind {
            provider: "azure",
            provider_type,
            neutral_type,
            display: display.iter().map(|key| PointerBuf::from_tokens([*key])).collect(),
            tags: PointerBuf::from_tokens(["tags"]),
            uid,
            sets: Vec::new(),
        }),
        name: Template::parse(name).unwrap_or_default(),
        arn: None,
        id_prefix: None,
        global: true,
    }
}

/// The kind of a record, recognised by its members.
enum Kind {
    Activity,
    Audit,
    /// Understood, and never a change, with the reason.
    Other(Cow<'static, str>),
}

/// Normalizes a record without CloudTrail's event source. Both `Ok` and `Err` are outcomes of the record.
pub(super) fn normalize(catalog: &Catalog, text: &str) -> Result<Outcome, Outcome> {
    let value: Value = serde_json::from_str(text).map_err(not_json)?;
    let unknown = || {
        let reason = "neither a CloudTrail record (eventSource, eventName, …) nor one of Azure's activity log or directory audit \
                      (operationName, category, resourceId, …)";
        Outcome::rejected("unknown_format", reason)
    };
    let record = unwrapped(&value).ok_or_else(unknown)?;
    match recognize(&record).ok_or_else(unknown)? {
        Kind::Other(reason) => Ok(Outcome::skipped(&reason)),
        Kind::Audit => audit(catalog, text, &record),
        Kind::Activity => activity(catalog, text, &record),
    }
}

/// The rules of a record's operation or activity; empty if the record does not name it.
pub(super) fn rules_of<'c>(catalog: &'c Catalog, text: &str) -> &'c [EventPlan] {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let Some(record) = unwrapped(&value) else { return &[] };
    let fields = Fields(&record);
    let inner = fields.object(&["properties"]);
    let operation = fields.text(&["operationNameValue", "operationName"]).unwrap_or_default();
    let activity = fields.text(&["activityDisplayName"]).or_else(|| Fields(&inner).text(&["activityDisplayName"]));
    match catalog.azure.events(operation) {
        [] => catalog.azure.activity(activity.unwrap_or(operation)),
        rules => rules,
    }
}

/// Unwraps an Event Grid event, whose `data` describes the end of an operation
/// (<https://learn.microsoft.com/azure/event-grid/event-schema-subscriptions>).
fn unwrapped(value: &Value) -> Option<Cow<'_, Map<String, Value>>> {
    let record = value.as_object()?;
    let fields = Fields(record);
    let (Some(kind), Some(Value::Object(data))) = (fields.text(&["eventType", "type"]), fields.get(&["data"])) else {
        return Some(Cow::Borrowed(record));
    };
    let Some(ended) = kind.strip_prefix("Microsoft.Resources.Resource") else { return Some(Cow::Borrowed(record)) };
    let status = ["Success", "Failure", "Cancel"].into_iter().find(|status| ended.ends_with(status));
    let mut inner = data.clone();
    inner.insert("category".into(), json!("Administrative"));
    inner.insert("status".into(), json!(status));
    inner.insert("time".into(), fields.get(&["eventTime", "time"]).cloned().unwrap_or(Value::Null));
    if !inner.contains_key("resourceUri") {
        inner.insert("resourceUri".into(), fields.get(&["subject"]).cloned().unwrap_or(Value::Null));
    }
    Some(Cow::Owned(inner))
}

/// Recognises the kind of an Azure record; the only place that does.
fn recognize(record: &Map<String, Value>) -> Option<Kind> {
    let fields = Fields(record);
    let has = |names: &[&str]| fields.get(names).is_some();
    let inner = fields.object(&["properties"]);
    let inner = Fields(&inner);
    let category = fields.text(&["categoryValue", "category", "type"]).unwrap_or_default().to_ascii_lowercase();
    let operation = fields.text(&["operationNameValue", "operationName"]);

    if has(&["specversion"]) || (has(&["eventType"]) && has(&["data"])) {
        return Some(Kind::Other("Event Grid event of data, not of a resource".into()));
    }
    if has(&["changeAttributes", "afterSnapshot"]) || inner.get(&["changeAttributes"]).is_some() {
        return Some(Kind::Other("Resource Graph change: the activity log tells the operation".into()));
    }
    let is_sign_in = category.ends_with("signinlogs")
        || operation == Some("Sign-in activity")
        || (has(&["createdDateTime"])
            && has(&["appDisplayName"])
            && has(&["conditionalAccessStatus", "isInteractive", "userId"]));
    if is_sign_in {
        return Some(Kind::Other("sign-in".into()));
    }
    let tells_activity =
        has(&["activityDisplayName"]) || inner.get(&["activityDisplayName", "loggedByService"]).is_some();
    if category == "auditlogs"
        || (tells_activity && (has(&["targetResources", "targetResource"]) || has(&["properties", "initiatedBy"])))
    {
        // Some deliver the activity log under the directory's category.
        let is_arm = operation.is_some_and(|name| name.contains('/') && !tells_activity);
        return Some(if is_arm { Kind::Activity } else { Kind::Audit });
    }
    let operation = operation?;
    let of_activity_log = matches!(
        category.as_str(),
        "administrative"
            | "policy"
            | "security"
            | "servicehealth"
            | "resourcehealth"
            | "alert"
            | "recommendation"
            | "autoscale"
            | "write"
            | "delete"
            | "action"
            | "azureactivity"
    ) || has(&["eventDataId", "eventTimestamp"]);
    if of_activity_log {
        return Some(Kind::Activity);
    }
    let is_diagnostic = has(&["category"]) || (has(&["time"]) && (has(&["resourceId", "uri"])));
    is_diagnostic
        .then(|| Kind::Other("diagnostic log, which tells no change of a resource".into()))
        .filter(|_| !operation.is_empty())
}

fn activity(catalog: &Catalog, text: &str, record: &Map<String, Value>) -> Result<Outcome, Outcome> {
    let rules = &catalog.azure;
    if let Some(category) = Fields(record).text(&["categoryValue", "category"])
        && let Some(reason) = rules.generic.skipped_category(category)
    {
        return Ok(Outcome::skipped(&reason));
    }
    let activity = Activity::read(record)?;
    let own = rules.events(&activity.operation);
    let verdict = rules.generic.verdict(&activity.operation);
    if own.is_empty()
        && let Verdict::Skip(reason) = &verdict
    {
        return Ok(Outcome::skipped(reason));
    }
    let sanitized = sanitize(&rules.secrets, text, redacting(rules, &activity).into_iter())?;
    let record_key = activity.record_key(text);
    let has_body = activity.request.is_some() || activity.response.is_some();
    let is_whole = has_body && (activity.says_created() || activity.says_existed());
    let part = OperationRecord {
        operation: activity.operation_key().unwrap_or(record_key),
        id: record_key,
        time: activity.time,
        phase: activity.phase,
        wants_start: activity.verb() == "write" && !is_whole,
        deployment: activity.deployment().map(Box::new),
        text: Bytes::copy_from_slice(sanitized.trim().as_bytes()),
    };
    if activity.operation_key().is_some() {
        return Ok(Outcome::Operation(Box::new(part)));
    }
    // Without a correlation id, there are no other records to fold it with.
    match activity.phase {
        Phase::Failed => Ok(Outcome::skipped("failed call")),
        _ => fold(catalog, &[part.text]),
    }
}

/// The rules of an operation whose conditions hold and that have something to redact.
fn redacting<'r>(rules: &'r Rules, activity: &Activity) -> Vec<&'r EventPlan> {
    let own: Vec<_> = rules.events(&activity.operation).iter().filter(|rule| !rule.redact.is_empty()).collect();
    if own.iter().all(|rule| rule.when.is_empty()) {
        return own;
    }
    let Some(operation) = Operation::of(std::slice::from_ref(activity)) else { return own };
    let arena = Arena::new();
    let scope = operation.view(rules).facts(&arena).scope();
    own.into_iter().filter(|rule| rule.holds(scope)).collect()
}

/// Normalizes the records of one operation together, in any order. Both `Ok` and `Err` are outcomes of the operation.
pub(super) fn fold(catalog: &Catalog, texts: &[Bytes]) -> Result<Outcome, Outcome> {
    let mut records = Vec::with_capacity(texts.len());
    for text in texts {
        let value: Value = serde_json::from_slice(text).map_err(not_json)?;
        let record = unwrapped(&value).ok_or_else(|| Outcome::rejected("not_json", "not a JSON object"))?;
        let activity = Activity::read(&record)?;
        records.push((activity, text));
    }
    records.sort_by_key(|(record, _)| (record.time, record.phase as u8));
    let raw = raw(&records);
    let keys: Vec<_> = records
        .iter()
        .map(|(record, text)| (record.phase, record.record_key(&String::from_utf8_lossy(text))))
        .collect();
    let records: Vec<Activity> = records.into_iter().map(|(record, _)| record).collect();
    let unnamed = || Outcome::rejected("no_asset_named", "no asset named: the resourceId is not a resource id");
    let operation = Operation::of(&records).ok_or_else(unnamed)?;
    let end = operation.end().ok_or_else(unnamed)?;
    // The event id is that of the record of the end, of which there is one; without it, that of the first record.
    let told = keys.iter().find(|(phase, _)| *phase == Phase::Succeeded).or(keys.first());
    let event_id = told.map_or_else(String::new, |(_, key)| format!("{key:032x}"));
    let account = operation.account();
    let name = catalog.azure.operation_name(&operation);
    let evaluated = change::drafts(&catalog.azure, &operation);
    outcome(evaluated, || RecordInfo {
        time: end.time,
        source: format!("//azure/{account}"),
        operation: Call {
            service: name.split('/').next().unwrap_or_default().to_owned(),
            name: name.clone(),
            event_id: end.event_data_id.clone().unwrap_or_else(|| event_id.clone()),
            request_id: end.correlation.clone(),
            outcome: match end.phase {
                Phase::Succeeded => "success",
                Phase::Accepted => "accepted",
                _ => "started",
            },
        },
        attribution: attribution::of_activity(&catalog.azure.apps, &catalog.azure.methods, attributable(&records, end)),
        evidence: Evidence::default(),
        raw,
        event_id,
    })
}

/// The record to take the attribution from: some records of an operation come from the platform, without claims.
fn attributable<'r>(records: &'r [Activity], end: &'r Activity) -> &'r Activity {
    if end.claims.is_empty() { records.iter().find(|record| !record.claims.is_empty()).unwrap_or(end) } else { end }
}

/// The `raw` of the event: a single record as it is, several wrapped as Event Hubs does.
fn raw(records: &[(Activity, &Bytes)]) -> Bytes {
    if let [(_, only)] = records {
        return (*only).clone();
    }
    let mut raw = br#"{"records":["#.to_vec();
    for (index, (_, text)) in records.iter().enumerate() {
        if index > 0 {
            raw.push(b',');
        }
        raw.extend_from_slice(text);
    }
    raw.extend_from_slice(b"]}");
    raw.into()
}

fn audit(catalog: &Catalog, text: &str, record: &Map<String, Value>) -> Result<Outcome, Outcome> {
    let rules = &catalog.azure;
    let audit = Audit::read(record)?;
    if audit.failed {
        return Ok(Outcome::skipped("failed call"));
    }
    let sanitized = sanitize(&rules.secrets, text, rules.activity(&audit.activity).iter())?;
    let audit = match &sanitized {
        Cow::Borrowed(_) => audit,
        Cow::Owned(text) => {
            let value: Value = serde_json::from_str(text).map_err(not_json)?;
            Audit::read(value.as_object().unwrap_or(record))?
        }
    };
    let evaluated = entra::drafts(rules, &audit);
    outcome(evaluated, || RecordInfo {
        time: audit.time,
        source: format!("//azure/{}", audit.tenant),
        event_id: audit.event_id.clone().unwrap_or_else(|| hashed_id(text)),
        operation: Call {
            service: "Entra".to_owned(),
            name: audit.activity.clone(),
            event_id: audit.event_id.clone().unwrap_or_else(|| hashed_id(text)),
            request_id: audit.correlation.clone(),
            outcome: "success",
        },
        attribution: attribution::of_audit(
            &rules.apps,
            &rules.methods,
            &audit.initiated_by,
            audit.user_agent.as_deref(),
            (audit.address.as_deref(), &audit.tenant),
        ),
        evidence: Evidence::default(),
        raw: Bytes::copy_from_slice(sanitized.trim().as_bytes()),
    })
}

fn outcome(evaluated: Evaluated, record: impl FnOnce() -> RecordInfo) -> Result<Outcome, Outcome> {
    Ok(match evaluated {
        Evaluated::Drafts(drafts) => Outcome::Changes { record: Box::new(record()), drafts },
        Evaluated::Skipped { reason, rule } => Outcome::Skipped { reason, rule: Some(rule), session: None },
        Evaluated::NoRuleApplies => Outcome::skipped("no rule applies"),
        Evaluated::Unnamed { rule } => Outcome::Rejected {
            code: "no_asset_named",
            reason: format!("no asset named: the record lacks every identifier that rule {rule} looks for"),
            rule: Some(rule),
        },
    })
}
