//! `normalizers/azure/generic.toml`: what holds for every resource type of Azure Resource Manager.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::plan::Glob;
use super::super::rule::{Relation, RuleAction};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::normalize) struct Generic {
    /// Categories whose records change nothing, in lower case → why.
    categories: BTreeMap<String, Arc<str>>,
    /// In order; the first that fits.
    operations: Vec<OperationRule>,
    /// The relation to what an id in a body leads to, by its type in lower case.
    relations: BTreeMap<String, Relation>,
    /// The relation to what a resource is attached to, by its own type in lower case.
    scopes: BTreeMap<String, Relation>,
    /// Members, at any depth, that change with every write and say nothing of the configuration.
    noise: HashSet<String>,
    /// Members at the top that the event tells in its own place.
    told: HashSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationRule {
    /// Names of operations that may begin or end with `*`; case does not matter.
    names: Vec<Glob>,
    skip: Option<Arc<str>>,
    action: Option<RuleAction>,
}

/// What an operation does to its resource.
#[derive(Debug)]
pub(super) enum Verdict {
    Skip(Arc<str>),
    /// It writes the resource whole or in part, and its body tells what.
    Write,
    /// The change is known; its content is not told.
    Change(RuleAction),
    /// Not known, and taken for a change.
    Unknown,
}

impl Generic {
    /// Why no record of the category changes anything.
    pub(super) fn skipped_category(&self, category: &str) -> Option<Arc<str>> {
        self.categories.get(&category.to_ascii_lowercase()).cloned()
    }

    pub(super) fn verdict(&self, operation: &str) -> Verdict {
        let rule = self.operations.iter().find(|rule| rule.names.iter().any(|name| name.matches(operation)));
        match rule {
            Some(OperationRule { skip: Some(reason), .. }) => Verdict::Skip(Arc::clone(reason)),
            Some(OperationRule { action: Some(action), .. }) => Verdict::Change(*action),
            _ => match operation.rsplit('/').next().map(str::to_ascii_lowercase).as_deref() {
                Some("write") => Verdict::Write,
                Some("delete") => Verdict::Change(RuleAction::Delete),
                Some("read") => Verdict::Skip("read-only call".into()),
                _ => Verdict::Unknown,
            },
        }
    }

    /// The relation of a resource to another whose id stands in its body.
    pub(super) fn relation(&self, other: &str) -> Relation {
        self.relations.get(&other.to_ascii_lowercase()).copied().unwrap_or(Relation::Uses)
    }

    /// The relation of a resource of this type to what it is attached to.
    pub(super) fn scope_relation(&self, own: &str) -> Relation {
        self.scopes.get(&own.to_ascii_lowercase()).copied().unwrap_or(Relation::AttachedTo)
    }

    /// The configuration in a body: without what changes with every write.
    pub(super) fn configuration(&self, body: &Map<String, Value>) -> Value {
        let own = body.iter().filter(|(key, _)| !self.told.contains(*key));
        Value::Object(own.map(|(key, value)| (key.clone(), value.clone())).filter_map(|(k, v)| self.kept(k, v)).collect())
    }

    fn kept(&self, key: String, value: Value) -> Option<(String, Value)> {
        if self.noise.contains(&key) {
            return None;
        }
        // A tag may have any name.
        let value = if key == "tags" { value } else { self.quiet(value) };
        Some((key, value))
    }

    fn quiet(&self, value: Value) -> Value {
        match value {
            Value::Object(members) => {
                Value::Object(members.into_iter().filter_map(|(key, value)| self.kept(key, value)).collect())
            }
            Value::Array(elements) => elements.into_iter().map(|element| self.quiet(element)).collect(),
            scalar => scalar,
        }
    }
}
