//! One pass over the tokens of a JSON text, which collects what to replace in it.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;
use serde_json::Value;
use serde_json::value::RawValue;

use super::secrets::Secrets;
use super::{Edit, MAX_NESTED_TEXTS, REDACTED, UnfitText, replace};
use crate::json::MAX_DEPTH;

/// One pass over the tokens of a JSON text.
pub(super) struct Scan<'t> {
    text: &'t str,
    at: usize,
    secrets: &'t Secrets,
    edits: Vec<Edit<'t>>,
    nested: usize,
    /// Unfit text is accepted instead of refused.
    lenient: bool,
}

impl<'t> Scan<'t> {
    pub(super) fn new(text: &'t str, secrets: &'t Secrets) -> Self {
        Self { text, at: 0, secrets, edits: Vec::new(), nested: 0, lenient: false }
    }

    /// A scan of text that may be unfit, or not JSON at all.
    pub(super) fn lenient(text: &'t str, secrets: &'t Secrets) -> Self {
        Self { lenient: true, ..Self::new(text, secrets) }
    }

    pub(super) fn run(mut self) -> Result<Vec<Edit<'t>>, UnfitText> {
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
                    } else {
                        self.text_value(span)?;
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

    /// Skips white space, and removes it if it contains a line break.
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

    /// Skips a string. Returns the range between its quotes.
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

    /// Skips an escape; a pair of surrogates counts as one.
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
            return self.secrets.contains(name);
        }
        let quoted = self.text.get(key.start.saturating_sub(1)..key.end + 1).unwrap_or_default();
        serde_json::from_str::<String>(quoted).is_ok_and(|name| self.secrets.contains(&name))
    }

    /// Replaces the value that begins here, unless it is null, a boolean, an empty string or already redacted.
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

    /// Rewrites a string that contains a secret, or JSON with secrets, without them.
    fn text_value(&mut self, span: Range<usize>) -> Result<(), UnfitText> {
        let Some(inner) = self.text.get(span.clone()) else { return Ok(()) };
        let quoted = span.start.saturating_sub(1)..span.end + 1;
        let decoded = if inner.contains('\\') {
            let decoded = self.text.get(quoted.clone()).and_then(|text| serde_json::from_str::<String>(text).ok());
            // An unfit text is taken as it is written.
            decoded.map_or(Cow::Borrowed(inner), Cow::Owned)
        } else {
            Cow::Borrowed(inner)
        };
        let told = match self.nested_text(inner, &decoded)? {
            Some(told) => told,
            None => self.secrets.without_matches(&decoded),
        };
        if let Some(told) = told {
            self.edits.push((quoted, Cow::Owned(Value::String(told).to_string())));
        }
        Ok(())
    }

    /// `None` if the string is not JSON itself; otherwise its text without secrets, or `Some(None)` if it has none.
    fn nested_text(&self, inner: &str, decoded: &str) -> Result<Option<Option<String>>, UnfitText> {
        let may_be = inner.trim_start().starts_with(['{', '[']) && inner.contains("\\\"");
        if self.nested >= MAX_NESTED_TEXTS || !may_be || serde_json::from_str::<&RawValue>(decoded).is_err() {
            return Ok(None);
        }
        let scan = Scan { text: decoded, at: 0, edits: Vec::new(), nested: self.nested + 1, ..*self };
        // Line breaks inside a string are escaped: only secrets need to be replaced.
        let edits: Vec<_> = scan.run()?.into_iter().filter(|(_, with)| !with.is_empty()).collect();
        Ok(Some((!edits.is_empty()).then(|| replace(decoded, edits))))
    }
}
