//! Normalization ahead of the ingest loop, including the look-up of records whose events are already in the log.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use tokio::sync::{mpsc, watch};
use tracing::field::Empty;
use tracing::{Span, debug_span, info_span};

use super::is_logged;
use super::process::first_id;
use crate::log::{EventLog, LogError};
use crate::model::SeedDocument;
use crate::normalize::{Engine, Outcome, Seeds};
use crate::source::Submission;

/// A delivery with the outcomes of its records.
pub(super) struct Normalized {
    pub(super) submission: Submission,
    pub(super) outcomes: Outcomes,
    pub(super) engine: Arc<Engine>,
    /// Covers the whole delivery.
    pub(super) span: Span,
}

/// The engine's outcomes, one for each record of the delivery, in the same order.
pub(super) enum Outcomes {
    Records(Vec<(Outcome, Known)>),
    /// The records are the items of a snapshot document.
    Seeds(Arc<SeedDocument>, Vec<Seeds>),
}

/// Whether the events of a record are in the log; `None` if that was not looked up, as for records without events.
/// Events appended after the look-up are among the recent ids that the [`Processor`](super::Processor) remembers.
pub(super) type Known = Option<Result<bool, LogError>>;

/// Normalizes deliveries until the intake is closed or the receiver of the outcomes is gone. Each delivery uses the
/// rules that are in force when it is received.
pub(super) fn run(
    mut engines: watch::Receiver<Arc<Engine>>,
    mut submissions: mpsc::Receiver<Submission>,
    normalized: &SyncSender<Normalized>,
    log: &dyn EventLog,
) {
    while let Some(submission) = submissions.blocking_recv() {
        let engine = Arc::clone(&engines.borrow_and_update());
        let delivery = &submission.delivery;
        let span = info_span!("delivery", source = %delivery.source, records = delivery.records.len(), events = Empty);
        let records = delivery.records.iter();
        let normalizing = debug_span!(parent: &span, "normalize").entered();
        let outcomes = match &submission.seed {
            None => Outcomes::Records(records.map(|record| read(&engine, log, &record.bytes)).collect()),
            Some(document) => {
                let found = records.map(|record| engine.seeds(&record.bytes, document)).collect();
                Outcomes::Seeds(Arc::clone(document), found)
            }
        };
        drop(normalizing);
        if normalized.send(Normalized { submission, outcomes, engine, span }).is_err() {
            return;
        }
    }
}

fn read(engine: &Engine, log: &dyn EventLog, record: &[u8]) -> (Outcome, Known) {
    let outcome = engine.normalize(record);
    let known = match &outcome {
        Outcome::Changes { record, .. } => Some(is_logged(log, &first_id(&record.event_id))),
        _ => None,
    };
    (outcome, known)
}
