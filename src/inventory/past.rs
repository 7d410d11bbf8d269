//! Changes of an asset that the journal no longer holds, taken from the log, so that a record can be placed however
//! late it arrives, also after a restart.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::advance::{Told, advance, describe};
use super::journal::{Entry, Recent};
use super::stored::{Fields, Held, Seeded};
use super::{ConfigurationState, PreviousState, Slot};
use crate::json::{Arena, Json};
use crate::model::{AssetName, Draft, Time};

/// An event from the log, and the draft obtained by normalizing its record again.
#[derive(Clone, Debug)]
pub struct PastChange {
    /// The provider's event time.
    pub time: Time,
    /// The event's id.
    pub event_id: String,
    /// The draft of its record; `None` if the record no longer yields one.
    pub draft: Option<Draft>,
    /// What was known about the asset before the event.
    pub previous_state: PreviousState,
    /// The configuration before, as JSON; `None` if there was none or none is known.
    pub previous_configuration: Option<Bytes>,
    /// The configuration after, as JSON; `None` for a deletion.
    pub configuration: Option<Bytes>,
    /// How much of the configuration after is known.
    pub configuration_state: ConfigurationState,
}

/// Reads the events of an asset from the log, in any order: back to the newest that is not after the given time, if
/// possible.
pub type Past<'a> = &'a dyn Fn(&AssetName, Time) -> Vec<PastChange>;

impl Recent {
    /// Prepends older changes from the log, so that a change of the given time can be placed. Does nothing if they do
    /// not lead to the configuration of `base`: the rules may have changed since.
    pub(super) fn reach_back(&mut self, name: &AssetName, time: Time, mut past: Vec<PastChange>) {
        let Some(base) = self.before(0) else { return };
        let fields = base.fields();
        past.sort_by_key(|change| change.time);
        let Some(newest) = past.iter().position(|change| change.event_id == fields.last_event) else { return };
        past.truncate(newest + 1);
        // The last seed includes everything before it; what happened after starts from it.
        let seeded = fields.seeded.as_ref();
        if seeded.is_some_and(|seeded| seeded.as_of > time) {
            return;
        }
        let is_next = |change: &PastChange| seeded.is_some_and(|seeded| seeded.next.as_ref() == Some(&change.event_id));
        if let Some(next) = past.iter().position(is_next) {
            past.drain(..next);
        }
        let later = past.partition_point(|change| change.time <= time);
        let mut after = past.split_off(later);
        let Some(drafts) = after.iter_mut().map(|change| change.draft.take()).collect::<Option<Vec<_>>>() else {
            return;
        };
        let Some(first) = drafts.first().zip(after.first()) else { return };
        let start = match past.last() {
            Some(anchor) => {
                let then = Fields {
                    state: anchor.configuration_state,
                    changed: anchor.time,
                    last_event: &anchor.event_id,
                    ..base.fields()
                };
                Some(described(&base, then, first.0, anchor.configuration.as_ref()))
            }
            None => match (seeded.filter(|_| is_next(first.1)), first.1.previous_state) {
                (Some(seeded), _) => {
                    let then = Fields {
                        state: seeded.state,
                        changed: seeded.as_of,
                        last_event: "",
                        seeded: Some(Seeded { next: None, ..seeded.clone() }),
                        ..base.fields()
                    };
                    Some(described(&base, then, first.0, first.1.previous_configuration.as_ref()))
                }
                (None, PreviousState::Absent | PreviousState::Unknown) => None,
                // Its state then is known, but not since when: the record may be older than that.
                (None, PreviousState::Present | PreviousState::Deleted) => return,
            },
        };
        let (mut held, mut entries, arena) = (start.clone(), VecDeque::new(), Arena::new());
        for (draft, change) in drafts.into_iter().zip(after) {
            let told = Told::of(change.time, change.event_id, draft);
            let (_, next) = advance(name, held.as_deref(), &told, &arena);
            held = Some(Arc::new(next));
            entries.extend(held.clone().map(|after| Entry { bytes: told.bytes() + after.size(), told, after }));
        }
        let leads_there =
            held.is_some_and(|held| (held.configuration(), held.state()) == (base.configuration(), base.state()));
        if leads_there {
            entries.append(&mut self.changes);
            self.changes = entries;
            self.base = start.map(Slot::Plain);
        }
    }
}

/// The asset with these fields and this configuration, which gives it its display name and its tags. What events do not
/// contain (aliases, first seen) is that of `base`.
fn described(base: &Held, fields: Fields<'_>, draft: &Draft, configuration: Option<&Bytes>) -> Arc<Held> {
    let arena = Arena::new();
    let (display_name, tags) = describe(&draft.asset, configuration.map(|json| Json::stored(json, &arena)));
    let fields = Fields { display_name: display_name.as_deref(), tags: tags.as_str(), ..fields };
    Arc::new(Held::new(base.name().clone(), &fields, configuration.map(AsRef::as_ref)))
}
