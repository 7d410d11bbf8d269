//! The only writer, on its own thread.

use std::collections::{HashMap, HashSet, VecDeque};
#[cfg(test)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use fjall::{OwnedWriteBatch, Slice};
use tokio::sync::{oneshot, watch};

use super::store::{State, Store, history_key, seq_key, text_key};
use crate::log::codec::{Damage, Sealer, Unsealer, put_bytes};
use crate::log::retention::{Goal, Retention};
use crate::log::{Batch, LogError, NewEvent, QuarantineSize, block, record, report};
use crate::metrics::Metrics;
use crate::model::{AssetName, Rejected, Seq, SourceId};

/// A group takes no further batch once it holds this many bytes.
const GROUP_BYTES: usize = 8 << 20;
/// What one step of retention drops at most; appends wait for no more than one step.
const STEP_BLOCKS: usize = 64;
const STEP_EVENTS: usize = 8 * block::MAX_EVENTS;

const APPEND: &str = "append a batch";
const RETAIN: &str = "apply retention";

/// What the writer is asked to do.
pub(super) enum Command {
    /// Make a batch durable.
    Append(Append),
    /// One step of retention; the answer is whether there may be more to drop.
    Retain(Goal, SyncSender<Result<bool, LogError>>),
}

/// A batch on its way to disk.
pub(super) struct Append {
    pub(super) batch: Batch,
    pub(super) reply: Reply,
    pub(super) taken: Instant,
    /// Ends when it is durable.
    pub(super) span: tracing::Span,
}

/// What the writer lets everyone else see.
pub(super) struct Shared {
    pub(super) tail: watch::Sender<Seq>,
    floor: AtomicU64,
    bytes: AtomicU64,
    retention: Mutex<Retention>,
    quarantine: Mutex<QuarantineSize>,
    /// Why no more is taken, once a write has failed.
    pub(super) failure: OnceLock<LogError>,
    metrics: Arc<Metrics>,
    #[cfg(test)]
    pub(super) fail_next_commit: AtomicBool,
}

impl Shared {
    pub(super) fn new(state: &State, retention: Retention, metrics: Arc<Metrics>) -> Self {
        let shared = Self {
            tail: watch::Sender::new(state.tail),
            floor: AtomicU64::new(state.floor.0),
            bytes: AtomicU64::new(state.bytes),
            retention: Mutex::new(retention),
            quarantine: Mutex::new(state.quarantine_size()),
            failure: OnceLock::new(),
            metrics,
            #[cfg(test)]
            fail_next_commit: AtomicBool::new(false),
        };
        shared.publish(state);
        shared
    }

    pub(super) fn floor(&self) -> Seq {
        Seq(self.floor.load(Ordering::Acquire))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub(super) fn retention(&self) -> Retention {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_retention(&self, retention: Retention) {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention;
    }

    pub(super) fn quarantine_size(&self) -> QuarantineSize {
        *self.quarantine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State) {
        self.floor.store(state.floor.0, Ordering::Release);
        self.bytes.store(state.bytes, Ordering::Release);
        let quarantine = state.quarantine_size();
        *self.quarantine.lock().unwrap_or_else(PoisonError::into_inner) = quarantine;
        report(&self.metrics, state.floor, state.tail, state.bytes, quarantine);
        self.tail.send_replace(state.tail);
    }
}

/// Batches that are written together. Within one, what is said of a key last is all that is written of it.
#[derive(Default)]
struct Group {
    events: Vec<NewEvent>,
    assets: HashMap<AssetName, Bytes>,
    correlation: HashMap<String, Option<Bytes>>,
    cursors: HashMap<SourceId, Bytes>,
    rejected: Vec<Rejected>,
    bytes: usize,
    waiting: Vec<Waiting>,
}

struct Waiting {
    reply: Reply,
    _span: tracing::Span,
    since: Instant,
    /// Events of the group up to and with the last of this batch.
    events: u64,
}

type Reply = oneshot::Sender<Result<Seq, LogError>>;

impl Group {
    fn add(&mut self, Append { batch, reply, taken, span }: Append) {
        let events = batch.events.iter().map(|event| event.json.len());
        let assets = batch.assets.iter().map(|(name, value)| name.as_str().len() + value.len());
        let correlation = batch.correlation.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len));
        let rejected = batch.rejected.iter().map(|rejected| rejected.bytes.len());
        self.bytes += events.chain(assets).chain(correlation).chain(rejected).sum::<usize>();
        self.events.extend(batch.events);
        self.assets.extend(batch.assets);
        self.correlation.extend(batch.correlation);
        self.cursors.extend(batch.cursor);
        self.rejected.extend(batch.rejected);
        self.waiting.push(Waiting { reply, _span: span, since: taken, events: self.events.len() as u64 });
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.assets.is_empty()
            && self.correlation.is_empty()
            && self.cursors.is_empty()
            && self.rejected.is_empty()
    }
}

/// Owns every write to the store.
pub(super) struct Writer {
    store: Store,
    shared: Arc<Shared>,
    state: State,
    sealer: Sealer,
}

impl Writer {
    pub(super) fn new(store: Store, shared: Arc<Shared>, state: State) -> Self {
        Self { store, shared, state, sealer: Sealer::default() }
    }

    /// Works until every sender of the queue is gone and the queue is empty.
    pub(super) fn run(mut self, queue: &Receiver<Command>) {
        let mut carried = None;
        while let Some(command) = carried.take().or_else(|| queue.recv().ok()) {
            match command {
                Command::Append(append) => {
                    let mut group = Group::default();
                    group.add(append);
                    while group.bytes < GROUP_BYTES {
                        match queue.try_recv() {
                            Ok(Command::Append(append)) => group.add(append),
                            other => {
                                carried = other.ok();
                                break;
                            }
                        }
                    }
                    self.append(group);
                }
                Command::Retain(goal, reply) => {
                    // Who asked may have gone.
                    let _ = reply.send(self.unless_failed(RETAIN, |writer| writer.drop_oldest(&goal)));
                }
            }
        }
    }

    /// Writes a group and tells those who wait. The tail has moved by then.
    fn append(&mut self, mut group: Group) {
        let (waiting, before) = (std::mem::take(&mut group.waiting), self.state.tail);
        let outcome = self.unless_failed(APPEND, |writer| writer.write(&group));
        for Waiting { reply, since, events, .. } in waiting {
            self.shared.metrics.log_append_seconds.observe(since.elapsed().as_secs_f64());
            // Who asked may have gone; the batch is durable all the same.
            let _ = reply.send(outcome.clone().map(|()| Seq(before.0 + events)));
        }
        let goal = self.shared.retention().excess_goal(self.state.bytes);
        if !goal.is_empty() {
            // A failure has been logged and kept: the next append tells of it.
            let _ = self.unless_failed(RETAIN, |writer| writer.drop_oldest(&goal));
        }
    }

    /// Runs what writes, unless a write has failed before. After a failure what is on disk is in doubt, so nothing is
    /// ever tried again on this handle (<https://www.usenix.org/system/files/atc20-rebello.pdf>).
    fn unless_failed<T>(
        &mut self,
        action: &'static str,
        write: impl FnOnce(&mut Self) -> Result<T, fjall::Error>,
    ) -> Result<T, LogError> {
        if let Some(failure) = self.shared.failure.get() {
            return Err(failure.clone());
        }
        write(self).map_err(|error| {
            let failure = self.store.stopped(action, &error);
            tracing::error!(error = %failure, "the log has failed");
            self.shared.failure.get_or_init(|| failure).clone()
        })
    }

    fn write(&mut self, group: &Group) -> fjall::Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        let (mut batch, mut state) = (self.store.batch(), self.state);
        self.put_events(&mut batch, &mut state, &group.events)?;
        self.put_rejected(&mut batch, &mut state, &group.rejected)?;
        for (name, value) in &group.assets {
            let key = text_key(name.as_str());
            let folded = if key == name.as_str().as_bytes() { "" } else { name.as_str() };
            let mut stored = Vec::with_capacity(4 + folded.len() + value.len());
            put_bytes(&mut stored, folded.as_bytes());
            stored.extend_from_slice(value);
            batch.insert(&self.store.assets, key, stored);
        }
        for (key, value) in &group.correlation {
            match value {
                Some(value) => batch.insert(&self.store.correlation, text_key(key), value.as_ref()),
                None => batch.remove(&self.store.correlation, text_key(key)),
            }
        }
        for (source, position) in &group.cursors {
            batch.insert(&self.store.cursors, text_key(&source.0), position.as_ref());
        }
        self.commit(batch, state)
    }

    fn put_events(&mut self, batch: &mut OwnedWriteBatch, state: &mut State, events: &[NewEvent]) -> fjall::Result<()> {
        for run in block::split(events) {
            let sealed = block::encode(&mut self.sealer, run)?;
            state.bytes += sealed.len() as u64;
            batch.insert(&self.store.events, seq_key(state.tail.next()), sealed);
            for event in run {
                state.tail = state.tail.next();
                batch.insert(&self.store.ids, text_key(&event.head.id), seq_key(state.tail));
                let time = event.head.time.millis().to_be_bytes();
                batch.insert(&self.store.history, history_key(&event.head.asset, state.tail), time);
            }
        }
        Ok(())
    }

    fn put_rejected(
        &mut self,
        batch: &mut OwnedWriteBatch,
        state: &mut State,
        rejected: &[Rejected],
    ) -> fjall::Result<()> {
        let (mut fresh, mut seen) = (VecDeque::new(), HashSet::new());
        for rejected in rejected {
            let fingerprint = record::fingerprint(rejected);
            if !seen.insert(fingerprint) || self.store.fingerprints.contains_key(fingerprint)? {
                continue;
            }
            let sealed = record::encode(&mut self.sealer, rejected, &fingerprint)?;
            state.quarantine_bytes += sealed.len() as u64;
            fresh.push_back((state.quarantine_next, fingerprint, sealed));
            state.quarantine_next += 1;
        }
        let retention = self.shared.retention();
        while state.quarantine_first < state.quarantine_next
            && retention.quarantine_is_over(state.quarantine_next - state.quarantine_first, state.quarantine_bytes)
        {
            let dropped = match fresh.front() {
                Some((number, ..)) if *number == state.quarantine_first => {
                    fresh.pop_front().map(|(.., sealed)| sealed.len())
                }
                _ => self.drop_record(batch, state.quarantine_first)?,
            };
            state.quarantine_bytes = state.quarantine_bytes.saturating_sub(dropped.unwrap_or(0) as u64);
            state.quarantine_first += 1;
        }
        for (number, fingerprint, sealed) in fresh {
            batch.insert(&self.store.quarantine, number.to_be_bytes(), sealed);
            batch.insert(&self.store.fingerprints, fingerprint, number.to_be_bytes());
        }
        Ok(())
    }

    /// Takes a record out of quarantine; gives its length.
    fn drop_record(&self, batch: &mut OwnedWriteBatch, number: u64) -> fjall::Result<Option<usize>> {
        let Some(sealed) = self.store.quarantine.get(number.to_be_bytes())? else { return Ok(None) };
        // The fingerprint of a damaged record stays behind; it keeps nothing but its own repetition out.
        if let Ok(fingerprint) = record::fingerprint_of(&sealed) {
            batch.remove(&self.store.fingerprints, fingerprint);
        }
        batch.remove(&self.store.quarantine, number.to_be_bytes());
        Ok(Some(sealed.len()))
    }

    /// Drops the oldest blocks, whole, with their index entries, as one commit. Whether there may be more to drop.
    fn drop_oldest(&mut self, goal: &Goal) -> fjall::Result<bool> {
        let (mut batch, mut state, mut events) = (self.store.batch(), self.state, 0);
        let (mut unsealer, mut more) = (Unsealer::default(), true);
        for _ in 0..STEP_BLOCKS {
            let Some(entry) = self.store.events.range(seq_key(state.floor)..).next() else {
                more = false;
                break;
            };
            let (key, sealed) = entry.into_inner()?;
            match block::header(&sealed) {
                Ok(header) if !goal.drops(header.last_observed, state.bytes) => more = false,
                // A newer version wrote it, and may read it yet.
                Err(Damage::Format(_)) => more = false,
                _ => {}
            }
            if !more || events >= STEP_EVENTS {
                break;
            }
            events += self.drop_block(&mut batch, &mut state, &mut unsealer, key, &sealed)?;
        }
        if state != self.state {
            // Readers see the floor move first: what they then miss, they know to have been dropped.
            self.shared.floor.store(state.floor.0, Ordering::Release);
            self.commit(batch, state)?;
        }
        Ok(more)
    }

    /// Drops the block that `state.floor` stands at; gives the number of its events.
    fn drop_block(
        &self,
        batch: &mut OwnedWriteBatch,
        state: &mut State,
        unsealer: &mut Unsealer,
        key: Slice,
        sealed: &Slice,
    ) -> fjall::Result<usize> {
        let first = state.floor;
        let dropped = block::decode(unsealer, first, sealed).map(|block| block.heads).unwrap_or_else(|damage| {
            // Its index entries stay behind; they are below the floor, where no one looks.
            tracing::warn!(%first, %damage, "a damaged block is dropped");
            Vec::new()
        });
        for head in &dropped {
            let id = text_key(&head.id);
            // An event that was logged again has its id point to the later one.
            if self.store.ids.get(&id)?.is_some_and(|seq| *seq == seq_key(state.floor)) {
                batch.remove(&self.store.ids, id);
            }
            batch.remove(&self.store.history, history_key(&head.asset, state.floor));
            state.floor = state.floor.next();
        }
        if dropped.is_empty() {
            let next = self.store.events.range(seq_key(first.next())..).next().map(fjall::Guard::key).transpose()?;
            state.floor = next.and_then(|key| self.store.seq(&key).ok()).unwrap_or(state.tail.next());
        }
        batch.remove(&self.store.events, key);
        state.bytes = state.bytes.saturating_sub(sealed.len() as u64);
        Ok(dropped.len())
    }

    fn commit(&mut self, mut batch: OwnedWriteBatch, state: State) -> fjall::Result<()> {
        batch.insert(&self.store.meta, "state", state.encode());
        #[cfg(test)]
        if self.shared.fail_next_commit.swap(false, Ordering::SeqCst) {
            return Err(std::io::Error::other("no space left on device").into());
        }
        let timer = self.shared.metrics.log_fsync_seconds.start_timer();
        batch.commit()?;
        timer.observe_duration();
        self.state = state;
        self.shared.publish(&state);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ =
                self.shared.failure.set(self.store.error(APPEND, "the writer stopped unexpectedly; restart catchment"));
        }
    }
}
