//! The trail: whether one is logging, where, and whether its last delivery succeeded.

use aws_sdk_cloudtrail::Client;
use aws_sdk_cloudtrail::types::Trail;

use super::super::Report;
use super::{is_refused, statement};
use crate::config::SqsConfig;
use crate::source::aws::error::classify;
use crate::source::aws::{AwsError, Connector};

/// The trails that are visible in the queue's region.
pub(super) async fn list(sqs: &SqsConfig, connector: &Connector) -> Result<Vec<Trail>, AwsError> {
    let request = client(sqs, connector).describe_trails().include_shadow_trails(true);
    let answer = Box::pin(request.send()).await.map_err(|error| classify(&error, "cloudtrail:DescribeTrails"))?;
    Ok(answer.trail_list.unwrap_or_default())
}

fn client(sqs: &SqsConfig, connector: &Connector) -> Client {
    Client::new(&connector.config(sqs.queue_region().as_deref(), None))
}

/// Checks the trail that writes to the bucket; without a bucket, any one, since EventBridge gets calls only if a trail
/// logs them.
pub(super) async fn examine(
    sqs: &SqsConfig,
    connector: &Connector,
    trails: Result<Vec<Trail>, AwsError>,
    bucket: Option<&str>,
    report: &mut Report,
) {
    let client = client(sqs, connector);
    let trails = match trails {
        Ok(trails) => trails,
        Err(error) => {
            let remedy = if is_refused(&error) {
                statement(&["cloudtrail:DescribeTrails", "cloudtrail:GetTrailStatus"], "*")
            } else {
                "check the network path to CloudTrail".to_owned()
            };
            report.note("trail", &format!("can't be checked: {error}"), &remedy);
            return;
        }
    };
    let wanted: Vec<&Trail> =
        trails.iter().filter(|trail| bucket.is_none_or(|bucket| trail.s3_bucket_name() == Some(bucket))).collect();
    if wanted.is_empty() {
        let found = match bucket {
            Some(bucket) => format!("none of the {} trails visible here writes to {bucket}", trails.len()),
            None => "no trail in this region: EventBridge receives no calls".to_owned(),
        };
        let remedy = "create a trail for all regions, or correct its bucket; a trail of another account of the \
                      organization is visible only from that account";
        if bucket.is_some() { report.note("trail", &found, remedy) } else { report.missing("trail", &found, remedy) }
    }
    for trail in wanted {
        status(&client, trail, report).await;
    }
}

async fn status(client: &Client, trail: &Trail, report: &mut Report) {
    let (arn, name) = (trail.trail_arn().unwrap_or_default(), trail.name().unwrap_or_default());
    let answer = match Box::pin(client.get_trail_status().name(arn).send()).await {
        Ok(answer) => answer,
        Err(error) => {
            let error = classify(&error, "cloudtrail:GetTrailStatus");
            let remedy = statement(&["cloudtrail:GetTrailStatus"], arn);
            report.note("trail", &format!("{name}: its status can't be checked: {error}"), &remedy);
            return;
        }
    };
    if answer.is_logging() != Some(true) {
        report.missing(
            "trail",
            &format!("{name} is not logging"),
            &format!("aws cloudtrail start-logging --name {arn}"),
        );
    } else if let Some(error) = answer.latest_delivery_error().filter(|error| !error.is_empty()) {
        let remedy = "let the bucket's policy (and its KMS key's) allow cloudtrail.amazonaws.com to write";
        report.missing("trail", &format!("{name} can't deliver: {error}"), remedy);
    } else {
        report.fine("trail", &format!("{name} is logging"));
    }
    if trail.is_multi_region_trail() != Some(true) {
        let home = trail.home_region().unwrap_or("one region");
        let remedy = format!("aws cloudtrail update-trail --name {arn} --is-multi-region-trail");
        report.note("regions", &format!("{name} logs {home} only: the other regions have no trail"), &remedy);
    }
}
