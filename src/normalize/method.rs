//! The method by which a call was made, determined by ordered rules, which are data
//! (`normalizers/<provider>/attribution.toml`).

use std::sync::Arc;

use memchr::memmem::Finder;
use serde::Deserialize;

use crate::model::{Confidence, Tool};

/// The rules for the method, in order; the first match wins.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MethodRules {
    method: Vec<MethodRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MethodRule {
    method: Arc<str>,
    confidence: Confidence,
    tool: Option<ToolRule>,
    /// The evidence in words, if that of the condition says too little.
    reason: Option<String>,
    any: Vec<Condition>,
    unless: Option<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolRule {
    name: Option<String>,
    /// The fields that contain the tool's name.
    #[serde(default)]
    from: Vec<Field>,
    #[serde(default)]
    version_after: Vec<String>,
    /// The tool's name is the text before the version.
    #[serde(default)]
    named_by_match: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    field: Field,
    #[serde(default)]
    is: Vec<String>,
    #[serde(default)]
    begins: Vec<String>,
    #[serde(default)]
    ends: Vec<String>,
    #[serde(default)]
    contains: Vec<Within>,
}

/// A text that may occur anywhere in a value.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "String")]
struct Within {
    text: String,
    finder: Finder<'static>,
}

impl From<String> for Within {
    fn from(text: String) -> Self {
        Self { finder: Finder::new(text.as_bytes()).into_owned(), text }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Field {
    IdentityType,
    EventType,
    InvokedBy,
    UserAgent,
    SourceAddress,
    ConsoleSession,
    AppId,
    TokenType,
    ManagedIdentity,
    Caller,
}

impl Field {
    fn label(self) -> &'static str {
        match self {
            Self::IdentityType => "identity type",
            Self::EventType => "event type",
            Self::InvokedBy => "invokedBy",
            Self::UserAgent => "user agent",
            Self::SourceAddress => "source address",
            Self::ConsoleSession => "sessionCredentialFromConsole",
            Self::AppId => "client application",
            Self::TokenType => "token type",
            Self::ManagedIdentity => "managed identity",
            Self::Caller => "caller",
        }
    }
}

impl Condition {
    /// The evidence in words; `None` if the condition does not hold.
    fn evidence(&self, seen: &dyn Seen) -> Option<String> {
        let value = seen.field(self.field)?;
        let is = self.is.iter().find(|text| value == **text).map(|text| ("is", text));
        let begins = || self.begins.iter().find(|text| value.starts_with(&***text)).map(|text| ("begins with", text));
        let ends = || self.ends.iter().find(|text| value.ends_with(&***text)).map(|text| ("ends with", text));
        let contains = || {
            let found = self.contains.iter().find(|within| within.finder.find(value.as_bytes()).is_some());
            found.map(|within| ("contains", &within.text))
        };
        let (word, text) = is.or_else(begins).or_else(ends).or_else(contains)?;
        Some(format!("{} {word} {text}", self.field.label()))
    }
}

/// A record's values of the fields that the rules examine.
pub(super) trait Seen {
    /// The text of a field, if the record has it.
    fn field(&self, field: Field) -> Option<&str>;
}

impl MethodRules {
    /// The method, the evidence in words, the confidence and the tool.
    pub(super) fn method(&self, seen: &dyn Seen) -> (Arc<str>, String, Confidence, Option<Tool>) {
        for rule in &self.method {
            if rule.unless.as_ref().is_some_and(|condition| condition.evidence(seen).is_some()) {
                continue;
            }
            if let Some(reason) = rule.any.iter().find_map(|condition| condition.evidence(seen)) {
                let tool = rule.tool.as_ref().and_then(|tool| tool.tool(seen));
                let reason = rule.reason.clone().unwrap_or(reason);
                return (Arc::clone(&rule.method), reason, rule.confidence, tool);
            }
        }
        let reason = match seen.field(Field::UserAgent) {
            Some(_) => "no rule knows the user agent",
            None => "no user agent",
        };
        ("other".into(), reason.to_owned(), Confidence::Low, None)
    }
}

impl ToolRule {
    fn tool(&self, seen: &dyn Seen) -> Option<Tool> {
        let agent = seen.field(Field::UserAgent).unwrap_or_default();
        let versioned = self.version_after.iter().find_map(|before| {
            let (_, after) = agent.split_once(before.as_str())?;
            let version = after.split([' ', ';', ')', ',']).next().filter(|version| !version.is_empty())?;
            Some((before.trim_end_matches('/'), version.to_owned()))
        });
        let name = match (&versioned, self.named_by_match) {
            (Some((before, _)), true) => (*before).to_owned(),
            _ => self
                .name
                .clone()
                .or_else(|| self.from.iter().find_map(|field| seen.field(*field)).map(str::to_owned))?,
        };
        Some(Tool { name, version: versioned.map(|(_, version)| version) })
    }
}
