//! Setting AWS up: the Terraform module, and what `catchment doctor aws` finds where a step is missing.

use std::path::Path;

use serde_json::json;

use crate::support::moto::{ACCOUNT, Moto, REGION};
use crate::support::program::{Finished, catchment, finish};
use crate::support::server::folder;
use crate::support::terraform::{module, references};

/// Resource and data types: their required arguments and blocks, and the others that the module may use
/// (<https://registry.terraform.io/providers/hashicorp/aws/latest/docs>).
const TYPES: [(&str, &[&str], &[&str]); 10] = [
    (
        "resource.aws_sqs_queue",
        &["name"],
        &[
            "message_retention_seconds",
            "visibility_timeout_seconds",
            "receive_wait_time_seconds",
            "sqs_managed_sse_enabled",
            "redrive_policy",
            "tags",
        ],
    ),
    ("resource.aws_sqs_queue_policy", &["queue_url", "policy"], &[]),
    ("resource.aws_s3_bucket_notification", &["bucket"], &["queue"]),
    ("resource.aws_cloudwatch_event_rule", &["event_pattern"], &["name", "description", "tags"]),
    ("resource.aws_cloudwatch_event_target", &["rule", "arn"], &["target_id"]),
    ("resource.aws_iam_role", &["assume_role_policy"], &["name", "description", "tags"]),
    ("resource.aws_iam_role_policy", &["role", "policy"], &["name"]),
    ("data.aws_iam_policy_document", &["statement"], &["dynamic"]),
    ("data.aws_partition", &[], &[]),
    ("data.aws_caller_identity", &[], &[]),
];

/// Arguments that every block may have.
const META: [&str; 3] = ["count", "for_each", "depends_on"];

#[test]
fn the_terraform_module_is_whole() {
    let module = module("deploy/aws");
    assert!(module["variable.bucket_name"].get("default").is_none(), "the bucket must be named");
    for output in ["queue_url", "events_queue_url", "role_arn", "policy_json", "configuration"] {
        assert!(module[&format!("output.{output}")]["value"].is_string(), "{output}");
    }
    for (name, block) in &module {
        let told = name.starts_with("variable.") || name.starts_with("output.");
        assert!(!told || block["description"].is_string(), "{name} has a description");
        for reference in references(&block.to_string(), &["aws_"]) {
            assert!(module.contains_key(&reference), "{name} refers to {reference}, which is nowhere");
        }
        if !name.starts_with("resource.") && !name.starts_with("data.") {
            continue;
        }
        let kind = name.rsplit_once('.').unwrap().0;
        let table = TYPES.iter().find(|(known, _, _)| *known == kind);
        let (_, required, allowed) = table.unwrap_or_else(|| panic!("{kind} is not in the table"));
        let given: Vec<&str> = block.as_object().unwrap().keys().map(String::as_str).collect();
        for argument in *required {
            assert!(given.contains(argument), "{name} lacks {argument}");
        }
        for argument in given.iter().filter(|argument| !META.contains(*argument)) {
            assert!(required.contains(argument) || allowed.contains(argument), "{name}: {argument} is unknown");
        }
    }
    // The role may do what the documentation says, and no more.
    let read = module["data.aws_iam_policy_document.read"].to_string();
    let documentation = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/aws.md")).unwrap();
    for action in
        ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "s3:GetObject", "kms:Decrypt"]
    {
        assert!(read.contains(action) && documentation.contains(action), "{action}");
    }
    assert!(!read.contains(":*\""), "no wildcard of actions: {read}");
}

/// `catchment doctor aws` on a source of a kind, with moto for all of AWS.
fn doctor(moto: &Moto, folder: &Path, kind: &str) -> Finished {
    let endpoint = format!("http://{}", moto.address());
    let configuration = format!(
        "[sources.trail.{kind}]\nqueue_url = \"{endpoint}/{ACCOUNT}/trail\"\nregion = \"{REGION}\"\n\
         sqs_endpoint_url = \"{endpoint}\"\ns3_endpoint_url = \"{endpoint}\"\nsts_endpoint_url = \"{endpoint}\"\n"
    );
    let path = folder.join("catchment.toml");
    std::fs::write(&path, configuration).unwrap();
    let mut command = catchment();
    command.args(["doctor", "aws", "--bucket", "example-trail", "--config"]).arg(path);
    command.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE").env("AWS_SECRET_ACCESS_KEY", "not a key");
    for service in ["CLOUDTRAIL", "EVENTBRIDGE", "SNS"] {
        command.env(format!("AWS_ENDPOINT_URL_{service}"), &endpoint);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    finish(&mut command, b"")
}

/// Has the bucket give notice to a queue.
fn notify(moto: &Moto, queue: &str) {
    let notification = format!(
        "<NotificationConfiguration><QueueConfiguration><Queue>{}</Queue><Event>s3:ObjectCreated:*</Event>\
         </QueueConfiguration></NotificationConfiguration>",
        Moto::queue_arn(queue)
    );
    moto.put("/example-trail?notification", notification.as_bytes());
}

#[test]
fn the_doctor_names_what_is_missing_until_nothing_is() {
    let (moto, folder) = (Moto::start(), folder());
    let found = doctor(&moto, folder.path(), "aws_s3_sqs");
    assert_eq!(found.code, Some(1), "{}", found.stdout);
    assert!(found.stdout.contains("ok       credentials: arn:aws:"), "{}", found.stdout);
    assert!(found.stdout.contains("MISSING  queue: it does not exist"), "{}", found.stdout);

    moto.queue("trail", &json!({}));
    moto.queue("other", &json!({}));
    moto.bucket("example-trail");
    notify(&moto, "other");
    let found = doctor(&moto, folder.path(), "aws_s3_sqs");
    assert_eq!(found.code, Some(1));
    for expected in [
        "ok       queue: arn:aws:sqs:eu-west-1:123456789012:trail",
        "note     dead letters: no redrive policy",
        "ok       permissions",
        "MISSING  queue policy: no service may send",
        "\"sqs:SendMessage\"",
        "MISSING  notification: example-trail sends no notifications",
        "put-bucket-notification-configuration --bucket example-trail",
        "note     log files: none among the first 0 objects",
        "note     trail: none of the 0 trails visible here writes to example-trail",
    ] {
        assert!(found.stdout.contains(expected), "{expected}: {}", found.stdout);
    }

    let dead = json!({ "deadLetterTargetArn": Moto::queue_arn("dead"), "maxReceiveCount": 10 }).to_string();
    moto.queue("dead", &json!({}));
    let policy = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "Service": "s3.amazonaws.com" }, "Action": "sqs:SendMessage",
        "Resource": Moto::queue_arn("trail"),
        "Condition": { "ArnEquals": { "aws:SourceArn": "arn:aws:s3:::example-trail" } },
    }] });
    let attributes =
        json!({ "RedrivePolicy": dead, "Policy": policy.to_string(), "MessageRetentionPeriod": "1209600" });
    let queue_url = format!("http://{}/{ACCOUNT}/trail", moto.address());
    moto.call("sqs", "AmazonSQS.SetQueueAttributes", &json!({ "QueueUrl": queue_url, "Attributes": attributes }));
    notify(&moto, "trail");
    let key = "AWSLogs/111122223333/CloudTrail/eu-west-1/2026/02/03/111122223333_CloudTrail_eu-west-1_20260203T0405Z_a.json.gz";
    moto.put(&format!("/example-trail/{key}"), b"{}");
    let target = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.";
    let trail = json!({ "Name": "main", "S3BucketName": "example-trail", "IsMultiRegionTrail": true });
    moto.call("cloudtrail", &format!("{target}CreateTrail"), &trail);
    let found = doctor(&moto, folder.path(), "aws_s3_sqs");
    assert!(found.stdout.contains("MISSING  trail: main is not logging"), "{}", found.stdout);
    assert!(found.stdout.contains("aws cloudtrail start-logging --name arn:aws:cloudtrail:"), "{}", found.stdout);

    moto.call("cloudtrail", &format!("{target}StartLogging"), &json!({ "Name": "main" }));
    let found = doctor(&moto, folder.path(), "aws_s3_sqs");
    assert_eq!(found.code, Some(0), "{}{}", found.stdout, found.stderr);
    assert!(!found.stdout.contains("note") && found.stdout.contains("can be read"), "{}", found.stdout);
}

/// A policy that lets a service do something for a resource, and the name of its statement's resource.
fn policy(service: &str, action: &str, resource: &str, source: &str) -> String {
    json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "Service": service }, "Action": action, "Resource": resource,
        "Condition": { "ArnEquals": { "aws:SourceArn": source } },
    }] })
    .to_string()
}

fn set_queue_policy(moto: &Moto, policy: &str) {
    let queue_url = format!("http://{}/{ACCOUNT}/trail", moto.address());
    let attributes = json!({ "QueueUrl": queue_url, "Attributes": { "Policy": policy } });
    moto.call("sqs", "AmazonSQS.SetQueueAttributes", &attributes);
}

fn notify_by(moto: &Moto, way: &str) {
    let notification = format!("<NotificationConfiguration>{way}</NotificationConfiguration>");
    moto.put("/example-trail?notification", notification.as_bytes());
}

/// A call to SNS; gives the text of an element of the answer.
fn sns(moto: &Moto, action: &str, parameters: &[(&str, &str)], element: &str) -> String {
    let head = [("Action", action), ("Version", "2010-03-31")];
    moto.query("sns", &[&head[..], parameters].concat(), element)
}

#[track_caller]
fn assert_found(found: &Finished, expected: &[&str]) {
    for expected in expected {
        assert!(found.stdout.contains(expected), "{expected}: {}{}", found.stdout, found.stderr);
    }
}

#[test]
fn the_doctor_follows_a_notice_through_a_topic() {
    let (moto, folder) = (Moto::start(), folder());
    moto.queue("trail", &json!({}));
    moto.bucket("example-trail");
    let topic = sns(&moto, "CreateTopic", &[("Name", "log-files")], "TopicArn");
    notify_by(
        &moto,
        &format!("<TopicConfiguration><Topic>{topic}</Topic><Event>s3:ObjectCreated:*</Event></TopicConfiguration>"),
    );
    let found = doctor(&moto, folder.path(), "aws_s3_sqs");
    let missing = [
        format!("MISSING  topic policy: arn:aws:s3:::example-trail may not publish to {topic}"),
        format!("MISSING  subscription: the queue is not subscribed to {topic}"),
        format!(
            "aws sns subscribe --topic-arn {topic} --protocol sqs --notification-endpoint {}",
            Moto::queue_arn("trail")
        ),
        format!("MISSING  queue policy: {topic} may not send to the queue"),
        "\"sns:Publish\"".to_owned(),
    ];
    assert_found(&found, &missing.each_ref().map(String::as_str));

    let publish = policy("s3.amazonaws.com", "sns:Publish", &topic, "arn:aws:s3:::example-trail");
    let attribute = [("TopicArn", topic.as_str()), ("AttributeName", "Policy"), ("AttributeValue", &publish)];
    sns(&moto, "SetTopicAttributes", &attribute, "RequestId");
    let queue = Moto::queue_arn("trail");
    let subscription = [("TopicArn", topic.as_str()), ("Protocol", "sqs"), ("Endpoint", &queue)];
    let subscription = sns(&moto, "Subscribe", &subscription, "SubscriptionArn");
    set_queue_policy(&moto, &policy("sns.amazonaws.com", "sqs:SendMessage", &queue, &topic));
    let found = doctor(&moto, folder.path(), "aws_s3_sqs");
    assert_found(&found, &["ok       topic: ", "ok       subscription: the queue gets the topic's messages, wrapped"]);
    assert!(!found.stdout.contains("MISSING"), "{}", found.stdout);

    for (name, value) in [("RawMessageDelivery", "true"), ("FilterPolicy", r#"{"kind":["log"]}"#)] {
        let attribute =
            [("SubscriptionArn", subscription.as_str()), ("AttributeName", name), ("AttributeValue", value)];
        sns(&moto, "SetSubscriptionAttributes", &attribute, "RequestId");
    }
    let found = doctor(&moto, folder.path(), "aws_s3_sqs");
    assert_found(
        &found,
        &["messages, raw; both forms are supported", "note     subscription: only messages that match its filter"],
    );

    let target = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.";
    // The bucket itself tells another queue only.
    moto.queue("other", &json!({}));
    notify(&moto, "other");
    let trail = json!({ "Name": "main", "S3BucketName": "example-trail", "SnsTopicName": "log-files" });
    moto.call("cloudtrail", &format!("{target}CreateTrail"), &trail);
    let found = doctor(&moto, folder.path(), "aws_s3_sqs");
    let publisher = format!("MISSING  topic policy: arn:aws:cloudtrail:{REGION}:{ACCOUNT}:trail/main may not publish");
    assert_found(&found, &[&publisher, "\"cloudtrail.amazonaws.com\"", "ok       subscription"]);
}

#[test]
fn the_doctor_looks_into_the_rules_of_eventbridge() {
    let (moto, folder) = (Moto::start(), folder());
    let queue = Moto::queue_arn("trail");
    moto.queue("trail", &json!({}));
    let found = doctor(&moto, folder.path(), "aws_eventbridge_sqs");
    assert_found(
        &found,
        &["MISSING  rule: no rule of the default event bus", "aws events put-targets --rule catchment"],
    );
    let kinds = ["AWS API Call", "AWS Service Event", "AWS Console Sign In", "AWS Console Action"];
    let kinds = kinds.map(|kind| format!("{kind} via CloudTrail"));
    let put = |name: &str, pattern: &serde_json::Value, state: &str| {
        let rule = json!({ "Name": name, "EventPattern": pattern.to_string(), "State": state });
        moto.call("events", "AWSEvents.PutRule", &rule);
        let targets = json!({ "Rule": name, "Targets": [{ "Id": "queue", "Arn": queue }] });
        moto.call("events", "AWSEvents.PutTargets", &targets);
    };
    put("calls", &json!({ "detail-type": kinds }), "DISABLED");
    let found = doctor(&moto, folder.path(), "aws_eventbridge_sqs");
    assert_found(
        &found,
        &["MISSING  rule: calls has the queue as its target, but is disabled", "enable-rule --name calls"],
    );

    put("calls", &json!({ "detail-type": kinds[..1] }), "ENABLED");
    let found = doctor(&moto, folder.path(), "aws_eventbridge_sqs");
    let rule = format!("arn:aws:events:{REGION}:{ACCOUNT}:rule/calls");
    assert_found(
        &found,
        &[
            "MISSING  rule: calls: does not send, or only in part: AWS Service Event via CloudTrail, AWS Console",
            "aws events put-rule --name calls",
            "MISSING  queue policy: calls may not send to the queue",
            &rule,
        ],
    );

    put("calls", &json!({ "detail-type": kinds }), "ENABLED");
    set_queue_policy(&moto, &policy("events.amazonaws.com", "sqs:SendMessage", &queue, &rule));
    let found = doctor(&moto, folder.path(), "aws_eventbridge_sqs");
    assert_found(&found, &["ok       rule: calls: enabled, and sends the queue everything", "ok       queue policy"]);
    assert!(!found.stdout.contains("MISSING  rule") && !found.stdout.contains("MISSING  queue"), "{}", found.stdout);
}
