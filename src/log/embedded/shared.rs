//! The state that the writer shares with readers, and the location of the store.

use std::collections::BTreeSet;
#[cfg(test)]
use std::sync::atomic::AtomicU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tokio::sync::watch;

use super::disk::Disk;
use super::store::{State, Store};
use crate::log::newest::Newest;
use crate::log::{LogError, QuarantineSize, Retention, report};
use crate::metrics::Metrics;
use crate::model::Seq;

/// The state shared between the writer and readers.
pub(super) struct Shared {
    pub(super) tail: watch::Sender<Seq>,
    pub(super) floor: AtomicU64,
    pub(super) newest: Newest,
    bytes: AtomicU64,
    retention: Mutex<Retention>,
    quarantine: Mutex<QuarantineSize>,
    /// The error of a write that failed for good; nothing is accepted after it.
    pub(super) failure: OnceLock<LogError>,
    pub(super) disk: Disk,
    /// The last positions of the damaged runs found so far.
    damaged: Mutex<BTreeSet<Seq>>,
    /// The open store. Locked while it is reopened, so that readers wait; `None` if that failed.
    store: RwLock<Option<Store>>,
    /// Whether the writer is waiting to reopen the store.
    is_wanted: AtomicBool,
    pub(super) metrics: Arc<Metrics>,
    /// The number of next commits that are to fail.
    #[cfg(test)]
    pub(super) failing_commits: AtomicU32,
    /// Whether the next commit is to report a failure after it succeeded.
    #[cfg(test)]
    pub(super) fail_after_commit: AtomicBool,
}

impl Shared {
    pub(super) fn new(store: Store, state: &State, disk: Disk, retention: Retention, metrics: Arc<Metrics>) -> Self {
        let shared = Self {
            tail: watch::Sender::new(state.tail),
            floor: AtomicU64::new(state.floor.0),
            newest: Newest::default(),
            bytes: AtomicU64::new(state.bytes),
            retention: Mutex::new(retention),
            quarantine: Mutex::new(state.quarantine_size()),
            failure: OnceLock::new(),
            disk,
            damaged: Mutex::default(),
            store: RwLock::new(Some(store)),
            is_wanted: AtomicBool::new(false),
            metrics,
            #[cfg(test)]
            failing_commits: AtomicU32::new(0),
            #[cfg(test)]
            fail_after_commit: AtomicBool::new(false),
        };
        shared.publish(state);
        shared
    }

    /// Runs `work` on the open store. Must not be nested.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Store) -> Result<T, LogError>) -> Result<T, LogError> {
        match &*self.store.read().unwrap_or_else(PoisonError::into_inner) {
            Some(store) => work(store),
            None => Err(self.failure.get().cloned().unwrap_or(LogError::Closed)),
        }
    }

    /// Logs and counts a damaged run that ends at `last`, once however often it is read. Returns the report.
    pub(super) fn set_aside(&self, last: Seq, report: LogError) -> LogError {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged.insert(last) {
            tracing::error!(error = %report, "events are lost; subscribers get a gap");
        }
        self.metrics.log_damaged_runs.set(i64::try_from(damaged.len()).unwrap_or(i64::MAX));
        report
    }

    /// Whether long operations should release the store.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Acquire)
    }

    /// Closes and reopens the store, once no one is using it.
    pub(super) fn reopen(&self) -> Result<State, LogError> {
        self.is_wanted.store(true, Ordering::Release);
        let mut place = self.store.write().unwrap_or_else(PoisonError::into_inner);
        self.is_wanted.store(false, Ordering::Release);
        let Some(store) = place.take() else { return Err(LogError::Closed) };
        let (store, state) = store.reopen()?;
        *place = Some(store);
        Ok(state)
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

    pub(super) fn publish(&self, state: &State) {
        self.floor.store(state.floor.0, Ordering::Release);
        self.bytes.store(state.bytes, Ordering::Release);
        let quarantine = state.quarantine_size();
        *self.quarantine.lock().unwrap_or_else(PoisonError::into_inner) = quarantine;
        report(&self.metrics, state.floor, state.tail, state.bytes, quarantine);
        self.tail.send_replace(state.tail);
    }
}
