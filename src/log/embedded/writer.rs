//! The single writer of the log, on its own thread.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

use bytes::Bytes;
use fjall::{OwnedWriteBatch, Slice};
use tokio::sync::oneshot;

use super::shared::Shared;
use super::store::{State, Store, history_key, is_damage, seq_key, text_key};
use crate::log::codec::{Damage, Sealer, Unsealer, put_bytes};
use crate::log::retention::Goal;
use crate::log::{Batch, LogError, NewEvent, block, record};
use crate::model::{AssetName, Rejected, Seq, SourceId};

/// A group is committed once its batches have this many bytes.
const GROUP_BYTES: usize = 8 << 20;
/// Most blocks dropped in one step of retention. An append waits for at most one step.
const STEP_BLOCKS: usize = 64;
const STEP_EVENTS: usize = 8 * block::MAX_EVENTS;

const APPEND: &str = "append a batch";
const RETAIN: &str = "apply retention";

/// A command to the writer.
pub(super) enum Command {
    /// Make a batch durable.
    Append(Append),
    /// Run one step of retention; the reply says whether there may be more to drop.
    Retain(Goal, SyncSender<Result<bool, LogError>>),
}

/// A batch on its way to disk.
pub(super) struct Append {
    pub(super) batch: Batch,
    pub(super) reply: Reply,
    pub(super) taken: Instant,
    /// Ends when the batch is durable.
    pub(super) span: tracing::Span,
}

/// Batches committed together. Of several values for a key only the last is written.
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
    /// Events of the group up to the end of this batch.
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

/// The only writer to the store, on a thread of its own.
pub(super) struct Writer {
    shared: Arc<Shared>,
    state: State,
    sealer: Sealer,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, state: State) -> Self {
        Self { shared, state, sealer: Sealer::default() }
    }

    /// Processes commands until all senders are dropped and the queue is empty.
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
                    let _ = reply.send(self.persevere(RETAIN, |writer, store| writer.drop_oldest(store, &goal)));
                }
            }
        }
    }

    /// Commits a group and resolves its appends. The tail has moved by then.
    fn append(&mut self, mut group: Group) {
        let (waiting, before) = (std::mem::take(&mut group.waiting), self.state.tail);
        let outcome = self.persevere(APPEND, |writer, store| {
            // A write that failed may have reached the disk all the same, and then did so as a whole. A group without
            // events can be written twice.
            let is_there = writer.state.tail > before;
            if is_there { Ok(()) } else { writer.write(store, &group) }
        });
        if outcome.is_ok() {
            // Before the tail moves, which sends readers there.
            self.shared.newest.push(before.next(), group.events);
            self.shared.publish(&self.state);
        }
        for Waiting { reply, since, events, .. } in waiting {
            self.shared.metrics.log_append_seconds.observe(since.elapsed().as_secs_f64());
            // Who asked may have gone; the batch is durable all the same.
            let _ = reply.send(outcome.clone().map(|()| Seq(before.0 + events)));
        }
        let goal = self.shared.retention().excess_goal(self.state.bytes);
        if !goal.is_empty() {
            // A failure has been logged and kept: the next append tells of it.
            let _ = self.persevere(RETAIN, |writer, store| writer.drop_oldest(store, &goal));
        }
    }

    /// Runs `write` until it succeeds. After a failure the state on disk is unknown
    /// (<https://www.usenix.org/system/files/atc20-rebello.pdf>), so nothing is retried on the same handle: once the
    /// disk accepts writes, the store is reopened and its state read back.
    fn persevere<T>(
        &mut self,
        action: &'static str,
        mut write: impl FnMut(&mut Self, &Store) -> Result<T, fjall::Error>,
    ) -> Result<T, LogError> {
        let shared = Arc::clone(&self.shared);
        for failures in 1.. {
            if let Some(failure) = shared.failure.get() {
                return Err(failure.clone());
            }
            let mut failed = None;
            let outcome = shared.with(|store| {
                write(self, store).map_err(|error| {
                    let failure = store.failed(action, &error);
                    failed = Some(error);
                    failure
                })
            });
            match (outcome, failed) {
                (Err(failure), Some(error)) if is_of_the_disk(&error, failures) => self.mend(&failure, failures)?,
                (Err(failure), _) => return Err(self.fail(failure)),
                (done, _) => return done,
            }
        }
        Err(LogError::Closed)
    }

    /// Waits until the disk accepts writes, and reopens the store.
    fn mend(&mut self, failure: &LogError, failures: u32) -> Result<(), LogError> {
        let shared = Arc::clone(&self.shared);
        let waits = 1 << failures.min(5);
        let state = shared.disk.wait_for_writes(&failure.to_string(), waits).and_then(|()| shared.reopen());
        self.state = state.map_err(|failure| self.fail(failure))?;
        shared.publish(&self.state);
        shared.disk.writes_again();
        Ok(())
    }

    /// Records a final failure: nothing is written any more.
    fn fail(&self, failure: LogError) -> LogError {
        if !matches!(failure, LogError::Closed) {
            tracing::error!(error = %failure, "the log has failed");
        }
        self.shared.failure.get_or_init(|| failure).clone()
    }

    fn write(&mut self, store: &Store, group: &Group) -> fjall::Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        let (mut batch, mut state) = (store.batch(), self.state);
        self.put_events(store, &mut batch, &mut state, &group.events)?;
        self.put_rejected(store, &mut batch, &mut state, &group.rejected)?;
        for (name, value) in &group.assets {
            let key = text_key(name.as_str());
            let folded = if key == name.as_str().as_bytes() { "" } else { name.as_str() };
            let mut stored = Vec::with_capacity(4 + folded.len() + value.len());
            put_bytes(&mut stored, folded.as_bytes());
            stored.extend_from_slice(value);
            batch.insert(&store.assets, key, stored);
        }
        for (key, value) in &group.correlation {
            match value {
                Some(value) => batch.insert(&store.correlation, text_key(key), value.as_ref()),
                None => batch.remove(&store.correlation, text_key(key)),
            }
        }
        for (source, position) in &group.cursors {
            batch.insert(&store.cursors, text_key(&source.0), position.as_ref());
        }
        self.commit(store, batch, state)
    }

    fn put_events(
        &mut self,
        store: &Store,
        batch: &mut OwnedWriteBatch,
        state: &mut State,
        events: &[NewEvent],
    ) -> fjall::Result<()> {
        for run in block::split(events) {
            let sealed = block::encode(&mut self.sealer, run)?;
            state.bytes += sealed.len() as u64;
            batch.insert(&store.events, seq_key(state.tail.next()), sealed);
            for event in run {
                state.tail = state.tail.next();
                batch.insert(&store.ids, text_key(&event.head.id), seq_key(state.tail));
                let time = event.head.time.millis().to_be_bytes();
                batch.insert(&store.history, history_key(&event.head.asset, state.tail), time);
            }
        }
        Ok(())
    }

    fn put_rejected(
        &mut self,
        store: &Store,
        batch: &mut OwnedWriteBatch,
        state: &mut State,
        rejected: &[Rejected],
    ) -> fjall::Result<()> {
        let (mut fresh, mut seen) = (VecDeque::new(), HashSet::new());
        for rejected in rejected {
            let fingerprint = record::fingerprint(rejected);
            if !seen.insert(fingerprint) || store.fingerprints.contains_key(fingerprint)? {
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
                _ => drop_record(store, batch, state.quarantine_first)?,
            };
            state.quarantine_bytes = state.quarantine_bytes.saturating_sub(dropped.unwrap_or(0) as u64);
            state.quarantine_first += 1;
        }
        for (number, fingerprint, sealed) in fresh {
            batch.insert(&store.quarantine, number.to_be_bytes(), sealed);
            batch.insert(&store.fingerprints, fingerprint, number.to_be_bytes());
        }
        Ok(())
    }

    /// Drops the oldest blocks with their index entries in one commit. Returns whether there may be more to drop.
    fn drop_oldest(&mut self, store: &Store, goal: &Goal) -> fjall::Result<bool> {
        let (mut batch, mut state, mut events) = (store.batch(), self.state, 0);
        let (mut unsealer, mut more) = (Unsealer::default(), true);
        for _ in 0..STEP_BLOCKS {
            let Some(entry) = store.events.range(seq_key(state.floor)..).next() else {
                more = false;
                break;
            };
            let key = entry.key()?;
            let sealed = match store.events.get(&key) {
                Ok(sealed) => sealed,
                Err(error) if is_damage(&error) => None,
                Err(error) => return Err(error),
            };
            match block::header(sealed.as_deref().unwrap_or_default()) {
                Ok(header) if !goal.drops(header.last_observed, state.bytes) => more = false,
                // A newer version wrote it, and may read it yet.
                Err(Damage::Format(_)) => more = false,
                _ => {}
            }
            if !more || events >= STEP_EVENTS {
                break;
            }
            events += drop_block(store, &mut batch, &mut state, &mut unsealer, key, sealed.as_deref())?;
        }
        if state != self.state {
            // Readers see the floor move first: what they then miss, they know to have been dropped.
            self.shared.floor.store(state.floor.0, Ordering::Release);
            self.commit(store, batch, state)?;
            self.shared.publish(&state);
        }
        Ok(more)
    }

    fn commit(&mut self, store: &Store, mut batch: OwnedWriteBatch, state: State) -> fjall::Result<()> {
        batch.insert(&store.meta, "state", state.encode());
        #[cfg(test)]
        if self
            .shared
            .failing_commits
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(full().into());
        }
        let timer = self.shared.metrics.log_fsync_seconds.start_timer();
        batch.commit()?;
        timer.observe_duration();
        #[cfg(test)]
        if self.shared.fail_after_commit.swap(false, Ordering::SeqCst) {
            return Err(full().into());
        }
        self.state = state;
        Ok(())
    }
}

/// Removes a record from quarantine and returns its stored length.
fn drop_record(store: &Store, batch: &mut OwnedWriteBatch, number: u64) -> fjall::Result<Option<usize>> {
    let Some(sealed) = store.quarantine.get(number.to_be_bytes())? else { return Ok(None) };
    // The fingerprint of a damaged record stays behind; it keeps nothing but its own repetition out.
    if let Ok(fingerprint) = record::fingerprint_of(&sealed) {
        batch.remove(&store.fingerprints, fingerprint);
    }
    batch.remove(&store.quarantine, number.to_be_bytes());
    Ok(Some(sealed.len()))
}

/// Drops the block at `state.floor` and returns the number of its events.
fn drop_block(
    store: &Store,
    batch: &mut OwnedWriteBatch,
    state: &mut State,
    unsealer: &mut Unsealer,
    key: Slice,
    sealed: Option<&[u8]>,
) -> fjall::Result<usize> {
    let first = state.floor;
    let dropped =
        block::decode(unsealer, first, sealed.unwrap_or_default()).map(|block| block.heads).unwrap_or_else(|damage| {
            // Its index entries stay behind; they are below the floor, where no one looks.
            tracing::warn!(%first, %damage, "a damaged block is dropped");
            Vec::new()
        });
    for head in &dropped {
        let id = text_key(&head.id);
        // An event that was logged again has its id point to the later one.
        if store.ids.get(&id)?.is_some_and(|seq| *seq == seq_key(state.floor)) {
            batch.remove(&store.ids, id);
        }
        batch.remove(&store.history, history_key(&head.asset, state.floor));
        state.floor = state.floor.next();
    }
    if dropped.is_empty() {
        let next = store.events.range(seq_key(first.next())..).next().map(fjall::Guard::key).transpose()?;
        state.floor = next.and_then(|key| store.seq(&key).ok()).unwrap_or(state.tail.next());
    }
    let length = match sealed {
        Some(sealed) => sealed.len() as u64,
        None => store.events.size_of(&key)?.map_or(0, u64::from),
    };
    batch.remove(&store.events, key);
    state.bytes = state.bytes.saturating_sub(length);
    Ok(dropped.len())
}

/// The error of a full disk.
#[cfg(test)]
fn full() -> std::io::Error {
    std::io::Error::from_raw_os_error(28)
}

/// Whether the disk caused the failure, so that waiting can help, and not the data or the store. A disk that is full,
/// over quota or read-only is waited for without limit; other I/O errors become final after several `failures` in a
/// row.
fn is_of_the_disk(error: &fjall::Error, failures: u32) -> bool {
    const PATIENCE: u32 = 3;
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem => true,
            // What is no error of the system is one of ours.
            _ => error.raw_os_error().is_some() && failures <= PATIENCE,
        },
        // A write in the background failed.
        fjall::Error::Poisoned => failures <= PATIENCE,
        _ => false,
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let failure = LogError::Storage {
                action: APPEND,
                path: self.shared.disk.shown(),
                cause: "the writer stopped unexpectedly; restart catchment".to_owned(),
            };
            let _ = self.shared.failure.set(failure);
        }
    }
}
