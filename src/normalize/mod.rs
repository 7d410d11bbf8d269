//! The normalizer: rules and one record in, drafts of changes out. No clock, no network, no state.

mod arn;
mod aws;
mod catalog;
mod compile;
mod configuration;
mod eval;
mod expression;
mod plan;
mod pointer;
mod redact;
mod rule;
mod transform;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use self::catalog::Catalog;
use self::expression::{Facts, Scope};
use self::plan::EventPlan;
use crate::model::{Draft, RecordInfo, Session};

pub use self::catalog::CatalogError;
pub use self::compile::RuleError;

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
        Ok(Self { catalog: Catalog::load(overrides)? })
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
        let mut names: Vec<_> = self.catalog.aws.rule_names().map(Arc::clone).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Normalizes one record.
    #[must_use]
    pub fn normalize(&self, bytes: &[u8]) -> Outcome {
        self.try_normalize(bytes).unwrap_or_else(|outcome| outcome)
    }

    /// What is kept of a record that could not be understood: its bytes, without the values of members whose names say
    /// that they are secrets, as far as its text can be read.
    #[must_use]
    pub fn redact_unparsed(&self, bytes: Bytes) -> Bytes {
        let text = std::str::from_utf8(&bytes).ok();
        match text.and_then(|text| redact::redact_unparsed(text, &self.catalog.secrets)) {
            Some(redacted) => redacted.into(),
            None => bytes,
        }
    }

    fn try_normalize(&self, bytes: &[u8]) -> Result<Outcome, Outcome> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            Outcome::rejected(
                "not_utf8",
                format!("not UTF-8 text: {error}; send the record as it came from the provider"),
            )
        })?;
        aws::normalize(&self.catalog, text, aws::Record::parse(text).map_err(not_json)?)
    }
}

/// The text without what its rules and the names of its members say is secret.
fn sanitize<'t>(
    catalog: &Catalog,
    text: &'t str,
    record: &dyn Facts,
    rules: &[EventPlan],
) -> Result<Cow<'t, str>, Outcome> {
    let scope = Scope { record, element: None };
    let redacting = rules.iter().filter(|rule| !rule.redact.is_empty() && rule.holds(scope));
    let paths: Vec<_> = redacting.flat_map(|rule| &rule.redact).collect();
    redact::sanitize(text, &catalog.secrets, &paths)
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
