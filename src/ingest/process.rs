//! Processing of one record: normalization, correlation, inventory, encoding.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::encode::EventParts;
use crate::correlate::{Correlator, Folded, Novelties, Operations};
use crate::inventory::{Held, Inventory, PastChange};
use crate::json::Arena;
use crate::log::NewEvent;
use crate::model::{Action, AssetName, Confidence, Draft, FastState, Novelty, OperationRecord, RecordInfo, Time};
use crate::normalize::{Engine, Outcome};

/// The result of processing a record.
#[derive(Debug)]
pub enum Processed {
    /// The record changes assets.
    Changes {
        /// One event per asset.
        events: Vec<NewEvent>,
        /// The new state of the assets.
        assets: Vec<Arc<Held>>,
        /// Service and name of the call, if only a generic rule covers it.
        unmapped: Option<(String, String)>,
        /// The rule of the first event.
        rule: Arc<str>,
    },
    /// The record changes no asset.
    Skipped {
        /// Why.
        reason: Arc<str>,
        /// The rule that skipped it, if a rule did.
        rule: Option<Arc<str>>,
    },
    /// The record is one of several that describe the same operation: the change follows with the last of them.
    Folded,
    /// Its events are already in the log or on their way into it.
    Duplicate {
        /// The provider's event id.
        event_id: String,
    },
    /// The record was not understood.
    Rejected {
        /// A stable code, used as a metric label.
        code: &'static str,
        /// What is wrong, and what to do about it.
        reason: String,
        /// The rule that could not be applied.
        rule: Option<Arc<str>>,
    },
}

/// Processes records one after another. Holds the engine, the inventory and the correlation state.
#[derive(Debug)]
pub struct Processor {
    pub(super) engine: Arc<Engine>,
    pub(super) inventory: Arc<Inventory>,
    correlator: Correlator,
    operations: Operations,
    novelties: Novelties,
    pub(super) type_prefix: String,
    recent: Recent,
    /// The records are history, see [`mark_late`](Processor::mark_late).
    late: bool,
    history: History,
    /// Holds the parsed configurations while a record is applied.
    arena: Arena,
}

/// Reads an asset's events from the log, back to the newest that is not after a given time.
pub(super) struct History(pub(super) Box<PastOf>);

type PastOf = dyn Fn(&Engine, &AssetName, Time) -> Vec<PastChange> + Send;

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("History")
    }
}

impl Processor {
    /// A processor that remembers the last `recent` provider event ids, to recognise duplicates not yet in the log.
    #[must_use]
    pub fn new(engine: Arc<Engine>, inventory: Arc<Inventory>, type_prefix: String, recent: usize) -> Self {
        Self {
            engine,
            inventory,
            correlator: Correlator::default(),
            operations: Operations::default(),
            novelties: Novelties::default(),
            type_prefix,
            recent: Recent::new(recent),
            late: false,
            arena: Arena::new(),
            history: History(Box::new(|_, _, _| Vec::new())),
        }
    }

    /// Uses other rules for the records to come. Existing assets stay as the previous rules made them.
    pub fn use_rules(&mut self, engine: Arc<Engine>) {
        self.engine = engine;
    }

    /// Sets how the events of an asset are read from the log, to place late records.
    pub(super) fn set_history(&mut self, history: History) {
        self.history = history;
    }

    /// The state that relates records to one another. Restore it after a restart; after each delivery, commit its
    /// changes with the batch.
    pub fn correlator(&mut self) -> &mut Correlator {
        &mut self.correlator
    }

    /// The state that determines what is new about a change. Set its limits and restore it after a restart; after each
    /// delivery, commit its changes with the batch.
    pub fn novelties(&mut self) -> &mut Novelties {
        &mut self.novelties
    }

    /// Sets whether the following records are history (a backfill): then their events are marked as late in any case.
    pub fn mark_late(&mut self, late: bool) {
        self.late = late;
    }

    /// The pending operations. Restore them after a restart; after each delivery, commit their changes with the batch.
    pub fn operations(&mut self) -> &mut Operations {
        &mut self.operations
    }

    /// Processes the collected records of an operation, as returned by [`Operations::due`] or [`Operations::rest`].
    ///
    /// # Errors
    /// When `is_known` fails.
    pub fn tell<E>(
        &mut self,
        records: &[Bytes],
        observed: Time,
        is_known: impl FnOnce(&str) -> Result<bool, E>,
    ) -> Result<Processed, E> {
        let outcome = self.engine.fold(records);
        self.conclude(outcome, observed, is_known)
    }

    /// Processes one record. `is_known` returns whether the event of a CloudEvents id is in the log.
    ///
    /// # Errors
    /// When `is_known` fails.
    pub fn process<E>(
        &mut self,
        record: &[u8],
        observed: Time,
        is_known: impl FnOnce(&str) -> Result<bool, E>,
    ) -> Result<Processed, E> {
        let outcome = self.engine.normalize(record);
        self.complete(outcome, observed, is_known)
    }

    /// Processes a record that was normalized already, as on another thread. Parameters and errors as for
    /// [`process`](Self::process).
    ///
    /// # Errors
    /// When `is_known` fails.
    pub fn complete<E>(
        &mut self,
        outcome: Outcome,
        observed: Time,
        is_known: impl FnOnce(&str) -> Result<bool, E>,
    ) -> Result<Processed, E> {
        let outcome = match outcome {
            Outcome::Operation(record) => match self.fold(*record, observed) {
                Ok(outcome) => outcome,
                Err(processed) => return Ok(processed),
            },
            outcome => outcome,
        };
        self.conclude(outcome, observed, is_known)
    }

    fn fold(&mut self, mut record: OperationRecord, observed: Time) -> Result<Outcome, Processed> {
        if let Some(deployment) = record.deployment.take() {
            self.correlator.note_deployment(*deployment);
        }
        let event_id = format!("{:032x}", record.id);
        let skipped = |reason: &str| Processed::Skipped { reason: reason.into(), rule: None };
        match self.operations.take(record, observed) {
            Folded::Whole(records) => Ok(self.engine.fold(&records)),
            Folded::Held => Err(Processed::Folded),
            Folded::Duplicate => Err(Processed::Duplicate { event_id }),
            Folded::Late => Err(skipped("late record of an operation that was told")),
            Folded::Failed => Err(skipped("failed call")),
        }
    }

    fn conclude<E>(
        &mut self,
        outcome: Outcome,
        observed: Time,
        is_known: impl FnOnce(&str) -> Result<bool, E>,
    ) -> Result<Processed, E> {
        let (mut record, drafts) = match outcome {
            Outcome::Operation(_) => return Ok(Processed::Folded),
            Outcome::Changes { record, drafts } => (record, drafts),
            Outcome::Skipped { reason, rule, session } => {
                if let Some(session) = session {
                    self.correlator.note_session(*session);
                }
                return Ok(Processed::Skipped { reason, rule });
            }
            Outcome::Rejected { code, reason, rule } => return Ok(Processed::Rejected { code, reason, rule }),
        };
        let key = xxh3_128(record.event_id.as_bytes());
        if self.recent.contains(key) || is_known(&first_id(&record.event_id))? {
            return Ok(Processed::Duplicate { event_id: record.event_id });
        }
        self.recent.insert(key);
        self.correlator.attribute(&mut record, &drafts);
        let novelty = self.novelties.take(&record, &drafts);
        let mut arena = std::mem::take(&mut self.arena);
        let processed = self.apply(&record, drafts, &novelty, observed, &arena);
        arena.reset();
        self.arena = arena;
        Ok(processed)
    }

    /// Reads an asset's earlier events from the log; the argument that [`Inventory::apply`] takes.
    pub(super) fn past(&self) -> impl Fn(&AssetName, Time) -> Vec<PastChange> {
        |asset, time| (self.history.0)(&self.engine, asset, time)
    }

    fn apply(
        &self,
        record: &RecordInfo,
        drafts: Vec<Draft>,
        novelty: &[Novelty],
        observed: Time,
        arena: &Arena,
    ) -> Processed {
        let mut events = Vec::with_capacity(drafts.len());
        let mut assets = Vec::with_capacity(drafts.len());
        let generic = drafts.iter().any(|draft| draft.confidence == Confidence::Low);
        let rule = drafts.first().map_or_else(|| "".into(), |draft| Arc::clone(&draft.rule));
        for (index, mut draft) in drafts.into_iter().enumerate() {
            let id = event_id(&record.event_id, index);
            let mut applied = self.inventory.apply(record.time, &id, &mut draft, &self.past(), arena);
            applied.late |= self.late;
            assets.extend(applied.held.take());
            if let Some(document) = applied.document.take() {
                let before = applied.before.take().filter(|_| applied.action == Action::Update);
                draft.associations.extend(self.engine.mentioned(&draft, before, document));
            }
            for association in &mut draft.associations {
                association.name = self.inventory.canonical(&association.name);
            }
            let parts = EventParts {
                type_prefix: &self.type_prefix,
                record,
                draft: &draft,
                applied: &applied,
                novelty: novelty.get(index).copied().filter(|_| !applied.late),
                id: &id,
                observed,
                rules_version: self.engine.version(),
            };
            match parts.encode() {
                Ok(event) => events.push(event),
                Err(error) => {
                    let reason = format!("the event can't be written as JSON: {error}");
                    return Processed::Rejected { code: "unfit_text", reason, rule: Some(draft.rule) };
                }
            }
        }
        let operation = &record.operation;
        let unmapped = generic.then(|| (operation.service.clone(), operation.name.clone()));
        Processed::Changes { events, assets, unmapped, rule }
    }
}

/// The CloudEvents id of one of a record's events.
fn event_id(of_record: &str, index: usize) -> String {
    format!("{of_record}:{index}")
}

/// The id of a record's first event, which every record with events has.
pub(super) fn first_id(of_record: &str) -> String {
    event_id(of_record, 0)
}

/// The most recent ids: events that are on their way into the log can't be found there yet.
#[derive(Debug)]
struct Recent {
    limit: usize,
    ids: HashSet<u128, FastState>,
    order: VecDeque<u128>,
}

impl Recent {
    fn new(limit: usize) -> Self {
        Self { limit, ids: HashSet::default(), order: VecDeque::new() }
    }

    fn contains(&self, id: u128) -> bool {
        self.ids.contains(&id)
    }

    fn insert(&mut self, id: u128) {
        self.ids.insert(id);
        self.order.push_back(id);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}
