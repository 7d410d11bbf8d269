//! The bucket: whether its log files can be listed, read and decrypted.

use super::super::Report;
use super::{AwsArguments, is_denied, statement};
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
            let remedy = remedy(&error, &format!("arn:aws:s3:::{bucket}/{prefix}*"));
            report.missing("log files", &format!("{}: {error}", object.location()), &remedy);
        }
    }
}

/// What lets `objects` be read, after an attempt that failed.
fn remedy(error: &AwsError, objects: &str) -> String {
    match error {
        AwsError::Refused { code, advice, .. } if !is_denied(code) => advice.clone(),
        _ if error.denied_action().is_some_and(|action| action.starts_with("kms:")) => {
            statement(&["kms:Decrypt"], "the ARN of the trail's KMS key")
        }
        _ => statement(&["s3:GetObject"], objects),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::aws::error::by_code;

    #[test]
    fn the_remedy_is_that_of_what_was_denied() {
        let of = |code: &str, message: &str| {
            let grant = "s3:GetObject on arn:aws:s3:::trail/* (and kms:Decrypt on its KMS key, if it has one)";
            remedy(&by_code(403, code, message, grant), "arn:aws:s3:::trail/AWSLogs/*")
        };
        let told = "User: arn:aws:iam::111122223333:role/gateway is not authorized to perform: ";
        for message in ["Access Denied", &format!("{told}s3:GetObject on resource: \"arn:aws:s3:::trail/a\"")] {
            let remedy = of("AccessDenied", message);
            assert!(remedy.contains("s3:GetObject") && !remedy.contains("kms:"), "{remedy}");
        }
        let remedy = of("AccessDenied", &format!("{told}kms:Decrypt on resource: arn:aws:kms:eu-west-1:1:key/2"));
        assert!(remedy.contains("kms:Decrypt") && !remedy.contains("s3:"), "{remedy}");
        assert_eq!(of("KMS.DisabledException", ""), "enable the KMS key that the data is encrypted with");
    }
}
