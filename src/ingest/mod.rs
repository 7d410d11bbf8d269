//! The single pipeline loop: it takes deliveries, normalizes their records, completes the drafts from the inventory and
//! appends the events to the log. The reply to the source resolves once they are durable.
//!
//! The loop runs on a thread of its own, because it computes rather than waits. Normalization, which needs no state,
//! runs ahead of it on a second thread, and the log's writer is a third. So one delivery is normalized while the
//! previous one is completed and the one before that is written, and all of them stay in order.
//!
//! Between deliveries the loop emits the changes of operations whose end did not arrive in time.

mod ahead;
mod encode;
mod order;
mod past;
mod process;
mod seed;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::{Span, debug, error, warn};

use self::ahead::{Known, Normalized, Outcomes};
use self::process::History;
pub use self::process::{Processed, Processor};
use crate::correlate::{self, Correlator, Novelties, Operations};
use crate::inventory::{Held, Inventory};
use crate::log::{Batch, EventLog, LogError, NewEvent, Pending};
use crate::metrics::Metrics;
use crate::model::{AssetName, NoveltyLimits, Origin, RawRecord, Rejected, Seq, SourceId, Time};
use crate::normalize::{Engine, Outcome};
use crate::source::{Delivery, Submission};

/// Number of provider event ids remembered besides those in the log: more than can be on their way into it at once.
const RECENT_IDS: usize = 1 << 17;

/// Number of normalized deliveries that may wait for the loop.
const AHEAD: usize = 1;

/// How often pending operations are checked for expiry.
const TICK: Duration = Duration::from_secs(1);

/// Settings of the ingest loop.
#[derive(Clone, Debug)]
pub struct IngestConfig {
    /// The prefix of the CloudEvents `type`: `io.catchment`.
    pub type_prefix: String,
    /// Limits of the memory that decides what is new about a change.
    pub novelty: NoveltyLimits,
}

/// The ingest loop and its state.
pub struct Ingest {
    /// The rules in force, which may be replaced between two deliveries.
    engines: watch::Receiver<Arc<Engine>>,
    engine: Arc<Engine>,
    processor: Processor,
    log: Arc<dyn EventLog>,
    metrics: Arc<Metrics>,
    inventory: Arc<Inventory>,
    clock: Box<dyn FnMut() -> Time + Send>,
    observed: Time,
    /// The new state of the assets changed in the current batch: each is stored once, however often it changes.
    changed: HashMap<AssetName, Arc<Held>>,
}

impl Ingest {
    /// Prepares the loop and restores the correlation state from the log. `clock` returns the current time; tests pass
    /// their own.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn new(
        engines: watch::Receiver<Arc<Engine>>,
        inventory: Arc<Inventory>,
        log: Arc<dyn EventLog>,
        metrics: Arc<Metrics>,
        config: IngestConfig,
        clock: Box<dyn FnMut() -> Time + Send>,
    ) -> Result<Self, LogError> {
        let observed = newest_observed(&*log)?;
        let engine = Arc::clone(&engines.borrow());
        let mut processor = Processor::new(Arc::clone(&engine), Arc::clone(&inventory), config.type_prefix, RECENT_IDS);
        restore(processor.correlator(), &*log)?;
        restore_operations(processor.operations(), &*log)?;
        *processor.novelties() = restored_novelties(config.novelty, &*log)?;
        let told = Arc::clone(&log);
        processor.set_history(History(Box::new(move |engine, asset, time| past::past(&*told, engine, asset, time))));
        let changed = HashMap::new();
        Ok(Self { engines, engine, processor, log, metrics, inventory, clock, observed, changed })
    }

    /// Runs until the intake is closed. Blocks: call it on a thread of its own, within a Tokio runtime.
    ///
    /// # Errors
    /// When the log fails. Nothing more is accepted then: what is on disk is unknown until the log is reopened.
    pub fn run(mut self, submissions: mpsc::Receiver<Submission>) -> Result<(), LogError> {
        let (sender, normalized) = sync_channel(AHEAD);
        let engines = self.engines.clone();
        let log = Arc::clone(&self.log);
        let ahead = Handle::current().spawn_blocking(move || ahead::run(engines, submissions, &sender, &*log));
        while let Some(received) = self.receive(&normalized) {
            let Some(Normalized { submission, outcomes, engine, span }) = received else {
                // Due by time alone: no source waits for a reply.
                self.processor.mark_late(false);
                self.tell_due()?;
                continue;
            };
            let Submission { delivery, late, reply, permit, .. } = submission;
            let _span = span.entered();
            self.use_rules(engine);
            self.processor.mark_late(late);
            let pending = self.take(delivery, outcomes);
            drop(permit);
            let failed = pending.as_ref().err().cloned();
            // The source may be gone; its records are appended all the same.
            let _ = reply.send(pending);
            if let Some(error) = failed {
                error!(%error, "the log failed; intake has stopped");
                return Err(error);
            }
        }
        debug!("intake closed");
        if let Err(error) = Handle::current().block_on(ahead)
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
        Ok(())
    }

    /// The next delivery; `Some(None)` when pending operations are to be checked; `None` when the intake is closed.
    fn receive(&mut self, normalized: &Receiver<Normalized>) -> Option<Option<Normalized>> {
        if self.processor.operations().is_idle() {
            return normalized.recv().ok().map(Some);
        }
        match normalized.recv_timeout(TICK) {
            Ok(next) => Some(Some(next)),
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Switches to the rules that the next records were normalized with.
    fn use_rules(&mut self, engine: Arc<Engine>) {
        if !Arc::ptr_eq(&self.engine, &engine) {
            self.engine = Arc::clone(&engine);
            self.processor.use_rules(engine);
        }
    }

    /// Appends the changes of operations that are due, without a delivery.
    fn tell_due(&mut self) -> Result<(), LogError> {
        self.observed = self.observed.max((self.clock)());
        let mut batch = Batch::default();
        self.finish(&mut batch)?;
        if !batch.events.is_empty() || !batch.rejected.is_empty() || !batch.correlation.is_empty() {
            let _durable = self.log.append(batch)?;
        }
        Ok(())
    }

    /// Completes a batch: adds the changes of operations that have waited long enough, the changed assets and the
    /// changes of the correlation state.
    fn finish(&mut self, batch: &mut Batch) -> Result<(), LogError> {
        let source = SourceId::from("operations");
        while let Some(records) = self.processor.operations().due(self.observed) {
            let log = &self.log;
            let processed = self.processor.tell(&records, self.observed, |id| is_logged(&**log, id))?;
            match processed {
                Processed::Changes { events, assets, unmapped, .. } => {
                    self.changes(events, assets, unmapped, batch);
                }
                Processed::Rejected { code, reason, .. } => {
                    let bytes = records.into_iter().next_back().unwrap_or_default();
                    let origin = Origin { source: source.clone(), location: "operations in progress".into(), index: 0 };
                    self.metrics.quarantined.with_label_values(&[code]).inc();
                    batch.rejected.push(Rejected { origin, code, reason, bytes, observed: self.observed });
                }
                Processed::Skipped { .. } | Processed::Duplicate { .. } | Processed::Folded => {}
            }
        }
        batch.assets = self.changed.drain().map(|(name, held)| (name, held.stored().clone())).collect();
        batch.correlation = self.processor.correlator().take_changes();
        batch.correlation.extend(self.processor.operations().take_changes());
        batch.correlation.extend(self.processor.novelties().take_changes());
        let waiting = i64::try_from(self.processor.operations().waiting()).unwrap_or(i64::MAX);
        self.metrics.operations_waiting.set(waiting);
        let remembered = i64::try_from(self.processor.novelties().remembered()).unwrap_or(i64::MAX);
        self.metrics.novelty_facts.set(remembered);
        Ok(())
    }

    /// Adds the events and assets of one record to the batch, and counts them.
    fn changes(
        &mut self,
        events: Vec<NewEvent>,
        assets: Vec<Arc<Held>>,
        unmapped: Option<(String, String)>,
        batch: &mut Batch,
    ) {
        if let Some((service, name)) = unmapped {
            self.metrics.count_unmapped(&service, &name);
        }
        for event in &events {
            self.metrics.events.with_label_values(&[event.head.provider.as_str(), event.head.action.as_str()]).inc();
            for facet in event.head.novelty.names() {
                self.metrics.novel_events.with_label_values(&[facet]).inc();
            }
        }
        batch.events.extend(events);
        self.changed.extend(assets.into_iter().map(|held| (held.name().clone(), held)));
    }

    /// Processes a delivery and appends its batch to the log.
    fn take(&mut self, delivery: Delivery, outcomes: Outcomes) -> Result<Pending, LogError> {
        let Delivery { source, records, rejected, cursor } = delivery;
        // `observed` never decreases along the log, even when the clock is set back.
        self.observed = self.observed.max((self.clock)());
        let label = source.to_string();
        self.metrics.records_received.with_label_values(&[&label]).inc_by((records.len() + rejected.len()) as u64);
        let mut batch = Batch { cursor: cursor.map(|cursor| (source.clone(), cursor)), ..Batch::default() };
        for rejected in rejected {
            self.reject(&source, &mut batch, rejected);
        }
        match outcomes {
            Outcomes::Records(outcomes) => {
                for (record, outcome) in order::in_order(records, outcomes) {
                    self.process(&source, record, outcome, &mut batch)?;
                }
            }
            Outcomes::Seeds(document, found) => {
                for (record, found) in records.into_iter().zip(found) {
                    self.seed(&source, record, found, &document, &mut batch);
                }
            }
        }
        self.finish(&mut batch)?;
        let assets = i64::try_from(self.inventory.len()).unwrap_or(i64::MAX);
        self.metrics.assets.set(assets);
        Span::current().record("events", batch.events.len());
        self.log.append(batch)
    }

    /// Completes one record, adds the result to the batch and counts its outcome.
    fn process(
        &mut self,
        source: &SourceId,
        record: RawRecord,
        (outcome, known): (Outcome, Known),
        batch: &mut Batch,
    ) -> Result<(), LogError> {
        let log = &self.log;
        let is_known = |id: &str| known.unwrap_or_else(|| is_logged(&**log, id));
        let processed = self.processor.complete(outcome, self.observed, is_known)?;
        let count = |outcome: &str| self.metrics.records.with_label_values(&[&source.0, outcome]).inc();
        match processed {
            Processed::Changes { events, assets, unmapped, .. } => {
                count("changes");
                self.changes(events, assets, unmapped, batch);
            }
            Processed::Folded => count("folded"),
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

    /// Adds a rejected record to the batch, redacted, and counts it.
    fn reject(&self, source: &SourceId, batch: &mut Batch, rejected: Rejected) {
        self.metrics.records.with_label_values(&[&*source.0, "quarantined"]).inc();
        self.quarantine(batch, rejected);
    }

    /// Adds a rejected record, or a part of one, to the batch, redacted, and counts its code.
    fn quarantine(&self, batch: &mut Batch, mut rejected: Rejected) {
        rejected.bytes = self.engine.redact_rejected(rejected.bytes);
        rejected.reason = self.engine.redact_reason(rejected.reason);
        self.metrics.quarantined.with_label_values(&[rejected.code]).inc();
        batch.rejected.push(rejected);
    }
}

fn is_logged(log: &dyn EventLog, id: &str) -> Result<bool, LogError> {
    Ok(log.find(id)?.is_some())
}

/// Restores what the correlator remembered before a restart.
fn restore(correlator: &mut Correlator, log: &dyn EventLog) -> Result<(), LogError> {
    let mut values = Vec::new();
    for prefix in correlate::KEY_PREFIXES {
        log.for_each_correlation(prefix, &mut |value| values.push(value))?;
    }
    if let Err(error) = correlator.restore(values) {
        // It only improves attribution, and no event depends on it: better to start without it than not at all.
        warn!(%error, "the correlation state can't be read; starting without it");
    }
    Ok(())
}

/// Restores the operations that were pending before a restart.
fn restore_operations(operations: &mut Operations, log: &dyn EventLog) -> Result<(), LogError> {
    let mut values = Vec::new();
    log.for_each_correlation(correlate::OPERATIONS_PREFIX, &mut |value| values.push(value))?;
    if let Err(error) = operations.restore(values) {
        warn!(%error, "pending operations can't be read; those that began before the restart are sent without their start");
    }
    Ok(())
}

/// Restores the novelty state of before a restart.
fn restored_novelties(limits: NoveltyLimits, log: &dyn EventLog) -> Result<Novelties, LogError> {
    let mut novelties = Novelties::new(limits);
    let mut values = Vec::new();
    log.for_each_correlation(correlate::NOVELTY_PREFIX, &mut |value| values.push(value))?;
    let strange = novelties.restore(values);
    if strange > 0 {
        warn!(values = strange, "part of the novelty state can't be read; some facts may be reported as new again");
    }
    Ok(novelties)
}

/// The `observed` time of the newest event in the log; the earliest possible time if the log is empty.
fn newest_observed(log: &dyn EventLog) -> Result<Time, LogError> {
    let tail = *log.tail().borrow();
    if log.floor() > tail {
        return Ok(Time::from_millis(i64::MIN));
    }
    let blocks = match log.read(Seq(tail.0.saturating_sub(1)), 1) {
        // Reported by the log.
        Err(error) if error.is_gone() => Vec::new(),
        read => read?,
    };
    let newest = blocks.iter().flat_map(|block| &block.heads).map(|head| head.observed).max();
    Ok(newest.unwrap_or(Time::from_millis(i64::MIN)))
}
