//! Definitions of secrets: names of members, pointers, and patterns of texts.

use aho_corasick::AhoCorasick;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use super::MASK;
use crate::json::{Json, MAX_DEPTH, Watch};
use crate::normalize::keys::Keys;
use crate::normalize::pointer::Path;

/// Maximum size of a compiled pattern in bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// Definitions of secrets: a provider's `redact.toml`, or `[redaction]` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redaction {
    /// Names of members whose values are secrets at any depth; case is ignored. `*password` means every name that ends
    /// with it.
    pub names: Vec<String>,
    /// JSON pointers (RFC 6901) into a record whose values are secrets; `*` is every element or member.
    pub pointers: Vec<String>,
    /// Regular expressions (of the crate `regex`). What one matches in a text is a secret; if it has a group, only what
    /// the first group matches.
    pub patterns: Vec<String>,
}

/// A mistake in a [`Redaction`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedactionMistake {
    /// `names`, `pointers` or `patterns`.
    pub key: &'static str,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl Redaction {
    /// All mistakes in it.
    #[must_use]
    pub fn mistakes(&self) -> Vec<RedactionMistake> {
        Secrets::compile(&[self]).err().unwrap_or_default()
    }

    fn names_and_endings(&self) -> (Vec<String>, Vec<String>) {
        let (mut names, mut endings) = (Vec::new(), Vec::new());
        for name in &self.names {
            match name.strip_prefix('*') {
                Some(ending) => endings.push(ending.to_ascii_lowercase()),
                None => names.push(name.to_ascii_lowercase()),
            }
        }
        (names, endings)
    }

    fn name_mistakes(&self) -> impl Iterator<Item = String> {
        let (names, endings) = self.names_and_endings();
        let bad = |name: &String| name.is_empty() || name.contains('*') || name.len() > LONGEST_NAME;
        names.into_iter().chain(endings).filter(bad).map(|name| {
            format!(
                "{name:?} is not a member name, nor the end of one after a *: 1 to {LONGEST_NAME} bytes and no other *"
            )
        })
    }
}

/// Maximum length of a name in bytes. Names are converted to lower case on the stack.
const LONGEST_NAME: usize = 48;

/// Compiled definitions of secrets.
#[derive(Clone, Debug, Default)]
pub(in crate::normalize) struct Secrets {
    /// Whole names, in lower case.
    names: Keys<()>,
    /// Endings of names, in lower case.
    endings: Vec<Box<str>>,
    /// A bit for each last letter of an ending.
    last_letters: u32,
    /// Finds names and endings anywhere in a text. `None` if there are none.
    anywhere: Option<AhoCorasick>,
    paths: Vec<Path>,
    patterns: Vec<Regex>,
    /// All patterns combined into one.
    any_pattern: Option<Regex>,
    /// Some patterns are the operator's: where in a text they can match is unknown.
    own_patterns: bool,
}

/// Notices what may be a secret while a record is parsed.
impl Watch for Secrets {
    fn notices_name(&self, name: &str) -> bool {
        self.contains(name)
    }

    fn notices_text(&self, text: &str) -> bool {
        self.matches(text)
    }

    /// It may contain JSON with such a member.
    fn notices_escaped(&self, text: &str) -> bool {
        self.may_be_in_json(text)
    }
}

impl Secrets {
    /// Compiles definitions. The last part is the operator's, if there are several. The error is all mistakes found.
    pub(in crate::normalize) fn compile(parts: &[&Redaction]) -> Result<Self, Vec<RedactionMistake>> {
        let mut mistakes = Vec::new();
        let mut tell = |key, message| mistakes.push(RedactionMistake { key, message });
        let (mut names, mut endings) = (Vec::new(), Vec::new());
        let (mut paths, mut patterns) = (Vec::new(), Vec::new());
        for part in parts {
            part.name_mistakes().for_each(|message| tell("names", message));
            let (whole, ends) = part.names_and_endings();
            names.extend(whole);
            endings.extend(ends);
            for text in &part.pointers {
                match Path::parse(text) {
                    Ok(path) if !text.is_empty() => paths.push(path),
                    Ok(_) => tell("pointers", "an empty pointer is the whole record".to_owned()),
                    Err(error) => tell("pointers", format!("{text:?} is not a JSON pointer: {error}")),
                }
            }
            for text in &part.patterns {
                match pattern(text) {
                    Ok(pattern) if pattern.is_match("") => {
                        tell("patterns", format!("{text:?} matches the empty text, and so everywhere"));
                    }
                    Ok(pattern) => patterns.push(pattern),
                    Err(error) => tell("patterns", format!("{text:?} is not a valid pattern: {error}")),
                }
            }
        }
        let any = patterns.iter().map(|pattern| format!("(?:{pattern})")).collect::<Vec<_>>().join("|");
        let any_pattern = (!patterns.is_empty()).then(|| pattern(&any)).transpose();
        let any_pattern = any_pattern.unwrap_or_else(|error| {
            tell("patterns", format!("combined they are not a valid pattern: {error}"));
            None
        });
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let own_patterns = parts.len() > 1 && parts.last().is_some_and(|own| !own.patterns.is_empty());
        Ok(Self { paths, patterns, any_pattern, own_patterns, ..Self::of_names(names, endings) })
    }

    #[cfg(test)]
    pub(in crate::normalize) fn named<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        Self::of_names(names.into_iter().map(str::to_ascii_lowercase).collect(), Vec::new())
    }

    fn of_names(names: Vec<String>, endings: Vec<String>) -> Self {
        let all: Vec<&str> = names.iter().chain(&endings).map(String::as_str).collect();
        let anywhere = AhoCorasick::builder().ascii_case_insensitive(true).build(all);
        let last_letters = endings.iter().fold(0, |bits, ending| bits | last_letter(ending));
        Self {
            anywhere: anywhere.ok().filter(|names| names.patterns_len() > 0),
            names: names.into_iter().map(|name| (name, ())).collect(),
            endings: endings.into_iter().map(Into::into).collect(),
            last_letters,
            ..Self::default()
        }
    }

    /// Whether the value of a member with this name is a secret.
    pub(in crate::normalize) fn contains(&self, name: &str) -> bool {
        self.has_name(name) || self.has_ending(name)
    }

    fn has_name(&self, name: &str) -> bool {
        if !self.names.may_have(name) {
            return false;
        }
        // Lower-casing on the stack: nearly all names are short.
        let mut buffer = [0_u8; LONGEST_NAME];
        let Some(lower) = buffer.get_mut(..name.len()) else { return false };
        lower.copy_from_slice(name.as_bytes());
        lower.make_ascii_lowercase();
        std::str::from_utf8(lower).is_ok_and(|lower| self.names.get(lower).is_some())
    }

    fn has_ending(&self, name: &str) -> bool {
        self.last_letters & last_letter(name) != 0
            && self.endings.iter().any(|ending| {
                let tail = name.len().checked_sub(ending.len()).and_then(|at| name.as_bytes().get(at..));
                tail.is_some_and(|tail| tail.eq_ignore_ascii_case(ending.as_bytes()))
            })
    }

    /// Whether a pattern matches in a text.
    pub(in crate::normalize) fn matches(&self, text: &str) -> bool {
        self.any_pattern.as_ref().is_some_and(|any| any.is_match(text))
    }

    /// Replaces what the patterns match in a text; `None` if nothing had to change.
    pub(in crate::normalize) fn without_matches(&self, text: &str) -> Option<String> {
        if !self.matches(text) {
            return None;
        }
        let mut told = text.to_owned();
        for pattern in &self.patterns {
            let mut edited = String::with_capacity(told.len());
            let mut from = 0;
            for found in pattern.captures_iter(&told) {
                let Some(secret) = found.get(1).or_else(|| found.get(0)) else { continue };
                edited.push_str(told.get(from..secret.start()).unwrap_or_default());
                edited.push_str(MASK);
                from = secret.end();
            }
            edited.push_str(told.get(from..).unwrap_or_default());
            told = edited;
        }
        (told != text).then_some(told)
    }

    /// Whether a text looks like JSON that may contain a secret.
    pub(in crate::normalize) fn may_be_in_json(&self, text: &str) -> bool {
        if !text.trim_start().starts_with(['{', '[']) {
            return false;
        }
        let named = self.anywhere.as_ref().is_some_and(|names| names.is_match(text));
        // Names may be written with escapes, and text nested too deep is to be refused.
        let deep = || text.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count() > MAX_DEPTH;
        self.own_patterns || named || memchr::memmem::find(text.as_bytes(), b"\\u").is_some() || deep()
    }

    /// The pointers that apply to every record.
    pub(in crate::normalize) fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// Whether one of these pointers may lead to a secret in a record.
    pub(in crate::normalize) fn lead_to_something(&self, record: Json<'_>) -> bool {
        self.paths.iter().any(|path| super::leads_to_secret(path, record))
    }
}

fn pattern(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).size_limit(PATTERN_BYTES).build()
}

/// A bit for the last letter of a name, whatever its case.
fn last_letter(name: &str) -> u32 {
    name.as_bytes().last().map_or(0, |letter| 1 << (letter & 0x1f))
}
