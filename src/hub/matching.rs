//! Which filters want which events.
//!
//! This is the one place that asks filters about new events. Subscribers with equal filters share one
//! [`InternedFilter`]; when the hub gets a segment, [`Filters::matches`] tells, once for all subscribers, which events
//! of it each filter in use passes. A filter that passes none of them is not mentioned, so that what a segment costs
//! the engine goes by the matches.
//!
//! So does what it costs here: a filter is found by one of its conditions, the one that the fewest events meet. A table
//! per field leads from a text to the filters that want it there. A prefix ends at a separator (`asset://aws/123/`,
//! `network.`), so an event has only a few of them, and each is looked up as a whole. What is found so is then asked
//! for all of its conditions; filters without such a condition are asked about every event.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::cel::{Field, View};
use super::filter::{Filter, KeyField};
use super::passing::Passing;
use crate::model::{EventHead, FastMap};

/// Identifies a filter in use. Ids increase and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FilterId(u64);

/// The id of the filter that matches every event, which is not in the index.
pub(super) const EVERYTHING: FilterId = FilterId(0);

/// A filter shared by all subscribers with an equal one. It is indexed as long as a clone exists.
#[derive(Clone, Debug)]
pub struct InternedFilter(Arc<InUse>);

#[derive(Debug)]
struct InUse {
    entry: Entry,
    index: Weak<Mutex<Arc<Index>>>,
}

#[derive(Clone, Debug)]
struct Entry {
    id: FilterId,
    filter: Arc<Filter>,
}

/// The filters in use. Cheap to clone. The index is copied on write while filters are evaluated, so that a subscriber
/// that comes or goes never waits for other subscribers' expressions.
#[derive(Clone, Debug, Default)]
pub struct Filters(Arc<Mutex<Arc<Index>>>);

#[derive(Clone, Debug, Default)]
struct Index {
    /// The highest id assigned.
    last: u64,
    known: HashMap<Arc<Filter>, Weak<InUse>>,
    by_text: [HashMap<Box<str>, Vec<Entry>>; TABLES],
    /// Filters without an indexable condition.
    others: Vec<Entry>,
}

const TABLES: usize = 10;

/// The index of a field's table in `by_text`.
fn table(field: KeyField) -> usize {
    match field {
        KeyField::Is(Field::Asset) => 0,
        KeyField::Is(Field::Principal) => 1,
        KeyField::Is(Field::Account) => 2,
        KeyField::Is(Field::AssetType) => 3,
        KeyField::Is(Field::Region) => 4,
        KeyField::Is(Field::Method) => 5,
        KeyField::Is(Field::Action) => 6,
        KeyField::Is(Field::Provider) => 7,
        KeyField::AssetPrefix => 8,
        KeyField::Family => 9,
    }
}

impl InternedFilter {
    pub(super) fn id(&self) -> FilterId {
        self.0.entry.id
    }

    pub(super) fn passes_everything(&self) -> bool {
        self.id() == EVERYTHING
    }

    pub(super) fn has_condition(&self) -> bool {
        self.0.entry.filter.has_condition()
    }

    /// Whether an event matches; for segments without [`Matches`], which were read back from the log.
    #[must_use]
    pub fn passes(&self, event: &View<'_>) -> bool {
        self.0.entry.filter.matches(event)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(index) = self.index.upgrade() {
            Arc::make_mut(&mut lock(&index)).remove(&self.entry);
        }
    }
}

impl Filters {
    /// Returns the shared form of a filter, and indexes it if it is new.
    #[must_use]
    pub fn intern(&self, filter: Filter) -> InternedFilter {
        if filter == Filter::default() {
            let entry = Entry { id: EVERYTHING, filter: Arc::new(filter) };
            return InternedFilter(Arc::new(InUse { entry, index: Weak::new() }));
        }
        let mut index = lock(&self.0);
        // One whose last clone is just being dropped can't be had back; it is replaced.
        if let Some(in_use) = index.known.get(&filter).and_then(Weak::upgrade) {
            return InternedFilter(in_use);
        }
        let index = Arc::make_mut(&mut index);
        index.last += 1;
        let entry = Entry { id: FilterId(index.last), filter: Arc::new(filter) };
        let in_use = Arc::new(InUse { entry: entry.clone(), index: Arc::downgrade(&self.0) });
        index.insert(&entry, Arc::downgrade(&in_use));
        InternedFilter(in_use)
    }

    /// Evaluates the filters in use against these events.
    #[must_use]
    pub fn matches<'a>(&self, events: impl Iterator<Item = View<'a>>) -> Matches {
        let index = Arc::clone(&lock(&self.0));
        let (mut hits, mut count) = (FastMap::<FilterId, Vec<u32>>::default(), 0);
        for (number, event) in (0..).zip(events) {
            count += 1;
            index.candidates(event.head(), |entry| {
                if !entry.filter.matches(&event) {
                    return;
                }
                let passed = hits.entry(entry.id).or_default();
                // An event can have several of a filter's keys: two of its principals, a prefix and a longer one.
                if passed.last() != Some(&number) {
                    passed.push(number);
                }
            });
        }
        let hits = hits.into_iter().map(|(id, passed)| (id, Passing::of(passed, count))).collect();
        Matches { before: FilterId(index.last + 1), hits }
    }
}

fn lock(index: &Mutex<Arc<Index>>) -> MutexGuard<'_, Arc<Index>> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Index {
    fn insert(&mut self, entry: &Entry, in_use: Weak<InUse>) {
        let keys = entry.filter.keys();
        if keys.is_empty() {
            self.others.push(entry.clone());
        }
        for key in keys {
            if let Some(table) = self.by_text.get_mut(table(key.field)) {
                table.entry(key.text.into()).or_default().push(entry.clone());
            }
        }
        self.known.insert(Arc::clone(&entry.filter), in_use);
    }

    fn remove(&mut self, entry: &Entry) {
        let keys = entry.filter.keys();
        if keys.is_empty() {
            self.others.retain(|other| other.id != entry.id);
        }
        for key in keys {
            let Some(table) = self.by_text.get_mut(table(key.field)) else { continue };
            let Some(entries) = table.get_mut(key.text) else { continue };
            entries.retain(|other| other.id != entry.id);
            if entries.is_empty() {
                table.remove(key.text);
            }
        }
        // An equal filter may have taken its place meanwhile.
        if self.known.get(&entry.filter).is_some_and(|in_use| in_use.strong_count() == 0) {
            self.known.remove(&entry.filter);
        }
    }

    /// Calls `each` with the filters that the event may match, some of them more than once.
    fn candidates(&self, head: &EventHead, mut each: impl FnMut(&Entry)) {
        self.others.iter().for_each(&mut each);
        let mut look_up = |field, text: &str| {
            let table = self.by_text.get(table(field)).filter(|table| !table.is_empty());
            if let Some(entries) = table.and_then(|table| table.get(text)) {
                entries.iter().for_each(&mut each);
            }
        };
        let asset = head.asset.as_str();
        look_up(KeyField::Is(Field::Asset), asset);
        prefixes(asset, b'/').for_each(|prefix| look_up(KeyField::AssetPrefix, prefix));
        head.principals.iter().for_each(|principal| look_up(KeyField::Is(Field::Principal), principal));
        look_up(KeyField::Is(Field::Account), &head.account);
        look_up(KeyField::Is(Field::AssetType), &head.asset_type);
        prefixes(&head.asset_type, b'.').for_each(|prefix| look_up(KeyField::Family, prefix));
        look_up(KeyField::Is(Field::Region), &head.region);
        look_up(KeyField::Is(Field::Method), &head.method);
        look_up(KeyField::Is(Field::Action), head.action.as_str());
        look_up(KeyField::Is(Field::Provider), &head.provider);
    }
}

/// The prefixes of a text that end in a separator.
fn prefixes(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    memchr::memchr_iter(separator, text.as_bytes()).filter_map(|at| text.get(..=at))
}

/// The outcome of [`Filters::matches`] for a segment.
#[derive(Debug)]
pub struct Matches {
    /// Filters with lower ids were evaluated; others came later.
    before: FilterId,
    /// For each filter with a match, the matching events.
    hits: FastMap<FilterId, Passing>,
}

impl Matches {
    /// The events that match a filter; `None` if it was not evaluated.
    pub(super) fn of(&self, filter: &InternedFilter) -> Option<Passing> {
        (filter.id() < self.before).then(|| self.hits.get(&filter.id()).cloned().unwrap_or(Passing::None))
    }

    /// Approximate memory in bytes.
    pub(super) fn weight(&self) -> usize {
        /// A table entry and the header of the list.
        const HIT_BYTES: usize = 64;
        let indexes = |passing: &Passing| if let Passing::Some(indexes) = passing { indexes.len() } else { 0 };
        self.hits.values().map(|passing| HIT_BYTES + indexes(passing) * size_of::<u32>()).sum()
    }

    /// The filters that match at least one event, except [`EVERYTHING`].
    pub(super) fn filters(&self) -> impl ExactSizeIterator<Item = FilterId> {
        self.hits.keys().copied()
    }

    /// Whether a filter matches at least one event.
    pub(super) fn hit(&self, filter: FilterId) -> bool {
        self.hits.contains_key(&filter)
    }

    /// The lowest id that was not evaluated.
    pub(super) fn asked_before(&self) -> FilterId {
        self.before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::event;
    use crate::log::NewEvent;
    use proptest::prelude::*;

    fn filter(parameters: &[(&str, &str)]) -> Filter {
        Filter::parse("p", |name| {
            parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
        .unwrap()
    }

    fn views(events: &[NewEvent]) -> impl Iterator<Item = View<'_>> {
        events.iter().map(|event| View::new(&event.head, &event.json))
    }

    #[test]
    fn equal_filters_are_one_and_each_is_told_its_events() {
        let filters = Filters::default();
        let intern = |name, value| filters.intern(filter(&[(name, value)]));
        let (creates, same) = (intern("type", "create"), intern("type", "create"));
        assert_eq!(creates.id(), same.id());
        let none = intern("account", "1");
        let events: Vec<NewEvent> = (1..=6).map(event).collect();
        let matches = filters.matches(views(&events));
        assert_eq!(matches.of(&creates).unwrap().indexes(6), [2, 5]);
        assert_eq!(matches.of(&none), Some(Passing::None));
        assert_eq!(matches.filters().collect::<Vec<_>>(), [creates.id()]);
        assert!(matches.hit(creates.id()) && !matches.hit(none.id()));
        assert!(creates.id() < none.id() && none.id() < matches.asked_before());
        let late = intern("type", "update");
        assert_eq!(matches.of(&late), None, "it came after");
        assert!(late.id() >= matches.asked_before());
    }

    #[test]
    fn a_filter_is_forgotten_with_its_last_subscriber() {
        let filters = Filters::default();
        let wanted = filter(&[("type", "create"), ("where", "changes == null || late")]);
        let (first, other) = (filters.intern(wanted.clone()), filters.intern(wanted.clone()));
        let (id, events) = (first.id(), [event(3)]);
        assert_eq!(filters.matches(views(&events)).filters().len(), 1);
        drop(first);
        assert_eq!(filters.matches(views(&events)).filters().len(), 1);
        drop(other);
        assert_eq!(filters.matches(views(&events)).filters().len(), 0);
        let index = lock(&filters.0);
        assert!(index.known.is_empty() && index.others.is_empty() && index.by_text.iter().all(HashMap::is_empty));
        drop(index);
        assert_ne!(filters.intern(wanted).id(), id, "an id has one meaning for ever");
    }

    /// While an expression is evaluated, subscribers can come and go without waiting; a filter added meanwhile is not
    /// evaluated.
    #[test]
    fn filters_come_and_go_while_others_are_asked() {
        let filters = Filters::default();
        let (stays, goes) =
            (filters.intern(filter(&[("type", "create")])), filters.intern(filter(&[("provider", "aws")])));
        let (mut goes, mut comes) = (Some(goes), None);
        let events = [event(3), event(6)];
        let (done, finished) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let matches = filters.matches(views(&events).inspect(|_| {
                drop(goes.take());
                comes = Some(filters.intern(filter(&[("type", "create,update")])));
            }));
            let late = comes.unwrap();
            assert_eq!(matches.of(&stays), Some(Passing::All));
            assert_eq!(matches.of(&late), None);
            assert!(late.id() >= matches.asked_before());
            let ids: Vec<_> = filters.matches(views(&events)).filters().collect();
            assert_eq!(ids.len(), 2, "{ids:?}: the one that went is not asked any more");
            done.send(()).unwrap();
        });
        finished.recv_timeout(std::time::Duration::from_secs(20)).expect("nobody waits for anybody");
    }

    #[test]
    fn what_passes_everything_is_not_kept() {
        let filters = Filters::default();
        assert!(filters.intern(Filter::default()).passes_everything());
        assert_eq!(filters.matches(views(&[event(1)])).filters().len(), 0);
    }

    /// Only filters that share a key with the event are evaluated.
    #[test]
    fn candidates_are_found_by_the_rarest_condition() {
        let filters = Filters::default();
        let account = |number: u64| format!("{number:012}");
        let kept: Vec<_> = (0..1000)
            .flat_map(|number| {
                let account = account(number);
                let quoted = format!("asset.account == '{account}' && !late");
                let alternatives = format!("asset.account == '{account}' || asset.account in ['x', 'y']");
                let prefix = format!("asset://aws/{account}/");
                [
                    filter(&[("account", &account), ("provider", "aws")]),
                    filter(&[("where", &quoted), ("type", "create,update,delete")]),
                    filter(&[("where", &alternatives)]),
                    filter(&[("asset", &prefix), ("asset_type", "network.*")]),
                ]
            })
            .map(|filter| filters.intern(filter))
            .collect();
        let mut head = event(1).head;
        head.account = account(7);
        head.asset = crate::model::AssetName::from_text("asset://aws/000000000007/us-east-1/ec2/vpc/vpc-1");
        let mut candidates = Vec::new();
        lock(&filters.0).candidates(&head, |entry| candidates.push(entry.id));
        candidates.sort_unstable();
        assert_eq!(candidates, kept[28..32].iter().map(InternedFilter::id).collect::<Vec<_>>());
    }

    /// Few words, so that filters often match events, and often only almost.
    fn parameter() -> impl Strategy<Value = (&'static str, String)> {
        let list = |words: &'static [&'static str]| {
            prop::sample::subsequence(words, 1..=words.len().min(3)).prop_map(|words| words.join(","))
        };
        let asset =
            &["asset://aws/1/", "asset://aws/1/r/", "asset://aws/1/r/a/1", "asset://aws/2/r/a/1", "asset://aws/"];
        let conditions = &[
            "asset.account == '1'",
            "'2' == asset.account && late",
            "asset.account in ['1', '3'] && action != 'create'",
            "asset.type == 'a.b' || asset.type == 'c'",
            "attribution.principal.id == 'jane' || attribution.human.id == 'ann'",
            "asset.name == 'asset://aws/1/r/a/1' || late",
            "size(changes) > 1",
            "asset.region in []",
        ];
        prop_oneof![
            list(&["create", "update", "delete"]).prop_map(|list| ("type", list)),
            list(&["a.*", "a.b", "a.b.*", "c"]).prop_map(|list| ("asset_type", list)),
            list(&["aws", "azure"]).prop_map(|list| ("provider", list)),
            list(&["1", "2", "3"]).prop_map(|list| ("account", list)),
            list(&["r", "-"]).prop_map(|list| ("region", list)),
            list(asset).prop_map(|list| ("asset", list)),
            list(&["jane", "ann", "role"]).prop_map(|list| ("principal", list)),
            list(&["cli", "console"]).prop_map(|list| ("method", list)),
            prop::sample::select(conditions.to_vec()).prop_map(|text| ("where", text.to_owned())),
        ]
    }

    fn any_filter() -> impl Strategy<Value = Filter> {
        prop::collection::vec(parameter(), 0..4).prop_map(|parameters| {
            let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
            filter(&parameters)
        })
    }

    fn any_event() -> impl Strategy<Value = NewEvent> {
        let one = |words: &'static [&'static str]| prop::sample::select(words.to_vec());
        let who = (one(&["jane", "ann", "role"]), prop::option::of(one(&["jane", "ann"])));
        let what = (one(&["create", "update", "delete"]), one(&["a.b", "a.b.c", "a", "c"]), one(&["1", "2", "3"]));
        (what, who, one(&["r", "-"]), one(&["cli", "console"]), any::<bool>(), 0..3_usize).prop_map(
            |((action, kind, account), (principal, human), region, method, late, changes)| {
                let name = format!("asset://aws/{account}/{region}/a/1");
                let json = serde_json::json!({
                    "id": "e:0", "time": "2023-07-10T12:10:05.000Z", "subject": name,
                    "data": {
                        "action": action,
                        "asset": { "name": name, "type": kind, "provider": "aws", "account": account, "region": region },
                        "attribution": {
                            "method": method,
                            "principal": { "id": principal },
                            "human": human.map(|id| serde_json::json!({ "id": id })),
                        },
                        "changes": vec![serde_json::json!({ "op": "add" }); changes],
                        "late": late,
                        "observed": "2023-07-10T12:10:05.000Z",
                    },
                });
                let json = bytes::Bytes::from(json.to_string());
                NewEvent { head: EventHead::parse(&json).unwrap(), json }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever filters come and go, the index finds what evaluating every filter finds.
        #[test]
        fn the_index_finds_what_asking_every_filter_finds(
            steps in prop::collection::vec((any_filter(), 0..4_usize, prop::collection::vec(any_event(), 0..4)), 1..20),
        ) {
            let filters = Filters::default();
            let mut kept: Vec<(Filter, InternedFilter)> = Vec::new();
            for (filter, drops, events) in steps {
                for _ in 0..drops.saturating_sub(1) {
                    kept.pop();
                }
                let place = drops % (kept.len() + 1);
                kept.insert(place, (filter.clone(), filters.intern(filter)));
                let matches = filters.matches(views(&events));
                for (filter, interned) in &kept {
                    let passed = (0..).zip(views(&events)).filter(|(_, event)| filter.matches(event));
                    let expected: Vec<u32> = passed.map(|(number, _)| number).collect();
                    prop_assert_eq!(views(&events).filter(|event| interned.passes(event)).count(), expected.len());
                    if interned.passes_everything() {
                        prop_assert_eq!(expected.len(), events.len());
                    } else {
                        let found = matches.of(interned).map(|passing| passing.indexes(events.len() as u32));
                        prop_assert_eq!(found, Some(expected), "{:?}", filter);
                    }
                }
                prop_assert!(matches.filters().all(|id| kept.iter().any(|(_, interned)| interned.id() == id)));
            }
        }
    }
}
