//! Operations that a provider reports in several records: start, progress, end.

use bytes::Bytes;

use super::Time;

/// The phase of an operation that a record reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It was requested.
    Started,
    /// It was accepted and is in progress.
    Accepted,
    /// It succeeded.
    Succeeded,
    /// It failed, so nothing changed.
    Failed,
}

/// One record of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationRecord {
    /// The operation: a hash of what its records have in common.
    pub operation: u128,
    /// The record's identity, the same for every copy of the record, whichever source delivers it.
    pub id: u128,
    /// The provider's event time.
    pub time: Time,
    /// The phase that it reports.
    pub phase: Phase,
    /// Whether earlier records may contain what it lacks: the request.
    pub wants_start: bool,
    /// The deployment, if the operation is one.
    pub deployment: Option<Box<DeploymentBegun>>,
    /// The record on one line, redacted.
    pub text: Bytes,
}

/// A deployment in progress: other operations with its correlation id belong to it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeploymentBegun {
    /// The correlation id, shared by all records of the deployment and of deployments nested in it.
    pub correlation: String,
    /// Its ARM id.
    pub id: String,
    /// The provider's event time of the record.
    pub time: Time,
}
