//! JSON for the hot path: a tree in an arena, parsed in one pass, that borrows its strings.
//!
//! A value is two words and a tag, and cheap to copy. Changing one (`edit`) returns another that shares all unchanged
//! parts; the arena is dropped as a whole. Members of an object are sorted by key, each key once (the last one wins),
//! as in `serde_json::Map`. What is to outlive the arena is written to a [`JsonText`].

mod edit;
mod parse;
mod text;

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

pub use self::parse::{KeySeed, MAX_DEPTH, Parser, ValueSeed, Watch};
pub use self::text::{JsonText, write_array, write_string, written};

/// Holds everything that is parsed or composed for one record.
pub type Arena = bumpalo::Bump;

/// A JSON value.
#[derive(Clone, Copy, Debug)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string, unescaped.
    Text(&'a str),
    /// An array.
    Array(&'a [Self]),
    /// An object.
    Object(Members<'a>),
}

impl PartialEq for Json<'_> {
    /// Shared parts are equal without comparing them.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(one), Self::Bool(other)) => one == other,
            (Self::Number(one), Self::Number(other)) => one == other,
            (Self::Text(one), Self::Text(other)) => one == other,
            (Self::Array(one), Self::Array(other)) => std::ptr::eq(*one, *other) || one == other,
            (Self::Object(one), Self::Object(other)) => one.is(*other) || one.0 == other.0,
            _ => false,
        }
    }
}

/// A number, in the same variants as in `serde_json`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// An integer that is not negative.
    Unsigned(u64),
    /// A negative integer.
    Signed(i64),
    /// Any other.
    Float(f64),
}

/// The members of an object, in the order of their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Members<'a>(&'a [(&'a str, Json<'a>)]);

impl<'a> Json<'a> {
    /// An object without members.
    pub const EMPTY: Self = Self::Object(Members(&[]));

    /// Parses a JSON text.
    ///
    /// # Errors
    /// When the text is not JSON, or is nested deeper than [`MAX_DEPTH`].
    pub fn parse(text: &'a str, arena: &'a Arena) -> Result<Self, serde_json::Error> {
        Parser::new(arena, &()).value(text)
    }

    /// An array of these elements.
    pub fn array(elements: impl IntoIterator<Item = Self>, arena: &'a Arena) -> Self {
        let elements: bumpalo::collections::Vec<'_, _> = bumpalo::collections::Vec::from_iter_in(elements, arena);
        Self::Array(elements.into_bump_slice())
    }

    /// An object of these members, in any order; the last one with the same key wins.
    pub fn object(members: impl IntoIterator<Item = (&'a str, Self)>, arena: &'a Arena) -> Self {
        let mut members: bumpalo::collections::Vec<'_, _> = bumpalo::collections::Vec::from_iter_in(members, arena);
        let length = ordered(&mut members);
        members.truncate(length);
        Self::Object(Members(members.into_bump_slice()))
    }

    /// Copies a `serde_json` value into the arena.
    #[must_use]
    pub fn copied(value: &Value, arena: &'a Arena) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Number(number) => Self::Number(number.into()),
            Value::String(text) => Self::Text(arena.alloc_str(text)),
            Value::Array(elements) => Self::array(elements.iter().map(|element| Self::copied(element, arena)), arena),
            Value::Object(members) => {
                let members = members.iter().map(|(key, value)| (&*arena.alloc_str(key), Self::copied(value, arena)));
                Self::object(members, arena)
            }
        }
    }

    /// Copies the value to one that outlives the arena.
    #[must_use]
    pub fn to_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(flag),
            Self::Number(number) => Value::Number(number.into()),
            Self::Text(text) => Value::String(text.to_owned()),
            Self::Array(elements) => elements.iter().map(|element| element.to_value()).collect(),
            Self::Object(members) => {
                Value::Object(members.iter().map(|(key, value)| (key.to_owned(), value.to_value())).collect())
            }
        }
    }

    /// Whether it is null.
    #[must_use]
    pub fn is_null(self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether it is an object.
    #[must_use]
    pub fn is_object(self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// The text, if it is a string.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The elements, if it is an array.
    #[must_use]
    pub fn as_array(self) -> Option<&'a [Self]> {
        if let Self::Array(elements) = self { Some(elements) } else { None }
    }

    /// The members, if it is an object.
    #[must_use]
    pub fn as_object(self) -> Option<Members<'a>> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }

    /// The number, if it is an integer in range.
    #[must_use]
    pub fn as_i64(self) -> Option<i64> {
        match self {
            Self::Number(Number::Unsigned(number)) => i64::try_from(number).ok(),
            Self::Number(Number::Signed(number)) => Some(number),
            _ => None,
        }
    }

    /// The member with exactly this key, if it is an object.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Self> {
        self.as_object()?.get(key)
    }

    /// The string at a path of exact keys, unless it is empty.
    #[must_use]
    pub fn text_at(self, path: &[&str]) -> Option<&'a str> {
        let found = path.iter().try_fold(self, |value, key| value.get(key))?;
        found.as_str().filter(|text| !text.is_empty())
    }

    /// A scalar as text; `None` for null, arrays and objects.
    #[must_use]
    pub fn scalar_text(self, arena: &'a Arena) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(number) => Some(arena.alloc_str(&number.to_string())),
            Self::Bool(flag) => Some(if flag { "true" } else { "false" }),
            Self::Null | Self::Array(_) | Self::Object(_) => None,
        }
    }
}

impl<'a> Members<'a> {
    /// Whether it is the same object in memory, not only an equal one.
    #[must_use]
    pub fn is(self, other: Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }

    /// Keys and values, in the order of the keys.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = (&'a str, Json<'a>)> + Clone {
        self.0.iter().copied()
    }

    /// The keys, in order.
    pub fn keys(self) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(|(key, _)| *key)
    }

    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// A member by its exact key.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Json<'a>> {
        // Most objects are small, and most keys differ in length.
        const SMALL: usize = 16;
        if self.0.len() <= SMALL {
            return self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        }
        let at = self.0.binary_search_by(|(name, _)| (*name).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| *value)
    }

    /// A member by its key: an exact match, else one ignoring the case of the first letter, else one ignoring case.
    #[must_use]
    pub fn get_in_any_case(self, key: &str) -> Option<Json<'a>> {
        self.get(key).or_else(|| {
            let ignoring_case = || self.0.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key));
            let same_but_first_letter = |name: &str| name.get(1..).is_some() && name.get(1..) == key.get(1..);
            let found = ignoring_case().find(|(name, _)| same_but_first_letter(name));
            found.or_else(|| ignoring_case().next()).map(|(_, value)| *value)
        })
    }
}

/// Sorts members by key; of several with one key the last stays. Returns how many remain, at the front.
fn ordered(members: &mut [(&str, Json<'_>)]) -> usize {
    if members.is_sorted_by(|(one, _), (next, _)| one < next) {
        return members.len();
    }
    members.sort_by_key(|(key, _)| *key);
    let mut kept = 0;
    for at in 0..members.len() {
        let Some(member) = members.get(at).copied() else { break };
        let is_same = kept > 0 && members.get(kept - 1).is_some_and(|(key, _)| *key == member.0);
        kept += usize::from(!is_same);
        if let Some(place) = members.get_mut(kept.saturating_sub(1)) {
            *place = member;
        }
    }
    kept
}

impl From<&serde_json::Number> for Number {
    fn from(number: &serde_json::Number) -> Self {
        match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Self::Unsigned(number),
            (None, Some(number)) => Self::Signed(number),
            // Neither fits: a float.
            (None, None) => Self::Float(number.as_f64().unwrap_or_default()),
        }
    }
}

impl From<Number> for serde_json::Number {
    fn from(number: Number) -> Self {
        match number {
            Number::Unsigned(number) => number.into(),
            Number::Signed(number) => number.into(),
            // JSON has no other floats than finite ones.
            Number::Float(number) => Self::from_f64(number).unwrap_or_else(|| 0.into()),
        }
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Unsigned(number) => serializer.serialize_u64(number),
            Self::Signed(number) => serializer.serialize_i64(number),
            Self::Float(number) => serializer.serialize_f64(number),
        }
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Array(elements) => serializer.collect_seq(*elements),
            Self::Object(members) => serializer.collect_map(members.iter()),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        serde_json::Number::from(*self).fmt(f)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::Arena;

    /// An arena that is never freed.
    pub(crate) fn arena() -> &'static Arena {
        Box::leak(Box::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exact_then_first_letter_then_any_case() {
        let arena = Arena::new();
        let get = |text: &'static str, key: &str| {
            Json::parse(text, &arena).unwrap().as_object().unwrap().get_in_any_case(key).and_then(Json::as_i64)
        };
        let all = r#"{ "dBName": 1, "DBName": 2, "DBNAME": 3 }"#;
        assert_eq!((get(all, "DBName"), get(all, "dBName")), (Some(2), Some(1)));
        assert_eq!(get(r#"{ "dbname": 3, "dBName": 1 }"#, "DBName"), Some(1));
        assert_eq!(get(r#"{ "dbname": 3 }"#, "DBName"), Some(3));
        assert_eq!(get(r#"{ "X": 4 }"#, "y"), None);
    }

    proptest! {
        /// The parser accepts the same texts as `serde_json`, and yields the same values.
        #[test]
        fn agrees_with_serde_json(text in "[\\[\\]{}\":,a-c0-9.eE+\\\\u -]{0,40}") {
            let arena = Arena::new();
            let ours = Json::parse(&text, &arena).map(Json::to_value).map_err(|error| error.to_string());
            let theirs = serde_json::from_str::<Value>(&text).map_err(|error| error.to_string());
            prop_assert_eq!(ours.ok(), theirs.ok());
        }

        #[test]
        fn reads_what_serde_json_writes(keys in prop::collection::vec("[a-z\\PC\"]{0,6}", 0..40), number in any::<f64>(), signed in any::<i64>()) {
            let members: serde_json::Map<_, _> = keys.iter().enumerate()
                .map(|(at, key)| (key.clone(), match at % 4 {
                    0 => serde_json::json!(number), 1 => serde_json::json!(signed), 2 => serde_json::json!([key, null, true]), _ => serde_json::json!({ key.as_str(): key }),
                }))
                .collect();
            let value = Value::Object(members);
            let text = value.to_string();
            let arena = Arena::new();
            let json = Json::parse(&text, &arena).unwrap();
            prop_assert_eq!(json.to_value(), serde_json::from_str::<Value>(&text).unwrap());
            prop_assert_eq!(Json::copied(&value, &arena).to_value(), value.clone());
            for key in &keys {
                prop_assert_eq!(json.get(key).map(Json::to_value).is_some(), value.get(key).is_some());
            }
        }
    }
}
