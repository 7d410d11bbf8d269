//! Shared by the tests of sources: a pipeline that keeps what it receives, and a source running on it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Intake, SourceError, SourceStatus, StatusBoard, StatusHandle, Submission};
use crate::log::{LogError, Pending};
use crate::model::{RawRecord, Rejected, Seq};

/// What has become durable.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) records: Vec<RawRecord>,
    pub(crate) rejected: Vec<Rejected>,
    pub(crate) cursor: Option<Bytes>,
    pub(crate) deliveries: usize,
}

impl Kept {
    pub(crate) fn texts(&self) -> Vec<String> {
        self.records.iter().map(|record| String::from_utf8_lossy(&record.bytes).into_owned()).collect()
    }

    pub(crate) fn codes(&self) -> Vec<&'static str> {
        self.rejected.iter().map(|rejected| rejected.code).collect()
    }
}

/// A pipeline that keeps deliveries in memory, and can fail after a number of them.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub(crate) intake: Intake,
    pub(crate) kept: Arc<Mutex<Kept>>,
}

impl Pipeline {
    pub(crate) fn new() -> Self {
        Self::failing_after(usize::MAX, Arc::default())
    }

    /// Continues with the records of an earlier pipeline, and fails after this many more deliveries.
    pub(crate) fn failing_after(deliveries: usize, kept: Arc<Mutex<Kept>>) -> Self {
        let (intake, receiver) = Intake::new(4, 8 << 20);
        let tracker = TaskTracker::new();
        tracker.spawn(work_off(receiver, Arc::clone(&kept), deliveries));
        Self { intake, kept }
    }

    pub(crate) fn cursor(&self) -> Option<Bytes> {
        self.kept.lock().unwrap().cursor.clone()
    }

    /// Waits for a condition on what was delivered; panics after ten seconds.
    pub(crate) async fn until(&self, wished: impl Fn(&Kept) -> bool) {
        for _ in 0..10_000 {
            if wished(&self.kept.lock().unwrap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("still not as wished: {:?}", self.kept.lock().unwrap());
    }
}

async fn work_off(mut receiver: mpsc::Receiver<Submission>, kept: Arc<Mutex<Kept>>, deliveries: usize) {
    let mut taken = 0;
    while let Some(Submission { delivery, reply, permit, .. }) = receiver.recv().await {
        let (durable, pending) = Pending::new();
        if taken == deliveries {
            reply.send(Err(LogError::Closed)).ok();
            return;
        }
        taken += 1;
        {
            let mut kept = kept.lock().unwrap();
            kept.records.extend(delivery.records);
            kept.rejected.extend(delivery.rejected);
            kept.cursor = delivery.cursor.or(kept.cursor.take());
            kept.deliveries += 1;
        }
        reply.send(Ok(pending)).ok();
        durable.send(Ok(Seq(taken as u64))).ok();
        drop(permit);
    }
}

/// A source running on a pipeline; `T` is what its task returns.
pub(crate) struct Running<T = Result<(), SourceError>> {
    pub(crate) board: StatusBoard,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<T>,
}

impl<T: Send + 'static> Running<T> {
    /// Runs `source`, whose status is registered under `name`.
    pub(crate) fn start<F>(
        name: &str,
        kind: &'static str,
        pipeline: &Pipeline,
        source: impl FnOnce(Intake, StatusHandle, CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (board, stop) = (StatusBoard::default(), CancellationToken::new());
        let status = board.register(name.into(), kind);
        let task = TaskTracker::new().spawn(source(pipeline.intake.clone(), status, stop.clone()));
        Self { board, stop, task }
    }

    pub(crate) fn status(&self) -> SourceStatus {
        self.board.snapshot().into_values().next().unwrap()
    }

    /// Waits for a condition on the status; panics after ten seconds.
    pub(crate) async fn until(&self, wished: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
        for _ in 0..10_000 {
            let status = self.status();
            if wished(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("still {:?}", self.status());
    }

    /// Stops the source and returns its outcome.
    pub(crate) async fn end(self) -> T {
        self.stop.cancel();
        self.task.await.unwrap()
    }

    /// The same on a paused clock, on which the source must end without waiting for any timer.
    pub(crate) async fn end_at_once(self) -> T {
        let begun = Instant::now();
        let outcome = self.end().await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "a stop takes effect at once");
        outcome
    }
}
