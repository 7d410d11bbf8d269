//! Items of AWS inventories, in whatever form: one view for the rules.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::super::arn::Arn;
use super::super::transform::Transform;
use super::forms::Forms;
use crate::json::{Arena, Json};
use crate::model::Time;

/// The form of an item, `/form` in rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A configuration item of AWS Config.
    Config,
    /// A resource description of Cloud Control.
    CloudControl,
    /// An element or member in the output of the `aws` command.
    Cli,
    /// An instance of a resource of a Terraform state.
    Terraform,
}

impl Form {
    fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::CloudControl => "cloudcontrol",
            Self::Cli => "cli",
            Self::Terraform => "terraform",
        }
    }
}

/// A parsed item.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) form: Form,
    /// The provider type: `AWS::EC2::VPC`; that of Terraform if no other is known.
    pub(super) kind: String,
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) arn: Option<String>,
    pub(super) account: Option<String>,
    pub(super) region: Option<String>,
    pub(super) as_of: Option<Time>,
    pub(super) tags: Option<Value>,
    /// The configuration, with member names as in the API: `vpcId`.
    pub(super) configuration: Value,
    /// The supplementary configuration of AWS Config, unchanged.
    pub(super) supplement: Value,
    /// The asset was deleted.
    pub(super) gone: bool,
    /// The form lacks part of the configuration, or does not use the names of the API.
    pub(super) partial: bool,
}

impl Item {
    pub(super) fn new(form: Form, kind: String, told: &Value) -> Self {
        let configuration = transformed(Transform::ApiNames, told).unwrap_or_default();
        let mut item = Self {
            form,
            kind,
            id: None,
            name: None,
            arn: None,
            account: None,
            region: None,
            as_of: None,
            tags: ["tags", "tagSet", "tagList", "tagsList"].iter().find_map(|key| tags(told, key)),
            configuration,
            supplement: Value::Null,
            gone: false,
            partial: matches!(form, Form::CloudControl | Form::Terraform),
        };
        item.account = text(told, &["ownerId", "awsAccountId", "accountId"]).filter(|id| is_account(id));
        let placement = || text(told.get("Placement").or_else(|| told.get("placement"))?, &["availabilityZone"]);
        let zone = text(told, &["availabilityZone"]).or_else(placement);
        item.region = zone.as_deref().and_then(region_of_zone).map(str::to_owned);
        item
    }

    /// Sets the ARN, and the account and region that it contains.
    pub(super) fn with_arn(mut self, arn: Option<String>) -> Self {
        if let Some(parsed) = arn.as_deref().and_then(Arn::parse) {
            let told = |part: &str| (!part.is_empty() && part != "-").then(|| part.to_owned());
            self.account = told(parsed.account).or(self.account);
            self.region = told(parsed.region).or(self.region);
            self.arn = arn;
        }
        self
    }

    /// The view of the item that rules read.
    pub(super) fn view(&self) -> Value {
        json!({
            "form": self.form.as_str(), "type": self.kind, "id": self.id, "name": self.name, "arn": self.arn,
            "account": self.account, "region": self.region, "time": self.as_of, "tags": self.tags,
            "configuration": self.configuration, "supplement": self.supplement,
        })
    }
}

/// Parses a configuration item of AWS Config, as in files, `GetResourceConfigHistory` and `SelectResourceConfig`
/// (<https://docs.aws.amazon.com/config/latest/APIReference/API_ConfigurationItem.html>).
pub(super) fn of_config(told: &Map<String, Value>) -> Result<Item, String> {
    let told = Value::Object(told.clone());
    let kind = text(&told, &["resourceType"]).ok_or("a configuration item without resourceType")?;
    let status = text(&told, &["configurationItemStatus"]).unwrap_or_default();
    let gone = status.starts_with("ResourceDeleted");
    let configuration = told.get("configuration").map(parsed).filter(Value::is_object);
    if configuration.is_none() && !gone {
        return Err(format!(
            "a configuration item of {kind} without its configuration; a query must select `configuration`"
        ));
    }
    let supplement = told.get("supplementaryConfiguration").map_or(Value::Null, |supplement| match supplement {
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), parsed(value))).collect(),
        other => other.clone(),
    });
    let mut item = Item::new(Form::Config, kind, &configuration.unwrap_or_else(|| json!({})));
    item.tags = tags(&told, "tags").or(item.tags);
    item.id = text(&told, &["resourceId"]);
    item.name = text(&told, &["resourceName"]);
    item.account = text(&told, &["awsAccountId", "accountId"]).or(item.account);
    item.region = text(&told, &["awsRegion"]).filter(|region| region != "global").or(item.region);
    item.as_of = told.get("configurationItemCaptureTime").and_then(time);
    item.supplement = supplement;
    item.gone = gone;
    Ok(item.with_arn(text(&told, &["arn"])))
}

/// Parses a Cloud Control description, whose properties are those of CloudFormation
/// (<https://docs.aws.amazon.com/cloudcontrolapi/latest/APIReference/API_ResourceDescription.html>). A list may leave
/// some of them out.
pub(super) fn of_cloud_control(kind: &str, told: &Map<String, Value>) -> Result<Item, String> {
    let told = Value::Object(told.clone());
    let properties = told.get("Properties").map(parsed).filter(Value::is_object);
    let properties = properties.ok_or_else(|| format!("a description of {kind} without its Properties"))?;
    let mut item = Item::new(Form::CloudControl, kind.to_owned(), &properties);
    item.id = text(&told, &["Identifier"]);
    let arn = own_arn(&properties, kind.rsplit("::").next().unwrap_or_default(), &[]);
    let arn = arn.or_else(|| item.id.clone().filter(|id| id.starts_with("arn:")));
    Ok(item.with_arn(arn))
}

/// Parses an element of the member `name` in the output of a `describe`, `get` or `list` command. Empty if no rule
/// knows the type.
pub(super) fn of_cli(
    forms: &Forms,
    name: &str,
    told: &Value,
    kind_of_arn: impl Fn(&str, bool) -> Option<String>,
) -> Vec<Item> {
    if name == "Reservations" {
        return of_reservation(told);
    }
    let arn = match told {
        Value::String(arn) => Some(arn.clone()).filter(|arn| arn.starts_with("arn:")),
        told => own_arn(told, &singular(name), &forms.own_arns),
    };
    // Several types may have similar ARNs: then the name of the member decides.
    let by_arn = |guess| arn.as_deref().and_then(|arn| kind_of_arn(arn, guess));
    let kind = by_arn(false).or_else(|| forms.cli.get(name).cloned()).or_else(|| by_arn(true));
    let nothing = json!({});
    let told = if told.is_object() { told } else { &nothing };
    kind.filter(|_| told != &nothing || arn.is_some())
        .map(|kind| Item::new(Form::Cli, kind, told).with_arn(arn))
        .into_iter()
        .collect()
}

fn of_reservation(told: &Value) -> Vec<Item> {
    let owner = text(told, &["ownerId"]);
    let instances = told.get("Instances").and_then(Value::as_array).into_iter().flatten();
    let item = |instance: &Value| {
        let mut item = Item::new(Form::Cli, "AWS::EC2::Instance".to_owned(), instance);
        item.account = owner.clone().or(item.account);
        item
    };
    instances.map(item).collect()
}

/// The asset's own ARN, among those that it contains.
fn own_arn(told: &Value, noun: &str, others: &[String]) -> Option<String> {
    let members = told.as_object()?;
    let arn = |name: &str| member(members, name).and_then(Value::as_str).filter(|arn| arn.starts_with("arn:"));
    let named = || arn(&format!("{noun}Arn"));
    let found = arn("arn").or_else(named).or_else(|| others.iter().find_map(|name| arn(name)));
    found.map(str::to_owned)
}

/// `repositories` → `repository`, `trailList` → `trail`, `StackSummaries` → `Stack`.
fn singular(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix("List").unwrap_or(name);
    let name = name.strip_suffix("Summaries").or_else(|| name.strip_suffix("Summary")).unwrap_or(name);
    match name.strip_suffix("ies") {
        Some(stem) => Cow::Owned(format!("{stem}y")),
        None => Cow::Borrowed(name.strip_suffix('s').unwrap_or(name)),
    }
}

fn transformed(transform: Transform, value: &Value) -> Option<Value> {
    let arena = Arena::new();
    transform.apply(Json::copied(value, &arena), &arena).map(Json::to_value)
}

/// A member by its key: an exact match, else one ignoring case.
pub(super) fn member<'v>(members: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    let ignoring_case = || members.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
    members.get(key).or_else(ignoring_case)
}

/// The JSON in a string; any other value unchanged.
pub(super) fn parsed(value: &Value) -> Value {
    match value.as_str().filter(|text| text.starts_with(['{', '['])) {
        Some(text) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
        None => value.clone(),
    }
}

pub(super) fn tags(told: &Value, key: &str) -> Option<Value> {
    let tags = member(told.as_object()?, key).filter(|tags| tags.is_array() || tags.is_object())?;
    transformed(Transform::TagMap, tags)
}

/// The first of these members that is a number or a non-empty string.
pub(super) fn text(told: &Value, names: &[&str]) -> Option<String> {
    let members = told.as_object()?;
    let texts = names.iter().filter_map(|name| member(members, name)).filter_map(|value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    texts.into_iter().find(|text| !text.is_empty())
}

/// A time as the API returns it: RFC 3339, or seconds or milliseconds since 1970.
pub(super) fn time(value: &Value) -> Option<Time> {
    let text = transformed(Transform::Epoch, value)?;
    text.as_str()?.parse().ok()
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The region of a zone: `eu-west-1` of `eu-west-1a`, `us-west-2` of the local zone `us-west-2-lax-1a`.
fn region_of_zone(zone: &str) -> Option<&str> {
    let digit = zone.find(|letter: char| letter.is_ascii_digit())?;
    let (region, rest) = zone.split_at_checked(digit + 1)?;
    (region.matches('-').count() >= 2 && !rest.is_empty()).then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ones() {
        for (zone, region) in [
            ("eu-west-1a", Some("eu-west-1")),
            ("us-west-2-lax-1a", Some("us-west-2")),
            ("us-gov-east-1b", Some("us-gov-east-1")),
            ("eu-west-1", None),
            ("westeurope", None),
        ] {
            assert_eq!(region_of_zone(zone), region, "{zone}");
        }
        for (name, expected) in [
            ("SecurityGroups", "SecurityGroup"),
            ("trailList", "trail"),
            ("repositories", "repository"),
            ("Role", "Role"),
        ] {
            assert_eq!(singular(name), expected);
        }
    }
}
