//! Assets in their stored form: restored, of older versions, packed.

use super::*;

#[test]
fn what_is_stored_is_what_was_held() {
    let inventory = Inventory::new();
    let steps = vec![Step::Replace(json!({ "groupName": "web", "tags": { "Name": "é" }, "rules": [rule(22)] }).into())];
    let applied = apply(&inventory, at(1), "e1:0", &draft("sg-1", CREATE, steps));
    let restored = Inventory::new();
    restored.restore(applied.held.unwrap().stored().clone()).unwrap();
    let (held, again) = (inventory.get(&name("sg-1")).unwrap(), restored.get(&name("sg-1")).unwrap());
    assert_eq!(format!("{held:?}"), format!("{again:?}"));
    let stored = held.stored();
    let head = stored.len() - held.configuration().unwrap().len();
    assert!((0..head).all(|end| restored.restore(stored.slice(..end)).is_err()), "truncated");
    for bad in [&b"{"[..], b"\x01", b"\x01\0\0\0\x09{}", b"\x03\0\0\0\x02{}"] {
        assert!(restored.restore(Bytes::from_static(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn what_older_versions_stored_is_read() {
    let head = json!({
        "name": name("sg-1"), "id": "sg-1", "type": "network.security_group", "provider": "aws",
        "provider_type": "AWS::EC2::SecurityGroup", "arn": null, "arn_is_told": false, "account": "111122223333",
        "region": "eu-west-1", "display_name": "web", "tags": { "a": "b" }, "state": "complete",
        "first_seen": "2026-01-01T00:00:00.000Z", "changed": "2026-01-02T00:00:00.000Z", "last_event": "e1:0",
        "aliases": [name("sg-2")], "seeded": { "as_of": "2026-01-01T12:00:00.000Z", "state": "partial" },
    });
    let configuration = json!({ "groupName": "web", "tags": { "a": "b" } });
    let mut first = head.clone();
    first["configuration"] = configuration.clone();
    let text = head.to_string();
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    let second = [&[1][..], &length, text.as_bytes(), configuration.to_string().as_bytes()].concat();
    for stored in [first.to_string().into_bytes(), second] {
        let inventory = Inventory::new();
        inventory.restore(stored.into()).unwrap();
        let held = inventory.get(&name("sg-2")).unwrap();
        assert_eq!(json_of(held.configuration()), configuration);
        assert_eq!(
            (held.name(), held.state(), held.first_seen(), held.changed(), held.aliases(), held.tags().to_value()),
            (
                &name("sg-1"),
                ConfigurationState::Complete,
                at(1_767_225_600),
                at(1_767_312_000),
                &[name("sg-2")][..],
                head["tags"].clone()
            )
        );
        let fields = held.fields();
        assert_eq!(
            (fields.id, fields.provider_type, fields.neutral_type, fields.account, fields.region, fields.arn),
            ("sg-1", "AWS::EC2::SecurityGroup", "network.security_group", "111122223333", "eu-west-1", None)
        );
        let seeded = Seeded { as_of: at(1_767_268_800), state: ConfigurationState::Partial, next: None };
        assert_eq!(
            (fields.display_name, fields.last_event, fields.seeded.as_ref()),
            (Some("web"), "e1:0", Some(&seeded))
        );
        let again = Inventory::new();
        again.restore(held.stored().clone()).unwrap();
        assert_eq!(again.get(&name("sg-1")).unwrap().fields(), fields);
    }
}

/// A packed asset is the same as before: for all queries, and for the changes that follow.
#[test]
fn what_did_not_change_lately_is_packed_and_still_the_same() {
    let document =
        |n: usize| json!({ "groupName": format!("web-{n}"), "note": "x".repeat(700), "tags": { "n": n.to_string() } });
    // The first one's journal keeps few changes: the assets soon leave it.
    let (packing, plain) = (Inventory::bounded(2 << 20), Inventory::new());
    for inventory in [&packing, &plain] {
        for n in 0..300 {
            let create = draft(&format!("sg-{n:03}"), CREATE, vec![Step::Replace(document(n).into())]);
            apply(inventory, at(1), &format!("e{n}:0"), &create);
        }
    }
    assert!(matches!(*packing.assets.get(&name("sg-100")).unwrap(), Slot::Packed(_)));
    let packed = packing.assets.iter().filter(|asset| matches!(asset.value(), Slot::Packed(_))).count();
    assert!(packed > 200, "{packed} are packed");
    let all = |inventory: &Inventory| {
        let mut all = Vec::new();
        inventory.walk(None, &|asset| asset.account == "111122223333", &mut |held| {
            all.push(format!("{held:?}"));
            true
        });
        inventory.walk(None, &|asset| asset.region == "-", &mut |_| panic!("none is wanted"));
        all
    };
    assert_eq!(all(&packing).len(), 300);
    assert_eq!(all(&packing), all(&plain));
    let update = draft("sg-100", UPDATE, vec![Step::Set { at: pointer("/groupName"), value: json!("api").into() }]);
    let late = draft("sg-100", UPDATE, vec![Step::Set { at: pointer("/note"), value: json!("y").into() }]);
    for (seconds, event_id, draft) in [(3, "u:0", update), (2, "l:0", late)] {
        let [after, expected] = [&packing, &plain].map(|inventory| apply(inventory, at(seconds), event_id, &draft));
        assert_eq!((after.previous_state, after.late), (PreviousState::Present, seconds == 2));
        assert_eq!(after.previous_configuration, expected.previous_configuration);
        assert_eq!((after.configuration, after.changes), (expected.configuration, expected.changes));
        assert_eq!(all(&packing), all(&plain));
    }
}

#[test]
fn everything_stored_is_taken_back_on_all_cores() {
    let (inventory, restored) = (Inventory::new(), Inventory::new());
    let stored: Vec<_> = (0..2_000)
        .map(|n| {
            let steps = vec![Step::Replace(json!({ "groupName": format!("web-{n}") }).into())];
            apply(&inventory, at(1), "e:0", &draft(&format!("sg-{n}"), CREATE, steps)).held.unwrap().stored().clone()
        })
        .collect();
    let read = |bad: &'static [u8]| {
        let stored = stored.iter().cloned().chain((!bad.is_empty()).then(|| Bytes::from_static(bad)));
        move |take: &mut dyn FnMut(Bytes)| {
            stored.for_each(take);
            Ok::<_, RestoreError>(())
        }
    };
    restored.restore_all(read(b"")).unwrap();
    assert_eq!(restored.len(), 2_000);
    for n in [0, 7, 1_999] {
        let name = name(&format!("sg-{n}"));
        assert_eq!(format!("{:?}", restored.get(&name)), format!("{:?}", inventory.get(&name)));
    }
    assert!(Inventory::new().restore_all(read(b"{")).is_err());
}
