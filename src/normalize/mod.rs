//! The normalizer: turns a record into drafts of changes, by rules. It uses no clock, no network and no state.

mod arn;
mod aws;
mod azure;
mod catalog;
mod compile;
mod configuration;
mod eval;
mod explain;
mod expression;
mod keys;
mod mentions;
mod method;
mod plan;
mod pointer;
mod redact;
mod references;
mod rule;
mod seed;
mod template;
mod transform;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use self::catalog::Catalog;
use self::plan::EventPlan;
use self::pointer::Path as Pointer;
use self::redact::Secrets;
use crate::json::{Arena, Json};
use crate::model::{Association, Draft, OperationRecord, RecordInfo, SeedDocument, Session, Time};

pub use self::catalog::CatalogError;
pub use self::compile::RuleError;
pub use self::redact::{Redaction, RedactionMistake};
pub use self::seed::{SeedFault, Seeds};

/// Initial size of an arena in bytes: enough for most records.
const ARENA_BYTES: usize = 8 << 10;

/// The result of normalizing a record.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The record changes assets.
    Changes {
        /// What all its events have in common. Boxed, since most records are skipped.
        record: Box<RecordInfo>,
        /// One per asset, at least one.
        drafts: Vec<Draft>,
    },
    /// The record is one of several that describe an operation: [`Engine::fold`] turns all of them into one outcome.
    Operation(Box<OperationRecord>),
    /// The record was understood and changes no asset.
    Skipped {
        /// Why: `read-only call`, `failed call`, `data event`, `sign-in`, or a rule's own words.
        reason: Arc<str>,
        /// The rule that skipped it, if a rule did.
        rule: Option<Arc<str>>,
        /// The temporary credentials that the call issued, if it did.
        session: Option<Box<Session>>,
    },
    /// The record was not understood and goes to quarantine.
    Rejected {
        /// A stable code, used as a metric label.
        code: &'static str,
        /// What is wrong, and what to do about it.
        reason: String,
        /// The rule that could not be applied, if one was found.
        rule: Option<Arc<str>>,
    },
}

impl Outcome {
    /// The event time of the record, if it describes a change or issues credentials.
    #[must_use]
    pub fn time(&self) -> Option<Time> {
        match self {
            Self::Changes { record, .. } => Some(record.time),
            Self::Operation(record) => Some(record.time),
            Self::Skipped { session, .. } => session.as_ref().map(|session| session.started),
            Self::Rejected { .. } => None,
        }
    }

    fn skipped(reason: &str) -> Self {
        Self::Skipped { reason: reason.into(), rule: None, session: None }
    }

    fn rejected(code: &'static str, reason: impl Into<String>) -> Self {
        Self::Rejected { code, reason: reason.into(), rule: None }
    }
}

/// The compiled rules. Normalization is a pure function of the rules and the record.
#[derive(Debug)]
pub struct Engine {
    catalog: Catalog,
}

impl Engine {
    /// Compiles the built-in rules and those of a folder, if one is given.
    ///
    /// # Errors
    /// When the folder can't be read, or with every mistake found in the rules.
    pub fn load(overrides: Option<&Path>) -> Result<Self, CatalogError> {
        Self::redacting(overrides, &Redaction::default())
    }

    /// As [`load`](Self::load), with the operator's own redaction in addition to that of the rules.
    ///
    /// # Errors
    /// As [`load`](Self::load), or when the redaction has mistakes.
    pub fn redacting(overrides: Option<&Path>, own: &Redaction) -> Result<Self, CatalogError> {
        Ok(Self { catalog: Catalog::load(overrides, own)? })
    }

    /// Compiles the generated rules, which are otherwise compiled on first use.
    ///
    /// # Errors
    /// With every mistake found in them.
    pub fn check(&self) -> Result<(), CatalogError> {
        let mistakes: Vec<_> = self.catalog.aws.mistakes().cloned().collect();
        if mistakes.is_empty() { Ok(()) } else { Err(CatalogError::Mistakes(mistakes)) }
    }

    /// The version of the rules, as in events: `<crate version>+<hash of the rules>`.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.catalog.version
    }

    /// The names of all rules (`aws/ec2/RunInstances`), sorted, for tests and tools.
    #[must_use]
    pub fn rule_names(&self) -> Vec<Arc<str>> {
        let names = self.catalog.aws.rule_names().chain(self.catalog.azure.names());
        let mut names: Vec<_> = names.map(Arc::clone).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Associations with assets that a draft's configuration mentions, besides those from its rule: ARNs, and ids whose
    /// form or key shows their type. If the configuration before is given, added and removed ones are marked. Empty for
    /// other providers than AWS.
    #[must_use]
    pub fn mentioned(&self, draft: &Draft, before: Option<Json<'_>>, after: Json<'_>) -> Vec<Association> {
        if draft.asset.kind.provider != "aws" {
            return Vec::new();
        }
        let references = &self.catalog.aws.references;
        self.catalog.mentions.associations(references, &draft.asset, before, after, &draft.associations)
    }

    /// Normalizes one record.
    #[must_use]
    pub fn normalize(&self, bytes: &[u8]) -> Outcome {
        self.try_normalize(bytes).unwrap_or_else(|outcome| outcome)
    }

    /// Explains, for each rule of a record's call in the order in which they are tried, what it looks for, what it
    /// finds and what results. If `bytes` is the `raw` of an Azure operation's event, its records are explained
    /// together. Secrets are redacted. Empty if no rule is consulted: for a read, a failed call, or an unmapped one.
    #[must_use]
    pub fn explain(&self, bytes: &[u8]) -> Vec<Value> {
        let explained = std::str::from_utf8(bytes).ok().and_then(|text| {
            let arena = Arena::new();
            match Provider::of(&aws::Record::head(text, &arena).ok()?) {
                Provider::Aws => aws::explain(&self.catalog, text),
                Provider::Azure => azure::explain(&self.catalog, text),
            }
        });
        explained.unwrap_or_default()
    }

    /// Normalizes the records of one operation, those of [`Outcome::Operation`], together; in any order.
    #[must_use]
    pub fn fold(&self, records: &[Bytes]) -> Outcome {
        azure::fold(&self.catalog, records).unwrap_or_else(|outcome| outcome)
    }

    /// The assets that an item of a snapshot document describes. The document provides what the item leaves out, and
    /// the place of the item in it. `docs/inventory.md` lists the supported forms.
    #[must_use]
    pub fn seeds(&self, item: &[u8], document: &SeedDocument) -> Seeds {
        seed::seeds(&self.catalog, item, document)
    }

    /// Redacts a rejected record or inventory item for quarantine, as far as its text can be read and its call is
    /// known.
    #[must_use]
    pub fn redact_rejected(&self, bytes: Bytes) -> Bytes {
        let redact = |text: &str| {
            let is_aws = text.contains("\"eventSource\"");
            let secrets = if is_aws { &self.catalog.secrets } else { self.catalog.azure.secrets() };
            redact::sanitize_rejected(text, secrets, &self.paths_of(text))
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) => redact(text).map_or(bytes.clone(), Bytes::from),
            // Each byte as a character of its own: names and patterns of secrets are ASCII.
            Err(_) => match redact(&bytes.iter().copied().map(char::from).collect::<String>()) {
                Some(text) => text.chars().map(|letter| u8::try_from(letter).unwrap_or(b'?')).collect(),
                None => bytes,
            },
        }
    }

    /// Redacts the reason of a rejection, which may quote from the record.
    #[must_use]
    pub fn redact_reason(&self, reason: String) -> String {
        self.catalog.azure.secrets().without_matches(&reason).unwrap_or(reason)
    }

    /// The paths of secrets by all rules of a record's call, whether or not their conditions hold, and those in items
    /// of inventories.
    fn paths_of(&self, text: &str) -> Vec<&Pointer> {
        let arena = Arena::new();
        let rules = match aws::Record::head(text, &arena) {
            Ok(record) if record.has_event_source() => aws::rules_of(&self.catalog, &record),
            Ok(_) => azure::rules_of(&self.catalog, text),
            Err(_) => &[],
        };
        rules.iter().flat_map(|rule| &rule.redact).chain(&self.catalog.seeds.redact_rejected).collect()
    }

    fn try_normalize(&self, bytes: &[u8]) -> Result<Outcome, Outcome> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            Outcome::rejected(
                "not_utf8",
                format!("not UTF-8 text: {error}; send the record as it came from the provider"),
            )
        })?;
        let arena = Arena::with_capacity(ARENA_BYTES);
        let record = aws::Record::likely(text, &arena, &self.catalog.secrets).map_err(not_json)?;
        match Provider::of(&record) {
            Provider::Aws => aws::normalize(&self.catalog, text, record),
            Provider::Azure => azure::normalize(&self.catalog, text),
        }
    }
}

/// The provider of a record.
enum Provider {
    Aws,
    Azure,
}

impl Provider {
    /// Every CloudTrail record has an event source, and no Azure record does.
    fn of(record: &aws::Record<'_>) -> Self {
        if record.has_event_source() { Self::Aws } else { Self::Azure }
    }
}

/// Redacts a record's text by the paths of its rules and by the general definitions of secrets. The error is the
/// [`Outcome`] of a record whose text is unfit.
fn sanitize<'t, 'r>(
    secrets: &Secrets,
    text: &'t str,
    rules: impl Iterator<Item = &'r EventPlan>,
) -> Result<Cow<'t, str>, Outcome> {
    let paths: Vec<_> = rules.flat_map(|rule| &rule.redact).collect();
    redact::sanitize(text, secrets, &paths)
        .map_err(|error| Outcome::rejected("unfit_text", format!("{error}; other readers of JSON would fail on it")))
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function of map_err")]
fn not_json(error: serde_json::Error) -> Outcome {
    Outcome::rejected("not_json", format!("not a JSON record: {error}"))
}

/// An event id for pre-processed logs, which lack the eventID: the same record always gets the same one.
fn hashed_id(text: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}
