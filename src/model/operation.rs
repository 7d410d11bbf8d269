//! Operations that a provider reports in several records: start, progress and end.

use bytes::Bytes;

use super::Time;

/// What a record says of the operation's course.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It was asked for.
    Started,
    /// It was taken on and goes on.
    Accepted,
    /// It ended well.
    Succeeded,
    /// It ended badly, which is no change.
    Failed,
}

/// One record of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationRecord {
    /// The operation: a hash of what its records have in common.
    pub operation: u128,
    /// The record's own identity: the same record from another source or read again has the same.
    pub id: u128,
    /// The provider's event time.
    pub time: Time,
    /// What the record says of the operation's course.
    pub phase: Phase,
    /// Records before this one may tell what it does not: what was asked for.
    pub wants_start: bool,
    /// The deployment that the operation is, if it is one.
    pub deployment: Option<Box<DeploymentBegun>>,
    /// The record on one line, redacted.
    pub text: Bytes,
}

/// A deployment under way: other operations of its correlation are parts of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeploymentBegun {
    /// What all records of a deployment have in common, those of the deployments nested in it included.
    pub correlation: String,
    /// Its ARM id.
    pub id: String,
    /// The provider's time of the record.
    pub time: Time,
}
