//! CloudTrail's LookupEvents API: the account's management events of the last 90 days, without a trail or a bucket.
//! For accounts with up to about ten events a second; the service allows two requests of 50 events a second.
//!
//! Every region of every account is polled independently, with its own budget of requests. Everything they find is
//! delivered in one place, with a cursor that covers all of them. The events of a window are delivered when the window
//! is complete, so that a crash between pages costs only that window's requests.

mod client;
mod region;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::client::{LookedUp, LookupEvents, connect};
use self::region::{Message, Poller};
use self::window::{HISTORY_SECS, Planner, Window};
use super::aws::access::Role;
use super::aws::{Access, Connector};
use super::{Clock, Delivery, Intake, Source, SourceError, SourceState, StatusHandle};
use crate::decode::{KEPT_BYTES, MAX_RECORD_BYTES};
use crate::model::{Origin, RawRecord, Rejected, SourceId, Time};
use crate::secret::Secret;

/// The kind, as in the configuration.
pub const KIND: &str = "aws_lookup_events";

/// Most records in a delivery.
const DELIVERY_RECORDS: usize = 500;

const CURSOR_VERSION: u32 = 1;

/// `[sources.<name>.aws_lookup_events]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupEventsConfig {
    /// Regions to query. Events of global services (IAM, STS, CloudFront) are in us-east-1.
    #[serde(default)]
    pub regions: Vec<String>,
    /// Accounts to query; if empty, the one that the credentials belong to.
    #[serde(default)]
    pub accounts: Vec<AccountConfig>,
    /// Interval between polls, in seconds.
    #[serde(default = "poll_secs")]
    pub poll_secs: u64,
    /// How far back the first poll goes, in seconds; at most 90 days.
    #[serde(default = "lookback_secs")]
    pub lookback_secs: u64,
    /// How far back every later poll goes, in seconds, because events appear late and in any order.
    #[serde(default = "overlap_secs")]
    pub overlap_secs: u64,
    /// Endpoint of CloudTrail, instead of the public one.
    pub endpoint_url: Option<String>,
    /// Endpoint of STS, for assuming roles, instead of the public one.
    pub sts_endpoint_url: Option<String>,
    /// Static credentials, instead of the environment's.
    pub access_key_id: Option<Secret>,
    /// See `access_key_id`.
    pub secret_access_key: Option<Secret>,
    /// See `access_key_id`.
    pub session_token: Option<Secret>,
    /// Requests per second in each account and region. The service allows 2, shared by all callers.
    #[serde(default = "requests_per_second")]
    pub requests_per_second: f64,
}

/// An element of `accounts`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
    /// A role in the account, assumed with the source's credentials; without it, the account is their own.
    pub role_arn: Option<String>,
    /// The external id that the role's trust policy requires.
    pub external_id: Option<String>,
    /// Its regions, if they differ from the source's.
    pub regions: Option<Vec<String>>,
}

impl AccountConfig {
    /// The account's number; `None` for the credentials' own account.
    #[must_use]
    pub fn number(&self) -> Option<&str> {
        self.role_arn.as_deref()?.split(':').nth(4)
    }

    fn role(&self) -> Option<Role> {
        self.role_arn.clone().map(|arn| Role { arn, external_id: self.external_id.clone() })
    }
}

/// One region of one account, polled independently with its own rate limit.
struct Place {
    /// `eu-west-1` for the credentials' own account, otherwise `111122223333/eu-west-1`.
    name: String,
    role: Option<Role>,
    region: String,
}

fn poll_secs() -> u64 {
    60
}

fn lookback_secs() -> u64 {
    900
}

fn overlap_secs() -> u64 {
    1_200
}

fn requests_per_second() -> f64 {
    2.0
}

impl LookupEventsConfig {
    /// The defaults, for some regions.
    #[must_use]
    pub fn new(regions: Vec<String>) -> Self {
        Self {
            regions,
            accounts: Vec::new(),
            poll_secs: poll_secs(),
            lookback_secs: lookback_secs(),
            overlap_secs: overlap_secs(),
            endpoint_url: None,
            sts_endpoint_url: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            requests_per_second: requests_per_second(),
        }
    }

    /// Every region of every account.
    fn places(&self) -> Vec<Place> {
        let own = [AccountConfig { role_arn: None, external_id: None, regions: None }];
        let accounts = if self.accounts.is_empty() { &own } else { self.accounts.as_slice() };
        let places = |account: &AccountConfig| {
            let place = |region: &String| Place {
                name: account.number().map_or_else(|| region.clone(), |number| format!("{number}/{region}")),
                role: account.role(),
                region: region.clone(),
            };
            account.regions.as_ref().unwrap_or(&self.regions).iter().map(place).collect::<Vec<_>>()
        };
        accounts.iter().flat_map(places).collect()
    }

    /// Creates a client for each place.
    async fn clients(&self, places: &[Place]) -> Vec<Arc<dyn LookupEvents>> {
        let own = Connector::load(&self.access()).await;
        let endpoint_url = self.endpoint_url.as_deref();
        let (mut clients, mut assumed): (Vec<_>, Option<(Role, Connector)>) = (Vec::new(), None);
        for Place { role, region, .. } in places {
            let Some(role) = role else {
                clients.push(connect(&own, region, endpoint_url));
                continue;
            };
            // The regions of an account follow one another, and share its session.
            if assumed.as_ref().is_none_or(|(last, _)| last != role) {
                assumed = Some((role.clone(), own.assume(role).await));
            }
            clients.extend(assumed.iter().map(|(_, connector)| connect(connector, region, endpoint_url)));
        }
        clients
    }

    fn access(&self) -> Access {
        Access {
            // It only signs requests for credentials; each client has its own.
            region: self.places().into_iter().map(|place| place.region).next(),
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            session_token: self.session_token.clone(),
            sts_endpoint_url: self.sts_endpoint_url.clone(),
        }
    }
}

/// Tests each place by querying the events of one second: its name, and the error if it fails.
pub(crate) async fn probe(config: &LookupEventsConfig) -> Vec<(String, Result<(), String>)> {
    let places = config.places();
    let clients = config.clients(&places).await;
    let now = Clock::system().now().millis() / 1_000;
    let mut outcomes = Vec::new();
    for (place, client) in places.into_iter().zip(clients) {
        let page = client.page(Window { start: now - 1, end: now }, None).await;
        outcomes.push((place.name, page.map(|_| ()).map_err(|error| error.to_string())));
    }
    outcomes
}

/// The cursor: up to when everything was fetched, by name of the place, in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    version: u32,
    done: BTreeMap<String, i64>,
}

/// Polls LookupEvents.
pub struct LookupEventsSource {
    id: SourceId,
    config: LookupEventsConfig,
    clock: Clock,
    /// The last durable position.
    cursor: Option<Bytes>,
    /// Clients by place, instead of the configured ones, for tests.
    clients: Option<BTreeMap<String, Arc<dyn LookupEvents>>>,
}

impl LookupEventsSource {
    /// Creates a source that resumes after `cursor`, its position in the log.
    #[must_use]
    pub fn new(id: SourceId, config: LookupEventsConfig, cursor: Option<Bytes>, clock: Clock) -> Self {
        Self { id, config, clock, cursor, clients: None }
    }

    fn position(&self) -> Result<Position, SourceError> {
        let Some(cursor) = &self.cursor else {
            return Ok(Position { version: CURSOR_VERSION, done: BTreeMap::new() });
        };
        let broken = |cause: String| SourceError::Upstream {
            action: "resume looking up events".to_owned(),
            cause: format!("the saved position is not valid for this version: {cause}"),
        };
        let position: Position = serde_json::from_slice(cursor).map_err(|error| broken(error.to_string()))?;
        match position.version {
            CURSOR_VERSION => Ok(position),
            other => Err(broken(format!("version {other} instead of {CURSOR_VERSION}"))),
        }
    }

    async fn clients(&self, places: &[Place]) -> Vec<Arc<dyn LookupEvents>> {
        match &self.clients {
            Some(clients) => places.iter().filter_map(|place| clients.get(&place.name)).cloned().collect(),
            None => self.config.clients(places).await,
        }
    }

    async fn poll(&mut self, intake: &Intake, status: &StatusHandle) -> Result<(), SourceError> {
        let position = self.position()?;
        let places = self.config.places();
        let (sender, mut messages) = mpsc::channel(places.len().max(1));
        // Dropped with this future, and the pollers with it.
        let mut pollers = JoinSet::new();
        let poll = Duration::from_secs(self.config.poll_secs);
        for (index, (client, place)) in self.clients(&places).await.into_iter().zip(&places).enumerate() {
            let secs = |secs: u64| i64::try_from(secs).unwrap_or(HISTORY_SECS);
            let done = position.done.get(&place.name).copied();
            let planner = Planner::new(secs(self.config.lookback_secs), secs(self.config.overlap_secs), done);
            let pace = self.config.requests_per_second;
            let poller = Poller::new(index, client, planner, poll, pace, self.clock.clone(), sender.clone());
            // Spreads the first polls, so that hundreds of accounts are not queried in the same second.
            let (index, count) = (u32::try_from(index).unwrap_or(0), u32::try_from(places.len()).unwrap_or(1));
            let wait = if self.config.accounts.is_empty() { Duration::ZERO } else { poll * index / count };
            pollers.spawn(async move {
                tokio::time::sleep(wait).await;
                poller.run().await
            });
        }
        let mut desk = Desk::new(self, &places, position);
        loop {
            tokio::select! {
                Some(message) = messages.recv() => {
                    if let Some(cursor) = desk.take(message, intake, status).await? {
                        self.cursor = Some(cursor);
                    }
                }
                Some(ended) = pollers.join_next() => return Err(SourceError::Upstream {
                    action: "look up events".to_owned(),
                    cause: format!("a region's poller ended: {ended:?}"),
                }),
            }
        }
    }
}

#[async_trait]
impl Source for LookupEventsSource {
    async fn run(&mut self, intake: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError> {
        stop.run_until_cancelled(self.poll(&intake, &status)).await.unwrap_or(Ok(()))
    }
}

/// One region's share of the status.
#[derive(Debug)]
struct Region {
    name: String,
    location: Arc<str>,
    /// Number of records delivered, which is the index of the next.
    records: u64,
    trouble: Option<String>,
}

/// Collects the findings of all regions and delivers them.
struct Desk {
    source: SourceId,
    clock: Clock,
    regions: Vec<Region>,
    position: Position,
}

impl Desk {
    fn new(source: &LookupEventsSource, places: &[Place], position: Position) -> Self {
        let regions = places.iter().map(|place| Region {
            name: place.name.clone(),
            location: format!("lookup-events:{}", place.name).into(),
            records: 0,
            trouble: None,
        });
        Self { source: source.id.clone(), clock: source.clock.clone(), regions: regions.collect(), position }
    }

    /// Processes a message, and returns the cursor that has become durable.
    async fn take(
        &mut self,
        message: Message,
        intake: &Intake,
        status: &StatusHandle,
    ) -> Result<Option<Bytes>, SourceError> {
        match message {
            Message::Trouble { region, error } => {
                self.trouble(region, error, status);
                Ok(None)
            }
            Message::Found { region, events, done } => {
                let newest = events.iter().filter_map(|event| event.time).max();
                let mut events = events.into_iter().peekable();
                let mut cursor = None;
                loop {
                    let batch: Vec<_> = events.by_ref().take(DELIVERY_RECORDS).collect();
                    let last = events.peek().is_none();
                    if last && let (Some(done), Some(region)) = (done, self.regions.get(region)) {
                        self.position.done.insert(region.name.clone(), done);
                        cursor = Some(Bytes::from(serde_json::to_vec(&self.position).unwrap_or_default()));
                    }
                    let delivery = self.delivery(region, batch, cursor.clone());
                    let records = delivery.records.len() as u64;
                    intake.submit(delivery).await?;
                    status.update(|status| status.records += records);
                    if last {
                        break;
                    }
                }
                self.fine(region, newest, status);
                Ok(cursor)
            }
        }
    }

    fn delivery(&mut self, region: usize, events: Vec<LookedUp>, cursor: Option<Bytes>) -> Delivery {
        let mut delivery = Delivery { source: self.source.clone(), records: Vec::new(), rejected: Vec::new(), cursor };
        let Some(region) = self.regions.get_mut(region) else { return delivery };
        for event in events {
            let origin =
                Origin { source: self.source.clone(), location: region.location.clone(), index: region.records };
            region.records += 1;
            let id = event.id.as_deref().unwrap_or("(unknown)");
            let (code, reason, bytes) = match event.record {
                Some(bytes) if bytes.len() <= MAX_RECORD_BYTES => {
                    delivery.records.push(RawRecord { bytes, origin });
                    continue;
                }
                Some(bytes) => {
                    let reason = format!("event {id} has {} bytes; the first {KEPT_BYTES} are kept", bytes.len());
                    ("too_large", reason, bytes.slice(..KEPT_BYTES))
                }
                None => ("not_a_record", format!("event {id} was listed without its CloudTrail record"), Bytes::new()),
            };
            delivery.rejected.push(Rejected { origin, code, reason, bytes, observed: self.clock.now() });
        }
        delivery
    }

    fn trouble(&mut self, region: usize, error: String, status: &StatusHandle) {
        let Some(region) = self.regions.get_mut(region) else { return };
        let error = format!("look up events in {}: {error}", region.name);
        if region.trouble.as_ref() != Some(&error) {
            tracing::warn!(source = %self.source, region = region.name, error, "no events");
        }
        region.trouble = Some(error.clone());
        let now = self.clock.now();
        status.update(|status| {
            status.last_error = Some(error);
            status.last_error_at = Some(now);
        });
        self.tell(status);
    }

    fn fine(&mut self, region: usize, newest: Option<i64>, status: &StatusHandle) {
        if let Some(region) = self.regions.get_mut(region) {
            region.trouble = None;
        }
        let newest = newest.map(from_secs);
        status.update(|status| status.newest_record = status.newest_record.max(newest));
        self.tell(status);
    }

    fn tell(&self, status: &StatusHandle) {
        let done = |region: &Region| self.position.done.get(&region.name).copied();
        let behind = self.regions.iter().map(done).min().flatten();
        let position: Vec<_> = self
            .regions
            .iter()
            .map(|region| match done(region) {
                Some(secs) => format!("{} up to {}", region.name, from_secs(secs)),
                None => format!("{} not yet", region.name),
            })
            .collect();
        let failing = self.regions.iter().any(|region| region.trouble.is_some());
        let now = self.clock.now().millis();
        status.update(|status| {
            status.state = if failing { SourceState::Retrying } else { SourceState::Running };
            status.position = Some(position.join(", "));
            // Exact: milliseconds of a clock are far below 2^52.
            status.lag_secs = behind.map(|secs| ((now - from_secs(secs).millis()) as f64 / 1_000.0).max(0.0));
        });
    }
}

fn from_secs(secs: i64) -> Time {
    Time::from_millis(secs.saturating_mul(1_000))
}

#[cfg(test)]
mod tests;
