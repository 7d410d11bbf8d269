//! Redaction: nothing that leaves the normalizer contains credentials. Values are replaced in the record's own text,
//! before anything is extracted from it.
//!
//! Three things define a secret (`secrets`): names of members (`sessionToken`, `userData`, … at any depth, also inside
//! JSON in a string), pointers (those of a rule's `redact`, and the operator's), and patterns of texts (private keys,
//! connection strings, …). The same pass (`scan`) puts the record onto one line and refuses text that other JSON
//! readers would fail on.

mod scan;
mod secrets;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::memchr2;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use self::scan::Scan;
pub(super) use self::secrets::Secrets;
pub use self::secrets::{Redaction, RedactionMistake};
use super::pointer::Path;
use crate::json::{Json, MAX_DEPTH};

/// Replaces a secret within a text,
const MASK: &str = "[redacted]";
/// and the value of a member.
pub(super) const REDACTED: &str = "\"[redacted]\"";

/// Levels of JSON in a string in JSON in a string that are searched.
const MAX_NESTED_TEXTS: usize = 3;

/// A reason why a record's text can't be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnfitText {
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("a lone surrogate (\\ud800 to \\udfff without its other half) at byte {at}")]
    LoneSurrogate { at: usize },
}

/// Whether the text has no line breaks, except at its ends.
pub(super) fn is_on_one_line(text: &str) -> bool {
    memchr2(b'\n', b'\r', text.trim().as_bytes()).is_none()
}

/// The text on one line, without secrets; borrowed if nothing had to change.
///
/// `text` is JSON that a parser has accepted; `paths` are the pointers of its rules to secrets.
pub(super) fn sanitize<'t>(text: &'t str, secrets: &Secrets, paths: &[&Path]) -> Result<Cow<'t, str>, UnfitText> {
    let text = without_paths(text, secrets, paths);
    let edits = Scan::new(&text, secrets).run()?;
    Ok(if edits.is_empty() { text } else { Cow::Owned(replace(&text, edits)) })
}

/// Redacts a rejected record; `None` if nothing had to change. Line breaks stay, and the text may be unfit. If it is
/// not JSON, values of members with secret names are replaced as far as its tokens allow, and patterns are applied to
/// all of it.
pub(super) fn sanitize_rejected(text: &str, secrets: &Secrets, paths: &[&Path]) -> Option<String> {
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    let told = if is_json { without_paths(text, secrets, paths) } else { Cow::Borrowed(text) };
    let edits = Scan::lenient(&told, secrets).run().unwrap_or_default();
    let edits: Vec<_> = edits.into_iter().filter(|(_, with)| !with.is_empty()).collect();
    let mut told = if edits.is_empty() { told } else { Cow::Owned(replace(&told, edits)) };
    if !is_json && let Some(without) = secrets.without_matches(&told) {
        told = Cow::Owned(without);
    }
    match told {
        Cow::Borrowed(_) => None,
        Cow::Owned(told) => Some(told),
    }
}

fn without_paths<'t>(text: &'t str, secrets: &Secrets, paths: &[&Path]) -> Cow<'t, str> {
    let mut text = Cow::Borrowed(text);
    for path in paths.iter().copied().chain(secrets.paths()) {
        let tokens: Vec<_> = path.tokens().collect();
        if let Some(redacted) = redact_path(&text, &tokens, 0) {
            text = Cow::Owned(redacted);
        }
    }
    text
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

/// Whether [`sanitize`] may find something in a record by a rule's pointer. Few records have any, so checking first
/// pays.
pub(super) fn leads_to_secret(path: &Path, record: Json<'_>) -> bool {
    leads(path.tokens(), record)
}

fn leads<'p>(mut tokens: impl Iterator<Item = &'p str> + Clone, value: Json<'_>) -> bool {
    let Some(token) = tokens.next() else {
        return !matches!(value, Json::Null | Json::Bool(_));
    };
    match value {
        Json::Object(members) => {
            let mut fitting = members.iter().filter(|(key, _)| token == "*" || key.eq_ignore_ascii_case(token));
            fitting.any(|(_, value)| leads(tokens.clone(), value))
        }
        Json::Array(elements) => {
            let index = token.parse::<usize>().ok();
            let mut elements = elements.iter().enumerate();
            elements.any(|(at, value)| (token == "*" || index == Some(at)) && leads(tokens.clone(), *value))
        }
        // It may contain JSON, into which pointers lead.
        Json::Text(_) => true,
        _ => false,
    }
}

/// Redacts what a pointer leads to; `None` if nothing had to change.
fn redact_path(text: &str, tokens: &[&str], nested: usize) -> Option<String> {
    let root = serde_json::from_str::<&RawValue>(text).ok()?;
    let mut edits = Vec::new();
    find_edits(text, root, tokens, nested, &mut edits);
    (!edits.is_empty()).then(|| replace(text, edits))
}

/// Collects the edits for what a pointer leads to, in order. Null and booleans are never secrets.
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
        // Azure writes bodies as JSON in a string.
        Some(b'"') if nested < MAX_NESTED_TEXTS => {
            let inner = serde_json::from_str::<String>(raw).ok();
            if let Some(redacted) = inner.and_then(|inner| redact_path(&inner, tokens, nested + 1)) {
                edits.push((span, Cow::Owned(Value::String(redacted).to_string())));
            }
        }
        _ => {}
    }
}

/// An object's members in text order.
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

#[cfg(test)]
mod tests;
