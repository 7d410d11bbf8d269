//! The bucket: whether it gives notice, and whether its log files can be read.

use aws_sdk_s3::Client;
use serde_json::json;

use super::super::Report;
use super::queue::Queue;
use super::{AwsArguments, is_refused, pretty, statement};
use crate::config::SqsConfig;
use crate::metrics::Metrics;
use crate::model::SourceId;
use crate::source::aws::error::classify;
use crate::source::aws::object::{Listing, ObjectRef, Objects};
use crate::source::aws::trail_key::{TrailObject, classify as classify_key};
use crate::source::aws::{AwsError, Connector};

pub(super) async fn examine(
    id: &SourceId,
    sqs: &SqsConfig,
    connector: &Connector,
    queue: &Queue,
    bucket: &str,
    arguments: &AwsArguments,
    report: &mut Report,
) {
    notification(sqs, connector, queue, bucket, report).await;
    let Ok(metrics) = Metrics::new() else { return };
    let objects = sqs.s3(connector.clone(), &metrics, id);
    let prefix = format!("{}AWSLogs/", arguments.prefix);
    let listing = Listing { bucket, prefix: &prefix, start_after: None, folders: false };
    let listed = match objects.list(listing, None).await {
        Ok(listed) => listed,
        Err(error) => {
            let remedy = statement(&["s3:ListBucket"], &format!("arn:aws:s3:::{bucket}"));
            let found = format!("{error}; a backfill needs it, and so does trying whether log files can be read");
            if matches!(error, AwsError::NotFound(_)) {
                report.missing("bucket", &error.to_string(), "correct the bucket's name");
            } else {
                report.note("listing", &found, &remedy);
            }
            return;
        }
    };
    let Some(key) = listed.names.iter().find(|key| matches!(classify_key(key), TrailObject::Log { .. })) else {
        let found = format!("none among the first {} objects below s3://{bucket}/{prefix}", listed.names.len());
        report.note(
            "log files",
            &found,
            "check the trail's bucket and prefix (--prefix); the first file comes within 15 minutes",
        );
        return;
    };
    let object = ObjectRef { bucket: bucket.to_owned(), key: key.clone(), region: None };
    match objects.get(&object).await {
        Ok(_) => report.fine("log files", &format!("{} can be read", object.location())),
        Err(error) => {
            let mut remedy = statement(&["s3:GetObject"], &format!("arn:aws:s3:::{bucket}/{prefix}*"));
            if error.to_string().contains("kms:") || error.to_string().contains("KMS") {
                remedy = statement(&["kms:Decrypt"], "the ARN of the key that the trail encrypts with");
            }
            report.missing("log files", &format!("{}: {error}", object.location()), &remedy);
        }
    }
}

async fn notification(sqs: &SqsConfig, connector: &Connector, queue: &Queue, bucket: &str, report: &mut Report) {
    let region = sqs.s3_region.clone().or_else(|| sqs.queue_region());
    let config = connector.config(region.as_deref(), sqs.s3_endpoint_url.as_deref());
    let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(sqs.s3_endpoint_url.is_some()).build();
    let request = Client::from_conf(config).get_bucket_notification_configuration().bucket(bucket);
    let answer = match Box::pin(request.send()).await {
        Ok(answer) => answer,
        Err(error) => {
            let error = classify(&error, "s3:GetBucketNotification");
            let remedy = if is_refused(&error) {
                statement(&["s3:GetBucketNotification"], &format!("arn:aws:s3:::{bucket}"))
            } else {
                "check the bucket's name and region".to_owned()
            };
            report.note("notification", &format!("can't be looked at: {error}"), &remedy);
            return;
        }
    };
    let to_queue = answer.queue_configurations().iter().any(|to| to.queue_arn() == queue.arn);
    let topics: Vec<&str> = answer.topic_configurations().iter().map(|to| to.topic_arn()).collect();
    if to_queue {
        report.fine("notification", &format!("{bucket} gives notice to the queue"));
    } else if answer.event_bridge_configuration().is_some() {
        let remedy = "a rule for \"Object Created\" of this bucket must have the queue as its target";
        report.note("notification", &format!("{bucket} tells EventBridge"), remedy);
    } else if !topics.is_empty() {
        let found = format!("{bucket} tells {}", topics.join(", "));
        report.note("notification", &found, "the queue must be subscribed to that topic");
    } else {
        let wanted = json!({ "QueueConfigurations": [{ "QueueArn": queue.arn, "Events": ["s3:ObjectCreated:*"] }] });
        let remedy = format!(
            "aws s3api put-bucket-notification-configuration --bucket {bucket} --notification-configuration \\\n'{}'\n\
             (or have the trail give notice to an SNS topic that the queue is subscribed to)",
            pretty(&wanted)
        );
        report.missing("notification", &format!("{bucket} gives no notice of new objects"), &remedy);
    }
}
