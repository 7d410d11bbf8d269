//! The durable log, in a directory on the local disk.
//!
//! # What it has to do
//!
//! A batch (events, assets, rejected records, the source's position) is on disk as a whole before anyone is told so,
//! or leaves no trace. One fsync costs milliseconds, an event microseconds, so batches that wait are written
//! together. Reading goes by position and is mostly sequential; besides there are look-ups by id, by asset and by
//! moment. The oldest events go by age and by size. A process may be killed at any instruction.
//!
//! # The directory
//!
//! ```text
//! <data_dir>/lock      held while a process uses the directory; holds its number
//! <data_dir>/log/      a fjall 3 database
//! <data_dir>/log.new/  the same, while it is created; renamed when complete, removed when found
//! ```
//!
//! # Keyspaces
//!
//! Numbers in keys are eight bytes, big-endian, so that they sort as numbers.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `events` | position of the first event | a block: up to 1,024 events or 1 MiB of lines, compressed (`block.rs`) |
//! | `ids` | CloudEvents id | position |
//! | `history` | asset name, 0x00, position | the event's time, milliseconds since 1970 (nothing in older directories) |
//! | `assets` | asset name | length (4 bytes) and text of the name where the key is folded, then the value as given |
//! | `correlation` | kind, `/`, what is remembered of it | as given |
//! | `cursors` | source name | as given |
//! | `quarantine` | number | the record, compressed (`record.rs`) |
//! | `fingerprints` | 16-byte hash of the record | number |
//! | `meta` | `format` | format version, 4 bytes |
//! | | `epoch` | 8 bytes |
//! | | `state` | floor, tail, bytes of blocks, first and next number and bytes of quarantine: 8 bytes each |
//!
//! A block is the unit of compression, of dropping and of reading. Blocks follow one another without a hole: the next
//! begins where the last ended. A text of more than 1,024 bytes is folded when it is a key (`store::text_key`).
//!
//! # Writing
//!
//! One thread writes. It takes what waits in its queue, up to 8 MiB, makes blocks of the events, and commits
//! everything with the new `state` as one atomic batch of the store, with one fsync of the store's journal. Then `tail`
//! moves, then those who wait are told. Readers never see what is not yet durable, since the store shows a batch
//! only after the fsync.
//!
//! When a write fails, what is on disk is in doubt: the batch may or may not be found there after a restart. The log
//! then takes no more, and says why; reading goes on. A restart settles it, since a source that was not told delivers
//! again, and what is found by its id is a duplicate.
//!
//! Retention drops whole blocks from the oldest on, each with its index entries and with the new floor in one commit,
//! in steps of at most 64 blocks between which appends have their turn. Size is looked at after each group, age when
//! [`retain`](EventLog::retain) is called. What is left in an index of a block that could not be read lies below the
//! floor, where no one looks. Assets stay.
//!
//! # Opening
//!
//! The store replays its journals (some 128 MiB of them, whatever the log holds) and discards a batch that is not
//! whole; one that a power failure tore in the middle is discarded by us (`journal.rs`). `state` then says all there
//! is to know: neither events nor assets are scanned.
//!
//! What the disk loses later is found when it is read: blocks and records have checksums, and a hole in the sequence
//! of blocks is an error, never a silent gap. Not found is damage that makes the journal, while it is not yet
//! merged into the tables, look as if it ended early: the store takes that for the end.
//!
//! # Versions
//!
//! [`FORMAT_VERSION`] changes when a program that knows only the old one would misread the new one. A program refuses
//! a directory of another version and changes nothing in it; it may come to read older ones. Keyspaces may be added
//! without a new version. Blocks and records have a format byte and a checksum of their own, so that their encoding
//! can change in a directory that holds both.

mod journal;
mod store;
mod writer;

use std::ops::Bound;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bytes::Bytes;
use fjall::Slice;
use tokio::sync::watch;

use self::store::{Lock, Store, history_key, seq_key, text_key};
use self::writer::{Append, Command, Shared, Writer};
use super::codec::{Fields, RESTORE, Unsealer, advice};
use super::retention::Retention;
use super::{Batch, Block, EventLog, LogError, Pending, QuarantineSize, Quarantined, block, record, search};
use crate::metrics::Metrics;
use crate::model::{AssetName, Epoch, Seq, SourceId, Time};

/// The version of the directory's format that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;

const READ_EVENTS: &str = "read events";
const READ_HISTORY: &str = "read a history";
/// Commands that wait for the writer.
const QUEUE: usize = 64;

/// The durable log. Dropping it closes it.
pub struct EmbeddedLog {
    epoch: Epoch,
    shared: Arc<Shared>,
    queue: Mutex<Option<SyncSender<Command>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    store: Store,
    // Last, so that the directory is free only when the store is closed.
    _lock: Lock,
}

impl EmbeddedLog {
    /// Opens the log in a directory, creating both where there is none. Takes time for the replay of some
    /// 128 MiB of journal at most, however much the log holds.
    ///
    /// # Errors
    /// When the directory can't be created or written to, when another process uses it, when it was written by
    /// another version or by something else, or when it is damaged. The error says which, and what to do.
    pub fn open(data_dir: &Path, retention: Retention, metrics: Arc<Metrics>) -> Result<Self, LogError> {
        let lock = Lock::take(data_dir)?;
        let (store, epoch, state) = Store::open(data_dir)?;
        let shared = Arc::new(Shared::new(&state, retention, metrics));
        let writer = Writer::new(store.clone(), Arc::clone(&shared), state);
        let (queue, commands) = sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run(&commands))
            .map_err(|error| store.error("open the log", format!("the writer can't be started: {error}")))?;
        Ok(Self { epoch, shared, queue: Mutex::new(Some(queue)), writer: Mutex::new(Some(thread)), store, _lock: lock })
    }

    fn send(&self, command: Command) -> Result<(), LogError> {
        // The queue is cloned so that the lock is not held while it is full.
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(LogError::Closed)?;
        queue.send(command).map_err(|_| self.gone())
    }

    /// Why the writer does not answer.
    fn gone(&self) -> LogError {
        self.shared.failure.get().cloned().unwrap_or(LogError::Closed)
    }

    /// The block that holds the event after a position; nothing at the tail.
    fn first_block(&self, after: Seq, tail: Seq) -> Result<Option<(Seq, Slice)>, LogError> {
        let wanted = after.next();
        if wanted > tail {
            return Ok(None);
        }
        let found = self.store.block_at(self.shared.floor(), wanted)?;
        // Looked at last: the floor moves before blocks go, so what was not found has been dropped or was lost.
        let floor = self.shared.floor();
        if wanted < floor {
            return Err(LogError::BelowFloor { after, floor });
        }
        let lost = || self.store.error(READ_EVENTS, format_args!("event {wanted} is missing; {RESTORE}"));
        let (first, sealed) = found.ok_or_else(lost)?;
        let header = block::header(&sealed).map_err(|damage| self.store.damaged(READ_EVENTS, first, &damage))?;
        if wanted.0 < first.0 + header.count { Ok(Some((first, sealed))) } else { Err(lost()) }
    }

    /// The time of an event by its block; nothing when retention has just dropped it.
    fn time_of(&self, seq: Seq) -> Result<Option<Time>, LogError> {
        let blocks = match self.read(Seq(seq.0.saturating_sub(1)), 1) {
            Err(LogError::BelowFloor { .. }) => return Ok(None),
            read => read?,
        };
        let head = |block: &Block| {
            block.heads.get(usize::try_from(seq.0.checked_sub(block.first.0)?).ok()?).map(|head| head.time)
        };
        Ok(blocks.first().and_then(head))
    }

    fn current_tail(&self) -> Seq {
        *self.shared.tail.borrow()
    }
}

impl EventLog for EmbeddedLog {
    fn append(&self, batch: Batch) -> Result<Pending, LogError> {
        if let Some(failure) = self.shared.failure.get() {
            return Err(failure.clone());
        }
        let (reply, pending) = Pending::new();
        let span = tracing::debug_span!("append", events = batch.events.len());
        self.send(Command::Append(Append { batch, reply, taken: Instant::now(), span }))?;
        Ok(pending)
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn floor(&self) -> Seq {
        self.shared.floor()
    }

    fn tail(&self) -> watch::Receiver<Seq> {
        self.shared.tail.subscribe()
    }

    fn read(&self, after: Seq, max_bytes: usize) -> Result<Vec<Block>, LogError> {
        let tail = self.current_tail();
        let (mut blocks, mut bytes, mut unsealer) = (Vec::new(), 0, Unsealer::default());
        let mut found = self.first_block(after, tail)?;
        let Some((first, _)) = &found else { return Ok(blocks) };
        let rest = (Bound::Excluded(seq_key(*first)), Bound::Included(seq_key(tail)));
        let mut rest = self.store.events.range(rest);
        while let Some((first, sealed)) = found {
            let block = block::decode(&mut unsealer, first, &sealed)
                .map_err(|damage| self.store.damaged(READ_EVENTS, first, &damage))?;
            bytes += block.lines.len();
            let next = first.0 + block.heads.len() as u64;
            blocks.push(block);
            found = match rest.next() {
                Some(entry) if bytes < max_bytes => Some(self.store.block(entry)?),
                _ => None,
            };
            // A hole ends the run; the read that begins there tells of it.
            found = found.filter(|(first, _)| first.0 == next);
        }
        Ok(blocks)
    }

    fn find(&self, id: &str) -> Result<Option<Seq>, LogError> {
        let found = self.store.ids.get(text_key(id)).map_err(|error| self.store.failed("find an event", &error))?;
        let seq = found.map(|bytes| self.store.seq(&bytes)).transpose()?;
        Ok(seq.filter(|seq| *seq >= self.shared.floor()))
    }

    fn first_observed_since(&self, observed: Time) -> Result<Seq, LogError> {
        let block_at = |seq| self.store.block_at(self.shared.floor(), seq);
        search::first_observed_since(observed, self.floor(), self.current_tail(), block_at, |first, damage| {
            self.store.damaged("search by time", first, damage)
        })
    }

    fn history(&self, asset: &AssetName, before: Option<Seq>, limit: usize) -> Result<Vec<Seq>, LogError> {
        let (low, high) = (self.shared.floor(), before.unwrap_or(Seq(u64::MAX)));
        if high <= low {
            return Ok(Vec::new());
        }
        let (low, high) = (history_key(asset, low), history_key(asset, high));
        let prefix = low.len() - 8;
        let mut found = Vec::new();
        for entry in self.store.history.range(low..high).rev().take(limit) {
            let key = entry.key().map_err(|error| self.store.failed(READ_HISTORY, &error))?;
            found.push(self.store.seq(key.get(prefix..).unwrap_or_default())?);
        }
        Ok(found)
    }

    fn times(&self, asset: &AssetName, limit: usize) -> Result<Vec<(Seq, Time)>, LogError> {
        let (low, high) = (history_key(asset, self.shared.floor()), history_key(asset, Seq(u64::MAX)));
        let prefix = low.len() - 8;
        let mut found = Vec::new();
        for entry in self.store.history.range(low..high).rev().take(limit) {
            let (key, value) = entry.into_inner().map_err(|error| self.store.failed(READ_HISTORY, &error))?;
            let seq = self.store.seq(key.get(prefix..).unwrap_or_default())?;
            let time = Fields(&value).i64().map(Time::from_millis).ok();
            found.extend(time.map_or_else(|| self.time_of(seq), |time| Ok(Some(time)))?.map(|time| (seq, time)));
        }
        Ok(found)
    }

    fn for_each_asset(&self, visit: &mut dyn FnMut(AssetName, Bytes)) -> Result<(), LogError> {
        const READ: &str = "read the assets";
        for entry in self.store.assets.iter() {
            let (key, value) = entry.into_inner().map_err(|error| self.store.failed(READ, &error))?;
            let damaged = |damage| self.store.error(READ, advice("an asset", &damage));
            let mut fields = Fields(&value);
            let name = match fields.text().map_err(damaged)? {
                "" => std::str::from_utf8(&key).map_err(|error| self.store.error(READ, error))?,
                folded => folded,
            };
            visit(AssetName::from_text(name), Bytes::copy_from_slice(fields.0));
        }
        Ok(())
    }

    fn for_each_correlation(&self, prefix: &str, visit: &mut dyn FnMut(Bytes)) -> Result<(), LogError> {
        for entry in self.store.correlation.prefix(prefix) {
            let value = entry.value().map_err(|error| self.store.failed("read what correlation remembers", &error))?;
            visit(Bytes::copy_from_slice(&value));
        }
        Ok(())
    }

    fn cursor(&self, source: &SourceId) -> Result<Option<Bytes>, LogError> {
        let found = self.store.cursors.get(text_key(&source.0));
        let found = found.map_err(|error| self.store.failed("read a source's position", &error))?;
        Ok(found.map(|bytes| Bytes::copy_from_slice(&bytes)))
    }

    fn quarantine(&self, after: u64, limit: usize) -> Result<Vec<Quarantined>, LogError> {
        const READ: &str = "read quarantine";
        let (mut records, mut unsealer) = (Vec::new(), Unsealer::default());
        let range = (Bound::Excluded(after.to_be_bytes()), Bound::Unbounded);
        for entry in self.store.quarantine.range::<[u8; 8], _>(range).take(limit) {
            let (key, sealed) = entry.into_inner().map_err(|error| self.store.failed(READ, &error))?;
            let number = self.store.seq(&key)?.0;
            let rejected = record::decode(&mut unsealer, &sealed)
                .map_err(|damage| self.store.error(READ, advice(format_args!("record {number}"), &damage)))?;
            records.push(Quarantined { number, rejected });
        }
        Ok(records)
    }

    fn quarantine_size(&self) -> QuarantineSize {
        self.shared.quarantine_size()
    }

    fn set_retention(&self, retention: Retention) {
        self.shared.set_retention(retention);
    }

    fn retain(&self, now: Time) -> Result<(), LogError> {
        let goal = self.shared.retention().goal(now, self.shared.bytes());
        if goal.is_empty() {
            return Ok(());
        }
        loop {
            let (reply, answer) = sync_channel(1);
            self.send(Command::Retain(goal, reply))?;
            let more = answer.recv().map_err(|_| self.gone())??;
            if !more {
                return Ok(());
            }
        }
    }

    fn size_bytes(&self) -> u64 {
        self.shared.bytes()
    }

    fn disk_bytes(&self) -> Result<u64, LogError> {
        self.store.disk_bytes()
    }

    fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the log's writer stopped unexpectedly");
        }
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
