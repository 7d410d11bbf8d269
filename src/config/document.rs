//! The layers merged into one tree, in which every value has its origin; and a serde deserializer over it, so that
//! every mistake is reported with its full key path and its file and line, or its environment variable.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{self, Deserialize, DeserializeOwned, IntoDeserializer, Visitor};
use toml::Value;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::suggest::did_you_mean;
use super::{Finding, Origin};

/// A value of the merged configuration.
#[derive(Debug)]
pub(super) enum Node {
    /// A section.
    Section(BTreeMap<String, Entry>),
    /// A value from the file.
    Value(Value),
    /// A value from the environment, to be parsed as the type of its key.
    Text(String),
}

/// A node and its origin.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) node: Node,
    pub(super) origin: Origin,
}

/// The merged configuration.
#[derive(Debug, Default)]
pub(super) struct Document(BTreeMap<String, Entry>);

impl Document {
    /// Parses a TOML file.
    ///
    /// # Errors
    /// When the text is not TOML, with place and reason. The line is not quoted, since it may contain a secret.
    pub(super) fn parse(name: &Arc<str>, text: &str) -> Result<Self, Finding> {
        let file = FileText { name, text };
        let broken = |error: &toml::de::Error| {
            let line = file.line(error.span().map_or(0, |span| span.start));
            Finding::error("", Some(Origin::File { name: Arc::clone(name), line }), error.message().trim_end())
        };
        let table = DeTable::parse(text).map_err(|error| broken(&error))?.into_inner();
        file.section(table).map(Self).map_err(|error| broken(&error))
    }

    /// Overrides a value with one from the environment. `path` is the key's path from the root.
    ///
    /// # Errors
    /// When the path leads through a value that is not a section.
    pub(super) fn overlay(&mut self, path: &[String], variable: &str, value: String) -> Result<(), Finding> {
        let origin = Origin::Environment(variable.to_owned());
        let Some((last, parents)) = path.split_last() else { return Ok(()) };
        let mut section = &mut self.0;
        for (depth, name) in parents.iter().enumerate() {
            let entry = section
                .entry(name.clone())
                .or_insert_with(|| Entry { node: Node::Section(BTreeMap::new()), origin: origin.clone() });
            let Node::Section(inner) = &mut entry.node else {
                let key = path.iter().take(depth + 1).map(String::as_str).collect::<Vec<_>>().join(".");
                return Err(Finding::error(&key, Some(origin), "is a value, not a section"));
            };
            section = inner;
        }
        section.insert(last.clone(), Entry { node: Node::Text(value), origin });
        Ok(())
    }

    /// The origin of every key, by dotted path.
    pub(super) fn origins(&self) -> BTreeMap<String, Origin> {
        fn collect(section: &BTreeMap<String, Entry>, prefix: &str, origins: &mut BTreeMap<String, Origin>) {
            for (name, entry) in section {
                let path = join(prefix, name);
                if let Node::Section(inner) = &entry.node {
                    collect(inner, &path, origins);
                }
                origins.insert(path, entry.origin.clone());
            }
        }
        let mut origins = BTreeMap::new();
        collect(&self.0, "", &mut origins);
        origins
    }

    /// Deserializes the tree.
    ///
    /// # Errors
    /// Every unknown key, and the first invalid value.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Vec<Finding>> {
        let report = Report::default();
        let place = Place { path: String::new(), origin: None, report: &report };
        let outcome = T::deserialize(Reader { input: Input::Section(&self.0), place });
        let mut findings = report.findings.into_inner();
        match outcome {
            Ok(value) if findings.is_empty() => Ok(value),
            Ok(_) => Err(findings),
            Err(problem) => {
                findings.push(problem.finding);
                Err(findings)
            }
        }
    }

    /// Every key that `T` has under this tree, by dotted path. For the test that the default file lists them all.
    #[cfg(test)]
    pub(super) fn known_keys<T: DeserializeOwned>(&self) -> Vec<String> {
        let report = Report::default();
        let place = Place { path: String::new(), origin: None, report: &report };
        let _ = T::deserialize(Reader { input: Input::Section(&self.0), place });
        report.keys.into_inner()
    }
}

/// A file's text and name, to convert its tables to sections.
struct FileText<'a> {
    name: &'a Arc<str>,
    text: &'a str,
}

impl FileText<'_> {
    /// The line of a byte offset, from 1.
    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    fn section(&self, table: DeTable<'_>) -> Result<BTreeMap<String, Entry>, toml::de::Error> {
        let mut section = BTreeMap::new();
        for (key, value) in table {
            let line = self.line(key.span().start);
            let span = value.span();
            let node = match value.into_inner() {
                DeValue::Table(inner) => Node::Section(self.section(inner)?),
                leaf => Node::Value(Value::deserialize(ValueDeserializer::from(toml::Spanned::new(span, leaf)))?),
            };
            let origin = Origin::File { name: Arc::clone(self.name), line };
            section.insert(key.into_inner().into_owned(), Entry { node, origin });
        }
        Ok(section)
    }
}

fn join(prefix: &str, name: &str) -> String {
    // A name that TOML would quote is quoted here too, so that the path can be read back.
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let name = if bare { name.to_owned() } else { format!("{name:?}") };
    if prefix.is_empty() { name } else { format!("{prefix}.{name}") }
}

/// Collects the mistakes found while a tree is deserialized.
#[derive(Default)]
struct Report {
    findings: RefCell<Vec<Finding>>,
    #[cfg(test)]
    keys: RefCell<Vec<String>>,
}

/// A serde error to which a place can be added.
#[derive(Debug)]
struct Problem {
    finding: Finding,
    placed: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.finding.fmt(f)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { finding: Finding::error("", None, &message.to_string()), placed: false }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("key {field} is missing"))
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {found}"))
    }
}

/// The reader's place in the tree.
#[derive(Clone)]
struct Place<'a> {
    path: String,
    origin: Option<&'a Origin>,
    report: &'a Report,
}

impl Place<'_> {
    /// Adds the place to an error, unless it has a deeper one already.
    fn blame(&self, problem: Problem) -> Problem {
        if problem.placed {
            return problem;
        }
        Problem { finding: Finding::error(&self.path, self.origin.cloned(), &problem.finding.message), placed: true }
    }
}

enum Input<'a> {
    Section(&'a BTreeMap<String, Entry>),
    Value(&'a Value),
    Text(&'a str),
}

/// Deserializes one node.
struct Reader<'a> {
    input: Input<'a>,
    place: Place<'a>,
}

impl<'a> Reader<'a> {
    fn child(section: &'a BTreeMap<String, Entry>, place: &Place<'a>, name: &'a str) -> Option<(&'a str, Self)> {
        let entry = section.get(name)?;
        let input = match &entry.node {
            Node::Section(inner) => Input::Section(inner),
            Node::Value(value) => Input::Value(value),
            Node::Text(text) => Input::Text(text),
        };
        let place = Place { path: join(&place.path, name), origin: Some(&entry.origin), report: place.report };
        Some((name, Reader { input, place }))
    }

    fn children(section: &'a BTreeMap<String, Entry>, place: &Place<'a>) -> Vec<(&'a str, Self)> {
        section.keys().filter_map(|name| Self::child(section, place, name)).collect()
    }

    /// The entries of a section, one by one.
    fn entries(section: &'a BTreeMap<String, Entry>, place: &Place<'a>) -> Entries<'a> {
        Entries { left: Self::children(section, place).into_iter(), value: None }
    }
}

/// The entries of a section, each with its place.
struct Entries<'a> {
    left: std::vec::IntoIter<(&'a str, Reader<'a>)>,
    value: Option<Reader<'a>>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Problem;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        let Some((name, value)) = self.left.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(name.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let value = self.value.take().ok_or_else(|| de::Error::custom("a value was asked for before its key"))?;
        // Here rather than in the reader: a type may refuse what the reader gave it.
        let place = value.place.clone();
        seed.deserialize(value).map_err(|problem| place.blame(problem))
    }
}

/// A value from the file is read by its own type; a text from the environment by the type of its key.
macro_rules! read_scalar {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            match self.input {
                Input::Text(text) => match ValueDeserializer::parse(text).and_then(Value::deserialize) {
                    Ok(value) => from_value(value, visitor),
                    Err(_) => visitor.visit_str(text),
                },
                Input::Value(value) => from_value(value.clone(), visitor),
                Input::Section(section) => visitor.visit_map(Self::entries(section, &self.place)),
            }
        }
    )*};
}

fn from_value<'de, V: Visitor<'de>>(value: Value, visitor: V) -> Result<V::Value, Problem> {
    match value {
        Value::String(text) => visitor.visit_string(text),
        Value::Integer(number) => visitor.visit_i64(number),
        Value::Float(number) => visitor.visit_f64(number),
        Value::Boolean(boolean) => visitor.visit_bool(boolean),
        Value::Datetime(time) => visitor.visit_string(time.to_string()),
        Value::Array(items) => visitor.visit_seq(de::value::SeqDeserializer::new(items.into_iter().map(Item))),
        Value::Table(table) => {
            visitor.visit_map(MapDeserializer::new(table.into_iter().map(|(name, value)| (name, Item(value)))))
        }
    }
}

/// An element of an array; its mistakes are reported at the array's key.
struct Item(Value);

impl<'de> IntoDeserializer<'de, Problem> for Item {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> de::Deserializer<'de> for Item {
    type Error = Problem;
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        from_value(self.0, visitor)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = Problem;

    read_scalar! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64 deserialize_seq
        deserialize_map deserialize_unit deserialize_bytes deserialize_byte_buf
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.input {
            Input::Text(text) => visitor.visit_str(text),
            Input::Value(_) | Input::Section(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    /// Reports every key that the struct does not have, and reads on without it, so that one run names them all.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        #[cfg(test)]
        self.place.report.keys.borrow_mut().extend(fields.iter().map(|field| join(&self.place.path, field)));
        let Input::Section(section) = self.input else {
            return Err(de::Error::custom(format_args!("is a section, [{}], not a value", self.place.path)));
        };
        let (known, unknown): (Vec<_>, Vec<_>) =
            Self::children(section, &self.place).into_iter().partition(|(name, _)| fields.contains(name));
        for (name, reader) in unknown {
            let message = format!("unknown key{}; known keys are {}", did_you_mean(name, fields), fields.join(", "));
            let finding = Finding::error(&reader.place.path, reader.place.origin.cloned(), &message);
            self.place.report.findings.borrow_mut().push(finding);
        }
        let entries = Entries { left: known.into_iter(), value: None };
        visitor.visit_map(entries)
    }

    /// An enum is a section with the kind as its only key: `[sources.trail.file]`.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let Input::Section(section) = self.input else {
            let message = format!("is a section with a kind, such as [{}.{}]", self.place.path, variants.join("|"));
            return Err(de::Error::custom(message));
        };
        let kinds: Vec<&str> = section.keys().map(String::as_str).collect();
        let problem = match kinds.as_slice() {
            [] => format!("has no kind; give it one of {}", variants.join(", ")),
            [kind] if variants.contains(kind) => {
                let access = MapAccessDeserializer::new(Self::entries(section, &self.place));
                return access.deserialize_enum(name, variants, visitor);
            }
            [kind] => {
                format!("unknown kind {kind}{}; known kinds are {}", did_you_mean(kind, variants), variants.join(", "))
            }
            several => format!("has {} kinds ({}); exactly one is possible", several.len(), several.join(", ")),
        };
        // The key that is wrong is the kind, where there is one.
        let place = match kinds.as_slice() {
            [kind] => Self::child(section, &self.place, kind).map_or(self.place, |(_, reader)| reader.place),
            _ => self.place,
        };
        Err(place.blame(de::Error::custom(problem)))
    }

    serde::forward_to_deserialize_any! { i128 u128 char unit_struct tuple tuple_struct identifier ignored_any }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_can_be_read_back() {
        assert_eq!(join("sources", "a.b"), r#"sources."a.b""#);
        assert_eq!(join("sources", ""), r#"sources."""#);
        assert_eq!(join("", "http"), "http");
    }

    #[test]
    fn text_from_the_environment_is_read_by_what_the_key_takes() {
        #[derive(serde::Deserialize, Debug, PartialEq)]
        struct Sample {
            number: u16,
            text: String,
            list: Vec<String>,
            flag: Option<bool>,
            fraction: f64,
        }
        let mut document = Document::default();
        for (key, value) in
            [("number", "80"), ("text", "80"), ("list", r#"["a", "b"]"#), ("flag", "true"), ("fraction", "2")]
        {
            document.overlay(&[key.to_owned()], "X", value.to_owned()).unwrap();
        }
        let expected = Sample {
            number: 80,
            text: "80".to_owned(),
            list: vec!["a".to_owned(), "b".to_owned()],
            flag: Some(true),
            fraction: 2.0,
        };
        assert_eq!(document.read::<Sample>().unwrap(), expected);
        document.overlay(&["number".to_owned()], "X", "80\ntext = 1".to_owned()).unwrap();
        assert_eq!(
            document.read::<Sample>().unwrap_err().first().map(ToString::to_string).as_deref(),
            Some(r#"environment variable X: number: expected u16, found string "80\ntext = 1""#)
        );
    }
}
