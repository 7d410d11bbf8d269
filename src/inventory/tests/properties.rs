//! Properties that hold for any document, any steps and any order.

use proptest::prelude::*;

use super::*;

fn texts(values: Vec<Value>) -> Vec<JsonText> {
    values.into_iter().map(Into::into).collect()
}

fn document() -> impl Strategy<Value = Value> {
    let element = (0_u8..6, 0_u8..2, prop::option::of(0_u8..3))
        .prop_map(|(port, peer, note)| json!({ "port": port, "peer": format!("10.0.0.{peer}"), "note": note }));
    let member = prop_oneof![
        (0_u8..4).prop_map(Value::from),
        Just(Value::Null),
        prop::collection::vec(0_u8..3, 0..3).prop_map(Value::from),
        prop::collection::btree_map("[ab/~]{1,2}", (0_u8..3).prop_map(Value::from), 0..3).prop_map(|map| json!(map)),
    ];
    (prop::collection::btree_map("[a-c]", member, 0..4), prop::option::of(prop::collection::vec(element, 0..6)))
        .prop_map(|(members, rules)| {
            let mut document = json!(members);
            if let Some(rules) = rules {
                document["rules"] = Value::Array(rules);
            }
            document
        })
}

fn step() -> impl Strategy<Value = Step> {
    let elements = || {
        prop::collection::vec((0_u8..6, 0_u8..2, 0_u8..3), 1..3).prop_map(|elements| {
            let element = |(port, peer, note)| json!({ "port": port, "peer": format!("10.0.0.{peer}"), "note": note });
            elements.into_iter().map(element).collect::<Vec<Value>>()
        })
    };
    let place = "/[a-c](/[ab])?".prop_map(|text: String| pointer(&text));
    prop_oneof![
        document().prop_map(|document| Step::Replace(document.into())),
        (place.clone(), 0_u8..4).prop_map(|(at, value)| Step::Set { at, value: json!(value).into() }),
        place.prop_map(|at| Step::Unset { at }),
        document().prop_map(|patch| Step::Merge { at: PointerBuf::root(), patch: patch.into() }),
        elements().prop_map(|elements| Step::Add { set: rules(), elements: texts(elements) }),
        elements().prop_map(|elements| Step::Remove { set: rules(), elements: texts(elements) }),
        elements().prop_map(|elements| Step::MergeElements { set: rules(), elements: texts(elements) }),
        prop::collection::vec("[ab]", 1..3).prop_map(|keys| Step::RemoveMembers { at: pointer("/a"), keys }),
    ]
}

/// What happens to an asset.
fn change() -> impl Strategy<Value = (DraftAction, Vec<Step>)> {
    let steps = || prop::collection::vec(step(), 0..3);
    prop_oneof![
        1 => steps().prop_map(|steps| (CREATE, steps)),
        4 => steps().prop_map(|steps| (UPDATE, steps)),
        1 => steps().prop_map(|steps| (DraftAction::Upsert, steps)),
        1 => Just((DELETE, Vec::new())),
    ]
}

/// Applies a change as RFC 6902 says.
fn redo(document: &mut Value, change: &Change) {
    match change.op {
        ChangeOp::Remove => {
            change.path.delete(document).expect("what is removed was there");
        }
        ChangeOp::Replace => {
            assert_eq!(change.path.resolve(document).ok(), Some(&change.old), "`old` is what was there");
            put(document, &change.path, change.value.clone());
        }
        ChangeOp::Add => match change.path.split_back() {
            Some((parent, last)) if last.decoded() == "-" => {
                parent.resolve_mut(document).unwrap().as_array_mut().unwrap().push(change.value.clone());
            }
            _ => put(document, &change.path, change.value.clone()),
        },
    }
}

fn undo(document: &mut Value, change: &Change) {
    match (change.op, change.path.split_back()) {
        (ChangeOp::Add, Some((parent, last))) if last.decoded() == "-" => {
            parent.resolve_mut(document).unwrap().as_array_mut().unwrap().pop();
        }
        (ChangeOp::Add, _) => {
            change.path.delete(document);
        }
        (ChangeOp::Remove, Some((parent, last))) if parent.resolve(document).is_ok_and(Value::is_array) => {
            let elements = parent.resolve_mut(document).unwrap().as_array_mut().unwrap();
            elements.insert(last.decoded().parse().unwrap(), change.old.clone());
        }
        (ChangeOp::Remove | ChangeOp::Replace, _) => put(document, &change.path, change.old.clone()),
    }
}

fn put(document: &mut Value, path: &PointerBuf, value: Value) {
    match path.split_back() {
        None => *document = value,
        Some((parent, last)) => match parent.resolve_mut(document).unwrap() {
            Value::Array(elements) => elements[last.decoded().parse::<usize>().unwrap()] = value,
            members => members[&*last.decoded()] = value,
        },
    }
}

proptest! {
    /// `changes` leads from the old document to the new one, and back.
    #[test]
    fn changes_can_be_redone_and_undone(start in document(), steps in prop::collection::vec(step(), 1..6)) {
        let inventory = Inventory::new();
        apply(&inventory, at(1), "e1:0", &draft("sg-1", CREATE, vec![Step::Replace(start.clone().into())]));
        let applied = apply(&inventory, at(2), "e2:0", &draft("sg-1", UPDATE, steps));
        let (old, new) = (json_of(applied.previous_configuration.as_ref()), json_of(applied.configuration.as_ref()));
        prop_assert_eq!(&old, &start);
        let mut document = old.clone();
        let changes: Vec<Change> = serde_json::from_slice(&applied.changes).unwrap();
        for change in &changes {
            redo(&mut document, change);
        }
        prop_assert_eq!(&document, &new);
        for change in changes.iter().rev() {
            undo(&mut document, change);
        }
        prop_assert_eq!(document, old);
    }

    /// In whatever order the records of a history arrive, the final state is the one of arrival in order; and each
    /// event has the configurations before and after as of its own time, as far as they were known by then.
    #[test]
    fn the_order_of_arrival_does_not_matter(
        history in prop::collection::vec((0_usize..3, change()), 1..24),
        places in prop::collection::vec(any::<prop::sample::Index>(), 24),
    ) {
        let records: Vec<_> = history.iter().zip(0_i64..).map(|((asset, (action, steps)), n)| {
            (at(10 * n), format!("e{n}:0"), draft(&format!("sg-{asset}"), *action, steps.clone()))
        }).collect();
        let in_order = Inventory::new();
        for (time, event_id, draft) in &records {
            apply(&in_order, *time, event_id, draft);
        }
        let mut shuffled: Vec<usize> = Vec::new();
        for (record, place) in (0..records.len()).zip(&places) {
            shuffled.insert(place.index(shuffled.len() + 1), record);
        }
        let inventory = Inventory::new();
        let mut arrived: Vec<usize> = Vec::new();
        for record in shuffled {
            let (time, event_id, draft) = &records[record];
            let applied = apply(&inventory, *time, event_id, draft);
            arrived.push(record);
            arrived.sort_unstable();
            // The same, if only these records had arrived, in order.
            let told_so_far = Inventory::new();
            let mut expected = None;
            for earlier in arrived.iter().take_while(|earlier| **earlier <= record) {
                let (time, event_id, draft) = &records[*earlier];
                expected = Some(apply(&told_so_far, *time, event_id, draft));
            }
            let told = |applied: &Applied| {
                (applied.action, applied.previous_state, applied.previous_configuration.clone(),
                 applied.configuration_state, applied.configuration.clone(), applied.changes.clone())
            };
            prop_assert_eq!(Some(told(&applied)), expected.as_ref().map(told));
        }
        for asset in 0..3 {
            let name = name(&format!("sg-{asset}"));
            let held = |inventory: &Inventory| inventory.get(&name).map(|held| held.stored().clone());
            prop_assert_eq!(held(&inventory), held(&in_order));
        }
    }

    /// The same if the program is restarted somewhere in between, since the log has what came before.
    #[test]
    fn nor_does_a_restart(
        history in prop::collection::vec(change(), 2..12),
        late in any::<prop::sample::Index>(),
    ) {
        let mut records: Vec<_> = history.iter().zip(0_i64..).map(|((action, steps), n)| {
            (at(10 * n), format!("e{n}:0"), draft("sg-1", *action, steps.clone()))
        }).collect();
        let in_order = restored(&records);
        let (time, event_id, mut late) = records.remove(late.index(records.len()));
        let past = past_of(&records);
        let inventory = restored(&records);
        inventory.apply(time, &event_id, &mut late, &|_, _| past.clone(), arena());
        let held = |inventory: &Inventory| {
            let held = inventory.get(&name("sg-1")).unwrap();
            (held.configuration().cloned(), held.state(), held.changed(), held.fields().last_event.to_owned(), held.tags().clone())
        };
        prop_assert_eq!(held(&inventory), held(&in_order));
    }

    /// Whatever the texts are, an asset is read back from its stored form.
    #[test]
    fn every_field_is_stored(
        texts in prop::collection::vec("\\PC{0,20}", 12),
        some in any::<[bool; 5]>(),
        millis in any::<i64>(),
        configuration in prop::option::of(document()),
    ) {
        let text = |n: usize| texts[n].as_str();
        let known = |n: usize| some[n].then(|| text(n));
        let tags = json!({ text(0): text(1) }).to_string();
        let fields = Fields {
            provider: text(0), provider_type: text(1), neutral_type: text(2), account: text(3), region: text(4),
            state: if some[0] { ConfigurationState::Complete } else { ConfigurationState::Deleted },
            arn_is_told: some[1], arn: known(0), id: text(5), uid: known(1),
            aliases: if some[2] { vec![text(6), text(7)] } else { Vec::new() },
            seeded: some[3].then(|| Seeded { as_of: Time::from_millis(millis), state: ConfigurationState::Partial, next: known(4).map(str::to_owned) }),
            first_seen: Time::from_millis(millis), changed: Time::from_millis(!millis),
            last_event: text(8), display_name: known(2), tags: &tags,
        };
        let configuration = configuration.map(|document| document.to_string().into_bytes());
        let held = Held::new(AssetName::from_text(text(9)), &fields, configuration.as_deref());
        for held in [&held, &Held::restore(held.stored().clone(), None).unwrap()] {
            prop_assert_eq!(held.name().as_str(), text(9));
            prop_assert_eq!(held.fields(), fields.clone());
            prop_assert_eq!(held.tags().as_str(), &tags);
            prop_assert_eq!(held.configuration().map(AsRef::as_ref), configuration.as_deref());
            prop_assert_eq!((held.state(), held.first_seen(), held.changed()), (fields.state, fields.first_seen, fields.changed));
            prop_assert!(held.aliases().iter().map(AssetName::as_str).eq(fields.aliases.iter().copied()));
        }
    }

    /// Bytes that another program wrote are an error or an asset, and nothing worse.
    #[test]
    fn no_stored_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200), first in 0..4_u8) {
        let stored = [&[first][..], &bytes].concat();
        if let Ok(held) = Held::restore(stored.into(), None) {
            prop_assert!(held.size() >= held.stored().len());
            let _ = (held.fields(), held.outline(), held.document(arena()));
        }
    }

    /// A difference is empty exactly when nothing differs.
    #[test]
    fn no_change_no_difference(old in document(), new in document()) {
        let json = |value| Json::copied(value, arena());
        prop_assert!(diff(json(&old), json(&old), &[rules()]).is_empty());
        let changes = diff(json(&old), json(&new), &[rules()]);
        prop_assert_eq!(changes.is_empty(), old == new);
        let mut text = Vec::new();
        diff::write(&changes, &mut text);
        prop_assert_eq!(text, serde_json::to_vec(&changes).unwrap());
    }
}
