//! The messages in hand: received, kept invisible to others while they are processed, then deleted or returned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep};

use super::ledger::{Key, Ledger};
use super::queue::{BATCH, Message, Queue};
use crate::retry::Backoff;
use crate::source::aws::AwsError;

/// Most messages received and not yet deleted.
pub(super) const MOST: usize = 240;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Tries of a delete; after the last, the message will be received again.
const DELETE_TRIES: u32 = 6;

/// Identifies a receipt of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Number(u64);

#[derive(Debug)]
struct Held {
    receipt: String,
    /// Its entries in the ledger.
    keys: Vec<Key>,
    /// When its visibility timeout ends.
    visible_at: Instant,
    /// Its permit among [`MOST`].
    _place: OwnedSemaphorePermit,
}

/// The received messages that are not deleted yet. Cheap to clone.
#[derive(Clone)]
pub(super) struct Hand {
    queue: Arc<dyn Queue>,
    invisible: Duration,
    places: Arc<Semaphore>,
    held: Arc<Mutex<(u64, HashMap<Number, Held>)>>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Hand {
    pub(super) fn new(queue: Arc<dyn Queue>, invisible: Duration, ledger: Arc<Mutex<Ledger>>) -> Self {
        Self { queue, invisible, places: Arc::new(Semaphore::new(MOST)), held: Arc::default(), ledger }
    }

    fn held<T>(&self, look: impl FnOnce(&mut (u64, HashMap<Number, Held>)) -> T) -> T {
        look(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The number of messages.
    pub(super) fn len(&self) -> usize {
        self.held(|(_, held)| held.len())
    }

    /// Receives messages, once there is room for a full batch.
    pub(super) async fn receive(&self) -> Result<Vec<(Number, Message)>, AwsError> {
        let room = u32::try_from(BATCH).unwrap_or(1);
        let closed = |_| AwsError::Unavailable("the source has ended".to_owned());
        let mut places = Arc::clone(&self.places).acquire_many_owned(room).await.map_err(closed)?;
        // Taken before the call, since the service counts from its response.
        let visible_at = Instant::now() + self.invisible;
        let messages = self.queue.receive(self.invisible).await?;
        Ok(self.held(|(last, held)| {
            let mut take = |message: Message| {
                *last += 1;
                let number = Number(*last);
                let receipt = message.receipt.clone();
                let _place = places.split(1)?;
                held.insert(number, Held { receipt, keys: Vec::new(), visible_at, _place });
                Some((number, message))
            };
            messages.into_iter().filter_map(&mut take).collect()
        }))
    }

    /// Assigns ledger entries to a message, which are forgotten when it is deleted.
    pub(super) fn belongs(&self, number: Number, keys: Vec<Key>) {
        self.held(|(_, held)| {
            if let Some(held) = held.get_mut(&number) {
                held.keys = keys;
            }
        });
    }

    /// Returns a message to the queue, to become visible after a delay.
    pub(super) async fn give_back(&self, number: Number, after: Duration) {
        let Some(held) = self.held(|(_, held)| held.remove(&number)) else { return };
        if let Err(error) = self.queue.keep(&[held.receipt], after).await {
            tracing::debug!(%error, "the message will be delivered again after its visibility timeout");
        }
    }

    /// Returns every message to the queue, visible at once.
    pub(super) async fn give_all_back(&self) {
        let receipts: Vec<String> = self.held(|(_, held)| held.drain().map(|(_, held)| held.receipt).collect());
        for receipts in receipts.chunks(BATCH) {
            if let Err(error) = self.queue.keep(receipts, Duration::ZERO).await {
                tracing::debug!(%error, "the messages will be delivered again after their visibility timeout");
            }
        }
    }

    /// Extends the visibility timeouts of all messages as needed. Never ends.
    pub(super) async fn keep_invisible(self) {
        let margin = self.invisible / 2;
        loop {
            let soon = Instant::now() + margin;
            let due: Vec<(Number, String)> = self.held(|(_, held)| {
                let due = held.iter().filter(|(_, held)| held.visible_at <= soon);
                due.map(|(number, held)| (*number, held.receipt.clone())).collect()
            });
            for some in due.chunks(BATCH) {
                let receipts: Vec<String> = some.iter().map(|(_, receipt)| receipt.clone()).collect();
                let visible_at = Instant::now() + self.invisible;
                if let Err(error) = self.queue.keep(&receipts, self.invisible).await {
                    tracing::warn!(%error, messages = receipts.len(), "can't extend the visibility timeout of messages; they may be delivered twice");
                    break;
                }
                self.held(|(_, held)| {
                    for (number, _) in some {
                        if let Some(held) = held.get_mut(number) {
                            held.visible_at = visible_at;
                        }
                    }
                });
            }
            sleep(self.invisible / 6).await;
        }
    }

    /// Deletes messages whose contents are durable, ten at a time, until the channel is closed.
    pub(super) async fn delete(self, durable: Arc<tokio::sync::Mutex<mpsc::Receiver<Number>>>) {
        loop {
            let mut numbers = Vec::with_capacity(BATCH);
            {
                let mut durable = durable.lock().await;
                let Some(first) = durable.recv().await else { return };
                numbers.push(first);
                while numbers.len() < BATCH
                    && let Ok(next) = durable.try_recv()
                {
                    numbers.push(next);
                }
            }
            self.delete_now(&numbers).await;
        }
    }

    async fn delete_now(&self, numbers: &[Number]) {
        let mut receipts: Vec<String> = self.held(|(_, held)| {
            numbers.iter().filter_map(|number| held.get(number).map(|held| held.receipt.clone())).collect()
        });
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        while !receipts.is_empty() {
            match self.queue.delete(&receipts).await {
                Ok(rest) => receipts = rest,
                Err(error) => tracing::warn!(%error, messages = receipts.len(), "can't delete messages; retrying"),
            }
            if receipts.is_empty() {
                break;
            }
            let wait = backoff.next_wait();
            if backoff.failures() >= DELETE_TRIES {
                tracing::warn!(
                    messages = receipts.len(),
                    "messages not deleted; they will be delivered again and recognised as duplicates"
                );
                self.held(|(_, held)| numbers.iter().for_each(|number| drop(held.remove(number))));
                return;
            }
            sleep(wait).await;
        }
        let gone: Vec<Held> = self.held(|(_, held)| numbers.iter().filter_map(|number| held.remove(number)).collect());
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        gone.iter().flat_map(|held| &held.keys).for_each(|key| ledger.forget(*key));
    }
}
