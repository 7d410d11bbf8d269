//! The log in memory, for `--ephemeral` and for tests. Nothing of it outlives the process.
//!
//! Blocks are kept encoded as on disk: a fifth of the memory, and the limits on bytes mean the same.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::codec::{Sealer, Unsealer, advice};
use super::newest::Newest;
use super::retention::{Goal, Retention};
use super::{Batch, Block, EventLog, LogError, NewEvent, Pending, QuarantineSize, Quarantined, block, record, search};
use crate::metrics::Metrics;
use crate::model::{AssetName, Epoch, Rejected, Seq, SourceId, Time};

/// A log in memory, lost on drop. Retention applies as to the durable one.
pub struct MemoryLog {
    epoch: Epoch,
    metrics: Arc<Metrics>,
    tail: watch::Sender<Seq>,
    newest: Newest,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    closed: bool,
    retention: Retention,
    blocks: VecDeque<(Seq, Bytes)>,
    floor: Seq,
    tail: Seq,
    bytes: u64,
    ids: HashMap<String, Seq>,
    history: HashMap<AssetName, BTreeMap<Seq, Time>>,
    assets: HashMap<AssetName, Bytes>,
    correlation: BTreeMap<String, Bytes>,
    cursors: HashMap<SourceId, Bytes>,
    quarantine: Quarantine,
    sealer: Sealer,
}

#[derive(Default)]
struct Quarantine {
    records: VecDeque<(u64, Bytes)>,
    fingerprints: HashSet<[u8; 16]>,
    last: u64,
    bytes: u64,
}

impl Quarantine {
    fn size(&self) -> QuarantineSize {
        QuarantineSize { records: self.records.len() as u64, bytes: self.bytes, last: self.last }
    }
}

impl MemoryLog {
    /// An empty log with a new epoch.
    #[must_use]
    pub fn new(retention: Retention, metrics: Arc<Metrics>) -> Self {
        let inner = Inner { floor: Seq(1), retention, ..Inner::default() };
        let log = Self {
            epoch: super::draw_epoch(),
            metrics,
            tail: watch::Sender::new(Seq(0)),
            newest: Newest::default(),
            inner: Mutex::new(inner),
        };
        log.publish(&log.inner());
        log
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, inner: &Inner) {
        super::report(&self.metrics, inner.floor, inner.tail, inner.bytes, inner.quarantine.size());
        self.tail.send_replace(inner.tail);
    }
}

impl Inner {
    fn put_events(&mut self, events: &[NewEvent]) -> Result<(), LogError> {
        for run in block::split(events) {
            let sealed = block::encode(&mut self.sealer, run).map_err(|error| storage("append a batch", error))?;
            self.bytes += sealed.len() as u64;
            self.blocks.push_back((self.tail.next(), sealed.into()));
            for event in run {
                self.tail = self.tail.next();
                self.ids.insert(event.head.id.clone(), self.tail);
                self.history.entry(event.head.asset.clone()).or_default().insert(self.tail, event.head.time);
            }
        }
        Ok(())
    }

    fn put_rejected(&mut self, rejected: &[Rejected]) -> Result<(), LogError> {
        for rejected in rejected {
            let fingerprint = record::fingerprint(rejected);
            if !self.quarantine.fingerprints.insert(fingerprint) {
                continue;
            }
            let sealed = record::encode(&mut self.sealer, rejected, &fingerprint)
                .map_err(|error| storage("append a batch", error))?;
            self.quarantine.last += 1;
            self.quarantine.bytes += sealed.len() as u64;
            self.quarantine.records.push_back((self.quarantine.last, sealed.into()));
        }
        let kept = &mut self.quarantine;
        while self.retention.quarantine_is_over(kept.records.len() as u64, kept.bytes) {
            let Some((_, sealed)) = kept.records.pop_front() else { break };
            kept.bytes -= sealed.len() as u64;
            if let Ok(fingerprint) = record::fingerprint_of(&sealed) {
                kept.fingerprints.retain(|known| known != fingerprint);
            }
        }
        Ok(())
    }

    fn trim(&mut self, goal: &Goal) -> Result<(), LogError> {
        let mut unsealer = Unsealer::default();
        while let Some((first, sealed)) = self.blocks.front().cloned() {
            let damaged = |damage| storage("apply retention", advice(format_args!("the block at {first}"), &damage));
            if !goal.drops(block::header(&sealed).map_err(damaged)?.last_observed, self.bytes) {
                break;
            }
            let dropped = block::decode(&mut unsealer, first, &sealed).map_err(damaged)?;
            self.bytes -= sealed.len() as u64;
            self.blocks.pop_front();
            for head in &dropped.heads {
                if self.ids.get(&head.id) == Some(&self.floor) {
                    self.ids.remove(&head.id);
                }
                if let Some(history) = self.history.get_mut(&head.asset) {
                    history.remove(&self.floor);
                    if history.is_empty() {
                        self.history.remove(&head.asset);
                    }
                }
                self.floor = self.floor.next();
            }
        }
        Ok(())
    }

    /// The index of the block that holds an event, or where it would be.
    fn index_of(&self, seq: Seq) -> usize {
        self.blocks.partition_point(|(first, _)| *first <= seq).saturating_sub(1)
    }
}

fn storage(action: &'static str, cause: impl ToString) -> LogError {
    LogError::Storage { action, path: "memory".to_owned(), cause: cause.to_string() }
}

impl EventLog for MemoryLog {
    fn append(&self, batch: Batch) -> Result<Pending, LogError> {
        let timer = self.metrics.log_append_seconds.start_timer();
        let mut inner = self.inner();
        if inner.closed {
            return Err(LogError::Closed);
        }
        let first = inner.tail.next();
        inner.put_events(&batch.events)?;
        self.newest.push(first, batch.events);
        inner.assets.extend(batch.assets);
        for (key, value) in batch.correlation {
            match value {
                Some(value) => inner.correlation.insert(key, value),
                None => inner.correlation.remove(&key),
            };
        }
        inner.cursors.extend(batch.cursor);
        inner.put_rejected(&batch.rejected)?;
        let goal = inner.retention.excess_goal(inner.bytes);
        if !goal.is_empty() {
            inner.trim(&goal)?;
        }
        self.publish(&inner);
        timer.observe_duration();
        let (reply, pending) = Pending::new();
        // The receiver is in `pending`, so this can't fail.
        let _ = reply.send(Ok(inner.tail));
        Ok(pending)
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn floor(&self) -> Seq {
        self.inner().floor
    }

    fn tail(&self) -> watch::Receiver<Seq> {
        self.tail.subscribe()
    }

    fn read(&self, after: Seq, max_bytes: usize) -> Result<Vec<Block>, LogError> {
        let (mut blocks, mut bytes, mut unsealer) = (Vec::new(), 0, Unsealer::default());
        let mut wanted = after.next();
        loop {
            let (first, sealed) = {
                let inner = self.inner();
                if wanted < inner.floor && blocks.is_empty() {
                    return Err(LogError::BelowFloor { after, floor: inner.floor });
                }
                match inner.blocks.get(inner.index_of(wanted)) {
                    Some((first, sealed)) if wanted >= inner.floor && wanted <= inner.tail => (*first, sealed.clone()),
                    _ => return Ok(blocks),
                }
            };
            let block = block::decode(&mut unsealer, first, &sealed)
                .map_err(|damage| storage("read events", advice(format_args!("the block at {first}"), &damage)))?;
            bytes += block.lines.len();
            wanted = Seq(first.0 + block.heads.len() as u64);
            blocks.push(block);
            if bytes >= max_bytes {
                return Ok(blocks);
            }
        }
    }

    fn read_newest(&self, after: Seq, max_bytes: usize) -> Option<Block> {
        let (floor, tail) = {
            let inner = self.inner();
            (inner.floor, inner.tail)
        };
        self.newest.read(after, tail, max_bytes).filter(|block| block.first >= floor)
    }

    fn find(&self, id: &str) -> Result<Option<Seq>, LogError> {
        Ok(self.inner().ids.get(id).copied())
    }

    fn first_observed_since(&self, observed: Time) -> Result<Seq, LogError> {
        let inner = self.inner();
        let block_at = |seq| Ok(inner.blocks.get(inner.index_of(seq)).map(|(first, sealed)| (*first, sealed)));
        search::first_observed_since(observed, inner.floor, inner.tail, block_at)
    }

    fn history(&self, asset: &AssetName, before: Option<Seq>, limit: usize) -> Result<Vec<Seq>, LogError> {
        let inner = self.inner();
        let before = before.unwrap_or(Seq(u64::MAX));
        let Some(history) = inner.history.get(asset) else { return Ok(Vec::new()) };
        Ok(history.range(..before).rev().take(limit).map(|(seq, _)| *seq).collect())
    }

    fn times(&self, asset: &AssetName, limit: usize) -> Result<Vec<(Seq, Time)>, LogError> {
        let inner = self.inner();
        let history = inner.history.get(asset).into_iter().flatten();
        Ok(history.rev().take(limit).map(|(seq, time)| (*seq, *time)).collect())
    }

    fn for_each_asset(&self, visit: &mut dyn FnMut(AssetName, Bytes)) -> Result<(), LogError> {
        // A copy, so that `visit` may use the log.
        let assets = self.inner().assets.clone();
        assets.into_iter().for_each(|(name, value)| visit(name, value));
        Ok(())
    }

    fn for_each_correlation(&self, prefix: &str, visit: &mut dyn FnMut(Bytes)) -> Result<(), LogError> {
        let all = self.inner().correlation.clone();
        let of_prefix = all.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        of_prefix.for_each(|(_, value)| visit(value.clone()));
        Ok(())
    }

    fn cursor(&self, source: &SourceId) -> Result<Option<Bytes>, LogError> {
        Ok(self.inner().cursors.get(source).cloned())
    }

    fn quarantine(&self, after: u64, limit: usize) -> Result<Vec<Quarantined>, LogError> {
        let inner = self.inner();
        let records = &inner.quarantine.records;
        let start = records.partition_point(|(number, _)| *number <= after);
        let mut unsealer = Unsealer::default();
        let read = |(number, sealed): &(u64, Bytes)| {
            let damaged = |damage| storage("read quarantine", advice(format_args!("record {number}"), &damage));
            let rejected = record::decode(&mut unsealer, sealed).map_err(damaged)?;
            Ok(Quarantined { number: *number, rejected })
        };
        records.range(start..).take(limit).map(read).collect()
    }

    fn quarantine_size(&self) -> QuarantineSize {
        self.inner().quarantine.size()
    }

    fn set_retention(&self, retention: Retention) {
        self.inner().retention = retention;
    }

    fn retain(&self, now: Time) -> Result<(), LogError> {
        let mut inner = self.inner();
        let goal = inner.retention.goal(now, inner.bytes);
        inner.trim(&goal)?;
        self.publish(&inner);
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.inner().bytes
    }

    fn disk_bytes(&self) -> Result<u64, LogError> {
        Ok(self.size_bytes())
    }

    fn close(&self) {
        self.inner().closed = true;
    }
}
