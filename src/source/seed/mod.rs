//! Live seeding: an inventory of the provider, listed page by page, at the start and then at intervals.
//!
//! An interrupted sweep starts over; what it delivered before is then unchanged. The time of a complete sweep is the
//! source's position, so that a restart does not list again before the next sweep is due.

pub mod aws_config;
mod http;
pub mod resource_graph;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Map;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Clock, Delivery, Intake, Source, SourceError, StatusHandle};
use crate::model::{Origin, RawRecord, SeedDocument, SourceId, TallyCounts, Time};
use crate::retry::Backoff;

const VERSION: u32 = 1;

/// Tries for one page before the source fails and is restarted.
const TRIES: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// The schedule of a source, common to all kinds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Schedule {
    pub(super) every: Duration,
    pub(super) requests_per_second: f64,
    /// Whether differences from the inventory become events.
    pub(super) events: bool,
}

/// The default interval: a day.
fn every_secs() -> u64 {
    86_400
}

/// A page of an inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) items: Vec<Bytes>,
    /// The token of the next page.
    pub(super) next: Option<String>,
}

/// Why a request for a page failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PageError {
    /// Too many requests; the service may say how long to wait.
    #[error("throttled: {cause}")]
    Throttled { cause: String, wait: Option<Duration> },
    /// The service or the network has failed; a retry may help.
    #[error("{0}")]
    Unavailable(String),
    /// Access was denied, or the request is invalid. A retry won't help until somebody changes something.
    #[error("{0}")]
    Refused(String),
}

/// An inventory of the provider, listed page by page.
#[async_trait]
pub(super) trait Listing: Send + Sync {
    /// What is listed, for messages: `AWS Config aggregator org in eu-west-1`.
    fn place(&self) -> &str;

    /// The member that holds the items in a document of this form.
    fn member(&self) -> &'static str;

    /// How long a change may take to show up in the listing. Its items count as that much older, so that more recent
    /// known changes are kept.
    fn lag(&self) -> Duration;

    /// Requests a page; without a token, the first.
    async fn page(&self, token: Option<&str>) -> Result<Page, PageError>;
}

/// Prepares a listing, which may request credentials.
#[async_trait]
pub(super) trait Connect: Send + Sync {
    async fn connect(&self) -> Result<Arc<dyn Listing>, PageError>;
}

/// The source that sweeps an inventory on a schedule.
pub struct SeedSource {
    id: SourceId,
    schedule: Schedule,
    connect: Box<dyn Connect>,
    clock: Clock,
    cursor: Option<Bytes>,
}

/// The position: when the last completed sweep began.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    version: u32,
    swept: Time,
}

impl SeedSource {
    pub(super) fn new(
        id: SourceId,
        schedule: Schedule,
        connect: Box<dyn Connect>,
        cursor: Option<Bytes>,
        clock: Clock,
    ) -> Self {
        Self { id, schedule, connect, clock, cursor }
    }

    /// Time until the next sweep; zero if none was completed, or the position is of another version.
    fn due_in(&self) -> Duration {
        let position = self.cursor.as_deref().and_then(|cursor| serde_json::from_slice::<Position>(cursor).ok());
        let Some(Position { swept, .. }) = position.filter(|position| position.version == VERSION) else {
            return Duration::ZERO;
        };
        let since = self.clock.now().millis().saturating_sub(swept.millis());
        self.schedule.every.saturating_sub(Duration::from_millis(u64::try_from(since).unwrap_or_default()))
    }

    async fn work(&mut self, intake: &Intake, status: &StatusHandle) -> Result<(), SourceError> {
        let listing = self.connect.connect().await.map_err(|error| failed("connect", &error))?;
        loop {
            sleep(self.due_in()).await;
            let counts = self.sweep(&*listing, intake, status).await?;
            let TallyCounts { imported, updated, unchanged, older, rejected, .. } = counts;
            tracing::info!(
                source = %self.id, imported, updated, unchanged, older, rejected, "seeded from {}", listing.place()
            );
        }
    }

    async fn sweep(
        &mut self,
        listing: &dyn Listing,
        intake: &Intake,
        status: &StatusHandle,
    ) -> Result<TallyCounts, SourceError> {
        let begun = self.clock.now();
        let position = Position { version: VERSION, swept: begun };
        let done = Bytes::from(serde_json::to_vec(&position).map_err(|error| failed("write the position", &error))?);
        let mut pace = Pace::new(self.schedule.requests_per_second);
        let (mut counts, mut token, mut index) = (TallyCounts::default(), None, 0);
        loop {
            let (asked, Page { items, next }) = self.page(listing, token.as_deref(), &mut pace).await?;
            let records = items.into_iter().zip(index..).map(|(bytes, index)| {
                let (source, location) = (self.id.clone(), listing.place().into());
                RawRecord { bytes, origin: Origin { source, location, index } }
            });
            let records: Vec<_> = records.collect();
            let count = records.len() as u64;
            index += count;
            let document = Arc::new(SeedDocument {
                as_of: minus(asked, listing.lag()),
                member: listing.member().to_owned(),
                members: Map::new(),
                events: self.schedule.events,
                ..SeedDocument::default()
            });
            let cursor = next.is_none().then(|| done.clone());
            let delivery = Delivery { source: self.id.clone(), records, rejected: Vec::new(), cursor: cursor.clone() };
            intake.seeding(Arc::clone(&document)).submit(delivery).await?;
            counts.add(&document.tally.counts());
            status.update(|status| {
                status.records += count;
                status.position = Some(format!("{index} items of the sweep of {begun}"));
            });
            if cursor.is_some() {
                self.cursor = cursor;
                return Ok(counts);
            }
            token = next;
        }
    }

    /// Requests a page, with retries; returns it with the time of the request.
    async fn page(
        &self,
        listing: &dyn Listing,
        token: Option<&str>,
        pace: &mut Pace,
    ) -> Result<(Time, Page), SourceError> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            pace.wait().await;
            let asked = self.clock.now();
            let error = match listing.page(token).await {
                Ok(page) => return Ok((asked, page)),
                Err(error) => error,
            };
            let wait = backoff.next_wait();
            match &error {
                PageError::Throttled { wait: told, .. } if backoff.failures() < TRIES => {
                    sleep(told.map_or(wait, |told| told.min(LONGEST_WAIT))).await;
                }
                PageError::Unavailable(_) if backoff.failures() < TRIES => sleep(wait).await,
                _ => return Err(failed(&format!("list {}", listing.place()), &error)),
            }
        }
    }
}

fn failed(action: &str, cause: &dyn std::error::Error) -> SourceError {
    SourceError::Upstream { action: action.to_owned(), cause: cause.to_string() }
}

fn minus(time: Time, lag: Duration) -> Time {
    Time::from_millis(time.millis().saturating_sub(i64::try_from(lag.as_millis()).unwrap_or(i64::MAX)))
}

#[async_trait]
impl Source for SeedSource {
    async fn run(&mut self, intake: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError> {
        stop.run_until_cancelled(Box::pin(self.work(&intake, &status))).await.unwrap_or(Ok(()))
    }
}

/// Limits the rate of requests.
struct Pace {
    each: Duration,
    next: Instant,
}

impl Pace {
    fn new(per_second: f64) -> Self {
        Self { each: Duration::from_secs_f64(1.0 / per_second.max(0.01)), next: Instant::now() }
    }

    async fn wait(&mut self) {
        sleep_until(self.next).await;
        self.next = Instant::now() + self.each;
    }
}
