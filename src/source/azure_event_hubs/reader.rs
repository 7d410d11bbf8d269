//! The read loop of one partition.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

use super::batch::{Batch, Cutter};
use super::client::{Connect, Connection, Ends, Event, Events};
use super::error::HubError;
use super::place::Place;
use super::{Clock, Message, SourceEnded};
use crate::retry::Backoff;

/// First wait after a failure; most links recover immediately.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Consecutive checks that find undelivered events before the link counts as dead.
const STALLED_LOOKS: u32 = 2;

/// Reads a partition, and reconnects as needed.
pub(super) struct Reader {
    pub(super) partition: String,
    pub(super) place: Place,
    pub(super) cutter: Cutter,
    pub(super) connect: Arc<dyn Connect>,
    /// The last known end of the partition.
    pub(super) ends: watch::Receiver<Ends>,
    /// How often that is updated.
    pub(super) every: Duration,
    pub(super) clock: Clock,
    pub(super) messages: mpsc::Sender<Message>,
}

/// Why reading over one connection ended.
enum Ended {
    Failed(HubError),
    SourceEnded,
}

impl From<HubError> for Ended {
    fn from(error: HubError) -> Self {
        Self::Failed(error)
    }
}

impl Reader {
    pub(super) async fn run(mut self) -> SourceEnded {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let before = self.place.clone();
            let error = match self.read_on().await {
                Ended::Failed(error) => error,
                Ended::SourceEnded => return SourceEnded,
            };
            if self.place != before {
                backoff.reset();
            }
            let wait = backoff.next_wait();
            tracing::debug!(partition = self.partition, %error, wait_secs = wait.as_secs_f64(), "link lost");
            let message = Message::Trouble { partition: self.partition.clone(), error };
            if self.messages.send(message).await.is_err() {
                return SourceEnded;
            }
            sleep(wait).await;
        }
    }

    /// Reads over a new connection until it fails.
    async fn read_on(&mut self) -> Ended {
        let connection = match self.connect.connect().await {
            Ok(connection) => connection,
            Err(error) => return error.into(),
        };
        let Err(ended) = self.read_over(&*connection).await;
        connection.close().await;
        ended
    }

    async fn read_over(&mut self, connection: &dyn Connection) -> Result<std::convert::Infallible, Ended> {
        let mut events = connection.read(&self.partition, &self.place).await?;
        let mut stalled = 0;
        loop {
            match timeout(self.every, events.next()).await {
                Ok(Some(event)) => {
                    stalled = 0;
                    self.take(event?, &mut events).await?;
                }
                Ok(None) => return Err(HubError::Unavailable("the link was closed without a reason".to_owned()).into()),
                Err(_) => self.quiet(&mut stalled).await?,
            }
        }
    }

    /// Hands over an event together with further ones that have arrived.
    async fn take(&mut self, first: Event, events: &mut Events) -> Result<(), Ended> {
        let mut batch = Batch::default();
        let now = self.clock.now();
        self.cutter.add(&mut batch, self.place.sequence(), first, now);
        let mut failure = None;
        while failure.is_none() && !batch.is_full() {
            let next = tokio::select! {
                biased;
                next = events.next() => next,
                () = std::future::ready(()) => break,
            };
            match next {
                Some(Ok(event)) => {
                    let last = batch.place.as_ref().unwrap_or(&self.place).sequence();
                    self.cutter.add(&mut batch, last, event, now);
                }
                Some(Err(error)) => failure = Some(error),
                None => break,
            }
        }
        if let Some(place) = &batch.place {
            self.place = place.clone();
            let message = Message::Events { partition: self.partition.clone(), batch };
            self.messages.send(message).await.map_err(|_| Ended::SourceEnded)?;
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Called when nothing arrived for a while, which is a failure if the partition has more events.
    async fn quiet(&mut self, stalled: &mut u32) -> Result<(), Ended> {
        let last = {
            let ends = self.ends.borrow();
            (self.place.behind(&ends) != Some(0)).then_some(ends.last)
        };
        *stalled = if last.is_some() { *stalled + 1 } else { 0 };
        if let Some(last) = last
            && *stalled > STALLED_LOOKS
        {
            let secs = (self.every * *stalled).as_secs();
            return Err(HubError::Stalled { last, secs }.into());
        }
        let message = Message::Quiet { partition: self.partition.clone() };
        if *stalled == 0 {
            self.messages.send(message).await.map_err(|_| Ended::SourceEnded)?;
        }
        Ok(())
    }
}
