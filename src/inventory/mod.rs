//! The inventory: the state of every asset, in memory.
//!
//! Records describe changes; the inventory turns them into the configurations before and after. Only the ingest loop
//! writes it, anyone may read it, and it is rebuilt at startup from the assets that the log stored with the events.

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
pub use self::stored::{Fields, Held, Outline, RestoreError, Seeded};
use crate::json::{Arena, Json, JsonText};
use crate::model::{Action, AssetName, Draft, FastState, Step, Time};

/// How much of a configuration is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigurationState {
    /// All of it, as far as the provider's records contain it.
    Complete,
    /// A part of it: the asset existed before it was first seen, or a record did not contain all of a change.
    #[default]
    Partial,
    /// The asset was deleted.
    Deleted,
}

/// What was known about an asset before an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PreviousState {
    /// The inventory had it.
    Present,
    /// It did not exist; this event created it.
    Absent,
    /// It was not known, and may have existed.
    Unknown,
    /// It had been deleted.
    Deleted,
}

/// A draft completed by the inventory.
#[derive(Clone, Debug)]
pub struct Applied<'a> {
    /// The asset's first name, which it keeps.
    pub name: AssetName,
    /// What happened.
    pub action: Action,
    /// A unique id that distinguishes the asset from earlier and later ones of the same name.
    pub uid: Option<String>,
    /// The ARN. One from a record is preferred to a composed one.
    pub arn: Option<String>,
    /// The region, `-` if it has none or none is known.
    pub region: String,
    /// The display name.
    pub display_name: Option<String>,
    /// The tags, as a JSON object.
    pub tags: JsonText,
    /// The configuration after the change, as JSON; `None` for a deletion.
    pub configuration: Option<Bytes>,
    /// How much of it is known.
    pub configuration_state: ConfigurationState,
    /// The configuration before the change, as JSON; `None` if there was none or none is known.
    pub previous_configuration: Option<Bytes>,
    /// What was known before the change.
    pub previous_state: PreviousState,
    /// The difference, as a JSON array of [`Change`]s.
    pub changes: Bytes,
    /// The record is older than the asset's last change. Both configurations are as of the record's own time.
    pub late: bool,
    /// The present state of the asset, for the log to store; `None` for a late record whose place is no longer known.
    pub held: Option<Arc<Held>>,
    /// The configuration after the change, parsed; `None` for a deletion.
    pub document: Option<Json<'a>>,
    /// The configuration before the change, parsed, if the asset was known to exist and the record is not late.
    pub before: Option<Json<'a>>,
}

/// The state of every asset, by name.
///
/// Assets that changed lately are kept as they are, the others packed.
#[derive(Debug, Default)]
pub struct Inventory {
    assets: DashMap<AssetName, Slot, FastState>,
    packer: Packer,
    /// Later names of renamed assets, with their first names.
    aliases: DashMap<AssetName, AssetName, FastState>,
    /// All first names in order, for paging.
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

    fn changed(&self) -> Time {
        match self {
            Self::Plain(held) => held.changed(),
            Self::Packed(packed) => packed.changed(),
        }
    }

    fn is_alive(&self) -> bool {
        match self {
            Self::Plain(held) => held.is_alive(),
            Self::Packed(packed) => packed.is_alive(),
        }
    }

    /// The asset. Its name is `name` if that is given, which spares a copy.
    fn held(self, name: Option<&AssetName>) -> Option<Arc<Held>> {
        match self {
            Self::Plain(held) => Some(held),
            Self::Packed(packed) => match packed.unpack(name) {
                Ok(held) => Some(Arc::new(held)),
                Err(error) => {
                    // It was packed by this process: either the memory or the program is faulty.
                    tracing::error!(%error, "an asset is lost from the inventory");
                    None
                }
            },
        }
    }
}

impl Inventory {
    /// An inventory without limit, which holds every asset.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An inventory that forgets the assets that changed longest ago when all together take more than about
    /// `max_bytes`. A forgotten asset is unknown again.
    #[must_use]
    pub fn bounded(max_bytes: usize) -> Self {
        // A part of that for the journal, so that late records find their place.
        let journal = Mutex::new(Journal::with_limit(max_bytes / 32));
        Self { evictor: Some(Mutex::new(Evictor::new(max_bytes))), journal, ..Self::default() }
    }

    /// Number of assets, deleted ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.assets.len()
    }

    /// Whether there are no assets.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.assets.is_empty()
    }

    /// An asset by its first name or a later one.
    #[must_use]
    pub fn get(&self, name: &AssetName) -> Option<Arc<Held>> {
        self.first_named(name).or_else(|| self.first_named(&self.canonical(name)))
    }

    fn first_named(&self, name: &AssetName) -> Option<Arc<Held>> {
        self.looked_up(name).map(|(_, held)| held)
    }

    /// What the map has of an asset, as it is and unpacked.
    fn looked_up(&self, name: &AssetName) -> Option<(Slot, Arc<Held>)> {
        let entry = self.assets.get(name)?;
        let (name, slot) = (entry.key().clone(), entry.value().clone());
        // Unpacked after the map's lock is released.
        drop(entry);
        let held = slot.clone().held(Some(&name))?;
        Some((slot, held))
    }

    /// Passes the wanted assets after a name to `take`, in the order of names, until it returns false. `wanted` is
    /// asked first, since it is cheap: only wanted assets are unpacked.
    pub fn walk(
        &self,
        after: Option<&AssetName>,
        wanted: &dyn Fn(&Outline<'_>) -> bool,
        take: &mut dyn FnMut(Arc<Held>) -> bool,
    ) {
        // In pages, so that the names are not locked for long.
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
                if let Some(held) = slot.and_then(|slot| slot.held(Some(name)))
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

    /// Applies a draft of an event and returns the completed change. Takes the steps out of the draft.
    ///
    /// A record that is older than the asset's last change is applied in its place, as long as the later changes are
    /// known one by one; these are applied again on top. `past` reads the asset's events from the log: those that are
    /// no longer in memory, and those from before a restart.
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
        let (slot, held) = self.looked_up(&name).unzip();
        // The name that is the map's own: comparing it with itself takes no look at the text.
        let name = held.as_ref().map_or(name, |held| held.name().clone());
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let (applied, left) = journal.apply(&name, (slot.as_ref(), held.as_ref()), told, past, arena);
        drop(journal);
        if let Some(after) = &applied.held {
            self.replace(held.as_deref(), Arc::clone(after));
        }
        left.iter().for_each(|name| self.pack(name));
        applied
    }

    /// Resolves a copy from another asset when the record arrives, since that asset may change later; [`Step::Touch`]
    /// if nothing is found. A copy from the asset itself is left for later: it takes the value before this change.
    fn resolve(&self, own: &AssetName, step: Step) -> Step {
        let Step::Copy { from, from_at, at } = step else { return step };
        if self.canonical(&from) == *own {
            return Step::Copy { from, from_at, at };
        }
        let arena = Arena::new();
        let copied = self.get(&from).and_then(|held| Some(held.document(&arena)?.at(&from_at)?.to_text()));
        copied.map_or(Step::Touch, |value| Step::Set { at, value })
    }

    /// Inserts an asset after a change.
    fn replace(&self, before: Option<&Held>, after: Arc<Held>) {
        if let Some(before) = before {
            self.drop_aliases(before, after.aliases());
        }
        self.insert(after);
    }

    fn insert(&self, held: Arc<Held>) {
        self.note_aliases(&held);
        let (name, size) = (held.name().clone(), held.size());
        self.put(name, Slot::Plain(held), size);
    }

    /// Packs an asset that did not change for a while. Reading it then takes some microseconds more.
    fn pack(&self, name: &AssetName) {
        let Some(mut slot) = self.assets.get_mut(name) else { return };
        let Slot::Plain(held) = &*slot else { return };
        let Some(packed) = self.packer.pack(held) else { return };
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
                self.forget(&forgotten);
            }
        }
    }
}

#[cfg(test)]
mod tests;
