//! One call, several records: if a principal of one account uses a resource of another, CloudTrail writes a record to
//! each account, with the same `sharedEventID`, and may omit the caller from that of the resource's owner
//! (<https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html>).

use serde::{Deserialize, Serialize};

use super::memory::Memory;
use crate::model::{Assumed, Human, Principal, RecordInfo, Time};

/// The caller according to the copy of the record that shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Copied {
    /// The `sharedEventID`.
    pub(super) id: String,
    pub(super) time: Time,
    access_key: Option<String>,
    principal: Principal,
    assumed: Option<Assumed>,
    human: Option<Human>,
}

/// Fills in the caller if this copy hides it and the other has been seen. Returns the caller to remember if this copy
/// shows it.
pub(super) fn complete(copies: &Memory<Copied>, record: &mut RecordInfo) -> Option<Copied> {
    let id = record.evidence.shared_event_id.as_deref()?;
    let attribution = &mut record.attribution;
    let told = attribution.principal.as_ref().filter(|principal| principal.arn.is_some());
    if let Some(principal) = told {
        return Some(Copied {
            id: id.to_owned(),
            time: record.time,
            access_key: record.evidence.access_key.clone(),
            principal: principal.clone(),
            assumed: attribution.assumed.clone(),
            human: attribution.human.clone(),
        });
    }
    let copied = copies.get(id)?;
    attribution.principal = Some(copied.principal.clone());
    attribution.assumed = attribution.assumed.take().or_else(|| copied.assumed.clone());
    attribution.human = attribution.human.take().or_else(|| copied.human.clone());
    record.evidence.access_key = record.evidence.access_key.take().or_else(|| copied.access_key.clone());
    None
}
