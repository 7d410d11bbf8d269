use super::super::super::arn::ArnIndex;
use super::*;
use crate::normalize::{Engine, Outcome};
use serde_json::{Value, json};

const CREATE: DraftAction = DraftAction::Known(Action::Create);
const UPDATE: DraftAction = DraftAction::Known(Action::Update);
const DELETE: DraftAction = DraftAction::Known(Action::Delete);

fn normalized(call: &str, request: Value, response: Value) -> Outcome {
    let (service, name) = call.split_once(' ').unwrap();
    let record = json!({
        "eventVersion": "1.08", "eventTime": "2025-06-01T10:00:00Z", "eventID": "0d2f6c0e-5a51-4a8f-9f57-000000000001",
        "eventSource": format!("{service}.amazonaws.com"), "eventName": name, "awsRegion": "eu-west-1",
        "recipientAccountId": "123837392027", "eventType": "AwsApiCall", "readOnly": false, "managementEvent": true,
        "userIdentity": { "type": "IAMUser", "accountId": "123837392027" },
        "requestParameters": request, "responseElements": response,
    });
    // The generic rules alone, with one known type: which calls have rules of their own changes over time.
    let mut engine = Engine::load(None).unwrap();
    engine.catalog.aws.services.clear();
    engine.catalog.aws.arns = ArnIndex::new(engine.catalog.aws.assets.get("AWS::SQS::Queue").into_iter());
    engine.normalize(record.to_string().as_bytes())
}

fn drafts(call: &str, request: Value, response: Value) -> Vec<Draft> {
    match normalized(call, request, response) {
        Outcome::Changes { drafts, .. } => drafts,
        other => panic!("{call}: {other:?}"),
    }
}

/// The single draft's action, provider type and id.
#[track_caller]
fn assert_change(call: &str, request: Value, response: Value, expected: (DraftAction, &str, &str)) {
    let drafts = drafts(call, request, response);
    let found: Vec<_> = drafts
        .iter()
        .map(|draft| (draft.action, draft.asset.kind.provider_type.as_str(), draft.asset.id.as_str()))
        .collect();
    assert_eq!(found, [expected], "{call}");
}

#[track_caller]
fn assert_unnamed(call: &str, request: Value, response: Value) {
    let outcome = normalized(call, request, response);
    assert!(matches!(outcome, Outcome::Rejected { code: "no_asset_named", .. }), "{call}: {outcome:?}");
}

#[test]
fn nouns_in_kebab_case() {
    for (noun, expected) in [("DBInstance", "db-instance"), ("Trail", "trail"), ("WebACL", "web-acl"), ("", "resource")]
    {
        assert_eq!(kebab(noun), expected);
    }
}

#[test]
fn a_verb_is_a_whole_word() {
    assert!(begins_with_word("GetUser", "Get") && begins_with_word("Get", "Get"));
    assert!(!begins_with_word("GetawayCreated", "Get"));
}

#[test]
fn the_name_people_know_and_the_tags() {
    let tags = json!([{ "key": "team", "value": "blue" }]);
    let request = json!({ "meshName": "orders", "tags": tags, "spec": { "tags": [1] } });
    let [draft] = drafts("appmesh CreateMesh", request, Value::Null).try_into().unwrap();
    let pointers: Vec<_> = draft.asset.kind.display.iter().map(|pointer| pointer.as_str()).collect();
    assert_eq!(pointers, ["/meshName", "/MeshName", "/name", "/Name"]);
    let expected = json!({ "meshName": "orders", "tags": { "team": "blue" }, "spec": { "tags": [1] } });
    assert_eq!(draft.steps, [Step::Replace(expected.into())]);

    for key in ["Tags", "tagList", "tagsList", "tagSet"] {
        let request = json!({ "meshName": "orders", key: tags });
        let [draft] = drafts("appmesh CreateMesh", request, Value::Null).try_into().unwrap();
        assert_eq!(
            draft.steps,
            [Step::Replace(json!({ "meshName": "orders", "tags": { "team": "blue" } }).into())],
            "{key}"
        );
    }
    let request = json!({ "meshName": "orders", "tags": ["team"] });
    let [draft] = drafts("appmesh UpdateMesh", request, Value::Null).try_into().unwrap();
    let patch = json!({ "meshName": "orders" });
    assert_eq!(
        draft.steps,
        [Step::Merge { at: jsonptr::PointerBuf::root(), patch: patch.into() }],
        "keys of tags are no tags"
    );
}

#[test]
fn a_put_of_a_whole_thing_may_create_it() {
    let alarm = ("monitoring:alarm", "disk-full");
    let request = json!({ "alarmName": "disk-full", "threshold": 90 });
    assert_change("monitoring PutMetricAlarm", request, Value::Null, (DraftAction::Upsert, alarm.0, alarm.1));
    let request = json!({ "containerName": "clips", "lifecyclePolicy": { "rules": [] } });
    assert_change("mediastore PutLifecyclePolicy", request, Value::Null, (UPDATE, "mediastore:container", "clips"));
}

#[test]
fn a_list_of_names_is_an_asset_each() {
    let ids = |call: &str, request: Value, response: Value| -> Vec<String> {
        drafts(call, request, response)
            .into_iter()
            .map(|draft| format!("{} {}", draft.asset.kind.provider_type, draft.asset.id))
            .collect()
    };
    let request = json!({ "alarmNames": ["disk-full", "cpu-high"] });
    assert_eq!(
        ids("monitoring DeleteAlarms", request, Value::Null),
        ["monitoring:alarm disk-full", "monitoring:alarm cpu-high"]
    );
    let request = json!("{\"dashboardNames\": [\"shop\"]}");
    assert_eq!(ids("monitoring DeleteDashboards", request, Value::Null), ["monitoring:dashboard shop"]);
    let request = json!({ "ruleNames": ["top-talkers"] });
    assert_eq!(ids("monitoring DeleteInsightRules", request, Value::Null), ["monitoring:insight-rule top-talkers"]);
    let request = json!({ "catalogId": "123837392027", "connectionNameList": ["jdbc-1", "jdbc-2"] });
    let response =
        json!({ "succeeded": ["jdbc-1"], "errors": { "jdbc-2": { "errorCode": "EntityNotFoundException" } } });
    assert_eq!(ids("glue BatchDeleteConnection", request, response), ["glue:connection jdbc-1"]);
    let request = json!({ "databaseName": "sales", "tablesToDelete": ["daily"] });
    assert_eq!(ids("glue BatchDeleteTable", request, Value::Null), ["glue:table daily"]);
    let request = json!({ "databaseName": "sales", "tablesToDelete": ["daily"] });
    let response =
        json!({ "errors": [{ "tableName": "daily", "errorDetail": { "errorCode": "EntityNotFoundException" } }] });
    let outcome = normalized("glue BatchDeleteTable", request, response);
    assert!(matches!(&outcome, Outcome::Skipped { reason, .. } if **reason == *"failed call"), "{outcome:?}");
}

#[test]
fn the_nouns_own_member_comes_before_flat_keys() {
    let request = json!({ "name": "shop.example.com", "callerReference": "a" });
    let response = json!({ "hostedZone": { "id": "/hostedzone/Z0123", "name": "shop.example.com." }, "changeInfo": { "id": "/change/C9" },
        "delegationSet": { "nameServers": [] } });
    assert_change("route53 CreateHostedZone", request, response, (CREATE, "route53:hosted-zone", "Z0123"));
    let request = json!({ "catalogId": "123837392027", "databaseInput": { "name": "sales" } });
    assert_change("glue CreateDatabase", request, Value::Null, (CREATE, "glue:database", "sales"));
    let arn = "arn:aws:network-firewall:eu-west-1:123837392027:firewall/edge";
    let response =
        json!({ "firewall": { "firewallId": "0f", "firewallName": "edge", "firewallArn": arn }, "firewallStatus": {} });
    let request = json!({ "firewallName": "edge" });
    assert_change("network-firewall CreateFirewall", request, response, (CREATE, "network-firewall:firewall", "edge"));
    let arn = "arn:aws:elasticloadbalancing:eu-west-1:123837392027:loadbalancer/app/web/0a1b";
    let [draft] = drafts(
        "elasticloadbalancing CreateLoadBalancer",
        json!({ "name": "web" }),
        json!({ "loadBalancers": [{ "vpcId": "vpc-1", "loadBalancerArn": arn }] }),
    )
    .try_into()
    .unwrap();
    assert_eq!(draft.asset.arn.as_deref(), Some(arn));
    let request = json!({ "lensAlias": "lens-1", "sharedWith": "444455556666" });
    let response = json!({ "lensAlias": "lens-1", "shareId": "share-1" });
    assert_change(
        "wellarchitected CreateLensShare",
        request,
        response,
        (CREATE, "wellarchitected:lens-share", "share-1"),
    );
}

#[test]
fn a_delete_is_about_what_was_asked_for() {
    let response = json!({ "changeInfo": { "id": "/change/C9" } });
    let deleted = (DELETE, "route53:hosted-zone", "Z0123");
    assert_change("route53 DeleteHostedZone", json!({ "id": "Z0123" }), response.clone(), deleted);
    assert_unnamed("route53 DeleteHostedZone", json!({}), response);
    let request = json!({ "lensAlias": "lens-1", "shareId": "share-1" });
    let deleted = (DELETE, "wellarchitected:lens-share", "share-1");
    assert_change("wellarchitected DeleteLensShare", request, Value::Null, deleted);
}

#[test]
fn an_id_of_something_else_is_never_taken() {
    let strange = json!({ "catalogId": "1", "kmsKeyId": "2", "roleArn": "arn:aws:iam::123837392027:role/x", "queryExecutionId": "3" });
    assert_unnamed("glue CreateCrawler", strange.clone(), Value::Null);
    assert_unnamed("glue UpdateCrawler", strange, Value::Null);
    assert_unnamed("glue DeleteBlueprint", json!({ "workflowName": "nightly" }), Value::Null);
    let request = json!({ "dBSnapshotIdentifier": "before-upgrade", "attributeName": "restore" });
    let changed = (UPDATE, "newdb:db-snapshot", "before-upgrade");
    assert_change("newdb ModifyDBSnapshotAttribute", request, Value::Null, changed);
}

#[test]
fn what_is_restored_stands_before_the_preposition() {
    let response = json!({ "dBInstanceIdentifier": "shop", "cACertificateIdentifier": "rds-ca-2019",
        "dBInstanceArn": "arn:aws:newdb:eu-west-1:123837392027:db:shop" });
    let request = json!({ "dBInstanceIdentifier": "shop", "dBSnapshotIdentifier": "before-upgrade" });
    assert_change("newdb RestoreDBInstanceFromDBSnapshot", request, response, (CREATE, "newdb:db", "shop"));
    let request = json!({ "sourceDBInstanceIdentifier": "old", "targetDBInstanceIdentifier": "shop" });
    let response = json!({ "dBInstanceIdentifier": "shop" });
    assert_change("newdb RestoreDBInstanceToPointInTime", request, response, (CREATE, "newdb:db-instance", "shop"));
}

#[test]
fn masks_and_documents_are_no_ids() {
    for text in ["***", "HIDDEN_DUE_TO_SECURITY_REASONS", "[redacted]", "{\"a\":1}", "two\nlines", &"x".repeat(257)] {
        assert_unnamed("appmesh CreateMesh", json!({ "meshName": text }), Value::Null);
    }
    let name = "x".repeat(256);
    assert_change("appmesh CreateMesh", json!({ "meshName": name }), Value::Null, (CREATE, "appmesh:mesh", &name));
}

#[test]
fn a_queue_is_named_by_its_url() {
    let request = json!({ "queueUrl": "https://sqs.eu-west-1.amazonaws.com/123837392027/orders" });
    for (call, action) in
        [("sqs DeleteQueue", DELETE), ("sqs SetQueueAttributes", UPDATE), ("sqs AddPermission", UPDATE)]
    {
        assert_change(call, request.clone(), Value::Null, (action, "AWS::SQS::Queue", "orders"));
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let outcome = normalized("cloud9 CreateEnvironmentEC2", json!({ "name": "lab", "dryRun": true }), Value::Null);
    assert!(matches!(&outcome, Outcome::Skipped { reason, .. } if **reason == *"dry run"), "{outcome:?}");
    assert_eq!(drafts("cloud9 CreateEnvironmentEC2", json!({ "name": "lab", "dryRun": false }), Value::Null).len(), 1);
}

#[test]
fn logging_is_the_trails() {
    for call in ["cloudtrail StartLogging", "cloudtrail StopLogging"] {
        let request = json!({ "name": "arn:aws:cloudtrail:eu-west-1:123837392027:trail/all" });
        assert_change(call, request, Value::Null, (UPDATE, "cloudtrail:trail", "all"));
        assert_change(call, json!({ "name": "all" }), Value::Null, (UPDATE, "cloudtrail:trail", "all"));
    }
}

#[test]
fn a_quantity_is_no_identifier() {
    let request = json!({ "desiredCapacity": 3, "autoScalingGroupName": "web" });
    let [draft] = &drafts("autoscaling SetDesiredCapacity", request, Value::Null)[..] else { panic!("one draft") };
    assert_eq!(draft.asset.id, "web");
}
