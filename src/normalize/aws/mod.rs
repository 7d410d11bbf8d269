//! CloudTrail: what every rule takes for granted of a record, and the rules of the call that it is about.

mod attribution;
mod generic;
mod record;
mod session;
mod workload;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use self::generic::Known;
use self::record::Member;
use super::catalog::Catalog;
use super::eval::{Evaluated, Place, evaluate, partition, without_version};
use super::expression::Scope;
use super::plan::{EventPlan, Parts};
use super::{Outcome, explain, hashed_id, not_json, sanitize};
use crate::model::{Operation, RecordInfo, Session, Time};

pub(super) use self::generic::GenericRules;
pub(super) use self::record::Record;

/// Normalizes a CloudTrail record.
pub(super) fn normalize(catalog: &Catalog, text: &str, record: Record<'_>) -> Result<Outcome, Outcome> {
    let told = session_told(catalog, &record);
    let outcome = understand(catalog, text, record);
    match (outcome, told) {
        (Ok(Outcome::Skipped { reason, rule, .. }) | Err(Outcome::Skipped { reason, rule, .. }), Some(session)) => {
            Ok(Outcome::Skipped { reason, rule, session: Some(Box::new(session)) })
        }
        (outcome, _) => outcome,
    }
}

/// The credentials that the call handed out.
fn session_told(catalog: &Catalog, record: &Record<'_>) -> Option<Session> {
    let hands_out = record.text(Member::EventSource).is_some_and(|service| session::hands_out(&service));
    if !hands_out || record.has(Member::ErrorCode) || record.has(Member::ErrorMessage) {
        return None;
    }
    session::session(record, catalog.methods.attribute(record), |provider_type, account, region, id| {
        let asset = catalog.aws.assets.get(provider_type)?;
        asset.asset_name(&Parts { partition: partition(region), region, account, id, vars: &[] })
    })
}

fn understand(catalog: &Catalog, text: &str, record: Record<'_>) -> Result<Outcome, Outcome> {
    let call = Call::of(&record)?;
    let name = without_version(&call.name);
    let rules = catalog.aws.events(&call.service, &name).unwrap_or_default();
    let sanitized = sanitize(&catalog.secrets, text, redacting(rules, &record))?;
    let known = (&call, &*name, rules);
    match &sanitized {
        Cow::Borrowed(text) => changes(catalog, text, record, known),
        Cow::Owned(text) => changes(catalog, text, Record::parse(text).map_err(not_json)?, known),
    }
}

/// The rules that hold for the record and have something to redact.
fn redacting<'r>(rules: &'r [EventPlan], record: &Record<'_>) -> impl Iterator<Item = &'r EventPlan> {
    let scope = Scope { record, element: None };
    rules.iter().filter(move |rule| !rule.redact.is_empty() && rule.holds(scope))
}

/// What each rule of the record's call looks for and finds, secrets left out. Empty where it comes to no rule.
pub(super) fn explain(catalog: &Catalog, text: &str) -> Option<Vec<serde_json::Value>> {
    let record = Record::parse(text).ok()?;
    let call = Call::of(&record).ok()?;
    let rules = catalog.aws.events(&call.service, &without_version(&call.name))?;
    let sanitized = sanitize(&catalog.secrets, text, redacting(rules, &record)).ok()?;
    let record = Record::parse(&sanitized).ok()?;
    let account = account(&record).unwrap_or_else(|| "-".to_owned());
    let region = record.text(Member::AwsRegion).unwrap_or(Cow::Borrowed("-"));
    let place = Place { service: &call.service, account: &account, region: &region };
    Some(explain::rules(&catalog.aws, rules, &record, &place))
}

/// By the rules of the call; else by the generic ones. A generated rule that finds no asset in a record leaves it to them
/// as well: it knows how the service describes the call, and nobody has seen the record.
fn evaluated(catalog: &Catalog, rules: &[EventPlan], record: &Record<'_>, name: &str, place: &Place<'_>) -> Evaluated {
    let evaluated = evaluate(&catalog.aws, rules, record, place);
    let undecided = matches!(evaluated, Evaluated::NoRuleApplies | Evaluated::Unnamed { .. });
    if !undecided || rules.iter().any(|rule| !rule.generated) {
        return evaluated;
    }
    let known = Known { arns: &catalog.aws.arns, neutral_types: &catalog.neutral_types };
    catalog.generic.evaluate(&known, record, name, place)
}

fn changes(
    catalog: &Catalog,
    text: &str,
    record: Record<'_>,
    (call, name, rules): (&Call<'_>, &str, &[EventPlan]),
) -> Result<Outcome, Outcome> {
    for member in [Member::RequestParameters, Member::ResponseElements] {
        record.load(member).map_err(not_json)?;
    }
    let told_account = account(&record);
    let account = told_account.as_deref().unwrap_or("-");
    let region = record.text(Member::AwsRegion).unwrap_or(Cow::Borrowed("-"));
    let place = Place { service: &call.service, account, region: &region };
    let evaluated = evaluated(catalog, rules, &record, name, &place);
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
                attribution: catalog.methods.attribute(&record),
                evidence: session::evidence(&record),
                raw: Bytes::copy_from_slice(text.trim().as_bytes()),
                event_id,
            };
            Outcome::Changes { record: Box::new(info), drafts }
        }
        Evaluated::Skipped { reason, rule } => Outcome::Skipped { reason, rule: Some(rule), session: None },
        Evaluated::NoRuleApplies => Outcome::Skipped {
            reason: "no rule applies".into(),
            rule: rules.first().map(|rule| Arc::clone(&rule.rule)),
            session: None,
        },
        Evaluated::Unnamed { rule } => Outcome::Rejected {
            code: "no_asset_named",
            reason: format!("no asset named: the record lacks every identifier that rule {rule} looks for"),
            rule: Some(rule),
        },
    })
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
