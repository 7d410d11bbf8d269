//! An asset's changes again, out of the events that told them, in the order of event time: what it held in between.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use jsonptr::PointerBuf;

use super::advance::{Told, advance};
use super::diff::{Change, ChangeOp, diff};
use super::journal::Recent;
use super::stored::Held;
use super::{ConfigurationState, PreviousState};
use crate::json::{Arena, Json, JsonText};
use crate::model::{Action, AssetRef, Draft, DraftAction, KeyedSet, Step, Time};

/// An event as it was logged.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The provider's event time.
    pub time: Time,
    /// The event's id.
    pub event_id: String,
    /// What happened.
    pub action: Action,
    /// The asset, as the event names it.
    pub asset: AssetRef,
    /// Tells the asset from others of the same name.
    pub uid: Option<String>,
    /// The name that people know.
    pub display_name: Option<String>,
    /// The tags, as a JSON object.
    pub tags: JsonText,
    /// What its record tells; `None` where that is not needed or can't be had again.
    pub draft: Option<Draft>,
    /// What was known before, as far as it was told when the event was logged.
    pub previous_state: PreviousState,
    /// The configuration before.
    pub previous_configuration: Option<Bytes>,
    /// The configuration after.
    pub configuration: Option<Bytes>,
    /// How much of it is known.
    pub configuration_state: ConfigurationState,
    /// The difference.
    pub changes: Vec<Change>,
}

/// What an event left, with all that is known now of the time before it.
#[derive(Clone, Debug)]
pub struct Version {
    /// Which of the events.
    pub event: usize,
    /// The configuration before it; `None` where there was none, or none is known.
    pub before: Option<Bytes>,
    /// What it changed.
    pub changes: Vec<Change>,
    /// The asset after it.
    pub held: Arc<Held>,
}

/// Puts a run of events of one asset, given in the order of the log, into the order of their times, and applies each to
/// what the one before it left. The [`oldest`] must have been told of all that is older than the run. `first_seen`: of
/// what was held before it.
#[must_use]
pub fn replay(events: &[Logged], first_seen: Time) -> Vec<Version> {
    let Some(oldest) = oldest(events) else { return Vec::new() };
    let name = &oldest.asset.name;
    let mut run = Recent { base: oldest.before(first_seen), changes: VecDeque::new() };
    for event in events {
        run.insert(name, event.told(events.len() == 1), &Arena::new());
    }
    let mut versions = Vec::with_capacity(events.len());
    let mut before = run.base;
    for entry in run.changes {
        let Some(index) = events.iter().position(|event| event.event_id == entry.told.event_id) else { continue };
        let Some(event) = events.get(index) else { continue };
        let configuration = before.as_ref().and_then(|held| held.configuration.clone());
        let (changes, held) = event.completed(configuration.as_ref(), &entry.after, &entry.told.asset.kind.sets);
        versions.push(Version { event: index, before: configuration, changes, held });
        before = Some(entry.after);
    }
    versions
}

/// The oldest of some events that are in the order of the log; of those of one time, the one that was told first.
#[must_use]
pub fn oldest(events: &[Logged]) -> Option<&Logged> {
    events.iter().min_by_key(|event| event.time)
}

impl Logged {
    /// What was held before the event, as it tells; `None` where nothing was, or nothing is known. The times in it are that
    /// of the first sight.
    #[must_use]
    pub fn before(&self, first_seen: Time) -> Option<Arc<Held>> {
        let known = match self.configuration_state {
            ConfigurationState::Complete => ConfigurationState::Complete,
            ConfigurationState::Partial | ConfigurationState::Deleted => ConfigurationState::Partial,
        };
        let (configuration, state) = match self.previous_state {
            PreviousState::Absent | PreviousState::Unknown => return None,
            PreviousState::Deleted => (None, ConfigurationState::Deleted),
            PreviousState::Present => (self.previous_configuration.clone(), known),
        };
        let kind = &self.asset.kind;
        Some(Arc::new(Held {
            name: self.asset.name.clone(),
            id: self.asset.id.clone(),
            uid: self.uid_before(),
            neutral_type: kind.neutral_type.clone(),
            provider: kind.provider.to_owned(),
            provider_type: kind.provider_type.clone(),
            arn: self.asset.arn.clone(),
            arn_is_told: self.asset.arn_is_told,
            account: self.asset.account.clone(),
            region: self.asset.region.clone(),
            display_name: self.display_name.clone(),
            tags: self.tags.clone(),
            configuration,
            state,
            first_seen,
            changed: first_seen,
            last_event: String::new(),
            aliases: Vec::new(),
            seeded: None,
        }))
    }

    /// What was deleted before an asset was created was another.
    fn uid_before(&self) -> Option<String> {
        self.uid.clone().filter(|_| self.action != Action::Create)
    }

    /// What its record tells, if that still makes of what was before what the event says: rules may have changed since.
    /// Otherwise what the event says: the configuration itself where nothing came late, else the changes.
    fn told(&self, alone: bool) -> Told {
        if let Some(draft) = &self.draft {
            let told = Told::of(self.time, self.event_id.clone(), draft.clone());
            let arena = Arena::new();
            let (again, _) = advance(&self.asset.name, self.before(self.time).as_deref(), &told, &arena);
            if is_same(again.configuration.as_ref(), self.configuration.as_ref()) {
                return told;
            }
        }
        let steps = match &self.configuration {
            None => Vec::new(),
            Some(configuration) if alone => vec![Step::Replace(Json::stored(configuration, &Arena::new()).to_text())],
            Some(_) => {
                let arena = Arena::new();
                let before =
                    self.previous_configuration.as_ref().map_or(Json::EMPTY, |json| Json::stored(json, &arena));
                self.changes.iter().map(|change| step(change, before)).collect()
            }
        };
        let partial = !alone || self.configuration_state == ConfigurationState::Partial;
        Told {
            time: self.time,
            event_id: self.event_id.clone(),
            action: DraftAction::Known(self.action),
            asset: self.asset.clone(),
            steps,
            partial,
            is_seed: false,
        }
    }

    /// What it changed, and the asset after it: by its own words, where what it was told of is what is known now.
    fn completed(&self, before: Option<&Bytes>, after: &Arc<Held>, sets: &[KeyedSet]) -> (Vec<Change>, Arc<Held>) {
        let is_as_told = is_same(before, self.previous_configuration.as_ref())
            && is_same(after.configuration.as_ref(), self.configuration.as_ref());
        if is_as_told {
            let (display_name, tags) = (self.display_name.clone(), self.tags.clone());
            let (arn, uid) = (self.asset.arn.clone(), self.uid.clone().or_else(|| after.uid.clone()));
            return (self.changes.clone(), Arc::new(Held { display_name, tags, arn, uid, ..Held::clone(after) }));
        }
        let changes = after.configuration.as_ref().map_or_else(Vec::new, |after| {
            let arena = Arena::new();
            let before = before.map_or(Json::EMPTY, |before| Json::stored(before, &arena));
            diff(before, Json::stored(after, &arena), sets).into_iter().map(Change::into_owned).collect()
        });
        (changes, Arc::clone(after))
    }
}

/// Whether two configurations are the same, however they are written.
fn is_same(one: Option<&Bytes>, other: Option<&Bytes>) -> bool {
    let arena = Arena::new();
    let value = |json: Option<&Bytes>| json.map(|json| Json::stored(json, &arena));
    one == other || value(one) == value(other)
}

/// A change of a document as a step: elements of arrays by their value, since they may stand elsewhere than when it was
/// told.
fn step(change: &Change, before: Json<'_>) -> Step {
    let (at, value) = (change.path.clone(), JsonText::from(&change.value));
    let array = change.path.split_back().filter(|(parent, last)| {
        last.decoded() == "-"
            || (change.op == ChangeOp::Remove && before.at(parent).is_some_and(|parent| parent.as_array().is_some()))
    });
    let set = array.map(|(parent, _)| KeyedSet {
        at: parent.to_buf(),
        key: Arc::new([PointerBuf::root()]),
        ignore_case: false,
    });
    match (change.op, set) {
        (ChangeOp::Add, Some(set)) => Step::Add { set, elements: vec![value] },
        (ChangeOp::Remove, Some(set)) => Step::Remove { set, elements: vec![(&change.old).into()] },
        (ChangeOp::Remove, None) => Step::Unset { at },
        (ChangeOp::Add | ChangeOp::Replace, _) => Step::Set { at, value },
    }
}
