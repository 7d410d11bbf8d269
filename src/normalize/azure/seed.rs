//! Seeds from Azure inventories: resources as listed by Resource Manager, Resource Graph and the `az` command,
//! directory objects as listed by Microsoft Graph.

use std::sync::Arc;

use jsonptr::PointerBuf;
use serde_json::{Map, Value, json};

use super::super::seed::{Forms, SeedFault};
use super::super::template::Parts;
use super::arm::{ArmId, has_prefix};
use super::{Rules, lower};
use crate::model::{AssetKind, AssetRef, Confidence, Draft, DraftAction, Seed, SeedDocument, Step};

/// Members of a resource beside its `properties`
/// (<https://learn.microsoft.com/azure/governance/resource-graph/concepts/query-language>).
const BESIDE_PROPERTIES: [&str; 14] = [
    "extendedLocation",
    "id",
    "identity",
    "kind",
    "location",
    "managedBy",
    "name",
    "plan",
    "properties",
    "scale",
    "sku",
    "tags",
    "type",
    "zones",
];
/// Members of a Resource Graph row or of `az` output that are not part of the resource.
const OF_THE_ROW: [&str; 8] = [
    "apiVersion",
    "changedTime",
    "createdTime",
    "etag",
    "provisioningState",
    "resourceGroup",
    "subscriptionId",
    "tenantId",
];

impl Rules {
    /// The asset type for a provider type, if a rule or the taxonomy covers it.
    pub(in crate::normalize) fn known_kind(&self, provider_type: &str) -> Option<Arc<AssetKind>> {
        self.plan.assets.get(&lower(provider_type)).map(|asset| Arc::clone(&asset.kind))
    }
}

/// Normalizes a resource of Resource Manager.
pub(in crate::normalize) fn seed_resource(
    rules: &Rules,
    _: &Forms,
    told: &Map<String, Value>,
    document: &SeedDocument,
) -> Result<Seed, SeedFault> {
    let text = told.get("id").and_then(Value::as_str).unwrap_or_default();
    let id = ArmId::parse(text).filter(ArmId::is_whole);
    let id = id.ok_or_else(|| rejected("no_asset_named", format!("{text:?} is not a resource id")))?;
    let of_row = told.get("tenantId").and_then(Value::as_str).map(str::to_ascii_lowercase);
    let tenant = of_row.or_else(|| document.account.clone()).unwrap_or_else(|| "-".to_owned());
    let (kind, _) = rules.kind(&id);
    let (body, partial) = body(told);
    let at = PointerBuf::from_tokens(["name"]);
    let name = told.get("name").and_then(Value::as_str).unwrap_or_else(|| id.name());
    let steps =
        vec![Step::Replace(rules.generic.configuration(&body).into()), Step::Set { at, value: json!(name).into() }];
    let asset = AssetRef {
        name: id.asset_name(&tenant),
        kind: Arc::clone(&kind.kind),
        id: id.text().to_owned(),
        arn: None,
        arn_is_told: false,
        account: id.subscription().unwrap_or(tenant),
        region: "-".to_owned(),
    };
    Ok(seed(asset, steps, partial, document, "azure/seed/resource"))
}

/// The resource in the form of Resource Manager, and whether it is only partially known.
fn body(told: &Map<String, Value>) -> (Map<String, Value>, bool) {
    let of_resource = |key: &str, value: &Value| {
        !OF_THE_ROW.contains(&key) && !key.starts_with('_') && !value.is_null() && value.as_str() != Some("")
    };
    let mut body: Map<String, Value> = told
        .iter()
        .filter(|(key, value)| of_resource(key, value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if body.get("properties").is_some_and(Value::is_object) {
        return (body, false);
    }
    // `az` puts the properties beside the other members; its lists of all types leave them out.
    let (beside, properties): (Map<_, _>, Map<_, _>) =
        body.into_iter().partition(|(key, _)| BESIDE_PROPERTIES.contains(&key.as_str()));
    body = beside;
    let partial = properties.is_empty();
    if !partial {
        let properties = properties.into_iter().map(|(key, value)| (key, unflattened(value)));
        body.insert("properties".to_owned(), Value::Object(properties.collect()));
    }
    (body, partial)
}

/// Moves the properties of parts that are resources themselves to where Resource Manager has them.
fn unflattened(value: Value) -> Value {
    match value {
        Value::Array(elements) => elements.into_iter().map(unflattened).collect(),
        Value::Object(mut members) => {
            members.remove("resourceGroup");
            let is_part = members.get("id").and_then(Value::as_str).is_some_and(|id| has_prefix(id, "/subscriptions/"));
            if !is_part || members.contains_key("properties") || !members.contains_key("name") {
                return members.into_iter().map(|(key, value)| (key, unflattened(value))).collect();
            }
            let (mut part, properties): (Map<_, _>, Map<_, _>) =
                members.into_iter().partition(|(key, _)| BESIDE_PROPERTIES.contains(&key.as_str()) || key == "etag");
            let properties = properties.into_iter().filter(|(_, value)| !value.is_null());
            let properties = properties.map(|(key, value)| (key, unflattened(value))).collect();
            part.retain(|_, value| !value.is_null());
            part.insert("properties".to_owned(), Value::Object(properties));
            Value::Object(part)
        }
        scalar => scalar,
    }
}

/// Whether an id is that of a directory object: a UUID.
pub(in crate::normalize) fn is_directory_id(id: &str) -> bool {
    let parts: Vec<usize> = id.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && id.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// Normalizes a directory object (<https://learn.microsoft.com/graph/api/overview>).
pub(in crate::normalize) fn seed_object(
    rules: &Rules,
    forms: &Forms,
    told: &Map<String, Value>,
    document: &SeedDocument,
) -> Result<Seed, SeedFault> {
    let kind = object_kind(forms, told, document)?;
    let tenant = document.account.as_deref().map(str::to_ascii_lowercase).ok_or_else(|| {
        rejected("no_account", "the directory export does not contain its tenant; give it with --account")
    })?;
    // The audit identifies a role by its template, which is the same in every tenant.
    let own = told.get("roleTemplateId").or_else(|| told.get("id")).and_then(Value::as_str).unwrap_or_default();
    let id = own.to_ascii_lowercase();
    let plan = rules.directory_kind(Some(kind));
    let parts = Parts { partition: "-", region: "-", account: &tenant, id: &id, vars: &[] };
    let name = plan.asset_name(&parts).ok_or_else(|| rejected("no_asset_named", "an object without its id"))?;
    let kept = told.iter().filter(|(key, value)| !key.contains('@') && *key != "id" && !value.is_null());
    let configuration = kept.map(|(key, value)| {
        let is_people = ["members", "owners"].contains(&key.as_str());
        (key.clone(), if is_people { people(value) } else { value.clone() })
    });
    let steps = vec![Step::Replace(Value::Object(configuration.collect()).into())];
    let asset = AssetRef {
        kind: Arc::clone(&plan.kind),
        name,
        arn: None,
        arn_is_told: false,
        account: tenant.clone(),
        region: "-".to_owned(),
        id,
    };
    // A query returns only the properties that it selects.
    Ok(seed(asset, steps, true, document, "azure/seed/object"))
}

/// The type of an object, as `User`: as it states itself, by the collection that was queried, or by its characteristic
/// members.
fn object_kind<'f>(forms: &'f Forms, told: &Map<String, Value>, document: &SeedDocument) -> Result<&'f str, SeedFault> {
    let text = |members: &Map<String, Value>, key: &str| members.get(key).and_then(Value::as_str).map(str::to_owned);
    let own = text(told, "@odata.type").map(|name| format!("{}s", name.trim_start_matches("#microsoft.graph.")));
    let context = text(&document.members, "@odata.context").or_else(|| text(told, "@odata.context"));
    let asked = context.and_then(|context| {
        let (_, collection) = context.split_once("$metadata#")?;
        Some(collection.split(['(', '/']).next().unwrap_or(collection).to_owned())
    });
    let has = |key: &str| told.contains_key(key);
    let by_members = || {
        Some(match () {
            () if has("userPrincipalName") => "users",
            () if has("servicePrincipalType") => "servicePrincipals",
            () if has("appId") && has("signInAudience") => "applications",
            () if has("mailEnabled") && has("securityEnabled") => "groups",
            () if has("roleTemplateId") => "directoryRoles",
            () => return None,
        })
    };
    let known = [own, asked].into_iter().flatten().find_map(|name| forms.directory(&name));
    known.or_else(|| forms.directory(by_members()?)).ok_or_else(|| {
        SeedFault::UnknownType(
            "object of Microsoft Graph that is no user, group, application, principal or role".into(),
        )
    })
}

/// Members and owners in the form of the audit.
fn people(told: &Value) -> Value {
    let people = told.as_array().into_iter().flatten().map(|person| {
        let text = |key: &str| person.get(key).and_then(Value::as_str);
        let name = text("userPrincipalName").or_else(|| text("displayName"));
        let kind = text("@odata.type").map(|kind| {
            let mut letters = kind.trim_start_matches("#microsoft.graph.").chars();
            letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect::<String>()
        });
        let told = [("id", text("id").map(str::to_ascii_lowercase)), ("name", name.map(str::to_owned)), ("type", kind)];
        let told = told.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value?))));
        Value::Object(told.collect())
    });
    people.collect()
}

fn seed(asset: AssetRef, steps: Vec<Step>, partial: bool, document: &SeedDocument, rule: &str) -> Seed {
    let draft = Draft {
        action: DraftAction::Upsert,
        asset,
        steps,
        partial,
        associations: Vec::new(),
        rule: rule.into(),
        confidence: Confidence::High,
    };
    Seed { as_of: document.as_of, draft }
}

fn rejected(code: &'static str, reason: impl Into<String>) -> SeedFault {
    SeedFault::Rejected { code, reason: reason.into() }
}
