use std::sync::{Arc, Mutex};

use jsonptr::PointerBuf;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::journal::Journal;
use super::super::{ConfigurationState, PastChange};
use super::*;
use crate::json::testing::arena;
use crate::model::{Action, AssetKind, AssetName, AssetRef, Confidence, Time};

fn json_of(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

fn name() -> AssetName {
    AssetName::new("aws", "111122223333", "eu-west-1", "ec2/security-group/sg-1")
}

fn draft(action: DraftAction, steps: Vec<Step>, partial: bool) -> Draft {
    let kind = AssetKind { provider: "aws", tags: PointerBuf::from_tokens(["tags"]), ..AssetKind::default() };
    Draft {
        action,
        asset: AssetRef {
            kind: Arc::new(kind),
            name: name(),
            id: "sg-1".to_owned(),
            arn: None,
            arn_is_told: false,
            account: "111122223333".to_owned(),
            region: "eu-west-1".to_owned(),
        },
        steps,
        partial,
        associations: Vec::new(),
        rule: "test".into(),
        confidence: Confidence::High,
    }
}

fn at(seconds: i64) -> Time {
    Time::from_millis(seconds * 1_000)
}

fn set(key: &str, value: Value) -> Step {
    Step::Set { at: PointerBuf::from_tokens([key]), value: value.into() }
}

const CREATE: DraftAction = DraftAction::Known(Action::Create);
const UPDATE: DraftAction = DraftAction::Known(Action::Update);
const DELETE: DraftAction = DraftAction::Known(Action::Delete);

fn event(inventory: &Inventory, time: i64, action: DraftAction, steps: Vec<Step>) -> Applied<'static> {
    inventory.apply(at(time), &format!("e{time}:0"), &mut draft(action, steps, false), &|_, _| Vec::new(), arena())
}

fn seed(inventory: &Inventory, time: i64, action: DraftAction, document: Value, partial: bool) -> SeedOutcome {
    let mut seed = Seed { as_of: at(time), draft: draft(action, vec![Step::Replace(document.into())], partial) };
    inventory.seed("", &mut seed, &|_, _| Vec::new(), arena()).0
}

/// The state of the asset: the configuration, and how much of it is known.
fn held(inventory: &Inventory) -> Option<(Value, ConfigurationState)> {
    let held = inventory.get(&name())?;
    Some((held.configuration().map_or(Value::Null, |json| json_of(json)), held.state()))
}

/// As after a restart: single changes are no longer known.
fn restarted(inventory: &Inventory) -> Inventory {
    let again = Inventory::new();
    again.restore(inventory.get(&name()).unwrap().stored().clone()).unwrap();
    again
}

#[test]
fn a_seed_is_what_was_there_before_the_first_event() {
    let inventory = Inventory::new();
    assert_eq!(seed(&inventory, 1, DraftAction::Upsert, json!({ "a": 1, "b": 1 }), false), SeedOutcome::Imported);
    let changed = event(&inventory, 2, UPDATE, vec![set("a", json!(2))]);
    assert_eq!(changed.configuration_state, ConfigurationState::Complete);
    assert_eq!(
        serde_json::from_slice::<Value>(&changed.changes).unwrap(),
        json!([{ "op": "replace", "path": "/a", "value": 2, "old": 1 }])
    );
    assert_eq!(seed(&inventory, 3, DraftAction::Upsert, json!({ "a": 2, "b": 1 }), false), SeedOutcome::Unchanged);
    assert_eq!(inventory.get(&name()).unwrap().changed(), at(2), "what adds nothing leaves no trace");
    assert_eq!(seed(&inventory, 3, DraftAction::Upsert, json!({ "a": 3 }), false), SeedOutcome::Updated);
    assert_eq!(held(&inventory), Some((json!({ "a": 3 }), ConfigurationState::Complete)));
}

#[test]
fn a_partial_seed_leaves_what_it_does_not_tell() {
    let inventory = Inventory::new();
    assert_eq!(seed(&inventory, 1, DraftAction::Upsert, json!({ "a": 1 }), true), SeedOutcome::Imported);
    assert_eq!(held(&inventory), Some((json!({ "a": 1 }), ConfigurationState::Partial)));
    event(&inventory, 2, CREATE, vec![Step::Replace(json!({ "a": { "x": 1 }, "b": 1 }).into())]);
    assert_eq!(seed(&inventory, 3, DraftAction::Upsert, json!({ "a": { "y": 1 } }), true), SeedOutcome::Updated);
    assert_eq!(held(&inventory), Some((json!({ "a": { "y": 1 }, "b": 1 }), ConfigurationState::Complete)));
    let mut touched =
        Seed { as_of: at(4), draft: draft(DraftAction::Upsert, vec![set("a", json!(2)), Step::Touch], false) };
    assert_eq!(inventory.seed("", &mut touched, &|_, _| Vec::new(), arena()).0, SeedOutcome::Updated);
    assert_eq!(held(&inventory), Some((json!({ "a": 2, "b": 1 }), ConfigurationState::Complete)));
}

#[test]
fn a_seed_of_before_what_is_held_and_no_longer_known_in_steps_is_ignored() {
    let inventory = Inventory::new();
    event(&inventory, 5, CREATE, vec![Step::Replace(json!({ "a": 5 }).into())]);
    let inventory = restarted(&inventory);
    let before = held(&inventory);
    assert_eq!(seed(&inventory, 4, DraftAction::Upsert, json!({ "a": 4 }), false), SeedOutcome::Older);
    assert_eq!(seed(&inventory, 4, DELETE, json!({}), false), SeedOutcome::Older);
    assert_eq!(held(&inventory), before);
}

#[test]
fn a_record_of_before_the_seed_changes_nothing_that_it_told() {
    let inventory = Inventory::new();
    seed(&inventory, 5, DraftAction::Upsert, json!({ "a": 5 }), false);
    for inventory in [restarted(&inventory), inventory] {
        let late = event(&inventory, 4, UPDATE, vec![set("a", json!(4))]);
        assert!(late.late);
        assert_eq!(held(&inventory), Some((json!({ "a": 5 }), ConfigurationState::Complete)));
    }
}

/// The events of the asset as the log has them.
#[derive(Default)]
struct Log(Vec<PastChange>);

impl Log {
    /// Applies a record, with the past that the log has, and logs its event.
    fn take(&mut self, inventory: &Inventory, time: i64, action: DraftAction, steps: Vec<Step>) -> Applied<'static> {
        let (event_id, draft) = (format!("e{time}:0"), draft(action, steps, false));
        let applied = inventory.apply(at(time), &event_id, &mut draft.clone(), &|_, time| self.back_to(time), arena());
        self.0.push(PastChange {
            time: at(time),
            event_id,
            draft: Some(draft),
            previous_state: applied.previous_state,
            previous_configuration: applied.previous_configuration.clone(),
            configuration: applied.configuration.clone(),
            configuration_state: applied.configuration_state,
        });
        applied
    }

    fn back_to(&self, time: Time) -> Vec<PastChange> {
        let newest_first: Vec<_> = self.0.iter().rev().cloned().collect();
        let until = newest_first.iter().position(|change| change.time <= time).map_or(newest_first.len(), |n| n + 1);
        newest_first.into_iter().take(until).collect()
    }
}

#[test]
fn after_a_restart_a_record_between_a_seed_and_a_later_event_has_its_place() {
    for partial in [false, true] {
        let (inventory, mut log) = (Inventory::new(), Log::default());
        log.take(&inventory, 5, CREATE, vec![Step::Replace(json!({ "old": true }).into())]);
        seed(&inventory, 10, DraftAction::Upsert, json!({ "a": 10, "b": 10 }), partial);
        let seeded = held(&inventory).unwrap();
        log.take(&inventory, 20, UPDATE, vec![set("a", json!(20))]);
        let inventory = restarted(&inventory);
        let late = log.take(&inventory, 15, UPDATE, vec![set("a", json!(15)), set("b", json!(15))]);
        assert!(late.late && late.held.is_some());
        assert_eq!(late.previous_configuration.as_deref().map(json_of), Some(seeded.0.clone()));
        // And once more, now that another event is the first after the seed.
        let inventory = restarted(&inventory);
        let later = log.take(&inventory, 12, UPDATE, vec![set("c", json!(12))]);
        assert_eq!(later.previous_configuration.as_deref().map(json_of), Some(seeded.0.clone()));
        let (configuration, state) = held(&inventory).unwrap();
        assert_eq!(
            (&configuration["a"], &configuration["b"], &configuration["c"]),
            (&json!(20), &json!(15), &json!(12))
        );
        assert_eq!(state, seeded.1);
        // The seed includes what was before it.
        let inventory = restarted(&inventory);
        let before = log.take(&inventory, 7, UPDATE, vec![set("d", json!(7))]);
        assert!(before.late && before.held.is_none());
        assert_eq!(held(&inventory).unwrap().0, configuration);
    }
}

/// A seed of another asset.
fn seed_another(inventory: &Inventory, n: usize) {
    let mut draft = draft(DraftAction::Upsert, vec![Step::Replace(json!({ "text": "x".repeat(500) }).into())], false);
    draft.asset.name = AssetName::new("aws", "111122223333", "eu-west-1", &format!("ec2/security-group/sg-other-{n}"));
    let outcome = inventory.seed("", &mut Seed { as_of: at(100), draft }, &|_, _| Vec::new(), arena()).0;
    assert_eq!(outcome, SeedOutcome::Imported);
}

#[test]
fn an_import_does_not_push_out_what_late_records_need() {
    let journal = Mutex::new(Journal::with_limit(64 << 10));
    let inventory = Inventory { journal, ..Inventory::default() };
    event(&inventory, 10, CREATE, vec![Step::Replace(json!({ "a": 10 }).into())]);
    event(&inventory, 30, UPDATE, vec![set("a", json!(30))]);
    (0..1_000).for_each(|n| seed_another(&inventory, n));
    assert!(inventory.journal.lock().unwrap().bytes() <= 64 << 10);
    let late = event(&inventory, 20, UPDATE, vec![set("a", json!(20)), set("b", json!(20))]);
    assert_eq!(late.previous_configuration.as_deref().map(json_of), Some(json!({ "a": 10 })));
    assert_eq!(held(&inventory), Some((json!({ "a": 30, "b": 20 }), ConfigurationState::Complete)));
    assert_eq!(inventory.len(), 1_001);
}

#[test]
fn what_a_seed_says_is_gone_is_gone() {
    let inventory = Inventory::new();
    assert_eq!(seed(&inventory, 1, DELETE, json!({}), false), SeedOutcome::Unchanged);
    assert_eq!(held(&inventory), None);
    event(&inventory, 2, CREATE, vec![Step::Replace(json!({ "a": 1 }).into())]);
    assert_eq!(seed(&inventory, 3, DELETE, json!({}), false), SeedOutcome::Updated);
    assert_eq!(held(&inventory), Some((Value::Null, ConfigurationState::Deleted)));
    assert_eq!(seed(&inventory, 4, DraftAction::Upsert, json!({ "a": 2 }), false), SeedOutcome::Imported);
}

proptest! {
    /// Whenever a seed arrives among the records, the final state is the one of arrival in order.
    #[test]
    fn the_order_in_which_seeds_and_records_come_does_not_matter(
        keys in prop::collection::vec((0_usize..4, any::<u8>()), 1..12),
        of in 0_usize..12,
        comes in any::<prop::sample::Index>(),
        partial in any::<bool>(),
    ) {
        let of = of.min(keys.len());
        let document = json!({ "k0": "seed", "seeded": true });
        let record = |inventory: &Inventory, n: usize| {
            let (key, value) = keys[n];
            let time = 10 * i64::try_from(n).unwrap();
            let (action, steps) = match n {
                0 => (CREATE, vec![Step::Replace(json!({ "k1": value }).into())]),
                _ => (UPDATE, vec![set(&format!("k{key}"), json!(value))]),
            };
            event(inventory, time, action, steps);
        };
        let take = |inventory: &Inventory| {
            seed(inventory, 10 * i64::try_from(of).unwrap() - 5, DraftAction::Upsert, document.clone(), partial);
        };
        let run = |place: usize| {
            let inventory = Inventory::new();
            for n in 0..keys.len() {
                if n == place {
                    take(&inventory);
                }
                record(&inventory, n);
            }
            if place >= keys.len() {
                take(&inventory);
            }
            held(&inventory)
        };
        prop_assert_eq!(run(comes.index(keys.len() + 1)), run(of));
    }
    /// A restart before the late record makes no difference either, if the record is from after the seed.
    #[test]
    fn nor_does_a_restart(
        keys in prop::collection::vec((0_usize..4, any::<u8>()), 2..12),
        of in any::<prop::sample::Index>(),
        late in any::<prop::sample::Index>(),
        partial in any::<bool>(),
    ) {
        let of = of.index(keys.len());
        // The last one can't be late.
        let late = of + late.index(keys.len() - of);
        let run = |late: Option<usize>| {
            let (mut inventory, mut log) = (Inventory::new(), Log::default());
            let take = |log: &mut Log, inventory: &Inventory, n: usize| {
                let (key, value) = keys[n];
                log.take(inventory, 10 * i64::try_from(n).unwrap(), UPDATE, vec![set(&format!("k{key}"), json!(value))]);
            };
            for n in 0..keys.len() {
                if n == of {
                    let as_of = 10 * i64::try_from(of).unwrap() - 5;
                    seed(&inventory, as_of, DraftAction::Upsert, json!({ "k0": "seed", "seeded": true }), partial);
                }
                if Some(n) != late {
                    take(&mut log, &inventory, n);
                }
            }
            if let Some(n) = late {
                inventory = restarted(&inventory);
                take(&mut log, &inventory, n);
            }
            held(&inventory)
        };
        prop_assert_eq!(run(Some(late)), run(None));
    }
}
