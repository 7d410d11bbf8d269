//! Steps applied to a configuration.

use serde_json::{Map, Value};

use super::set::{align, key_of, position};
use crate::model::{KeyedSet, Step};

/// A configuration while steps are applied to it.
pub(super) struct Application<'a> {
    pub(super) document: Value,
    /// Everything that the steps wanted to do could be done.
    pub(super) complete: bool,
    /// A `replace` put a whole new document in place.
    pub(super) replaced: bool,
    /// The set declarations of the asset.
    pub(super) sets: &'a [KeyedSet],
}

impl Application<'_> {
    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::Replace(value) => {
                self.document = value.clone();
                self.replaced = true;
            }
            Step::Set { at, value } => self.assign(at, value.clone()),
            Step::Unset { at } => {
                at.delete(&mut self.document);
            }
            Step::Merge { at, patch } => {
                if at.resolve(&self.document).is_err() {
                    self.assign(at, Value::Object(Map::new()));
                }
                if let Ok(target) = at.resolve_mut(&mut self.document) {
                    merge(target, patch);
                }
            }
            Step::Add { set, elements } => self.add(set, elements),
            Step::Remove { set, elements } => self.remove(set, elements),
            Step::RemoveMembers { at, keys } => {
                if let Ok(Value::Object(members)) = at.resolve_mut(&mut self.document) {
                    members.retain(|key, _| !keys.contains(key));
                }
            }
            Step::MergeElements { set, elements } => self.merge_elements(set, elements),
            // What a copy copies is looked up before; what could not be found is not known.
            Step::Copy { .. } | Step::Touch => self.complete = false,
            // Of the asset, or of what was before; not of its configuration.
            Step::Rename { .. } | Step::Recall(_) => {}
        }
    }

    pub(super) fn assign(&mut self, at: &jsonptr::Pointer, value: Value) {
        if at.is_root() {
            self.document = value;
        } else if at.assign(&mut self.document, value).is_err() {
            // An array stands where the rule expects an object: leave it, and say so.
            self.complete = false;
        }
    }

    /// The array of a set; made when it is missing.
    fn elements(&mut self, set: &KeyedSet) -> Option<&mut Vec<Value>> {
        if !matches!(set.at.resolve(&self.document), Ok(Value::Array(_))) {
            self.assign(&set.at, Value::Array(Vec::new()));
        }
        set.at.resolve_mut(&mut self.document).ok().and_then(Value::as_array_mut)
    }

    fn add(&mut self, set: &KeyedSet, added: &[Value]) {
        let Some(elements) = self.elements(set) else {
            self.complete = false;
            return;
        };
        for element in added {
            let place = position(elements, element, set).and_then(|index| elements.get_mut(index));
            match place {
                Some(place) => *place = element.clone(),
                None => elements.push(element.clone()),
            }
        }
    }

    /// What is not there can't be removed: then an earlier change was missed, or the key tells too little.
    fn remove(&mut self, set: &KeyedSet, removed: &[Value]) {
        let Ok(Value::Array(elements)) = set.at.resolve_mut(&mut self.document) else {
            self.complete = false;
            return;
        };
        for element in removed {
            let key = key_of(element, set);
            let before = elements.len();
            elements.retain(|held| key_of(held, set) != key);
            self.complete &= elements.len() < before;
        }
    }

    fn merge_elements(&mut self, set: &KeyedSet, patches: &[Value]) {
        let Ok(Value::Array(elements)) = set.at.resolve_mut(&mut self.document) else {
            self.complete = false;
            return;
        };
        for patch in patches {
            match position(elements, patch, set).and_then(|index| elements.get_mut(index)) {
                Some(element) => merge(element, patch),
                None => self.complete = false,
            }
        }
    }

    /// Brings every set into the order that a difference can tell.
    pub(super) fn align_sets(&mut self, old: &Value) {
        for set in self.sets {
            let (Ok(Value::Array(before)), Ok(Value::Array(after))) =
                (set.at.resolve(old), set.at.resolve_mut(&mut self.document))
            else {
                continue;
            };
            if before == after {
                continue;
            }
            *after = align(before, std::mem::take(after), set);
        }
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(members) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            members.remove(key);
        } else if let Some(member) = members.get_mut(key) {
            merge(member, value);
        } else {
            let mut member = Value::Null;
            merge(&mut member, value);
            members.insert(key.clone(), member);
        }
    }
}
