//! Parsing of text to a tree, with `serde_json`'s parser.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{Arena, Json, Members, Number, ordered};

/// Maximum nesting of records. JSON readers have different limits; real records stay below 20 levels.
pub const MAX_DEPTH: usize = 100;
/// For what Catchment itself wrote: any depth that `serde_json` reads.
const ANY_DEPTH: usize = usize::MAX;

/// Examines names and strings while they are parsed.
pub trait Watch {
    /// Whether a member's name is to be noticed.
    fn notices_name(&self, name: &str) -> bool;
    /// Whether a string is to be noticed.
    fn notices_text(&self, text: &str) -> bool;
    /// Whether a string that was written with escapes is to be noticed; it may contain JSON.
    fn notices_escaped(&self, text: &str) -> bool;
}

/// Notices nothing.
impl Watch for () {
    fn notices_name(&self, _: &str) -> bool {
        false
    }

    fn notices_text(&self, _: &str) -> bool {
        false
    }

    fn notices_escaped(&self, _: &str) -> bool {
        false
    }
}

/// Parses texts into an arena, and notes whether its [`Watch`] noticed anything.
pub struct Parser<'a, 'n, W> {
    /// Holds the tree.
    pub arena: &'a Arena,
    watch: &'n W,
    /// Something was noticed, or an object names a member twice.
    pub noticed: bool,
    depth: usize,
    max_depth: usize,
    // Elements and members of the arrays and objects being read.
    elements: Vec<Json<'a>>,
    members: Vec<(&'a str, Json<'a>)>,
}

impl<'a> Parser<'a, 'static, ()> {
    /// A parser for texts that Catchment itself wrote.
    #[must_use]
    pub fn trusting(arena: &'a Arena) -> Self {
        Self { max_depth: ANY_DEPTH, ..Self::new(arena, &()) }
    }
}

impl<'a, 'n, W: Watch> Parser<'a, 'n, W> {
    /// A parser of texts that nest no deeper than [`MAX_DEPTH`].
    #[must_use]
    pub fn new(arena: &'a Arena, watch: &'n W) -> Self {
        Self {
            arena,
            watch,
            noticed: false,
            depth: 0,
            max_depth: MAX_DEPTH,
            elements: Vec::new(),
            members: Vec::with_capacity(64),
        }
    }

    /// Parses a text.
    ///
    /// # Errors
    /// When the text is not JSON, or is nested too deep.
    pub fn value(&mut self, text: &'a str) -> Result<Json<'a>, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let value = ValueSeed(self).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }

    fn opened<E: Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        if self.depth > self.max_depth {
            Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))
        } else {
            Ok(())
        }
    }

    fn seen(&mut self, text: &str) {
        self.noticed = self.noticed || self.watch.notices_text(text);
    }

    fn unescaped(&mut self, text: &str) -> &'a str {
        self.noticed = self.noticed || self.watch.notices_text(text) || self.watch.notices_escaped(text);
        self.arena.alloc_str(text)
    }
}

/// Deserializes a value of any kind.
pub struct ValueSeed<'p, 'a, 'n, W>(
    /// The parser.
    pub &'p mut Parser<'a, 'n, W>,
);

impl<'de, W: Watch> DeserializeSeed<'de> for ValueSeed<'_, 'de, '_, W> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, W: Watch> Visitor<'de> for ValueSeed<'_, 'de, '_, W> {
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
        // The tree does not show a member that is hidden by another one of the same name.
        parser.noticed |= length < read.len();
        let object = Json::Object(Members(parser.arena.alloc_slice_copy(read.get(..length).unwrap_or_default())));
        parser.members.truncate(start);
        parser.depth -= 1;
        Ok(object)
    }
}

/// Deserializes a member's name.
pub struct KeySeed<'p, 'a, 'n, W>(
    /// The parser.
    pub &'p mut Parser<'a, 'n, W>,
);

impl<W: Watch> KeySeed<'_, '_, '_, W> {
    fn seen(&mut self, key: &str) {
        self.0.noticed |= self.0.watch.notices_name(key);
    }
}

impl<'de, W: Watch> DeserializeSeed<'de> for KeySeed<'_, 'de, '_, W> {
    type Value = &'de str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'de str, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, W: Watch> Visitor<'de> for KeySeed<'_, 'de, '_, W> {
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
