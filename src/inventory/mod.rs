//! The inventory: what every asset was and is, in memory.
//!
//! Events tell changes; the inventory makes of them the configuration before and after. It is written by the ingest
//! loop alone, read by anyone, and rebuilt at start from what the log stored with the events.

mod apply;
mod diff;
mod evict;
mod set;
mod stored;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dashmap::DashMap;
use serde_json::{Map, Value};

use self::apply::Application;
pub use self::diff::{Change, ChangeOp, diff};
use self::evict::Evictor;
pub use self::stored::{Held, RestoreError};
use crate::model::{Action, AssetName, AssetRef, Draft, DraftAction, KeyedSet, Step, Time};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
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
    /// The record is older than what the asset holds, which therefore stays.
    pub late: bool,
    /// What is held from now on, for the log to store; nothing for a late record.
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
        Self { evictor: Some(Mutex::new(Evictor::new(max_bytes))), ..Self::default() }
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
    pub fn apply(&self, time: Time, event_id: &str, draft: &mut Draft) -> Applied {
        let name = self.canonical(&draft.asset.name);
        let held = self.assets.get(&name).map(|held| Arc::clone(&held));
        match held {
            Some(held) if is_late(&held, time, draft.action) => apply_late(name, draft, &held),
            held => self.apply_next(name, time, event_id, draft, held.as_deref()),
        }
    }

    fn apply_next(
        &self,
        name: AssetName,
        time: Time,
        event_id: &str,
        draft: &mut Draft,
        held: Option<&Held>,
    ) -> Applied {
        let steps = std::mem::take(&mut draft.steps);
        let renamed = steps.iter().find_map(|step| match step {
            Step::Rename { id, alias, arn } => Some(Renamed { id: id.clone(), alias: alias.clone(), arn: arn.clone() }),
            _ => None,
        });
        let alive = held.filter(|held| held.state != ConfigurationState::Deleted);
        let action = match draft.action {
            DraftAction::Known(action) => action,
            DraftAction::Upsert if alive.is_some() => Action::Update,
            DraftAction::Upsert => Action::Create,
        };
        let previous_state = match (held, draft.action) {
            (Some(held), _) if held.state == ConfigurationState::Deleted => PreviousState::Deleted,
            (Some(_), _) => PreviousState::Present,
            (None, DraftAction::Known(Action::Create)) => PreviousState::Absent,
            (None, _) => PreviousState::Unknown,
        };
        let recalled = steps.iter().filter_map(|step| match step {
            Step::Recall(value) => Some(value),
            _ => None,
        });
        let (previous, before) = recall(alive, recalled);
        let sets = &draft.asset.kind.sets;
        let (document, state) = if action == Action::Delete {
            (None, ConfigurationState::Deleted)
        } else {
            let base = match action {
                Action::Create => None,
                _ => before.as_ref(),
            };
            let was_complete = alive.is_some_and(|held| held.state == ConfigurationState::Complete);
            let (document, complete) = self.run_steps(&draft.asset.kind.sets, steps, base, before.as_ref());
            let known = action == Action::Create && !matches!(draft.action, DraftAction::Upsert) || was_complete;
            let complete = complete.unwrap_or(known) && !draft.partial;
            (Some(document), if complete { ConfigurationState::Complete } else { ConfigurationState::Partial })
        };
        let changes = match &document {
            Some(document) => diff(before.as_ref().unwrap_or(&empty()), document, sets),
            None => Vec::new(),
        };
        let described = document.as_ref().or(before.as_ref());
        let arn = told_arn(&draft.asset, held);
        let applied = Applied {
            display_name: described.and_then(|document| display_name(&draft.asset, document)),
            tags: described.map_or_else(empty, |document| tags(&draft.asset, document)),
            configuration: document.as_ref().map(|document| document.to_string().into()),
            configuration_state: state,
            previous_configuration: previous,
            previous_state,
            changes,
            late: false,
            held: None,
            document,
            before,
            arn,
            action,
            name,
        };
        self.hold(applied, time, event_id, draft, held, renamed)
    }

    /// The document after the steps. The second tells whether it is complete by the steps alone: `Some(true)` after a
    /// whole replacement, `Some(false)` when a step could not be done, `None` when that hangs on what it was before.
    fn run_steps(
        &self,
        sets: &[KeyedSet],
        steps: Vec<Step>,
        base: Option<&Value>,
        before: Option<&Value>,
    ) -> (Value, Option<bool>) {
        let lookup = |name: &AssetName| {
            let held = self.get(name)?;
            Some(parse_object(held.configuration.as_deref()?))
        };
        let mut application = Application {
            document: base.cloned().unwrap_or_else(empty),
            complete: true,
            replaced: false,
            sets,
            lookup: &lookup,
        };
        for step in steps {
            application.apply(step);
        }
        if let Some(before) = before {
            application.align_sets(before);
        }
        let complete = match (application.complete, application.replaced) {
            (false, _) => Some(false),
            (true, true) => Some(true),
            (true, false) => None,
        };
        (application.document, complete)
    }

    fn hold(
        &self,
        mut applied: Applied,
        time: Time,
        event_id: &str,
        draft: &Draft,
        before: Option<&Held>,
        renamed: Option<Renamed>,
    ) -> Applied {
        let mut aliases = before.map(|held| held.aliases.clone()).unwrap_or_default();
        let mut id = before.map_or_else(|| draft.asset.id.clone(), |held| held.id.clone());
        if let Some(renamed) = renamed {
            id = renamed.id;
            applied.arn = renamed.arn.or(applied.arn);
            if renamed.alias != applied.name && !aliases.contains(&renamed.alias) {
                aliases.push(renamed.alias.clone());
            }
            self.aliases.insert(renamed.alias, applied.name.clone());
        }
        let recreated = matches!(applied.previous_state, PreviousState::Deleted | PreviousState::Absent);
        let held = Held {
            name: applied.name.clone(),
            id: if recreated { draft.asset.id.clone() } else { id },
            neutral_type: draft.asset.kind.neutral_type.clone(),
            provider: draft.asset.kind.provider.to_owned(),
            provider_type: draft.asset.kind.provider_type.clone(),
            arn: applied.arn.clone(),
            arn_is_told: draft.asset.arn_is_told || before.is_some_and(|held| held.arn_is_told),
            account: draft.asset.account.clone(),
            region: draft.asset.region.clone(),
            display_name: applied.display_name.clone(),
            tags: applied.tags.clone(),
            configuration: applied.configuration.clone(),
            state: applied.configuration_state,
            first_seen: before.filter(|_| !recreated).map_or(time, |held| held.first_seen),
            changed: time,
            last_event: event_id.to_owned(),
            aliases,
        };
        let held = Arc::new(held);
        self.insert(Arc::clone(&held));
        applied.held = Some(held);
        applied
    }

    fn insert(&self, held: Arc<Held>) {
        let (name, size) = (held.name.clone(), held.size());
        if self.assets.insert(name.clone(), held).is_none() {
            self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        }
        if let Some(evictor) = &self.evictor {
            for forgotten in evictor.lock().unwrap_or_else(PoisonError::into_inner).touch(name, size) {
                self.assets.remove(&forgotten);
                self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&forgotten);
            }
        }
    }

    /// Takes back what was stored.
    ///
    /// # Errors
    /// When the bytes are not what this version or an older one stores.
    pub fn restore(&self, stored: &[u8]) -> Result<(), RestoreError> {
        let held = Held::decode(stored)?;
        for alias in &held.aliases {
            self.aliases.insert(alias.clone(), held.name.clone());
        }
        self.insert(Arc::new(held));
        Ok(())
    }
}

/// The record is from before what is held. Times are exact to the second only, and come in any order within one: what is
/// not a creation can't have come after a deletion.
fn is_late(held: &Held, time: Time, action: DraftAction) -> bool {
    let after_deletion = held.state == ConfigurationState::Deleted && action == DraftAction::Known(Action::Update);
    held.changed > time || (held.changed == time && after_deletion)
}

/// What a `rename` step tells.
/// What was held before, completed by what the record recalls of it.
fn recall<'s>(held: Option<&Held>, recalled: impl Iterator<Item = &'s Value>) -> (Option<Bytes>, Option<Value>) {
    let previous = held.and_then(|held| held.configuration.clone());
    let mut before = previous.as_deref().map(parse_object);
    let mut added = false;
    for (key, value) in recalled.filter_map(Value::as_object).flatten() {
        if let Some(members) = before.get_or_insert_with(empty).as_object_mut()
            && !members.contains_key(key)
        {
            members.insert(key.clone(), value.clone());
            added = true;
        }
    }
    let previous = if added { before.as_ref().map(|before| before.to_string().into()) } else { previous };
    (previous, before)
}

struct Renamed {
    id: String,
    alias: AssetName,
    arn: Option<String>,
}

/// A record older than what the asset holds leaves it as it is. What was before is not known, only what the record
/// itself tells.
fn apply_late(name: AssetName, draft: &mut Draft, held: &Held) -> Applied {
    let steps = std::mem::take(&mut draft.steps);
    let action = match draft.action {
        DraftAction::Known(action) => action,
        DraftAction::Upsert => Action::Update,
    };
    let mut application = Application {
        document: empty(),
        complete: true,
        replaced: false,
        sets: &draft.asset.kind.sets,
        lookup: &|_| None,
    };
    for step in steps {
        application.apply(step);
    }
    let document = (action != Action::Delete).then_some(application.document);
    let previous_state =
        if draft.action == DraftAction::Known(Action::Create) { PreviousState::Absent } else { PreviousState::Unknown };
    let configuration_state = match &document {
        Some(_) => ConfigurationState::Partial,
        None => ConfigurationState::Deleted,
    };
    let tags = document.as_ref().map_or_else(empty, |document| tags(&draft.asset, document));
    Applied {
        display_name: document.as_ref().and_then(|document| display_name(&draft.asset, document)),
        changes: document.as_ref().map(|document| diff(&empty(), document, &draft.asset.kind.sets)).unwrap_or_default(),
        configuration: document.as_ref().map(|document| document.to_string().into()),
        document,
        before: None,
        arn: told_arn(&draft.asset, Some(held)),
        previous_configuration: None,
        late: true,
        held: None,
        configuration_state,
        previous_state,
        tags,
        action,
        name,
    }
}

fn empty() -> Value {
    Value::Object(Map::new())
}

/// What we stored ourselves is JSON; should it not be, the asset starts over rather than the program stopping.
fn parse_object(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or_else(|_| empty())
}

/// A composed ARN does not know an IAM path: one that a record told stays.
fn told_arn(asset: &AssetRef, held: Option<&Held>) -> Option<String> {
    let kept = held.filter(|held| held.arn_is_told && !asset.arn_is_told).and_then(|held| held.arn.clone());
    kept.or_else(|| asset.arn.clone()).or_else(|| held?.arn.clone())
}

fn display_name(asset: &AssetRef, document: &Value) -> Option<String> {
    let declared = asset.kind.display.iter().filter_map(|pointer| pointer.resolve(document).ok());
    let tagged = asset.kind.tags.resolve(document).ok().and_then(|tags| tags.get("Name"));
    let texts = declared.chain(tagged).filter_map(Value::as_str);
    texts.into_iter().find(|text| !text.is_empty()).map(str::to_owned)
}

fn tags(asset: &AssetRef, document: &Value) -> Value {
    asset.kind.tags.resolve(document).ok().filter(|tags| tags.is_object()).cloned().unwrap_or_else(empty)
}

#[cfg(test)]
mod tests;
