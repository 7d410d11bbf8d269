//! One record through normalizer and inventory.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::encode::EventParts;
use crate::correlate::Correlator;
use crate::inventory::{Held, Inventory};
use crate::log::NewEvent;
use crate::model::{Confidence, Draft, RecordInfo, Time};
use crate::normalize::{Engine, Outcome};

/// What became of a record.
#[derive(Debug)]
pub enum Processed {
    /// It changes assets.
    Changes {
        /// One event per asset.
        events: Vec<NewEvent>,
        /// What is held of the assets from now on.
        assets: Vec<Arc<Held>>,
        /// The call, where only a generic rule knew it: service and name.
        unmapped: Option<(String, String)>,
        /// The rule of the first event.
        rule: Arc<str>,
    },
    /// It changes none.
    Skipped {
        /// Why.
        reason: Arc<str>,
        /// The rule that says so.
        rule: Option<Arc<str>>,
    },
    /// Its events are there already.
    Duplicate {
        /// The provider's event id.
        event_id: String,
    },
    /// It was not understood.
    Rejected {
        /// A stable word for counting.
        code: &'static str,
        /// What is wrong and what to do.
        reason: String,
        /// The rule that could not be applied.
        rule: Option<Arc<str>>,
    },
}

/// Takes records through the engine and the inventory, in order.
#[derive(Debug)]
pub struct Processor {
    engine: Arc<Engine>,
    inventory: Arc<Inventory>,
    correlator: Correlator,
    type_prefix: String,
    recent: Recent,
    late: bool,
}

impl Processor {
    /// A processor that remembers the last `recent` provider event ids by itself.
    #[must_use]
    pub fn new(engine: Arc<Engine>, inventory: Arc<Inventory>, type_prefix: String, recent: usize) -> Self {
        Self {
            engine,
            inventory,
            correlator: Correlator::default(),
            type_prefix,
            recent: Recent::new(recent),
            late: false,
        }
    }

    /// What relates records to one another: to be handed what it remembered before a restart, and asked after each
    /// delivery for what must become durable with it.
    pub fn correlator(&mut self) -> &mut Correlator {
        &mut self.correlator
    }

    /// Whether the records from now on are history: their events go out as late, whatever is known of their assets.
    pub fn mark_late(&mut self, late: bool) {
        self.late = late;
    }

    /// Processes one record. `is_known` tells of a CloudEvents id whether its event is in the log.
    ///
    /// # Errors
    /// When `is_known` fails.
    pub fn process<E>(
        &mut self,
        record: &[u8],
        observed: Time,
        is_known: impl FnOnce(&str) -> Result<bool, E>,
    ) -> Result<Processed, E> {
        let (mut record, drafts) = match self.engine.normalize(record) {
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
        if self.recent.contains(key) || is_known(&format!("{}:0", record.event_id))? {
            return Ok(Processed::Duplicate { event_id: record.event_id });
        }
        self.recent.insert(key);
        self.correlator.attribute(&mut record, &drafts);
        Ok(self.apply(&record, drafts, observed))
    }

    fn apply(&self, record: &RecordInfo, drafts: Vec<Draft>, observed: Time) -> Processed {
        let mut events = Vec::with_capacity(drafts.len());
        let mut assets = Vec::with_capacity(drafts.len());
        let generic = drafts.iter().any(|draft| draft.confidence == Confidence::Low);
        let rule = drafts.first().map_or_else(|| "".into(), |draft| Arc::clone(&draft.rule));
        for (index, mut draft) in drafts.into_iter().enumerate() {
            let id = format!("{}:{index}", record.event_id);
            let mut applied = self.inventory.apply(record.time, &id, &mut draft);
            applied.late |= self.late;
            assets.extend(applied.held.take());
            for association in &mut draft.associations {
                association.name = self.inventory.canonical(&association.name);
            }
            let parts = EventParts {
                type_prefix: &self.type_prefix,
                record,
                draft: &draft,
                applied: &applied,
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

/// The last so many ids: what is on its way into the log can't be found there yet.
#[derive(Debug)]
struct Recent {
    limit: usize,
    ids: HashSet<u128>,
    order: VecDeque<u128>,
}

impl Recent {
    fn new(limit: usize) -> Self {
        Self { limit, ids: HashSet::new(), order: VecDeque::new() }
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
