//! The inventory: what every asset was and is, in memory.
//!
//! Events tell changes; the inventory makes of them the configuration before and after. It is written by the ingest
//! loop alone, read by anyone, and rebuilt at start from what the log stored with the events.

mod advance;
mod apply;
mod diff;
mod evict;
mod journal;
mod past;
mod replay;
mod set;
mod stored;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dashmap::DashMap;
use serde_json::{Map, Value};

use self::advance::Told;
pub use self::diff::{Change, ChangeOp, diff};
use self::evict::Evictor;
use self::journal::Journal;
pub use self::past::{Past, PastChange};
pub use self::replay::{Logged, Version, oldest, replay};
pub use self::stored::{Held, RestoreError};
use crate::model::{Action, AssetName, Draft, Step, Time};

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
pub struct Applied {
    /// The asset's first name, under which it stays.
    pub name: AssetName,
    /// What happened.
    pub action: Action,
    /// The ARN: the record's own or the one held before a composed one.
    pub arn: Option<String>,
    /// The region it lives in, `-` where it has none or none is known.
    pub region: String,
    /// The name that people know.
    pub display_name: Option<String>,
    /// The tags, as a JSON object.
    pub tags: Value,
    /// The configuration after, as JSON; `None` when deleted.
    pub configuration: Option<Bytes>,
    /// How much of it is known.
    pub configuration_state: ConfigurationState,
    /// The configuration before, as JSON.
    pub previous_configuration: Option<Bytes>,
    /// What was known before.
    pub previous_state: PreviousState,
    /// The difference.
    pub changes: Vec<Change>,
    /// The record is older than what the asset holds. What is before and after it here is as of its own time.
    pub late: bool,
    /// What is held from now on, for the log to store; nothing where a late record's place is no longer known.
    pub held: Option<Arc<Held>>,
    /// The configuration after, to look into; `None` when deleted.
    pub document: Option<Value>,
    /// The configuration before, where the asset was held and alive, and the record is not late.
    pub before: Option<Value>,
}

/// The assets.
#[derive(Debug, Default)]
pub struct Inventory {
    assets: DashMap<AssetName, Arc<Held>>,
    /// Later names of assets that the provider renamed.
    aliases: DashMap<AssetName, AssetName>,
    /// The names in order, for paging.
    names: Mutex<BTreeSet<AssetName>>,
    journal: Mutex<Journal>,
    evictor: Option<Mutex<Evictor>>,
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

    /// The first name of an asset.
    #[must_use]
    pub fn canonical(&self, name: &AssetName) -> AssetName {
        self.aliases.get(name).map_or_else(|| name.clone(), |first| first.clone())
    }

    /// What is held of an asset, by its first name or a later one.
    #[must_use]
    pub fn get(&self, name: &AssetName) -> Option<Arc<Held>> {
        let held = self.assets.get(name).map(|held| Arc::clone(&held));
        held.or_else(|| {
            let first = self.aliases.get(name)?.clone();
            self.assets.get(&first).map(|held| Arc::clone(&held))
        })
    }

    /// The assets after a name, in the order of names, as long as `take` says so.
    pub fn walk(&self, after: Option<&AssetName>, take: &mut dyn FnMut(&Arc<Held>) -> bool) {
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
                if let Some(held) = self.assets.get(name).map(|held| Arc::clone(&held))
                    && !take(&held)
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
    pub fn apply(&self, time: Time, event_id: &str, draft: &mut Draft, past: Past<'_>) -> Applied {
        let name = self.canonical(&draft.asset.name);
        let steps = std::mem::take(&mut draft.steps).into_iter().map(|step| self.resolve(&name, step)).collect();
        let (action, asset, partial) = (draft.action, draft.asset.clone(), draft.partial);
        let told = Told { time, event_id: event_id.to_owned(), action, asset, steps, partial };
        let held = self.assets.get(&name).map(|held| Arc::clone(&held));
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = journal.apply(&name, held.as_ref(), told, past);
        drop(journal);
        if let Some(held) = &applied.held {
            self.insert(Arc::clone(held));
        }
        applied
    }

    /// What another asset holds is looked up once, when the record comes: it may hold something else later. A copy from the
    /// asset itself stays one: it is of what was held before this change.
    fn resolve(&self, own: &AssetName, step: Step) -> Step {
        let Step::Copy { from, from_at, at } = step else { return step };
        if self.canonical(&from) == *own {
            return Step::Copy { from, from_at, at };
        }
        let copied = self.get(&from).and_then(|held| {
            let other = parse_object(held.configuration.as_deref()?);
            from_at.resolve(&other).ok().cloned()
        });
        copied.map_or(Step::Touch, |value| Step::Set { at, value })
    }

    fn insert(&self, held: Arc<Held>) {
        for alias in &held.aliases {
            if self.aliases.get(alias).is_none_or(|first| *first != held.name) {
                self.aliases.insert(alias.clone(), held.name.clone());
            }
        }
        let (name, size) = (held.name.clone(), held.size());
        if self.assets.insert(name.clone(), held).is_none() {
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

    /// Takes back what was stored.
    ///
    /// # Errors
    /// When the bytes are not what this version or an older one stores.
    pub fn restore(&self, stored: &[u8]) -> Result<(), RestoreError> {
        self.insert(Arc::new(Held::decode(stored)?));
        Ok(())
    }
}

fn empty() -> Value {
    Value::Object(Map::new())
}

/// What we stored ourselves is JSON; should it not be, the asset starts over rather than the program stopping.
fn parse_object(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or_else(|_| empty())
}

#[cfg(test)]
mod tests;
