//! The difference of two configurations: RFC 6902 operations, each with the value that it replaced.
//!
//! Applied in order to the old document, the operations yield the new one; undone in reverse order, with the values in
//! `old`, they yield the old one. Elements of sets are compared by their keys.

use jsonptr::PointerBuf;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::set::{key_of, places, shared_prefix};
use crate::json::{Json, Members, write_array, write_string};
use crate::model::KeyedSet;

/// One operation of `changes`. A [difference](diff) borrows its values from the documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change<V = Value> {
    /// The operation.
    pub op: ChangeOp,
    /// The place. The last token is `-` for an element added to a set: it is appended to the array.
    pub path: PointerBuf,
    /// The new value; null for `remove`.
    pub value: V,
    /// The value before; null for `add`.
    pub old: V,
}

/// The operations that a difference is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeOp {
    /// The value is new.
    Add,
    /// The value was removed.
    Remove,
    /// The value was replaced by another.
    Replace,
}

impl Change<Json<'_>> {
    /// Writes the change as [`Serialize`] would.
    fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(b"{\"op\":");
        write_string(self.op.as_str(), text);
        text.extend_from_slice(b",\"path\":");
        write_string(self.path.as_str(), text);
        text.extend_from_slice(b",\"value\":");
        self.value.write(text);
        text.extend_from_slice(b",\"old\":");
        self.old.write(text);
        text.push(b'}');
    }

    /// The same change with owned values.
    #[must_use]
    pub fn into_owned(self) -> Change {
        Change { op: self.op, path: self.path, value: self.value.to_value(), old: self.old.to_value() }
    }
}

impl ChangeOp {
    /// `add`, `remove` or `replace`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Replace => "replace",
        }
    }
}

/// Appends a difference to `text`, as a JSON array.
pub(super) fn write(changes: &[Change<Json<'_>>], text: &mut Vec<u8>) {
    write_array(changes, text, Change::write);
}

/// The operations that turn `old` into `new`. Arrays are compared element by element only if `sets` declares them;
/// other arrays that differ are replaced as a whole.
#[must_use]
pub fn diff<'v>(old: Json<'v>, new: Json<'v>, sets: &[KeyedSet]) -> Vec<Change<Json<'v>>> {
    let mut changes = Vec::new();
    compare(old, new, &PointerBuf::root(), sets, &mut changes);
    changes
}

fn compare<'v>(old: Json<'v>, new: Json<'v>, at: &PointerBuf, sets: &[KeyedSet], changes: &mut Vec<Change<Json<'v>>>) {
    match (old, new) {
        _ if old == new => {}
        (Json::Object(old), Json::Object(new)) => compare_objects(old, new, at, sets, changes),
        (Json::Array(old_elements), Json::Array(new_elements)) => {
            let set = sets.iter().find(|set| set.at == *at);
            let compared = set.is_some_and(|set| compare_sets(old_elements, new_elements, set, sets, changes));
            if !compared {
                changes.push(replaced(at, old, new));
            }
        }
        _ => changes.push(replaced(at, old, new)),
    }
}

fn replaced<'v>(at: &PointerBuf, old: Json<'v>, new: Json<'v>) -> Change<Json<'v>> {
    Change { op: ChangeOp::Replace, path: at.clone(), value: new, old }
}

fn compare_objects<'v>(
    old: Members<'v>,
    new: Members<'v>,
    at: &PointerBuf,
    sets: &[KeyedSet],
    changes: &mut Vec<Change<Json<'v>>>,
) {
    for (key, old_value) in old.iter() {
        let new_value = new.get(key);
        // Most members are unchanged: build paths for the others only.
        if new_value == Some(old_value) {
            continue;
        }
        let path = at.with_trailing_token(key);
        match new_value {
            Some(new_value) => compare(old_value, new_value, &path, sets, changes),
            None => changes.push(Change { op: ChangeOp::Remove, path, value: Json::Null, old: old_value }),
        }
    }
    for (key, value) in new.iter().filter(|(key, _)| old.get(key).is_none()) {
        let path = at.with_trailing_token(key);
        changes.push(Change { op: ChangeOp::Add, path, value, old: Json::Null });
    }
}

/// Reports changed elements at their old indexes, then removed ones, last first so that the indexes stay valid, then
/// added ones. Returns false and reports nothing if keys are not unique, or if the new order is not the one that these
/// operations yield.
fn compare_sets<'v>(
    old: &'v [Json<'v>],
    new: &'v [Json<'v>],
    set: &KeyedSet,
    sets: &[KeyedSet],
    changes: &mut Vec<Change<Json<'v>>>,
) -> bool {
    let shared = shared_prefix(old, new);
    let (old, new) = (old.get(shared..).unwrap_or_default(), new.get(shared..).unwrap_or_default());
    let at = |index: usize| set.at.with_trailing_token(shared + index);
    let key = |element: &Json<'_>| key_of(*element, set);
    let (old_keys, new_keys) = (old.iter().map(key).collect::<Vec<_>>(), new.iter().map(key).collect::<Vec<_>>());
    let (Some(old_places), Some(new_places)) = (places(&old_keys), places(&new_keys)) else { return false };
    let stayed = old_keys.iter().filter(|key| new_places.contains_key(key.as_str()));
    let came = new.iter().zip(&new_keys).filter(|(_, key)| !old_places.contains_key(key.as_str()));
    if !stayed.chain(came.clone().map(|(_, key)| key)).eq(&new_keys) {
        return false;
    }
    for (index, (element, key)) in old.iter().zip(&old_keys).enumerate() {
        let after = new_places.get(key.as_str()).and_then(|at| new.get(*at));
        if let Some(after) = after.filter(|after| *after != element) {
            compare(*element, *after, &at(index), sets, changes);
        }
    }
    for (index, (element, key)) in old.iter().zip(&old_keys).enumerate().rev() {
        if !new_places.contains_key(key.as_str()) {
            changes.push(Change { op: ChangeOp::Remove, path: at(index), value: Json::Null, old: *element });
        }
    }
    for (element, _) in came {
        let path = set.at.with_trailing_token("-");
        changes.push(Change { op: ChangeOp::Add, path, value: *element, old: Json::Null });
    }
    true
}
