//! A pipeline that accepts and keeps everything that a source delivers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use catchment::log::Pending;
use catchment::model::{RawRecord, Seq};
use catchment::source::{Intake, Submission};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// What has become durable.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) records: Vec<RawRecord>,
    pub(crate) cursor: Option<Bytes>,
}

#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub(crate) intake: Intake,
    kept: Arc<Mutex<Kept>>,
}

impl Pipeline {
    pub(crate) fn new() -> Self {
        let (intake, receiver) = Intake::new(4, 8 << 20);
        let kept = Arc::default();
        TaskTracker::new().spawn(work_off(receiver, Arc::clone(&kept)));
        Self { intake, kept }
    }

    pub(crate) fn cursor(&self) -> Option<Bytes> {
        self.kept.lock().unwrap().cursor.clone()
    }

    /// The `eventID` of every record, in order.
    pub(crate) fn event_ids(&self) -> Vec<String> {
        let id = |record: &RawRecord| {
            let record: serde_json::Value = serde_json::from_slice(&record.bytes).unwrap();
            record["eventID"].as_str().unwrap().to_owned()
        };
        self.kept.lock().unwrap().records.iter().map(id).collect()
    }

    /// Waits for this number of records; fails after 20 seconds.
    pub(crate) async fn until(&self, count: usize) {
        for _ in 0..2_000 {
            if self.kept.lock().unwrap().records.len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} records instead of {count}", self.kept.lock().unwrap().records.len());
    }
}

async fn work_off(mut receiver: mpsc::Receiver<Submission>, kept: Arc<Mutex<Kept>>) {
    while let Some(Submission { delivery, reply, permit, .. }) = receiver.recv().await {
        let (durable, pending) = Pending::new();
        {
            let mut kept = kept.lock().unwrap();
            kept.records.extend(delivery.records);
            kept.cursor = delivery.cursor.or(kept.cursor.take());
        }
        reply.send(Ok(pending)).ok();
        durable.send(Ok(Seq(1))).ok();
        drop(permit);
    }
}
