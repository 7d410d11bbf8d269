//! The stored forms of older versions, with a head in JSON.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Fields, Held, RestoreError, Seeded};
use crate::inventory::ConfigurationState;
use crate::model::{AssetName, Time};

/// The first byte of the last of them. The length of the head (4 bytes, big-endian), the head and the configuration as
/// JSON follow. The one before begins with a brace: it is the head alone, with the configuration as a member.
const FORMAT: u8 = 1;

#[derive(Deserialize)]
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
    #[serde(borrow)]
    tags: &'a RawValue,
    state: ConfigurationState,
    first_seen: Time,
    changed: Time,
    #[serde(borrow)]
    last_event: Cow<'a, str>,
    #[serde(borrow, default)]
    aliases: Vec<Cow<'a, str>>,
    #[serde(default)]
    seeded: Option<Seeded>,
    #[serde(borrow)]
    configuration: Option<&'a RawValue>,
}

pub(super) fn restore(stored: &[u8]) -> Result<Held, RestoreError> {
    let (head, configuration) = split(stored)?;
    let head: Head<'_> = serde_json::from_slice(head)?;
    let configuration = head.configuration.map_or(configuration, |json| json.get().as_bytes());
    let fields = Fields {
        provider: &head.provider,
        provider_type: &head.provider_type,
        neutral_type: &head.neutral_type,
        account: &head.account,
        region: &head.region,
        state: head.state,
        arn_is_told: head.arn_is_told,
        arn: head.arn.as_deref(),
        id: &head.id,
        uid: head.uid.as_deref(),
        aliases: head.aliases.iter().map(AsRef::as_ref).collect(),
        seeded: head.seeded,
        first_seen: head.first_seen,
        changed: head.changed,
        last_event: &head.last_event,
        display_name: head.display_name.as_deref(),
        tags: head.tags.get(),
    };
    Ok(Held::new(AssetName::from_text(&head.name), &fields, Some(configuration)))
}

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
