//! Sources: where a rule finds a value in a record, or in the current element of `each`.

use std::fmt;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;

use super::pointer::Path;
use super::transform::Transform;
use crate::json::{Arena, Json};

/// A record as rules see it: the provider's own members, or a view composed of them.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) root: Json<'a>,
    /// The provider left out a part because of its size.
    pub(super) is_cut: bool,
    /// Holds the values that rules derive from the record.
    pub(super) arena: &'a Arena,
}

impl<'a> Facts<'a> {
    /// The scope without a current element.
    pub(super) fn scope(self) -> Scope<'a> {
        Scope { record: self, element: None }
    }
}

/// What sources are resolved in: the record and the current element.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) record: Facts<'a>,
    /// The current element of `each`, `@` in sources.
    pub(super) element: Option<Json<'a>>,
}

impl<'a> Scope<'a> {
    /// The same record with another current element.
    pub(super) fn with(self, element: Json<'a>) -> Self {
        Self { element: Some(element), ..self }
    }
}

/// Alternative sources; the first that finds something wins.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources(Box<[Source]>);

#[derive(Clone, Debug)]
struct Source {
    from: From,
    transforms: Box<[Transform]>,
}

#[derive(Clone, Debug)]
enum From {
    Record(Path),
    Element(Path),
    Text(Box<str>),
}

/// An error in the text of a source.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExpressionError {
    #[error(
        "{text:?} is not a JSON Pointer: {cause}; a source is a pointer such as /requestParameters/groupId, @/id, or =text"
    )]
    Pointer { text: String, cause: String },
    #[error("unknown transform {name:?}; docs/RULES.md lists them")]
    Transform { name: String },
    #[error("no source given")]
    Empty,
}

impl Sources {
    pub(super) fn parse(texts: &[String]) -> Result<Self, ExpressionError> {
        if texts.is_empty() {
            return Err(ExpressionError::Empty);
        }
        Ok(Self(texts.iter().map(|text| Source::parse(text)).collect::<Result<_, _>>()?))
    }

    /// Each alternative as written in the rule, with what it resolves to.
    pub(super) fn alternatives<'a>(&'a self, scope: Scope<'a>) -> Vec<(String, Option<Json<'a>>)> {
        self.0.iter().map(|source| (source.to_string(), source.resolved(scope))).collect()
    }

    /// Whether an alternative refers to the current element.
    pub(super) fn is_of_element(&self) -> bool {
        self.0.iter().any(|source| matches!(source.from, From::Element(_)))
    }

    /// The value of the first alternative that resolves to something other than null, possibly an empty string.
    pub(super) fn stated<'a>(&'a self, scope: Scope<'a>) -> Option<Json<'a>> {
        self.0.iter().find_map(|source| source.resolved(scope))
    }

    /// The value of the first alternative that resolves to something other than null or an empty string.
    pub(super) fn value<'a>(&'a self, scope: Scope<'a>) -> Option<Json<'a>> {
        self.0.iter().find_map(|source| source.value(scope))
    }

    /// The same as text; of an array, its first element.
    pub(super) fn text<'a>(&'a self, scope: Scope<'a>) -> Option<&'a str> {
        let text = |source: &'a Source| {
            let scalar = match source.value(scope)? {
                Json::Array(elements) => *elements.first()?,
                value => value,
            };
            scalar.scalar_text(scope.record.arena).filter(|text| !text.is_empty())
        };
        self.0.iter().find_map(text)
    }

    /// The same as texts: those of an array's elements, or a single one.
    pub(super) fn texts<'a>(&'a self, scope: Scope<'a>) -> Vec<&'a str> {
        let texts = |source: &'a Source| {
            let value = source.value(scope)?;
            let values = value.as_array().unwrap_or(std::slice::from_ref(&value));
            let texts = values.iter().filter_map(|value| value.scalar_text(scope.record.arena));
            let texts: Vec<_> = texts.filter(|text| !text.is_empty()).collect();
            (!texts.is_empty()).then_some(texts)
        };
        self.0.iter().find_map(texts).unwrap_or_default()
    }

    /// The same as elements: those of an array, or any other value as the only one.
    pub(super) fn elements<'a>(&'a self, scope: Scope<'a>) -> &'a [Json<'a>] {
        match self.value(scope) {
            Some(Json::Array(elements)) => elements,
            Some(value) => std::slice::from_ref(scope.record.arena.alloc(value)),
            None => &[],
        }
    }
}

/// Formats a source as written in a rule.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            From::Record(path) => write!(f, "{path}")?,
            From::Element(path) => write!(f, "@{path}")?,
            From::Text(text) => write!(f, "={text}")?,
        }
        self.transforms.iter().try_for_each(|transform| {
            let name = serde_json::to_value(transform).unwrap_or_default();
            write!(f, " | {}", name.as_str().unwrap_or_default())
        })
    }
}

impl Source {
    fn parse(text: &str) -> Result<Self, ExpressionError> {
        let mut parts = text.split(" | ");
        let pointer = parts.next().unwrap_or_default().trim();
        let path = |pointer: &str| {
            Path::parse(pointer)
                .map_err(|error| ExpressionError::Pointer { text: text.to_owned(), cause: error.to_string() })
        };
        let from = if let Some(literal) = pointer.strip_prefix('=') {
            From::Text(literal.into())
        } else if let Some(pointer) = pointer.strip_prefix('@') {
            From::Element(path(pointer)?)
        } else {
            From::Record(path(pointer)?)
        };
        let transforms = parts.map(|name| {
            let name = name.trim();
            let deserializer: serde::de::value::StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
            Transform::deserialize(deserializer).map_err(|_| ExpressionError::Transform { name: name.to_owned() })
        });
        Ok(Self { from, transforms: transforms.collect::<Result<_, _>>()? })
    }

    fn value<'a>(&'a self, scope: Scope<'a>) -> Option<Json<'a>> {
        self.resolved(scope).filter(|value| value.as_str() != Some(""))
    }

    fn resolved<'a>(&'a self, scope: Scope<'a>) -> Option<Json<'a>> {
        let arena = scope.record.arena;
        let mut value = match &self.from {
            From::Record(path) => path.resolve(scope.record.root, arena)?,
            From::Element(path) => path.resolve(scope.element?, arena)?,
            From::Text(text) => Json::Text(text),
        };
        for transform in &self.transforms {
            if value.is_null() {
                return None;
            }
            value = transform.apply(value, arena)?;
        }
        (!value.is_null()).then_some(value)
    }
}
