//! `catchment doctor aws`: from the credentials to the records, for every source that reads from AWS.

mod bucket;
mod notification;
mod pattern;
mod policy;
mod queue;
mod rules;
mod topics;
mod trail;

use aws_sdk_sts::Client as Sts;
use serde_json::{Value, json};

use self::rules::Wanted;
use super::{AwsArguments, Report};
use crate::cli::Failure;
use crate::config::{Config, SourceConfig, SqsConfig};
use crate::model::SourceId;
use crate::source::aws::error::classify;
use crate::source::aws::{AwsError, Connector};
use crate::source::aws_lookup_events;

/// The sources to check: the named one, or all that read from AWS.
pub(super) fn choose(config: &Config, named: Option<&str>) -> Result<Vec<(SourceId, SourceConfig)>, Failure> {
    let of_aws = |source: &SourceConfig| {
        matches!(
            source,
            SourceConfig::AwsS3Sqs(_) | SourceConfig::AwsEventbridgeSqs(_) | SourceConfig::AwsLookupEvents(_)
        )
    };
    let wanted = |id: &SourceId| named.is_none_or(|name| &*id.0 == name);
    let chosen: Vec<_> = config
        .sources
        .iter()
        .filter(|(id, source)| of_aws(source) && wanted(id))
        .map(|(id, source)| (id.clone(), source.clone()))
        .collect();
    if chosen.is_empty() {
        let which = named.map_or_else(|| "no source".to_owned(), |name| format!("no source {name}"));
        return Err(Failure::Usage(format!("{which} of the configuration reads from AWS")));
    }
    Ok(chosen)
}

pub(super) async fn examine(sources: &[(SourceId, SourceConfig)], arguments: &AwsArguments, report: &mut Report) {
    for (id, source) in sources {
        report.heading(&format!("sources.{id}.{}", source.kind()));
        match source {
            SourceConfig::AwsS3Sqs(sqs) => examine_queue(id, sqs, true, arguments, report).await,
            SourceConfig::AwsEventbridgeSqs(sqs) => examine_queue(id, sqs, false, arguments, report).await,
            SourceConfig::AwsLookupEvents(lookup) => {
                for (place, outcome) in aws_lookup_events::probe(lookup).await {
                    let step = format!("events of {place}");
                    match outcome {
                        Ok(()) => report.fine(&step, "the event history answers"),
                        Err(error) => report.missing(&step, &error, &statement(&["cloudtrail:LookupEvents"], "*")),
                    }
                }
            }
            _ => {}
        }
    }
}

async fn examine_queue(id: &SourceId, sqs: &SqsConfig, of_s3: bool, arguments: &AwsArguments, report: &mut Report) {
    let connector = sqs.connect().await;
    if !identity(sqs, &connector, report).await {
        return;
    }
    let Some(queue) = queue::examine(sqs, &connector, of_s3, report).await else { return };
    let trails = trail::list(sqs, &connector).await;
    let bucket = arguments.bucket.clone().or_else(|| queue.bucket.clone());
    match &bucket {
        _ if !of_s3 => rules::examine(sqs, &connector, &queue, &Wanted::Calls, report).await,
        Some(bucket) => {
            let trails = trails.as_deref().unwrap_or_default();
            notification::examine(sqs, &connector, &queue, bucket, trails, report).await;
            bucket::examine(id, sqs, &connector, bucket, arguments, report).await;
        }
        None => {
            report.note("bucket", "the queue's policy names none", "name it with --bucket, so that it can be checked");
        }
    }
    trail::examine(sqs, &connector, trails, bucket.as_deref().filter(|_| of_s3), report).await;
}

/// Checks the identity of the credentials.
async fn identity(sqs: &SqsConfig, connector: &Connector, report: &mut Report) -> bool {
    let config = connector.config(None, sqs.sts_endpoint_url.as_deref());
    match Box::pin(Sts::new(&config).get_caller_identity().send()).await {
        Ok(answer) => {
            report.fine("credentials", answer.arn.as_deref().unwrap_or("accepted"));
            true
        }
        Err(error) => {
            let error = classify(&error, "sts:GetCallerIdentity");
            let remedy = match &sqs.role_arn {
                Some(role) => format!(
                    "let the trust policy of {role} allow sts:AssumeRole to these credentials{}, and allow them:\n{}",
                    if sqs.external_id.is_some() { " with this external id" } else { "" },
                    statement(&["sts:AssumeRole"], role)
                ),
                None => "set credentials in the environment or in the configuration".to_owned(),
            };
            report.missing("credentials", &error.to_string(), &remedy);
            false
        }
    }
}

/// A statement of an IAM policy.
fn statement(actions: &[&str], resource: &str) -> String {
    pretty(&json!({ "Effect": "Allow", "Action": actions, "Resource": resource }))
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Whether a service's error code says that a permission is missing.
fn is_denied(code: &str) -> bool {
    code.contains("AccessDenied") || code == "AuthorizationError"
}

/// Whether the service refused the request, as opposed to a failure.
fn is_refused(error: &AwsError) -> bool {
    matches!(error, AwsError::Refused { .. })
}
