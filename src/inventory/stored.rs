//! The state of an asset, and its stored form in the log.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ConfigurationState;
use crate::json::{Arena, Json, JsonText, written};
use crate::model::{AssetName, Time};

/// An asset as the inventory holds it.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its first name.
    pub name: AssetName,
    /// The provider's id; the newest one after renames.
    pub id: String,
    /// A unique id that distinguishes it from earlier and later assets of the same name: the provider's own, else the
    /// id of the event that created it; `None` if neither is known.
    pub uid: Option<String>,
    /// The neutral type.
    pub neutral_type: String,
    /// `aws` or `azure`.
    pub provider: String,
    /// The provider's type.
    pub provider_type: String,
    /// The ARN or other full name.
    pub arn: Option<String>,
    /// The ARN comes from a record; it is not composed.
    pub arn_is_told: bool,
    /// The account.
    pub account: String,
    /// The region, `-` for global ones.
    pub region: String,
    /// The display name.
    pub display_name: Option<String>,
    /// The tags, as a JSON object.
    pub tags: JsonText,
    /// The configuration as JSON; `None` if deleted.
    pub configuration: Option<Bytes>,
    /// How much of it is known.
    pub state: ConfigurationState,
    /// The event time of the first event.
    pub first_seen: Time,
    /// The event time of the last change.
    pub changed: Time,
    /// The id of the last event.
    pub last_event: String,
    /// Later names, from renames.
    pub aliases: Vec<AssetName>,
    /// The last seed, if there was one.
    pub seeded: Option<Seeded>,
}

/// The place of a seed among the asset's events: the log need not contain an event for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeded {
    /// The time as of which it describes the asset.
    pub as_of: Time,
    /// How much of the configuration was known then.
    pub state: ConfigurationState,
    /// The first event after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The fields by which lists select assets.
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a> {
    /// The first name.
    pub name: &'a AssetName,
    /// The neutral type.
    pub neutral_type: &'a str,
    /// `aws` or `azure`.
    pub provider: &'a str,
    /// The account.
    pub account: &'a str,
    /// The region, `-` for global ones.
    pub region: &'a str,
    /// How much of the configuration is known.
    pub state: ConfigurationState,
    /// The event time of the last change.
    pub changed: Time,
}

/// An error when a stored asset is read.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The head is not valid JSON, or lacks members.
    #[error("a stored asset can't be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The bytes were written by a later version or another program, or are truncated.
    #[error("a stored asset can't be read: its format is unknown or it is truncated")]
    Format,
    /// A packed asset can't be decompressed.
    #[error("an asset kept in memory can't be decompressed")]
    Unpack,
}

/// The first byte of the stored form. The length of the head (4 bytes, big-endian), the head and the configuration as
/// JSON follow. An older form, which begins with a brace, is the head alone with the configuration as a member.
const FORMAT: u8 = 1;

/// The head, in JSON so that members can be added.
#[derive(Serialize, Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    neutral_type: Cow<'a, str>,
    #[serde(borrow)]
    provider: Cow<'a, str>,
    #[serde(borrow)]
    provider_type: Cow<'a, str>,
    #[serde(borrow)]
    arn: Option<Cow<'a, str>>,
    arn_is_told: bool,
    #[serde(borrow)]
    account: Cow<'a, str>,
    #[serde(borrow)]
    region: Cow<'a, str>,
    #[serde(borrow)]
    display_name: Option<Cow<'a, str>>,
    tags: Cow<'a, JsonText>,
    state: ConfigurationState,
    first_seen: Time,
    changed: Time,
    #[serde(borrow)]
    last_event: Cow<'a, str>,
    #[serde(default)]
    aliases: Cow<'a, [AssetName]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seeded: Option<Cow<'a, Seeded>>,
    /// Present in the older form only.
    #[serde(borrow, skip_serializing)]
    configuration: Option<&'a RawValue>,
}

/// The members of the head that are needed to pack an asset in its stored form.
#[derive(Deserialize)]
pub(super) struct Brief<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    neutral_type: Cow<'a, str>,
    #[serde(borrow)]
    provider: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) provider_type: Cow<'a, str>,
    #[serde(borrow)]
    account: Cow<'a, str>,
    #[serde(borrow)]
    region: Cow<'a, str>,
    state: ConfigurationState,
    changed: Time,
    #[serde(default)]
    pub(super) aliases: Vec<AssetName>,
}

impl<'a> Brief<'a> {
    /// Reads the head of a stored asset; `None` for the older form.
    pub(super) fn read(stored: &'a [u8]) -> Result<Option<Self>, RestoreError> {
        if stored.first() == Some(&b'{') {
            return Ok(None);
        }
        let (head, _) = split(stored)?;
        Ok(Some(serde_json::from_slice(head)?))
    }

    pub(super) fn name(&self) -> AssetName {
        AssetName::from_text(&self.name)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.state != ConfigurationState::Deleted
    }

    pub(super) fn outline<'b>(&'b self, name: &'b AssetName) -> Outline<'b> {
        Outline {
            name,
            neutral_type: &self.neutral_type,
            provider: &self.provider,
            account: &self.account,
            region: &self.region,
            state: self.state,
            changed: self.changed,
        }
    }
}

impl Held {
    /// Approximate size in memory, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        const FIXED: usize = 600;
        FIXED + self.configuration.as_ref().map_or(0, Bytes::len) + 2 * self.name.as_str().len()
    }

    /// The parsed configuration.
    pub(super) fn document<'a>(&self, arena: &'a Arena) -> Option<Json<'a>> {
        self.configuration.as_ref().map(|json| Json::stored(json, arena))
    }

    /// The fields by which lists select assets.
    #[must_use]
    pub fn outline(&self) -> Outline<'_> {
        Outline {
            name: &self.name,
            neutral_type: &self.neutral_type,
            provider: &self.provider,
            account: &self.account,
            region: &self.region,
            state: self.state,
            changed: self.changed,
        }
    }

    /// The stored form, for the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let head = Head {
            name: self.name.as_str().into(),
            id: (&self.id).into(),
            uid: self.uid.as_ref().map(Into::into),
            neutral_type: (&self.neutral_type).into(),
            provider: (&self.provider).into(),
            provider_type: (&self.provider_type).into(),
            arn: self.arn.as_ref().map(Into::into),
            arn_is_told: self.arn_is_told,
            account: (&self.account).into(),
            region: (&self.region).into(),
            display_name: self.display_name.as_ref().map(Into::into),
            tags: Cow::Borrowed(&self.tags),
            state: self.state,
            first_seen: self.first_seen,
            changed: self.changed,
            last_event: (&self.last_event).into(),
            aliases: Cow::Borrowed(&self.aliases),
            seeded: self.seeded.as_ref().map(Cow::Borrowed),
            configuration: None,
        };
        let configuration = self.configuration.as_deref().unwrap_or_default();
        written(|stored| {
            stored.extend_from_slice(&[FORMAT, 0, 0, 0, 0]);
            // Strings, numbers and JSON texts written to memory: this can't fail.
            let _ = serde_json::to_writer(&mut *stored, &head);
            let length = u32::try_from(stored.len() - HEAD_FROM).unwrap_or(u32::MAX);
            if let Some(place) = stored.get_mut(1..HEAD_FROM) {
                place.copy_from_slice(&length.to_be_bytes());
            }
            stored.extend_from_slice(configuration);
        })
    }

    pub(super) fn decode(stored: &[u8]) -> Result<Self, RestoreError> {
        let (head, configuration) = split(stored)?;
        let head: Head<'_> = serde_json::from_slice(head)?;
        let configuration = match head.configuration {
            Some(raw) => raw.get().as_bytes(),
            None => configuration,
        };
        Ok(Self {
            name: AssetName::from_text(&head.name),
            id: head.id.into_owned(),
            uid: head.uid.map(Cow::into_owned),
            neutral_type: head.neutral_type.into_owned(),
            provider: head.provider.into_owned(),
            provider_type: head.provider_type.into_owned(),
            arn: head.arn.map(Cow::into_owned),
            arn_is_told: head.arn_is_told,
            account: head.account.into_owned(),
            region: head.region.into_owned(),
            display_name: head.display_name.map(Cow::into_owned),
            tags: head.tags.into_owned(),
            configuration: (!configuration.is_empty()).then(|| Bytes::copy_from_slice(configuration)),
            state: head.state,
            first_seen: head.first_seen,
            changed: head.changed,
            last_event: head.last_event.into_owned(),
            aliases: head.aliases.into_owned(),
            seeded: head.seeded.map(Cow::into_owned),
        })
    }
}

const HEAD_FROM: usize = 5;

/// Splits a stored asset into head and configuration.
fn split(stored: &[u8]) -> Result<(&[u8], &[u8]), RestoreError> {
    if stored.first() == Some(&b'{') {
        return Ok((stored, &[]));
    }
    let ([FORMAT], rest) = stored.split_first_chunk().ok_or(RestoreError::Format)? else {
        return Err(RestoreError::Format);
    };
    let (length, rest) = rest.split_first_chunk().ok_or(RestoreError::Format)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| RestoreError::Format)?;
    rest.split_at_checked(length).ok_or(RestoreError::Format)
}
