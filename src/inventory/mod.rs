//! The inventory: what every asset was and is, in memory.
//!
//! Events tell changes; the inventory makes of them the configuration before and after. It is written by the ingest
//! loop alone, read by anyone, and rebuilt at start from what the log stored with the events.

mod advance;
mod apply;
mod diff;
mod evict;
mod identity;
mod journal;
mod packed;
mod past;
mod replay;
mod restore;
mod seed;
mod set;
mod stored;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dashmap::DashMap;

use self::advance::Told;
pub use self::diff::{Change, ChangeOp, diff};
use self::evict::Evictor;
use self::journal::Journal;
use self::packed::{Packed, Packer};
pub use self::past::{Past, PastChange};
pub use self::replay::{Logged, Version, oldest, replay};
pub use self::seed::SeedOutcome;
pub use self::stored::{Held, Outline, RestoreError, Seeded};
use crate::json::{Arena, Json, JsonText};
use crate::model::{Action, AssetName, Draft, FastState, Step, Time};

/// How much of a configuration is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigurationState {
    /// All that the provider's events tell.
    Complete,
    /// A part: the asset was not seen from its creation, or a change did not tell everything.
    Partial,
    /// The asset is gone.
    Deleted,
}

/// What was known of an asset before an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PreviousState {
    /// It was held.
    Present,
    /// It did not exist: this event created it.
    Absent,
    /// Never seen.
    Unknown,
    /// It was deleted before.
    Deleted,
}

/// A draft completed by the inventory.
#[derive(Clone, Debug)]
pub struct Applied<'a> {
    /// The asset's first name, under which it stays.
    pub name: AssetName,
    /// What happened.
    pub action: Action,
    /// Tells the asset from earlier and later ones of the same name.
    pub uid: Option<String>,
    /// The ARN: the record's own or the one held before a composed one.
    pub arn: Option<String>,
    /// The region it lives in, `-` where it has none or none is known.
    pub region: String,
    /// The name that people know.
    pub display_name: Option<String>,
    /// The tags, as a JSON object.
    pub tags: JsonText,
    /// The configuration after, as JSON; `None` when deleted.
    pub configuration: Option<Bytes>,
    /// How much of it is known.
    pub configuration_state: ConfigurationState,
    /// The configuration before, as JSON.
    pub previous_configuration: Option<Bytes>,
    /// What was known before.
    pub previous_state: PreviousState,
    /// The difference, as a JSON array of [`Change`]s.
    pub changes: Bytes,
    /// The record is older than what the asset holds. What is before and after it here is as of its own time.
    pub late: bool,
    /// What is held from now on, for the log to store; nothing where a late record's place is no longer known.
    pub held: Option<Arc<Held>>,
    /// The configuration after, to look into; `None` when deleted.
    pub document: Option<Json<'a>>,
    /// The configuration before, where the asset was held and alive, and the record is not late.
    pub before: Option<Json<'a>>,
}

/// The assets.
///
/// Those that changed lately are kept as they are, the others packed.
#[derive(Debug, Default)]
pub struct Inventory {
    assets: DashMap<AssetName, Slot, FastState>,
    packer: Packer,
    /// Later names of assets that the provider renamed.
    aliases: DashMap<AssetName, AssetName, FastState>,
    /// The names in order, for paging.
    names: Mutex<BTreeSet<AssetName>>,
    journal: Mutex<Journal>,
    evictor: Option<Mutex<Evictor>>,
}

/// An asset in memory.
#[derive(Clone, Debug)]
enum Slot {
    Plain(Arc<Held>),
    Packed(Arc<Packed>),
}

impl Slot {
    fn outline<'a>(&'a self, name: &'a AssetName) -> Outline<'a> {
        match self {
            Self::Plain(held) => held.outline(),
            Self::Packed(packed) => packed.outline(name),
        }
    }

    fn held(self) -> Option<Arc<Held>> {
        match self {
            Self::Plain(held) => Some(held),
            Self::Packed(packed) => match packed.unpack() {
                Ok(held) => Some(Arc::new(held)),
                Err(error) => {
                    // It was packed by this process: the memory is at fault, or the program.
                    tracing::error!(%error, "an asset is lost from the inventory");
                    None
                }
            },
        }
    }
}

impl Inventory {
    /// An inventory that holds every asset.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An inventory that forgets the assets that changed longest ago when their configurations take more than
    /// `max_bytes`. A forgotten asset is unknown again.
    #[must_use]
    pub fn bounded(max_bytes: usize) -> Self {
        // A part of it for what was told lately, so that late records find their place.
        let journal = Mutex::new(Journal::with_limit(max_bytes / 32));
        Self { evictor: Some(Mutex::new(Evictor::new(max_bytes))), journal, ..Self::default() }
    }

    /// Number of assets held, deleted ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.assets.len()
    }

    /// Holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.assets.is_empty()
    }

    /// What is held of an asset, by its first name or a later one.
    #[must_use]
    pub fn get(&self, name: &AssetName) -> Option<Arc<Held>> {
        self.first_named(name).or_else(|| self.first_named(&self.canonical(name)))
    }

    fn first_named(&self, name: &AssetName) -> Option<Arc<Held>> {
        // Unpacked after the map is free again.
        let slot = self.assets.get(name)?.clone();
        slot.held()
    }

    /// The assets after a name that are wanted, in the order of names, as long as `take` says so. `wanted` is asked
    /// first because it costs little: an asset that is not, is not unpacked.
    pub fn walk(
        &self,
        after: Option<&AssetName>,
        wanted: &dyn Fn(&Outline<'_>) -> bool,
        take: &mut dyn FnMut(Arc<Held>) -> bool,
    ) {
        // In pages, so that the names are never locked for long.
        const PAGE: usize = 256;
        let mut from = after.cloned();
        loop {
            let page: Vec<AssetName> = {
                let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
                let start = from.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                names.range((start, Bound::Unbounded)).take(PAGE).cloned().collect()
            };
            for name in &page {
                let slot = self.assets.get(name).map(|slot| slot.clone());
                let slot = slot.filter(|slot| wanted(&slot.outline(name)));
                if let Some(held) = slot.and_then(Slot::held)
                    && !take(held)
                {
                    return;
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => from = Some(last.clone()),
                _ => return,
            }
        }
    }

    /// Applies a draft, whose steps are used up: what they carry becomes the configuration.
    ///
    /// A record that is older than what the asset holds is applied in its place, as long as what came after it is still
    /// known change by change; the later changes are applied over it again.
    /// What `past` tells of the asset's events in the log reaches further back than memory, and over a restart.
    pub fn apply<'a>(
        &self,
        time: Time,
        event_id: &str,
        draft: &mut Draft,
        past: Past<'_>,
        arena: &'a Arena,
    ) -> Applied<'a> {
        let name = self.named(&draft.asset, draft.action, time);
        let steps = std::mem::take(&mut draft.steps).into_iter().map(|step| self.resolve(&name, step)).collect();
        let (action, asset, partial) = (draft.action, draft.asset.clone(), draft.partial);
        let told = Told { time, event_id: event_id.to_owned(), action, asset, steps, partial, is_seed: false };
        let held = self.first_named(&name);
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let (applied, left) = journal.apply(&name, held.as_ref(), told, past, arena);
        drop(journal);
        if let Some(after) = &applied.held {
            if let Some(before) = held.filter(|held| !held.aliases.is_empty()) {
                self.drop_aliases(&before, after);
            }
            self.insert(Arc::clone(after));
        }
        left.iter().for_each(|name| self.pack(name));
        applied
    }

    /// What another asset holds is looked up once, when the record comes: it may hold something else later. A copy from the
    /// asset itself stays one: it is of what was held before this change.
    fn resolve(&self, own: &AssetName, step: Step) -> Step {
        let Step::Copy { from, from_at, at } = step else { return step };
        if self.canonical(&from) == *own {
            return Step::Copy { from, from_at, at };
        }
        let arena = Arena::new();
        let copied = self.get(&from).and_then(|held| Some(held.document(&arena)?.at(&from_at)?.to_text()));
        copied.map_or(Step::Touch, |value| Step::Set { at, value })
    }

    fn insert(&self, held: Arc<Held>) {
        self.note_aliases(&held.name, &held.aliases, held.is_alive());
        let (name, size) = (held.name.clone(), held.size());
        self.put(name, Slot::Plain(held), size);
    }

    /// Packs an asset that did not change for a while. Who reads it waits some microseconds.
    fn pack(&self, name: &AssetName) {
        let Some(mut slot) = self.assets.get_mut(name) else { return };
        let Slot::Plain(held) = &*slot else { return };
        let Some(packed) = self.packer.pack(&held.outline(), &held.provider_type, &held.encode()) else { return };
        let size = packed.size(name);
        *slot = Slot::Packed(Arc::new(packed));
        drop(slot);
        if let Some(evictor) = &self.evictor {
            evictor.lock().unwrap_or_else(PoisonError::into_inner).resize(name, size);
        }
    }

    fn put(&self, name: AssetName, slot: Slot, size: usize) {
        if self.assets.insert(name.clone(), slot).is_none() {
            self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        }
        if let Some(evictor) = &self.evictor {
            for forgotten in evictor.lock().unwrap_or_else(PoisonError::into_inner).touch(name, size) {
                self.assets.remove(&forgotten);
                self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&forgotten);
                self.journal.lock().unwrap_or_else(PoisonError::into_inner).forget(&forgotten);
            }
        }
    }
}

#[cfg(test)]
mod tests;
