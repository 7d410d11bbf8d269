//! The transforms of the rule language: few, named and total. A value that does not fit passes unchanged or yields
//! none.

mod ec2;
mod names;

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use self::ec2::{ip_permissions, unwrap_items};
use self::names::{arn_owner, arn_parent, arn_part, arn_path, arn_resource, lambda_name, url_path};
use super::configuration::configuration;
use crate::json::{Arena, Json, Members};
use crate::model::Time;

/// A transform, by its name in rules. `docs/RULES.md` describes each.
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
    /// Applies the transform; `None` if there is no such value.
    pub(super) fn apply<'a>(self, value: Json<'a>, arena: &'a Arena) -> Option<Json<'a>> {
        let text = |change: fn(&'a str) -> &'a str| value.as_str().map_or(value, |text| Json::Text(change(text)));
        let part = |of: fn(&'a str) -> Option<&'a str>| value.as_str().and_then(of).map(Json::Text);
        Some(match self {
            Self::Json => parse_json(value, arena),
            Self::UrlDecode => {
                map_text(value, |text| Json::Text(owned(percent_decode_str(text).decode_utf8_lossy(), arena)))
            }
            Self::TagMap => tag_map(value, arena),
            Self::Ec2Items => unwrap_items(value, arena),
            Self::Ec2IpPermissions => ip_permissions(value, false, arena),
            Self::Ec2IpPermissionsEgress => ip_permissions(value, true, arena),
            Self::Epoch => return epoch(value, arena),
            Self::ArnResource => text(arn_resource),
            Self::ArnPath => text(arn_path),
            Self::ArnParent => return part(arn_parent),
            Self::ArnOwner => return part(arn_owner),
            Self::ArnAccount => return part(|text| arn_part(text, 4)),
            Self::ArnRegion => return part(|text| arn_part(text, 3)),
            Self::ArmId => {
                map_text(value, |text| Json::Text(arena.alloc_str(&text.trim_end_matches('/').to_lowercase())))
            }
            Self::EntraTargets => entra_targets(value, arena),
            Self::LambdaFunction => return part(|text| lambda_name(text).map(|(function, _)| function)),
            Self::LambdaQualifier => return part(|text| lambda_name(text)?.1),
            Self::UrlLast => text(|text| url_path(text).map_or(text, |(_, last)| last)),
            Self::UrlParent => return part(|text| url_path(text)?.0),
            Self::Camel => camel(value, arena),
            Self::ApiNames => api_names(value, arena),
            Self::Configuration => return configuration(value, arena),
            Self::Keys => Json::array(value.as_object()?.keys().map(Json::Text), arena),
            Self::String => Json::Text(value.scalar_text(arena)?),
            Self::Lower => map_text(value, |text| Json::Text(arena.alloc_str(&text.to_lowercase()))),
            Self::Split => map_text(value, |text| {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Json::array(parts.map(Json::Text), arena)
            }),
            Self::Wrap if value.as_array().is_some() => value,
            Self::Wrap => Json::array([value], arena),
        })
    }
}

fn owned<'a>(text: Cow<'a, str>, arena: &'a Arena) -> &'a str {
    match text {
        Cow::Borrowed(text) => text,
        Cow::Owned(text) => arena.alloc_str(&text),
    }
}

fn map_text<'a>(value: Json<'a>, change: impl FnOnce(&'a str) -> Json<'a>) -> Json<'a> {
    value.as_str().map_or(value, change)
}

/// Parses JSON in a string. Policies come as objects, as JSON in a string, and as URL-encoded JSON in a string.
fn parse_json<'a>(value: Json<'a>, arena: &'a Arena) -> Json<'a> {
    map_text(value, |text| {
        let decoded = || {
            let decoded = percent_decode_str(text).decode_utf8().ok()?;
            Json::parse(owned(decoded, arena), arena).ok()
        };
        Json::parse(text, arena).ok().or_else(decoded).unwrap_or(value)
    })
}

fn tag_map<'a>(value: Json<'a>, arena: &'a Arena) -> Json<'a> {
    match value {
        Json::Array(items) => Json::object(items.iter().filter_map(|item| tag(item.as_object()?, arena)), arena),
        Json::Object(members) => {
            let wrapped =
                ["items", "tagSet", "tags", "tag", "tagging"].iter().find_map(|key| members.get_in_any_case(key));
            match wrapped {
                Some(inner @ (Json::Array(_) | Json::Object(_))) => tag_map(inner, arena),
                _ if members.get_in_any_case("key").is_some() && members.len() <= 2 => {
                    Json::object(tag(members, arena), arena)
                }
                // A plain map; values that are not scalars are no tags.
                _ => {
                    let scalars =
                        members.iter().filter_map(|(key, value)| Some((key, Json::Text(value.scalar_text(arena)?))));
                    Json::object(scalars, arena)
                }
            }
        }
        _ => Json::EMPTY,
    }
}

fn tag<'a>(members: Members<'a>, arena: &'a Arena) -> Option<(&'a str, Json<'a>)> {
    let either = |names: [&str; 2]| {
        names.iter().find_map(|name| members.get_in_any_case(name)).and_then(|value| value.scalar_text(arena))
    };
    Some((either(["key", "tagKey"])?, Json::Text(either(["value", "tagValue"]).unwrap_or_default())))
}

/// A time in seconds or milliseconds since 1970, or in RFC 3339; other texts are returned unchanged.
fn epoch<'a>(value: Json<'a>, arena: &'a Arena) -> Option<Json<'a>> {
    let told = |time: Time| Json::Text(arena.alloc_str(&time.to_string()));
    match value {
        Json::Text(text) => Some(text.parse().map_or(value, told)),
        Json::Number(number) => {
            let number = serde_json::Number::from(number).as_f64()?;
            // 10^11 seconds is the year 5138, 10^11 milliseconds 1973.
            let millis = if number.abs() < 1e11 { number * 1_000.0 } else { number };
            #[expect(clippy::cast_possible_truncation, reason = "a float to integer cast saturates, and Time clamps")]
            let time = Time::from_millis(millis.round() as i64);
            Some(told(time))
        }
        _ => None,
    }
}

pub(super) fn camel<'a>(value: Json<'a>, arena: &'a Arena) -> Json<'a> {
    match value {
        Json::Object(members) => {
            let renamed = members.iter().map(|(key, value)| (first_small(key, arena), camel(value, arena)));
            Json::object(renamed, arena)
        }
        Json::Array(elements) => Json::array(elements.iter().map(|element| camel(*element, arena)), arena),
        scalar => scalar,
    }
}

/// Members whose keys are chosen by the customer, or passed on unchanged by the API; in lower case.
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

/// As [`camel`], except within what users of the API write: policies, tags, environments.
fn api_names<'a>(value: Json<'a>, arena: &'a Arena) -> Json<'a> {
    match value {
        Json::Object(members) if members.keys().any(|key| key.eq_ignore_ascii_case("statement")) => value,
        Json::Object(members) => {
            let renamed = members.iter().map(|(key, value)| {
                let is_own = OWN_KEYS.iter().any(|own| own.eq_ignore_ascii_case(key)) && value.is_object();
                (first_small(key, arena), if is_own { value } else { api_names(value, arena) })
            });
            Json::object(renamed, arena)
        }
        Json::Array(elements) => Json::array(elements.iter().map(|element| api_names(*element, arena)), arena),
        scalar => scalar,
    }
}

/// The text with its first letter in lower case.
fn first_small<'a>(text: &'a str, arena: &'a Arena) -> &'a str {
    if !text.starts_with(|first: char| !first.is_lowercase()) {
        return text;
    }
    let mut letters = text.chars();
    let lowered: String = letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect();
    arena.alloc_str(&lowered)
}

/// Entra's `targetResources` by type, with the JSON in the strings of `modifiedProperties` parsed
/// (<https://learn.microsoft.com/en-us/graph/api/resources/modifiedproperty>).
fn entra_targets<'a>(value: Json<'a>, arena: &'a Arena) -> Json<'a> {
    let targets = value.as_array().into_iter().flatten().filter_map(|target| target.as_object());
    let by_type = targets.map(|target| {
        let properties = target.get("modifiedProperties").and_then(Json::as_array).into_iter().flatten();
        let modified = properties.filter_map(|property| {
            let side = |key: &str| parse_json(property.get(key).unwrap_or(Json::Null), arena);
            let sides = Json::object([("old", side("oldValue")), ("new", side("newValue"))], arena);
            Some((property.get("displayName")?.as_str()?.trim(), sides))
        });
        let kept = target.iter().filter(|(key, _)| *key != "modifiedProperties");
        let kept = kept.chain([("modified", Json::object(modified, arena))]);
        (target.get("type").and_then(Json::as_str).unwrap_or("Other"), Json::object(kept, arena))
    });
    // The first one of each type wins.
    let mut by_type: Vec<_> = by_type.collect();
    by_type.reverse();
    Json::object(by_type, arena)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn apply(name: &str, value: Value) -> Option<Value> {
        let arena = Arena::new();
        let transform: Transform = serde_json::from_value(json!(name)).unwrap();
        transform.apply(Json::copied(&value, &arena), &arena).map(Json::to_value)
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
