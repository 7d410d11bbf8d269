//! Application of a draft's steps to a configuration.

use super::set::{align, have_same_key, position};
use crate::json::{Arena, Json, JsonText};
use crate::model::{KeyedSet, Step};

/// A configuration to which steps are being applied.
pub(super) struct Application<'a, 's> {
    pub(super) document: Json<'a>,
    /// False once a step could not be applied in full.
    pub(super) complete: bool,
    /// A `replace` step replaced the whole document.
    pub(super) replaced: bool,
    /// The set declarations of the asset.
    pub(super) sets: &'s [KeyedSet],
    pub(super) arena: &'a Arena,
}

impl<'a> Application<'a, '_> {
    /// Applies one step.
    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::Replace(value) => {
                self.document = value.value(self.arena);
                self.replaced = true;
            }
            Step::Set { at, value } => self.assign(at, value.value(self.arena)),
            Step::Unset { at } => self.document = self.document.deleted(at, self.arena),
            Step::Merge { at, patch } => {
                let merged = self.document.at(at).unwrap_or(Json::EMPTY).merged(patch.value(self.arena), self.arena);
                self.assign(at, merged);
            }
            Step::Add { set, elements } => self.add(set, elements),
            Step::Remove { set, elements } => self.remove(set, elements),
            Step::RemoveMembers { at, keys } => {
                if let Some(members) = self.document.at(at).and_then(Json::as_object) {
                    let kept = members.iter().filter(|(key, _)| !keys.iter().any(|gone| gone == key));
                    self.assign(at, Json::object(kept, self.arena));
                }
            }
            Step::MergeElements { set, elements } => self.merge_elements(set, elements),
            // Copies are resolved before; one that still arrives here found no value.
            Step::Copy { .. } | Step::Touch => self.complete = false,
            // They affect the asset or the previous configuration, not this one.
            Step::Rename { .. } | Step::Recall(_) => {}
        }
    }

    /// Sets the value at a pointer; missing parents are created.
    pub(super) fn assign(&mut self, at: &jsonptr::Pointer, value: Json<'a>) {
        match self.document.assigned(at, value, self.arena) {
            Ok(document) => self.document = document,
            // There is an array where the rule expects an object: leave it, and mark the configuration as incomplete.
            Err(_) => self.complete = false,
        }
    }

    /// A copy of the elements of a set, to be changed and [put back](Self::put).
    fn elements(&self, set: &KeyedSet) -> Option<Vec<Json<'a>>> {
        self.document.at(&set.at)?.as_array().map(<[_]>::to_vec)
    }

    fn put(&mut self, set: &KeyedSet, elements: Vec<Json<'a>>) {
        self.assign(&set.at, Json::array(elements, self.arena));
    }

    /// Adds elements, replacing those with the same key. A missing set is created.
    fn add(&mut self, set: &KeyedSet, added: &[JsonText]) {
        let mut elements = self.elements(set).unwrap_or_default();
        for element in added {
            let element = element.value(self.arena);
            let place = position(&elements, element, set).and_then(|index| elements.get_mut(index));
            match place {
                Some(place) => *place = element,
                None => elements.push(element),
            }
        }
        self.put(set, elements);
    }

    /// Removes elements. If one is not there, an earlier change was missed, or its key is incomplete.
    fn remove(&mut self, set: &KeyedSet, removed: &[JsonText]) {
        let Some(mut elements) = self.elements(set) else {
            self.complete = false;
            return;
        };
        for element in removed {
            let element = element.value(self.arena);
            let before = elements.len();
            elements.retain(|held| !have_same_key(*held, element, set));
            self.complete &= elements.len() < before;
        }
        self.put(set, elements);
    }

    /// Merges patches into the elements with the same keys.
    fn merge_elements(&mut self, set: &KeyedSet, patches: &[JsonText]) {
        let Some(mut elements) = self.elements(set) else {
            self.complete = false;
            return;
        };
        for patch in patches {
            let patch = patch.value(self.arena);
            match position(&elements, patch, set).and_then(|index| elements.get_mut(index)) {
                Some(element) => *element = element.merged(patch, self.arena),
                None => self.complete = false,
            }
        }
        self.put(set, elements);
    }

    /// Brings every set into the order that a difference can express, see [`align`].
    pub(super) fn align_sets(&mut self, old: Json<'a>) {
        for set in self.sets {
            let array = |document: Json<'a>| document.at(&set.at).and_then(Json::as_array);
            let (Some(before), Some(after)) = (array(old), array(self.document)) else { continue };
            if before != after {
                self.put(set, align(before, after, set));
            }
        }
    }
}
