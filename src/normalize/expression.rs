//! Sources: where in a record, or in the element at hand, a rule finds a value.

use std::borrow::Cow;

use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde_json::Value;

use super::pointer::Path;
use super::transform::{Transform, scalar_text};

/// A record, as rules see it: a provider's own members, or a view composed of them.
pub(super) trait Facts {
    /// What a pointer leads to.
    fn resolve(&self, path: &Path) -> Option<Cow<'_, Value>>;

    /// The provider left out a part for its size.
    fn is_cut(&self) -> bool {
        false
    }
}

/// What sources are looked up in.
#[derive(Clone, Copy)]
pub(super) struct Scope<'r> {
    pub(super) record: &'r dyn Facts,
    /// `@`.
    pub(super) element: Option<&'r Value>,
}

/// Alternatives; the first that gives something wins.
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
    Text(Value),
}

/// Why a source can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExpressionError {
    #[error(
        "{text:?} is no JSON Pointer: {cause}; a source is a pointer such as /requestParameters/groupId, @/id, or =text"
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

    /// It looks into the element at hand.
    pub(super) fn is_of_element(&self) -> bool {
        self.0.iter().any(|source| matches!(source.from, From::Element(_)))
    }

    /// The value of the first alternative that resolves to something other than null, an empty text included.
    pub(super) fn stated<'r>(&self, scope: Scope<'r>) -> Option<Cow<'r, Value>> {
        self.0.iter().find_map(|source| source.resolved(scope))
    }

    /// The value of the first alternative that resolves to something other than null or an empty text.
    pub(super) fn value<'r>(&self, scope: Scope<'r>) -> Option<Cow<'r, Value>> {
        self.0.iter().find_map(|source| source.value(scope))
    }

    /// The same, as text; of an array, the first element.
    pub(super) fn text(&self, scope: Scope<'_>) -> Option<String> {
        let text = |source: &Source| {
            let value = source.value(scope)?;
            let scalar = match value.as_ref() {
                Value::Array(elements) => elements.first()?,
                value => value,
            };
            scalar_text(scalar).filter(|text| !text.is_empty()).map(Cow::into_owned)
        };
        self.0.iter().find_map(text)
    }

    /// The same, as elements: an array's own, anything else alone.
    pub(super) fn elements<'r>(&self, scope: Scope<'r>) -> Vec<Cow<'r, Value>> {
        match self.value(scope) {
            Some(Cow::Borrowed(Value::Array(elements))) => elements.iter().map(Cow::Borrowed).collect(),
            Some(Cow::Owned(Value::Array(elements))) => elements.into_iter().map(Cow::Owned).collect(),
            Some(value) => vec![value],
            None => Vec::new(),
        }
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
            From::Text(Value::String(literal.to_owned()))
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

    fn value<'r>(&self, scope: Scope<'r>) -> Option<Cow<'r, Value>> {
        self.resolved(scope).filter(|value| value.as_str() != Some(""))
    }

    fn resolved<'r>(&self, scope: Scope<'r>) -> Option<Cow<'r, Value>> {
        let mut value = match &self.from {
            From::Record(path) => scope.record.resolve(path)?,
            From::Element(path) => path.as_slice().resolve(scope.element?)?,
            From::Text(text) => Cow::Owned(text.clone()),
        };
        for transform in &self.transforms {
            if value.is_null() {
                return None;
            }
            value = Cow::Owned(transform.apply(value)?);
        }
        (!value.is_null()).then_some(value)
    }
}
