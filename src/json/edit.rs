//! Changes of values: each returns a new value, which shares all unchanged parts with the previous one.

use bumpalo::collections::Vec;
use jsonptr::{Pointer, Token};

use super::{Arena, Json, Members};

/// A value can't be put at a place: the pointer has a member's name or an invalid index where there is an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an array has no such element")]
pub struct NoPlace;

impl<'a> Json<'a> {
    /// The value at a pointer (RFC 6901).
    #[must_use]
    pub fn at(self, pointer: &Pointer) -> Option<Self> {
        pointer.tokens().try_fold(self, |value, token| match value {
            Self::Object(members) => members.get(&token.decoded()),
            Self::Array(elements) => elements.get(index(&token, elements.len())?).copied(),
            _ => None,
        })
    }

    /// Sets the value at a pointer. Parents that are missing, or are neither arrays nor objects, are created as by
    /// `jsonptr`.
    ///
    /// # Errors
    /// When an array on the way has no such element.
    pub fn assigned(self, pointer: &Pointer, value: Self, arena: &'a Arena) -> Result<Self, NoPlace> {
        let Some((token, rest)) = pointer.split_front() else { return Ok(value) };
        match self {
            Self::Object(members) => {
                let key = token.decoded();
                let value = match members.get(&key) {
                    Some(member) => member.assigned(rest, value, arena)?,
                    None => within(rest, value, arena),
                };
                Ok(Self::Object(members.with(&key, value, arena)))
            }
            Self::Array(elements) => {
                let at = token.to_index().ok().and_then(|index| index.for_len_incl(elements.len()).ok());
                let at = at.ok_or(NoPlace)?;
                let value = match elements.get(at) {
                    Some(element) => element.assigned(rest, value, arena)?,
                    None => within(rest, value, arena),
                };
                Ok(Self::Array(spliced(elements, at, 1, Some(value), arena)))
            }
            _ => Ok(within(pointer, value, arena)),
        }
    }

    /// Removes the value at a pointer, if there is one.
    #[must_use]
    pub fn deleted(self, pointer: &Pointer, arena: &'a Arena) -> Self {
        let Some((token, rest)) = pointer.split_front() else { return Self::Null };
        match self {
            Self::Object(members) => {
                let key = token.decoded();
                match members.get(&key) {
                    Some(_) if rest.is_root() => Self::Object(members.without(&key, arena)),
                    Some(member) => Self::Object(members.with(&key, member.deleted(rest, arena), arena)),
                    None => self,
                }
            }
            Self::Array(elements) => {
                let found = index(&token, elements.len()).and_then(|at| Some((at, *elements.get(at)?)));
                let Some((at, element)) = found else { return self };
                let value = (!rest.is_root()).then(|| element.deleted(rest, arena));
                Self::Array(spliced(elements, at, 1, value, arena))
            }
            _ => self,
        }
    }

    /// Merges a patch into the value (RFC 7396).
    #[must_use]
    pub fn merged(self, patch: Self, arena: &'a Arena) -> Self {
        let Self::Object(patch) = patch else { return patch };
        let members = self.as_object().unwrap_or_default();
        let kept = members.iter().filter(|(key, _)| patch.get(key).is_none());
        let told = patch.iter().filter(|(_, value)| !value.is_null());
        let told = told.map(|(key, value)| (key, members.get(key).unwrap_or(Self::Null).merged(value, arena)));
        Self::object(kept.chain(told), arena)
    }
}

impl<'a> Members<'a> {
    /// Adds a member, or replaces the value of one.
    #[must_use]
    pub fn with(self, key: &str, value: Json<'a>, arena: &'a Arena) -> Self {
        let (at, replaced, key) = match self.0.binary_search_by(|(name, _)| (*name).cmp(key)) {
            Ok(at) => (at, 1, self.0.get(at).map_or("", |(name, _)| *name)),
            Err(at) => (at, 0, &*arena.alloc_str(key)),
        };
        Self(spliced(self.0, at, replaced, Some((key, value)), arena))
    }

    /// Removes a member, if it is there.
    #[must_use]
    pub fn without(self, key: &str, arena: &'a Arena) -> Self {
        match self.0.binary_search_by(|(name, _)| (*name).cmp(key)) {
            Ok(at) => Self(spliced(self.0, at, 1, None, arena)),
            Err(_) => self,
        }
    }
}

/// A copy of a list in which `replaced` items from index `at` on are replaced by one item or none.
fn spliced<'a, T: Copy>(list: &[T], at: usize, replaced: usize, by: Option<T>, arena: &'a Arena) -> &'a [T] {
    let mut spliced = Vec::with_capacity_in(list.len() + 1, arena);
    spliced.extend_from_slice_copy(list.get(..at).unwrap_or(list));
    spliced.extend(by);
    spliced.extend_from_slice_copy(list.get(at + replaced..).unwrap_or_default());
    spliced.into_bump_slice()
}

fn index(token: &Token<'_>, length: usize) -> Option<usize> {
    token.to_index().ok()?.for_len(length).ok()
}

/// Creates the parents of a pointer around a value.
fn within<'a>(mut pointer: &Pointer, mut value: Json<'a>, arena: &'a Arena) -> Json<'a> {
    while let Some((parent, token)) = pointer.split_back() {
        value = match token.encoded() {
            "0" | "-" => Json::array([value], arena),
            _ => Json::object([(&*arena.alloc_str(&token.decoded()), value)], arena),
        };
        pointer = parent;
    }
    value
}

#[cfg(test)]
mod tests {
    use jsonptr::PointerBuf;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..3).prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c01~/-]{1,2}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    fn pointer() -> impl Strategy<Value = PointerBuf> {
        prop::collection::vec("[a-c01~/-]{1,2}", 0..4).prop_map(PointerBuf::from_tokens)
    }

    /// RFC 7396, section 2.
    fn merge(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else { return *target = patch.clone() };
        if !target.is_object() {
            *target = json!({});
        }
        for (key, value) in patch {
            if value.is_null() {
                target.as_object_mut().unwrap().remove(key);
            } else {
                merge(&mut target[key], value);
            }
        }
    }

    proptest! {
        /// All operations do as `jsonptr` does to a `serde_json::Value`.
        #[test]
        fn agrees_with_jsonptr(value in value(), other in value(), pointer in pointer()) {
            let arena = Arena::new();
            let (json, with) = (Json::copied(&value, &arena), Json::copied(&other, &arena));
            prop_assert_eq!(json.at(&pointer).map(Json::to_value), pointer.resolve(&value).ok().cloned());

            let mut expected = value.clone();
            let assigned = pointer.assign(&mut expected, other.clone());
            let ours = json.assigned(&pointer, with, &arena);
            prop_assert_eq!(ours.is_ok(), assigned.is_ok());
            if let Ok(ours) = ours {
                prop_assert_eq!(ours.to_value(), expected);
            }

            let mut expected = value.clone();
            pointer.delete(&mut expected);
            prop_assert_eq!(json.deleted(&pointer, &arena).to_value(), expected);

            let mut expected = value.clone();
            merge(&mut expected, &other);
            prop_assert_eq!(json.merged(with, &arena).to_value(), expected);
            prop_assert_eq!(json.to_value(), value, "it stays as it was");
        }
    }

    #[test]
    fn what_stays_is_shared() {
        let arena = Arena::new();
        let before = Json::copied(&json!({ "a": { "b": 1 }, "c": { "d": [2] } }), &arena);
        let after = before.assigned(Pointer::from_static("/a/b"), Json::Bool(true), &arena).unwrap();
        let (one, other) =
            (before.get("c").unwrap().as_object().unwrap(), after.get("c").unwrap().as_object().unwrap());
        assert!(one.is(other));
        assert_eq!(after.to_value(), json!({ "a": { "b": true }, "c": { "d": [2] } }));
    }
}
