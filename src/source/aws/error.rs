//! Classifies error responses, and says what to do about each
//! (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>,
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>).

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AwsError {
    /// Too many requests, those of other programs in the account included.
    #[error("throttled ({0})")]
    Throttled(String),
    /// The service or the network has failed; a retry may help.
    #[error("{0}")]
    Unavailable(String),
    /// The resource does not exist.
    #[error("it does not exist ({0})")]
    NotFound(String),
    /// Access was denied, or the request is invalid. A retry won't help until somebody changes something.
    #[error("refused ({code}): {message}; {advice}")]
    Refused {
        /// The service's code.
        code: String,
        /// Its message.
        message: String,
        /// What to do.
        advice: String,
    },
}

impl AwsError {
    /// The action that was denied, if the service's message names it: `kms:Decrypt`.
    pub(crate) fn denied_action(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } => denied_action(message),
            _ => None,
        }
    }
}

/// Classifies an error. `grant` names the permission that the call needs: `sqs:ReceiveMessage on the queue`.
pub(crate) fn classify<E>(error: &SdkError<E>, grant: &str) -> AwsError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(cause) = credentials_error(error) {
        return no_credentials(cause);
    }
    let Some(service) = error.as_service_error() else {
        return AwsError::Unavailable(with_causes(error));
    };
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    by_code(status, service.code().unwrap_or_default(), service.message().unwrap_or_default(), grant)
}

fn no_credentials(cause: &CredentialsError) -> AwsError {
    let message = with_causes(cause);
    let advice = if message.contains("AssumeRole") {
        "let the role's trust policy allow sts:AssumeRole to these credentials, with the external id that it requires"
    } else {
        "set access_key_id and secret_access_key, or set credentials in the environment"
    };
    AwsError::Refused { code: "no credentials".to_owned(), message, advice: advice.to_owned() }
}

/// Classifies an error response of a service.
pub(crate) fn by_code(status: u16, code: &str, message: &str, grant: &str) -> AwsError {
    let code = code.rsplit(['#', '.']).next().unwrap_or(code);
    let advice = match code {
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "SlowDown"
        | "OverLimit"
        | "KmsThrottled" => return AwsError::Throttled(code.to_owned()),
        "NoSuchKey" | "NoSuchBucket" | "NoSuchVersion" | "QueueDoesNotExist" | "NonExistentQueue" | "NotFound" => {
            return AwsError::NotFound(format!("{code}: {message}"));
        }
        "AccessDeniedException"
        | "AccessDenied"
        | "KmsAccessDenied"
        | "UnauthorizedOperation"
        | "OperationNotPermittedException"
        | "AuthorizationError"
        | "Forbidden" => grant_advice(message, grant),
        "DisabledException" | "KmsDisabled" => "enable the KMS key that the data is encrypted with".to_owned(),
        "NotFoundException" | "KmsNotFound" | "KMSInvalidStateException" | "KmsInvalidState" => {
            "the KMS key that the data is encrypted with is gone or about to be deleted: restore it".to_owned()
        }
        "InvalidObjectState" => "the object is archived: restore it from Glacier first".to_owned(),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            "the bucket is in another region: set s3_region".to_owned()
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "RequestTimeTooSkewed"
        | "NotAuthorized" => "check the credentials, whether the region is enabled, and the machine's clock".to_owned(),
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => "renew the session's credentials".to_owned(),
        "OptInRequired" => "enable the region for the account, or leave it out".to_owned(),
        _ if status == 429 => return AwsError::Throttled(code.to_owned()),
        _ => return AwsError::Unavailable(format!("status {status}, {code}: {message}")),
    };
    AwsError::Refused { code: code.to_owned(), message: message.to_owned(), advice }
}

/// The advice for a denied call. Services mostly name the missing action and resource: `… is not authorized to perform:
/// kms:Decrypt on resource: arn:aws:kms:… because no identity-based policy allows the kms:Decrypt action`.
fn grant_advice(message: &str, grant: &str) -> String {
    let Some(action) = denied_action(message) else {
        return format!("grant {grant} to these credentials");
    };
    let resource = word_after(message, "on resource: ").map(|resource| format!(" on {resource}")).unwrap_or_default();
    let elsewhere =
        if action.starts_with("kms:") { ", in its key policy too where the key is another account's" } else { "" };
    format!("grant {action}{resource} to these credentials{elsewhere}")
}

fn denied_action(message: &str) -> Option<&str> {
    word_after(message, "to perform: ")
}

fn word_after<'m>(message: &'m str, mark: &str) -> Option<&'m str> {
    let rest = message.split_once(mark)?.1;
    rest.split_whitespace().next().map(|word| word.trim_matches(['"', '\'', ',', ';']))
}

/// An error with its causes, on one line.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The credentials error among the causes of an error, if any.
fn credentials_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        let of = |status, code| by_code(status, code, "", "s3:GetObject");
        assert!(matches!(of(503, "SlowDown"), AwsError::Throttled(_)));
        assert!(matches!(of(429, ""), AwsError::Throttled(_)));
        assert!(matches!(of(500, "InternalError"), AwsError::Unavailable(_)));
        assert!(matches!(of(404, "NoSuchKey"), AwsError::NotFound(_)));
        assert!(matches!(of(400, "AWS.SimpleQueueService.NonExistentQueue"), AwsError::NotFound(_)));
        assert!(matches!(of(403, "InvalidSignatureException"), AwsError::Refused { .. }));
        assert!(of(403, "AccessDenied").to_string().contains("grant s3:GetObject to these credentials"));
    }

    #[test]
    fn a_missing_grant_is_named_as_the_service_names_it() {
        let message = "User: arn:aws:sts::111122223333:assumed-role/gateway/catchment is not authorized to perform: \
                       kms:Decrypt on resource: arn:aws:kms:eu-west-1:444455556666:key/1234 because no identity-based \
                       policy allows the kms:Decrypt action";
        let error = by_code(403, "AccessDenied", message, "s3:GetObject").to_string();
        assert!(error.contains("grant kms:Decrypt on arn:aws:kms:eu-west-1:444455556666:key/1234"), "{error}");
        assert!(error.contains("key policy"), "{error}");
    }
}
