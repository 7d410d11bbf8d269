//! Which members of a request or a response make up the asset's configuration.

use super::transform::Transform;
use crate::json::{Arena, Json};

/// Members that control a call and do not describe the asset: idempotency tokens, locks, paging.
const STEERING: [&str; 33] = [
    "applyImmediately",
    "allowMajorVersionUpgrade",
    "callerReference",
    "changeToken",
    "checksum",
    "clientIdempotencyToken",
    "clientRequestId",
    "clientRequestToken",
    "clientToken",
    "creationToken",
    "creatorRequestId",
    "dryRun",
    "forceFailover",
    "forceOverwriteReplicaSecret",
    "idempotencyToken",
    "ifMatch",
    "lockToken",
    "maxResults",
    "nextLockToken",
    "nextToken",
    "operationId",
    "preSignedUrl",
    "requestId",
    "requestToken",
    "responseMetadata",
    "updateToken",
    "_return",
    "finalSnapshotIdentifier",
    "skipFinalSnapshot",
    "forceUpdate",
    "forceDelete",
    "validateOnly",
    "xAmzClientToken",
];
/// The names of members that contain tags.
const TAGS: [&str; 4] = ["tags", "tagList", "tagsList", "tagSet"];

/// The members of an object except null and those that control the call, with tags as an object under `tags`. `None` if
/// the value is no object.
pub(super) fn configuration<'a>(value: Json<'a>, arena: &'a Arena) -> Option<Json<'a>> {
    let kept = value.as_object()?.iter().filter(|(key, value)| !value.is_null() && !is_steering(key));
    let mended = kept.filter_map(|(key, value)| {
        if !TAGS.iter().any(|name| name.eq_ignore_ascii_case(key)) {
            return Some((key, value));
        }
        // A list of strings contains the keys of tags to remove, not tags.
        let is_keys = value.as_array().is_some_and(|tags| !tags.iter().all(|tag| tag.is_object()));
        let tags = (!is_keys).then(|| Transform::TagMap.apply(value, arena))??;
        Some(("tags", tags))
    });
    Some(Json::object(mended, arena))
}

fn is_steering(key: &str) -> bool {
    STEERING.iter().any(|name| name.eq_ignore_ascii_case(key))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn configuration(value: &Value) -> Option<Value> {
        let arena = Arena::new();
        super::configuration(Json::copied(value, &arena), &arena).map(Json::to_value)
    }

    #[test]
    fn what_steers_the_call_is_left_out_and_tags_become_an_object() {
        let request = json!({
            "ClientToken": "3f5a", "name": "web", "description": null,
            "tagList": [{ "key": "team", "value": "a" }],
        });
        assert_eq!(configuration(&request), Some(json!({ "name": "web", "tags": { "team": "a" } })));
        assert_eq!(configuration(&json!({ "name": "web", "tags": ["team"] })), Some(json!({ "name": "web" })));
        assert_eq!(configuration(&json!("web")), None);
    }
}
