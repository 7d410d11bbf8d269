//! CloudTrail records: the checks that every rule relies on, and the evaluation of the rules of a record's call.

mod attribution;
mod generic;
mod record;
mod session;
mod workload;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use self::generic::Known;
use super::catalog::Catalog;
use super::eval::{Evaluated, Place, evaluate, partition, without_version};
use super::plan::EventPlan;
use super::redact::{is_on_one_line, leads_to_secret};
use super::template::Parts;
use super::{Outcome, explain, hashed_id, not_json, sanitize};
use crate::json::Arena;
use crate::model::{Operation, RecordInfo, Session, Time};

pub(super) use self::generic::GenericRules;
pub(super) use self::record::Record;

/// Normalizes a CloudTrail record, of which at least the head has been read. Both `Ok` and `Err` are outcomes of the
/// record.
pub(super) fn normalize<'a>(catalog: &'a Catalog, text: &'a str, seen: Record<'a>) -> Result<Outcome, Outcome> {
    let told = session_told(catalog, text, &seen);
    let outcome = understand(catalog, text, &seen);
    match (outcome, told) {
        (Ok(Outcome::Skipped { reason, rule, .. }) | Err(Outcome::Skipped { reason, rule, .. }), Some(session)) => {
            Ok(Outcome::Skipped { reason, rule, session: Some(Box::new(session)) })
        }
        (outcome, _) => outcome,
    }
}

/// The temporary credentials that the call issued, if it did.
fn session_told<'a>(catalog: &'a Catalog, text: &'a str, seen: &Record<'a>) -> Option<Session> {
    let hands_out = seen.text("eventSource").is_some_and(session::hands_out);
    if !hands_out || seen.has("errorCode") || seen.has("errorMessage") {
        return None;
    }
    let record = if seen.is_whole { *seen } else { Record::whole(text, seen.facts.arena, &catalog.secrets).ok()? };
    session::session(&record, catalog.methods.attribute(&record), |provider_type, account, region, id| {
        let asset = catalog.aws.assets.get(provider_type)?;
        asset.asset_name(&Parts { partition: partition(region), region, account, id, vars: &[] })
    })
}

/// The rules of a record's call; empty if the record does not name it, or is no change.
pub(super) fn rules_of<'a>(catalog: &'a Catalog, record: &Record<'_>) -> &'a [EventPlan] {
    let rules = Call::of(record).ok().and_then(|call| catalog.aws.events(call.service, without_version(call.name)));
    rules.unwrap_or_default()
}

fn understand<'a>(catalog: &'a Catalog, text: &'a str, seen: &Record<'a>) -> Result<Outcome, Outcome> {
    let call = Call::of(seen)?;
    let name = without_version(call.name);
    let rules = catalog.aws.events(call.service, name).unwrap_or_default();
    let (text, record) = read(catalog, rules, text, seen)?;
    changes(catalog, text, &record, (&call, name, rules))
}

/// Reads the whole record, and redacts it and its text.
fn read<'a>(
    catalog: &'a Catalog,
    rules: &'a [EventPlan],
    text: &'a str,
    seen: &Record<'a>,
) -> Result<(&'a str, Record<'a>), Outcome> {
    let arena = seen.facts.arena;
    let record = if seen.is_whole { Ok(*seen) } else { Record::whole(text, arena, &catalog.secrets) };
    let redacting: Vec<_> = match &record {
        Ok(record) => rules.iter().filter(|rule| redacts(rule, record)).collect(),
        Err(_) => Vec::new(),
    };
    if let Ok(record) = &record
        && redacting.is_empty()
        && !record.may_hold_secrets
        && !catalog.secrets.lead_to_something(record.facts.root)
        && is_on_one_line(text)
    {
        return Ok((text, *record));
    }
    match sanitize(&catalog.secrets, text, redacting.into_iter())? {
        Cow::Borrowed(text) => Ok((text, record.map_err(not_json)?)),
        Cow::Owned(sanitized) => {
            let text = &*arena.alloc_str(&sanitized);
            Ok((text, Record::whole(text, arena, &catalog.secrets).map_err(not_json)?))
        }
    }
}

/// Whether the rule's conditions hold and it finds something to redact.
fn redacts(rule: &EventPlan, record: &Record<'_>) -> bool {
    let finds = |path| record.may_hold_secrets || leads_to_secret(path, record.facts.root);
    rule.redact.iter().any(finds) && rule.holds(record.facts.scope())
}

/// Explains the rules of the record's call, with secrets redacted. `None` if no rule is consulted.
pub(super) fn explain(catalog: &Catalog, text: &str) -> Option<Vec<serde_json::Value>> {
    let arena = Arena::new();
    let head = Record::head(text, &arena).ok()?;
    let call = Call::of(&head).ok()?;
    let rules = catalog.aws.events(call.service, without_version(call.name))?;
    let (_, record) = read(catalog, rules, text, &head).ok()?;
    let place = Place {
        service: call.service,
        account: account(&record).unwrap_or("-"),
        region: record.text("awsRegion").unwrap_or("-"),
    };
    Some(explain::rules(&catalog.aws, rules, record.facts, &place))
}

/// Evaluates the rules of the call, else the generic ones. These also apply if only generated rules exist and find no
/// asset: generated rules follow the service's description of the call, not actual records.
fn evaluated(catalog: &Catalog, rules: &[EventPlan], record: &Record<'_>, name: &str, place: &Place<'_>) -> Evaluated {
    let evaluated = evaluate(&catalog.aws, rules, record.facts, place);
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
    record: &Record<'_>,
    (call, name, rules): (&Call<'_>, &str, &[EventPlan]),
) -> Result<Outcome, Outcome> {
    let told_account = account(record);
    let account = told_account.unwrap_or("-");
    let region = record.text("awsRegion").unwrap_or("-");
    let place = Place { service: call.service, account, region };
    let evaluated = evaluated(catalog, rules, record, name, &place);
    Ok(match evaluated {
        Evaluated::Drafts(_) if told_account.is_none() => Outcome::rejected(
            "no_account",
            "no recipientAccountId and no userIdentity.accountId; an asset can't be named without its account",
        ),
        Evaluated::Drafts(drafts) => {
            let time = event_time(record)?;
            let event_id = event_id(record).unwrap_or_else(|| hashed_id(text));
            let info = RecordInfo {
                time,
                source: format!("//aws/{account}/{region}"),
                operation: Operation {
                    service: call.service.to_owned(),
                    name: call.name.to_owned(),
                    event_id: event_id.clone(),
                    request_id: record.text("requestID").map(str::to_owned),
                    outcome: "success",
                },
                attribution: catalog.methods.attribute(record),
                evidence: session::evidence(record),
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

/// The call of a record that may be a change.
struct Call<'r> {
    service: &'r str,
    name: &'r str,
}

impl<'r> Call<'r> {
    /// Checks what every rule relies on: a CloudTrail management event of a call that succeeded and is no read.
    fn of(record: &Record<'r>) -> Result<Self, Outcome> {
        let unknown = |what: &str| {
            let reason = format!(
                "not a CloudTrail record: {what}; Catchment reads CloudTrail records (eventSource, eventName, …)"
            );
            Outcome::rejected("unknown_format", reason)
        };
        let service = record.text("eventSource").ok_or_else(|| unknown("no eventSource"))?;
        let name = record.text("eventName").ok_or_else(|| unknown("no eventName"))?;
        if !service.ends_with(".amazonaws.com") && !service.ends_with(".amazonaws.com.cn") {
            return Err(unknown(&format!(
                "eventSource {:?} is not an AWS service",
                service.chars().take(80).collect::<String>()
            )));
        }
        match record.text("eventCategory") {
            Some("Data") => return Err(Outcome::skipped("data event")),
            Some("Insight") => return Err(Outcome::skipped("insight")),
            Some("NetworkActivity") => return Err(Outcome::skipped("network activity")),
            _ => {}
        }
        if record.is_false("managementEvent") {
            return Err(Outcome::skipped("data event"));
        }
        if record.has("errorCode") || record.has("errorMessage") {
            return Err(Outcome::skipped("failed call"));
        }
        if record.is_true("readOnly") {
            return Err(Outcome::skipped("read-only call"));
        }
        Ok(Self { service, name })
    }
}

/// The account. The one that received the event owns the resources that it is about.
fn account<'a>(record: &Record<'a>) -> Option<&'a str> {
    record.text("recipientAccountId").or_else(|| {
        let identity = record.value("userIdentity")?;
        let of_issuer = || identity.text_at(&["sessionContext", "sessionIssuer", "accountId"]);
        identity.text_at(&["accountId"]).or_else(of_issuer)
    })
}

fn event_time(record: &Record<'_>) -> Result<Time, Outcome> {
    let text = record
        .text("eventTime")
        .ok_or_else(|| Outcome::rejected("no_event_time", "no eventTime; a change without a time can't be ordered"))?;
    text.parse().map_err(|error| Outcome::rejected("no_event_time", format!("eventTime: {error}")))
}

/// The event id, a GUID. Anonymised logs have `-` or `...` in its place, which identifies no event.
fn event_id(record: &Record<'_>) -> Option<String> {
    let id = record.text("eventID")?;
    (id.bytes().filter(u8::is_ascii_alphanumeric).count() >= 4).then(|| id.to_owned())
}
