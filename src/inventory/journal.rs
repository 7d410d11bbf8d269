//! The latest changes of each asset, one by one, so that a late record can be put in its place.
//!
//! Trails guarantee no order, neither among CloudTrail's files nor among the records in a file. The journal keeps the
//! latest changes, bounded by bytes. The oldest are dropped first, and before them those known from a seed only.

use std::collections::{VecDeque, hash_map};
use std::sync::Arc;

use super::advance::{Told, advance, out_of_place};
use super::past::Past;
use super::stored::Held;
use super::{Applied, Slot};
use crate::json::{Arena, JsonText};
use crate::model::{Action, AssetName, DraftAction, FastMap, Step, Time};

/// The changes of about a quarter of an hour, within which CloudTrail delivers, at ten changes per second.
const MAX_BYTES: usize = 64 << 20;
/// Number of changes kept per asset.
const MAX_OF_ONE: usize = 64;

/// The latest changes of every asset.
#[derive(Debug)]
pub(super) struct Journal {
    recent: FastMap<AssetName, Recent>,
    /// One name per change, in the order in which the changes are dropped.
    order: VecDeque<AssetName>,
    bytes: usize,
    max_bytes: usize,
}

/// The latest changes of one asset, in the order of event time.
#[derive(Debug)]
pub(super) struct Recent {
    /// The asset before the first of the changes. Only late records need it, so it stays packed if it was.
    pub(super) base: Option<Slot>,
    pub(super) changes: VecDeque<Entry>,
}

/// A change in the journal.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) told: Told,
    /// The asset after it.
    pub(super) after: Arc<Held>,
    pub(super) bytes: usize,
}

impl Default for Journal {
    fn default() -> Self {
        Self::with_limit(MAX_BYTES)
    }
}

impl Journal {
    pub(super) fn with_limit(max_bytes: usize) -> Self {
        Self { recent: FastMap::default(), order: VecDeque::new(), bytes: 0, max_bytes }
    }

    /// Applies a change in its place among those of its asset, and the later ones again on top. `slot` is what the map
    /// has of the asset, `held` the same unpacked. Also returns the names of the assets of which no change is kept any
    /// more.
    pub(super) fn apply<'a>(
        &mut self,
        name: &AssetName,
        (slot, held): (Option<&Slot>, Option<&Arc<Held>>),
        told: Told,
        past: Past<'_>,
        arena: &'a Arena,
    ) -> (Applied<'a>, Vec<AssetName>) {
        // Most assets have one change here.
        let fresh = || Recent { base: held.cloned().map(Slot::Plain), changes: VecDeque::with_capacity(1) };
        let recent = self.recent.entry(name.clone()).or_insert_with(fresh);
        let (count, bytes) = (recent.changes.len(), recent.bytes());
        let goes_first = told.is_seed && count == 0;
        if recent.is_before_first(&told) {
            recent.reach_back(name, told.time, past(name, told.time));
        }
        let applied = match held.filter(|_| recent.is_before_first(&told)) {
            Some(held) => out_of_place(name, held, &told, arena),
            None => recent.insert(name, told, arena),
        };
        if count == 0 && recent.changes.len() == 1 {
            recent.base = slot.cloned();
        }
        while recent.changes.len() > MAX_OF_ONE {
            recent.drop_oldest();
        }
        self.bytes = self.bytes - bytes + recent.bytes();
        let came = recent.changes.len().saturating_sub(count);
        if recent.changes.is_empty() {
            self.recent.remove(name);
        }
        for _ in 0..came {
            // An import of everything must not push out the changes from records, which late records need.
            if goes_first { self.order.push_front(name.clone()) } else { self.order.push_back(name.clone()) }
        }
        (applied, self.shrink())
    }

    /// Approximate size of the changes in bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets an asset.
    pub(super) fn forget(&mut self, name: &AssetName) {
        if let Some(recent) = self.recent.remove(name) {
            self.bytes -= recent.bytes();
        }
    }

    /// Drops changes beyond the limits. Returns the assets of which no change is kept any more.
    fn shrink(&mut self) -> Vec<AssetName> {
        let mut left = Vec::new();
        while self.bytes > self.max_bytes || self.order.len() > self.max_bytes / SMALLEST {
            let Some(name) = self.order.pop_front() else { break };
            let hash_map::Entry::Occupied(mut recent) = self.recent.entry(name) else { continue };
            self.bytes -= recent.get_mut().drop_oldest();
            if recent.get().changes.is_empty() {
                left.push(recent.remove_entry().0);
            }
        }
        left
    }
}

impl Recent {
    /// The index at which a change belongs: after all older ones. Times are exact to the second only. Within a second,
    /// a creation comes before the updates and a deletion after them; if the asset existed before that second, a
    /// deletion comes before a creation.
    fn place(&self, told: &Told) -> usize {
        let mut place = self.changes.partition_point(|entry| entry.told.time <= told.time);
        let first = self.changes.partition_point(|entry| entry.told.time < told.time);
        let lived = match first.checked_sub(1).and_then(|previous| self.changes.get(previous)) {
            Some(previous) => previous.after.is_alive(),
            None => self.base.as_ref().is_some_and(Slot::is_alive),
        };
        let recreated = self.changes.range(first..place).any(|entry| entry.told.action == CREATE);
        while place > first
            && let Some(entry) = self.changes.get(place - 1)
            && goes_before(told.action, entry.told.action, lived, recreated)
        {
            place -= 1;
        }
        place
    }

    /// Whether a change belongs before all kept changes and is older than the asset before them.
    fn is_before_first(&self, told: &Told) -> bool {
        let is_before = |base: &Slot| is_before(told, base.changed(), base.is_alive());
        self.place(told) == 0 && self.base.as_ref().is_some_and(is_before)
    }

    fn bytes(&self) -> usize {
        self.changes.iter().map(|entry| entry.bytes).sum()
    }

    /// The asset before the change at an index.
    pub(super) fn before(&self, place: usize) -> Option<Arc<Held>> {
        match place.checked_sub(1) {
            Some(previous) => self.changes.get(previous).map(|entry| Arc::clone(&entry.after)),
            None => self.base.clone()?.held(None),
        }
    }

    /// Inserts a change in its place and applies the later ones again on top.
    pub(super) fn insert<'a>(&mut self, name: &AssetName, told: Told, arena: &'a Arena) -> Applied<'a> {
        let place = self.place(&told);
        let (mut applied, held) = advance(name, self.before(place).as_deref(), &told, arena);
        applied.late = place < self.changes.len();
        if applied.late {
            applied.before = None;
        }
        let mut held = Arc::new(held);
        let bytes = told.bytes() + held.size();
        self.changes.insert(place, Entry { told, after: Arc::clone(&held), bytes });
        for later in self.changes.range_mut(place + 1..) {
            let (_, after) = advance(name, Some(&held), &later.told, arena);
            held = Arc::new(after);
            later.after = Arc::clone(&held);
        }
        applied.held = Some(held);
        applied
    }

    /// Makes the oldest change part of the base. Returns the number of bytes freed.
    fn drop_oldest(&mut self) -> usize {
        let Some(oldest) = self.changes.pop_front() else { return 0 };
        self.base = Some(Slot::Plain(oldest.after));
        oldest.bytes
    }
}

const CREATE: DraftAction = DraftAction::Known(Action::Create);
const UPDATE: DraftAction = DraftAction::Known(Action::Update);
const DELETE: DraftAction = DraftAction::Known(Action::Delete);

/// Whether a change belongs before another one of the same second. `lived`: the asset existed before that second;
/// `recreated`: it is created within it.
fn goes_before(action: DraftAction, other: DraftAction, lived: bool, recreated: bool) -> bool {
    match (action, other) {
        (UPDATE, DELETE) => true,
        (CREATE, UPDATE | DELETE) => !lived,
        (DELETE, CREATE) => lived,
        (DELETE, UPDATE) => lived && recreated,
        _ => false,
    }
}

/// Whether a change is older than the last change of an asset, at `changed`, by the same rules.
pub(super) fn is_before(told: &Told, changed: Time, is_alive: bool) -> bool {
    changed > told.time || (changed == told.time && !is_alive && told.action == UPDATE)
}

/// Approximate size of the shortest change in bytes.
const SMALLEST: usize = 400;

impl Told {
    /// Approximate size in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        SMALLEST + self.steps.iter().map(step_bytes).sum::<usize>()
    }
}

fn step_bytes(step: &Step) -> usize {
    let values = match step {
        Step::Replace(value) | Step::Set { value, .. } | Step::Merge { patch: value, .. } => value.len(),
        Step::Add { elements, .. } | Step::Remove { elements, .. } | Step::MergeElements { elements, .. } => {
            elements.iter().map(JsonText::len).sum()
        }
        Step::Recall(value) => value.len(),
        Step::RemoveMembers { keys, .. } => keys.iter().map(String::len).sum(),
        Step::Unset { .. } | Step::Rename { .. } | Step::Copy { .. } | Step::Touch => 0,
    };
    100 + values
}
