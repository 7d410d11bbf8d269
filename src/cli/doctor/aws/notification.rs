//! How the queue is notified of new log files: by the bucket itself, through an SNS topic of the bucket or trail, or
//! through an EventBridge rule.

use aws_sdk_cloudtrail::types::Trail;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_bucket_notification_configuration::GetBucketNotificationConfigurationOutput;
use serde_json::json;

use super::super::Report;
use super::queue::Queue;
use super::rules::{self, Wanted};
use super::topics::{self, Topic};
use super::{is_refused, pretty, statement};
use crate::config::SqsConfig;
use crate::source::aws::error::classify;
use crate::source::aws::{AwsError, Connector};

pub(super) async fn examine(
    sqs: &SqsConfig,
    connector: &Connector,
    queue: &Queue,
    bucket: &str,
    trails: &[Trail],
    report: &mut Report,
) {
    let told = match of_bucket(sqs, connector, bucket).await {
        Ok(told) => Some(told),
        Err(error) => {
            let remedy = if is_refused(&error) {
                statement(&["s3:GetBucketNotification"], &format!("arn:aws:s3:::{bucket}"))
            } else {
                "check the bucket's name and region".to_owned()
            };
            report.note("notification", &format!("can't be checked: {error}"), &remedy);
            None
        }
    };
    let to_queues = told.iter().flat_map(|told| told.queue_configurations());
    if to_queues.into_iter().any(|to| to.queue_arn() == queue.arn) {
        report.fine("notification", &format!("{bucket} notifies the queue"));
        return;
    }
    // There may be other ways of notification: one that is complete is enough.
    let mut ways = Vec::new();
    for topic in topics(told.as_ref(), bucket, trails) {
        let mut way = Report::default();
        way.fine("notification", &format!("{} notifies {}", topic.source, topic.arn));
        topics::examine(connector, queue, &topic, &mut way).await;
        ways.push(way);
    }
    if told.as_ref().is_some_and(|told| told.event_bridge_configuration().is_some()) {
        let mut way = Report::default();
        way.fine("notification", &format!("{bucket} notifies EventBridge"));
        rules::examine(sqs, connector, queue, &Wanted::Objects { bucket }, &mut way).await;
        ways.push(way);
    }
    if let Some(whole) = ways.iter().position(|way| way.missing == 0) {
        report.add(ways.swap_remove(whole));
    } else if ways.is_empty() && told.is_some() {
        nothing(queue, bucket, report);
    } else {
        ways.into_iter().for_each(|way| report.add(way));
    }
}

async fn of_bucket(
    sqs: &SqsConfig,
    connector: &Connector,
    bucket: &str,
) -> Result<GetBucketNotificationConfigurationOutput, AwsError> {
    let region = sqs.s3_region.clone().or_else(|| sqs.queue_region());
    let config = connector.config(region.as_deref(), sqs.s3_endpoint_url.as_deref());
    let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(sqs.s3_endpoint_url.is_some()).build();
    let request = Client::from_conf(config).get_bucket_notification_configuration().bucket(bucket);
    Box::pin(request.send()).await.map_err(|error| classify(&error, "s3:GetBucketNotification"))
}

/// The topics that are notified by the bucket, or by the trail that writes to it.
fn topics(told: Option<&GetBucketNotificationConfigurationOutput>, bucket: &str, trails: &[Trail]) -> Vec<Topic> {
    let of_bucket = told.into_iter().flat_map(|told| told.topic_configurations()).map(|to| Topic {
        arn: to.topic_arn().to_owned(),
        publisher: "s3.amazonaws.com",
        source: format!("arn:aws:s3:::{bucket}"),
    });
    let of_trails = trails.iter().filter(|trail| trail.s3_bucket_name() == Some(bucket)).filter_map(|trail| {
        Some(Topic {
            arn: trail.sns_topic_arn()?.to_owned(),
            publisher: "cloudtrail.amazonaws.com",
            source: trail.trail_arn()?.to_owned(),
        })
    });
    of_bucket.chain(of_trails).collect()
}

fn nothing(queue: &Queue, bucket: &str, report: &mut Report) {
    let wanted = json!({ "QueueConfigurations": [{ "QueueArn": queue.arn, "Events": ["s3:ObjectCreated:*"] }] });
    let remedy = format!(
        "aws s3api put-bucket-notification-configuration --bucket {bucket} --notification-configuration \\\n'{}'\n\
         (or let the trail notify an SNS topic to which the queue is subscribed)",
        pretty(&wanted)
    );
    report.missing("notification", &format!("{bucket} sends no notifications of new objects"), &remedy);
}
