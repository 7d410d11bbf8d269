//! Encoding of events: CloudEvents 1.0 in structured JSON mode, on one line, members in the order of the published
//! schema.
//!
//! Configurations, their difference and the raw record are JSON already; their bytes are spliced in unchanged.

use crate::inventory::{Applied, ConfigurationState, PreviousState};
use crate::json::written;
use crate::log::NewEvent;
use crate::model::{
    Action, AssetName, AssetObject, Association, Attribution, Confidence, Draft, EventHead, Novelty, Operation,
    RecordInfo, Time,
};
use serde::Serialize;

/// The parts of one event.
pub(super) struct EventParts<'a> {
    pub(super) type_prefix: &'a str,
    pub(super) record: &'a RecordInfo,
    pub(super) draft: &'a Draft,
    pub(super) applied: &'a Applied<'a>,
    /// `None` where novelty can't be determined: for late events and seeds.
    pub(super) novelty: Option<Novelty>,
    pub(super) id: &'a str,
    pub(super) observed: Time,
    pub(super) rules_version: &'a str,
}

#[derive(Serialize)]
struct Envelope<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: String,
    subject: &'a AssetName,
    time: Time,
    datacontenttype: &'static str,
    dataschema: &'static str,
    partitionkey: &'a AssetName,
}

/// The members of `data` before the configuration.
#[derive(Serialize)]
struct DataHead<'a> {
    action: Action,
    asset: AssetObject<'a>,
    operation: &'a Operation,
    attribution: &'a Attribution,
    associations: &'a [Association],
}

/// The members of `data` between the difference and the raw record.
#[derive(Serialize)]
struct DataTail<'a> {
    late: bool,
    novelty: Option<Novelty>,
    observed: Time,
    normalizer: Normalizer<'a>,
}

#[derive(Serialize)]
struct Normalizer<'a> {
    rule: &'a str,
    confidence: Confidence,
    version: &'a str,
}

#[derive(Serialize)]
struct State {
    configuration_state: ConfigurationState,
}

#[derive(Serialize)]
struct Previous {
    previous_state: PreviousState,
}

impl EventParts<'_> {
    /// Encodes the event, together with the head that the log indexes.
    pub(super) fn encode(&self) -> Result<NewEvent, serde_json::Error> {
        let mut outcome = Ok(());
        let json = written(|json| outcome = self.write(json));
        outcome.map(|()| NewEvent { head: self.head(), json })
    }

    fn write(&self, json: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let kind = &self.draft.asset.kind;
        let name = &self.applied.name;
        open(
            json,
            &Envelope {
                specversion: "1.0",
                id: self.id,
                source: &self.record.source,
                r#type: format!("{}.asset.{}", self.type_prefix, self.applied.action.as_str()),
                subject: name,
                time: self.record.time,
                datacontenttype: "application/json",
                dataschema: "catchment:/v1/schema/asset-event-1.json",
                partitionkey: name,
            },
        )?;
        json.extend_from_slice(b",\"data\":");
        open(
            json,
            &DataHead {
                action: self.applied.action,
                asset: AssetObject {
                    name,
                    r#type: &kind.neutral_type,
                    provider: kind.provider,
                    provider_type: &kind.provider_type,
                    id: &self.draft.asset.id,
                    uid: self.applied.uid.as_deref(),
                    arn: self.applied.arn.as_deref(),
                    display_name: self.applied.display_name.as_deref(),
                    account: &self.draft.asset.account,
                    region: &self.applied.region,
                    tags: &self.applied.tags,
                },
                operation: &self.record.operation,
                attribution: &self.record.attribution,
                associations: &self.draft.associations,
            },
        )?;
        member(json, "configuration", self.applied.configuration.as_deref());
        more(json, &State { configuration_state: self.applied.configuration_state })?;
        member(json, "previous_configuration", self.applied.previous_configuration.as_deref());
        more(json, &Previous { previous_state: self.applied.previous_state })?;
        member(json, "changes", Some(&self.applied.changes));
        more(
            json,
            &DataTail {
                late: self.applied.late,
                novelty: self.novelty,
                observed: self.observed,
                normalizer: Normalizer {
                    rule: &self.draft.rule,
                    confidence: self.draft.confidence,
                    version: self.rules_version,
                },
            },
        )?;
        member(json, "raw", Some(&self.record.raw));
        json.extend_from_slice(b"}}");
        Ok(())
    }

    fn head(&self) -> EventHead {
        let attribution = &self.record.attribution;
        let principal = attribution.principal.as_ref();
        let of_principal = principal.into_iter().flat_map(|p| [&p.id, &p.arn, &p.name]).flatten();
        let human = attribution.human.as_ref().map(|human| &human.id);
        let workload = attribution.workload.as_ref().map(|workload| &workload.id);
        EventHead {
            id: self.id.to_owned(),
            time: self.record.time,
            observed: self.observed,
            action: self.applied.action,
            asset: self.applied.name.clone(),
            asset_type: self.draft.asset.kind.neutral_type.clone(),
            provider: self.draft.asset.kind.provider.to_owned(),
            account: self.draft.asset.account.clone(),
            region: self.applied.region.clone(),
            principals: of_principal.chain(human).chain(workload).cloned().collect(),
            method: attribution.method.to_string(),
            novelty: self.novelty.unwrap_or_default(),
        }
    }
}

/// Writes an object without its closing brace.
fn open(json: &mut Vec<u8>, value: &impl Serialize) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *json, value)?;
    json.pop();
    Ok(())
}

/// Writes further members of the open object, again without closing brace.
fn more(json: &mut Vec<u8>, value: &impl Serialize) -> Result<(), serde_json::Error> {
    let at = json.len();
    open(json, value)?;
    if let Some(brace) = json.get_mut(at) {
        *brace = b',';
    }
    Ok(())
}

fn member(json: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    json.extend_from_slice(b",\"");
    json.extend_from_slice(name.as_bytes());
    json.extend_from_slice(b"\":");
    json.extend_from_slice(value.unwrap_or(b"null"));
}
