//! Records as sources deliver them.

use std::sync::Arc;

use bytes::Bytes;

use super::{SourceId, Time};

/// One record of a provider's audit trail, as its bytes came: one JSON object, taken out of its file or message.
#[derive(Clone, Debug)]
pub struct RawRecord {
    /// The text of the record. Not yet known to be valid JSON.
    pub bytes: Bytes,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a record came from: enough to find it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The configured source that delivered it.
    pub source: SourceId,
    /// A file, object, queue or API: `/var/log/trail.json.gz`, `lookup-events:eu-west-1`.
    pub location: Arc<str>,
    /// The number of the record within it, from 0.
    pub index: u64,
}

/// A record that could not be understood. It is kept with its bytes, so that nothing is lost.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// Where it came from.
    pub origin: Origin,
    /// A stable word for counting: `not_json`, `too_large`, `no_asset_named`, …
    pub code: &'static str,
    /// What is wrong, where, and what to do, for a person.
    pub reason: String,
    /// The bytes: at most 1 MiB of them.
    pub bytes: Bytes,
    /// When we saw it.
    pub observed: Time,
}
