//! Arrays that are sets: elements found by their keys.

use std::collections::HashMap;

use crate::json::Json;
use crate::model::KeyedSet;
use jsonptr::PointerBuf;

/// What makes an element itself, as text: the JSON of the values under the key pointers. A missing value is as null.
pub(super) fn key_of(element: Json<'_>, set: &KeyedSet) -> String {
    let key = key_by(element, &set.key);
    if set.ignore_case { key.to_lowercase() } else { key }
}

fn key_by(element: Json<'_>, pointers: &[PointerBuf]) -> String {
    let mut key = Vec::new();
    for pointer in pointers {
        let value = element.at(pointer).unwrap_or(Json::Null);
        // Numbers as text and numbers as numbers are the same key: providers are not strict.
        let quote: &[u8] = if matches!(value, Json::Number(_)) { b"\"" } else { b"" };
        key.extend_from_slice(quote);
        value.write(&mut key);
        key.extend_from_slice(quote);
        key.push(b'\x1f');
    }
    String::from_utf8(key).unwrap_or_default()
}

/// Where each key stands. `None` when two elements share a key.
pub(super) fn places(keys: &[String]) -> Option<HashMap<&str, usize>> {
    let mut places = HashMap::with_capacity(keys.len());
    let unique = keys.iter().enumerate().all(|(index, key)| places.insert(key.as_str(), index).is_none());
    unique.then_some(places)
}

/// The place of the element that has the same key as `wanted`.
pub(super) fn position(elements: &[Json<'_>], wanted: Json<'_>, set: &KeyedSet) -> Option<usize> {
    let key = key_of(wanted, set);
    elements.iter().position(|element| key_of(*element, set) == key)
}

/// Puts `new` into the order that a difference can tell: what stayed in its old order, then what came.
pub(super) fn align<'a>(old: &[Json<'a>], new: &[Json<'a>], set: &KeyedSet) -> Vec<Json<'a>> {
    let keys = |elements: &[Json<'a>]| elements.iter().map(|element| key_of(*element, set)).collect::<Vec<_>>();
    let (old_keys, new_keys) = (keys(old), keys(new));
    let (Some(_), Some(places)) = (places(&old_keys), places(&new_keys)) else { return new.to_vec() };
    let mut rest: Vec<_> = new.iter().copied().map(Some).collect();
    let mut aligned = Vec::with_capacity(rest.len());
    for key in &old_keys {
        if let Some(stayed) = places.get(key.as_str()).and_then(|index| rest.get_mut(*index)?.take()) {
            aligned.push(stayed);
        }
    }
    aligned.extend(rest.into_iter().flatten());
    aligned
}
