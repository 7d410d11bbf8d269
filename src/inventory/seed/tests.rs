use std::sync::Arc;

use jsonptr::PointerBuf;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{ConfigurationState, parse_object};
use super::*;
use crate::model::{Action, AssetKind, AssetName, AssetRef, Confidence, Time};

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
    Step::Set { at: PointerBuf::from_tokens([key]), value }
}

const CREATE: DraftAction = DraftAction::Known(Action::Create);
const UPDATE: DraftAction = DraftAction::Known(Action::Update);
const DELETE: DraftAction = DraftAction::Known(Action::Delete);

fn event(inventory: &Inventory, time: i64, action: DraftAction, steps: Vec<Step>) -> Applied {
    inventory.apply(at(time), &format!("e{time}:0"), &mut draft(action, steps, false), &|_, _| Vec::new())
}

fn seed(inventory: &Inventory, time: i64, action: DraftAction, document: Value, partial: bool) -> SeedOutcome {
    let mut seed = Seed { as_of: at(time), draft: draft(action, vec![Step::Replace(document)], partial) };
    inventory.seed("", &mut seed, &|_, _| Vec::new()).0
}

/// What is held: the configuration, and how much of it is known.
fn held(inventory: &Inventory) -> Option<(Value, ConfigurationState)> {
    let held = inventory.get(&name())?;
    Some((held.configuration.as_deref().map_or(Value::Null, parse_object), held.state))
}

/// As after a restart: nothing is known change by change.
fn restarted(inventory: &Inventory) -> Inventory {
    let again = Inventory::new();
    again.restore(&inventory.get(&name()).unwrap().encode()).unwrap();
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
    assert_eq!(inventory.get(&name()).unwrap().changed, at(2), "what adds nothing leaves no trace");
    assert_eq!(seed(&inventory, 3, DraftAction::Upsert, json!({ "a": 3 }), false), SeedOutcome::Updated);
    assert_eq!(held(&inventory), Some((json!({ "a": 3 }), ConfigurationState::Complete)));
}

#[test]
fn a_partial_seed_leaves_what_it_does_not_tell() {
    let inventory = Inventory::new();
    assert_eq!(seed(&inventory, 1, DraftAction::Upsert, json!({ "a": 1 }), true), SeedOutcome::Imported);
    assert_eq!(held(&inventory), Some((json!({ "a": 1 }), ConfigurationState::Partial)));
    event(&inventory, 2, CREATE, vec![Step::Replace(json!({ "a": { "x": 1 }, "b": 1 }))]);
    assert_eq!(seed(&inventory, 3, DraftAction::Upsert, json!({ "a": { "y": 1 } }), true), SeedOutcome::Updated);
    assert_eq!(held(&inventory), Some((json!({ "a": { "y": 1 }, "b": 1 }), ConfigurationState::Complete)));
    let mut touched =
        Seed { as_of: at(4), draft: draft(DraftAction::Upsert, vec![set("a", json!(2)), Step::Touch], false) };
    assert_eq!(inventory.seed("", &mut touched, &|_, _| Vec::new()).0, SeedOutcome::Updated);
    assert_eq!(held(&inventory), Some((json!({ "a": 2, "b": 1 }), ConfigurationState::Complete)));
}

#[test]
fn a_seed_of_before_what_is_held_and_no_longer_known_in_steps_is_ignored() {
    let inventory = Inventory::new();
    event(&inventory, 5, CREATE, vec![Step::Replace(json!({ "a": 5 }))]);
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

#[test]
fn what_a_seed_says_is_gone_is_gone() {
    let inventory = Inventory::new();
    assert_eq!(seed(&inventory, 1, DELETE, json!({}), false), SeedOutcome::Unchanged);
    assert_eq!(held(&inventory), None);
    event(&inventory, 2, CREATE, vec![Step::Replace(json!({ "a": 1 }))]);
    assert_eq!(seed(&inventory, 3, DELETE, json!({}), false), SeedOutcome::Updated);
    assert_eq!(held(&inventory), Some((Value::Null, ConfigurationState::Deleted)));
    assert_eq!(seed(&inventory, 4, DraftAction::Upsert, json!({ "a": 2 }), false), SeedOutcome::Imported);
}

proptest! {
    /// Whenever a seed comes among the records, what is held in the end is what it would be had all come in order.
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
                0 => (CREATE, vec![Step::Replace(json!({ "k1": value }))]),
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
}
