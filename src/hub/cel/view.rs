//! One event, as filters look at it.

use std::cell::OnceCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::value::{Name, Value};
use crate::model::EventHead;

/// An event as filters see it. Its text is split into members when a filter first needs one, and each member is parsed
/// when first needed: once for all filters that use the same view.
#[derive(Debug)]
pub struct View<'a> {
    head: &'a EventHead,
    json: &'a [u8],
    members: OnceCell<Vec<Member<'a>>>,
}

/// A member of the event, or of its `data`.
#[derive(Debug)]
struct Member<'a> {
    of: Object,
    name: Name<'a>,
    raw: &'a RawValue,
    value: OnceCell<Value<'a>>,
}

/// The object that a member belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Event,
    Data,
}

impl<'a> View<'a> {
    /// A view of the event with this head and text.
    #[must_use]
    pub fn new(head: &'a EventHead, json: &'a [u8]) -> Self {
        Self { head, json, members: OnceCell::new() }
    }

    /// The event's head.
    #[must_use]
    pub fn head(&self) -> &'a EventHead {
        self.head
    }

    /// A member's value; `Null` if there is none of that name.
    pub(super) fn member(&self, of: Object, name: &str) -> &Value<'a> {
        const ABSENT: &Value<'static> = &Value::Null;
        self.find(of, name).map_or(ABSENT, Member::value)
    }

    /// Whether the event has a member, even if it is null.
    pub(super) fn has(&self, of: Object, name: &str) -> bool {
        self.find(of, name).is_some()
    }

    fn find(&self, of: Object, name: &str) -> Option<&Member<'a>> {
        let members = self.members.get_or_init(|| members(self.json));
        members.iter().find(|member| member.of == of && member.name.0 == name)
    }
}

impl<'a> Member<'a> {
    fn value(&self) -> &Value<'a> {
        // What was cut out as a value parses, unless it is nested too deep: no expression reaches that far.
        self.value.get_or_init(|| serde_json::from_str(self.raw.get()).unwrap_or(Value::Null))
    }
}

/// The members of an event and those of its `data`, in one pass over the text. Empty if it is not an event, which the
/// log never holds.
fn members(json: &[u8]) -> Vec<Member<'_>> {
    let mut found = Vec::with_capacity(24);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    if let Err(error) = (Collect { of: Object::Event, found: &mut found }).deserialize(&mut deserializer) {
        tracing::warn!(%error, "event can't be read as JSON; expressions see what could be read of it");
    }
    found
}

struct Collect<'f, 'a> {
    of: Object,
    found: &'f mut Vec<Member<'a>>,
}

impl<'a> DeserializeSeed<'a> for Collect<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Collect<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name<'_>>()? {
            if self.of == Object::Event && name.0 == "data" {
                map.next_value_seed(Collect { of: Object::Data, found: &mut *self.found })?;
            } else {
                let raw = map.next_value()?;
                self.found.push(Member { of: self.of, name, raw, value: OnceCell::new() });
            }
        }
        Ok(())
    }
}
