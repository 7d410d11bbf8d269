//! An event as read back from the log.

use std::sync::Arc;

use bytes::Bytes;
use jsonptr::PointerBuf;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::SetBy;
use crate::inventory::{Change, ConfigurationState, Logged, PastChange, PreviousState};
use crate::json::JsonText;
use crate::model::{Action, AssetKind, AssetName, AssetRef, Draft, Time};
use crate::normalize::{Engine, Outcome};

/// An event, as far as it matters for the past of its asset.
#[derive(Debug, Deserialize)]
pub(super) struct Event<'a> {
    id: String,
    time: Time,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Debug, Deserialize)]
struct Data<'a> {
    action: Action,
    asset: Asset,
    operation: Operation,
    attribution: Attribution,
    #[serde(borrow)]
    configuration: Option<&'a RawValue>,
    configuration_state: ConfigurationState,
    #[serde(borrow)]
    previous_configuration: Option<&'a RawValue>,
    previous_state: PreviousState,
    changes: Vec<Change>,
    #[serde(borrow)]
    raw: &'a RawValue,
}

#[derive(Debug, Deserialize)]
struct Asset {
    name: AssetName,
    r#type: String,
    provider: String,
    provider_type: String,
    id: String,
    #[serde(default)]
    uid: Option<String>,
    arn: Option<String>,
    display_name: Option<String>,
    account: String,
    region: String,
    tags: JsonText,
}

#[derive(Debug, Deserialize)]
struct Operation {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Attribution {
    method: String,
    ip: Option<String>,
    principal: Option<Principal>,
    human: Option<Human>,
}

#[derive(Debug, Deserialize)]
struct Principal {
    id: Option<String>,
    arn: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Human {
    id: String,
}

/// The records of an operation that is told in several, as an event keeps them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
}

/// What an event tells for the place of a late record; nothing when the text is no event.
pub(crate) fn past_change(engine: &Engine, json: &[u8]) -> Option<PastChange> {
    let event: Event<'_> = serde_json::from_slice(json).ok()?;
    Some(PastChange {
        draft: event.draft(engine),
        time: event.time,
        previous_state: event.data.previous_state,
        previous_configuration: document(event.data.previous_configuration),
        configuration: document(event.data.configuration),
        configuration_state: event.data.configuration_state,
        event_id: event.id,
    })
}

impl<'a> Event<'a> {
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// As it was logged, with the draft of its record if rules are given.
    pub(super) fn logged(self, engine: Option<&Engine>) -> Logged {
        let draft = engine.and_then(|engine| self.draft(engine));
        let Asset { name, r#type, provider, provider_type, id, uid, arn, display_name, account, region, tags } =
            self.data.asset;
        let kind = AssetKind {
            provider: if provider == "azure" { "azure" } else { "aws" },
            provider_type,
            neutral_type: r#type,
            tags: PointerBuf::from_tokens(["tags"]),
            ..AssetKind::default()
        };
        let arn_is_told = arn.is_some();
        Logged {
            time: self.time,
            event_id: self.id,
            action: self.data.action,
            asset: AssetRef { kind: Arc::new(kind), name, id, arn, arn_is_told, account, region },
            uid,
            display_name,
            tags,
            draft,
            previous_state: self.data.previous_state,
            previous_configuration: document(self.data.previous_configuration),
            configuration: document(self.data.configuration),
            configuration_state: self.data.configuration_state,
            changes: self.data.changes,
        }
    }

    /// Who did what, for those who ask who set a value.
    pub(super) fn set_by(&self) -> SetBy {
        let attribution = &self.data.attribution;
        let principal = attribution.principal.as_ref();
        SetBy {
            event: self.id.clone(),
            time: self.time,
            action: self.data.action,
            operation: self.data.operation.name.clone(),
            method: attribution.method.clone(),
            principal: principal
                .and_then(|who| who.name.clone().or_else(|| who.arn.clone()).or_else(|| who.id.clone())),
            human: attribution.human.as_ref().map(|human| human.id.clone()),
            ip: attribution.ip.clone(),
        }
    }

    /// The draft that the event was made of: its record, or the records of its operation, are in it, and to normalize is a
    /// pure function.
    fn draft(&self, engine: &Engine) -> Option<Draft> {
        let index: usize = self.id.rsplit_once(':')?.1.parse().ok()?;
        let raw = self.data.raw.get();
        let outcome = match serde_json::from_str::<Wrapped<'_>>(raw) {
            Ok(Wrapped { records }) => engine.fold(&records.iter().copied().map(text).collect::<Vec<_>>()),
            Err(_) => match engine.normalize(raw.as_bytes()) {
                Outcome::Operation(record) => engine.fold(&[record.text]),
                outcome => outcome,
            },
        };
        match outcome {
            Outcome::Changes { mut drafts, .. } if index < drafts.len() => Some(drafts.swap_remove(index)),
            _ => None,
        }
    }
}

fn document(json: Option<&RawValue>) -> Option<Bytes> {
    json.map(text)
}

fn text(json: &RawValue) -> Bytes {
    Bytes::copy_from_slice(json.get().as_bytes())
}
