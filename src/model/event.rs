//! The members of an event that filters and indexes use, without its configurations and raw record.

use serde::Deserialize;

use super::{Action, AssetName, Novelty, Time};

/// The fields of an encoded event that the stream filters by and the log indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventHead {
    /// CloudEvents `id`: `<provider event id>:<index>`.
    pub id: String,
    /// The provider's event time.
    pub time: Time,
    /// When Catchment received the record.
    pub observed: Time,
    /// What happened.
    pub action: Action,
    /// The asset's name.
    pub asset: AssetName,
    /// The provider-neutral type.
    pub asset_type: String,
    /// `aws` or `azure`.
    pub provider: String,
    /// The account, subscription or tenant that the asset lives in.
    pub account: String,
    /// The region, `-` for global assets.
    pub region: String,
    /// Who did it, in all forms that can be filtered by: id, ARN, name, person, program.
    pub principals: Vec<String>,
    /// The method: `console`, `cli`, `terraform`, …
    pub method: String,
    /// What is new about the change; also empty if that is unknown.
    pub novelty: Novelty,
}

impl EventHead {
    /// Parses the head of an encoded event (the JSON object of the stream).
    ///
    /// # Errors
    /// When the text is not an event of Catchment.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let event: Event = serde_json::from_slice(json)?;
        let data = event.data;
        let principal = data.attribution.principal.unwrap_or_default();
        let [human, workload] = [data.attribution.human, data.attribution.workload].map(|who| who?.id);
        Ok(Self {
            id: event.id,
            time: event.time,
            observed: data.observed,
            action: data.action,
            asset: data.asset.name,
            asset_type: data.asset.r#type,
            provider: data.asset.provider,
            account: data.asset.account,
            region: data.asset.region,
            principals: [principal.id, principal.arn, principal.name, human, workload].into_iter().flatten().collect(),
            method: data.attribution.method,
            novelty: data.novelty.unwrap_or_default(),
        })
    }
}

#[derive(Deserialize)]
struct Event {
    id: String,
    time: Time,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    action: Action,
    asset: Asset,
    attribution: Attribution,
    novelty: Option<Novelty>,
    observed: Time,
}

#[derive(Deserialize)]
struct Asset {
    name: AssetName,
    r#type: String,
    provider: String,
    account: String,
    region: String,
}

#[derive(Deserialize)]
struct Attribution {
    method: String,
    principal: Option<Principal>,
    human: Option<WithId>,
    workload: Option<WithId>,
}

#[derive(Default, Deserialize)]
struct Principal {
    id: Option<String>,
    arn: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct WithId {
    id: Option<String>,
}
