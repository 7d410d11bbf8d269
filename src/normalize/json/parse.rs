//! From text to tree, by `serde_json`'s parser.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::super::redact::Secrets;
use super::{Arena, Json, Members, Number, ordered};

/// Readers differ in how deep they can go; real records stay below 20.
pub(in crate::normalize) const MAX_DEPTH: usize = 100;

/// Parses texts into an arena, and notices on the way what may be a secret.
pub(in crate::normalize) struct Parser<'a, 'n> {
    pub(in crate::normalize) arena: &'a Arena,
    secrets: Option<&'n Secrets>,
    /// A member is called like a secret, a text looks like one or may hold JSON with such a member, or an object names a
    /// member twice.
    pub(in crate::normalize) may_hold_secrets: bool,
    depth: usize,
    // What is read of the arrays and objects that are open.
    elements: Vec<Json<'a>>,
    members: Vec<(&'a str, Json<'a>)>,
}

impl<'a, 'n> Parser<'a, 'n> {
    pub(in crate::normalize) fn new(arena: &'a Arena, secrets: Option<&'n Secrets>) -> Self {
        Self {
            arena,
            secrets,
            may_hold_secrets: false,
            depth: 0,
            elements: Vec::new(),
            members: Vec::with_capacity(64),
        }
    }

    /// The value of a text.
    pub(in crate::normalize) fn value(&mut self, text: &'a str) -> Result<Json<'a>, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let value = ValueSeed(self).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }

    fn opened<E: Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))
        } else {
            Ok(())
        }
    }

    fn seen(&mut self, text: &str) {
        let holds = |secrets: &Secrets| secrets.matches(text);
        self.may_hold_secrets = self.may_hold_secrets || self.secrets.is_some_and(holds);
    }

    fn unescaped(&mut self, text: &str) -> &'a str {
        self.seen(text);
        self.may_hold_secrets |= self.secrets.is_some_and(|secrets| secrets.may_be_in_json(text));
        self.arena.alloc_str(text)
    }
}

/// A value of any kind.
pub(in crate::normalize) struct ValueSeed<'p, 'a, 'n>(pub(in crate::normalize) &'p mut Parser<'a, 'n>);

impl<'de> DeserializeSeed<'de> for ValueSeed<'_, 'de, '_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_, 'de, '_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(Number::Unsigned(number)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(Number::Signed(number)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Json::Number(Number::Float(number)))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        self.0.seen(text);
        Ok(Json::Text(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(self.0.unescaped(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json<'de>, A::Error> {
        let parser = self.0;
        parser.opened()?;
        let start = parser.elements.len();
        while let Some(element) = elements.next_element_seed(ValueSeed(parser))? {
            parser.elements.push(element);
        }
        let read = parser.elements.get(start..).unwrap_or_default();
        let array = Json::Array(parser.arena.alloc_slice_copy(read));
        parser.elements.truncate(start);
        parser.depth -= 1;
        Ok(array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json<'de>, A::Error> {
        let parser = self.0;
        parser.opened()?;
        let start = parser.members.len();
        while let Some(key) = members.next_key_seed(KeySeed(parser))? {
            let value = members.next_value_seed(ValueSeed(parser))?;
            parser.members.push((key, value));
        }
        let read = parser.members.get_mut(start..).unwrap_or_default();
        let length = ordered(read);
        // The tree does not show what a second member of the same name hides.
        parser.may_hold_secrets |= length < read.len();
        let object = Json::Object(Members(parser.arena.alloc_slice_copy(read.get(..length).unwrap_or_default())));
        parser.members.truncate(start);
        parser.depth -= 1;
        Ok(object)
    }
}

/// A member's name.
pub(in crate::normalize) struct KeySeed<'p, 'a, 'n>(pub(in crate::normalize) &'p mut Parser<'a, 'n>);

impl KeySeed<'_, '_, '_> {
    fn seen(&mut self, key: &str) {
        self.0.may_hold_secrets |= self.0.secrets.is_some_and(|names| names.contains(key));
    }
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_, 'de, '_> {
    type Value = &'de str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'de str, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_, 'de, '_> {
    type Value = &'de str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_borrowed_str<E>(mut self, key: &'de str) -> Result<&'de str, E> {
        self.seen(key);
        Ok(key)
    }

    fn visit_str<E>(mut self, key: &str) -> Result<&'de str, E> {
        self.seen(key);
        Ok(self.0.arena.alloc_str(key))
    }
}
