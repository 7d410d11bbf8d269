//! One subscriber, for whoever can wait: the body of an HTTP answer.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Hub;
use super::gzip::Checksum;
use super::reader::{Notice, Reader, Step, SubscriptionOptions};
use crate::model::Seq;

/// The next output for a subscriber.
#[derive(Clone, Debug)]
pub enum Output {
    /// Whole events, in the subscription's format.
    Events {
        /// Their encoded text.
        bytes: Bytes,
        /// How many there are.
        events: u64,
        /// The checksum of their text, if the stream is compressed.
        sum: Checksum,
    },
    /// A notice.
    Notice(Notice),
}

/// A cursor over the log, with a filter. Holds at most one segment in memory.
pub struct Subscription {
    hub: Arc<Hub>,
    tail: watch::Receiver<Seq>,
    stop: CancellationToken,
    reader: Reader,
}

impl Subscription {
    /// A subscription that ends when `stop` is cancelled.
    #[must_use]
    pub fn new(hub: Arc<Hub>, options: SubscriptionOptions, stop: CancellationToken) -> Self {
        Self { tail: hub.tail.subscribe(), reader: Reader::new(&hub, options), hub, stop }
    }

    pub(super) fn into_reader(self) -> Reader {
        self.reader
    }

    /// Waits for the next output; `None` after [`Notice::Closing`].
    ///
    /// Cancel safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Output> {
        loop {
            // What is in memory is always ready; without this a long scan would hold its thread.
            tokio::task::coop::consume_budget().await;
            match self.reader.step(&self.hub, Instant::now(), self.stop.is_cancelled()) {
                Step::Events(selected) => {
                    let sum = self.reader.sent(&selected, selected.bytes).sum;
                    // Whoever asks for more, when the client takes it, comes here again.
                    self.reader.waits(&self.hub);
                    return Some(Output::Events { bytes: selected.text(), events: selected.events, sum });
                }
                Step::Notice(notice) => return Some(Output::Notice(notice)),
                Step::Again => {}
                Step::Load => {
                    self.reader.waits(&self.hub);
                    let load = self.hub.load(self.reader.cursor(), self.reader.encoding());
                    if let Some(loaded) = self.stop.run_until_cancelled(load).await {
                        self.reader.loaded(&self.hub, loaded);
                    }
                }
                Step::Wait(until) => self.wait(until).await,
                Step::End => return None,
            }
        }
    }

    async fn wait(&mut self, until: Option<Instant>) {
        let cursor = self.reader.cursor();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            _ = self.tail.wait_for(|tail| *tail > cursor) => {}
            () = sleep_until(until), if until.is_some() => {}
        }
    }
}

async fn sleep_until(moment: Option<Instant>) {
    if let Some(moment) = moment {
        tokio::time::sleep_until(moment).await;
    }
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
mod tests;
