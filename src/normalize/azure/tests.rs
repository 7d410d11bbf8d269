use serde_json::{Value, json};

use crate::model::{Action, Confidence, Draft, DraftAction, Step};
use crate::normalize::{Engine, Outcome};

const GROUP: &str = "/subscriptions/0f1e2d3c-0000-4000-8000-000000000001/resourceGroups/web";
const CREATE: DraftAction = DraftAction::Known(Action::Create);
const UPDATE: DraftAction = DraftAction::Known(Action::Update);

/// A record of an operation that succeeded, with these members replaced.
fn record(resource: &str, operation: &str, more: Value) -> Value {
    let mut record = json!({
        "time": "2024-05-06T07:08:09Z", "category": "Administrative", "resourceId": format!("{GROUP}{resource}"),
        "operationName": operation, "resultType": "Success", "correlationId": "9a4f", "tenantId": "t",
    });
    record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    record
}

fn folded(records: &[Value]) -> Outcome {
    let engine = Engine::load(None).unwrap();
    let part = |record: &Value| match engine.normalize(record.to_string().as_bytes()) {
        Outcome::Operation(part) => part.text,
        other => panic!("{other:?}"),
    };
    engine.fold(&records.iter().map(part).collect::<Vec<_>>())
}

fn draft(records: &[Value]) -> Draft {
    match folded(records) {
        Outcome::Changes { mut drafts, .. } => drafts.remove(0),
        other => panic!("{other:?}"),
    }
}

fn asked(body: &Value) -> Value {
    json!({ "properties": { "requestbody": body.to_string() }, "resultSignature": "Succeeded.OK" })
}

const VNET: &str = "/providers/Microsoft.Network/virtualNetworks/net";

#[test]
fn a_write_replaces_or_merges_by_its_method_or_what_the_body_tells() {
    let located =
        json!({ "location": "westeurope", "etag": "1", "properties": { "provisioningState": "Updating", "a": 1 } });
    let told = json!({ "tags": { "team": "web" } });
    let by = |method: &str, body: &Value| {
        let mut more = asked(body);
        more["httpRequest"] = json!({ "method": method });
        draft(&[record(VNET, "Microsoft.Network/virtualNetworks/write", more)])
    };
    let configuration = json!({ "location": "westeurope", "properties": { "a": 1 } });
    let unknown = |body| draft(&[record(VNET, "Microsoft.Network/virtualNetworks/write", asked(body))]);
    for whole in [by("PUT", &located), unknown(&located)] {
        assert_eq!(
            (whole.action, &whole.steps[0], whole.partial),
            (UPDATE, &Step::Replace(configuration.clone().into()), false)
        );
    }
    for part in [by("PATCH", &told), unknown(&told)] {
        assert!(matches!(&part.steps[0], Step::Merge { patch, .. } if patch.to_value() == told), "{:?}", part.steps);
    }
    let subnet = record(
        &format!("{VNET}/subnets/a"),
        "Microsoft.Network/virtualNetworks/subnets/write",
        asked(&json!({ "properties": {} })),
    );
    assert!(matches!(draft(&[subnet]).steps[0], Step::Replace(_)), "a part is written whole");
}

#[test]
fn the_answer_is_what_holds_and_its_first_word_tells_create_from_update() {
    let at = |status: &str, answer: &str, second: u32, more: Value| {
        let mut record = record(VNET, "Microsoft.Network/virtualNetworks/write", more);
        record["time"] = json!(format!("2024-05-06T07:08:{second:02}Z"));
        record["resultType"] = json!(status);
        record["resultSignature"] = json!(answer);
        record
    };
    let start = at("Start", "Started.", 1, asked(&json!({ "location": "westeurope" })));
    let start = {
        let mut start = start;
        start["resultSignature"] = json!("Started.");
        start
    };
    let answer = json!({ "id": format!("{GROUP}{VNET}"), "name": "Net", "location": "westeurope", "properties": { "dhcpOptions": {} } });
    let accepted = at("Accept", "Accepted.Created", 2, json!({ "properties": { "responseBody": answer.to_string() } }));
    // The last record of a long-running operation says that polling it succeeded.
    let ended =
        at("Success", "Succeeded.OK", 3, json!({ "properties": { "responseBody": "{\"status\":\"Succeeded\"}" } }));
    let draft_of = draft(&[ended.clone(), accepted, start.clone()]);
    assert_eq!(draft_of.action, CREATE);
    assert_eq!(
        draft_of.steps[0],
        Step::Replace(json!({ "location": "westeurope", "properties": { "dhcpOptions": {} } }).into())
    );
    assert!(
        matches!(&draft_of.steps[1], Step::Set { value, .. } if value.to_value() == "Net"),
        "the answer's own spelling"
    );
    assert_eq!(draft(&[start.clone(), ended]).action, UPDATE);
    assert_eq!(draft(&[start]).action, DraftAction::Upsert);
}

#[test]
fn ids_in_bodies_become_associations() {
    let other = "/subscriptions/0f1e2d3c-0000-4000-8000-000000000002/resourceGroups/shared/providers/Microsoft.Network";
    let body = json!({ "location": "westeurope",
        "identity": { "userAssignedIdentities": { format!("{GROUP}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i"): {} } },
        "properties": { "subnet": { "id": format!("{other}/virtualNetworks/v/subnets/s") },
                        "pool": { "id": format!("{other}/loadBalancers/lb/frontendIPConfigurations/front") },
                        "own": { "id": format!("{GROUP}/providers/Microsoft.Network/networkInterfaces/nic/ipConfigurations/one") } } });
    let nic = record(
        "/providers/Microsoft.Network/networkInterfaces/nic",
        "Microsoft.Network/networkInterfaces/write",
        asked(&body),
    );
    let draft = draft(&[nic]);
    let found: Vec<_> =
        draft.associations.iter().map(|other| (&*other.relation, &*other.neutral_type, other.name.as_str())).collect();
    let base = "asset://azure/0f1e2d3c-0000-4000-8000-000000000002/-/resourcegroups/shared/providers/microsoft.network";
    let identity = "asset://azure/0f1e2d3c-0000-4000-8000-000000000001/-/resourcegroups/web/providers/microsoft.managedidentity/userassignedidentities/i";
    assert_eq!(
        found,
        [
            ("assumes", "identity.service_principal", identity),
            ("attached_to", "network.load_balancer", format!("{base}/loadbalancers/lb").as_str()),
            ("in", "network.subnet", format!("{base}/virtualnetworks/v/subnets/s").as_str()),
        ]
    );
}

#[test]
fn masks_capitals_and_unknown_types_are_what_they_are() {
    let masked = json!({ "location": "westeurope", "tags": { "******": "******" } });
    let masked = draft(&[record(VNET, "Microsoft.Network/virtualNetworks/write", asked(&masked))]);
    assert_eq!((&masked.steps[0], masked.partial), (&Step::Replace(json!({ "location": "westeurope" }).into()), true));

    let mut shouted = record(VNET, "MICROSOFT.NETWORK/VIRTUALNETWORKS/DELETE", json!({}));
    shouted["resourceId"] = json!(format!("{GROUP}{VNET}").to_uppercase());
    let Outcome::Changes { record: info, drafts } = folded(&[shouted]) else { panic!("no change") };
    assert_eq!(
        (info.operation.name.as_str(), &*drafts[0].rule),
        ("Microsoft.Network/virtualNetworks/delete", "azure/arm/delete")
    );
    assert!(
        drafts[0]
            .asset
            .name
            .as_str()
            .ends_with("/-/resourcegroups/web/providers/microsoft.network/virtualnetworks/net")
    );

    let unknown = draft(&[record("/providers/Contoso.Things/gadgets/g", "Contoso.Things/gadgets/write", json!({}))]);
    assert_eq!(
        (unknown.asset.kind.neutral_type.as_str(), &*unknown.rule),
        ("unclassified.contoso.things", "azure/generic/write")
    );
    assert!(unknown.confidence == Confidence::Low && unknown.partial);
}

#[test]
fn what_changes_nothing_is_skipped_with_its_reason() {
    let engine = Engine::load(None).unwrap();
    for (record, reason) in [
        (
            json!({ "category": "SignInLogs", "operationName": "Sign-in activity", "time": "2024-05-06T07:08:09Z" }),
            "sign-in",
        ),
        (
            json!({ "category": "Policy", "operationName": "Microsoft.Authorization/policies/audit/action", "time": "2024-05-06T07:08:09Z" }),
            "policy evaluation",
        ),
        (record(VNET, "Microsoft.Network/virtualNetworks/read", json!({})), "read-only call"),
        (
            json!({ "category": "StorageRead", "operationName": "GetBlob", "time": "2024-05-06T07:08:09Z", "resourceId": "/x" }),
            "diagnostic log, which tells no change of a resource",
        ),
        (
            json!({ "category": "AuditLogs", "time": "2024-05-06T07:08:09Z", "properties": { "activityDisplayName": "Add user", "result": "failure" } }),
            "failed call",
        ),
        (
            json!({ "eventType": "Microsoft.Storage.BlobCreated", "data": {}, "eventTime": "2024-05-06T07:08:09Z" }),
            "Event Grid event of data, not of a resource",
        ),
        (
            json!({ "targetResourceId": "/x", "changeAttributes": {}, "changeType": "Update" }),
            "Resource Graph change: the activity log tells the operation",
        ),
    ] {
        let outcome = engine.normalize(record.to_string().as_bytes());
        assert!(
            matches!(&outcome, Outcome::Skipped { reason: found, .. } if **found == *reason),
            "{record}: {outcome:?}"
        );
    }
    assert!(matches!(engine.normalize(b"{\"a\":1}"), Outcome::Rejected { code: "unknown_format", .. }));
}

#[test]
fn a_type_is_known_by_its_name_its_last_word_or_its_namespace() {
    for (id, neutral, rule) in [
        ("Microsoft.Storage/storageAccounts/a/encryptionScopes/e", "security.key", "azure/arm/write"),
        ("Microsoft.Future/things/a/privateEndpointConnections/e", "network.private_endpoint", "azure/arm/write"),
        ("Microsoft.Cdn/profiles/a/someday/e", "network.cdn", "azure/arm/write"),
        (
            "Microsoft.Kubernetes/connectedClusters/a/rbac.authorization.k8s.io/clusterrolebindings/e",
            "identity.role_assignment",
            "azure/arm/write",
        ),
        ("Microsoft.Future/things/a", "unclassified.future", "azure/generic/write"),
    ] {
        let operation = id.replace("/a", "").trim_end_matches("/e").to_owned() + "/write";
        let found = draft(&[record(&format!("/providers/{id}"), &operation, json!({}))]);
        assert_eq!((found.asset.kind.neutral_type.as_str(), &*found.rule), (neutral, rule), "{id}");
    }
}

#[test]
fn what_is_written_within_a_resource_does_not_replace_or_delete_it() {
    for verb in ["write", "delete"] {
        let inner =
            record(VNET, &format!("Microsoft.Network/virtualNetworks/something/{verb}"), asked(&json!({ "a": 1 })));
        let inner = draft(&[inner]);
        assert_eq!((inner.action, &inner.steps[..], inner.partial), (UPDATE, &[Step::Touch][..], true), "{verb}");
    }
}

#[test]
fn a_relation_hangs_on_both_types() {
    let other = "/subscriptions/0f1e2d3c-0000-4000-8000-000000000002/resourceGroups/hub/providers/Microsoft.Network/virtualNetworks/hub";
    let body = json!({ "properties": { "remoteVirtualNetwork": { "id": other } } });
    let peering = format!("{VNET}/virtualNetworkPeerings/hub");
    let draft =
        draft(&[record(&peering, "Microsoft.Network/virtualNetworks/virtualNetworkPeerings/write", asked(&body))]);
    let found: Vec<_> = draft.associations.iter().map(|other| (&*other.relation, &*other.neutral_type)).collect();
    assert_eq!(found, [("part_of", "network.vpc"), ("peered_with", "network.vpc")]);
}

#[test]
fn only_the_rules_that_hold_redact() {
    let engine = Engine::load(None).unwrap();
    let raw = |name: &str| {
        let site = format!("/providers/Microsoft.Web/sites/shop/config/{name}");
        let record =
            record(&site, "Microsoft.Web/sites/config/write", asked(&json!({ "properties": { "A": "planted" } })));
        match engine.normalize(record.to_string().as_bytes()) {
            Outcome::Operation(part) => String::from_utf8(part.text.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert!(!raw("appsettings").contains("planted") && raw("web").contains("planted"));
}

#[test]
fn who_joins_and_what_is_joined_are_found_in_every_shape() {
    let engine = Engine::load(None).unwrap();
    let drafts = |targets: Value| {
        let record = json!({ "time": "2024-05-06T07:08:09Z", "category": "AuditLogs", "tenantId": "t",
            "properties": { "id": "1", "activityDisplayName": "Add member to group", "result": "success", "targetResources": targets } });
        match engine.normalize(record.to_string().as_bytes()) {
            Outcome::Changes { drafts, .. } => drafts
                .iter()
                .map(|draft| draft.asset.name.as_str().rsplit_once("/entra/").unwrap().1.to_owned())
                .collect(),
            other => vec![format!("{other:?}")],
        }
    };
    let told =
        |id: &str| json!([{ "displayName": "Group.ObjectID", "oldValue": null, "newValue": format!("\"{id}\"") }]);
    for (targets, expected) in [
        // The group is in the member's properties, or is a target, or both.
        (json!([{ "id": "u", "type": "User", "modifiedProperties": told("g") }]), vec!["group/g", "user/u"]),
        (json!([{ "id": "u", "type": "User" }, { "id": "g", "type": "Group" }]), vec!["group/g", "user/u"]),
        (
            json!([{ "id": "g", "@odata.type": "#microsoft.graph.TargetResourceGroup" },
                   { "id": "u", "@odata.type": "#microsoft.graph.targetResourceUser" }]),
            vec!["group/g", "user/u"],
        ),
        // One group joins another.
        (
            json!([{ "id": "inner", "type": "Group", "modifiedProperties": told("g") }, { "id": "g", "type": "Group" }]),
            vec!["group/g"],
        ),
    ] {
        assert_eq!(drafts(targets.clone()), expected, "{targets}");
    }
}

#[test]
fn activities_are_the_same_as_others_known_or_guessed() {
    let engine = Engine::load(None).unwrap();
    for (activity, rule, confidence) in [
        ("Add member to role in PIM completed (timebound)", "azure/entra/Add member to role", Confidence::High),
        ("Remove member from role (PIM activation expired)", "azure/entra/Remove member from role", Confidence::High),
        ("Update user", "azure/directory/update", Confidence::High),
        ("Hard Delete group", "azure/directory/delete", Confidence::High),
        ("Adjust something new", "azure/generic/directory", Confidence::Low),
    ] {
        let record = json!({ "time": "2024-05-06T07:08:09Z", "category": "AuditLogs", "tenantId": "t", "properties": {
            "id": "1", "activityDisplayName": activity, "result": "success",
            "targetResources": [{ "id": "r", "type": "Role", "displayName": "Reader" }, { "id": "u", "type": "User" }] } });
        let Outcome::Changes { drafts, .. } = engine.normalize(record.to_string().as_bytes()) else {
            panic!("{activity}")
        };
        assert_eq!((&*drafts[0].rule, drafts[0].confidence), (rule, confidence), "{activity}");
    }
    let requested = json!({ "time": "2024-05-06T07:08:09Z", "category": "AuditLogs", "tenantId": "t", "properties": { "id": "1",
        "activityDisplayName": "Add member to role in PIM requested (timebound)", "result": "success", "targetResources": [] } });
    let outcome = engine.normalize(requested.to_string().as_bytes());
    assert!(matches!(outcome, Outcome::Skipped { reason, .. } if &*reason == "request of a grant, not the grant"));
}
