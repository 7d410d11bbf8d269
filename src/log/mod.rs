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

/// An encoded event on its way into the log.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// What the log indexes.
    pub head: EventHead,
    /// The event as one line of JSON, without line break.
    pub json: Bytes,
}

/// What commits together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Events, in order.
    pub events: Vec<NewEvent>,
    /// Assets that changed, in the inventory's own encoding; a later value of the same name replaces an earlier one.
    pub assets: Vec<(AssetName, Bytes)>,
    /// What correlation remembers from record to record, by key; `None` forgets it. A later word on a key replaces an
    /// earlier one. Values tell all that is needed to restore them: keys are not handed back.
    pub correlation: Vec<(String, Option<Bytes>)>,
    /// Records that go to quarantine.
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
    /// Whether the event at a position is in this block.
    #[must_use]
    pub fn holds(&self, seq: Seq) -> bool {
        seq >= self.first && seq.0 - self.first.0 < self.heads.len() as u64
    }

    /// The event at a position, as JSON, if it is in this block.
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
    /// Its own running number, from 1.
    pub number: u64,
    /// The record, where it came from and what was wrong.
    pub rejected: Rejected,
}

/// How much quarantine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuarantineSize {
    /// Records.
    pub records: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// The number of the newest; 0 when there never was one.
    pub last: u64,
}

/// Resolves when a batch is durable, with the position of the last event in the log.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<Seq, LogError>>);

impl Pending {
    /// A pending append and the end by which the writer resolves it.
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

/// Why the log can't do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The position is older than what retention kept.
    #[error("position {after} is older than the oldest retained event {floor}")]
    BelowFloor {
        /// The position asked for.
        after: Seq,
        /// The oldest event that is kept.
        floor: Seq,
    },
    /// Events can't be read any more: the disk has lost them, or has changed them.
    #[error("events {first} to {last} in {path} are damaged: {cause}; check the disk")]
    Damaged {
        /// The first of those asked for.
        first: Seq,
        /// The last of them.
        last: Seq,
        /// The data directory.
        path: String,
        /// What is wrong.
        cause: String,
    },
    /// The log was stopped.
    #[error("the log is closed")]
    Closed,
    /// Another process has the data directory.
    #[error(
        "open the log in {path}: in use by another process (process id {holder}); stop it, or set another data_dir"
    )]
    InUse {
        /// The data directory.
        path: String,
        /// The other process, as far as it is known.
        holder: String,
    },
    /// Reading or writing failed; when it was writing, for good.
    #[error("{action} in {path}: {cause}")]
    Storage {
        /// What was tried: `append a batch`, `read events`, …
        action: &'static str,
        /// The data directory.
        path: String,
        /// The store's own words.
        cause: String,
    },
}

impl LogError {
    /// Whether what was asked for is gone, rather than out of reach.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::BelowFloor { .. } | Self::Damaged { .. })
    }
}

/// The log as the rest of the program sees it. Every method may block on the disk: async callers go through
/// `spawn_blocking`, all but [`floor`](EventLog::floor), [`tail`](EventLog::tail) and [`epoch`](EventLog::epoch).
pub trait EventLog: Send + Sync {
    /// Takes a batch, in order. Blocks while the writer's queue or the disk is full; the [`Pending`] resolves when the
    /// batch is on disk.
    ///
    /// # Errors
    /// When the log is closed, or writing has failed for good.
    fn append(&self, batch: Batch) -> Result<Pending, LogError>;

    /// The identity of this log.
    fn epoch(&self) -> Epoch;

    /// The oldest event kept; one past the tail when none is.
    fn floor(&self) -> Seq;

    /// The newest durable event. A change is only a wake-up.
    fn tail(&self) -> watch::Receiver<Seq>;

    /// The events after a position, oldest first: at least one block unless the tail is reached, then as many as
    /// `max_bytes` of lines take. The first block may begin before `after + 1`; callers skip what they have.
    ///
    /// # Errors
    /// [`LogError::BelowFloor`] when events between `after` and the floor were dropped, [`LogError::Damaged`] when the
    /// next ones are lost. Reading can go on behind them.
    fn read(&self, after: Seq, max_bytes: usize) -> Result<Vec<Block>, LogError>;

    /// The position of the event with this CloudEvents id.
    fn find(&self, id: &str) -> Result<Option<Seq>, LogError>;

    /// The first event observed at or after a moment; one past the tail when none was. (`observed` never goes back
    /// along the log.)
    fn first_observed_since(&self, observed: Time) -> Result<Seq, LogError>;

    /// The newest `limit` events of an asset before a position (`None`: the tail), newest first.
    fn history(&self, asset: &AssetName, before: Option<Seq>, limit: usize) -> Result<Vec<Seq>, LogError>;

    /// The newest `limit` events of an asset, newest first, each with the provider's event time: late ones come later in
    /// the log than their time says.
    fn times(&self, asset: &AssetName, limit: usize) -> Result<Vec<(Seq, Time)>, LogError>;

    /// Hands every stored asset to `visit`, in no order.
    fn for_each_asset(&self, visit: &mut dyn FnMut(AssetName, Bytes)) -> Result<(), LogError>;

    /// Hands every value of [`Batch::correlation`] whose key begins with `prefix` to `visit`, in no order.
    fn for_each_correlation(&self, prefix: &str, visit: &mut dyn FnMut(Bytes)) -> Result<(), LogError>;

    /// The durable position of a source.
    fn cursor(&self, source: &SourceId) -> Result<Option<Bytes>, LogError>;

    /// Quarantined records after a number, oldest first.
    fn quarantine(&self, after: u64, limit: usize) -> Result<Vec<Quarantined>, LogError>;

    /// How much is in quarantine.
    fn quarantine_size(&self) -> QuarantineSize;

    /// Changes the limits of [`retain`](EventLog::retain) and of every append from now on.
    fn set_retention(&self, retention: Retention);

    /// Drops what the retention limits no longer cover. `now` is handed in, so that tests choose it.
    fn retain(&self, now: Time) -> Result<(), LogError>;

    /// Bytes that the kept events take in the store.
    fn size_bytes(&self) -> u64;

    /// Bytes that all of it takes where it is kept: on disk, for a log that is durable.
    fn disk_bytes(&self) -> Result<u64, LogError>;

    /// Writes all that the log holds at one moment, while it goes on; [`restore`] reads it. `now` is noted in it.
    ///
    /// # Errors
    /// When the log is not kept on a disk, can't be read or has to be opened anew meanwhile, or `output` fails.
    fn back_up(&self, _now: Time, _output: &mut dyn std::io::Write) -> Result<BackupSummary, LogError> {
        let cause = "it is kept in memory only (ephemeral = true)".to_owned();
        Err(LogError::Storage { action: "back up the log", path: "memory".to_owned(), cause })
    }

    /// Whether it is kept on a disk.
    fn is_durable(&self) -> bool {
        false
    }

    /// Why nothing is taken at present, for a person. What comes waits meanwhile.
    fn waits_for(&self) -> Option<String> {
        None
    }

    /// From now on nothing is taken while fewer bytes than these are free where the log is kept.
    fn set_min_free(&self, _bytes: u64) {}

    /// Bytes that are free where the log is kept, where there is such a place.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// From now on, an append that would have to wait for the disk is refused.
    fn stop_waiting(&self) {}

    /// Writes what is queued and stops. Later appends are refused.
    fn close(&self);
}

/// The identity of a new log: never zero, and short enough to be read out (13 hexadecimal digits at most).
fn draw_epoch() -> Epoch {
    Epoch(fastrand::u64(1..1 << 52))
}

/// Tells the metrics what the log holds.
fn report(metrics: &Metrics, floor: Seq, tail: Seq, bytes: u64, quarantine: QuarantineSize) {
    let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    metrics.log_floor.set(gauge(floor.0));
    metrics.log_tail.set(gauge(tail.0));
    metrics.log_size_bytes.set(gauge(bytes));
    metrics.quarantine_records.set(gauge(quarantine.records));
    metrics.quarantine_bytes.set(gauge(quarantine.bytes));
}
