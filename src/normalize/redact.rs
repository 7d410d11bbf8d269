//! What leaves the normalizer carries no credentials: values are replaced in the record's own text, before anything
//! is taken out of it.
//!
//! Two things say what is a secret: the names of members (`sessionToken`, `userData`, … at any depth, also inside JSON that
//! is written as a string), and the pointers of a rule's `redact`. The same pass brings the record onto one line and
//! refuses what would break those who read it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use aho_corasick::AhoCorasick;
use memchr::memchr2;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::json::{Json, MAX_DEPTH};
use super::keys::Keys;
use super::pointer::Path;

/// What stands in the place of a secret.
pub(super) const REDACTED: &str = "\"[redacted]\"";

/// JSON in a string in JSON in a string: followed so far.
const MAX_NESTED_TEXTS: usize = 3;

/// Why a record's text can't be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnfitText {
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("a lone surrogate (\\ud800 to \\udfff without its other half) at byte {at}")]
    LoneSurrogate { at: usize },
}

/// The names of members whose values are secrets.
#[derive(Clone, Debug, Default)]
pub(super) struct SecretNames {
    /// In lower case.
    names: Keys<()>,
    /// Finds the names within a text. `None` where there are none.
    anywhere: Option<AhoCorasick>,
}

impl SecretNames {
    pub(super) fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let names: Keys<()> = names.into_iter().map(|name| (name.to_ascii_lowercase(), ())).collect();
        let anywhere = AhoCorasick::builder().ascii_case_insensitive(true).build(names.names());
        Self { anywhere: anywhere.ok().filter(|names| names.patterns_len() > 0), names }
    }

    /// A member of this name is a secret.
    pub(super) fn contains(&self, name: &str) -> bool {
        if !self.names.may_have(name) {
            return false;
        }
        // Lower-casing on the stack: nearly all names are short and none of these is long.
        let mut buffer = [0_u8; 48];
        let Some(lower) = buffer.get_mut(..name.len()) else { return false };
        lower.copy_from_slice(name.as_bytes());
        lower.make_ascii_lowercase();
        std::str::from_utf8(lower).is_ok_and(|lower| self.names.get(lower).is_some())
    }

    /// Whether a text is JSON, as far as a glance tells, in which [`sanitize`] may find something.
    pub(super) fn may_be_in_json(&self, text: &str) -> bool {
        if !text.trim_start().starts_with(['{', '[']) {
            return false;
        }
        let named = self.anywhere.as_ref().is_some_and(|names| names.is_match(text));
        // Names may be written in escapes, and what is too deep is not passed on.
        let deep = || text.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count() > MAX_DEPTH;
        named || memchr::memmem::find(text.as_bytes(), b"\\u").is_some() || deep()
    }
}

/// No line breaks, but for those at the ends.
pub(super) fn is_on_one_line(text: &str) -> bool {
    memchr2(b'\n', b'\r', text.trim().as_bytes()).is_none()
}

/// The text on one line, without secrets. Borrowed when nothing had to change.
///
/// `text` is JSON that a parser has accepted.
pub(super) fn sanitize<'t>(text: &'t str, names: &SecretNames, paths: &[&Path]) -> Result<Cow<'t, str>, UnfitText> {
    let mut text = Cow::Borrowed(text);
    for path in paths {
        let tokens: Vec<_> = path.tokens().collect();
        if let Some(redacted) = redact_path(&text, &tokens, 0) {
            text = Cow::Owned(redacted);
        }
    }
    let edits = Scan { text: &text, at: 0, names, edits: Vec::new(), nested: 0, lenient: false }.run()?;
    Ok(if edits.is_empty() { text } else { Cow::Owned(replace(&text, edits)) })
}

/// The same for a text that could not be understood, as far as its tokens go: members with secret names lose their
/// values, nothing else is touched. `None` when nothing had to change.
pub(super) fn redact_unparsed(text: &str, names: &SecretNames) -> Option<String> {
    let edits = Scan { text, at: 0, names, edits: Vec::new(), nested: 0, lenient: true }.run().ok()?;
    let edits: Vec<_> = edits.into_iter().filter(|(_, with)| !with.is_empty()).collect();
    (!edits.is_empty()).then(|| replace(text, edits))
}

type Edit<'t> = (Range<usize>, Cow<'t, str>);

fn replace(text: &str, edits: Vec<Edit<'_>>) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut from = 0;
    for (span, with) in edits {
        replaced.push_str(text.get(from..span.start).unwrap_or_default());
        replaced.push_str(&with);
        from = span.end;
    }
    replaced.push_str(text.get(from..).unwrap_or_default());
    replaced
}

/// Whether [`sanitize`] finds something in a record by a rule's pointer: so few records have it that looking first pays.
pub(super) fn leads_to_secret(path: &Path, record: Json<'_>) -> bool {
    let tokens: Vec<_> = path.tokens().collect();
    leads(&tokens, record)
}

fn leads(tokens: &[&str], value: Json<'_>) -> bool {
    let Some((token, rest)) = tokens.split_first() else {
        return !matches!(value, Json::Null | Json::Bool(_));
    };
    match value {
        Json::Object(members) => {
            let mut fitting = members.iter().filter(|(key, _)| *token == "*" || key.eq_ignore_ascii_case(token));
            fitting.any(|(_, value)| leads(rest, value))
        }
        Json::Array(elements) => {
            let index = token.parse::<usize>().ok();
            let mut elements = elements.iter().enumerate();
            elements.any(|(at, value)| (*token == "*" || index == Some(at)) && leads(rest, *value))
        }
        // It may hold JSON, into which pointers lead.
        Json::Text(_) => true,
        _ => false,
    }
}

/// The text without what a pointer leads to. `None` when nothing had to change.
fn redact_path(text: &str, tokens: &[&str], nested: usize) -> Option<String> {
    let root = serde_json::from_str::<&RawValue>(text).ok()?;
    let mut edits = Vec::new();
    find_edits(text, root, tokens, nested, &mut edits);
    (!edits.is_empty()).then(|| replace(text, edits))
}

/// The edits of what a pointer leads to, in order. Null and booleans are no secrets.
fn find_edits<'t>(text: &'t str, value: &'t RawValue, tokens: &[&str], nested: usize, edits: &mut Vec<Edit<'t>>) {
    let raw = value.get();
    // `raw` is a part of `text`.
    let start = raw.as_ptr() as usize - text.as_ptr() as usize;
    let span = start..start + raw.len();
    let Some((token, rest)) = tokens.split_first() else {
        if !matches!(raw.as_bytes().first(), None | Some(b'n' | b't' | b'f')) && raw != REDACTED {
            edits.push((span, Cow::Borrowed(REDACTED)));
        }
        return;
    };
    match raw.as_bytes().first() {
        Some(b'{') => {
            let Ok(Entries(entries)) = serde_json::from_str(raw) else { return };
            for (_, value) in entries.into_iter().filter(|(key, _)| *token == "*" || key.eq_ignore_ascii_case(token)) {
                find_edits(text, value, rest, nested, edits);
            }
        }
        Some(b'[') => {
            let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(raw) else { return };
            let index = token.parse::<usize>().ok();
            for (at, value) in elements.into_iter().enumerate() {
                if *token == "*" || index == Some(at) {
                    find_edits(text, value, rest, nested, edits);
                }
            }
        }
        // Azure writes bodies as JSON in a text.
        Some(b'"') if nested < MAX_NESTED_TEXTS => {
            let inner = serde_json::from_str::<String>(raw).ok();
            if let Some(redacted) = inner.and_then(|inner| redact_path(&inner, tokens, nested + 1)) {
                edits.push((span, Cow::Owned(Value::String(redacted).to_string())));
            }
        }
        _ => {}
    }
}

/// An object's members in the order of the text.
struct Entries<'t>(Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// One pass over the tokens of a JSON text.
struct Scan<'t> {
    text: &'t str,
    at: usize,
    names: &'t SecretNames,
    edits: Vec<Edit<'t>>,
    nested: usize,
    /// Unfit text is passed over rather than refused.
    lenient: bool,
}

impl<'t> Scan<'t> {
    fn run(mut self) -> Result<Vec<Edit<'t>>, UnfitText> {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    let span = self.string()?;
                    self.whitespace();
                    if self.peek() == Some(b':') {
                        self.at += 1;
                        self.whitespace();
                        if self.is_secret(span) {
                            self.redact_value()?;
                        }
                    } else if self.nested < MAX_NESTED_TEXTS {
                        self.nested_text(span)?;
                    }
                }
                b'{' | b'[' => {
                    depth += 1;
                    if depth > MAX_DEPTH && !self.lenient {
                        return Err(UnfitText::TooDeep);
                    }
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                b' ' | b'\t' | b'\n' | b'\r' => self.whitespace(),
                _ => self.at += 1,
            }
        }
        Ok(self.edits)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips white space; where it breaks the line, it goes.
    fn whitespace(&mut self) {
        let start = self.at;
        let mut breaks = false;
        while let Some(byte @ (b' ' | b'\t' | b'\n' | b'\r')) = self.peek() {
            breaks |= matches!(byte, b'\n' | b'\r');
            self.at += 1;
        }
        if breaks {
            self.edits.push((start..self.at, Cow::Borrowed("")));
        }
    }

    /// Skips a string; gives what stands between its quotes.
    fn string(&mut self) -> Result<Range<usize>, UnfitText> {
        self.at += 1;
        let start = self.at;
        let bytes = self.text.as_bytes();
        while let Some(found) = bytes.get(self.at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
            self.at += found;
            if bytes.get(self.at) == Some(&b'"') {
                let span = start..self.at;
                self.at += 1;
                return Ok(span);
            }
            self.escape()?;
        }
        self.at = bytes.len();
        Ok(start..self.at)
    }

    /// Skips an escape, a pair of surrogates as one.
    fn escape(&mut self) -> Result<(), UnfitText> {
        let unit = |at: usize| {
            let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
            u16::from_str_radix(digits, 16).ok()
        };
        match unit(self.at) {
            Some(0xd800..=0xdbff) if matches!(unit(self.at + 6), Some(0xdc00..=0xdfff)) => self.at += 12,
            Some(0xd800..=0xdfff) if !self.lenient => return Err(UnfitText::LoneSurrogate { at: self.at }),
            Some(_) => self.at += 6,
            None => self.at += 2,
        }
        Ok(())
    }

    fn is_secret(&self, key: Range<usize>) -> bool {
        let Some(name) = self.text.get(key.clone()) else { return false };
        if !name.contains('\\') {
            return self.names.contains(name);
        }
        let quoted = self.text.get(key.start.saturating_sub(1)..key.end + 1).unwrap_or_default();
        serde_json::from_str::<String>(quoted).is_ok_and(|name| self.names.contains(&name))
    }

    /// Replaces the value that begins here, unless it is null, a boolean, an empty text or replaced already.
    fn redact_value(&mut self) -> Result<(), UnfitText> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => {
                let span = self.string()?;
                if span.is_empty() || self.text.get(start..self.at) == Some(REDACTED) {
                    return Ok(());
                }
            }
            Some(b'{' | b'[') => self.skip_nested()?,
            Some(b'-' | b'0'..=b'9') => {
                while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
                    self.at += 1;
                }
            }
            _ => return Ok(()),
        }
        self.edits.push((start..self.at, Cow::Borrowed(REDACTED)));
        Ok(())
    }

    fn skip_nested(&mut self) -> Result<(), UnfitText> {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
            if depth > MAX_DEPTH && !self.lenient {
                return Err(UnfitText::TooDeep);
            }
            if depth == 0 {
                break;
            }
        }
        Ok(())
    }

    /// A string that holds JSON with secrets is written anew without them.
    fn nested_text(&mut self, span: Range<usize>) -> Result<(), UnfitText> {
        let Some(inner) = self.text.get(span.clone()) else { return Ok(()) };
        if !inner.trim_start().starts_with(['{', '[']) || !inner.contains("\\\"") {
            return Ok(());
        }
        let quoted = span.start.saturating_sub(1)..span.end + 1;
        let unescaped = self.text.get(quoted.clone()).and_then(|text| serde_json::from_str::<String>(text).ok());
        let Some(unescaped) = unescaped.filter(|text| serde_json::from_str::<&RawValue>(text).is_ok()) else {
            return Ok(());
        };
        let edits = Scan { text: &unescaped, at: 0, edits: Vec::new(), nested: self.nested + 1, ..*self }.run()?;
        // Line breaks inside a string are escaped: nothing to mend but secrets.
        let edits: Vec<_> = edits.into_iter().filter(|(_, with)| !with.is_empty()).collect();
        if !edits.is_empty() {
            let text = Value::String(replace(&unescaped, edits)).to_string();
            self.edits.push((quoted, Cow::Owned(text)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::json::Arena;
    use proptest::prelude::*;
    use serde_json::json;

    fn names() -> SecretNames {
        SecretNames::new(["sessionToken", "password", "userData"])
    }

    fn sanitized(text: &str) -> String {
        sanitize(text, &names(), &[]).unwrap().into_owned()
    }

    #[test]
    fn secrets_go_whatever_they_are_and_the_rest_stays_to_the_byte() {
        for (text, expected) in [
            (r#"{"a": 1.50, "Password" : "x\"y", "z":[1]}"#, r#"{"a": 1.50, "Password" : "[redacted]", "z":[1]}"#),
            (r#"{"password":{"a":["}"]},"b":1}"#, r#"{"password":"[redacted]","b":1}"#),
            (r#"{"pass\u0077ord":-1.5e3}"#, r#"{"pass\u0077ord":"[redacted]"}"#),
            (r#"{"password":null,"userData":false}"#, r#"{"password":null,"userData":false}"#),
            (r#"{"password":""}"#, r#"{"password":""}"#),
            (r#"{"a":"password"}"#, r#"{"a":"password"}"#),
            (r#"{"a":"{\"password\":\"x\",\"b\":1}"}"#, r#"{"a":"{\"password\":\"[redacted]\",\"b\":1}"}"#),
            ("{\n  \"a\": [\r\n1,\n 2]\n}", r#"{"a": [1,2]}"#),
            (r#"{"a":"\ud83d\ude00\\"}"#, r#"{"a":"\ud83d\ude00\\"}"#),
        ] {
            assert_eq!(sanitized(text), expected, "{text}");
        }
        assert!(matches!(sanitize(r#"{"a":1}"#, &names(), &[]), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn pointers_of_rules() {
        let path = Path::parse("/requestParameters/environment/*/value").unwrap();
        let text = r#"{"requestParameters":{"Environment":[{"name":"A","value":"s"},{"value":null},{"value":7}]}}"#;
        let expected = r#"{"requestParameters":{"Environment":[{"name":"A","value":"[redacted]"},{"value":null},{"value":"[redacted]"}]}}"#;
        assert_eq!(sanitize(text, &names(), &[&path]).unwrap(), expected);
        let arena = Arena::new();
        let leads = |text| leads_to_secret(&path, Json::parse(text, &arena).unwrap());
        assert!(leads(text) && leads(r#"{"requestParameters":{"environment":"{}"}}"#));
        assert!(!leads(r#"{"requestParameters":{"environment":[{"name":"A","value":null}],"value":"x"}}"#));
    }

    #[test]
    fn pointers_lead_into_json_in_texts() {
        let path = Path::parse("/properties/requestBody/properties/*").unwrap();
        let text = r#"{"properties":{"requestbody":"{\"a\":1,\"properties\":{\"KEY\":\"s\",\"N\":null}}"}}"#;
        let expected =
            r#"{"properties":{"requestbody":"{\"a\":1,\"properties\":{\"KEY\":\"[redacted]\",\"N\":null}}"}}"#;
        assert_eq!(sanitize(text, &names(), &[&path]).unwrap(), expected);
        assert!(matches!(
            sanitize(r#"{"properties":{"requestbody":"no json"}}"#, &names(), &[&path]),
            Ok(Cow::Borrowed(_))
        ));
    }

    #[test]
    fn a_text_that_is_no_json_loses_its_secrets_all_the_same() {
        for (text, expected) in [
            (r#"{"password":"x","a":"#, Some(r#"{"password":"[redacted]","a":"#)),
            (r#"{"password":"cut o"#, Some(r#"{"password":"[redacted]""#)),
            (r#"garbage "userData" : {"b":[1"#, Some(r#"garbage "userData" : "[redacted]""#)),
            ("{\"a\":\n\"\\ud800\"", None),
        ] {
            assert_eq!(redact_unparsed(text, &names()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn unfit_texts() {
        let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
        assert_eq!(sanitize(&deep, &names(), &[]), Err(UnfitText::TooDeep));
        assert_eq!(sanitize(r#"{"a":"\ud800"}"#, &names(), &[]), Err(UnfitText::LoneSurrogate { at: 6 }));
        assert_eq!(sanitize(r#"{"a":"\ude00\ud83d"}"#, &names(), &[]), Err(UnfitText::LoneSurrogate { at: 6 }));
    }

    fn arbitrary_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            "planted-[a-z]{4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("(password|a|b|userData|x\"y)", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// The plain meaning: every secret member's value replaced, nothing else touched.
    fn redacted(value: &Value) -> Value {
        match value {
            Value::Object(members) => members
                .iter()
                .map(|(key, value)| {
                    let secret = ["password", "userData"].contains(&key.as_str());
                    let kept = value.is_null() || value.is_boolean() || *value == json!("");
                    (key.clone(), if secret && !kept { json!("[redacted]") } else { redacted(value) })
                })
                .collect(),
            Value::Array(elements) => elements.iter().map(redacted).collect(),
            scalar => scalar.clone(),
        }
    }

    proptest! {
        #[test]
        fn does_what_it_says(value in arbitrary_json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let out = sanitized(&text);
            prop_assert!(!out.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), redacted(&value));
        }

        #[test]
        fn never_panics(text in "[\\[\\]{}\":,\\\\ud8a0-9p ]{0,60}") {
            let _ = sanitize(&text, &names(), &[]);
        }
    }
}
