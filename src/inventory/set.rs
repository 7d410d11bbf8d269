//! Arrays that are sets: their elements are found by key.

use std::collections::HashMap;

use crate::json::{Json, Number};
use crate::model::KeyedSet;

/// The key of an element as text: the JSON of the values at the key pointers. A missing value counts as null.
pub(super) fn key_of(element: Json<'_>, set: &KeyedSet) -> String {
    let mut key = Vec::new();
    for pointer in &*set.key {
        write_part(element.at(pointer).unwrap_or(Json::Null), &mut key);
        key.push(b'\x1f');
    }
    in_one_case(key, set)
}

/// A number and the same number as a string are the same key: providers are not strict.
fn write_part(value: Json<'_>, key: &mut Vec<u8>) {
    let quote: &[u8] = if matches!(value, Json::Number(_)) { b"\"" } else { b"" };
    key.extend_from_slice(quote);
    value.write(key);
    key.extend_from_slice(quote);
}

fn in_one_case(key: Vec<u8>, set: &KeyedSet) -> String {
    let key = String::from_utf8(key).unwrap_or_default();
    if set.ignore_case { key.to_lowercase() } else { key }
}

/// Whether two elements have the same key.
pub(super) fn have_same_key(one: Json<'_>, other: Json<'_>, set: &KeyedSet) -> bool {
    set.key.iter().all(|pointer| match (one.at(pointer), other.at(pointer)) {
        (Some(Json::Text(one)), Some(Json::Text(other))) if !set.ignore_case => one == other,
        (Some(Json::Number(Number::Unsigned(one))), Some(Json::Number(Number::Unsigned(other)))) => one == other,
        (one, other) => {
            let part = |value: Option<Json<'_>>| {
                let mut key = Vec::new();
                write_part(value.unwrap_or(Json::Null), &mut key);
                in_one_case(key, set)
            };
            part(one) == part(other)
        }
    })
}

/// Number of elements at the beginning of both lists that are the same objects in memory, as one list was derived from
/// the other.
pub(super) fn shared_prefix(one: &[Json<'_>], other: &[Json<'_>]) -> usize {
    let is_shared = |(one, other): &(&Json<'_>, &Json<'_>)| match (one, other) {
        (Json::Object(one), Json::Object(other)) => one.is(*other),
        _ => false,
    };
    one.iter().zip(other).take_while(is_shared).count()
}

/// The index of each key. `None` if two elements have the same key.
pub(super) fn places(keys: &[String]) -> Option<HashMap<&str, usize>> {
    let mut places = HashMap::with_capacity(keys.len());
    let unique = keys.iter().enumerate().all(|(index, key)| places.insert(key.as_str(), index).is_none());
    unique.then_some(places)
}

/// The index of the element with the same key as `wanted`.
pub(super) fn position(elements: &[Json<'_>], wanted: Json<'_>, set: &KeyedSet) -> Option<usize> {
    elements.iter().position(|element| have_same_key(*element, wanted, set))
}

/// Sorts `new` into the order that a difference can express: the elements that stayed, in their old order, then the
/// added ones.
pub(super) fn align<'a>(old: &[Json<'a>], new: &[Json<'a>], set: &KeyedSet) -> Vec<Json<'a>> {
    let (stays, new) = new.split_at(shared_prefix(old, new));
    let old = old.get(stays.len()..).unwrap_or_default();
    let mut aligned = stays.to_vec();
    if old.is_empty() {
        aligned.extend(new);
        return aligned;
    }
    let keys = |elements: &[Json<'a>]| elements.iter().map(|element| key_of(*element, set)).collect::<Vec<_>>();
    let (old_keys, new_keys) = (keys(old), keys(new));
    let (Some(_), Some(places)) = (places(&old_keys), places(&new_keys)) else {
        aligned.extend(new);
        return aligned;
    };
    let mut rest: Vec<_> = new.iter().copied().map(Some).collect();
    for key in &old_keys {
        if let Some(stayed) = places.get(key.as_str()).and_then(|index| rest.get_mut(*index)?.take()) {
            aligned.push(stayed);
        }
    }
    aligned.extend(rest.into_iter().flatten());
    aligned
}

#[cfg(test)]
mod tests {
    use jsonptr::PointerBuf;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::json::testing::arena;

    fn part() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            (0..3).prop_map(Value::from),
            (-2..0).prop_map(Value::from),
            "[0-2aAéÉ]{0,2}".prop_map(Value::from),
            "[aA]".prop_map(|text| json!([text])),
        ]
    }

    proptest! {
        #[test]
        fn elements_have_the_same_key_when_their_keys_are_the_same(
            parts in prop::array::uniform4(part()),
            ignore_case in any::<bool>(),
        ) {
            let pointers = ["/a", "/b"].map(|pointer| PointerBuf::parse(pointer).unwrap());
            let set = KeyedSet { at: PointerBuf::root(), key: pointers.to_vec().into(), ignore_case };
            let [one, other] = [[0, 1], [2, 3]].map(|[a, b]| {
                Json::copied(&json!({ "a": parts[a], "b": parts[b] }), arena())
            });
            prop_assert_eq!(have_same_key(one, other, &set), key_of(one, &set) == key_of(other, &set));
            prop_assert!(have_same_key(one, one, &set));
        }
    }
}
