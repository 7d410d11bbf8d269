//! JSON values as text.

use std::cell::Cell;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Arena, Json, Parser};

/// A JSON value as text: without white space, members in the order of their keys. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonText(Bytes);

impl JsonText {
    /// `{}`
    #[must_use]
    pub fn empty_object() -> Self {
        Self(Bytes::from_static(b"{}"))
    }

    /// What is known to be the text of a value in this form.
    #[must_use]
    pub(crate) fn trusted(text: Bytes) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // JSON is UTF-8: this can't fail.
        std::str::from_utf8(&self.0).unwrap_or("null")
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The text.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Always false: the shortest value is one digit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Copies the value to one that outlives the arena.
    #[cfg(test)]
    pub(crate) fn to_value(&self) -> Value {
        serde_json::from_slice(&self.0).unwrap()
    }

    /// Parses the value into an arena that may outlive the text.
    #[must_use]
    pub fn value<'a>(&self, arena: &'a Arena) -> Json<'a> {
        Json::stored(&self.0, arena)
    }
}

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Maximum capacity of the buffer that is kept, in bytes: longer texts are rare.
const BUFFER_BYTES: usize = 1 << 20;

/// Returns what a function writes, without spare capacity: it is written to a buffer that each thread keeps, then
/// copied.
pub fn written(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut buffer = BUFFER.take();
    write(&mut buffer);
    let text = Bytes::copy_from_slice(&buffer);
    buffer.clear();
    buffer.shrink_to(BUFFER_BYTES);
    BUFFER.set(buffer);
    text
}

impl<'a> Json<'a> {
    /// Parses what Catchment itself wrote, into an arena that may outlive the text. Returns an empty object if it is
    /// not JSON: it is better that an asset starts over than that the program stops.
    #[must_use]
    pub fn stored(text: &[u8], arena: &'a Arena) -> Self {
        let Ok(text) = std::str::from_utf8(text) else { return Self::EMPTY };
        Parser::trusting(arena).value(arena.alloc_str(text)).unwrap_or(Self::EMPTY)
    }

    /// Appends the value as JSON, as `serde_json` would write it.
    pub fn write(self, text: &mut Vec<u8>) {
        match self {
            Self::Null => text.extend_from_slice(b"null"),
            Self::Bool(flag) => text.extend_from_slice(if flag { b"true" } else { b"false" }),
            Self::Number(number) => write_other(&number, text),
            Self::Text(string) => write_string(string, text),
            Self::Array(elements) => write_array(elements, text, |element, text| element.write(text)),
            Self::Object(members) => {
                text.push(b'{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        text.push(b',');
                    }
                    write_string(key, text);
                    text.push(b':');
                    value.write(text);
                }
                text.push(b'}');
            }
        }
    }

    /// The value as text.
    #[must_use]
    pub fn to_text(self) -> JsonText {
        JsonText(written(|text| self.write(text)))
    }
}

/// Appends a string as JSON. Most contain nothing to escape, which is checked first, many bytes at a time.
pub fn write_string(string: &str, text: &mut Vec<u8>) {
    let is_plain = |byte: &u8| (*byte >= b' ') & (*byte != b'"') & (*byte != b'\\');
    if !string.as_bytes().iter().fold(true, |plain, byte| plain & is_plain(byte)) {
        return write_other(string, text);
    }
    text.reserve(string.len() + 2);
    text.push(b'"');
    text.extend_from_slice(string.as_bytes());
    text.push(b'"');
}

/// Appends an array, with a function that writes an element.
pub fn write_array<T>(elements: &[T], text: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    text.push(b'[');
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        write(element, text);
    }
    text.push(b']');
}

fn write_other(value: &(impl Serialize + ?Sized), text: &mut Vec<u8>) {
    // Strings and numbers written to memory: this can't fail.
    let _ = serde_json::to_writer(text, value);
}

/// Formats the value as JSON.
impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.to_text().as_bytes()))
    }
}

impl From<&Value> for JsonText {
    fn from(value: &Value) -> Self {
        // Keys are strings: this can't fail.
        Self(serde_json::to_vec(value).unwrap_or_default().into())
    }
}

impl From<Value> for JsonText {
    fn from(value: Value) -> Self {
        Self::from(&value)
    }
}

impl fmt::Debug for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_slice::<&RawValue>(&self.0).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

/// Reads what Catchment itself wrote: the text is kept unchanged.
impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(Box::<str>::from(text).into_boxed_bytes().into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_json_is_an_empty_object() {
        let arena = Arena::new();
        for text in [&b"{"[..], b"", b"\xff"] {
            assert_eq!(Json::stored(text, &arena), Json::EMPTY);
        }
    }

    #[test]
    fn what_serde_json_reads_is_read_back_however_deep() {
        let text = format!("{}1{}", "[".repeat(126), "]".repeat(126));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(Json::stored(text.as_bytes(), &Arena::new()).to_value(), value);
    }

    proptest! {
        /// The text is what `serde_json` writes for the same value, and is read back.
        #[test]
        fn is_what_serde_json_writes(keys in prop::collection::vec("[a-z\\PC\"\\\\\n\u{1}\u{7f}]{0,24}", 0..40), number in any::<f64>(), signed in any::<i64>()) {
            let members: serde_json::Map<_, _> = keys.iter().enumerate()
                .map(|(at, key)| (key.clone(), match at % 4 { 0 => json!(number), 1 => json!(signed), 2 => json!({}), _ => json!([key, null, { key: true }, false, []]) }))
                .collect();
            let value = Value::Object(members);
            let arena = Arena::new();
            let text = Json::copied(&value, &arena).to_text();
            prop_assert_eq!(text.as_bytes(), &serde_json::to_vec(&value).unwrap());
            let read: Value = serde_json::from_slice(text.as_bytes()).unwrap();
            prop_assert_eq!(text.value(&arena).to_value(), read);
            let again = serde_json::to_vec(&text).unwrap();
            prop_assert_eq!(text.as_bytes(), &again);
            prop_assert_eq!(serde_json::from_slice::<JsonText>(&again).unwrap(), text);
        }
    }
}
