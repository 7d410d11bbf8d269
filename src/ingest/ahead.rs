//! Normalizing ahead of the loop.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use tokio::sync::{mpsc, watch};

use crate::normalize::{Engine, Outcome};
use crate::source::Submission;

/// A delivery, and what the engine made of its records.
pub(super) struct Normalized {
    pub(super) submission: Submission,
    /// One for each record, in their order.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) engine: Arc<Engine>,
}

/// Normalizes what comes, until the intake is closed or nobody takes the outcomes any more. The rules in force may be
/// replaced between deliveries.
pub(super) fn run(
    mut engines: watch::Receiver<Arc<Engine>>,
    mut submissions: mpsc::Receiver<Submission>,
    normalized: &SyncSender<Normalized>,
) {
    while let Some(submission) = submissions.blocking_recv() {
        let engine = Arc::clone(&engines.borrow_and_update());
        let outcomes = submission.delivery.records.iter().map(|record| engine.normalize(&record.bytes)).collect();
        if normalized.send(Normalized { submission, outcomes, engine }).is_err() {
            return;
        }
    }
}
