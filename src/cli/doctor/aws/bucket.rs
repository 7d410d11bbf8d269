//! The bucket: whether its log files can be listed, read and decrypted.

use super::super::Report;
use super::{AwsArguments, statement};
use crate::config::SqsConfig;
use crate::metrics::Metrics;
use crate::model::SourceId;
use crate::source::aws::object::{Listing, ObjectRef, Objects};
use crate::source::aws::trail_key::{TrailObject, classify as classify_key};
use crate::source::aws::{AwsError, Connector};

pub(super) async fn examine(
    id: &SourceId,
    sqs: &SqsConfig,
    connector: &Connector,
    bucket: &str,
    arguments: &AwsArguments,
    report: &mut Report,
) {
    let Ok(metrics) = Metrics::new() else { return };
    let objects = sqs.s3(connector.clone(), &metrics, id);
    let prefix = format!("{}AWSLogs/", arguments.prefix);
    let listing = Listing { bucket, prefix: &prefix, start_after: None, folders: false };
    let listed = match objects.list(listing, None).await {
        Ok(listed) => listed,
        Err(error) => {
            let remedy = statement(&["s3:ListBucket"], &format!("arn:aws:s3:::{bucket}"));
            let found =
                format!("{error}; a backfill needs this permission, and so does the check that log files can be read");
            if matches!(error, AwsError::NotFound(_)) {
                report.missing("bucket", &error.to_string(), "correct the bucket's name");
            } else {
                report.note("listing", &found, &remedy);
            }
            return;
        }
    };
    let Some(key) = listed.names.iter().find(|key| matches!(classify_key(key), TrailObject::Log { .. })) else {
        let found = format!("none among the first {} objects under s3://{bucket}/{prefix}", listed.names.len());
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
                remedy = statement(&["kms:Decrypt"], "the ARN of the trail's KMS key");
            }
            report.missing("log files", &format!("{}: {error}", object.location()), &remedy);
        }
    }
}
