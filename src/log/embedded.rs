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
//! <data_dir>/log.new/  the same, while it is created or restored; renamed when complete, removed when found
//! <data_dir>/damaged/  pieces of journals that the disk has damaged, for who wants to look
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
//! Before a batch is taken, the file system has to have some bytes free (`disk.rs`). When a write fails all the same,
//! what is on disk is in doubt: the batch may or may not be found there. So the writer keeps it, waits until the disk
//! takes writes again, closes the store and opens it anew (`Store::reopen`). If the batch is there, as a whole, it is
//! durable; else it is written again. Nobody was told anything meanwhile, and the batches behind it wait: a
//! failed write costs time, not order. Readers go on with the old store until it is exchanged. What can't be mended
//! so (the store does not open, or the same write fails again and again on a disk that takes others) is kept as
//! the log's failure: it takes no more, and the process ends.
//!
//! Retention drops whole blocks from the oldest on, each with its index entries and with the new floor in one commit,
//! in steps of at most 64 blocks between which appends have their turn. Size is looked at after each group, age when
//! [`retain`](EventLog::retain) is called. What is left in an index of a block that could not be read lies below the
//! floor, where no one looks. Assets stay.
//!
//! # Opening
//!
//! What is not whole in the journals is taken out of them (`journal.rs`): at their end it is a write that was cut short,
//! before that it is damage, which is set aside and reported. Then the store replays them (some 128 MiB, whatever the log
//! holds). `state` then says all there is to know: neither events nor assets are scanned.
//!
//! What the disk loses later is found when it is read: blocks and records have checksums, and so has the store. A block
//! that is damaged or missing costs its events: they are reported, subscribers get a gap, and what follows is read as
//! ever. Not found is damage to the last batch of the journal that leaves nothing whole behind it: it looks like a write
//! that was cut short, and is discarded with a warning.
//!
//! # Versions
//!
//! [`FORMAT_VERSION`] changes when a program that knows only the old one would misread the new one. A program refuses
//! a directory of another version and changes nothing in it; it may come to read older ones. Keyspaces may be added
//! without a new version. Blocks and records have a format byte and a checksum of their own, so that their encoding
//! can change in a directory that holds both.

mod copy;
mod disk;
mod journal;
mod owner;
mod shared;
mod store;
mod writer;

use std::io::{self, Write};
use std::ops::Bound;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bytes::Bytes;
use fjall::Slice;
use tokio::sync::watch;

pub use self::copy::{BackupSummary, restore};
use self::disk::Disk;
use self::shared::Shared;
use self::store::{Lock, Store, history_key, is_damage, seq_key, text_key, words};
use self::writer::{Append, Command, Writer};
use super::codec::{Fields, Unsealer, advice};
use super::retention::Retention;
use super::{Batch, Block, EventLog, LogError, Pending, QuarantineSize, Quarantined, block, record, search};
use crate::metrics::Metrics;
use crate::model::{AssetName, Epoch, Seq, SourceId, Time};

/// The format version of the data directory.
pub const FORMAT_VERSION: u32 = 1;

const READ_EVENTS: &str = "read events";
const READ_HISTORY: &str = "read a history";
/// Commands queued for the writer.
const QUEUE: usize = 64;

/// The durable log. Dropping it closes it.
pub struct EmbeddedLog {
    epoch: Epoch,
    shared: Arc<Shared>,
    queue: Mutex<Option<SyncSender<Command>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    // Last, so that the directory is free only when the store is closed, which `shared` holds.
    _lock: Lock,
}

impl EmbeddedLog {
    /// Opens the log in a directory, and creates both if missing. Replays at most about 128 MiB of journal, whatever
    /// the size of the log.
    ///
    /// # Errors
    /// When the directory can't be created or written to, when another process uses it, when it was written by
    /// another version or by something else, or when it is damaged. The error says which, and what to do.
    pub fn open(data_dir: &Path, retention: Retention, metrics: Arc<Metrics>) -> Result<Self, LogError> {
        Self::open_with_reserve(data_dir, retention, 0, metrics)
    }

    /// The same, but accepts nothing while the file system has less than `min_free` bytes free.
    ///
    /// # Errors
    /// As [`open`](EmbeddedLog::open).
    pub fn open_with_reserve(
        data_dir: &Path,
        retention: Retention,
        min_free: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Self, LogError> {
        let lock = Lock::take(data_dir)?;
        let failed = |what: &str, error: io::Error| LogError::Storage {
            action: "open the log",
            path: data_dir.display().to_string(),
            cause: format!("{what}: {error}"),
        };
        let disk = Disk::new(data_dir, &lock.path, min_free, Arc::clone(&metrics))
            .map_err(|error| failed("its lock can't be checked", error))?;
        let (store, epoch, state) = Store::open(data_dir)?;
        let shared = Arc::new(Shared::new(store, &state, disk, retention, metrics));
        let writer = Writer::new(Arc::clone(&shared), state);
        let (queue, commands) = sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run(&commands))
            .map_err(|error| failed("the writer can't be started", error))?;
        Ok(Self { epoch, shared, queue: Mutex::new(Some(queue)), writer: Mutex::new(Some(thread)), _lock: lock })
    }

    /// Whether a directory has a log.
    #[must_use]
    pub fn exists(data_dir: &Path) -> bool {
        data_dir.join(store::STORE).exists()
    }

    fn send(&self, command: Command) -> Result<(), LogError> {
        // The queue is cloned so that the lock is not held while it is full.
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(LogError::Closed)?;
        queue.send(command).map_err(|_| self.gone())
    }

    /// The error for a writer that has ended.
    fn gone(&self) -> LogError {
        self.shared.failure.get().cloned().unwrap_or(LogError::Closed)
    }

    /// The block that holds the event after a position, with the position of its first event; `None` at the tail.
    fn first_block(&self, store: &Store, after: Seq, tail: Seq) -> Result<Option<(Seq, Slice)>, LogError> {
        let wanted = after.next();
        if wanted > tail {
            return Ok(None);
        }
        let found = store.block_at(self.shared.floor(), wanted);
        // Looked at last: the floor moves before blocks go, so what was not found has been dropped or was lost.
        let floor = self.shared.floor();
        if wanted < floor {
            return Err(LogError::BelowFloor { after, floor });
        }
        match found {
            Ok(Some((first, sealed))) => match block::header(&sealed) {
                Ok(header) if wanted.0 < first.0 + header.count => Ok(Some((first, sealed))),
                Ok(_) => Err(self.damaged(store, wanted, "they are missing")),
                Err(damage) => Err(self.damaged(store, wanted, damage)),
            },
            Ok(None) => Err(self.damaged(store, wanted, "they are missing")),
            Err(error) if is_damage(&error) => Err(self.damaged(store, wanted, words(&error))),
            Err(error) => Err(store.failed(READ_EVENTS, &error)),
        }
    }

    /// Reports that the events from `first` up to the next block are lost.
    fn damaged(&self, store: &Store, first: Seq, cause: impl ToString) -> LogError {
        let next = store.events.range(seq_key(first.next())..).next().map(fjall::Guard::key).transpose();
        let last = match next.map_err(|error| store.failed(READ_EVENTS, &error)) {
            Ok(Some(next)) => store.seq(&next).map(|next| Seq(next.0.saturating_sub(1))),
            Ok(None) => Ok(self.current_tail()),
            Err(failed) => Err(failed),
        };
        let damage = |last| store.damaged(first, last, cause);
        last.map_or_else(|failed| failed, |last| self.shared.set_aside(last, damage(last)))
    }

    /// The time of an event; `None` if it was dropped or lost.
    fn time_of(&self, seq: Seq) -> Result<Option<Time>, LogError> {
        let blocks = match self.read(Seq(seq.0.saturating_sub(1)), 1) {
            Err(error) if error.is_gone() => return Ok(None),
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
        self.shared.disk.wait_for_room()?;
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
        self.shared.with(|store| {
            let (mut blocks, mut bytes, mut unsealer) = (Vec::new(), 0, Unsealer::default());
            let mut found = self.first_block(store, after, tail)?;
            let Some((first, _)) = &found else { return Ok(blocks) };
            let rest = (Bound::Excluded(seq_key(*first)), Bound::Included(seq_key(tail)));
            let mut rest = store.events.range(rest);
            while let Some((first, sealed)) = found {
                let block = match block::decode(&mut unsealer, first, &sealed) {
                    Ok(block) => block,
                    Err(damage) if blocks.is_empty() => return Err(self.damaged(store, after.next(), damage)),
                    // The read that begins there tells of it.
                    Err(_) => break,
                };
                bytes += block.lines.len();
                let next = first.0 + block.heads.len() as u64;
                blocks.push(block);
                found = match rest.next() {
                    // The same goes for what can't be read, and for a hole.
                    Some(entry) if bytes < max_bytes => store::block(entry).ok(),
                    _ => None,
                };
                found = found.filter(|(first, _)| first.0 == next);
            }
            Ok(blocks)
        })
    }

    fn read_newest(&self, after: Seq, max_bytes: usize) -> Option<Block> {
        let newest = self.shared.newest.read(after, self.current_tail(), max_bytes);
        newest.filter(|block| block.first >= self.shared.floor())
    }

    fn find(&self, id: &str) -> Result<Option<Seq>, LogError> {
        self.shared.with(|store| {
            let found = store.ids.get(text_key(id)).map_err(|error| store.failed("find an event", &error))?;
            let seq = found.map(|bytes| store.seq(&bytes)).transpose()?;
            Ok(seq.filter(|seq| *seq >= self.shared.floor()))
        })
    }

    fn first_observed_since(&self, observed: Time) -> Result<Seq, LogError> {
        self.shared.with(|store| {
            let block_at = |seq| {
                store.block_at(self.shared.floor(), seq).map_err(|error| match is_damage(&error) {
                    true => store.damaged(seq, seq, words(&error)),
                    false => store.failed("search by time", &error),
                })
            };
            search::first_observed_since(observed, self.floor(), self.current_tail(), block_at)
        })
    }

    fn history(&self, asset: &AssetName, before: Option<Seq>, limit: usize) -> Result<Vec<Seq>, LogError> {
        let (low, high) = (self.shared.floor(), before.unwrap_or(Seq(u64::MAX)));
        if high <= low {
            return Ok(Vec::new());
        }
        let (low, high) = (history_key(asset, low), history_key(asset, high));
        let prefix = low.len() - 8;
        self.shared.with(|store| {
            let newest = store.history.range(low..high).rev().take(limit);
            let seq = |entry: fjall::Guard| {
                let key = entry.key().map_err(|error| store.failed(READ_HISTORY, &error))?;
                store.seq(key.get(prefix..).unwrap_or_default())
            };
            newest.map(seq).collect()
        })
    }

    fn times(&self, asset: &AssetName, limit: usize) -> Result<Vec<(Seq, Time)>, LogError> {
        let (low, high) = (history_key(asset, self.shared.floor()), history_key(asset, Seq(u64::MAX)));
        let prefix = low.len() - 8;
        let found: Vec<(Seq, Option<Time>)> = self.shared.with(|store| {
            let newest = store.history.range(low..high).rev().take(limit);
            let read = |entry: fjall::Guard| {
                let (key, value) = entry.into_inner().map_err(|error| store.failed(READ_HISTORY, &error))?;
                let time = Fields(&value).i64().map(Time::from_millis).ok();
                Ok((store.seq(key.get(prefix..).unwrap_or_default())?, time))
            };
            newest.map(read).collect()
        })?;
        let with_time = |(seq, time): (Seq, Option<Time>)| {
            let time = time.map_or_else(|| self.time_of(seq), |time| Ok(Some(time)));
            time.map(|time| time.map(|time| (seq, time))).transpose()
        };
        found.into_iter().filter_map(with_time).collect()
    }

    fn for_each_asset(&self, visit: &mut dyn FnMut(AssetName, Bytes)) -> Result<(), LogError> {
        const READ: &str = "read the assets";
        self.shared.with(|store| {
            for entry in store.assets.iter() {
                let (key, value) = entry.into_inner().map_err(|error| store.failed(READ, &error))?;
                let damaged = |damage| store.error(READ, advice("an asset", &damage));
                let mut fields = Fields(&value);
                let name = match fields.text().map_err(damaged)? {
                    "" => std::str::from_utf8(&key).map_err(|error| store.error(READ, error))?,
                    folded => folded,
                };
                visit(AssetName::from_text(name), Bytes::copy_from_slice(fields.0));
            }
            Ok(())
        })
    }

    fn for_each_correlation(&self, prefix: &str, visit: &mut dyn FnMut(Bytes)) -> Result<(), LogError> {
        self.shared.with(|store| {
            for entry in store.correlation.prefix(prefix) {
                let value = entry.value().map_err(|error| store.failed("read what correlation remembers", &error))?;
                visit(Bytes::copy_from_slice(&value));
            }
            Ok(())
        })
    }

    fn cursor(&self, source: &SourceId) -> Result<Option<Bytes>, LogError> {
        self.shared.with(|store| {
            let found = store.cursors.get(text_key(&source.0));
            let found = found.map_err(|error| store.failed("read a source's position", &error))?;
            Ok(found.map(|bytes| Bytes::copy_from_slice(&bytes)))
        })
    }

    fn quarantine(&self, after: u64, limit: usize) -> Result<Vec<Quarantined>, LogError> {
        const READ: &str = "read quarantine";
        let range = (Bound::Excluded(after.to_be_bytes()), Bound::Unbounded);
        self.shared.with(|store| {
            let (mut records, mut unsealer) = (Vec::new(), Unsealer::default());
            for entry in store.quarantine.range::<[u8; 8], _>(range).take(limit) {
                let (key, sealed) = entry.into_inner().map_err(|error| store.failed(READ, &error))?;
                let number = store.seq(&key)?.0;
                match record::decode(&mut unsealer, &sealed) {
                    Ok(rejected) => records.push(Quarantined { number, rejected }),
                    Err(damage) => tracing::warn!(number, %damage, "a record in quarantine is damaged"),
                }
            }
            Ok(records)
        })
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
        self.shared.with(Store::disk_bytes)
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn back_up(&self, now: Time, output: &mut dyn Write) -> Result<BackupSummary, LogError> {
        copy::back_up(&self.shared, now, output)
    }

    fn waits_for(&self) -> Option<String> {
        self.shared.disk.waits_for()
    }

    fn set_min_free(&self, bytes: u64) {
        self.shared.disk.set_min_free(bytes);
    }

    fn free_bytes(&self) -> Option<u64> {
        self.shared.disk.free_bytes()
    }

    fn stop_waiting(&self) {
        self.shared.disk.give_up();
    }

    fn close(&self) {
        self.stop_waiting();
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
mod damage_tests;
#[cfg(test)]
mod tests;
