//! What of a request or a response is the asset's configuration.

use super::transform::Transform;
use crate::json::{Arena, Json};

/// Members that steer a call, and say nothing of the asset: tokens of idempotency, locks, pages.
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
/// Under what name tags come.
const TAGS: [&str; 4] = ["tags", "tagList", "tagsList", "tagSet"];

/// The members of an object but for those that steer the call; tags stand under `tags`, as an object. `None`: no object.
pub(super) fn configuration<'a>(value: Json<'a>, arena: &'a Arena) -> Option<Json<'a>> {
    let kept = value.as_object()?.iter().filter(|(key, value)| !value.is_null() && !is_steering(key));
    let mended = kept.filter_map(|(key, value)| {
        if !TAGS.iter().any(|name| name.eq_ignore_ascii_case(key)) {
            return Some((key, value));
        }
        // A list of texts holds the keys of tags that go; they are not the tags.
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
