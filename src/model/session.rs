//! What records say about credentials and operations, for the correlation of records.

use serde::{Deserialize, Serialize};

use super::{Human, Principal, Time, Workload};

/// Temporary credentials, as the record of the call that handed them out tells of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The access key id by which later records name the session: `ASIA…`.
    pub access_key: String,
    /// When they were handed out.
    pub started: Time,
    /// When they end to be valid, where that is told.
    pub expires: Option<Time>,
    /// Who asked for them.
    pub caller: Caller,
}

/// Who made a call, as far as its own record tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The access key id of the credentials that made the call.
    pub access_key: Option<String>,
    /// Whose credentials they are.
    pub principal: Option<Principal>,
    /// The role, where they are a role's.
    pub role_arn: Option<String>,
    /// The person, where there is evidence.
    pub human: Option<Human>,
    /// The program, where there is evidence.
    pub workload: Option<Workload>,
}

/// What a record tells that matters to other records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The access key id of the credentials that made the call.
    pub access_key: Option<String>,
    /// The id that the copies of one record share which a provider writes to several accounts.
    pub shared_event_id: Option<String>,
    /// The role, user or service account that a deployment was told to act as: an operation on a stack names it.
    pub acts_as: Option<String>,
}
