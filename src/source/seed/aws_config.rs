//! AWS Config: what an aggregator knows of all its accounts and regions
//! (<https://docs.aws.amazon.com/config/latest/APIReference/API_SelectAggregateResourceConfig.html>).
//!
//! Only one operation of the JSON protocol is needed, so it is signed here, without the SDK's client of over a hundred.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_types::error::display::DisplayErrorContext;
use azure_core::http::Url;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{Http, Refusal};
use super::{Connect, Listing, Page, PageError, Schedule, SeedSource, every_secs};
use crate::model::SourceId;
use crate::secret::Secret;
use crate::source::Clock;
use crate::source::aws::access::Role;
use crate::source::aws::{Access, Connector};

/// The kind, as in the configuration.
pub const KIND: &str = "aws_config";

const TARGET: &str = "StarlingDoveService.SelectAggregateResourceConfig";
/// Items per page; the service's maximum.
const PAGE_ITEMS: u32 = 100;
/// Default requests per second. The service does not document its limit, which other programs in the account share.
const RATE: f64 = 1.0;

/// `[sources.<name>.aws_config]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsConfigConfig {
    /// The aggregator's name.
    pub aggregator: String,
    /// Its region.
    pub region: String,
    /// Types to query, such as `AWS::EC2::SecurityGroup`; if empty, all recorded ones.
    #[serde(default)]
    pub resource_types: Vec<String>,
    /// A role in the aggregator's account, assumed with the source's credentials.
    pub role_arn: Option<String>,
    /// The external id that the role's trust policy requires.
    pub external_id: Option<String>,
    /// Interval between sweeps, in seconds.
    #[serde(default = "every_secs")]
    pub every_secs: u64,
    /// Requests per second, of up to 100 items each.
    #[serde(default = "rate")]
    pub requests_per_second: f64,
    /// Whether differences from the inventory become events.
    #[serde(default)]
    pub events: bool,
    /// Endpoint of AWS Config, instead of the region's.
    pub endpoint_url: Option<String>,
    /// Endpoint of STS, for assuming the role, instead of the public one.
    pub sts_endpoint_url: Option<String>,
    /// Static credentials, instead of the environment's.
    pub access_key_id: Option<Secret>,
    /// See `access_key_id`.
    pub secret_access_key: Option<Secret>,
    /// See `access_key_id`.
    pub session_token: Option<Secret>,
}

fn rate() -> f64 {
    RATE
}

impl AwsConfigConfig {
    /// Invalid settings as pairs of key and message.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        if self.aggregator.is_empty() {
            mistakes.push(("aggregator", "must name an aggregator".to_owned()));
        }
        let is_type = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b':');
        if let Some(wrong) = self.resource_types.iter().find(|name| !is_type(name)) {
            mistakes.push(("resource_types", format!("{wrong:?} is not a type such as AWS::EC2::SecurityGroup")));
        }
        mistakes
    }

    /// Creates the source.
    #[must_use]
    pub fn source(self, id: SourceId, cursor: Option<Bytes>, clock: Clock) -> SeedSource {
        let schedule = Schedule {
            every: Duration::from_secs(self.every_secs),
            requests_per_second: self.requests_per_second,
            events: self.events,
        };
        SeedSource::new(id, schedule, Box::new(self), cursor, clock)
    }

    fn expression(&self) -> String {
        let columns = "accountId, awsRegion, arn, resourceId, resourceName, resourceType, tags, configuration, \
                       supplementaryConfiguration, configurationItemCaptureTime, configurationItemStatus";
        let types: Vec<_> = self.resource_types.iter().map(|name| format!("'{name}'")).collect();
        let filter =
            if types.is_empty() { String::new() } else { format!(" WHERE resourceType IN ({})", types.join(", ")) };
        format!("SELECT {columns}{filter}")
    }
}

#[async_trait]
impl Connect for AwsConfigConfig {
    async fn connect(&self) -> Result<Arc<dyn Listing>, PageError> {
        let access = Access {
            region: Some(self.region.clone()),
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            session_token: self.session_token.clone(),
            sts_endpoint_url: self.sts_endpoint_url.clone(),
        };
        let mut connector = Connector::load(&access).await;
        if let Some(arn) = &self.role_arn {
            connector = connector.assume(&Role { arn: arn.clone(), external_id: self.external_id.clone() }).await;
        }
        let suffix = if self.region.starts_with("cn-") { ".cn" } else { "" };
        let own = format!("https://config.{}.amazonaws.com{suffix}/", self.region);
        let url = self.endpoint_url.as_deref().unwrap_or(&own);
        Ok(Arc::new(Aggregator {
            place: format!("AWS Config aggregator {} in {}", self.aggregator, self.region),
            url: Url::parse(url).map_err(|error| PageError::Refused(format!("{url}: {error}")))?,
            expression: self.expression(),
            config: self.clone(),
            sdk: connector.config(Some(&self.region), None),
            http: Http::new(),
        }))
    }
}

struct Aggregator {
    place: String,
    url: Url,
    expression: String,
    config: AwsConfigConfig,
    sdk: SdkConfig,
    http: Http,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    results: Vec<String>,
    next_token: Option<String>,
}

impl Aggregator {
    /// The headers of a request with this body, including the signature
    /// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>).
    async fn signed(&self, body: &[u8]) -> Result<Vec<(String, String)>, PageError> {
        let refused = |cause: String| PageError::Refused(format!("no credentials: {cause}"));
        let provider = self.sdk.credentials_provider().ok_or_else(|| refused("none are configured".to_owned()))?;
        let credentials = provider.provide_credentials().await;
        let credentials = credentials.map_err(|error| refused(DisplayErrorContext(&error).to_string()))?;
        let identity = credentials.into();
        let unsignable = |error: &dyn std::error::Error| PageError::Refused(format!("sign the request: {error}"));
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.config.region)
            .name("config")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build();
        let parameters = parameters.map_err(|error| unsignable(&error))?.into();
        let mut headers = vec![
            ("content-type".to_owned(), "application/x-amz-json-1.1".to_owned()),
            ("x-amz-target".to_owned(), TARGET.to_owned()),
        ];
        let plain = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let request = SignableRequest::new("POST", self.url.as_str(), plain, SignableBody::Bytes(body));
        let request = request.map_err(|error| unsignable(&error))?;
        let (instructions, _) = sign(request, &parameters).map_err(|error| unsignable(&error))?.into_parts();
        headers.extend(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())));
        Ok(headers)
    }
}

/// Classifies the service's error codes (<https://docs.aws.amazon.com/config/latest/APIReference/CommonErrors.html>).
fn classify(refusal: Refusal) -> PageError {
    let code = serde_json::from_str::<Value>(&refusal.words).ok();
    let code = code.as_ref().and_then(|words| words.get("__type")?.as_str()).unwrap_or_default().to_owned();
    let is_throttled = code.contains("Throttl") || code.contains("LimitExceeded") || code.contains("TooManyRequests");
    let advice = match code.rsplit('#').next().unwrap_or_default() {
        "NoSuchConfigurationAggregatorException" => "name an aggregator of this account and region",
        "InvalidExpressionException" => "check resource_types",
        _ => "grant config:SelectAggregateResourceConfig on the aggregator",
    };
    refusal.error(is_throttled, advice)
}

#[async_trait]
impl Listing for Aggregator {
    fn place(&self) -> &str {
        &self.place
    }

    fn member(&self) -> &'static str {
        "Results"
    }

    /// None: every item has its own time.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }

    async fn page(&self, token: Option<&str>) -> Result<Page, PageError> {
        let mut question = json!({
            "Expression": self.expression, "ConfigurationAggregatorName": self.config.aggregator, "Limit": PAGE_ITEMS,
        });
        if let Some(token) = token {
            question["NextToken"] = json!(token);
        }
        let body = Bytes::from(question.to_string());
        let headers = self.signed(&body).await?;
        let answer = self.http.post(&self.url, headers, body).await?.map_err(classify)?;
        let unfit = |error| PageError::Unavailable(format!("unexpected response: {error}"));
        let Answer { results, next_token } = serde_json::from_slice(&answer).map_err(unfit)?;
        let items = results.into_iter().map(|item| json!(item).to_string().into()).collect();
        Ok(Page { items, next: next_token.filter(|token| !token.is_empty()) })
    }
}
