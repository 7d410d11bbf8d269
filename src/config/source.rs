//! The kinds of sources that can be configured.

use std::path::PathBuf;

use serde::Deserialize;

use crate::secret::Secret;

/// One `[sources.<name>.<kind>]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceConfig {
    /// `[sources.<name>.file]`.
    File(FileConfig),
    /// `[sources.<name>.aws_lookup_events]`.
    AwsLookupEvents(LookupEventsConfig),
}

impl SourceConfig {
    /// The kind, as it stands in the configuration.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::AwsLookupEvents(_) => "aws_lookup_events",
        }
    }
}

/// Files of records.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// A file or a folder.
    pub path: PathBuf,
    /// Whether to wait for more at the end.
    #[serde(default = "follow")]
    pub follow: bool,
    /// How often to look for more, in milliseconds.
    #[serde(default = "poll_millis")]
    pub poll_millis: u64,
    /// How many times its size a compressed file may grow before it is taken for a bomb.
    #[serde(default = "max_expansion")]
    pub max_expansion: u32,
}

/// CloudTrail's LookupEvents API.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupEventsConfig {
    /// Regions to ask.
    pub regions: Vec<String>,
    /// How often to ask, in seconds.
    #[serde(default = "poll_secs")]
    pub poll_secs: u64,
    /// How far back the first question goes, in seconds.
    #[serde(default = "lookback_secs")]
    pub lookback_secs: u64,
    /// How far back every later question goes, in seconds, since events appear late.
    #[serde(default = "overlap_secs")]
    pub overlap_secs: u64,
    /// Another endpoint than the public one.
    pub endpoint_url: Option<String>,
    /// Credentials, where the environment's own are not meant.
    pub access_key_id: Option<Secret>,
    /// See `access_key_id`.
    pub secret_access_key: Option<Secret>,
    /// See `access_key_id`.
    pub session_token: Option<Secret>,
    /// Requests per second and region. The service allows 2.
    #[serde(default = "requests_per_second")]
    pub requests_per_second: f64,
}

fn follow() -> bool {
    true
}
fn poll_millis() -> u64 {
    500
}
fn max_expansion() -> u32 {
    200
}
fn poll_secs() -> u64 {
    60
}
fn lookback_secs() -> u64 {
    900
}
fn overlap_secs() -> u64 {
    1200
}
fn requests_per_second() -> f64 {
    2.0
}
