//! The one pipeline loop: deliveries in; normalized, completed by the inventory and appended to the log; the source's
//! reply resolves when that is durable.
//!
//! It runs on a thread of its own, since it computes rather than waits. The log's writer is another, so that one
//! delivery is normalized while the one before is written.

mod encode;
mod process;

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{debug, error, info_span, warn};

pub use self::process::{Processed, Processor};
use crate::correlate::{self, Correlator};
use crate::inventory::Inventory;
use crate::log::{Batch, EventLog, LogError, Pending};
use crate::metrics::Metrics;
use crate::model::{RawRecord, Rejected, Seq, SourceId, Time};
use crate::normalize::Engine;
use crate::source::{Delivery, Submission};

/// Provider event ids remembered besides those in the log: more than can be on their way into it at once.
const RECENT_IDS: usize = 1 << 17;

/// The loop and what it works with.
pub struct Ingest {
    engine: Arc<Engine>,
    processor: Processor,
    log: Arc<dyn EventLog>,
    metrics: Arc<Metrics>,
    inventory: Arc<Inventory>,
    clock: Box<dyn FnMut() -> Time + Send>,
    observed: Time,
}

impl Ingest {
    /// Prepares the loop. `clock` tells the time, handed in so that tests choose it.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn new(
        engine: Arc<Engine>,
        inventory: Arc<Inventory>,
        log: Arc<dyn EventLog>,
        metrics: Arc<Metrics>,
        type_prefix: String,
        clock: Box<dyn FnMut() -> Time + Send>,
    ) -> Result<Self, LogError> {
        let observed = newest_observed(&*log)?;
        let mut processor = Processor::new(Arc::clone(&engine), Arc::clone(&inventory), type_prefix, RECENT_IDS);
        restore(processor.correlator(), &*log)?;
        Ok(Self { engine, processor, log, metrics, inventory, clock, observed })
    }

    /// Works until the intake is closed. Blocks: run it on a thread of its own.
    ///
    /// # Errors
    /// When the log fails. Nothing is taken after that: what is on disk is in doubt until the log is opened again.
    pub fn run(mut self, mut submissions: mpsc::Receiver<Submission>) -> Result<(), LogError> {
        while let Some(Submission { delivery, late, reply, permit }) = submissions.blocking_recv() {
            let _span = info_span!("ingest.batch", source = %delivery.source, count = delivery.records.len()).entered();
            self.processor.mark_late(late);
            let pending = self.take(delivery);
            drop(permit);
            let failed = pending.as_ref().err().cloned();
            // The source may have gone; its records are in the log all the same.
            let _ = reply.send(pending);
            if let Some(error) = failed {
                error!(%error, "the log failed; no more records are taken");
                return Err(error);
            }
        }
        debug!("intake closed");
        Ok(())
    }

    fn take(&mut self, delivery: Delivery) -> Result<Pending, LogError> {
        let Delivery { source, records, rejected, cursor } = delivery;
        // The order of the log is the order of `observed`, also when the clock goes back.
        self.observed = self.observed.max((self.clock)());
        let label = source.to_string();
        self.metrics.records_received.with_label_values(&[&label]).inc_by((records.len() + rejected.len()) as u64);
        let mut batch = Batch { cursor: cursor.map(|cursor| (source.clone(), cursor)), ..Batch::default() };
        for rejected in rejected {
            self.reject(&source, &mut batch, rejected);
        }
        for record in records {
            self.process(&source, record, &mut batch)?;
        }
        batch.correlation = self.processor.correlator().take_changes();
        let assets = i64::try_from(self.inventory.len()).unwrap_or(i64::MAX);
        self.metrics.assets.set(assets);
        self.log.append(batch)
    }

    fn process(&mut self, source: &SourceId, record: RawRecord, batch: &mut Batch) -> Result<(), LogError> {
        let log = &self.log;
        let processed = self.processor.process(&record.bytes, self.observed, |id| Ok(log.find(id)?.is_some()))?;
        let count = |outcome: &str| self.metrics.records.with_label_values(&[&source.0, outcome]).inc();
        match processed {
            Processed::Changes { events, assets, unmapped, .. } => {
                count("changes");
                if let Some((service, name)) = unmapped {
                    self.metrics.count_unmapped(&service, &name);
                }
                for event in &events {
                    self.metrics
                        .events
                        .with_label_values(&[event.head.provider.as_str(), event.head.action.as_str()])
                        .inc();
                }
                batch.events.extend(events);
                batch.assets.extend(assets.iter().map(|held| (held.name.clone(), held.encode())));
            }
            Processed::Skipped { reason, .. } => {
                count("skipped");
                self.metrics.skipped.with_label_values(&[&reason]).inc();
            }
            Processed::Duplicate { event_id } => {
                count("duplicate");
                debug!(event_id, "seen before");
            }
            Processed::Rejected { code, reason, .. } => {
                let RawRecord { bytes, origin } = record;
                self.reject(source, batch, Rejected { origin, code, reason, bytes, observed: self.observed });
            }
        }
        Ok(())
    }

    fn reject(&self, source: &SourceId, batch: &mut Batch, mut rejected: Rejected) {
        rejected.bytes = self.engine.redact_unparsed(rejected.bytes);
        self.metrics.records.with_label_values(&[&*source.0, "quarantined"]).inc();
        self.metrics.quarantined.with_label_values(&[rejected.code]).inc();
        batch.rejected.push(rejected);
    }
}

/// What correlation remembered before a restart.
fn restore(correlator: &mut Correlator, log: &dyn EventLog) -> Result<(), LogError> {
    let mut values = Vec::new();
    log.for_each_correlation(correlate::KEY_PREFIX, &mut |value| values.push(value))?;
    if let Err(error) = correlator.restore(values) {
        // It helps attribution, no event depends on it: better to start without than not to start.
        warn!(%error, "what correlation remembered can't be read; it begins anew");
    }
    Ok(())
}

/// When the newest event in the log was observed.
fn newest_observed(log: &dyn EventLog) -> Result<Time, LogError> {
    let tail = *log.tail().borrow();
    if log.floor() > tail {
        return Ok(Time::from_millis(i64::MIN));
    }
    let blocks = log.read(Seq(tail.0.saturating_sub(1)), 1)?;
    let newest = blocks.iter().flat_map(|block| &block.heads).map(|head| head.observed).max();
    Ok(newest.unwrap_or(Time::from_millis(i64::MIN)))
}
