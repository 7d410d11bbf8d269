//! The queue: whether it exists, who may send to it, and whether this identity may receive from it.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};

use super::super::Report;
use super::policy::{allows, list};
use super::{is_denied, is_refused, pretty, statement};
use crate::config::SqsConfig;
use crate::source::aws::error::classify;
use crate::source::aws::{AwsError, Connector};

const ACTIONS: [&str; 4] =
    ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"];

/// The action that a notifying service must be allowed.
const SEND: &str = "sqs:SendMessage";

/// With less, a long weekend loses messages.
const RETENTION_SECS: u64 = 4 * 24 * 60 * 60;

/// What was found out about a queue.
pub(super) struct Queue {
    pub(super) arn: String,
    /// The bucket that its policy names as a sender.
    pub(super) bucket: Option<String>,
    pub(super) policy: Option<Value>,
}

impl Queue {
    /// The policy statement that allows a service to send to the queue on behalf of a resource.
    pub(super) fn let_send(&self, sid: &str, service: &str, source: &str) -> String {
        pretty(&json!({
            "Sid": sid, "Effect": "Allow", "Principal": { "Service": service }, "Action": SEND, "Resource": self.arn,
            "Condition": { "ArnEquals": { "aws:SourceArn": source } },
        }))
    }
}

pub(super) async fn examine(sqs: &SqsConfig, connector: &Connector, of_s3: bool, report: &mut Report) -> Option<Queue> {
    let client = Client::new(&connector.config(None, sqs.sqs_endpoint_url.as_deref()));
    let request = client.get_queue_attributes().queue_url(&sqs.queue_url).attribute_names(QueueAttributeName::All);
    let attributes = match Box::pin(request.send()).await {
        Ok(answer) => answer.attributes.unwrap_or_default(),
        Err(error) => {
            let error = classify(&error, "sqs:GetQueueAttributes");
            let remedy = match &error {
                AwsError::NotFound(_) => "create it (deploy/aws does), or correct queue_url".to_owned(),
                AwsError::Refused { .. } => statement(&ACTIONS, &arn_of(&sqs.queue_url)),
                AwsError::Throttled(_) | AwsError::Unavailable(_) => {
                    "check queue_url and the network path to it".to_owned()
                }
            };
            report.missing("queue", &error.to_string(), &remedy);
            return None;
        }
    };
    let get = |name: QueueAttributeName| attributes.get(&name).map(String::as_str);
    let arn = get(QueueAttributeName::QueueArn).unwrap_or_default().to_owned();
    let waiting = get(QueueAttributeName::ApproximateNumberOfMessages).unwrap_or("?");
    report.fine("queue", &format!("{arn}, {waiting} messages waiting"));
    match get(QueueAttributeName::RedrivePolicy) {
        Some(policy) => report.fine("dead letters", policy),
        None => report.note(
            "dead letters",
            "no redrive policy",
            "without one, a file that can't be read is quarantined by its name after max_receives tries; deploy/aws \
             makes a dead-letter queue",
        ),
    }
    let retention = get(QueueAttributeName::MessageRetentionPeriod).and_then(|secs| secs.parse::<u64>().ok());
    if let Some(secs) = retention.filter(|secs| *secs < RETENTION_SECS) {
        let remedy = "set MessageRetentionPeriod to 1209600 (14 days): messages wait there while catchment is down";
        report.note("retention", &format!("messages expire after {secs} s"), remedy);
    }
    encryption(get(QueueAttributeName::KmsMasterKeyId), report);
    permissions(&client, sqs, &arn, report).await;
    let policy = get(QueueAttributeName::Policy).and_then(|policy| serde_json::from_str(policy).ok());
    let mut queue = Queue { arn, bucket: None, policy };
    queue.bucket = senders(&queue, of_s3, report);
    Some(queue)
}

/// Checks the encryption. A queue with the AWS managed key accepts nothing from another service
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html>).
fn encryption(key: Option<&str>, report: &mut Report) {
    match key {
        None | Some("") => {}
        Some(key) if key.ends_with("alias/aws/sqs") => report.missing(
            "queue's key",
            "services can't send to a queue that is encrypted with alias/aws/sqs",
            "set SqsManagedSseEnabled to true instead, or use a KMS key of your own",
        ),
        Some(key) => {
            let services = json!({ "Service": ["s3.amazonaws.com", "sns.amazonaws.com", "events.amazonaws.com"] });
            let actions = ["kms:GenerateDataKey", "kms:Decrypt"];
            let sends = json!({ "Effect": "Allow", "Principal": services, "Action": actions, "Resource": "*" });
            let remedy = format!("its key policy must contain, for the service that sends:\n{}", pretty(&sends));
            report.note("queue's key", key, &remedy);
        }
    }
}

/// Checks the permissions. It receives without hiding messages; the other actions are called with an invalid receipt,
/// which only shows whether they are allowed.
async fn permissions(client: &Client, sqs: &SqsConfig, arn: &str, report: &mut Report) {
    let mut missing = Vec::new();
    let receive = client.receive_message().queue_url(&sqs.queue_url).visibility_timeout(0).wait_time_seconds(0);
    if let Err(error) = Box::pin(receive.max_number_of_messages(1).send()).await
        && is_refused(&classify(&error, ACTIONS[0]))
    {
        missing.push(ACTIONS[0]);
    }
    let delete = client.delete_message().queue_url(&sqs.queue_url).receipt_handle("none");
    if let Err(error) = Box::pin(delete.send()).await
        && error.code().is_some_and(is_denied)
    {
        missing.push(ACTIONS[1]);
    }
    let keep =
        client.change_message_visibility().queue_url(&sqs.queue_url).receipt_handle("none").visibility_timeout(0);
    if let Err(error) = Box::pin(keep.send()).await
        && error.code().is_some_and(is_denied)
    {
        missing.push(ACTIONS[2]);
    }
    if missing.is_empty() {
        report.fine("permissions", "messages can be received, kept invisible and deleted");
    } else {
        report.missing("permissions", &format!("{} refused", missing.join(", ")), &statement(&missing, arn));
    }
}

/// Checks who may send, by the queue's policy. Returns the bucket that the policy names.
fn senders(queue: &Queue, of_s3: bool, report: &mut Report) -> Option<String> {
    let statements = queue.policy.as_ref().map(|policy| list(&policy["Statement"])).unwrap_or_default();
    let (mut services, mut bucket) = (Vec::new(), None);
    for statement in statements.into_iter().filter(|s| s["Effect"] == "Allow" && allows(s, SEND)) {
        for service in ["s3", "sns", "events"] {
            let name = format!("{service}.amazonaws.com");
            if list(&statement["Principal"]["Service"]).iter().any(|s| s.as_str() == Some(&name)) {
                services.push(service);
            }
        }
        if statement["Principal"] == "*" || statement["Principal"]["AWS"] == "*" {
            services.push("anyone whom its conditions allow");
        }
        bucket = bucket.or_else(|| bucket_of(&statement["Condition"].to_string()));
    }
    let wanted = if of_s3 { &["s3", "sns", "events"][..] } else { &["events", "sns"] };
    let usable = services.iter().any(|service| wanted.contains(service) || service.starts_with("anyone"));
    if usable {
        report.fine("queue policy", &format!("may send: {}", services.join(", ")));
    } else {
        let (sid, service, source) = if of_s3 {
            ("TrailBucketGivesNotice", "s3.amazonaws.com", "arn:aws:s3:::BUCKET")
        } else {
            ("RuleSendsCalls", "events.amazonaws.com", "arn:aws:events:REGION:ACCOUNT:rule/RULE")
        };
        report.missing("queue policy", "no service may send to the queue", &queue.let_send(sid, service, source));
    }
    bucket
}

fn bucket_of(condition: &str) -> Option<String> {
    let rest = condition.split_once(":s3:::")?.1;
    let name = rest.split(['"', '/', '*']).next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The queue's ARN, as far as its URL contains it.
fn arn_of(url: &str) -> String {
    let mut parts = url.rsplit('/');
    let (name, account) = (parts.next().unwrap_or("*"), parts.next().unwrap_or("*"));
    format!("arn:aws:sqs:*:{account}:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_told_by_the_policy() {
        let allow = |principal: Value, condition: Value| {
            json!({ "Statement": [{ "Effect": "Allow", "Principal": principal, "Action": ["SQS:SendMessage"],
                                    "Resource": "*", "Condition": condition }] })
        };
        let of_bucket = json!({ "ArnLike": { "aws:SourceArn": "arn:aws:s3:::example-trail" } });
        let policy = allow(json!({ "Service": "s3.amazonaws.com" }), of_bucket);
        let told = |policy: Option<&Value>, of_s3: bool| {
            let queue = Queue { arn: "a".to_owned(), bucket: None, policy: policy.cloned() };
            let mut report = Report::default();
            (senders(&queue, of_s3, &mut report), report.missing)
        };
        assert_eq!(told(Some(&policy), true), (Some("example-trail".to_owned()), 0));
        assert_eq!(told(Some(&policy), false).1, 1, "EventBridge may not send");
        assert_eq!(told(None, true), (None, 1));
        let anyone = allow(json!("*"), json!({ "StringEquals": { "aws:SourceAccount": "111122223333" } }));
        assert_eq!(told(Some(&anyone), false).1, 0);
    }
}
