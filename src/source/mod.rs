//! Sources: where records come from.
//!
//! A source knows its service and the [`Intake`], nothing else. It hands over a [`Delivery`] and acknowledges upstream
//! only after [`Intake::submit`] has returned: then the delivery's events, rejects and cursor are on disk.

pub(crate) mod aws;
pub mod aws_backfill;
pub mod aws_lookup_events;
pub mod aws_sqs;
pub mod azure_event_hubs;
mod clock;
pub mod demo;
pub mod file;
pub mod import;
pub mod seed;
pub mod supervise;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::{fs, io};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use clock::Clock;

use crate::log::{LogError, Pending};
use crate::model::{RawRecord, Rejected, SeedDocument, Seq, SourceId, Time};

/// Records that a source hands over together.
#[derive(Debug)]
pub struct Delivery {
    /// The source.
    pub source: SourceId,
    /// Records in the provider's order, oldest first if known.
    pub records: Vec<RawRecord>,
    /// Input that could not be split into records.
    pub rejected: Vec<Rejected>,
    /// The source's position after this delivery, in its own encoding; committed with the events.
    pub cursor: Option<Bytes>,
}

/// A delivery queued for the ingest loop.
#[derive(Debug)]
pub struct Submission {
    /// The records.
    pub delivery: Delivery,
    /// Whether the records are historical: their events are marked as late, whatever is known of their assets.
    pub late: bool,
    /// The document of the records, if they are snapshots of assets and not changes.
    pub seed: Option<Arc<SeedDocument>>,
    /// Receives the pending append.
    pub reply: oneshot::Sender<Result<Pending, LogError>>,
    /// The share of the byte budget, released when the delivery has been processed.
    pub permit: Option<tokio::sync::OwnedSemaphorePermit>,
}

/// The entry to the pipeline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Intake {
    queue: mpsc::Sender<Submission>,
    bytes: Arc<Semaphore>,
    budget: u32,
    late: bool,
    seed: Option<Arc<SeedDocument>>,
}

impl Intake {
    /// Creates an intake that queues at most `deliveries` and `budget_bytes` of records, and the receiver for the
    /// ingest loop.
    #[must_use]
    pub fn new(deliveries: usize, budget_bytes: u32) -> (Self, mpsc::Receiver<Submission>) {
        let (queue, receiver) = mpsc::channel(deliveries);
        (
            Self {
                queue,
                bytes: Arc::new(Semaphore::new(budget_bytes as usize)),
                budget: budget_bytes,
                late: false,
                seed: None,
            },
            receiver,
        )
    }

    /// An intake for historical records, whose events are marked as late.
    #[must_use]
    pub fn late(&self) -> Self {
        Self { late: true, ..self.clone() }
    }

    /// An intake for the items of a document with snapshots of assets.
    #[must_use]
    pub fn seeding(&self, document: Arc<SeedDocument>) -> Self {
        Self { seed: Some(document), ..self.clone() }
    }

    /// Hands over a delivery and waits until it is durable, first for room in the pipeline. If the future is dropped,
    /// the delivery may or may not become durable; delivering it again does no harm.
    ///
    /// # Errors
    /// When the pipeline has stopped or the log failed: nothing must be acknowledged then.
    pub async fn submit(&self, delivery: Delivery) -> Result<(), LogError> {
        self.enqueue(delivery).await?.await.map(|_| ())
    }

    /// Hands over a delivery and returns once it is queued; the result resolves when it is durable. For sources that
    /// keep several deliveries in flight, so that one is normalized while the previous one is completed and written.
    ///
    /// # Errors
    /// When the pipeline has stopped.
    pub async fn enqueue(&self, delivery: Delivery) -> Result<Enqueued, LogError> {
        let size: usize = delivery.records.iter().map(|record| record.bytes.len()).sum();
        // One delivery larger than the whole budget waits for all of it rather than for ever.
        let size = u32::try_from(size).unwrap_or(u32::MAX).min(self.budget);
        let permit = Arc::clone(&self.bytes).acquire_many_owned(size).await.map_err(|_| LogError::Closed)?;
        let (reply, taken) = oneshot::channel();
        let seed = self.seed.clone();
        let submission = Submission { delivery, late: self.late, seed, reply, permit: Some(permit) };
        self.queue.send(submission).await.map_err(|_| LogError::Closed)?;
        Ok(Enqueued::Waiting(taken))
    }
}

/// A queued delivery. Resolves with the log's last position when it is durable, or with an error when the pipeline has
/// stopped or the log failed: nothing must be acknowledged then.
#[derive(Debug)]
pub enum Enqueued {
    /// Waiting for the ingest loop.
    Waiting(oneshot::Receiver<Result<Pending, LogError>>),
    /// Being written.
    Appended(Pending),
}

impl Future for Enqueued {
    type Output = Result<Seq, LogError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self::Waiting(taken) = &mut *self {
            match ready!(Pin::new(taken).poll(context)) {
                Ok(Ok(pending)) => *self = Self::Appended(pending),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_) => return Poll::Ready(Err(LogError::Closed)),
            }
        }
        match &mut *self {
            Self::Waiting(_) => Poll::Pending,
            Self::Appended(pending) => Pin::new(pending).poll(context),
        }
    }
}

/// Delivers records until it is stopped or has no more.
#[async_trait]
pub trait Source: Send {
    /// Delivers records. `Ok`: nothing more will come, or `stop` was cancelled. After an error, which the source could
    /// not recover from by itself, the supervisor runs it again after a wait.
    async fn run(&mut self, intake: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError>;
}

/// Why a source failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The pipeline or the log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its service or files could not be read.
    #[error("{action}: {cause}")]
    Upstream {
        /// The action and its target: `list /var/trail`, `look up events in eu-west-1`.
        action: String,
        /// The error.
        cause: String,
    },
}

/// The status of a source in `/v1/sources`.
#[derive(Clone, Debug, Serialize)]
pub struct SourceStatus {
    /// The kind, as in the configuration: `file`, `aws_lookup_events`, `azure_event_hubs`.
    pub kind: &'static str,
    /// `starting`, `running`, `retrying`, `finished` or `stopped`.
    pub state: SourceState,
    /// Records delivered since start.
    pub records: u64,
    /// The event time of the newest record delivered, if known.
    pub newest_record: Option<Time>,
    /// How far behind the source is, in seconds, if known.
    pub lag_secs: Option<f64>,
    /// The last failure, as a message.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<Time>,
    /// The position, as a message: `trail.json at byte 1234`.
    pub position: Option<String>,
    /// The partitions, for a source that has any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionStatus>,
}

/// The status of a partition in `/v1/sources`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    /// Its id at the service.
    pub id: String,
    /// The sequence number of the last event read, if any.
    pub sequence: Option<i64>,
    /// Number of unread events at the last check.
    pub behind: Option<u64>,
    /// When the last event read since the start was enqueued.
    pub enqueued: Option<Time>,
    /// Number of events since the start that the partition dropped before they were read.
    pub missed: u64,
    /// Why it can't be read at present, as a message.
    pub error: Option<String>,
}

/// The state of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// Not yet delivering.
    Starting,
    /// Delivering, or waiting for more.
    Running,
    /// Failed; will be retried.
    Retrying,
    /// Delivered everything.
    Finished,
    /// Stopped on request.
    Stopped,
}

/// The status of every source, for `/v1/sources`. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StatusBoard(Arc<Mutex<BTreeMap<SourceId, SourceStatus>>>);

impl StatusBoard {
    /// Registers a source, and returns the handle with which it updates its status.
    #[must_use]
    pub fn register(&self, source: SourceId, kind: &'static str) -> StatusHandle {
        let status = SourceStatus {
            kind,
            state: SourceState::Starting,
            records: 0,
            newest_record: None,
            lag_secs: None,
            last_error: None,
            last_error_at: None,
            position: None,
            partitions: Vec::new(),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(source.clone(), status);
        StatusHandle { board: self.clone(), source }
    }

    /// Forgets a source that is no longer configured.
    pub fn remove(&self, source: &SourceId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(source);
    }

    /// All statuses, by name.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<SourceId, SourceStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The handle to one source's status on the [`StatusBoard`].
#[derive(Clone, Debug)]
pub struct StatusHandle {
    board: StatusBoard,
    source: SourceId,
}

impl StatusHandle {
    /// The source's name.
    #[must_use]
    pub fn source(&self) -> &SourceId {
        &self.source
    }

    /// Updates the status.
    pub fn update(&self, change: impl FnOnce(&mut SourceStatus)) {
        if let Some(status) = self.board.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&self.source) {
            change(status);
        }
    }
}

/// The paths in a folder of jobs; none if it does not exist.
///
/// # Errors
/// When the folder exists and can't be read.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery() -> Delivery {
        Delivery { source: "trail".into(), records: Vec::new(), rejected: Vec::new(), cursor: None }
    }

    #[tokio::test]
    async fn several_deliveries_are_on_their_way_and_each_is_durable_when_the_log_says_so() {
        let (intake, mut receiver) = Intake::new(2, 1 << 20);
        let (first, second) = (intake.enqueue(delivery()).await.unwrap(), intake.enqueue(delivery()).await.unwrap());
        let third = intake.enqueue(delivery());
        tokio::pin!(third);
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(20), &mut third).await.is_err(),
            "there is no room"
        );
        let mut first = Box::pin(first);
        let (durable, pending) = Pending::new();
        receiver.recv().await.unwrap().reply.send(Ok(pending)).unwrap();
        assert!(poll_once(&mut first).is_pending(), "taken, and not yet durable");
        durable.send(Ok(Seq(7))).unwrap();
        assert!(matches!(first.await, Ok(Seq(7))));
        third.await.unwrap();
        receiver.recv().await.unwrap().reply.send(Err(LogError::Closed)).unwrap();
        assert!(matches!(second.await, Err(LogError::Closed)));
        drop(receiver);
        assert!(matches!(intake.submit(delivery()).await, Err(LogError::Closed)));
    }

    fn poll_once<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
        future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
    }
}
