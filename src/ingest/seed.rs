//! Processing of one item of a provider's inventory (a seed): inventory, and an event if wanted.

use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::encode::EventParts;
use super::{Ingest, Processor};
use crate::inventory::{Applied, Held, SeedOutcome};
use crate::json::Arena;
use crate::log::{Batch, NewEvent};
use crate::model::{
    Attribution, Confidence, Draft, Evidence, Operation, RawRecord, RecordInfo, Rejected, Seed, SeedDocument, SourceId,
    Time,
};
use crate::normalize::{SeedFault, Seeds};

/// The result of processing an item.
#[derive(Debug, Default)]
pub(super) struct Taken {
    events: Vec<NewEvent>,
    assets: Vec<Arc<Held>>,
    /// What goes to quarantine.
    rejected: Vec<Refused>,
    unknown: bool,
}

/// An item or a part of one that goes to quarantine.
#[derive(Debug)]
struct Refused {
    code: &'static str,
    reason: String,
    /// The part; `None` is the item itself.
    part: Option<Bytes>,
}

impl Ingest {
    /// Processes an item; its assets and events commit with the batch.
    pub(super) fn seed(
        &mut self,
        source: &SourceId,
        record: RawRecord,
        found: Seeds,
        document: &SeedDocument,
        batch: &mut Batch,
    ) {
        let taken = self.processor.seed(found, document, self.observed);
        self.changes(taken.events, taken.assets, None, batch);
        let outcome = match (taken.rejected.is_empty(), taken.unknown) {
            (false, _) => "quarantined",
            (true, true) => "skipped",
            (true, false) => "seeded",
        };
        self.metrics.records.with_label_values(&[&*source.0, outcome]).inc();
        if outcome == "skipped" {
            self.metrics.skipped.with_label_values(&["item of an inventory, of a type that no rule knows"]).inc();
        }
        let RawRecord { bytes: item, origin } = record;
        for Refused { code, reason, part } in taken.rejected {
            let (origin, bytes) = (origin.clone(), part.unwrap_or_else(|| item.clone()));
            self.quarantine(batch, Rejected { origin, code, reason, bytes, observed: self.observed });
        }
    }
}

impl Processor {
    /// Processes an item of a document, and counts the outcome of each asset and fault in the document's tally.
    pub(super) fn seed(&self, found: Seeds, document: &SeedDocument, observed: Time) -> Taken {
        let Seeds { seeds, faults } = found;
        let mut taken = Taken::default();
        for (fault, part) in faults {
            match fault {
                SeedFault::UnknownType(name) => {
                    document.tally.count(|counts| *counts.unknown_types.entry(name).or_default() += 1);
                    taken.unknown = true;
                }
                SeedFault::Rejected { code, reason } => {
                    taken.rejected.push(Refused { code, reason, part });
                }
            }
        }
        for (seed, raw) in seeds {
            self.apply_seed(seed, &raw, document, observed, &mut taken);
        }
        document.tally.count(|counts| counts.rejected += taken.rejected.len() as u64);
        taken
    }

    fn apply_seed(&self, mut seed: Seed, raw: &Bytes, document: &SeedDocument, observed: Time, taken: &mut Taken) {
        let arena = Arena::new();
        let event_id = if document.events { event_id(&seed, raw) } else { String::new() };
        let (outcome, applied) = self.inventory.seed(&event_id, &mut seed, &self.past(), &arena);
        document.tally.count(|counts| match outcome {
            SeedOutcome::Imported => counts.imported += 1,
            SeedOutcome::Updated => counts.updated += 1,
            SeedOutcome::Unchanged => counts.unchanged += 1,
            SeedOutcome::Older => counts.older += 1,
        });
        let Some(mut applied) = applied else { return };
        taken.assets.extend(applied.held.take());
        // A late seed changes the present state; an event as of its own time would show nothing of that.
        if document.events && !applied.late {
            match self.seed_event(seed, applied, raw, &event_id, observed) {
                Ok(event) => taken.events.push(event),
                Err(error) => {
                    let reason = format!("the event can't be written as JSON: {error}");
                    taken.rejected.push(Refused { code: "unfit_text", reason, part: Some(raw.clone()) });
                }
            }
        }
    }

    fn seed_event(
        &self,
        Seed { as_of, mut draft }: Seed,
        mut applied: Applied<'_>,
        raw: &Bytes,
        id: &str,
        observed: Time,
    ) -> Result<NewEvent, serde_json::Error> {
        if let Some(after) = applied.document.take() {
            let before = applied.before.take();
            draft.associations.extend(self.engine.mentioned(&draft, before, after));
        }
        let record = record(&draft, as_of, id, raw.clone());
        EventParts {
            type_prefix: &self.type_prefix,
            record: &record,
            draft: &draft,
            applied: &applied,
            // Unknown, as is who made the change.
            novelty: None,
            id,
            observed,
            rules_version: self.engine.version(),
        }
        .encode()
    }
}

/// The event id of a seed: the same asset, time and item always give the same id.
fn event_id(seed: &Seed, raw: &[u8]) -> String {
    let mut hash = Xxh3::new();
    hash.update(seed.draft.asset.name.as_str().as_bytes());
    hash.update(&seed.as_of.millis().to_be_bytes());
    hash.update(raw);
    format!("seed-{:032x}:0", hash.digest128())
}

/// The record of a seed event: no provider record says who changed the asset, or when.
fn record(draft: &Draft, as_of: Time, id: &str, raw: Bytes) -> RecordInfo {
    let asset = &draft.asset;
    RecordInfo {
        event_id: id.to_owned(),
        time: as_of,
        source: match asset.kind.provider {
            "azure" => format!("//azure/{}", asset.account),
            provider => format!("//{provider}/{}/{}", asset.account, asset.region),
        },
        operation: Operation {
            service: "inventory".to_owned(),
            name: "Seed".to_owned(),
            event_id: id.to_owned(),
            request_id: None,
            outcome: "success",
        },
        attribution: Attribution {
            method: "unknown".into(),
            method_reason: "found by comparison with the provider's inventory; no record reported the change"
                .to_owned(),
            confidence: Confidence::Low,
            detected_by: Some("inventory"),
            ..Attribution::default()
        },
        evidence: Evidence::default(),
        raw,
    }
}
