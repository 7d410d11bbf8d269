//! The one call that is made, behind a trait so that the loop can be tested without a service.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_cloudtrail::Client;
use aws_sdk_cloudtrail::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_cloudtrail::operation::lookup_events::LookupEventsError;
use aws_sdk_cloudtrail::types::Event;
use aws_smithy_http_client::tls;
use aws_smithy_types::DateTime;
use bytes::Bytes;

use super::LookupEventsConfig;
use super::window::Window;

/// Events a page; the most that the service gives.
pub(super) const PAGE_EVENTS: i32 = 50;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// For one call; the service mostly answers within a second.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// An event as it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LookedUp {
    pub(super) id: Option<String>,
    /// Seconds since 1970.
    pub(super) time: Option<i64>,
    /// The CloudTrail record, where there is one.
    pub(super) record: Option<Bytes>,
}

/// Part of an answer, newest event first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) events: Vec<LookedUp>,
    pub(super) next: Option<String>,
}

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookupError {
    /// Too many requests; other programs in the account count too.
    #[error("throttled ({0})")]
    Throttled(String),
    /// The service or the way to it is broken for now.
    #[error("{0}")]
    Unavailable(String),
    /// The token is of no use any more: the window has to be fetched again.
    #[error("the page token has expired")]
    TokenExpired,
    /// The service does not want us. Asking again soon won't help.
    #[error("refused ({code}): {message}; {advice}")]
    Refused {
        /// The service's code.
        code: String,
        /// Its words.
        message: String,
        /// What to do.
        advice: &'static str,
    },
}

/// LookupEvents of one region
/// (<https://docs.aws.amazon.com/awscloudtrail/latest/APIReference/API_LookupEvents.html>).
#[async_trait]
pub(super) trait LookupEvents: Send + Sync {
    /// One page of a window. The token belongs to the window that it was given for.
    async fn page(&self, window: Window, token: Option<&str>) -> Result<Page, LookupError>;
}

/// Makes the clients of the configured regions, which share credentials and connections.
#[derive(Clone, Debug)]
pub(super) struct Connector(SdkConfig);

impl Connector {
    /// Takes the configured keys, else the default chain: environment, profile, web identity, container, instance.
    /// Nothing is asked of the network yet.
    pub(super) async fn load(config: &LookupEventsConfig) -> Self {
        let crypto = tls::rustls_provider::CryptoMode::AwsLc;
        let http = aws_smithy_http_client::Builder::new().tls_provider(tls::Provider::Rustls(crypto)).build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(CALL_TIMEOUT)
            .operation_timeout(CALL_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            // The loop waits and tries again by itself: it knows the rate and keeps the page.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        // A region that only signs requests for credentials; each client has its own.
        if let Some(region) = config.regions.first() {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(url) = &config.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let (Some(id), Some(secret)) = (&config.access_key_id, &config.secret_access_key) {
            let token = config.session_token.as_ref().map(|token| token.expose().to_owned());
            let credentials = Credentials::new(id.expose(), secret.expose(), token, None, "catchment configuration");
            loader = loader.credentials_provider(credentials);
        }
        Self(Box::pin(loader.load()).await)
    }

    pub(super) fn client(&self, region: &str) -> Arc<dyn LookupEvents> {
        let config = aws_sdk_cloudtrail::config::Builder::from(&self.0).region(Region::new(region.to_owned())).build();
        Arc::new(SdkClient(Client::from_conf(config)))
    }
}

struct SdkClient(Client);

#[async_trait]
impl LookupEvents for SdkClient {
    async fn page(&self, window: Window, token: Option<&str>) -> Result<Page, LookupError> {
        let request = self
            .0
            .lookup_events()
            .start_time(DateTime::from_secs(window.start))
            .end_time(DateTime::from_secs(window.end))
            .max_results(PAGE_EVENTS)
            .set_next_token(token.map(str::to_owned));
        // The call's future is large, and one of many in the region's.
        match Box::pin(request.send()).await {
            Ok(answer) => {
                let events = answer.events.unwrap_or_default().into_iter().map(looked_up).collect();
                Ok(Page { events, next: answer.next_token.filter(|token| !token.is_empty()) })
            }
            Err(error) => Err(classify(&error)),
        }
    }
}

fn looked_up(event: Event) -> LookedUp {
    LookedUp {
        id: event.event_id,
        time: event.event_time.map(|time| time.secs()),
        record: event.cloud_trail_event.map(Bytes::from),
    }
}

fn classify(error: &SdkError<LookupEventsError>) -> LookupError {
    if let Some(cause) = credentials_error(error) {
        return LookupError::Refused {
            code: "no credentials".to_owned(),
            message: with_causes(cause),
            advice: "set access_key_id and secret_access_key, or give the environment credentials",
        };
    }
    let Some(service) = error.as_service_error() else {
        return LookupError::Unavailable(with_causes(error));
    };
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    by_code(status, service.code().unwrap_or_default(), service.message().unwrap_or_default())
}

/// What an error that the service answered with means
/// (<https://docs.aws.amazon.com/awscloudtrail/latest/APIReference/CommonErrors.html>).
fn by_code(status: u16, code: &str, message: &str) -> LookupError {
    let advice = match code {
        "InvalidNextTokenException" => return LookupError::TokenExpired,
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "SlowDown" => {
            return LookupError::Throttled(code.to_owned());
        }
        "AccessDeniedException" | "AccessDenied" | "UnauthorizedOperation" | "OperationNotPermittedException" => {
            "grant cloudtrail:LookupEvents to these credentials"
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
        | "NotAuthorized" => "check the credentials, whether the region is enabled, and the machine's clock",
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => "renew the session's credentials",
        "OptInRequired" => "enable the region for the account, or leave it out",
        _ if status == 429 => return LookupError::Throttled(code.to_owned()),
        _ => return LookupError::Unavailable(format!("status {status}, {code}: {message}")),
    };
    LookupError::Refused { code: code.to_owned(), message: message.to_owned(), advice }
}

/// An error and what led to it, in one line.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The credentials error at the root of an error, if there is one.
fn credentials_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::{self, ProvideCredentials};

    use super::*;
    use crate::secret::Secret;

    const WINDOW: Window = Window { start: 0, end: 1 };

    #[derive(Debug)]
    struct NoCredentials;

    impl ProvideCredentials for NoCredentials {
        fn provide_credentials<'a>(&'a self) -> provider::future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            provider::future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("nothing in the chain")))
        }
    }

    fn config(endpoint_url: &str) -> LookupEventsConfig {
        LookupEventsConfig {
            endpoint_url: Some(endpoint_url.to_owned()),
            access_key_id: Some(Secret::from_reference("env:PATH").unwrap()),
            secret_access_key: Some(Secret::from_reference("env:PATH").unwrap()),
            ..LookupEventsConfig::new(vec!["eu-west-1".to_owned()])
        }
    }

    #[tokio::test]
    async fn missing_credentials_are_told() {
        let loaded = Connector::load(&config("http://127.0.0.1:1")).await.0;
        let provider = provider::SharedCredentialsProvider::new(NoCredentials);
        let connector = Connector(loaded.into_builder().credentials_provider(provider).build());
        let error = connector.client("eu-west-1").page(WINDOW, None).await.unwrap_err();
        assert!(matches!(&error, LookupError::Refused { code, .. } if code == "no credentials"), "{error:?}");
        assert!(error.to_string().contains("nothing in the chain"), "{error}");
    }

    #[tokio::test]
    async fn an_unreachable_service_is_told() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let connector = Connector::load(&config(&format!("http://127.0.0.1:{port}"))).await;
        let error = connector.client("eu-west-1").page(WINDOW, None).await.unwrap_err();
        assert!(matches!(&error, LookupError::Unavailable(cause) if cause.contains("refused")), "{error:?}");
    }

    #[test]
    fn the_services_errors_are_told_apart() {
        assert_eq!(by_code(400, "InvalidNextTokenException", ""), LookupError::TokenExpired);
        assert!(matches!(by_code(400, "ThrottlingException", "Rate exceeded"), LookupError::Throttled(_)));
        assert!(matches!(by_code(429, "", ""), LookupError::Throttled(_)));
        assert!(matches!(by_code(500, "InternalFailure", ""), LookupError::Unavailable(_)));
        assert!(matches!(by_code(400, "InvalidTimeRangeException", ""), LookupError::Unavailable(_)));
        let denied = by_code(400, "AccessDeniedException", "User jane is not authorized").to_string();
        assert!(denied.contains("jane") && denied.contains("grant cloudtrail:LookupEvents"), "{denied}");
        assert!(matches!(by_code(403, "InvalidSignatureException", ""), LookupError::Refused { .. }));
    }
}
