use std::sync::Arc;

use jsonptr::PointerBuf;
use serde_json::{Value, json};

use super::*;
use crate::json::testing::arena;
use crate::model::{AssetKind, AssetRef, Confidence, DraftAction, KeyedSet};

mod properties;
mod storage;

fn pointer(text: &str) -> PointerBuf {
    PointerBuf::parse(text).unwrap()
}

fn rules() -> KeyedSet {
    KeyedSet { at: pointer("/rules"), key: Arc::new([pointer("/port"), pointer("/peer")]), ignore_case: false }
}

fn kind() -> Arc<AssetKind> {
    Arc::new(AssetKind {
        provider: "aws",
        provider_type: "AWS::EC2::SecurityGroup".to_owned(),
        neutral_type: "network.security_group".to_owned(),
        display: vec![pointer("/groupName")],
        tags: pointer("/tags"),
        uid: Vec::new(),
        sets: vec![rules()],
    })
}

fn name(id: &str) -> AssetName {
    AssetName::new("aws", "111122223333", "eu-west-1", &format!("ec2/security-group/{id}"))
}

fn draft(id: &str, action: DraftAction, steps: Vec<Step>) -> Draft {
    Draft {
        action,
        asset: AssetRef {
            kind: kind(),
            name: name(id),
            id: id.to_owned(),
            arn: Some(format!("arn:composed:{id}")),
            arn_is_told: false,
            account: "111122223333".to_owned(),
            region: "eu-west-1".to_owned(),
        },
        steps,
        partial: false,
        associations: Vec::new(),
        rule: "aws/ec2/Test".into(),
        confidence: Confidence::High,
    }
}

fn apply(inventory: &Inventory, time: Time, event_id: &str, draft: &Draft) -> Applied<'static> {
    inventory.apply(time, event_id, &mut draft.clone(), &|_, _| Vec::new(), arena())
}

const CREATE: DraftAction = DraftAction::Known(Action::Create);
const UPDATE: DraftAction = DraftAction::Known(Action::Update);
const DELETE: DraftAction = DraftAction::Known(Action::Delete);

fn at(seconds: i64) -> Time {
    Time::from_millis(seconds * 1_000)
}

fn json_of(bytes: Option<&Bytes>) -> Value {
    bytes.map_or(Value::Null, |bytes| serde_json::from_slice(bytes).unwrap())
}

fn rule(port: u16) -> Value {
    json!({ "port": port, "peer": "203.0.113.7/32", "note": "x" })
}

fn add(port: u16) -> Step {
    Step::Add { set: rules(), elements: vec![rule(port).into()] }
}

fn remove(port: u16) -> Step {
    Step::Remove { set: rules(), elements: vec![json!({ "port": port, "peer": "203.0.113.7/32" }).into()] }
}

#[test]
fn the_life_of_an_asset() {
    let inventory = Inventory::new();
    let created = apply(
        &inventory,
        at(1),
        "e1:0",
        &draft("sg-1", CREATE, vec![Step::Replace(json!({ "groupName": "web" }).into())]),
    );
    assert_eq!((created.action, created.previous_state), (Action::Create, PreviousState::Absent));
    assert_eq!(
        (created.configuration_state, created.display_name.as_deref()),
        (ConfigurationState::Complete, Some("web"))
    );

    let opened = apply(&inventory, at(2), "e2:0", &draft("sg-1", UPDATE, vec![add(22)]));
    assert_eq!(json_of(opened.previous_configuration.as_ref()), json!({ "groupName": "web" }));
    assert_eq!(json_of(opened.configuration.as_ref()), json!({ "groupName": "web", "rules": [rule(22)] }));
    assert_eq!(opened.configuration_state, ConfigurationState::Complete);

    let closed = apply(&inventory, at(3), "e3:0", &draft("sg-1", UPDATE, vec![add(80), remove(22)]));
    assert_eq!(
        json_of(Some(&closed.changes)),
        json!([
            { "op": "remove", "path": "/rules/0", "value": null, "old": rule(22) },
            { "op": "add", "path": "/rules/-", "value": rule(80), "old": null },
        ])
    );

    let deleted = apply(&inventory, at(4), "e4:0", &draft("sg-1", DELETE, Vec::new()));
    assert_eq!(deleted.configuration, None);
    assert_eq!(json_of(deleted.previous_configuration.as_ref()), json!({ "groupName": "web", "rules": [rule(80)] }));
    assert_eq!(
        (deleted.configuration_state, deleted.display_name.as_deref()),
        (ConfigurationState::Deleted, Some("web"))
    );

    let again = apply(&inventory, at(5), "e5:0", &draft("sg-1", CREATE, vec![Step::Replace(json!({}).into())]));
    assert_eq!((again.previous_state, again.previous_configuration), (PreviousState::Deleted, None));
}

#[test]
fn unknown_is_never_dressed_up_as_absent() {
    let inventory = Inventory::new();
    let update = apply(&inventory, at(1), "e1:0", &draft("sg-1", UPDATE, vec![add(22)]));
    assert_eq!(
        (update.previous_state, update.configuration_state),
        (PreviousState::Unknown, ConfigurationState::Partial)
    );
    assert_eq!(update.previous_configuration, None);
    let delete = apply(&inventory, at(1), "e2:0", &draft("sg-2", DELETE, Vec::new()));
    assert_eq!(
        (delete.previous_state, delete.configuration_state),
        (PreviousState::Unknown, ConfigurationState::Deleted)
    );
    let upsert =
        apply(&inventory, at(1), "e3:0", &draft("sg-3", DraftAction::Upsert, vec![Step::Replace(json!({}).into())]));
    assert_eq!((upsert.action, upsert.previous_state), (Action::Create, PreviousState::Unknown));
    let upsert =
        apply(&inventory, at(2), "e4:0", &draft("sg-3", DraftAction::Upsert, vec![Step::Replace(json!({}).into())]));
    assert_eq!((upsert.action, upsert.previous_state), (Action::Update, PreviousState::Present));
}

#[test]
fn what_could_not_be_done_makes_a_configuration_partial_until_it_is_replaced() {
    let inventory = Inventory::new();
    apply(&inventory, at(1), "e1:0", &draft("sg-1", CREATE, vec![Step::Replace(json!({ "rules": [] }).into())]));
    let state = |time, steps| apply(&inventory, at(time), "e:0", &draft("sg-1", UPDATE, steps)).configuration_state;
    assert_eq!(state(2, vec![remove(22)]), ConfigurationState::Partial, "removing what is not there");
    assert_eq!(state(3, vec![add(22)]), ConfigurationState::Partial, "still");
    assert_eq!(state(4, vec![Step::Replace(json!({ "rules": [] }).into())]), ConfigurationState::Complete);
    assert_eq!(state(5, vec![Step::Touch]), ConfigurationState::Partial);
}

#[test]
fn a_late_record_is_applied_in_its_place() {
    let inventory = Inventory::new();
    let web = json!({ "groupName": "web" });
    apply(&inventory, at(1), "e1:0", &draft("sg-1", CREATE, vec![Step::Replace(web.clone().into())]));
    apply(&inventory, at(9), "e9:0", &draft("sg-1", UPDATE, vec![add(443)]));
    let late = apply(&inventory, at(5), "e5:0", &draft("sg-1", UPDATE, vec![add(22)]));
    assert!(late.late);
    assert_eq!((late.previous_state, late.configuration_state), (PreviousState::Present, ConfigurationState::Complete));
    assert_eq!(json_of(late.previous_configuration.as_ref()), web);
    assert_eq!(json_of(late.configuration.as_ref()), json!({ "groupName": "web", "rules": [rule(22)] }));
    let held = inventory.get(&name("sg-1")).unwrap();
    assert_eq!(json_of(held.configuration()), json!({ "groupName": "web", "rules": [rule(22), rule(443)] }));
    assert_eq!((held.changed(), held.fields().last_event), (at(9), "e9:0"));
    assert_eq!(late.held.unwrap().stored().clone(), held.stored().clone(), "the log stores the state after all");
}

#[test]
fn a_creation_that_comes_after_its_updates_completes_them() {
    let inventory = Inventory::new();
    let update = apply(&inventory, at(5), "e5:0", &draft("sg-1", UPDATE, vec![add(22)]));
    assert_eq!(update.previous_state, PreviousState::Unknown);
    // Also within the same second: nothing is updated before it exists.
    for seconds in [4, 5] {
        let inventory = Inventory::new();
        apply(&inventory, at(5), "e5:0", &draft("sg-1", UPDATE, vec![add(22)]));
        let create = draft("sg-1", CREATE, vec![Step::Replace(json!({ "groupName": "web" }).into())]);
        let created = apply(&inventory, at(seconds), "e4:0", &create);
        assert_eq!((created.late, created.previous_state), (true, PreviousState::Absent));
        let held = inventory.get(&name("sg-1")).unwrap();
        assert_eq!(json_of(held.configuration()), json!({ "groupName": "web", "rules": [rule(22)] }));
        assert_eq!((held.state(), held.first_seen()), (ConfigurationState::Complete, at(seconds)));
    }
}

#[test]
fn a_record_whose_place_is_no_longer_known_leaves_the_asset_as_it_is() {
    let before = Inventory::new();
    let web = json!({ "groupName": "web" });
    let created = apply(&before, at(10), "e1:0", &draft("sg-1", CREATE, vec![Step::Replace(web.clone().into())]));
    // After a restart the assets are known, but no longer their single changes.
    let inventory = Inventory::new();
    inventory.restore(created.held.unwrap().stored().clone()).unwrap();
    let late = apply(&inventory, at(5), "e0:0", &draft("sg-1", UPDATE, vec![add(22)]));
    assert!(late.late && late.held.is_none());
    assert_eq!((late.previous_state, late.configuration_state), (PreviousState::Unknown, ConfigurationState::Partial));
    let held = inventory.get(&name("sg-1")).unwrap();
    assert_eq!((json_of(held.configuration()), held.changed()), (web, at(10)));
}

/// What the log would contain for a history: every event, and the draft that its record yields again.
fn past_of(history: &[(Time, String, Draft)]) -> Vec<PastChange> {
    let inventory = Inventory::new();
    let change = |(time, event_id, draft): &(Time, String, Draft)| {
        let applied = apply(&inventory, *time, event_id, draft);
        PastChange {
            time: *time,
            event_id: event_id.clone(),
            draft: Some(draft.clone()),
            previous_state: applied.previous_state,
            previous_configuration: applied.previous_configuration,
            configuration: applied.configuration,
            configuration_state: applied.configuration_state,
        }
    };
    history.iter().map(change).collect()
}

/// The inventory after a restart: the assets are known, but no longer their single changes.
fn restored(history: &[(Time, String, Draft)]) -> Inventory {
    let (before, inventory) = (Inventory::new(), Inventory::new());
    for (time, event_id, draft) in history {
        let held = apply(&before, *time, event_id, draft).held.unwrap();
        inventory.restore(held.stored().clone()).unwrap();
    }
    inventory
}

#[test]
fn after_a_restart_the_log_tells_where_a_late_record_belongs() {
    let web = json!({ "groupName": "web" });
    let history = [
        (at(1), "e1:0".to_owned(), draft("sg-1", CREATE, vec![Step::Replace(web.clone().into())])),
        (at(9), "e9:0".to_owned(), draft("sg-1", UPDATE, vec![add(443)])),
    ];
    let past = past_of(&history);
    let inventory = restored(&history);
    let mut late = draft("sg-1", UPDATE, vec![add(22)]);
    let applied = inventory.apply(at(5), "e5:0", &mut late, &|_, _| past.clone(), arena());
    assert_eq!(json_of(applied.previous_configuration.as_ref()), web);
    let held = inventory.get(&name("sg-1")).unwrap();
    assert_eq!(json_of(held.configuration()), json!({ "groupName": "web", "rules": [rule(22), rule(443)] }));
    assert_eq!(held.state(), ConfigurationState::Complete);

    // A past that does not lead to the present state is not used: a rule may have changed since.
    let inventory = restored(&history);
    let mut other = past.clone();
    other[1].draft = Some(draft("sg-1", UPDATE, vec![add(80)]));
    for past in [other, past[..1].to_vec()] {
        let applied =
            inventory.apply(at(5), "e5:0", &mut draft("sg-1", UPDATE, vec![add(22)]), &|_, _| past.clone(), arena());
        assert!(applied.held.is_none() && applied.previous_state == PreviousState::Unknown);
        let held = inventory.get(&name("sg-1")).unwrap();
        assert_eq!(json_of(held.configuration()), json!({ "groupName": "web", "rules": [rule(443)] }));
    }
}

/// For an asset with more changes than are read back, or whose older events are no longer kept.
#[test]
fn a_record_from_before_all_that_the_log_tells_changes_nothing() {
    let set = |value: u8| vec![Step::Set { at: pointer("/note"), value: json!(value).into() }];
    let history = [
        (at(10), "e10:0".to_owned(), draft("sg-1", UPDATE, set(10))),
        (at(20), "e20:0".to_owned(), draft("sg-1", UPDATE, vec![add(22)])),
    ];
    let past = past_of(&history);
    for (time, known) in [(5, &past[1..]), (15, &past[1..]), (5, &past[..])] {
        let inventory = restored(&history);
        let late =
            inventory.apply(at(time), "e5:0", &mut draft("sg-1", UPDATE, set(5)), &|_, _| known.to_vec(), arena());
        let held = inventory.get(&name("sg-1")).unwrap();
        assert_eq!(json_of(held.configuration())["note"], 10, "{time}");
        assert_eq!((late.late, late.held.is_some()), (true, known.len() == 2), "{time}");
    }
}

#[test]
fn an_update_of_the_second_of_the_deletion_does_not_bring_an_asset_back() {
    let inventory = Inventory::new();
    apply(&inventory, at(1), "e1:0", &draft("sg-1", CREATE, Vec::new()));
    apply(&inventory, at(2), "e2:0", &draft("sg-1", DELETE, Vec::new()));
    let update = apply(&inventory, at(2), "e3:0", &draft("sg-1", UPDATE, vec![add(22)]));
    assert!(update.late);
    assert_eq!(inventory.get(&name("sg-1")).unwrap().state(), ConfigurationState::Deleted);
    let again = apply(&inventory, at(2), "e4:0", &draft("sg-1", CREATE, Vec::new()));
    assert!(!again.late && again.previous_state == PreviousState::Deleted);
}

#[test]
fn within_one_second_an_asset_is_replaced_or_comes_and_goes() {
    let end = |lived: bool, actions: &[DraftAction]| {
        let inventory = Inventory::new();
        if lived {
            apply(&inventory, at(1), "e1:0", &draft("sg-1", CREATE, Vec::new()));
        }
        for action in actions {
            apply(&inventory, at(2), "e2:0", &draft("sg-1", *action, Vec::new()));
        }
        inventory.get(&name("sg-1")).unwrap().state()
    };
    for actions in
        [[CREATE, UPDATE, DELETE], [DELETE, UPDATE, CREATE], [UPDATE, CREATE, DELETE], [DELETE, CREATE, UPDATE]]
    {
        assert_eq!(end(false, &actions), ConfigurationState::Deleted, "{actions:?}");
        assert_ne!(end(true, &actions), ConfigurationState::Deleted, "{actions:?}");
    }
}

#[test]
fn a_copy_is_of_what_the_other_asset_held_when_the_record_came() {
    let inventory = Inventory::new();
    let source =
        |groups| draft("source", UPDATE, vec![Step::Set { at: pointer("/groupName"), value: json!(groups).into() }]);
    apply(&inventory, at(1), "e1:0", &source("first"));
    let copy = Step::Copy { from: name("source"), from_at: PointerBuf::root(), at: PointerBuf::root() };
    apply(&inventory, at(2), "e2:0", &draft("copy", CREATE, vec![copy]));
    apply(&inventory, at(3), "e3:0", &source("second"));
    apply(&inventory, at(4), "e4:0", &draft("copy", UPDATE, vec![add(22)]));
    let late = Step::Set { at: pointer("/note"), value: json!("late").into() };
    apply(&inventory, at(3), "e3:1", &draft("copy", UPDATE, vec![late]));
    let held = inventory.get(&name("copy")).unwrap();
    assert_eq!(json_of(held.configuration()), json!({ "groupName": "first", "note": "late", "rules": [rule(22)] }));
}

#[test]
fn a_renamed_asset_keeps_its_first_name_also_over_a_restart() {
    let inventory = Inventory::new();
    let create = apply(
        &inventory,
        at(1),
        "e1:0",
        &draft("old", CREATE, vec![Step::Replace(json!({ "groupName": "a" }).into())]),
    );
    let rename = Step::Rename { id: "new".to_owned(), alias: name("new"), arn: None };
    let renamed = apply(&inventory, at(2), "e2:0", &draft("old", UPDATE, vec![rename]));
    let restored = Inventory::new();
    for held in [create.held, renamed.held].into_iter().flatten() {
        restored.restore(held.stored().clone()).unwrap();
    }
    for inventory in [inventory, restored] {
        let later = apply(&inventory, at(3), "e3:0", &draft("new", UPDATE, vec![add(22)]));
        assert_eq!(later.name, name("old"));
        assert_eq!(later.previous_state, PreviousState::Present);
        let held = inventory.get(&name("new")).unwrap();
        assert_eq!((held.fields().id, held.aliases()), ("new", &[name("new")][..]));
    }
}

#[test]
fn walking_goes_through_all_names_in_order() {
    let inventory = Inventory::new();
    for n in (0..700).rev() {
        apply(&inventory, at(1), "e:0", &draft(&format!("sg-{n:03}"), CREATE, Vec::new()));
    }
    let mut seen = Vec::new();
    inventory.walk(Some(&name("sg-099")), &|_| true, &mut |held| {
        seen.push(held.fields().id.to_owned());
        seen.len() < 550
    });
    assert_eq!((seen.first().unwrap().as_str(), seen.last().unwrap().as_str(), seen.len()), ("sg-100", "sg-649", 550));
}

#[test]
fn a_bounded_inventory_forgets() {
    let inventory = Inventory::bounded(10_000);
    for n in 0..100 {
        apply(&inventory, at(n), "e:0", &draft(&format!("sg-{n}"), CREATE, Vec::new()));
    }
    assert!(inventory.len() < 40 && inventory.get(&name("sg-99")).is_some() && inventory.get(&name("sg-0")).is_none());
}
