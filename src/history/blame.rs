//! Which event set each value of a configuration.

use std::sync::Arc;

use bytes::Bytes;
use jsonptr::{Pointer, PointerBuf};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::inventory::{Change, ChangeOp, Held, Version};
use crate::model::{Action, Time};

/// The values of a configuration, each with the event that set it.
#[derive(Clone, Debug)]
pub struct Blame {
    /// The asset.
    pub held: Arc<Held>,
    /// The leaves of the configuration, in document order.
    pub fields: Vec<Field>,
    /// The time of the oldest event examined; older ones are no longer retained, or too many. Values without an event
    /// were set before it, or not by an event.
    pub since: Option<Time>,
}

/// A leaf of a configuration: a scalar, or an empty array or object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Field {
    /// Its path (JSON Pointer, RFC 6901).
    pub path: PointerBuf,
    /// The value.
    pub value: Value,
    /// The event that set it; null if none of the events examined did.
    pub set_by: Option<SetBy>,
}

/// An event, with who made the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetBy {
    /// Its id.
    pub event: String,
    /// Its time, by the provider.
    pub time: Time,
    /// What happened to the asset.
    pub action: Action,
    /// The call.
    pub operation: String,
    /// The method: `console`, `cli`, `terraform`, …
    pub method: String,
    /// The principal whose credentials made the call: name, else ARN, else id.
    pub principal: Option<String>,
    /// The person behind it.
    pub human: Option<String>,
    /// The source address.
    pub ip: Option<String>,
}

/// The leaves of a configuration, each with the version that set it.
pub(super) fn leaves<'v>(
    versions: impl Iterator<Item = &'v Version>,
    now: Option<&Bytes>,
) -> Vec<(PointerBuf, Value, Option<usize>)> {
    let mut page = Page::default();
    for (number, version) in versions.enumerate() {
        page.become_known(version.before.as_ref());
        page.change(&version.changes, number);
        page.become_known(version.held.configuration());
    }
    page.become_known(now);
    let mut found = Vec::new();
    collect(&page.document, &page.marks, PointerBuf::root(), &mut found);
    found
}

/// A document, and one of the same shape that has the number of a version in the place of each leaf; null where no version
/// is known to have set it.
#[derive(Debug, Default)]
struct Page {
    document: Value,
    marks: Value,
}

impl Page {
    /// What no event told makes the difference between here and a configuration.
    fn become_known(&mut self, configuration: Option<&Bytes>) {
        let next = configuration.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or(Value::Null);
        if next != self.document {
            self.marks = carry(&self.document, &self.marks, &next);
            self.document = next;
        }
    }

    fn change(&mut self, changes: &[Change], number: usize) {
        for change in changes {
            let marks = paint(&change.value, &Value::from(number));
            redo(&mut self.document, change, change.value.clone());
            redo(&mut self.marks, change, marks);
        }
    }
}

/// Applies a change as RFC 6902 says; a replacement of the root of nothing is the root.
fn redo(document: &mut Value, change: &Change, value: Value) {
    if document.is_null() {
        *document = Value::Object(Map::new());
    }
    if change.op == ChangeOp::Remove {
        change.path.delete(document);
        return;
    }
    let Some((parent, last)) = change.path.split_back() else {
        *document = value;
        return;
    };
    match parent.resolve_mut(document) {
        Ok(Value::Array(elements)) => match last.decoded().parse::<usize>().ok().and_then(|at| elements.get_mut(at)) {
            Some(element) => *element = value,
            None => elements.push(value),
        },
        Ok(Value::Object(members)) => {
            members.insert(last.decoded().into_owned(), value);
        }
        _ => {}
    }
}

/// A document with a mark in the place of each leaf.
fn paint(document: &Value, mark: &Value) -> Value {
    match document {
        Value::Object(members) if !members.is_empty() => {
            members.iter().map(|(key, value)| (key.clone(), paint(value, mark))).collect()
        }
        Value::Array(elements) if !elements.is_empty() => elements.iter().map(|value| paint(value, mark)).collect(),
        _ => mark.clone(),
    }
}

/// The marks of a document that became another: what is equal keeps its own, elements of arrays wherever they stand.
fn carry(old: &Value, marks: &Value, new: &Value) -> Value {
    match (old, marks, new) {
        _ if old == new => marks.clone(),
        (Value::Object(old), Value::Object(marks), Value::Object(new)) if !new.is_empty() => {
            let null = Value::Null;
            let of = |key: &String, value| match old.get(key) {
                Some(before) => carry(before, marks.get(key).unwrap_or(&null), value),
                None => paint(value, &null),
            };
            new.iter().map(|(key, value)| (key.clone(), of(key, value))).collect()
        }
        (Value::Array(old), Value::Array(marks), Value::Array(new)) if !new.is_empty() => {
            let mut left: Vec<Option<(&Value, &Value)>> = old.iter().zip(marks).map(Some).collect();
            let mut of = |value: &Value| {
                let same = left.iter_mut().find(|one| one.is_some_and(|(before, _)| before == value));
                same.and_then(Option::take).map_or_else(|| paint(value, &Value::Null), |(_, marks)| marks.clone())
            };
            new.iter().map(&mut of).collect()
        }
        _ => paint(new, &Value::Null),
    }
}

fn collect(document: &Value, marks: &Value, at: PointerBuf, found: &mut Vec<(PointerBuf, Value, Option<usize>)>) {
    let inner = |marks: &Value, token: &Pointer| token.resolve(marks).cloned().unwrap_or_default();
    match document {
        Value::Object(members) if !members.is_empty() => {
            for (key, value) in members {
                let token = PointerBuf::from_tokens([key.as_str()]);
                collect(value, &inner(marks, &token), at.with_trailing_token(key.as_str()), found);
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            for (index, value) in elements.iter().enumerate() {
                let token = PointerBuf::from_tokens([index.to_string()]);
                collect(value, &inner(marks, &token), at.with_trailing_token(index), found);
            }
        }
        Value::Null if at.is_root() => {}
        leaf => found.push((at, leaf.clone(), marks.as_u64().and_then(|number| usize::try_from(number).ok()))),
    }
}
