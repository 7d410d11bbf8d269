//! What records contribute to the correlation with other records: credentials and callers.

use serde::{Deserialize, Serialize};

use super::{Human, Principal, Time, Workload};

/// Temporary credentials, as described by the record of the call that issued them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The access key id (`ASIA…`), by which later records identify the session.
    pub access_key: String,
    /// When they were issued.
    pub started: Time,
    /// When they expire, if known.
    pub expires: Option<Time>,
    /// Who requested them.
    pub caller: Caller,
}

/// Who made a call, as far as the call's own record tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The access key id of the credentials that made the call.
    pub access_key: Option<String>,
    /// The owner of the credentials.
    pub principal: Option<Principal>,
    /// The role, if the credentials belong to one.
    pub role_arn: Option<String>,
    /// The person, if there is evidence.
    pub human: Option<Human>,
    /// The program, if there is evidence.
    pub workload: Option<Workload>,
}

/// What a record contributes to the correlation with other records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The access key id of the credentials that made the call.
    pub access_key: Option<String>,
    /// The id shared by the copies of a record that AWS writes to several accounts.
    pub shared_event_id: Option<String>,
    /// The role, user or service account that a deployment acts as, according to the operation on its stack.
    pub acts_as: Option<String>,
}
