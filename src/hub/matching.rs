//! Which filters want which events.
//!
//! This is the one place that asks filters about new events. Subscribers with equal filters share one
//! [`InternedFilter`]; when the hub gets a segment, [`Filters::matches`] tells, once for all subscribers, which events
//! of it each filter in use passes. A filter that passes none of them is not mentioned, so that what a segment costs
//! the fan-out goes by the matches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::filter::Filter;
use crate::model::EventHead;

/// Tells filters in use apart; grows, and is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FilterId(u64);

/// The filter that passes every event. It has this id without being interned.
pub(super) const EVERYTHING: FilterId = FilterId(0);

/// A filter that all subscribers with an equal one share. It is in use as long as a clone is kept.
#[derive(Clone, Debug)]
pub(super) struct InternedFilter {
    id: FilterId,
    filter: Arc<Filter>,
}

impl InternedFilter {
    #[allow(dead_code, reason = "the next commit has streams that write the shared chunks to their own sockets")]
    pub(super) fn id(&self) -> FilterId {
        self.id
    }

    pub(super) fn passes_everything(&self) -> bool {
        self.id == EVERYTHING
    }

    /// Whether one event passes, for segments that no [`Matches`] was made of: those read back from the log.
    pub(super) fn passes(&self, head: &EventHead) -> bool {
        self.filter.matches(head)
    }
}

/// The filters in use.
#[derive(Debug)]
pub(super) struct Filters(Mutex<InUse>);

#[derive(Debug)]
struct InUse {
    ids: HashMap<Arc<Filter>, FilterId>,
    next: FilterId,
}

impl Default for Filters {
    fn default() -> Self {
        Self(Mutex::new(InUse { ids: HashMap::new(), next: FilterId(EVERYTHING.0 + 1) }))
    }
}

impl Filters {
    /// The shared form of a filter.
    pub(super) fn intern(&self, filter: Filter) -> InternedFilter {
        if filter == Filter::default() {
            return InternedFilter { id: EVERYTHING, filter: Arc::new(filter) };
        }
        let mut in_use = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((filter, id)) = in_use.ids.get_key_value(&filter) {
            return InternedFilter { id: *id, filter: Arc::clone(filter) };
        }
        let (id, filter) = (in_use.next, Arc::new(filter));
        in_use.next = FilterId(id.0 + 1);
        in_use.ids.insert(Arc::clone(&filter), id);
        InternedFilter { id, filter }
    }

    /// Which of these events each filter in use passes.
    pub(super) fn matches(&self, heads: &[EventHead]) -> Matches {
        let mut in_use = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that only this table still keeps.
        in_use.ids.retain(|filter, _| Arc::strong_count(filter) > 1);
        let passed = |filter: &Filter| -> Option<Arc<[u32]>> {
            let passed = (0..).zip(heads).filter(|(_, head)| filter.matches(head)).map(|(index, _)| index);
            Some(passed.collect::<Arc<[u32]>>()).filter(|passed| !passed.is_empty())
        };
        let hits = in_use.ids.iter().filter_map(|(filter, id)| Some((*id, passed(filter)?))).collect();
        Matches { before: in_use.next, hits }
    }
}

/// What [`Filters::matches`] found in a segment.
#[derive(Debug)]
pub(super) struct Matches {
    /// Filters with lower ids were asked; others came later.
    before: FilterId,
    /// Indexes of the events that a filter passes, ascending, at least one.
    hits: HashMap<FilterId, Arc<[u32]>>,
}

impl Matches {
    /// The events that a filter passes; `None` when it was not asked.
    pub(super) fn of(&self, filter: &InternedFilter) -> Option<&[u32]> {
        (filter.id < self.before).then(|| self.hits.get(&filter.id).map_or(&[][..], |indexes| indexes))
    }

    #[allow(dead_code, reason = "the next commit has streams that write the shared chunks to their own sockets")]
    /// The filters that pass an event, but for [`EVERYTHING`].
    pub(super) fn filters(&self) -> impl ExactSizeIterator<Item = FilterId> {
        self.hits.keys().copied()
    }

    #[allow(dead_code, reason = "the next commit has streams that write the shared chunks to their own sockets")]
    /// Whether one of these filters passes an event.
    pub(super) fn hit(&self, filter: FilterId) -> bool {
        self.hits.contains_key(&filter)
    }

    #[allow(dead_code, reason = "the next commit has streams that write the shared chunks to their own sockets")]
    /// Filters from here on were not asked.
    pub(super) fn asked_before(&self) -> FilterId {
        self.before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::event;

    fn filter(name: &'static str, value: &str) -> Filter {
        Filter::parse("p", |parameter| (parameter == name).then(|| value.to_owned())).unwrap()
    }

    #[test]
    fn equal_filters_are_one_and_each_is_told_its_events() {
        let filters = Filters::default();
        let (creates, same) = (filters.intern(filter("type", "create")), filters.intern(filter("type", "create")));
        assert_eq!(creates.id(), same.id());
        let none = filters.intern(filter("account", "1"));
        let heads: Vec<EventHead> = (1..=6).map(|number| event(number).head).collect();
        let matches = filters.matches(&heads);
        assert_eq!(matches.of(&creates), Some(&[2, 5][..]));
        assert_eq!(matches.of(&none), Some(&[][..]));
        assert_eq!(matches.filters().collect::<Vec<_>>(), [creates.id()]);
        assert!(matches.hit(creates.id()) && !matches.hit(none.id()));
        let late = filters.intern(filter("type", "update"));
        assert_eq!(matches.of(&late), None, "it came after");
        assert!(late.id() >= matches.asked_before());
    }

    #[test]
    fn a_filter_is_forgotten_with_its_last_subscriber() {
        let filters = Filters::default();
        let first = filters.intern(filter("type", "create"));
        let (id, heads) = (first.id(), [event(3).head]);
        assert_eq!(filters.matches(&heads).filters().len(), 1);
        drop(first);
        assert_eq!(filters.matches(&heads).filters().len(), 0);
        assert_ne!(filters.intern(filter("type", "create")).id(), id, "an id has one meaning for ever");
    }

    #[test]
    fn what_passes_everything_is_not_kept() {
        let filters = Filters::default();
        assert!(filters.intern(Filter::default()).passes_everything());
        assert_eq!(filters.matches(&[event(1).head]).filters().len(), 0);
    }
}
