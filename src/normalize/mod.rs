//! The normalizer: rules and one record in, drafts of changes out. No clock, no network, no state.

mod arn;
mod attribution;
mod catalog;
mod compile;
mod configuration;
mod eval;
mod expression;
mod generic;
mod plan;
mod pointer;
mod record;
mod redact;
mod rule;
mod transform;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use self::catalog::Catalog;
use self::eval::{Evaluated, Place, evaluate, without_version};
use self::expression::Scope;
use self::generic::Known;
use self::plan::EventPlan;
use self::record::{Member, Record};
use crate::model::{Draft, Operation, RecordInfo, Time};

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
        Self::Skipped { reason: reason.into(), rule: None }
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

    /// The version of the rules, as events carry it.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.catalog.version
    }

    /// Every rule's name (`aws/ec2/RunInstances`), for the tests and tools that go through them.
    #[must_use]
    pub fn rule_names(&self) -> Vec<Arc<str>> {
        let services = self.catalog.aws.services.values();
        let events = services.flat_map(|service| service.events.values());
        let mut names: Vec<_> = events.filter_map(|rules| rules.first()).map(|rule| Arc::clone(&rule.rule)).collect();
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
        let record = Record::parse(text).map_err(not_json)?;
        let call = Call::of(&record)?;
        let name = without_version(&call.name);
        let rules = self.catalog.aws.events(&call.service, &name).unwrap_or_default();
        let sanitized = self.sanitize(text, &record, rules)?;
        match &sanitized {
            Cow::Borrowed(text) => self.changes(text, record, &call, &name, rules),
            Cow::Owned(text) => self.changes(text, Record::parse(text).map_err(not_json)?, &call, &name, rules),
        }
    }

    fn sanitize<'t>(&self, text: &'t str, record: &Record<'_>, rules: &[EventPlan]) -> Result<Cow<'t, str>, Outcome> {
        let scope = Scope { record, element: None };
        let redacting = rules.iter().filter(|rule| !rule.redact.is_empty() && rule.holds(scope));
        let paths: Vec<_> = redacting.flat_map(|rule| &rule.redact).collect();
        redact::sanitize(text, &self.catalog.secrets, &paths).map_err(|error| {
            Outcome::rejected("unfit_text", format!("{error}; other readers of JSON would fail on it"))
        })
    }

    /// By the rules of the call; else by the generic ones. A generated rule that finds no asset in a record leaves it to
    /// them as well: it knows how the service describes the call, and nobody has seen the record.
    fn evaluated(&self, rules: &[EventPlan], record: &Record<'_>, name: &str, place: &Place<'_>) -> Evaluated {
        let evaluated = evaluate(&self.catalog.aws, rules, record, place);
        let undecided = matches!(evaluated, Evaluated::NoRuleApplies | Evaluated::Unnamed { .. });
        if !undecided || rules.iter().any(|rule| !rule.generated) {
            return evaluated;
        }
        let known = Known { arns: &self.catalog.aws.arns, neutral_types: &self.catalog.neutral_types.of_provider };
        self.catalog.generic.evaluate(&known, record, name, place)
    }

    fn changes(
        &self,
        text: &str,
        record: Record<'_>,
        call: &Call<'_>,
        name: &str,
        rules: &[EventPlan],
    ) -> Result<Outcome, Outcome> {
        for member in [Member::RequestParameters, Member::ResponseElements] {
            record.load(member).map_err(not_json)?;
        }
        let told_account = account(&record);
        let account = told_account.as_deref().unwrap_or("-");
        let region = record.text(Member::AwsRegion).unwrap_or(Cow::Borrowed("-"));
        let place = Place { service: &call.service, account, region: &region };
        let evaluated = self.evaluated(rules, &record, name, &place);
        Ok(match evaluated {
            Evaluated::Drafts(_) if told_account.is_none() => Outcome::rejected(
                "no_account",
                "neither recipientAccountId nor userIdentity.accountId tells the account; an asset can't be named without it",
            ),
            Evaluated::Drafts(drafts) => {
                let time = event_time(&record)?;
                let event_id = event_id(&record).unwrap_or_else(|| hashed_id(text));
                let info = RecordInfo {
                    time,
                    source: format!("//aws/{account}/{region}"),
                    operation: Operation {
                        service: call.service.clone().into_owned(),
                        name: call.name.clone().into_owned(),
                        event_id: event_id.clone(),
                        request_id: record.text(Member::RequestId).map(Cow::into_owned),
                        outcome: "success",
                    },
                    attribution: self.catalog.methods.attribute(&record),
                    raw: Bytes::copy_from_slice(text.trim().as_bytes()),
                    event_id,
                };
                Outcome::Changes { record: Box::new(info), drafts }
            }
            Evaluated::Skipped { reason, rule } => Outcome::Skipped { reason, rule: Some(rule) },
            Evaluated::NoRuleApplies => Outcome::Skipped {
                reason: "no rule applies".into(),
                rule: rules.first().map(|rule| Arc::clone(&rule.rule)),
            },
            Evaluated::Unnamed { rule } => Outcome::Rejected {
                code: "no_asset_named",
                reason: format!("no asset named: the record lacks every identifier that rule {rule} looks for"),
                rule: Some(rule),
            },
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function of map_err")]
fn not_json(error: serde_json::Error) -> Outcome {
    Outcome::rejected("not_json", format!("not a JSON record: {error}"))
}

/// The call that a record is about, once it is clear that it may be a change.
struct Call<'r> {
    service: Cow<'r, str>,
    name: Cow<'r, str>,
}

impl<'r> Call<'r> {
    /// What every rule takes for granted: a CloudTrail management event of a call that succeeded and was no read.
    fn of(record: &Record<'r>) -> Result<Self, Outcome> {
        let unknown = |what: &str| {
            let reason = format!(
                "not a CloudTrail record: {what}; Catchment reads CloudTrail records (eventSource, eventName, …)"
            );
            Outcome::rejected("unknown_format", reason)
        };
        let service = record.text(Member::EventSource).ok_or_else(|| unknown("no eventSource"))?;
        let name = record.text(Member::EventName).ok_or_else(|| unknown("no eventName"))?;
        if !service.ends_with(".amazonaws.com") && !service.ends_with(".amazonaws.com.cn") {
            return Err(unknown(&format!(
                "eventSource {:?} is no AWS service",
                service.chars().take(80).collect::<String>()
            )));
        }
        match record.text(Member::EventCategory).as_deref() {
            Some("Data") => return Err(Outcome::skipped("data event")),
            Some("Insight") => return Err(Outcome::skipped("insight")),
            Some("NetworkActivity") => return Err(Outcome::skipped("network activity")),
            _ => {}
        }
        if record.is_false(Member::ManagementEvent) {
            return Err(Outcome::skipped("data event"));
        }
        if record.has(Member::ErrorCode) || record.has(Member::ErrorMessage) {
            return Err(Outcome::skipped("failed call"));
        }
        if record.is_true(Member::ReadOnly) {
            return Err(Outcome::skipped("read-only call"));
        }
        Ok(Self { service, name })
    }
}

/// The account that the event was delivered to is the one whose resources it is about.
fn account(record: &Record<'_>) -> Option<String> {
    let text = |value: &serde_json::Value, pointer: &str| {
        value.pointer(pointer).and_then(|value| value.as_str()).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    record.text(Member::RecipientAccountId).map(Cow::into_owned).or_else(|| {
        let identity = record.value(Member::UserIdentity)?;
        text(identity, "/accountId").or_else(|| text(identity, "/sessionContext/sessionIssuer/accountId"))
    })
}

fn event_time(record: &Record<'_>) -> Result<Time, Outcome> {
    let text = record
        .text(Member::EventTime)
        .ok_or_else(|| Outcome::rejected("no_event_time", "no eventTime; a change without its time can't be placed"))?;
    text.parse().map_err(|error| Outcome::rejected("no_event_time", format!("eventTime: {error}")))
}

/// CloudTrail's is a GUID; anonymised logs have `-` or `...` in its place, which names no event.
fn event_id(record: &Record<'_>) -> Option<String> {
    let id = record.text(Member::EventId)?;
    (id.bytes().filter(u8::is_ascii_alphanumeric).count() >= 4).then(|| id.into_owned())
}

/// Pre-processed logs have lost the eventID: the same record still gets the same id.
fn hashed_id(text: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}
