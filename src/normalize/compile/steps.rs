//! Compilation of the steps of a rule.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use jsonptr::PointerBuf;
use toml::Spanned;

use super::super::expression::Sources;
use super::super::plan::{ElementsPlan, OpPlan, StepPlan, ValuePlan};
use super::super::rule::{ObjectField, OneOrMany, Op, StepRule, Texts};
use super::Compiler;
use crate::model::KeyedSet;

impl Compiler<'_> {
    pub(super) fn step(&mut self, spanned: &Spanned<StepRule>, sets: &[KeyedSet], key: &str) -> Option<StepPlan> {
        let rule = spanned.get_ref();
        let at = match &rule.at {
            Some(at) => self.config_pointer(at, &format!("{key}.at"))?,
            None => PointerBuf::root(),
        };
        let op = match rule.op {
            Op::Replace => OpPlan::Replace(self.value(spanned, key)?),
            Op::Set => OpPlan::Set { at: self.inner(spanned, at, key)?, value: self.value(spanned, key)? },
            Op::Unset => OpPlan::Unset { at: self.inner(spanned, at, key)? },
            Op::Merge if rule.each.is_some() => {
                OpPlan::MergeElements { set: self.set(spanned, at, sets, key)?, elements: self.elements(spanned, key)? }
            }
            Op::Merge => OpPlan::Merge { at, patch: self.value(spanned, key)? },
            Op::Add => OpPlan::Add { set: self.set(spanned, at, sets, key)?, elements: self.elements(spanned, key)? },
            Op::Remove if rule.by.is_none() && !sets.iter().any(|set| set.at == at) => {
                OpPlan::RemoveMembers { at: self.inner(spanned, at, key)?, keys: self.elements(spanned, key)? }
            }
            Op::Remove => {
                OpPlan::Remove { set: self.set(spanned, at, sets, key)?, elements: self.elements(spanned, key)? }
            }
            // Implied by the action; it may be written in a rule without effect.
            Op::Delete => return None,
            Op::Rename => OpPlan::Rename { id: self.required_sources(spanned, &rule.id, "id", key)? },
            Op::Copy => {
                let Some(provider_type) = &rule.asset else {
                    self.error(spanned.span(), key, "`copy` needs `asset`, the provider type to copy from");
                    return None;
                };
                let asset = self.asset_named(provider_type, spanned.span(), key)?;
                self.check_vars(&asset, &HashSet::new(), spanned.span(), key)?;
                let from_at = match &rule.from_at {
                    Some(from_at) => self.config_pointer(from_at, &format!("{key}.from_at"))?,
                    None => PointerBuf::root(),
                };
                OpPlan::Copy { asset, id: self.required_sources(spanned, &rule.id, "id", key)?, from_at, at }
            }
            Op::Recall => OpPlan::Recall(self.value(spanned, key)?),
            Op::Touch => OpPlan::Touch,
        };
        Some(StepPlan { when: self.conditions(&rule.when, &format!("{key}.when"))?, required: rule.required, op })
    }

    fn required_sources(&mut self, step: &Spanned<StepRule>, texts: &Texts, name: &str, key: &str) -> Option<Sources> {
        if texts.is_none() {
            self.error(step.span(), key, format!("this step needs `{name}`"));
        }
        self.sources(texts, &format!("{key}.{name}"))
    }

    /// The place of a step, which must not be the root.
    fn inner(&mut self, step: &Spanned<StepRule>, at: PointerBuf, key: &str) -> Option<PointerBuf> {
        if at.is_root() {
            self.error(step.span(), key, "this step needs `at`: a pointer below the root");
            return None;
        }
        Some(at)
    }

    /// The set that a step changes, with its key: the step's own `by`, else as declared by the asset.
    fn set(&mut self, step: &Spanned<StepRule>, at: PointerBuf, sets: &[KeyedSet], key: &str) -> Option<KeyedSet> {
        if let Some(by) = &step.get_ref().by {
            let by = self.set_key(by.span(), by.get_ref(), &format!("{key}.by"))?;
            return Some(self.keyed(at, by));
        }
        if let Some(set) = sets.iter().find(|set| set.at == at) {
            return Some(set.clone());
        }
        let message = format!(
            "{:?} is not a set: give the asset `sets = {{ {:?} = [key pointers] }}`, or the step `by`",
            at.as_str(),
            at.as_str()
        );
        self.error(step.span(), key, message);
        None
    }

    fn value(&mut self, step: &Spanned<StepRule>, key: &str) -> Option<ValuePlan> {
        let whole = self.whole_value(step, key)?;
        let left_out = &step.get_ref().without;
        if left_out.is_empty() {
            return Some(whole);
        }
        Some(ValuePlan::Without(Box::new(whole), left_out.iter().map(|name| name.as_str().into()).collect()))
    }

    fn whole_value(&mut self, step: &Spanned<StepRule>, key: &str) -> Option<ValuePlan> {
        let rule = step.get_ref();
        match (&rule.from, &rule.value, &rule.object) {
            (Some(_), None, None) => self.sources(&rule.from, &format!("{key}.from")).map(ValuePlan::From),
            (None, Some(value), None) => Some(ValuePlan::Literal(value.clone())),
            (None, None, Some(object)) => self.object(object, step.span(), &format!("{key}.object")),
            _ => {
                self.error(step.span(), key, "this step needs one of `from`, `value` or `object`");
                None
            }
        }
    }

    fn object(&mut self, fields: &BTreeMap<String, ObjectField>, span: Range<usize>, key: &str) -> Option<ValuePlan> {
        let mut members = Vec::new();
        for (name, field) in fields {
            let value = match field {
                ObjectField::Sources(OneOrMany(texts)) => {
                    ValuePlan::From(self.sources_of(texts, span.clone(), &format!("{key}.{name}"))?)
                }
                ObjectField::Nested(fields) => self.object(fields, span.clone(), &format!("{key}.{name}"))?,
            };
            members.push((name.clone(), value));
        }
        Some(ValuePlan::Object(members))
    }

    fn elements(&mut self, step: &Spanned<StepRule>, key: &str) -> Option<ElementsPlan> {
        let rule = step.get_ref();
        let each = self.sources(&rule.each, &format!("{key}.each"));
        let has_value = rule.value.is_some() || rule.object.is_some();
        if each.is_none() && !has_value {
            self.error(step.span(), key, "this step needs `each`, `value` or `object`");
            return None;
        }
        let value = if has_value { Some(self.value(step, key)?) } else { None };
        Some(ElementsPlan { each, value })
    }
}
