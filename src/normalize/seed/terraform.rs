//! Terraform state: the managed resources (<https://developer.hashicorp.com/terraform/internals/json-format>; the
//! state's own format is internal to Terraform, and has been version 4 since 2018). Values that the state marks as
//! sensitive are replaced.

use serde_json::{Map, Value, json};

use super::forms::Forms;
use super::item::{Form, Item, tags, text};

/// Attributes of directory objects that, in camel case, have the same names as in Microsoft Graph.
const OF_DIRECTORY: [&str; 12] = [
    "accountEnabled",
    "appId",
    "appRoleAssignmentRequired",
    "description",
    "displayName",
    "mail",
    "mailEnabled",
    "mailNickname",
    "notes",
    "securityEnabled",
    "signInAudience",
    "userPrincipalName",
];

/// The instances of a resource, in the form of the inventory that they correspond to.
pub(super) enum Resources {
    Amazon(Vec<Item>),
    /// As Azure Resource Manager lists them.
    Azure(Vec<Map<String, Value>>),
    /// As Microsoft Graph lists them.
    Directory(Vec<Map<String, Value>>),
}

/// Parses the instances of a resource. The error says what is missing.
pub(super) fn resources(
    forms: &Forms,
    told: &Map<String, Value>,
    kind_of_arn: impl Fn(&str, bool) -> Option<String>,
) -> Result<Resources, String> {
    let kind = told.get("type").and_then(Value::as_str).ok_or("a resource without its type")?;
    let instances = told.get("instances").and_then(Value::as_array).into_iter().flatten();
    let instances: Vec<Value> = instances.filter_map(attributes).collect();
    if kind.starts_with("azurerm_") {
        let found: Vec<_> = instances.iter().filter_map(of_resource_manager).collect();
        // Without a Resource Manager id, it is a part of another resource.
        if !found.is_empty() {
            return Ok(Resources::Azure(found));
        }
    }
    if let Some(object) = forms.terraform_directory.get(kind) {
        return Ok(Resources::Directory(instances.iter().map(|instance| of_directory(object, instance)).collect()));
    }
    Ok(Resources::Amazon(instances.iter().map(|instance| of_amazon(forms, kind, instance, &kind_of_arn)).collect()))
}

/// The attributes of an instance without sensitive values, in camel case as in the APIs.
fn attributes(instance: &Value) -> Option<Value> {
    let mut attributes = instance.get("attributes").filter(|attributes| attributes.is_object())?.clone();
    for path in instance.get("sensitive_attributes").and_then(Value::as_array).into_iter().flatten() {
        redact(&mut attributes, path);
    }
    Some(camel_case(attributes))
}

fn of_amazon(
    forms: &Forms,
    kind: &str,
    attributes: &Value,
    kind_of_arn: impl Fn(&str, bool) -> Option<String>,
) -> Item {
    let arn = text(attributes, &["arn"]).filter(|arn| arn.starts_with("arn:"));
    let by_arn = || arn.as_deref().and_then(|arn| kind_of_arn(arn, true));
    let kind = forms.terraform.get(kind).cloned().or_else(by_arn).unwrap_or_else(|| kind.to_owned());
    let mut item = Item::new(Form::Terraform, kind, attributes);
    item.id = text(attributes, &["id"]);
    item.name = text(attributes, &["name"]);
    item.tags = tags(attributes, "tagsAll").or(item.tags);
    item.with_arn(arn)
}

/// The id of a resource, and the attributes that have the same form as in Resource Manager; the others are the
/// Terraform provider's own. `None` if the id is not a resource's.
fn of_resource_manager(attributes: &Value) -> Option<Map<String, Value>> {
    let id = text(attributes, &["id"])?;
    let is_whole = id.get(..15).is_some_and(|start| start.eq_ignore_ascii_case("/subscriptions/")) && !id.contains('|');
    let mut told = Map::from_iter([("id".to_owned(), json!(id))]);
    for key in ["name", "location", "tags"] {
        let value = attributes.get(key).filter(|value| !value.is_null());
        told.extend(value.map(|value| (key.to_owned(), value.clone())));
    }
    is_whole.then_some(told)
}

fn of_directory(object: &str, attributes: &Value) -> Map<String, Value> {
    let mut told = Map::from_iter([("@odata.type".to_owned(), json!(format!("#microsoft.graph.{object}")))]);
    for key in OF_DIRECTORY {
        let value = attributes.get(key).filter(|value| !value.is_null() && value.as_str() != Some(""));
        told.extend(value.map(|value| (key.to_owned(), value.clone())));
    }
    told.extend(text(attributes, &["clientId", "applicationId"]).map(|id| ("appId".to_owned(), json!(id))));
    told.extend(text(attributes, &["objectId"]).map(|id| ("id".to_owned(), json!(id))));
    told
}

/// Redacts the value at a Terraform path: `[{"type": "get_attr", "value": "password"}, …]`.
fn redact(attributes: &mut Value, path: &Value) {
    let mut at = attributes;
    for step in path.as_array().into_iter().flatten() {
        let step = step.get("value").unwrap_or(&Value::Null);
        let key = step.as_str().or_else(|| step.get("value").and_then(Value::as_str));
        let index = step.get("value").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
        let next = match (at, key, index) {
            (Value::Object(members), Some(key), _) => members.get_mut(key),
            (Value::Array(elements), _, Some(index)) => elements.get_mut(index),
            _ => None,
        };
        let Some(next) = next else { return };
        at = next;
    }
    if !at.is_null() {
        *at = json!("[redacted]");
    }
}

/// `vpc_id` → `vpcId`. Keys below `tags` are kept.
fn camel_case(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let renamed = members.into_iter().map(|(key, value)| {
                let value = if key.starts_with("tags") { value } else { camel_case(value) };
                let mut words = key.split('_');
                let mut name = words.next().unwrap_or_default().to_owned();
                for word in words {
                    let mut letters = word.chars();
                    name.extend(letters.next().into_iter().flat_map(char::to_uppercase).chain(letters));
                }
                (name, value)
            });
            Value::Object(renamed.collect())
        }
        Value::Array(elements) => elements.into_iter().map(camel_case).collect(),
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_api() {
        assert_eq!(
            camel_case(json!({ "vpc_id": [{ "cidr_block": 1 }], "tags": { "cost_centre": "a" } })),
            json!({ "vpcId": [{ "cidrBlock": 1 }], "tags": { "cost_centre": "a" } })
        );
    }

    #[test]
    fn what_a_state_calls_sensitive_is_left_out() {
        let mut attributes = json!({ "password": "hunter2", "list": [{ "key": "k" }], "plain": 1 });
        redact(&mut attributes, &json!([{ "type": "get_attr", "value": "password" }]));
        redact(
            &mut attributes,
            &json!([
                { "type": "get_attr", "value": "list" },
                { "type": "index", "value": { "value": 0, "type": "number" } },
                { "type": "get_attr", "value": "key" },
            ]),
        );
        redact(&mut attributes, &json!([{ "type": "get_attr", "value": "missing" }]));
        assert_eq!(attributes, json!({ "password": "[redacted]", "list": [{ "key": "[redacted]" }], "plain": 1 }));
    }
}
