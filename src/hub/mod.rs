//! The hub: follows the log, encodes each event once, and serves every subscriber as a cursor.
//!
//! The newest events lie encoded in a ring; older ones are read from the log, through a cache that all readers share.
//! A subscriber (`reader`) owns no queue: it asks for what follows its cursor, from wherever that is, so replay and
//! follow are the same loop, and a slow subscriber costs reads, not memory. What each filter passes of a new event is
//! found once (`matching`).

mod cel;
mod compressed;
mod fanout;
mod files;
mod filter;
mod gzip;
mod lag;
mod matching;
mod passing;
mod projection;
mod reader;
mod ring;
mod segment;
mod shape;
mod subscription;
#[cfg(test)]
pub(crate) mod testing;
mod wire;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, GuardResult};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::log::{Block, EventLog, LogError};
use crate::model::{Epoch, Seq};
use crate::retry::Backoff;

pub use cel::{Expression, ExpressionError, View};
pub use fanout::{FanOut, FanOutConfig, PlainStream};
pub use filter::{AssetTypes, AssetView, Filter, FilterError, OneOf};
pub use lag::Lag;
pub use matching::{Filters, InternedFilter, Matches};
pub use projection::{Projection, ProjectionError};
pub use reader::{ClosingReason, Gap, GapReason, Notice, Start, SubscriptionOptions};
pub use segment::Format;
pub use subscription::{Output, Subscription};
pub use wire::{CutOff, OpenStream, Wire};

use files::MemoryFiles;
use ring::Ring;
use segment::{Encoding, SEGMENT_BYTES, Segment};

/// Concurrent reads of old events: enough to keep a disk busy, few enough to bound memory.
const CONCURRENT_READS: usize = 16;
/// Larger texts are encoded on a blocking thread (about 200 µs of work).
const ENCODE_INLINE_BYTES: usize = 64 * 1024;
/// The same for new events, against which all filters are evaluated.
const READ_INLINE_BYTES: usize = 16 * 1024;

/// Memory limits of the hub.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// Bytes of the newest events kept encoded.
    pub ring_bytes: usize,
    /// Bytes of each of two caches: older events read back from the log, and other encodings.
    pub cache_bytes: u64,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self { ring_bytes: 64 << 20, cache_bytes: 32 << 20 }
    }
}

/// Identifies an encoded segment by its events and encoding.
#[derive(Clone, PartialEq, Eq, Hash)]
struct EncodedKey {
    first: Seq,
    last: Seq,
    encoding: Encoding,
}

/// The outcome of [`Hub::load`]: a segment in the base encoding, and in another one if that was requested.
#[derive(Debug)]
pub(crate) struct Loaded {
    base: Arc<Segment>,
    encoded: Option<Arc<Segment>>,
}

#[derive(Clone)]
struct ByWeight;

impl<K> Weighter<K, Arc<Segment>> for ByWeight {
    fn weight(&self, _key: &K, segment: &Arc<Segment>) -> u64 {
        (segment.weight() as u64).max(1)
    }
}

/// The log as subscribers see it. Shared by reference; see the [module](self).
pub struct Hub {
    log: Arc<dyn EventLog>,
    epoch: Epoch,
    ring: RwLock<Ring>,
    /// Segments read back from the log, by the position before them.
    replayed: Cache<Seq, Arc<Segment>, ByWeight>,
    encoded: Cache<EncodedKey, Arc<Segment>, ByWeight>,
    filters: Filters,
    readers: lag::Readers,
    files: MemoryFiles,
    /// Every reader holds a clone, so that its count shows whether there are any.
    listener: Arc<()>,
    reads: Semaphore,
    tail: watch::Sender<Seq>,
    /// The value of `tail`, set just before it. Streams read it several times per event, so it must not be behind a
    /// lock.
    newest: AtomicU64,
    following: AtomicBool,
}

impl Hub {
    /// Creates a hub at the log's tail. It follows the log once [`follow`](Hub::follow) runs.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, config: &HubConfig) -> Arc<Self> {
        let tail = *log.tail().borrow();
        // Only an estimate for the cache's tables; the weight is the bound.
        let items = usize::try_from(config.cache_bytes).unwrap_or(usize::MAX) / SEGMENT_BYTES + 1;
        Arc::new(Self {
            epoch: log.epoch(),
            ring: RwLock::new(Ring::new(config.ring_bytes)),
            replayed: Cache::with_weighter(items, config.cache_bytes, ByWeight),
            encoded: Cache::with_weighter(items, config.cache_bytes, ByWeight),
            filters: Filters::default(),
            readers: lag::Readers::default(),
            files: MemoryFiles::default(),
            listener: Arc::default(),
            reads: Semaphore::new(CONCURRENT_READS),
            tail: watch::Sender::new(tail),
            newest: AtomicU64::new(tail.0),
            following: AtomicBool::new(false),
            log,
        })
    }

    /// Creates a hub whose task runs on `tracker` until `stop` is cancelled.
    #[must_use]
    pub fn start(
        log: Arc<dyn EventLog>,
        config: &HubConfig,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let hub = Self::new(log, config);
        tracker.spawn(Arc::clone(&hub).follow(stop));
        hub
    }

    /// The identity of the log.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The newest event available to subscribers.
    #[must_use]
    pub fn tail(&self) -> Seq {
        Seq(self.newest.load(Ordering::Acquire))
    }

    /// Publishes a new tail; its events must be in the ring already.
    fn move_tail(&self, tail: Seq) {
        self.newest.store(tail.0, Ordering::Release);
        self.tail.send_replace(tail);
    }

    /// The oldest event kept.
    #[must_use]
    pub fn floor(&self) -> Seq {
        self.log.floor()
    }

    /// Whether the hub follows the log: it is running, and its last read succeeded.
    #[must_use]
    pub fn is_following(&self) -> bool {
        self.following.load(Ordering::Relaxed)
    }

    /// How far behind the subscribers are.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let tail = self.tail();
        let in_memory = self.ring.read().unwrap_or_else(PoisonError::into_inner).first();
        self.readers.lag(tail, in_memory.unwrap_or(tail.next()))
    }

    /// Encodes new events of the log until `stop` is cancelled. Failed reads are retried with exponential backoff.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut log_tail = self.log.tail();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            let target = *log_tail.borrow_and_update();
            let wait = match self.catch_up(target, &stop).await {
                Ok(()) => {
                    self.following.store(true, Ordering::Relaxed);
                    backoff.reset();
                    None
                }
                Err(LogError::Closed) => break,
                Err(error) => {
                    self.following.store(false, Ordering::Relaxed);
                    tracing::error!(%error, "hub can't read the log; retrying");
                    Some(backoff.next_wait())
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep(wait), if wait.is_some() => {}
                changed = log_tail.changed(), if wait.is_none() => if changed.is_err() { break },
            }
        }
        self.following.store(false, Ordering::Relaxed);
    }

    /// Whether there is any subscriber.
    fn is_listened_to(&self) -> bool {
        Arc::strong_count(&self.listener) > 1
    }

    /// Moves the hub's tail to `target`. Without subscribers, events are not encoded; later subscribers read them from
    /// the log.
    async fn catch_up(&self, target: Seq, stop: &CancellationToken) -> Result<(), LogError> {
        if self.tail() < target && !self.is_listened_to() {
            self.move_tail(target);
        }
        while self.tail() < target && !stop.is_cancelled() {
            match self.read_new(self.tail()).await {
                Ok(segment) => {
                    let last = segment.last();
                    self.ring.write().unwrap_or_else(PoisonError::into_inner).push(segment);
                    self.move_tail(last);
                }
                // Retention overtook the hub. Subscribers meet the same hole and are told.
                Err(LogError::BelowFloor { after, floor }) if floor > after.next() => {
                    tracing::warn!(%after, %floor, "retention dropped events before the hub saw them");
                    self.move_tail(Seq(floor.0 - 1));
                }
                // The same goes for what the disk has lost.
                Err(LogError::Damaged { last, .. }) if last > self.tail() => {
                    self.move_tail(last);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Loads the segment that holds the event after a position; `None` at the tail.
    async fn load(&self, after: Seq, encoding: &Encoding) -> Result<Option<Loaded>, LogError> {
        if after >= self.tail() {
            return Ok(None);
        }
        let base = match self.in_ring(after) {
            Some(segment) => segment,
            None => self.replayed.get_or_insert_async(&after, self.replay(after)).await?,
        };
        if base.serves(encoding) {
            return Ok(Some(Loaded { base, encoded: None }));
        }
        let key = EncodedKey { first: base.first(), last: base.last(), encoding: encoding.clone() };
        let make = async {
            let (epoch, encoding, segment) = (self.epoch, encoding.clone(), Arc::clone(&base));
            blocking(move || Ok(Arc::new(segment.encode_as(epoch, &encoding)))).await
        };
        let encoded = self.encoded.get_or_insert_async(&key, make).await?;
        Ok(Some(Loaded { base, encoded: Some(encoded) }))
    }

    /// The base segment that [`load`](Hub::load) would return, if it is in the ring or the cache.
    fn in_memory(&self, after: Seq) -> Option<Arc<Segment>> {
        self.in_ring(after).or_else(|| self.replayed.get(&after))
    }

    fn in_ring(&self, after: Seq) -> Option<Arc<Segment>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).get(after)
    }

    /// A segment in another encoding, produced once for all subscribers; `None` if that would take long or is under way
    /// on another task, since waiting here could block the very thread which that task needs.
    fn encoded(&self, segment: &Arc<Segment>, encoding: &Encoding) -> Option<Arc<Segment>> {
        let key = EncodedKey { first: segment.first(), last: segment.last(), encoding: encoding.clone() };
        if segment.text_bytes() > ENCODE_INLINE_BYTES {
            return self.encoded.get(&key);
        }
        match self.encoded.get_value_or_guard(&key, Some(Duration::ZERO)) {
            GuardResult::Value(encoded) => Some(encoded),
            GuardResult::Guard(guard) => {
                let encoded = Arc::new(segment.encode_as(self.epoch, encoding));
                // Refused when it was removed meanwhile: the next who asks makes it anew.
                let _ = guard.insert(Arc::clone(&encoded));
                Some(encoded)
            }
            GuardResult::Timeout => None,
        }
    }

    /// [`read`](Hub::read) for subscribers that are behind, at most [`CONCURRENT_READS`] at once. Reads of new events
    /// don't queue behind these.
    async fn replay(&self, after: Seq) -> Result<Arc<Segment>, LogError> {
        let _permit = self.reads.acquire().await.map_err(|_| LogError::Closed)?;
        self.read(after, None).await
    }

    /// Encodes the events after a position that are new, and evaluates the filters against them.
    async fn read_new(&self, after: Seq) -> Result<Arc<Segment>, LogError> {
        let (epoch, filters) = (self.epoch, self.filters.clone());
        match self.log.read_newest(after, SEGMENT_BYTES) {
            // Few, as when they come one by one: to hand them to another thread would cost more.
            Some(block) if block.lines.len() <= READ_INLINE_BYTES => encode(epoch, after, vec![block], Some(&filters)),
            Some(block) => blocking(move || encode(epoch, after, vec![block], Some(&filters))).await,
            None => self.read(after, Some(filters)).await,
        }
    }

    /// Reads and encodes the events after a position before the log's tail, and evaluates filters against them.
    async fn read(&self, after: Seq, filters: Option<Filters>) -> Result<Arc<Segment>, LogError> {
        let (log, epoch) = (Arc::clone(&self.log), self.epoch);
        blocking(move || encode(epoch, after, log.read(after, SEGMENT_BYTES)?, filters.as_ref())).await
    }

    /// The JSON of the events at these positions, in the same order. Events that were dropped or lost are left out.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn events(&self, positions: Vec<Seq>) -> Result<Vec<(Seq, Bytes)>, LogError> {
        let _permit = self.reads.acquire().await.map_err(|_| LogError::Closed)?;
        let log = Arc::clone(&self.log);
        blocking(move || {
            let mut events = Vec::with_capacity(positions.len());
            for seq in positions {
                if let Some(json) = read_one(log.as_ref(), seq)? {
                    events.push((seq, json));
                }
            }
            Ok(events)
        })
        .await
    }
}

/// Encodes the events of `blocks` after a position.
fn encode(epoch: Epoch, after: Seq, blocks: Vec<Block>, filters: Option<&Filters>) -> Result<Arc<Segment>, LogError> {
    let segment = Segment::encode(epoch, after, blocks)?.ok_or_else(|| LogError::Storage {
        action: "read events",
        path: format!("the log after position {after}"),
        cause: "nothing there, though the tail is further on".to_owned(),
    })?;
    if let Some(filters) = filters {
        segment.match_filters(filters);
    }
    Ok(Arc::new(segment))
}

fn read_one(log: &dyn EventLog, seq: Seq) -> Result<Option<Bytes>, LogError> {
    let blocks = match log.read(Seq(seq.0.saturating_sub(1)), 1) {
        Ok(blocks) => blocks,
        Err(error) if error.is_gone() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(blocks.first().and_then(|block| block.event(seq)))
}

/// Runs work that may block on the disk on a blocking thread.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, LogError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, LogError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let cause = error.to_string();
        Err(LogError::Storage { action: "wait for the log", path: "a blocking thread".to_owned(), cause })
    })
}

async fn sleep(wait: Option<Duration>) {
    if let Some(wait) = wait {
        tokio::time::sleep(wait).await;
    }
}
