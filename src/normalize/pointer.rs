//! JSON Pointers (RFC 6901) into records. Case is ignored in keys, which providers spell in several ways.

use std::borrow::Cow;
use std::fmt;

use jsonptr::Pointer;

use crate::json::{Arena, Json};

/// A pointer, parsed and split once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    tokens: Box<[Token]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Key(Box<str>),
    /// `*`: every element of an array.
    Every,
}

impl Path {
    pub(super) fn parse(text: &str) -> Result<Self, jsonptr::ParseError> {
        let tokens = Pointer::parse(text)?.tokens().map(|token| match token.decoded() {
            Cow::Borrowed("*") => Token::Every,
            key => Token::Key(key.into()),
        });
        Ok(Self { tokens: tokens.collect() })
    }

    /// The value at the path. With `*`, an array of the values at the rest of the path in each element.
    pub(super) fn resolve<'a>(&self, value: Json<'a>, arena: &'a Arena) -> Option<Json<'a>> {
        resolve(&self.tokens, value, arena)
    }

    /// The tokens as text, `*` for every element.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &str> + Clone {
        self.tokens.iter().map(|token| match token {
            Token::Key(key) => key.as_ref(),
            Token::Every => "*",
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tokens().try_for_each(|token| write!(f, "/{}", jsonptr::Token::new(token).encoded()))
    }
}

fn resolve<'a>(tokens: &[Token], mut value: Json<'a>, arena: &'a Arena) -> Option<Json<'a>> {
    for (at, token) in tokens.iter().enumerate() {
        value = match (token, value) {
            (Token::Key(key), Json::Object(members)) => members.get_in_any_case(key)?,
            (Token::Key(key), Json::Array(elements)) => *elements.get(key.parse::<usize>().ok()?)?,
            (Token::Every, Json::Array(elements)) => {
                let rest = tokens.get(at + 1..)?;
                return Some(Json::array(resolve_every(rest, elements, arena), arena));
            }
            _ => return None,
        };
    }
    Some(value)
}

fn resolve_every<'a>(tokens: &[Token], elements: &[Json<'a>], arena: &'a Arena) -> Vec<Json<'a>> {
    let mut found = Vec::new();
    for element in elements {
        match resolve(tokens, *element, arena) {
            // A `*` further down already returned an array.
            Some(Json::Array(inner)) if tokens.contains(&Token::Every) => found.extend(inner),
            Some(value) => found.push(value),
            None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn resolved(value: &Value, path: &str) -> Option<Value> {
        let arena = Arena::new();
        Path::parse(path).unwrap().resolve(Json::copied(value, &arena), &arena).map(Json::to_value)
    }

    #[test]
    fn exact_then_first_letter_then_any_case() {
        let value = json!({ "dBName": 1, "DBName": 2, "DBNAME": 3, "é": { "X": 4 } });
        assert_eq!(resolved(&value, "/DBName"), Some(json!(2)));
        assert_eq!(resolved(&value, "/dBName"), Some(json!(1)));
        assert_eq!(resolved(&json!({ "dbname": 3, "dBName": 1 }), "/DBName"), Some(json!(1)));
        assert_eq!(resolved(&json!({ "dbname": 3 }), "/DBName"), Some(json!(3)));
        assert_eq!(resolved(&value, "/é/x"), Some(json!(4)));
        assert_eq!(resolved(&value, "/nothing"), None);
        assert_eq!(resolved(&value, "/dBName/deeper"), None);
    }

    #[test]
    fn star_collects_from_every_element() {
        let value = json!({ "items": [{ "a": [{ "b": 1 }, { "b": 2 }] }, {}, { "a": [{ "b": 3 }] }] });
        assert_eq!(resolved(&value, "/items/*/a/*/b"), Some(json!([1, 2, 3])));
        assert_eq!(resolved(&value, "/items/0/a/1/b"), Some(json!(2)));
        assert_eq!(resolved(&value, "/items/*/none"), Some(json!([])));
        assert_eq!(resolved(&value, "/*"), None);
    }

    proptest! {
        /// If the keys match exactly, the result is that of RFC 6901.
        #[test]
        fn agrees_with_rfc_6901(keys in prop::collection::vec("[a-zA-Z~/0-9é]{0,4}", 0..5), leaf in any::<i32>()) {
            let pointer = jsonptr::PointerBuf::from_tokens(keys.iter().map(String::as_str));
            let value = keys.iter().rev().fold(json!(leaf), |inner, key| json!({ key.as_str(): inner }));
            let found = resolved(&value, pointer.as_str());
            prop_assert_eq!(found.as_ref(), pointer.resolve(&value).ok());
            prop_assert_eq!(found, Some(json!(leaf)));
        }

        #[test]
        fn never_panics(path in "(/[a-z*~0-9]{0,3}){0,5}", text in "[\\[\\]{}\":,a-z0-9]{0,40}") {
            if let (Ok(path), Ok(value)) = (Path::parse(&path), serde_json::from_str::<Value>(&text)) {
                let arena = Arena::new();
                let _ = path.resolve(Json::copied(&value, &arena), &arena);
            }
        }
    }
}
