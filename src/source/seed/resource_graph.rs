//! Azure Resource Graph: every resource, group and subscription that an identity may read
//! (<https://learn.microsoft.com/rest/api/azureresourcegraph/resourcegraph/resources/resources>).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use azure_core::http::Url;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::http::Http;
use super::{Connect, Listing, Page, PageError, Schedule, SeedSource, every_secs};
use crate::model::SourceId;
use crate::source::Clock;
use crate::source::azure_event_hubs::config::{Cloud, Credential};
use crate::source::azure_event_hubs::credential::Tokens;

/// The kind, as in the configuration.
pub const KIND: &str = "azure_resource_graph";

const API_VERSION: &str = "2022-10-01";
/// Rows per page; the service's maximum.
const PAGE_ROWS: u32 = 1_000;
/// Default requests per second. The service allows an identity 15 requests in 5 seconds, shared by all its programs.
const RATE: f64 = 1.0;
/// Most changes show up within half a minute; the service guarantees nothing.
const LAG: Duration = Duration::from_secs(15 * 60);

/// Columns that belong to the resource, in both tables.
const COLUMNS: &str = "id, name, type, tenantId, kind, location, managedBy, sku, plan, properties, tags, identity, zones, extendedLocation";

/// `[sources.<name>.azure_resource_graph]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceGraphConfig {
    /// Subscriptions to query; without any, and without management groups, all that the identity can read.
    #[serde(default)]
    pub subscriptions: Vec<String>,
    /// Management groups to query.
    #[serde(default)]
    pub management_groups: Vec<String>,
    /// The cloud of the subscriptions and the identity.
    #[serde(default)]
    pub cloud: Cloud,
    /// The credential; if absent, taken from the environment, see [`Credential`].
    pub credential: Option<Credential>,
    /// Base URL of Azure Resource Manager, instead of the cloud's.
    pub endpoint_url: Option<String>,
    /// Interval between sweeps, in seconds.
    #[serde(default = "every_secs")]
    pub every_secs: u64,
    /// Requests per second, of up to 1,000 resources each.
    #[serde(default = "rate")]
    pub requests_per_second: f64,
    /// Whether differences from the inventory become events.
    #[serde(default)]
    pub events: bool,
}

fn rate() -> f64 {
    RATE
}

impl ResourceGraphConfig {
    /// Invalid settings as pairs of key and message.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        if !self.subscriptions.is_empty() && !self.management_groups.is_empty() {
            mistakes.push(("management_groups", "give subscriptions or management_groups, not both".to_owned()));
        }
        if matches!(self.credential, Some(Credential::ConnectionString(_))) {
            mistakes.push((
                "credential",
                "a connection string gives access to an event hub, and to nothing else".to_owned(),
            ));
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
}

#[async_trait]
impl Connect for ResourceGraphConfig {
    async fn connect(&self) -> Result<Arc<dyn Listing>, PageError> {
        let refused = |error: &dyn std::error::Error| PageError::Refused(error.to_string());
        let tokens = Tokens::new(self.credential.as_ref(), self.cloud).map_err(|error| refused(&error))?;
        let base = self.endpoint_url.as_deref().unwrap_or(self.cloud.resource_manager()).trim_end_matches('/');
        let url = format!("{base}/providers/Microsoft.ResourceGraph/resources?api-version={API_VERSION}");
        Ok(Arc::new(ResourceGraph {
            place: format!("Azure Resource Graph at {base}"),
            scope: format!("{}/.default", self.cloud.resource_manager()),
            url: Url::parse(&url).map_err(|error| refused(&error))?,
            config: self.clone(),
            tokens,
            http: Http::new(),
        }))
    }
}

struct ResourceGraph {
    place: String,
    scope: String,
    url: Url,
    config: ResourceGraphConfig,
    tokens: Arc<Tokens>,
    http: Http,
}

/// The tables, queried one after the other. A token consists of the table's index and the service's token.
const TABLES: [&str; 2] = ["Resources", "ResourceContainers"];

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    data: Vec<Box<RawValue>>,
    #[serde(rename = "$skipToken")]
    skip_token: Option<String>,
}

impl ResourceGraph {
    fn question(&self, table: &str, skip: Option<&str>) -> Value {
        let mut question = json!({
            // Pages need an order.
            "query": format!("{table} | project {COLUMNS} | order by id asc"),
            "options": { "resultFormat": "objectArray", "$top": PAGE_ROWS },
        });
        if let Some(skip) = skip {
            question["options"]["$skipToken"] = json!(skip);
        }
        for (key, scope) in
            [("subscriptions", &self.config.subscriptions), ("managementGroups", &self.config.management_groups)]
        {
            if !scope.is_empty() {
                question[key] = json!(scope);
            }
        }
        question
    }
}

#[async_trait]
impl Listing for ResourceGraph {
    fn place(&self) -> &str {
        &self.place
    }

    fn member(&self) -> &'static str {
        "data"
    }

    fn lag(&self) -> Duration {
        LAG
    }

    async fn page(&self, token: Option<&str>) -> Result<Page, PageError> {
        let (number, skip) = token.and_then(|token| token.split_once(' ')).unwrap_or(("0", ""));
        let number: usize = number.parse().unwrap_or_default();
        let Some(table) = TABLES.get(number) else { return Ok(Page::default()) };
        let scopes = [self.scope.as_str()];
        let bearer = self.tokens.get_token(&scopes, None).await;
        let bearer = bearer.map_err(|error| PageError::Unavailable(format!("no token: {error}")))?;
        let headers = [
            ("authorization".to_owned(), format!("Bearer {}", bearer.token.secret())),
            ("content-type".to_owned(), "application/json".to_owned()),
        ];
        let question = self.question(table, Some(skip).filter(|skip| !skip.is_empty())).to_string();
        let advice = "grant the identity the role Reader on the subscriptions or management groups to list";
        let body = self.http.post(&self.url, headers, question.into()).await?;
        let body = body.map_err(|refusal| refusal.error(false, advice))?;
        let unfit = |error| PageError::Unavailable(format!("unexpected response: {error}"));
        let Answer { data, skip_token } = serde_json::from_slice(&body).map_err(unfit)?;
        let more = skip_token.map(|skip| format!("{number} {skip}"));
        let next_table = || (number + 1 < TABLES.len()).then(|| format!("{} ", number + 1));
        let items = data.into_iter().map(|row| String::from(Box::<str>::from(row)).into()).collect();
        Ok(Page { items, next: more.or_else(next_table) })
    }
}
