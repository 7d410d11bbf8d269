//! Records after a seed: each gives an event that tells what it changed, and nothing of how the seed spelled the rest.

use serde_json::{Value, json};

use super::{ACCOUNT, SUBSCRIPTION, TENANT, aws, configuration, import, seeds};
use crate::support::server::{Server, folder};
use crate::support::trail::{add, create_group};

/// A record of an hour after the seeds.
fn call(service: &str, name: &str, request: Value, response: Value) -> Value {
    let mut record = create_group(name);
    let members = json!({
        "eventTime": "2026-02-03T05:00:00Z", "eventSource": format!("{service}.amazonaws.com"), "eventName": name,
        "recipientAccountId": ACCOUNT, "requestParameters": request, "responseElements": response,
        "eventID": format!("{service}-{name}-{}", request.to_string().len()),
    });
    record.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    record["userIdentity"]["accountId"] = json!(ACCOUNT);
    record
}

/// A write of a resource, told in one record.
fn write(resource: &str, operation: &str, body: &Value) -> Value {
    json!({
        "time": "2026-02-03T05:00:00Z", "resourceId": format!("/subscriptions/{SUBSCRIPTION}{resource}"),
        "operationName": operation, "category": "Administrative", "resultType": "Success", "resultSignature": "Succeeded.",
        "correlationId": format!("0f1e2d3c-0000-4000-8000-{:012}", resource.len()), "level": "Information",
        "callerIpAddress": "192.0.2.1", "tenantId": TENANT,
        "identity": { "claims": { "appid": "04b07795-8ddb-461a-bbee-02f9e1bf7b46", "name": "Jane Doe" } },
        "properties": { "eventCategory": "Administrative", "statusCode": "OK", "responseBody": body.to_string() },
    })
}

/// What of a change is to be seen: what happened, where, and to what.
fn told(change: &Value) -> Value {
    json!([change["op"], change["path"], change.get("value").cloned().unwrap_or(Value::Null)])
}

fn replace(path: &str, value: Value) -> Value {
    json!(["replace", path, value])
}

/// A record, the asset that it changes, and all that may differ from what the seed told.
struct Case {
    record: Value,
    asset: String,
    changes: Vec<Value>,
}

fn policy() -> Value {
    json!({ "Version": "2012-10-17", "Statement": [] })
}

fn case(record: Value, asset: String, changes: Vec<Value>) -> Case {
    Case { record, asset, changes }
}

fn compute() -> Vec<Case> {
    let rule =
        json!({ "isEgress": false, "ipProtocol": "tcp", "fromPort": 22, "toPort": 22, "cidrIpv4": "198.51.100.0/24" });
    let open = |group: &str| {
        let permission = json!({ "ipProtocol": "tcp", "fromPort": 22, "toPort": 22,
            "ipRanges": { "items": [{ "cidrIp": "198.51.100.0/24" }] } });
        let request = json!({ "groupId": group, "ipPermissions": { "items": [permission] } });
        call("ec2", "AuthorizeSecurityGroupIngress", request, json!({ "_return": true }))
    };
    let close = json!({ "groupId": "sg-0a1b2c3d4e5f60718", "ipPermissions": { "items": [{ "ipProtocol": "tcp", "fromPort": 443,
        "toPort": 443, "ipRanges": { "items": [{ "cidrIp": "203.0.113.0/24" }] } }] } });
    let (instance, subnet) = ("i-0a1b2c3d4e5f60718", "subnet-0a1b2c3d4e5f60718");
    vec![
        case(
            call(
                "ec2",
                "StopInstances",
                json!({ "instancesSet": { "items": [{ "instanceId": instance }] } }),
                json!({ "instancesSet": { "items": [{ "instanceId": instance, "currentState": { "code": 64, "name": "stopping" },
                    "previousState": { "code": 16, "name": "running" } }] } }),
            ),
            aws(&format!("eu-west-1/ec2/instance/{instance}")),
            vec![replace("/instanceState/code", json!(64)), replace("/instanceState/name", json!("stopping"))],
        ),
        case(
            open("sg-0c0c0c0c0c0c0c0c0"),
            aws("eu-west-1/ec2/security-group/sg-0c0c0c0c0c0c0c0c0"),
            vec![json!(["add", "/rules/-", rule])],
        ),
        case(
            call("ec2", "RevokeSecurityGroupIngress", close, json!({ "_return": true })),
            aws("eu-west-1/ec2/security-group/sg-0a1b2c3d4e5f60718"),
            vec![json!(["remove", "/rules/0", null])],
        ),
        case(
            call(
                "ec2",
                "ModifyVpcTenancy",
                json!({ "vpcId": "vpc-0a1b2c3d4e5f60718", "instanceTenancy": "dedicated" }),
                json!({}),
            ),
            aws("eu-west-1/ec2/vpc/vpc-0a1b2c3d4e5f60718"),
            vec![replace("/instanceTenancy", json!("dedicated"))],
        ),
        case(
            call(
                "ec2",
                "ModifyVpcAttribute",
                json!({ "vpcId": "vpc-0d0d0d0d0d0d0d0d0", "enableDnsHostnames": { "value": false } }),
                json!({}),
            ),
            aws("eu-west-1/ec2/vpc/vpc-0d0d0d0d0d0d0d0d0"),
            vec![replace("/enableDnsHostnames", json!(false))],
        ),
        case(
            call(
                "ec2",
                "ModifySubnetAttribute",
                json!({ "subnetId": subnet, "mapPublicIpOnLaunch": { "value": true } }),
                json!({}),
            ),
            aws(&format!("eu-west-1/ec2/subnet/{subnet}")),
            vec![replace("/mapPublicIpOnLaunch", json!(true))],
        ),
        case(
            call(
                "ec2",
                "DeleteRoute",
                json!({ "routeTableId": "rtb-0a1b2c3d4e5f60718", "destinationCidrBlock": "0.0.0.0/0" }),
                json!({ "_return": true }),
            ),
            aws("eu-west-1/ec2/route-table/rtb-0a1b2c3d4e5f60718"),
            vec![json!(["remove", "/routeSet/1", null])],
        ),
        case(
            call(
                "ec2",
                "DetachVolume",
                json!({ "volumeId": "vol-0a1b2c3d4e5f60718" }),
                json!({ "volumeId": "vol-0a1b2c3d4e5f60718", "instanceId": instance, "device": "/dev/xvda" }),
            ),
            aws("eu-west-1/ec2/volume/vol-0a1b2c3d4e5f60718"),
            vec![json!(["remove", "/attachmentSet/0", null])],
        ),
    ]
}

fn identities() -> Vec<Case> {
    let attached =
        json!({ "policyArn": "arn:aws:iam::aws:policy/AdministratorAccess", "policyName": "AdministratorAccess" });
    let attach = json!({ "roleName": "deployer", "policyArn": "arn:aws:iam::aws:policy/AdministratorAccess" });
    let version = json!({ "policyVersion": { "versionId": "v2", "isDefaultVersion": false, "createDate": "Feb 3, 2026 5:00:00 AM" } });
    vec![
        case(
            call("iam", "AttachRolePolicy", attach, Value::Null),
            aws("-/iam/role/deployer"),
            vec![json!(["add", "/attachedPolicies/-", attached])],
        ),
        case(
            call(
                "iam",
                "UpdateAssumeRolePolicy",
                json!({ "roleName": "auditor", "policyDocument": json!({ "Version": "2008-10-17", "Statement": [] }).to_string() }),
                Value::Null,
            ),
            aws("-/iam/role/auditor"),
            vec![replace("/assumeRolePolicyDocument/Version", json!("2008-10-17"))],
        ),
        case(
            call("iam", "RemoveUserFromGroup", json!({ "userName": "jane", "groupName": "admins" }), Value::Null),
            aws("-/iam/user/jane"),
            vec![json!(["remove", "/groups/0", null])],
        ),
        case(
            call(
                "iam",
                "CreatePolicyVersion",
                json!({ "policyArn": "arn:aws:iam::111122223333:policy/uploads", "policyDocument": policy().to_string() }),
                version,
            ),
            aws("-/iam/policy/uploads"),
            vec![json!(["add", "/versions/-",
                { "versionId": "v2", "createDate": "Feb 3, 2026 5:00:00 AM", "document": policy() }])],
        ),
        case(
            call(
                "kms",
                "DisableKey",
                json!({ "keyId": "0a1b2c3d-0000-4000-8000-000000000001" }),
                json!({ "keyId": "arn:aws:kms:eu-west-1:111122223333:key/0a1b2c3d-0000-4000-8000-000000000001" }),
            ),
            aws("eu-west-1/kms/key/0a1b2c3d-0000-4000-8000-000000000001"),
            vec![replace("/enabled", json!(false)), replace("/keyState", json!("Disabled"))],
        ),
        case(
            call(
                "secretsmanager",
                "UpdateSecret",
                json!({ "secretId": "arn:aws:secretsmanager:eu-west-1:111122223333:secret:orders/db-a1B2c3", "description": "x" }),
                json!({ "arn": "arn:aws:secretsmanager:eu-west-1:111122223333:secret:orders/db-a1B2c3", "name": "orders/db" }),
            ),
            aws("eu-west-1/secretsmanager/secret/orders%2Fdb-a1B2c3"),
            vec![replace("/description", json!("x"))],
        ),
    ]
}

fn services() -> Vec<Case> {
    let queue = |name: &str| {
        let url = format!("https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/{name}");
        let case_record = call(
            "sqs",
            "SetQueueAttributes",
            json!({ "queueUrl": url, "attributes": { "VisibilityTimeout": "60" } }),
            Value::Null,
        );
        case(
            case_record,
            aws(&format!("eu-west-1/sqs/queue/{name}")),
            vec![replace("/attributes/VisibilityTimeout", json!("60"))],
        )
    };
    let scanning = |name: &str| {
        let request = json!({ "repositoryName": name, "imageScanningConfiguration": { "scanOnPush": true } });
        case(
            call("ecr", "PutImageScanningConfiguration", request, json!({})),
            aws(&format!("eu-west-1/ecr/repository/{name}")),
            vec![replace("/imageScanningConfiguration/scanOnPush", json!(true))],
        )
    };
    vec![
        queue("orders"),
        queue("jobs"),
        scanning("web"),
        scanning("batch"),
        case(
            call(
                "s3",
                "PutBucketVersioning",
                json!({ "bucketName": "example-orders", "VersioningConfiguration": { "Status": "Suspended" } }),
                Value::Null,
            ),
            aws("-/s3/bucket/example-orders"),
            vec![replace("/versioning/Status", json!("Suspended"))],
        ),
        case(
            call(
                "lambda",
                "TagResource20170331v2",
                json!({ "resource": "arn:aws:lambda:eu-west-1:111122223333:function:resize", "tags": { "team": "a" } }),
                Value::Null,
            ),
            aws("eu-west-1/lambda/function/resize"),
            vec![json!(["add", "/tags", { "team": "a" }])],
        ),
        case(
            call(
                "rds",
                "AddTagsToResource",
                json!({ "resourceName": "arn:aws:rds:eu-west-1:111122223333:db:orders", "tags": [{ "key": "team", "value": "b" }] }),
                Value::Null,
            ),
            aws("eu-west-1/rds/db/orders"),
            vec![replace("/tags/team", json!("b"))],
        ),
        case(
            call(
                "ecs",
                "UpdateClusterSettings",
                json!({ "cluster": "blue", "settings": [{ "name": "containerInsights", "value": "enabled" }] }),
                json!({ "cluster": { "clusterArn": "arn:aws:ecs:eu-west-1:111122223333:cluster/blue", "clusterName": "blue",
                    "settings": [{ "name": "containerInsights", "value": "enabled" }] } }),
            ),
            aws("eu-west-1/ecs/cluster/blue"),
            vec![replace("/settings/0/value", json!("enabled"))],
        ),
        case(
            call(
                "ecs",
                "TagResource",
                json!({ "resourceArn": "arn:aws:ecs:eu-west-1:111122223333:service/blue/web", "tags": [{ "key": "a", "value": "b" }] }),
                Value::Null,
            ),
            aws("eu-west-1/ecs/service/blue/web"),
            vec![json!(["add", "/tags", { "a": "b" }])],
        ),
        case(
            call("eks", "UpdateClusterVersion", json!({ "name": "blue", "version": "1.34" }), json!({})),
            aws("eu-west-1/eks/cluster/blue"),
            vec![json!(["remove", "/platformVersion", null]), replace("/version", json!("1.34"))],
        ),
        case(
            call(
                "dynamodb",
                "TagResource",
                json!({ "resourceArn": "arn:aws:dynamodb:eu-west-1:111122223333:table/orders", "tags": [{ "key": "a", "value": "b" }] }),
                Value::Null,
            ),
            aws("eu-west-1/dynamodb/table/orders"),
            vec![json!(["add", "/tags", { "a": "b" }])],
        ),
        case(
            call(
                "sns",
                "SetTopicAttributes",
                json!({ "topicArn": "arn:aws:sns:eu-west-1:111122223333:alarms", "attributeName": "Policy",
                    "attributeValue": policy().to_string() }),
                Value::Null,
            ),
            aws("eu-west-1/sns/topic/alarms"),
            vec![replace("/attributes/Policy/Statement", json!([]))],
        ),
        case(
            call(
                "logs",
                "PutRetentionPolicy",
                json!({ "logGroupName": "/aws/lambda/resize", "retentionInDays": 30 }),
                Value::Null,
            ),
            aws("eu-west-1/logs/log-group/%2Faws%2Flambda%2Fresize"),
            vec![json!(["add", "/retentionInDays", 30])],
        ),
        case(
            call("cloudtrail", "StopLogging", json!({ "name": "audit" }), Value::Null),
            aws("eu-west-1/cloudtrail/trail/audit"),
            vec![json!(["add", "/isLogging", false])],
        ),
        case(
            call(
                "elasticloadbalancing",
                "SetIpAddressType",
                json!({ "loadBalancerArn": "arn:aws:elasticloadbalancing:eu-west-1:111122223333:loadbalancer/app/web/0a1b2c3d4e5f6071",
                    "ipAddressType": "dualstack" }),
                json!({ "ipAddressType": "dualstack" }),
            ),
            aws("eu-west-1/elasticloadbalancing/loadbalancer/app%2Fweb%2F0a1b2c3d4e5f6071"),
            vec![replace("/ipAddressType", json!("dualstack"))],
        ),
    ]
}

fn azure() -> Vec<Case> {
    let store = "/resourceGroups/shop/providers/Microsoft.Storage/storageAccounts/examplestore";
    let machine = "/resourceGroups/SHOP/providers/Microsoft.Compute/virtualMachines/vm1";
    let name = |resource: &str| format!("asset://azure/{SUBSCRIPTION}/-{}", resource.to_lowercase());
    let rule = "/resourceGroups/shop/providers/Microsoft.Network/networkSecurityGroups/web/securityRules/ssh";
    let of_rule = json!({ "protocol": "Tcp", "direction": "Inbound", "access": "Allow", "priority": 110 });
    vec![
        case(
            write(
                store,
                "Microsoft.Storage/storageAccounts/write",
                &json!({ "id": format!("/subscriptions/{SUBSCRIPTION}{store}"), "name": "examplestore", "kind": "StorageV2",
                    "type": "Microsoft.Storage/storageAccounts", "location": "westeurope", "tags": { "team": "payments" },
                    "sku": { "name": "Standard_LRS", "tier": "Standard" },
                    "properties": { "provisioningState": "Succeeded", "minimumTlsVersion": "TLS1_2",
                        "supportsHttpsTrafficOnly": true, "allowBlobPublicAccess": true } }),
            ),
            name(store),
            vec![replace("/properties/minimumTlsVersion", json!("TLS1_2"))],
        ),
        case(
            write(
                machine,
                "Microsoft.Compute/virtualMachines/write",
                &json!({ "id": format!("/subscriptions/{SUBSCRIPTION}{machine}"), "name": "vm1",
                    "type": "Microsoft.Compute/virtualMachines", "location": "westeurope", "tags": { "team": "payments" },
                    "properties": { "hardwareProfile": { "vmSize": "Standard_B4ms" }, "provisioningState": "Updating",
                        "vmId": "0a1b2c3d-0000-4000-8000-000000000007",
                        "osProfile": { "computerName": "vm1", "adminUsername": "ops" } } }),
            ),
            name(machine),
            vec![replace("/properties/hardwareProfile/vmSize", json!("Standard_B4ms"))],
        ),
        case(
            write(
                rule,
                "Microsoft.Network/networkSecurityGroups/securityRules/write",
                &json!({ "id": format!("/subscriptions/{SUBSCRIPTION}{rule}"), "name": "ssh", "properties": of_rule }),
            ),
            name("/resourceGroups/shop/providers/Microsoft.Network/networkSecurityGroups/web"),
            vec![json!(["add", "/properties/securityRules/-", { "name": "ssh", "properties": of_rule }])],
        ),
    ]
}

#[test]
fn an_event_after_a_seed_tells_the_change_and_nothing_of_its_spelling() {
    let folder = folder();
    let given = ["--as-of", "2026-02-03T04:00:00Z", "--account", ACCOUNT, "--region", "eu-west-1"];
    let imported = import(folder.path(), &given, &seeds());
    assert_eq!(imported.code, Some(0), "{} {}", imported.stdout, imported.stderr);
    let cases: Vec<_> = [compute(), identities(), services(), azure()].into_iter().flatten().collect();
    let trail = folder.path().join("trail.ndjson");
    cases.iter().for_each(|case| add(&trail, &case.record));
    let server = Server::serve(folder.path(), &configuration(folder.path()));
    let mut wrong = Vec::new();
    server.wait_until("told", || server.all_events().len() >= cases.len());
    let events = server.all_events();
    for Case { asset, changes, record } in &cases {
        let Some(event) = events.iter().find(|event| event["subject"] == *asset) else {
            wrong.push(format!("{asset}: no event of {}", record["eventName"]));
            continue;
        };
        let data = &event["data"];
        let found: Vec<_> = data["changes"].as_array().unwrap().iter().map(told).collect();
        if found != *changes || data["previous_state"] != "present" {
            wrong.push(format!("{asset}: {} {found:?} instead of {changes:?}", data["previous_state"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
