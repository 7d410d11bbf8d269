//! Checks the generator's records independently, keeping its own account of what exists.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::source::StatusBoard;

fn parsed(seed: u64, n: usize) -> Vec<Value> {
    generate(seed, n).iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn text<'a>(record: &'a Value, pointer: &str) -> &'a str {
    record.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn is_change(record: &Value) -> bool {
    record["readOnly"] == false && record.get("errorCode").is_none() && record["eventType"] == "AwsApiCall"
}

/// Every string and key below a value.
fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(list) => list.iter().for_each(|value| strings(value, found)),
        Value::Object(map) => map.values().for_each(|value| strings(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The EC2 ids in a value: `sg-0…` and the like.
fn ec2_ids(value: &Value) -> BTreeSet<String> {
    const PREFIXES: [&str; 14] =
        ["vpc", "subnet", "rtb", "igw", "nat", "eipalloc", "eipassoc", "sg", "sgr", "i", "vol", "snap", "lt", "eni"];
    let mut found = Vec::new();
    strings(value, &mut found);
    let words = found.into_iter().flat_map(|text| text.split([',', '/', ':', '"']));
    words
        .filter(|word| {
            word.split_once('-').is_some_and(|(prefix, rest)| {
                PREFIXES.contains(&prefix) && rest.len() == 17 && rest.bytes().all(|b| b.is_ascii_hexdigit())
            })
        })
        .map(str::to_owned)
        .collect()
}

/// The assets that a request refers to, each with its kind and account.
fn named(record: &Value) -> BTreeSet<String> {
    let request = &record["requestParameters"];
    let account = text(record, "/recipientAccountId");
    let service = text(record, "/eventSource");
    let mut names = ec2_ids(request);
    let mut add = |kind: &str, pointer: &str| {
        if let Some(name) = request.pointer(pointer).and_then(Value::as_str) {
            let name = name.rsplit(['/', ':']).next().unwrap_or(name);
            names.insert(format!("{kind} {account} {name}"));
        }
    };
    match service {
        "s3.amazonaws.com" => add("bucket", "/bucketName"),
        "iam.amazonaws.com" => {
            add("user", "/userName");
            add("role", "/roleName");
            add("key", "/accessKeyId");
            if !text(request, "/policyArn").contains("::aws:") {
                add("policy", "/policyArn");
            }
        }
        "lambda.amazonaws.com" => {
            add("function", "/functionName");
            add("role", "/role");
            add("bucket", "/code/s3Bucket");
            add("bucket", "/s3Bucket");
            add("topic", "/sourceArn");
        }
        "kms.amazonaws.com" => {
            add("kms", "/keyId");
            add("kms", "/targetKeyId");
        }
        "sns.amazonaws.com" => {
            add("topic", "/topicArn");
            add("subscription", "/subscriptionArn");
        }
        "ecs.amazonaws.com" => {
            add("cluster", "/cluster");
            add("service", "/service");
            add("task", "/task");
        }
        "autoscaling.amazonaws.com" => add("scaling", "/autoScalingGroupName"),
        "cloudformation.amazonaws.com" if text(request, "/stackName").starts_with("arn:") => {
            let name = text(request, "/stackName").split('/').nth(1).unwrap();
            names.insert(format!("stack {account} {name}"));
        }
        "cloudformation.amazonaws.com" => add("stack", "/stackName"),
        _ => {}
    }
    names
}

/// The kinds of ids that a call of EC2 creates.
fn makes(call: &str) -> &'static [&'static str] {
    match call {
        "CreateVpc" => &["vpc"],
        "CreateSubnet" => &["subnet"],
        "CreateRouteTable" => &["rtb"],
        "CreateInternetGateway" => &["igw"],
        "AllocateAddress" => &["eipalloc"],
        "AssociateAddress" => &["eipassoc"],
        "CreateNatGateway" => &["nat"],
        "CreateSecurityGroup" => &["sg"],
        "AuthorizeSecurityGroupIngress" => &["sgr"],
        "RunInstances" => &["i", "eni"],
        "CreateVolume" => &["vol"],
        "CreateSnapshot" => &["snap"],
        "CreateLaunchTemplate" => &["lt"],
        _ => &[],
    }
}

/// The assets that a call creates.
fn created(record: &Value) -> BTreeSet<String> {
    let account = text(record, "/recipientAccountId");
    let response = &record["responseElements"];
    let name = |kind: &str, value: &Value, pointer: &str| {
        let name = text(value, pointer).rsplit(['/', ':']).next().unwrap_or_default().to_owned();
        BTreeSet::from([format!("{kind} {account} {name}")])
    };
    let request = &record["requestParameters"];
    match text(record, "/eventName") {
        "CreateBucket" => name("bucket", request, "/bucketName"),
        "CreateUser" => name("user", response, "/user/userName"),
        "CreateAccessKey" => name("key", response, "/accessKey/accessKeyId"),
        "CreateRole" => name("role", response, "/role/roleName"),
        "CreatePolicy" => name("policy", response, "/policy/arn"),
        "CreateFunction20150331" => name("function", response, "/functionName"),
        "CreateKey" => name("kms", response, "/keyMetadata/keyId"),
        "CreateTopic" => name("topic", response, "/topicArn"),
        "Subscribe" => name("subscription", response, "/subscriptionArn"),
        "CreateCluster" => name("cluster", response, "/cluster/clusterName"),
        "CreateService" => name("service", response, "/service/serviceName"),
        "RunTask" => name("task", response, "/tasks/0/taskArn"),
        "CreateAutoScalingGroup" => name("scaling", request, "/autoScalingGroupName"),
        "CreateStack" => name("stack", request, "/stackName"),
        call => {
            let kinds = makes(call);
            let is_new = |id: &String| id.split_once('-').is_some_and(|(prefix, _)| kinds.contains(&prefix));
            ec2_ids(response).into_iter().filter(is_new).collect()
        }
    }
}

/// The assets that a call deletes.
fn removed(record: &Value) -> BTreeSet<String> {
    let all = || named(record);
    let of_kind = |kind: &str| named(record).into_iter().filter(|name| name.starts_with(kind)).collect();
    match text(record, "/eventName") {
        "DeleteRoute"
        | "DeleteTags"
        | "DeleteBucketPolicy"
        | "DeleteBucketPublicAccessBlock"
        | "DeleteRolePolicy"
        | "DeletePolicyVersion" => BTreeSet::new(),
        "DeleteAccessKey" => of_kind("key "),
        "DeleteService" => of_kind("service "),
        "StopTask" => of_kind("task "),
        "RevokeSecurityGroupIngress" => of_kind("sgr-"),
        name if name.starts_with("Delete") => all(),
        "TerminateInstances" | "ReleaseAddress" | "Unsubscribe" | "ScheduleKeyDeletion" | "DisassociateAddress" => {
            all()
        }
        _ => BTreeSet::new(),
    }
}

#[test]
fn every_record_has_what_cloudtrail_records_have() {
    let mut ids = BTreeSet::new();
    let mut last = String::new();
    for record in parsed(7, 2_000) {
        for member in
            ["eventVersion", "eventSource", "eventName", "awsRegion", "sourceIPAddress", "userAgent", "requestID"]
        {
            assert!(!text(&record, &format!("/{member}")).is_empty(), "{member} in {record}");
        }
        for member in ["requestParameters", "responseElements", "readOnly", "managementEvent"] {
            assert!(record.get(member).is_some(), "{member} in {record}");
        }
        assert!(ids.insert(text(&record, "/eventID").to_owned()), "an event id twice: {record}");
        let time = text(&record, "/eventTime");
        assert!(time.len() == 20 && time.parse::<Time>().is_ok() && *time >= *last, "{time} after {last}");
        time.clone_into(&mut last);
        let account = text(&record, "/recipientAccountId");
        assert!(["111122223333", "444455556666"].contains(&account), "{record}");
        let kind = text(&record, "/userIdentity/type");
        assert!(["IAMUser", "AssumedRole", "WebIdentityUser"].contains(&kind), "{record}");
        if is_change(&record) {
            assert_eq!(text(&record, "/userIdentity/accountId"), account, "{record}");
        }
        if record["eventSource"] == "s3.amazonaws.com" {
            assert!(text(&record, "/userAgent").starts_with('['), "{record}");
        }
    }
}

#[test]
fn every_record_refers_to_what_exists() {
    for seed in [1, 2, 3] {
        let mut alive = BTreeSet::new();
        for record in parsed(seed, 2_000) {
            let change = is_change(&record);
            let new = if change { created(&record) } else { BTreeSet::new() };
            let mut names = named(&record);
            names.extend(ec2_ids(&record["responseElements"]));
            for name in names.difference(&new) {
                assert!(alive.contains(name), "{name} does not exist: {record}");
            }
            if change {
                for name in removed(&record) {
                    alive.remove(&name);
                }
                alive.extend(new);
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_records() {
    assert_eq!(generate(5, 1_000), generate(5, 1_000));
    let names = |seed| parsed(seed, 400).iter().flat_map(created).collect::<BTreeSet<_>>();
    let both: Vec<String> = names(5).intersection(&names(6)).cloned().collect();
    assert_eq!(both, Vec::<String>::new(), "worlds of different seeds share no asset");
}

#[test]
fn the_world_begins_whole_and_stays_bounded() {
    let records = parsed(11, 20_000);
    let base = World::new(11, Time::default());
    let mut base = base;
    let count = std::iter::from_fn(|| base.take()).count();
    assert!((50..=90).contains(&count), "{count} records of the base");
    let mut alive: BTreeSet<String> = BTreeSet::new();
    for record in records.iter().filter(|record| is_change(record)) {
        for name in removed(record) {
            alive.remove(&name);
        }
        // Assets that are deleted without their own call are not counted.
        let silent =
            |name: &String| ["eni-", "sgr-", "eipassoc-", "subscription "].iter().any(|kind| name.starts_with(kind));
        alive.extend(created(record).into_iter().filter(|name| !silent(name)));
    }
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for name in &alive {
        *kinds.entry(name.split([' ', '-']).next().unwrap_or_default()).or_default() += 1;
    }
    assert!(alive.len() < 300, "{kinds:?}");
}

#[test]
fn a_day_has_everything_in_it() {
    let records = parsed(3, 8_000);
    let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &records {
        *calls.entry(text(record, "/eventName")).or_default() += 1;
    }
    for name in [
        "CreateVpc",
        "DeleteVpc",
        "RunInstances",
        "TerminateInstances",
        "AttachVolume",
        "DetachVolume",
        "CreateSnapshot",
        "CreateNatGateway",
        "ModifyInstanceAttribute",
        "PutBucketPolicy",
        "PutBucketVersioning",
        "PutBucketEncryption",
        "CreateUser",
        "DeleteUser",
        "UpdateAccessKey",
        "CreatePolicyVersion",
        "DeleteRole",
        "CreateFunction20150331",
        "AddPermission20150331v2",
        "ScheduleKeyDeletion",
        "UpdateService",
        "StopTask",
        "CreateStack",
        "DeleteStack",
        "SetDesiredCapacity",
        "ConsoleLogin",
        "AssumeRole",
        "AssumeRoleWithWebIdentity",
        "DescribeInstances",
        "DeleteBucketPublicAccessBlock",
        "Unsubscribe",
    ] {
        assert!(calls.contains_key(name), "{name} never happened in {calls:?}");
    }
    let agents: BTreeSet<&str> = records.iter().map(|record| text(record, "/userAgent")).collect();
    for agent in
        ["Terraform/", "aws-cli/", "Boto3/", "aws-sdk-go", "Mozilla/", "S3Console", "autoscaling.", "cloudformation."]
    {
        assert!(agents.iter().any(|found| found.contains(agent)), "nobody used {agent}");
    }
    let refused = records.iter().filter(|record| record.get("errorCode").is_some()).count();
    let read = records.iter().filter(|record| record["readOnly"] == true).count();
    assert!(refused > 50 && read > 200 && refused + read < records.len() / 4, "{refused} refused, {read} read");
}

#[test]
fn an_incident_comes_soon_and_is_put_right() {
    let records = parsed(4, 2_000);
    let open = records.iter().position(|record| {
        text(record, "/eventName") == "AuthorizeSecurityGroupIngress" && record.to_string().contains("0.0.0.0/0")
    });
    let open = open.expect("nobody opened a group");
    assert!(open < 400, "after {open} records");
    let opened = &records[open];
    assert_eq!(text(opened, "/sourceIPAddress"), "203.0.113.199");
    let rule = text(opened, "/responseElements/securityGroupRuleSet/items/0/securityGroupRuleId");
    let closed = records[open..].iter().find(|record| {
        text(record, "/eventName") == "RevokeSecurityGroupIngress"
            && (record.to_string().contains(rule) || record.to_string().contains("0.0.0.0/0"))
    });
    let closed = closed.expect("nobody closed it");
    assert_eq!(text(closed, "/userIdentity/sessionContext/sourceIdentity"), "cloud-engineer@example.com");
}

#[tokio::test(start_paused = true)]
async fn the_source_keeps_its_rate_and_stops() {
    let (intake, mut queue) = Intake::new(4, 1 << 20);
    let status = StatusBoard::default().register("demo".into(), "demo");
    let stop = CancellationToken::new();
    let mut source = DemoSource::new(1, 20.0);
    let reader = async {
        let mut batches = Vec::new();
        let end = Instant::now() + Duration::from_secs(10);
        while let Ok(Some(submission)) = tokio::time::timeout_at(end, queue.recv()).await {
            batches.push(submission.delivery.records.len());
            let (done, pending) = crate::log::Pending::new();
            done.send(Ok(crate::model::Seq(1))).unwrap();
            submission.reply.send(Ok(pending)).unwrap();
        }
        stop.cancel();
        batches
    };
    let (outcome, batches) = tokio::join!(source.run(intake, status, stop.clone()), reader);
    outcome.unwrap();
    let after_base: usize = batches.iter().skip(1).sum();
    assert!(batches[0] > 50, "the base comes at once: {batches:?}");
    assert!((195..=201).contains(&after_base), "{after_base} in ten seconds at 20 a second");
    assert!(source.world.is_some(), "the world goes on when the source is started again");
}
