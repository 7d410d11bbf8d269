//! The LookupEvents call, behind a trait so that the polling loop can be tested without a service.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_cloudtrail::Client;
use aws_sdk_cloudtrail::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_cloudtrail::operation::lookup_events::LookupEventsError;
use aws_sdk_cloudtrail::types::Event;
use aws_smithy_types::DateTime;
use bytes::Bytes;

use super::window::Window;
use crate::source::aws::{self, AwsError, Connector};

/// Events per page; the service's maximum.
pub(super) const PAGE_EVENTS: i32 = 50;

/// An event in a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LookedUp {
    pub(super) id: Option<String>,
    /// Seconds since 1970.
    pub(super) time: Option<i64>,
    /// The CloudTrail record, if there is one.
    pub(super) record: Option<Bytes>,
}

/// A page of events, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) events: Vec<LookedUp>,
    pub(super) next: Option<String>,
}

/// Why a request for a page failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookupError {
    /// Too many requests, those of other programs in the account included.
    #[error("throttled ({0})")]
    Throttled(String),
    /// The service or the network has failed; a retry may help.
    #[error("{0}")]
    Unavailable(String),
    /// The token has expired: the window must be fetched again.
    #[error("the page token has expired")]
    TokenExpired,
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

/// LookupEvents of one region
/// (<https://docs.aws.amazon.com/awscloudtrail/latest/APIReference/API_LookupEvents.html>).
#[async_trait]
pub(super) trait LookupEvents: Send + Sync {
    /// One page of a window. A token is valid only for the window that it was issued for.
    async fn page(&self, window: Window, token: Option<&str>) -> Result<Page, LookupError>;
}

/// Creates the client for a region.
pub(super) fn connect(connector: &Connector, region: &str, endpoint_url: Option<&str>) -> Arc<dyn LookupEvents> {
    Arc::new(SdkClient(Client::new(&connector.config(Some(region), endpoint_url))))
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
        // The call's future is large, and one of many in that of the region.
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
    if error.as_service_error().is_some_and(|service| service.code() == Some("InvalidNextTokenException")) {
        return LookupError::TokenExpired;
    }
    aws::error::classify(error, "cloudtrail:LookupEvents").into()
}

impl From<AwsError> for LookupError {
    fn from(error: AwsError) -> Self {
        match error {
            AwsError::Throttled(code) => Self::Throttled(code),
            AwsError::Unavailable(cause) | AwsError::NotFound(cause) => Self::Unavailable(cause),
            AwsError::Refused { code, message, advice } => Self::Refused { code, message, advice },
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::error::CredentialsError;
    use aws_credential_types::provider::{self, ProvideCredentials};

    use super::*;
    use crate::secret::Secret;
    use crate::source::aws::Access;

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

    async fn connector() -> Connector {
        let key = || Some(Secret::from_reference("env:PATH").unwrap());
        let region = Some("eu-west-1".to_owned());
        let access = Access { region, access_key_id: key(), secret_access_key: key(), ..Access::default() };
        Connector::load(&access).await
    }

    async fn first_page(connector: &Connector, endpoint_url: &str) -> LookupError {
        connect(connector, "eu-west-1", Some(endpoint_url)).page(WINDOW, None).await.unwrap_err()
    }

    #[tokio::test]
    async fn missing_credentials_are_told() {
        let provider = provider::SharedCredentialsProvider::new(NoCredentials);
        let connector = connector().await.with_credentials(provider);
        let error = first_page(&connector, "http://127.0.0.1:1").await;
        assert!(matches!(&error, LookupError::Refused { code, .. } if code == "no credentials"), "{error:?}");
        assert!(error.to_string().contains("nothing in the chain"), "{error}");
    }

    #[tokio::test]
    async fn an_unreachable_service_is_told() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = first_page(&connector().await, &format!("http://127.0.0.1:{port}")).await;
        assert!(matches!(&error, LookupError::Unavailable(cause) if cause.contains("refused")), "{error:?}");
    }
}
