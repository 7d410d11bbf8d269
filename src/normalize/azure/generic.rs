//! `normalizers/azure/generic.toml`: rules for all resource types of Azure Resource Manager.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::plan::Glob;
use super::super::rule::{Relation, RuleAction};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::normalize) struct Generic {
    /// Categories whose records change nothing, in lower case → reason.
    categories: BTreeMap<String, Arc<str>>,
    /// Rules in order; the first match wins.
    operations: Vec<OperationRule>,
    /// The relation to a resource whose id is in a body, by types in lower case: `own > other`, `other`, `own > *`.
    relations: BTreeMap<String, Relation>,
    /// The relation to what a resource is attached to, by its own type in lower case.
    scopes: BTreeMap<String, Relation>,
    /// Members, at any depth, that change with every write and are not configuration.
    noise: HashSet<String>,
    /// Top-level members that an event contains elsewhere.
    told: HashSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationRule {
    /// Names of operations, which may begin or end with `*`; case is ignored.
    #[serde(default)]
    names: Vec<Glob>,
    /// Names of actions: `start` for `Microsoft.Compute/virtualMachines/start/action`.
    #[serde(default)]
    actions: Vec<Glob>,
    skip: Option<Arc<str>>,
    action: Option<RuleAction>,
}

/// What an operation does to its resource.
#[derive(Debug)]
pub(super) enum Verdict {
    Skip(Arc<str>),
    /// It writes the resource, as a whole or in part, with a body.
    Write,
    /// The action is known, its content is not.
    Change(RuleAction),
    /// Unknown, and treated as a change.
    Unknown,
}

impl Generic {
    /// The reason why records of a category change nothing, if that is so.
    pub(super) fn skipped_category(&self, category: &str) -> Option<Arc<str>> {
        self.categories.get(&category.to_ascii_lowercase()).cloned()
    }

    pub(super) fn verdict(&self, operation: &str) -> Verdict {
        let action = action_of(operation);
        let rule = self.operations.iter().find(|rule| {
            let called = action.is_some_and(|action| rule.actions.iter().any(|name| name.matches(action)));
            called || rule.names.iter().any(|name| name.matches(operation))
        });
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

    /// The relation of a resource to another whose id is in its body.
    pub(super) fn relation(&self, own: &str, other: &str) -> Relation {
        let (own, other) = (own.to_ascii_lowercase(), other.to_ascii_lowercase());
        let told = [format!("{own} > {other}"), other, format!("{own} > *")];
        told.iter().find_map(|key| self.relations.get(key)).copied().unwrap_or(Relation::Uses)
    }

    /// The relation of a resource of this type to what it is attached to.
    pub(super) fn scope_relation(&self, own: &str) -> Relation {
        self.scopes.get(&own.to_ascii_lowercase()).copied().unwrap_or(Relation::AttachedTo)
    }

    /// Whether the type is attached to its parent, even to a group or a subscription.
    pub(super) fn has_scope(&self, own: &str) -> bool {
        self.scopes.contains_key(&own.to_ascii_lowercase())
    }

    /// The configuration in a body: without `noise` and `told`.
    pub(super) fn configuration(&self, body: &Map<String, Value>) -> Value {
        let own = body.iter().filter(|(key, _)| !self.told.contains(*key));
        Value::Object(
            own.map(|(key, value)| (key.clone(), value.clone())).filter_map(|(k, v)| self.kept(k, v)).collect(),
        )
    }

    /// A body without `noise`.
    pub(super) fn quiet_body(&self, body: &Map<String, Value>) -> Value {
        self.quiet(Value::Object(body.clone()))
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

/// `start` of `Microsoft.Compute/virtualMachines/start/action`.
fn action_of(operation: &str) -> Option<&str> {
    let mut words = operation.rsplit('/');
    words.next().filter(|last| last.eq_ignore_ascii_case("action")).and_then(|_| words.next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::azure::GenericFile;
    use serde_json::json;

    fn generic() -> Generic {
        let file: GenericFile = toml::from_str(include_str!("../../../normalizers/azure/generic.toml")).unwrap();
        file.arm
    }

    #[test]
    fn operations_by_their_names() {
        let generic = generic();
        let word = |operation: &str| match generic.verdict(operation) {
            Verdict::Skip(_) => "skip",
            Verdict::Write => "write",
            Verdict::Change(RuleAction::Delete) => "delete",
            Verdict::Change(_) => "change",
            Verdict::Unknown => "unknown",
        };
        for (operation, expected) in [
            ("Microsoft.Compute/virtualMachines/write", "write"),
            ("MICROSOFT.COMPUTE/VIRTUALMACHINES/DELETE", "delete"),
            ("Microsoft.Compute/virtualMachines/read", "skip"),
            ("Microsoft.Compute/virtualMachines/start/action", "change"),
            ("MICROSOFT.STORAGE/STORAGEACCOUNTS/LISTACCOUNTSAS/ACTION", "skip"),
            ("Microsoft.Storage/storageAccounts/listKeys/action", "skip"),
            ("Microsoft.Authorization/policies/auditIfNotExists/action", "skip"),
            ("Microsoft.Resources/deployments/validate/action", "skip"),
            ("Microsoft.Compute/disks/beginGetAccess/action", "skip"),
            ("Microsoft.Storage/storageAccounts/regenerateKey/action", "change"),
            ("Microsoft.KeyVault/vaults/keys/purge/action", "delete"),
            ("Microsoft.Future/things/perform/action", "unknown"),
        ] {
            assert_eq!(word(operation), expected, "{operation}");
        }
        assert!(generic.skipped_category("Policy").is_some() && generic.skipped_category("Administrative").is_none());
    }

    #[test]
    fn what_changes_with_every_write_is_left_out_but_for_tags() {
        let body = json!({
            "id": "/subscriptions/s", "location": "westeurope", "etag": "1", "tags": { "etag": "kept" },
            "properties": { "provisioningState": "Succeeded", "rules": [{ "name": "a", "etag": "2" }] },
        });
        assert_eq!(
            generic().configuration(body.as_object().unwrap()),
            json!({ "location": "westeurope", "tags": { "etag": "kept" }, "properties": { "rules": [{ "name": "a" }] } })
        );
    }
}
