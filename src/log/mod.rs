//! The event log: the one commit point.
//!
//! A [`Batch`] is everything that one delivery of a source leads to: events, what the inventory now holds, rejected
//! records and the source's new position. It becomes durable as a whole or not at all. A source acknowledges upstream
//! only when its [`Pending`] has resolved.

pub mod backup;
mod block;
mod codec;
#[cfg(test)]
mod conformance;
pub mod embedded;
pub mod memory;
mod newest;
mod record;
pub mod retention;
mod search;
#[cfg(test)]
pub(crate) mod testing;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

pub use self::backup::{BackupError, BackupHead, check_backup};
pub use self::embedded::{BackupSummary, EmbeddedLog, restore};
pub use self::memory::MemoryLog;
pub use self::retention::Retention;
use crate::metrics::Metrics;
use crate::model::{AssetName, Epoch, EventHead, Rejected, Seq, SourceId, Time};

/// An encoded event to be appended.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The fields that the log indexes.
    pub head: EventHead,
    /// The event as one line of JSON, without line break.
    pub json: Bytes,
}

/// Everything that one delivery leads to; commits as a whole.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Events, in order.
    pub events: Vec<NewEvent>,
    /// Changed assets, in the inventory's own encoding; a later value of a name replaces an earlier one.
    pub assets: Vec<(AssetName, Bytes)>,
    /// Changes of the correlation state by key; `None` deletes. A later value of a key replaces an earlier one. Values
    /// must suffice to restore the state: keys are not returned.
    pub correlation: Vec<(String, Option<Bytes>)>,
    /// Records for quarantine.
    pub rejected: Vec<Rejected>,
    /// The new position of the source that the batch came from.
    pub cursor: Option<(SourceId, Bytes)>,
}

/// A run of consecutive events as read back.
#[derive(Clone, Debug)]
pub struct Block {
    /// The position of the first event.
    pub first: Seq,
    /// One head per event.
    pub heads: Vec<EventHead>,
    /// The events as lines of JSON, each ended by `\n`.
    pub lines: Bytes,
}

impl Block {
    /// Whether this block holds the event at a position.
    #[must_use]
    pub fn holds(&self, seq: Seq) -> bool {
        seq >= self.first && seq.0 - self.first.0 < self.heads.len() as u64
    }

    /// The event at a position as JSON, if this block holds it.
    #[must_use]
    pub fn event(&self, seq: Seq) -> Option<Bytes> {
        let index = usize::try_from(seq.0.checked_sub(self.first.0)?).ok()?;
        let line = self.lines.split(|byte| *byte == b'\n').nth(index).filter(|line| !line.is_empty())?;
        Some(self.lines.slice_ref(line))
    }
}

/// A record in quarantine.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// Its sequence number in quarantine, from 1.
    pub number: u64,
    /// The record, its origin, and why it was rejected.
    pub rejected: Rejected,
}

/// The size of quarantine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuarantineSize {
    /// Number of records.
    pub records: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// The number of the newest; 0 if there never was one.
    pub last: u64,
}

/// Resolves when a batch is durable, with the position of the last event in the log.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<Seq, LogError>>);

impl Pending {
    /// A pending append, and the sender with which the writer resolves it.
    #[must_use]
    pub fn new() -> (oneshot::Sender<Result<Seq, LogError>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }
}

impl Future for Pending {
    type Output = Result<Seq, LogError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.unwrap_or(Err(LogError::Closed)))
    }
}

/// Why an operation on the log failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// Retention dropped events after the position.
    #[error("position {after} is older than the oldest retained event {floor}")]
    BelowFloor {
        /// The position asked for.
        after: Seq,
        /// The oldest retained event.
        floor: Seq,
    },
    /// Events are lost: their block is missing or corrupt on disk.
    #[error("events {first} to {last} in {path} are damaged: {cause}; check the disk")]
    Damaged {
        /// The first lost event that was requested.
        first: Seq,
        /// The last event of the lost run.
        last: Seq,
        /// The data directory.
        path: String,
        /// What is wrong.
        cause: String,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// Another process has locked the data directory.
    #[error(
        "open the log in {path}: in use by another process (process id {holder}); stop it, or set another data_dir"
    )]
    InUse {
        /// The data directory.
        path: String,
        /// The other process, if known.
        holder: String,
    },
    /// Reading or writing failed. A failed write is final.
    #[error("{action} in {path}: {cause}")]
    Storage {
        /// The operation: `append a batch`, `read events`, …
        action: &'static str,
        /// The data directory.
        path: String,
        /// The store's message.
        cause: String,
    },
}

impl LogError {
    /// Whether the requested events no longer exist, as opposed to a failed read.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::BelowFloor { .. } | Self::Damaged { .. })
    }
}

/// The log as the rest of the program sees it. Methods may block on the disk, so async callers use `spawn_blocking`,
/// for all but [`floor`](EventLog::floor), [`tail`](EventLog::tail) and [`epoch`](EventLog::epoch).
pub trait EventLog: Send + Sync {
    /// Appends a batch, in order of the calls. Blocks while the writer's queue is full; the [`Pending`] resolves when
    /// the batch is durable.
    ///
    /// # Errors
    /// When the log is closed, or a write has failed for good.
    fn append(&self, batch: Batch) -> Result<Pending, LogError>;

    /// The identity of this log.
    fn epoch(&self) -> Epoch;

    /// The oldest retained event; one past the tail if there is none.
    fn floor(&self) -> Seq;

    /// The newest durable event. Watchers may miss intermediate values.
    fn tail(&self) -> watch::Receiver<Seq>;

    /// The events after a position, oldest first: at least one block unless the tail is reached, and further ones up to
    /// `max_bytes` of lines. The first block may begin before `after + 1`; callers skip those events.
    ///
    /// # Errors
    /// [`LogError::BelowFloor`] when events between `after` and the floor were dropped, [`LogError::Damaged`] when the
    /// next ones are lost. Reading can continue after them.
    fn read(&self, after: Seq, max_bytes: usize) -> Result<Vec<Block>, LogError>;

    /// The events after a position as [`read`](EventLog::read) would return them, if they are new and in memory still.
    /// Does not block.
    fn read_newest(&self, _after: Seq, _max_bytes: usize) -> Option<Block> {
        None
    }

    /// The position of the event with this CloudEvents id; `None` if it is not in the log.
    fn find(&self, id: &str) -> Result<Option<Seq>, LogError>;

    /// The first event observed at or after a moment; one past the tail if none was. `observed` never decreases along
    /// the log.
    fn first_observed_since(&self, observed: Time) -> Result<Seq, LogError>;

    /// The newest `limit` events of an asset before a position (`None`: the tail), newest first.
    fn history(&self, asset: &AssetName, before: Option<Seq>, limit: usize) -> Result<Vec<Seq>, LogError>;

    /// The newest `limit` events of an asset, newest first, each with the provider's event time; late events have an
    /// earlier time than their predecessors in the log.
    fn times(&self, asset: &AssetName, limit: usize) -> Result<Vec<(Seq, Time)>, LogError>;

    /// Calls `visit` with every stored asset, in no particular order.
    fn for_each_asset(&self, visit: &mut dyn FnMut(AssetName, Bytes)) -> Result<(), LogError>;

    /// Calls `visit` with every value of [`Batch::correlation`] whose key begins with `prefix`, in no particular order.
    fn for_each_correlation(&self, prefix: &str, visit: &mut dyn FnMut(Bytes)) -> Result<(), LogError>;

    /// The durable position of a source.
    fn cursor(&self, source: &SourceId) -> Result<Option<Bytes>, LogError>;

    /// Quarantined records after a number, oldest first.
    fn quarantine(&self, after: u64, limit: usize) -> Result<Vec<Quarantined>, LogError>;

    /// The size of quarantine.
    fn quarantine_size(&self) -> QuarantineSize;

    /// Changes the limits for later calls of [`retain`](EventLog::retain) and [`append`](EventLog::append).
    fn set_retention(&self, retention: Retention);

    /// Drops events beyond the retention limits as of `now`.
    fn retain(&self, now: Time) -> Result<(), LogError>;

    /// Stored bytes of the retained events.
    fn size_bytes(&self) -> u64;

    /// Bytes of the whole log, on disk if it is durable.
    fn disk_bytes(&self) -> Result<u64, LogError>;

    /// Writes a snapshot for [`restore`] while the log stays in use. `now` is recorded in it.
    ///
    /// # Errors
    /// When the log is not durable, can't be read or has to be reopened meanwhile, or `output` fails.
    fn back_up(&self, _now: Time, _output: &mut dyn std::io::Write) -> Result<BackupSummary, LogError> {
        let cause = "it is kept in memory only (ephemeral = true)".to_owned();
        Err(LogError::Storage { action: "back up the log", path: "memory".to_owned(), cause })
    }

    /// Whether the log is on disk.
    fn is_durable(&self) -> bool {
        false
    }

    /// Why the log accepts nothing at present, as a message; `None` if it does. Appends wait meanwhile.
    fn waits_for(&self) -> Option<String> {
        None
    }

    /// Changes the number of free bytes on its file system below which the log accepts nothing.
    fn set_min_free(&self, _bytes: u64) {}

    /// Free bytes on its file system, if it is on one.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// From now on, appends that would wait for the disk are refused.
    fn stop_waiting(&self) {}

    /// Writes queued batches and closes the log. Later appends are refused.
    fn close(&self);
}

/// A random epoch for a new log: never zero, and at most 13 hexadecimal digits, so that people can read it out.
fn draw_epoch() -> Epoch {
    Epoch(fastrand::u64(1..1 << 52))
}

/// Updates the log's gauges.
fn report(metrics: &Metrics, floor: Seq, tail: Seq, bytes: u64, quarantine: QuarantineSize) {
    let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    metrics.log_floor.set(gauge(floor.0));
    metrics.log_tail.set(gauge(tail.0));
    metrics.log_size_bytes.set(gauge(bytes));
    metrics.quarantine_records.set(gauge(quarantine.records));
    metrics.quarantine_bytes.set(gauge(quarantine.bytes));
}
