//! The normalizer: rules and one record in, drafts of changes out. No clock, no network, no state.

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

/// What most records need, taken at once.
const ARENA_BYTES: usize = 8 << 10;

/// What became of a record.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It changes assets.
    Changes {
        /// What its events share. Boxed: most records are skipped.
        record: Box<RecordInfo>,
        /// One per asset, at least one.
        drafts: Vec<Draft>,
    },
    /// It is one of the records that tell an operation: [`Engine::fold`] makes of them all what [`Outcome`] it has.
    Operation(Box<OperationRecord>),
    /// It was understood, and changes no asset.
    Skipped {
        /// Why: `read-only call`, `failed call`, `data event`, `sign-in`, or a rule's own words.
        reason: Arc<str>,
        /// The rule that says so, if one does.
        rule: Option<Arc<str>>,
        /// The temporary credentials that the call handed out, if it did.
        session: Option<Box<Session>>,
    },
    /// It was not understood, and goes to quarantine.
    Rejected {
        /// A stable word for counting.
        code: &'static str,
        /// What is wrong and what to do.
        reason: String,
        /// The rule that could not be applied, if one was found.
        rule: Option<Arc<str>>,
    },
}

impl Outcome {
    /// The time of the event that the record tells of, where it is one that tells of a change or of credentials handed out.
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

/// The compiled rules. Shared by reference; a pure function of the record.
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

    /// The same, with more that is to be secret in records than what the rules say.
    ///
    /// # Errors
    /// As [`load`](Self::load), or when the redaction can't be used.
    pub fn redacting(overrides: Option<&Path>, own: &Redaction) -> Result<Self, CatalogError> {
        Ok(Self { catalog: Catalog::load(overrides, own)? })
    }

    /// Every mistake in generated rules, which are otherwise compiled when they are needed.
    ///
    /// # Errors
    /// When there are any.
    pub fn check(&self) -> Result<(), CatalogError> {
        let mistakes: Vec<_> = self.catalog.aws.mistakes().cloned().collect();
        if mistakes.is_empty() { Ok(()) } else { Err(CatalogError::Mistakes(mistakes)) }
    }

    /// The version of the rules, as events carry it.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.catalog.version
    }

    /// Every rule's name (`aws/ec2/RunInstances`), for the tests and tools that go through them.
    #[must_use]
    pub fn rule_names(&self) -> Vec<Arc<str>> {
        let names = self.catalog.aws.rule_names().chain(self.catalog.azure.names());
        let mut names: Vec<_> = names.map(Arc::clone).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The assets that a draft's configuration mentions besides those that its rule told: as ARNs, and as ids whose form or
    /// key says what they are. With the configuration before, those that came and went are marked.
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

    /// What each rule of a record's call looks for, finds and makes of it, in the order in which they are tried; of an
    /// operation of Azure's, whose records `raw` of its event holds, all of them together. Values that rules call secret are
    /// left out. Empty where no rule is asked: the record is a read, a failed call, or unmapped.
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

    /// What the records of one operation make together: those of [`Outcome::Operation`], in any order.
    #[must_use]
    pub fn fold(&self, records: &[Bytes]) -> Outcome {
        azure::fold(&self.catalog, records).unwrap_or_else(|outcome| outcome)
    }

    /// What an item of a document tells of assets as they were: the document says where the item stands, and what the
    /// item leaves out. The forms are those of `docs/inventory.md`.
    #[must_use]
    pub fn seeds(&self, item: &[u8], document: &SeedDocument) -> Seeds {
        seed::seeds(&self.catalog, item, document)
    }

    /// What is kept of a record, or an item of an inventory, that could not be understood: its bytes without secrets, as
    /// far as its text can be read and its call is known.
    #[must_use]
    pub fn redact_rejected(&self, bytes: Bytes) -> Bytes {
        let redact = |text: &str| {
            let is_aws = text.contains("\"eventSource\"");
            let secrets = if is_aws { &self.catalog.secrets } else { self.catalog.azure.secrets() };
            redact::sanitize_rejected(text, secrets, &self.paths_of(text))
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) => redact(text).map_or(bytes.clone(), Bytes::from),
            // Each byte as a letter of its own: names and marks of secrets are ASCII.
            Err(_) => match redact(&bytes.iter().copied().map(char::from).collect::<String>()) {
                Some(text) => text.chars().map(|letter| u8::try_from(letter).unwrap_or(b'?')).collect(),
                None => bytes,
            },
        }
    }

    /// A reason why a record could not be understood, which may quote of it.
    #[must_use]
    pub fn redact_reason(&self, reason: String) -> String {
        self.catalog.azure.secrets().without_matches(&reason).unwrap_or(reason)
    }

    /// Where the rules of a record's call know of secrets, whatever the rules' conditions say; and where items of
    /// inventories have them.
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

/// Whose record it is.
enum Provider {
    Aws,
    Azure,
}

impl Provider {
    /// Every CloudTrail record names its event source, and none of Azure's does.
    fn of(record: &aws::Record<'_>) -> Self {
        if record.has_event_source() { Self::Aws } else { Self::Azure }
    }
}

/// The text without what its rules and the names of its members say is secret.
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

/// Pre-processed logs have lost the eventID: the same record still gets the same id.
fn hashed_id(text: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}
