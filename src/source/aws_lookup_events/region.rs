//! The polling loop of one region of one account.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use xxhash_rust::xxh3::xxh3_64;

use super::client::{LookedUp, LookupError, LookupEvents, Page};
use super::window::{Planner, Window};
use crate::retry::Backoff;
use crate::source::Clock;

/// Most events of a window held in memory; a window with more is shortened.
const WINDOW_EVENTS: usize = 2_000;
const WINDOW_BYTES: usize = 16 << 20;

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Wait after a refusal, which lasts until somebody changes something.
const REFUSED_WAIT: Duration = Duration::from_secs(300);

/// Consecutive failures before a region counts as failing. Occasional throttling is normal for this service.
const FAILURES_TO_TELL: u32 = 3;

/// A message from a region's poller to the source.
#[derive(Debug)]
pub(super) enum Message {
    /// New events, oldest first.
    Found {
        region: usize,
        events: Vec<LookedUp>,
        /// The time up to which everything has been fetched with these, if a window is complete.
        done: Option<i64>,
    },
    /// The region fails.
    Trouble { region: usize, error: String },
}

/// Polls one region.
pub(super) struct Poller {
    region: usize,
    client: Arc<dyn LookupEvents>,
    planner: Planner,
    poll: Duration,
    pace: Pace,
    seen: Seen,
    clock: Clock,
    messages: mpsc::Sender<Message>,
}

/// The source or the pipeline has ended.
#[derive(Debug)]
pub(super) struct SourceEnded;

impl Poller {
    pub(super) fn new(
        region: usize,
        client: Arc<dyn LookupEvents>,
        planner: Planner,
        poll: Duration,
        requests_per_second: f64,
        clock: Clock,
        messages: mpsc::Sender<Message>,
    ) -> Self {
        let pace = Pace::new(requests_per_second);
        Self { region, client, planner, poll, pace, seen: Seen::default(), clock, messages }
    }

    pub(super) async fn run(mut self) -> SourceEnded {
        loop {
            let begun = Instant::now();
            self.planner.begin(self.clock.now().millis().div_euclid(1_000));
            self.seen.forget_before(self.planner.start());
            while let Some(window) = self.planner.window() {
                if let Err(ended) = self.fetch(window).await {
                    return ended;
                }
            }
            sleep_until(begun + self.poll).await;
        }
    }

    /// Fetches a window completely, or shortens it.
    async fn fetch(&mut self, window: Window) -> Result<(), SourceEnded> {
        let (mut events, mut token, mut count) = (Vec::new(), None::<String>, 0);
        loop {
            let Some(page) = self.page(window, token.as_deref()).await? else {
                // The token has expired: the window is fetched from its start.
                (events, token, count) = (Vec::new(), None, 0);
                continue;
            };
            count += page.events.len();
            events.extend(page.events);
            token = page.next;
            if token.is_none() {
                break;
            }
            if is_too_much(&events) {
                if self.planner.shorten() {
                    return Ok(());
                }
                // A window of one second can't be shortened. Its events have no order to keep, so they are delivered as
                // they arrive.
                self.tell(std::mem::take(&mut events), None).await?;
            }
        }
        self.planner.finished(count);
        self.tell(events, self.planner.done()).await
    }

    /// Fetches a page, with retries without limit; `None` if the token has expired.
    async fn page(&mut self, window: Window, token: Option<&str>) -> Result<Option<Page>, SourceEnded> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            self.pace.wait().await;
            let error = match self.client.page(window, token).await {
                Ok(page) => return Ok(Some(page)),
                Err(LookupError::TokenExpired) if token.is_some() => {
                    sleep(backoff.next_wait()).await;
                    return Ok(None);
                }
                Err(error) => error,
            };
            let mut wait = backoff.next_wait();
            let refused = matches!(error, LookupError::Refused { .. });
            if refused {
                wait = REFUSED_WAIT.mul_f64(fastrand::f64().mul_add(0.2, 0.9));
            }
            if refused || backoff.failures() >= FAILURES_TO_TELL {
                let trouble = Message::Trouble { region: self.region, error: error.to_string() };
                self.messages.send(trouble).await.map_err(|_| SourceEnded)?;
            }
            tracing::debug!(%error, wait_secs = wait.as_secs_f64(), "no page; retrying");
            sleep(wait).await;
        }
    }

    async fn tell(&mut self, mut events: Vec<LookedUp>, done: Option<i64>) -> Result<(), SourceEnded> {
        events.retain(|event| self.seen.is_new(event));
        // The service lists the newest first.
        events.reverse();
        events.sort_by_key(|event| event.time);
        self.messages.send(Message::Found { region: self.region, events, done }).await.map_err(|_| SourceEnded)
    }
}

fn is_too_much(events: &[LookedUp]) -> bool {
    let bytes: usize = events.iter().filter_map(|event| event.record.as_ref()).map(|record| record.len()).sum();
    events.len() >= WINDOW_EVENTS || bytes >= WINDOW_BYTES
}

/// Spaces requests, so that their rate is never exceeded.
#[derive(Debug)]
struct Pace {
    apart: Duration,
    next: Instant,
}

impl Pace {
    fn new(per_second: f64) -> Self {
        let apart = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::from_secs(1));
        Self { apart, next: Instant::now() }
    }

    async fn wait(&mut self) {
        sleep_until(self.next).await;
        self.next = Instant::now() + self.apart;
    }
}

/// Delivered events of the overlap, as hashes of their ids with their times. Not durable: it only saves the pipeline
/// from dropping them as duplicates.
#[derive(Debug, Default)]
struct Seen(HashMap<u64, i64>);

impl Seen {
    fn is_new(&mut self, event: &LookedUp) -> bool {
        match (&event.id, event.time) {
            (Some(id), Some(time)) => self.0.insert(xxh3_64(id.as_bytes()), time).is_none(),
            _ => true,
        }
    }

    /// Forgets events before this second, which won't be fetched again.
    fn forget_before(&mut self, second: i64) {
        self.0.retain(|_, time| *time >= second);
    }
}
