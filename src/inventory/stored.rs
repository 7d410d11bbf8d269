//! What is held of an asset, and how the log stores it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::ConfigurationState;
use crate::model::{AssetName, Time};

/// An asset as the inventory holds it.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its first name.
    pub name: AssetName,
    /// The provider's id, the newest one.
    pub id: String,
    /// The neutral type.
    pub neutral_type: String,
    /// `aws` or `azure`.
    pub provider: String,
    /// The provider's type.
    pub provider_type: String,
    /// The ARN or other full name.
    pub arn: Option<String>,
    /// A record told the ARN; it is not composed.
    pub arn_is_told: bool,
    /// The account.
    pub account: String,
    /// The region, `-` for global ones.
    pub region: String,
    /// The name that people know.
    pub display_name: Option<String>,
    /// The tags, as a JSON object.
    pub tags: Value,
    /// The configuration as JSON; `None` when deleted.
    pub configuration: Option<Bytes>,
    /// How much of it is known.
    pub state: ConfigurationState,
    /// The event time of the first event.
    pub first_seen: Time,
    /// The event time of the last change.
    pub changed: Time,
    /// The id of the last event.
    pub last_event: String,
    /// Later names.
    pub aliases: Vec<AssetName>,
}

/// Stored bytes that are no asset.
#[derive(Debug, thiserror::Error)]
#[error("a stored asset can't be read: {0}")]
pub struct RestoreError(#[from] serde_json::Error);

/// The stored form: JSON, so that members can be added.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    name: AssetName,
    id: String,
    #[serde(rename = "type")]
    neutral_type: String,
    provider: String,
    provider_type: String,
    arn: Option<String>,
    arn_is_told: bool,
    account: String,
    region: String,
    display_name: Option<String>,
    tags: Value,
    state: ConfigurationState,
    first_seen: Time,
    changed: Time,
    last_event: String,
    #[serde(default)]
    aliases: Vec<AssetName>,
    #[serde(borrow)]
    configuration: Option<&'a RawValue>,
}

impl Held {
    /// Bytes in memory, about.
    #[must_use]
    pub fn size(&self) -> usize {
        const FIXED: usize = 600;
        FIXED + self.configuration.as_ref().map_or(0, Bytes::len) + 2 * self.name.as_str().len()
    }

    /// What the log is to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let configuration = self.configuration.as_deref().and_then(|json| serde_json::from_slice(json).ok());
        let stored = Stored {
            name: self.name.clone(),
            id: self.id.clone(),
            neutral_type: self.neutral_type.clone(),
            provider: self.provider.clone(),
            provider_type: self.provider_type.clone(),
            arn: self.arn.clone(),
            arn_is_told: self.arn_is_told,
            account: self.account.clone(),
            region: self.region.clone(),
            display_name: self.display_name.clone(),
            tags: self.tags.clone(),
            state: self.state,
            first_seen: self.first_seen,
            changed: self.changed,
            last_event: self.last_event.clone(),
            aliases: self.aliases.clone(),
            configuration,
        };
        // Strings, numbers and JSON texts: nothing in it can fail to be written.
        serde_json::to_vec(&stored).unwrap_or_default().into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RestoreError> {
        let stored: Stored<'_> = serde_json::from_slice(bytes)?;
        Ok(Self {
            name: stored.name,
            id: stored.id,
            neutral_type: stored.neutral_type,
            provider: stored.provider,
            provider_type: stored.provider_type,
            arn: stored.arn,
            arn_is_told: stored.arn_is_told,
            account: stored.account,
            region: stored.region,
            display_name: stored.display_name,
            tags: stored.tags,
            configuration: stored.configuration.map(|raw| Bytes::copy_from_slice(raw.get().as_bytes())),
            state: stored.state,
            first_seen: stored.first_seen,
            changed: stored.changed,
            last_event: stored.last_event,
            aliases: stored.aliases,
        })
    }
}
