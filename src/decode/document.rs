//! Documents with items: one JSON text or several, each a list, an object with lists, or a single item.
//!
//! A document is read twice. The first pass determines its shape and the members beside its lists, and checks that all
//! of it is JSON, so that a broken file is refused before anything is imported. The second pass returns the items one
//! by one. Memory is bounded by the longest item, and by a few bytes for each text in the input.

use std::fmt;
use std::io::{self, BufReader, Read};

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::gzip::Input;

/// Maximum length in bytes of a string member that is kept.
const MAX_SCALAR: usize = 4 << 10;

/// The shape of one JSON text in an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outline {
    /// A single item, which contains its own name.
    Item,
    /// A list of items.
    List,
    /// An object whose lists and objects are items, with its other members.
    Container(Map<String, Value>),
}

/// An item and its place in the document.
#[derive(Clone, Debug)]
pub struct Item<'o> {
    /// The member of the document that is the item, or the list that contains it; empty for a single item or a
    /// top-level list.
    pub member: &'o str,
    /// The other members of the document.
    pub members: Option<&'o Map<String, Value>>,
    /// Its text.
    pub bytes: Bytes,
}

/// An error when an input is read as documents.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Reading failed, or the compression is broken.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// The input is not JSON, or neither an object nor a list.
    #[error("not a JSON document: {0}")]
    NotJson(serde_json::Error),
}

impl From<serde_json::Error> for DocumentError {
    fn from(error: serde_json::Error) -> Self {
        if error.is_io() { Self::Unreadable(error.into()) } else { Self::NotJson(error) }
    }
}

/// Determines the shape of each text in an input, and checks that all of it is JSON. Gzip is recognised by its magic;
/// for `max_expansion` see [`Compression::Gzip`](super::Compression::Gzip).
///
/// # Errors
/// When the input can't be read, or is not a document.
pub fn outline(reader: impl Read, max_expansion: u32) -> Result<Vec<Outline>, DocumentError> {
    let input = BufReader::new(without_mark(Input::detect(reader, max_expansion)?)?);
    let mut texts = serde_json::Deserializer::from_reader(input);
    let mut outlines = Vec::new();
    while !at_end(&mut texts)? {
        outlines.push(OutlineVisitor.deserialize(&mut texts)?);
    }
    Ok(outlines)
}

/// Passes the items of an input to `take`, until it fails. `outlines` are those of the same input.
///
/// # Errors
/// When the input can't be read, or has changed since; and errors of `take`.
pub fn items<E: From<DocumentError>>(
    reader: impl Read,
    max_expansion: u32,
    outlines: &[Outline],
    take: &mut dyn FnMut(Item<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let input = Input::detect(reader, max_expansion).and_then(without_mark);
    let input = input.map_err(|error| E::from(error.into()))?;
    let mut texts = serde_json::Deserializer::from_reader(BufReader::new(input));
    for outline in outlines {
        let mut failed = None;
        let mut give = |member: &str, text: Box<RawValue>| {
            let members = if let Outline::Container(members) = outline { Some(members) } else { None };
            let bytes = String::from(Box::<str>::from(text)).into();
            take(Item { member, members, bytes }).map_err(|error| failed = Some(error)).is_ok()
        };
        let read = Items { outline, give: &mut give }.deserialize(&mut texts);
        if let Some(error) = failed {
            return Err(error);
        }
        read.map_err(|error| E::from(error.into()))?;
    }
    Ok(())
}

/// Skips a byte order mark, which is not JSON.
fn without_mark<R: Read>(mut input: R) -> io::Result<impl Read> {
    let mut start = Vec::with_capacity(3);
    input.by_ref().take(3).read_to_end(&mut start)?;
    if start == [0xef, 0xbb, 0xbf] {
        start.clear();
    }
    Ok(io::Cursor::new(start).chain(input))
}

type Texts<R> = serde_json::Deserializer<serde_json::de::IoRead<R>>;

fn at_end<R: Read>(texts: &mut Texts<R>) -> Result<bool, serde_json::Error> {
    // `end` fails on the first byte of a further text, without consuming it.
    match texts.end() {
        Ok(()) => Ok(true),
        Err(error) if error.is_io() => Err(error),
        Err(_) => Ok(false),
    }
}

/// Whether a member identifies an item: a text with one of these at the top level is a single item.
fn names_itself(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    lower.ends_with("arn") || ["id", "resourceid", "resourcetype", "specversion"].contains(&lower.as_str())
}

#[derive(Clone, Copy)]
struct OutlineVisitor;

impl<'de> DeserializeSeed<'de> for OutlineVisitor {
    type Value = Outline;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Outline::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut told: A) -> Result<Self::Value, A::Error> {
        let (mut members, mut is_item) = (Map::new(), false);
        while let Some(key) = told.next_key::<String>()? {
            if let Some(value) = told.next_value_seed(Scalar)? {
                is_item |= names_itself(&key) || value.as_str().is_some_and(|text| text.starts_with("asset://"));
                members.insert(key, value);
            }
        }
        Ok(if is_item { Outline::Item } else { Outline::Container(members) })
    }
}

/// Reads a short value that is neither list nor object; skips all others.
struct Scalar;

impl<'de> DeserializeSeed<'de> for Scalar {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scalar {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok((value.len() <= MAX_SCALAR).then(|| value.into()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

type Give<'g> = &'g mut dyn FnMut(&str, Box<RawValue>) -> bool;

/// Passes on the items of one text.
struct Items<'g> {
    outline: &'g Outline,
    give: Give<'g>,
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.outline {
            Outline::Item => {
                let text: Box<RawValue> = serde::Deserialize::deserialize(deserializer)?;
                stop_unless((self.give)("", text))
            }
            Outline::List => Elements { member: "", give: self.give }.deserialize(deserializer),
            Outline::Container(_) => deserializer.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the object that was there before")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut told: A) -> Result<(), A::Error> {
        while let Some(member) = told.next_key::<String>()? {
            told.next_value_seed(Elements { member: &member, give: self.give })?;
        }
        Ok(())
    }
}

/// Passes on the elements of a list, or an object; skips other values.
struct Elements<'g> {
    member: &'g str,
    give: Give<'g>,
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<Box<RawValue>>()? {
            stop_unless((self.give)(self.member, element))?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut object = Map::new();
        while let Some((key, value)) = members.next_entry::<String, Value>()? {
            object.insert(key, value);
        }
        // The object was parsed to get here; its text is written anew, without white space.
        let text = serde_json::value::to_raw_value(&object).map_err(serde::de::Error::custom)?;
        stop_unless((self.give)(self.member, text))
    }
}

fn stop_unless<E: serde::de::Error>(taken: bool) -> Result<(), E> {
    if taken { Ok(()) } else { Err(E::custom("stopped by who takes the items")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Vec<(String, Value)>, DocumentError> {
        let outlines = outline(text.as_bytes(), 10)?;
        let mut found = Vec::new();
        items(text.as_bytes(), 10, &outlines, &mut |item| -> Result<(), DocumentError> {
            found.push((item.member.to_owned(), serde_json::from_slice(&item.bytes)?));
            Ok(())
        })?;
        Ok(found)
    }

    fn one(member: &str, value: Value) -> (String, Value) {
        (member.to_owned(), value)
    }

    #[test]
    fn every_kind_of_document_is_cut_into_its_items() {
        let two = vec![one("Vpcs", json!({ "VpcId": "a" })), one("Vpcs", json!({ "VpcId": "b" }))];
        assert_eq!(read(r#"{"Vpcs":[{"VpcId":"a"},{"VpcId":"b"}],"NextToken":"t"}"#).unwrap(), two);
        assert_eq!(read("\u{feff}[{\"id\":1},2]").unwrap(), [one("", json!({ "id": 1 })), one("", json!(2))]);
        let role = json!({ "Role": { "RoleName": "x", "Path": "/" } });
        assert_eq!(read(&role.to_string()).unwrap(), [one("Role", role["Role"].clone())]);
        let lines = "{\"name\":\"asset://a/b/c/d\"}\n\n{\"id\":\"2\",\"list\":[{}]}\n";
        assert_eq!(
            read(lines).unwrap(),
            [one("", json!({ "name": "asset://a/b/c/d" })), one("", json!({ "id": "2", "list": [{}] }))]
        );
        assert_eq!(read("").unwrap(), []);
        for alone in
            [r#"{"FunctionArn":"arn:a","Layers":[{"Arn":"x"}]}"#, r#"{"resourceType":"t","relationships":[{}]}"#]
        {
            assert_eq!(read(alone).unwrap(), [one("", serde_json::from_str(alone).unwrap())]);
        }
    }

    #[test]
    fn what_stands_beside_a_list_is_told_wherever_it_stands() {
        let outlines = outline(r#"{"value":[{}],"@odata.context":"c","n":1,"o":{"p":1}}"#.as_bytes(), 10).unwrap();
        let beside = json!({ "@odata.context": "c", "n": 1 });
        assert_eq!(outlines, [Outline::Container(beside.as_object().unwrap().clone())]);
    }

    #[test]
    fn a_file_that_is_cut_off_gives_nothing() {
        let whole = r#"{"Vpcs":[{"VpcId":"a"},{"VpcId":"b"}]}"#;
        for end in 1..whole.len() {
            assert!(outline(&whole.as_bytes()[..end], 10).is_err(), "{}", &whole[..end]);
        }
        assert!(matches!(outline("3".as_bytes(), 10), Err(DocumentError::NotJson(_))));
    }

    #[test]
    fn who_takes_the_items_may_stop() {
        let text = "[1,2,3]";
        let outlines = outline(text.as_bytes(), 10).unwrap();
        let mut taken = 0;
        let stopped = items(text.as_bytes(), 10, &outlines, &mut |_| {
            taken += 1;
            if taken == 2 { Err(io::Error::other("enough").into()) } else { Ok(()) }
        });
        assert!(matches!(stopped, Err(DocumentError::Unreadable(_))));
        assert_eq!(taken, 2);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]{}\":,a-zA-Z0-9 \n]{0,80}") {
            let _ = read(&text);
        }
    }
}
