//! The transforms of the rule language: named, few, total. What does not fit passes through or gives nothing.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::configuration::configuration;
use super::pointer::member;
use crate::model::Time;

/// A transform, as rules name it. `docs/RULES.md` says what each does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Transform {
    Json,
    UrlDecode,
    TagMap,
    Ec2Items,
    Ec2IpPermissions,
    Ec2IpPermissionsEgress,
    Epoch,
    ArnResource,
    ArnPath,
    ArnParent,
    ArnOwner,
    ArnAccount,
    ArnRegion,
    ArmId,
    EntraTargets,
    LambdaFunction,
    LambdaQualifier,
    UrlLast,
    UrlParent,
    Camel,
    ApiNames,
    Configuration,
    Keys,
    String,
    Lower,
    Split,
    Wrap,
}

impl Transform {
    /// Applies it. `None`: there is no such value.
    pub(super) fn apply(self, value: Cow<'_, Value>) -> Option<Value> {
        match self {
            Self::Json => Some(parse_json(value)),
            Self::UrlDecode => Some(map_text(value, |text| json!(percent_decode_str(text).decode_utf8_lossy()))),
            Self::TagMap => Some(tag_map(&value)),
            Self::Ec2Items => Some(unwrap_items(value.into_owned())),
            Self::Ec2IpPermissions => Some(ip_permissions(&value, false)),
            Self::Ec2IpPermissionsEgress => Some(ip_permissions(&value, true)),
            Self::Epoch => epoch(&value),
            Self::ArnResource => Some(map_text(value, |text| json!(arn_resource(text)))),
            Self::ArnPath => Some(map_text(value, |text| json!(arn_path(text)))),
            Self::ArnParent => value.as_str().and_then(arn_parent).map(|text| json!(text)),
            Self::ArnOwner => value.as_str().and_then(arn_owner).map(|text| json!(text)),
            Self::ArnAccount => arn_part(&value, 4),
            Self::ArnRegion => arn_part(&value, 3),
            Self::ArmId => Some(map_text(value, |text| json!(text.trim_end_matches('/').to_lowercase()))),
            Self::EntraTargets => Some(entra_targets(&value)),
            Self::LambdaFunction => lambda_name(&value).map(|(function, _)| json!(function)),
            Self::LambdaQualifier => lambda_name(&value).and_then(|(_, qualifier)| qualifier).map(|text| json!(text)),
            Self::UrlLast => Some(map_text(value, |text| json!(url_path(text).map_or(text, |(_, last)| last)))),
            Self::UrlParent => value.as_str().and_then(url_path).and_then(|(parent, _)| parent).map(|text| json!(text)),
            Self::Camel => Some(camel(value.into_owned())),
            Self::ApiNames => Some(api_names(value.into_owned())),
            Self::Configuration => configuration(&value),
            Self::Keys => value.as_object().map(|members| members.keys().cloned().collect()),
            Self::String => scalar_text(&value).map(|text| json!(text)),
            Self::Lower => Some(map_text(value, |text| json!(text.to_lowercase()))),
            Self::Split => {
                Some(map_text(value, |text| text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()))
            }
            Self::Wrap => Some(if value.is_array() { value.into_owned() } else { json!([value]) }),
        }
    }
}

/// A scalar as text; `None` for null, arrays and objects.
pub(super) fn scalar_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn map_text(value: Cow<'_, Value>, change: impl FnOnce(&str) -> Value) -> Value {
    match value.as_str() {
        Some(text) => change(text),
        None => value.into_owned(),
    }
}

/// Policies come as objects, as JSON in a string, and as URL-encoded JSON in a string.
fn parse_json(value: Cow<'_, Value>) -> Value {
    map_text(value, |text| {
        serde_json::from_str(text)
            .or_else(|error| {
                let decoded = percent_decode_str(text).decode_utf8().map_err(|_| error)?;
                serde_json::from_str(&decoded)
            })
            .unwrap_or_else(|_| json!(text))
    })
}

fn tag_map(value: &Value) -> Value {
    let mut tags = Map::new();
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_tag(&mut tags, item)),
        Value::Object(members) => {
            let wrapped = ["items", "tagSet", "tags", "tag", "tagging"].iter().find_map(|key| member(members, key));
            match wrapped {
                Some(inner @ (Value::Array(_) | Value::Object(_))) => return tag_map(inner),
                _ if member(members, "key").is_some() && members.len() <= 2 => collect_tag(&mut tags, value),
                // A plain map; what is no scalar is no tag value.
                _ => tags
                    .extend(members.iter().filter_map(|(key, value)| Some((key.clone(), json!(scalar_text(value)?))))),
            }
        }
        _ => {}
    }
    Value::Object(tags)
}

fn collect_tag(tags: &mut Map<String, Value>, item: &Value) {
    let Some(members) = item.as_object() else { return };
    let either = |names: [&str; 2]| names.iter().find_map(|name| member(members, name)).and_then(scalar_text);
    if let Some(key) = either(["key", "tagKey"]) {
        tags.insert(key.into_owned(), json!(either(["value", "tagValue"]).unwrap_or_default()));
    }
}

/// EC2's XML as JSON: `{"items": […]}` and `{"item": one or many}` become the list, an empty set (`{}` or an empty text under
/// a `…Set` key) an empty list, and `{"tag": 1, "content": x}`, which numbers the elements of a request, becomes `x`.
fn unwrap_items(value: Value) -> Value {
    match value {
        Value::Object(mut members) => {
            if members.len() == 1 {
                if members.get("items").is_some_and(Value::is_array) {
                    return members.remove("items").map_or(Value::Null, unwrap_items);
                }
                if let Some(item) = members.remove("item") {
                    let list = if item.is_array() { item } else { json!([item]) };
                    return unwrap_items(list);
                }
            }
            if members.get("tag").is_some_and(Value::is_number) {
                members.remove("tag");
                if members.len() == 1
                    && let Some(content) = members.remove("content")
                {
                    return unwrap_items(content);
                }
            }
            let unwrapped = members.into_iter().map(|(key, value)| match value {
                Value::Object(inner) if inner.is_empty() && key.ends_with("Set") => (key, json!([])),
                Value::String(text) if text.is_empty() && key.ends_with("Set") => (key, json!([])),
                value => (key, unwrap_items(value)),
            });
            Value::Object(unwrapped.collect())
        }
        Value::Array(elements) => elements.into_iter().map(unwrap_items).collect(),
        scalar => scalar,
    }
}

/// One element per rule, in the field names of `securityGroupRuleSet`
/// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_SecurityGroupRule.html>). Takes the whole
/// `requestParameters`: either `ipPermissions` or the flat form of EC2-Classic's time.
fn ip_permissions(request: &Value, egress: bool) -> Value {
    let Some(members) = request.as_object() else { return json!([]) };
    // A description tells both kinds, a call one.
    let own = egress.then(|| member(members, "ipPermissionsEgress")).flatten();
    let permissions = match own.or_else(|| member(members, "ipPermissions")).map(items) {
        Some(permissions) if !permissions.is_empty() => permissions,
        _ => std::slice::from_ref(request),
    };
    permissions.iter().filter_map(Value::as_object).flat_map(|permission| rules_of(permission, egress)).collect()
}

fn rules_of(permission: &Map<String, Value>, egress: bool) -> Vec<Value> {
    let Some(protocol) = member(permission, "ipProtocol").and_then(scalar_text) else { return Vec::new() };
    // EC2 answers with names where a request may give numbers, and knows no ports of "all protocols".
    let protocol = match &*protocol {
        "1" => "icmp",
        "6" => "tcp",
        "17" => "udp",
        "58" => "icmpv6",
        other => other,
    };
    let port = |key: &str| match protocol {
        "-1" => -1,
        _ => member(permission, key).and_then(Value::as_i64).unwrap_or(-1),
    };
    let base =
        json!({ "isEgress": egress, "ipProtocol": protocol, "fromPort": port("fromPort"), "toPort": port("toPort") });
    let mut rules = Vec::new();
    let mut push = |key: &str, peer: Value, description: Option<&Value>| {
        let mut rule = base.clone();
        rule[key] = peer;
        if let Some(description) = description.filter(|text| text.as_str().is_some_and(|text| !text.is_empty())) {
            rule["description"] = description.clone();
        }
        rules.push(rule);
    };
    for (list, from, to) in [
        ("ipRanges", "cidrIp", "cidrIpv4"),
        ("ipv4Ranges", "cidrIp", "cidrIpv4"),
        ("ipv6Ranges", "cidrIpv6", "cidrIpv6"),
        ("prefixListIds", "prefixListId", "prefixListId"),
        ("groups", "groupId", "referencedGroupInfo"),
        ("userIdGroupPairs", "groupId", "referencedGroupInfo"),
    ] {
        for range in member(permission, list).map(items).unwrap_or_default().iter().filter_map(Value::as_object) {
            let Some(peer) = member(range, from) else { continue };
            let peer = if to == "referencedGroupInfo" { json!({ "groupId": peer }) } else { peer.clone() };
            push(to, peer, member(range, "description"));
        }
    }
    for (from, to) in [("cidrIp", "cidrIpv4"), ("cidrIpv6", "cidrIpv6")] {
        if let Some(peer) = member(permission, from).filter(|peer| peer.is_string()) {
            push(to, peer.clone(), None);
        }
    }
    rules
}

/// The elements of an array, of `{"items": […]}`, or an object alone: XML does not tell a list of one from its element.
fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(elements) => elements,
        Value::Object(members) => match members.get("items") {
            Some(items) => items.as_array().map_or(&[], Vec::as_slice),
            None if members.is_empty() => &[],
            None => std::slice::from_ref(value),
        },
        _ => &[],
    }
}

/// Seconds or milliseconds since 1970; a text is taken as it is.
fn epoch(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) => Some(text.parse::<Time>().map_or_else(|_| value.clone(), |time| json!(time))),
        Value::Number(number) => {
            let number = number.as_f64()?;
            // 10^11 seconds is the year 5138, 10^11 milliseconds 1973.
            let millis = if number.abs() < 1e11 { number * 1_000.0 } else { number };
            #[expect(clippy::cast_possible_truncation, reason = "a float to integer cast saturates, and Time clamps")]
            let time = Time::from_millis(millis.round() as i64);
            Some(json!(time))
        }
        _ => None,
    }
}

fn arn_resource(text: &str) -> &str {
    if !text.starts_with("arn:") {
        return text;
    }
    text.rsplit(['/', ':']).next().unwrap_or(text)
}

/// All of an ARN's resource but its kind: `oidc-provider/token.example.com/tenant` → `token.example.com/tenant`. The `:*`
/// by which an ARN means all log streams of a group is no part of the group's name.
fn arn_path(text: &str) -> &str {
    let resource = text.strip_prefix("arn:").and_then(|rest| rest.splitn(5, ':').nth(4));
    resource.map_or(text, |resource| {
        let path = resource.split_once(['/', ':']).map_or(resource, |(_, path)| path);
        path.strip_suffix(":*").unwrap_or(path)
    })
}

/// The part before the last of an ARN's resource, where that is not its kind: `…:task/blue/0123` → `blue`,
/// `…:task-definition/web:7` → `web`.
fn arn_parent(text: &str) -> Option<&str> {
    let resource = text.strip_prefix("arn:")?.splitn(5, ':').nth(4)?;
    let mut parts = resource.rsplit(['/', ':']).skip(1);
    let parent = parts.next().filter(|parent| !parent.is_empty())?;
    parts.next().map(|_| parent)
}

/// The part after the kind of an ARN's resource, where more follows: `…:stream/orders/consumer/audit:17` → `orders`.
fn arn_owner(text: &str) -> Option<&str> {
    let resource = text.strip_prefix("arn:")?.splitn(5, ':').nth(4)?;
    let mut parts = resource.split(['/', ':']).skip(1);
    let owner = parts.next().filter(|owner| !owner.is_empty())?;
    parts.next().map(|_| owner)
}

/// The last part of a URL's path, and the one before it where there is one:
/// `https://sqs.eu-west-1.amazonaws.com/111122223333/orders` → `111122223333`, `orders`.
fn url_path(text: &str) -> Option<(Option<&str>, &str)> {
    let (_, rest) = text.split_once("://")?;
    let (_, path) = rest.trim_end_matches('/').split_once('/')?;
    let mut parts = path.rsplit('/');
    let last = parts.next()?;
    Some((parts.next().filter(|parent| !parent.is_empty()), last))
}

fn arn_part(value: &Value, part: usize) -> Option<Value> {
    let text = value.as_str().filter(|text| text.starts_with("arn:"))?;
    text.split(':').nth(part).filter(|part| !part.is_empty()).map(|part| json!(part))
}

/// `name`, `name:qualifier`, `account:function:name[:qualifier]` or a whole ARN
/// (<https://docs.aws.amazon.com/lambda/latest/api/API_GetFunction.html>).
fn lambda_name(value: &Value) -> Option<(&str, Option<&str>)> {
    let text = value.as_str()?;
    let tail = match text.find("function:") {
        Some(at) => text.get(at + "function:".len()..)?,
        None => text,
    };
    let mut parts = tail.split(':');
    Some((parts.next().filter(|name| !name.is_empty())?, parts.next().filter(|qualifier| !qualifier.is_empty())))
}

fn camel(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let renamed = members.into_iter().map(|(key, value)| {
                let mut letters = key.chars();
                let key = letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default();
                (key, camel(value))
            });
            Value::Object(renamed.collect())
        }
        Value::Array(elements) => elements.into_iter().map(camel).collect(),
        scalar => scalar,
    }
}

/// Members whose keys are the customer's own words, or texts that the API hands on as they are. In lower case.
const OWN_KEYS: [&str; 9] = [
    "tags",
    "variables",
    "attributes",
    "labels",
    "dockerlabels",
    "options",
    "stagevariables",
    "requestparameters",
    "responseparameters",
];

/// [`camel`], but for what is written by those who use the API: policies, tags, environments.
fn api_names(value: Value) -> Value {
    match value {
        Value::Object(members) if members.keys().any(|key| key.eq_ignore_ascii_case("statement")) => {
            Value::Object(members)
        }
        Value::Object(members) => {
            let renamed = members.into_iter().map(|(key, value)| {
                let is_own = OWN_KEYS.iter().any(|own| own.eq_ignore_ascii_case(&key)) && value.is_object();
                let mut letters = key.chars();
                let key = letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default();
                (key, if is_own { value } else { api_names(value) })
            });
            Value::Object(renamed.collect())
        }
        Value::Array(elements) => elements.into_iter().map(api_names).collect(),
        scalar => scalar,
    }
}

/// Entra's `targetResources`, by type, with the JSON inside the strings of `modifiedProperties` parsed
/// (<https://learn.microsoft.com/en-us/graph/api/resources/modifiedproperty>).
fn entra_targets(value: &Value) -> Value {
    let mut by_type = Map::new();
    for target in value.as_array().into_iter().flatten().filter_map(Value::as_object) {
        let mut kept = target.clone();
        let mut modified = Map::new();
        for property in kept.remove("modifiedProperties").as_ref().and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = property.get("displayName").and_then(Value::as_str) else { continue };
            let side = |key: &str| parse_json(Cow::Owned(property.get(key).cloned().unwrap_or(Value::Null)));
            modified.insert(name.trim().to_owned(), json!({ "old": side("oldValue"), "new": side("newValue") }));
        }
        kept.insert("modified".to_owned(), Value::Object(modified));
        let kind = target.get("type").and_then(Value::as_str).unwrap_or("Other").to_owned();
        by_type.entry(kind).or_insert(Value::Object(kept));
    }
    Value::Object(by_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(name: &str, value: Value) -> Option<Value> {
        serde_json::from_value::<Transform>(json!(name)).unwrap().apply(Cow::Owned(value))
    }

    #[test]
    fn tags_in_every_spelling() {
        let expected = json!({ "Name": "web", "empty": "" });
        for spelling in [
            json!([{ "key": "Name", "value": "web" }, { "key": "empty" }]),
            json!({ "items": [{ "key": "Name", "value": "web" }, { "key": "empty", "value": "" }] }),
            json!([{ "Key": "Name", "Value": "web" }, { "Key": "empty", "Value": "" }]),
            json!([{ "tagKey": "Name", "tagValue": "web" }, { "tagKey": "empty", "tagValue": "" }]),
            json!({ "TagSet": { "Tag": [{ "Key": "Name", "Value": "web" }, { "Key": "empty", "Value": "" }] } }),
            json!({ "Name": "web", "empty": "" }),
        ] {
            assert_eq!(apply("tag_map", spelling.clone()), Some(expected.clone()), "{spelling}");
        }
        assert_eq!(apply("tag_map", json!({ "Tag": { "Key": "a", "Value": "b" } })), Some(json!({ "a": "b" })));
        assert_eq!(apply("tag_map", json!("nonsense")), Some(json!({})));
    }

    #[test]
    fn rules_of_either_request_form_are_the_same() {
        let new_form = json!({ "groupId": "sg-1", "ipPermissions": { "items": [{ "ipProtocol": "tcp", "fromPort": 22, "toPort": 22,
            "ipRanges": { "items": [{ "cidrIp": "203.0.113.7/32", "description": "" }] }, "groups": {}, "ipv6Ranges": {} }] } });
        let old_form =
            json!({ "groupId": "sg-1", "ipProtocol": "tcp", "fromPort": 22, "toPort": 22, "cidrIp": "203.0.113.7/32" });
        let expected = json!([{ "isEgress": false, "ipProtocol": "tcp", "fromPort": 22, "toPort": 22, "cidrIpv4": "203.0.113.7/32" }]);
        assert_eq!(apply("ec2_ip_permissions", new_form), Some(expected.clone()));
        assert_eq!(apply("ec2_ip_permissions", old_form), Some(expected));
        let group = json!({ "ipPermissions": { "items": [{ "ipProtocol": "-1", "groups": { "items": [{ "groupId": "sg-2" }] } }] } });
        assert_eq!(
            apply("ec2_ip_permissions_egress", group),
            Some(
                json!([{ "isEgress": true, "ipProtocol": "-1", "fromPort": -1, "toPort": -1, "referencedGroupInfo": { "groupId": "sg-2" } }])
            )
        );
    }

    #[test]
    fn small_ones() {
        for (name, value, expected) in [
            ("json", json!("{\"a\":1}"), Some(json!({ "a": 1 }))),
            ("json", json!("%7B%22a%22%3A1%7D"), Some(json!({ "a": 1 }))),
            ("json", json!("plain"), Some(json!("plain"))),
            ("json", json!({ "a": 1 }), Some(json!({ "a": 1 }))),
            ("url_decode", json!("a%2Fb"), Some(json!("a/b"))),
            (
                "ec2_items",
                json!({ "a": { "items": [{ "b": { "items": [1] } }] }, "tagSet": {} }),
                Some(json!({ "a": [{ "b": [1] }], "tagSet": [] })),
            ),
            (
                "ec2_items",
                json!({ "a": { "item": { "tag": 1, "content": "x" } }, "bSet": "", "c": { "tag": 2, "K": 1 } }),
                Some(json!({ "a": ["x"], "bSet": [], "c": { "K": 1 } })),
            ),
            ("epoch", json!(1_688_991_005), Some(json!("2023-07-10T12:10:05.000Z"))),
            ("epoch", json!(1_688_991_005_123_i64), Some(json!("2023-07-10T12:10:05.123Z"))),
            ("arn_resource", json!("arn:aws:iam::123837392027:role/path/deployer"), Some(json!("deployer"))),
            ("arn_resource", json!("deployer"), Some(json!("deployer"))),
            (
                "arn_path",
                json!("arn:aws:iam::123837392027:oidc-provider/token.example.com/v2"),
                Some(json!("token.example.com/v2")),
            ),
            ("arn_parent", json!("arn:aws:ecs:eu-west-1:123837392027:task/blue/0123"), Some(json!("blue"))),
            ("arn_parent", json!("arn:aws:ecs:eu-west-1:123837392027:task-definition/web:7"), Some(json!("web"))),
            ("arn_parent", json!("arn:aws:ecs:eu-west-1:123837392027:task/0123"), None),
            ("arn_parent", json!("web"), None),
            (
                "arn_path",
                json!("arn:aws:logs:eu-west-1:123837392027:log-group:/aws/lambda/resize:*"),
                Some(json!("/aws/lambda/resize")),
            ),
            (
                "arn_owner",
                json!("arn:aws:kinesis:eu-west-1:123837392027:stream/orders/consumer/audit:17"),
                Some(json!("orders")),
            ),
            ("arn_owner", json!("arn:aws:kinesis:eu-west-1:123837392027:stream/orders"), None),
            ("arn_owner", json!("orders"), None),
            ("url_last", json!("https://sqs.eu-west-1.amazonaws.com/123837392027/orders"), Some(json!("orders"))),
            (
                "url_last",
                json!("arn:aws:sqs:eu-west-1:123837392027:orders"),
                Some(json!("arn:aws:sqs:eu-west-1:123837392027:orders")),
            ),
            (
                "url_parent",
                json!("https://sqs.eu-west-1.amazonaws.com/123837392027/orders"),
                Some(json!("123837392027")),
            ),
            ("url_parent", json!("https://sqs.eu-west-1.amazonaws.com/orders"), None),
            ("url_parent", json!("orders"), None),
            ("arn_account", json!("arn:aws:iam::123837392027:role/x"), Some(json!("123837392027"))),
            ("arn_region", json!("arn:aws:iam::123837392027:role/x"), None),
            (
                "lambda_function",
                json!("arn:aws:lambda:eu-west-1:123837392027:function:resize:live"),
                Some(json!("resize")),
            ),
            ("lambda_function", json!("123837392027:function:resize"), Some(json!("resize"))),
            ("lambda_qualifier", json!("resize:live"), Some(json!("live"))),
            ("lambda_qualifier", json!("resize"), None),
            ("camel", json!({ "VpcId": [{ "CidrIp": 1 }] }), Some(json!({ "vpcId": [{ "cidrIp": 1 }] }))),
            (
                "api_names",
                json!({ "Policy": { "Statement": [{ "Effect": "Allow" }] }, "Tags": { "Team": "a" }, "Tag": [{ "Key": "A" }] }),
                Some(
                    json!({ "policy": { "Statement": [{ "Effect": "Allow" }] }, "tags": { "Team": "a" }, "tag": [{ "key": "A" }] }),
                ),
            ),
            ("split", json!("a, b,,c"), Some(json!(["a", "b", "c"]))),
            ("wrap", json!("a"), Some(json!(["a"]))),
            ("keys", json!({ "b": 1, "a": 2 }), Some(json!(["a", "b"]))),
        ] {
            assert_eq!(apply(name, value.clone()), expected, "{name} of {value}");
        }
    }

    proptest! {
        #[test]
        fn no_transform_panics(which in 0_usize..26, text in "[\\[\\]{}\":,a-zA-Z0-9%. ]{0,60}") {
            let names = ["json", "url_decode", "tag_map", "ec2_items", "ec2_ip_permissions", "ec2_ip_permissions_egress", "epoch",
                "arn_resource", "arn_path", "arn_parent", "arn_account", "arn_region", "arm_id", "entra_targets", "lambda_function", "lambda_qualifier", "camel",
                "keys", "string", "lower", "split", "wrap", "arn_owner", "url_last", "url_parent", "api_names"];
            let value = serde_json::from_str(&text).unwrap_or(json!(text));
            let _ = apply(names[which], value);
        }
    }
}
