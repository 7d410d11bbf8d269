//! Replays an asset's logged events in the order of event time, to obtain its state after each of them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use jsonptr::PointerBuf;

use super::advance::{Told, advance};
use super::diff::{Change, ChangeOp, diff};
use super::journal::Recent;
use super::stored::{Fields, Held};
use super::{ConfigurationState, PreviousState, Slot};
use crate::json::{Arena, Json, JsonText};
use crate::model::{Action, AssetRef, Draft, DraftAction, KeyedSet, Step, Time};

/// An event, parsed from the log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The provider's event time.
    pub time: Time,
    /// The event's id.
    pub event_id: String,
    /// The action.
    pub action: Action,
    /// The asset, as the event describes it.
    pub asset: AssetRef,
    /// A unique id that distinguishes the asset from others of the same name.
    pub uid: Option<String>,
    /// The display name.
    pub display_name: Option<String>,
    /// The tags, as a JSON object.
    pub tags: JsonText,
    /// The draft of its record; `None` if it is not needed, or if the record no longer yields one.
    pub draft: Option<Draft>,
    /// What was known about the asset before, at the time the event was logged.
    pub previous_state: PreviousState,
    /// The configuration before, as JSON, at the time the event was logged.
    pub previous_configuration: Option<Bytes>,
    /// The configuration after, as JSON; `None` for a deletion.
    pub configuration: Option<Bytes>,
    /// How much of the configuration after is known.
    pub configuration_state: ConfigurationState,
    /// The difference between the two.
    pub changes: Vec<Change>,
}

/// The state after an event, given all that is known now about the time before it.
#[derive(Clone, Debug)]
pub struct Version {
    /// The index of the event.
    pub event: usize,
    /// The configuration before it, as JSON; `None` if there was none or none is known.
    pub before: Option<Bytes>,
    /// The difference that it made.
    pub changes: Vec<Change>,
    /// The asset after it.
    pub held: Arc<Held>,
}

/// Sorts a run of events of one asset, given in log order, by event time, and applies each to the state after the
/// previous one. When the [`oldest`] was logged, all events older than the run must have been in the log already.
/// `first_seen` is that of the asset before the run.
#[must_use]
pub fn replay(events: &[Logged], first_seen: Time) -> Vec<Version> {
    let Some(oldest) = oldest(events) else { return Vec::new() };
    let name = &oldest.asset.name;
    let mut before = oldest.before(first_seen);
    let mut run = Recent { base: before.clone().map(Slot::Plain), changes: VecDeque::new() };
    for event in events {
        run.insert(name, event.told(events.len() == 1), &Arena::new());
    }
    let mut versions = Vec::with_capacity(events.len());
    for entry in run.changes {
        let Some(index) = events.iter().position(|event| event.event_id == entry.told.event_id) else { continue };
        let Some(event) = events.get(index) else { continue };
        let configuration = before.as_ref().and_then(|held| held.configuration().cloned());
        let (changes, held) = event.completed(configuration.as_ref(), &entry.after, &entry.told.asset.kind.sets);
        versions.push(Version { event: index, before: configuration, changes, held });
        before = Some(entry.after);
    }
    versions
}

/// The oldest of some events given in log order; of several with the same time, the one logged first.
#[must_use]
pub fn oldest(events: &[Logged]) -> Option<&Logged> {
    events.iter().min_by_key(|event| event.time)
}

impl Logged {
    /// The asset before the event, according to the event; `None` if it did not exist or is unknown. Its times are
    /// `first_seen`.
    #[must_use]
    pub fn before(&self, first_seen: Time) -> Option<Arc<Held>> {
        let known = match self.configuration_state {
            ConfigurationState::Complete => ConfigurationState::Complete,
            ConfigurationState::Partial | ConfigurationState::Deleted => ConfigurationState::Partial,
        };
        let (configuration, state) = match self.previous_state {
            PreviousState::Absent | PreviousState::Unknown => return None,
            PreviousState::Deleted => (None, ConfigurationState::Deleted),
            PreviousState::Present => (self.previous_configuration.as_ref(), known),
        };
        let kind = &self.asset.kind;
        let fields = Fields {
            provider: kind.provider,
            provider_type: &kind.provider_type,
            neutral_type: &kind.neutral_type,
            account: &self.asset.account,
            region: &self.asset.region,
            state,
            arn_is_told: self.asset.arn_is_told,
            arn: self.asset.arn.as_deref(),
            id: &self.asset.id,
            uid: self.uid_before(),
            aliases: Vec::new(),
            seeded: None,
            first_seen,
            changed: first_seen,
            last_event: "",
            display_name: self.display_name.as_deref(),
            tags: self.tags.as_str(),
        };
        Some(Arc::new(Held::new(self.asset.name.clone(), &fields, configuration.map(AsRef::as_ref))))
    }

    /// The unique id before the event: none if it created the asset, since one deleted before was another.
    fn uid_before(&self) -> Option<&str> {
        self.uid.as_deref().filter(|_| self.action != Action::Create)
    }

    /// The change that the event stands for. It is taken from the record, if that still leads to the event's
    /// configuration (the rules may have changed since). Otherwise from the event: the configuration itself if the
    /// event is `alone`, else its changes.
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

    /// The difference that the event made, and the asset after it. They are the event's own if both configurations
    /// still are what they were when it was logged.
    fn completed(&self, before: Option<&Bytes>, after: &Arc<Held>, sets: &[KeyedSet]) -> (Vec<Change>, Arc<Held>) {
        let is_as_told = is_same(before, self.previous_configuration.as_ref())
            && is_same(after.configuration(), self.configuration.as_ref());
        if is_as_told {
            let fields = after.fields();
            let fields = Fields {
                arn: self.asset.arn.as_deref(),
                uid: self.uid.as_deref().or(fields.uid),
                display_name: self.display_name.as_deref(),
                tags: self.tags.as_str(),
                ..fields
            };
            let held = Held::new(after.name().clone(), &fields, after.configuration().map(AsRef::as_ref));
            return (self.changes.clone(), Arc::new(held));
        }
        let changes = after.configuration().map_or_else(Vec::new, |after| {
            let arena = Arena::new();
            let before = before.map_or(Json::EMPTY, |before| Json::stored(before, &arena));
            diff(before, Json::stored(after, &arena), sets).into_iter().map(Change::into_owned).collect()
        });
        (changes, Arc::clone(after))
    }
}

/// Whether two configurations are equal as JSON values.
fn is_same(one: Option<&Bytes>, other: Option<&Bytes>) -> bool {
    let arena = Arena::new();
    let value = |json: Option<&Bytes>| json.map(|json| Json::stored(json, &arena));
    one == other || value(one) == value(other)
}

/// A change as a step. Elements of arrays are found by value, since their index may differ from when the change was
/// logged.
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
