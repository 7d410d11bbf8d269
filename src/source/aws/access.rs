//! Credentials, roles and endpoints: builds the service clients from the configuration.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::tls;

use crate::secret::Secret;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// For one call, up to the response head. Services mostly respond within a second, SQS's long poll within twenty.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The role session name that the calls carry in CloudTrail.
const SESSION_NAME: &str = "catchment";

/// The part of a source's configuration that concerns access to AWS.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Access {
    /// The default region, also for requests to STS.
    pub(crate) region: Option<String>,
    /// Static keys, instead of the environment's credentials.
    pub(crate) access_key_id: Option<Secret>,
    pub(crate) secret_access_key: Option<Secret>,
    pub(crate) session_token: Option<Secret>,
    /// Endpoint of STS, instead of the region's.
    pub(crate) sts_endpoint_url: Option<String>,
}

/// A role to assume with the source's own credentials.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Role {
    pub(crate) arn: String,
    pub(crate) external_id: Option<String>,
}

/// Creates the configuration of clients, which share credentials and connections.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    base: SdkConfig,
    sts_endpoint_url: Option<String>,
}

impl Connector {
    /// Uses the configured keys, or else the default chain: environment, profile, web identity, container, instance.
    /// Makes no request yet.
    pub(crate) async fn load(access: &Access) -> Self {
        let crypto = tls::rustls_provider::CryptoMode::AwsLc;
        let http = aws_smithy_http_client::Builder::new().tls_provider(tls::Provider::Rustls(crypto)).build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(CALL_TIMEOUT)
            .operation_timeout(CALL_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            // The sources retry by themselves, each with its own policy.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(region) = &access.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let (Some(id), Some(secret)) = (&access.access_key_id, &access.secret_access_key) {
            let token = access.session_token.as_ref().map(|token| token.expose().to_owned());
            let credentials = Credentials::new(id.expose(), secret.expose(), token, None, "catchment configuration");
            loader = loader.credentials_provider(credentials);
        }
        Self { base: Box::pin(loader.load()).await, sts_endpoint_url: access.sts_endpoint_url.clone() }
    }

    /// The same with the credentials of a role, which is assumed at the first call and again before they expire.
    pub(crate) async fn assume(&self, role: &Role) -> Self {
        let mut sts = self.base.clone().into_builder();
        sts.set_endpoint_url(self.sts_endpoint_url.clone());
        let mut provider = AssumeRoleProvider::builder(&role.arn).session_name(SESSION_NAME).configure(&sts.build());
        if let Some(id) = &role.external_id {
            provider = provider.external_id(id);
        }
        let provider = SharedCredentialsProvider::new(Box::pin(provider.build()).await);
        let base = self.base.clone().into_builder().credentials_provider(provider).build();
        Self { base, sts_endpoint_url: self.sts_endpoint_url.clone() }
    }

    /// The configuration of a client in a region, with an optional endpoint.
    pub(crate) fn config(&self, region: Option<&str>, endpoint_url: Option<&str>) -> SdkConfig {
        let mut config = self.base.clone().into_builder();
        if let Some(region) = region {
            config.set_region(Some(Region::new(region.to_owned())));
        }
        if let Some(url) = endpoint_url {
            config.set_endpoint_url(Some(url.to_owned()));
        }
        config.build()
    }

    #[cfg(test)]
    pub(crate) fn with_credentials(self, provider: SharedCredentialsProvider) -> Self {
        Self { base: self.base.into_builder().credentials_provider(provider).build(), ..self }
    }
}
