//! Records as sources deliver them.

use std::sync::Arc;

use bytes::Bytes;

use super::{SourceId, Time};

/// One record of a provider's audit trail as delivered: one JSON object, extracted from its file or message.
#[derive(Clone, Debug)]
pub struct RawRecord {
    /// The text of the record, not yet validated as JSON.
    pub bytes: Bytes,
    /// Its origin.
    pub origin: Origin,
}

/// Where a record came from, precisely enough to find it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The configured source that delivered it.
    pub source: SourceId,
    /// A file, object, queue or API: `/var/log/trail.json.gz`, `lookup-events:eu-west-1`.
    pub location: Arc<str>,
    /// The number of the record within it, from 0.
    pub index: u64,
}

/// A record that could not be normalized. Its bytes are kept in quarantine, so that nothing is lost.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// Its origin.
    pub origin: Origin,
    /// A stable code for counting: `not_json`, `too_large`, `no_asset_named`, …
    pub code: &'static str,
    /// What is wrong, where, and what to do.
    pub reason: String,
    /// The record's bytes, at most 1 MiB.
    pub bytes: Bytes,
    /// When Catchment received it.
    pub observed: Time,
}
