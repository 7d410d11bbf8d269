//! EC2's lists and security group rules, which have a form of their own.

use crate::json::{Arena, Json, Members, Number};

/// Simplifies EC2's XML as JSON: `{"items": […]}` and `{"item": one or many}` become the list, an empty set (`{}` or an
/// empty string under a `…Set` key) an empty list, and `{"tag": 1, "content": x}`, which numbers the elements of a
/// request, becomes `x`.
pub(super) fn unwrap_items<'a>(value: Json<'a>, arena: &'a Arena) -> Json<'a> {
    match value {
        Json::Object(members) => {
            if members.len() == 1 {
                if let Some(items @ Json::Array(_)) = members.get("items") {
                    return unwrap_items(items, arena);
                }
                if let Some(item) = members.get("item") {
                    let list = if item.as_array().is_some() { item } else { Json::array([item], arena) };
                    return unwrap_items(list, arena);
                }
            }
            let is_numbered = matches!(members.get("tag"), Some(Json::Number(_)));
            if let Some(content) = members.get("content").filter(|_| is_numbered && members.len() == 2) {
                return unwrap_items(content, arena);
            }
            let own = members.iter().filter(|(key, _)| !is_numbered || *key != "tag");
            let unwrapped = own.map(|(key, value)| match value {
                Json::Object(inner) if inner.is_empty() && key.ends_with("Set") => (key, Json::Array(&[])),
                Json::Text("") if key.ends_with("Set") => (key, Json::Array(&[])),
                value => (key, unwrap_items(value, arena)),
            });
            Json::object(unwrapped, arena)
        }
        Json::Array(elements) => Json::array(elements.iter().map(|element| unwrap_items(*element, arena)), arena),
        scalar => scalar,
    }
}

/// Converts permissions to one element per rule, with the field names of `securityGroupRuleSet`
/// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_SecurityGroupRule.html>). Takes the whole
/// `requestParameters`: either `ipPermissions` or the flat form of EC2-Classic's time.
pub(super) fn ip_permissions<'a>(request: Json<'a>, egress: bool, arena: &'a Arena) -> Json<'a> {
    let Some(members) = request.as_object() else { return Json::Array(&[]) };
    // A description contains both directions, a call one.
    let own = egress.then(|| members.get_in_any_case("ipPermissionsEgress")).flatten();
    let told = own.or_else(|| members.get_in_any_case("ipPermissions"));
    let permissions = match told.map(|permissions| items(permissions, arena)) {
        Some(permissions) if !permissions.is_empty() => permissions,
        _ => &[request],
    };
    let rules = permissions.iter().filter_map(|permission| permission.as_object());
    Json::array(rules.flat_map(|permission| rules_of(permission, egress, arena)), arena)
}

fn rules_of<'a>(permission: Members<'a>, egress: bool, arena: &'a Arena) -> Vec<Json<'a>> {
    let protocol = permission.get_in_any_case("ipProtocol").and_then(|protocol| protocol.scalar_text(arena));
    // EC2's responses have names where a request may have numbers, and no ports for "all protocols".
    let protocol = match protocol {
        None => return Vec::new(),
        Some("1") => "icmp",
        Some("6") => "tcp",
        Some("17") => "udp",
        Some("58") => "icmpv6",
        Some(other) => other,
    };
    let port = |key: &str| match protocol {
        "-1" => integer(-1),
        _ => integer(permission.get_in_any_case(key).and_then(Json::as_i64).unwrap_or(-1)),
    };
    let base = [
        ("isEgress", Json::Bool(egress)),
        ("ipProtocol", Json::Text(protocol)),
        ("fromPort", port("fromPort")),
        ("toPort", port("toPort")),
    ];
    let mut rules = Vec::new();
    let mut push = |key: &'static str, peer: Json<'a>, description: Option<Json<'a>>| {
        let description = description.filter(|text| text.as_str().is_some_and(|text| !text.is_empty()));
        let more = description.map(|description| ("description", description));
        rules.push(Json::object(base.into_iter().chain([(key, peer)]).chain(more), arena));
    };
    for (list, from, to) in [
        ("ipRanges", "cidrIp", "cidrIpv4"),
        ("ipv4Ranges", "cidrIp", "cidrIpv4"),
        ("ipv6Ranges", "cidrIpv6", "cidrIpv6"),
        ("prefixListIds", "prefixListId", "prefixListId"),
        ("groups", "groupId", "referencedGroupInfo"),
        ("userIdGroupPairs", "groupId", "referencedGroupInfo"),
    ] {
        let ranges = permission.get_in_any_case(list).map(|list| items(list, arena)).unwrap_or_default();
        for range in ranges.iter().filter_map(|range| range.as_object()) {
            let Some(peer) = range.get_in_any_case(from) else { continue };
            let peer = if to == "referencedGroupInfo" { Json::object([("groupId", peer)], arena) } else { peer };
            push(to, peer, range.get_in_any_case("description"));
        }
    }
    for (from, to) in [("cidrIp", "cidrIpv4"), ("cidrIpv6", "cidrIpv6")] {
        if let Some(peer) = permission.get_in_any_case(from).filter(|peer| peer.as_str().is_some()) {
            push(to, peer, None);
        }
    }
    rules
}

fn integer(number: i64) -> Json<'static> {
    Json::Number(u64::try_from(number).map_or(Number::Signed(number), Number::Unsigned))
}

/// The elements of an array or of `{"items": […]}`, or a single object: XML does not distinguish a list of one from its
/// element.
fn items<'a>(value: Json<'a>, arena: &'a Arena) -> &'a [Json<'a>] {
    match value {
        Json::Array(elements) => elements,
        Json::Object(members) => match members.get("items") {
            Some(items) => items.as_array().unwrap_or_default(),
            None if members.is_empty() => &[],
            None => std::slice::from_ref(arena.alloc(value)),
        },
        _ => &[],
    }
}
